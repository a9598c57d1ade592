//! When a failed attempt is repeated.

use std::time::Duration;

use rand::Rng;

/// A retry schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Delay after the first, second, … failed attempt; one attempt more than it has entries.
    pub schedule: Vec<Duration>,
    /// Every delay is stretched or shrunk by up to this fraction, evenly distributed.
    pub jitter: f64,
    /// The longest delay a receiver's `Retry-After` can ask for.
    pub retry_after_max: Duration,
}

impl RetryPolicy {
    /// Whether an attempt follows when the `attempt`-th (from 1) failed.
    pub fn allows_after(&self, attempt: u32) -> bool {
        (attempt as usize) <= self.schedule.len()
    }

    /// How long to wait after the `attempt`-th failed attempt.
    pub fn delay(&self, _attempt: u32, _retry_after: Option<Duration>, _rng: &mut impl Rng) -> Duration {
        todo!()
    }
}
