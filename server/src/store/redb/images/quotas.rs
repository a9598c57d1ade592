//! Quotas: how much was accepted from a tenant in a day is what was acknowledged, to the byte.

use rand::RngExt as _;

use super::{
    super::RedbStore,
    driver::{Broken, Driver, FEW, WIDE, wrong},
    model::{Fate, Model, START, event},
    verify::Violation,
};
use crate::{
    model::{
        quota::{self, Excess, Limit, check_bytes},
        time::Timestamp,
    },
    store::{ConfigAnswer, ConfigChange, Published, QuotaAnswer, QuotaChange, Store as _},
};

/// A tenant's quota of bytes in a day; `None`: it has none, and nothing is counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quota {
    pub(super) limit: Option<u64>,
    /// What it may have become.
    open: Option<Limit<u64>>,
}

impl Model {
    /// Bytes that a tenant's events of a day have used.
    fn used(&self, tenant: &str, day: u32) -> u64 {
        let counted = self.events.iter().filter(|(_, event)| {
            event.tenant == tenant && event.counted && event.accepted == Fate::Done && quota::day(event.time) == day
        });
        counted.map(|(label, known)| event(*label, known).written_bytes()).sum()
    }

    /// How much a tenant may use in a day.
    pub(super) fn bytes_max(&self, tenant: &str) -> Option<u64> {
        self.quotas.get(tenant).and_then(|quota| quota.limit)
    }

    /// What an event of a tenant is refused for, if it is.
    pub(super) fn refusal(&self, label: u32) -> Option<Published> {
        let known = &self.events[&label];
        if self.is_being_erased(known.tenant) {
            return Some(Published::TenantBeingErased);
        }
        let limit = self.bytes_max(known.tenant)?;
        let (used, more) = (self.used(known.tenant, quota::day(known.time)), event(label, known).written_bytes());
        check_bytes(limit, used, more, known.time).err().map(Published::OverQuota)
    }
}

/// Whether an event was refused because of a quota of bytes.
pub(super) fn is_excess(answer: Published) -> bool {
    matches!(answer, Published::OverQuota(Excess::Bytes { .. }))
}

impl Driver<'_> {
    /// Sets a quota that is not far from what is used, or lifts it.
    pub(super) async fn set_quota(&mut self) -> Result<(), Broken> {
        let tenant = if self.rng.random() { FEW } else { WIDE };
        let entry = self.begin("SetQuota", tenant).await?;
        let more = self.rng.random_range(0..30_000);
        let lifts = self.rng.random_ratio(1, 4);
        let (limit, time) = self.write(|model| {
            let limit = (!lifts).then(|| model.used(tenant, quota::day(model.now)) + more);
            model.quotas.entry(tenant).or_default().open = Some(limit.map_or(Limit::Default, Limit::AtMost));
            (limit, model.now)
        });
        let bytes_per_day = limit.map_or(Limit::Default, Limit::AtMost);
        self.note(format!("set the quota of {tenant} to {limit:?}"));
        let quota = quota::Quota { bytes_per_day, ..quota::Quota::default() };
        let change = QuotaChange { tenant: tenant.parse().expect("a tenant"), quota, time };
        let answer = self.store.put_config(ConfigChange::Quota(change)).await?;
        if !matches!(answer, ConfigAnswer::Quota(QuotaAnswer::Set)) {
            return wrong(format!("a quota was answered {answer:?}"));
        }
        self.write(|model| model.quotas.insert(tenant, Quota { limit, open: None }));
        self.end(entry).await
    }
}

/// A quota is what it was set to, or what it was to be set to.
pub(super) fn settle(store: &RedbStore, model: &mut Model) -> Result<(), Violation> {
    for (tenant, quota) in &mut model.quotas {
        let found = store.catalog().quotas().find(&tenant.parse().expect("a tenant"));
        let limit = found.and_then(|own| own.quota.bytes_per_day.over(None));
        let right = limit == quota.limit || quota.open.is_some_and(|open| open.over(None) == limit);
        if !right {
            return Err(Violation(format!("the quota of {tenant} is {limit:?}, not {quota:?}")));
        }
        *quota = Quota { limit, open: None };
    }
    Ok(())
}

/// What is counted is what was acknowledged.
pub(super) async fn verify(store: &RedbStore, model: &Model) -> Result<(), Violation> {
    let tenants = [FEW, WIDE];
    let names = tenants.map(|tenant| tenant.parse().expect("a tenant"));
    for day in days(model.now) {
        let counted = store.bytes_of_day(day, &names).await?;
        let expected = tenants.map(|tenant| model.used(tenant, day));
        if counted != expected {
            return Err(Violation(format!(
                "of {tenants:?} {counted:?} bytes are counted, and {expected:?} were accepted"
            )));
        }
    }
    Ok(())
}

/// The days of which everything is kept.
fn days(now: Timestamp) -> std::ops::RangeInclusive<u32> {
    quota::day(START).max(quota::day(now) - 1)..=quota::day(now)
}
