//! The audit log: one row an entry, which the end of its call writes anew. The oldest go with time; when there are too
//! many, the oldest of those who have the most: see [`crate::model::audit_shares`].

use std::collections::HashMap;

use ::redb::{ReadOnlyTable, ReadableTable as _, ReadableTableMetadata as _};
use prost::Message as _;

use super::{
    archive::Archived,
    change::{Change, Tables},
    error::EngineError,
    open::number,
    records::{AccountRecord, AuditRecord},
    shared::Shared,
    tables::{self, meta},
};
use crate::{
    limits::{AUDIT_EXAMINED_MAX, AUDIT_SURPLUS, REQUEST_ROWS_MAX},
    model::{
        audit::{About, AuditEnd, AuditEntry, AuditNo, AuditQuery},
        audit_shares::Excess,
        ids::Tenant,
        time::Timestamp,
    },
    store::audit::{AuditPage, AuditStep},
};

/// Entries that one commit forgets.
const FORGOTTEN_ROWS: usize = 256;
/// Entries that one slice of an erasure looks at.
const SLICE_ROWS: usize = REQUEST_ROWS_MAX.div_ceil(2);

impl Change<'_> {
    /// Remembers something of a call.
    pub(super) fn audit(&mut self, tables: &mut Tables<'_>, step: AuditStep) -> Result<AuditNo, EngineError> {
        match step {
            AuditStep::Begin(entry) => {
                let is_erased = matches!(&entry.about, About::Tenant(tenant) if self.is_tenant_erased(tenant));
                append(tables, &if is_erased { entry.without_tenant() } else { *entry })
            }
            AuditStep::End(no, end) => finish(tables, no, *end).map(|()| no),
        }
    }
}

/// Adds an entry.
pub(super) fn append(tables: &mut Tables<'_>, entry: &AuditEntry) -> Result<AuditNo, EngineError> {
    let no = tables.meta.get(meta::AUDITED)?.map_or(0, |bytes| number(bytes.value())) + 1;
    tables.meta.insert(meta::AUDITED, no.to_le_bytes().as_slice())?;
    tables.audit.insert(no, AuditRecord::new(entry).encode_to_vec().as_slice())?;
    Ok(AuditNo(no))
}

/// Writes how a call ended into its entry, if that is still there.
pub(super) fn finish(tables: &mut Tables<'_>, no: AuditNo, end: AuditEnd) -> Result<(), EngineError> {
    let begun = tables.audit.get(no.0)?.map(|bytes| AuditRecord::decode_from(bytes.value())).transpose()?;
    let Some(begun) = begun else { return Ok(()) };
    let begun = begun.entry()?;
    // Erased meanwhile, it stays without names.
    let is_erased = begun.about == About::Erased;
    let ended = begun.ended(end);
    let ended = if is_erased { ended.without_tenant() } else { ended };
    tables.audit.insert(no.0, AuditRecord::new(&ended).encode_to_vec().as_slice())?;
    Ok(())
}

/// Takes the name of a tenant out of some entries after `after`; the last one that was looked at, if there may be more.
pub(super) fn forget_tenant(tables: &mut Tables<'_>, tenant: &Tenant, after: u64) -> Result<Option<u64>, EngineError> {
    let (mut named, mut last, mut seen) = (Vec::new(), after, 0);
    for row in tables.audit.range(after + 1..)?.take(SLICE_ROWS) {
        let (no, bytes) = row?;
        let entry = AuditRecord::decode_from(bytes.value())?.entry()?;
        (last, seen) = (no.value(), seen + 1);
        if entry.is_of(tenant) {
            named.push((last, entry));
        }
    }
    for (no, entry) in named {
        tables.audit.insert(no, AuditRecord::new(&entry.without_tenant()).encode_to_vec().as_slice())?;
    }
    Ok((seen == SLICE_ROWS).then_some(last))
}

/// Entries before `before`, newest first, as far as one call looks.
pub(super) fn list(
    shared: &Shared,
    query: &AuditQuery,
    before: Option<AuditNo>,
    limit: usize,
) -> Result<AuditPage, EngineError> {
    let (txn, _) = shared.read()?;
    let table = txn.open_table(tables::AUDIT)?;
    let mut page = AuditPage::default();
    let mut rows = table.range(..before.map_or(u64::MAX, |before| before.0))?.rev();
    for row in rows.by_ref().take(AUDIT_EXAMINED_MAX) {
        let (no, bytes) = row?;
        let no = AuditNo(no.value());
        if page.entries.len() == limit {
            return Ok(page);
        }
        page.next = Some(no);
        let entry = AuditRecord::decode_from(bytes.value())?.entry()?;
        // Decided on, it is done for readers.
        let is_erased = matches!(&entry.about, About::Tenant(tenant) if shared.erasing.has_tenant(tenant));
        let entry = if is_erased { entry.without_tenant() } else { entry };
        if query.wants(&entry) {
            page.entries.push((no, entry));
        }
    }
    if rows.next().transpose()?.is_none() {
        page.next = None;
    }
    Ok(page)
}

/// Entries that are too old, or too many.
pub(super) fn expire(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let (txn, _) = shared.read()?;
    let table = txn.open_table(tables::AUDIT)?;
    let old = now - shared.config.audit_retention;
    let mut expired = Vec::new();
    for row in table.iter()?.take(FORGOTTEN_ROWS) {
        let (no, bytes) = row?;
        let time = AccountRecord::decode_from(bytes.value())?.time();
        if shared.set_backs.audited(no.value(), time) > old {
            break;
        }
        expired.push(no.value());
    }
    let most = shared.config.audit_entries_max;
    if expired.is_empty() && table.len()? > most {
        // Some more than has to go goes at once: it takes two looks at all there is.
        expired = surplus(&table, most - most / AUDIT_SURPLUS)?;
    }
    Ok((!expired.is_empty()).then_some(Archived::ForgetAudit(expired)))
}

/// What goes next so that so many remain: the oldest entries of those who have the most.
fn surplus(table: &ReadOnlyTable<u64, &[u8]>, most: u64) -> Result<Vec<u64>, EngineError> {
    let mut counts = HashMap::new();
    for row in table.iter()? {
        *counts.entry(AccountRecord::decode_from(row?.1.value())?.account()?).or_insert(0) += 1;
    }
    let Some(mut excess) = Excess::of(counts, most) else { return Ok(Vec::new()) };
    let mut surplus = Vec::new();
    for row in table.iter()? {
        if excess.is_settled() || surplus.len() == REQUEST_ROWS_MAX {
            break;
        }
        let (no, bytes) = row?;
        if excess.takes(&AccountRecord::decode_from(bytes.value())?.account()?) {
            surplus.push(no.value());
        }
    }
    Ok(surplus)
}

/// Forgets entries.
pub(super) fn forget(tables: &mut Tables<'_>, entries: Vec<u64>) -> Result<(), EngineError> {
    for no in entries {
        tables.audit.remove(no)?;
    }
    Ok(())
}
