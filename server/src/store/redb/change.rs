//! One transaction in the making: its tables, and what will be true in memory once it is committed.
//!
//! Invariant: nothing in memory changes before the commit; a transaction that fails leaves no trace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use ::redb::{Durability, Table, WriteTransaction};
use bytes::Bytes;
use prost::Message as _;

use super::{
    counts::Tally,
    drops::{Drop, Drops},
    erase::{Job, Swept},
    error::EngineError,
    quotas::Used,
    ready::{Batches, Ready, Shown, batch_rows},
    records::{ChunkBuilder, CountersRecord, EventChunk, LogBuilder, LogRecord},
    shared::{FanOut, Shared},
    tables::{self, DeliveryRow, LaneRow, meta},
};
use crate::{
    model::{
        ids::{ConfigSeq, EventSeq, Position, WebhookNo},
        replay::Replay,
        webhook::Webhook,
    },
    store::{
        keyring::KeyStep,
        quotas::QuotaStep,
        types::{ConfigStep, EventTypeStep, Hint, LogEntry},
    },
};

/// The hot store's tables, open for writing.
pub(super) struct Tables<'txn> {
    pub(super) meta: Table<'txn, &'static str, &'static [u8]>,
    pub(super) webhooks: Table<'txn, u64, &'static [u8]>,
    pub(super) tombstones: Table<'txn, u64, &'static [u8]>,
    pub(super) webhook_ids: Table<'txn, [u8; 16], u64>,
    pub(super) config_log: Table<'txn, u64, u64>,
    pub(super) event_types: Table<'txn, &'static [u8], &'static [u8]>,
    pub(super) api_keys: Table<'txn, [u8; 12], &'static [u8]>,
    pub(super) quotas: Table<'txn, &'static str, &'static [u8]>,
    pub(super) quota_bytes: Table<'txn, (u32, &'static str), u64>,
    pub(super) audit: Table<'txn, u64, &'static [u8]>,
    pub(super) requests: Table<'txn, &'static [u8], &'static [u8]>,
    pub(super) requests_by_time: Table<'txn, (i64, &'static [u8]), ()>,
    pub(super) event_chunks: Table<'txn, u64, &'static [u8]>,
    pub(super) rescued: Table<'txn, u64, &'static [u8]>,
    pub(super) event_ids: Table<'txn, &'static [u8], (u64, u128, u32)>,
    pub(super) ready: Ready<'txn>,
    pub(super) scheduled: Table<'txn, (u64, i64, u64, u32), u32>,
    pub(super) deliveries: Table<'txn, DeliveryRow, &'static [u8]>,
    pub(super) log: Table<'txn, u64, &'static [u8]>,
    pub(super) counts: Table<'txn, u64, &'static [u8]>,
    pub(super) fan_outs: Table<'txn, u64, u64>,
    pub(super) cancels: Table<'txn, u64, ()>,
    pub(super) drops: Table<'txn, u64, &'static [u8]>,
    pub(super) failing: Table<'txn, u64, (i64, i64, u32)>,
    pub(super) segments: Table<'txn, u64, &'static [u8]>,
    pub(super) parked: Table<'txn, LaneRow, (i64, i64, u128)>,
    pub(super) queues: Table<'txn, (u64, u128, u64, u32), ()>,
    pub(super) heads: Table<'txn, LaneRow, u128>,
    pub(super) heads_by_key: Table<'txn, (u64, u128), (u64, u32)>,
    pub(super) releases: Table<'txn, u64, u64>,
    pub(super) erasures: Table<'txn, u64, &'static [u8]>,
    pub(super) fingerprints: Table<'txn, [u8; 16], u64>,
    pub(super) scrub: Table<'txn, u64, &'static [u8]>,
    pub(super) replays: Table<'txn, u32, &'static [u8]>,
    pub(super) replayed: Table<'txn, (u32, u64), ()>,
}

impl<'txn> Tables<'txn> {
    /// Opens all of them, making those that do not exist.
    pub(super) fn open(txn: &'txn WriteTransaction, batches: &'txn Batches) -> Result<Self, EngineError> {
        Ok(Self {
            meta: txn.open_table(tables::META)?,
            webhooks: txn.open_table(tables::WEBHOOKS)?,
            tombstones: txn.open_table(tables::TOMBSTONES)?,
            webhook_ids: txn.open_table(tables::WEBHOOK_IDS)?,
            config_log: txn.open_table(tables::CONFIG_LOG)?,
            event_types: txn.open_table(tables::EVENT_TYPES)?,
            api_keys: txn.open_table(tables::API_KEYS)?,
            quotas: txn.open_table(tables::QUOTAS)?,
            quota_bytes: txn.open_table(tables::QUOTA_BYTES)?,
            audit: txn.open_table(tables::AUDIT)?,
            requests: txn.open_table(tables::REQUESTS)?,
            requests_by_time: txn.open_table(tables::REQUESTS_BY_TIME)?,
            event_chunks: txn.open_table(tables::EVENT_CHUNKS)?,
            rescued: txn.open_table(tables::RESCUED)?,
            event_ids: txn.open_table(tables::EVENT_IDS)?,
            ready: Ready::open(txn, batches)?,
            scheduled: txn.open_table(tables::SCHEDULED)?,
            deliveries: txn.open_table(tables::DELIVERIES)?,
            log: txn.open_table(tables::LOG)?,
            counts: txn.open_table(tables::COUNTS)?,
            fan_outs: txn.open_table(tables::FAN_OUTS)?,
            cancels: txn.open_table(tables::CANCELS)?,
            drops: txn.open_table(tables::DROPS)?,
            failing: txn.open_table(tables::FAILING)?,
            segments: txn.open_table(tables::SEGMENTS)?,
            parked: txn.open_table(tables::PARKED)?,
            queues: txn.open_table(tables::QUEUES)?,
            heads: txn.open_table(tables::HEADS)?,
            heads_by_key: txn.open_table(tables::HEADS_BY_KEY)?,
            releases: txn.open_table(tables::RELEASES)?,
            erasures: txn.open_table(tables::ERASURES)?,
            fingerprints: txn.open_table(tables::FINGERPRINTS)?,
            scrub: txn.open_table(tables::SCRUB)?,
            replays: txn.open_table(tables::REPLAYS)?,
            replayed: txn.open_table(tables::REPLAYED)?,
        })
    }
}

/// Begins a transaction whose commit survives a power cut, also one during recovery from another, also with values made to
/// look like pages of the file, and reopens in milliseconds.
#[expect(clippy::disallowed_methods, reason = "every write of the engine begins here")]
pub(super) fn begin(database: &::redb::Database) -> Result<WriteTransaction, EngineError> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    Ok(txn)
}

/// What the transaction will have changed.
pub(super) struct Change<'a> {
    pub(super) shared: &'a Shared,
    pub(super) counters: CountersRecord,
    /// Pending deliveries as committed, by webhook number.
    pub(super) pending_before: &'a HashMap<u64, u64>,
    /// What is added to the counters of webhooks, by number; see [`Self::count`].
    pub(super) tallies: HashMap<u64, Tally>,
    /// Webhooks whose parked deliveries are being released, as committed.
    pub(super) releasing: &'a BTreeSet<u64>,
    pub(super) chunks: ChunkBuilder,
    pub(super) ready: Vec<(LaneRow, i64)>,
    pub(super) fresh: Vec<(WebhookNo, Hint)>,
    pub(super) log: LogBuilder,
    pub(super) shown: Vec<Option<LogEntry>>,
    pub(super) steps: Vec<(ConfigSeq, ConfigStep)>,
    pub(super) event_types: Vec<EventTypeStep>,
    pub(super) keys: Vec<KeyStep>,
    pub(super) quotas: Vec<QuotaStep>,
    /// What tenants with quotas use.
    pub(super) used: Used,
    pub(super) removed: HashSet<WebhookNo>,
    pub(super) fan_outs: Vec<(EventSeq, Option<FanOut>)>,
    pub(super) cancels_started: Vec<u64>,
    /// So many of those that waited are done.
    pub(super) cancels_done: usize,
    /// Releases that began, and those that ended, one after the other.
    pub(super) releases: Vec<(u64, bool)>,
    /// As committed.
    pub(super) drops: &'a Drops,
    pub(super) drops_changed: Vec<(u64, Option<Drop>)>,
    /// Replays as this transaction leaves them; `None`: forgotten.
    pub(super) replays: BTreeMap<u32, Option<Replay>>,
    /// Webhooks some of whose deliveries were cancelled.
    pub(super) cancelled: Vec<WebhookNo>,
    /// A delivery that had ended is pending again.
    pub(super) revived: bool,
    /// Erasures that began or went on, and those without that are done.
    pub(super) erasures: Vec<(u64, Option<Job>)>,
    /// The step of a sweep.
    pub(super) swept: Option<Swept>,
    /// Events whose chunks have changed.
    pub(super) hollowed: Vec<Range<EventSeq>>,
}

/// What was written, for the caches.
pub(super) struct Written {
    pub(super) ready: Shown,
    pub(super) chunks: Vec<(EventSeq, Arc<EventChunk>, usize)>,
}

impl<'a> Change<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        counters: CountersRecord,
        pending_before: &'a HashMap<u64, u64>,
        releasing: &'a BTreeSet<u64>,
        drops: &'a Drops,
    ) -> Self {
        Self {
            shared,
            counters,
            pending_before,
            tallies: HashMap::new(),
            releasing,
            chunks: ChunkBuilder::default(),
            ready: Vec::new(),
            fresh: Vec::new(),
            log: LogBuilder::new(Position(counters.log_head)),
            shown: Vec::new(),
            steps: Vec::new(),
            event_types: Vec::new(),
            keys: Vec::new(),
            quotas: Vec::new(),
            used: Used::default(),
            removed: HashSet::new(),
            fan_outs: Vec::new(),
            cancels_started: Vec::new(),
            cancels_done: 0,
            releases: Vec::new(),
            drops,
            drops_changed: Vec::new(),
            replays: BTreeMap::new(),
            cancelled: Vec::new(),
            revived: false,
            erasures: Vec::new(),
            swept: None,
            hollowed: Vec::new(),
        }
    }

    /// Whether deliveries for this webhook are still wanted.
    pub(super) fn exists(&self, no: WebhookNo) -> bool {
        self.webhook(no).is_some()
    }

    /// The webhook as committed, unless this transaction deletes it.
    pub(super) fn webhook(&self, no: WebhookNo) -> Option<Arc<Webhook>> {
        let known = self.shared.catalog.webhook(no).map(|known| known.webhook);
        known.filter(|_| !self.removed.contains(&no))
    }

    /// Adds an entry to the log, with what watchers see of it.
    pub(super) fn append(&mut self, record: LogRecord, shown: Option<LogEntry>) -> Position {
        self.shown.push(shown);
        self.log.push(record)
    }

    /// Writes what was collected, in the order of its keys.
    pub(super) fn flush(&mut self, tables: &mut Tables<'_>) -> Result<Written, EngineError> {
        let arrived = std::mem::take(&mut self.ready);
        tables.ready.flush(&mut tables.meta, arrived, batch_rows(self.shared.config.hot_bytes_max))?;
        self.flush_counts(tables)?;
        self.flush_used(tables)?;
        self.flush_replays(tables)?;
        let written = self.flush_chunks(tables)?;
        self.counters.note_commit(self.shared.clock);
        tables.meta.insert(meta::COUNTERS, self.counters.encode_to_vec().as_slice())?;
        Ok(written)
    }

    fn flush_chunks(&mut self, tables: &mut Tables<'_>) -> Result<Written, EngineError> {
        let mut chunks = Vec::new();
        for (first, encoded) in std::mem::take(&mut self.chunks).finish() {
            tables.event_chunks.insert(first.0, encoded.as_ref())?;
            self.counters.hot_bytes += encoded.len() as u64;
            let bytes = encoded.len();
            chunks.push((first, Arc::new(EventChunk::decode_from(encoded)?), bytes));
        }
        let log = std::mem::replace(&mut self.log, LogBuilder::new(Position(0)));
        self.counters.log_head = log.head().0;
        for (first, chunk) in log.finish() {
            let encoded = Bytes::from(chunk.encode_to_vec());
            tables.log.insert(first.0, encoded.as_ref())?;
            self.counters.hot_bytes += encoded.len() as u64;
        }
        Ok(Written { ready: tables.ready.shown(), chunks })
    }
}
