//! Contract ⇄ model for quotas.

use postrider_proto::v1;

use super::{count, tenant, time};
use crate::{
    api::status::{Failure, Violations},
    limits::QUOTA_BYTES_PER_DAY_MIN,
    model::{
        ids::Tenant,
        quota::{Limit, Limits, Quota, TenantQuota},
        rate::{BURST_MAX, PER_SECOND_MAX, PER_SECOND_MIN, RateLimit},
        time::Timestamp,
    },
};

/// What stands for no limit.
const UNLIMITED: i64 = -1;

/// What a caller decided about which tenant.
pub(in crate::api) fn set(request: v1::SetQuotaRequest) -> Result<(Tenant, Quota), Failure> {
    let mut violations = Violations::default();
    let Some(quota) = request.quota else {
        violations.add("quota", "must be set");
        return Err(violations.into());
    };
    let tenant = tenant(&mut violations, "quota.tenant", &quota.tenant);
    let mut limit = |field, value, least| limit(&mut violations, field, value, least);
    let pending = limit("quota.pending_deliveries", quota.pending_deliveries, 0);
    let webhooks = limit("quota.webhooks", quota.webhooks, 0);
    let bytes_per_day = limit("quota.bytes_per_day", quota.bytes_per_day, QUOTA_BYTES_PER_DAY_MIN as u64);
    let events = events(&mut violations, quota.events_per_second, quota.events_burst);
    violations.check()?;
    Ok((tenant.expect("no violations"), Quota { events, pending, webhooks, bytes_per_day }))
}

/// Whose quota a caller wants to see.
pub(in crate::api) fn get(request: &v1::GetQuotaRequest) -> Result<Tenant, Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", &request.tenant);
    violations.check()?;
    Ok(tenant.expect("no violations"))
}

fn limit(violations: &mut Violations, field: &str, value: Option<i64>, least: u64) -> Limit<u64> {
    let Some(value) = value else { return Limit::Default };
    if value == UNLIMITED {
        return Limit::Unlimited;
    }
    match u64::try_from(value) {
        Ok(most) if most >= least => Limit::AtMost(most),
        Ok(_) | Err(_) => {
            violations.add(field, format!("must be at least {least}, or {UNLIMITED} for no limit"));
            Limit::Default
        }
    }
}

fn events(violations: &mut Violations, per_second: Option<f64>, burst: Option<i32>) -> Limit<RateLimit> {
    // Written alike, no other number is meant.
    let unlimited = per_second.is_some_and(|rate| rate.total_cmp(&-1.0).is_eq());
    let Some(rate) = per_second.filter(|_| !unlimited) else {
        if burst.is_some() {
            violations.add("quota.events_burst", "means nothing without a limit in quota.events_per_second");
        }
        return if unlimited { Limit::Unlimited } else { Limit::Default };
    };
    if RateLimit::new(rate, 0).is_none() {
        let problem = format!("must be from {PER_SECOND_MIN} to {PER_SECOND_MAX}, or {UNLIMITED} for no limit");
        violations.add("quota.events_per_second", problem);
        return Limit::Default;
    }
    let burst = u32::try_from(burst.unwrap_or(0)).ok();
    let Some(limit) = burst.and_then(|burst| RateLimit::new(rate, burst)) else {
        violations.add("quota.events_burst", format!("must be from 1 to {BURST_MAX}, or 0 for one second's worth"));
        return Limit::Default;
    };
    Limit::AtMost(limit)
}

/// What a tenant uses.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Usage {
    /// Deliveries that are pending.
    pub(in crate::api) pending: u64,
    /// Webhooks.
    pub(in crate::api) webhooks: usize,
    /// Bytes accepted this day.
    pub(in crate::api) bytes_today: u64,
    /// When it is over.
    pub(in crate::api) day_end: Timestamp,
}

/// A quota as callers see it: what was set, what holds, and what is used of it.
pub(in crate::api) fn reply(
    tenant: &Tenant,
    own: Option<&TenantQuota>,
    limits: &Limits,
    usage: Usage,
) -> v1::TenantQuota {
    let Usage { pending, webhooks, bytes_today, day_end } = usage;
    let is_limited = limits.bytes_per_day.is_some();
    let usage = v1::QuotaUsage {
        pending_deliveries: count(pending),
        webhooks: count(webhooks as u64),
        bytes_today: is_limited.then(|| count(bytes_today)),
        day_end_time: is_limited.then(|| time(day_end)),
    };
    let decided = own.map(|own| own.quota).unwrap_or_default();
    let update_time = own.map(|own| time(own.update_time));
    let quota = v1::Quota { update_time, ..written(tenant, &decided) };
    v1::TenantQuota { quota: Some(quota), in_force: Some(written(tenant, &in_force(limits))), usage: Some(usage) }
}

/// Limits as a quota that leaves nothing open.
fn in_force(limits: &Limits) -> Quota {
    fn said<T>(limit: Option<T>) -> Limit<T> {
        limit.map_or(Limit::Unlimited, Limit::AtMost)
    }
    Quota {
        events: said(limits.events),
        pending: said(limits.pending),
        webhooks: said(limits.webhooks),
        bytes_per_day: said(limits.bytes_per_day),
    }
}

fn written(tenant: &Tenant, quota: &Quota) -> v1::Quota {
    let number = |limit| match limit {
        Limit::Default => None,
        Limit::Unlimited => Some(UNLIMITED),
        Limit::AtMost(most) => Some(count(most)),
    };
    let (events_per_second, events_burst) = match quota.events {
        Limit::Default => (None, None),
        Limit::Unlimited => (Some(-1.0), None),
        Limit::AtMost(limit) => (Some(limit.per_second()), i32::try_from(limit.burst()).ok()),
    };
    v1::Quota {
        tenant: tenant.to_string(),
        events_per_second,
        events_burst,
        pending_deliveries: number(quota.pending),
        webhooks: number(quota.webhooks),
        bytes_per_day: number(quota.bytes_per_day),
        update_time: None,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn asked(quota: v1::Quota) -> Result<Quota, Vec<String>> {
        let set = set(v1::SetQuotaRequest { quota: Some(quota) });
        set.map(|(_, quota)| quota).map_err(|failure| {
            let details = failure.into_status().get_error_details();
            let violations = &details.bad_request().unwrap().field_violations;
            violations.iter().map(|violation| violation.field.clone()).collect()
        })
    }

    #[test]
    fn a_quota_is_taken_as_it_is_meant_and_shown_so() {
        let tenant: Tenant = "acme".parse().unwrap();
        let all = v1::Quota {
            tenant: "acme".into(),
            events_per_second: Some(2.5),
            events_burst: Some(7),
            pending_deliveries: Some(0),
            webhooks: Some(-1),
            bytes_per_day: Some(2 << 20),
            update_time: None,
        };
        let quota = asked(all.clone()).unwrap();
        assert_eq!((quota.pending, quota.webhooks), (Limit::AtMost(0), Limit::Unlimited));
        assert_eq!(written(&tenant, &quota), all);
        let none = v1::Quota { tenant: "acme".into(), ..v1::Quota::default() };
        assert_eq!(asked(none.clone()), Ok(Quota::default()));
        assert_eq!(written(&tenant, &Quota::default()), none);
        let unlimited = v1::Quota { events_per_second: Some(-1.0), ..none.clone() };
        assert_eq!(written(&tenant, &asked(unlimited.clone()).unwrap()), unlimited);
        let second = v1::Quota { events_per_second: Some(20.0), events_burst: Some(0), ..none };
        assert_eq!(written(&tenant, &asked(second).unwrap()).events_burst, Some(20));
    }

    #[test]
    fn what_holds_leaves_nothing_open_and_bytes_are_shown_where_they_are_counted() {
        let tenant = Tenant::default();
        let usage = Usage { pending: 3, webhooks: 2, bytes_today: 9, day_end: Timestamp::from_micros(86_400_000_000) };
        let shown = reply(&tenant, None, &Limits::default(), usage);
        let holds = shown.in_force.unwrap();
        assert_eq!((holds.events_per_second, holds.webhooks, holds.bytes_per_day), (Some(-1.0), Some(-1), Some(-1)));
        assert_eq!(shown.quota.unwrap(), v1::Quota { tenant: "default".into(), ..v1::Quota::default() });
        let expected = v1::QuotaUsage { pending_deliveries: 3, webhooks: 2, ..v1::QuotaUsage::default() };
        assert_eq!(shown.usage, Some(expected));
        let limits = Limits { bytes_per_day: Some(10), ..Limits::default() };
        let usage = reply(&tenant, None, &limits, usage).usage.unwrap();
        assert_eq!((usage.bytes_today, usage.day_end_time.map(|time| time.seconds)), (Some(9), Some(86_400)));
    }

    #[test]
    fn every_field_is_checked() {
        type Case = (fn(&mut v1::Quota), &'static str);
        let quota = |change: fn(&mut v1::Quota)| {
            let mut quota = v1::Quota::default();
            change(&mut quota);
            asked(quota)
        };
        let cases: [Case; 11] = [
            (|it| it.tenant = "A".into(), "quota.tenant"),
            (|it| it.pending_deliveries = Some(-2), "quota.pending_deliveries"),
            (|it| it.webhooks = Some(i64::MIN), "quota.webhooks"),
            (|it| it.bytes_per_day = Some((2 << 20) - 1), "quota.bytes_per_day"),
            (|it| it.events_per_second = Some(0.0), "quota.events_per_second"),
            (|it| it.events_per_second = Some(f64::NAN), "quota.events_per_second"),
            (|it| it.events_per_second = Some(-1.5), "quota.events_per_second"),
            (|it| it.events_burst = Some(5), "quota.events_burst"),
            (|it| (it.events_per_second, it.events_burst) = (Some(-1.0), Some(5)), "quota.events_burst"),
            (|it| (it.events_per_second, it.events_burst) = (Some(1.0), Some(-5)), "quota.events_burst"),
            (|it| (it.events_per_second, it.events_burst) = (Some(1.0), Some(10_001)), "quota.events_burst"),
        ];
        for (change, field) in cases {
            assert_eq!(quota(change), Err(vec![field.to_owned()]));
        }
        assert!(set(v1::SetQuotaRequest::default()).is_err());
        assert!(get(&v1::GetQuotaRequest { tenant: "A".into() }).is_err());
    }
}
