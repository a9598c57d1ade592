//! How far a delivery has come.

use prost::Message;

use super::{Corrupt, decode, state};
use crate::{
    limits::DELIVERY_ATTEMPTS_LISTED_MAX,
    model::{
        delivery::{Attempts, DeliveryState, ErrorClass, Outcome},
        ids::Position,
        time::Timestamp,
    },
};

/// Exists from the first outcome, or from cancellation; of a delivery that was scheduled for later, from the beginning.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct DeliveryRecord {
    #[prost(uint32, tag = "1")]
    state: u32,
    #[prost(uint32, tag = "2")]
    pub(in super::super) attempts: u32,
    /// When its event was accepted.
    #[prost(sint64, tag = "3")]
    create_time: i64,
    #[prost(sint64, tag = "4")]
    update_time: i64,
    /// Its time in `SCHEDULED`; set exactly while pending.
    #[prost(sint64, optional, tag = "5")]
    next_attempt: Option<i64>,
    #[prost(uint32, tag = "6")]
    http_status: u32,
    #[prost(uint32, tag = "7")]
    error_class: u32,
    /// Numbers of its outcomes in the log.
    #[prost(uint64, repeated, tag = "8")]
    entries: Vec<u64>,
    /// Attempts before it was last retried by hand after it had ended, if it was.
    #[prost(uint32, optional, tag = "20")]
    pub(in super::super) excused: Option<u32>,
    /// Number of the log entry that cancelled it; set exactly while cancelled, but by versions that did not know it.
    #[prost(uint64, tag = "21")]
    cancel_entry: u64,
    /// Its due time was reckoned anew from this moment after the clock had gone back, microseconds. Number 22 said only that it was.
    #[prost(sint64, optional, tag = "23")]
    anchor: Option<i64>,
}

impl DeliveryRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("delivery", bytes)
    }

    /// Of a delivery that waits for its first attempt.
    pub(in super::super) fn scheduled(create_time: Timestamp, due: Timestamp) -> Self {
        Self {
            state: state::to_disk(DeliveryState::Pending),
            create_time: create_time.micros(),
            next_attempt: Some(due.micros()),
            ..Self::default()
        }
    }

    /// As an outcome at `entry` of the log leaves it; `before` is what was known until then.
    pub(in super::super) fn after(
        before: Option<Self>,
        create_time: Timestamp,
        outcome: &Outcome,
        entry: Position,
    ) -> Self {
        let (mut entries, excused) = before.map_or_else(Default::default, |record| (record.entries, record.excused));
        if entries.len() >= DELIVERY_ATTEMPTS_LISTED_MAX {
            entries.remove(0);
        }
        entries.push(entry.0);
        Self {
            state: state::to_disk(outcome.state),
            attempts: outcome.attempt,
            create_time: create_time.micros(),
            update_time: outcome.time.micros(),
            next_attempt: outcome.next_attempt.map(Timestamp::micros),
            http_status: outcome.http_status.map_or(0, u32::from),
            error_class: state::class_to_disk(outcome.error_class),
            entries,
            excused,
            cancel_entry: 0,
            anchor: None,
        }
    }

    /// Pending, and due then.
    pub(in super::super) fn retried(self, attempts: Attempts, due: Timestamp) -> Self {
        Self {
            state: state::to_disk(DeliveryState::Pending),
            next_attempt: Some(due.micros()),
            excused: attempts.excused(),
            cancel_entry: 0,
            anchor: None,
            ..self
        }
    }

    /// The same, pending, due then, which was reckoned from `now`, by a clock that was set right.
    pub(in super::super) fn reanchored(self, now: Timestamp, due: Timestamp) -> Self {
        Self { next_attempt: Some(due.micros()), anchor: Some(now.micros()), ..self }
    }

    /// From when its due time was reckoned anew, if it was.
    pub(in super::super) fn reckoned_from(&self) -> Option<Timestamp> {
        self.anchor.map(Timestamp::from_micros)
    }

    /// As cancellation at `entry` of the log leaves it.
    pub(in super::super) fn cancelled(
        before: Option<Self>,
        create_time: Timestamp,
        time: Timestamp,
        entry: Position,
    ) -> Self {
        Self {
            state: state::to_disk(DeliveryState::Cancelled),
            create_time: create_time.micros(),
            update_time: time.micros(),
            next_attempt: None,
            cancel_entry: entry.0,
            ..before.unwrap_or_default()
        }
    }

    pub(in super::super) fn state(&self) -> Result<DeliveryState, Corrupt> {
        state::from_disk(self.state)
    }

    pub(in super::super) fn create_time(&self) -> Timestamp {
        Timestamp::from_micros(self.create_time)
    }

    /// `None` while nothing has happened to it.
    pub(in super::super) fn update_time(&self) -> Option<Timestamp> {
        let untouched = self.attempts == 0 && self.next_attempt.is_some() && self.excused.is_none();
        (!untouched).then(|| Timestamp::from_micros(self.update_time))
    }

    pub(in super::super) fn due(&self) -> Option<Timestamp> {
        self.next_attempt.map(Timestamp::from_micros)
    }

    pub(in super::super) fn http_status(&self) -> Option<u16> {
        u16::try_from(self.http_status).ok().filter(|&status| status != 0)
    }

    pub(in super::super) fn error_class(&self) -> Result<Option<ErrorClass>, Corrupt> {
        state::class_from_disk(self.error_class)
    }

    /// Number of the log entry that ended it, if it has ended and that is known.
    pub(in super::super) fn end(&self) -> Option<u64> {
        match self.state().ok()? {
            DeliveryState::Pending => None,
            DeliveryState::Cancelled => Some(self.cancel_entry).filter(|&entry| entry != 0),
            DeliveryState::Delivered | DeliveryState::Failed => self.entries.last().copied(),
        }
    }

    pub(in super::super) fn entries(&self) -> impl Iterator<Item = Position> {
        self.entries.iter().map(|&entry| Position(entry))
    }
}
