//! What a sweep looks for.

use std::collections::HashSet;

use ::redb::{ReadTransaction, ReadableTable as _};

use super::Job;
use crate::{
    model::ids::{EventId, EventSeq, Tenant},
    store::redb::{
        error::EngineError,
        records::{EventRecord, LogRecord, TombstoneRecord},
        tables::{self, DeliveryRow},
    },
};

/// Event types of what the operator is told.
const OPERATIONAL: &str = "postrider.";

/// Tells what is to be erased from what is not.
#[derive(Debug, Default)]
pub(in super::super) struct Sieve {
    events: HashSet<u64>,
    /// Tenant and id of each.
    event_names: HashSet<(String, String)>,
    tenants: HashSet<String>,
    /// Deleted webhooks of those tenants.
    webhooks: HashSet<u64>,
    /// Whose events tell of others.
    operator: Option<String>,
}

impl Sieve {
    /// For these jobs. Looks for the webhooks of their tenants, which are all deleted by now.
    pub(super) fn new(
        jobs: &[(u64, Job)],
        operator: Option<&Tenant>,
        hot: &ReadTransaction,
    ) -> Result<Self, EngineError> {
        let mut sieve = Self { operator: operator.map(|operator| operator.as_str().to_owned()), ..Self::default() };
        for (_, job) in jobs {
            let tenant = job.tenant.as_str().to_owned();
            if let Some((seq, id)) = &job.event {
                sieve.events.insert(seq.0);
                sieve.event_names.insert((tenant, id.as_str().to_owned()));
            } else {
                sieve.tenants.insert(tenant);
            }
        }
        if sieve.has_tenants() {
            for row in hot.open_table(tables::TOMBSTONES)?.iter()? {
                let (no, bytes) = row?;
                if sieve.tenants.contains(TombstoneRecord::decode_from(bytes.value())?.tenant()?.as_str()) {
                    sieve.webhooks.insert(no.value());
                }
            }
        }
        Ok(sieve)
    }

    pub(super) fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// The events by number, ascending.
    pub(super) fn events(&self) -> Vec<u64> {
        let mut events: Vec<_> = self.events.iter().copied().collect();
        events.sort_unstable();
        events
    }

    /// The deleted webhooks, ascending.
    pub(super) fn webhooks(&self) -> Vec<u64> {
        let mut webhooks: Vec<_> = self.webhooks.iter().copied().collect();
        webhooks.sort_unstable();
        webhooks
    }

    /// The tenants.
    pub(super) fn tenants(&self) -> impl Iterator<Item = Tenant> {
        self.tenants.iter().filter_map(|tenant| tenant.parse().ok())
    }

    /// Whether the event is to be erased.
    pub(super) fn takes_event(&self, seq: u64, event: &EventRecord) -> bool {
        self.events.contains(&seq) || self.tenants.contains(event.tenant())
    }

    /// Whether the event with this number and key in `EVENT_IDS` is.
    pub(super) fn takes_id(&self, seq: u64, key: &[u8]) -> bool {
        let tenant = || key.iter().position(|&byte| byte == 0).and_then(|zero| str::from_utf8(&key[zero + 1..]).ok());
        self.events.contains(&seq) || (self.has_tenants() && tenant().is_some_and(|it| self.tenants.contains(it)))
    }

    /// Whether the log entry is.
    pub(super) fn takes_entry(&self, entry: &LogRecord) -> bool {
        let Some(about) = entry.about() else { return false };
        let named = || self.event_names.contains(&(about.tenant.to_owned(), about.event_id.to_owned()));
        self.events.contains(&about.event)
            || self.tenants.contains(about.tenant)
            || (!about.event_id.is_empty() && named())
    }

    /// Whether the delivery is.
    pub(super) fn takes_delivery(&self, row: DeliveryRow) -> bool {
        self.events.contains(&row.0) || self.webhooks.contains(&row.1)
    }

    /// The event, if it told the operator of something that is to be erased: then it is to be erased as well, after what is pending
    /// of it.
    pub(super) fn told(&self, seq: u64, event: &EventRecord) -> Option<(EventSeq, Tenant, EventId)> {
        let is_told = self.operator.as_deref() == Some(event.tenant())
            && event.event_type().as_str().starts_with(OPERATIONAL)
            && !self.takes_event(seq, event);
        let body = is_told.then(|| serde_json::from_slice::<serde_json::Value>(event.body()).ok()).flatten()?;
        let tenant = body.get("tenant")?.as_str()?;
        let event_id = body.get("event_id").and_then(serde_json::Value::as_str).unwrap_or_default();
        let is_concerned =
            self.tenants.contains(tenant) || self.event_names.contains(&(tenant.to_owned(), event_id.to_owned()));
        let name = (event.tenant().parse().ok()?, event.id().parse().ok()?);
        is_concerned.then_some((EventSeq(seq), name.0, name.1))
    }
}
