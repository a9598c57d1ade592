//! Quotas of an image.

use std::collections::HashMap;

use postrider_server::{
    limits::QUOTAS_MAX,
    model::{
        ids::{Tenant, WebhookNo},
        quota::{self, Excess, Limits, Quota, TenantQuota, check_bytes, check_pending, check_webhooks, replay_room},
    },
    store::{Publish, QuotaAnswer, QuotaChange, QuotaStep},
};

use super::image::{Effects, Image};

impl Image {
    pub(super) fn change_quota(&mut self, change: &QuotaChange, effects: &mut Effects) -> QuotaAnswer {
        let QuotaChange { tenant, quota, time } = change.clone();
        if quota == Quota::default() {
            self.quotas.remove(&tenant);
            effects.quotas.push(QuotaStep::Removed(tenant));
            return QuotaAnswer::Set;
        }
        if !self.quotas.contains_key(&tenant) && self.quotas.len() >= QUOTAS_MAX {
            return QuotaAnswer::TooMany;
        }
        let own = TenantQuota { tenant: tenant.clone(), quota, update_time: time };
        self.quotas.insert(tenant, own.clone());
        effects.quotas.push(QuotaStep::Put(own));
        QuotaAnswer::Set
    }

    /// Takes what an event needs of its tenant's quota; all of it, or nothing.
    pub(super) fn use_quota(&mut self, publish: &Publish, deliveries: u64) -> Result<(), Excess> {
        let (tenant, time) = (&publish.event.tenant, publish.accept_time);
        let limits = self.limits_of(tenant);
        if let Some(limit) = limits.pending {
            check_pending(limit, self.pending_of(tenant), deliveries)?;
        }
        if let Some(limit) = limits.bytes_per_day {
            let bytes = self.bytes.entry((quota::day(time), tenant.clone())).or_default();
            check_bytes(limit, *bytes, publish.event.written_bytes(), time)?;
            *bytes += publish.event.written_bytes();
        }
        Ok(())
    }

    pub(super) fn webhook_fits_quota(&self, tenant: &Tenant) -> Result<(), Excess> {
        let Some(limit) = self.limits_of(tenant).webhooks else { return Ok(()) };
        let all = self.webhooks.values().filter(|(_, webhook)| webhook.tenant == *tenant);
        check_webhooks(limit, all.count() as u64)
    }

    pub(super) fn one_more_fits_quota(&self, webhook: WebhookNo) -> Result<(), Excess> {
        let tenant = &self.webhooks[&webhook].1.tenant;
        let Some(limit) = self.limits_of(tenant).pending else { return Ok(()) };
        check_pending(limit, self.pending_of(tenant), 1)
    }

    /// How many deliveries of the webhook's tenant a replay may make pending.
    pub(super) fn replay_quota_room(&self, webhook: WebhookNo) -> u64 {
        let tenant = &self.webhooks[&webhook].1.tenant;
        let limit = self.limits_of(tenant).pending;
        limit.map_or(u64::MAX, |limit| replay_room(limit, self.pending_of(tenant)))
    }

    fn limits_of(&self, tenant: &Tenant) -> Limits {
        let own = self.quotas.get(tenant);
        own.map_or(self.limits.quotas, |own| own.quota.over(&self.limits.quotas))
    }

    fn pending_of(&self, tenant: &Tenant) -> u64 {
        let mine = |no: &WebhookNo| self.webhooks.get(no).is_some_and(|(_, webhook)| webhook.tenant == *tenant);
        let arrived: u64 = self.pending.iter().filter(|(no, _)| mine(no)).map(|(_, pending)| pending).sum();
        arrived + self.on_the_way().get(tenant).copied().unwrap_or(0)
    }

    /// Deliveries of wide events that have not reached their webhooks, by tenant.
    pub(super) fn on_the_way(&self) -> HashMap<Tenant, u64> {
        let mut all = HashMap::new();
        for (seq, rest) in &self.fan_outs {
            if let Some(stored) = self.events.get(seq) {
                *all.entry(stored.event.tenant.clone()).or_default() += rest.len() as u64;
            }
        }
        all
    }
}
