//! What is on the disk of a store in memory, and what one commit does to it: pure.
//!
//! A change is a function of the image alone, so a commit that was under way at a crash can be made, or not, afterwards. What each
//! kind of work does is in a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use postrider_server::{
    limits::{AUDIT_ENTRIES_MAX, REQUEST_ROWS_MAX},
    model::{
        audit::{AuditEntry, AuditNo},
        credentials::{ApiKey, ApiKeyId},
        delivery::{DeliveryState, ErrorClass},
        event::StoredEvent,
        event_type::{EventType, EventTypeKey},
        failing::Failing,
        ids::{ConfigSeq, DeliveryKey, EventId, EventSeq, Tenant, WebhookNo},
        ordering::OrderKey,
        quota::{self, TenantQuota},
        replay::Replay,
        time::Timestamp,
        webhook::Webhook,
    },
    store::{
        AuditStep, ConfigAnswer, ConfigChange, ConfigStep, Counts, Erase, Erased, EventTypeStep, Hint, KeyStep,
        LogEntry, OutcomeGroup, Publish, Published, QuotaStep, Repair, Repaired, ReplayAnswer, ReplayChange,
    },
};

use super::erase::Erasures;

/// How much a store holds and how wide its commits are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most deliveries pending.
    pub pending_max: u64,
    /// What holds for tenants without a quota of their own.
    pub quotas: quota::Limits,
    /// How long history is kept.
    pub retention: std::time::Duration,
    /// How long entries of the audit log are kept, and how many.
    pub audit_retention: std::time::Duration,
    /// Most of them.
    pub audit_entries_max: u64,
    /// Most deliveries of one event that a commit makes due.
    pub slice_rows_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let retention = std::time::Duration::from_hours(16);
        let audit_retention = std::time::Duration::from_hours(90 * 24);
        Self {
            pending_max: 1_000_000,
            quotas: quota::Limits::default(),
            retention,
            audit_retention,
            audit_entries_max: AUDIT_ENTRIES_MAX,
            slice_rows_max: REQUEST_ROWS_MAX,
        }
    }
}

/// Everything that survives.
#[derive(Debug)]
pub struct Image {
    pub(super) limits: Limits,
    pub(super) key: [u8; 16],
    pub(super) openings: u64,
    pub(super) next_event: u64,
    pub(super) next_webhook: u64,
    pub(super) config_seq: u64,
    pub(super) audit: BTreeMap<AuditNo, AuditEntry>,
    pub(super) last_audit: AuditNo,
    /// With the number of their last change.
    pub(super) webhooks: BTreeMap<WebhookNo, (ConfigSeq, Webhook)>,
    pub(super) event_types: BTreeMap<EventTypeKey, EventType>,
    pub(super) api_keys: BTreeMap<ApiKeyId, ApiKey>,
    /// Whether one was ever created.
    pub(super) locked: bool,
    pub(super) quotas: BTreeMap<Tenant, TenantQuota>,
    /// Bytes accepted, by day.
    pub(super) bytes: BTreeMap<(u32, Tenant), u64>,
    /// Deleted ones: the number of the deletion, and its time.
    pub(super) tombstones: BTreeMap<WebhookNo, (ConfigSeq, Webhook, Timestamp)>,
    pub(super) tenants: BTreeMap<Tenant, ConfigSeq>,
    pub(super) requests: BTreeMap<(Tenant, String), Request>,
    pub(super) events: BTreeMap<EventSeq, StoredEvent>,
    pub(super) ids: BTreeMap<(Tenant, EventId), (EventSeq, u128, u32)>,
    pub(super) deliveries: BTreeMap<DeliveryKey, Row>,
    pub(super) due: BTreeMap<WebhookNo, Due>,
    pub(super) queues: BTreeMap<WebhookNo, Queues>,
    /// Webhooks that are not ordered any more, and the first event that is not to be released.
    pub(super) releases: BTreeMap<WebhookNo, EventSeq>,
    /// By number. Forgotten ones are not there.
    pub(super) replays: BTreeMap<u32, Replay>,
    pub(super) last_replay: u32,
    /// Those that fail continuously.
    pub(super) failing: BTreeMap<WebhookNo, Failing>,
    /// Pending deliveries that are due or will be.
    pub(super) pending: BTreeMap<WebhookNo, u64>,
    pub(super) pending_total: u64,
    /// Those that have ended.
    pub(super) ended: BTreeMap<WebhookNo, Counts>,
    /// Wide events, and the webhooks they have not reached.
    pub(super) fan_outs: BTreeMap<EventSeq, Vec<WebhookNo>>,
    pub(super) log: Vec<LogEntry>,
    pub(super) erasures: Erasures,
    /// So many of the log's first entries are no longer retained.
    pub(super) log_forgotten: usize,
    /// Events below this number may be gone, and the latest acceptance of those that are.
    pub(super) gone: (EventSeq, Timestamp),
}

/// When deliveries of one webhook are to be attempted.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// For the first time; due whatever the clock says.
    pub(super) ready: BTreeSet<Slot>,
    /// Again, or for the first time if the event was scheduled.
    pub(super) scheduled: BTreeSet<Slot>,
}

/// A delivery of a webhook in the order in which it is due.
pub(super) type Slot = (Timestamp, EventSeq, u32);

impl Due {
    pub(super) fn remove(&mut self, slot: &Slot) -> bool {
        self.ready.remove(slot) || self.scheduled.remove(slot)
    }
}

/// Who waits for whom at one webhook.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) heads: BTreeMap<OrderKey, Sending>,
    pub(super) parked: BTreeMap<Sending, OrderKey>,
}

/// An event, and which sending of it to a webhook.
pub(super) type Sending = (EventSeq, u32);

/// What was asked for under an id, and what that made.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) hash: u128,
    pub(super) time: Timestamp,
    pub(super) made: Made,
}

/// What a request made.
#[derive(Debug, Clone)]
pub(super) enum Made {
    Webhook(Webhook),
    Replay(Replay),
}

/// One delivery.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) state: DeliveryState,
    pub(super) attempts: u32,
    /// Those before it was last retried by hand.
    pub(super) excused: Option<u32>,
    pub(super) due: Timestamp,
    pub(super) update_time: Option<Timestamp>,
    pub(super) http_status: Option<u16>,
    pub(super) error_class: Option<ErrorClass>,
    /// Indexes of its outcomes in the log.
    pub(super) entries: Vec<usize>,
}

/// A piece of work for a commit.
#[derive(Debug)]
pub(super) enum Work {
    Publish(Vec<Publish>),
    Outcomes { fenced: bool, groups: Vec<OutcomeGroup> },
    Config(ConfigChange),
    Repair(Repair),
    Erase(Erase),
    Replay(ReplayChange),
    Audit(AuditStep),
    Upkeep(Timestamp),
}

/// What a piece of work is answered once it is committed.
#[derive(Debug)]
pub(super) enum Done {
    Publish(Vec<Published>),
    Outcomes { fenced: bool, groups: usize },
    Config(ConfigAnswer),
    Repair(Repaired),
    Erase(Erased),
    Replay(ReplayAnswer),
    Audit(AuditNo),
    Upkeep,
}

/// What a commit changed that others must hear of.
#[derive(Debug, Default)]
pub struct Effects {
    /// What became due.
    pub fresh: Vec<(WebhookNo, Hint)>,
    /// Changes of configuration.
    pub steps: Vec<(ConfigSeq, ConfigStep)>,
    /// Changes of event types.
    pub event_types: Vec<EventTypeStep>,
    /// Changes of API keys.
    pub keys: Vec<KeyStep>,
    /// Changes of quotas.
    pub quotas: Vec<QuotaStep>,
    /// Replays that changed; `None`: forgotten.
    pub replays: BTreeMap<u32, Option<Replay>>,
    /// What became of deliveries, and what the log says, in this order.
    pub moves: Vec<Move>,
    /// Webhooks some of whose deliveries were cancelled.
    pub(super) cancelled: BTreeSet<WebhookNo>,
    /// Webhooks whose number of pending deliveries changed.
    pub(super) touched: BTreeSet<WebhookNo>,
}

/// Something that became of a delivery, or that the log says.
#[derive(Debug)]
pub enum Move {
    /// It is due.
    Due(WebhookNo, Hint),
    /// It was accepted, or replayed, and waits behind another one of its ordering key.
    Parked(DeliveryKey),
    /// It was cancelled, maybe before it reached its webhook.
    Cancelled(DeliveryKey),
    /// An entry was added to the log.
    Logged(LogEntry),
}

impl Effects {
    /// A delivery is due, and dispatch must hear of it.
    pub(super) fn due(&mut self, webhook: WebhookNo, hint: Hint) {
        self.fresh.push((webhook, hint));
        self.moves.push(Move::Due(webhook, hint));
    }
}

impl Image {
    /// An empty one.
    pub fn new(limits: Limits, key: [u8; 16]) -> Self {
        Self {
            limits,
            key,
            openings: 0,
            next_event: 1,
            next_webhook: 1,
            config_seq: 0,
            audit: BTreeMap::new(),
            last_audit: AuditNo(0),
            webhooks: BTreeMap::new(),
            event_types: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            locked: false,
            quotas: BTreeMap::new(),
            bytes: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            tenants: BTreeMap::new(),
            requests: BTreeMap::new(),
            events: BTreeMap::new(),
            ids: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            due: BTreeMap::new(),
            queues: BTreeMap::new(),
            releases: BTreeMap::new(),
            replays: BTreeMap::new(),
            last_replay: 0,
            failing: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_total: 0,
            ended: BTreeMap::new(),
            fan_outs: BTreeMap::new(),
            log: Vec::new(),
            erasures: Erasures::default(),
            log_forgotten: 0,
            gone: (EventSeq(0), Timestamp::UNIX_EPOCH),
        }
    }

    /// The number of an event, if it is stored.
    pub fn event_seq(&self, tenant: &Tenant, id: &EventId) -> Option<EventSeq> {
        self.ids.get(&(tenant.clone(), id.clone())).map(|(seq, ..)| *seq)
    }

    /// Where a delivery stands, and how many of its attempts have ended.
    pub fn delivery(&self, key: DeliveryKey) -> Option<(DeliveryState, u32)> {
        self.deliveries.get(&key).map(|row| (row.state, row.attempts))
    }

    /// Deliveries to make, by webhook.
    pub fn pending(&self) -> impl Iterator<Item = (WebhookNo, u64)> {
        self.pending.iter().map(|(no, pending)| (*no, *pending))
    }

    /// Whether wide events are on their way to their webhooks.
    pub fn has_slices(&self) -> bool {
        !self.fan_outs.is_empty() || !self.releases.is_empty()
    }

    /// Carries a commit out.
    pub(super) fn apply(&mut self, work: &[Work]) -> (Vec<Done>, Effects) {
        let mut effects = Effects::default();
        let mut done = Vec::with_capacity(work.len());
        for work in work {
            done.push(match work {
                Work::Publish(batch) => {
                    Done::Publish(batch.iter().map(|publish| self.publish(publish, &mut effects)).collect())
                }
                Work::Outcomes { fenced, groups } => {
                    for group in groups.iter().filter(|_| !fenced) {
                        self.record_group(group, &mut effects);
                    }
                    Done::Outcomes { fenced: *fenced, groups: groups.len() }
                }
                Work::Config(change) => Done::Config(self.configure(change, &mut effects)),
                Work::Repair(repair) => Done::Repair(self.repair(repair, &mut effects)),
                Work::Erase(erase) => Done::Erase(self.erase(erase, &mut effects)),
                Work::Replay(change) => Done::Replay(self.replay(change, &mut effects)),
                Work::Audit(step) => Done::Audit(self.audit(step)),
                Work::Upkeep(now) => {
                    self.expire_held(*now, &mut effects);
                    self.forget(*now);
                    Done::Upkeep
                }
            });
        }
        self.fan_out_slice(&mut effects);
        self.release_slice(&mut effects);
        (done, effects)
    }

    pub(super) fn forget_events(&mut self, gone: &BTreeSet<EventSeq>) {
        self.events.retain(|seq, _| !gone.contains(seq));
        self.ids.retain(|_, (seq, ..)| !gone.contains(seq));
        self.deliveries.retain(|key, _| !gone.contains(&key.event));
    }
}

impl Row {
    /// One that was never attempted, and is due then.
    pub(super) fn new(due: Timestamp) -> Self {
        Self {
            state: DeliveryState::Pending,
            attempts: 0,
            excused: None,
            due,
            update_time: None,
            http_status: None,
            error_class: None,
            entries: Vec::new(),
        }
    }
}

pub(super) fn rows_of(webhook: WebhookNo) -> std::ops::RangeInclusive<DeliveryKey> {
    let first = DeliveryKey { webhook, event: EventSeq(0), replay: 0 };
    first..=DeliveryKey { webhook, event: EventSeq(u64::MAX), replay: u32::MAX }
}
