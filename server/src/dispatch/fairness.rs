//! Whether everybody gets a turn: how often a webhook that could be attempted sees others go first.
//!
//! What round robin promises, whoever else wants to be served, and for how long: while a webhook waits,
//!
//! - another one of its tenant has no more than one turn, and
//! - another tenant has no more than one turn, and one for each delivery of its own tenant.
//!
//! Slow webhooks are left out: those wait for each other's permits as well.

use std::collections::{BTreeMap, HashMap};

use crate::model::ids::{Tenant, WebhookNo};

/// Deliveries in one turn of a webhook.
const WEBHOOK_TURN: u32 = 4;
/// Deliveries in one turn of a tenant.
const TENANT_TURN: u32 = 8;

/// Those that wait for a permit, with their tenants.
pub(super) type Waiting = BTreeMap<WebhookNo, Tenant>;

/// How often those that wait were passed over.
#[derive(Debug, Default)]
pub(super) struct Patience(HashMap<WebhookNo, Passed>);

/// Deliveries of others since a webhook has begun to wait.
#[derive(Debug, Default)]
struct Passed {
    /// Of the other webhooks of its tenant.
    siblings: BTreeMap<WebhookNo, u32>,
    /// Of the other tenants.
    tenants: BTreeMap<Tenant, u32>,
}

impl Patience {
    /// These wait now. To be called before anybody is served, also if nobody is.
    pub(super) fn look(&mut self, waiting: &Waiting) {
        self.0.retain(|webhook, _| waiting.contains_key(webhook));
    }

    /// A webhook of the tenant was served while these waited. Panics if that was once too often for one of them.
    pub(super) fn served(&mut self, served: WebhookNo, by: &Tenant, waiting: &Waiting) {
        self.0.remove(&served);
        for (webhook, tenant) in waiting.iter().filter(|(webhook, _)| **webhook != served) {
            let passed = self.0.entry(*webhook).or_default();
            if tenant == by {
                *passed.siblings.entry(served).or_default() += 1;
            } else {
                *passed.tenants.entry(by.clone()).or_default() += 1;
            }
            let own: u32 = passed.siblings.values().sum();
            let fair = passed.siblings.values().all(|count| *count <= WEBHOOK_TURN)
                && passed.tenants.values().all(|count| *count <= TENANT_TURN * (own + 1));
            assert!(fair, "{webhook:?} of {tenant} starves; served while it waits: {passed:?}");
        }
    }
}
