//! How long to wait before trying again.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Exponential backoff: doubles from `base` to `max`, and each wait is drawn from its upper half, so that clients that lost
/// one server together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait of all.
    pub max: Duration,
}

impl Default for Backoff {
    /// From 100 ms to 10 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The wait after the given number of failures in a row.
    pub fn delay(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.base.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_jittered() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) };
        let mut rng = StdRng::seed_from_u64(7);
        for (failures, whole_ms) in [(0, 100), (1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (u32::MAX, 1000)] {
            let whole = Duration::from_millis(whole_ms);
            let delays: Vec<_> = (0..64).map(|_| backoff.delay(failures, &mut rng)).collect();
            assert!(delays.iter().all(|delay| (whole / 2..=whole).contains(delay)), "{failures}: {delays:?}");
            assert!(delays.iter().any(|delay| *delay != delays[0]), "{failures}: no jitter");
        }
    }
}
