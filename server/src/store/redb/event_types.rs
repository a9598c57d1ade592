//! Changes of configuration: event types come and go.

use ::redb::ReadableTable as _;
use prost::Message as _;

use super::{
    change::{Change, Tables},
    erase::tenant_range,
    error::EngineError,
    records::EventTypeRecord,
};
use crate::{
    limits::{EVENT_SCHEMAS_BYTES_MAX, EVENT_TYPES_MAX, TENANT_EVENT_SCHEMAS_BYTES_MAX, TENANT_EVENT_TYPES_MAX},
    model::{
        catalogue,
        event_type::{EventType, EventTypeContent, EventTypeKey},
        ids::{EventTypeName, Tenant, WebhookNo},
        time::Timestamp,
        webhook::{Subscription, Webhook},
    },
    store::types::{ConfigAnswer, ConfigStep, EventTypeStep},
};

impl Change<'_> {
    pub(super) fn create_event_type(
        &mut self,
        tables: &mut Tables<'_>,
        key: EventTypeKey,
        content: EventTypeContent,
        time: Timestamp,
    ) -> Result<ConfigAnswer, EngineError> {
        if self.name_is_taken(tables, &key)? {
            return Ok(ConfigAnswer::EventTypeExists);
        }
        self.counters.config_seq += 1;
        let event_type = EventType::register(key, self.counters.config_seq, content, time);
        if !self.has_room_for(&event_type, true) {
            return Ok(ConfigAnswer::TooManyEventTypes);
        }
        self.put_event_type(tables, event_type)
    }

    pub(super) fn update_event_type(
        &mut self,
        tables: &mut Tables<'_>,
        key: &EventTypeKey,
        expect: u64,
        content: EventTypeContent,
        time: Timestamp,
    ) -> Result<ConfigAnswer, EngineError> {
        let Some(known) = find(tables, key)? else { return Ok(ConfigAnswer::NotFound) };
        if known.version != expect {
            return Ok(ConfigAnswer::VersionMismatch);
        }
        let changed = known.updated(content, time);
        if changed.schema_bytes() > known.schema_bytes() && !self.has_room_for(&changed, false) {
            return Ok(ConfigAnswer::TooManyEventTypes);
        }
        self.put_event_type(tables, changed)
    }

    pub(super) fn delete_event_type(
        &mut self,
        tables: &mut Tables<'_>,
        key: &EventTypeKey,
        expect: Option<u64>,
    ) -> Result<ConfigAnswer, EngineError> {
        let Some(known) = find(tables, key)? else { return Ok(ConfigAnswer::NotFound) };
        if expect.is_some_and(|version| version != known.version) {
            return Ok(ConfigAnswer::VersionMismatch);
        }
        let webhooks = self.webhooks_naming(key);
        if webhooks > 0 {
            return Ok(ConfigAnswer::EventTypeInUse { webhooks });
        }
        tables.event_types.remove(row(key.tenant.as_ref(), &key.name).as_slice())?;
        self.event_types.push(EventTypeStep::Removed(key.clone()));
        Ok(ConfigAnswer::EventTypeDeleted)
    }

    fn put_event_type(&mut self, tables: &mut Tables<'_>, event_type: EventType) -> Result<ConfigAnswer, EngineError> {
        let key = row(event_type.key.tenant.as_ref(), &event_type.key.name);
        tables.event_types.insert(key.as_slice(), EventTypeRecord::new(&event_type).encode_to_vec().as_slice())?;
        self.event_types.push(EventTypeStep::Put(event_type.clone()));
        Ok(ConfigAnswer::EventTypePut(event_type))
    }

    /// A name means one type to a tenant: nobody has one that every tenant has.
    fn name_is_taken(&self, tables: &Tables<'_>, key: &EventTypeKey) -> Result<bool, EngineError> {
        if tables.event_types.get(row(None, &key.name).as_slice())?.is_some() {
            return Ok(true);
        }
        if let Some(tenant) = &key.tenant {
            return Ok(tables.event_types.get(row(Some(tenant), &key.name).as_slice())?.is_some());
        }
        let put = |step: &EventTypeStep| matches!(step, EventTypeStep::Put(put) if put.key.name == key.name);
        let known = self.shared.catalog.event_type(None, key.name.as_str());
        Ok(known.is_some() || self.event_types.iter().any(put))
    }

    /// Counts what this transaction adds, and not what it takes away. A tenant has room of its own, so that nobody takes all there is.
    fn has_room_for(&self, event_type: &EventType, is_new: bool) -> bool {
        let catalog = &self.shared.catalog;
        let fits = |(count, bytes): (usize, usize), added: (usize, usize), most: usize, most_bytes: usize| {
            count + added.0 + usize::from(is_new) <= most && bytes + added.1 + event_type.schema_bytes() <= most_bytes
        };
        let of_all = fits(catalog.event_type_totals(), self.added(|_| true), EVENT_TYPES_MAX, EVENT_SCHEMAS_BYTES_MAX);
        let Some(tenant) = &event_type.key.tenant else { return of_all };
        let added = self.added(|put| put.key.tenant.as_ref() == Some(tenant));
        let of_tenant = catalog.event_type_totals_of(tenant);
        of_all && fits(of_tenant, added, TENANT_EVENT_TYPES_MAX, TENANT_EVENT_SCHEMAS_BYTES_MAX)
    }

    /// How many such types this transaction has put, and how long their schemas are.
    fn added(&self, is_such: impl Fn(&EventType) -> bool) -> (usize, usize) {
        let such = |step: &EventTypeStep| match step {
            EventTypeStep::Put(put) if is_such(put) => (1, put.schema_bytes()),
            EventTypeStep::Put(_) | EventTypeStep::Removed(_) => (0, 0),
        };
        self.event_types.iter().map(such).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// How many webhooks name the type, those of this transaction included.
    fn webhooks_naming(&self, key: &EventTypeKey) -> u64 {
        let mut changed = std::collections::BTreeMap::<WebhookNo, Option<&Webhook>>::new();
        for (_, step) in &self.steps {
            match step {
                ConfigStep::Put(webhook) => changed.insert(webhook.no, Some(webhook)),
                ConfigStep::Removed(no) => changed.insert(*no, None),
            };
        }
        let now = changed.values().flatten().filter(|webhook| names(webhook, key)).count();
        let before = self
            .shared
            .catalog
            .count(key.tenant.as_ref(), |webhook| !changed.contains_key(&webhook.no) && names(webhook, key));
        (now + before) as u64
    }
}

/// The first type that the webhook names and that there is not: it was deleted while the webhook was on its way here.
pub(super) fn unknown_type(
    tables: &Tables<'_>,
    tenant: &Tenant,
    subscription: &Subscription,
) -> Result<Option<EventTypeName>, EngineError> {
    let Subscription::Types(types) = subscription else { return Ok(None) };
    for name in types.iter().filter(|name| catalogue::find(name.as_str()).is_none()) {
        let known = tables.event_types.get(row(Some(tenant), name).as_slice())?.is_some()
            || tables.event_types.get(row(None, name).as_slice())?.is_some();
        if !known {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

/// Whether the webhook asks for the type by its name.
fn names(webhook: &Webhook, key: &EventTypeKey) -> bool {
    key.tenant.as_ref().is_none_or(|tenant| webhook.tenant == *tenant) && webhook.settings.subscription.names(&key.name)
}

/// Removes up to `most` rows of a tenant whose types nobody sees any more; returns how many.
pub(super) fn forget_tenant(tables: &mut Tables<'_>, tenant: &Tenant, most: usize) -> Result<usize, EngineError> {
    let (from, until) = tenant_range(tenant);
    let rows = tables.event_types.range(from.as_slice()..until.as_slice())?.take(most);
    let rows: Vec<_> = rows.map(|row| row.map(|(key, _)| key.value().to_vec())).collect::<Result<_, _>>()?;
    for key in &rows {
        tables.event_types.remove(key.as_slice())?;
    }
    Ok(rows.len())
}

fn find(tables: &Tables<'_>, key: &EventTypeKey) -> Result<Option<EventType>, EngineError> {
    let found = tables.event_types.get(row(key.tenant.as_ref(), &key.name).as_slice())?;
    Ok(found.map(|bytes| EventTypeRecord::decode_from(bytes.value())?.event_type()).transpose()?)
}

/// Key in `EVENT_TYPES`. Neither part holds a zero byte.
fn row(tenant: Option<&Tenant>, name: &EventTypeName) -> Vec<u8> {
    [tenant.map_or("", Tenant::as_str).as_bytes(), &[0], name.as_str().as_bytes()].concat()
}
