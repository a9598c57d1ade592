//! A disk in memory that can lose power, fail and be full.
//!
//! It promises no more than POSIX does: contents are durable after the file's sync, names after their folder's, and nothing
//! else in any order. After a failed sync some of the changes are on the disk and the others are lost for good, though they
//! can still be read: later syncs do not write them (Rebello et al., *Can Applications Recover from fsync Failures?*, 2020).

use std::{
    collections::{BTreeMap, HashSet},
    fmt, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::redb::{BackendError, StorageBackend};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    super::disk::Disk,
    contents::{Change, Contents, happened},
    image::{File, Image, Node, Renamed},
};

/// Bytes free on a disk that is not full.
const PLENTY: u64 = 1 << 40;

/// The same while a file is being made: such moments are few.
const DELICATE_EVERY: u32 = 3;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub(super) struct SimulatedDisk(Arc<Mutex<State>>);

/// What an operation can meet with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// EIO.
    Io,
    /// ENOSPC, for what takes room.
    NoRoom,
}

/// Which operations fail.
#[derive(Debug, Clone, Copy)]
struct Plan {
    fault: Fault,
    /// The number of the first.
    from: u64,
    /// The number of the first that does not.
    until: u64,
}

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    TakesRoom,
    Changes,
}

/// Called with each image while nothing moves on the disk.
type Witness = Box<dyn FnMut(Image) + Send>;

struct State {
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    renamed: Vec<Renamed>,
    files: BTreeMap<u64, File>,
    locked: HashSet<u64>,
    operations: u64,
    free: u64,
    plan: Option<Plan>,
    failed: bool,
    rng: StdRng,
    /// Images are taken before about one of so many operations that change something.
    witness: Option<(u32, Witness)>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub(super) fn new(seed: u64) -> Self {
        Self::holding(BTreeMap::from([(PathBuf::from("/"), Node::Folder)]), BTreeMap::new(), seed)
    }

    /// A disk with these names and files, all of it durable.
    pub(super) fn holding(names: BTreeMap<PathBuf, Node>, files: BTreeMap<u64, File>, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            durable: names.clone(),
            names,
            renamed: Vec::new(),
            files,
            locked: HashSet::new(),
            operations: 0,
            free: PLENTY,
            plan: None,
            failed: false,
            rng: StdRng::seed_from_u64(seed),
            witness: None,
        })))
    }

    /// Has `witness` see an image before about one of `every` operations.
    pub(super) fn watch(&self, every: u32, witness: impl FnMut(Image) + Send + 'static) {
        self.0.lock().witness = Some((every, Box::new(witness)));
    }

    /// Takes no more images.
    pub(super) fn unwatch(&self) {
        let watched = self.0.lock().witness.take();
        drop(watched);
    }

    /// Everything that is or may be on the disk now.
    pub(super) fn image(&self) -> Image {
        self.0.lock().image()
    }

    /// How many operations there were, reads included.
    pub(super) fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Operations fail from the one with this number on, that one alone or until [`SimulatedDisk::heal`].
    pub(super) fn fail(&self, fault: Fault, from: u64, once: bool) {
        let until = if once { from + 1 } else { u64::MAX };
        self.0.lock().plan = Some(Plan { fault, from, until });
    }

    /// Nothing fails from now on. Returns whether something has failed.
    pub(super) fn heal(&self) -> bool {
        let mut state = self.0.lock();
        state.plan = None;
        state.failed
    }

    /// Whether something has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.0.lock().failed
    }

    /// What is said to be free.
    pub(super) fn set_free(&self, bytes: u64) {
        self.0.lock().free = bytes;
    }
}

impl State {
    fn image(&self) -> Image {
        let (durable, renamed) = (self.durable.clone(), self.renamed.clone());
        let reachable: HashSet<_> =
            durable.values().copied().chain(renamed.iter().filter_map(|Renamed(_, node)| *node)).collect();
        let files = self.files.iter().filter(|(id, _)| reachable.contains(&Node::File(**id)));
        let files = files.map(|(id, file)| (*id, File { live: Contents::default(), ..file.clone() })).collect();
        Image { durable, renamed, files, operation: self.operations }
    }

    /// Counts an operation that is about to happen, and fails it if that is its fate.
    fn begin(&mut self, kind: Kind) -> io::Result<()> {
        if kind != Kind::Reads
            && let Some((every, _)) = self.witness
            && self.rng.random_ratio(1, if self.is_delicate() { every.min(DELICATE_EVERY) } else { every })
        {
            let image = self.image();
            if let Some((_, witness)) = &mut self.witness {
                witness(image);
            }
        }
        self.operations += 1;
        let number = self.operations;
        let Some(plan) = self.plan.filter(|plan| (plan.from..plan.until).contains(&number)) else { return Ok(()) };
        if plan.fault == Fault::NoRoom && kind != Kind::TakesRoom {
            // The one failure that is wanted is that of the next operation that does.
            self.plan = Some(Plan { until: plan.until.saturating_add(1), ..plan });
            return Ok(());
        }
        self.failed = true;
        Err(match plan.fault {
            // EIO.
            Fault::Io => io::Error::from_raw_os_error(5),
            Fault::NoRoom => io::ErrorKind::StorageFull.into(),
        })
    }

    /// Whether a file or folder is being made.
    fn is_delicate(&self) -> bool {
        self.renamed.iter().any(|Renamed(_, node)| node.is_some())
    }

    fn rename(&mut self, path: &Path, node: Option<Node>) {
        match node {
            Some(node) => drop(self.names.insert(path.to_owned(), node)),
            None => drop(self.names.remove(path)),
        }
        self.renamed.push(Renamed(path.to_owned(), node));
    }

    fn file(&mut self, id: u64) -> &mut File {
        self.files.get_mut(&id).expect("files are never forgotten")
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        let synced = self.begin(Kind::Changes);
        let mut pending = std::mem::take(&mut self.file(id).pending);
        if synced.is_err() {
            let rng = &mut self.rng;
            pending.retain(|_| happened(rng));
        }
        let file = self.file(id);
        for change in &pending {
            file.durable.apply(change);
        }
        synced
    }
}

impl Disk for SimulatedDisk {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.names.contains_key(folder) {
            return Ok(());
        }
        if !folder.parent().is_some_and(|above| state.names.contains_key(above)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.begin(Kind::TakesRoom)?;
        state.rename(folder, Some(Node::Folder));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin(Kind::Changes)?;
        let State { durable, renamed, .. } = &mut *state;
        for Renamed(path, node) in renamed.extract_if(.., |renamed| renamed.0.parent() == Some(folder)) {
            match node {
                Some(node) => drop(durable.insert(path, node)),
                None => drop(durable.remove(&path)),
            }
        }
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.0.lock();
        state.begin(Kind::Reads)?;
        if !state.names.contains_key(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(state.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn len(&self, file: &Path) -> io::Result<Option<u64>> {
        let mut state = self.0.lock();
        state.begin(Kind::Reads)?;
        match state.names.get(file).copied() {
            Some(Node::File(id)) => Ok(Some(state.file(id).live.len())),
            Some(Node::Folder) => Ok(Some(0)),
            None => Ok(None),
        }
    }

    fn open(&self, file: &Path, make: bool) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.0.lock();
        let found = state.names.get(file).copied();
        state.begin(if make && found.is_none() { Kind::TakesRoom } else { Kind::Reads })?;
        let id = match found {
            Some(Node::File(id)) => id,
            Some(Node::Folder) => return Err(io::ErrorKind::IsADirectory.into()),
            None if !make => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let id = state.files.last_key_value().map_or(0, |(last, _)| last + 1);
                state.files.insert(id, File::default());
                state.rename(file, Some(Node::File(id)));
                id
            }
        };
        drop(state);
        Ok(Box::new(Handle { disk: self.clone(), id, locks: Mutex::new(false) }))
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.begin(Kind::Changes)?;
        if !matches!(state.names.get(file), Some(Node::File(_))) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(file, None);
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.lock().free)
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").finish_non_exhaustive()
    }
}

/// An open file.
#[derive(Debug)]
struct Handle {
    disk: SimulatedDisk,
    id: u64,
    /// Whether this one holds the file's lock.
    locks: Mutex<bool>,
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock();
        state.begin(Kind::Reads)?;
        Ok(state.file(self.id).live.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.begin(Kind::Reads)?;
        state.file(self.id).live.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let grows = len > state.file(self.id).live.len();
        state.begin(if grows { Kind::TakesRoom } else { Kind::Changes })?;
        let file = state.file(self.id);
        let change = Change::SetLen(len);
        file.live.apply(&change);
        file.pending.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.0.lock().sync(self.id)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.begin(Kind::TakesRoom)?;
        let file = state.file(self.id);
        let change = Change::Write(offset, data.into());
        file.live.apply(&change);
        file.pending.push(change);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        if std::mem::take(&mut *self.locks.lock()) {
            self.disk.0.lock().locked.remove(&self.id);
        }
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !matches!((start, end), (Bound::Unbounded | Bound::Included(0), Bound::Unbounded)) {
            return Err(BackendError::Unsupported);
        }
        let locked = self.disk.0.lock().locked.insert(self.id);
        if locked {
            *self.locks.lock() = true;
        }
        Ok(locked)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(self.close()?)
    }
}
