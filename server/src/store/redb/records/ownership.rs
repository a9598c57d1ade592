//! What a receiver consented to.

use std::num::NonZeroU32;

use prost::Message;

use super::Corrupt;
use crate::model::{
    ownership::{Consent, Ownership},
    time::Timestamp,
};

/// Part of `SettingsRecord`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OwnershipRecord {
    /// Who may send; empty: it was not asked yet.
    #[prost(string, tag = "1")]
    origin: String,
    /// Requests in a minute; 0: any number.
    #[prost(uint32, tag = "2")]
    per_minute: u32,
    #[prost(sint64, tag = "3")]
    time: i64,
}

impl OwnershipRecord {
    pub(super) fn new(ownership: &Ownership) -> Self {
        match ownership {
            Ownership::Wanted => Self::default(),
            Ownership::Confirmed(consent) => Self {
                origin: consent.origin.to_string(),
                per_minute: consent.per_minute.map_or(0, NonZeroU32::get),
                time: consent.time.micros(),
            },
        }
    }

    pub(super) fn ownership(&self) -> Result<Ownership, Corrupt> {
        if self.origin.is_empty() {
            return Ok(Ownership::Wanted);
        }
        Ok(Ownership::Confirmed(Consent {
            origin: self.origin.parse().map_err(|error| Corrupt::new("webhook's origin", error))?,
            per_minute: NonZeroU32::new(self.per_minute),
            time: Timestamp::from_micros(self.time),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let consent = |origin: &str, per_minute, micros| {
            let time = Timestamp::from_micros(micros);
            Ownership::Confirmed(Consent { origin: origin.parse().unwrap(), per_minute, time })
        };
        for ownership in [
            Ownership::Wanted,
            consent("postrider", None, 0),
            consent("events.example.com", NonZeroU32::new(1), -1),
            consent("e", Some(NonZeroU32::MAX), i64::MAX),
        ] {
            let bytes = OwnershipRecord::new(&ownership).encode_to_vec();
            assert_eq!(OwnershipRecord::decode(bytes.as_slice()).unwrap().ownership().unwrap(), ownership);
        }
        let wrong = OwnershipRecord { origin: "a b".into(), per_minute: 1, time: 1 };
        assert!(wrong.ownership().is_err());
    }
}
