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

use super::{
    event_types::EventTypes,
    keyring::Keyring,
    listing::Names,
    matching::{Matches, Matching},
    quotas::Quotas,
    tls_shelf::TlsShelf,
    troubles::FilterTroubles,
    types::{EventTypeStep, Targets},
};
use crate::{
    limits::MATCHES_REMEMBERED_MAX,
    model::{
        event::Event,
        event_type::{EventType, EventTypeKey},
        ids::{ConfigSeq, EventTypeName, Tenant, WebhookId, WebhookNo},
        scope::{Verdict, View},
        tls::TlsSettings,
        webhook::Webhook,
    },
};

/// Every webhook there is. Readers never wait for the disk.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(super) inner: RwLock<Inner>,
    troubles: FilterTroubles,
    event_types: RwLock<EventTypes>,
    keys: Keyring,
    pub(super) quotas: Quotas,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) webhooks: BTreeMap<WebhookNo, Known>,
    by_id: HashMap<WebhookId, WebhookNo>,
    pub(super) tenants: HashMap<Tenant, TenantIndex>,
    /// Of all webhooks.
    pub(super) tls: TlsShelf,
    /// What is remembered by type of all tenants weighs as much: one for each type, and one for each webhook that wants it.
    pub(super) remembered: usize,
}

#[derive(Debug)]
pub(super) struct Known {
    webhook: Arc<Webhook>,
    /// Counted without a lock for writing.
    pub(super) pending: AtomicU64,
}

impl Known {
    pub(super) fn tls(&self) -> Option<Arc<TlsSettings>> {
        self.webhook.settings.tls.clone()
    }
}

/// A webhook with what the store counts about it.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The webhook.
    pub webhook: Arc<Webhook>,
    pending: u64,
}

impl Registered {
    pub(super) fn look(known: &Known) -> Self {
        Self { webhook: known.webhook.clone(), pending: known.pending.load(Ordering::Relaxed) }
    }

    /// Deliveries neither delivered, failed nor cancelled, as of the last commit before it was looked up.
    pub fn pending(&self) -> u64 {
        self.pending
    }
}

#[derive(Debug, Default)]
pub(super) struct TenantIndex {
    changed_at: ConfigSeq,
    /// By number. New ones have the highest.
    pub(super) webhooks: Vec<Arc<Webhook>>,
    /// Those that have a name.
    pub(super) names: Names,
    /// Those that are ordered, by number; `None`: there are none.
    ordered: Option<Arc<Vec<WebhookNo>>>,
    /// Which of them want which type, as far as it is known.
    pub(super) matches: Matches,
    /// Pending deliveries of all of them, while anybody's are limited.
    pub(super) pending: AtomicU64,
    /// Deliveries of wide events that have not reached their webhooks.
    pub(super) on_the_way: u64,
    /// TLS settings of the tenant's webhooks; `None`: there are none.
    pub(super) tls: Option<Box<TlsShelf>>,
}

impl TenantIndex {
    pub(super) fn find(&self, no: WebhookNo) -> Result<usize, usize> {
        self.webhooks.binary_search_by_key(&no, |webhook| webhook.no)
    }

    fn forget_tls(&mut self, settings: &TlsSettings) {
        if let Some(shelf) = &mut self.tls {
            shelf.give_back(settings);
            if shelf.is_empty() {
                self.tls = None;
            }
        }
    }

    /// Returns what weighed what is not remembered by type any more.
    fn change(&mut self, seq: ConfigSeq) -> usize {
        self.changed_at = seq;
        self.matches.forget()
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
    /// The webhooks that want this event, and the state of configuration that says so. Filters may take long.
    pub fn targets(&self, event: &Event) -> Targets {
        let (matching, matched_at) = self.matching(&event.tenant, &event.event_type);
        let Some(some) = matching.some else {
            return Targets { webhooks: matching.all, matched_at, filtered: false };
        };
        let webhooks = self.judged(&matching.all, &some, &mut View::of(event));
        Targets { webhooks, matched_at, filtered: true }
    }

    /// The same if no filter has to be asked for it.
    pub fn unfiltered_targets(&self, event: &Event) -> Option<Targets> {
        let (matching, matched_at) = self.matching(&event.tenant, &event.event_type);
        matching.some.is_none().then_some(Targets { webhooks: matching.all, matched_at, filtered: false })
    }

    /// The webhooks that want an event whose tenant's configuration has moved since it was matched, for an engine that all others
    /// wait for: so no filter is asked again. Webhooks that filter get what they wanted then, if they still ask for its type.
    pub fn targets_again(&self, event: &Event, matched: &[WebhookNo]) -> Arc<[WebhookNo]> {
        let (matching, _) = self.matching(&event.tenant, &event.event_type);
        if matching.some.is_none() {
            return matching.all;
        }
        let mut webhooks = matching.all.to_vec();
        webhooks.extend(matched.iter().filter(|no| matching.filters(**no)));
        webhooks.sort_unstable();
        webhooks.into()
    }

    /// The webhooks that want every event or some events of this type.
    fn matching(&self, tenant: &Tenant, event_type: &EventTypeName) -> (Matching, ConfigSeq) {
        let inner = self.inner.read();
        let Some(index) = inner.tenants.get(tenant) else { return (Matching::none(), ConfigSeq(0)) };
        if let Some(known) = index.matches.find(event_type) {
            return (known.clone(), index.changed_at);
        }
        // There may be very many: others may read meanwhile.
        let found = (Matching::of(&index.webhooks, event_type), index.changed_at);
        drop(inner);

        let inner = &mut *self.inner.write();
        if let Some(index) = inner.tenants.get_mut(tenant).filter(|index| index.changed_at == found.1) {
            inner.remembered += index.matches.remember(event_type, found.0.clone());
        }
        if inner.remembered > MATCHES_REMEMBERED_MAX {
            // Everybody's alike: the one who has most is the one who finds it again at the highest price.
            for index in inner.tenants.values_mut() {
                inner.remembered -= index.matches.forget();
            }
        }
        found
    }

    /// Those of `some` that admit the event, with all of `all`.
    fn judged(&self, all: &[WebhookNo], some: &[Arc<Webhook>], view: &mut View<'_>) -> Arc<[WebhookNo]> {
        let mut webhooks = all.to_vec();
        for webhook in some {
            match webhook.settings.verdict(view) {
                Verdict::Admitted => webhooks.push(webhook.no),
                Verdict::OtherType | Verdict::Label(_) | Verdict::Payload => {}
                Verdict::Failed(error) => self.troubles.happened(webhook, &error),
            }
        }
        webhooks.sort_unstable();
        webhooks.into()
    }

    /// Filters that said neither yes nor no.
    pub fn troubles(&self) -> &FilterTroubles {
        &self.troubles
    }

    /// The API keys there are.
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// The registered event type that a tenant means by this name; without a tenant, any tenant's.
    pub fn event_type(&self, tenant: Option<&Tenant>, name: &str) -> Option<Arc<EventType>> {
        self.event_types.read().find(tenant, name).cloned()
    }

    /// A registered event type.
    pub fn find_event_type(&self, key: &EventTypeKey) -> Option<Arc<EventType>> {
        self.event_types.read().get(key).cloned()
    }

    /// Registered event types, a tenant's and every tenant's, in the order of their creation, after the one of this number.
    pub fn event_types(&self, tenant: &Tenant, after: u64, limit: usize) -> Vec<Arc<EventType>> {
        self.event_types.read().list(tenant, after, limit)
    }

    /// How many registered event types there are, and how long their schemas are together.
    pub fn event_type_totals(&self) -> (usize, usize) {
        let event_types = self.event_types.read();
        (event_types.count(), event_types.schema_bytes())
    }

    /// The same of those that are a tenant's own.
    pub fn event_type_totals_of(&self, tenant: &Tenant) -> (usize, usize) {
        self.event_types.read().totals_of(tenant)
    }

    /// How many webhooks of a tenant (`None`: of all) are such.
    pub fn count(&self, tenant: Option<&Tenant>, is_such: impl Fn(&Webhook) -> bool) -> usize {
        let inner = self.inner.read();
        match tenant {
            None => inner.webhooks.values().filter(|known| is_such(&known.webhook)).count(),
            Some(tenant) => {
                let webhooks = inner.tenants.get(tenant).into_iter().flat_map(|index| &index.webhooks);
                webhooks.filter(|webhook| is_such(webhook)).count()
            }
        }
    }

    /// For the engine: an event type came, changed or went.
    pub fn step_event_type(&self, step: EventTypeStep) {
        let mut event_types = self.event_types.write();
        match step {
            EventTypeStep::Put(event_type) => event_types.put(event_type),
            EventTypeStep::Removed(key) => event_types.remove(&key),
        }
    }

    /// For the engine: these are all the event types there are.
    pub fn load_event_types(&self, all: impl IntoIterator<Item = EventType>) {
        let mut event_types = self.event_types.write();
        event_types.clear();
        all.into_iter().for_each(|event_type| event_types.put(event_type));
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
        let index = inner.tenants.entry(webhook.tenant.clone()).or_default();
        if let Some(settings) = webhook.settings.tls.take() {
            // All webhooks share equal ones.
            let settings = inner.tls.take(settings);
            webhook.settings.tls = Some(index.tls.get_or_insert_default().take(settings));
        }
        let webhook = Arc::new(webhook);
        inner.by_id.insert(webhook.id, webhook.no);
        inner.remembered -= index.change(seq);
        index.note_order(webhook.no, webhook.settings.ordering.ordered);
        match index.find(webhook.no) {
            Ok(place) => {
                let before = std::mem::replace(&mut index.webhooks[place], webhook.clone());
                index.names.remove(&before);
                if let Some(settings) = &before.settings.tls {
                    index.forget_tls(settings);
                    inner.tls.give_back(settings);
                }
            }
            Err(place) => index.webhooks.insert(place, webhook.clone()),
        }
        index.names.add(&webhook);
        match inner.webhooks.entry(webhook.no) {
            Entry::Occupied(mut known) => known.get_mut().webhook = webhook,
            Entry::Vacant(place) => {
                place.insert(Known { webhook, pending: AtomicU64::new(0) });
            }
        }
    }

    /// For the engine: the webhook is gone since `seq`.
    pub fn remove(&self, seq: ConfigSeq, no: WebhookNo) {
        let inner = &mut *self.inner.write();
        let Some(Known { webhook, pending }) = inner.webhooks.remove(&no) else { return };
        inner.by_id.remove(&webhook.id);
        let index = inner.tenants.entry(webhook.tenant.clone()).or_default();
        if self.quotas.limits_pending() {
            let all = index.pending.get_mut();
            *all = all.saturating_sub(pending.into_inner());
        }
        inner.remembered -= index.change(seq);
        index.note_order(no, false);
        if let Ok(place) = index.find(no) {
            index.webhooks.remove(place);
        }
        index.names.remove(&webhook);
        if let Some(settings) = &webhook.settings.tls {
            index.forget_tls(settings);
            inner.tls.give_back(settings);
        }
    }

    /// For the engine: as many deliveries are pending.
    pub fn set_pending(&self, no: WebhookNo, pending: u64) {
        let inner = self.inner.read();
        let Some(known) = inner.webhooks.get(&no) else { return };
        let before = known.pending.swap(pending, Ordering::Relaxed);
        if self.quotas.limits_pending()
            && let Some(index) = inner.tenants.get(&known.webhook.tenant)
        {
            // Only the engine changes it; those who look at it see one or the other.
            index.pending.fetch_add(pending.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}
