//! Deliveries on their way from the store to an attempt.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Handles of the dispatch stage. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DispatchMetrics {
    /// Deliveries set aside because the store does not have their event; each time counts.
    pub unreadable: Counter,
    in_flight: Gauge,
    in_flight_limit: Gauge,
}

impl DispatchMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Deliveries launched whose outcome is not committed: permits taken";
        registry.register("deliveries_in_flight", help, self.in_flight.clone());
        let help = "Most deliveries in flight: all permits, --in-flight";
        registry.register("deliveries_in_flight_limit", help, self.in_flight_limit.clone());
        let help = "Times a pending delivery was set aside because the store does not have its event";
        registry.register("deliveries_unreadable", help, self.unreadable.clone());
    }

    /// As many permits of so many are taken.
    pub fn permits(&self, taken: usize, of: usize) {
        self.in_flight.set(i64::try_from(taken).unwrap_or(i64::MAX));
        self.in_flight_limit.set(i64::try_from(of).unwrap_or(i64::MAX));
    }
}
