//! Medians and percentiles.

use serde::{Deserialize, Serialize};

/// The middle one; of an even number, the upper of the two.
///
/// # Panics
/// When there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What remains of many latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// How many there were.
    pub(crate) count: usize,
    /// The middle one.
    pub(crate) p50: u32,
    /// Only one in a hundred is longer.
    pub(crate) p99: u32,
}

impl Percentiles {
    /// Of these, in any order.
    pub(crate) fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let at = |percent: usize| micros.get(micros.len() * percent / 100).copied().unwrap_or_default();
        Self { count: micros.len(), p50: at(50), p99: at(99) }
    }

    /// In milliseconds.
    pub(crate) fn p50_ms(self) -> f64 {
        f64::from(self.p50) / 1e3
    }

    /// In milliseconds.
    pub(crate) fn p99_ms(self) -> f64 {
        f64::from(self.p99) / 1e3
    }
}

/// A count as a number to calculate with; exact up to 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2⁵³")]
pub(crate) fn number(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

/// How many per second.
pub(crate) fn per_second(count: u64, micros: u64) -> f64 {
    number(count) * 1e6 / number(micros.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_those_of_sorted_values() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        let percentiles = Percentiles::of((0..1000).rev().collect());
        assert_eq!(percentiles, Percentiles { count: 1000, p50: 500, p99: 990 });
        assert_eq!(Percentiles::of(vec![7]), Percentiles { count: 1, p50: 7, p99: 7 });
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
    }
}
