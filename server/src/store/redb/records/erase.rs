//! Erasures.

use prost::Message;

use super::{Corrupt, decode};
use crate::model::{
    erasure::{Erasure, Subject},
    ids::{ErasureId, EventId, Tenant},
    time::Timestamp,
};

/// An erasure. What is erased is named only until it is.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct ErasureRecord {
    /// Number of the event; 0: all there is of the tenant.
    #[prost(uint64, tag = "1")]
    pub(in super::super) event: u64,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(string, tag = "3")]
    event_id: String,
    /// Fingerprint of the tenant.
    #[prost(bytes = "vec", tag = "4")]
    pub(in super::super) whose: Vec<u8>,
    /// Its keys in `FINGERPRINTS`.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(in super::super) fingerprints: Vec<Vec<u8>>,
    #[prost(sint64, tag = "6")]
    time: i64,
    #[prost(sint64, optional, tag = "7")]
    finish_time: Option<i64>,
    /// Number of the first event that is not concerned.
    #[prost(uint64, tag = "8")]
    pub(in super::super) below: u64,
}

impl ErasureRecord {
    /// Of one event, or without one of all there is of the tenant.
    pub(in super::super) fn new(tenant: &Tenant, event: Option<(u64, &EventId)>, below: u64, time: Timestamp) -> Self {
        Self {
            event: event.map_or(0, |(seq, _)| seq),
            tenant: tenant.as_str().to_owned(),
            event_id: event.map_or_else(String::new, |(_, id)| id.as_str().to_owned()),
            time: time.micros(),
            below,
            ..Self::default()
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("erasure", bytes)
    }

    /// As it is when nothing is left.
    pub(in super::super) fn finished(self, time: Timestamp) -> Self {
        Self { tenant: String::new(), event_id: String::new(), finish_time: Some(time.micros()), ..self }
    }

    pub(in super::super) fn is_finished(&self) -> bool {
        self.finish_time.is_some()
    }

    pub(in super::super) fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.time)
    }

    /// Whose it is; while it is carried out.
    pub(in super::super) fn tenant(&self) -> Result<Tenant, Corrupt> {
        self.tenant.parse().map_err(|error| Corrupt::new("tenant", error))
    }

    /// The event's id, if it is one event's; while it is carried out.
    pub(in super::super) fn event_id(&self) -> Result<Option<EventId>, Corrupt> {
        if self.event == 0 {
            return Ok(None);
        }
        self.event_id.parse().map(Some).map_err(|error| Corrupt::new("event id", error))
    }

    /// As callers see it.
    pub(in super::super) fn shown(&self, id: ErasureId) -> Erasure {
        Erasure {
            id,
            subject: if self.event == 0 { Subject::Tenant } else { Subject::Event },
            request_time: self.time(),
            finish_time: self.finish_time.map(Timestamp::from_micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_erased_is_named_only_until_it_is() {
        let (tenant, id): (Tenant, EventId) = ("acme".parse().unwrap(), "order-17".parse().unwrap());
        let record = ErasureRecord::new(&tenant, Some((7, &id)), 9, Timestamp::from_micros(5));
        let record = ErasureRecord::decode_from(&record.encode_to_vec()).unwrap();
        assert_eq!((record.tenant().unwrap(), record.event_id().unwrap()), (tenant, Some(id)));
        let bytes = record.finished(Timestamp::from_micros(6)).encode_to_vec();
        for name in ["acme", "order"] {
            assert!(!bytes.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
        }
        let shown = ErasureRecord::decode_from(&bytes).unwrap().shown(ErasureId::from_bytes([1; 16]));
        assert_eq!(shown.finish_time, Some(Timestamp::from_micros(6)));
        assert_eq!(shown.subject, Subject::Event);
    }
}
