//! Whether work should be sent to this daemon. Decides without looking; [`super::pulse`] looks.

use std::time::Duration;

use thiserror::Error;

use crate::limits::{COMMITTER_SILENT_MAX, STALLED_AFTER};

/// What readiness is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vitals {
    /// Whether the store commits: not since a commit failed and before the store is open again.
    pub(super) store_works: bool,
    /// Why the store could not be read just now.
    pub(super) unreadable: Option<String>,
    /// How long the oldest delivery that is due has been due; zero if none is, `None` if that cannot be known.
    pub(super) overdue: Option<Duration>,
    /// How long ago it was last seen that anything moves.
    pub(super) idle: Duration,
}

/// Why no work should be sent here, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum NotReady {
    #[error("starting: the store is being opened and recovered")]
    Starting,
    #[error("stopping")]
    Stopping,
    #[error("a part of the daemon has failed: {0}")]
    Broken(&'static str),
    #[error("the store's committer is gone")]
    CommitterGone,
    #[error("the store's committer hangs: it has given no sign of life for {0:.0?}")]
    CommitterHangs(Duration),
    #[error("the store failed and is not open again")]
    StoreFailed,
    #[error("the store cannot be read: {0}")]
    Unreadable(String),
    #[error("nothing moves: a delivery has been due for {overdue:.0?}, and for {idle:.0?} no attempt has begun")]
    Stalled { overdue: Duration, idle: Duration },
}

/// The verdict on a daemon that serves.
///
/// It is stalled when a delivery has been due for longer than [`STALLED_AFTER`] and for as long no attempt has begun at all.
/// However slow the receivers: an attempt ends within a minute, and its permit launches the next. So if something is due and
/// nothing begins, it is not the receivers' fault.
pub(super) fn judge(vitals: &Vitals) -> Result<(), NotReady> {
    if !vitals.store_works {
        return Err(NotReady::StoreFailed);
    }
    if let Some(why) = &vitals.unreadable {
        // One line, whatever an engine says.
        return Err(NotReady::Unreadable(why.lines().next().unwrap_or_default().to_owned()));
    }
    match (vitals.overdue, vitals.idle) {
        (Some(overdue), idle) if overdue > STALLED_AFTER && idle > STALLED_AFTER => {
            Err(NotReady::Stalled { overdue, idle })
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// The verdict on the store's committer, which has given no sign of life for `silence`; `None`: it is gone.
pub(super) fn judge_committer(silence: Option<Duration>) -> Result<(), NotReady> {
    match silence {
        None => Err(NotReady::CommitterGone),
        Some(silence) if silence > COMMITTER_SILENT_MAX => Err(NotReady::CommitterHangs(silence)),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_fails_or_a_standstill_is_a_reason() {
        let (little, much) = (Duration::from_secs(80), Duration::from_hours(2));
        let well = Vitals { store_works: true, unreadable: None, overdue: Some(Duration::ZERO), idle: much };
        let check = |vitals: Vitals, expect: &str| {
            let told = judge(&vitals).map_or_else(|reason| reason.to_string(), |()| "ready".to_owned());
            assert_eq!(told, expect, "{vitals:?}");
        };
        check(well.clone(), "ready");
        // A receiver that hangs with a backlog behind it: old, and something moves.
        check(Vitals { overdue: Some(much), idle: little, ..well.clone() }, "ready");
        // Nothing was published for hours, and then something a moment ago.
        check(Vitals { overdue: Some(little), idle: much, ..well.clone() }, "ready");
        let stalled = "nothing moves: a delivery has been due for 7200s, and for 7200s no attempt has begun";
        check(Vitals { overdue: Some(much), idle: much, ..well.clone() }, stalled);
        check(Vitals { store_works: false, ..well.clone() }, "the store failed and is not open again");
        let unreadable = Some("gone\nfor good".to_owned());
        check(Vitals { unreadable, overdue: None, ..well }, "the store cannot be read: gone");
    }
}
