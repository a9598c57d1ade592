//! Segments: files of events, log entries and finished deliveries that the hot store no longer holds.
//!
//! Each is a redb file with the hot store's tables of the same names, filled in order: events by number, log by number. One
//! segment takes more; the others are sealed and only read, until retention removes the whole file.
//!
//! A few files are kept open. One that was closed for others while somebody still reads it is found again by its `Weak`: redb
//! opens no file twice, and ends the reads of a database that is dropped.
//!
//! Invariant: something is in a durable segment, and the list here says so, before the hot store forgets it. A reader that
//! looks in hot first and here second therefore always finds it.

use std::{
    collections::{HashMap, VecDeque},
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread::sleep,
    time::Duration,
};

use ::redb::{DatabaseError, ReadTransaction, ReadableDatabase as _, TableError};
use fastbloom::BloomFilter;
use parking_lot::{Mutex, RwLock};
use tracing::warn;

use super::{
    disk::{Disk, OpenFile, make_folders},
    error::EngineError,
    pins::{File, Pins},
    records::{Corrupt, SegmentRecord},
    space::Space,
    tables,
};
use crate::model::ids::{EventSeq, Position};

/// Most segment files open at once.
const OPEN_MAX: usize = 16;
/// How often a file that is still being closed is tried, and the pause between.
const CLOSING_TRIES: u32 = 200;
const CLOSING_PAUSE: Duration = Duration::from_millis(1);
/// Page cache of one segment file, bytes.
const CACHE_BYTES: usize = 2 * 1024 * 1024;
/// Events a filter is made for; a segment with as many takes no more. Unit tests have many segments and few events.
pub(super) const FILTER_EVENTS: usize = if cfg!(test) { 2_000 } else { 300_000 };
/// How often a filter says "maybe" for an id that is not there.
const FILTER_FALSE_POSITIVES: f64 = 0.01;
/// Seeds of the filter's hash: fixed, because filters are kept in segments.
const FILTER_SEED: u128 = 0x0070_6f73_7472_6964_6572_5f66_696c_7465;
/// Name of the filter in a sealed segment's `META`: its bits, u64 little-endian each.
const FILTER: &str = "event_id_filter";

/// All segments, oldest first.
#[derive(Debug)]
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
    dir: PathBuf,
    list: RwLock<Vec<Arc<Segment>>>,
    /// Files that were opened, by segment; those that are open are locked while they are being opened.
    files: Mutex<HashMap<File, Arc<Mutex<Weak<OpenFile>>>>>,
    /// Files kept open for the next reader, the one used last at the end.
    kept: Mutex<VecDeque<(File, Arc<OpenFile>)>>,
    /// Files that stay for a backup.
    pins: Mutex<Pins>,
}

/// A read of a segment; keeps its file open.
pub(super) struct SegmentRead {
    txn: ReadTransaction,
    /// Dropped after the transaction.
    _database: Arc<OpenFile>,
}

impl Deref for SegmentRead {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.txn
    }
}

/// One segment. What it holds may grow until it is sealed.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) no: u64,
    pub(super) record: SegmentRecord,
    filter: Arc<Filter>,
}

/// Which event ids a segment may hold.
#[derive(Debug)]
pub(super) struct Filter(RwLock<BloomFilter>);

impl Filter {
    fn empty() -> Self {
        let filter =
            BloomFilter::with_false_pos(FILTER_FALSE_POSITIVES).seed(&FILTER_SEED).expected_items(FILTER_EVENTS);
        Self(RwLock::new(filter))
    }

    pub(super) fn add(&self, key: &[u8]) {
        self.0.write().insert(key);
    }

    fn may_hold(&self, key: &[u8]) -> bool {
        self.0.read().contains(key)
    }

    /// As kept in a sealed segment.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.read().as_slice().iter().flat_map(|bits| bits.to_le_bytes()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        let empty = Self::empty();
        let hashes = empty.0.read().num_hashes();
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || words.len() != empty.0.read().as_slice().len() {
            return Err(Corrupt::new("filter of event ids", "wrong size"));
        }
        let bits = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Ok(Self(RwLock::new(BloomFilter::from_vec(bits).seed(&FILTER_SEED).hashes(hashes))))
    }
}

impl Segments {
    /// The segments that the hot store knows, numbered up to `last`. Files it does not know were being removed when the
    /// process ended.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        space: Arc<Space>,
        dir: PathBuf,
        records: Vec<(u64, SegmentRecord)>,
        last: u64,
    ) -> Result<Self, EngineError> {
        make_folders(&*disk, &dir)?;
        let segments = Self {
            disk,
            space,
            dir,
            list: RwLock::default(),
            files: Mutex::default(),
            kept: Mutex::default(),
            pins: Mutex::default(),
        };
        for path in segments.disk.list(&segments.dir)? {
            let known = |file: File| records.iter().any(|(no, record)| file == (*no, record.generation));
            // One beyond the last may hold the beginning of a move, which will be repeated into it.
            if file_of(&path).is_some_and(|file| (file.0 <= last || file.1 > 0) && !known(file)) {
                segments.disk.remove(&path)?;
            }
        }
        for (no, record) in records {
            let filter = Arc::new(segments.load_filter(no, &record)?);
            segments.list.write().push(Arc::new(Segment { no, record, filter }));
        }
        Ok(segments)
    }

    /// All of them as they are now, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.list.read().clone()
    }

    /// The one that may hold this event.
    pub(super) fn of_event(&self, seq: EventSeq) -> Option<Arc<Segment>> {
        let list = self.list.read();
        list.iter().find(|segment| (segment.record.events_from..segment.record.events_until).contains(&seq.0)).cloned()
    }

    /// The one that may hold this log entry.
    pub(super) fn of_entry(&self, entry: Position) -> Option<Arc<Segment>> {
        let list = self.list.read();
        list.iter().find(|segment| (segment.record.log_from..segment.record.log_until).contains(&entry.0)).cloned()
    }

    /// An event by its key, in any segment.
    pub(super) fn find_event(&self, key: &[u8]) -> Result<Option<(u64, u128, u32)>, EngineError> {
        for segment in self.all().iter().rev() {
            if !segment.filter.may_hold(key) {
                continue;
            }
            let txn = self.read(segment.no)?;
            match txn.open_table(tables::EVENT_IDS) {
                Ok(table) => {
                    if let Some(found) = table.get(key)? {
                        return Ok(Some(found.value()));
                    }
                }
                Err(TableError::TableDoesNotExist(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A read of a segment in the list.
    pub(super) fn read(&self, no: u64) -> Result<SegmentRead, EngineError> {
        loop {
            let file = self.file(no);
            match self.read_file(file) {
                // It was written anew meanwhile.
                Err(_) if self.file(no) != file => {}
                read => return read,
            }
        }
    }

    /// A read of a file, whether its segment is in the list or not.
    pub(super) fn read_file(&self, file: File) -> Result<SegmentRead, EngineError> {
        let database = self.database(file, false)?;
        Ok(SegmentRead { txn: database.begin_read()?, _database: database })
    }

    /// The present file of a segment.
    fn file(&self, no: u64) -> File {
        let list = self.list.read();
        let known = list.iter().find(|segment| segment.no == no);
        (no, known.map_or(0, |segment| segment.record.generation))
    }

    /// The file of the segment that takes more, made if it is new: one that has vanished is never replaced by an empty one.
    pub(super) fn writable(&self, no: u64) -> Result<Arc<OpenFile>, EngineError> {
        let is_new = !self.list.read().iter().any(|segment| segment.no == no);
        self.database(self.file(no), is_new)
    }

    /// The file that is to take the place of a segment's, made if it is not there.
    pub(super) fn successor(&self, no: u64, generation: u64) -> Result<Arc<OpenFile>, EngineError> {
        self.database((no, generation), true)
    }

    fn database(&self, file: File, make: bool) -> Result<Arc<OpenFile>, EngineError> {
        let slot = self.files.lock().entry(file).or_default().clone();
        // Others wait for this file alone.
        let mut slot = slot.lock();
        match slot.upgrade() {
            // One that failed is of no more use to anybody.
            Some(database) if database.has_failed() => self.kept.lock().retain(|(known, _)| *known != file),
            Some(database) => {
                self.keep_longer(file);
                return Ok(database);
            }
            None => {}
        }
        let database = Arc::new(self.open_file(file, make)?);
        *slot = Arc::downgrade(&database);
        let mut kept = self.kept.lock();
        let closed = if kept.len() >= OPEN_MAX { kept.pop_front() } else { None };
        kept.push_back((file, database.clone()));
        drop(kept);
        // Closing writes; nobody else has to wait for it.
        drop(closed);
        Ok(database)
    }

    /// Opens a file. Whoever had it last may still be closing it, which writes and takes a moment.
    fn open_file(&self, file: File, make: bool) -> Result<OpenFile, EngineError> {
        let open = if make { OpenFile::make } else { OpenFile::open };
        let mut tries = 1;
        loop {
            match open(&*self.disk, &self.path(file), CACHE_BYTES, &self.space) {
                Err(DatabaseError::DatabaseAlreadyOpen) if tries < CLOSING_TRIES => sleep(CLOSING_PAUSE),
                opened => return Ok(opened?),
            }
            tries += 1;
        }
    }

    /// What was used last is closed last.
    fn keep_longer(&self, file: File) {
        let mut kept = self.kept.lock();
        if let Some(used) = kept.iter().position(|(known, _)| *known == file)
            && let Some(used) = kept.remove(used)
        {
            kept.push_back(used);
        }
    }

    /// The filter of a segment that is or will be in the list.
    pub(super) fn filter(&self, no: u64) -> Arc<Filter> {
        let list = self.list.read();
        let known = list.iter().find(|segment| segment.no == no);
        known.map_or_else(|| Arc::new(Filter::empty()), |segment| segment.filter.clone())
    }

    /// Says what a segment holds from now on.
    pub(super) fn put(&self, no: u64, record: SegmentRecord, filter: Arc<Filter>) {
        let mut list = self.list.write();
        let segment = Arc::new(Segment { no, record, filter });
        match list.iter_mut().find(|segment| segment.no == no) {
            Some(known) => *known = segment,
            None => list.push(segment),
        }
    }

    /// Removes a segment that the hot store has forgotten. Reads under way keep the file's content until they end.
    pub(super) fn remove(&self, no: u64) -> Result<(), EngineError> {
        let file = self.file(no);
        self.list.write().retain(|segment| segment.no != no);
        self.discard_file(file)
    }

    /// Puts the file that was written anew in the place of a segment's, as the hot store says it is.
    pub(super) fn replace(&self, no: u64, record: SegmentRecord) -> Result<(), EngineError> {
        let before = self.file(no);
        self.put(no, record, self.filter(no));
        self.discard_file(before)
    }

    /// Removes what is left of an earlier try to write a segment anew.
    pub(super) fn discard(&self, no: u64, generation: u64) -> Result<(), EngineError> {
        self.discard_file((no, generation))
    }

    /// Removes all files that are no segment's: their names are those of segments, and nothing in them is needed. Not to be called in
    /// the middle of a move.
    pub(super) fn discard_strays(&self) -> Result<(), EngineError> {
        for path in self.disk.list(&self.dir)? {
            let known = |file: File| self.all().iter().any(|segment| file == (segment.no, segment.record.generation));
            if let Some(file) = file_of(&path).filter(|file| !known(*file)) {
                self.discard_file(file)?;
            }
        }
        // Or they might come back.
        self.disk.sync_folder(&self.dir)?;
        Ok(())
    }

    /// The file stays until it is unpinned, whatever becomes of its segment.
    pub(super) fn pin(&self, file: File) {
        self.pins.lock().pin(file);
    }

    /// The file need not stay any more. One that cannot be removed then is when the store is opened.
    pub(super) fn unpin(&self, file: File) {
        let goes = self.pins.lock().unpin(file);
        if goes && let Err(error) = self.discard_file(file) {
            warn!(%error, file = file_name(file), "a file that is not needed could not be removed");
        }
    }

    /// Whether a file that should be gone is still there for a backup.
    pub(super) fn keeps_what_goes(&self) -> bool {
        self.pins.lock().holds_what_goes()
    }

    fn discard_file(&self, file: File) -> Result<(), EngineError> {
        if self.pins.lock().defer(file) {
            return Ok(());
        }
        self.kept.lock().retain(|(known, _)| *known != file);
        self.files.lock().remove(&file);
        let path = self.path(file);
        if self.disk.len(&path)?.is_some() {
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    /// Closes a file, unless somebody reads it.
    pub(super) fn close_one(&self, no: u64) {
        let file = self.file(no);
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|(known, _)| *known == file);
        let closed = at.and_then(|at| kept.remove(at));
        drop(kept);
        // Closing writes; nobody else has to wait for it.
        drop(closed);
    }

    /// Closes all files that nobody reads.
    pub(super) fn close(&self) {
        self.kept.lock().clear();
    }

    /// How many there are, and the bytes of their files. Asks the file system for each.
    pub(super) fn on_disk(&self) -> (u64, u64) {
        let segments = self.all();
        // One that is being removed takes nothing any more.
        let path = |segment: &Segment| self.path((segment.no, segment.record.generation));
        let bytes = segments.iter().map(|segment| self.disk.len(&path(segment)).ok().flatten().unwrap_or(0));
        (segments.len() as u64, bytes.sum())
    }

    fn path(&self, file: File) -> PathBuf {
        self.dir.join(file_name(file))
    }

    fn load_filter(&self, no: u64, record: &SegmentRecord) -> Result<Filter, EngineError> {
        let txn = self.read_file((no, record.generation))?;
        if record.sealed {
            let meta = txn.open_table(tables::META)?;
            let bits = meta.get(FILTER)?.ok_or_else(|| Corrupt::new("filter of event ids", "missing"))?;
            return Ok(Filter::from_bytes(bits.value())?);
        }
        let filter = Filter::empty();
        match txn.open_table(tables::EVENT_IDS) {
            Ok(table) => {
                for row in table.range::<&[u8]>(..)? {
                    filter.add(row?.0.value());
                }
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(filter)
    }
}

/// Where a sealed segment keeps its filter.
pub(super) const fn filter_name() -> &'static str {
    FILTER
}

/// What a file is called.
pub(super) fn file_name((no, generation): File) -> String {
    if generation == 0 { format!("{no:08}.redb") } else { format!("{no:08}-{generation}.redb") }
}

fn file_of(path: &Path) -> Option<File> {
    let name = (path.extension()? == "redb").then(|| path.file_stem()?.to_str()).flatten()?;
    match name.split_once('-') {
        Some((no, generation)) => Some((no.parse().ok()?, generation.parse().ok()?)),
        None => Some((name.parse().ok()?, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_survive_their_bytes() {
        let filter = Filter::empty();
        for n in 0..1_000_u32 {
            filter.add(&n.to_le_bytes());
        }
        let read = Filter::from_bytes(&filter.to_bytes()).unwrap();
        assert!((0..1_000_u32).all(|n| read.may_hold(&n.to_le_bytes())));
        let wrong = (1_000..11_000_u32).filter(|n| read.may_hold(&n.to_le_bytes())).count();
        assert!(wrong < 300, "{wrong} of 10,000");
        assert!(Filter::from_bytes(&[0; 12]).is_err());
    }
}
