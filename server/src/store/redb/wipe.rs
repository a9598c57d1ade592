//! What a replaced key opens leaves the hot store's file: it is neither in pages that were given up, which redb does not wipe, nor
//! behind the rows of pages in use.
//!
//! ```text
//!   rows written anew ─▶ pages given up are free ─▶ every free page holds zeros ─▶ and is free again
//! ```
//!
//! An erasure ends in the same way (`erase/sweep.rs`), step by step beside the traffic; here nobody else has the store. Killed in
//! between it is done again with the rotation that it belongs to.

use ::redb::ReadableTable as _;

use super::{
    change::{Tables, begin},
    disk::OpenFile,
    erase::{Leaves, clean, fill, freshen},
    error::EngineError,
    tables::meta,
};
use crate::limits::ROTATION_ROWS_MAX;

/// Commits after which redb gives out pages that were given up before, and one to spare.
const SETTLING_COMMITS: u8 = 3;

/// Wipes it, if everything is encrypted with another key by now. For that time the file takes up to twice its room.
pub(super) fn wipe(hot: &OpenFile) -> Result<(), EngineError> {
    let mut from = Some(0);
    while let Some(webhook) = from {
        from = commit(hot, |tables| fresh_webhooks(tables, webhook))?;
    }
    let mut from = Some(Vec::new());
    while let Some(request) = from {
        from = commit(hot, |tables| fresh_requests(tables, &request))?;
    }
    for _ in 0..SETTLING_COMMITS {
        commit(hot, fresh_keys)?;
    }
    while !commit(hot, |tables| fill(hot, tables))? {}
    while commit(hot, clean)? {}
    Ok(())
}

fn commit<T>(hot: &OpenFile, step: impl FnOnce(&mut Tables<'_>) -> Result<T, EngineError>) -> Result<T, EngineError> {
    let txn = begin(hot)?;
    let done = step(&mut Tables::open(&txn)?)?;
    txn.commit()?;
    Ok(done)
}

/// Writes some webhooks anew, from this number on. Where to go on, if there may be more.
fn fresh_webhooks(tables: &mut Tables<'_>, from: u64) -> Result<Option<u64>, EngineError> {
    let rows = tables.webhooks.range(from..)?.take(ROTATION_ROWS_MAX);
    let keys: Vec<_> = rows.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    let next = keys.last().map(|last| last + 1);
    freshen(tables, Leaves::Webhooks(keys))?;
    Ok(next)
}

/// The same with requests, from this key on.
fn fresh_requests(tables: &mut Tables<'_>, from: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
    let rows = tables.requests.range::<&[u8]>(from..)?.take(ROTATION_ROWS_MAX);
    let keys: Vec<_> = rows.map(|row| row.map(|(key, _)| key.value().to_vec())).collect::<Result<_, _>>()?;
    let next = keys.last().map(|last| [last.as_slice(), &[0]].concat());
    freshen(tables, Leaves::Requests(keys))?;
    Ok(next)
}

fn fresh_keys(tables: &mut Tables<'_>) -> Result<(), EngineError> {
    let keys = tables.meta.remove(meta::KEYS)?.map(|bytes| bytes.value().to_vec());
    if let Some(keys) = keys {
        tables.meta.insert(meta::KEYS, keys.as_slice())?;
    }
    Ok(())
}
