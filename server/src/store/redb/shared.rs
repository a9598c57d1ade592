//! What the committer writes and every reader sees.

use std::{
    collections::BTreeMap,
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ::redb::{ReadTransaction, ReadableDatabase as _};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tracing::warn;

use super::{
    Config,
    cache::{ChunkCache, RecentLog},
    disk::{Disk, OpenFile},
    erase::Erasing,
    error::EngineError,
    heartbeat::Heartbeat,
    inbox::Inbox,
    ready::Batches,
    records::{CountersRecord, Vault},
    segments::Segments,
    set_back::SetBacks,
    slack::Slack,
    space::Space,
    volume::Volume,
};
use crate::{
    clock::Clock,
    flow::News,
    limits::CLOCK_NOTED_INTERVAL,
    metrics::StoreMetrics,
    model::{
        ids::{EventSeq, Position, Tenant, WebhookNo},
        keyring::Keyring,
        ordering::OrderKey,
        seal::Sealer,
        time::Timestamp,
    },
    store::{
        catalog::Catalog,
        replays::Replays,
        types::{AsOf, Owner},
    },
};

/// The engine's common ground.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) space: Arc<Space>,
    pub(super) dir: PathBuf,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) catalog: Catalog,
    pub(super) replays: Replays,
    pub(super) sealer: Sealer,
    pub(super) keyring: Keyring,
    pub(super) owner: Owner,
    pub(super) news: Arc<News>,
    pub(super) inbox: Inbox,
    pub(super) segments: Segments,
    pub(super) chunks: Mutex<ChunkCache>,
    pub(super) recent: Mutex<RecentLog>,
    pub(super) head: watch::Sender<Position>,
    pub(super) metrics: StoreMetrics,
    /// False from a failed commit until the store is open again.
    pub(super) works: watch::Sender<bool>,
    pub(super) heartbeat: Heartbeat,
    /// As of the last commit.
    pub(super) counters: Mutex<CountersRecord>,
    /// As of the opening.
    pub(super) set_backs: SetBacks,
    /// `None` while it is closed, or being opened again after a failure.
    pub(super) hot: RwLock<Option<Arc<OpenFile>>>,
    /// Events on their way to more webhooks than one transaction writes, as of the last commit.
    pub(super) fan_outs: RwLock<BTreeMap<EventSeq, FanOut>>,
    /// What was never attempted and is not sorted by webhook yet, as of the last commit.
    pub(super) batches: RwLock<Batches>,
    commits: AtomicU64,
    /// How many webhooks have a drop under way, as of the last commit.
    pub(super) dropping: AtomicUsize,
    /// See [`Self::revivals`].
    pub(super) revivals: AtomicU64,
    pub(super) volume: Volume,
    /// What its hot store's file has grown by.
    pub(super) slack: Slack,
    /// The segment that was or is searched for what is pending, because it is to go; 0: none was.
    pub(super) retiring: AtomicU64,
    /// What is being erased, as of the last commit.
    pub(super) erasing: Erasing,
    /// Held by every read of the hot store; see [`Self::renew_readers`].
    readers: RwLock<Arc<()>>,
}

/// A read of the hot store.
pub(super) struct HotRead {
    txn: ReadTransaction,
    _reader: Arc<()>,
}

impl Deref for HotRead {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.txn
    }
}

/// An event on its way to many webhooks.
#[derive(Debug, Clone)]
pub(super) struct FanOut {
    /// Whose event it is.
    pub(super) tenant: Tenant,
    /// All of them, ascending.
    pub(super) targets: Arc<[WebhookNo]>,
    /// The first one that has no row yet.
    pub(super) next: usize,
    /// When the event was accepted.
    pub(super) accept_time: Timestamp,
    /// When it is to be sent, if that is later.
    pub(super) scheduled: Option<Timestamp>,
    /// That of the event's ordering key.
    pub(super) order: Option<OrderKey>,
}

impl FanOut {
    /// How many webhooks it has not reached.
    pub(super) fn rest(&self) -> u64 {
        (self.targets.len() - self.next) as u64
    }

    /// Whether the webhook's row is still to be written.
    pub(super) fn awaits(&self, no: WebhookNo) -> bool {
        self.targets[self.next..].binary_search(&no).is_ok()
    }
}

/// What [`Shared::new`] is given.
pub(super) struct Opened {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) space: Arc<Space>,
    pub(super) dir: PathBuf,
    pub(super) hot: OpenFile,
    pub(super) segments: Segments,
    pub(super) counters: CountersRecord,
    pub(super) set_backs: SetBacks,
    pub(super) sealer: Sealer,
    pub(super) keyring: Keyring,
    pub(super) owner: Owner,
}

impl Shared {
    pub(super) fn new(config: Config, clock: Clock, news: Arc<News>, opened: Opened) -> Self {
        let head = Position(opened.counters.log_head);
        Self {
            inbox: Inbox::new(opened.space.clone()),
            disk: opened.disk,
            space: opened.space,
            dir: opened.dir,
            clock,
            catalog: Catalog::default(),
            replays: Replays::default(),
            sealer: opened.sealer,
            keyring: opened.keyring,
            owner: opened.owner,
            news,
            segments: opened.segments,
            chunks: Mutex::new(ChunkCache::new(config.chunk_cache_bytes)),
            recent: Mutex::new(RecentLog::new(head, config.log_cache_bytes)),
            head: watch::Sender::new(head),
            metrics: StoreMetrics::default(),
            works: watch::Sender::new(true),
            heartbeat: Heartbeat::default(),
            counters: Mutex::new(opened.counters),
            set_backs: opened.set_backs,
            hot: RwLock::new(Some(Arc::new(opened.hot))),
            fan_outs: RwLock::default(),
            batches: RwLock::default(),
            commits: AtomicU64::new(0),
            dropping: AtomicUsize::new(0),
            revivals: AtomicU64::new(0),
            volume: Volume::default(),
            slack: Slack::default(),
            retiring: AtomicU64::new(0),
            erasing: Erasing::default(),
            readers: RwLock::default(),
            config,
        }
    }

    /// How new what is read from now on is at least.
    pub(super) fn as_of(&self) -> AsOf {
        AsOf(self.commits.load(Ordering::Acquire))
    }

    /// A read of the hot store, and how new it is at least.
    pub(super) fn read(&self) -> Result<(HotRead, AsOf), EngineError> {
        // Counted before the snapshot is taken: it may be newer than it says, never older.
        let as_of = self.as_of();
        let hot = self.hot.read().clone().ok_or(EngineError::Unavailable)?;
        if hot.has_failed() {
            // A read did it, perhaps, and there may be nothing to commit.
            self.inbox.wake();
            return Err(EngineError::Unavailable);
        }
        let reader = self.readers.read().clone();
        Ok((HotRead { txn: hot.begin_read()?, _reader: reader }, as_of))
    }

    /// What those hold who read the hot store now, or began to: once nobody does, every read sees what is committed by now.
    pub(super) fn renew_readers(&self) -> Weak<()> {
        let before = std::mem::take(&mut *self.readers.write());
        Arc::downgrade(&before)
    }

    /// What opens webhooks.
    pub(super) fn webhook_vault(&self) -> Vault<'_> {
        Vault::webhooks(&self.keyring)
    }

    /// After a commit: reads from this one on see it.
    pub(super) fn committed(&self) -> AsOf {
        AsOf(self.commits.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Finds out whether there is room for more events.
    pub(super) fn look_for_room(&self) {
        match self.disk.free_bytes(&self.dir) {
            Ok(free) => self.space.look(free),
            Err(error) => warn!(%error, "the file system does not say how much is free"),
        }
    }

    /// Whether an operator has confirmed the wall clock and the store does not say so yet.
    pub(super) fn is_confirmation_new(&self) -> bool {
        self.clock.confirmed() != self.counters.lock().clock_confirmed
    }

    /// Whether the last commit is so long ago that the store should say that it is still there. Not on a disk that is short of
    /// room, where a commit that is not needed could fail.
    pub(super) fn was_idle_for_long(&self) -> bool {
        let last_commit = Timestamp::from_micros(self.counters.lock().last_commit);
        self.clock.now().since(last_commit) >= CLOCK_NOTED_INTERVAL && !self.space.is_short()
    }

    /// After a commit: this is how far these wide events are; `None`: they have reached all their webhooks.
    pub(super) fn fan_outs_went_on(&self, changed: Vec<(EventSeq, Option<FanOut>)>) {
        if changed.is_empty() {
            return;
        }
        let mut fan_outs = self.fan_outs.write();
        for (seq, now) in changed {
            let (tenant, rest) = now.as_ref().map(|now| (now.tenant.clone(), now.rest())).unzip();
            let before = match now {
                Some(now) => fan_outs.insert(seq, now),
                None => fan_outs.remove(&seq),
            };
            let (tenant_before, rest_before) = before.map(|before| (before.tenant.clone(), before.rest())).unzip();
            if let Some(tenant) = tenant.or(tenant_before) {
                self.catalog.went_on(&tenant, rest_before.unwrap_or(0), rest.unwrap_or(0));
            }
        }
    }

    /// The oldest event that is not yet due for all its webhooks.
    pub(super) fn first_fan_out(&self) -> Option<(EventSeq, FanOut)> {
        self.fan_outs.read().first_key_value().map(|(&seq, fan_out)| (seq, fan_out.clone()))
    }

    /// How many events, from this one on, are still to be made due for this webhook.
    pub(super) fn not_fanned_out(&self, no: WebhookNo, from: EventSeq) -> u64 {
        self.fan_outs.read().range(from..).map(|(_, fan_out)| fan_out).filter(|fan_out| fan_out.awaits(no)).count()
            as u64
    }
}
