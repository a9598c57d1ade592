//! What can go wrong inside the engine.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use super::{disk::is_no_room, key_source::KeyError, records::Corrupt, tables::SCHEMA_VERSION};
use crate::store::StoreError;

/// The engine could not do its work.
#[derive(Debug, Error)]
pub(super) enum EngineError {
    #[error(transparent)]
    Redb(Box<::redb::Error>),
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    #[error("a file of the data directory: {0}")]
    Io(#[from] io::Error),
    #[error("the store is closed, or being opened again after a failure")]
    Unavailable,
    #[error("a background read was lost")]
    Lost,
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for EngineError {
            fn from(error: $error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    ::redb::CommitError,
    ::redb::DatabaseError,
    ::redb::SetDurabilityError,
    ::redb::StorageError,
    ::redb::TableError,
    ::redb::TransactionError
);

impl EngineError {
    /// What the disk said, if it said something.
    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) => Some(error),
            Self::Redb(error) => {
                if let ::redb::Error::Io(error) = &**error {
                    return Some(error);
                }
                None
            }
            Self::Corrupt(_) | Self::Unavailable | Self::Lost => None,
        }
    }
}

impl From<&EngineError> for StoreError {
    fn from(error: &EngineError) -> Self {
        if error.io().is_some_and(is_no_room) {
            return Self::Full;
        }
        Self::Failed(Arc::from(error.to_string()))
    }
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::from(&error)
    }
}

/// Why a data directory was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// It was written by a later version.
    #[error(
        "the data directory {dir} has schema version {found}, this program knows up to {SCHEMA_VERSION}: use a newer postriderd"
    )]
    NewerSchema {
        /// Which directory.
        dir: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It was written by an earlier version whose layout this one does not read.
    #[error(
        "the data directory {dir} has schema version {found}, from before the first release, this program reads \
         {SCHEMA_VERSION}: use another directory"
    )]
    OlderSchema {
        /// Which directory.
        dir: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The directory cannot be made or read.
    #[error("the data directory {dir} cannot be used: {error}")]
    Unusable {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its master key is not there, or is another one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file in it is damaged, or the disk failed.
    #[error("the store in {dir} cannot be opened: {why}")]
    Broken {
        /// Which directory.
        dir: PathBuf,
        /// Why.
        why: String,
    },
}
