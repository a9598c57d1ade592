//! Replays: started, carried on in steps, stopped, each by one commit.
//!
//! A step makes deliveries and says how far the replay is in one transaction, if the replay is where the step begins. Who runs replays
//! lives above the store. A replayed delivery has a record from the beginning, as one that is scheduled has, and waits among what is
//! scheduled: what it carries is old, but it goes behind what was due before it. In an ordered webhook it takes its place in its
//! key's queue, by the number of its event.
//!
//! Invariant: [`REPLAYED`](super::tables::REPLAYED) names exactly the replayed deliveries that are pending.

#[cfg(test)]
mod tests;

use std::{collections::btree_map::Entry, sync::atomic::Ordering};

use ::redb::ReadableTable as _;
use prost::Message as _;
use tracing::warn;

use super::{
    change::{Change, Tables},
    config::{known_request, request_key},
    counts::Standing,
    error::EngineError,
    publish::Arrival,
    reads,
    records::{DeliveryRecord, EventRecord, ReplayRecord, RequestRecord},
    shared::Shared,
    tables::{delivery_row, lane_row},
};
use crate::{
    limits::REPLAY_CANCEL_DELIVERIES_MAX,
    model::{
        delivery::DeliveryState,
        ids::{DeliveryKey, EventSeq, ReplayId, Tenant, WebhookNo},
        replay::{Replay, ReplaySpec, ReplayState, ReplayStep, StoppedBy},
        time::Timestamp,
        webhook::Webhook,
    },
    store::{
        replays::{ReplayAnswer, ReplayChange},
        types::{CancelReason, RequestKey},
    },
};

/// Replays are counted in 24 bits.
const NUMBERS_MAX: u32 = (1 << 24) - 1;
/// A replay leaves this part of the backlog to what is published.
const BACKLOG_LEFT: u64 = 10;

impl Change<'_> {
    /// Does what was asked for.
    pub(super) fn replay(
        &mut self,
        tables: &mut Tables<'_>,
        change: ReplayChange,
    ) -> Result<ReplayAnswer, EngineError> {
        match change {
            ReplayChange::Start { spec, request, time } => self.start_replay(tables, spec, request, time),
            ReplayChange::Step(step) => self.step_replay(tables, &step),
            ReplayChange::Cancel { replay, drop_pending, time } => {
                let Some(known) = self.replay_mut(replay) else { return Ok(ReplayAnswer::Stale) };
                *known = known.clone().ended(ReplayState::Cancelled(StoppedBy::Request), time);
                if drop_pending {
                    self.drop_replayed(tables, replay, time)?;
                }
                Ok(self.replay_mut(replay).cloned().map_or(ReplayAnswer::Stale, ReplayAnswer::Put))
            }
            ReplayChange::Drop { replay, time } => {
                if !self.replay_mut(replay).is_some_and(|known| known.drops) {
                    return Ok(ReplayAnswer::Stale);
                }
                self.drop_replayed(tables, replay, time)?;
                Ok(ReplayAnswer::Done)
            }
            ReplayChange::Fail { replay, why, time } => {
                let Some(known) = self.replay_mut(replay) else { return Ok(ReplayAnswer::Stale) };
                *known = known.clone().ended(ReplayState::Failed(why), time);
                Ok(ReplayAnswer::Done)
            }
            ReplayChange::Forget { replays } => {
                for no in replays {
                    if self.replay_mut(no).is_some_and(|known| !known.is_active()) {
                        self.replays.insert(no, None);
                    }
                }
                Ok(ReplayAnswer::Done)
            }
        }
    }

    fn start_replay(
        &mut self,
        tables: &mut Tables<'_>,
        spec: ReplaySpec,
        request: Option<RequestKey>,
        time: Timestamp,
    ) -> Result<ReplayAnswer, EngineError> {
        let request = request.map(|request| (request_key(&spec.tenant, &request.id), request.hash));
        if let Some((key, hash)) = &request
            && let Some(known) = known_request(tables, key, time)?
        {
            return Ok(known.replay(*hash)?.map_or(ReplayAnswer::RequestReused, ReplayAnswer::Put));
        }
        if !self.exists(spec.webhook) {
            return Ok(ReplayAnswer::WebhookDeleted);
        }
        let before = self.shared.counters.lock().last_replay;
        let mine: Vec<&Replay> = self.replays.range(before + 1..).filter_map(|(_, replay)| replay.as_ref()).collect();
        if self.counters.last_replay >= NUMBERS_MAX || !self.shared.replays.has_room_for(&spec, &mine) {
            return Ok(ReplayAnswer::TooMany);
        }
        for no in self.shared.replays.surplus(mine.len() + 1) {
            self.replays.insert(no, None);
        }

        self.counters.last_replay += 1;
        let events = (self.first_event(tables)?, EventSeq(self.counters.next_event - 1));
        let replay = Replay::begin(self.counters.last_replay, ReplayId::generate(), spec, events, time);
        if let Some((key, hash)) = request {
            let record = RequestRecord::of_replay(hash, time, &replay);
            tables.requests.insert(key.as_slice(), record.encode_to_vec().as_slice())?;
            tables.requests_by_time.insert((time.micros(), key.as_slice()), ())?;
        }
        self.replays.insert(replay.no, Some(replay.clone()));
        Ok(ReplayAnswer::Put(replay))
    }

    /// The oldest event that is retained, or would be the next.
    fn first_event(&self, tables: &Tables<'_>) -> Result<EventSeq, EngineError> {
        let rescued = tables.rescued.first()?.map(|(seq, _)| seq.value());
        // The oldest segment may hold outcomes alone.
        let segments = self.shared.segments.all();
        let with_events = segments.iter().find(|segment| segment.record.events_from < segment.record.events_until);
        let archived = with_events.map(|segment| segment.record.events_from);
        let hot = self.counters.hot_events_from.max(1);
        Ok(EventSeq([rescued, archived].into_iter().flatten().filter(|&seq| seq > 0).fold(hot, u64::min)))
    }

    fn step_replay(&mut self, tables: &mut Tables<'_>, step: &ReplayStep) -> Result<ReplayAnswer, EngineError> {
        let Some(replay) = self.replay_mut(step.replay) else { return Ok(ReplayAnswer::Stale) };
        if !replay.is_running() || replay.next != step.from {
            return Ok(ReplayAnswer::Stale);
        }
        let no = replay.spec.webhook;
        let Some(webhook) = self.webhook(no) else { return Ok(ReplayAnswer::Stale) };
        let pending_max = self.shared.config.pending_max;
        let room = (pending_max - pending_max / BACKLOG_LEFT).saturating_sub(self.counters.pending);
        let room = room.min(self.replay_quota_room(&webhook.tenant));
        // What becomes pending while a drop is carried out would be dropped with the rest.
        if self.drop_of(no.0).is_some() || (step.events.len() as u64 > room) {
            return Ok(ReplayAnswer::Busy);
        }
        let mut events = Vec::with_capacity(step.events.len());
        for &seq in &step.events {
            match reads::event(self.shared, seq) {
                Ok(Some(event)) => events.push((seq, event)),
                Ok(None) => {}
                Err(error) => {
                    // The replay's trouble, not that of the commit.
                    warn!(%error, event.no = seq.0, "an event cannot be read; a replay waits for it");
                    return Ok(ReplayAnswer::Unreadable);
                }
            }
        }
        let created = events.len() as u64;
        for (seq, event) in events {
            let key = DeliveryKey { webhook: no, event: seq, replay: step.replay };
            self.send_again(tables, &webhook, key, &event, step.time)?;
        }
        if let Some(replay) = self.replay_mut(step.replay) {
            *replay = replay.clone().stepped(step, created, step.events.len() as u64 - created);
        }
        Ok(ReplayAnswer::Done)
    }

    /// Makes a delivery of an event that was accepted before.
    fn send_again(
        &mut self,
        tables: &mut Tables<'_>,
        webhook: &Webhook,
        key: DeliveryKey,
        event: &EventRecord,
        time: Timestamp,
    ) -> Result<(), EngineError> {
        self.outlast(tables, key.event, event)?;
        self.count(key.webhook.0, 1, Standing::Nowhere, Standing::At(DeliveryState::Pending));
        tables.replayed.insert((key.replay, key.event.0), ())?;
        let accept_time = event.accept_time();
        // Later than that, or it would not be one that is scheduled.
        let due = time.max(Timestamp::from_micros(accept_time.micros() + 1));
        let arrival = Arrival { row: lane_row(key), accept_time, scheduled: Some(due) };
        let Some(order) = event.order()?.filter(|_| webhook.settings.ordering.ordered) else {
            return self.make_due(tables, arrival);
        };
        // Also while it is parked: by its record it is found among its event's.
        let record = DeliveryRecord::scheduled(accept_time, due);
        tables.deliveries.insert(delivery_row(key), record.encode_to_vec().as_slice())?;
        let behind = self.is_on_its_way(key.webhook, order, key.event);
        self.line_up(tables, arrival, order, behind)
    }

    /// Sees to it that an event is there for as long as the delivery that is being made is pending. One that is archived is found to be
    /// needed when its segment is to go, unless that is being searched, and perhaps past it.
    fn outlast(&mut self, tables: &mut Tables<'_>, seq: EventSeq, event: &EventRecord) -> Result<(), EngineError> {
        if seq.0 >= self.counters.hot_events_from {
            return Ok(());
        }
        let segment = self.shared.segments.of_event(seq);
        if segment.is_none_or(|segment| segment.no == self.shared.retiring.load(Ordering::Acquire)) {
            self.keep_event(tables, seq, event)?;
            // Nor is one that was rescued already to be forgotten because nothing was pending a moment ago.
            self.revived = true;
        }
        Ok(())
    }

    /// Cancels some of a replay's pending deliveries, and notes whether there are more.
    fn drop_replayed(&mut self, tables: &mut Tables<'_>, no: u32, time: Timestamp) -> Result<(), EngineError> {
        let Some(webhook) = self.replay_mut(no).map(|replay| replay.spec.webhook) else { return Ok(()) };
        let rows = tables.replayed.range((no, 0)..=(no, u64::MAX))?.take(REPLAY_CANCEL_DELIVERIES_MAX);
        let key = |event| DeliveryKey { webhook, event: EventSeq(event), replay: no };
        let keys: Vec<_> = rows.map(|row| row.map(|(row, _)| key(row.value().1))).collect::<Result<_, _>>()?;
        let cancelled = self.cancel_named_of(tables, webhook, &keys, CancelReason::Requested, time)?;
        if let Some(replay) = self.replay_mut(no) {
            // Those that cannot be named are being cancelled with the webhook's others.
            replay.drops = keys.len() == REPLAY_CANCEL_DELIVERIES_MAX && cancelled > 0;
        }
        Ok(())
    }

    /// The replays of a webhook that is deleted have come to their end.
    pub(super) fn stop_replays(&mut self, webhook: WebhookNo, time: Timestamp) {
        let committed: Vec<u32> = self.shared.replays.active().iter().map(|replay| replay.no).collect();
        let mine: Vec<u32> = self.replays.keys().copied().collect();
        for no in committed.into_iter().chain(mine) {
            if let Some(replay) = self.replay_mut(no).filter(|replay| replay.spec.webhook == webhook) {
                *replay = replay.clone().ended(ReplayState::Cancelled(StoppedBy::Deletion), time);
                replay.drops = false;
            }
        }
    }

    /// Forgets up to `most` of a tenant's replays, all of whose webhooks are deleted; returns how many.
    pub(super) fn forget_replays(&mut self, tenant: &Tenant, most: usize) -> usize {
        let known = self.shared.replays.of_tenant(tenant, most);
        self.replays.extend(known.iter().map(|no| (*no, None)));
        known.len()
    }

    /// A replayed delivery has ended.
    pub(super) fn replayed_ended(
        &mut self,
        tables: &mut Tables<'_>,
        key: DeliveryKey,
        state: DeliveryState,
    ) -> Result<(), EngineError> {
        tables.replayed.remove((key.replay, key.event.0))?;
        if let Some(replay) = self.replay_mut(key.replay) {
            replay.moved(DeliveryState::Pending, state);
        }
        Ok(())
    }

    /// A replayed delivery that had ended so is pending again.
    pub(super) fn replayed_revived(
        &mut self,
        tables: &mut Tables<'_>,
        key: DeliveryKey,
        before: DeliveryState,
    ) -> Result<(), EngineError> {
        tables.replayed.insert((key.replay, key.event.0), ())?;
        if let Some(replay) = self.replay_mut(key.replay) {
            replay.moved(before, DeliveryState::Pending);
        }
        Ok(())
    }

    /// A replay as this transaction leaves it, to be changed; `None`: it is not remembered.
    fn replay_mut(&mut self, no: u32) -> Option<&mut Replay> {
        match self.replays.entry(no) {
            Entry::Occupied(here) => here.into_mut().as_mut(),
            Entry::Vacant(place) => {
                let known = self.shared.replays.get(no)?;
                place.insert(Some(Replay::clone(&known))).as_mut()
            }
        }
    }

    /// Writes the replays that changed.
    pub(super) fn flush_replays(&self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        for (&no, replay) in &self.replays {
            match replay {
                Some(replay) => {
                    drop(tables.replays.insert(no, ReplayRecord::new(replay).encode_to_vec().as_slice())?);
                }
                None => drop(tables.replays.remove(no)?),
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Whether there have been replays: where there were none, nobody need look for what they made.
    pub(super) fn has_replayed(&self) -> bool {
        self.counters.lock().last_replay > 0
    }
}
