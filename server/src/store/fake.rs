//! A store in memory for the tests of what stands on the seam: it keeps no promise but the shapes.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    AsOf, AuditPage, AuditStep, Catalog, ConfigAnswer, ConfigChange, ConfigPage, Counts, DeliveryDetail, DeliveryPage,
    DeliveryQuery, DuePage, Erase, Erased, FeedError, FeedFilter, FeedPage, GroupCommitted, KeyAnswer, KeyChange,
    KeyStep, Keyring, LaneDue, LanePage, ListPosition, LogEntry, OutcomeGroup, Owner, Publish, Published, QuotaAnswer,
    QuotaChange, QuotaStep, Repair, Repaired, ReplayAnswer, ReplayChange, ReplayPage, Replays, RequestKey, Store,
    StoreError,
};
use crate::model::{
    audit::{AuditEntry, AuditNo, AuditQuery},
    credentials::ApiKey,
    erasure::Erasure,
    event::StoredEvent,
    failing::Failing,
    ids::{ConfigSeq, DeliveryId, ErasureId, EventId, EventSeq, Position, Tenant, WebhookId, WebhookNo},
    quota::TenantQuota,
    replay::{Replay, ReplayState},
    seal::Sealer,
    time::Timestamp,
    webhook::Webhook,
};

/// A store whose commits can be held up and whose log is written by the test.
pub(crate) struct FakeStore {
    catalog: Catalog,
    sealer: Sealer,
    head: watch::Sender<Position>,
    log: Mutex<Log>,
    config: Mutex<Configuration>,
    published: Mutex<HashMap<EventId, u128>>,
    /// Events in the order in which commits took them.
    pub(crate) order: Mutex<Vec<EventId>>,
    /// Every commit takes one permit for good.
    pub(crate) commits: Semaphore,
    /// What [`Store::get`] answers.
    pub(crate) detail: Mutex<Option<DeliveryDetail>>,
    /// What [`Store::list`] answers, and what it was last asked.
    pub(crate) page: Mutex<(DeliveryPage, Option<DeliveryQuery>)>,
    /// What [`Store::repair`] was asked, and what it answers.
    pub(crate) repairs: Mutex<Vec<Repair>>,
    pub(crate) repaired: Mutex<Repaired>,
    /// What [`Store::counts`] answers; `None`: it fails.
    pub(crate) counts: Mutex<Option<HashMap<WebhookNo, Counts>>>,
    /// What [`Store::lanes`] does.
    pub(crate) lanes: Mutex<Lanes>,
    /// The delivery that [`Store::expired`] knows, and whose it was.
    pub(crate) expired: Mutex<Option<(DeliveryId, Tenant)>>,
    /// What [`Store::retained_since`] answers.
    pub(crate) retained_since: Mutex<Timestamp>,
    /// When [`Store::upkeep`] was last told it is.
    pub(crate) upkept: Mutex<Option<Timestamp>>,
    /// What [`Store::replays`] has.
    pub(crate) replays: Replays,
    /// What [`Store::replay`] was asked and when, and what it answers, in turn; afterwards it does what it is asked.
    pub(crate) replay_changes: Mutex<Vec<(Instant, ReplayChange)>>,
    pub(crate) replay_answers: Mutex<VecDeque<Result<ReplayAnswer, StoreError>>>,
    /// What [`Store::audit`] was told, by number from 1.
    pub(crate) audited: Mutex<Vec<AuditEntry>>,
    /// After so many steps [`Store::audit`] fails.
    pub(crate) audits_left: Mutex<usize>,
    /// What [`Store::replayable`] answers, in turn.
    pub(crate) replay_pages: Mutex<VecDeque<Result<ReplayPage, StoreError>>>,
}

/// What a [`FakeStore`] does when it is asked for lanes.
pub(crate) enum Lanes {
    /// Tells these, page by page.
    Tell(Vec<LaneDue>),
    /// Fails.
    Fail,
    /// Never answers.
    Hang,
}

#[derive(Default)]
struct Log {
    entries: Vec<LogEntry>,
    oldest: u64,
    examined_max: usize,
}

#[derive(Default)]
struct Configuration {
    seq: u64,
    requests: HashMap<(Tenant, String), (u128, Webhook)>,
}

impl FakeStore {
    /// An empty store that commits at once.
    pub(crate) fn new() -> Arc<Self> {
        let store = Self::held();
        store.commits.add_permits(Semaphore::MAX_PERMITS);
        store
    }

    /// An empty store that commits nothing before `commits` has permits.
    pub(crate) fn held() -> Arc<Self> {
        Arc::new(Self {
            catalog: Catalog::default(),
            sealer: Sealer::new([7; 16]),
            head: watch::Sender::new(Position(0)),
            log: Mutex::new(Log { examined_max: usize::MAX, ..Log::default() }),
            config: Mutex::default(),
            published: Mutex::default(),
            order: Mutex::default(),
            commits: Semaphore::new(0),
            detail: Mutex::default(),
            page: Mutex::new((DeliveryPage { deliveries: Vec::new(), next: None }, None)),
            repairs: Mutex::default(),
            repaired: Mutex::new(Repaired::Retried),
            counts: Mutex::new(Some(HashMap::new())),
            lanes: Mutex::new(Lanes::Tell(Vec::new())),
            expired: Mutex::default(),
            retained_since: Mutex::default(),
            upkept: Mutex::default(),
            replays: Replays::default(),
            replay_changes: Mutex::default(),
            replay_answers: Mutex::default(),
            audited: Mutex::default(),
            audits_left: Mutex::new(usize::MAX),
            replay_pages: Mutex::default(),
        })
    }

    /// Commits log entries.
    pub(crate) fn log(&self, entries: impl IntoIterator<Item = LogEntry>) {
        let mut log = self.log.lock();
        log.entries.extend(entries);
        self.head.send_replace(Position(log.entries.len() as u64));
    }

    /// Forgets the log up to `oldest`.
    pub(crate) fn forget(&self, oldest: u64) {
        self.log.lock().oldest = oldest;
    }

    /// Makes [`Store::feed`] examine no more than this many entries a call.
    pub(crate) fn examine(&self, max: usize) {
        self.log.lock().examined_max = max;
    }

    /// The keys there are.
    pub(crate) fn catalog_keys(&self) -> &Keyring {
        self.catalog.keys()
    }

    fn create(&self, change: ConfigChange) -> ConfigAnswer {
        let ConfigChange::CreateWebhook { spec, keys, request, time } = change else { unreachable!("a create") };
        let mut config = self.config.lock();
        let key = request.map(|request| ((spec.tenant.clone(), request.id), request.hash));
        if let Some((hash, webhook)) = key.as_ref().and_then(|(key, _)| config.requests.get(key)) {
            let same = key.as_ref().is_some_and(|(_, asked)| asked == hash);
            return if same { ConfigAnswer::Created(webhook.clone()) } else { ConfigAnswer::RequestReused };
        }
        config.seq += 1;
        let webhook = spec.register(WebhookNo(config.seq), WebhookId::generate(), keys, time);
        self.catalog.put(ConfigSeq(config.seq), webhook.clone());
        if let Some((key, hash)) = key {
            config.requests.insert(key, (hash, webhook.clone()));
        }
        ConfigAnswer::Created(webhook)
    }
}

impl FakeStore {
    fn set_quota(&self, change: &QuotaChange) -> QuotaAnswer {
        let QuotaChange { tenant, quota, time } = change.clone();
        self.catalog.step_quota(QuotaStep::Put(TenantQuota { tenant, quota, update_time: time }));
        QuotaAnswer::Set
    }

    fn change_key(&self, change: KeyChange) -> KeyAnswer {
        match change {
            KeyChange::Create { id, digest, spec, time } => {
                let mut config = self.config.lock();
                config.seq += 1;
                let key = ApiKey { id, no: config.seq, digest, spec, create_time: time };
                self.catalog.keys().step(KeyStep::Put(key.clone()));
                KeyAnswer::Created(key)
            }
            KeyChange::Revoke { id } => {
                let known = self.catalog.keys().find(id).is_some();
                self.catalog.keys().step(KeyStep::Revoked(id));
                if known { KeyAnswer::Revoked } else { KeyAnswer::NotFound }
            }
        }
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn publish(&self, batch: Vec<Publish>) -> Result<Vec<Published>, StoreError> {
        self.order.lock().extend(batch.iter().map(|publish| publish.event.id.clone()));
        self.commits.acquire().await.expect("never closed").forget();
        let mut published = self.published.lock();
        let answer = |publish: Publish| {
            let deliveries = u32::try_from(publish.targets.webhooks.len()).expect("few");
            let hash = publish.event.content_hash();
            match published.insert(publish.event.id, hash) {
                None => Published::New { deliveries },
                Some(known) if known == hash => Published::Duplicate { deliveries },
                Some(_) => Published::Conflict,
            }
        };
        Ok(batch.into_iter().map(answer).collect())
    }

    async fn lanes(&self, after: Option<WebhookNo>, limit: usize) -> Result<LanePage, StoreError> {
        let told = match &*self.lanes.lock() {
            Lanes::Tell(lanes) => Some(lanes.clone()),
            Lanes::Fail => return Err(StoreError::Failed("planted".into())),
            Lanes::Hang => None,
        };
        let Some(lanes) = told else { return pending().await };
        let rest = lanes.into_iter().filter(|lane| Some(lane.webhook) > after);
        let lanes: Vec<_> = rest.take(limit).collect();
        let next = lanes.last().map(|last| last.webhook).filter(|_| lanes.len() == limit);
        Ok(LanePage { lanes, next, as_of: AsOf(0) })
    }

    async fn due(&self, _: WebhookNo, _: Timestamp, _: usize) -> Result<DuePage, StoreError> {
        unreachable!("not asked")
    }

    async fn events(&self, _: &[EventSeq], _: usize) -> Result<Vec<Option<StoredEvent>>, StoreError> {
        unreachable!("not asked")
    }

    async fn find_event(&self, _: &Tenant, _: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        Ok(None)
    }

    async fn commit(&self, _: Owner, groups: Vec<OutcomeGroup>) -> Result<Vec<GroupCommitted>, StoreError> {
        Ok(groups.iter().map(|_| GroupCommitted::Applied(AsOf(0))).collect())
    }

    async fn counts(&self, webhooks: &[WebhookNo]) -> Result<Vec<Counts>, StoreError> {
        let counts = self.counts.lock();
        let counts = counts.as_ref().ok_or(StoreError::Failed("planted".into()))?;
        Ok(webhooks.iter().map(|no| counts.get(no).copied().unwrap_or_default()).collect())
    }

    async fn bytes_of_day(&self, _: u32, tenants: &[Tenant]) -> Result<Vec<u64>, StoreError> {
        Ok(vec![7; tenants.len()])
    }

    async fn failing(&self) -> Result<Vec<(WebhookNo, Failing)>, StoreError> {
        Ok(Vec::new())
    }

    fn owner(&self) -> Owner {
        Owner(0)
    }

    async fn feed(&self, after: Position, filter: &FeedFilter, limit: usize) -> Result<FeedPage, FeedError> {
        let log = self.log.lock();
        if after.0 < log.oldest {
            return Err(FeedError::Expired { oldest: Position(log.oldest) });
        }
        let from = usize::try_from(after.0).expect("small");
        let rest = log.entries.get(from..).ok_or(FeedError::Unknown)?;
        let mut page = FeedPage { entries: Vec::new(), position: after };
        for entry in rest.iter().take(log.examined_max) {
            if page.entries.len() == limit {
                break;
            }
            page.position.0 += 1;
            page.entries.extend(filter.passes(entry).then(|| entry.clone()));
        }
        Ok(page)
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    async fn list(&self, query: &DeliveryQuery, _: Option<ListPosition>, _: usize) -> Result<DeliveryPage, StoreError> {
        let mut page = self.page.lock();
        page.1 = Some(query.clone());
        Ok(page.0.clone())
    }

    async fn get(&self, _: DeliveryId) -> Result<Option<DeliveryDetail>, StoreError> {
        Ok(self.detail.lock().clone())
    }

    async fn expired(&self, id: DeliveryId) -> Result<Option<Tenant>, StoreError> {
        let expired = self.expired.lock();
        Ok(expired.as_ref().filter(|(known, _)| *known == id).map(|(_, tenant)| tenant.clone()))
    }

    fn retained_since(&self) -> Timestamp {
        *self.retained_since.lock()
    }

    async fn answered(&self, _: &Tenant, _: &RequestKey, _: Timestamp) -> Result<Option<ConfigAnswer>, StoreError> {
        Ok(None)
    }

    async fn put_config(&self, change: ConfigChange) -> Result<ConfigAnswer, StoreError> {
        let (tenant, id, expect) = match &change {
            ConfigChange::CreateWebhook { .. } => return Ok(self.create(change)),
            ConfigChange::UpdateWebhook { tenant, id, expect, .. }
            | ConfigChange::RotateSecret { tenant, id, expect, .. } => (tenant, *id, Some(*expect)),
            ConfigChange::DeleteWebhook { tenant, id, expect, .. } => (tenant, *id, *expect),
            ConfigChange::CreateEventType { .. }
            | ConfigChange::UpdateEventType { .. }
            | ConfigChange::DeleteEventType { .. } => unreachable!("not asked"),
            ConfigChange::Key(change) => return Ok(ConfigAnswer::Key(self.change_key(change.clone()))),
            ConfigChange::Quota(change) => return Ok(ConfigAnswer::Quota(self.set_quota(change))),
        };
        let Some(found) = self.catalog.find(tenant, id) else { return Ok(ConfigAnswer::NotFound) };
        if expect.is_some_and(|version| version != found.webhook.version) {
            return Ok(ConfigAnswer::VersionMismatch);
        }
        let mut config = self.config.lock();
        config.seq += 1;
        let changed = match change {
            ConfigChange::UpdateWebhook { settings, enabled, pair, time, .. } => {
                Some(found.webhook.with_pair(pair).updated(settings, enabled, time))
            }
            ConfigChange::RotateSecret { key, overlap, time, .. } => Some(found.webhook.rotated(key, overlap, time)),
            ConfigChange::CreateWebhook { .. }
            | ConfigChange::DeleteWebhook { .. }
            | ConfigChange::CreateEventType { .. }
            | ConfigChange::UpdateEventType { .. }
            | ConfigChange::DeleteEventType { .. }
            | ConfigChange::Key(_)
            | ConfigChange::Quota(_) => None,
        };
        if let Some(webhook) = changed {
            self.catalog.put(ConfigSeq(config.seq), webhook.clone());
            return Ok(ConfigAnswer::Updated(webhook));
        }
        self.catalog.remove(ConfigSeq(config.seq), found.webhook.no);
        Ok(ConfigAnswer::Deleted { cancelled: 3 })
    }

    async fn repair(&self, repair: Repair) -> Result<Repaired, StoreError> {
        self.repairs.lock().push(repair);
        Ok(*self.repaired.lock())
    }

    async fn erase(&self, _: Erase) -> Result<Erased, StoreError> {
        Ok(Erased::NotFound)
    }

    async fn erasure(&self, _: &Tenant, _: ErasureId) -> Result<Option<Erasure>, StoreError> {
        Ok(None)
    }

    async fn replay(&self, change: ReplayChange) -> Result<ReplayAnswer, StoreError> {
        self.replay_changes.lock().push((Instant::now(), change.clone()));
        if let Some(answer) = self.replay_answers.lock().pop_front() {
            return answer;
        }
        let known = |no| self.replays.get(no).map(|replay| Replay::clone(&replay)).expect("it was put there");
        match change {
            ReplayChange::Step(step) => {
                let replay = known(step.replay);
                if replay.next != step.from {
                    return Ok(ReplayAnswer::Stale);
                }
                self.replays.put([(step.replay, Some(replay.stepped(&step, step.events.len() as u64, 0)))]);
            }
            ReplayChange::Drop { replay, .. } => {
                self.replays.put([(replay, Some(Replay { drops: false, ..known(replay) }))]);
            }
            ReplayChange::Fail { replay, why, time } => {
                self.replays.put([(replay, Some(known(replay).ended(ReplayState::Failed(why), time)))]);
            }
            ReplayChange::Forget { replays } => self.replays.put(replays.into_iter().map(|no| (no, None))),
            ReplayChange::Start { .. } | ReplayChange::Cancel { .. } => unreachable!("not asked"),
        }
        Ok(ReplayAnswer::Done)
    }

    async fn replayable(&self, _: &Replay, _: EventSeq, _: usize) -> Result<ReplayPage, StoreError> {
        let page = self.replay_pages.lock().pop_front();
        match page {
            Some(page) => page,
            None => pending().await,
        }
    }

    fn replays(&self) -> &Replays {
        &self.replays
    }

    async fn config_since(&self, _: ConfigSeq, _: usize) -> Result<ConfigPage, StoreError> {
        Ok(ConfigPage { steps: Vec::new(), more: false })
    }

    async fn audit(&self, step: AuditStep) -> Result<AuditNo, StoreError> {
        {
            let mut left = self.audits_left.lock();
            *left = left.checked_sub(1).ok_or(StoreError::Full)?;
        }
        let mut entries = self.audited.lock();
        match step {
            AuditStep::Begin(entry) => {
                entries.push(*entry);
                Ok(AuditNo(entries.len() as u64))
            }
            AuditStep::End(no, end) => {
                let place = usize::try_from(no.0).expect("small") - 1;
                entries[place] = entries[place].clone().ended(*end);
                Ok(no)
            }
        }
    }

    async fn audited(
        &self,
        query: &AuditQuery,
        before: Option<AuditNo>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        let entries = self.audited.lock();
        let numbered: Vec<_> = (1..).map(AuditNo).zip(entries.iter()).collect();
        let is_before = |no: AuditNo| before.is_none_or(|before| no < before);
        let mut found = numbered.into_iter().rev().filter(|(no, entry)| is_before(*no) && query.wants(entry));
        let entries: Vec<_> = found.by_ref().take(limit).map(|(no, entry)| (no, entry.clone())).collect();
        let next = found.next().and(entries.last().map(|(no, _)| *no));
        Ok(AuditPage { entries, next })
    }

    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    async fn upkeep(&self, now: Timestamp) -> Result<bool, StoreError> {
        *self.upkept.lock() = Some(now);
        Ok(false)
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
