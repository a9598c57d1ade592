//! Quotas: they are changed, and what is accepted is held to them.
//!
//! How much a tenant uses is judged by the one who writes: what is committed, and what this transaction adds. So it is exact, also when
//! many publish at once.

use std::collections::{BTreeMap, HashMap};

use ::redb::{ReadTransaction, ReadableTable as _};
use prost::Message as _;

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::QuotaRecord,
    shared::Shared,
    tables,
};
use crate::{
    limits::QUOTAS_MAX,
    model::{
        ids::{Tenant, WebhookNo},
        quota::{self, Excess, Quota, TenantQuota, check_bytes, check_pending, check_webhooks},
    },
    store::{
        quotas::{QuotaAnswer, QuotaChange, QuotaStep},
        types::{ConfigStep, Publish},
    },
};

/// Rows of former days that a commit removes when it adds one.
const FORMER_ROWS: usize = 64;

/// What a transaction makes of the use of tenants that have quotas.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// How many more deliveries of tenants are pending, or fewer, since the transaction began; `None`: nobody has asked.
    ///
    /// Invariant: once there, it is added to by every event that its own tenant's quota was asked for, and nothing else adds:
    /// events are accepted after everything else but the slices.
    pending: Option<HashMap<Tenant, i64>>,
    /// Bytes accepted, by day.
    bytes: BTreeMap<(u32, Tenant), Bytes>,
}

/// Bytes that were accepted from a tenant on a day.
#[derive(Debug, Clone, Copy)]
struct Bytes {
    /// As committed.
    before: u64,
    /// With this transaction.
    now: u64,
}

impl Change<'_> {
    /// Sets a quota.
    pub(super) fn change_quota(
        &mut self,
        tables: &mut Tables<'_>,
        change: QuotaChange,
    ) -> Result<QuotaAnswer, EngineError> {
        let QuotaChange { tenant, quota, time } = change;
        if quota == Quota::default() {
            tables.quotas.remove(tenant.as_str())?;
            self.quotas.push(QuotaStep::Removed(tenant));
            return Ok(QuotaAnswer::Set);
        }
        let added = self.quotas.iter().filter(|step| matches!(step, QuotaStep::Put(_))).count();
        let is_known = tables.quotas.get(tenant.as_str())?.is_some();
        if !is_known && self.shared.catalog.quotas().len() + added >= QUOTAS_MAX {
            return Ok(QuotaAnswer::TooMany);
        }
        let own = TenantQuota { tenant, quota, update_time: time };
        tables.quotas.insert(own.tenant.as_str(), QuotaRecord::new(&own).encode_to_vec().as_slice())?;
        self.quotas.push(QuotaStep::Put(own));
        Ok(QuotaAnswer::Set)
    }

    /// Takes what an event needs of its tenant's quota; all of it, or nothing.
    pub(super) fn use_quota(
        &mut self,
        tables: &Tables<'_>,
        publish: &Publish,
        deliveries: u64,
    ) -> Result<Result<(), Excess>, EngineError> {
        let tenant = &publish.event.tenant;
        let Some(limits) = self.shared.catalog.quotas().limits_of_storing(tenant) else { return Ok(Ok(())) };
        let (size, time) = (publish.event.written_bytes(), publish.accept_time);
        if let Some(limit) = limits.pending {
            if self.used.pending.is_none() {
                self.used.pending = Some(self.more_pending());
            }
            let more = self.used.pending.as_ref().and_then(|more| more.get(tenant)).copied().unwrap_or(0);
            let usage = self.shared.catalog.pending_of(tenant).saturating_add_signed(more);
            if let Err(excess) = check_pending(limit, usage, deliveries) {
                return Ok(Err(excess));
            }
        }
        if let Some(limit) = limits.bytes_per_day {
            let bytes = self.bytes_used(tables, quota::day(time), tenant)?;
            if let Err(excess) = check_bytes(limit, bytes.now, size, time) {
                return Ok(Err(excess));
            }
            bytes.now += size;
        }
        if let Some(pending) = self.used.pending.as_mut().filter(|_| limits.pending.is_some()) {
            *pending.entry(tenant.clone()).or_default() += i64::try_from(deliveries).expect("counts fit");
        }
        Ok(Ok(()))
    }

    fn bytes_used(&mut self, tables: &Tables<'_>, day: u32, tenant: &Tenant) -> Result<&mut Bytes, EngineError> {
        let key = (day, tenant.clone());
        if !self.used.bytes.contains_key(&key) {
            let before = tables.quota_bytes.get((day, tenant.as_str()))?.map_or(0, |bytes| bytes.value());
            self.used.bytes.insert(key.clone(), Bytes { before, now: before });
        }
        Ok(self.used.bytes.get_mut(&key).expect("it was just put there"))
    }

    /// Whether the tenant may have one webhook more.
    pub(super) fn webhook_fits_quota(&self, tenant: &Tenant) -> Result<(), Excess> {
        let catalog = &self.shared.catalog;
        let Some(limit) = catalog.quotas().webhooks_max(tenant) else { return Ok(()) };
        let last = self.shared.counters.lock().last_webhook;
        let is_new = |step: &ConfigStep| matches!(step, ConfigStep::Put(webhook) if webhook.no.0 > last && webhook.tenant == *tenant);
        let created = self.steps.iter().filter(|(_, step)| is_new(step)).count();
        check_webhooks(limit, (catalog.webhooks_of(tenant) + created) as u64)
    }

    /// Whether one delivery more of the webhook's tenant may be pending.
    pub(super) fn one_more_fits_quota(&self, webhook: WebhookNo) -> Result<(), Excess> {
        let Some(webhook) = self.webhook(webhook) else { return Ok(()) };
        let Some(limit) = self.shared.catalog.quotas().pending_max(&webhook.tenant) else { return Ok(()) };
        check_pending(limit, self.pending_of_tenant(&webhook.tenant), 1)
    }

    /// How many deliveries of the tenant a replay may make pending.
    pub(super) fn replay_quota_room(&self, tenant: &Tenant) -> u64 {
        let limit = self.shared.catalog.quotas().pending_max(tenant);
        limit.map_or(u64::MAX, |limit| quota::replay_room(limit, self.pending_of_tenant(tenant)))
    }

    /// How many deliveries of the tenant are pending, this transaction included, before it accepts events.
    fn pending_of_tenant(&self, tenant: &Tenant) -> u64 {
        let more = self.more_pending().get(tenant).copied().unwrap_or(0);
        self.shared.catalog.pending_of(tenant).saturating_add_signed(more)
    }

    /// How many more deliveries of tenants this transaction has made pending, or fewer.
    fn more_pending(&self) -> HashMap<Tenant, i64> {
        let mut all = HashMap::new();
        for (&no, tally) in self.tallies.iter().filter(|(_, tally)| tally.more_pending() != 0) {
            if let Some(known) = self.shared.catalog.webhook(WebhookNo(no)) {
                *all.entry(known.webhook.tenant.clone()).or_default() += tally.more_pending();
            }
        }
        for fan_out in self.fan_outs.iter().filter_map(|(_, fan_out)| fan_out.as_ref()) {
            *all.entry(fan_out.tenant.clone()).or_default() += i64::try_from(fan_out.rest()).expect("counts fit");
        }
        all
    }

    /// Writes what was used, and forgets what was on former days.
    pub(super) fn flush_used(&self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let mut today = None;
        for ((day, tenant), bytes) in self.used.bytes.iter().filter(|(_, bytes)| bytes.now != bytes.before) {
            tables.quota_bytes.insert((*day, tenant.as_str()), bytes.now)?;
            if bytes.before == 0 {
                today = today.or(Some(*day));
            }
        }
        // What was accepted before midnight may be written after it.
        let Some(yesterday) = today.and_then(|today| today.checked_sub(1)) else { return Ok(()) };
        let former = tables.quota_bytes.range(..(yesterday, ""))?;
        // Nor of days that a clock thought had come that was ahead.
        let former = former.chain(tables.quota_bytes.range((yesterday + 3, "")..)?).take(FORMER_ROWS);
        let former = former.map(|row| row.map(|(key, _)| (key.value().0, key.value().1.to_owned())));
        for (day, tenant) in former.collect::<Result<Vec<_>, _>>()? {
            tables.quota_bytes.remove((day, tenant.as_str()))?;
        }
        Ok(())
    }
}

/// How much was accepted from tenants on a day.
pub(super) fn bytes_of_day(shared: &Shared, day: u32, tenants: &[Tenant]) -> Result<Vec<u64>, EngineError> {
    let (txn, _) = shared.read()?;
    let table = txn.open_table(tables::QUOTA_BYTES)?;
    let of = |tenant: &Tenant| Ok(table.get((day, tenant.as_str()))?.map_or(0, |bytes| bytes.value()));
    tenants.iter().map(of).collect()
}

/// All quotas of tenants' own.
pub(super) fn load_quotas(txn: &ReadTransaction) -> Result<Vec<TenantQuota>, EngineError> {
    let mut all = Vec::new();
    for row in txn.open_table(tables::QUOTAS)?.iter()? {
        let (tenant, bytes) = row?;
        all.push(QuotaRecord::decode_from(bytes.value())?.quota(tenant.value())?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use ::redb::ReadableTableMetadata as _;
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        clock::Clock,
        model::{
            event::Event,
            ids::EventTypeName,
            quota::{Limit, Limits},
            time::Timestamp,
        },
        store::{ConfigChange, Published, Store as _, redb},
    };

    fn publish(store: &redb::RedbStore, tenant: &str, day: i64) -> Publish {
        let event = Event {
            id: format!("{tenant}-{day}").parse().unwrap(),
            tenant: tenant.parse().unwrap(),
            event_type: EventTypeName::new("ADD_TAG"),
            labels: BTreeMap::new(),
            ordering_key: String::new(),
            occur_time: None,
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"four"),
            deliver_at: None,
            max_age: None,
        };
        let accept_time = Timestamp::from_micros((day * 86_400 + 5) * 1_000_000);
        Publish { targets: store.catalog().targets(&event), event, accept_time }
    }

    /// Tenants are made up by callers: what is counted of a day goes when others are counted.
    #[tokio::test]
    async fn rows_of_former_days_go() {
        let dir = TempDir::new().unwrap();
        let quotas = Limits { bytes_per_day: Some(1 << 30), ..Limits::default() };
        let config = redb::Config { quotas, ..redb::Config::default() };
        let store = redb::open(dir.path(), config, std::sync::Arc::default(), Clock::start()).unwrap();
        let rows = || store.shared.read().unwrap().0.open_table(tables::QUOTA_BYTES).unwrap().len().unwrap();
        for first in [0, 60] {
            let batch = (first..first + 60).map(|n| publish(&store, &format!("t{n}"), 100)).collect();
            store.publish(batch).await.unwrap();
        }
        for (day, expected) in [(101, 121), (102, 122 - 64), (103, 2), (103, 3)] {
            store.publish(vec![publish(&store, &format!("day{day}-{expected}"), day)]).await.unwrap();
            assert_eq!(rows(), expected, "{day}");
        }
        let free = Quota { bytes_per_day: Limit::Unlimited, ..Quota::default() };
        let tenant: Tenant = "free".parse().unwrap();
        let change = QuotaChange { tenant: tenant.clone(), quota: free, time: Timestamp::UNIX_EPOCH };
        store.put_config(ConfigChange::Quota(change)).await.unwrap();
        let published = store.publish(vec![publish(&store, "free", 103)]).await.unwrap();
        assert_eq!((published, rows()), (vec![Published::New { deliveries: 0 }], 3), "who has no limit is not counted");
        store.close().await.unwrap();
    }
}
