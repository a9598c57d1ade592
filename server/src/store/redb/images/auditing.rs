//! The audit log: a call's entry is there before anything of the call is, and stays as long as entries are kept.

use std::collections::BTreeMap;

use super::{
    super::RedbStore,
    driver::{Broken, Driver},
    model::{Model, RETENTION},
    verify::Violation,
};
use crate::{
    limits::AUDIT_EXAMINED_MAX,
    model::audit::{About, AuditEnd, AuditEntry, AuditNo, AuditQuery, OK, Principal},
    store::{AuditStep, Store as _},
};

/// Most entries that are kept.
pub(super) const ENTRIES_MAX: u64 = 30;

/// What is known of the audit log.
#[derive(Debug, Clone, Default)]
pub(super) struct Audit {
    /// By number. With the end that may have been noted.
    entries: BTreeMap<AuditNo, (AuditEntry, Option<AuditEnd>)>,
    /// What may have been noted.
    open: Option<AuditEntry>,
}

impl Audit {
    /// Everything of a tenant is erased.
    pub(super) fn forget_name(&mut self, tenant: &str) {
        let tenant = tenant.parse().expect("a tenant");
        for (entry, _) in self.entries.values_mut().filter(|(entry, _)| entry.is_of(&tenant)) {
            *entry = entry.clone().without_tenant();
        }
    }
}

impl Driver<'_> {
    /// A call begins.
    pub(super) async fn begin(&self, method: &str, tenant: &'static str) -> Result<AuditNo, Broken> {
        let entry = self.write(|model| {
            let new = AuditEntry::new(format!("{method} {}", model.label()), Principal::Anonymous, model.now);
            let named = AuditEntry { about: About::named(tenant), ..new };
            let entry = if model.is_being_erased(tenant) { named.without_tenant() } else { named };
            model.audit.open = Some(entry.clone());
            entry
        });
        // The store takes the name away by itself.
        let named = AuditEntry { about: About::named(tenant), ..entry.clone() };
        let no = self.store.audit(AuditStep::Begin(Box::new(named))).await?;
        self.write(|model| {
            model.audit.open = None;
            model.audit.entries.insert(no, (entry, None));
        });
        Ok(no)
    }

    /// A call has ended well.
    pub(super) async fn end(&self, no: AuditNo) -> Result<(), Broken> {
        let end = self.write(|model| {
            let end = AuditEnd::new(OK, model.now);
            model.audit.entries.get_mut(&no).expect("it has begun").1 = Some(end.clone());
            end
        });
        self.store.audit(AuditStep::End(no, Box::new(end.clone()))).await?;
        self.write(|model| {
            let (entry, open) = model.audit.entries.get_mut(&no).expect("it has begun");
            (*entry, *open) = (entry.clone().ended(end), None);
        });
        Ok(())
    }
}

/// Every entry that was acknowledged is there and says what it said, but for those that are too old or too many; no other is.
pub(super) async fn settle(store: &RedbStore, model: &mut Model) -> Result<(), Violation> {
    let found = read(store).await?;
    let now = model.now;
    let audit = &mut model.audit;
    if let Some(open) = audit.open.take()
        && let Some((&last, entry)) = found.last_key_value()
        && *entry == open
    {
        audit.entries.insert(last, (open, None));
    }
    for (no, entry) in &found {
        let Some((known, open)) = audit.entries.get_mut(no) else {
            return Err(Violation(format!("nobody wrote {entry:?}")));
        };
        match open.take() {
            Some(end) if *entry == known.clone().ended(end.clone()) => *known = entry.clone(),
            Some(_) | None if entry == known => {}
            Some(_) | None => return Err(Violation(format!("{known:?} has become {entry:?}"))),
        }
    }
    let first = found.keys().next().copied().unwrap_or(AuditNo(u64::MAX));
    let (newest, horizon) =
        (audit.entries.keys().rev().take(usize::try_from(ENTRIES_MAX).expect("few")), now - RETENTION);
    let mut kept = newest.filter(|no| audit.entries[no].0.time > horizon);
    if let Some(lost) = kept.find(|no| !found.contains_key(no)) {
        return Err(Violation(format!("{:?} is lost", audit.entries[lost])));
    }
    let gap = found.keys().zip(first.0..).find(|(no, expected)| no.0 != *expected);
    if let Some((no, _)) = gap {
        return Err(Violation(format!("before {no:?} entries of the audit log are missing")));
    }
    // What is gone never comes back.
    audit.entries.retain(|no, _| *no >= first || found.is_empty());
    Ok(())
}

async fn read(store: &RedbStore) -> Result<BTreeMap<AuditNo, AuditEntry>, Violation> {
    let (mut found, mut before) = (BTreeMap::new(), None);
    loop {
        let page = store.audited(&AuditQuery::default(), before, AUDIT_EXAMINED_MAX).await?;
        found.extend(page.entries);
        before = page.next;
        if before.is_none() {
            return Ok(found);
        }
    }
}
