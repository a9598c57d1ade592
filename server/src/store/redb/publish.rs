//! Storing events: deduplicate, decide the targets, make them due.

use std::sync::Arc;

use ::redb::ReadableTable as _;
use prost::Message as _;
use tracing::error;

use super::{
    change::{Change, Tables},
    counts::Standing,
    error::EngineError,
    ordered::ORDER_ROWS,
    records::{DeliveryRecord, EventRecord, event_key},
    shared::FanOut,
    tables::{LaneRow, lane_row},
};
use crate::{
    limits::{REQUEST_ROWS_MAX, TARGETS_MAX},
    model::{
        delivery::{Attempts, DeliveryState},
        ids::{DeliveryKey, EventSeq, WebhookNo},
        ordering::OrderKey,
        time::Timestamp,
    },
    store::types::{Hint, Publish, Published},
};

/// A delivery that is to be attempted for the first time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) row: LaneRow,
    pub(super) accept_time: Timestamp,
    /// When it is to be sent, if that is later.
    pub(super) scheduled: Option<Timestamp>,
}

/// Who publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Somebody who calls.
    Caller,
    /// The server itself.
    Server,
}

impl Arrival {
    /// The first sending of an event.
    fn new(no: WebhookNo, event: EventSeq, accept_time: Timestamp, scheduled: Option<Timestamp>) -> Self {
        Self { row: lane_row(DeliveryKey { webhook: no, event, replay: 0 }), accept_time, scheduled }
    }
}

impl Change<'_> {
    /// Stores one event of a caller's, or says why not.
    pub(super) fn publish(&mut self, tables: &mut Tables<'_>, publish: &Publish) -> Result<Published, EngineError> {
        self.publish_by(tables, publish, By::Caller)
    }

    /// Stores one event, or says why not. What the server reports by itself is within no quota.
    pub(super) fn publish_by(
        &mut self,
        tables: &mut Tables<'_>,
        publish: &Publish,
        by: By,
    ) -> Result<Published, EngineError> {
        let event = &publish.event;
        let key = event_key(event.id.as_str(), event.tenant.as_str());
        let hash = event.content_hash();
        if let Some(refused) = self.erased(tables, event)? {
            return Ok(refused);
        }
        let found = match tables.event_ids.get(key.as_slice())?.map(|found| found.value()) {
            Some(found) => Ok(Some(found)),
            // A segment that cannot be read is this event's trouble, not that of the commit it is part of.
            None => self.shared.segments.find_event(&key),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                error!(%error, "an archived segment cannot be read; an event was refused for it");
                return Ok(Published::Unreadable);
            }
        };
        if let Some((_, known, deliveries)) = found {
            return Ok(if known == hash { Published::Duplicate { deliveries } } else { Published::Conflict });
        }

        let catalog = &self.shared.catalog;
        let (is_current, ordered) = catalog.standing(&event.tenant, publish.targets.matched_at);
        let matched = &publish.targets.webhooks;
        let targets = if is_current { matched.clone() } else { catalog.targets_again(event, matched) };
        if targets.len() > TARGETS_MAX {
            return Ok(Published::TooManyTargets);
        }
        if self.counters.pending + targets.len() as u64 > self.shared.config.pending_max {
            return Ok(Published::BacklogFull);
        }
        if by == By::Caller
            && let Err(excess) = self.use_quota(tables, publish, targets.len() as u64)?
        {
            return Ok(Published::OverQuota(excess));
        }

        let seq = EventSeq(self.counters.next_event);
        self.counters.next_event += 1;
        self.counters.note_accepted(publish.accept_time);
        let deliveries = u32::try_from(targets.len()).expect("TARGETS_MAX fits");
        self.chunks.push(seq, &EventRecord::new(event, publish.accept_time, &targets));
        tables.event_ids.insert(key.as_slice(), (seq.0, hash, deliveries))?;
        let (accept_time, scheduled) = (publish.accept_time, event.scheduled(publish.accept_time));
        let ordered = ordered.and_then(|ordered| Some((OrderKey::of(event)?, ordered)));
        let keeps_order = |no: &WebhookNo| ordered.as_ref().is_some_and(|(_, all)| all.binary_search(no).is_ok());
        let keeping = if ordered.is_some() { targets.iter().filter(|no| keeps_order(no)).count() } else { 0 };
        if targets.len() * rows(scheduled) + keeping * ORDER_ROWS > REQUEST_ROWS_MAX {
            tables.fan_outs.insert(seq.0, 0)?;
            // Each of them is counted for its webhook when the event reaches that.
            self.counters.pending += targets.len() as u64;
            let (tenant, order) = (event.tenant.clone(), OrderKey::of(event));
            let fan_out = FanOut { tenant, targets, next: 0, accept_time, scheduled, order };
            self.fan_outs.push((seq, Some(fan_out)));
            return Ok(Published::New { deliveries });
        }
        for &no in targets.iter() {
            let arrival = Arrival::new(no, seq, accept_time, scheduled);
            match &ordered {
                Some((order, _)) if keeps_order(&no) => {
                    let behind = self.is_on_its_way(no, *order, seq);
                    self.line_up(tables, arrival, *order, behind)?;
                }
                Some(_) | None => self.make_due(tables, arrival)?,
            }
            self.count(no.0, 1, Standing::Nowhere, Standing::At(DeliveryState::Pending));
        }
        Ok(Published::New { deliveries })
    }

    /// Makes a delivery due for the first time: at once, or when it is scheduled.
    pub(super) fn make_due(&mut self, tables: &mut Tables<'_>, arrival: Arrival) -> Result<(), EngineError> {
        let Arrival { row, accept_time, scheduled } = arrival;
        let asked = scheduled;
        let scheduled = scheduled.map(|due| self.due_first(accept_time, due));
        let (no, event, replay) = row;
        match scheduled {
            None => self.ready.push((row, accept_time.micros())),
            Some(due) => {
                // With a record, by which the outcome of the first attempt finds the row, as that of any other does.
                let record = DeliveryRecord::scheduled(accept_time, due);
                let record = if scheduled == asked { record } else { record.reanchored(self.shared.clock.now(), due) };
                tables.scheduled.insert((no, due.micros(), event, replay), 0)?;
                tables.deliveries.insert((event, no, replay), record.encode_to_vec().as_slice())?;
            }
        }
        let due = scheduled.unwrap_or(accept_time);
        self.fresh.push((WebhookNo(no), Hint { event: EventSeq(event), replay, attempts: Attempts::default(), due }));
        Ok(())
    }

    /// One slice of the oldest wide event: makes it due for more webhooks, as many as one transaction may.
    pub(super) fn fan_out_slice(&mut self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let Some((seq, mut fan_out)) = self.shared.first_fan_out() else { return Ok(()) };
        let targets = Arc::clone(&fan_out.targets);
        let mut cancelled = Vec::new();
        let (mut end, mut taken) = (fan_out.next, 0);
        while end < targets.len() && taken < REQUEST_ROWS_MAX {
            let no = targets[end];
            end += 1;
            taken += rows(fan_out.scheduled);
            if let Some(drop) = self.dropped(no, seq) {
                cancelled.push((no, drop.time));
                continue;
            }
            let Some(webhook) = self.webhook(no) else {
                cancelled.push((no, self.deleted_at(tables, no.0)?));
                if tables.tombstones.get(no.0)?.is_none() {
                    // To be deleted with everything of its tenant. What was still on its way then will not be counted.
                    self.counters.pending = self.counters.pending.saturating_sub(1);
                }
                continue;
            };
            self.count(no.0, 1, Standing::OnTheWay, Standing::At(DeliveryState::Pending));
            let arrival = Arrival::new(no, seq, fan_out.accept_time, fan_out.scheduled);
            if let Some(order) = fan_out.order.filter(|_| webhook.settings.ordering.ordered) {
                // Of the same key, older ones that were wide have arrived, for they go first.
                self.line_up(tables, arrival, order, false)?;
                taken += ORDER_ROWS;
            } else {
                self.make_due(tables, arrival)?;
            }
        }
        for (no, time) in cancelled {
            self.cancel_rows(tables, no.0, time, &[(seq.0, 0, fan_out.accept_time)])?;
        }
        fan_out.next = end;
        if end == targets.len() {
            tables.fan_outs.remove(seq.0)?;
            self.fan_outs.push((seq, None));
        } else {
            tables.fan_outs.insert(seq.0, end as u64)?;
            self.fan_outs.push((seq, Some(fan_out)));
        }
        Ok(())
    }
}

/// Rows by which a delivery is due for the first time.
fn rows(scheduled: Option<Timestamp>) -> usize {
    if scheduled.is_some() { 2 } else { 1 }
}
