//! Events coming in: how many were taken, how many were refused and why, how long an acknowledgement took.

use std::time::Duration;

use postrider_proto::error_info as reason;
use prometheus_client::registry::{Registry, Unit};

use super::{
    histogram::{Histogram, SHORT},
    label::{CounterBy, Label},
};

/// Handles of the accept stage and of the edge before it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AcceptMetrics {
    /// Events acknowledged.
    pub accepted: CounterBy<Novelty>,
    /// Events refused, each on its own. A message above the transport's limit ends its call and is not counted.
    pub rejected: CounterBy<Reason>,
    ack: Histogram,
}

impl Default for AcceptMetrics {
    fn default() -> Self {
        Self { accepted: CounterBy::default(), rejected: CounterBy::default(), ack: Histogram::of_seconds(SHORT) }
    }
}

impl AcceptMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Events acknowledged, after their durable commit; duplicates were stored before";
        registry.register("events_accepted", help, self.accepted.clone());
        let help = "Events refused, by the reason of the contract's ErrorInfo";
        registry.register("events_rejected", help, self.rejected.clone());
        let help = "From taking an event over to its acknowledgement, the durable commit included";
        registry.register_with_unit("publish_ack", help, Unit::Seconds, self.ack.clone());
    }

    /// These of a batch were acknowledged, after this time.
    pub fn acknowledged(&self, new: u64, duplicates: u64, after: Duration) {
        self.accepted.add(Novelty::New, new);
        self.accepted.add(Novelty::Duplicate, duplicates);
        self.ack.observe_many(after, new + duplicates);
    }
}

/// Whether an accepted event was stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// It is new.
    New,
    /// It is not.
    Duplicate,
}

impl Label for Novelty {
    const NAME: &'static str = "novelty";
    const ALL: &'static [Self] = &[Self::New, Self::Duplicate];

    fn value(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Duplicate => "duplicate",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why an event was refused: those reasons of the contract that can be one event's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A field is wrong, or the message cannot be decoded.
    InvalidField,
    /// There is no such event type.
    UnknownEventType,
    /// The body does not hold to its type's schema.
    SchemaMismatch,
    /// The tenant is not the caller's.
    TenantNotFound,
    /// The id belongs to another event.
    EventIdReused,
    /// An event of the id was erased.
    EventErased,
    /// The tenant is being erased.
    TenantBeingErased,
    /// Too many webhooks match.
    TooManyTargets,
    /// Too many deliveries are pending.
    BacklogFull,
    /// The tenant publishes too fast.
    QuotaEventsPerSecond,
    /// Too many deliveries of the tenant are pending.
    QuotaPendingDeliveries,
    /// The tenant has published too much this day.
    QuotaBytesPerDay,
    /// The store failed.
    StoreUnavailable,
    /// There is no room on the disk.
    DiskFull,
    /// The daemon is stopping.
    Stopping,
}

impl Reason {
    /// Of an event whose content is wrong, from what its caller is told.
    pub fn of_content(told: &str) -> Self {
        match told {
            reason::UNKNOWN_EVENT_TYPE => Self::UnknownEventType,
            reason::SCHEMA_MISMATCH => Self::SchemaMismatch,
            reason::TENANT_NOT_FOUND => Self::TenantNotFound,
            _ => Self::InvalidField,
        }
    }
}

impl Label for Reason {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &[
        Self::InvalidField,
        Self::UnknownEventType,
        Self::SchemaMismatch,
        Self::TenantNotFound,
        Self::EventIdReused,
        Self::EventErased,
        Self::TenantBeingErased,
        Self::TooManyTargets,
        Self::BacklogFull,
        Self::QuotaEventsPerSecond,
        Self::QuotaPendingDeliveries,
        Self::QuotaBytesPerDay,
        Self::StoreUnavailable,
        Self::DiskFull,
        Self::Stopping,
    ];

    fn value(self) -> &'static str {
        match self {
            Self::InvalidField => reason::INVALID_FIELD,
            Self::UnknownEventType => reason::UNKNOWN_EVENT_TYPE,
            Self::SchemaMismatch => reason::SCHEMA_MISMATCH,
            Self::TenantNotFound => reason::TENANT_NOT_FOUND,
            Self::EventIdReused => reason::EVENT_ID_REUSED,
            Self::EventErased => reason::EVENT_ERASED,
            Self::TenantBeingErased => reason::TENANT_BEING_ERASED,
            Self::TooManyTargets => reason::TOO_MANY_TARGETS,
            Self::BacklogFull => reason::BACKLOG_FULL,
            Self::QuotaEventsPerSecond => reason::QUOTA_EVENTS_PER_SECOND,
            Self::QuotaPendingDeliveries => reason::QUOTA_PENDING_DELIVERIES,
            Self::QuotaBytesPerDay => reason::QUOTA_BYTES_PER_DAY,
            Self::StoreUnavailable => reason::STORE_UNAVAILABLE,
            Self::DiskFull => reason::DISK_FULL,
            Self::Stopping => reason::STOPPING,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_promises() {
        super::super::label::check::<Reason>();
        super::super::label::check::<Novelty>();
        assert_eq!(Reason::of_content(reason::UNKNOWN_EVENT_TYPE), Reason::UnknownEventType);
        assert_eq!(Reason::of_content(reason::SCHEMA_MISMATCH), Reason::SchemaMismatch);
        assert_eq!(Reason::of_content(reason::TENANT_NOT_FOUND), Reason::TenantNotFound);
        assert_eq!(Reason::of_content(reason::INVALID_FIELD), Reason::InvalidField);
    }
}
