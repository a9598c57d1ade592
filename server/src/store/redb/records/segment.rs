//! Counters, segments and what is in them: what the store knows about itself.

use std::time::Duration;

use prost::Message;

use super::{Corrupt, decode};
use crate::{
    clock::{Clock, Left},
    model::time::Timestamp,
};

/// Rewritten by every commit.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in super::super) struct CountersRecord {
    /// Number of the next event.
    #[prost(uint64, tag = "1")]
    pub(in super::super) next_event: u64,
    /// Number of the last log entry.
    #[prost(uint64, tag = "2")]
    pub(in super::super) log_head: u64,
    /// Number of the last webhook.
    #[prost(uint64, tag = "3")]
    pub(in super::super) last_webhook: u64,
    /// Number of the last change of configuration.
    #[prost(uint64, tag = "4")]
    pub(in super::super) config_seq: u64,
    /// Deliveries pending, those not expanded yet included.
    #[prost(uint64, tag = "5")]
    pub(in super::super) pending: u64,
    /// Events below this number are no longer in the hot store.
    #[prost(uint64, tag = "6")]
    pub(in super::super) hot_events_from: u64,
    /// Log entries below this number are no longer in the hot store.
    #[prost(uint64, tag = "7")]
    pub(in super::super) hot_log_from: u64,
    /// Bytes of chunks, events and log together, in the hot store.
    #[prost(uint64, tag = "8")]
    pub(in super::super) hot_bytes: u64,
    /// Number of the last segment.
    #[prost(uint64, tag = "9")]
    pub(in super::super) last_segment: u64,
    /// Log entries below this number are no longer retained.
    #[prost(uint64, tag = "10")]
    pub(in super::super) log_from: u64,
    /// When the last commit was made, by the daemon's clock, microseconds. 0: never.
    #[prost(sint64, tag = "11")]
    pub(in super::super) last_commit: i64,
    /// By how much the wall clock was ahead of that when an operator confirmed it, microseconds; 0: it was not.
    #[prost(sint64, tag = "50")]
    pub(in super::super) clock_confirmed: i64,
    /// What the clock showed at most before it went back for the last time, microseconds; 0: it never did.
    #[prost(sint64, tag = "51")]
    pub(in super::super) ahead_until: i64,
    /// It went back, and not everything that was scheduled was looked through since.
    #[prost(bool, tag = "52")]
    pub(in super::super) reanchors: bool,
    /// Events below this number are gone, or may go, but for those that are pending.
    #[prost(uint64, tag = "30")]
    pub(in super::super) gone_until: u64,
    /// The latest acceptance of one that is gone, as its age counts, microseconds.
    #[prost(sint64, tag = "31")]
    pub(in super::super) gone_newest: i64,
    /// The latest acceptance of any event since the clock was set back, microseconds.
    #[prost(sint64, tag = "32")]
    pub(in super::super) newest_event: i64,
    /// By how much, at most, an event was accepted before one with a lower number, unless the clock was set back between them,
    /// microseconds.
    #[prost(uint64, tag = "33")]
    pub(in super::super) disorder: u64,
    /// Number of the last replay.
    #[prost(uint32, tag = "40")]
    pub(in super::super) last_replay: u32,
}

impl CountersRecord {
    /// The next event was accepted then.
    pub(in super::super) fn note_accepted(&mut self, time: Timestamp) {
        let behind = self.newest_event.saturating_sub(time.micros());
        self.disorder = self.disorder.max(u64::try_from(behind).unwrap_or(0));
        self.newest_event = self.newest_event.max(time.micros());
    }

    /// Where the last run left off, if there was one.
    pub(in super::super) fn left(&self) -> Option<Left> {
        let at = Timestamp::from_micros(self.last_commit);
        (self.last_commit != 0).then_some(Left { at, confirmed: self.clock_confirmed })
    }

    /// A commit is made now.
    pub(in super::super) fn note_commit(&mut self, clock: Clock) {
        let now = clock.now().micros();
        if now < self.last_commit {
            self.ahead_until = self.ahead_until.max(self.last_commit);
            self.reanchors = true;
        }
        self.last_commit = now;
        self.clock_confirmed = clock.confirmed();
    }

    /// The clock shows this from now on, which is earlier than what it showed.
    pub(in super::super) fn set_back(&mut self, now: Timestamp) {
        self.gone_newest = self.gone_newest.min(now.micros());
        self.newest_event = self.newest_event.min(now.micros());
    }

    /// By how much, at most, an event was accepted before one with a lower number, unless the clock was set back between them.
    pub(in super::super) fn disorder(&self) -> Duration {
        Duration::from_micros(self.disorder)
    }

    /// Events below this number go, of which none was accepted after `newest`.
    pub(in super::super) fn forget_events(&mut self, until: u64, newest: Timestamp) {
        self.gone_until = self.gone_until.max(until);
        self.gone_newest = self.gone_newest.max(newest.micros());
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("set of counters", bytes)
    }
}

/// One segment file. Ranges are half open.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct SegmentRecord {
    #[prost(uint64, tag = "1")]
    pub(in super::super) events_from: u64,
    #[prost(uint64, tag = "2")]
    pub(in super::super) events_until: u64,
    #[prost(uint64, tag = "3")]
    pub(in super::super) log_from: u64,
    #[prost(uint64, tag = "4")]
    pub(in super::super) log_until: u64,
    /// Bytes of chunks in it.
    #[prost(uint64, tag = "5")]
    pub(in super::super) bytes: u64,
    /// Time of its newest event or log entry, microseconds: as its age counts, see `set_back.rs`.
    #[prost(sint64, tag = "6")]
    pub(in super::super) newest: i64,
    /// Time of its oldest one, the same way.
    #[prost(sint64, tag = "7")]
    pub(in super::super) oldest: i64,
    /// The range of events whose deliveries it holds.
    #[prost(uint64, tag = "9")]
    pub(in super::super) deliveries_from: u64,
    #[prost(uint64, tag = "10")]
    pub(in super::super) deliveries_until: u64,
    /// Whether it takes no more.
    #[prost(bool, tag = "8")]
    pub(in super::super) sealed: bool,
    /// How often its file was written anew, without what was erased.
    #[prost(uint64, tag = "30")]
    pub(in super::super) generation: u64,
    /// The range of events whose replayed deliveries it holds.
    #[prost(uint64, tag = "40")]
    pub(in super::super) replays_from: u64,
    #[prost(uint64, tag = "41")]
    pub(in super::super) replays_until: u64,
    /// The latest time that is stamped on something in it, if that is later than it counts.
    #[prost(sint64, tag = "50")]
    pub(in super::super) latest: i64,
}

impl SegmentRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("segment", bytes)
    }

    /// The latest time that is stamped on something in it.
    pub(in super::super) fn latest(&self) -> i64 {
        self.latest.max(self.newest)
    }

    /// It holds a delivery of this event now, and which sending of it that is.
    pub(in super::super) fn hold_delivery(&mut self, event: u64, replay: u32) {
        extend((&mut self.deliveries_from, &mut self.deliveries_until), event);
        if replay > 0 {
            extend((&mut self.replays_from, &mut self.replays_until), event);
        }
    }

    /// Whether it may hold replayed deliveries of this event.
    pub(in super::super) fn may_have_replay(&self, event: u64) -> bool {
        (self.replays_from..self.replays_until).contains(&event)
    }

    /// Whether it may hold deliveries of this event.
    pub(in super::super) fn may_have_delivery(&self, event: u64) -> bool {
        (self.deliveries_from..self.deliveries_until).contains(&event)
    }
}

fn extend((from, until): (&mut u64, &mut u64), event: u64) {
    *from = if from == until { event } else { (*from).min(event) };
    *until = (*until).max(event + 1);
}

/// Deliveries of one webhook that one move brought into a segment.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct RunRecord {
    /// Ascending.
    #[prost(uint64, repeated, tag = "1")]
    events: Vec<u64>,
    /// As many as `events`, or none if all are 0.
    #[prost(uint32, repeated, tag = "2")]
    replays: Vec<u32>,
}

impl RunRecord {
    /// Of a webhook's deliveries: event and replay, ascending.
    pub(in super::super) fn new(deliveries: impl Iterator<Item = (u64, u32)>) -> Self {
        let (events, replays): (_, Vec<u32>) = deliveries.unzip();
        let replays = if replays.iter().all(|&replay| replay == 0) { Vec::new() } else { replays };
        Self { events, replays }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("run of deliveries", bytes)
    }

    /// Event and replay of each, ascending.
    pub(in super::super) fn deliveries(&self) -> impl DoubleEndedIterator<Item = (u64, u32)> {
        let replay = |index| self.replays.get(index).copied().unwrap_or(0);
        self.events.iter().enumerate().map(move |(index, &event)| (event, replay(index)))
    }
}
