//! What is written to the audit log, and what is not.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Handles of the audit log. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AuditMetrics {
    /// Entries written.
    pub entries: Counter,
    /// Refused calls that were only counted.
    pub omitted: Counter,
    /// Entries, or endings of calls, that could not be written.
    pub failures: Counter,
}

impl AuditMetrics {
    /// Gives every handle its name.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("audit_entries", "Entries written to the audit log", self.entries.clone());
        let help = "Refused calls that were counted in the audit log and have no entry of their own";
        registry.register("audit_omitted", help, self.omitted.clone());
        let help = "Entries of the audit log, or endings of their calls, that could not be written";
        registry.register("audit_failures", help, self.failures.clone());
    }
}
