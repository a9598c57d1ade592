//! Looking through a store, or a backup of one, without changing a byte: whether every page is what it was when it was written, and
//! whether what the rows say fits together.

mod invariants;
mod overlay;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use ::redb::{Database, DatabaseError, ReadableDatabase as _, TransactionError};
use thiserror::Error;

use self::{invariants::Look, overlay::Overlay};
use super::{
    NoBackup,
    backup::{BackupFiles, backup_files},
    error::EngineError,
    open::{HOT, SEGMENTS},
    segments::file_name,
    tables::{self, SCHEMA_VERSION, meta},
};

/// Findings that are told; the others are counted.
const FINDINGS_MAX: usize = 100;
/// Page cache of a file that is looked through.
const CACHE_BYTES: usize = 32 << 20;

/// What was looked at, and what is wrong with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Whether it is a backup, which has checksums besides.
    pub is_backup: bool,
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Events.
    pub events: u64,
    /// Deliveries that are pending.
    pub pending: u64,
    /// Entries of the outcome log.
    pub entries: u64,
    /// What is wrong; empty: nothing.
    pub findings: Findings,
}

/// What is wrong, as far as there is room to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    told: Vec<String>,
    others: u64,
}

impl Findings {
    pub(super) fn add(&mut self, finding: impl fmt::Display) {
        if self.told.len() < FINDINGS_MAX {
            self.told.push(finding.to_string());
        } else {
            self.others += 1;
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

/// One a line.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        if self.others > 0 { writeln!(f, "and {} more", self.others) } else { Ok(()) }
    }
}

/// Why something was not looked at.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A daemon has it.
    #[error("the data directory {0} is in use by another process: stop the daemon, or make a backup and check that")]
    InUse(PathBuf),
    /// There is nothing.
    #[error("{0} holds neither the data of a daemon nor a backup")]
    Nothing(PathBuf),
    /// It is a backup that is not complete, or of another version.
    #[error(transparent)]
    NoBackup(#[from] NoBackup),
    /// It has another version.
    #[error("{dir} has schema version {found}, this program knows {SCHEMA_VERSION}")]
    Schema {
        /// Which directory.
        dir: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It cannot be read.
    #[error("{file} cannot be read: {why}")]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        why: io::Error,
    },
}

/// Looks through the data directory, or the backup, in `dir`. Blocks; changes nothing.
pub fn check(dir: &Path) -> Result<Checked, CheckError> {
    let mut checked = Checked::default();
    match backup_files(dir)? {
        BackupFiles::Checked(damaged) => {
            checked.is_backup = true;
            for damaged in damaged {
                checked.findings.add(damaged);
            }
        }
        BackupFiles::NotABackup if dir.join(HOT).is_file() => {}
        BackupFiles::NotABackup => return Err(CheckError::Nothing(dir.to_owned())),
    }
    let Some(hot) = open(dir, Path::new(HOT), &mut checked)? else { return Ok(checked) };
    if let Some(found) = schema(&hot).filter(|found| *found != SCHEMA_VERSION) {
        return Err(CheckError::Schema { dir: dir.to_owned(), found });
    }
    let looked = catch_unwind(AssertUnwindSafe(|| look(dir, &hot, &mut checked)));
    match looked {
        Ok(Ok(())) => {}
        Ok(Err(Stopped::Check(error))) => return Err(error),
        Ok(Err(Stopped::Engine(error))) => checked.findings.add(format_args!("not all could be looked at: {error}")),
        // redb takes what its pages say for true.
        Err(_) => checked.findings.add("not all could be looked at: a page makes no sense"),
    }
    Ok(checked)
}

enum Stopped {
    Check(CheckError),
    Engine(EngineError),
}

impl From<EngineError> for Stopped {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<TransactionError> for Stopped {
    fn from(error: TransactionError) -> Self {
        Self::Engine(error.into())
    }
}

fn look(dir: &Path, hot: &Database, checked: &mut Checked) -> Result<(), Stopped> {
    let hot = hot.begin_read()?;
    let mut look = Look::new(&hot)?;
    for segment in look.segments()? {
        let file = Path::new(SEGMENTS).join(file_name(segment.file()));
        let database = open(dir, &file, checked).map_err(Stopped::Check)?;
        let Some(database) = database else { continue };
        look.segment(&segment, &database.begin_read()?, &mut checked.findings)?;
    }
    look.hot(&mut checked.findings)?;
    (checked.events, checked.pending, checked.entries) = look.counted();
    Ok(())
}

/// Opens a file and compares every page with its checksum. `None`: nothing more can be said about it.
fn open(dir: &Path, file: &Path, checked: &mut Checked) -> Result<Option<Database>, CheckError> {
    let path = dir.join(file);
    let file = file.display();
    let overlay = match Overlay::over(&path) {
        Ok(overlay) => overlay,
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            checked.findings.add(format_args!("{file} is missing"));
            return Ok(None);
        }
        Err(why) => return Err(CheckError::Unreadable { file: path, why }),
    };
    checked.files += 1;
    checked.bytes += std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(overlay)?;
        let is_clean = database.check_integrity()?;
        Ok((database, is_clean))
    }));
    match opened {
        Ok(Ok((database, is_clean))) => {
            if !is_clean {
                checked
                    .findings
                    .add(format_args!("{file} is damaged: pages of it had to be given up, or were lost track of"));
            }
            Ok(Some(database))
        }
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(CheckError::InUse(dir.to_owned())),
        Ok(Err(error)) => {
            checked.findings.add(format_args!("{file} is damaged: {error}"));
            Ok(None)
        }
        Err(_) => {
            checked.findings.add(format_args!("{file} is damaged: a page makes no sense"));
            Ok(None)
        }
    }
}

/// What the store says its version is, if it says so.
fn schema(hot: &Database) -> Option<u64> {
    let meta = hot.begin_read().ok()?.open_table(tables::META).ok()?;
    let bytes = meta.get(meta::SCHEMA).ok()??;
    bytes.value().try_into().ok().map(u64::from_le_bytes)
}

/// Whether what a store that is open says fits together, as far as [`check`] looks at it.
#[cfg(test)]
pub(super) fn check_open<R: std::ops::Deref<Target = ::redb::ReadTransaction>>(
    hot: &::redb::ReadTransaction,
    segment: impl Fn(super::pins::File) -> Result<R, EngineError>,
) -> Result<Findings, EngineError> {
    let mut findings = Findings::default();
    let mut look = Look::new(hot)?;
    for known in look.segments()? {
        look.segment(&known, &*segment(known.file())?, &mut findings)?;
    }
    look.hot(&mut findings)?;
    Ok(findings)
}
