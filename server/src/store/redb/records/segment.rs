//! Counters, segments and what is in them: what the store knows about itself.

use prost::Message;

use super::{Corrupt, decode};

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
    /// When the last commit was made, microseconds.
    #[prost(sint64, tag = "11")]
    pub(in super::super) last_commit: i64,
    /// Number of the last replay.
    #[prost(uint32, tag = "30")]
    pub(in super::super) last_replay: u32,
}

impl CountersRecord {
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
    /// Time of its newest event or log entry, microseconds.
    #[prost(sint64, tag = "6")]
    pub(in super::super) newest: i64,
    /// Time of its oldest one.
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
    /// The range of events whose replayed deliveries it holds.
    #[prost(uint64, tag = "30")]
    pub(in super::super) replays_from: u64,
    #[prost(uint64, tag = "31")]
    pub(in super::super) replays_until: u64,
}

impl SegmentRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("segment", bytes)
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
