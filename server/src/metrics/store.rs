//! Commits of the store: how many, how large, how long, and how often it had to be opened again.

use std::time::Duration;

use prometheus_client::{
    metrics::counter::Counter,
    registry::{Registry, Unit},
};

use super::histogram::{COUNTS, Histogram, SHORT};

/// Handles of a store engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Commits that failed; nothing in them was acknowledged.
    pub failures: Counter,
    /// Times the store was opened again after a failure.
    pub reopenings: Counter,
    duration: Histogram,
    rows: Histogram,
    events: Histogram,
    outcomes: Histogram,
}

/// What a commit held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitSize {
    /// Events stored.
    pub events: u64,
    /// Entries added to the outcome log.
    pub outcomes: u64,
    /// Deliveries made due for the first time.
    pub deliveries: u64,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            failures: Counter::default(),
            reopenings: Counter::default(),
            duration: Histogram::of_seconds(SHORT),
            rows: Histogram::of_counts(COUNTS),
            events: Histogram::of_counts(COUNTS),
            outcomes: Histogram::of_counts(COUNTS),
        }
    }
}

impl StoreMetrics {
    /// Gives every handle its name.
    pub fn register(&self, registry: &mut Registry) {
        let help = "From taking up what waits to its durable commit";
        registry.register_with_unit("store_commit_duration", help, Unit::Seconds, self.duration.clone());
        let help = "Events, log entries and deliveries written by each commit";
        registry.register("store_commit_rows", help, self.rows.clone());
        registry.register("store_commit_events", "Events stored by each commit", self.events.clone());
        let help = "Entries that each commit added to the outcome log";
        registry.register("store_commit_outcomes", help, self.outcomes.clone());
        let help = "Commits that failed; nothing in them was acknowledged";
        registry.register("store_commit_failures", help, self.failures.clone());
        let help = "Times the store was opened again after a failure";
        registry.register("store_reopenings", help, self.reopenings.clone());
    }

    /// A commit is durable, after this time.
    pub fn committed(&self, size: CommitSize, after: Duration) {
        self.duration.observe(after);
        self.rows.observe_count(size.events + size.outcomes + size.deliveries);
        self.events.observe_count(size.events);
        self.outcomes.observe_count(size.outcomes);
    }
}
