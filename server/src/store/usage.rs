//! What tenants use, as far as it is known in memory: exact at the last commit.
//!
//! How many deliveries of a tenant are pending is the sum over its webhooks, which is kept only while anybody has a limit of it, and
//! what wide events have on their way to them.

use std::{collections::HashMap, sync::atomic::Ordering};

use super::{
    catalog::Catalog,
    quotas::{QuotaStep, Quotas},
};
use crate::model::{
    ids::Tenant,
    quota::{Limits, TenantQuota},
};

impl Catalog {
    /// What tenants may use.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// How many deliveries of the tenant are pending. One of a wide event counts until the event has reached its webhook, whatever
    /// becomes of it before.
    pub fn pending_of(&self, tenant: &Tenant) -> u64 {
        let inner = self.inner.read();
        let Some(index) = inner.tenants.get(tenant) else { return 0 };
        if self.quotas.limits_pending() {
            return index.pending.load(Ordering::Relaxed) + index.on_the_way;
        }
        let each = index.webhooks.iter().filter_map(|webhook| inner.webhooks.get(&webhook.no));
        each.map(|known| known.pending.load(Ordering::Relaxed)).sum::<u64>() + index.on_the_way
    }

    /// How many webhooks the tenant has.
    pub fn webhooks_of(&self, tenant: &Tenant) -> usize {
        self.inner.read().tenants.get(tenant).map_or(0, |index| index.webhooks.len())
    }

    /// For the engine: a quota came, changed or went.
    pub fn step_quota(&self, step: QuotaStep) {
        let counted = self.quotas.limits_pending();
        self.quotas.step(step);
        if !counted && self.quotas.limits_pending() {
            self.count_pending();
        }
    }

    /// For the engine, once it has loaded all webhooks: these are all the quotas there are, and what holds for who has none.
    pub fn load_quotas(&self, defaults: Limits, all: impl IntoIterator<Item = TenantQuota>) {
        self.quotas.load(defaults, all);
        if self.quotas.limits_pending() {
            self.count_pending();
        }
    }

    /// For the engine: so many deliveries of wide events are on their way, by tenant, and none of others.
    pub fn load_on_the_way(&self, deliveries: HashMap<Tenant, u64>) {
        let inner = &mut *self.inner.write();
        inner.tenants.values_mut().for_each(|index| index.on_the_way = 0);
        for (tenant, deliveries) in deliveries {
            inner.tenants.entry(tenant).or_default().on_the_way = deliveries;
        }
    }

    /// For the engine: so many are on their way of a wide event, of which so many were before.
    pub fn went_on(&self, tenant: &Tenant, before: u64, now: u64) {
        let inner = &mut *self.inner.write();
        let index = inner.tenants.entry(tenant.clone()).or_default();
        index.on_the_way = (index.on_the_way + now).saturating_sub(before);
    }

    /// Counts anew. Only the engine changes what is counted, and it is the engine that asks.
    fn count_pending(&self) {
        let inner = self.inner.read();
        for index in inner.tenants.values() {
            let each = index.webhooks.iter().filter_map(|webhook| inner.webhooks.get(&webhook.no));
            let pending = each.map(|known| known.pending.load(Ordering::Relaxed)).sum();
            index.pending.store(pending, Ordering::Relaxed);
        }
    }
}
