//! Webhooks: who wants which events, and where.

use std::collections::BTreeSet;

use super::{
    ids::{EventTypeName, Tenant, WebhookId, WebhookNo},
    signing::Secret,
    target::Target,
    time::Timestamp,
};

/// Which event types a webhook receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// Every type, those added later included.
    All,
    /// These: ascending, without repeats, never none.
    Types(Box<[EventTypeName]>),
}

impl Subscription {
    /// To these types; none of them stands for all.
    pub fn to(types: BTreeSet<EventTypeName>) -> Self {
        if types.is_empty() { Self::All } else { Self::Types(types.into_iter().collect()) }
    }

    /// Whether events of this type are wanted.
    pub fn wants(&self, event_type: &EventTypeName) -> bool {
        match self {
            Self::All => true,
            Self::Types(types) => types.binary_search(event_type).is_ok(),
        }
    }
}

/// Why a webhook is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisableReason {
    /// Its owner wanted it so.
    Requested,
    /// The receiver answered 410 Gone.
    Gone,
}

/// Whether deliveries are attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// They are.
    Enabled,
    /// They are held.
    Disabled {
        /// Why.
        reason: DisableReason,
        /// Since when.
        since: Timestamp,
    },
}

/// What a caller decides about a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSpec {
    /// Whose it is.
    pub tenant: Tenant,
    /// Where deliveries go.
    pub target: Target,
    /// Which events it receives.
    pub subscription: Subscription,
    /// Free text for people.
    pub description: String,
    /// Whether deliveries are attempted.
    pub enabled: bool,
}

/// One registered receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The store's number of it.
    pub no: WebhookNo,
    /// Its public id.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where deliveries go.
    pub target: Target,
    /// Which events it receives.
    pub subscription: Subscription,
    /// Free text for people.
    pub description: String,
    /// Whether deliveries are attempted.
    pub switch: Switch,
    /// Grows with every change of its settings; its etag.
    pub version: u64,
    /// When it was created.
    pub create_time: Timestamp,
    /// When its settings last changed.
    pub update_time: Timestamp,
    /// What signs its deliveries.
    pub secret: Secret,
}

impl Webhook {
    /// The opaque text callers hand back to guard against concurrent changes.
    pub fn etag(&self) -> String {
        format!("{:x}", self.version)
    }

    /// Whether deliveries are attempted.
    pub fn is_enabled(&self) -> bool {
        matches!(self.switch, Switch::Enabled)
    }
}
