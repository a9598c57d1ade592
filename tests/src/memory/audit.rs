//! The audit log of an image.

use std::{collections::HashMap, mem};

use postrider_server::{
    model::{
        audit::{About, AuditNo, AuditQuery},
        ids::Tenant,
        time::Timestamp,
    },
    store::{AuditPage, AuditStep},
};

use super::image::Image;

impl Image {
    pub(super) fn audit(&mut self, step: &AuditStep) -> AuditNo {
        match step {
            AuditStep::Begin(entry) => {
                self.last_audit.0 += 1;
                self.audit.insert(self.last_audit, (**entry).clone());
                self.last_audit
            }
            AuditStep::End(no, end) => {
                if let Some(begun) = self.audit.get_mut(no) {
                    let ended = begun.clone().ended((**end).clone());
                    *begun = if begun.about == About::Erased { ended.without_tenant() } else { ended };
                }
                *no
            }
        }
    }

    pub(super) fn audited(&self, query: &AuditQuery, before: Option<AuditNo>, limit: usize) -> AuditPage {
        let rows = self.audit.range(..before.unwrap_or(AuditNo(u64::MAX))).rev();
        let mut wanted = rows.filter(|(_, entry)| query.wants(entry));
        let entries: Vec<_> = wanted.by_ref().take(limit).map(|(no, entry)| (*no, entry.clone())).collect();
        let next = wanted.next().and(entries.last().map(|(no, _)| *no));
        AuditPage { entries, next }
    }

    /// Forgets what is too old, or too much.
    pub(super) fn forget_audit(&mut self, now: Timestamp) {
        let (retention, most) = (self.limits.audit_retention, self.limits.audit_entries_max);
        while let Some(oldest) = self.audit.first_entry()
            && oldest.get().time + retention <= now
        {
            self.audit.pop_first();
        }
        while self.audit.len() as u64 > most {
            // The oldest of whoever has the most; of several such, the oldest of all.
            let mut counts = HashMap::new();
            for entry in self.audit.values() {
                *counts.entry(entry.principal.account()).or_insert(0) += 1;
            }
            let largest = counts.values().copied().max();
            let oldest = self.audit.iter().find(|(_, entry)| Some(counts[&entry.principal.account()]) == largest);
            let no = *oldest.expect("there is one").0;
            self.audit.remove(&no);
        }
    }

    /// Takes the name of a tenant out of all entries.
    pub(super) fn forget_names(&mut self, tenant: &Tenant) {
        for (no, entry) in mem::take(&mut self.audit) {
            let entry = if entry.is_of(tenant) { entry.without_tenant() } else { entry };
            self.audit.insert(no, entry);
        }
    }
}
