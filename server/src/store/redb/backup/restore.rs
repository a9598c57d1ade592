//! From a backup to a data directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use super::{
    super::{
        Config, audit,
        change::{Tables, begin},
        disk::{Disk as _, FileSystem, OpenFile},
        error::EngineError,
        key_source::KEPT,
        open::{HOT, RESTORING, Refusal, SEGMENTS, check_schema, mark},
        ready::Batches,
        space::Space,
    },
    files,
    manifest::{self, Manifest, NoBackup, unreadable},
};
use crate::{
    clock::Clock,
    model::audit::{AuditEntry, Ending, OK, Principal},
};

/// What the audit log calls it.
const METHOD: &str = "postriderd restore";

/// A backup that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Everything acknowledged before this time is in it; RFC 3339.
    pub begin_time: String,
    /// Files copied.
    pub files: usize,
    /// What they hold together.
    pub bytes: u64,
    /// Where the master key was kept when the backup was made, if it is to be given to the daemon: it is not here.
    pub missing_key: Option<String>,
    /// Whether its audit log says that it was restored: not in a store of another version, which only such a daemon can write.
    pub is_on_record: bool,
}

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The backup is not whole.
    #[error(transparent)]
    NoBackup(#[from] NoBackup),
    /// It would be mixed with something else.
    #[error(
        "{0} is not empty: a backup is restored to a new folder, or an empty one; nothing but a master.key may be there"
    )]
    Occupied(PathBuf),
    /// There is no room for it.
    #[error("there is no room in {dir}: {free} bytes are free, and {needed} are needed")]
    NoRoom {
        /// Where it was to go.
        dir: PathBuf,
        /// What is free there.
        free: u64,
        /// What it takes.
        needed: u64,
    },
    /// The data directory cannot be written.
    #[error("{file} cannot be written: {error}")]
    Writing {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
}

fn writing(file: &Path) -> impl Fn(io::Error) -> RestoreError {
    move |error| RestoreError::Writing { file: file.to_owned(), error }
}

/// Makes a data directory of a backup, of which every byte is compared with its checksum. Blocks.
///
/// The daemon that opens it begins a new era: see [`crate::model::seal`].
pub fn restore(from: &Path, to: &Path) -> Result<Restored, RestoreError> {
    let clock = Clock::start();
    let begun = clock.now();
    let manifest = Manifest::read(from)?;
    let is_new = !to.exists();
    let there = files::names(to).map_err(writing(to))?;
    let has_key = there.iter().any(|name| name == KEPT);
    if there.len() > usize::from(has_key) || (has_key && manifest.has_master_key()) {
        return Err(RestoreError::Occupied(to.to_owned()));
    }
    manifest::make_folder(to).map_err(writing(to))?;
    let restored = fill(&manifest, from, to, || AuditEntry {
        ending: Some(Ending { code: OK, time: clock.now() }),
        ..AuditEntry::new(METHOD, Principal::Offline, begun)
    });
    if restored.is_err() {
        clear(to, is_new, has_key);
    }
    let is_on_record = restored?;
    let missing_key = (!manifest.has_master_key() && !has_key).then(|| manifest.master_key.clone());
    let begin_time = manifest.begin_time().to_owned();
    Ok(Restored { begin_time, files: manifest.files.len(), bytes: manifest.bytes(), missing_key, is_on_record })
}

/// Copies all of it, and says so in the audit log, if it can be.
fn fill(manifest: &Manifest, from: &Path, to: &Path, entry: impl FnOnce() -> AuditEntry) -> Result<bool, RestoreError> {
    let (free, needed) = (FileSystem.free_bytes(to).map_err(writing(to))?, manifest.bytes());
    if free < needed {
        return Err(RestoreError::NoRoom { dir: to.to_owned(), free, needed });
    }
    let segments = to.join(SEGMENTS);
    fs::create_dir(&segments).map_err(writing(&segments))?;
    for entry in &manifest.files {
        let name = if entry.path == HOT { RESTORING } else { &entry.path };
        let (original, copy) = (from.join(&entry.path), to.join(name));
        if !original.is_file() {
            return Err(unreadable(&original, io::ErrorKind::NotFound.into()).into());
        }
        let sum = files::copy(&original, &copy, 0o600).map_err(writing(&copy))?;
        entry.compare(&original, &sum)?;
    }
    files::sync_folder(&segments).map_err(writing(&segments))?;
    mark(&FileSystem, to).map_err(writing(to))?;
    let (unfinished, hot) = (to.join(RESTORING), to.join(HOT));
    let is_on_record =
        put_on_record(&unfinished, &entry()).map_err(|error| writing(&unfinished)(io::Error::other(error)))?;
    fs::rename(unfinished, &hot).map_err(writing(&hot))?;
    files::sync_folder(to).map_err(writing(to))?;
    Ok(is_on_record)
}

/// Adds an entry to the audit log of a hot store, if that is of this version.
fn put_on_record(hot: &Path, entry: &AuditEntry) -> Result<bool, EngineError> {
    // There is no daemon that has to go on: it may use what is left of the disk.
    let space = Arc::new(Space::new(0, Duration::ZERO));
    let file = OpenFile::open(&FileSystem, hot, Config::default().cache_bytes, &space)?;
    let txn = begin(&file)?;
    let is_ours = match check_schema(&txn) {
        Ok(is_ours) => is_ours,
        Err(Refusal::Engine(error)) => return Err(error),
        Err(Refusal::Schema(_) | Refusal::Key(_)) => false,
    };
    if is_ours {
        let batches = Batches::default();
        audit::append(&mut Tables::open(&txn, &batches)?, entry)?;
        txn.commit()?;
    } else {
        txn.abort()?;
    }
    file.close()?;
    Ok(is_ours)
}

/// Removes what was copied, as far as possible.
fn clear(to: &Path, is_new: bool, keep_key: bool) {
    let _ = fs::remove_dir_all(to.join(SEGMENTS));
    for name in files::names(to).unwrap_or_default() {
        if !(keep_key && name == KEPT) {
            let _ = fs::remove_file(to.join(name));
        }
    }
    if is_new {
        let _ = fs::remove_dir(to);
    }
}
