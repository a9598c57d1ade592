//! How long a webhook has failed continuously, and whether that is long enough to disable it.
//!
//! Kept so that it can be written rarely: by the hour, not by the attempt.

use std::time::Duration;

use super::time::Timestamp;

/// Span of continuous failure after which a webhook is disabled, unless its owner or the operator says otherwise.
pub const AUTO_DISABLE_AFTER: Duration = Duration::from_hours(5 * 24);
/// Most different hours that have to have a failure: two failures five days apart are no continuous failure.
const HOURS_NEEDED_MAX: u32 = 12;
const HOUR: Duration = Duration::from_hours(1);

/// Failures since the last success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    /// When the first one ended.
    pub since: Timestamp,
    /// The hour of the last one, counted from the Unix epoch.
    pub hour: i64,
    /// Different hours with failures.
    pub hours: u32,
}

impl Failing {
    /// The first one.
    pub fn begin(time: Timestamp) -> Self {
        Self { since: time, hour: hour(time), hours: 1 }
    }

    /// Another one.
    #[must_use]
    pub fn again(self, time: Timestamp) -> Self {
        let hour = hour(time);
        if hour <= self.hour { self } else { Self { hour, hours: self.hours.saturating_add(1), ..self } }
    }

    /// Whether, with a failure at `time`, the webhook has failed for as long as `span` (zero: never), and in enough different
    /// hours: in twelve, or in as many as the span has, but at least in one.
    pub fn is_enough(&self, time: Timestamp, span: Duration) -> bool {
        let hours = u32::try_from(span.as_secs() / HOUR.as_secs()).unwrap_or(u32::MAX);
        !span.is_zero() && time.since(self.since) >= span && self.hours >= hours.clamp(1, HOURS_NEEDED_MAX)
    }
}

fn hour(time: Timestamp) -> i64 {
    time.seconds().div_euclid(3_600)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

    #[test]
    fn long_enough_and_often_enough() {
        let minute = Duration::from_mins(1);
        let check = |span: Duration, every: Duration, after: Option<Duration>| {
            let mut failing = Failing::begin(NOW);
            let failures = (1..10_000_u32).map(|n| NOW + every * n);
            let enough = failures.take_while(|time| time.since(NOW) < HOUR * 24 * 60).find(|time| {
                failing = failing.again(*time);
                failing.is_enough(*time, span)
            });
            assert_eq!(enough.map(|time| time.since(NOW)), after, "{span:?}, a failure every {every:?}");
        };
        let day = HOUR * 24;
        check(AUTO_DISABLE_AFTER, minute * 30, Some(AUTO_DISABLE_AFTER));
        check(AUTO_DISABLE_AFTER, HOUR * 10, Some(AUTO_DISABLE_AFTER));
        // A failure a day: the twelfth comes eleven days after the first.
        check(AUTO_DISABLE_AFTER, day, Some(day * 11));
        check(Duration::ZERO, minute, None);
        check(minute * 10, minute, Some(minute * 10));
        check(HOUR * 2, minute * 40, Some(HOUR * 2));
        check(HOUR * 2, HOUR * 100, Some(HOUR * 100));
    }

    #[test]
    fn what_comes_late_counts_once() {
        let failing = Failing::begin(NOW).again(NOW + HOUR).again(NOW + HOUR);
        assert_eq!((failing.since, failing.hours), (NOW, 2));
        assert_eq!(failing.again(NOW), failing);
    }
}
