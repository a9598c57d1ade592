//! What goes in and out of a store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use thiserror::Error;

use super::{
    keyring::{KeyAnswer, KeyChange},
    quotas::{QuotaAnswer, QuotaChange},
};
use crate::model::{
    delivery::{Attempts, DeliveryState, ErrorClass, Outcome},
    event::Event,
    event_type::{EventType, EventTypeContent, EventTypeKey},
    failing::Failing,
    ids::{
        ConfigSeq, DeliveryId, DeliveryKey, EventId, EventSeq, EventTypeName, Position, Tenant, WebhookId, WebhookNo,
    },
    operational::OperationalEvent,
    quota::Excess,
    signing::{Key, KeyPair, Keys},
    time::Timestamp,
    webhook::{DisableReason, Settings, Webhook, WebhookSpec},
};

/// The store cannot do what was asked now. Nothing was acknowledged; asking again may help.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The engine failed.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// The disk is full, or almost: what is left is for ending deliveries.
    #[error("the disk is full")]
    Full,
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

/// An event to store.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The event.
    pub event: Event,
    /// The webhooks it goes to.
    pub targets: Targets,
    /// When it came in.
    pub accept_time: Timestamp,
}

/// The webhooks an event goes to, and the state of configuration they were matched against. If the tenant's configuration
/// moved since, the engine matches again, but asks no filter twice: see [`super::Catalog::targets_again`].
#[derive(Debug, Clone)]
pub struct Targets {
    /// Ascending, without repeats.
    pub webhooks: Arc<[WebhookNo]>,
    /// Matched against this.
    pub matched_at: ConfigSeq,
    /// Whether filters were asked, which may have taken long: then the list is this event's alone.
    pub filtered: bool,
}

/// What became of an event handed to [`super::Store::publish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is stored.
    New {
        /// How many webhooks it goes to.
        deliveries: u32,
    },
    /// It was stored before, with the same content.
    Duplicate {
        /// How many webhooks it went to then.
        deliveries: u32,
    },
    /// Its id belongs to an event with other content.
    Conflict,
    /// More webhooks match than one event may go to.
    TooManyTargets,
    /// As many deliveries are pending as may be.
    BacklogFull,
    /// It goes beyond its tenant's quota.
    OverQuota(Excess),
    /// Whether it was stored before cannot be read at the moment.
    Unreadable,
    /// An event of this id was erased, and the id is not free again yet.
    Erased,
    /// Everything of its tenant is being erased.
    TenantBeingErased,
}

/// A snapshot's age: a read with a higher one saw every commit a read with a lower one saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct AsOf(pub u64);

/// A delivery that is due, in brief: the store holds the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// The event.
    pub event: EventSeq,
    /// Which sending of it.
    pub replay: u32,
    /// Attempts that have ended so far.
    pub attempts: Attempts,
    /// When the next one is due.
    pub due: Timestamp,
}

// All hints together must fit the memory set aside for them.
const _: () = assert!(size_of::<Hint>() <= 64);

/// One webhook with deliveries to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneDue {
    /// Which webhook.
    pub webhook: WebhookNo,
    /// When its first delivery is due.
    pub first_due: Timestamp,
}

/// A page of [`super::Store::lanes`].
#[derive(Debug, Clone)]
pub struct LanePage {
    /// By webhook number.
    pub lanes: Vec<LaneDue>,
    /// Ask for lanes after this one next; `None`: that was all.
    pub next: Option<WebhookNo>,
    /// What the page was read from.
    pub as_of: AsOf,
}

/// A page of [`super::Store::due`].
#[derive(Debug, Clone)]
pub struct DuePage {
    /// Earliest due first; all due until the horizon.
    pub hints: Vec<Hint>,
    /// Whether more are due until the horizon than fitted. False is a *short read*: the lane is empty up to there.
    pub more: bool,
    /// After a short read: when the first delivery beyond the horizon is due, if there is one.
    pub next_due: Option<Timestamp>,
    /// What the page was read from.
    pub as_of: AsOf,
}

/// The right to commit outcomes, as the engine gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub u64);

/// Outcomes that are committed together.
#[derive(Debug, Clone, Default)]
pub struct OutcomeGroup {
    /// What attempts led to.
    pub outcomes: Vec<Outcome>,
    /// Webhooks to disable with them.
    pub disable: Vec<(WebhookNo, DisableReason)>,
    /// Since when webhooks fail continuously, as far as that is to be kept; `None`: they do not any more.
    pub failing: Vec<(WebhookNo, Option<Failing>)>,
    /// What happened besides. That webhooks are disabled and deliveries given up the store reports by itself.
    pub operational: Vec<OperationalEvent>,
}

/// What became of an [`OutcomeGroup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupCommitted {
    /// It is durable, and visible to reads from this one on.
    Applied(AsOf),
    /// Somebody else owns these deliveries now.
    Fenced,
}

/// An entry of the outcome log; [`super::Store::feed`] leaves out what receivers answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// An attempt ended.
    Outcome(Outcome),
    /// Pending deliveries of a webhook were cancelled together.
    WebhookCancelled(WebhookCancelled),
    /// Something that somebody should look at.
    Operational(OperationalEvent),
}

impl LogEntry {
    /// For watchers, who are not sent what receivers answered and what attempts were like.
    pub(super) fn without_exchange(self) -> Self {
        match self {
            Self::Outcome(outcome) => Self::Outcome(outcome.without_exchange()),
            Self::WebhookCancelled(_) | Self::Operational(_) => self,
        }
    }
}

/// Why pending deliveries were cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// Their webhook was deleted.
    WebhookDeleted,
    /// They were held, and their webhook was enabled without them.
    HeldDropped,
    /// Somebody wanted it so.
    Requested,
    /// They were still held when the retention of their events ended.
    HeldExpired,
}

/// Pending deliveries of a webhook were cancelled together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookCancelled {
    /// Why.
    pub reason: CancelReason,
    /// Whose webhook.
    pub tenant: Tenant,
    /// Which one.
    pub webhook: WebhookId,
    /// How many deliveries were cancelled.
    pub deliveries: u64,
    /// When.
    pub time: Timestamp,
}

/// Which log entries a reader wants. Empty sets want everything.
#[derive(Debug, Clone, Default)]
pub struct FeedFilter {
    /// `None`: all tenants.
    pub tenant: Option<Tenant>,
    /// Only these webhooks.
    pub webhooks: BTreeSet<WebhookId>,
    /// Only these event types; cancellations pass.
    pub event_types: BTreeSet<EventTypeName>,
    /// Only outcomes that led to one of these; a cancellation passes with `Cancelled`.
    pub states: Vec<DeliveryView>,
    /// Operational events too, of the tenant and the webhooks.
    pub operational: bool,
}

impl FeedFilter {
    /// Whether the entry passes.
    pub fn passes(&self, entry: &LogEntry) -> bool {
        let (tenant, webhook, event_type, state) = match entry {
            LogEntry::Outcome(outcome) => {
                (&outcome.tenant, &outcome.webhook_id, Some(&outcome.event_type), outcome.view())
            }
            LogEntry::WebhookCancelled(cancelled) => {
                (&cancelled.tenant, &cancelled.webhook, None, DeliveryView::State(DeliveryState::Cancelled))
            }
            LogEntry::Operational(event) => {
                return self.operational
                    && self.tenant.as_ref().is_none_or(|wanted| *wanted == event.tenant)
                    && (self.webhooks.is_empty() || self.webhooks.contains(&event.webhook));
            }
        };
        self.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
            && (self.webhooks.is_empty() || self.webhooks.contains(webhook))
            && (self.event_types.is_empty() || event_type.is_none_or(|name| self.event_types.contains(name)))
            && (self.states.is_empty() || self.states.contains(&state))
    }
}

/// A page of [`super::Store::feed`].
#[derive(Debug, Clone)]
pub struct FeedPage {
    /// What passed the filter, oldest first.
    pub entries: Vec<LogEntry>,
    /// How far was looked; the place to go on from.
    pub position: Position,
}

/// Why [`super::Store::feed`] returned nothing.
#[derive(Debug, Clone, Error)]
pub enum FeedError {
    /// Entries at this place are no longer retained.
    #[error("outcomes before {oldest:?} are no longer retained")]
    Expired {
        /// The oldest usable place.
        oldest: Position,
    },
    /// The position lies beyond the end of the log: it is another store's.
    #[error("the position lies beyond the end of the log")]
    Unknown,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a delivery stands, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryView {
    /// As recorded.
    State(DeliveryState),
    /// Pending, for a webhook that is disabled.
    Held,
}

impl Outcome {
    /// Where the delivery stands after it, as callers see it.
    pub fn view(&self) -> DeliveryView {
        if self.held { DeliveryView::Held } else { DeliveryView::State(self.state) }
    }
}

/// Which deliveries a caller wants.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    /// `None`: all tenants.
    pub tenant: Option<Tenant>,
    /// Only this webhook's.
    pub webhook: Option<WebhookId>,
    /// Only this event's.
    pub event: Option<EventId>,
    /// Only those standing so; empty: all.
    pub states: Vec<DeliveryView>,
    /// Only those of events of these types; empty: all.
    pub event_types: BTreeSet<EventTypeName>,
    /// Only those of events accepted then or later.
    pub from: Option<Timestamp>,
    /// Only those of events accepted before then.
    pub until: Option<Timestamp>,
}

impl DeliveryQuery {
    /// Whether an event of this type, accepted then, may have deliveries that are wanted.
    pub fn wants_event(&self, event_type: &EventTypeName, accept_time: Timestamp) -> bool {
        (self.event_types.is_empty() || self.event_types.contains(event_type))
            && self.from.is_none_or(|from| from <= accept_time)
            && self.until.is_none_or(|until| accept_time < until)
    }
}

/// Where a list goes on: after this delivery.
pub type ListPosition = DeliveryKey;

/// A delivery as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its public id.
    pub id: DeliveryId,
    /// The store's key of it.
    pub key: DeliveryKey,
    /// Whose it is.
    pub tenant: Tenant,
    /// The webhook it is for.
    pub webhook: WebhookId,
    /// The event it carries.
    pub event: EventId,
    /// The event's type.
    pub event_type: EventTypeName,
    /// Where it stands.
    pub state: DeliveryView,
    /// Attempts that have ended.
    pub attempts: u32,
    /// When its event was accepted.
    pub create_time: Timestamp,
    /// When its last attempt ended or it was cancelled.
    pub update_time: Option<Timestamp>,
    /// When the next attempt is due; set while it is pending and not held.
    pub next_attempt: Option<Timestamp>,
    /// The last attempt's status code.
    pub last_http_status: Option<u16>,
    /// The last attempt's kind of error.
    pub last_error_class: Option<ErrorClass>,
}

/// A page of [`super::Store::list`].
#[derive(Debug, Clone)]
pub struct DeliveryPage {
    /// Those of the newest events first.
    pub deliveries: Vec<Delivery>,
    /// Where to go on; `None`: that was all.
    pub next: Option<ListPosition>,
}

/// One delivery, whole.
#[derive(Debug, Clone)]
pub struct DeliveryDetail {
    /// The delivery.
    pub delivery: Delivery,
    /// Its attempts, oldest first, as far as they are retained.
    pub attempts: Vec<Outcome>,
}

/// A change of configuration.
#[derive(Debug, Clone)]
pub enum ConfigChange {
    /// Register a webhook.
    CreateWebhook {
        /// What its owner decided.
        spec: WebhookSpec,
        /// What will sign its deliveries: with a key pair if its scheme needs one.
        keys: Keys,
        /// Guards against repeats.
        request: Option<RequestKey>,
        /// Now.
        time: Timestamp,
    },
    /// Change what a webhook's owner decided about it.
    UpdateWebhook {
        /// Whose webhook.
        tenant: Tenant,
        /// Which one.
        id: WebhookId,
        /// Only if this is its version: what it was when the decision was made.
        expect: u64,
        /// All of it, changed or not.
        settings: Settings,
        /// Whether deliveries are attempted.
        enabled: bool,
        /// Whether deliveries that were held are cancelled if this enables it.
        drop_held: bool,
        /// The key pair it gets if it has none; there is one if its scheme now needs it.
        pair: Option<KeyPair>,
        /// Now.
        time: Timestamp,
    },
    /// Replace what signs a webhook's deliveries.
    RotateSecret {
        /// Whose webhook.
        tenant: Tenant,
        /// Which one.
        id: WebhookId,
        /// Only if this is its version: what it was when the kind of key was decided on.
        expect: u64,
        /// What signs from now on.
        key: Key,
        /// How long the one it replaces signs along.
        overlap: Duration,
        /// Now.
        time: Timestamp,
    },
    /// Register an event type.
    CreateEventType {
        /// Which one.
        key: EventTypeKey,
        /// What its owner says about it.
        content: EventTypeContent,
        /// Now.
        time: Timestamp,
    },
    /// Change what an event type's owner says about it.
    UpdateEventType {
        /// Which one.
        key: EventTypeKey,
        /// Only if this is its version: what it was when the decision was made.
        expect: u64,
        /// All of it, changed or not.
        content: EventTypeContent,
        /// Now.
        time: Timestamp,
    },
    /// Delete an event type that no webhook names.
    DeleteEventType {
        /// Which one.
        key: EventTypeKey,
        /// Only if this is its version.
        expect: Option<u64>,
    },
    /// Something about API keys.
    Key(KeyChange),
    /// Set a quota.
    Quota(QuotaChange),
    /// Delete a webhook and cancel what is pending for it.
    DeleteWebhook {
        /// Whose webhook.
        tenant: Tenant,
        /// Which one.
        id: WebhookId,
        /// Only if this is its version.
        expect: Option<u64>,
        /// Now.
        time: Timestamp,
    },
}

/// A caller's id of a request.
#[derive(Debug, Clone)]
pub struct RequestKey {
    /// Unique in the tenant.
    pub id: String,
    /// Fingerprint of the whole request.
    pub hash: u128,
}

/// What became of a [`ConfigChange`].
#[derive(Debug, Clone)]
pub enum ConfigAnswer {
    /// The webhook exists now, or did already under the same request id: then this is what was answered then.
    Created(Webhook),
    /// The webhook is now so.
    Updated(Webhook),
    /// The webhook is gone.
    Deleted {
        /// How many deliveries were pending.
        cancelled: u64,
    },
    /// The tenant has no such webhook, or there is no such event type.
    NotFound,
    /// The version is another one.
    VersionMismatch,
    /// The event type is now so.
    EventTypePut(EventType),
    /// The event type is gone.
    EventTypeDeleted,
    /// There is an event type of this name.
    EventTypeExists,
    /// Webhooks name the event type.
    EventTypeInUse {
        /// How many.
        webhooks: u64,
    },
    /// No more event types fit, or no larger schema.
    TooManyEventTypes,
    /// The webhook names an event type that there is not, or no more.
    UnknownEventType(EventTypeName),
    /// What became of a change of API keys.
    Key(KeyAnswer),
    /// What became of a change of quotas.
    Quota(QuotaAnswer),
    /// The request id was used with another request.
    RequestReused,
    /// No more webhooks fit.
    TooManyWebhooks,
    /// No more webhooks of the tenant.
    OverQuota(Excess),
    /// There is no room for more different TLS settings: of all tenants together, or of this one.
    TooMuchTls {
        /// Whether it is the tenant that has too many.
        of_tenant: bool,
        /// Most bytes there may be.
        limit: usize,
        /// How many there would be.
        needed: usize,
    },
    /// Everything of the tenant is being erased.
    TenantBeingErased,
}

/// One step of configuration.
#[derive(Debug, Clone)]
pub enum ConfigStep {
    /// The webhook is now so.
    Put(Webhook),
    /// The webhook is gone.
    Removed(WebhookNo),
}

/// One step of what is known about event types.
#[derive(Debug, Clone)]
pub enum EventTypeStep {
    /// The event type is now so.
    Put(EventType),
    /// The event type is gone.
    Removed(EventTypeKey),
}

/// A page of [`super::Store::config_since`].
#[derive(Debug, Clone)]
pub struct ConfigPage {
    /// Oldest first. A webhook that changed several times may appear only as it is last.
    pub steps: Vec<(ConfigSeq, ConfigStep)>,
    /// Whether there are more.
    pub more: bool,
}
