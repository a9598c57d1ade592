//! What is on the disk of a store in memory, and what one commit does to it: pure.
//!
//! A change is a function of the image alone, so a commit that was under way at a crash can be made, or not, afterwards.

use std::collections::{BTreeMap, BTreeSet};

use postrider_server::{
    limits::{AUDIT_ENTRIES_MAX, REQUEST_ID_WINDOW, REQUEST_ROWS_MAX, TARGETS_MAX},
    model::{
        audit::{AuditEntry, AuditNo},
        credentials::{ApiKey, ApiKeyId},
        delivery::{Attempts, DeliveryState, ErrorClass, Outcome},
        event::{Event, StoredEvent},
        event_type::{EventType, EventTypeKey},
        failing::Failing,
        ids::{ConfigSeq, DeliveryKey, EventId, EventSeq, Tenant, WebhookId, WebhookNo},
        operational::{Occurrence, OperationalEvent},
        ordering::OrderKey,
        quota::{self, TenantQuota},
        replay::Replay,
        time::Timestamp,
        webhook::{DisableReason, Switch, Webhook},
    },
    store::{
        AuditStep, CancelReason, ConfigAnswer, ConfigChange, ConfigStep, Counts, Erase, Erased, EventTypeStep, Hint,
        KeyStep, LogEntry, OutcomeGroup, Publish, Published, QuotaStep, Repair, Repaired, ReplayAnswer, ReplayChange,
        Targets,
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
    next_webhook: u64,
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
    tenants: BTreeMap<Tenant, ConfigSeq>,
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
    /// What was accepted, or replayed, and waits behind another one of its ordering key.
    pub parked: Vec<(WebhookNo, Sending)>,
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
    /// Entries added to the log.
    pub log: Vec<LogEntry>,
    /// Webhooks some of whose deliveries were cancelled.
    pub(super) cancelled: BTreeSet<WebhookNo>,
    /// Webhooks whose number of pending deliveries changed.
    pub(super) touched: BTreeSet<WebhookNo>,
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

    fn publish(&mut self, publish: &Publish, effects: &mut Effects) -> Published {
        let event = &publish.event;
        let id = (event.tenant.clone(), event.id.clone());
        let hash = event.content_hash();
        if self.erasures.has_event(&event.tenant, &event.id) {
            return Published::Erased;
        }
        if let Some(&(_, known, deliveries)) = self.ids.get(&id) {
            return if known == hash { Published::Duplicate { deliveries } } else { Published::Conflict };
        }
        let targets = self.targets(event, &publish.targets);
        if targets.len() > TARGETS_MAX {
            return Published::TooManyTargets;
        }
        if self.pending_total + targets.len() as u64 > self.limits.pending_max {
            return Published::BacklogFull;
        }
        if let Err(excess) = self.use_quota(publish, targets.len() as u64) {
            return Published::OverQuota(excess);
        }
        let seq = EventSeq(self.next_event);
        self.next_event += 1;
        self.pending_total += targets.len() as u64;
        let deliveries = u32::try_from(targets.len()).expect("TARGETS_MAX fits");
        self.ids.insert(id, (seq, hash, deliveries));
        let stored = StoredEvent { seq, accept_time: publish.accept_time, event: event.clone() };
        self.events.insert(seq, stored);
        for &webhook in &targets {
            let row = Row::new(event.scheduled(publish.accept_time).unwrap_or(publish.accept_time));
            self.deliveries.insert(DeliveryKey { webhook, event: seq, replay: 0 }, row);
        }
        if targets.len() <= self.limits.slice_rows_max {
            for &no in &targets {
                self.arrive(no, (seq, 0), effects);
            }
        } else {
            self.fan_outs.insert(seq, targets);
        }
        Published::New { deliveries }
    }

    /// As they were matched, or matched again if the tenant's configuration has moved since; no filter is asked twice.
    fn targets(&self, event: &Event, matched: &Targets) -> Vec<WebhookNo> {
        if self.tenants.get(&event.tenant).is_none_or(|changed_at| *changed_at <= matched.matched_at) {
            return matched.webhooks.to_vec();
        }
        let all = self.webhooks.values().map(|(_, webhook)| webhook);
        let wants = |webhook: &&Webhook| {
            let was_admitted = || matched.webhooks.binary_search(&webhook.no).is_ok();
            webhook.tenant == event.tenant
                && webhook.settings.subscription.wants(&event.event_type)
                && (webhook.settings.scope.is_none() || was_admitted())
        };
        all.filter(wants).map(|webhook| webhook.no).collect()
    }

    /// A delivery reaches its webhook: it is due, or waits behind the head of its key.
    pub(super) fn arrive(&mut self, no: WebhookNo, sending: Sending, effects: &mut Effects) {
        let (event, _) = sending;
        *self.pending.entry(no).or_default() += 1;
        effects.touched.insert(no);
        let is_ordered = self.webhooks[&no].1.settings.ordering.ordered;
        let order = OrderKey::of(&self.events[&event].event).filter(|_| is_ordered);
        let Some(order) = order else { return self.make_due(no, sending, effects) };
        let behind = self.is_on_its_way(no, order, event);
        let queues = self.queues.entry(no).or_default();
        if behind || queues.heads.contains_key(&order) {
            queues.parked.insert(sending, order);
            effects.parked.push((no, sending));
        } else {
            queues.heads.insert(order, sending);
            self.make_due(no, sending, effects);
        }
    }

    /// Whether an older event of this key has not reached the webhook yet.
    fn is_on_its_way(&self, no: WebhookNo, order: OrderKey, before: EventSeq) -> bool {
        self.fan_outs
            .range(..before)
            .filter(|(seq, rest)| rest.contains(&no) && OrderKey::of(&self.events[seq].event) == Some(order))
            // What was cancelled on its way will not arrive.
            .any(|(&event, _)| !self.deliveries[&DeliveryKey { webhook: no, event, replay: 0 }].state.is_final())
    }

    /// What waits behind a head goes on.
    pub(super) fn pass_on(&mut self, no: WebhookNo, sending: Sending, effects: &mut Effects) {
        let Some(queues) = self.queues.get_mut(&no) else { return };
        let Some(order) = queues.heads.iter().find_map(|(order, head)| (*head == sending).then_some(*order)) else {
            return;
        };
        let next = queues.parked.iter().find_map(|(next, waits_for)| (*waits_for == order).then_some(*next));
        // An older one that is on its way becomes the head when it arrives.
        let next = next.filter(|next| !self.is_on_its_way(no, order, next.0));
        let queues = self.queues.entry(no).or_default();
        match next {
            Some(next) => {
                queues.parked.remove(&next);
                queues.heads.insert(order, next);
                self.make_due(no, next, effects);
            }
            None => drop(queues.heads.remove(&order)),
        }
    }

    fn release_slice(&mut self, effects: &mut Effects) {
        let Some((&no, &until)) = self.releases.first_key_value() else { return };
        let queues = self.queues.entry(no).or_default();
        let parked: Vec<_> = queues.parked.range(..(until, 0)).map(|(sending, _)| *sending).collect();
        for sending in parked.iter().take(self.limits.slice_rows_max).copied() {
            self.queues.entry(no).or_default().parked.remove(&sending);
            self.make_due(no, sending, effects);
        }
        if parked.len() > self.limits.slice_rows_max {
            return;
        }
        let heads: Vec<_> = self.queues[&no].heads.values().copied().filter(|head| head.0 < until).collect();
        for head in heads {
            self.pass_on(no, head, effects);
        }
        self.releases.remove(&no);
    }

    fn make_due(&mut self, no: WebhookNo, (event, replay): Sending, effects: &mut Effects) {
        let row = &self.deliveries[&DeliveryKey { webhook: no, event, replay }];
        let hint = Hint { event, replay, attempts: Attempts::default(), due: row.due };
        let scheduled = hint.due > self.events[&event].accept_time;
        let due = self.due.entry(no).or_default();
        let slots = if scheduled { &mut due.scheduled } else { &mut due.ready };
        slots.insert((hint.due, event, replay));
        effects.fresh.push((no, hint));
    }

    pub(super) fn fan_out_slice(&mut self, effects: &mut Effects) {
        let Some(mut first) = self.fan_outs.first_entry() else { return };
        let seq = *first.key();
        let rows = first.get().len().min(self.limits.slice_rows_max);
        let slice: Vec<_> = first.get_mut().drain(..rows).collect();
        if first.get().is_empty() {
            first.remove();
        }
        for no in slice {
            // A deleted webhook's deliveries were cancelled with it.
            // So were those that were cancelled alone.
            let row = &self.deliveries[&DeliveryKey { webhook: no, event: seq, replay: 0 }];
            if self.webhooks.contains_key(&no) && !row.state.is_final() {
                self.arrive(no, (seq, 0), effects);
            }
        }
    }

    fn record_group(&mut self, group: &OutcomeGroup, effects: &mut Effects) {
        for &(no, reason) in &group.disable {
            self.disable(no, reason, group, effects);
        }
        for &(no, failing) in &group.failing {
            match failing.filter(|_| self.webhooks.contains_key(&no)) {
                Some(failing) => drop(self.failing.insert(no, failing)),
                None => drop(self.failing.remove(&no)),
            }
        }
        for event in &group.operational {
            self.append(LogEntry::Operational(event.clone()), effects);
        }
        for outcome in &group.outcomes {
            self.record(outcome, effects);
        }
    }

    fn record(&mut self, outcome: &Outcome, effects: &mut Effects) {
        let key = outcome.key;
        let Some((_, webhook)) = self.webhooks.get(&key.webhook) else { return };
        let held = outcome.state == DeliveryState::Pending && !webhook.is_enabled();
        let lets_go = webhook.settings.ordering.head.lets_go(outcome.state, outcome.attempt);
        let Some(row) = self.deliveries.get_mut(&key) else { return };
        let Some(due) = self.due.get_mut(&key.webhook) else { return };
        if !outcome.follows(row.attempts) || !due.remove(&(row.due, key.event, key.replay)) {
            return;
        }
        row.state = outcome.state;
        row.attempts = outcome.attempt;
        row.update_time = Some(outcome.time);
        row.http_status = outcome.http_status;
        row.error_class = outcome.error_class;
        row.entries.push(self.log.len());
        if let Some(next) = outcome.next_attempt.filter(|_| !outcome.state.is_final()) {
            row.due = next;
            due.scheduled.insert((next, key.event, key.replay));
        } else {
            self.ended(key.webhook, 1, effects);
            self.count_ended(key.webhook, outcome.state, 1, outcome.time);
            self.replayed_moved(key, DeliveryState::Pending, outcome.state, effects);
        }
        if lets_go {
            self.pass_on(key.webhook, (key.event, key.replay), effects);
        }
        let entry = LogEntry::Outcome(Outcome { held, ..outcome.clone() });
        self.append(entry, effects);
        if outcome.state == DeliveryState::Failed {
            let exhausted = Occurrence::DeliveryExhausted {
                delivery: outcome.delivery_id,
                event: outcome.event_id.clone(),
                event_type: outcome.event_type.clone(),
                attempts: outcome.attempt,
            };
            self.report(exhausted, key.webhook, outcome.time, effects);
        }
    }

    /// There is no operator's tenant here: what is reported is in the log alone.
    fn report(&mut self, occurrence: Occurrence, no: WebhookNo, time: Timestamp, effects: &mut Effects) {
        let Some((_, webhook)) = self.webhooks.get(&no) else { return };
        let url = webhook.settings.target.url().as_str().into();
        let event = OperationalEvent { occurrence, tenant: webhook.tenant.clone(), webhook: webhook.id, url, time };
        self.append(LogEntry::Operational(event), effects);
    }

    fn report_if_disabled(&mut self, webhook: &Webhook, effects: &mut Effects) {
        if let Switch::Disabled { reason, since } = webhook.switch {
            self.report(Occurrence::WebhookDisabled(reason), webhook.no, since, effects);
        }
    }

    pub(super) fn ended(&mut self, no: WebhookNo, count: u64, effects: &mut Effects) {
        self.pending_total -= count;
        effects.touched.insert(no);
        let Some(pending) = self.pending.get_mut(&no) else { return };
        *pending -= count;
        if *pending == 0 {
            self.pending.remove(&no);
            self.due.remove(&no);
        }
    }

    pub(super) fn append(&mut self, entry: LogEntry, effects: &mut Effects) {
        self.log.push(entry.clone());
        effects.log.push(entry);
    }

    fn disable(&mut self, no: WebhookNo, reason: DisableReason, group: &OutcomeGroup, effects: &mut Effects) {
        let Some((_, webhook)) = self.webhooks.get(&no).filter(|(_, webhook)| webhook.is_enabled()) else { return };
        let since = group.outcomes.iter().map(|outcome| outcome.time).max().unwrap_or_default();
        let webhook = webhook.disabled(reason, since);
        self.put(webhook.clone(), effects);
        self.report_if_disabled(&webhook, effects);
    }

    fn put(&mut self, webhook: Webhook, effects: &mut Effects) {
        let seq = self.next_config(&webhook.tenant);
        self.webhooks.insert(webhook.no, (seq, webhook.clone()));
        effects.steps.push((seq, ConfigStep::Put(webhook)));
    }

    fn next_config(&mut self, tenant: &Tenant) -> ConfigSeq {
        self.config_seq += 1;
        self.tenants.insert(tenant.clone(), ConfigSeq(self.config_seq));
        ConfigSeq(self.config_seq)
    }

    fn configure(&mut self, change: &ConfigChange, effects: &mut Effects) -> ConfigAnswer {
        match change {
            ConfigChange::CreateWebhook { spec, keys, request, time } => {
                let key = request.as_ref().map(|request| (spec.tenant.clone(), request.id.clone()));
                if let (Some(key), Some(request)) = (&key, request)
                    && let Some(known) = self.known_request(key, *time)
                {
                    return known.answer(request.hash);
                }
                if let Err(excess) = self.webhook_fits_quota(&spec.tenant) {
                    return ConfigAnswer::OverQuota(excess);
                }
                if let Some(name) = self.unknown_type(&spec.tenant, &spec.settings.subscription) {
                    return ConfigAnswer::UnknownEventType(name);
                }
                let no = WebhookNo(self.next_webhook);
                self.next_webhook += 1;
                let webhook = spec.clone().register(no, self.webhook_id(no), keys.clone(), *time);
                if let (Some(key), Some(request)) = (key, request) {
                    let made = Made::Webhook(webhook.clone());
                    let known = Request { hash: request.hash, time: *time, made };
                    self.requests.insert(key, known);
                }
                self.put(webhook.clone(), effects);
                ConfigAnswer::Created(webhook)
            }
            ConfigChange::UpdateWebhook { tenant, id, expect, settings, enabled, drop_held, pair, time } => {
                let held = self.find(tenant, *id).is_some_and(|webhook| !webhook.is_enabled());
                let change =
                    |webhook: &Webhook| webhook.with_pair(pair.clone()).updated(settings.clone(), *enabled, *time);
                let answer = self.update(tenant, *id, *expect, change, effects);
                if let ConfigAnswer::Updated(webhook) = &answer
                    && *drop_held
                    && held
                    && webhook.is_enabled()
                {
                    self.cancel_all(webhook, CancelReason::HeldDropped, *time, effects);
                }
                answer
            }
            ConfigChange::RotateSecret { tenant, id, expect, key, overlap, time } => {
                self.update(tenant, *id, *expect, |webhook| webhook.rotated(key.clone(), *overlap, *time), effects)
            }
            ConfigChange::DeleteWebhook { tenant, id, expect, time } => {
                self.delete(tenant, *id, *expect, *time, effects)
            }
            ConfigChange::CreateEventType { key, content, time } => {
                self.create_event_type(key, content, *time, effects)
            }
            ConfigChange::UpdateEventType { key, expect, content, time } => {
                self.update_event_type(key, *expect, content, *time, effects)
            }
            ConfigChange::DeleteEventType { key, expect } => self.delete_event_type(key, *expect, effects),
            ConfigChange::Key(change) => ConfigAnswer::Key(self.change_key(change, effects)),
            ConfigChange::Quota(change) => ConfigAnswer::Quota(self.change_quota(change, effects)),
        }
    }

    /// Unique, and the same in every run.
    fn webhook_id(&self, no: WebhookNo) -> WebhookId {
        let mut bytes = self.key;
        bytes[..8].copy_from_slice(&no.0.to_be_bytes());
        WebhookId::from_bytes(bytes)
    }

    pub(super) fn known_request(&self, key: &(Tenant, String), now: Timestamp) -> Option<&Request> {
        self.requests.get(key).filter(|known| now.since(known.time) < REQUEST_ID_WINDOW)
    }

    fn find(&self, tenant: &Tenant, id: WebhookId) -> Option<&Webhook> {
        let mut all = self.webhooks.values().map(|(_, webhook)| webhook);
        all.find(|webhook| webhook.id == id && webhook.tenant == *tenant)
    }

    fn update(
        &mut self,
        tenant: &Tenant,
        id: WebhookId,
        expect: u64,
        change: impl FnOnce(&Webhook) -> Webhook,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let Some(webhook) = self.find(tenant, id) else { return ConfigAnswer::NotFound };
        if webhook.version != expect {
            return ConfigAnswer::VersionMismatch;
        }
        let (changed, was_enabled) = (change(webhook), webhook.is_enabled());
        if let Some(name) = self.unknown_type(tenant, &changed.settings.subscription) {
            return ConfigAnswer::UnknownEventType(name);
        }
        if changed != *webhook {
            if webhook.settings.ordering.ordered && !changed.settings.ordering.ordered {
                self.releases.insert(webhook.no, EventSeq(self.next_event));
            }
            self.put(changed.clone(), effects);
        }
        if was_enabled {
            self.report_if_disabled(&changed, effects);
        }
        ConfigAnswer::Updated(changed)
    }

    pub(super) fn delete(
        &mut self,
        tenant: &Tenant,
        id: WebhookId,
        expect: Option<u64>,
        time: Timestamp,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let Some(webhook) = self.find(tenant, id).cloned() else { return ConfigAnswer::NotFound };
        if expect.is_some_and(|version| version != webhook.version) {
            return ConfigAnswer::VersionMismatch;
        }
        let no = webhook.no;
        self.stop_replays(no, time, effects);
        let cancelled = self.cancel_all(&webhook, CancelReason::WebhookDeleted, time, effects);
        self.failing.remove(&no);
        self.ended.remove(&no);
        effects.touched.insert(no);
        let seq = self.next_config(tenant);
        self.webhooks.remove(&no);
        self.tombstones.insert(no, (seq, webhook, time));
        effects.steps.push((seq, ConfigStep::Removed(no)));
        ConfigAnswer::Deleted { cancelled }
    }

    pub(super) fn forget_events(&mut self, gone: &BTreeSet<EventSeq>) {
        self.events.retain(|seq, _| !gone.contains(seq));
        self.ids.retain(|_, (seq, ..)| !gone.contains(seq));
        self.deliveries.retain(|key, _| !gone.contains(&key.event));
    }
}

impl Request {
    pub(super) fn answer(&self, hash: u128) -> ConfigAnswer {
        match &self.made {
            Made::Webhook(webhook) if self.hash == hash => ConfigAnswer::Created(webhook.clone()),
            Made::Webhook(_) | Made::Replay(_) => ConfigAnswer::RequestReused,
        }
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
