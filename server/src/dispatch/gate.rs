//! What holds back a webhook's attempts although they are due: its rate, a receiver that asked for a pause, its breaker.
//!
//! A gate is kept only while it is not as good as new: most webhooks have none. It outlives its lane, so that a webhook whose
//! last delivery has just been made is not called faster than it may be, and a breaker stays open between retries.

use std::num::NonZeroU32;

use crate::{
    flow::{GateView, Settled},
    model::{
        breaker::{Breaker, BreakerState, Change, Health},
        protection::Pace,
        rate::Bucket,
        time::Timestamp,
    },
};

/// One webhook's gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    bucket: Bucket,
    breaker: Breaker,
    /// A receiver asked for it.
    paused_until: Option<Timestamp>,
    /// When it is forgotten, if nothing is pending, as registered with the scheduler.
    pub(super) forget_at: Option<Timestamp>,
}

impl Gate {
    /// Whether an outcome leaves a gate behind where there was none.
    pub(super) fn is_left_by(settled: &Settled) -> bool {
        settled.health == Health::Failing || settled.pause_until.is_some()
    }

    /// Until when nothing may be launched, if not now.
    pub(super) fn shut_until(&self, pace: &Pace, now: Timestamp) -> Option<Timestamp> {
        let rate = pace.rate_limit.and_then(|limit| self.bucket.next(&limit, now));
        rate.max(self.held_until(now))
    }

    /// As [`Self::shut_until`], the rate aside: what may take long.
    fn held_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|at| *at > now).max(self.breaker.open_until(now))
    }

    /// How many attempts of `cap` may be under way at once.
    pub(super) fn allowed(&self, cap: usize) -> usize {
        self.breaker.allowed().map_or(cap, |allowed| cap.min(allowed as usize))
    }

    /// Whether an attempt is under way until its outcome is known, and not only until it is answered: or a second probe would
    /// be on its way before it is known what came of the first.
    pub(super) fn waits_for_outcomes(&self) -> bool {
        !self.breaker.is_closed()
    }

    /// An attempt is launched.
    pub(super) fn launch(&mut self, pace: &Pace, now: Timestamp) {
        if let Some(limit) = pace.rate_limit {
            self.bucket.take(&limit, now);
        }
        self.breaker.attempt();
    }

    /// An attempt has ended so, of which `cap` may be under way at once.
    pub(super) fn settle(&mut self, settled: &Settled, cap: usize, now: Timestamp) -> Option<Change> {
        self.paused_until = self.paused_until.max(settled.pause_until);
        self.breaker.ended(settled.health, u32::try_from(cap).unwrap_or(u32::MAX), now)
    }

    /// Its webhook was changed, which may end whatever was wrong: a pause ends, and if the breaker is open, a probe is due.
    pub(super) fn relent(&mut self, now: Timestamp) {
        self.paused_until = None;
        self.breaker.probe_now(now);
    }

    /// Until when it says more than none does; `None`: it does not.
    pub(super) fn useful_until(&self, kept_until: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let breaker = (!self.breaker.is_untouched()).then_some(kept_until);
        breaker.max(self.paused_until.filter(|at| *at > now)).max(self.bucket.full_at(now))
    }

    /// What others may see of it; `None`: nothing worth a look.
    pub(super) fn view(&self) -> Option<GateView> {
        if self.breaker.is_untouched() && self.paused_until.is_none() {
            return None;
        }
        Some(GateView {
            state: self.breaker.state(),
            since: self.breaker.since(),
            failures: self.breaker.failures(),
            held_until: match self.breaker.state() {
                BreakerState::Open { probe } => self.paused_until.max(Some(probe)),
                BreakerState::Closed | BreakerState::HalfOpen { .. } => self.paused_until,
            },
        })
    }
}

/// How many attempts may be under way at once to a webhook whose owner wants it so, of the server's `ceiling`.
pub(super) fn cap(ceiling: usize, wanted: Option<NonZeroU32>) -> usize {
    wanted.map_or(ceiling, |wanted| ceiling.min(wanted.get() as usize))
}
