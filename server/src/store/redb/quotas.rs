//! Quotas: they are changed, and what is accepted is held to them.
//!
//! How much a tenant uses is judged by the one who writes: what is committed, and what this transaction adds. So it is exact, also when
//! many publish at once.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata as _};
use prost::Message as _;

use super::{
    archive::Archived,
    change::{Change, Tables},
    error::EngineError,
    records::QuotaRecord,
    shared::Shared,
    tables,
};
use crate::{
    limits::{QUOTA_DAY_TENANTS_MAX, QUOTAS_MAX},
    model::{
        ids::{Tenant, WebhookNo},
        quota::{self, Excess, Quota, TenantQuota, check_bytes, check_pending, check_webhooks},
        time::Timestamp,
    },
    store::{
        catalog::Catalog,
        quotas::{QuotaAnswer, QuotaChange, QuotaStep},
        types::{ConfigStep, Publish},
    },
};

/// Rows of former days that one step of upkeep removes.
const FORMER_ROWS: usize = 256;
/// How long after its end a day is still counted: what was accepted before midnight may be written after it.
const DAY_GRACE: Duration = Duration::from_hours(1);
/// Stands for all tenants who share a row. No tenant is called so.
const SHARED_ROW: &str = "";

/// What a transaction makes of the use of tenants that have quotas.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// How many more deliveries of tenants are pending, or fewer, since the transaction began; `None`: nobody has asked.
    ///
    /// Invariant: once there, it is added to by every event that its own tenant's quota was asked for, and nothing else adds:
    /// events are accepted after everything else but the slices.
    pending: Option<HashMap<Tenant, i64>>,
    /// Bytes accepted, by day and row.
    bytes: BTreeMap<u32, HashMap<Box<str>, Bytes>>,
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
        let used = self.used.bytes.entry(day).or_default();
        // Some of them may be in the table already: then rows are shared a little earlier.
        let rows = tables.quota_bytes.len()? + used.len() as u64;
        let is_used = |row: &str| used.contains_key(row);
        let row = row_of(&tables.quota_bytes, is_used, rows, &self.shared.catalog, day, tenant)?;
        if !used.contains_key(row) {
            let before = tables.quota_bytes.get((day, row))?.map_or(0, |bytes| bytes.value());
            used.insert(row.into(), Bytes { before, now: before });
        }
        Ok(used.get_mut(row).expect("it was just put there"))
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

    /// Writes what was used.
    pub(super) fn flush_used(&self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        for (&day, rows) in &self.used.bytes {
            for (row, bytes) in rows.iter().filter(|(_, bytes)| bytes.now != bytes.before) {
                tables.quota_bytes.insert((day, &**row), bytes.now)?;
            }
        }
        Ok(())
    }
}

/// Where it is counted what a tenant publishes on a day.
///
/// Whoever may publish for all tenants can make tenants up. So those that the server knows, which have a webhook or a quota of their
/// own, always have a row of their own, and of the others the first `QUOTA_DAY_TENANTS_MAX`; the rest of them share one until the day
/// is over.
fn row_of<'a>(
    table: &impl ReadableTable<(u32, &'static str), u64>,
    is_used: impl Fn(&str) -> bool,
    rows: u64,
    catalog: &Catalog,
    day: u32,
    tenant: &'a Tenant,
) -> Result<&'a str, EngineError> {
    let own = tenant.as_str();
    let is_there = |row: &str| -> Result<bool, EngineError> { Ok(is_used(row) || table.get((day, row))?.is_some()) };
    if is_there(own)? || catalog.webhooks_of(tenant) > 0 || catalog.quotas().find(tenant).is_some() {
        return Ok(own);
    }
    Ok(if rows >= QUOTA_DAY_TENANTS_MAX || is_there(SHARED_ROW)? { SHARED_ROW } else { own })
}

/// What was counted on days that are over, and on days that a clock thought had come that was ahead.
pub(super) fn expire(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let (txn, _) = shared.read()?;
    let table = txn.open_table(tables::QUOTA_BYTES)?;
    let over = table.range(..(quota::day(now - DAY_GRACE), ""))?;
    // By the clock that events are accepted by: that by which things get old stands while there is doubt.
    let never = table.range((quota::day(shared.clock.now()).saturating_add(2), "")..)?;
    let mut former = Vec::new();
    for row in over.chain(never).take(FORMER_ROWS) {
        let (key, _) = row?;
        let (day, tenant) = key.value();
        former.push((day, tenant.to_owned()));
    }
    Ok((!former.is_empty()).then_some(Archived::ForgetBytes(former)))
}

/// Forgets what was counted.
pub(super) fn forget(tables: &mut Tables<'_>, rows: Vec<(u32, String)>) -> Result<(), EngineError> {
    for (day, tenant) in rows {
        tables.quota_bytes.remove((day, tenant.as_str()))?;
    }
    Ok(())
}

/// How much was accepted from tenants on a day.
pub(super) fn bytes_of_day(shared: &Shared, day: u32, tenants: &[Tenant]) -> Result<Vec<u64>, EngineError> {
    let (txn, _) = shared.read()?;
    let table = txn.open_table(tables::QUOTA_BYTES)?;
    let of = |tenant: &Tenant| -> Result<u64, EngineError> {
        let row = row_of(&table, |_| false, 0, &shared.catalog, day, tenant)?;
        Ok(table.get((day, row))?.map_or(0, |bytes| bytes.value()))
    };
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

    fn opened(dir: &TempDir, bytes_per_day: u64) -> redb::RedbStore {
        let quotas = Limits { bytes_per_day: Some(bytes_per_day), ..Limits::default() };
        let config = redb::Config { quotas, ..redb::Config::default() };
        redb::open(dir.path(), config, std::sync::Arc::default(), Clock::start()).unwrap()
    }

    fn rows(store: &redb::RedbStore) -> u64 {
        store.shared.read().unwrap().0.open_table(tables::QUOTA_BYTES).unwrap().len().unwrap()
    }

    /// Tenants are made up by callers: what is counted of a day goes when it is over, whether or not somebody publishes.
    #[tokio::test]
    async fn rows_of_former_days_go_by_themselves() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir, 1 << 30);
        let batch = (0..300).map(|n| publish(&store, &format!("t{}", n % 150), 100 + n / 150)).collect();
        store.publish(batch).await.unwrap();
        let at = |day: i64, minute: i64| Timestamp::from_micros((day * 1_440 + minute) * 60_000_000);
        for (now, expected) in [(at(100, 1_439), 300), (at(101, 59), 300), (at(101, 60), 150), (at(102, 60), 0)] {
            while store.upkeep(now).await.unwrap() {}
            assert_eq!(rows(&store), expected, "{now:?}");
        }
        let free = Quota { bytes_per_day: Limit::Unlimited, ..Quota::default() };
        let tenant: Tenant = "free".parse().unwrap();
        let change = QuotaChange { tenant: tenant.clone(), quota: free, time: Timestamp::UNIX_EPOCH };
        store.put_config(ConfigChange::Quota(change)).await.unwrap();
        let published = store.publish(vec![publish(&store, "free", 103)]).await.unwrap();
        assert_eq!(
            (published, rows(&store)),
            (vec![Published::New { deliveries: 0 }], 0),
            "who has no limit is not counted"
        );
        store.close().await.unwrap();
    }

    /// The time by which things get old stands while there is doubt about the clock, and events go on being accepted.
    #[tokio::test(start_paused = true)]
    async fn what_was_counted_since_the_clock_is_doubted_stays() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir, 1 << 30);
        let doubted = store.shared.clock.now();
        tokio::time::advance(Duration::from_hours(24 * 5)).await;
        let today = quota::day(store.shared.clock.now());
        store
            .publish(vec![publish(&store, "t", i64::from(today)), publish(&store, "t", i64::from(today) + 9)])
            .await
            .unwrap();
        while store.upkeep(doubted).await.unwrap() {}
        let counted = async |day| store.bytes_of_day(day, &["t".parse().unwrap()]).await.unwrap();
        assert!(counted(today).await[0] > 0);
        assert_eq!(counted(today + 9).await, [0], "by a clock that was ahead");
        store.close().await.unwrap();
    }

    /// Beyond so many, those whom the server does not know share one row: a made-up name more is not a row more, nor a quota more.
    #[tokio::test]
    async fn made_up_tenants_share_a_row_when_there_are_too_many() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir, 3 * 4);
        let quota = Quota { bytes_per_day: Limit::AtMost(1 << 30), ..Quota::default() };
        let known: Tenant = "known".parse().unwrap();
        let change = QuotaChange { tenant: known.clone(), quota, time: Timestamp::UNIX_EPOCH };
        store.put_config(ConfigChange::Quota(change)).await.unwrap();
        let most = QUOTA_DAY_TENANTS_MAX;
        let batch = (0..most + 3).map(|n| publish(&store, &format!("t{n}"), 100)).collect();
        let published = store.publish(batch).await.unwrap();
        assert!(published.iter().all(|it| matches!(it, Published::New { .. })));
        assert_eq!(rows(&store), most + 1);

        // In this transaction and in the next ones, also when there is room again.
        let refused = store.publish(vec![publish(&store, "made-up", 100)]).await.unwrap();
        assert!(matches!(refused[0], Published::OverQuota(Excess::Bytes { .. })), "{refused:?}");
        let more = vec![publish(&store, "known", 100), publish(&store, "t1", 100)];
        let more = store.publish(
            more.into_iter()
                .enumerate()
                .map(|(n, mut it)| {
                    it.event.id = format!("more-{n}").parse().unwrap();
                    it
                })
                .collect(),
        );
        assert!(more.await.unwrap().iter().all(|it| matches!(it, Published::New { .. })));
        assert_eq!(rows(&store), most + 2, "who is known has a row");
        let tenants = [known, "t1".parse().unwrap(), "t0".parse().unwrap(), "made-up".parse().unwrap()];
        let told = store.bytes_of_day(100, &tenants).await.unwrap();
        assert!(told[0] > 0 && told[1] > told[2] && told[3] >= 3 * told[2] && told[2] > 0, "{told:?}");
        store.close().await.unwrap();
    }
}
