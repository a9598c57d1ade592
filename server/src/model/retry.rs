//! When a failed attempt is repeated.

use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt as _};
use thiserror::Error;

use super::time::Timestamp;
use crate::limits::RETRY_FACTOR_MAX;

/// The server's retry schedule, and how far a webhook's own may go.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Delay after the first, second, … failed attempt; one attempt more than it has entries.
    pub schedule: Vec<Duration>,
    /// Every delay is stretched or shrunk by up to this fraction, evenly distributed.
    pub jitter: f64,
    /// The longest delay a receiver's `Retry-After` can ask for.
    pub retry_after_max: Duration,
    /// Most attempts by a webhook's own policy.
    pub attempts_max: u32,
    /// How long after a delivery was due a webhook's own policy may repeat it.
    pub elapsed_max: Duration,
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
            attempts_max: 100,
            elapsed_max: hours(30 * 24),
        }
    }
}

/// A webhook's own retry policy; what it leaves open is the server's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retry {
    /// How delays follow each other.
    pub backoff: Option<Backoff>,
    /// Most attempts, the first one included; at least 1.
    pub attempts_max: Option<u32>,
    /// No attempt follows later than this after the delivery was due.
    pub elapsed_max: Option<Duration>,
}

/// How delays follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backoff {
    /// These, and then the last one again and again. Never none.
    Delays(Box<[Duration]>),
    /// Longer and longer ones.
    Exponential(Exponential),
}

/// Delays that grow by a factor, up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exponential {
    initial: Duration,
    factor_thousandths: u32,
    delay_max: Duration,
}

/// Why there is no such [`Exponential`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidExponential {
    /// The factor is not a number from 1 to `RETRY_FACTOR_MAX`.
    #[error("must be from 1 to {RETRY_FACTOR_MAX}")]
    Factor,
    /// The longest delay is shorter than the first.
    #[error("must not be shorter than `initial`")]
    DelayMax,
}

impl Exponential {
    /// From the first delay, by what each is longer than the one before, to the thousandth, and the longest.
    pub fn new(initial: Duration, factor: f64, delay_max: Duration) -> Result<Self, InvalidExponential> {
        if !(1.0..=f64::from(RETRY_FACTOR_MAX)).contains(&factor) {
            return Err(InvalidExponential::Factor);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it lies between 1,000 and 100,000"
        )]
        let factor_thousandths = (factor * 1000.0).round() as u32;
        Self::from_thousandths(initial, factor_thousandths, delay_max)
    }

    /// The same, from a factor in thousandths.
    pub fn from_thousandths(initial: Duration, factor: u32, delay_max: Duration) -> Result<Self, InvalidExponential> {
        if !(1_000..=RETRY_FACTOR_MAX * 1_000).contains(&factor) {
            return Err(InvalidExponential::Factor);
        }
        if delay_max < initial {
            return Err(InvalidExponential::DelayMax);
        }
        Ok(Self { initial, factor_thousandths: factor, delay_max })
    }

    /// The first delay.
    pub fn initial(&self) -> Duration {
        self.initial
    }

    /// By what each delay is longer than the one before.
    pub fn factor(&self) -> f64 {
        f64::from(self.factor_thousandths) / 1000.0
    }

    /// The factor in thousandths.
    pub fn factor_thousandths(&self) -> u32 {
        self.factor_thousandths
    }

    /// The longest delay.
    pub fn delay_max(&self) -> Duration {
        self.delay_max
    }

    fn delay(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor().powi(exponent);
        // What is too long for a duration is longer than any limit.
        Duration::try_from_secs_f64(seconds).map_or(self.delay_max, |delay| delay.min(self.delay_max))
    }
}

impl RetryPolicy {
    /// The schedule of a webhook, with its own policy if it has one.
    pub fn schedule_of<'a>(&'a self, own: Option<&'a Retry>) -> Schedule<'a> {
        Schedule { server: self, own }
    }

    /// The attempts of its schedule.
    fn attempts(&self) -> u32 {
        attempts_of(&self.schedule)
    }
}

/// One more than there are delays.
fn attempts_of(delays: &[Duration]) -> u32 {
    u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1)
}

/// When the attempts of one webhook are repeated.
#[derive(Debug, Clone, Copy)]
pub struct Schedule<'a> {
    server: &'a RetryPolicy,
    own: Option<&'a Retry>,
}

impl Schedule<'_> {
    /// Whether an attempt follows when the `attempt`-th (from 1) failed.
    pub fn allows_after(&self, attempt: u32) -> bool {
        attempt < self.attempts_max()
    }

    fn attempts_max(&self) -> u32 {
        let Some(own) = self.own else { return self.server.attempts() };
        let attempts = own.attempts_max.unwrap_or_else(|| match &own.backoff {
            Some(Backoff::Delays(delays)) => attempts_of(delays),
            Some(Backoff::Exponential(_)) | None => self.server.attempts(),
        });
        attempts.min(self.server.attempts_max)
    }

    /// How long after a delivery was due it is repeated at most. `None`: as long as there are attempts left.
    pub fn elapsed_max(&self) -> Option<Duration> {
        let own = self.own?;
        Some(own.elapsed_max.unwrap_or(Duration::MAX).min(self.server.elapsed_max))
    }

    /// How long to wait after the `attempt`-th (from 1) failed attempt.
    ///
    /// The scheduled delay with jitter; what the receiver asked for can only make it longer, up to `retry_after_max`. Beyond
    /// a list, its last delay.
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let scheduled = match self.own.and_then(|own| own.backoff.as_ref()) {
            None => listed(&self.server.schedule, attempt),
            Some(Backoff::Delays(delays)) => listed(delays, attempt),
            Some(Backoff::Exponential(exponential)) => exponential.delay(attempt),
        };
        let jitter = self.server.jitter.clamp(0.0, 1.0);
        let factor = 1.0 + rng.random_range(-jitter..=jitter);
        // Only a schedule of centuries could overflow.
        let base = Duration::try_from_secs_f64(scheduled.as_secs_f64() * factor).unwrap_or(scheduled);
        let asked = retry_after.unwrap_or_default().min(self.server.retry_after_max);
        base.max(asked)
    }
}

fn listed(delays: &[Duration], attempt: u32) -> Duration {
    let index = (attempt as usize).saturating_sub(1);
    delays.get(index).or(delays.last()).copied().unwrap_or_default()
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
        assert!(policy.schedule_of(None).allows_after(9));
        assert!(!policy.schedule_of(None).allows_after(10));
        let total: Duration = policy.schedule.iter().sum();
        assert_eq!(total.as_secs(), 5 + (5 + 30) * 60 + (2 + 5 + 10 + 14 + 20 + 24) * 3600);
    }

    #[test]
    fn without_jitter_the_schedule_is_exact() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let check = |attempt, retry_after: Option<u64>, expected: u64| {
            let retry_after = retry_after.map(Duration::from_secs);
            let delay = policy.schedule_of(None).delay(attempt, retry_after, &mut StdRng::seed_from_u64(0));
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
        let schedule = policy.schedule_of(None);
        assert!(!schedule.allows_after(1));
        assert_eq!(schedule.delay(1, None, &mut StdRng::seed_from_u64(0)), Duration::ZERO);
    }

    const HOUR: Duration = Duration::from_hours(1);

    fn seconds(delays: &[u64]) -> Box<[Duration]> {
        delays.iter().copied().map(Duration::from_secs).collect()
    }

    fn exponential(initial: u64, factor: f64, most: u64) -> Exponential {
        Exponential::new(Duration::from_secs(initial), factor, Duration::from_secs(most)).unwrap()
    }

    /// The delays of a webhook's own policy, up to where it ends, or the first twelve.
    fn delays(own: &Retry) -> Vec<u64> {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let schedule = policy.schedule_of(Some(own));
        let attempts = (1..=12).take_while(|attempt| schedule.allows_after(*attempt));
        attempts.map(|attempt| schedule.delay(attempt, None, &mut StdRng::seed_from_u64(0)).as_secs()).collect()
    }

    #[test]
    fn webhooks_have_schedules_of_their_own() {
        let check = |backoff: Option<Backoff>, attempts_max, expected: &[u64]| {
            let own = Retry { backoff, attempts_max, elapsed_max: None };
            assert_eq!(delays(&own), expected, "{own:?}");
        };
        let listed = |delays| Some(Backoff::Delays(seconds(delays)));
        check(listed(&[1, 7]), None, &[1, 7]);
        check(listed(&[1, 7]), Some(2), &[1]);
        check(listed(&[1, 7]), Some(1), &[]);
        check(listed(&[1, 7]), Some(5), &[1, 7, 7, 7]);
        // Nine delays, as the server's schedule has, and its delays where the webhook says nothing of them.
        let doubled = Some(Backoff::Exponential(exponential(1, 2.0, 60)));
        check(doubled.clone(), None, &[1, 2, 4, 8, 16, 32, 60, 60, 60]);
        check(doubled, Some(4), &[1, 2, 4]);
        check(Some(Backoff::Exponential(exponential(100, 1.5, 1000))), Some(5), &[100, 150, 225, 337]);
        check(None, Some(3), &[5, 300]);
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let policy = RetryPolicy { attempts_max: 3, elapsed_max: HOUR, ..RetryPolicy::default() };
        let check = |attempts_max: u32, allowed: u32, elapsed: Option<Duration>, limit: Duration| {
            let own = Retry { backoff: None, attempts_max: Some(attempts_max), elapsed_max: elapsed };
            let schedule = policy.schedule_of(Some(&own));
            let attempts = (1..2_000).take_while(|attempt| schedule.allows_after(*attempt)).count() + 1;
            assert_eq!(attempts, allowed as usize);
            assert_eq!(schedule.elapsed_max(), Some(limit));
        };
        check(2, 2, Some(HOUR / 2), HOUR / 2);
        check(3, 3, None, HOUR);
        check(1000, 3, Some(HOUR * 2), HOUR);
        // The server's own schedule is the operator's own affair.
        assert!(policy.schedule_of(None).allows_after(9));
        assert_eq!(policy.schedule_of(None).elapsed_max(), None);
    }

    #[test]
    fn exponential_delays_have_limits() {
        let new = |factor, most| Exponential::new(Duration::from_secs(10), factor, Duration::from_secs(most));
        for factor in [f64::NAN, f64::INFINITY, 0.999, 100.001, -2.0, 0.0] {
            assert_eq!(new(factor, 10), Err(InvalidExponential::Factor), "{factor}");
        }
        assert_eq!(new(2.0, 9), Err(InvalidExponential::DelayMax));
        let steep = new(100.0, 10_000_000).unwrap();
        assert_eq!(steep.delay(u32::MAX).as_secs(), 10_000_000);
        assert_eq!(steep.delay(2).as_secs(), 1_000);
        assert!((new(1.5, 10).unwrap().factor() - 1.5).abs() < f64::EPSILON);
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
            let schedule = policy.schedule_of(None);
            let asked = asked.map(Duration::from_secs);
            let delay = schedule.delay(attempt, asked, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(delay, schedule.delay(attempt, asked, &mut StdRng::seed_from_u64(seed)));
            let scheduled = policy.schedule[(attempt.clamp(1, 9) - 1) as usize];
            prop_assert!(delay >= scheduled.mul_f64(0.799_999));
            let longest = scheduled.mul_f64(1.200_001).max(asked.unwrap_or_default().min(policy.retry_after_max));
            prop_assert!(delay <= longest);
            prop_assert!(delay >= asked.unwrap_or_default().min(policy.retry_after_max));
        }

        #[test]
        fn any_retry_after_is_survived(value in ".{0,40}", now: i64) {
            if let Some(asked) = parse_retry_after(&value, Timestamp::from_micros(now)) {
                let policy = RetryPolicy::default();
                let delay = policy.schedule_of(None).delay(1, Some(asked), &mut StdRng::seed_from_u64(0));
                prop_assert!(delay <= Duration::from_hours(24));
            }
        }
    }
}
