//! Every table of the hot store and of segments, once, for what is done to all of them alike.

use ::redb::{Key, TableDefinition, Value};

use super::tables;

/// Does something to each table.
pub(super) trait Visit {
    /// Why it could not.
    type Error;

    /// Is shown one table, which a file need not have.
    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Self::Error>;
}

/// Shows every table, those first that say what the store is.
pub(super) fn visit_all<T: Visit>(visitor: &mut T) -> Result<(), T::Error> {
    visitor.visit(tables::META)?;
    visitor.visit(tables::SEGMENTS)?;
    visitor.visit(tables::WEBHOOKS)?;
    visitor.visit(tables::TOMBSTONES)?;
    visitor.visit(tables::WEBHOOK_IDS)?;
    visitor.visit(tables::CONFIG_LOG)?;
    visitor.visit(tables::EVENT_TYPES)?;
    visitor.visit(tables::API_KEYS)?;
    visitor.visit(tables::QUOTAS)?;
    visitor.visit(tables::QUOTA_BYTES)?;
    visitor.visit(tables::AUDIT)?;
    visitor.visit(tables::REQUESTS)?;
    visitor.visit(tables::REQUESTS_BY_TIME)?;
    visitor.visit(tables::EVENT_CHUNKS)?;
    visitor.visit(tables::RESCUED)?;
    visitor.visit(tables::EVENT_IDS)?;
    visitor.visit(tables::READY)?;
    for batch in tables::BATCHES {
        visitor.visit(batch)?;
    }
    visitor.visit(tables::SCHEDULED)?;
    visitor.visit(tables::DELIVERIES)?;
    visitor.visit(tables::RUNS)?;
    visitor.visit(tables::LOG)?;
    visitor.visit(tables::COUNTS)?;
    visitor.visit(tables::PARKED)?;
    visitor.visit(tables::QUEUES)?;
    visitor.visit(tables::HEADS)?;
    visitor.visit(tables::HEADS_BY_KEY)?;
    visitor.visit(tables::RELEASES)?;
    visitor.visit(tables::FAN_OUTS)?;
    visitor.visit(tables::CANCELS)?;
    visitor.visit(tables::DROPS)?;
    visitor.visit(tables::FAILING)?;
    visitor.visit(tables::REPLAYS)?;
    visitor.visit(tables::REPLAYED)?;
    visitor.visit(tables::ERASURES)?;
    visitor.visit(tables::FINGERPRINTS)?;
    visitor.visit(tables::SCRUB)
}
