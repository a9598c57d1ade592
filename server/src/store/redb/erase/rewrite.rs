//! Writing a segment anew, without what is erased: a file beside it, in steps, and one commit of the hot store that puts it in its
//! place. A file that was not finished is removed when the store is opened.

use ::redb::{Key, ReadTransaction, ReadableTable as _, TableDefinition, Value, WriteTransaction};
use bytes::Bytes;
use prost::Message as _;

use super::{apply::hollow_log, sieve::Sieve, sweep::Told};
use crate::store::redb::{
    change::begin,
    error::EngineError,
    records::{EventChunk, LogChunk, SegmentRecord},
    shared::Shared,
    tables::{self, DeliveryRow, existing},
};

/// Bytes that one step copies, give or take a row.
const STEP_BYTES: usize = 2 * 1024 * 1024;
/// Rows that one step copies or looks at.
const STEP_ROWS: usize = if cfg!(test) { 4 } else { 4_096 };
/// Chunks that one step looks through.
const STEP_CHUNKS: usize = if cfg!(test) { 2 } else { 64 };

/// A segment that is finished.
pub(super) type Rewritten = (u64, SegmentRecord);

/// Looking through a segment for something to erase.
#[derive(Debug)]
pub(super) struct Search {
    segment: u64,
    /// Where to go on, chunk by chunk.
    events: u64,
    log: u64,
}

impl Search {
    pub(super) fn new(segment: u64) -> Self {
        Self { segment, events: 0, log: 0 }
    }

    /// One step: whether it holds something, once that is known; also adds the events that told of it.
    pub(super) fn step(
        &mut self,
        shared: &Shared,
        record: &SegmentRecord,
        sieve: &Sieve,
        told: &mut Vec<Told>,
    ) -> Result<Option<bool>, EngineError> {
        let read = shared.segments.read(self.segment)?;
        if self.events == 0 && self.log == 0 && names_a_delivery(&read, record, sieve)? {
            // What told of it is found when it is copied.
            return Ok(Some(true));
        }
        if let Some(found) = self.search_events(&read, sieve, told)? {
            return Ok(found.then_some(true));
        }
        let Some(table) = existing(read.open_table(tables::LOG))? else { return Ok(Some(false)) };
        let mut looked = 0;
        for row in table.range(self.log..)?.take(STEP_CHUNKS) {
            let (first, bytes) = row?;
            looked += 1;
            self.log = first.value() + 1;
            let chunk = LogChunk::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            if chunk.entries.iter().any(|entry| sieve.takes_entry(entry)) {
                return Ok(Some(true));
            }
        }
        Ok((looked < STEP_CHUNKS).then_some(false))
    }

    /// `None`: there is nothing, and there are no more; otherwise whether something was found.
    fn search_events(
        &mut self,
        read: &ReadTransaction,
        sieve: &Sieve,
        told: &mut Vec<Told>,
    ) -> Result<Option<bool>, EngineError> {
        let Some(table) = existing(read.open_table(tables::EVENT_CHUNKS))? else { return Ok(None) };
        let mut looked = 0;
        let mut found = false;
        for row in table.range(self.events..)?.take(STEP_CHUNKS) {
            let (first, bytes) = row?;
            looked += 1;
            self.events = first.value() + 1;
            let chunk = EventChunk::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            found |= look_at(&chunk, first.value(), sieve, told)?;
        }
        Ok((looked > 0).then_some(found))
    }
}

/// Whether something of a chunk is to be erased; adds the events that told of it.
pub(super) fn look_at(
    chunk: &EventChunk,
    first: u64,
    sieve: &Sieve,
    told: &mut Vec<Told>,
) -> Result<bool, EngineError> {
    let mut found = false;
    for index in 0..chunk.len() {
        let Some(event) = chunk.event(index).transpose()? else { continue };
        let seq = first + index as u64;
        found |= sieve.takes_event(seq, &event);
        told.extend(sieve.told(seq, &event));
    }
    Ok(found)
}

/// Whether a delivery of one of the events is in it.
fn names_a_delivery(read: &ReadTransaction, record: &SegmentRecord, sieve: &Sieve) -> Result<bool, EngineError> {
    let Some(table) = existing(read.open_table(tables::DELIVERIES))? else { return Ok(false) };
    for event in sieve.events().into_iter().filter(|event| record.may_have_delivery(*event)) {
        if table.range((event, 0, 0)..=(event, u64::MAX, u32::MAX))?.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The copy of a segment in the making.
#[derive(Debug)]
pub(super) struct Rewrite {
    segment: u64,
    record: SegmentRecord,
    part: Part,
}

/// What is copied next: a table, and from where on.
#[derive(Debug)]
enum Part {
    Meta,
    Events(u64),
    Ids(Vec<u8>),
    Log(u64),
    Deliveries(DeliveryRow),
    Runs((u64, u64)),
    Done,
}

impl Rewrite {
    /// Of a segment; what is there of an earlier try goes.
    pub(super) fn begin(shared: &Shared, segment: u64, record: &SegmentRecord) -> Result<Self, EngineError> {
        let record = SegmentRecord { generation: record.generation + 1, ..record.clone() };
        shared.segments.discard(segment, record.generation)?;
        Ok(Self { segment, record, part: Part::Meta })
    }

    /// Copies some more. Returns what the segment is like once the copy is complete and durable.
    pub(super) fn step(
        &mut self,
        shared: &Shared,
        sieve: &Sieve,
        told: &mut Vec<Told>,
    ) -> Result<Option<Rewritten>, EngineError> {
        let read = shared.segments.read(self.segment)?;
        let file = shared.segments.successor(self.segment, self.record.generation)?;
        let txn = begin(&file)?;
        let mut room = STEP_BYTES;
        while room > 0 {
            self.part = match &self.part {
                Part::Meta => self.meta(&read, &txn)?,
                Part::Events(from) => self.events((&read, &txn), *from, (sieve, told), &mut room)?,
                Part::Ids(from) => self.ids(&read, &txn, from, sieve, &mut room)?,
                Part::Log(from) => self.log(&read, &txn, *from, sieve, &mut room)?,
                Part::Deliveries(from) => deliveries(&read, &txn, *from, sieve, &mut room)?,
                Part::Runs(from) => runs(&read, &txn, *from, &mut room)?,
                Part::Done => break,
            };
        }
        txn.commit()?;
        Ok(matches!(self.part, Part::Done).then(|| (self.segment, self.record.clone())))
    }

    fn meta(&self, read: &ReadTransaction, txn: &WriteTransaction) -> Result<Part, EngineError> {
        let next = Part::Events(self.record.events_from);
        let Some(from) = existing(read.open_table(tables::META))? else { return Ok(next) };
        let mut to = txn.open_table(tables::META)?;
        for row in from.iter()? {
            let (key, value) = row?;
            to.insert(key.value(), value.value())?;
        }
        Ok(next)
    }

    fn events(
        &self,
        (read, txn): (&ReadTransaction, &WriteTransaction),
        from: u64,
        (sieve, told): (&Sieve, &mut Vec<Told>),
        room: &mut usize,
    ) -> Result<Part, EngineError> {
        let mut to = txn.open_table(tables::EVENT_CHUNKS)?;
        if let Some(table) = existing(read.open_table(tables::EVENT_CHUNKS))? {
            // What is beyond belongs to a move that was cut short, and will be repeated.
            for row in table.range(from..self.record.events_until.max(from))? {
                let (first, bytes) = row?;
                let first = first.value();
                if *room == 0 {
                    return Ok(Part::Events(first));
                }
                let chunk = EventChunk::decode_from(Bytes::copy_from_slice(bytes.value()))?;
                look_at(&chunk, first, sieve, told)?;
                let (chunk, erased) = chunk.without(|index, event| sieve.takes_event(first + index as u64, event))?;
                if erased.is_empty() {
                    to.insert(first, bytes.value())?;
                } else {
                    to.insert(first, chunk.encode_to_vec().as_slice())?;
                }
                *room = room.saturating_sub(bytes.value().len());
            }
        }
        Ok(Part::Ids(Vec::new()))
    }

    fn ids(
        &self,
        read: &ReadTransaction,
        txn: &WriteTransaction,
        from: &[u8],
        sieve: &Sieve,
        room: &mut usize,
    ) -> Result<Part, EngineError> {
        let mut to = txn.open_table(tables::EVENT_IDS)?;
        let Some(table) = existing(read.open_table(tables::EVENT_IDS))? else {
            return Ok(Part::Log(self.record.log_from));
        };
        let events = self.record.events_from..self.record.events_until;
        for (copied, row) in table.range(from..)?.enumerate() {
            let (key, id) = row?;
            if copied == STEP_ROWS {
                *room = 0;
                return Ok(Part::Ids(key.value().to_vec()));
            }
            let (seq, ..) = id.value();
            if !sieve.takes_id(seq, key.value()) && events.contains(&seq) {
                to.insert(key.value(), id.value())?;
            }
        }
        Ok(Part::Log(self.record.log_from))
    }

    fn log(
        &self,
        read: &ReadTransaction,
        txn: &WriteTransaction,
        from: u64,
        sieve: &Sieve,
        room: &mut usize,
    ) -> Result<Part, EngineError> {
        let mut to = txn.open_table(tables::LOG)?;
        if let Some(table) = existing(read.open_table(tables::LOG))? {
            for row in table.range(from..self.record.log_until.max(from))? {
                let (first, bytes) = row?;
                if *room == 0 {
                    return Ok(Part::Log(first.value()));
                }
                let chunk = LogChunk::decode_from(Bytes::copy_from_slice(bytes.value()))?;
                to.insert(first.value(), hollow_log(chunk, sieve).encode_to_vec().as_slice())?;
                *room = room.saturating_sub(bytes.value().len());
            }
        }
        Ok(Part::Deliveries((0, 0, 0)))
    }
}

fn deliveries(
    read: &ReadTransaction,
    txn: &WriteTransaction,
    from: DeliveryRow,
    sieve: &Sieve,
    room: &mut usize,
) -> Result<Part, EngineError> {
    let next = copy(tables::DELIVERIES, read, txn, from, room, |row| !sieve.takes_delivery(row))?;
    Ok(next.map_or(Part::Runs((0, 0)), Part::Deliveries))
}

fn runs(
    read: &ReadTransaction,
    txn: &WriteTransaction,
    from: (u64, u64),
    room: &mut usize,
) -> Result<Part, EngineError> {
    // Numbers of events without a record are nobody's.
    let next = copy(tables::RUNS, read, txn, from, room, |_| true)?;
    Ok(next.map_or(Part::Done, Part::Runs))
}

/// Copies rows that are wanted; returns where to go on, if there are more.
fn copy<K, V>(
    definition: TableDefinition<'static, K, V>,
    read: &ReadTransaction,
    txn: &WriteTransaction,
    from: K,
    room: &mut usize,
    wanted: impl Fn(K) -> bool,
) -> Result<Option<K>, EngineError>
where
    K: Key + Copy + for<'a> Value<SelfType<'a> = K> + std::borrow::Borrow<K> + 'static,
    V: Value + 'static,
{
    let mut to = txn.open_table(definition)?;
    let Some(table) = existing(read.open_table(definition))? else { return Ok(None) };
    for (copied, row) in table.range(from..)?.enumerate() {
        let (key, value) = row?;
        if copied == STEP_ROWS {
            *room = 0;
            return Ok(Some(key.value()));
        }
        if wanted(key.value()) {
            to.insert(key.value(), value.value())?;
        }
    }
    Ok(None)
}
