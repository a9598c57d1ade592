//! What the scheduler goes by and what it orders.

use std::time::Duration;

use crate::model::{
    delivery::Attempts,
    ids::{DeliveryKey, Tenant, WebhookNo},
    protection::Pace,
    time::Timestamp,
};

/// Whose an enabled webhook is and what its attempts keep to; what the catalogue says at this moment.
pub(super) trait Webhooks {
    /// `None`: the webhook is gone or disabled.
    fn if_enabled(&self, webhook: WebhookNo) -> Option<Enabled>;
}

/// A webhook that is enabled.
#[derive(Debug, Clone)]
pub(super) struct Enabled {
    /// Whose it is.
    pub(super) tenant: Tenant,
    /// What its attempts keep to.
    pub(super) pace: Pace,
}

/// What the scheduler may use.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Deliveries launched whose outcome is not committed, at a time.
    pub(super) in_flight_max: usize,
    /// Attempts under way to one webhook, whatever its owner wants.
    pub(super) webhook_in_flight_max: usize,
    /// Of all slow webhooks together.
    pub(super) slow_in_flight_max: usize,
    /// Hints in memory.
    pub(super) hints_max: usize,
    /// Of one lane.
    pub(super) lane_hints_max: usize,
    /// Only what is due this soon is kept in memory.
    pub(super) horizon: Duration,
    /// Lanes read at a time.
    pub(super) refills_max: usize,
    /// After a failed read, before the next one of the lane.
    pub(super) failure_pause: Duration,
    /// How long a delivery whose event cannot be read is left alone.
    pub(super) unreadable_pause: Duration,
    /// How long a webhook's failures are remembered when nothing is pending for it.
    pub(super) gate_kept: Duration,
    /// Webhooks, with nothing pending, whose failures or rate are remembered.
    pub(super) idle_gates_max: usize,
}

/// An attempt to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Launch {
    /// Of which delivery.
    pub(super) key: DeliveryKey,
    /// Attempts before this one.
    pub(super) attempts: Attempts,
    /// Whether its webhook is slow.
    pub(super) slow: bool,
}

/// A lane to read: [`crate::store::Store::due`], answered by [`super::scheduler::Scheduler::refilled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refill {
    /// Which one.
    pub(super) webhook: WebhookNo,
    /// What is due until then.
    pub(super) horizon: Timestamp,
    /// As many.
    pub(super) limit: usize,
}

/// Why a launched delivery was not attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmade {
    /// Its webhook is gone or disabled by now.
    NotWanted,
    /// The store failed to read its event.
    StoreFailed,
    /// The store has no such event, though the delivery is pending.
    Unreadable,
}
