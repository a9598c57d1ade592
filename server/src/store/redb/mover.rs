//! Moving the oldest chunks of the hot store into the segment that takes more.

use ::redb::{ReadTransaction, ReadableTable as _};
use bytes::Bytes;
use prost::Message as _;

use super::{
    archive::{Archived, segment_span},
    change::{Change, Tables, begin},
    error::EngineError,
    records::{CountersRecord, EventChunk, LogChunk, SegmentRecord},
    segments::Filter,
    shared::Shared,
    tables::{self, DeliveryRow},
};
use crate::{limits::UPKEEP_ROWS_MAX, model::time::Timestamp};

/// Bytes of events, and of log, that one step moves.
const STEP_BYTES: usize = 512 * 1024;

/// Rows that are in a segment now, for the hot store to forget.
#[derive(Debug)]
pub(super) struct Moved {
    segment: u64,
    record: SegmentRecord,
    event_chunks: Vec<u64>,
    events_until: u64,
    event_ids: Vec<Vec<u8>>,
    log_chunks: Vec<u64>,
    log_until: u64,
    deliveries: Vec<DeliveryRow>,
    bytes: u64,
}

/// Copies the oldest chunks of the hot store into the open segment when they are too many or too old.
pub(super) fn move_oldest(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let counters = *shared.counters.lock();
    let (read, _) = shared.read()?;
    let last = shared.segments.all().pop().filter(|segment| !segment.record.sealed);
    let (segment, record) = match last {
        Some(segment) => (segment.no, segment.record.clone()),
        None => (counters.last_segment + 1, SegmentRecord { oldest: i64::MAX, ..SegmentRecord::default() }),
    };
    let filter = shared.segments.filter(segment);
    let mut mover = Mover {
        old: now - segment_span(shared),
        excess: counters.hot_bytes.saturating_sub(shared.config.hot_bytes_max as u64),
        rows: 0,
        moved: Moved {
            segment,
            record,
            event_chunks: Vec::new(),
            events_until: counters.hot_events_from,
            event_ids: Vec::new(),
            log_chunks: Vec::new(),
            log_until: counters.hot_log_from.max(1),
            deliveries: Vec::new(),
            bytes: 0,
        },
    };
    if !mover.is_due(&read)? {
        return Ok(None);
    }
    let database = shared.segments.writable(segment)?;
    let txn = begin(&database)?;
    mover.events(&read, &txn, &filter)?;
    mover.log(&read, &txn)?;
    txn.commit()?;
    let mut done = mover.moved;
    done.record.bytes += done.bytes;
    // Before the hot store forgets: readers must know where to look.
    shared.segments.put(segment, done.record.clone(), filter);
    Ok(Some(Archived::Moved(Box::new(done))))
}

struct Mover {
    old: Timestamp,
    excess: u64,
    /// Rows moved, besides those of chunks.
    rows: usize,
    moved: Moved,
}

impl Mover {
    /// Whether the hot store holds more than it should, or something old.
    fn is_due(&self, read: &ReadTransaction) -> Result<bool, EngineError> {
        if self.excess > 0 {
            return Ok(true);
        }
        if let Some(row) = read.open_table(tables::EVENT_CHUNKS)?.first()? {
            let chunk = EventChunk::decode_from(Bytes::copy_from_slice(row.1.value()))?;
            if let Some(first) = chunk.event(0)
                && first?.accept_time() < self.old
            {
                return Ok(true);
            }
        }
        if let Some(row) = read.open_table(tables::LOG)?.first()? {
            let chunk = LogChunk::decode_from(Bytes::copy_from_slice(row.1.value()))?;
            if let Some(first) = chunk.entries.first() {
                return Ok(first.ended()?.0 < self.old);
            }
        }
        Ok(false)
    }

    fn events(
        &mut self,
        read: &ReadTransaction,
        txn: &::redb::WriteTransaction,
        filter: &Filter,
    ) -> Result<(), EngineError> {
        let (hot, hot_ids) = (read.open_table(tables::EVENT_CHUNKS)?, read.open_table(tables::EVENT_IDS)?);
        let (mut chunks, mut ids) = (txn.open_table(tables::EVENT_CHUNKS)?, txn.open_table(tables::EVENT_IDS)?);
        let mut bytes = 0;
        for row in hot.iter()? {
            let (first, encoded) = row?;
            let (first, encoded) = (first.value(), Bytes::copy_from_slice(encoded.value()));
            let chunk = EventChunk::decode_from(encoded.clone())?;
            let mut newest = Timestamp::UNIX_EPOCH;
            let mut keys = Vec::new();
            for index in 0..chunk.len() {
                let Some(record) = chunk.event(index).transpose()? else { break };
                newest = newest.max(record.accept_time());
                keys.push(record.key());
            }
            if bytes >= STEP_BYTES || self.rows >= UPKEEP_ROWS_MAX || !self.takes(newest, encoded.len()) {
                break;
            }
            self.rows += keys.len();
            for key in keys {
                if let Some(id) = hot_ids.get(key.as_slice())? {
                    ids.insert(key.as_slice(), id.value())?;
                    filter.add(&key);
                }
                self.moved.event_ids.push(key);
            }
            chunks.insert(first, encoded.as_ref())?;
            bytes += encoded.len();
            let record = &mut self.moved.record;
            if record.events_from == record.events_until {
                record.events_from = first;
            }
            record.events_until = first + chunk.len() as u64;
            self.moved.events_until = record.events_until;
            self.moved.event_chunks.push(first);
        }
        Ok(())
    }

    fn log(&mut self, read: &ReadTransaction, txn: &::redb::WriteTransaction) -> Result<(), EngineError> {
        let (hot, hot_deliveries) = (read.open_table(tables::LOG)?, read.open_table(tables::DELIVERIES)?);
        let (mut log, mut deliveries) = (txn.open_table(tables::LOG)?, txn.open_table(tables::DELIVERIES)?);
        let mut bytes = 0;
        for row in hot.iter()? {
            let (first, encoded) = row?;
            let (first, encoded) = (first.value(), Bytes::copy_from_slice(encoded.value()));
            let chunk = LogChunk::decode_from(encoded.clone())?;
            let mut newest = Timestamp::UNIX_EPOCH;
            let mut ended = Vec::new();
            for entry in &chunk.entries {
                let (time, rows) = entry.ended()?;
                newest = newest.max(time);
                ended.extend(rows);
            }
            if bytes >= STEP_BYTES || self.rows >= 2 * UPKEEP_ROWS_MAX || !self.takes(newest, encoded.len()) {
                break;
            }
            self.rows += ended.len();
            for row in ended {
                if let Some(delivery) = hot_deliveries.get(row)? {
                    deliveries.insert(row, delivery.value())?;
                    self.moved.deliveries.push(row);
                    self.moved.record.hold_delivery(row.1);
                }
            }
            log.insert(first, encoded.as_ref())?;
            bytes += encoded.len();
            let record = &mut self.moved.record;
            if record.log_from == record.log_until {
                record.log_from = first;
            }
            record.log_until = first + chunk.entries.len() as u64;
            self.moved.log_until = record.log_until;
            self.moved.log_chunks.push(first);
        }
        Ok(())
    }

    /// Whether a chunk is to be moved; counts it if so.
    fn takes(&mut self, newest: Timestamp, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if self.excess == 0 && newest >= self.old {
            return false;
        }
        self.excess = self.excess.saturating_sub(bytes);
        self.moved.bytes += bytes;
        let record = &mut self.moved.record;
        record.newest = record.newest.max(newest.micros());
        record.oldest = record.oldest.min(newest.micros());
        true
    }
}

impl Change<'_> {
    /// The hot store's part of a move.
    pub(super) fn moved(&mut self, tables: &mut Tables<'_>, moved: Moved) -> Result<(), EngineError> {
        for first in moved.event_chunks {
            tables.event_chunks.remove(first)?;
        }
        for key in moved.event_ids {
            tables.event_ids.remove(key.as_slice())?;
        }
        for first in moved.log_chunks {
            tables.log.remove(first)?;
        }
        for row in moved.deliveries {
            tables.deliveries.remove(row)?;
        }
        tables.segments.insert(moved.segment, moved.record.encode_to_vec().as_slice())?;
        let counters: &mut CountersRecord = &mut self.counters;
        counters.last_segment = counters.last_segment.max(moved.segment);
        counters.hot_events_from = moved.events_until;
        counters.hot_log_from = moved.log_until;
        counters.hot_bytes = counters.hot_bytes.saturating_sub(moved.bytes);
        Ok(())
    }
}
