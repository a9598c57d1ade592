//! What tells a store that it is a copy, and where it began anew because it was one.

use prost::Message;

use super::{Corrupt, CountersRecord, decode};
use crate::model::{
    ids::{EventSeq, Position},
    seal::Era,
};

/// The copy in a backup says when it was made. Taken away when the copy is first opened.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct BackupRecord {
    /// When the backup began, microseconds.
    #[prost(sint64, tag = "1")]
    pub(in super::super) time: i64,
}

/// The eras that began when a store was restored, oldest first. For ever: ids and cursors are sealed with their keys.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct ErasRecord {
    #[prost(message, repeated, tag = "1")]
    eras: Vec<EraRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct EraRecord {
    #[prost(uint64, tag = "1")]
    events_from: u64,
    #[prost(uint64, tag = "2")]
    log_from: u64,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
}

impl BackupRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("mark of a backup", bytes)
    }
}

impl ErasRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("list of eras", bytes)
    }

    /// Begins another one, with this key, after what the counters count.
    pub(in super::super) fn begin(&mut self, counters: &CountersRecord, key: [u8; 16]) {
        let (events_from, log_from) = (counters.next_event, counters.log_head + 1);
        self.eras.push(EraRecord { events_from, log_from, key: key.to_vec() });
    }

    /// What to seal with.
    pub(in super::super) fn eras(&self) -> Result<Vec<Era>, Corrupt> {
        let era = |era: &EraRecord| {
            let key = era.key.as_slice().try_into();
            let key = key.map_err(|_| Corrupt::new("list of eras", "a key is not of 16 bytes"))?;
            Ok(Era { events_from: EventSeq(era.events_from), log_from: Position(era.log_from), key })
        };
        self.eras.iter().map(era).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eras_survive_their_bytes() {
        let mut record = ErasRecord::default();
        record.begin(&CountersRecord { next_event: 10, log_head: 4, ..CountersRecord::default() }, [1; 16]);
        record.begin(&CountersRecord { next_event: 20, log_head: 9, ..CountersRecord::default() }, [2; 16]);
        let read = ErasRecord::decode_from(&record.encode_to_vec()).unwrap().eras().unwrap();
        let era = |events_from, log_from, key| Era {
            events_from: EventSeq(events_from),
            log_from: Position(log_from),
            key: [key; 16],
        };
        assert_eq!(read, [era(10, 5, 1), era(20, 10, 2)]);
        let short = EraRecord { key: vec![1; 15], ..EraRecord::default() };
        assert!(ErasRecord { eras: vec![short] }.eras().is_err());
    }
}
