//! What the rows of a store say, and whether it fits together.
//!
//! What a decision that is being carried out leaves behind for a while is no damage: counts, and what waits for its turn, are
//! compared only where nothing of that kind is under way.

use std::collections::{BTreeMap, HashMap, HashSet};

use ::redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, TableDefinition};
use bytes::Bytes;

use super::{
    super::{
        error::EngineError,
        pins::File,
        ready::ReadyIn,
        records::{
            ApiKeyRecord, Corrupt, CountersRecord, CountsRecord, DeliveryRecord, DropRecord, ErasureRecord, EventChunk,
            EventRecord, EventTypeRecord, KeysRecord, LogChunk, ReplayRecord, RequestRecord, SegmentRecord,
            TombstoneRecord, WebhookRecord,
        },
        tables::{self, existing, meta},
    },
    Findings,
};
use crate::model::{ids::EventSeq, time::Timestamp};

/// A segment that the hot store names.
#[derive(Debug, Clone)]
pub(in super::super) struct Segment {
    no: u64,
    record: SegmentRecord,
}

impl Segment {
    /// Where it lies.
    pub(in super::super) fn file(&self) -> File {
        (self.no, self.record.generation)
    }
}

/// A look at a store: first at its segments, oldest first, then at the hot store.
pub(in super::super) struct Look<'a> {
    hot: &'a ReadTransaction,
    counters: CountersRecord,
    /// Numbers of events that are there: first, and how many, ascending.
    chunks: Vec<(u64, u64)>,
    /// The next log entry, once the first is known.
    next_entry: Option<u64>,
    events: u64,
    entries: u64,
    pending: u64,
}

impl<'a> Look<'a> {
    pub(in super::super) fn new(hot: &'a ReadTransaction) -> Result<Self, EngineError> {
        let meta = hot.open_table(tables::META)?;
        let counters = meta.get(meta::COUNTERS)?.ok_or_else(|| Corrupt::new("set of counters", "it is missing"))?;
        let counters = CountersRecord::decode_from(counters.value())?;
        let keys =
            meta.get(meta::KEYS)?.ok_or_else(|| Corrupt::new("check value of the master key", "it is missing"))?;
        KeysRecord::decode_from(keys.value())?;
        Ok(Self { hot, counters, chunks: Vec::new(), next_entry: None, events: 0, entries: 0, pending: 0 })
    }

    /// The segments to look at.
    pub(in super::super) fn segments(&self) -> Result<Vec<Segment>, EngineError> {
        let mut segments = Vec::new();
        for row in self.hot.open_table(tables::SEGMENTS)?.iter()? {
            let (no, bytes) = row?;
            segments.push(Segment { no: no.value(), record: SegmentRecord::decode_from(bytes.value())? });
        }
        Ok(segments)
    }

    /// How many events, pending deliveries and log entries were seen.
    pub(in super::super) fn counted(&self) -> (u64, u64, u64) {
        (self.events, self.pending, self.entries)
    }

    /// What lies in a segment as far as the hot store says so; what is beyond is the beginning of a move.
    pub(in super::super) fn segment(
        &mut self,
        segment: &Segment,
        read: &ReadTransaction,
        findings: &mut Findings,
    ) -> Result<(), EngineError> {
        let Segment { no, record } = segment;
        let place = format!("segment {no}");
        if record.sealed {
            let filter = existing(read.open_table(tables::META))?;
            let has_filter = filter.is_some_and(|table| table.len().is_ok_and(|rows| rows > 0));
            if !has_filter {
                findings.add(format_args!("{place} has no filter of event ids"));
            }
        }
        self.chunks_of(read, &place, (record.events_from, record.events_until), findings)?;
        self.log_of(read, &place, (record.log_from, record.log_until), findings)?;
        decode_all(read, tables::DELIVERIES, &place, findings, |bytes| DeliveryRecord::decode_from(bytes).map(drop))
    }

    /// The hot store, after all segments.
    pub(in super::super) fn hot(&mut self, findings: &mut Findings) -> Result<(), EngineError> {
        let place = HOT;
        let (events_from, log_from) = (self.counters.hot_events_from, self.counters.hot_log_from.max(1));
        self.chunks_of(self.hot, place, (events_from, self.counters.next_event), findings)?;
        self.log_of(self.hot, place, (log_from, self.counters.log_head + 1), findings)?;
        self.records(findings)?;
        self.lanes(findings)
    }

    /// Events whose numbers are in a range: whole, and known by their ids.
    fn chunks_of(
        &mut self,
        read: &ReadTransaction,
        place: &str,
        (from, until): (u64, u64),
        findings: &mut Findings,
    ) -> Result<(), EngineError> {
        let erases = self.erases()?;
        let Some(table) = existing(read.open_table(tables::EVENT_CHUNKS))? else {
            if from.max(1) < until {
                findings.add(format_args!("{place} has no events, and should have {from} to {}", until - 1));
            }
            return Ok(());
        };
        let ids = existing(read.open_table(tables::EVENT_IDS))?;
        // The first one of all is 1.
        let from = from.max(1);
        let mut next = from;
        for row in table.range(from..until.max(from))? {
            let (first, bytes) = row?;
            let first = first.value();
            let chunk = match EventChunk::decode_from(Bytes::copy_from_slice(bytes.value())) {
                Ok(chunk) => chunk,
                Err(error) => {
                    findings.add(format_args!("{place}: events from {first} on: {error}"));
                    continue;
                }
            };
            if next != first {
                findings.add(format_args!("{place}: events before {first} are missing"));
            }
            for index in 0..chunk.len() {
                let seq = first + index as u64;
                match chunk.event(index).transpose() {
                    Ok(Some(event)) => check_event(place, seq, event, ids.as_ref(), erases, findings)?,
                    // It was erased.
                    Ok(None) => {}
                    Err(error) => findings.add(format_args!("{place}: event {seq}: {error}")),
                }
            }
            self.events += chunk.len() as u64;
            next = first + chunk.len() as u64;
            self.chunks.push((first, chunk.len() as u64));
        }
        if from < until && next != until {
            findings.add(format_args!("{place}: events {next} to {} are missing", until - 1));
        }
        Ok(())
    }

    /// The log without a gap, from the first entry retained to the head.
    fn log_of(
        &mut self,
        read: &ReadTransaction,
        place: &str,
        (from, until): (u64, u64),
        findings: &mut Findings,
    ) -> Result<(), EngineError> {
        if from >= until {
            return Ok(());
        }
        // A segment in the middle may go before an older one, and the log is retained from there on. What is moved again after a
        // failure may be in both places.
        if from > self.counters.log_from && self.next_entry.is_some_and(|next| next < from) {
            findings.add(format_args!("{place}: log entries before {from} are missing"));
        }
        let mut next = from;
        if let Some(table) = existing(read.open_table(tables::LOG))? {
            for row in table.range(from..until)? {
                let (first, bytes) = row?;
                if first.value() != next {
                    findings.add(format_args!("{place}: log entries {next} to {} are missing", first.value()));
                }
                next = first.value();
                match LogChunk::decode_from(Bytes::copy_from_slice(bytes.value())) {
                    Ok(chunk) => {
                        self.entries += chunk.entries.len() as u64;
                        next += chunk.entries.len() as u64;
                    }
                    Err(error) => findings.add(format_args!("{place}: log entries from {next} on: {error}")),
                }
            }
        }
        if next != until {
            findings.add(format_args!("{place}: the log ends at {next} and should at {until}"));
        }
        self.next_entry = self.next_entry.max(Some(until));
        Ok(())
    }

    /// Rows that are records by themselves.
    fn records(&self, findings: &mut Findings) -> Result<(), EngineError> {
        let hot = self.hot;
        decode_all(hot, tables::WEBHOOKS, HOT, findings, |bytes| WebhookRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::TOMBSTONES, HOT, findings, |bytes| TombstoneRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::EVENT_TYPES, HOT, findings, |bytes| EventTypeRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::API_KEYS, HOT, findings, |bytes| ApiKeyRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::REQUESTS, HOT, findings, |bytes| RequestRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::DELIVERIES, HOT, findings, |bytes| DeliveryRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::COUNTS, HOT, findings, |bytes| CountsRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::DROPS, HOT, findings, |bytes| DropRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::REPLAYS, HOT, findings, |bytes| ReplayRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::ERASURES, HOT, findings, |bytes| ErasureRecord::decode_from(bytes).map(drop))?;
        decode_all(hot, tables::RESCUED, HOT, findings, |bytes| {
            EventRecord::decode_from(Bytes::copy_from_slice(bytes)).map(drop)
        })
    }

    /// What is pending: for webhooks that there are, of events that there are, as it is counted, each in one lane.
    fn lanes(&mut self, findings: &mut Findings) -> Result<(), EngineError> {
        let hot = self.hot;
        self.chunks.sort_unstable();
        let mut rescued = HashSet::new();
        for row in hot.open_table(tables::RESCUED)?.iter()? {
            rescued.insert(row?.0.value());
        }
        let (webhooks, cancels) = (hot.open_table(tables::WEBHOOKS)?, hot.open_table(tables::CANCELS)?);
        let deliveries = hot.open_table(tables::DELIVERIES)?;
        let mut waiting = BTreeMap::<u64, u64>::new();
        let erases = self.erases()?;
        let mut see = |no: u64, event: u64, findings: &mut Findings| -> Result<(), EngineError> {
            let known = waiting.entry(no).or_default();
            if *known == 0 && webhooks.get(no)?.is_none() && cancels.get(no)?.is_none() && !erases {
                findings.add(format_args!("{HOT}: something is pending for webhook {no}, which there is not"));
            }
            *known += 1;
            if !self.has_event(event) && !rescued.contains(&event) {
                findings.add(format_args!("{HOT}: event {event} is pending for webhook {no} and is lost"));
            }
            Ok(())
        };
        ReadyIn::open(hot)?.each(|(no, event, _)| see(no, event, findings))?;
        for row in hot.open_table(tables::SCHEDULED)?.iter()? {
            let (no, due, event, replay) = row?.0.value();
            see(no, event, findings)?;
            let record = deliveries.get((event, no, replay))?.map(|bytes| DeliveryRecord::decode_from(bytes.value()));
            let stands = record.transpose()?.map(|record| record.due().map(Timestamp::micros));
            if stands != Some(Some(due)) {
                findings.add(format_args!("{HOT}: event {event} is due for webhook {no} and its delivery is not"));
            }
        }
        for row in hot.open_table(tables::PARKED)?.iter()? {
            let (no, event, _) = row?.0.value();
            see(no, event, findings)?;
        }
        self.pending = waiting.values().sum();
        self.order(findings)?;
        if self.is_quiet()? {
            self.counts(&waiting, findings)?;
        }
        Ok(())
    }

    /// What waits for its turn is known by its key and by its webhook, and so are those it waits for.
    fn order(&self, findings: &mut Findings) -> Result<(), EngineError> {
        let hot = self.hot;
        let (parked, queues) = (hot.open_table(tables::PARKED)?, hot.open_table(tables::QUEUES)?);
        let (heads, by_key) = (hot.open_table(tables::HEADS)?, hot.open_table(tables::HEADS_BY_KEY)?);
        if parked.len()? != queues.len()? {
            findings.add(format_args!("{HOT}: {} deliveries wait, and {} are queued", parked.len()?, queues.len()?));
        }
        if heads.len()? != by_key.len()? {
            findings.add(format_args!("{HOT}: {} heads, and {} by their keys", heads.len()?, by_key.len()?));
        }
        for row in parked.iter()? {
            let (row, value) = row?;
            let ((no, event, replay), (_, _, order)) = (row.value(), value.value());
            if queues.get((no, order, event, replay))?.is_none() {
                findings.add(format_args!("{HOT}: event {event} waits at webhook {no} and is not queued"));
            }
        }
        for row in heads.iter()? {
            let (row, order) = row?;
            let (no, event, replay) = row.value();
            if by_key.get((no, order.value()))?.map(|head| head.value()) != Some((event, replay)) {
                findings.add(format_args!("{HOT}: event {event} is a head at webhook {no}, and another one is"));
            }
        }
        Ok(())
    }

    /// Every webhook counts what is pending for it, and all together is what the store counts.
    fn counts(&self, waiting: &BTreeMap<u64, u64>, findings: &mut Findings) -> Result<(), EngineError> {
        let mut counted = HashMap::new();
        for row in self.hot.open_table(tables::COUNTS)?.iter()? {
            let (no, bytes) = row?;
            let record = CountsRecord::decode_from(bytes.value())?;
            counted.insert(no.value(), record.pending);
        }
        let all: HashSet<_> = counted.keys().chain(waiting.keys()).copied().collect();
        for no in all {
            let (counted, there) = (counted.get(&no).copied().unwrap_or(0), waiting.get(&no).copied().unwrap_or(0));
            if counted != there {
                findings.add(format_args!("{HOT}: webhook {no} counts {counted} pending deliveries, and has {there}"));
            }
        }
        if self.counters.pending != self.pending {
            let counted = self.counters.pending;
            findings.add(format_args!("{HOT}: {counted} deliveries are counted as pending, and {} are", self.pending));
        }
        Ok(())
    }

    /// Whether no decision is being carried out.
    fn is_quiet(&self) -> Result<bool, EngineError> {
        let hot = self.hot;
        let under_way = hot.open_table(tables::CANCELS)?.len()?
            + hot.open_table(tables::DROPS)?.len()?
            + hot.open_table(tables::FAN_OUTS)?.len()?
            + hot.open_table(tables::RELEASES)?.len()?;
        Ok(under_way == 0 && !self.erases()?)
    }

    /// Whether something is being erased.
    fn erases(&self) -> Result<bool, EngineError> {
        for row in self.hot.open_table(tables::ERASURES)?.iter()? {
            if !ErasureRecord::decode_from(row?.1.value())?.is_finished() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_event(&self, seq: u64) -> bool {
        let after = self.chunks.partition_point(|(first, _)| *first <= seq);
        self.chunks[..after].last().is_some_and(|(first, count)| seq - first < *count)
    }
}

/// Which events there are, by id.
type EventIds = ReadOnlyTable<&'static [u8], (u64, u128, u32)>;

/// What findings call the hot store.
const HOT: &str = super::HOT;

/// An event's id leads to it, and it is what it was when it was published.
fn check_event(
    place: &str,
    seq: u64,
    event: EventRecord,
    ids: Option<&EventIds>,
    erases: bool,
    findings: &mut Findings,
) -> Result<(), EngineError> {
    let known = ids.map(|ids| ids.get(event.key().as_slice())).transpose()?.flatten().map(|id| id.value());
    let hash = match event.content(EventSeq(seq)) {
        Ok(stored) => stored.event.content_hash(),
        Err(error) => {
            findings.add(format_args!("{place}: event {seq}: {error}"));
            return Ok(());
        }
    };
    match known {
        None if erases => {}
        None => findings.add(format_args!("{place}: event {seq} is not known by its id")),
        Some((known, ..)) if known != seq => {
            findings.add(format_args!("{place}: the id of event {seq} is that of event {known}"));
        }
        Some((_, known, _)) if known != hash => {
            findings.add(format_args!("{place}: event {seq} is not what was published"));
        }
        Some(_) => {}
    }
    Ok(())
}

/// Decodes every row of a table, if there is such a table.
fn decode_all<K: Key + 'static>(
    read: &ReadTransaction,
    definition: TableDefinition<'static, K, &'static [u8]>,
    place: &str,
    findings: &mut Findings,
    decode: impl Fn(&[u8]) -> Result<(), Corrupt>,
) -> Result<(), EngineError> {
    let Some(table) = existing(read.open_table(definition))? else { return Ok(()) };
    for row in table.iter()? {
        if let Err(error) = decode(row?.1.value()) {
            findings.add(format_args!("{place}: {error}"));
        }
    }
    Ok(())
}
