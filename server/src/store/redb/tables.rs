//! The tables of the hot store and of segments: every key, value and lifetime.
//!
//! Table names and key layouts are on disk: never change one, add another and raise [`SCHEMA_VERSION`].
//!
//! Everything an acknowledgement needs is one commit of one file, `hot.redb`. Events and outcomes enter it as *chunks*, many
//! entries encoded in one row under the number of the first, because a row each costs the store ten times as much. What is
//! old or finished moves to *segments*, so that the hot file stays small and each commit cheap. A reader finds an event or a
//! log entry by number alone, wherever it lies, so a move changes no pointer.

use ::redb::{TableDefinition, TableError};

use super::error::EngineError;
use crate::model::ids::DeliveryKey;

/// Version of all layouts here and in `records/`. A store with another one is refused: version 1, which had deliveries by
/// webhook, and version 2, which counted only what was pending and whose secrets were not encrypted, were never released.
pub(super) const SCHEMA_VERSION: u64 = 3;

/// Key of a delivery among those of its webhook: webhook number, event number, replay.
pub(super) type LaneRow = (u64, u64, u32);

/// Key of a delivery among those of its event: event number, webhook number, replay.
pub(super) type DeliveryRow = (u64, u64, u32);

/// Where a delivery is in [`READY`], [`PARKED`] and [`HEADS`].
pub(super) fn lane_row(key: DeliveryKey) -> LaneRow {
    (key.webhook.0, key.event.0, key.replay)
}

/// Where a delivery is in [`DELIVERIES`].
pub(super) fn delivery_row(key: DeliveryKey) -> DeliveryRow {
    (key.event.0, key.webhook.0, key.replay)
}

/// Facts about the store. Key: name. Value: by name, see [`meta`].
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Names in [`META`].
pub(super) mod meta {
    /// [`super::SCHEMA_VERSION`], u64 little-endian.
    pub(crate) const SCHEMA: &str = "schema";
    /// The key that seals ids and cursors, 16 random bytes.
    pub(crate) const SEAL_KEY: &str = "seal_key";
    /// `BackupRecord`: this is the copy in a backup, and was never opened.
    pub(crate) const BACKUP: &str = "backup";
    /// `ErasRecord`: there if the store was ever restored from a backup.
    pub(crate) const ERAS: &str = "eras";
    /// `KeysRecord`: which master key its secrets are encrypted with.
    pub(crate) const KEYS: &str = "keys";
    /// How often the store was opened, u64 little-endian: the owner token of this opening.
    pub(crate) const OPENINGS: &str = "openings";
    /// There from the creation of the first API key on, whatever becomes of it: a config number, u64 little-endian.
    pub(crate) const LOCKED: &str = "locked";
    /// `SortingRecord`, rewritten while a batch is being sorted.
    pub(crate) const SORTING: &str = "sorting";
    /// Number of the last entry of the audit log, u64 little-endian.
    pub(crate) const AUDITED: &str = "audited";
    /// `SetBacksRecord`: there if the clock was ever set back.
    pub(crate) const SET_BACKS: &str = "set_backs";
    /// `CountersRecord`, rewritten by every commit.
    pub(crate) const COUNTERS: &str = "counters";
}

/// Webhooks that exist. Key: webhook number. Value: `WebhookRecord`. From creation to deletion.
pub(super) const WEBHOOKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("webhooks");

/// Webhooks that were deleted. Key: webhook number. Value: `TombstoneRecord`. For ever: history names them.
pub(super) const TOMBSTONES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("tombstones");

/// Key: webhook id, 16 bytes. Value: webhook number. For ever, deleted webhooks included.
pub(super) const WEBHOOK_IDS: TableDefinition<'_, [u8; 16], u64> = TableDefinition::new("webhook_ids");

/// The latest change of each webhook. Key: config number. Value: webhook number; absent from [`WEBHOOKS`]: deleted.
pub(super) const CONFIG_LOG: TableDefinition<'_, u64, u64> = TableDefinition::new("config_log");

/// Registered event types. Key: tenant (empty: every tenant's), 0, name. Value: `EventTypeRecord`. From creation to deletion.
pub(super) const EVENT_TYPES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("event_types");

/// API keys. Key: the key's id. Value: `ApiKeyRecord`. From creation until it is revoked.
pub(super) const API_KEYS: TableDefinition<'_, [u8; 12], &[u8]> = TableDefinition::new("api_keys");

/// Quotas of tenants' own. Key: tenant. Value: `QuotaRecord`. From being set until all of it is as for all tenants; erasing the tenant
/// leaves it.
pub(super) const QUOTAS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("quotas");

/// Bytes of events accepted from tenants who may publish so many a day. Key: day since 1970 (UTC), tenant, or nothing for those who
/// share a row. Value: bytes. Written by the commit that accepts them; removed by upkeep once the day is over.
pub(super) const QUOTA_BYTES: TableDefinition<'_, (u32, &str), u64> = TableDefinition::new("quota_bytes");

/// Replies to requests that carried an id. Key: tenant, 0, request id. Value: `RequestRecord`. 24 h.
pub(super) const REQUESTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("requests");

/// When requests were answered. Key: microseconds, key in [`REQUESTS`]. As long as that.
pub(super) const REQUESTS_BY_TIME: TableDefinition<'_, (i64, &[u8]), ()> = TableDefinition::new("requests_by_time");

/// Events, in chunks. Key: number of the first event. Value: `EventChunk`. In hot until archived, then in a segment until
/// the end of retention.
pub(super) const EVENT_CHUNKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("event_chunks");

/// Events that outlive their segment because a delivery is still pending. Key: event number. Value: `EventRecord`.
pub(super) const RESCUED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rescued");

/// Which events there are. Key: event id, 0, tenant (ids made one after the other sort together). Value: event number,
/// content hash, number of webhooks it went to. Wherever the event lies.
pub(super) const EVENT_IDS: TableDefinition<'_, &[u8], (u64, u128, u32)> = TableDefinition::new("event_ids");

/// Deliveries never attempted, due since their event was accepted. Value: microseconds of acceptance. Until the first outcome,
/// but for what [`BATCHES`] say.
pub(super) const READY: TableDefinition<'_, LaneRow, i64> = TableDefinition::new("ready");

/// Notes of what is to come into [`READY`], with the time of acceptance, or to go from it, without. Until they are sorted into it:
/// see `ready.rs`.
pub(super) const BATCHES: [TableDefinition<'_, DeliveryRow, Option<i64>>; 2] =
    [TableDefinition::new("ready_batch_0"), TableDefinition::new("ready_batch_1")];

/// Deliveries due at a time: again, or for the first time if their event was scheduled. Key: webhook number, microseconds, event
/// number, replay. Value: attempts so far. Until the next outcome.
pub(super) const SCHEDULED: TableDefinition<'_, (u64, i64, u64, u32), u32> = TableDefinition::new("scheduled");

/// Deliveries that have had an outcome, were cancelled, or were scheduled from the beginning. Value: `DeliveryRecord`. In hot until the log entry that ended them
/// is archived, then in that segment. By event, because what ends at about the same time began so: the rows of a commit share
/// a few pages however many webhooks they are for, and leave together.
pub(super) const DELIVERIES: TableDefinition<'_, DeliveryRow, &[u8]> = TableDefinition::new("deliveries_by_event");

/// In segments: which of their deliveries are a webhook's. Key: number of the first log entry of the move that brought them
/// here, webhook number. Value: `RunRecord`. Runs, written in one go, because a row each would dirty a page each.
pub(super) const RUNS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("runs");

/// The outcome log, in chunks. Key: number of the first entry, from 1. Value: `LogChunk`. In hot until archived, then in a
/// segment until the end of retention.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// How many deliveries a webhook has had, and where they stand. Key: webhook number. Value: `CountsRecord`. From its first delivery to
/// its deletion; rewritten once by every commit that changes a number of it.
pub(super) const COUNTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("counts");

/// Deliveries of ordered webhooks that wait behind the head of their ordering key. Value: microseconds of acceptance, and of when it
/// is to be sent, which are the same unless the event is scheduled; the key's hash. Until what is before them has ended; it is never attempted here.
///
/// Invariant: behind which there is a head of the same key, or a wide event of that key on its way to the webhook, which is to
/// become one.
pub(super) const PARKED: TableDefinition<'_, LaneRow, (i64, i64, u128)> = TableDefinition::new("parked");

/// The same by key. Key: webhook number, hash of the ordering key, event number, replay.
pub(super) const QUEUES: TableDefinition<'_, (u64, u128, u64, u32), ()> = TableDefinition::new("queues");

/// Heads of ordering keys, which are in [`READY`] or [`SCHEDULED`]. Value: the key's hash. Until they have ended or are skipped.
pub(super) const HEADS: TableDefinition<'_, LaneRow, u128> = TableDefinition::new("heads");

/// The same by key: at most one each. Key: webhook number, hash of the ordering key. Value: event number, replay.
pub(super) const HEADS_BY_KEY: TableDefinition<'_, (u64, u128), (u64, u32)> = TableDefinition::new("heads_by_key");

/// Webhooks that were ordered, and whose parked deliveries are being released. Key: webhook number. Value: number of the first
/// event that is not concerned.
pub(super) const RELEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("releases");

/// Events being expanded to more webhooks than one transaction may write. Key: event number. Value: index of the next target.
pub(super) const FAN_OUTS: TableDefinition<'_, u64, u64> = TableDefinition::new("fan_outs");

/// Deleted webhooks whose deliveries are being marked as cancelled. Key: webhook number.
pub(super) const CANCELS: TableDefinition<'_, u64, ()> = TableDefinition::new("cancels");

/// Webhooks whose deliveries of events below a number are being marked as cancelled. Key: webhook number. Value: `DropRecord`.
pub(super) const DROPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("drops");
/// Webhooks that fail continuously. Key: webhook number. Value: microseconds of the first failure since the last success, hour
/// of the last that was written, hours with failures: see `model::failing`. Written at most once an hour; until a success, or
/// until the webhook is disabled for it or deleted.
pub(super) const FAILING: TableDefinition<'_, u64, (i64, i64, u32)> = TableDefinition::new("failing");

/// Replays. Key: number of the replay. Value: `ReplayRecord`. Until some time after it has ended.
pub(super) const REPLAYS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("replays");

/// Replayed deliveries that are pending. Key: number of the replay, event number.
pub(super) const REPLAYED: TableDefinition<'_, (u32, u64), ()> = TableDefinition::new("replayed");

/// Segments. Key: segment number. Value: `SegmentRecord`.
pub(super) const SEGMENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("segments");

/// Erasures. Key: number. Value: `ErasureRecord`. For as long as events are retained.
pub(super) const ERASURES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("erasures");

/// What is not to be done again because of an erasure: fingerprints of events' keys, and of requests. Value: number of the
/// erasure. As long as that.
pub(super) const FINGERPRINTS: TableDefinition<'_, [u8; 16], u64> = TableDefinition::new("fingerprints");

/// Rows of zeros that take up every free page of the file for a moment, so that nothing is left there of what was erased. Key:
/// a number.
pub(super) const SCRUB: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("scrub");

/// The audit log. Key: number of the entry. Value: `AuditRecord`. From the beginning of a call until it is too old, or one of too many.
pub(super) const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");

/// A table that a segment may not have yet.
pub(super) fn existing<T>(table: Result<T, TableError>) -> Result<Option<T>, EngineError> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
