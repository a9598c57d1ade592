//! When a failed attempt is repeated.

use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt as _};

use super::time::Timestamp;

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

impl Default for RetryPolicy {
    /// The example schedule of Standard Webhooks: ten attempts over 75.6 hours.
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let hours = |count: u64| minutes(count * 60);
        Self {
            schedule: vec![
                Duration::from_secs(5),
                minutes(5),
                minutes(30),
                hours(2),
                hours(5),
                hours(10),
                hours(14),
                hours(20),
                hours(24),
            ],
            jitter: 0.2,
            retry_after_max: hours(24),
        }
    }
}

impl RetryPolicy {
    /// Whether an attempt follows when the `attempt`-th (from 1) failed.
    pub fn allows_after(&self, attempt: u32) -> bool {
        (attempt as usize) <= self.schedule.len()
    }

    /// How long to wait after the `attempt`-th (from 1) failed attempt.
    ///
    /// The scheduled delay with jitter; what the receiver asked for can only make it longer, up to `retry_after_max`. Beyond
    /// the schedule, its last delay.
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let index = (attempt as usize).saturating_sub(1);
        let scheduled = self.schedule.get(index).or(self.schedule.last()).copied().unwrap_or_default();
        let jitter = self.jitter.clamp(0.0, 1.0);
        let factor = 1.0 + rng.random_range(-jitter..=jitter);
        // Only a schedule of centuries could overflow.
        let base = Duration::try_from_secs_f64(scheduled.as_secs_f64() * factor).unwrap_or(scheduled);
        let asked = retry_after.unwrap_or_default().min(self.retry_after_max);
        base.max(asked)
    }
}

/// How long a whole lane pauses when a receiver is overloaded and does not say for how long.
pub const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

impl RetryPolicy {
    /// How long nothing more is sent to a receiver that gave this answer: as long as it asked for, up to `retry_after_max`, if
    /// it says that it is overloaded, or [`OVERLOAD_PAUSE`] if it does not say.
    ///
    /// Overloaded is who answers 429 or 503, and the gateway before it that answers 502 or 504.
    pub fn pause(&self, http_status: Option<u16>, retry_after: Option<Duration>) -> Option<Duration> {
        let overloaded = matches!(http_status, Some(429 | 502 | 503 | 504));
        let pause = retry_after.unwrap_or(OVERLOAD_PAUSE).min(self.retry_after_max);
        (overloaded && !pause.is_zero()).then_some(pause)
    }
}

/// How long a `Retry-After` header asks to wait from `now` (wall clock) on: whole seconds or an HTTP date (RFC 9110, 10.2.3).
///
/// A date that has passed asks for nothing (zero), more seconds than fit for the longest time there is; `None` if it is
/// neither seconds nor a date.
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some((Timestamp::UNIX_EPOCH + since_epoch).since(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn the_default_schedule_is_ten_attempts_over_three_days() {
        let policy = RetryPolicy::default();
        assert!(policy.allows_after(9));
        assert!(!policy.allows_after(10));
        let total: Duration = policy.schedule.iter().sum();
        assert_eq!(total.as_secs(), 5 + (5 + 30) * 60 + (2 + 5 + 10 + 14 + 20 + 24) * 3600);
    }

    #[test]
    fn without_jitter_the_schedule_is_exact() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let check = |attempt, retry_after: Option<u64>, expected: u64| {
            let delay = policy.delay(attempt, retry_after.map(Duration::from_secs), &mut StdRng::seed_from_u64(0));
            assert_eq!(delay.as_secs(), expected, "attempt {attempt}, retry after {retry_after:?}");
        };
        check(1, None, 5);
        check(2, None, 300);
        check(9, None, 24 * 3600);
        check(10, None, 24 * 3600);
        // A receiver can ask for more, never for less, and not for too much.
        check(1, Some(0), 5);
        check(1, Some(60), 60);
        check(2, Some(60), 300);
        check(1, Some(u64::MAX), 24 * 3600);
    }

    #[test]
    fn only_who_is_overloaded_makes_the_lane_pause() {
        let policy = RetryPolicy::default();
        let check = |status, retry_after: Option<u64>, expected: Option<u64>| {
            let pause = policy.pause(status, retry_after.map(Duration::from_secs));
            assert_eq!(pause.map(|pause| pause.as_secs()), expected, "{status:?} {retry_after:?}");
        };
        for status in [429, 502, 503, 504] {
            check(Some(status), None, Some(1));
            check(Some(status), Some(7), Some(7));
            check(Some(status), Some(0), None);
            check(Some(status), Some(u64::MAX), Some(24 * 3600));
        }
        for status in [None, Some(200), Some(400), Some(410), Some(500)] {
            check(status, None, None);
            check(status, Some(7), None);
        }
    }

    #[test]
    fn an_empty_schedule_allows_nothing_and_harms_nobody() {
        let policy = RetryPolicy { schedule: Vec::new(), ..RetryPolicy::default() };
        assert!(!policy.allows_after(1));
        assert_eq!(policy.delay(1, None, &mut StdRng::seed_from_u64(0)), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = Timestamp::from_micros(784_111_777 * 1_000_000);
        let check = |value, expected: Option<u64>| {
            assert_eq!(parse_retry_after(value, now), expected.map(Duration::from_secs), "{value:?}");
        };
        check("0", Some(0));
        check("120", Some(120));
        check(" 7 ", Some(7));
        check("1000000000000", Some(1_000_000_000_000));
        check("99999999999999999999999999", Some(u64::MAX));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(0));
        check("Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        check("Sunday, 06-Nov-94 08:50:37 GMT", Some(60));
        check("Sun Nov  6 08:50:37 1994", Some(60));
        check("Sat, 05 Nov 1994 08:49:37 GMT", Some(0));
        for garbage in ["", "-1", "+1", "1.5", "1s", "soon", "0x10", "Sun, 99 Nov 1994 08:49:37 GMT", "é"] {
            check(garbage, None);
        }
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(attempt in 0_u32..20, seed: u64, asked in proptest::option::of(0_u64..200_000)) {
            let policy = RetryPolicy::default();
            let asked = asked.map(Duration::from_secs);
            let delay = policy.delay(attempt, asked, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(delay, policy.delay(attempt, asked, &mut StdRng::seed_from_u64(seed)));
            let scheduled = policy.schedule[(attempt.clamp(1, 9) - 1) as usize];
            prop_assert!(delay >= scheduled.mul_f64(0.799_999));
            let longest = scheduled.mul_f64(1.200_001).max(asked.unwrap_or_default().min(policy.retry_after_max));
            prop_assert!(delay <= longest);
            prop_assert!(delay >= asked.unwrap_or_default().min(policy.retry_after_max));
        }

        #[test]
        fn any_retry_after_is_survived(value in ".{0,40}", now: i64) {
            if let Some(asked) = parse_retry_after(&value, Timestamp::from_micros(now)) {
                let delay = RetryPolicy::default().delay(1, Some(asked), &mut StdRng::seed_from_u64(0));
                prop_assert!(delay <= Duration::from_hours(24));
            }
        }
    }
}
