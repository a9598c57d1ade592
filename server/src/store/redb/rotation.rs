//! Another master key for everything that is encrypted, while no daemon has the store.
//!
//! ```text
//! present key  ──▶  both known, rows encrypted anew slice by slice  ──▶  next key
//!                   ▲ killed here: the same command goes on
//! ```
//!
//! Which key a value is encrypted with stands before it, so a slice that was committed is recognised. From the first commit to the
//! last a daemon refuses to open the store: it would know one key of two.

use std::{ops::Bound, path::Path, sync::Arc, time::Duration};

use ::redb::{DatabaseError, ReadableTable as _};
use prost::Message as _;
use thiserror::Error;
use tracing::{debug, info, warn};

use super::{
    Config, audit,
    change::{Tables, begin},
    disk::{Disk as _, FileSystem, OpenFile},
    error::{EngineError, OpenError},
    key_source::{KeyError, KeySource},
    open::{self, HOT, Refusal, check_schema, stored_keys},
    ready::Batches,
    records::{RequestRecord, Vault, WebhookRecord},
    space::Space,
    tables::meta,
};
use crate::{
    clock::Clock,
    limits::ROTATION_ROWS_MAX,
    model::{
        audit::{AuditEnd, AuditEntry, AuditNo, OK, Principal},
        keyring::Keyring,
    },
};

/// What the audit log calls it.
const METHOD: &str = "postriderd rotate-master-key";

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// So many webhooks and answered requests were encrypted anew.
    pub rows: u64,
    /// Where the key is that the store is encrypted with now, for people.
    pub key: String,
}

/// Why the master key was not replaced, or not yet.
#[derive(Debug, Error)]
pub enum RotateError {
    /// The store cannot be opened, or not with the present key.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nothing would change.
    #[error("the new master key is the present one")]
    SameKey,
    /// Some is encrypted with yet another key.
    #[error("an interrupted rotation was to another master key than that in {0}: give that one again")]
    OtherKey(String),
}

/// Encrypts everything with the key that `new` names instead of the one that the configuration does; without one, with a new key
/// in the data directory. Goes on where an earlier call was interrupted. Blocks.
pub fn rotate(dir: &Path, config: &Config, new: Option<&KeySource>) -> Result<Rotated, RotateError> {
    let source = &config.master_key;
    let mut hot = open_hot(dir, config)?;
    let rows = match Rotation::begin(&hot, source, new, dir)? {
        Some(mut rotation) => {
            info!("encrypting with another master key");
            while rotation.step(&hot).map_err(|error| open::broken(dir, &error))? {
                debug!(rows = rotation.rows, "encrypted anew");
            }
            finish(&hot, rotation.audited).map_err(|error| open::broken(dir, &error))?;
            rotation.rows
        }
        None => 0,
    };
    source.replaced(new, dir).map_err(OpenError::from)?;
    // Pages that were freed still hold what the old key opens, until they are written over or cut off. This does so with most of
    // them; the others are used by later commits, in no order that could be relied on.
    if let Err(error) = hot.compact() {
        warn!(%error, "the store could not be compacted: what the old key opens stays in unused pages until they are used");
    }
    hot.close().map_err(|error| open::broken(dir, &error.into()))?;
    Ok(Rotated { rows, key: new.unwrap_or(&KeySource::Directory).place(dir) })
}

/// Takes the hot store, which must be there.
fn open_hot(dir: &Path, config: &Config) -> Result<OpenFile, OpenError> {
    let disk = FileSystem;
    let file = dir.join(HOT);
    let unusable = |error| OpenError::Unusable { dir: dir.to_owned(), error };
    if disk.len(&file).map_err(unusable)?.is_none_or(|len| len == 0) {
        return Err(OpenError::Broken { dir: dir.to_owned(), why: format!("there is no {HOT} in it") });
    }
    let space = Arc::new(Space::new(config.disk_reserve, Duration::ZERO));
    OpenFile::open(&disk, &file, config.cache_bytes, &space).map_err(|error| {
        let in_use = matches!(error, DatabaseError::DatabaseAlreadyOpen);
        if in_use { OpenError::InUse(dir.to_owned()) } else { open::broken(dir, &error.into()) }
    })
}

/// A rotation under way: where it is.
struct Rotation {
    keyring: Keyring,
    /// Its entry in the audit log.
    audited: AuditNo,
    rows: u64,
    webhooks: Bound<u64>,
    /// Requests come after webhooks: `None` until then.
    requests: Option<Bound<Vec<u8>>>,
}

impl Rotation {
    /// Tells the store that another key comes; `None` if it is encrypted with that one already.
    fn begin(
        hot: &OpenFile,
        source: &KeySource,
        new: Option<&KeySource>,
        dir: &Path,
    ) -> Result<Option<Self>, RotateError> {
        let refused = |refusal: Refusal| RotateError::Open(refusal.of(dir));
        let engine = |error: EngineError| RotateError::Open(open::broken(dir, &error));
        let txn = begin(hot).map_err(engine)?;
        if !check_schema(&txn).map_err(refused)? {
            let why = "nothing was ever stored in it".to_owned();
            return Err(OpenError::Broken { dir: dir.to_owned(), why }.into());
        }
        let (keyring, audited) = {
            let batches = Batches::default();
            let mut tables = Tables::open(&txn, &batches).map_err(engine)?;
            let stored = stored_keys(&tables).map_err(engine)?;
            let fits = |key: &_| Ok::<_, Refusal>(stored.current(key)?.is_some());
            let present = match (source.fitting(dir, fits), new) {
                (Err(Refusal::Key(KeyError::Wrong(_) | KeyError::Missing(_))), Some(new))
                    if !stored.is_rotating() && new.fitting(dir, fits).is_ok() =>
                {
                    return Ok(None);
                }
                (present, _) => present.map_err(refused)?,
            };
            let next = KeySource::next(new, dir).map_err(OpenError::from)?;
            if next == present {
                return Err(RotateError::SameKey);
            }
            let corrupt = |error| engine(EngineError::Corrupt(error));
            let stored = if stored.is_rotating() { stored } else { stored.rotating(&next).map_err(corrupt)? };
            let no = stored.current(&present).map_err(corrupt)?.expect("it fits");
            let Some(next_no) = stored.next(&next).map_err(corrupt)? else {
                return Err(RotateError::OtherKey(new.unwrap_or(&KeySource::Directory).place(dir)));
            };
            let written = tables.meta.insert(meta::KEYS, stored.encode_to_vec().as_slice());
            written.map(drop).map_err(|error| engine(error.into()))?;
            let entry = AuditEntry::new(METHOD, Principal::Offline, Clock::start().now());
            let audited = audit::append(&mut tables, &entry).map_err(engine)?;
            (Keyring::rotating((no, &present), (next_no, &next)), audited)
        };
        txn.commit().map_err(|error| engine(error.into()))?;
        Ok(Some(Self { keyring, audited, rows: 0, webhooks: Bound::Unbounded, requests: None }))
    }

    /// Encrypts some rows anew, in one transaction. Whether there may be more.
    fn step(&mut self, hot: &OpenFile) -> Result<bool, EngineError> {
        let txn = begin(hot)?;
        let more = {
            let batches = Batches::default();
            let mut tables = Tables::open(&txn, &batches)?;
            if let Some(after) = self.requests.take() {
                self.requests = self.requests_step(&mut tables, &after)?;
                self.requests.is_some()
            } else {
                if !self.webhooks_step(&mut tables)? {
                    self.requests = Some(Bound::Unbounded);
                }
                true
            }
        };
        txn.commit()?;
        Ok(more)
    }

    /// Whether there may be more.
    fn webhooks_step(&mut self, tables: &mut Tables<'_>) -> Result<bool, EngineError> {
        let vault = Vault::webhooks(&self.keyring);
        let (mut renewed, mut last) = (Vec::new(), None);
        for row in tables.webhooks.range((self.webhooks, Bound::Unbounded))?.take(ROTATION_ROWS_MAX) {
            let (no, bytes) = row?;
            let mut record = WebhookRecord::decode_from(bytes.value())?;
            if record.renew(vault)? {
                renewed.push((no.value(), record));
            }
            last = Some(no.value());
        }
        for (no, record) in &renewed {
            tables.webhooks.insert(no, record.encode_to_vec().as_slice())?;
        }
        self.rows += renewed.len() as u64;
        let Some(last) = last else { return Ok(false) };
        self.webhooks = Bound::Excluded(last);
        Ok(true)
    }

    /// Goes on after a place; returns the next one, if there may be more.
    fn requests_step(
        &mut self,
        tables: &mut Tables<'_>,
        after: &Bound<Vec<u8>>,
    ) -> Result<Option<Bound<Vec<u8>>>, EngineError> {
        let vault = Vault::requests(&self.keyring);
        let (mut renewed, mut last) = (Vec::new(), None);
        let after = after.as_ref().map(Vec::as_slice);
        for row in tables.requests.range::<&[u8]>((after, Bound::Unbounded))?.take(ROTATION_ROWS_MAX) {
            let (key, bytes) = row?;
            let mut record = RequestRecord::decode_from(bytes.value())?;
            if record.renew(vault)? {
                renewed.push((key.value().to_vec(), record));
            }
            last = Some(key.value().to_vec());
        }
        for (key, record) in &renewed {
            tables.requests.insert(key.as_slice(), record.encode_to_vec().as_slice())?;
        }
        self.rows += renewed.len() as u64;
        Ok(last.map(Bound::Excluded))
    }
}

/// Forgets the old key: everything is encrypted with the new one.
fn finish(hot: &OpenFile, audited: AuditNo) -> Result<(), EngineError> {
    let txn = begin(hot)?;
    {
        let batches = Batches::default();
        let mut tables = Tables::open(&txn, &batches)?;
        let stored = stored_keys(&tables)?.rotated();
        tables.meta.insert(meta::KEYS, stored.encode_to_vec().as_slice())?;
        audit::finish(&mut tables, audited, AuditEnd::new(OK, Clock::start().now()))?;
    }
    Ok(txn.commit()?)
}

#[cfg(test)]
mod tests;
