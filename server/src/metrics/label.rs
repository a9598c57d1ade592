//! Labels with a fixed set of values, and counters that have one.

use std::{fmt, marker::PhantomData, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::Counter},
};

/// An enum that tells time series of one name apart.
pub trait Label: Copy + 'static {
    /// The label.
    const NAME: &'static str;
    /// Every value there is, in the order of [`Self::index`].
    const ALL: &'static [Self];

    /// As it is written.
    fn value(self) -> &'static str;

    /// Its place in [`Self::ALL`].
    fn index(self) -> usize;
}

/// A counter for each value of a label; all of them are there from the beginning, at zero. Cheap to clone; clones share what
/// they count.
pub struct CounterBy<L> {
    counters: Arc<[Counter]>,
    label: PhantomData<fn() -> L>,
}

impl<L: Label> CounterBy<L> {
    /// One more of these.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// As many more of these.
    pub fn add(&self, label: L, count: u64) {
        self.counters[label.index()].inc_by(count);
    }

    /// How many of these there were.
    pub fn of(&self, label: L) -> u64 {
        self.counters[label.index()].get()
    }
}

impl<L: Label> Default for CounterBy<L> {
    fn default() -> Self {
        Self { counters: L::ALL.iter().map(|_| Counter::default()).collect(), label: PhantomData }
    }
}

impl<L> Clone for CounterBy<L> {
    fn clone(&self) -> Self {
        Self { counters: self.counters.clone(), label: PhantomData }
    }
}

impl<L: Label> fmt::Debug for CounterBy<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(L::ALL.iter().map(|&label| (label.value(), self.of(label)))).finish()
    }
}

impl<L: Label> EncodeMetric for CounterBy<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (label, counter) in L::ALL.iter().zip(&*self.counters) {
            counter.encode(encoder.encode_family(&[(L::NAME, label.value())])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Checks what every label promises.
#[cfg(test)]
pub(super) fn check<L: Label + fmt::Debug>() {
    let values: std::collections::BTreeSet<_> = L::ALL.iter().map(|label| label.value()).collect();
    assert_eq!(values.len(), L::ALL.len(), "values differ: {:?}", L::ALL);
    for (index, label) in L::ALL.iter().enumerate() {
        assert_eq!(label.index(), index, "{label:?}");
    }
}
