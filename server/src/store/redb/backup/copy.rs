//! Copying what one read of a redb file sees into a file of its own, table by table, in small commits.
//!
//! The bytes of a file that somebody has open say nothing by themselves, and the engine writes to a sealed segment whenever it
//! opens or closes it. A copy of the rows is whole whatever happens to the original, holds no page that was freed and not wiped, and
//! shares nothing with it.

use std::{collections::BTreeSet, path::Path};

use ::redb::{
    Database, Key, Range, ReadTransaction, ReadableTable as _, TableDefinition, TableHandle as _, Value,
    WriteTransaction,
};

use super::{
    super::{
        change::begin,
        error::EngineError,
        records::Corrupt,
        table_list::{Visit, visit_all},
        tables::{self, existing},
    },
    BackupError,
};

/// Bytes of rows that one commit copies, give or take a row: what is in memory at a time, and how much the disk is asked to write
/// between two commits of the daemon.
const STEP_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };
/// What a row counts for besides its bytes.
const ROW_BYTES: u64 = 64;
/// Page cache of the copy.
const CACHE_BYTES: usize = 8 << 20;

/// Told after each step how many bytes it copied; an error ends the copying.
pub(super) type Pace<'a> = &'a mut dyn FnMut(u64) -> Result<(), BackupError>;

/// Copies all tables into a new file. `finish` adds to the last transaction.
pub(super) fn copy(
    from: &ReadTransaction,
    path: &Path,
    pace: Pace<'_>,
    finish: impl FnOnce(&WriteTransaction) -> Result<(), EngineError>,
) -> Result<(), BackupError> {
    let failed = |error: EngineError| BackupError::copying(path, &error);
    let unknown = from.list_tables().map_err(|error| failed(error.into()))?;
    let unknown = unknown.map(|table| table.name().to_owned()).collect();
    let created = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    let to = created.map_err(|error| failed(error.into()))?;
    let mut copier = Copier { from, path, to: &to, txn: None, step: 0, unknown, pace };
    visit_all(&mut copier)?;
    if let Some(table) = copier.unknown.first() {
        // Left out, it would be missed when it is too late.
        let why = format!("it has a table {table} that this program does not know");
        return Err(failed(Corrupt::new("file", why).into()));
    }
    let txn = copier.txn.take().map_or_else(|| begin(&to), Ok).map_err(failed)?;
    finish(&txn).map_err(failed)?;
    txn.commit().map_err(|error| failed(error.into()))?;
    let last = copier.step;
    (copier.pace)(last)?;
    to.close().map_err(|error| failed(error.into()))
}

struct Copier<'a> {
    from: &'a ReadTransaction,
    path: &'a Path,
    to: &'a Database,
    /// What is not committed yet, and how much that is.
    txn: Option<WriteTransaction>,
    step: u64,
    /// Tables of the original that were not visited.
    unknown: BTreeSet<String>,
    pace: Pace<'a>,
}

impl Visit for Copier<'_> {
    type Error = BackupError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), BackupError> {
        self.unknown.remove(table.name());
        // Zeros, which are there for a moment to take up room.
        if table.name() == tables::SCRUB.name() {
            return Ok(());
        }
        let path = self.path;
        let failed = |error: EngineError| BackupError::copying(path, &error);
        let Some(from) = existing(self.from.open_table(table)).map_err(failed)? else { return Ok(()) };
        let mut rows = from.iter().map_err(|error| failed(error.into()))?;
        let mut more = true;
        while more {
            let txn = self.txn.take().map_or_else(|| begin(self.to), Ok).map_err(failed)?;
            more = rows_to(&txn, table, &mut rows, &mut self.step).map_err(failed)?;
            if self.step < STEP_BYTES {
                self.txn = Some(txn);
                continue;
            }
            txn.commit().map_err(|error| failed(error.into()))?;
            (self.pace)(std::mem::take(&mut self.step))?;
        }
        Ok(())
    }
}

/// Copies rows until they end, or the step is full. Whether there may be more.
fn rows_to<K: Key + 'static, V: Value + 'static>(
    txn: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
    rows: &mut Range<'_, K, V>,
    step: &mut u64,
) -> Result<bool, EngineError> {
    let mut to = txn.open_table(table)?;
    for row in rows {
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        *step += ROW_BYTES + (K::as_bytes(&key).as_ref().len() + V::as_bytes(&value).as_ref().len()) as u64;
        to.insert(key, value)?;
        if *step >= STEP_BYTES {
            return Ok(true);
        }
    }
    Ok(false)
}
