//! The configuration in memory, kept current by the engine: which webhooks there are, and which of them an event goes to.
//!
//! There may be a million webhooks, so each is kept once, and what is kept about each is little.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
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
    webhooks: BTreeMap<WebhookNo, Known>,
    by_id: HashMap<WebhookId, WebhookNo>,
    tenants: HashMap<Tenant, TenantIndex>,
}

#[derive(Debug)]
struct Known {
    webhook: Arc<Webhook>,
    /// Counted without a lock for writing.
    pending: AtomicU64,
}

/// A webhook with what the store counts about it.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The webhook.
    pub webhook: Arc<Webhook>,
    pending: u64,
}

impl Registered {
    fn look(known: &Known) -> Self {
        Self { webhook: known.webhook.clone(), pending: known.pending.load(Ordering::Relaxed) }
    }

    /// Deliveries neither delivered, failed nor cancelled, as of the last commit before it was looked up.
    pub fn pending(&self) -> u64 {
        self.pending
    }
}

#[derive(Debug, Default)]
struct TenantIndex {
    changed_at: ConfigSeq,
    /// By number. New ones have the highest.
    webhooks: Vec<Arc<Webhook>>,
    /// Those that are ordered, by number; `None`: there are none.
    ordered: Option<Arc<Vec<WebhookNo>>>,
    /// By type. Filled when first asked for, emptied by changes.
    matches: Vec<(EventTypeName, Arc<[WebhookNo]>)>,
}

impl TenantIndex {
    /// The webhooks that want this type, or where they are to be put.
    fn matching(&self, event_type: &EventTypeName) -> Result<&Arc<[WebhookNo]>, usize> {
        let place = self.matches.binary_search_by_key(&event_type, |(known, _)| known);
        place.map(|index| &self.matches[index].1)
    }

    fn find(&self, no: WebhookNo) -> Result<usize, usize> {
        self.webhooks.binary_search_by_key(&no, |webhook| webhook.no)
    }

    fn change(&mut self, seq: ConfigSeq) {
        self.changed_at = seq;
        self.matches = Vec::new();
    }

    fn note_order(&mut self, no: WebhookNo, is_ordered: bool) {
        if !is_ordered && self.ordered.is_none() {
            return;
        }
        let all = Arc::make_mut(self.ordered.get_or_insert_default());
        match (all.binary_search(&no), is_ordered) {
            (Err(place), true) => all.insert(place, no),
            (Ok(place), false) => drop(all.remove(place)),
            (Ok(_), true) | (Err(_), false) => {}
        }
        if all.is_empty() {
            self.ordered = None;
        }
    }
}

impl Catalog {
    /// The webhooks of the tenant that want events of this type, and the state of configuration that says so.
    pub fn targets(&self, tenant: &Tenant, event_type: &EventTypeName) -> Targets {
        let inner = self.inner.read();
        let Some(index) = inner.tenants.get(tenant) else {
            return Targets { webhooks: Arc::from([]), matched_at: ConfigSeq(0) };
        };
        if let Ok(webhooks) = index.matching(event_type) {
            return Targets { webhooks: webhooks.clone(), matched_at: index.changed_at };
        }
        drop(inner);

        let mut inner = self.inner.write();
        let index = inner.tenants.entry(tenant.clone()).or_default();
        let webhooks = match index.matching(event_type) {
            Ok(webhooks) => webhooks.clone(),
            Err(place) => {
                let wanting = |webhook: &&Arc<Webhook>| webhook.settings.subscription.wants(event_type);
                let webhooks: Arc<[_]> = index.webhooks.iter().filter(wanting).map(|webhook| webhook.no).collect();
                index.matches.reserve_exact(1);
                index.matches.insert(place, (event_type.clone(), webhooks.clone()));
                webhooks
            }
        };
        Targets { webhooks, matched_at: index.changed_at }
    }

    /// Whether targets matched at `matched_at` still hold, and which of the tenant's webhooks are ordered, by number; `None`:
    /// none are.
    pub fn standing(&self, tenant: &Tenant, matched_at: ConfigSeq) -> (bool, Option<Arc<Vec<WebhookNo>>>) {
        let inner = self.inner.read();
        let Some(index) = inner.tenants.get(tenant) else { return (true, None) };
        (index.changed_at <= matched_at, index.ordered.clone())
    }

    /// A webhook by number.
    pub fn webhook(&self, no: WebhookNo) -> Option<Registered> {
        self.inner.read().webhooks.get(&no).map(Registered::look)
    }

    /// A tenant's webhook by id.
    pub fn find(&self, tenant: &Tenant, id: WebhookId) -> Option<Registered> {
        let inner = self.inner.read();
        let known = inner.webhooks.get(inner.by_id.get(&id)?)?;
        (known.webhook.tenant == *tenant).then(|| Registered::look(known))
    }

    /// Webhooks of a tenant (`None`: of all) after `after`, oldest first.
    pub fn list(&self, tenant: Option<&Tenant>, after: Option<WebhookNo>, limit: usize) -> Vec<Registered> {
        let inner = self.inner.read();
        let Some(tenant) = tenant else {
            let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            return inner.webhooks.range(range).take(limit).map(|(_, known)| Registered::look(known)).collect();
        };
        let Some(index) = inner.tenants.get(tenant) else { return Vec::new() };
        let from = index.webhooks.partition_point(|webhook| after.is_some_and(|after| webhook.no <= after));
        let page = index.webhooks[from..].iter().take(limit);
        page.map(|webhook| Registered::look(&inner.webhooks[&webhook.no])).collect()
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
    pub fn put(&self, seq: ConfigSeq, mut webhook: Webhook) {
        let inner = &mut *self.inner.write();
        if let Some((tenant, _)) = inner.tenants.get_key_value(&webhook.tenant) {
            // All of a tenant's webhooks share its name.
            webhook.tenant = tenant.clone();
        }
        let webhook = Arc::new(webhook);
        inner.by_id.insert(webhook.id, webhook.no);
        let index = inner.tenants.entry(webhook.tenant.clone()).or_default();
        index.change(seq);
        index.note_order(webhook.no, webhook.settings.ordering.ordered);
        match index.find(webhook.no) {
            Ok(place) => index.webhooks[place] = webhook.clone(),
            Err(place) => index.webhooks.insert(place, webhook.clone()),
        }
        match inner.webhooks.entry(webhook.no) {
            Entry::Occupied(mut known) => known.get_mut().webhook = webhook,
            Entry::Vacant(place) => {
                place.insert(Known { webhook, pending: AtomicU64::new(0) });
            }
        }
    }

    /// For the engine: the webhook is gone since `seq`.
    pub fn remove(&self, seq: ConfigSeq, no: WebhookNo) {
        let mut inner = self.inner.write();
        let Some(Known { webhook, .. }) = inner.webhooks.remove(&no) else { return };
        inner.by_id.remove(&webhook.id);
        let index = inner.tenants.entry(webhook.tenant.clone()).or_default();
        index.change(seq);
        index.note_order(no, false);
        if let Ok(place) = index.find(no) {
            index.webhooks.remove(place);
        }
    }

    /// For the engine: as many deliveries are pending.
    pub fn set_pending(&self, no: WebhookNo, pending: u64) {
        if let Some(known) = self.inner.read().webhooks.get(&no) {
            known.pending.store(pending, Ordering::Relaxed);
        }
    }
}
