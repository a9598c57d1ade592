//! A store in memory that keeps every promise of the seam, for the simulation: its disk fails, dawdles and crashes at will.
//!
//! It passes the conformance suite, so what holds on it holds on an engine that passes, too. Deliberately absent: anything that
//! makes it fast.

mod audit;
mod committer;
mod config;
mod counts;
mod disk;
mod erase;
mod event_types;
mod image;
mod keys;
mod order;
mod outcomes;
mod publish;
mod quotas;
mod reads;
mod repair;
mod replays;
mod retention;

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider_server::{
    flow::News,
    model::{
        audit::{AuditNo, AuditQuery},
        erasure::Erasure,
        event::StoredEvent,
        failing::Failing,
        ids::{ConfigSeq, DeliveryId, ErasureId, EventId, EventSeq, Position, Tenant, WebhookNo},
        replay::Replay,
        seal::Sealer,
        time::Timestamp,
    },
    store::{
        AuditPage, AuditStep, Catalog, ConfigAnswer, ConfigChange, ConfigPage, Counts, DeliveryDetail, DeliveryPage,
        DeliveryQuery, DuePage, Erase, Erased, FeedError, FeedFilter, FeedPage, GroupCommitted, LanePage, ListPosition,
        OutcomeGroup, Owner, Publish, Published, Repair, Repaired, ReplayAnswer, ReplayChange, ReplayPage, Replays,
        RequestKey, Store, StoreError,
    },
    tasks::Tasks,
};
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    committer::{Answer, Committer, Message, submit},
    image::Work,
};
pub use self::{
    disk::{Commit, Disk, Prompt, Storage},
    image::{Effects, Image, Limits, Move},
};

/// Most pieces of work waiting for the committer.
const WAITING_MAX: usize = 1_024;

/// A store in memory.
pub struct MemoryStore {
    shared: Arc<Shared>,
    sealer: Sealer,
    owner: Owner,
    inbox: mpsc::Sender<Message>,
}

/// What the committer and the readers share.
struct Shared {
    storage: Arc<Mutex<Storage>>,
    disk: Arc<dyn Disk>,
    catalog: Catalog,
    replays: Replays,
    head: watch::Sender<Position>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// Opens what is there. Runs on the present runtime.
    pub fn open(storage: Arc<Mutex<Storage>>, disk: Arc<dyn Disk>, news: Arc<News>, tasks: &Tasks) -> Self {
        let (catalog, replays) = (Catalog::default(), Replays::default());
        let (head, sealer, owner) = {
            let image = &mut storage.lock().image;
            image.openings += 1;
            for (seq, webhook) in image.webhooks.values() {
                catalog.put(*seq, webhook.clone());
                catalog.set_pending(webhook.no, image.pending.get(&webhook.no).copied().unwrap_or(0));
            }
            replays.load(image.replays.values().cloned());
            catalog.load_event_types(image.event_types.values().cloned());
            catalog.keys().load(image.api_keys.values().cloned(), image.locked);
            catalog.load_on_the_way(image.on_the_way());
            catalog.load_quotas(image.limits.quotas, image.quotas.values().cloned());
            (Position(image.log.len() as u64), Sealer::new(image.key), Owner(image.openings))
        };
        let shared = Arc::new(Shared { storage, disk, catalog, replays, head: watch::Sender::new(head) });
        let (inbox, work) = mpsc::channel(WAITING_MAX);
        let committer = Committer {
            shared: shared.clone(),
            news,
            inbox: work,
            urgent: VecDeque::new(),
            accepts: VecDeque::new(),
            closing: None,
        };
        tasks.spawn("committer", committer.run());
        Self { shared, sealer, owner, inbox }
    }

    /// Reads a snapshot, which may be old when it arrives.
    async fn read<T>(&self, read: impl FnOnce(&Storage) -> T + Send) -> Result<T, StoreError>
    where
        T: Send,
    {
        self.shared.disk.read().await?;
        let found = read(&self.shared.storage.lock());
        self.shared.disk.arrive().await;
        Ok(found)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn publish(&self, batch: Vec<Publish>) -> Result<Vec<Published>, StoreError> {
        submit(&self.inbox, Work::Publish(batch), Answer::Publish).await
    }

    async fn lanes(&self, after: Option<WebhookNo>, limit: usize) -> Result<LanePage, StoreError> {
        self.read(|storage| storage.lanes(after, limit)).await
    }

    async fn due(&self, webhook: WebhookNo, horizon: Timestamp, limit: usize) -> Result<DuePage, StoreError> {
        self.read(|storage| storage.due(webhook, horizon, limit)).await
    }

    async fn events(&self, seqs: &[EventSeq], bytes_max: usize) -> Result<Vec<Option<StoredEvent>>, StoreError> {
        let weight = |stored: &Option<StoredEvent>| stored.as_ref().map_or(0, |stored| stored.event.weight_bytes());
        self.read(|storage| {
            let mut events: Vec<_> = seqs.iter().map(|seq| storage.image.events.get(seq).cloned()).collect();
            let mut bytes = 0;
            let fit = events.iter().take_while(|stored| {
                bytes += weight(stored);
                bytes <= bytes_max
            });
            let fit = fit.count().max(1);
            events.truncate(fit);
            events
        })
        .await
    }

    async fn find_event(&self, tenant: &Tenant, id: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        let find = |image: &Image| image.event_seq(tenant, id).and_then(|seq| image.events.get(&seq).cloned());
        self.read(|storage| find(&storage.image)).await
    }

    async fn commit(&self, owner: Owner, groups: Vec<OutcomeGroup>) -> Result<Vec<GroupCommitted>, StoreError> {
        let fenced = owner != self.owner;
        submit(&self.inbox, Work::Outcomes { fenced, groups }, Answer::Outcomes).await
    }

    async fn counts(&self, webhooks: &[WebhookNo]) -> Result<Vec<Counts>, StoreError> {
        self.read(|storage| webhooks.iter().map(|no| storage.image.counts(*no)).collect()).await
    }

    async fn bytes_of_day(&self, day: u32, tenants: &[Tenant]) -> Result<Vec<u64>, StoreError> {
        let of = |image: &Image, tenant: &Tenant| image.bytes.get(&(day, tenant.clone())).copied().unwrap_or(0);
        self.read(|storage| tenants.iter().map(|tenant| of(&storage.image, tenant)).collect()).await
    }

    async fn failing(&self) -> Result<Vec<(WebhookNo, Failing)>, StoreError> {
        self.read(|storage| storage.image.failing.iter().map(|(no, failing)| (*no, *failing)).collect()).await
    }

    fn owner(&self) -> Owner {
        self.owner
    }

    async fn feed(&self, after: Position, filter: &FeedFilter, limit: usize) -> Result<FeedPage, FeedError> {
        // Readers of the log wake in no certain order, so that chance must have no part in this.
        self.shared.storage.lock().image.feed(after, filter, limit)
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
        self.read(|storage| storage.image.list(&self.sealer, query, after, limit)).await
    }

    async fn get(&self, id: DeliveryId) -> Result<Option<DeliveryDetail>, StoreError> {
        self.read(|storage| storage.image.get(&self.sealer, id)).await
    }

    async fn expired(&self, id: DeliveryId) -> Result<Option<Tenant>, StoreError> {
        self.read(|storage| storage.image.expired(&self.sealer, id)).await
    }

    fn retained_since(&self) -> Timestamp {
        let (_, newest) = self.shared.storage.lock().image.gone;
        newest + Duration::from_micros(1)
    }

    async fn put_config(&self, change: ConfigChange) -> Result<ConfigAnswer, StoreError> {
        submit(&self.inbox, Work::Config(change), Answer::Config).await
    }

    async fn repair(&self, repair: Repair) -> Result<Repaired, StoreError> {
        submit(&self.inbox, Work::Repair(repair), Answer::Repair).await
    }

    async fn erase(&self, erase: Erase) -> Result<Erased, StoreError> {
        submit(&self.inbox, Work::Erase(erase), Answer::Erase).await
    }

    async fn erasure(&self, tenant: &Tenant, id: ErasureId) -> Result<Option<Erasure>, StoreError> {
        self.read(|storage| storage.image.erasures.find(tenant, id)).await
    }

    async fn replay(&self, change: ReplayChange) -> Result<ReplayAnswer, StoreError> {
        submit(&self.inbox, Work::Replay(change), Answer::Replay).await
    }

    async fn replayable(&self, replay: &Replay, from: EventSeq, limit: usize) -> Result<ReplayPage, StoreError> {
        self.read(|storage| storage.image.replayable(replay, from, limit)).await
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
        let key = (tenant.clone(), request.id.clone());
        self.read(|storage| storage.image.known_request(&key, now).map(|known| known.answer(request.hash))).await
    }

    async fn config_since(&self, after: ConfigSeq, limit: usize) -> Result<ConfigPage, StoreError> {
        self.read(|storage| storage.image.config_since(after, limit)).await
    }

    async fn audit(&self, step: AuditStep) -> Result<AuditNo, StoreError> {
        submit(&self.inbox, Work::Audit(step), Answer::Audit).await
    }

    async fn audited(
        &self,
        query: &AuditQuery,
        before: Option<AuditNo>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        self.read(|storage| storage.image.audited(query, before, limit)).await
    }

    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    async fn upkeep(&self, now: Timestamp) -> Result<bool, StoreError> {
        submit(&self.inbox, Work::Upkeep(now), Answer::Upkeep).await?;
        Ok(false)
    }

    async fn close(&self) -> Result<(), StoreError> {
        let (closing, closed) = oneshot::channel();
        self.inbox.send(Message::Close(closing)).await.map_err(|_| StoreError::Closed)?;
        closed.await.map_err(|_| StoreError::Closed)
    }
}
