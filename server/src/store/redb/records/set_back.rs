//! When the clock was set back, and what had been recorded until then.

use prost::Message;

use super::{Corrupt, decode};

/// The clock went back once: all that was recorded before bears one of these numbers, and may bear a time that had not come yet.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in super::super) struct SetBackRecord {
    /// What the clock showed from then on, microseconds.
    #[prost(sint64, tag = "1")]
    pub(in super::super) at: i64,
    /// Number of the first event after it.
    #[prost(uint64, tag = "2")]
    pub(in super::super) events: u64,
    /// Number of the last entry of the outcome log before it.
    #[prost(uint64, tag = "3")]
    pub(in super::super) entries: u64,
    /// Number of the last entry of the audit log before it.
    #[prost(uint64, tag = "4")]
    pub(in super::super) audited: u64,
    /// Number of the last change of configuration before it; erasures have such numbers.
    #[prost(uint64, tag = "5")]
    pub(in super::super) config: u64,
}

/// The last times that it did, oldest first.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct SetBacksRecord {
    #[prost(message, repeated, tag = "1")]
    pub(in super::super) set_backs: Vec<SetBackRecord>,
}

impl SetBacksRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("list of when the clock was set back", bytes)
    }
}
