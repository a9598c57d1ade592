//! Opening the store: make or check the file, and load what memory must know.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use ::redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _};
use prost::Message as _;
use rand::RngExt as _;
use tracing::info;

use super::{
    Config,
    cache::RecentLog,
    change::{Tables, begin},
    committer::Recovered,
    counts::load_pending,
    disk::{Disk, OpenFile, make_folders},
    drops::{Drop, Drops},
    erase,
    error::{EngineError, OpenError},
    key_source::{KeyError, KeySource},
    quotas::load_quotas,
    reads,
    ready::Batches,
    records::{
        ApiKeyRecord, BackupRecord, Corrupt, CountersRecord, DropRecord, ErasRecord, EventTypeRecord, KeysRecord,
        ReplayRecord, SegmentRecord, WebhookRecord,
    },
    segments::Segments,
    set_back::{self, SetBacks},
    shared::{FanOut, Opened, Shared},
    space::Space,
    tables::{self, SCHEMA_VERSION, meta},
};
use crate::{
    clock::Clock,
    flow::News,
    model::{
        ids::{ConfigSeq, EventSeq, Position, WebhookNo},
        keyring::Keyring,
        seal::{Era, Sealer},
        time::Timestamp,
    },
    store::types::Owner,
};

/// Name of the hot store's file.
pub(super) const HOT: &str = "hot.redb";
/// What the hot store is called in a backup until that is whole: no daemon starts on half of a store.
pub(super) const COPYING: &str = "hot.redb.copying";
/// The same of one that is being restored.
pub(super) const RESTORING: &str = "hot.redb.restoring";
/// Name of a file that says that there is, or was, a hot store: one that has vanished is not to be replaced by an empty one.
pub(super) const MARKER: &str = "STORE";
/// Name of the folder of segments.
pub(super) const SEGMENTS: &str = "segments";
/// Numbers of changes that a restored store leaves out, because ids of erasures are made of them: more than were given out between
/// the backup and its loss, and not as many each time the same backup is restored.
const CONFIG_LEFT_OUT: Range<u64> = 1 << 24..1 << 32;
/// The same for replays, which are part of the ids of their deliveries. There are 2^24.
const REPLAYS_LEFT_OUT: Range<u32> = 1 << 8..1 << 12;

/// Opens the store in `dir`, making it if it is not there. Blocks.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: Config,
    news: Arc<News>,
    clock: Clock,
) -> Result<(Arc<Shared>, Recovered), OpenError> {
    let unusable = |error| OpenError::Unusable { dir: dir.to_owned(), error };
    make_folders(&*disk, dir).map_err(unusable)?;
    let space = Arc::new(Space::new(config.disk_reserve, 3 * config.reopen_pause));
    space.look(disk.free_bytes(dir).map_err(unusable)?);
    let (hot, marker) = (dir.join(HOT), dir.join(MARKER));
    let is_empty = disk.len(&hot).map_err(unusable)?.is_none_or(|len| len == 0);
    for unfinished in [COPYING, RESTORING] {
        if is_empty && disk.len(&dir.join(unfinished)).map_err(unusable)?.is_some() {
            let why = "it is what a backup, or a restore, has left that was interrupted".to_owned();
            return Err(OpenError::Broken { dir: dir.to_owned(), why });
        }
    }
    let was_used = disk.len(&marker).map_err(unusable)?.is_some() || has_segments(&*disk, dir);
    if is_empty && was_used {
        let why = format!("{HOT} is missing or empty, though there was one");
        return Err(OpenError::Broken { dir: dir.to_owned(), why });
    }
    let opened = if was_used { OpenFile::open } else { OpenFile::make };
    let hot = opened(&*disk, &hot, config.cache_bytes, &space).map_err(|error| {
        let in_use = matches!(error, DatabaseError::DatabaseAlreadyOpen);
        if in_use { OpenError::InUse(dir.to_owned()) } else { broken(dir, &error.into()) }
    })?;
    let facts = prepare(&hot, clock, &config, dir).map_err(|refusal| refusal.of(dir))?;
    mark(&*disk, dir).map_err(unusable)?;
    let segments = load_segments(&hot, disk.clone(), space.clone(), dir).map_err(|error| broken(dir, &error))?;
    let opened = Opened {
        disk,
        space,
        dir: dir.to_owned(),
        hot,
        segments,
        counters: facts.counters,
        set_backs: facts.set_backs,
        sealer: facts.sealer,
        keyring: facts.keyring,
        owner: Owner(facts.openings),
    };
    let shared = Arc::new(Shared::new(config, clock, news, opened));
    let recovered = load(&shared).map_err(|error| broken(dir, &error))?;
    Ok((shared, recovered))
}

/// Opens a hot store that failed again and brings memory up to it. Blocks.
pub(super) fn reopen(shared: &Shared) -> Result<Recovered, EngineError> {
    shared.segments.close();
    // Never made anew: an empty store in place of one that has vanished would lose everything.
    let hot = OpenFile::open(&*shared.disk, &shared.dir.join(HOT), shared.config.cache_bytes, &shared.space)?;
    *shared.hot.write() = Some(Arc::new(hot));
    let recovered = load(shared).inspect_err(|_| {
        // Or the next try would find the file in use, by us.
        shared.hot.write().take();
    })?;
    let (as_of, lanes) = (shared.committed(), recovered.pending.keys().map(|&no| WebhookNo(no)));
    shared.news.post(as_of, [], lanes, []);
    Ok(recovered)
}

/// Whether there are segments, which no directory has that never had a hot store.
fn has_segments(disk: &dyn Disk, dir: &Path) -> bool {
    let files = disk.list(&dir.join(SEGMENTS)).unwrap_or_default();
    files.iter().any(|path| path.extension().is_some_and(|extension| extension == "redb"))
}

/// Says, durably, that this directory has a hot store.
pub(super) fn mark(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let marker = &dir.join(MARKER);
    if disk.len(marker)?.is_some() {
        return Ok(());
    }
    let file = disk.open(marker, true)?;
    file.write(0, b"The data directory of a Postrider daemon. Keep its files together.\n")?;
    file.sync_data()?;
    file.close()?;
    disk.sync_folder(dir)
}

struct Facts {
    sealer: Sealer,
    keyring: Keyring,
    openings: u64,
    counters: CountersRecord,
    set_backs: SetBacks,
}

/// Why a store that can be read is not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It has another schema, of this version.
    Schema(u64),
    /// Its master key is not there.
    Key(KeyError),
    /// It cannot be read after all.
    Engine(EngineError),
}

impl Refusal {
    /// For people, who have to know which directory it is.
    pub(super) fn of(self, dir: &Path) -> OpenError {
        let dir = dir.to_owned();
        match self {
            Self::Schema(found) if found < SCHEMA_VERSION => OpenError::OlderSchema { dir, found },
            Self::Schema(found) => OpenError::NewerSchema { dir, found },
            Self::Key(error) => OpenError::Key(error),
            Self::Engine(error) => broken(&dir, &error),
        }
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Corrupt> for Refusal {
    fn from(error: Corrupt) -> Self {
        Self::Engine(error.into())
    }
}

/// What `meta` says under this name is a number.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(u64::MAX, u64::from_le_bytes)
}

/// Refuses a store of another schema before its tables are opened, which may not open as ours. Whether there is a store at all.
pub(super) fn check_schema(txn: &::redb::WriteTransaction) -> Result<bool, Refusal> {
    let meta = txn.open_table(tables::META).map_err(EngineError::from)?;
    let found = meta.get(meta::SCHEMA).map_err(EngineError::from)?.map(|bytes| number(bytes.value()));
    match found {
        Some(found) if found != SCHEMA_VERSION => Err(Refusal::Schema(found)),
        found => Ok(found.is_some()),
    }
}

/// The keys that the store is encrypted with.
pub(super) fn stored_keys(tables: &Tables<'_>) -> Result<KeysRecord, EngineError> {
    match tables.meta.get(meta::KEYS)? {
        Some(bytes) => Ok(KeysRecord::decode_from(bytes.value())?),
        None => Err(Corrupt::new("check value of the master key", "it is missing").into()),
    }
}

/// Finds the key of a store that has one, and refuses to go on with another.
fn keyring(tables: &Tables<'_>, source: &KeySource, dir: &Path) -> Result<Keyring, Refusal> {
    let stored = stored_keys(tables)?;
    if stored.is_rotating() {
        return Err(KeyError::Rotating.into());
    }
    let key = source.fitting(dir, |key| Ok::<_, Refusal>(stored.current(key)?.is_some()))?;
    let no = stored.current(&key)?.expect("it fits");
    Ok(Keyring::new(no, &key))
}

/// Makes or finds the key of a new store.
fn first_keyring(tables: &mut Tables<'_>, source: &KeySource, dir: &Path) -> Result<Keyring, Refusal> {
    let key = source.first(dir)?;
    let record = KeysRecord::new(&key);
    tables.meta.insert(meta::KEYS, record.encode_to_vec().as_slice()).map_err(EngineError::from)?;
    let no = record.current(&key)?.expect("it was made with this key");
    Ok(Keyring::new(no, &key))
}

/// Checks the schema, or lays it down; finds the master key; sets the clock; counts the opening. Nothing is written if anything is refused.
fn prepare(hot: &Database, clock: Clock, config: &Config, dir: &Path) -> Result<Facts, Refusal> {
    let txn = begin(hot)?;
    let exists = check_schema(&txn)?;
    let source = &config.master_key;
    let facts = {
        let batches = Batches::default();
        let mut tables = Tables::open(&txn, &batches)?;
        let keyring = if exists { keyring(&tables, source, dir)? } else { first_keyring(&mut tables, source, dir)? };
        count_opening(&mut tables, keyring, clock, config.confirm_clock)?
    };
    txn.commit().map_err(EngineError::from)?;
    Ok(facts)
}

fn count_opening(
    tables: &mut Tables<'_>,
    keyring: Keyring,
    clock: Clock,
    confirm_clock: bool,
) -> Result<Facts, EngineError> {
    let openings = tables.meta.get(meta::OPENINGS)?.map_or(0, |bytes| number(bytes.value())) + 1;
    let seal_key = tables.meta.get(meta::SEAL_KEY)?.and_then(|bytes| bytes.value().try_into().ok());
    let seal_key = seal_key.unwrap_or_else(rand::random::<[u8; 16]>);
    let counters = match tables.meta.get(meta::COUNTERS)? {
        Some(bytes) => CountersRecord::decode_from(bytes.value())?,
        // Numbers count from 1: 0 means none.
        None => CountersRecord { next_event: 1, log_from: 1, ..CountersRecord::default() },
    };
    let (eras, mut counters) = eras(tables, counters)?;
    tables.meta.insert(meta::SCHEMA, SCHEMA_VERSION.to_le_bytes().as_slice())?;
    tables.meta.insert(meta::SEAL_KEY, seal_key.as_slice())?;
    tables.meta.insert(meta::OPENINGS, openings.to_le_bytes().as_slice())?;
    // Before anything is decided by it.
    clock.resume(counters.left(), confirm_clock);
    let set_backs = set_back::note(tables, &mut counters, clock.now())?;
    counters.note_commit(clock);
    tables.meta.insert(meta::COUNTERS, counters.encode_to_vec().as_slice())?;
    Ok(Facts { sealer: Sealer::with_eras(seal_key, &eras), keyring, openings, counters, set_backs })
}

/// The eras of the store; another one begins if it is a backup that was never opened, and then numbers that may have been given out
/// since are left out.
fn eras(tables: &mut Tables<'_>, counters: CountersRecord) -> Result<(Vec<Era>, CountersRecord), EngineError> {
    let eras = tables.meta.get(meta::ERAS)?.map(|bytes| ErasRecord::decode_from(bytes.value())).transpose()?;
    let mut eras = eras.unwrap_or_default();
    let backup = tables.meta.remove(meta::BACKUP)?.map(|bytes| BackupRecord::decode_from(bytes.value())).transpose()?;
    let Some(backup) = backup else { return Ok((eras.eras()?, counters)) };
    eras.begin(&counters, rand::random());
    tables.meta.insert(meta::ERAS, eras.encode_to_vec().as_slice())?;
    let time = humantime::format_rfc3339_seconds(Timestamp::from_micros(backup.time).system_time());
    info!(backup.time = %time, "the store was restored from a backup: deliveries made since are made again");
    let mut rng = rand::rng();
    let counters = CountersRecord {
        config_seq: counters.config_seq + rng.random_range(CONFIG_LEFT_OUT),
        last_replay: counters.last_replay + rng.random_range(REPLAYS_LEFT_OUT),
        ..counters
    };
    Ok((eras.eras()?, counters))
}

fn load_segments(hot: &Database, disk: Arc<dyn Disk>, space: Arc<Space>, dir: &Path) -> Result<Segments, EngineError> {
    let txn = hot.begin_read()?;
    let mut records = Vec::new();
    for row in txn.open_table(tables::SEGMENTS)?.iter()? {
        let (no, bytes) = row?;
        records.push((no.value(), SegmentRecord::decode_from(bytes.value())?));
    }
    let counters = match txn.open_table(tables::META)?.get(meta::COUNTERS)? {
        Some(bytes) => CountersRecord::decode_from(bytes.value())?,
        None => CountersRecord::default(),
    };
    Segments::open(disk, space, dir.join(SEGMENTS), records, counters.last_segment)
}

/// Loads what memory must know: configuration, counts, decisions that are not carried out yet.
fn load(shared: &Shared) -> Result<Recovered, EngineError> {
    let (txn, _) = shared.read()?;
    if let Some(bytes) = txn.open_table(tables::META)?.get(meta::COUNTERS)? {
        *shared.counters.lock() = CountersRecord::decode_from(bytes.value())?;
    }
    erase::load(shared, &txn)?;
    let webhooks = txn.open_table(tables::WEBHOOKS)?;
    let mut existing = std::collections::HashSet::new();
    for row in webhooks.iter()? {
        let record = WebhookRecord::decode_from(row?.1.value())?;
        let seq = ConfigSeq(record.config_seq);
        let mut webhook = record.webhook(shared.webhook_vault())?;
        webhook.keys = shared.set_backs.keys(seq.0, webhook.keys);
        if shared.is_webhook_erased(&webhook.tenant, webhook.no.0) {
            continue;
        }
        existing.insert(webhook.no);
        shared.catalog.put(seq, webhook);
    }
    let config_seq = ConfigSeq(shared.counters.lock().config_seq);
    for registered in shared.catalog.list(None, None, usize::MAX) {
        if !existing.contains(&registered.webhook.no) {
            shared.catalog.remove(config_seq, registered.webhook.no);
        }
    }

    let mut event_types = Vec::new();
    for row in txn.open_table(tables::EVENT_TYPES)?.iter()? {
        event_types.push(EventTypeRecord::decode_from(row?.1.value())?.event_type()?);
    }
    event_types.retain(|known| !known.key.tenant.as_ref().is_some_and(|tenant| shared.erasing.has_tenant(tenant)));
    shared.catalog.load_event_types(event_types);

    let mut keys = Vec::new();
    for row in txn.open_table(tables::API_KEYS)?.iter()? {
        keys.push(ApiKeyRecord::decode_from(row?.1.value())?.api_key()?);
    }
    let locked = txn.open_table(tables::META)?.get(meta::LOCKED)?.is_some();
    shared.catalog.keys().load(keys, locked);

    let pending = load_pending(&txn)?;
    for no in existing {
        shared.catalog.set_pending(no, pending.get(&no.0).copied().unwrap_or(0));
    }
    let mut replays = Vec::new();
    for row in txn.open_table(tables::REPLAYS)?.iter()? {
        replays.push(ReplayRecord::decode_from(row?.1.value())?.replay()?);
    }
    shared.replays.load(replays);
    shared.hide_replays();
    let cancels = txn.open_table(tables::CANCELS)?;
    let mut drops = Drops::new();
    for row in txn.open_table(tables::DROPS)?.iter()? {
        let (no, bytes) = row?;
        drops.insert(no.value(), Drop::new(DropRecord::decode_from(bytes.value())?));
    }
    shared.dropping.store(drops.len(), Ordering::Release);
    let cancels = cancels.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, EngineError>>()?;
    let releases = txn.open_table(tables::RELEASES)?;
    let releases = releases.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, EngineError>>()?;
    let fan_outs = load_fan_outs(shared, &txn)?;
    let mut on_the_way = HashMap::new();
    for fan_out in fan_outs.values() {
        *on_the_way.entry(fan_out.tenant.clone()).or_default() += fan_out.rest();
    }
    *shared.fan_outs.write() = fan_outs;
    *shared.batches.write() = Batches::load(&txn)?;
    shared.catalog.load_on_the_way(on_the_way);
    shared.catalog.load_quotas(shared.config.quotas, load_quotas(&txn)?);

    let head = Position(shared.counters.lock().log_head);
    *shared.recent.lock() = RecentLog::new(head, shared.config.log_cache_bytes);
    shared.head.send_replace(head);
    Ok(Recovered { pending, cancels, releases, drops })
}

fn load_fan_outs(shared: &Shared, txn: &::redb::ReadTransaction) -> Result<BTreeMap<EventSeq, FanOut>, EngineError> {
    let mut fan_outs = BTreeMap::new();
    for row in txn.open_table(tables::FAN_OUTS)?.iter()? {
        let (seq, next) = row?;
        let seq = EventSeq(seq.value());
        let Some(record) = reads::any_event(shared, seq)? else { continue };
        let next = usize::try_from(next.value()).unwrap_or(usize::MAX);
        let (accept_time, scheduled, order) = (record.accept_time(), record.scheduled(), record.order()?);
        let tenant = record.tenant().parse().map_err(|error| Corrupt::new("tenant", error))?;
        let targets = record.targets()?.into();
        fan_outs.insert(seq, FanOut { tenant, targets, next, accept_time, scheduled, order });
    }
    Ok(fan_outs)
}

pub(super) fn broken(dir: &Path, error: &EngineError) -> OpenError {
    OpenError::Broken { dir: dir.to_owned(), why: error.to_string() }
}
