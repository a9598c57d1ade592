//! The quotas in memory: what a tenant may do is decided without waiting for the disk.
//!
//! Invariant: where nobody has a quota, asking costs one load of an atomic.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::{Mutex, RwLock};

use crate::{
    limits::QUOTA_RATES_MAX,
    model::{
        ids::Tenant,
        quota::{Excess, Limit, Limits, Quota, TenantQuota},
        rate::{Bucket, RateLimit},
        time::Timestamp,
    },
};

/// Set a tenant's quota, all of it.
#[derive(Debug, Clone)]
pub struct QuotaChange {
    /// Whose.
    pub tenant: Tenant,
    /// What was decided; all of it as for all tenants: it has none of its own.
    pub quota: Quota,
    /// Now.
    pub time: Timestamp,
}

/// What became of a [`QuotaChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaAnswer {
    /// It holds from now on.
    Set,
    /// No more tenants may have a quota of their own.
    TooMany,
}

/// One step of what is known about quotas.
#[derive(Debug, Clone)]
pub enum QuotaStep {
    /// The tenant has this quota.
    Put(TenantQuota),
    /// The tenant has none of its own any more.
    Removed(Tenant),
}

/// All quotas.
#[derive(Debug, Default)]
pub struct Quotas {
    inner: RwLock<Inner>,
    any: Any,
    rates: Mutex<Rates>,
}

#[derive(Debug, Default)]
struct Inner {
    defaults: Limits,
    by_tenant: BTreeMap<Tenant, TenantQuota>,
}

/// What anybody has a limit of.
#[derive(Debug, Default)]
struct Any {
    events: AtomicBool,
    pending: AtomicBool,
    webhooks: AtomicBool,
    bytes: AtomicBool,
}

impl Any {
    fn look(&self, inner: &Inner) {
        let Limits { events, pending, webhooks, bytes_per_day } = inner.defaults;
        let own = || inner.by_tenant.values().map(|own| &own.quota);
        let limited = |limit: &Limit<u64>| matches!(limit, Limit::AtMost(_));
        let set = |any: &AtomicBool, is: bool| any.store(is, Ordering::Release);
        set(&self.events, events.is_some() || own().any(|quota| matches!(quota.events, Limit::AtMost(_))));
        set(&self.pending, pending.is_some() || own().any(|quota| limited(&quota.pending)));
        set(&self.webhooks, webhooks.is_some() || own().any(|quota| limited(&quota.webhooks)));
        set(&self.bytes, bytes_per_day.is_some() || own().any(|quota| limited(&quota.bytes_per_day)));
    }
}

impl Quotas {
    /// What holds for a tenant.
    pub fn limits(&self, tenant: &Tenant) -> Limits {
        let inner = self.inner.read();
        inner.by_tenant.get(tenant).map_or(inner.defaults, |own| own.quota.over(&inner.defaults))
    }

    /// What holds for a tenant about events that are stored; `None`: nobody has such a limit.
    pub fn limits_of_storing(&self, tenant: &Tenant) -> Option<Limits> {
        let any = self.limits_pending() || self.any.bytes.load(Ordering::Acquire);
        any.then(|| self.limits(tenant))
    }

    /// How many deliveries of the tenant may be pending.
    pub fn pending_max(&self, tenant: &Tenant) -> Option<u64> {
        if self.limits_pending() { self.limits(tenant).pending } else { None }
    }

    /// How many webhooks the tenant may have.
    pub fn webhooks_max(&self, tenant: &Tenant) -> Option<u64> {
        if self.any.webhooks.load(Ordering::Acquire) { self.limits(tenant).webhooks } else { None }
    }

    /// Whether anybody has a limit of pending deliveries.
    pub fn limits_pending(&self) -> bool {
        self.any.pending.load(Ordering::Acquire)
    }

    /// Whether anybody has a limit of how fast events come.
    pub fn limits_events(&self) -> bool {
        self.any.events.load(Ordering::Acquire)
    }

    /// Whether an event of the tenant may come now. It counts if so.
    pub fn event_comes(&self, tenant: &Tenant, now: Timestamp) -> Result<(), Excess> {
        let Some(limit) = self.limits(tenant).events else { return Ok(()) };
        self.rates.lock().take(tenant, limit, now)
    }

    /// The quota that a tenant has of its own.
    pub fn find(&self, tenant: &Tenant) -> Option<TenantQuota> {
        self.inner.read().by_tenant.get(tenant).cloned()
    }

    /// Quotas of tenants' own after that of `after`, by name.
    pub fn list(&self, after: Option<&Tenant>, limit: usize) -> Vec<TenantQuota> {
        let inner = self.inner.read();
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        inner.by_tenant.range::<Tenant, _>(range).take(limit).map(|(_, own)| own.clone()).collect()
    }

    /// How many tenants have a quota of their own.
    pub fn len(&self) -> usize {
        self.inner.read().by_tenant.len()
    }

    /// Whether no tenant has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn step(&self, step: QuotaStep) {
        let inner = &mut *self.inner.write();
        match step {
            QuotaStep::Put(own) => drop(inner.by_tenant.insert(own.tenant.clone(), own)),
            QuotaStep::Removed(tenant) => drop(inner.by_tenant.remove(&tenant)),
        }
        self.any.look(inner);
    }

    pub(super) fn load(&self, defaults: Limits, all: impl IntoIterator<Item = TenantQuota>) {
        let inner = &mut *self.inner.write();
        inner.defaults = defaults;
        inner.by_tenant = all.into_iter().map(|own| (own.tenant.clone(), own)).collect();
        self.any.look(inner);
    }
}

/// What tenants have left of their rates, in two generations: whoever publishes is in the present one, and when that is full, who was
/// only in the one before it is forgotten. Callers may make tenants up, and need not be trusted to make up few.
#[derive(Debug, Default)]
struct Rates {
    present: HashMap<Tenant, Bucket>,
    before: HashMap<Tenant, Bucket>,
}

impl Rates {
    fn take(&mut self, tenant: &Tenant, limit: RateLimit, now: Timestamp) -> Result<(), Excess> {
        let bucket = match self.present.get_mut(tenant) {
            Some(bucket) => bucket,
            None => self.bring(tenant),
        };
        if let Some(at) = bucket.next(&limit, now) {
            return Err(Excess::Events { limit, retry_after: at.since(now) });
        }
        bucket.take(&limit, now);
        Ok(())
    }

    fn bring(&mut self, tenant: &Tenant) -> &mut Bucket {
        let bucket = self.before.remove(tenant).unwrap_or_default();
        if self.present.len() >= QUOTA_RATES_MAX {
            self.before = std::mem::take(&mut self.present);
        }
        self.present.entry(tenant.clone()).or_insert(bucket)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    fn own(name: &str, quota: Quota) -> TenantQuota {
        TenantQuota { tenant: tenant(name), quota, update_time: Timestamp::UNIX_EPOCH }
    }

    fn slow() -> RateLimit {
        RateLimit::new(1.0, 2).unwrap()
    }

    #[test]
    fn limits_are_a_tenants_own_or_those_of_all() {
        let quotas = Quotas::default();
        let asked = |name: &str| (quotas.pending_max(&tenant(name)), quotas.webhooks_max(&tenant(name)));
        assert_eq!(asked("a"), (None, None));
        assert!(quotas.limits_of_storing(&tenant("a")).is_none(), "nobody has any");
        quotas.step(QuotaStep::Put(own("a", Quota { pending: Limit::AtMost(5), ..Quota::default() })));
        assert_eq!((asked("a"), asked("b")), ((Some(5), None), (None, None)));
        assert_eq!(quotas.limits_of_storing(&tenant("b")), Some(Limits::default()));
        let webhooks = Limits { webhooks: Some(3), ..Limits::default() };
        let all = ["c", "b"].map(|name| own(name, Quota { webhooks: Limit::Unlimited, ..Quota::default() }));
        quotas.load(webhooks, all);
        assert_eq!((asked("a"), asked("b")), ((None, Some(3)), (None, None)));
        let names = |after: Option<&str>| -> Vec<_> {
            let after = after.map(tenant);
            quotas.list(after.as_ref(), 10).iter().map(|own| own.tenant.to_string()).collect()
        };
        assert_eq!(
            (names(None), names(Some("b")), names(Some("c"))),
            (vec!["b".into(), "c".into()], vec!["c".into()], vec![])
        );
        quotas.step(QuotaStep::Removed(tenant("b")));
        assert_eq!((asked("b"), quotas.len()), ((None, Some(3)), 1));
    }

    #[test]
    fn events_come_as_fast_as_they_may() {
        let quotas = Quotas::default();
        let now = Timestamp::from_micros(1_000_000_000);
        quotas.step(QuotaStep::Put(own("slow", Quota { events: Limit::AtMost(slow()), ..Quota::default() })));
        for _ in 0..3 {
            assert!(quotas.event_comes(&tenant("free"), now).is_ok());
        }
        let comes = |now| quotas.event_comes(&tenant("slow"), now).err().map(|excess| excess.retry_after());
        assert_eq!([comes(now), comes(now), comes(now)], [None, None, Some(Duration::from_secs(1))]);
        assert_eq!(
            comes(now + Duration::from_millis(999)),
            Some(Duration::from_millis(1)),
            "who is refused takes nothing"
        );
        assert_eq!(comes(now + Duration::from_secs(1)), None);
        quotas.step(QuotaStep::Removed(tenant("slow")));
        assert_eq!(comes(now), None);
    }

    #[test]
    fn however_many_tenants_there_are_few_are_remembered_and_who_goes_on_is_one_of_them() {
        let (mut rates, now) = (Rates::default(), Timestamp::from_micros(1_000_000_000));
        let busy = tenant("busy");
        assert!(rates.take(&busy, slow(), now).is_ok() && rates.take(&busy, slow(), now).is_ok());
        for n in 0..10 * QUOTA_RATES_MAX {
            assert!(rates.take(&tenant(&format!("t{n}")), slow(), now).is_ok());
            assert!(rates.take(&busy, slow(), now).is_err(), "after {n} others");
            assert!(rates.present.len() + rates.before.len() <= 2 * QUOTA_RATES_MAX);
        }
    }
}
