//! Connections to the gRPC port.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Handles of the gRPC port. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ServeMetrics {
    /// Connections closed at once, because their address had as many as one may have.
    pub refused: Counter,
}

impl ServeMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Connections closed at once because their address had --connections-per-address of them";
        registry.register("connections_refused", help, self.refused.clone());
    }
}
