//! Keeping the hot store small, and the disk finite: chunks move to segments, old segments go.
//!
//! Every step is small, repeatable, and in this order: write the segment durably, say so in the list of segments, then let
//! the hot store forget. A crash in between repeats the step.

use std::{
    collections::HashSet,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ::redb::ReadTransaction;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;

use super::{
    change::{Change, Tables, begin},
    error::EngineError,
    mover::{Moved, Slices},
    ready::ReadyIn,
    records::{DeliveryRecord, EventChunk, EventRecord, SegmentRecord},
    segments::{FILTER_EVENTS, filter_name},
    shared::Shared,
    tables::{self, delivery_row, lane_row},
};
use crate::{
    limits::REQUEST_ID_WINDOW,
    model::{
        delivery::DeliveryState,
        ids::{DeliveryKey, EventSeq, Position},
        time::Timestamp,
    },
};

/// A segment of this size takes no more.
const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;
/// Nor does one that spans more than this part of the retention time, so that whole files come free in time.
const SEGMENTS_PER_RETENTION: u32 = 16;
/// Rows one step examines or rewrites where it does not count bytes.
const STEP_ROWS: usize = 256;
/// Chunks of events that are searched with one snapshot.
const STEP_CHUNKS: usize = 64;

/// What the hot store is to do about a step.
#[derive(Debug)]
pub(super) enum Archived {
    /// These rows are in a segment now.
    Moved(Box<Moved>),
    /// The segment takes no more.
    Sealed(u64, SegmentRecord),
    /// Pending deliveries need these events after their segment is gone.
    Rescue(Vec<Rescued>),
    /// Nobody needs the segment any more.
    Dropped(u64, SegmentRecord),
    /// Rescued events whose last delivery has ended: number, and key in `EVENT_IDS`; unless there were more revivals than so
    /// many.
    Forget(Vec<(u64, Vec<u8>)>, u64),
    /// Requests answered at these times need not be remembered.
    Requests(Vec<(i64, Vec<u8>)>),
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
    /// Whose turn it is.
    turn: AtomicU64,
    /// What was moved and is still in the hot store.
    slices: Mutex<Slices>,
    /// How far the segment that is to go was searched for pending deliveries: its number, and the next event.
    searched: Mutex<(u64, u64)>,
}

impl Archivist {
    /// The next step, if one is due. May have written to a segment already. Kinds of steps take turns: none keeps the others
    /// out, however much there is of it, nor by failing: on a full disk nothing moves, and what is too old must go all the same.
    pub(super) fn step(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        let mut failure = None;
        let mut found = |step: Result<Option<Archived>, EngineError>| {
            step.unwrap_or_else(|error| {
                failure = Some(error);
                None
            })
        };
        // Not in the middle of a move, which says how far the segment reaches.
        if self.slices.lock().are_done(&shared.counters.lock())
            && let Some(step) = found(seal(shared, now))
        {
            return Ok(Some(step));
        }
        for _ in 0..4 {
            let step = match self.turn.fetch_add(1, Ordering::Relaxed) % 4 {
                0 => self.move_slice(shared, now),
                1 => self.retire(shared, now),
                2 => expire_requests(shared, now),
                _ => self.forget_rescued(shared),
            };
            if let Some(step) = found(step) {
                return Ok(Some(step));
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn move_slice(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        let slice = self.slices.lock().next(shared, now)?;
        Ok(slice.map(|slice| Archived::Moved(Box::new(slice))))
    }

    fn forget_rescued(&self, shared: &Shared) -> Result<Option<Archived>, EngineError> {
        let (wide, revivals) = (fanning_out(shared), shared.revivals());
        let (txn, _) = shared.read()?;
        let (rescued, ready) = (txn.open_table(tables::RESCUED)?, ReadyIn::open(&txn)?);
        let from = self.rescued_seen.load(Ordering::Relaxed);
        let mut forget = Vec::new();
        let mut next = 0;
        for row in rescued.range(from..)?.take(STEP_ROWS) {
            let (seq, bytes) = row?;
            let record = EventRecord::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            next = seq.value() + 1;
            if !is_live(shared, &wide, &txn, &ready, EventSeq(seq.value()), &record)? {
                forget.push((seq.value(), record.key()));
            }
        }
        self.rescued_seen.store(next, Ordering::Relaxed);
        Ok((!forget.is_empty()).then_some(Archived::Forget(forget, revivals)))
    }

    /// Removes the oldest segment when all of it is past retention; first rescues events that pending deliveries need.
    fn retire(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        let Some(segment) = shared.segments.all().into_iter().next().filter(|segment| segment.record.sealed) else {
            return Ok(None);
        };
        if now.since(Timestamp::from_micros(segment.record.newest)) < shared.config.retention {
            return Ok(None);
        }
        let mut searched = self.searched.lock();
        if searched.0 != segment.no {
            *searched = (segment.no, segment.record.events_from);
        }
        while searched.1 < segment.record.events_until {
            let (rescue, next) = search(shared, segment.no, searched.1..segment.record.events_until)?;
            if !rescue.is_empty() {
                // The same place again until they are safe: they are not pending there then.
                return Ok(Some(Archived::Rescue(rescue)));
            }
            searched.1 = next.unwrap_or(segment.record.events_until);
        }
        Ok(Some(Archived::Dropped(segment.no, segment.record.clone())))
    }
}

/// Closes the segment that takes more when it is large or old enough.
fn seal(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let Some(segment) = shared.segments.all().pop().filter(|segment| !segment.record.sealed) else { return Ok(None) };
    let SegmentRecord { bytes, events_from, events_until, newest, oldest, .. } = segment.record;
    let (newest, oldest) = (Timestamp::from_micros(newest), Timestamp::from_micros(oldest));
    let full = bytes >= SEGMENT_BYTES || events_until - events_from >= FILTER_EVENTS as u64;
    // By what it spans, not by its age: what comes here is old already. The last one of an idle store ends by age alone.
    let spans = newest.since(oldest) >= segment_span(shared) || now.since(newest) >= 3 * segment_span(shared);
    if !full && !spans {
        return Ok(None);
    }
    let database = shared.segments.writable(segment.no)?;
    let txn = begin(&database)?;
    txn.open_table(tables::META)?.insert(filter_name(), shared.segments.filter(segment.no).to_bytes().as_slice())?;
    txn.commit()?;
    Ok(Some(Archived::Sealed(segment.no, SegmentRecord { sealed: true, ..segment.record.clone() })))
}

/// Looks through a few chunks of a segment, of those that begin in `events`, for events with pending deliveries. Returns those
/// not rescued yet, and where the next chunk begins. Beyond what the segment's record names there may be more: the beginning of a
/// move that was cut short, which the hot store still has.
fn search(shared: &Shared, segment: u64, events: Range<u64>) -> Result<(Vec<Rescued>, Option<u64>), EngineError> {
    let wide = fanning_out(shared);
    let (hot, _) = shared.read()?;
    let (rescued, ready) = (hot.open_table(tables::RESCUED)?, ReadyIn::open(&hot)?);
    let read = shared.segments.read(segment)?;
    let (chunks, ids) = (read.open_table(tables::EVENT_CHUNKS)?, read.open_table(tables::EVENT_IDS)?);
    let mut rescue = Vec::new();
    let mut rows = chunks.range(events)?;
    for row in rows.by_ref().take(STEP_CHUNKS) {
        let (first, encoded) = row?;
        let chunk = EventChunk::decode_from(Bytes::copy_from_slice(encoded.value()))?;
        for index in 0..chunk.len() {
            let seq = first.value() + index as u64;
            let Some(record) = chunk.event(index).transpose()? else { break };
            if rescued.get(seq)?.is_some() || !is_live(shared, &wide, &hot, &ready, EventSeq(seq), &record)? {
                continue;
            }
            let key = record.key();
            if let Some(id) = ids.get(key.as_slice())?.map(|id| id.value()) {
                rescue.push(Rescued { seq, record: record.encode_to_vec(), key, id });
            }
            if rescue.len() >= STEP_ROWS {
                return Ok((rescue, None));
            }
        }
    }
    let next = rows.next().transpose()?.map(|(first, _)| first.value());
    Ok((rescue, next))
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
fn is_live(
    shared: &Shared,
    wide: &HashSet<EventSeq>,
    hot: &ReadTransaction,
    ready: &ReadyIn,
    seq: EventSeq,
    record: &EventRecord,
) -> Result<bool, EngineError> {
    if wide.contains(&seq) {
        return Ok(true);
    }
    let (parked, deliveries) = (hot.open_table(tables::PARKED)?, hot.open_table(tables::DELIVERIES)?);
    for webhook in record.targets()? {
        let key = DeliveryKey { webhook, event: seq, replay: 0 };
        if shared.catalog.webhook(webhook).is_none() {
            continue;
        }
        if ready.has(lane_row(key))? || parked.get(lane_row(key))?.is_some() {
            return Ok(true);
        }
        if let Some(delivery) = deliveries.get(delivery_row(key))?
            && DeliveryRecord::decode_from(delivery.value())?.state()? == DeliveryState::Pending
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Events on their way to more webhooks. To be asked before a snapshot is taken: what has left here by then is in its rows.
fn fanning_out(shared: &Shared) -> HashSet<EventSeq> {
    shared.fan_outs.read().keys().copied().collect()
}

pub(super) fn segment_span(shared: &Shared) -> Duration {
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
            // What is pending again is not forgotten; the next round looks again.
            Archived::Forget(_, revivals) if self.revived || revivals != self.shared.revivals() => {}
            Archived::Forget(events, _) => {
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
}

/// What is left to do once the hot store has done its part.
pub(super) enum Afterwards {
    Nothing,
    Seal(u64, SegmentRecord),
    Remove(u64, SegmentRecord),
}

impl Archived {
    pub(super) fn afterwards(&self) -> Afterwards {
        match self {
            Self::Sealed(no, record) => Afterwards::Seal(*no, record.clone()),
            Self::Dropped(no, record) => Afterwards::Remove(*no, record.clone()),
            Self::Moved(_) | Self::Rescue(_) | Self::Forget(..) | Self::Requests(_) => Afterwards::Nothing,
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
            Self::Remove(no, record) => {
                shared.chunks.lock().forget(EventSeq(record.events_from)..EventSeq(record.events_until));
                shared.recent.lock().forget_before(Position(record.log_until));
                shared.segments.remove(no)
            }
        }
    }
}
