//! Which webhooks fail continuously, and since when.
//!
//! Memory has every series of failures from its first; the store is told at most once an hour of each webhook, and when a series
//! ends of which it was told. So a receiver that fails now and then costs no row per failure, and a crash forgets an hour at
//! most.

use std::{collections::HashMap, time::Duration};

use crate::model::{breaker::Health, failing::Failing, ids::WebhookNo, time::Timestamp};

/// How often the store is told at most, of one webhook.
const TOLD_EVERY: Duration = Duration::from_hours(1);
/// So many webhooks before those are looked for whose memory is of no use any more.
const PRUNE_FROM: usize = 1_024;

/// Series of failures by webhook.
///
/// Invariant: bounded by the webhooks that failed in the last hour or have not succeeded since they failed.
#[derive(Debug, Default)]
pub(super) struct Failures {
    known: HashMap<WebhookNo, Known>,
    prune_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    failing: Option<Failing>,
    stored: Option<Failing>,
    told: Timestamp,
}

/// What the store is told of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// It goes on.
    Keep(Failing),
    /// It is over.
    Remove,
}

impl Note {
    /// What the store is to keep.
    pub(super) fn kept(self) -> Option<Failing> {
        match self {
            Self::Keep(failing) => Some(failing),
            Self::Remove => None,
        }
    }
}

/// What follows from an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Consequence {
    /// What the store is to keep from now on, if that has changed.
    pub(super) store: Option<Note>,
    /// The webhook has failed for too long.
    pub(super) disable: bool,
}

impl Failures {
    /// What an earlier process left.
    pub(super) fn recovered(stored: impl IntoIterator<Item = (WebhookNo, Failing)>) -> Self {
        let known = |failing: Failing| Known { failing: Some(failing), stored: Some(failing), told: failing.since };
        let known: HashMap<_, _> = stored.into_iter().map(|(no, failing)| (no, known(failing))).collect();
        Self { prune_at: (2 * known.len()).max(PRUNE_FROM), known }
    }

    /// An attempt ended so at `time`, to a webhook that was changed last at `changed` and is disabled after failing for `span`.
    pub(super) fn note(
        &mut self,
        no: WebhookNo,
        health: Health,
        time: Timestamp,
        changed: Timestamp,
        span: Duration,
    ) -> Consequence {
        match health {
            Health::Unknown => Consequence::default(),
            // The way of a webhook that is well, where nobody fails: no look-up.
            Health::Well if self.known.is_empty() => Consequence::default(),
            Health::Well => Consequence { store: self.end(no), disable: false },
            Health::Failing => self.failed(no, time, changed, span),
        }
    }

    fn failed(&mut self, no: WebhookNo, time: Timestamp, changed: Timestamp, span: Duration) -> Consequence {
        let known = self.known.get(&no).copied();
        // A change is a new beginning: whoever made it had a reason.
        let before = known.and_then(|known| known.failing).filter(|failing| failing.since >= changed);
        let failing = before.map_or_else(|| Failing::begin(time), |failing| failing.again(time));
        if failing.is_enough(time, span) {
            return Consequence { store: self.end(no), disable: true };
        }
        let stored = known.and_then(|known| known.stored);
        let tell = stored != Some(failing) && known.is_none_or(|known| time.since(known.told) >= TOLD_EVERY);
        let known = match known {
            Some(known) if !tell => Known { failing: Some(failing), ..known },
            Some(_) | None => Known { failing: Some(failing), stored: Some(failing), told: time },
        };
        self.known.insert(no, known);
        if self.known.len() > self.prune_at {
            self.prune(time);
        }
        Consequence { store: tell.then_some(Note::Keep(failing)), disable: false }
    }

    fn end(&mut self, no: WebhookNo) -> Option<Note> {
        let known = self.known.get_mut(&no)?;
        known.failing = None;
        known.stored.take().map(|_| Note::Remove)
    }

    /// Forgets those that are well and would be told of again if they failed now.
    fn prune(&mut self, now: Timestamp) {
        self.known.retain(|_, known| known.failing.is_some() || now.since(known.told) < TOLD_EVERY);
        self.prune_at = (2 * self.known.len()).max(PRUNE_FROM);
    }

    /// Forgets those that do not exist any more, when there are many.
    pub(super) fn keep(&mut self, exists: impl Fn(WebhookNo) -> bool) {
        if self.known.len() * 2 > self.prune_at && self.prune_at > PRUNE_FROM {
            self.known.retain(|no, _| exists(*no));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: WebhookNo = WebhookNo(1);
    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);
    const SPAN: Duration = Duration::from_secs(100);

    fn after(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    fn note(failures: &mut Failures, health: Health, seconds: u64) -> Consequence {
        failures.note(ONE, health, after(seconds), NOW, SPAN)
    }

    #[test]
    fn a_series_is_told_of_once_and_its_end() {
        let mut failures = Failures::default();
        let first = note(&mut failures, Health::Failing, 0);
        assert_eq!(first, Consequence { store: Some(Note::Keep(Failing::begin(NOW))), disable: false });
        for seconds in 1..100 {
            assert_eq!(note(&mut failures, Health::Failing, seconds), Consequence::default(), "{seconds}");
        }
        assert_eq!(note(&mut failures, Health::Well, 99).store, Some(Note::Remove));
        assert_eq!(note(&mut failures, Health::Well, 99), Consequence::default());
        // It flaps: memory knows, and the store is spared.
        for seconds in 100..150 {
            assert_eq!(note(&mut failures, Health::Failing, 2 * seconds), Consequence::default());
            assert_eq!(note(&mut failures, Health::Well, 2 * seconds + 1), Consequence::default());
        }
        let later = note(&mut failures, Health::Failing, 3_600);
        assert_eq!(later.store, Some(Note::Keep(Failing::begin(after(3_600)))), "an hour later");
    }

    #[test]
    fn too_long_is_too_long_also_over_a_restart() {
        let mut failures = Failures::recovered([(ONE, Failing::begin(NOW))]);
        assert!(!note(&mut failures, Health::Failing, 99).disable);
        assert_eq!(note(&mut failures, Health::Unknown, 100), Consequence::default(), "our own fault");
        assert_eq!(note(&mut failures, Health::Failing, 100), Consequence { store: Some(Note::Remove), disable: true });
        assert!(!note(&mut failures, Health::Failing, 101).disable, "a new series");
    }

    #[test]
    fn a_success_or_a_change_is_a_new_beginning() {
        let mut failures = Failures::recovered([(ONE, Failing::begin(NOW))]);
        assert!(!failures.note(ONE, Health::Failing, after(100), after(1), SPAN).disable);
        assert!(!failures.note(ONE, Health::Failing, after(199), after(1), SPAN).disable);
        assert!(failures.note(ONE, Health::Failing, after(200), after(1), SPAN).disable);
        let mut failures = Failures::recovered([(ONE, Failing::begin(NOW))]);
        note(&mut failures, Health::Well, 50);
        assert!(!note(&mut failures, Health::Failing, 100).disable);
    }

    #[test]
    fn memory_follows_those_that_fail() {
        let mut failures = Failures::default();
        for no in 0..10_000 {
            let time = after(no);
            failures.note(WebhookNo(no), Health::Failing, time, NOW, Duration::ZERO);
            failures.note(WebhookNo(no), Health::Well, time, NOW, Duration::ZERO);
        }
        assert!(failures.known.len() <= 2 * 3_600, "{}", failures.known.len());
    }
}
