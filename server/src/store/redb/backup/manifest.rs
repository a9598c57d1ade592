//! What a backup consists of, and how to tell that it is whole.
//!
//! ```text
//! DIR/hot.redb  DIR/segments/*.redb  [DIR/master.key]     written and synced first
//! DIR/backup.json                                         names them, with sizes and checksums
//! DIR/backup.json.sha256                                  that file's checksum, as sha256sum writes it: there last of all
//! ```

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    super::{
        disk::make_folders,
        key_source::KEPT,
        open::{COPYING, HOT, SEGMENTS},
        tables::SCHEMA_VERSION,
    },
    files::{self, Sum},
};
use crate::{model::time::Timestamp, store::redb::disk::FileSystem};

/// Name of the manifest.
pub(super) const MANIFEST: &str = "backup.json";
/// Name of the file with its checksum.
pub(super) const MANIFEST_SUM: &str = "backup.json.sha256";
/// Version of all this.
const FORMAT: u32 = 1;
/// Most bytes of a manifest that is read: a segment takes some 200.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// What a backup consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    /// The program that wrote it.
    program: String,
    /// Layout of the store's tables.
    schema: u64,
    /// Everything acknowledged before this time is in it; RFC 3339.
    begin_time: String,
    /// Where the master key was; it is among the files, or is to be kept apart.
    pub(super) master_key: String,
    /// All files but the manifest itself, by path.
    pub(super) files: Vec<Entry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Relative to the backup, with `/`.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Why a folder is no backup, or not a whole one.
#[derive(Debug, Error)]
pub enum NoBackup {
    /// There is nothing of that kind.
    #[error("{0} holds no backup: there is no backup.json in it")]
    None(PathBuf),
    /// It was interrupted.
    #[error("the backup in {0} is not complete: it was interrupted, or is still being made")]
    Unfinished(PathBuf),
    /// It was written by another version.
    #[error("the backup in {dir} has {what} {found}, this program reads {known}")]
    Version {
        /// Which one.
        dir: PathBuf,
        /// What of it.
        what: &'static str,
        /// That of the backup.
        found: u64,
        /// That of this program.
        known: u64,
    },
    /// A file is missing, or not what it was.
    #[error("{file} is damaged: {why}")]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file cannot be read.
    #[error("{file} cannot be read: {why}")]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        why: io::Error,
    },
}

impl Manifest {
    /// Of files that were written in `dir`, which are read through; the copy of the hot store does not have its name yet.
    pub(super) fn of(dir: &Path, paths: &[String], begin: Timestamp, master_key: String) -> io::Result<Self> {
        let entry = |path: &String| {
            let name = if path == HOT { COPYING } else { path.as_str() };
            let Sum { bytes, sha256 } = files::sum(&dir.join(name))?;
            Ok(Entry { path: path.clone(), bytes, sha256 })
        };
        Ok(Self {
            format: FORMAT,
            program: format!("postriderd {}", env!("CARGO_PKG_VERSION")),
            schema: SCHEMA_VERSION,
            begin_time: humantime::format_rfc3339_micros(begin.system_time()).to_string(),
            master_key,
            files: paths.iter().map(entry).collect::<io::Result<_>>()?,
        })
    }

    /// Writes it, durably.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        files::write(&dir.join(MANIFEST), &text, 0o600)?;
        files::sync_folder(dir)?;
        files::write(&dir.join(MANIFEST_SUM), sum_line(&text).as_bytes(), 0o600)?;
        files::sync_folder(dir)
    }

    /// That of the backup in `dir`, itself undamaged. The files it names are not looked at.
    pub(super) fn read(dir: &Path) -> Result<Self, NoBackup> {
        let (path, sum_path) = (dir.join(MANIFEST), dir.join(MANIFEST_SUM));
        let names = files::names(dir).map_err(|why| NoBackup::Unreadable { file: dir.to_owned(), why })?;
        let has = |name: &str| names.iter().any(|known| known == name);
        match (has(MANIFEST), has(MANIFEST_SUM)) {
            _ if has(COPYING) => return Err(NoBackup::Unfinished(dir.to_owned())),
            (true, true) => {}
            (false, true) => return Err(damaged(path, "it is missing")),
            (true, false) => return Err(NoBackup::Unfinished(dir.to_owned())),
            (false, false) if has(HOT) && !has(MARKER_OF_DATA) => {
                return Err(NoBackup::Unfinished(dir.to_owned()));
            }
            (false, false) => return Err(NoBackup::None(dir.to_owned())),
        }
        let text = read(&path)?;
        if read(&sum_path)? != sum_line(&text).as_bytes() {
            return Err(damaged(path, format!("its checksum is not that in {MANIFEST_SUM}")));
        }
        let version: Version = serde_json::from_slice(&text).map_err(|error| damaged(path.clone(), error))?;
        for (what, found, known) in
            [("format", version.format.into(), FORMAT.into()), ("schema version", version.schema, SCHEMA_VERSION)]
        {
            if found != known {
                return Err(NoBackup::Version { dir: dir.to_owned(), what, found, known });
            }
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| damaged(path.clone(), error))?;
        manifest.check_paths(&path)?;
        Ok(manifest)
    }

    /// Nothing outside the backup is named, and what every backup has is.
    fn check_paths(&self, path: &Path) -> Result<(), NoBackup> {
        let mut seen = BTreeSet::new();
        for entry in &self.files {
            let is_segment = entry.path.strip_prefix(SEGMENTS).and_then(|rest| rest.strip_prefix('/'));
            let is_segment = is_segment.is_some_and(|name| !name.is_empty() && !name.contains('/') && name != "..");
            if !(is_segment || entry.path == HOT || entry.path == KEPT) || !seen.insert(&entry.path) {
                return Err(damaged(path.to_owned(), format!("it names {:?}", entry.path)));
            }
        }
        if self.files.iter().any(|entry| entry.path == HOT) {
            Ok(())
        } else {
            Err(damaged(path.to_owned(), format!("it names no {HOT}")))
        }
    }

    /// Reads every file through; says what is wrong with which.
    fn verify(&self, dir: &Path) -> Vec<NoBackup> {
        let wrong = |entry: &Entry| {
            let file = dir.join(&entry.path);
            let sum = files::sum(&file).map_err(|why| unreadable(&file, why));
            sum.and_then(|sum| entry.compare(&file, &sum)).err()
        };
        self.files.iter().filter_map(wrong).collect()
    }

    /// How many bytes its files hold.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }

    /// When it began, RFC 3339.
    pub(super) fn begin_time(&self) -> &str {
        &self.begin_time
    }

    /// Whether the master key is among its files.
    pub(super) fn has_master_key(&self) -> bool {
        self.files.iter().any(|entry| entry.path == KEPT)
    }
}

impl Entry {
    /// Whether this is what it was.
    pub(super) fn compare(&self, file: &Path, sum: &Sum) -> Result<(), NoBackup> {
        if sum.bytes != self.bytes {
            return Err(damaged(file.to_owned(), format!("it has {} bytes, not {}", sum.bytes, self.bytes)));
        }
        if sum.sha256 != self.sha256 {
            return Err(damaged(file.to_owned(), "its checksum is another one than in backup.json"));
        }
        Ok(())
    }
}

/// What a folder is, as a backup.
pub(in super::super) enum BackupFiles {
    /// None.
    NotABackup,
    /// One with these things wrong.
    Checked(Vec<NoBackup>),
}

/// Compares all files of a backup with their checksums, if `dir` holds one.
pub(in super::super) fn backup_files(dir: &Path) -> Result<BackupFiles, NoBackup> {
    match Manifest::read(dir) {
        Ok(manifest) => Ok(BackupFiles::Checked(manifest.verify(dir))),
        Err(NoBackup::None(_)) => Ok(BackupFiles::NotABackup),
        Err(damaged @ NoBackup::Damaged { .. }) => Ok(BackupFiles::Checked(vec![damaged])),
        Err(error @ (NoBackup::Unfinished(_) | NoBackup::Version { .. } | NoBackup::Unreadable { .. })) => Err(error),
    }
}

/// What is read first of a manifest, because the rest depends on it.
#[derive(Deserialize)]
struct Version {
    format: u32,
    schema: u64,
}

/// A data directory has this file, and a backup does not.
const MARKER_OF_DATA: &str = crate::store::redb::open::MARKER;

fn read(path: &Path) -> Result<Vec<u8>, NoBackup> {
    let len = std::fs::metadata(path).map_err(|why| unreadable(path, why))?.len();
    if len > MANIFEST_BYTES_MAX {
        return Err(damaged(path.to_owned(), format!("it has {len} bytes")));
    }
    std::fs::read(path).map_err(|why| unreadable(path, why))
}

fn sum_line(text: &[u8]) -> String {
    format!("{}  {MANIFEST}\n", files::sum_of(text).sha256)
}

fn damaged(file: PathBuf, why: impl fmt::Display) -> NoBackup {
    NoBackup::Damaged { file, why: why.to_string() }
}

pub(super) fn unreadable(file: &Path, why: io::Error) -> NoBackup {
    if why.kind() == io::ErrorKind::NotFound {
        return damaged(file.to_owned(), "it is missing");
    }
    NoBackup::Unreadable { file: file.to_owned(), why }
}

/// Makes a folder that is to hold a backup, or a restored store, with those above it.
pub(super) fn make_folder(dir: &Path) -> io::Result<()> {
    make_folders(&FileSystem, dir)
}
