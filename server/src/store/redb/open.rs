//! Opening the store: make or check the file, and load what memory must know.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use ::redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _};
use prost::Message as _;

use super::{
    Config,
    cache::RecentLog,
    change::{Tables, begin},
    committer::Recovered,
    disk::{Disk, OpenFile, make_folders},
    drops::{Drop, Drops},
    error::{EngineError, OpenError},
    reads,
    ready::Batches,
    records::{CountersRecord, DropRecord, EventTypeRecord, SegmentRecord, WebhookRecord},
    segments::Segments,
    shared::{FanOut, Opened, Shared},
    space::Space,
    tables::{self, SCHEMA_VERSION, meta},
};
use crate::{
    clock::Clock,
    flow::News,
    model::{
        ids::{ConfigSeq, EventSeq, Position, WebhookNo},
        seal::Sealer,
    },
    store::types::Owner,
};

/// Name of the hot store's file.
pub(super) const HOT: &str = "hot.redb";
/// Name of a file that says that there is, or was, a hot store: one that has vanished is not to be replaced by an empty one.
const MARKER: &str = "STORE";
/// Name of the folder of segments.
const SEGMENTS: &str = "segments";

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
    let facts = prepare(&hot, clock).map_err(|error| broken(dir, &error))?;
    let facts = match facts {
        Ok(facts) => facts,
        Err(found) if found < SCHEMA_VERSION => return Err(OpenError::OlderSchema { dir: dir.to_owned(), found }),
        Err(found) => return Err(OpenError::NewerSchema { dir: dir.to_owned(), found }),
    };
    write_marker(&*disk, &marker).map_err(unusable)?;
    let segments = load_segments(&hot, disk.clone(), space.clone(), dir).map_err(|error| broken(dir, &error))?;
    let opened = Opened {
        disk,
        space,
        dir: dir.to_owned(),
        hot,
        segments,
        counters: facts.counters,
        sealer: Sealer::new(facts.seal_key),
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

fn write_marker(disk: &dyn Disk, marker: &Path) -> io::Result<()> {
    if disk.len(marker)?.is_some() {
        return Ok(());
    }
    let file = disk.open(marker, true)?;
    file.write(0, b"The data directory of a Postrider daemon. Keep its files together.\n")?;
    file.sync_data()?;
    file.close()?;
    disk.sync_folder(marker.parent().unwrap_or(Path::new(".")))
}

struct Facts {
    seal_key: [u8; 16],
    openings: u64,
    counters: CountersRecord,
}

/// Checks the schema, or lays it down; counts the opening. The inner error is the version of another schema.
fn prepare(hot: &Database, clock: Clock) -> Result<Result<Facts, u64>, EngineError> {
    let txn = begin(hot)?;
    let facts = {
        // The schema first: tables of another one may not open as ours.
        let number = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let found = txn.open_table(tables::META)?.get(meta::SCHEMA)?.map(|bytes| number(bytes.value()));
        if let Some(found) = found.filter(|&found| found != SCHEMA_VERSION) {
            return Ok(Err(found));
        }
        let batches = Batches::default();
        let mut tables = Tables::open(&txn, &batches)?;
        let openings = tables.meta.get(meta::OPENINGS)?.map_or(0, |bytes| number(bytes.value())) + 1;
        let seal_key = tables.meta.get(meta::SEAL_KEY)?.and_then(|bytes| bytes.value().try_into().ok());
        let seal_key = seal_key.unwrap_or_else(rand::random::<[u8; 16]>);
        let counters = match tables.meta.get(meta::COUNTERS)? {
            Some(bytes) => CountersRecord::decode_from(bytes.value())?,
            // Numbers count from 1: 0 means none.
            None => CountersRecord { next_event: 1, log_from: 1, ..CountersRecord::default() },
        };
        tables.meta.insert(meta::SCHEMA, SCHEMA_VERSION.to_le_bytes().as_slice())?;
        tables.meta.insert(meta::SEAL_KEY, seal_key.as_slice())?;
        tables.meta.insert(meta::OPENINGS, openings.to_le_bytes().as_slice())?;
        let opened = CountersRecord { last_commit: clock.wall().micros(), ..counters };
        tables.meta.insert(meta::COUNTERS, opened.encode_to_vec().as_slice())?;
        Facts { seal_key, openings, counters }
    };
    txn.commit()?;
    Ok(Ok(facts))
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
    let webhooks = txn.open_table(tables::WEBHOOKS)?;
    let mut existing = std::collections::HashSet::new();
    for row in webhooks.iter()? {
        let record = WebhookRecord::decode_from(row?.1.value())?;
        let seq = ConfigSeq(record.config_seq);
        let webhook = record.webhook()?;
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
    shared.catalog.load_event_types(event_types);

    let mut pending = HashMap::new();
    for row in txn.open_table(tables::PENDING)?.iter()? {
        let (no, count) = row?;
        pending.insert(no.value(), count.value());
    }
    for no in existing {
        shared.catalog.set_pending(no, pending.get(&no.0).copied().unwrap_or(0));
    }
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
    *shared.fan_outs.write() = load_fan_outs(shared, &txn)?;
    *shared.batches.write() = Batches::load(&txn)?;

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
        let Some(record) = reads::event(shared, seq)? else { continue };
        let next = usize::try_from(next.value()).unwrap_or(usize::MAX);
        let (accept_time, scheduled, order) = (record.accept_time(), record.scheduled(), record.order()?);
        fan_outs.insert(seq, FanOut { targets: record.targets()?.into(), next, accept_time, scheduled, order });
    }
    Ok(fan_outs)
}

fn broken(dir: &Path, error: &EngineError) -> OpenError {
    OpenError::Broken { dir: dir.to_owned(), why: error.to_string() }
}
