//! Deliveries as callers see them: put together from the event, its targets, what was recorded, and what was decided since.
//!
//! A delivery that never had an outcome has no record of its own: it is an event with a target.

use std::collections::BTreeMap;

use ::redb::ReadTransaction;

use super::{
    by_webhook::{self, Place},
    drops::drop_of,
    error::EngineError,
    reads,
    ready::ReadyIn,
    records::{DeliveryRecord, EventRecord, TombstoneRecord, event_key},
    repair::archived_record,
    shared::{FanOut, HotRead, Shared},
    tables::{self, delivery_row, existing, lane_row},
    times,
};
use crate::{
    limits::LIST_EXAMINED_MAX,
    model::{
        delivery::DeliveryState,
        ids::{DeliveryId, DeliveryKey, EventSeq, Tenant, WebhookId, WebhookNo},
        time::Timestamp,
    },
    store::types::{Delivery, DeliveryDetail, DeliveryPage, DeliveryQuery, DeliveryView, ListPosition, LogEntry},
};

/// Events one call looks at where most may belong to other tenants.
const EVENTS_EXAMINED_MAX: usize = 10 * LIST_EXAMINED_MAX;

/// One delivery with its attempts.
pub(super) fn get(shared: &Shared, id: DeliveryId) -> Result<Option<DeliveryDetail>, EngineError> {
    let key = shared.sealer.delivery_key(id);
    let viewer = Viewer::new(shared)?;
    let Some((delivery, record)) = viewer.view(key, None)? else { return Ok(None) };
    let mut attempts = Vec::new();
    for entry in record.iter().flat_map(DeliveryRecord::entries) {
        if let Some(LogEntry::Outcome(outcome)) = reads::entry(shared, entry)? {
            attempts.push(outcome);
        }
    }
    Ok(Some(DeliveryDetail { delivery, attempts }))
}

/// Whose delivery it was, if it is no longer retained.
pub(super) fn expired(shared: &Shared, id: DeliveryId) -> Result<Option<Tenant>, EngineError> {
    let key = shared.sealer.delivery_key(id);
    // Another store's id, or a forged one, is a number nobody has come to.
    if key.event.0 == 0 || key.event.0 >= shared.counters.lock().gone_until {
        return Ok(None);
    }
    let viewer = Viewer::new(shared)?;
    if viewer.view(key, None)?.is_some() {
        return Ok(None);
    }
    // An event may be kept for other deliveries than this one.
    let kept = reads::event(shared, key.event)?;
    let targets = kept.map(|event| event.targets()).transpose()?;
    // Replays may be to others than those it was for.
    let was_there = key.replay > 0 || targets.is_none_or(|targets| targets.contains(&key.webhook));
    Ok(viewer.webhook(key.webhook)?.filter(|_| was_there).map(|(_, tenant, _)| tenant))
}

/// A page of deliveries: those of the newest events first, then by webhook, newest first.
pub(super) fn list(
    shared: &Shared,
    query: &DeliveryQuery,
    after: Option<ListPosition>,
    limit: usize,
) -> Result<DeliveryPage, EngineError> {
    let mut viewer = Viewer::new(shared)?;
    // Where the list has begun it need not look for its beginning.
    let events = times::between(shared, query.from, query.until.filter(|_| after.is_none()))?;
    let after = after.or_else(|| query.until.map(|_| before_event(events.end)));
    let webhook = match query.webhook {
        None => None,
        Some(id) => match viewer.webhook_no(id)? {
            Some(no) => Some(no),
            None => return Ok(DeliveryPage { deliveries: Vec::new(), next: None }),
        },
    };
    let keys = match (&query.event, webhook) {
        (Some(event), webhook) => {
            let tenants = match &query.tenant {
                Some(tenant) => vec![tenant.clone()],
                None => shared.catalog.tenants(),
            };
            viewer.keys_of_event(event.as_str(), &tenants, webhook, after)?
        }
        (None, Some(no)) => {
            // Before another snapshot: what is sorted meanwhile is in that.
            let noted = by_webhook::noted(shared, no, after);
            viewer = Viewer::new(shared)?;
            viewer.keys_of_webhook(no, noted, after)?
        }
        (None, None) => viewer.keys_of_log(query.tenant.as_ref(), after, events.start)?,
    };
    viewer.page(query, keys.from(events.start), limit)
}

/// A place in a list before which there is nothing of this event, nor of later ones: after the lowest key that it could have.
fn before_event(event: u64) -> DeliveryKey {
    DeliveryKey { webhook: WebhookNo(0), event: EventSeq(event), replay: 0 }
}

/// Keys to look at, in order, and where the look-out ends.
struct Keys {
    keys: Vec<DeliveryKey>,
    /// Set if there may be more: go on after this one.
    next: Option<DeliveryKey>,
}

impl Keys {
    /// Those of this event and of later ones.
    fn from(mut self, first: u64) -> Self {
        self.keys.retain(|key| key.event.0 >= first);
        self.next = self.next.filter(|next| comes_after(before_event(first), Some(*next)));
        self
    }
}

/// What a snapshot says of deliveries, and what was decided since.
pub(super) struct Viewer<'a> {
    shared: &'a Shared,
    /// Taken before the snapshot: a row that is in neither was written between the two, and is in the snapshot.
    fan_outs: BTreeMap<EventSeq, FanOut>,
    /// Whether anything was being dropped before the snapshot.
    drops: bool,
    /// Whether there have been replays.
    replayed: bool,
    ready: ReadyIn,
    hot: HotRead,
}

impl<'a> Viewer<'a> {
    pub(super) fn new(shared: &'a Shared) -> Result<Self, EngineError> {
        let fan_outs = shared.fan_outs.read().clone();
        let drops = shared.drops_anything();
        let replayed = shared.has_replayed();
        let hot = shared.read()?.0;
        Ok(Self { shared, fan_outs, drops, replayed, ready: ReadyIn::open(&hot)?, hot })
    }

    /// Where a delivery stands; `None`: there is none, or none any more.
    pub(super) fn state(&self, key: DeliveryKey) -> Result<Option<DeliveryView>, EngineError> {
        Ok(self.view(key, None)?.map(|(delivery, _)| delivery.state))
    }

    fn page(&self, query: &DeliveryQuery, keys: Keys, limit: usize) -> Result<DeliveryPage, EngineError> {
        let mut page = DeliveryPage { deliveries: Vec::new(), next: keys.next };
        let mut last = None;
        for key in keys.keys {
            if page.deliveries.len() == limit {
                page.next = last;
                return Ok(page);
            }
            last = Some(key);
            let Some((delivery, _)) = self.view(key, Some(query))? else { continue };
            let wanted = query.tenant.as_ref().is_none_or(|tenant| *tenant == delivery.tenant)
                && (query.states.is_empty() || query.states.contains(&delivery.state));
            if wanted {
                page.deliveries.push(delivery);
            }
        }
        Ok(page)
    }

    /// A delivery as it stands, with its record if it has one; `None` also if its event is not of those that are wanted.
    fn view(
        &self,
        key: DeliveryKey,
        wanted: Option<&DeliveryQuery>,
    ) -> Result<Option<(Delivery, Option<DeliveryRecord>)>, EngineError> {
        let Some(event) = reads::event(self.shared, key.event)? else { return Ok(None) };
        if wanted.is_some_and(|query| !query.wants_event(&event.event_type(), event.accept_time())) {
            return Ok(None);
        }
        let Some((webhook, tenant, deleted)) = self.webhook(key.webhook)? else { return Ok(None) };
        if event.tenant() != tenant.as_str() {
            return Ok(None);
        }
        let record = self.record(key)?;
        if record.is_none() && !self.awaits_first_attempt(key)? {
            return Ok(None);
        }
        let accept_time = event.accept_time();
        let (mut state, mut update_time, mut next_attempt) = match &record {
            // A replayed one has a record also while it waits behind another one.
            Some(_) if key.replay > 0 && self.is_parked(key)? => (DeliveryState::Pending, None, None),
            Some(record) => (record.state()?, record.update_time(), record.due()),
            None if self.is_parked(key)? => (DeliveryState::Pending, None, None),
            None => (DeliveryState::Pending, None, Some(event.scheduled().unwrap_or(accept_time))),
        };
        // A decision counts from when it was made, though the row may not say so yet.
        let dropped = drop_of(&self.hot, self.drops, key.webhook)?.filter(|drop| key.event.0 < drop.below);
        if let Some(time) = deleted.or(dropped.map(|drop| drop.time)).filter(|_| state == DeliveryState::Pending) {
            (state, update_time, next_attempt) = (DeliveryState::Cancelled, Some(time), None);
        }
        let enabled = self.shared.catalog.webhook(key.webhook).is_none_or(|known| known.webhook.is_enabled());
        let held = state == DeliveryState::Pending && !enabled;
        let content = event.content(key.event)?;
        let delivery = Delivery {
            id: self.shared.sealer.delivery_id(key),
            key,
            tenant,
            webhook,
            event: content.event.id,
            event_type: content.event.event_type,
            state: if held { DeliveryView::Held } else { DeliveryView::State(state) },
            attempts: record.as_ref().map_or(0, |record| record.attempts),
            create_time: accept_time,
            update_time,
            next_attempt: next_attempt.filter(|_| !held),
            last_http_status: record.as_ref().and_then(DeliveryRecord::http_status),
            last_error_class: record.as_ref().map(DeliveryRecord::error_class).transpose()?.flatten(),
        };
        Ok(Some((delivery, record)))
    }

    /// Id, tenant and, if it was deleted, when.
    fn webhook(&self, no: WebhookNo) -> Result<Option<(WebhookId, Tenant, Option<Timestamp>)>, EngineError> {
        if let Some(known) = self.shared.catalog.webhook(no) {
            return Ok(Some((known.webhook.id, known.webhook.tenant.clone(), None)));
        }
        let Some(bytes) = self.hot.open_table(tables::TOMBSTONES)?.get(no.0)? else { return Ok(None) };
        let tombstone = TombstoneRecord::decode_from(bytes.value())?;
        Ok(Some((tombstone.id()?, tombstone.tenant()?, Some(tombstone.time()))))
    }

    fn webhook_no(&self, id: WebhookId) -> Result<Option<WebhookNo>, EngineError> {
        let no = self.hot.open_table(tables::WEBHOOK_IDS)?.get(id.as_bytes())?;
        Ok(no.map(|no| WebhookNo(no.value())))
    }

    fn record(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, EngineError> {
        let row = delivery_row(key);
        if let Some(bytes) = self.hot.open_table(tables::DELIVERIES)?.get(row)? {
            return Ok(Some(DeliveryRecord::decode_from(bytes.value())?));
        }
        if self.awaits_first_attempt(key)? {
            return Ok(None);
        }
        archived_record(self.shared, row)
    }

    /// Whether it was decided on and has had no outcome.
    fn awaits_first_attempt(&self, key: DeliveryKey) -> Result<bool, EngineError> {
        if self.ready.has(lane_row(key))? || self.is_parked(key)? {
            return Ok(true);
        }
        let in_memory = |fan_out: &FanOut| fan_out.awaits(key.webhook);
        Ok(key.replay == 0 && self.fan_outs.get(&key.event).is_some_and(in_memory))
    }

    /// Whether it waits behind another one of its ordering key.
    fn is_parked(&self, key: DeliveryKey) -> Result<bool, EngineError> {
        Ok(self.hot.open_table(tables::PARKED)?.get(lane_row(key))?.is_some())
    }

    fn event_seq(&self, id: &str, tenant: &Tenant) -> Result<Option<EventSeq>, EngineError> {
        let key = event_key(id, tenant.as_str());
        let in_hot = self.hot.open_table(tables::EVENT_IDS)?.get(key.as_slice())?.map(|found| found.value());
        let found = match in_hot {
            Some(found) => Some(found),
            None => self.shared.segments.find_event(&key)?,
        };
        Ok(found.map(|(seq, ..)| EventSeq(seq)))
    }

    fn keys_of_event(
        &self,
        id: &str,
        tenants: &[Tenant],
        webhook: Option<WebhookNo>,
        after: Option<DeliveryKey>,
    ) -> Result<Keys, EngineError> {
        let mut keys = Vec::new();
        for tenant in tenants {
            let Some(seq) = self.event_seq(id, tenant)? else { continue };
            if let Some(record) = reads::event(self.shared, seq)? {
                keys.extend(self.deliveries_of(&record, seq)?);
            }
        }
        keys.retain(|key| webhook.is_none_or(|no| key.webhook == no) && comes_after(*key, after));
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(rank(*key)));
        Ok(cut(keys, LIST_EXAMINED_MAX))
    }

    /// An event's deliveries, those of replays included, by webhook.
    fn deliveries_of(&self, record: &EventRecord, event: EventSeq) -> Result<Vec<DeliveryKey>, EngineError> {
        let targets = record.targets()?;
        let mut keys: Vec<_> = targets.into_iter().map(|webhook| DeliveryKey { webhook, event, replay: 0 }).collect();
        if self.replayed {
            add_replayed(&self.hot, event, &mut keys)?;
            for segment in self.shared.segments.all().iter().filter(|it| it.record.may_have_replay(event.0)) {
                add_replayed(&*self.shared.segments.read(segment.no)?, event, &mut keys)?;
            }
            keys.sort_unstable_by_key(|key| rank(*key));
            // One that was archived and retried is in both.
            keys.dedup();
        }
        Ok(keys)
    }

    fn keys_of_webhook(
        &self,
        no: WebhookNo,
        noted: Vec<Place>,
        after: Option<DeliveryKey>,
    ) -> Result<Keys, EngineError> {
        let found = by_webhook::find(self.shared, &self.hot, &self.fan_outs, noted, no, after)?;
        let mut keys = cut(found.keys, LIST_EXAMINED_MAX);
        keys.next = keys.next.or(found.next);
        Ok(keys)
    }

    /// Walks the events backwards, down to the `first`.
    fn keys_of_log(
        &self,
        tenant: Option<&Tenant>,
        after: Option<DeliveryKey>,
        first: u64,
    ) -> Result<Keys, EngineError> {
        let newest = self.shared.counters.lock().next_event.saturating_sub(1);
        let mut seq = after.map_or(newest, |key| key.event.0.min(newest));
        let mut keys = Vec::new();
        let mut examined = 0;
        while seq >= first.max(1) && keys.len() < LIST_EXAMINED_MAX && examined < EVENTS_EXAMINED_MAX {
            examined += 1;
            if let Some(record) = reads::event(self.shared, EventSeq(seq))? {
                if tenant.is_none_or(|tenant| record.tenant() == tenant.as_str()) {
                    let deliveries = self.deliveries_of(&record, EventSeq(seq))?;
                    keys.extend(deliveries.into_iter().rev().filter(|key| comes_after(*key, after)));
                }
            } else if self.is_retained(seq) {
                // It was erased; those before it were not.
            } else if let Some(lower) = self.next_retained(seq)? {
                seq = lower + 1;
            } else {
                return Ok(cut(keys, LIST_EXAMINED_MAX));
            }
            seq -= 1;
        }
        let mut keys = cut(keys, LIST_EXAMINED_MAX);
        if keys.next.is_none() && seq >= first.max(1) {
            keys.next = Some(before_event(seq + 1));
        }
        Ok(keys)
    }

    /// Whether there is a place for the event, whatever is in it.
    fn is_retained(&self, seq: u64) -> bool {
        seq >= self.shared.counters.lock().hot_events_from || self.shared.segments.of_event(EventSeq(seq)).is_some()
    }

    /// The newest event below a gap that retention left.
    fn next_retained(&self, below: u64) -> Result<Option<u64>, EngineError> {
        let rescued = self.hot.open_table(tables::RESCUED)?;
        let rescued = rescued.range(..below)?.next_back().transpose()?.map(|(seq, _)| seq.value());
        let segments = self.shared.segments.all();
        let ends = segments.iter().map(|segment| segment.record.events_until.saturating_sub(1));
        Ok(ends.filter(|&end| end > 0 && end < below).chain(rescued).max())
    }
}

/// Adds the replayed deliveries of an event.
fn add_replayed(txn: &ReadTransaction, event: EventSeq, keys: &mut Vec<DeliveryKey>) -> Result<(), EngineError> {
    let Some(table) = existing(txn.open_table(tables::DELIVERIES))? else { return Ok(()) };
    for row in table.range((event.0, 0, 0)..=(event.0, u64::MAX, u32::MAX))? {
        let (_, webhook, replay) = row?.0.value();
        if replay > 0 {
            keys.push(DeliveryKey { webhook: WebhookNo(webhook), event, replay });
        }
    }
    Ok(())
}

fn rank(key: DeliveryKey) -> (u64, u64, u32) {
    (key.event.0, key.webhook.0, key.replay)
}

fn comes_after(key: DeliveryKey, after: Option<DeliveryKey>) -> bool {
    after.is_none_or(|after| rank(key) < rank(after))
}

fn cut(mut keys: Vec<DeliveryKey>, most: usize) -> Keys {
    let more = keys.len() > most;
    keys.truncate(most);
    let next = keys.last().copied().filter(|_| more);
    Keys { keys, next }
}
