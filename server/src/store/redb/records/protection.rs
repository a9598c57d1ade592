//! What a receiver is protected with.

use std::{num::NonZeroU32, time::Duration};

use prost::Message;

use super::Corrupt;
use crate::model::{protection::Protection, rate::RateLimit};

/// Part of `SettingsRecord`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ProtectionRecord {
    /// Attempts in a thousand seconds; 0: no limit.
    #[prost(uint32, tag = "1")]
    per_mille: u32,
    #[prost(uint32, tag = "2")]
    burst: u32,
    /// 0: the server's.
    #[prost(uint32, tag = "3")]
    max_in_flight: u32,
    #[prost(uint64, optional, tag = "4")]
    auto_disable_after_us: Option<u64>,
}

impl ProtectionRecord {
    pub(super) fn new(protection: &Protection) -> Self {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self {
            per_mille: protection.rate_limit.map_or(0, |limit| limit.per_mille()),
            burst: protection.rate_limit.map_or(0, |limit| limit.burst()),
            max_in_flight: protection.max_in_flight.map_or(0, NonZeroU32::get),
            auto_disable_after_us: protection.auto_disable_after.map(micros),
        }
    }

    pub(super) fn protection(self) -> Result<Protection, Corrupt> {
        let rate_limit = match self.per_mille {
            0 => None,
            stored => Some(
                RateLimit::from_stored(stored, self.burst)
                    .ok_or_else(|| Corrupt::new("webhook's rate limit", format!("{stored}, {}", self.burst)))?,
            ),
        };
        Ok(Protection {
            rate_limit,
            max_in_flight: NonZeroU32::new(self.max_in_flight),
            auto_disable_after: self.auto_disable_after_us.map(Duration::from_micros),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rate in proptest::option::of((0.1_f64..10_000.0, 0_u32..10_000)),
            most: u32,
            after in proptest::option::of(0_u64..1_000_000_000),
        ) {
            let protection = Protection {
                rate_limit: rate.and_then(|(per_second, burst)| RateLimit::new(per_second, burst)),
                max_in_flight: NonZeroU32::new(most),
                auto_disable_after: after.map(Duration::from_micros),
            };
            let record = ProtectionRecord::decode(ProtectionRecord::new(&protection).encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(record.protection().unwrap(), protection);
        }
    }
}
