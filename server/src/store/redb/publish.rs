//! Storing events: deduplicate, decide the targets, make them due.

use std::sync::Arc;

use ::redb::ReadableTable as _;
use tracing::error;

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::{EventRecord, event_key},
    shared::FanOut,
};
use crate::{
    limits::{REQUEST_ROWS_MAX, TARGETS_MAX},
    model::{
        delivery::Attempts,
        ids::{EventSeq, WebhookNo},
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
        if targets.len() <= REQUEST_ROWS_MAX {
            for &no in targets.iter() {
                self.make_ready(no, seq, publish);
            }
        } else {
            tables.fan_outs.insert(seq.0, 0)?;
            let fan_out = FanOut { targets, next: 0, accept_time: publish.accept_time };
            self.fan_outs.push((seq, Some(fan_out)));
        }
        Ok(Published::New { deliveries })
    }

    fn make_ready(&mut self, no: WebhookNo, seq: EventSeq, publish: &Publish) {
        self.ready.push(((no.0, seq.0, 0), publish.accept_time.micros()));
        self.fresh.push((no, Hint { event: seq, replay: 0, attempts: Attempts::default(), due: publish.accept_time }));
        *self.pending.entry(no.0).or_default() += 1;
    }

    /// One slice of the oldest wide event: makes it due for up to `REQUEST_ROWS_MAX` more webhooks.
    pub(super) fn fan_out_slice(&mut self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let Some((seq, mut fan_out)) = self.shared.first_fan_out() else { return Ok(()) };
        let end = fan_out.targets.len().min(fan_out.next + REQUEST_ROWS_MAX);
        let targets = Arc::clone(&fan_out.targets);
        let mut cancelled = Vec::new();
        for &no in &targets[fan_out.next..end] {
            if let Some(drop) = self.dropped(no, seq) {
                cancelled.push((no, drop.time));
            } else if self.exists(no) {
                self.ready.push(((no.0, seq.0, 0), fan_out.accept_time.micros()));
                self.fresh.push((
                    no,
                    Hint { event: seq, replay: 0, attempts: Attempts::default(), due: fan_out.accept_time },
                ));
                *self.pending.entry(no.0).or_default() += 1;
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
