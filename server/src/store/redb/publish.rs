//! Storing events: deduplicate, decide the targets, make them due.

use std::sync::Arc;

use ::redb::ReadableTable as _;
use prost::Message as _;
use tracing::error;

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::{DeliveryRecord, EventRecord, event_key},
    shared::FanOut,
};
use crate::{
    limits::{REQUEST_ROWS_MAX, TARGETS_MAX},
    model::{
        delivery::Attempts,
        ids::{EventSeq, WebhookNo},
        time::Timestamp,
    },
    store::types::{Hint, Publish, Published},
};

impl Change<'_> {
    /// Stores one event, or says why not.
    pub(super) fn publish(&mut self, tables: &mut Tables<'_>, publish: &Publish) -> Result<Published, EngineError> {
        let event = &publish.event;
        let key = event_key(event.id.as_str(), event.tenant.as_str());
        let hash = event.content_hash();
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
        let targets = if catalog.is_current(&event.tenant, publish.targets.matched_at) {
            publish.targets.webhooks.clone()
        } else {
            catalog.targets(&event.tenant, &event.event_type).webhooks
        };
        if targets.len() > TARGETS_MAX {
            return Ok(Published::TooManyTargets);
        }
        if self.counters.pending + targets.len() as u64 > self.shared.config.pending_max {
            return Ok(Published::BacklogFull);
        }

        let seq = EventSeq(self.counters.next_event);
        self.counters.next_event += 1;
        self.counters.pending += targets.len() as u64;
        let deliveries = u32::try_from(targets.len()).expect("TARGETS_MAX fits");
        self.chunks.push(seq, &EventRecord::new(event, publish.accept_time, &targets));
        tables.event_ids.insert(key.as_slice(), (seq.0, hash, deliveries))?;
        let scheduled = event.scheduled(publish.accept_time);
        if targets.len() <= width(scheduled) {
            for &no in targets.iter() {
                self.make_due(tables, no, seq, publish.accept_time, scheduled)?;
            }
        } else {
            tables.fan_outs.insert(seq.0, 0)?;
            let fan_out = FanOut { targets, next: 0, accept_time: publish.accept_time, scheduled };
            self.fan_outs.push((seq, Some(fan_out)));
        }
        Ok(Published::New { deliveries })
    }

    /// Makes an event due for a webhook: at once, or when it is scheduled.
    fn make_due(
        &mut self,
        tables: &mut Tables<'_>,
        no: WebhookNo,
        seq: EventSeq,
        accept_time: Timestamp,
        scheduled: Option<Timestamp>,
    ) -> Result<(), EngineError> {
        match scheduled {
            None => self.ready.push(((no.0, seq.0, 0), accept_time.micros())),
            Some(due) => {
                // With a record, by which the outcome of the first attempt finds the row, as that of any other does.
                let record = DeliveryRecord::scheduled(accept_time, due).encode_to_vec();
                tables.scheduled.insert((no.0, due.micros(), seq.0, 0), 0)?;
                tables.deliveries.insert((seq.0, no.0, 0), record.as_slice())?;
            }
        }
        let due = scheduled.unwrap_or(accept_time);
        self.fresh.push((no, Hint { event: seq, replay: 0, attempts: Attempts::default(), due }));
        *self.pending.entry(no.0).or_default() += 1;
        Ok(())
    }

    /// One slice of the oldest wide event: makes it due for more webhooks, as many as one transaction may.
    pub(super) fn fan_out_slice(&mut self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let Some((seq, mut fan_out)) = self.shared.first_fan_out() else { return Ok(()) };
        let end = fan_out.targets.len().min(fan_out.next + width(fan_out.scheduled));
        let targets = Arc::clone(&fan_out.targets);
        let mut cancelled = Vec::new();
        for &no in &targets[fan_out.next..end] {
            if let Some(drop) = self.dropped(no, seq) {
                cancelled.push((no, drop.time));
            } else if self.exists(no) {
                self.make_due(tables, no, seq, fan_out.accept_time, fan_out.scheduled)?;
            } else {
                cancelled.push((no, self.deleted_at(tables, no.0)?));
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

/// How many webhooks one transaction makes an event due for; what is scheduled takes two rows each.
fn width(scheduled: Option<Timestamp>) -> usize {
    if scheduled.is_some() { REQUEST_ROWS_MAX / 2 } else { REQUEST_ROWS_MAX }
}
