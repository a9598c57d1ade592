//! The hot store's part of a sweep: one step, in one commit.

use std::{ops::Range, sync::Arc};

use ::redb::{ReadableTable, Table};
use bytes::Bytes;
use prost::Message as _;

use super::{Swept, sieve::Sieve};
use crate::{
    model::ids::{EventId, EventSeq, Tenant},
    store::redb::{
        archive::Afterwards,
        change::{Change, Tables},
        error::EngineError,
        records::{ErasureRecord, EventChunk, EventRecord, LogChunk, LogRecord, SegmentRecord, TombstoneRecord},
        tables::DeliveryRow,
    },
};

/// Rows of zeros that one step adds. Each takes one page.
const SCRUB_ROWS: u64 = if cfg!(test) { 16 } else { 256 };
/// Bytes of such a row: two do not fit in a page.
const SCRUB_ROW_BYTES: usize = 3_000;

/// A step of a sweep, for the committer.
#[derive(Debug)]
pub(in super::super) struct Sweeping {
    /// Tells the sweep that this step was committed.
    pub(super) serial: u64,
    pub(super) sieve: Arc<Sieve>,
    pub(super) step: Step,
}

impl Sweeping {
    /// What is left to do once that is committed.
    pub(in super::super) fn afterwards(&self) -> Afterwards {
        match &self.step {
            Step::Swap(no, record) => Afterwards::Replace(*no, record.clone()),
            Step::Finish(_) => Afterwards::Forget,
            Step::Along(_)
            | Step::Events(_)
            | Step::Log(_)
            | Step::Rescued(_)
            | Step::Deliveries(_)
            | Step::Freshen(_)
            | Step::Webhooks(_)
            | Step::Settle
            | Step::Fill
            | Step::Clean => Afterwards::Nothing,
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Step {
    /// These events tell of what is erased, and are to be erased as well.
    Along(Vec<(EventSeq, Tenant, EventId)>),
    /// Chunks that begin with these events hold something.
    Events(Vec<u64>),
    /// Chunks that begin with these log entries do.
    Log(Vec<u64>),
    /// These rescued events are erased.
    Rescued(Vec<u64>),
    /// These deliveries are.
    Deliveries(Vec<DeliveryRow>),
    /// Leaves of the file that may have remains of rows that were in them are to be written anew.
    Freshen(Leaves),
    /// A segment was written anew.
    Swap(u64, SegmentRecord),
    /// Nobody needs to know that these webhooks were deleted.
    Webhooks(Vec<u64>),
    /// So that pages that are free after this commit can be used by the next.
    Settle,
    /// Free pages are to be filled with zeros.
    Fill,
    /// What they were filled with is to go.
    Clean,
    /// Nothing is left of these.
    Finish(Vec<u64>),
}

/// Leaves, by keys that are in them or next to what was.
#[derive(Debug)]
pub(super) enum Leaves {
    Events(Vec<u64>),
    Log(Vec<u64>),
    Webhooks(Vec<u64>),
    Rescued(Range<u64>),
    Requests(Vec<Vec<u8>>),
    EventTypes(Vec<Vec<u8>>),
    Tombstones(Vec<u64>),
}

impl Change<'_> {
    /// Does one step.
    pub(in super::super) fn sweep(&mut self, tables: &mut Tables<'_>, sweeping: Sweeping) -> Result<(), EngineError> {
        let Sweeping { serial, sieve, step } = sweeping;
        let mut grew = false;
        match step {
            Step::Along(events) => {
                for (seq, tenant, id) in events {
                    self.erase_along(tables, &tenant, &id, seq)?;
                }
            }
            Step::Events(chunks) => self.hollow_events(tables, &sieve, &chunks)?,
            Step::Log(chunks) => self.hollow_log(tables, &sieve, &chunks)?,
            Step::Rescued(events) => remove_rescued(tables, &events)?,
            Step::Deliveries(rows) => {
                for row in rows {
                    tables.deliveries.remove(row)?;
                }
            }
            Step::Freshen(leaves) => freshen(tables, leaves)?,
            Step::Swap(no, record) => drop(tables.segments.insert(no, record.encode_to_vec().as_slice())?),
            Step::Webhooks(webhooks) => forget_webhooks(tables, &webhooks)?,
            Step::Settle => {}
            Step::Fill => grew = self.fill(tables)?,
            Step::Clean => clean(tables)?,
            Step::Finish(erasures) => self.finish(tables, &erasures)?,
        }
        self.swept = Some(Swept { serial, grew });
        Ok(())
    }

    fn hollow_events(&mut self, tables: &mut Tables<'_>, sieve: &Sieve, chunks: &[u64]) -> Result<(), EngineError> {
        for &first in chunks {
            let Some(encoded) = tables.event_chunks.get(first)?.map(|bytes| Bytes::copy_from_slice(bytes.value()))
            else {
                continue;
            };
            let before = encoded.len() as u64;
            let chunk = EventChunk::decode_from(encoded)?;
            let (hollow, erased) = chunk.without(|index, event| sieve.takes_event(first + index as u64, event))?;
            let encoded = hollow.encode_to_vec();
            tables.event_chunks.insert(first, encoded.as_slice())?;
            self.resized(before, encoded.len() as u64);
            self.hollowed.push(EventSeq(first)..EventSeq(first + hollow.len() as u64));
            for event in erased {
                remove_id(tables, &event, first..first + hollow.len() as u64)?;
            }
        }
        Ok(())
    }

    fn hollow_log(&mut self, tables: &mut Tables<'_>, sieve: &Sieve, chunks: &[u64]) -> Result<(), EngineError> {
        for &first in chunks {
            let Some(encoded) = tables.log.get(first)?.map(|bytes| Bytes::copy_from_slice(bytes.value())) else {
                continue;
            };
            let before = encoded.len() as u64;
            let encoded = hollow_log(LogChunk::decode_from(encoded)?, sieve).encode_to_vec();
            tables.log.insert(first, encoded.as_slice())?;
            self.resized(before, encoded.len() as u64);
        }
        Ok(())
    }

    /// A chunk of the hot store has another length.
    fn resized(&mut self, before: u64, after: u64) {
        self.counters.hot_bytes = self.counters.hot_bytes.saturating_sub(before) + after;
    }

    /// Takes free pages, and says whether there were no more.
    fn fill(&self, tables: &mut Tables<'_>) -> Result<bool, EngineError> {
        let hot = self.shared.hot.read().clone().ok_or(EngineError::Unavailable)?;
        let before = hot.growths();
        let from = tables.scrub.last()?.map_or(0, |(last, _)| last.value() + 1);
        let zeros = [0; SCRUB_ROW_BYTES];
        for row in from..from + SCRUB_ROWS {
            tables.scrub.insert(row, zeros.as_slice())?;
        }
        Ok(hot.growths() > before)
    }

    fn finish(&mut self, tables: &mut Tables<'_>, erasures: &[u64]) -> Result<(), EngineError> {
        let now = self.shared.clock.now();
        for &no in erasures {
            let record = tables.erasures.get(no)?.map(|bytes| ErasureRecord::decode_from(bytes.value())).transpose()?;
            let Some(record) = record else { continue };
            tables.erasures.insert(no, record.finished(now).encode_to_vec().as_slice())?;
            self.erasures.push((no, None));
        }
        Ok(())
    }
}

/// Forgets finished erasures, and that something was erased.
pub(in super::super) fn forget_erasures(tables: &mut Tables<'_>, erasures: Vec<u64>) -> Result<(), EngineError> {
    for no in erasures {
        let record = tables.erasures.remove(no)?.map(|bytes| ErasureRecord::decode_from(bytes.value()));
        for fingerprint in record.transpose()?.map(|record| record.fingerprints).unwrap_or_default() {
            if let Ok(key) = <[u8; 16]>::try_from(fingerprint.as_slice()) {
                tables.fingerprints.remove(key)?;
            }
        }
    }
    Ok(())
}

/// The chunk without what is to be erased: entries keep their numbers.
pub(super) fn hollow_log(mut chunk: LogChunk, sieve: &Sieve) -> LogChunk {
    for entry in &mut chunk.entries {
        if sieve.takes_entry(entry) {
            *entry = LogRecord::hollow();
        }
    }
    chunk
}

/// Forgets an event's id, if it still means one of these.
fn remove_id(tables: &mut Tables<'_>, event: &EventRecord, among: Range<u64>) -> Result<(), EngineError> {
    let key = event.key();
    let is_it = tables.event_ids.get(key.as_slice())?.is_some_and(|id| among.contains(&id.value().0));
    if is_it {
        tables.event_ids.remove(key.as_slice())?;
    }
    Ok(())
}

fn remove_rescued(tables: &mut Tables<'_>, events: &[u64]) -> Result<(), EngineError> {
    for &seq in events {
        let event = tables.rescued.remove(seq)?.map(|bytes| Bytes::copy_from_slice(bytes.value()));
        if let Some(event) = event {
            remove_id(tables, &EventRecord::decode_from(event)?, seq..seq + 1)?;
        }
    }
    Ok(())
}

fn forget_webhooks(tables: &mut Tables<'_>, webhooks: &[u64]) -> Result<(), EngineError> {
    for &no in webhooks {
        let tombstone = tables.tombstones.remove(no)?.map(|bytes| TombstoneRecord::decode_from(bytes.value()));
        if let Some(tombstone) = tombstone.transpose()? {
            tables.webhook_ids.remove(tombstone.id()?.as_bytes())?;
        }
    }
    Ok(())
}

fn clean(tables: &mut Tables<'_>) -> Result<(), EngineError> {
    let rows = tables.scrub.iter()?.take(usize::try_from(SCRUB_ROWS).unwrap_or(usize::MAX));
    let rows: Vec<u64> = rows.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    for row in rows {
        tables.scrub.remove(row)?;
    }
    Ok(())
}

/// Writes leaves anew. In a page that one transaction changes several times, redb moves rows about, and what it leaves behind them
/// goes to the disk with the page, and to its copies when a value is replaced by one of the same length. A page that loses a row of
/// an earlier transaction is built from what is left, with zeros behind; so a row is removed and put back.
fn freshen(tables: &mut Tables<'_>, leaves: Leaves) -> Result<(), EngineError> {
    match leaves {
        Leaves::Events(keys) => around(&mut tables.event_chunks, keys),
        Leaves::Log(keys) => around(&mut tables.log, keys),
        Leaves::Webhooks(keys) => around(&mut tables.webhooks, keys),
        Leaves::Tombstones(keys) => around(&mut tables.tombstones, keys),
        Leaves::Rescued(range) => {
            let rows = tables.rescued.range(range)?;
            let keys = rows.map(|row| row.map(|(key, _)| key.value())).collect::<Result<Vec<_>, _>>()?;
            around(&mut tables.rescued, keys)
        }
        Leaves::Requests(keys) => around_text(&mut tables.requests, keys),
        Leaves::EventTypes(keys) => around_text(&mut tables.event_types, keys),
    }
}

/// The row of each key, or those next to where it was.
fn around(table: &mut Table<'_, u64, &'static [u8]>, keys: Vec<u64>) -> Result<(), EngineError> {
    for key in keys {
        let before =
            table.range(..key)?.next_back().transpose()?.map(|(key, value)| (key.value(), value.value().to_vec()));
        let after = table.range(key..)?.next().transpose()?.map(|(key, value)| (key.value(), value.value().to_vec()));
        for (key, value) in before.into_iter().chain(after) {
            table.remove(key)?;
            table.insert(key, value.as_slice())?;
        }
    }
    Ok(())
}

fn around_text(table: &mut Table<'_, &'static [u8], &'static [u8]>, keys: Vec<Vec<u8>>) -> Result<(), EngineError> {
    for key in keys {
        let key = key.as_slice();
        let owned = |(key, value): (::redb::AccessGuard<'_, &[u8]>, ::redb::AccessGuard<'_, &[u8]>)| {
            (key.value().to_vec(), value.value().to_vec())
        };
        let before = table.range::<&[u8]>(..key)?.next_back().transpose()?.map(owned);
        let after = table.range::<&[u8]>(key..)?.next().transpose()?.map(owned);
        for (key, value) in before.into_iter().chain(after) {
            table.remove(key.as_slice())?;
            table.insert(key.as_slice(), value.as_slice())?;
        }
    }
    Ok(())
}
