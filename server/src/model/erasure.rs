//! Erasing on request: what was asked for, and how far that has come.

use super::{ids::ErasureId, time::Timestamp};

/// What is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One event with its deliveries.
    Event,
    /// Everything of a tenant.
    Tenant,
}

/// An erasure that was decided on. It holds nothing of what is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erasure {
    /// Its public id.
    pub id: ErasureId,
    /// What is erased.
    pub subject: Subject,
    /// When it was decided on: nobody reads what is erased from then on.
    pub request_time: Timestamp,
    /// When the last of it had left the files, if it has.
    pub finish_time: Option<Timestamp>,
}
