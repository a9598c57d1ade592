//! Keeping the hot store small, and the disk finite: chunks move to segments, old segments go.
//!
//! Every step is small, repeatable, and in this order: write the segment durably, say so in the list of segments, then let
//! the hot store forget. A crash in between repeats the step.

use std::{
    collections::HashSet,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use ::redb::ReadTransaction;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;

use super::{
    audit,
    change::{Change, Tables, begin},
    erase::{self, Sweep, Sweeping},
    error::EngineError,
    held::{HELD_ROWS, is_over},
    mover::{Moved, Slices},
    quotas,
    ready::ReadyIn,
    reanchor::{ScheduledRow, Search},
    records::{DeliveryRecord, EventChunk, EventRecord, SegmentRecord},
    segments::{FILTER_EVENTS, Segment, filter_name},
    shared::Shared,
    tables::{self, delivery_row, lane_row},
    volume,
};
use crate::{
    limits::{COMMIT_EVENT_BYTES_MAX, REQUEST_ID_WINDOW},
    model::{
        delivery::DeliveryState,
        ids::{DeliveryKey, EventSeq, Position, WebhookNo},
        time::Timestamp,
    },
};

/// A segment of this size takes no more.
const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;
/// Nor does one that spans more than this part of the retention time, so that whole files come free in time.
const SEGMENTS_PER_RETENTION: u32 = 16;
/// Kinds of steps that take turns.
const TURNS: u64 = 9;
/// Rows one step examines or rewrites where it does not count bytes.
const STEP_ROWS: usize = 256;
/// Chunks of events that are searched with one snapshot.
pub(super) const STEP_CHUNKS: usize = 64;

/// What the hot store is to do about a step.
#[derive(Debug)]
pub(super) enum Archived {
    /// These rows are in a segment now.
    Moved(Box<Moved>),
    /// The segment takes no more.
    Sealed(u64, SegmentRecord),
    /// Pending deliveries need these events after their segment is gone.
    Rescue(Vec<Rescued>),
    /// A segment is about to be searched: replays that are committed after this keep what they take from it.
    Announced,
    /// Nobody needs the segment any more, whose newest event was accepted then.
    Dropped(u64, SegmentRecord, Timestamp),
    /// These were held when their retention ended, as of now.
    Expired(Vec<DeliveryKey>, Timestamp),
    /// Rescued events whose last delivery has ended: number, and key in `EVENT_IDS`; unless there were more revivals than so
    /// many.
    Forget(Vec<(u64, Vec<u8>)>, u64),
    /// Requests answered at these times need not be remembered.
    Requests(Vec<(i64, Vec<u8>)>),
    /// A step of a sweep for what is erased.
    Erase(Sweeping),
    /// Finished erasures that need not be remembered.
    ForgetErasures(Vec<u64>),
    /// These were scheduled by a clock that was ahead.
    Reanchor(Vec<ScheduledRow>),
    /// Nothing of that kind is left.
    Reanchored,
    /// Nothing happened, and the store is to say when that was.
    Noted,
    /// Entries of the audit log that are too old, or too many.
    ForgetAudit(Vec<u64>),
    /// Nothing happened, and the hot store's file is to be made shorter.
    Emptied,
    /// Bytes that were counted on former days: day and tenant.
    ForgetBytes(Vec<(u32, String)>),
    /// Nothing: something was looked through, and there is more.
    Looked,
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
    searched: Mutex<Searched>,
    /// Looks for what is erased.
    sweep: Mutex<Sweep>,
    /// Whether it is the sweep's turn.
    sweeps: AtomicBool,
    /// Looks for what was scheduled by a clock that was ahead.
    reanchor: Mutex<Search>,
}

/// How far the segment that is to go was searched for pending deliveries.
#[derive(Debug, Default)]
struct Searched {
    segment: u64,
    /// The next event.
    next: u64,
    /// The latest acceptance so far.
    newest: Timestamp,
}

/// What a search found, as far as it came.
#[derive(Debug, Default)]
struct Found {
    /// Pending deliveries need these events.
    rescue: Vec<Rescued>,
    /// These are held, and their time is over.
    held: Vec<DeliveryKey>,
    /// The latest acceptance.
    newest: Timestamp,
    /// Where the next chunk begins.
    next: Option<u64>,
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
        let is_between_moves = self.slices.lock().are_done(&shared.counters.lock());
        if is_between_moves {
            let mut sweep = self.sweep.lock();
            let holds_moves = sweep.holds_moves();
            if !holds_moves && let Some(step) = found(seal(shared, now)) {
                return Ok(Some(step));
            }
            let is_its_turn = self.sweeps.fetch_not(Ordering::Relaxed);
            if (holds_moves || is_its_turn)
                && let Some(step) = found(sweep.step(shared))
            {
                return Ok(Some(step));
            }
        }
        for _ in 0..TURNS {
            let step = match self.turn.fetch_add(1, Ordering::Relaxed) % TURNS {
                0 => self.move_slice(shared, now),
                1 => self.retire(shared, now),
                2 => expire_requests(shared, now),
                3 => erase::expire(shared, now),
                4 => audit::expire(shared, now),
                5 => self.reanchor.lock().step(shared),
                6 => quotas::expire(shared, now),
                7 => shared.has_room_to_give_back().map(|has| has.then_some(Archived::Emptied)),
                _ => self.forget_rescued(shared, now),
            };
            if let Some(step) = found(step) {
                return Ok(Some(step));
            }
        }
        // Nobody else wanted the turn.
        if is_between_moves && let Some(step) = found(self.sweep.lock().step(shared)) {
            return Ok(Some(step));
        }
        failure.map_or(Ok(None), Err)
    }

    fn move_slice(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        let slice = self.slices.lock().next(shared, now)?;
        Ok(slice.map(|slice| Archived::Moved(Box::new(slice))))
    }

    fn forget_rescued(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        let (wide, revivals) = (fanning_out(shared), shared.revivals());
        let (txn, _) = shared.read()?;
        let (rescued, ready) = (txn.open_table(tables::RESCUED)?, ReadyIn::open(&txn)?);
        let from = self.rescued_seen.load(Ordering::Relaxed);
        let (mut forget, mut held) = (Vec::new(), Vec::new());
        let mut next = 0;
        for row in rescued.range(from..)?.take(STEP_ROWS) {
            let (seq, bytes) = row?;
            let record = EventRecord::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            next = seq.value() + 1;
            let over = is_over(shared, seq.value(), &record, now).then_some(&mut held);
            if !is_live(shared, &wide, &txn, &ready, EventSeq(seq.value()), &record, over)? {
                forget.push((seq.value(), record.key()));
            }
            if held.len() >= HELD_ROWS {
                break;
            }
        }
        if !held.is_empty() {
            // The same place again, until they have ended.
            return Ok(Some(Archived::Expired(held, now)));
        }
        self.rescued_seen.store(next, Ordering::Relaxed);
        Ok((!forget.is_empty()).then_some(Archived::Forget(forget, revivals)))
    }

    /// Removes the oldest segment when all of it is past retention, or one that there is no room for; first cancels what is held
    /// and past retention, and rescues events that pending deliveries need.
    fn retire(&self, shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
        let oldest = shared.segments.all().into_iter().next().filter(|segment| segment.record.sealed);
        let age =
            |segment: &Segment| now.since(Timestamp::from_micros(shared.set_backs.segment(&segment.record).newest));
        let expired = oldest.filter(|segment| age(segment) >= shared.config.retention);
        let segment = match expired {
            Some(expired) => Some(expired),
            None => shared.volume.surplus(shared)?,
        };
        let Some(segment) = segment else { return Ok(None) };
        let SegmentRecord { events_from, events_until, .. } = segment.record;
        let mut searched = self.searched.lock();
        if searched.segment != segment.no {
            *searched = Searched { segment: segment.no, next: events_from, newest: Timestamp::default() };
            // A commit under way may not have seen that; the one that says so comes after it, and the search after that.
            shared.retiring.store(segment.no, Ordering::Release);
            return Ok(Some(Archived::Announced));
        }
        while searched.next < events_until {
            let found = search(shared, segment.no, searched.next..events_until, now)?;
            // The same place again until they have ended, or are safe: they are not pending there then.
            if !found.held.is_empty() {
                return Ok(Some(Archived::Expired(found.held, now)));
            }
            if !found.rescue.is_empty() {
                return Ok(Some(Archived::Rescue(found.rescue)));
            }
            searched.newest = searched.newest.max(found.newest);
            searched.next = found.next.unwrap_or(events_until);
        }
        Ok(Some(Archived::Dropped(segment.no, segment.record.clone(), searched.newest)))
    }
}

/// Closes the segment that takes more when it is large or old enough.
fn seal(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let Some(segment) = shared.segments.all().pop().filter(|segment| !segment.record.sealed) else { return Ok(None) };
    let record = shared.set_backs.segment(&segment.record);
    let SegmentRecord { bytes, events_from, events_until, newest, oldest, .. } = record;
    let (newest, oldest) = (Timestamp::from_micros(newest), Timestamp::from_micros(oldest));
    let most = SEGMENT_BYTES.min(volume::part(&shared.config));
    let full = bytes >= most || events_until - events_from >= FILTER_EVENTS as u64;
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

/// Looks through a few chunks of a segment, of those that begin in `events`, for events with pending deliveries that are not
/// rescued yet, and for held ones whose time is over. Beyond what the segment's record names there may be more: the beginning of
/// a move that was cut short, which the hot store still has.
fn search(shared: &Shared, segment: u64, events: Range<u64>, now: Timestamp) -> Result<Found, EngineError> {
    let wide = fanning_out(shared);
    let (hot, _) = shared.read()?;
    let (rescued, ready) = (hot.open_table(tables::RESCUED)?, ReadyIn::open(&hot)?);
    let read = shared.segments.read(segment)?;
    let (chunks, ids) = (read.open_table(tables::EVENT_CHUNKS)?, read.open_table(tables::EVENT_IDS)?);
    let (mut found, mut bytes) = (Found::default(), 0);
    let mut rows = chunks.range(events)?;
    for row in rows.by_ref().take(STEP_CHUNKS) {
        let (first, encoded) = row?;
        let chunk = EventChunk::decode_from(Bytes::copy_from_slice(encoded.value()))?;
        for index in 0..chunk.len() {
            let seq = first.value() + index as u64;
            let Some(record) = chunk.event(index).transpose()? else { continue };
            found.newest = found.newest.max(shared.set_backs.event(seq, record.accept_time()));
            if rescued.get(seq)?.is_some() {
                continue;
            }
            let over = is_over(shared, seq, &record, now).then_some(&mut found.held);
            if is_live(shared, &wide, &hot, &ready, EventSeq(seq), &record, over)? {
                let key = record.key();
                if let Some(id) = ids.get(key.as_slice())?.map(|id| id.value()) {
                    let record = record.encode_to_vec();
                    bytes += record.len();
                    found.rescue.push(Rescued { seq, record, key, id });
                }
            }
            let full = found.rescue.len() >= STEP_ROWS || bytes >= COMMIT_EVENT_BYTES_MAX;
            if full || found.held.len() >= HELD_ROWS {
                return Ok(found);
            }
        }
    }
    found.next = rows.next().transpose()?.map(|(first, _)| first.value());
    Ok(found)
}

fn expire_requests(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let (txn, _) = shared.read()?;
    let until = (now - REQUEST_ID_WINDOW).micros();
    let mut expired = Vec::new();
    let table = txn.open_table(tables::REQUESTS_BY_TIME)?;
    let old = table.range(..(until, &[][..]))?;
    // Times that have not come are from a clock that was ahead, before it was set right.
    let is_window_over = shared.set_backs.last().is_some_and(|last| last.micros() < until);
    let ahead = if is_window_over { shared.clock.now().micros() } else { i64::MAX };
    for row in old.chain(table.range((ahead, &[][..])..)?).take(STEP_ROWS) {
        let (key, ()) = (row?.0, ());
        let (time, request) = key.value();
        expired.push((time, request.to_vec()));
    }
    Ok((!expired.is_empty()).then_some(Archived::Requests(expired)))
}

/// Whether a delivery of this event is pending. With `over`, its retention has ended: then what is held does not count, and is
/// added there, up to `HELD_ROWS` in all.
pub(super) fn is_live(
    shared: &Shared,
    wide: &HashSet<EventSeq>,
    hot: &ReadTransaction,
    ready: &ReadyIn,
    seq: EventSeq,
    record: &EventRecord,
    mut over: Option<&mut Vec<DeliveryKey>>,
) -> Result<bool, EngineError> {
    if wide.contains(&seq) {
        return Ok(true);
    }
    let (parked, deliveries) = (hot.open_table(tables::PARKED)?, hot.open_table(tables::DELIVERIES)?);
    let is_pending = |key| -> Result<bool, EngineError> {
        if ready.has(lane_row(key))? || parked.get(lane_row(key))?.is_some() {
            return Ok(true);
        }
        let Some(delivery) = deliveries.get(delivery_row(key))? else { return Ok(false) };
        Ok(DeliveryRecord::decode_from(delivery.value())?.state()? == DeliveryState::Pending)
    };
    let first = |webhook| DeliveryKey { webhook, event: seq, replay: 0 };
    let mut keys: Vec<_> = record.targets()?.into_iter().map(first).collect();
    if shared.has_replayed() {
        for row in deliveries.range((seq.0, 0, 0)..=(seq.0, u64::MAX, u32::MAX))? {
            let (_, webhook, replay) = row?.0.value();
            if replay > 0 {
                keys.push(DeliveryKey { webhook: WebhookNo(webhook), event: seq, replay });
            }
        }
    }
    let mut live = false;
    for key in keys {
        let Some(known) = shared.catalog.webhook(key.webhook) else { continue };
        match &mut over {
            Some(held) if !known.webhook.is_enabled() => {
                if held.len() >= HELD_ROWS {
                    return Ok(true);
                }
                if is_pending(key)? {
                    held.push(key);
                }
            }
            Some(_) if live => {}
            Some(_) => live = is_pending(key)?,
            None if is_pending(key)? => return Ok(true),
            None => {}
        }
    }
    Ok(live)
}

/// Events on their way to more webhooks. To be asked before a snapshot is taken: what has left here by then is in its rows.
pub(super) fn fanning_out(shared: &Shared) -> HashSet<EventSeq> {
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
            Archived::Dropped(no, record, newest) => {
                tables.segments.remove(no)?;
                self.counters.forget_events(record.events_until, newest);
                self.counters.log_from = self.counters.log_from.max(record.log_until);
            }
            Archived::Expired(held, now) => self.expire_held(tables, held, now)?,
            // What is pending again is not forgotten; the next round looks again.
            Archived::Forget(_, revivals) if self.revived || revivals != self.shared.revivals() => {}
            Archived::Forget(events, _) => {
                for (seq, key) in events {
                    tables.rescued.remove(seq)?;
                    tables.event_ids.remove(key.as_slice())?;
                }
            }
            Archived::Erase(sweeping) => self.sweep(tables, sweeping)?,
            Archived::ForgetErasures(erasures) => erase::forget_erasures(tables, erasures)?,
            Archived::Reanchor(rows) => self.reanchor(tables, rows)?,
            Archived::Reanchored => self.counters.reanchors = false,
            Archived::ForgetAudit(entries) => audit::forget(tables, entries)?,
            Archived::ForgetBytes(rows) => quotas::forget(tables, rows)?,
            // The commit itself says when it was.
            Archived::Announced | Archived::Looked | Archived::Noted | Archived::Emptied => {}
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
    Replace(u64, SegmentRecord),
    /// What was in memory before is not to be found there.
    Forget,
}

impl Archived {
    pub(super) fn afterwards(&self) -> Afterwards {
        match self {
            Self::Sealed(no, record) => Afterwards::Seal(*no, record.clone()),
            Self::Dropped(no, record, _) => Afterwards::Remove(*no, record.clone()),
            Self::Erase(sweeping) => sweeping.afterwards(),
            Self::Moved(_)
            | Self::Rescue(_)
            | Self::Announced
            | Self::Expired(..)
            | Self::Forget(..)
            | Self::Requests(_)
            | Self::ForgetErasures(_)
            | Self::Reanchor(_)
            | Self::Reanchored
            | Self::Noted
            | Self::Emptied
            | Self::ForgetAudit(_)
            | Self::ForgetBytes(_)
            | Self::Looked => Afterwards::Nothing,
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
                // Closed, a file gives back the room that it grew by and did not need.
                shared.segments.close_one(no);
                Ok(())
            }
            Self::Replace(no, record) => {
                let replaced = shared.segments.replace(no, record);
                shared.chunks.lock().forget(EventSeq(0)..EventSeq(u64::MAX));
                replaced
            }
            Self::Forget => {
                shared.chunks.lock().forget(EventSeq(0)..EventSeq(u64::MAX));
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
