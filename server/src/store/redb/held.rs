//! Held deliveries whose retention has ended: they are cancelled, for nothing of theirs is kept any longer.
//!
//! Upkeep finds them, a few at a time, where it looks for what is pending: in the segment that is to go, and among the rescued
//! events. The committer cancels those of them that are held still, so it is settled in the one order of commits whether a
//! webhook was enabled before, and makes them, or after, and finds them cancelled. Each step is a decision of its own, whole, which
//! watchers are told of; so there is nothing to take up again after a restart.

use super::{
    change::{Change, Tables},
    error::EngineError,
    ordered::PASSED_ON_ROWS,
    records::EventRecord,
    shared::Shared,
};
use crate::{
    limits::REQUEST_ROWS_MAX,
    model::{ids::DeliveryKey, time::Timestamp},
    store::types::CancelReason,
};

/// Most deliveries that one step cancels.
pub(super) const HELD_ROWS: usize = REQUEST_ROWS_MAX.div_ceil(PASSED_ON_ROWS);

/// Whether the retention of an event has ended: counted from when it was accepted, or was to be sent.
pub(super) fn is_over(shared: &Shared, record: &EventRecord, now: Timestamp) -> bool {
    record.scheduled().unwrap_or(record.accept_time()) + shared.config.retention <= now
}

impl Change<'_> {
    /// Cancels those of these deliveries that are held, this transaction included.
    pub(super) fn expire_held(
        &mut self,
        tables: &mut Tables<'_>,
        mut keys: Vec<DeliveryKey>,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        keys.retain(|key| self.exists(key.webhook) && !self.is_enabled(key.webhook));
        self.cancel_named(tables, keys, CancelReason::HeldExpired, now)?;
        Ok(())
    }
}
