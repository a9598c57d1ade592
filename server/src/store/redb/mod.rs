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
mod by_webhook;
mod cache;
mod change;
mod committer;
mod config;
mod disk;
mod drops;
mod error;
mod event_types;
mod heartbeat;
#[cfg(test)]
mod images;
mod inbox;
mod mover;
mod open;
mod operational;
mod ordered;
mod outcomes;
mod publish;
mod reads;
mod ready;
mod records;
mod repair;
mod report;
mod segments;
mod shared;
mod space;
mod tables;
#[cfg(test)]
mod tests;
mod views;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
pub use error::OpenError;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};

use self::{
    archive::Archivist,
    committer::Committer,
    disk::{Disk, FileSystem, OpenFile},
    error::EngineError,
    inbox::{Urgent, rows_of},
    shared::Shared,
};
use super::{
    Catalog, ConfigAnswer, ConfigChange, ConfigPage, DeliveryDetail, DeliveryPage, DeliveryQuery, DuePage, FeedError,
    FeedFilter, FeedPage, GroupCommitted, LanePage, ListPosition, OutcomeGroup, Owner, Publish, Published, Repair,
    Repaired, RequestKey, Store, StoreError,
};
use crate::{
    clock::Clock,
    flow::News,
    limits::{CALLER_READS_MAX, COMMIT_ROWS_MAX},
    model::{
        event::StoredEvent,
        failing::Failing,
        ids::{ConfigSeq, DeliveryId, EventId, EventSeq, Position, Tenant, WebhookNo},
        seal::Sealer,
        time::Timestamp,
    },
    tasks::Tasks,
};

/// Settings of the embedded engine.
#[derive(Debug, Clone)]
pub struct Config {
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
    /// Most deliveries pending at once; more are refused.
    pub pending_max: u64,
    /// Most webhooks.
    pub webhooks_max: usize,
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
            cache_bytes: 16 * 1024 * 1024,
            chunk_cache_bytes: 16 * 1024 * 1024,
            log_cache_bytes: 8 * 1024 * 1024,
            hot_bytes_max: 128 * 1024 * 1024,
            retention: Duration::from_hours(720),
            pending_max: 10_000_000,
            webhooks_max: 1_000_000,
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
    /// Turns to read for callers.
    callers: Semaphore,
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
        callers: Semaphore::new(CALLER_READS_MAX),
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
    async fn read_for_caller<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let _turn = self.callers.acquire().await.expect("never closed");
        self.read(read).await
    }

    /// Reads off the runtime's threads.
    async fn read<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let shared = self.shared.clone();
        let done = spawn_blocking(move || read(&shared)).await;
        done.unwrap_or_else(|_| Err(StoreError::from(EngineError::Lost).into()))
    }
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
        self.read_for_caller(move |shared| reads::feed(shared, after, &filter, limit)).await
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
        self.read_for_caller(move |shared| views::list(shared, &query, after, limit).map_err(StoreError::from)).await
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<DeliveryDetail>, StoreError> {
        self.read_for_caller(move |shared| views::get(shared, id).map_err(StoreError::from)).await
    }

    async fn put_config(&self, change: ConfigChange) -> Result<ConfigAnswer, StoreError> {
        self.shared.inbox.urgent(|answer| Urgent::Config { change, answer }).await
    }

    async fn repair(&self, repair: Repair) -> Result<Repaired, StoreError> {
        self.shared.inbox.urgent(|answer| Urgent::Repair { repair, answer }).await
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

    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn sealer(&self) -> &Sealer {
        &self.shared.sealer
    }

    async fn upkeep(&self, now: Timestamp) -> Result<bool, StoreError> {
        let _one_at_a_time = self.upkeep.lock().await;
        let archivist = self.archivist.clone();
        let step = self.read(move |shared| {
            shared.look_for_room();
            archivist.step(shared, now).map_err(StoreError::from)
        });
        let step = step.await?;
        let Some(step) = step else { return Ok(false) };
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
