//! The audit log at the seam.

use crate::model::audit::{AuditEnd, AuditEntry, AuditNo};

/// Something to remember of a call.
#[derive(Debug, Clone)]
pub enum AuditStep {
    /// It begins, or has ended at once: a new entry.
    Begin(Box<AuditEntry>),
    /// It has ended. Nothing, if its entry is no longer kept.
    End(AuditNo, Box<AuditEnd>),
}

/// A page of [`super::Store::audited`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<(AuditNo, AuditEntry)>,
    /// Go on before this one; `None`: that was all.
    pub next: Option<AuditNo>,
}
