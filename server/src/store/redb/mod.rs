//! The embedded engine: one data directory, two kinds of [redb](https://docs.rs/redb) files, one writer.
//!
//! ```text
//!   publish, commit, put_config ──▶ inbox ──▶ committer ──▶ hot.redb          what changes: small, two-phase, quick to reopen
//!                                                 │             │ archive
//!   due, events, feed, list … ◀── caches ◀────────┘             ▼
//!                                                          segments/*.redb    what is done: filled once, removed whole
//! ```
//!
//! Invariant: nothing above this module sees a type of redb.

mod archive;
mod audit;
mod backup;
mod by_webhook;
mod cache;
mod change;
mod check;
mod committer;
mod config;
mod counts;
mod disk;
mod drops;
mod erase;
mod error;
mod event_types;
mod heartbeat;
mod held;
#[cfg(test)]
mod images;
mod inbox;
mod key_source;
mod keys;
mod mover;
mod open;
mod operational;
mod ordered;
mod outcomes;
mod pins;
mod publish;
mod quotas;
mod reads;
mod ready;
mod reanchor;
mod records;
mod repair;
mod replay;
mod replayable;
mod report;
mod rotation;
mod segments;
mod set_back;
mod shared;
mod slack;
mod space;
mod table_list;
mod tables;
#[cfg(test)]
mod tests;
mod times;
mod tls;
mod views;
mod volume;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
pub use backup::{BackedUp, BackupError, BackupPlan, BackupProgress, NoBackup, RestoreError, Restored, restore};
pub use check::{CheckError, Checked, Findings, check};
pub use error::OpenError;
pub use key_source::{FileProblem, KeyError, KeySource};
pub use rotation::{RotateError, Rotated, rotate};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};

use self::{
    archive::{Archived, Archivist},
    committer::Committer,
    disk::{Disk, FileSystem, OpenFile},
    erase::Decision,
    error::EngineError,
    inbox::{Urgent, rows_of},
    shared::Shared,
};
use super::{
    AuditPage, AuditStep, Catalog, ConfigAnswer, ConfigChange, ConfigPage, Counts, DeliveryDetail, DeliveryPage,
    DeliveryQuery, DuePage, Erase, Erased, FeedError, FeedFilter, FeedPage, GroupCommitted, LanePage, ListPosition,
    OutcomeGroup, Owner, Publish, Published, Repair, Repaired, ReplayAnswer, ReplayChange, ReplayPage, Replays,
    RequestKey, Store, StoreError,
};
use crate::{
    clock::Clock,
    flow::News,
    limits::{
        AUDIT_ENTRIES_MAX, CALLER_READS_MAX, COMMIT_ROWS_MAX, TLS_SETTINGS_BYTES_MAX, TLS_SETTINGS_TENANT_BYTES_MAX,
    },
    model::{
        audit::{AuditNo, AuditQuery},
        erasure::Erasure,
        event::StoredEvent,
        failing::Failing,
        ids::{ConfigSeq, DeliveryId, ErasureId, EventId, EventSeq, Position, Tenant, WebhookNo},
        quota::Limits,
        replay::Replay,
        seal::Sealer,
        time::Timestamp,
    },
    shares::Shares,
    tasks::Tasks,
};

/// Settings of the embedded engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the key is that secrets are encrypted with.
    pub master_key: KeySource,
    /// An operator says that the wall clock is right, whatever the last commit says.
    pub confirm_clock: bool,
    /// Page cache of the hot store.
    pub cache_bytes: usize,
    /// Newest and last read events kept in memory.
    pub chunk_cache_bytes: usize,
    /// Newest outcomes kept in memory for watchers.
    pub log_cache_bytes: usize,
    /// Chunks beyond this size move from the hot store to segments.
    pub hot_bytes_max: usize,
    /// How long events, outcomes and finished deliveries are kept.
    pub retention: Duration,
    /// While the data directory holds more than this, in bytes, the oldest of them go earlier.
    pub retention_bytes: Option<u64>,
    /// How long entries of the audit log are kept.
    pub audit_retention: Duration,
    /// Most of them; of more the oldest go.
    pub audit_entries_max: u64,
    /// Most deliveries pending at once; more are refused.
    pub pending_max: u64,
    /// What holds for tenants without a quota of their own.
    pub quotas: Limits,
    /// Most webhooks.
    pub webhooks_max: usize,
    /// Most bytes of memory that different TLS settings of webhooks may take.
    pub tls_bytes_max: usize,
    /// The same of one tenant.
    pub tls_tenant_bytes_max: usize,
    /// Whose webhooks receive operational events.
    pub operator: Option<Tenant>,
    /// Events are refused while the file system has less free than this, in bytes; what ends deliveries and frees space goes on.
    pub disk_reserve: u64,
    /// Pause before a store that failed again is opened again.
    pub reopen_pause: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            master_key: KeySource::default(),
            confirm_clock: false,
            cache_bytes: 16 * 1024 * 1024,
            chunk_cache_bytes: 16 * 1024 * 1024,
            log_cache_bytes: 8 * 1024 * 1024,
            hot_bytes_max: 128 * 1024 * 1024,
            retention: Duration::from_hours(720),
            retention_bytes: None,
            audit_retention: Duration::from_hours(90 * 24),
            audit_entries_max: AUDIT_ENTRIES_MAX,
            pending_max: 10_000_000,
            quotas: Limits::default(),
            webhooks_max: 1_000_000,
            tls_bytes_max: TLS_SETTINGS_BYTES_MAX,
            tls_tenant_bytes_max: TLS_SETTINGS_TENANT_BYTES_MAX,
            operator: None,
            disk_reserve: 128 * 1024 * 1024,
            reopen_pause: Duration::from_secs(1),
        }
    }
}

/// The embedded engine, open.
#[derive(Debug)]
pub struct RedbStore {
    shared: Arc<Shared>,
    archivist: Arc<Archivist>,
    upkeep: tokio::sync::Mutex<()>,
    /// Held while a backup is made.
    backing_up: Arc<tokio::sync::Mutex<()>>,
    /// Turns to read for callers.
    callers: Arc<Semaphore>,
    /// Who searches.
    searches: Shares<Option<Tenant>>,
    tasks: Tasks,
}

/// Opens the store in `dir`, making it if there is none, and starts its committer. Blocks while it reads configuration.
pub fn open(dir: &Path, config: Config, news: Arc<News>, clock: Clock) -> Result<RedbStore, OpenError> {
    open_on(Arc::new(FileSystem), dir, config, news, clock)
}

fn open_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: Config,
    news: Arc<News>,
    clock: Clock,
) -> Result<RedbStore, OpenError> {
    let (shared, recovered) = open::open(disk, dir, config, news, clock)?;
    let committer = Committer::new(shared.clone(), recovered);
    let tasks = Tasks::default();
    tasks
        .thread("store-committer", move || committer.run())
        .map_err(|error| OpenError::Unusable { dir: dir.to_owned(), error })?;
    Ok(RedbStore {
        shared,
        archivist: Arc::default(),
        upkeep: tokio::sync::Mutex::default(),
        backing_up: Arc::default(),
        callers: Arc::new(Semaphore::new(CALLER_READS_MAX)),
        searches: Shares::new(CALLER_READS_MAX),
        tasks,
    })
}

impl RedbStore {
    /// Completes if the committer panicked.
    pub async fn broken(&self) -> &'static str {
        self.tasks.broken().await
    }

    /// Reads for a caller or a watcher, who may be many and ask for much: they share some of the reader threads, so that
    /// dispatch never waits behind them.
    ///
    /// This is for what looks at little.
    async fn read_for_caller<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.read_in_turn(async {}, read).await
    }

    /// The same for what may look at much: of one tenant, or of all, no more at a time than threads read for callers. So others wait
    /// for what those do now, and not for all that was asked for.
    async fn search_for_caller<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        whose: Option<&Tenant>,
        search: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (searches, whose) = (self.searches.clone(), whose.cloned());
        self.read_in_turn(async move { searches.take(&whose).await }, search).await
    }

    /// Reads when there is a `share` of the turns, and then it is a caller's turn. Both are the thread's that reads, and over when that
    /// has read: whoever has gone meanwhile gives nothing back early, and who stops looking keeps nothing late.
    async fn read_in_turn<S: Send + 'static, T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        share: impl Future<Output = S> + Send + 'static,
        read: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (callers, shared) = (self.callers.clone(), self.shared.clone());
        let reading = async move {
            let share = share.await;
            let turn = (callers.acquire_owned().await.expect("never closed"), share);
            read_off(shared, move |shared| {
                let read = read(shared);
                drop(turn);
                read
            })
            .await
        };
        let read = self.tasks.drive("store-read", reading).await;
        read.unwrap_or_else(|| Err(StoreError::from(EngineError::Lost).into()))
    }

    /// Reads off the runtime's threads.
    async fn read<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        read_off(self.shared.clone(), read).await
    }
}

/// Reads off the runtime's threads.
async fn read_off<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    shared: Arc<Shared>,
    read: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let done = spawn_blocking(move || read(&shared)).await;
    done.unwrap_or_else(|_| Err(StoreError::from(EngineError::Lost).into()))
}

#[async_trait]
impl Store for RedbStore {
    async fn publish(&self, batch: Vec<Publish>) -> Result<Vec<Published>, StoreError> {
        if self.shared.space.is_short() {
            return Err(StoreError::Full);
        }
        if batch.iter().map(rows_of).sum::<usize>() <= COMMIT_ROWS_MAX {
            return self.shared.inbox.accepts(batch).await;
        }
        let mut published = Vec::with_capacity(batch.len());
        let (mut part, mut part_rows) = (Vec::new(), 0);
        for publish in batch {
            part_rows += rows_of(&publish);
            part.push(publish);
            if part_rows > COMMIT_ROWS_MAX {
                published.extend(self.shared.inbox.accepts(std::mem::take(&mut part)).await?);
                part_rows = 0;
            }
        }
        published.extend(self.shared.inbox.accepts(part).await?);
        Ok(published)
    }

    async fn lanes(&self, after: Option<WebhookNo>, limit: usize) -> Result<LanePage, StoreError> {
        self.read(move |shared| reads::lanes(shared, after, limit).map_err(StoreError::from)).await
    }

    async fn due(&self, webhook: WebhookNo, horizon: Timestamp, limit: usize) -> Result<DuePage, StoreError> {
        self.read(move |shared| reads::due(shared, webhook, horizon, limit).map_err(StoreError::from)).await
    }

    async fn events(&self, seqs: &[EventSeq], bytes_max: usize) -> Result<Vec<Option<StoredEvent>>, StoreError> {
        if let Some(events) = reads::cached_events(&self.shared, seqs, bytes_max)? {
            return Ok(events);
        }
        let seqs = seqs.to_vec();
        self.read(move |shared| reads::events(shared, &seqs, bytes_max).map_err(StoreError::from)).await
    }

    async fn find_event(&self, tenant: &Tenant, id: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.read_for_caller(move |shared| reads::find_event(shared, &tenant, &id).map_err(StoreError::from)).await
    }

    async fn commit(&self, owner: Owner, groups: Vec<OutcomeGroup>) -> Result<Vec<GroupCommitted>, StoreError> {
        self.shared.inbox.urgent(|answer| Urgent::Outcomes { owner, groups, answer }).await
    }

    async fn counts(&self, webhooks: &[WebhookNo]) -> Result<Vec<Counts>, StoreError> {
        let webhooks = webhooks.to_vec();
        self.read_for_caller(move |shared| counts::counts(shared, &webhooks).map_err(StoreError::from)).await
    }

    async fn bytes_of_day(&self, day: u32, tenants: &[Tenant]) -> Result<Vec<u64>, StoreError> {
        let tenants = tenants.to_vec();
        self.read_for_caller(move |shared| quotas::bytes_of_day(shared, day, &tenants).map_err(StoreError::from)).await
    }

    async fn failing(&self) -> Result<Vec<(WebhookNo, Failing)>, StoreError> {
        self.read(|shared| reads::failing(shared).map_err(StoreError::from)).await
    }

    fn owner(&self) -> Owner {
        self.shared.owner
    }

    async fn feed(&self, after: Position, filter: &FeedFilter, limit: usize) -> Result<FeedPage, FeedError> {
        if let Some(page) = reads::cached_feed(&self.shared, after, filter, limit)? {
            return Ok(page);
        }
        let filter = filter.clone();
        let whose = filter.tenant.clone();
        self.search_for_caller(whose.as_ref(), move |shared| reads::feed(shared, after, &filter, limit)).await
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.shared.head.subscribe()
    }

    async fn list(
        &self,
        query: &DeliveryQuery,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<DeliveryPage, StoreError> {
        let query = query.clone();
        let whose = query.tenant.clone();
        let list = move |shared: &Shared| views::list(shared, &query, after, limit).map_err(StoreError::from);
        self.search_for_caller(whose.as_ref(), list).await
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<DeliveryDetail>, StoreError> {
        self.read_for_caller(move |shared| views::get(shared, id).map_err(StoreError::from)).await
    }

    async fn expired(&self, id: DeliveryId) -> Result<Option<Tenant>, StoreError> {
        self.read_for_caller(move |shared| views::expired(shared, id).map_err(StoreError::from)).await
    }

    fn retained_since(&self) -> Timestamp {
        let counters = self.shared.counters.lock();
        Timestamp::from_micros(counters.gone_newest) + Duration::from_micros(1)
    }

    async fn put_config(&self, change: ConfigChange) -> Result<ConfigAnswer, StoreError> {
        self.shared.inbox.urgent(|answer| Urgent::Config { change, answer }).await
    }

    async fn repair(&self, repair: Repair) -> Result<Repaired, StoreError> {
        self.shared.inbox.urgent(|answer| Urgent::Repair { repair, answer }).await
    }

    async fn erase(&self, erase: Erase) -> Result<Erased, StoreError> {
        let event = match &erase {
            Erase::Event { tenant, id, .. } => {
                let (tenant, id) = (tenant.clone(), id.clone());
                let find = move |shared: &Shared| reads::find_event(shared, &tenant, &id).map_err(StoreError::from);
                self.read_for_caller(find).await?.map(|stored| stored.seq)
            }
            Erase::Tenant { .. } => None,
        };
        let decision = Decision { erase, event };
        self.shared.inbox.urgent(|answer| Urgent::Erase { decision, answer }).await
    }

    async fn erasure(&self, tenant: &Tenant, id: ErasureId) -> Result<Option<Erasure>, StoreError> {
        let tenant = tenant.clone();
        self.read_for_caller(move |shared| erase::find(shared, &tenant, id).map_err(StoreError::from)).await
    }

    async fn replay(&self, change: ReplayChange) -> Result<ReplayAnswer, StoreError> {
        if self.shared.space.is_short() && matches!(change, ReplayChange::Start { .. } | ReplayChange::Step(_)) {
            return Err(StoreError::Full);
        }
        self.shared.inbox.urgent(|answer| Urgent::Replay { change, answer }).await
    }

    async fn replayable(&self, replay: &Replay, from: EventSeq, limit: usize) -> Result<ReplayPage, StoreError> {
        let replay = replay.clone();
        self.read_for_caller(move |shared| replayable::page(shared, &replay, from, limit).map_err(StoreError::from))
            .await
    }

    fn replays(&self) -> &Replays {
        &self.shared.replays
    }

    async fn answered(
        &self,
        tenant: &Tenant,
        request: &RequestKey,
        now: Timestamp,
    ) -> Result<Option<ConfigAnswer>, StoreError> {
        let (tenant, request) = (tenant.clone(), request.clone());
        self.read_for_caller(move |shared| reads::answered(shared, &tenant, &request, now).map_err(StoreError::from))
            .await
    }

    async fn config_since(&self, after: ConfigSeq, limit: usize) -> Result<ConfigPage, StoreError> {
        self.read_for_caller(move |shared| reads::config_since(shared, after, limit).map_err(StoreError::from)).await
    }

    async fn audit(&self, step: AuditStep) -> Result<AuditNo, StoreError> {
        self.shared.inbox.urgent(|answer| Urgent::Audit { step, answer }).await
    }

    async fn audited(
        &self,
        query: &AuditQuery,
        before: Option<AuditNo>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        let query = query.clone();
        let whose = query.tenant.clone();
        let list = move |shared: &Shared| audit::list(shared, &query, before, limit).map_err(StoreError::from);
        self.search_for_caller(whose.as_ref(), list).await
    }

    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn sealer(&self) -> &Sealer {
        &self.shared.sealer
    }

    async fn upkeep(&self, now: Timestamp) -> Result<bool, StoreError> {
        let _one_at_a_time = self.upkeep.lock().await;
        if self.shared.is_confirmation_new() {
            self.shared.inbox.upkeep(Archived::Noted).await?;
            return Ok(true);
        }
        let archivist = self.archivist.clone();
        let step = self.read(move |shared| {
            shared.look_for_room();
            archivist.step(shared, now).map_err(StoreError::from)
        });
        let step = step.await?;
        let Some(step) = step else {
            if self.shared.was_idle_for_long() {
                self.shared.inbox.upkeep(Archived::Noted).await?;
            }
            return Ok(self.shared.volume.is_looking());
        };
        if matches!(step, Archived::Looked) {
            return Ok(true);
        }
        let afterwards = step.afterwards();
        self.shared.inbox.upkeep(step).await?;
        self.read(move |shared| afterwards.run(shared).map_err(StoreError::from)).await?;
        Ok(true)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.inbox.close();
        self.tasks.ended().await;
        self.read(|shared| {
            shared.segments.close();
            let hot = shared.hot.write().take().and_then(Arc::into_inner);
            hot.map_or(Ok(()), OpenFile::close).map_err(EngineError::from).map_err(StoreError::from)
        })
        .await
    }
}
