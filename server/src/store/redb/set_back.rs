//! What a clock that was ahead has stamped: its age counts from when that clock was set right.
//!
//! ```text
//!   number      1 … 40     41 … 60      61 … 90
//!   stamped     2026       2036         2026
//!                                    ▲ set back, before number 61: what has a lower number is no newer than this moment
//! ```
//!
//! Times alone do not tell what was stamped by a clock that was ahead: the time comes when theirs has come. Numbers do, since they are
//! given in the order of commits. So each start at which the clock goes back, which an operator has confirmed, notes the numbers that
//! were given out by then. Nothing that was recorded is changed: what bears a wrong time goes on bearing it.
//!
//! Invariant: [`SetBacks`] make things older, never newer than they are stamped.

use std::ops::Range;

use ::redb::ReadableTable as _;
use prost::Message as _;

use super::{
    change::Tables,
    error::EngineError,
    open::number,
    records::{CountersRecord, EventRecord, SegmentRecord, SetBackRecord, SetBacksRecord},
    tables::meta,
};
use crate::{
    limits::{ACCEPT_DISORDER_MAX, CLOCK_SET_BACKS_MAX, SECRET_OVERLAP_MAX},
    model::{signing::Keys, time::Timestamp},
};

/// When the clock was set back, oldest first, as of the store's opening: it goes back at no other time.
#[derive(Debug, Default)]
pub(super) struct SetBacks(Vec<SetBackRecord>);

impl SetBacks {
    /// When an event counts as accepted.
    pub(super) fn event(&self, seq: u64, accepted: Timestamp) -> Timestamp {
        self.counted(accepted, |set_back| seq < set_back.events)
    }

    /// When an event counts as ready to be sent: as long after its acceptance as it was to be.
    pub(super) fn scheduled(&self, seq: u64, event: &EventRecord) -> Timestamp {
        let accepted = event.accept_time();
        let counted = self.event(seq, accepted);
        event.scheduled().map_or(counted, |scheduled| counted + scheduled.since(accepted))
    }

    /// When an entry of the outcome log counts as written.
    pub(super) fn entry(&self, position: u64, written: Timestamp) -> Timestamp {
        self.counted(written, |set_back| position <= set_back.entries)
    }

    /// When an entry of the audit log counts as written.
    pub(super) fn audited(&self, no: u64, written: Timestamp) -> Timestamp {
        self.counted(written, |set_back| no <= set_back.audited)
    }

    /// When an erasure counts as decided.
    pub(super) fn erasure(&self, no: u64, decided: Timestamp) -> Timestamp {
        self.counted(decided, |set_back| no <= set_back.config)
    }

    /// A segment whose times count as they do now. What was added to it since the clock was set back was counted then.
    pub(super) fn segment(&self, record: &SegmentRecord) -> SegmentRecord {
        let is_before = |set_back: &SetBackRecord| {
            record.events_until <= set_back.events && record.log_until <= set_back.entries + 1
        };
        let counted = |time| self.counted(Timestamp::from_micros(time), is_before).micros();
        let (newest, oldest) = (counted(record.newest), counted(record.oldest));
        SegmentRecord { newest, oldest, latest: record.latest(), ..record.clone() }
    }

    fn counted(&self, time: Timestamp, is_before: impl Fn(&SetBackRecord) -> bool) -> Timestamp {
        let set_backs = self.0.iter().filter(|set_back| is_before(set_back));
        set_backs.map(|set_back| Timestamp::from_micros(set_back.at)).fold(time, Timestamp::min)
    }

    /// The numbers of events below `until` in parts within which they were accepted in about the order of their numbers, but for those
    /// of which [`Self::is_in_order`] says otherwise.
    pub(super) fn parts(&self, until: u64) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut from = 0;
        for end in self.0.iter().map(|set_back| set_back.events.min(until)).chain([until]) {
            if end > from || parts.is_empty() {
                parts.push(from..end);
                from = end;
            }
        }
        parts
    }

    /// Whether events from this one on were accepted in about the order of their numbers, until the clock was set back. Before the
    /// first time that is remembered it may have been set back at others that are forgotten.
    pub(super) fn is_in_order(&self, seq: u64) -> bool {
        self.0.len() < CLOCK_SET_BACKS_MAX || self.0.first().is_some_and(|first| first.events <= seq)
    }

    /// The first event after this one that was accepted after the clock was set back, if it was.
    pub(super) fn next_after(&self, seq: u64) -> Option<u64> {
        self.0.iter().map(|set_back| set_back.events).find(|events| *events > seq)
    }

    /// The keys of a webhook whose last change has this number: none that was replaced before the clock was set back signs along for
    /// longer after that than it ever may. The clock goes on, so the present does not tell: what was years ahead comes near.
    pub(super) fn keys(&self, config: u64, keys: Keys) -> Keys {
        let set_backs = self.0.iter().filter(|set_back| config <= set_back.config);
        let first = set_backs.map(|set_back| Timestamp::from_micros(set_back.at)).min();
        first.and_then(|first| keys.bounded(first + SECRET_OVERLAP_MAX)).unwrap_or(keys)
    }

    /// When the clock was set back for the last time.
    pub(super) fn last(&self) -> Option<Timestamp> {
        self.0.last().map(|set_back| Timestamp::from_micros(set_back.at))
    }
}

/// At the opening of the store, before it says that it was open now: notes that the clock went back, if it did, and forgets what the
/// counters know from a time that has not come.
///
/// A step of minutes is no matter: what lies so close together counts as in no order anyway.
pub(super) fn note(
    tables: &mut Tables<'_>,
    counters: &mut CountersRecord,
    now: Timestamp,
) -> Result<SetBacks, EngineError> {
    let known =
        tables.meta.get(meta::SET_BACKS)?.map(|bytes| SetBacksRecord::decode_from(bytes.value())).transpose()?;
    let mut record = known.unwrap_or_default();
    if Timestamp::from_micros(counters.last_commit).since(now) >= ACCEPT_DISORDER_MAX / 2 {
        let audited = tables.meta.get(meta::AUDITED)?.map_or(0, |bytes| number(bytes.value()));
        record.set_backs.push(SetBackRecord {
            at: now.micros(),
            events: counters.next_event,
            entries: counters.log_head,
            audited,
            config: counters.config_seq,
        });
        let surplus = record.set_backs.len().saturating_sub(CLOCK_SET_BACKS_MAX);
        record.set_backs.drain(..surplus);
        counters.set_back(now);
        tables.meta.insert(meta::SET_BACKS, record.encode_to_vec().as_slice())?;
    }
    Ok(SetBacks(record.set_backs))
}

#[cfg(test)]
mod tests;
