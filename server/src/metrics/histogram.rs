//! A histogram of atomics. That of `prometheus-client` takes a lock for every observation.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Microseconds in a second.
const SECOND: u64 = 1_000_000;

/// Upper bounds for what takes up to a minute: 100 µs to 60 s.
pub(super) const SHORT: &[u64] = &[
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    SECOND,
    2_500_000,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    60 * SECOND,
];
/// Upper bounds for what may wait behind a backlog: 500 µs to a day.
pub(super) const LONG: &[u64] = &[
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    SECOND,
    2_500_000,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    60 * SECOND,
    300 * SECOND,
    1_800 * SECOND,
    7_200 * SECOND,
    21_600 * SECOND,
    86_400 * SECOND,
];
/// Upper bounds for how many there are of something in a batch.
pub(super) const COUNTS: &[u64] = &[0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// How often values fell between fixed bounds. Cheap to clone; clones share what they count.
///
/// Values are whole numbers, microseconds if they are times; the exposition has them in seconds. Two observations at a time
/// do not wait for each other, and one that comes while it is read may show in the buckets before it shows in the sum.
#[derive(Clone)]
pub struct Histogram {
    inner: Arc<Inner>,
}

struct Inner {
    /// Ascending; a value that equals a bound counts below it.
    bounds: &'static [u64],
    /// One for each bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// What one unit of the exposition is in values.
    unit: u64,
}

impl Histogram {
    /// Of times, between bounds in microseconds.
    pub(super) fn of_seconds(bounds: &'static [u64]) -> Self {
        Self::new(bounds, SECOND)
    }

    /// Of counts.
    pub(super) fn of_counts(bounds: &'static [u64]) -> Self {
        Self::new(bounds, 1)
    }

    fn new(bounds: &'static [u64], unit: u64) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds ascend");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { bounds, counts, sum: AtomicU64::new(0), unit }) }
    }

    /// Something took this long.
    pub fn observe(&self, time: Duration) {
        self.observe_many(time, 1);
    }

    /// `times` things took this long.
    pub fn observe_many(&self, time: Duration, times: u64) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), times);
    }

    /// There were so many.
    pub fn observe_count(&self, count: u64) {
        self.add(count, 1);
    }

    fn add(&self, value: u64, times: u64) {
        let Inner { bounds, counts, sum, .. } = &*self.inner;
        counts[bounds.partition_point(|bound| *bound < value)].fetch_add(times, Ordering::Relaxed);
        sum.fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn in_units(&self, value: u64) -> f64 {
        approximate(value) / approximate(self.inner.unit)
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.inner.bounds.iter().map(|bound| self.in_units(*bound)).chain([f64::INFINITY]);
        let counts = self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // What the buckets say together, whatever was observed since: a parser checks that.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.in_units(self.inner.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// As a floating point number, which is what the exposition has; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody looks at single units")]
pub(crate) fn approximate(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn values_are_counted_below_their_bounds_and_told_in_seconds() {
        let histogram = Histogram::of_seconds(&[1_000, 2_000_000]);
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_micros(1_001));
        histogram.observe_many(Duration::from_secs(3), 2);
        assert_eq!(histogram.count(), 4);
        let mut registry = Registry::with_prefix("postrider");
        registry.register_with_unit("taken", "Help", Unit::Seconds, histogram);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let expected = "\
            # HELP postrider_taken_seconds Help.\n\
            # TYPE postrider_taken_seconds histogram\n\
            # UNIT postrider_taken_seconds seconds\n\
            postrider_taken_seconds_sum 6.002001\n\
            postrider_taken_seconds_count 4\n\
            postrider_taken_seconds_bucket{le=\"0.001\"} 1\n\
            postrider_taken_seconds_bucket{le=\"2.0\"} 2\n\
            postrider_taken_seconds_bucket{le=\"+Inf\"} 4\n\
            # EOF\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn bounds_ascend_strictly() {
        for bounds in [SHORT, LONG, COUNTS] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }
}
