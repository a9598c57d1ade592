//! Keeping the hot store small, and the disk finite: chunks move to segments, old segments go.
//!
//! Every step is small, repeatable, and in this order: write the segment durably, say so in the list of segments, then let
//! the hot store forget. A crash in between repeats the step.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ::redb::{ReadTransaction, ReadableTable as _};
use bytes::Bytes;
use prost::Message as _;

use super::{
    change::{Change, Tables, begin},
    error::EngineError,
    records::{CountersRecord, DeliveryRecord, EventChunk, EventRecord, LogChunk, SegmentRecord},
    segments::{Filter, filter_name},
    shared::Shared,
    tables::{self, DeliveryRow},
};
use crate::{
    limits::REQUEST_ID_WINDOW,
    model::{
        delivery::DeliveryState,
        ids::{EventSeq, WebhookNo},
        time::Timestamp,
    },
};

/// A segment of this size takes no more.
const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;
/// Nor does one that spans more than this part of the retention time, so that whole files come free in time.
const SEGMENTS_PER_RETENTION: u32 = 16;
/// Bytes of events, and of log, that one step moves.
const STEP_BYTES: usize = 512 * 1024;
/// Rows one step examines or rewrites where it does not count bytes.
const STEP_ROWS: usize = 256;

/// What the hot store is to do about a step.
#[derive(Debug)]
pub(super) enum Archived {
    /// These rows are in the segment now.
    Moved(Box<Moved>),
    /// The segment takes no more.
    Sealed(u64, SegmentRecord),
    /// Pending deliveries need these events after their segment is gone.
    Rescue(Vec<Rescued>),
    /// Nobody needs the segment any more.
    Dropped(u64, SegmentRecord),
    /// Rescued events whose last delivery has ended: number, and key in `EVENT_IDS`.
    Forget(Vec<(u64, Vec<u8>)>),
    /// Requests answered at these times need not be remembered.
    Requests(Vec<(i64, Vec<u8>)>),
}

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

#[derive(Debug)]
pub(super) struct Rescued {
    seq: u64,
    record: Vec<u8>,
    key: Vec<u8>,
    id: (u64, u128, u32),
}

/// Decides on and prepares background work; one step at a time.
#[derive(Debug, Default)]
pub(super) struct Archivist {
    /// Rescued events below this were looked at in this round.
    rescued_seen: AtomicU64,
}

impl Archivist {
    /// The next step, if one is due. May have written to a segment already.
    pub(super) fn step(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        if let Some(step) = seal(shared, now)? {
            return Ok(Some(step));
        }
        if let Some(step) = move_oldest(shared, now)? {
            return Ok(Some(step));
        }
        if let Some(step) = retire(shared, now)? {
            return Ok(Some(step));
        }
        if let Some(step) = expire_requests(shared, now)? {
            return Ok(Some(step));
        }
        self.forget_rescued(shared)
    }

    fn forget_rescued(&self, shared: &Shared) -> Result<Option<Archived>, EngineError> {
        let (txn, _) = shared.read()?;
        let rescued = txn.open_table(tables::RESCUED)?;
        let from = self.rescued_seen.load(Ordering::Relaxed);
        let mut forget = Vec::new();
        let mut next = 0;
        for row in rescued.range(from..)?.take(STEP_ROWS) {
            let (seq, bytes) = row?;
            let record = EventRecord::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            next = seq.value() + 1;
            if !is_live(shared, &txn, EventSeq(seq.value()), &record)? {
                forget.push((seq.value(), record.key()));
            }
        }
        self.rescued_seen.store(next, Ordering::Relaxed);
        Ok((!forget.is_empty()).then_some(Archived::Forget(forget)))
    }
}

/// Closes the segment that takes more when it is large or old enough.
fn seal(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let Some(segment) = shared.segments.all().pop().filter(|segment| !segment.record.sealed) else { return Ok(None) };
    let old = now.since(Timestamp::from_micros(segment.record.oldest)) >= segment_span(shared);
    if segment.record.bytes < SEGMENT_BYTES && !old {
        return Ok(None);
    }
    let txn = begin(&*shared.segments.database(segment.no)?)?;
    txn.open_table(tables::META)?.insert(filter_name(), shared.segments.filter(segment.no).to_bytes().as_slice())?;
    txn.commit()?;
    Ok(Some(Archived::Sealed(segment.no, SegmentRecord { sealed: true, ..segment.record.clone() })))
}

/// Copies the oldest chunks of the hot store into the open segment when they are too many or too old.
fn move_oldest(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
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
        excess: counters.hot_bytes.saturating_sub(shared.config.hot_bytes_max),
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
    let txn = begin(&*shared.segments.database(segment)?)?;
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
            if bytes >= STEP_BYTES || !self.takes(newest, encoded.len()) {
                break;
            }
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
            if bytes >= STEP_BYTES || !self.takes(newest, encoded.len()) {
                break;
            }
            for row in ended {
                if let Some(delivery) = hot_deliveries.get(row)? {
                    deliveries.insert(row, delivery.value())?;
                    self.moved.deliveries.push(row);
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

/// Removes the oldest segment when all of it is past retention; first rescues events that pending deliveries need.
fn retire(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let Some(segment) = shared.segments.all().into_iter().next().filter(|segment| segment.record.sealed) else {
        return Ok(None);
    };
    if now.since(Timestamp::from_micros(segment.record.newest)) < shared.config.retention {
        return Ok(None);
    }
    let (hot, _) = shared.read()?;
    let rescued = hot.open_table(tables::RESCUED)?;
    let database = shared.segments.database(segment.no)?;
    let read = ::redb::ReadableDatabase::begin_read(&*database)?;
    let (chunks, ids) = (read.open_table(tables::EVENT_CHUNKS)?, read.open_table(tables::EVENT_IDS)?);
    let mut rescue = Vec::new();
    for row in chunks.iter()? {
        let (first, encoded) = row?;
        let chunk = EventChunk::decode_from(Bytes::copy_from_slice(encoded.value()))?;
        for index in 0..chunk.len() {
            let seq = first.value() + index as u64;
            let Some(record) = chunk.event(index).transpose()? else { break };
            if rescued.get(seq)?.is_some() || !is_live(shared, &hot, EventSeq(seq), &record)? {
                continue;
            }
            let key = record.key();
            if let Some(id) = ids.get(key.as_slice())?.map(|id| id.value()) {
                rescue.push(Rescued { seq, record: record.encode_to_vec(), key, id });
            }
            if rescue.len() >= STEP_ROWS {
                return Ok(Some(Archived::Rescue(rescue)));
            }
        }
    }
    if !rescue.is_empty() {
        return Ok(Some(Archived::Rescue(rescue)));
    }
    Ok(Some(Archived::Dropped(segment.no, segment.record.clone())))
}

fn expire_requests(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let (txn, _) = shared.read()?;
    let until = (now - REQUEST_ID_WINDOW).micros();
    let mut expired = Vec::new();
    for row in txn.open_table(tables::REQUESTS_BY_TIME)?.range(..(until, &[][..]))?.take(STEP_ROWS) {
        let (key, ()) = (row?.0, ());
        let (time, request) = key.value();
        expired.push((time, request.to_vec()));
    }
    Ok((!expired.is_empty()).then_some(Archived::Requests(expired)))
}

/// Whether a delivery of this event is pending.
fn is_live(shared: &Shared, hot: &ReadTransaction, seq: EventSeq, record: &EventRecord) -> Result<bool, EngineError> {
    if shared.fan_outs.read().contains_key(&seq) {
        return Ok(true);
    }
    let (ready, deliveries) = (hot.open_table(tables::READY)?, hot.open_table(tables::DELIVERIES)?);
    for WebhookNo(no) in record.targets()? {
        let row = (no, seq.0, 0);
        if shared.catalog.webhook(WebhookNo(no)).is_none() {
            continue;
        }
        if ready.get(row)?.is_some() {
            return Ok(true);
        }
        if let Some(delivery) = deliveries.get(row)?
            && DeliveryRecord::decode_from(delivery.value())?.state()? == DeliveryState::Pending
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn segment_span(shared: &Shared) -> Duration {
    shared.config.retention / SEGMENTS_PER_RETENTION
}

impl Change<'_> {
    /// The hot store's part of a step.
    pub(super) fn archived(&mut self, tables: &mut Tables<'_>, step: Archived) -> Result<(), EngineError> {
        match step {
            Archived::Moved(moved) => self.moved(tables, *moved)?,
            Archived::Sealed(no, record) => {
                tables.segments.insert(no, record.encode_to_vec().as_slice())?;
            }
            Archived::Rescue(events) => {
                for event in events {
                    tables.rescued.insert(event.seq, event.record.as_slice())?;
                    tables.event_ids.insert(event.key.as_slice(), event.id)?;
                }
            }
            Archived::Dropped(no, record) => {
                tables.segments.remove(no)?;
                self.counters.log_from = self.counters.log_from.max(record.log_until);
            }
            Archived::Forget(events) => {
                for (seq, key) in events {
                    tables.rescued.remove(seq)?;
                    tables.event_ids.remove(key.as_slice())?;
                }
            }
            Archived::Requests(requests) => {
                for (time, key) in requests {
                    tables.requests_by_time.remove((time, key.as_slice()))?;
                    tables.requests.remove(key.as_slice())?;
                }
            }
        }
        Ok(())
    }

    fn moved(&mut self, tables: &mut Tables<'_>, moved: Moved) -> Result<(), EngineError> {
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

/// What is left to do once the hot store has done its part.
pub(super) enum Afterwards {
    Nothing,
    Seal(u64, SegmentRecord),
    Remove(u64),
}

impl Archived {
    pub(super) fn afterwards(&self) -> Afterwards {
        match self {
            Self::Sealed(no, record) => Afterwards::Seal(*no, record.clone()),
            Self::Dropped(no, _) => Afterwards::Remove(*no),
            Self::Moved(_) | Self::Rescue(_) | Self::Forget(_) | Self::Requests(_) => Afterwards::Nothing,
        }
    }
}

impl Afterwards {
    pub(super) fn run(self, shared: &Shared) -> Result<(), EngineError> {
        match self {
            Self::Nothing => Ok(()),
            Self::Seal(no, record) => {
                let filter = shared.segments.filter(no);
                shared.segments.put(no, record, filter);
                Ok(())
            }
            Self::Remove(no) => shared.segments.remove(no),
        }
    }
}
