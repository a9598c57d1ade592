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
pub(super) fn is_over(shared: &Shared, seq: u64, record: &EventRecord, now: Timestamp) -> bool {
    shared.set_backs.scheduled(seq, record) + shared.config.retention <= now
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::{
        super::{
            RedbStore,
            archive::Archived,
            tests::{opened, publish, turn, webhook},
        },
        *,
    };
    use crate::{
        model::ids::{EventSeq, Position},
        store::{FeedFilter, LogEntry, Store as _},
    };

    /// What upkeep found to be held counts for nothing once the webhook is enabled, or deleted.
    #[tokio::test]
    async fn it_is_settled_by_the_commit_whether_a_delivery_is_held() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir);
        let (no, other) = (webhook(&store).await, webhook(&store).await);
        for n in 0..3 {
            publish(&store, &format!("event-{n}")).await.unwrap();
        }
        turn(&store, no, false).await;
        let now = Timestamp::UNIX_EPOCH + Duration::from_hours(1_000);
        let key = |webhook, n| DeliveryKey { webhook, event: EventSeq(n), replay: 0 };
        let found: Vec<_> = (1..=3).flat_map(|n| [key(no, n), key(other, n)]).collect();
        let pending = |store: &RedbStore| [no, other].map(|no| store.catalog().webhook(no).unwrap().pending());

        turn(&store, no, true).await;
        store.shared.inbox.upkeep(Archived::Expired(found.clone(), now)).await.unwrap();
        assert_eq!(pending(&store), [3, 3], "enabled before");
        turn(&store, no, false).await;
        store.shared.inbox.upkeep(Archived::Expired(found.clone(), now)).await.unwrap();
        assert_eq!(pending(&store), [0, 3], "held");
        turn(&store, no, true).await;
        store.shared.inbox.upkeep(Archived::Expired(found, now)).await.unwrap();
        assert!(store.due(no, now, 10).await.unwrap().hints.is_empty());
        let entries = store.feed(Position(0), &FeedFilter::default(), 100).await.unwrap().entries;
        let told: Vec<_> = entries
            .iter()
            .filter_map(|entry| match entry {
                LogEntry::WebhookCancelled(it) => Some((it.reason, it.deliveries, it.time)),
                LogEntry::Outcome(_) | LogEntry::Operational(_) => None,
            })
            .collect();
        assert_eq!(told, [(CancelReason::HeldExpired, 3, now)]);
        store.close().await.unwrap();
    }
}
