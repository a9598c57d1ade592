//! The configuration in memory, kept current by the engine: which webhooks there are, and which of them an event goes to.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::types::Targets;
use crate::model::{
    ids::{ConfigSeq, EventTypeName, Tenant, WebhookId, WebhookNo},
    webhook::Webhook,
};

/// Every webhook there is. Readers never wait for the disk.
#[derive(Debug, Default)]
pub struct Catalog {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    webhooks: BTreeMap<WebhookNo, Registered>,
    by_id: HashMap<WebhookId, WebhookNo>,
    tenants: HashMap<Tenant, TenantIndex>,
}

/// A webhook with what the store counts about it.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The webhook.
    pub webhook: Arc<Webhook>,
    pending: Arc<AtomicU64>,
}

impl Registered {
    /// Deliveries neither delivered, failed nor cancelled, as of the last commit.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct TenantIndex {
    changed_at: ConfigSeq,
    webhooks: BTreeMap<WebhookNo, Arc<Webhook>>,
    /// Filled when first asked for, emptied by changes.
    matches: HashMap<EventTypeName, Arc<[WebhookNo]>>,
}

impl Catalog {
    /// The webhooks of the tenant that want events of this type, and the state of configuration that says so.
    pub fn targets(&self, tenant: &Tenant, event_type: &EventTypeName) -> Targets {
        let inner = self.inner.read();
        let Some(index) = inner.tenants.get(tenant) else {
            return Targets { webhooks: Arc::from([]), matched_at: ConfigSeq(0) };
        };
        if let Some(webhooks) = index.matches.get(event_type) {
            return Targets { webhooks: webhooks.clone(), matched_at: index.changed_at };
        }
        drop(inner);

        let mut inner = self.inner.write();
        let index = inner.tenants.entry(tenant.clone()).or_default();
        let wanting = |webhook: &&Arc<Webhook>| webhook.subscription.wants(event_type);
        let webhooks: Arc<[_]> = index.webhooks.values().filter(wanting).map(|webhook| webhook.no).collect();
        index.matches.insert(event_type.clone(), webhooks.clone());
        Targets { webhooks, matched_at: index.changed_at }
    }

    /// Whether targets matched at `matched_at` still hold.
    pub fn is_current(&self, tenant: &Tenant, matched_at: ConfigSeq) -> bool {
        self.inner.read().tenants.get(tenant).is_none_or(|index| index.changed_at <= matched_at)
    }

    /// A webhook by number.
    pub fn webhook(&self, no: WebhookNo) -> Option<Registered> {
        self.inner.read().webhooks.get(&no).cloned()
    }

    /// A tenant's webhook by id.
    pub fn find(&self, tenant: &Tenant, id: WebhookId) -> Option<Registered> {
        let inner = self.inner.read();
        let registered = inner.webhooks.get(inner.by_id.get(&id)?)?;
        (registered.webhook.tenant == *tenant).then(|| registered.clone())
    }

    /// Webhooks of a tenant (`None`: of all) after `after`, oldest first.
    pub fn list(&self, tenant: Option<&Tenant>, after: Option<WebhookNo>, limit: usize) -> Vec<Registered> {
        let inner = self.inner.read();
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        match tenant {
            None => inner.webhooks.range(range).take(limit).map(|(_, registered)| registered.clone()).collect(),
            Some(tenant) => inner.tenants.get(tenant).map_or_else(Vec::new, |index| {
                index.webhooks.range(range).take(limit).map(|(no, _)| inner.webhooks[no].clone()).collect()
            }),
        }
    }

    /// Tenants that have, or since this process began had, a webhook.
    pub fn tenants(&self) -> Vec<Tenant> {
        self.inner.read().tenants.keys().cloned().collect()
    }

    /// How many webhooks there are.
    pub fn len(&self) -> usize {
        self.inner.read().webhooks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For the engine: the webhook is so since `seq`.
    pub fn put(&self, seq: ConfigSeq, webhook: Webhook) {
        let mut inner = self.inner.write();
        let webhook = Arc::new(webhook);
        inner.by_id.insert(webhook.id, webhook.no);
        let index = inner.tenants.entry(webhook.tenant.clone()).or_default();
        index.changed_at = seq;
        index.matches.clear();
        index.webhooks.insert(webhook.no, webhook.clone());
        let pending = inner.webhooks.get(&webhook.no).map(|known| known.pending.clone()).unwrap_or_default();
        inner.webhooks.insert(webhook.no, Registered { webhook, pending });
    }

    /// For the engine: the webhook is gone since `seq`.
    pub fn remove(&self, seq: ConfigSeq, no: WebhookNo) {
        let mut inner = self.inner.write();
        let Some(Registered { webhook, .. }) = inner.webhooks.remove(&no) else { return };
        inner.by_id.remove(&webhook.id);
        let index = inner.tenants.entry(webhook.tenant.clone()).or_default();
        index.changed_at = seq;
        index.matches.clear();
        index.webhooks.remove(&no);
    }

    /// For the engine: as many deliveries are pending.
    pub fn set_pending(&self, no: WebhookNo, pending: u64) {
        if let Some(registered) = self.inner.read().webhooks.get(&no) {
            registered.pending.store(pending, Ordering::Relaxed);
        }
    }
}
