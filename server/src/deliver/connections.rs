//! Which connections have answered a moment ago.
//!
//! A receiver may close an idle connection in the very moment it is used again. The client reports what became of the
//! request but not whether its connection was new; the local port of a connection that has answered lately tells.

use std::time::Duration;

use crate::model::time::Timestamp;

/// How long an idle connection is kept. Receivers close theirs after 5 s in many frameworks (Node's default); whoever closes
/// first should be us.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Two ports in one slot displace each other: then a stale connection may go unrecognised, which costs one retry.
const SLOTS: usize = 4096;

/// Remembers the local ports that answered lately, in fixed space.
pub(super) struct Answered {
    slots: Box<[(u16, Timestamp)]>,
}

impl Default for Answered {
    fn default() -> Self {
        // Nothing has port 0.
        Self { slots: vec![(0, Timestamp::UNIX_EPOCH); SLOTS].into() }
    }
}

impl Answered {
    /// The connection from this local port has answered.
    pub(super) fn note(&mut self, port: u16, now: Timestamp) {
        self.slots[usize::from(port) % SLOTS] = (port, now);
    }

    /// Whether a request sent at `sent` from this local port went over a connection that had been used before.
    ///
    /// A kept connection was idle for at most `IDLE_TIMEOUT`; an operating system does not give a port out again that soon.
    pub(super) fn was_reused(&self, port: u16, sent: Timestamp) -> bool {
        let (noted, at) = self.slots[usize::from(port) % SLOTS];
        noted == port && sent.since(at) <= IDLE_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_answered_lately_are_known() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut answered = Answered::default();
        assert!(!answered.was_reused(40_000, at(0)));
        answered.note(40_000, at(10));
        assert!(answered.was_reused(40_000, at(14)));
        assert!(!answered.was_reused(40_000, at(15)));
        assert!(!answered.was_reused(40_001, at(10)));
        answered.note(40_000 - 4096, at(11));
        assert!(!answered.was_reused(40_000, at(11)), "displaced");
        assert!(!Answered::default().was_reused(4096, at(0)));
    }
}
