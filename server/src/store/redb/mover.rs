//! Moving the oldest chunks of the hot store into the segment that takes more.
//!
//! A *move* copies some megabytes into the segment with one commit; the hot store then forgets them in *slices*, each small
//! enough to ride with other commits. A slice says how far the segment's record reaches after it, so a crash between two
//! slices repeats the rest of the move, and what was copied is copied to where it is.

use std::collections::{BTreeMap, VecDeque};

use ::redb::{ReadTransaction, ReadableTable as _, WriteTransaction};
use bytes::Bytes;
use prost::Message as _;

use super::{
    archive::segment_span,
    change::{Change, Tables, begin},
    error::EngineError,
    records::{CountersRecord, DeliveryRecord, EventChunk, LogChunk, RunRecord, SegmentRecord},
    segments::Filter,
    set_back::SetBacks,
    shared::Shared,
    tables::{self, DeliveryRow, delivery_row},
    volume,
};
use crate::{limits::UPKEEP_ROWS_MAX, model::time::Timestamp};

/// Bytes of events, and of log, that one move copies. More makes longer waits for the disk, less makes shorter runs.
const MOVE_BYTES: usize = 2 * 1024 * 1024;
/// Rows of deliveries that one move copies, give or take a chunk.
const MOVE_ROWS: usize = 8 * SLICE_ROWS;
/// Rows that the hot store forgets at once. Unit tests get by with few, so that slices are many.
const SLICE_ROWS: usize = if cfg!(test) { 3 } else { UPKEEP_ROWS_MAX };
/// A hot store that is too large gets smaller by this part of what it may hold, but no more than a move takes.
const SLACK: u64 = 8;

/// Rows that are in a segment now, for the hot store to forget.
#[derive(Debug)]
pub(super) struct Moved {
    segment: u64,
    record: SegmentRecord,
    /// What the hot store holds begins here before, and there after.
    events: (u64, u64),
    log: (u64, u64),
    event_chunks: Vec<u64>,
    event_ids: Vec<Vec<u8>>,
    log_chunks: Vec<u64>,
    deliveries: Vec<DeliveryRow>,
    bytes: u64,
}

impl Moved {
    fn new(segment: u64, record: SegmentRecord, events_from: u64, log_from: u64) -> Self {
        Self {
            segment,
            record,
            events: (events_from, events_from),
            log: (log_from, log_from),
            event_chunks: Vec::new(),
            event_ids: Vec::new(),
            log_chunks: Vec::new(),
            deliveries: Vec::new(),
            bytes: 0,
        }
    }

    /// Where the hot store begins after it.
    fn next(&self) -> Self {
        Self::new(self.segment, self.record.clone(), self.events.1, self.log.1)
    }

    fn is_empty(&self) -> bool {
        self.event_chunks.is_empty() && self.log_chunks.is_empty()
    }

    /// Whether this is what the hot store is to forget next.
    fn follows(&self, counters: &CountersRecord) -> bool {
        self.events.0 == counters.hot_events_from && self.log.0 == counters.hot_log_from.max(1)
    }
}

/// The slices of the move under way, first one first.
#[derive(Debug, Default)]
pub(super) struct Slices {
    waiting: VecDeque<Moved>,
    /// Up to here, events and log, the segment holds what was moved, and the list of segments says so.
    reach: (u64, u64),
}

impl Slices {
    /// Whether the hot store has forgotten all that was moved.
    ///
    /// Until then the segment must not be sealed: what both hold would be rescued when the segment goes, and its ids forgotten
    /// with the rescued ones while the hot store still has the events.
    pub(super) fn are_done(&self, counters: &CountersRecord) -> bool {
        self.reach.0 <= counters.hot_events_from && self.reach.1 <= counters.hot_log_from.max(1)
    }

    /// The next slice. Begins a move if none is under way and the hot store holds too much, or something old.
    pub(super) fn next(&mut self, shared: &Shared, now: Timestamp) -> Result<Option<Moved>, EngineError> {
        let counters = *shared.counters.lock();
        if !self.waiting.front().is_some_and(|slice| slice.follows(&counters)) {
            // None, or the one before was not committed: then it is moved again.
            let again = if self.are_done(&counters) { (0, 0) } else { self.reach };
            self.waiting = move_oldest(shared, &counters, now, again)?;
            self.reach = self.waiting.back().map_or(self.reach, |last| (last.events.1, last.log.1));
        }
        Ok(self.waiting.pop_front())
    }
}

/// Copies the oldest chunks of the hot store into the open segment when they are too many or too old, or begin before `again`:
/// those were copied already, and the hot store has not forgotten them.
fn move_oldest(
    shared: &Shared,
    counters: &CountersRecord,
    now: Timestamp,
    again: (u64, u64),
) -> Result<VecDeque<Moved>, EngineError> {
    let (read, _) = shared.read()?;
    let span = segment_span(shared);
    let most = (shared.config.hot_bytes_max as u64).min(volume::part(&shared.config));
    // Some at a time, or every step would move a chunk.
    let excess = if counters.hot_bytes > most { counters.hot_bytes - (most - most / SLACK) } else { 0 };
    if excess == 0 && again == (0, 0) && !holds_older(shared, &read, now - span - span / 8)? {
        return Ok(VecDeque::new());
    }
    let last = shared.segments.all().pop().filter(|segment| !segment.record.sealed);
    let (segment, record) = match last {
        Some(segment) => (segment.no, shared.set_backs.segment(&segment.record)),
        None => (counters.last_segment + 1, SegmentRecord { oldest: i64::MAX, ..SegmentRecord::default() }),
    };
    let filter = shared.segments.filter(segment);
    let mut mover = Mover {
        old: now - span,
        excess,
        again,
        run: counters.hot_log_from.max(1),
        filter: &filter,
        set_backs: &shared.set_backs,
        slice: Moved::new(segment, record, counters.hot_events_from, counters.hot_log_from.max(1)),
        slices: VecDeque::new(),
    };
    let database = shared.segments.writable(segment)?;
    let txn = begin(&database)?;
    mover.events(&read, &txn)?;
    mover.log(&read, &txn)?;
    txn.commit()?;
    mover.close();
    let slices = mover.slices;
    // Before the hot store forgets: readers must know where to look.
    if let Some(last) = slices.back() {
        shared.segments.put(segment, last.record.clone(), filter);
    }
    Ok(slices)
}

/// Whether the first of the hot store's events or log entries is older than that.
fn holds_older(shared: &Shared, read: &ReadTransaction, than: Timestamp) -> Result<bool, EngineError> {
    if let Some(row) = read.open_table(tables::EVENT_CHUNKS)?.first()? {
        let chunk = EventChunk::decode_from(Bytes::copy_from_slice(row.1.value()))?;
        let first = (row.0.value()..).zip(0..chunk.len()).find_map(|(seq, index)| Some(seq).zip(chunk.event(index)));
        if let Some((seq, event)) = first
            && shared.set_backs.event(seq, event?.accept_time()) < than
        {
            return Ok(true);
        }
    }
    if let Some(row) = read.open_table(tables::LOG)?.first()? {
        let chunk = LogChunk::decode_from(Bytes::copy_from_slice(row.1.value()))?;
        for (at, entry) in (row.0.value()..).zip(&chunk.entries) {
            if let Some((time, _)) = entry.ended()? {
                return Ok(shared.set_backs.entry(at, time) < than);
            }
        }
    }
    Ok(false)
}

/// The latest time in a chunk, as its age counts and as it is stamped.
#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    counted: Option<Timestamp>,
    stamped: Option<Timestamp>,
}

impl Newest {
    fn see(&mut self, counted: Timestamp, stamped: Timestamp) {
        self.counted = self.counted.max(Some(counted));
        self.stamped = self.stamped.max(Some(stamped));
    }
}

struct Mover<'a> {
    old: Timestamp,
    excess: u64,
    again: (u64, u64),
    run: u64,
    filter: &'a Filter,
    set_backs: &'a SetBacks,
    /// The one being filled.
    slice: Moved,
    slices: VecDeque<Moved>,
}

impl Mover<'_> {
    fn events(&mut self, read: &ReadTransaction, txn: &WriteTransaction) -> Result<(), EngineError> {
        let (hot, hot_ids) = (read.open_table(tables::EVENT_CHUNKS)?, read.open_table(tables::EVENT_IDS)?);
        let (mut chunks, mut ids) = (txn.open_table(tables::EVENT_CHUNKS)?, txn.open_table(tables::EVENT_IDS)?);
        let mut moved = 0;
        for row in hot.iter()? {
            let (first, encoded) = row?;
            let (first, encoded) = (first.value(), Bytes::copy_from_slice(encoded.value()));
            let chunk = EventChunk::decode_from(encoded.clone())?;
            let mut newest = Newest::default();
            let mut keys = Vec::new();
            for index in 0..chunk.len() {
                let Some(record) = chunk.event(index).transpose()? else { continue };
                let accepted = record.accept_time();
                newest.see(self.set_backs.event(first + index as u64, accepted), accepted);
                keys.push(record.key());
            }
            let again = first < self.again.0;
            if (moved >= MOVE_BYTES && !again) || !self.takes(again, newest, encoded.len(), keys.len()) {
                break;
            }
            for key in keys {
                if let Some(id) = hot_ids.get(key.as_slice())? {
                    ids.insert(key.as_slice(), id.value())?;
                    self.filter.add(&key);
                }
                self.slice.event_ids.push(key);
            }
            chunks.insert(first, encoded.as_ref())?;
            moved += encoded.len();
            let record = &mut self.slice.record;
            if record.events_from == record.events_until {
                record.events_from = first;
            }
            record.events_until = first + chunk.len() as u64;
            self.slice.events.1 = record.events_until;
            self.slice.event_chunks.push(first);
        }
        Ok(())
    }

    fn log(&mut self, read: &ReadTransaction, txn: &WriteTransaction) -> Result<(), EngineError> {
        let (hot, hot_deliveries) = (read.open_table(tables::LOG)?, read.open_table(tables::DELIVERIES)?);
        let mut log = txn.open_table(tables::LOG)?;
        let mut deliveries = BTreeMap::new();
        let mut moved = 0;
        for row in hot.iter()? {
            let (first, encoded) = row?;
            let (first, encoded) = (first.value(), Bytes::copy_from_slice(encoded.value()));
            let chunk = LogChunk::decode_from(encoded.clone())?;
            let mut newest = Newest::default();
            let mut ended = Vec::new();
            for (at, entry) in (first..).zip(&chunk.entries) {
                let Some((time, keys)) = entry.ended()? else { continue };
                newest.see(self.set_backs.entry(at, time), time);
                ended.extend(keys.into_iter().map(|key| (at, delivery_row(key))));
            }
            let again = first < self.again.1;
            let full = moved >= MOVE_BYTES || deliveries.len() >= MOVE_ROWS;
            if (full && !again) || !self.takes(again, newest, encoded.len(), ended.len()) {
                break;
            }
            for (at, row) in ended {
                // One that was retried since lives on, or has ended again and goes with that entry.
                if let Some(delivery) = hot_deliveries.get(row)?
                    && DeliveryRecord::decode_from(delivery.value())?.ended_at(at)?
                {
                    deliveries.insert(row, delivery.value().to_vec());
                    self.slice.deliveries.push(row);
                    self.slice.record.hold_delivery(row.0, row.2);
                }
            }
            log.insert(first, encoded.as_ref())?;
            moved += encoded.len();
            let record = &mut self.slice.record;
            if record.log_from == record.log_until {
                record.log_from = first;
            }
            record.log_until = first + chunk.entries.len() as u64;
            self.slice.log.1 = record.log_until;
            self.slice.log_chunks.push(first);
        }
        self.write_run(txn, &deliveries)
    }

    /// Writes the deliveries that end here, and which of them are whose, both in the order of their keys.
    fn write_run(
        &self,
        txn: &WriteTransaction,
        deliveries: &BTreeMap<DeliveryRow, Vec<u8>>,
    ) -> Result<(), EngineError> {
        let mut by_webhook = BTreeMap::<u64, Vec<(u64, u32)>>::new();
        let mut table = txn.open_table(tables::DELIVERIES)?;
        for (&row, record) in deliveries {
            table.insert(row, record.as_slice())?;
            by_webhook.entry(row.1).or_default().push((row.0, row.2));
        }
        let mut runs = txn.open_table(tables::RUNS)?;
        for (webhook, deliveries) in by_webhook {
            let run = RunRecord::new(deliveries.into_iter());
            runs.insert((self.run, webhook), run.encode_to_vec().as_slice())?;
        }
        Ok(())
    }

    /// Whether a chunk is to be moved; counts it if so, in the next slice if this one has no room for its rows. One without a time
    /// was erased, and goes with the next.
    fn takes(&mut self, again: bool, newest: Newest, bytes: usize, rows: usize) -> bool {
        let bytes = bytes as u64;
        if !again && self.excess == 0 && newest.counted.is_some_and(|newest| newest >= self.old) {
            return false;
        }
        let in_slice = self.slice.event_ids.len() + self.slice.deliveries.len();
        if in_slice > 0 && in_slice + rows > SLICE_ROWS {
            self.close();
        }
        self.excess = self.excess.saturating_sub(bytes);
        self.slice.bytes += bytes;
        let record = &mut self.slice.record;
        record.bytes += bytes;
        if let Some(counted) = newest.counted {
            record.newest = record.newest.max(counted.micros());
            record.oldest = record.oldest.min(counted.micros());
        }
        if newest.stamped > newest.counted {
            record.latest = record.latest.max(newest.stamped.unwrap_or_default().micros());
        }
        true
    }

    fn close(&mut self) {
        let next = self.slice.next();
        let mut done = std::mem::replace(&mut self.slice, next);
        if !done.is_empty() {
            done.deliveries.sort_unstable();
            self.slices.push_back(done);
        }
    }
}

impl Change<'_> {
    /// The hot store's part of a slice.
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
            // It may have been retried since it was copied.
            let is_moved = match tables.deliveries.get(row)? {
                Some(bytes) => DeliveryRecord::decode_from(bytes.value())?.ended_by(moved.log.1.saturating_sub(1))?,
                None => false,
            };
            if is_moved {
                tables.deliveries.remove(row)?;
            }
        }
        tables.segments.insert(moved.segment, moved.record.encode_to_vec().as_slice())?;
        let counters: &mut CountersRecord = &mut self.counters;
        counters.last_segment = counters.last_segment.max(moved.segment);
        counters.hot_events_from = moved.events.1;
        counters.hot_log_from = moved.log.1;
        counters.hot_bytes = counters.hot_bytes.saturating_sub(moved.bytes);
        Ok(())
    }
}
