//! Backups of a store, while it works or not, and what becomes of them.
//!
//! ```text
//!   one read of hot.redb, and what it names ─▶ copies, row by row ─▶ manifest ─▶ its checksum ─▶ hot.redb gets its name
//!   (between two steps of upkeep)                                                 │ restore
//!                                                                                 ▼
//!                                        a data directory; opened, it begins an era of its own
//! ```
//!
//! What is copied is what a crash at that moment would have left, so opening it needs nothing that opening after a crash does not.
//! Files of segments that are yet to be copied are pinned; the read of the hot store ends when that is copied, which comes first,
//! because pages that it sees cannot be used again meanwhile. An erasure is not finished before the backup lets go of both.
//!
//! Invariant: a backup whose manifest has its checksum, and whose `hot.redb` has that name, is complete. Everything acknowledged before
//! it was asked for is in it.

mod copy;
mod files;
mod manifest;
mod restore;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redb::{ReadTransaction, ReadableTable as _};
use prost::Message as _;
use thiserror::Error;
use tokio::{sync::oneshot, time::Instant};

pub(super) use self::manifest::{BackupFiles, backup_files};
use self::{
    copy::{Pace, copy},
    manifest::Manifest,
};
pub use self::{
    manifest::NoBackup,
    restore::{RestoreError, Restored, restore},
};
use super::{
    RedbStore,
    disk::{Disk as _, FileSystem},
    error::EngineError,
    key_source::{KEPT, KeyError},
    open::{COPYING, HOT, SEGMENTS},
    pins::File,
    records::{BackupRecord, Corrupt, KeysRecord, SegmentRecord},
    segments::{SegmentRead, file_name},
    shared::{HotRead, Shared},
    tables::{self, meta},
};
use crate::{model::time::Timestamp, store::StoreError};

/// What a backup is to be like.
#[derive(Debug, Clone)]
pub struct BackupPlan {
    /// The folder that it goes to: empty, or not there yet.
    pub dir: PathBuf,
    /// Whether the master key is part of it.
    pub master_key: bool,
}

/// How far a backup has come; also ends it.
#[derive(Debug, Default)]
pub struct BackupProgress {
    copied: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl BackupProgress {
    /// Bytes of rows copied so far, and about how many there are.
    pub fn bytes(&self) -> (u64, u64) {
        (self.copied.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Ends the backup at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackedUp {
    /// Files, the manifest aside.
    pub files: usize,
    /// What they hold together.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// How long the hot store was read.
    pub read_hot: Duration,
    /// By how many bytes the hot store's file grew meanwhile: pages that were read could not be used again.
    pub hot_grew: u64,
    /// Where the master key is, if it is not part of the backup.
    pub missing_key: Option<String>,
}

/// Why there is no backup. What was written of it is removed again, as far as possible.
#[derive(Debug, Error)]
pub enum BackupError {
    /// One is being made.
    #[error("another backup is under way")]
    Busy,
    /// It would be mixed with something else.
    #[error("{0} is not empty: a backup goes into a new folder, or an empty one")]
    Occupied(PathBuf),
    /// It would be part of what it is to outlive.
    #[error("{0} is inside the data directory")]
    Inside(PathBuf),
    /// There is no room for it, or only what the daemon keeps free for itself.
    #[error(
        "there is no room in {dir}: {free} bytes are free, {kept} of them are kept for the daemon (--disk-reserve), and at least {needed} \
         more are needed"
    )]
    NoRoom {
        /// Where it was to go.
        dir: PathBuf,
        /// What is free there.
        free: u64,
        /// What must stay free.
        kept: u64,
        /// What is left to write, at least.
        needed: u64,
    },
    /// Who asked for it does not want it any more, or the daemon stops.
    #[error("the backup was given up")]
    Cancelled,
    /// A file cannot be written or read.
    #[error("{file} cannot be copied: {why}")]
    Copying {
        /// Which file of the backup.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The folder, or a file in it, cannot be made.
    #[error("{file} cannot be written: {error}")]
    Writing {
        /// Which one.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The master key is to be part of it, and is not to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    fn copying(file: &Path, error: &EngineError) -> Self {
        Self::Copying { file: file.to_owned(), why: error.to_string() }
    }

    fn writing(file: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Writing { file: file.to_owned(), error }
    }
}

impl From<EngineError> for BackupError {
    fn from(error: EngineError) -> Self {
        Self::Store(error.into())
    }
}

impl RedbStore {
    /// Makes a backup of everything acknowledged until now, while the store goes on working. Dropped, it is given up.
    pub async fn back_up(&self, plan: BackupPlan, progress: Arc<BackupProgress>) -> Result<BackedUp, BackupError> {
        let turn = self.backing_up.clone().try_lock_owned().map_err(|_| BackupError::Busy)?;
        let given_up = CancelOnDrop(progress.clone());
        let snapshot = {
            // Files come and go in its steps.
            let _between_steps = self.upkeep.lock().await;
            let shared = self.shared.clone();
            self.read(move |_| Snapshot::take(shared).map_err(BackupError::from)).await?
        };
        let (answer, answered) = oneshot::channel();
        // Not one of the threads that read for everybody: it may take minutes.
        let work = move || {
            let made = catch_unwind(AssertUnwindSafe(|| make(snapshot, &plan, &progress)));
            drop(turn);
            // Nobody may be waiting any more.
            drop(answer.send(made.unwrap_or_else(|_| Err(EngineError::Lost.into()))));
        };
        self.tasks.thread("store-backup", work).map_err(EngineError::from)?;
        let made = answered.await.unwrap_or_else(|_| Err(EngineError::Lost.into()));
        drop(given_up);
        made
    }
}

struct CancelOnDrop(Arc<BackupProgress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What is to be copied.
struct Snapshot {
    shared: Arc<Shared>,
    time: Timestamp,
    hot: HotRead,
    hot_file_bytes: u64,
    /// The segments that this read of the hot store names, oldest first.
    segments: Vec<(u64, SegmentRecord)>,
    /// The one that takes more, as it is now.
    open: Option<SegmentRead>,
    pinned: Pinned,
}

/// Files that stay until they are copied.
struct Pinned {
    shared: Arc<Shared>,
    files: Vec<File>,
}

impl Pinned {
    /// The file is copied.
    fn release(&mut self, file: File) {
        self.files.retain(|pinned| *pinned != file);
        self.shared.segments.unpin(file);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for file in std::mem::take(&mut self.files) {
            self.shared.segments.unpin(file);
        }
    }
}

impl Snapshot {
    /// To be called between two steps of upkeep.
    fn take(shared: Arc<Shared>) -> Result<Self, EngineError> {
        let time = shared.clock.wall();
        let (hot, _) = shared.read()?;
        let mut segments = Vec::new();
        for row in hot.open_table(tables::SEGMENTS)?.iter()? {
            let (no, bytes) = row?;
            segments.push((no.value(), SegmentRecord::decode_from(bytes.value())?));
        }
        let mut pinned = Pinned { shared: shared.clone(), files: Vec::new() };
        for (no, record) in &segments {
            let file = (*no, record.generation);
            shared.segments.pin(file);
            pinned.files.push(file);
        }
        let last = segments.last().filter(|(_, record)| !record.sealed);
        let open = last.map(|(no, record)| shared.segments.read_file((*no, record.generation))).transpose()?;
        let hot_file_bytes = shared.hot_file_bytes();
        Ok(Self { shared, time, hot, hot_file_bytes, segments, open, pinned })
    }

    /// About how many bytes there are to copy; no more than there will be.
    fn bytes(&self) -> u64 {
        let archived: u64 = self.segments.iter().map(|(_, record)| record.bytes).sum();
        archived + self.shared.counters.lock().hot_bytes
    }
}

/// Makes a backup. What was written of one that fails is removed.
fn make(snapshot: Snapshot, plan: &BackupPlan, progress: &BackupProgress) -> Result<BackedUp, BackupError> {
    let mut folder = Folder::prepare(&plan.dir, &snapshot.shared.dir)?;
    let made = fill(snapshot, plan, progress)?;
    folder.is_whole = true;
    Ok(made)
}

fn fill(snapshot: Snapshot, plan: &BackupPlan, progress: &BackupProgress) -> Result<BackedUp, BackupError> {
    let began = Instant::now();
    let dir = &plan.dir;
    let total = snapshot.bytes();
    progress.total.store(total, Ordering::Relaxed);
    let Snapshot { shared, time, hot, hot_file_bytes, segments, open, mut pinned } = snapshot;
    let room = Room::of(dir, &shared);
    room.check(total)?;
    let mut pace = |bytes: u64| {
        let copied = progress.copied.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if progress.cancelled.load(Ordering::Acquire) {
            return Err(BackupError::Cancelled);
        }
        room.check(total.saturating_sub(copied))
    };
    let mut paths = Vec::new();
    if plan.master_key {
        copy_key(&shared, &hot, dir)?;
        paths.push(KEPT.to_owned());
    }
    let copying = dir.join(COPYING);
    copy_hot(&hot, &copying, time, &mut pace)?;
    drop(hot);
    let read_hot = began.elapsed();
    let hot_grew = shared.hot_file_bytes().saturating_sub(hot_file_bytes);
    let folder = dir.join(SEGMENTS);
    fs::create_dir(&folder).map_err(BackupError::writing(&folder))?;
    // What is written to goes first, then the oldest, which retention would remove next.
    let mut open = open;
    for (no, record) in segments.iter().rev().take(1).chain(segments.iter().rev().skip(1).rev()) {
        let file = (*no, record.generation);
        let path = folder.join(file_name(file));
        let read = match open.take() {
            Some(read) => read,
            None => shared.segments.read_file(file)?,
        };
        copy(&read, &path, &mut pace, |_| Ok(()))?;
        drop(read);
        pinned.release(file);
        paths.push(format!("{SEGMENTS}/{}", file_name(file)));
    }
    for path in paths.iter().map(|path| dir.join(path)).chain([copying.clone()]) {
        files::sync(&path).map_err(BackupError::writing(&path))?;
    }
    files::sync_folder(&folder).map_err(BackupError::writing(&folder))?;
    paths.push(HOT.to_owned());
    let key_place = shared.config.master_key.place(&shared.dir);
    let missing_key = (!plan.master_key).then(|| key_place.clone());
    let manifest = Manifest::of(dir, &paths, time, key_place).map_err(BackupError::writing(dir))?;
    pace(0)?;
    manifest.write(dir).map_err(BackupError::writing(dir))?;
    fs::rename(&copying, dir.join(HOT)).map_err(BackupError::writing(&copying))?;
    files::sync_folder(dir).map_err(BackupError::writing(dir))?;
    let (files, bytes, took) = (paths.len(), manifest.bytes(), began.elapsed());
    Ok(BackedUp { files, bytes, took, read_hot, hot_grew, missing_key })
}

fn copy_hot(hot: &ReadTransaction, path: &Path, time: Timestamp, pace: Pace<'_>) -> Result<(), BackupError> {
    copy(hot, path, pace, |txn| {
        let mark = BackupRecord { time: time.micros() };
        txn.open_table(tables::META)?.insert(meta::BACKUP, mark.encode_to_vec().as_slice())?;
        Ok(())
    })
}

/// Puts the master key into a backup: the one that it can be opened with.
fn copy_key(shared: &Shared, hot: &ReadTransaction, dir: &Path) -> Result<(), BackupError> {
    let stored = hot.open_table(tables::META).map_err(EngineError::from)?;
    let stored = stored.get(meta::KEYS).map_err(EngineError::from)?;
    let stored =
        stored.ok_or_else(|| EngineError::from(Corrupt::new("check value of the master key", "it is missing")))?;
    let stored = KeysRecord::decode_from(stored.value()).map_err(EngineError::from)?;
    let fits = |key: &_| Ok::<_, BackupError>(stored.current(key).map_err(EngineError::from)?.is_some());
    let key = shared.config.master_key.fitting(&shared.dir, fits)?;
    let path = dir.join(KEPT);
    files::write(&path, format!("{}\n", *key.reveal()).as_bytes(), 0o600).map_err(BackupError::writing(&path))
}

/// The folder that a backup goes to. Dropped before that is whole, what was written is removed again.
struct Folder<'a> {
    dir: &'a Path,
    /// It was not there before.
    is_new: bool,
    is_whole: bool,
}

impl<'a> Folder<'a> {
    fn prepare(dir: &'a Path, data: &Path) -> Result<Self, BackupError> {
        let is_new = !dir.exists();
        if !files::names(dir).map_err(BackupError::writing(dir))?.is_empty() {
            return Err(BackupError::Occupied(dir.to_owned()));
        }
        let data = data.canonicalize().map_err(BackupError::writing(data))?;
        let existing = dir.ancestors().find_map(|above| above.canonicalize().ok());
        if existing.is_some_and(|existing| existing.starts_with(&data)) {
            return Err(BackupError::Inside(dir.to_owned()));
        }
        manifest::make_folder(dir).map_err(BackupError::writing(dir))?;
        if is_new {
            // Events are in it.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(BackupError::writing(dir))?;
        }
        Ok(Self { dir, is_new, is_whole: false })
    }

    /// Removes what a backup that failed has left, as far as possible: first of all what would make it look whole.
    fn clear(&self) {
        for name in [manifest::MANIFEST_SUM, manifest::MANIFEST, HOT, COPYING, KEPT] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        let _ = fs::remove_dir_all(self.dir.join(SEGMENTS));
        if self.is_new {
            let _ = fs::remove_dir(self.dir);
        }
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.clear();
        }
    }
}

/// How much may be written.
struct Room<'a> {
    dir: &'a Path,
    /// What must stay free, because the daemon writes to the same file system.
    kept: u64,
}

impl<'a> Room<'a> {
    fn of(dir: &'a Path, shared: &Shared) -> Self {
        let device = |dir: &Path| fs::metadata(dir).ok().map(|metadata| metadata.dev());
        let is_shared = device(dir).is_none_or(|device_of_it| device(&shared.dir) == Some(device_of_it));
        Self { dir, kept: if is_shared { shared.config.disk_reserve } else { 0 } }
    }

    /// Whether so much more can be written.
    fn check(&self, needed: u64) -> Result<(), BackupError> {
        let free = FileSystem.free_bytes(self.dir).map_err(BackupError::writing(self.dir))?;
        if free < self.kept.saturating_add(needed) {
            return Err(BackupError::NoRoom { dir: self.dir.to_owned(), free, kept: self.kept, needed });
        }
        Ok(())
    }
}
