//! The circuit breaker of one webhook: after many failures in a row attempts are put off, without being spent, until the
//! receiver answers a probe.
//!
//! ```text
//!            10 failed attempts in a row, over at least 30 s
//!   CLOSED ──────────────────────────────────────────────────▶ OPEN ◀─────────────┐
//!     ▲                                                         │ 30 s, doubling │ the probe fails
//!     │                                                         │ up to 10 min   │
//!     │                                                         ▼                │
//!     └───────────────────────────────────────────────────── HALF OPEN ──────────┘
//!      the ramp has come to the webhook's cap                   one probe, then 2, 4, 8 … at a time
//! ```
//!
//! Each step of the ramp takes as many successes as it allows attempts at a time; a failure goes back to half of it. So a
//! receiver that has just come back is not met by the whole backlog. What a deployment's own fault made fail says nothing about
//! the receiver and is left out.

use std::time::Duration;

use super::{delivery::ErrorClass, time::Timestamp};

/// Failed attempts in a row before it opens.
pub const FAILURES_TO_OPEN: u32 = 10;
/// Least time from the first of them to the last: attempts that were under way together are no more than one sign.
pub const FAILING_FOR_TO_OPEN: Duration = Duration::from_secs(30);
/// From opening to the first probe.
pub const FIRST_PROBE_AFTER: Duration = Duration::from_secs(30);
/// Longest time from one probe to the next.
pub const PROBE_AFTER_MAX: Duration = Duration::from_mins(10);

/// What an attempt says about the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It took the delivery.
    Well,
    /// It did not.
    Failing,
    /// Nothing: the fault was ours, or it was not asked.
    Unknown,
}

impl Health {
    /// By the kind of error; `None`: a success.
    pub fn of(error: Option<ErrorClass>) -> Self {
        match error {
            None => Self::Well,
            Some(ErrorClass::Internal | ErrorClass::Expired) => Self::Unknown,
            Some(
                ErrorClass::Blocked
                | ErrorClass::Dns
                | ErrorClass::Connect
                | ErrorClass::Tls
                | ErrorClass::Timeout
                | ErrorClass::Protocol
                | ErrorClass::HttpStatus,
            ) => Self::Failing,
        }
    }
}

/// A breaker's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Deliveries flow.
    Closed,
    /// They are put off.
    Open {
        /// Until then.
        probe: Timestamp,
    },
    /// So many attempts may be under way at once.
    HalfOpen {
        /// Now.
        allowed: u32,
        /// Successes until that doubles.
        left: u32,
    },
}

/// The breaker of a webhook that has failed, or is being tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    state: BreakerState,
    since: Option<Timestamp>,
    failures: u32,
    first_failure: Timestamp,
    probe_after: Duration,
}

/// What has become of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It opened, from closed.
    Opened,
    /// It closed.
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: BreakerState::Closed,
            since: None,
            failures: 0,
            first_failure: Timestamp::UNIX_EPOCH,
            probe_after: FIRST_PROBE_AFTER,
        }
    }
}

impl Breaker {
    /// Its position.
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Since when it is not closed.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Attempts that failed since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is as if nothing had ever failed.
    pub fn is_untouched(&self) -> bool {
        self.state == BreakerState::Closed && self.failures == 0
    }

    /// Whether it is closed: nothing is put off.
    pub fn is_closed(&self) -> bool {
        self.state == BreakerState::Closed
    }

    /// Until when nothing may be attempted, if so.
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            BreakerState::Open { probe } => Some(probe).filter(|at| *at > now),
            BreakerState::Closed | BreakerState::HalfOpen { .. } => None,
        }
    }

    /// Attempts that may be under way at once, when any may.
    pub fn allowed(&self) -> Option<u32> {
        match self.state {
            BreakerState::Closed => None,
            BreakerState::Open { .. } => Some(1),
            BreakerState::HalfOpen { allowed, .. } => Some(allowed),
        }
    }

    /// An attempt begins; if it is open, that is the probe.
    pub fn attempt(&mut self) {
        if let BreakerState::Open { .. } = self.state {
            self.state = BreakerState::HalfOpen { allowed: 1, left: 1 };
        }
    }

    /// The next probe is made at once: something has changed that may have been the cause.
    pub fn probe_now(&mut self, now: Timestamp) {
        if let BreakerState::Open { probe } = &mut self.state {
            *probe = now.min(*probe);
        }
    }

    /// An attempt has ended. `cap`: how many may be under way at once when it is closed.
    pub fn ended(&mut self, health: Health, cap: u32, now: Timestamp) -> Option<Change> {
        match health {
            Health::Well => self.succeeded(cap),
            Health::Failing => self.failed(now),
            Health::Unknown => None,
        }
    }

    fn succeeded(&mut self, cap: u32) -> Option<Change> {
        self.failures = 0;
        match self.state {
            BreakerState::Closed => None,
            // From before it opened, and as good as a probe.
            BreakerState::Open { .. } => {
                self.state = BreakerState::HalfOpen { allowed: 1, left: 1 };
                None
            }
            BreakerState::HalfOpen { allowed, left } if left > 1 => {
                self.state = BreakerState::HalfOpen { allowed, left: left - 1 };
                None
            }
            BreakerState::HalfOpen { allowed, .. } => {
                let allowed = allowed.saturating_mul(2);
                if allowed >= cap {
                    *self = Self::default();
                    return Some(Change::Closed);
                }
                self.state = BreakerState::HalfOpen { allowed, left: allowed };
                None
            }
        }
    }

    fn failed(&mut self, now: Timestamp) -> Option<Change> {
        if self.failures == 0 {
            self.first_failure = now;
        }
        self.failures = self.failures.saturating_add(1);
        match self.state {
            BreakerState::Closed => {
                let long = now.since(self.first_failure) >= FAILING_FOR_TO_OPEN;
                if self.failures < FAILURES_TO_OPEN || !long {
                    return None;
                }
                self.since = Some(now);
                self.state = BreakerState::Open { probe: now + self.probe_after };
                Some(Change::Opened)
            }
            BreakerState::Open { .. } => None,
            BreakerState::HalfOpen { allowed, .. } if allowed > 1 => {
                self.state = BreakerState::HalfOpen { allowed: allowed / 2, left: allowed / 2 };
                None
            }
            BreakerState::HalfOpen { .. } => {
                self.probe_after = (self.probe_after * 2).min(PROBE_AFTER_MAX);
                self.state = BreakerState::Open { probe: now + self.probe_after };
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
    const CAP: u32 = 10;

    fn open() -> Breaker {
        let mut breaker = Breaker::default();
        for n in 0..FAILURES_TO_OPEN {
            let change = breaker.ended(Health::Failing, CAP, NOW + FAILING_FOR_TO_OPEN * n / 9);
            assert_eq!(change.is_some(), n + 1 == FAILURES_TO_OPEN, "{n}");
        }
        breaker
    }

    fn half_open() -> Breaker {
        let mut breaker = open();
        breaker.attempt();
        breaker
    }

    #[test]
    fn it_opens_after_enough_failures_over_enough_time_and_not_before() {
        let second = Duration::from_secs(1);
        let check = |failures: u32, apart: Duration, opens: bool| {
            let mut breaker = Breaker::default();
            let changes: Vec<_> =
                (0..failures).filter_map(|n| breaker.ended(Health::Failing, CAP, NOW + apart * n)).collect();
            assert_eq!(changes, if opens { vec![Change::Opened] } else { vec![] }, "{failures} {apart:?} apart");
        };
        check(9, second * 100, false);
        check(10, second * 4, true);
        check(10, second * 3, false);
        check(1000, Duration::ZERO, false);
        check(31, second, true);
        let mut breaker = Breaker::default();
        for n in 0..100 {
            let health = [Health::Failing, Health::Unknown, Health::Well][n as usize % 3];
            assert_eq!(breaker.ended(health, CAP, NOW + second * 100 * n), None, "a success in between");
        }
        for n in 0..100 {
            assert_eq!(breaker.ended(Health::Unknown, CAP, NOW + second * n), None, "our own faults");
        }
    }

    #[test]
    fn probes_come_ever_later() {
        let mut breaker = open();
        let mut waits = Vec::new();
        for _ in 0..7 {
            let BreakerState::Open { probe } = breaker.state() else { panic!("{breaker:?}") };
            let before = probe - Duration::from_micros(1);
            assert_eq!((breaker.open_until(before), breaker.open_until(probe)), (Some(probe), None));
            assert_eq!(breaker.allowed(), Some(1));
            waits.push(probe);
            breaker.attempt();
            assert_eq!(breaker.ended(Health::Failing, CAP, probe), None);
        }
        let waits: Vec<_> = waits.windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
        assert_eq!(breaker.since(), open().since(), "it has been so all the time");
    }

    #[test]
    fn the_ramp_doubles_up_to_the_cap() {
        for (cap, steps) in [(1, vec![1]), (2, vec![1]), (3, vec![1, 2]), (10, vec![1, 2, 4, 8])] {
            let mut breaker = half_open();
            for step in &steps {
                assert_eq!(breaker.allowed(), Some(*step), "cap {cap}");
                for n in 1..=*step {
                    let last = n == *step && step == steps.last().unwrap();
                    let change = breaker.ended(Health::Well, cap, NOW);
                    assert_eq!(change, last.then_some(Change::Closed), "cap {cap}, step {step}, {n}");
                }
            }
            assert_eq!(breaker, Breaker::default());
        }
    }

    #[test]
    fn a_failure_on_the_ramp_goes_back_a_step_and_at_its_foot_opens() {
        let mut breaker = half_open();
        for _ in 0..3 {
            breaker.ended(Health::Well, CAP, NOW);
        }
        assert_eq!(breaker.allowed(), Some(4));
        for allowed in [2, 1] {
            assert_eq!(breaker.ended(Health::Failing, CAP, NOW), None);
            assert_eq!((breaker.allowed(), breaker.open_until(NOW)), (Some(allowed), None));
        }
        assert_eq!(breaker.ended(Health::Failing, CAP, NOW), None);
        assert!(breaker.open_until(NOW).is_some());
    }

    #[test]
    fn what_was_under_way_when_it_opened_changes_little() {
        let mut breaker = open();
        let until = breaker.open_until(NOW);
        assert_eq!(breaker.ended(Health::Failing, CAP, NOW), None);
        assert_eq!(breaker.open_until(NOW), until);
        assert_eq!(breaker.ended(Health::Well, CAP, NOW), None);
        assert_eq!((breaker.allowed(), breaker.open_until(NOW)), (Some(1), None), "as good as a reason for a probe");
        let mut breaker = open();
        breaker.probe_now(NOW);
        assert_eq!(breaker.open_until(NOW), None);
    }
}
