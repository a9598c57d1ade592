//! Event types of an image: who may have which name, and who needs it.

use postrider_server::{
    limits::{EVENT_SCHEMAS_BYTES_MAX, EVENT_TYPES_MAX, TENANT_EVENT_SCHEMAS_BYTES_MAX, TENANT_EVENT_TYPES_MAX},
    model::{
        catalogue,
        event_type::{EventType, EventTypeContent, EventTypeKey},
        ids::{EventTypeName, Tenant},
        time::Timestamp,
        webhook::Subscription,
    },
    store::{ConfigAnswer, EventTypeStep},
};

use super::image::{Effects, Image};

impl Image {
    pub(super) fn create_event_type(
        &mut self,
        key: &EventTypeKey,
        content: &EventTypeContent,
        time: Timestamp,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let same = |known: &&EventTypeKey| {
            known.name == key.name && (known.tenant == key.tenant || known.tenant.is_none() || key.tenant.is_none())
        };
        if self.event_types.keys().any(|known| same(&known)) {
            return ConfigAnswer::EventTypeExists;
        }
        self.config_seq += 1;
        let event_type = EventType::register(key.clone(), self.config_seq, content.clone(), time);
        self.put_event_type(event_type, effects)
    }

    pub(super) fn update_event_type(
        &mut self,
        key: &EventTypeKey,
        expect: u64,
        content: &EventTypeContent,
        time: Timestamp,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let Some(known) = self.event_types.get(key) else { return ConfigAnswer::NotFound };
        if known.version != expect {
            return ConfigAnswer::VersionMismatch;
        }
        let changed = known.updated(content.clone(), time);
        self.put_event_type(changed, effects)
    }

    pub(super) fn delete_event_type(
        &mut self,
        key: &EventTypeKey,
        expect: Option<u64>,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let Some(known) = self.event_types.get(key) else { return ConfigAnswer::NotFound };
        if expect.is_some_and(|version| version != known.version) {
            return ConfigAnswer::VersionMismatch;
        }
        let mut all = self.webhooks.values().map(|(_, webhook)| webhook);
        let theirs = all.by_ref().filter(|webhook| key.tenant.as_ref().is_none_or(|tenant| webhook.tenant == *tenant));
        let webhooks = theirs.filter(|webhook| webhook.settings.subscription.names(&key.name)).count() as u64;
        if webhooks > 0 {
            return ConfigAnswer::EventTypeInUse { webhooks };
        }
        self.event_types.remove(key);
        effects.event_types.push(EventTypeStep::Removed(key.clone()));
        ConfigAnswer::EventTypeDeleted
    }

    /// The first type that is named and that the tenant has not.
    pub(super) fn unknown_type(&self, tenant: &Tenant, subscription: &Subscription) -> Option<EventTypeName> {
        let Subscription::Types(types) = subscription else { return None };
        let known = |name: &EventTypeName| {
            let has = |tenant| self.event_types.contains_key(&EventTypeKey { tenant, name: name.clone() });
            catalogue::find(name.as_str()).is_some() || has(None) || has(Some(tenant.clone()))
        };
        types.iter().find(|name| !known(name)).cloned()
    }

    fn put_event_type(&mut self, event_type: EventType, effects: &mut Effects) -> ConfigAnswer {
        let totals = |is_such: &dyn Fn(&EventType) -> bool| {
            let others = self.event_types.values().filter(|known| known.key != event_type.key && is_such(known));
            others
                .fold((1, event_type.schema_bytes()), |(count, bytes), known| (count + 1, bytes + known.schema_bytes()))
        };
        let (count, bytes) = totals(&|_| true);
        let (own, own_bytes) = totals(&|known| known.key.tenant == event_type.key.tenant);
        let goes_beyond_own = event_type.key.tenant.is_some()
            && (own > TENANT_EVENT_TYPES_MAX || own_bytes > TENANT_EVENT_SCHEMAS_BYTES_MAX);
        if count > EVENT_TYPES_MAX || bytes > EVENT_SCHEMAS_BYTES_MAX || goes_beyond_own {
            return ConfigAnswer::TooManyEventTypes;
        }
        self.event_types.insert(event_type.key.clone(), event_type.clone());
        effects.event_types.push(EventTypeStep::Put(event_type.clone()));
        ConfigAnswer::EventTypePut(event_type)
    }
}
