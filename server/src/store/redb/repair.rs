//! Repairing by hand: one delivery is due again, or some are cancelled.
//!
//! A delivery that ended may lie in a segment, with its event. A retry brings both back into the hot store, where what is
//! pending lies: the delivery's row, which counts before any in a segment, and the event among the rescued, so that it does not
//! go with its segment. The log entry that ended the delivery takes its row to a segment no more; the next one that does, will.

use std::sync::atomic::Ordering;

use ::redb::ReadableTable as _;
use prost::Message as _;

use super::{
    change::{Change, Tables},
    counts::Standing,
    error::EngineError,
    ordered, reads,
    records::{DeliveryRecord, EventRecord, LogRecord},
    shared::Shared,
    tables::{self, DeliveryRow, LaneRow, delivery_row, existing, lane_row},
};
use crate::{
    limits::DELIVERY_ATTEMPTS_MAX,
    model::{
        delivery::{Attempts, DeliveryState},
        ids::{DeliveryKey, EventSeq, WebhookNo},
        time::Timestamp,
    },
    store::{
        repair::{Repair, Repaired},
        types::{CancelReason, Hint, LogEntry, WebhookCancelled},
    },
};

impl Change<'_> {
    /// Does what was asked for.
    pub(super) fn repair(&mut self, tables: &mut Tables<'_>, repair: Repair) -> Result<Repaired, EngineError> {
        match repair {
            Repair::Retry { key, time } => self.retry(tables, key, time),
            Repair::CancelAll { webhook, time } => {
                let known = self.shared.catalog.webhook(webhook).filter(|_| self.exists(webhook));
                let Some(known) = known else { return Ok(Repaired::WebhookDeleted) };
                self.drop_pending(tables, &known.webhook, CancelReason::Requested, time).map(Repaired::Cancelled)
            }
            Repair::Cancel { keys, time } => {
                self.cancel_named(tables, keys, CancelReason::Requested, time).map(Repaired::Cancelled)
            }
        }
    }

    fn retry(&mut self, tables: &mut Tables<'_>, key: DeliveryKey, time: Timestamp) -> Result<Repaired, EngineError> {
        let Some(webhook) = self.webhook(key.webhook) else { return Ok(Repaired::WebhookDeleted) };
        if self.is_event_erased(key.event, &webhook.tenant) {
            return Ok(Repaired::NoDelivery);
        }
        if self.dropped(key.webhook, key.event).is_some() {
            return Ok(Repaired::Cancelling);
        }
        if tables.ready.get(lane_row(key))?.is_some() || self.ready.iter().any(|(row, _)| *row == lane_row(key)) {
            return Ok(Repaired::Retried);
        }
        if tables.parked.get(lane_row(key))?.is_some() {
            return Ok(Repaired::WaitsInOrder);
        }
        let row = delivery_row(key);
        let Some(record) = self.record_of(tables, row)? else {
            // One that a wide event has not reached is as good as due.
            return Ok(if self.shared.awaits(key) { Repaired::Retried } else { Repaired::NoDelivery });
        };
        let event = reads::event(self.shared, key.event)?;
        let Some(event) = event else { return Ok(Repaired::EventExpired) };
        if record.attempts >= DELIVERY_ATTEMPTS_MAX {
            return Ok(Repaired::TooManyAttempts);
        }
        let (webhook, DeliveryKey { event: EventSeq(seq), replay, .. }) = (key.webhook.0, key);
        let attempts = if let Some(due) = record.due() {
            if due <= time {
                return Ok(Repaired::Retried);
            }
            tables.scheduled.remove((webhook, due.micros(), seq, replay))?;
            Attempts::new(record.attempts, record.excused)
        } else {
            if self.counters.pending >= self.shared.config.pending_max {
                return Ok(Repaired::BacklogFull);
            }
            if let Err(excess) = self.one_more_fits_quota(key.webhook) {
                return Ok(Repaired::OverQuota(excess));
            }
            self.keep_event(tables, key.event, &event)?;
            self.count(webhook, 1, Standing::At(record.state()?), Standing::At(DeliveryState::Pending));
            self.revived = true;
            if replay > 0 {
                self.replayed_revived(tables, key, record.state()?)?;
            }
            Attempts::new(record.attempts, Some(record.attempts))
        };
        let record = record.retried(attempts, time);
        tables.scheduled.insert((webhook, time.micros(), seq, replay), attempts.to_bits())?;
        tables.deliveries.insert(row, record.encode_to_vec().as_slice())?;
        self.fresh.push((key.webhook, Hint { event: key.event, replay, attempts, due: time }));
        Ok(Repaired::Retried)
    }

    /// What was recorded of a delivery, wherever that lies.
    fn record_of(&self, tables: &Tables<'_>, row: DeliveryRow) -> Result<Option<DeliveryRecord>, EngineError> {
        if let Some(bytes) = tables.deliveries.get(row)? {
            return Ok(Some(DeliveryRecord::decode_from(bytes.value())?));
        }
        archived_record(self.shared, row)
    }

    /// Sees to it that an event outlives its segment.
    pub(super) fn keep_event(
        &self,
        tables: &mut Tables<'_>,
        seq: EventSeq,
        event: &EventRecord,
    ) -> Result<(), EngineError> {
        if seq.0 >= self.counters.hot_events_from || tables.rescued.get(seq.0)?.is_some() {
            return Ok(());
        }
        let key = event.key();
        if let Some(id) = self.shared.segments.find_event(&key)? {
            tables.event_ids.insert(key.as_slice(), id)?;
        }
        tables.rescued.insert(seq.0, event.encode_to_vec().as_slice())?;
        Ok(())
    }

    /// Takes a delivery from those never attempted that are due, also if this transaction made it due; returns when it was
    /// accepted.
    fn take_ready(&mut self, tables: &mut Tables<'_>, row: LaneRow) -> Result<Option<Timestamp>, EngineError> {
        if let Some(accept_time) = tables.ready.remove(row, 1)? {
            return Ok(Some(Timestamp::from_micros(accept_time)));
        }
        let Some(at) = self.ready.iter().position(|(ready, _)| *ready == row) else { return Ok(None) };
        let (_, accept_time) = self.ready.swap_remove(at);
        self.fresh.retain(|(no, hint)| (no.0, hint.event.0, hint.replay) != row);
        Ok(Some(Timestamp::from_micros(accept_time)))
    }

    /// Cancels those of these that are pending; returns how many.
    pub(super) fn cancel_named(
        &mut self,
        tables: &mut Tables<'_>,
        mut keys: Vec<DeliveryKey>,
        reason: CancelReason,
        time: Timestamp,
    ) -> Result<u64, EngineError> {
        keys.sort_unstable_by_key(|key| lane_row(*key));
        keys.dedup();
        let mut cancelled = 0;
        for of_webhook in keys.chunk_by(|one, other| one.webhook == other.webhook) {
            cancelled += self.cancel_named_of(tables, of_webhook[0].webhook, of_webhook, reason, time)?;
        }
        Ok(cancelled)
    }

    pub(super) fn cancel_named_of(
        &mut self,
        tables: &mut Tables<'_>,
        no: WebhookNo,
        keys: &[DeliveryKey],
        reason: CancelReason,
        time: Timestamp,
    ) -> Result<u64, EngineError> {
        let known = self.shared.catalog.webhook(no).filter(|_| self.exists(no));
        let Some(known) = known else { return Ok(0) };
        let mut rows = Vec::new();
        for &key in keys {
            if self.dropped(no, key.event).is_some() {
                continue;
            }
            let (event, replay) = (key.event.0, key.replay);
            if let Some(accept_time) = self.take_ready(tables, lane_row(key))? {
                rows.push((event, replay, accept_time));
                continue;
            }
            if let Some(accept_time) = ordered::take_from_queue(tables, lane_row(key))? {
                rows.push((event, replay, accept_time));
                continue;
            }
            let record = tables.deliveries.get(delivery_row(key))?;
            let record = record.map(|bytes| DeliveryRecord::decode_from(bytes.value())).transpose()?;
            if let Some(due) = record.and_then(|record| record.due())
                && tables.scheduled.remove((no.0, due.micros(), event, replay))?.is_some()
            {
                rows.push((event, replay, Timestamp::UNIX_EPOCH));
            }
        }
        let cancelled = rows.len() as u64;
        if cancelled > 0 {
            // Not before all of them are gone, so that none is promoted that is to be cancelled.
            for &(event, replay, _) in &rows {
                self.pass_on(tables, (no.0, event, replay))?;
            }
            self.cancel_rows(tables, no.0, time, &rows)?;
            self.count(no.0, cancelled, Standing::At(DeliveryState::Pending), Standing::At(DeliveryState::Cancelled));
            self.cancelled.push(no);
            let (tenant, webhook) = (known.webhook.tenant.clone(), known.webhook.id);
            let entry = WebhookCancelled { reason, tenant, webhook, deliveries: cancelled, time };
            self.append(LogRecord::webhook_cancelled(&entry), Some(LogEntry::WebhookCancelled(entry)));
        }
        Ok(cancelled)
    }
}

/// What segments have of a delivery: the newest counts.
pub(super) fn archived_record(shared: &Shared, row: DeliveryRow) -> Result<Option<DeliveryRecord>, EngineError> {
    let segments = shared.segments.all();
    for segment in segments.iter().rev().filter(|segment| segment.record.may_have_delivery(row.0)) {
        let txn = shared.segments.read(segment.no)?;
        if let Some(table) = existing(txn.open_table(tables::DELIVERIES))?
            && let Some(bytes) = table.get(row)?
        {
            return Ok(Some(DeliveryRecord::decode_from(bytes.value())?));
        }
    }
    Ok(None)
}

impl Shared {
    /// How often deliveries that had ended were made pending again. Background work that goes by what it read asks before it
    /// reads, and again when it writes.
    pub(super) fn revivals(&self) -> u64 {
        self.revivals.load(Ordering::Acquire)
    }

    /// Whether a wide event is still to reach the webhook.
    fn awaits(&self, key: DeliveryKey) -> bool {
        let fan_outs = self.fan_outs.read();
        key.replay == 0 && fan_outs.get(&key.event).is_some_and(|fan_out| fan_out.awaits(key.webhook))
    }
}

impl DeliveryRecord {
    /// Whether the log entry at `entry` is the one that ended it, so that it may be archived with it.
    pub(super) fn ended_at(&self, entry: u64) -> Result<bool, EngineError> {
        Ok(self.ended_by(entry)? && self.end().is_none_or(|end| end == entry))
    }

    /// Whether it has ended, by the log entry at `entry` or an earlier one.
    pub(super) fn ended_by(&self, entry: u64) -> Result<bool, EngineError> {
        Ok(self.state()? != DeliveryState::Pending && self.end().is_none_or(|end| end <= entry))
    }
}
