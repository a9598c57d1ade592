//! Where a webhook's deliveries stand, in numbers.
//!
//! Rewritten by every commit that touches the webhook, so it is narrow: what is 0 takes no room, and times are in milliseconds.

use std::time::Duration;

use prost::Message;

use super::{Corrupt, decode};
use crate::{model::time::Timestamp, store::counts::Counts};

/// One webhook's.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in super::super) struct CountsRecord {
    #[prost(uint64, tag = "1")]
    pub(in super::super) pending: u64,
    #[prost(uint64, tag = "2")]
    pub(in super::super) delivered: u64,
    #[prost(uint64, tag = "3")]
    pub(in super::super) failed: u64,
    #[prost(uint64, tag = "4")]
    pub(in super::super) cancelled: u64,
    /// When one was delivered last, milliseconds; 0: never.
    #[prost(uint64, tag = "5")]
    pub(in super::super) last_delivered: u64,
    /// When one was given up last, milliseconds; 0: never.
    #[prost(uint64, tag = "6")]
    pub(in super::super) last_failed: u64,
}

impl CountsRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("set of a webhook's counts", bytes)
    }
}

impl From<CountsRecord> for Counts {
    fn from(record: CountsRecord) -> Self {
        Self {
            pending: record.pending,
            delivered: record.delivered,
            failed: record.failed,
            cancelled: record.cancelled,
            last_delivered: time(record.last_delivered),
            last_failed: time(record.last_failed),
        }
    }
}

/// A time as it is kept, rounded down.
pub(in super::super) fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.since(Timestamp::UNIX_EPOCH).as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> Option<Timestamp> {
    (millis > 0).then(|| Timestamp::UNIX_EPOCH + Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_is_read_and_is_narrow() {
        let now = Timestamp::from_micros(1_763_802_000_123_456);
        let record = CountsRecord {
            pending: 3,
            delivered: 1_000_000,
            failed: 0,
            cancelled: 7,
            last_delivered: millis(now),
            last_failed: 0,
        };
        let bytes = record.encode_to_vec();
        assert_eq!(bytes.len(), 2 + 4 + 2 + 7);
        assert_eq!(CountsRecord::decode_from(&bytes).unwrap(), record);
        let counts = Counts::from(record);
        assert_eq!(counts.last_delivered, Some(Timestamp::from_micros(1_763_802_000_123_000)));
        assert_eq!((counts.last_failed, counts.events()), (None, 1_000_010));
    }
}
