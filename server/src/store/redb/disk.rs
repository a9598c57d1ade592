//! The disk as the engine sees it: the few things done to files and folders, behind a trait, so that tests can lose power,
//! break or fill it.
//!
//! Every file is watched: the first operation that fails marks it, because redb refuses everything from then on, reads
//! included, until the file is opened again; and a write that finds no room is told to [`Space`] before anybody hears of it.
//!
//! Invariant: a name outlives a power cut only after [`Disk::sync_folder`]; contents only after the file's own sync. Whoever
//! makes a file syncs its folder before anything durable relies on it. A removed file may come back.

use std::{
    fmt, fs, io,
    ops::{Bound, Deref},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ::redb::{BackendError, CompactionError, Database, DatabaseError, StorageBackend, backends::FileBackend};

use super::space::Space;

/// What a redb file begins with (`docs/design.md` of redb); written last when it is made.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// What the engine does to files and folders.
pub(super) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a folder inside one that exists. Succeeds if it is there already.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes durable which names the folder holds.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// The paths of everything in the folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// How long the file is, in bytes, or something if it is a folder; `None` if it is not there.
    fn len(&self, file: &Path) -> io::Result<Option<u64>>;

    /// Opens a file for reading and writing. If `make`, it is made when it is not there; otherwise that is an error.
    fn open(&self, file: &Path, make: bool) -> io::Result<Box<dyn StorageBackend>>;

    /// Removes a file. Those who have it open keep its content.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// How many bytes can still be written to the file system that holds the folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// The file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            made => made,
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        match fs::File::open(folder)?.sync_all() {
            // Some network file systems have no such thing and need none.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn len(&self, file: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(file) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, file: &Path, make: bool) -> io::Result<Box<dyn StorageBackend>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(make).truncate(false).open(file)?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// Makes a folder, and those above it that are missing, durably.
pub(super) fn make_folders(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let above = match folder.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        // The root.
        None => return Ok(()),
    };
    if disk.len(folder)?.is_none() {
        // Also if that one is there: whoever made it may not have come to sync it.
        make_folders(disk, above)?;
        disk.make_folder(folder)?;
    }
    match disk.sync_folder(above) {
        // Then it was made by somebody who may.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Whether an error says that there is no room: on the disk, in the quota, or under the limit of a file's size.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A redb file, open.
pub(super) struct OpenFile {
    database: Database,
    failed: Arc<AtomicBool>,
    growths: Arc<AtomicU64>,
}

impl OpenFile {
    /// Opens a file that is there.
    pub(super) fn open(disk: &dyn Disk, path: &Path, cache: usize, space: &Arc<Space>) -> Result<Self, DatabaseError> {
        Self::with(disk.open(path, false)?, false, cache, space)
    }

    /// Opens a file, or makes it, durably.
    pub(super) fn make(disk: &dyn Disk, path: &Path, cache: usize, space: &Arc<Space>) -> Result<Self, DatabaseError> {
        let file = Self::with(disk.open(path, true)?, true, cache, space)?;
        disk.sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        Ok(file)
    }

    fn with(
        backend: Box<dyn StorageBackend>,
        make: bool,
        cache: usize,
        space: &Arc<Space>,
    ) -> Result<Self, DatabaseError> {
        let (failed, growths) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let len = AtomicU64::new(u64::MAX);
        let watched =
            Watched { backend, make, failed: failed.clone(), len, growths: growths.clone(), space: space.clone() };
        let database = Database::builder().set_cache_size(cache).create_with_backend(watched)?;
        Ok(Self { database, failed, growths })
    }

    /// Whether an operation on the file has failed: redb refuses all others then, until the file is opened again.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// How often the file was made longer. redb does that when it needs a page and none is free that is large enough.
    pub(super) fn growths(&self) -> u64 {
        self.growths.load(Ordering::Acquire)
    }

    /// Reads every page and compares it with its checksum. Whether nothing had to be repaired.
    #[cfg(test)]
    pub(super) fn check_integrity(&mut self) -> Result<bool, DatabaseError> {
        self.database.check_integrity()
    }

    /// Moves pages to the beginning of the file and cuts off what is unused behind them.
    pub(super) fn compact(&mut self) -> Result<bool, CompactionError> {
        self.database.compact()
    }

    /// Closes the file, and says what went wrong with that.
    pub(super) fn close(self) -> Result<(), DatabaseError> {
        self.database.close()
    }
}

impl Deref for OpenFile {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile").field("failed", &self.has_failed()).finish_non_exhaustive()
    }
}

/// What is between redb and a file.
#[derive(Debug)]
struct Watched {
    backend: Box<dyn StorageBackend>,
    make: bool,
    failed: Arc<AtomicBool>,
    /// The length that was set last.
    len: AtomicU64,
    growths: Arc<AtomicU64>,
    space: Arc<Space>,
}

impl Watched {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            if is_no_room(error) {
                self.space.found_none();
            }
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    /// The length that redb is to see. It asks while it holds the file's lock, and takes nothing for a file to be made.
    fn judged_len(&self) -> io::Result<u64> {
        let len = self.backend.len()?;
        if len == 0 && !self.make {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
        }
        if len > 0 && self.make && self.is_unfinished(len)? {
            self.backend.set_len(0)?;
            return Ok(0);
        }
        Ok(len)
    }

    /// Whether the power went while redb was making the file: it would refuse it for ever. Its magic number comes last.
    fn is_unfinished(&self, len: u64) -> io::Result<bool> {
        let mut start = [0; MAGIC.len()];
        if len >= start.len() as u64 {
            self.backend.read(0, &mut start)?;
        }
        Ok(start != MAGIC && start.iter().zip(MAGIC).all(|(&byte, magic)| byte == 0 || byte == magic))
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        let len = self.note(self.judged_len())?;
        self.len.store(len, Ordering::Release);
        Ok(len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(self.backend.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.len.swap(len, Ordering::AcqRel) < len {
            self.growths.fetch_add(1, Ordering::AcqRel);
        }
        self.note(self.backend.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note(self.backend.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(self.backend.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
