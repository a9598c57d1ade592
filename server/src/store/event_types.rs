//! The registered event types in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{
    event_type::{EventType, EventTypeKey},
    ids::Tenant,
};

/// Registered event types by name, every tenant's and each tenant's.
#[derive(Debug, Default)]
pub(super) struct EventTypes {
    shared: Named,
    owned: HashMap<Tenant, Named>,
    count: usize,
    schema_bytes: usize,
}

type Named = BTreeMap<Box<str>, Arc<EventType>>;

impl EventTypes {
    fn named(&mut self, tenant: Option<&Tenant>) -> &mut Named {
        match tenant {
            None => &mut self.shared,
            Some(tenant) => self.owned.entry(tenant.clone()).or_default(),
        }
    }

    pub(super) fn put(&mut self, event_type: EventType) {
        self.remove(&event_type.key);
        self.count += 1;
        self.schema_bytes += event_type.schema_bytes();
        let name = event_type.key.name.as_str().into();
        self.named(event_type.key.tenant.clone().as_ref()).insert(name, Arc::new(event_type));
    }

    pub(super) fn remove(&mut self, key: &EventTypeKey) {
        if let Some(known) = self.named(key.tenant.as_ref()).remove(key.name.as_str()) {
            self.count -= 1;
            self.schema_bytes -= known.schema_bytes();
        }
        if let Some(tenant) = &key.tenant
            && self.owned.get(tenant).is_some_and(Named::is_empty)
        {
            self.owned.remove(tenant);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The one that a tenant means by this name; without a tenant, any tenant's.
    pub(super) fn find(&self, tenant: Option<&Tenant>, name: &str) -> Option<&Arc<EventType>> {
        self.shared.get(name).or_else(|| match tenant {
            Some(tenant) => self.owned.get(tenant)?.get(name),
            None => self.owned.values().find_map(|named| named.get(name)),
        })
    }

    pub(super) fn get(&self, key: &EventTypeKey) -> Option<&Arc<EventType>> {
        let named = match &key.tenant {
            None => &self.shared,
            Some(tenant) => self.owned.get(tenant)?,
        };
        named.get(key.name.as_str())
    }

    /// A tenant's and every tenant's, in the order of their creation, after the one of this number.
    pub(super) fn list(&self, tenant: &Tenant, after: u64, limit: usize) -> Vec<Arc<EventType>> {
        let owned = self.owned.get(tenant).into_iter().flat_map(Named::values);
        let mut found: Vec<_> = self.shared.values().chain(owned).filter(|known| known.no > after).cloned().collect();
        found.sort_unstable_by_key(|known| known.no);
        found.truncate(limit);
        found
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn schema_bytes(&self) -> usize {
        self.schema_bytes
    }

    /// How many are this tenant's own, and how long their schemas are together.
    pub(super) fn totals_of(&self, tenant: &Tenant) -> (usize, usize) {
        let owned = || self.owned.get(tenant).into_iter().flat_map(Named::values);
        (owned().count(), owned().map(|known| known.schema_bytes()).sum())
    }
}
