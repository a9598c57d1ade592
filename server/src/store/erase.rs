//! Erasing on request: what callers ask for, and what becomes of it.

use crate::model::{
    erasure::Erasure,
    ids::{EventId, Tenant},
    time::Timestamp,
};

/// Something to erase. Once it is answered, nobody reads it any more; the bytes leave the disk afterwards, in upkeep.
#[derive(Debug, Clone)]
pub enum Erase {
    /// One event: its pending deliveries are cancelled, and nothing is left of it and of the attempts to deliver it. Its id stays
    /// taken for as long as events are retained.
    Event {
        /// Whose event.
        tenant: Tenant,
        /// Which one.
        id: EventId,
        /// Now.
        time: Timestamp,
    },
    /// All there is of a tenant. Until the bytes have gone too, it can have nothing new.
    Tenant {
        /// Which one.
        tenant: Tenant,
        /// Guards against repeats; empty: nothing does.
        request_id: String,
        /// Now.
        time: Timestamp,
    },
}

/// What became of an [`Erase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// It is decided on; by this request, or by an earlier one for the same.
    Decided(Erasure),
    /// The tenant has no such event, or none any more.
    NotFound,
    /// As many erasures as may be are being carried out.
    TooMany,
}
