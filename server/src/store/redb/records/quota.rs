//! Quotas of tenants' own.

use prost::Message;

use super::{Corrupt, decode};
use crate::model::{
    ids::Tenant,
    quota::{Limit, Quota, TenantQuota},
    rate::RateLimit,
    time::Timestamp,
};

/// What stands for no limit; absent: as for all tenants.
const UNLIMITED: i64 = -1;

/// One tenant's.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct QuotaRecord {
    /// Events in a thousand seconds.
    #[prost(sint64, optional, tag = "1")]
    events_per_mille: Option<i64>,
    #[prost(uint32, tag = "2")]
    events_burst: u32,
    #[prost(sint64, optional, tag = "3")]
    pending: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    webhooks: Option<i64>,
    #[prost(sint64, optional, tag = "5")]
    bytes_per_day: Option<i64>,
    #[prost(sint64, tag = "6")]
    update_time: i64,
}

impl QuotaRecord {
    pub(in super::super) fn new(own: &TenantQuota) -> Self {
        let Quota { events, pending, webhooks, bytes_per_day } = own.quota;
        let (events, burst) = match events {
            Limit::Default => (Limit::Default, 0),
            Limit::Unlimited => (Limit::Unlimited, 0),
            Limit::AtMost(limit) => (Limit::AtMost(limit.per_mille().into()), limit.burst()),
        };
        Self {
            events_per_mille: written(events),
            events_burst: burst,
            pending: written(pending),
            webhooks: written(webhooks),
            bytes_per_day: written(bytes_per_day),
            update_time: own.update_time.micros(),
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("quota", bytes)
    }

    pub(in super::super) fn quota(&self, tenant: &str) -> Result<TenantQuota, Corrupt> {
        let tenant: Tenant = tenant.parse().map_err(|error| Corrupt::new("tenant", error))?;
        let events = match read(self.events_per_mille)? {
            Limit::Default => Limit::Default,
            Limit::Unlimited => Limit::Unlimited,
            Limit::AtMost(per_mille) => {
                let limit = u32::try_from(per_mille).ok();
                let limit = limit.and_then(|per_mille| RateLimit::from_stored(per_mille, self.events_burst));
                Limit::AtMost(limit.ok_or_else(|| Corrupt::new("rate", format_args!("{per_mille} is out of bounds")))?)
            }
        };
        let quota = Quota {
            events,
            pending: read(self.pending)?,
            webhooks: read(self.webhooks)?,
            bytes_per_day: read(self.bytes_per_day)?,
        };
        Ok(TenantQuota { tenant, quota, update_time: Timestamp::from_micros(self.update_time) })
    }
}

fn written(limit: Limit<u64>) -> Option<i64> {
    match limit {
        Limit::Default => None,
        Limit::Unlimited => Some(UNLIMITED),
        Limit::AtMost(most) => Some(i64::try_from(most).unwrap_or(i64::MAX)),
    }
}

fn read(stored: Option<i64>) -> Result<Limit<u64>, Corrupt> {
    match stored {
        None => Ok(Limit::Default),
        Some(UNLIMITED) => Ok(Limit::Unlimited),
        Some(most) => u64::try_from(most)
            .map(Limit::AtMost)
            .map_err(|_| Corrupt::new("quota", format_args!("{most} is negative"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_survive_the_disk() {
        let rate = RateLimit::new(0.5, 7).unwrap();
        let mixed = Quota {
            events: Limit::AtMost(rate),
            pending: Limit::AtMost(0),
            webhooks: Limit::Unlimited,
            bytes_per_day: Limit::Default,
        };
        let unlimited = Quota { events: Limit::Unlimited, bytes_per_day: Limit::AtMost(1 << 40), ..Quota::default() };
        for quota in [mixed, unlimited, Quota::default()] {
            let own = TenantQuota { tenant: "acme".parse().unwrap(), quota, update_time: Timestamp::from_micros(5) };
            let bytes = QuotaRecord::new(&own).encode_to_vec();
            assert_eq!(QuotaRecord::decode_from(&bytes).unwrap().quota("acme").unwrap(), own);
        }
        for wrong in [
            QuotaRecord { pending: Some(-2), ..QuotaRecord::default() },
            QuotaRecord { events_per_mille: Some(1), ..QuotaRecord::default() },
            QuotaRecord { events_per_mille: Some(i64::MAX), ..QuotaRecord::default() },
        ] {
            assert!(wrong.quota("acme").is_err(), "{wrong:?}");
        }
        assert!(QuotaRecord::default().quota("A").is_err());
    }
}
