//! What callers are told who go beyond a quota: by which, how much, and when to try again.

use std::time::Duration;

use postrider_proto::error_info as reason;
use tonic::Code;

use super::Failure;
use crate::model::{ids::Tenant, quota::Excess, rate::RateLimit};

impl Failure {
    /// No more tenants may have a quota of their own.
    pub(in crate::api) fn too_many_quotas() -> Self {
        let message = "as many tenants as may be have a quota of their own; change what holds for all of them";
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_QUOTAS, message)
    }

    /// The caller makes calls that go to the audit log faster than they may be written.
    pub(in crate::api) fn too_many_calls(limit: &RateLimit, retry_after: Duration) -> Self {
        let (per_second, burst) = (limit.per_second(), limit.burst());
        let message = format!(
            "these credentials may make {per_second} calls per second that go to the audit log, {burst} at once; nothing was done"
        );
        let facts = vec![("limit", per_second.to_string()), ("burst", burst.to_string())];
        Self { facts, ..Self::new(Code::ResourceExhausted, reason::TOO_MANY_CALLS, message) }.retry_after(retry_after)
    }

    /// Names the tenant, if it is about one's quota.
    pub(in crate::api) fn of_tenant(mut self, tenant: &Tenant) -> Self {
        if !self.facts.is_empty() {
            self.facts.push(("tenant", tenant.to_string()));
        }
        self
    }
}

impl From<Excess> for Failure {
    fn from(excess: Excess) -> Self {
        let retry_after = excess.retry_after();
        let told = |reason, limit: String, usage: u64, message: String| {
            let facts = vec![("limit", limit), ("usage", usage.to_string())];
            Self { facts, ..Self::new(Code::ResourceExhausted, reason, message) }.retry_after(retry_after)
        };
        match excess {
            Excess::Events { limit, .. } => {
                let (per_second, burst) = (limit.per_second(), limit.burst());
                let message = format!("the tenant may publish {per_second} events per second, {burst} at once");
                told(reason::QUOTA_EVENTS_PER_SECOND, per_second.to_string(), burst.into(), message)
            }
            Excess::Pending { limit, usage, more } => {
                let message =
                    format!("{usage} deliveries of the tenant are pending of at most {limit}; {more} would be added");
                told(reason::QUOTA_PENDING_DELIVERIES, limit.to_string(), usage, message)
            }
            Excess::Webhooks { limit, usage } => {
                let message = format!("the tenant has {usage} webhooks of at most {limit}");
                told(reason::QUOTA_WEBHOOKS, limit.to_string(), usage, message)
            }
            Excess::Bytes { limit, usage, more, .. } => {
                let message = format!(
                    "the tenant has published {usage} bytes this day of at most {limit}; {more} would be added"
                );
                told(reason::QUOTA_BYTES_PER_DAY, limit.to_string(), usage, message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn who_goes_beyond_a_quota_is_told_which_how_much_and_when_to_try_again() {
        let tenant: Tenant = "acme".parse().unwrap();
        let retry_after = Duration::from_millis(1_500);
        let check = |excess: Excess, reason: &str, limit: &str, usage: &str| {
            let status = Failure::from(excess).of_tenant(&tenant).into_status();
            assert_eq!(status.code(), Code::ResourceExhausted);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            let fact = |name: &str| info.metadata[name].as_str();
            assert_eq!(
                (info.reason.as_str(), fact("tenant"), fact("limit"), fact("usage")),
                (reason, "acme", limit, usage)
            );
            assert_eq!(details.retry_info().unwrap().retry_delay, Some(excess.retry_after()));
        };
        let limit = RateLimit::new(0.5, 3).unwrap();
        check(Excess::Events { limit, retry_after }, "QUOTA_EVENTS_PER_SECOND", "0.5", "3");
        check(Excess::Pending { limit: 5, usage: 4, more: 2 }, "QUOTA_PENDING_DELIVERIES", "5", "4");
        check(Excess::Webhooks { limit: 1, usage: 1 }, "QUOTA_WEBHOOKS", "1", "1");
        check(Excess::Bytes { limit: 9, usage: 8, more: 2, retry_after }, "QUOTA_BYTES_PER_DAY", "9", "8");
        let other = Failure::webhook_not_found().of_tenant(&tenant).into_status().get_error_details();
        assert!(other.error_info().unwrap().metadata.is_empty(), "others say nothing new");
    }
}
