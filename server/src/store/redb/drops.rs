//! Cancelling what is pending for a webhook that goes on: decided at once, written in slices.
//!
//! A *drop* says that whatever was pending for the webhook when it was decided is cancelled: deliveries of events below a number,
//! the next event's. It is a row until every one of them is marked, and whoever reads asks it: nothing that was dropped is due,
//! or pending, from the commit of the decision on.
//!
//! Invariant: nothing below the number becomes pending while the row is there. Outcomes of what was in flight are left out, wide
//! events that arrive later are cancelled on arrival, retries by hand are refused, and what was parked is not released.

use std::collections::BTreeMap;

use ::redb::{ReadTransaction, ReadableTable as _};
use prost::Message as _;

use super::{
    change::{Change, Tables},
    config::CANCEL_ROWS,
    counts::Standing,
    error::EngineError,
    ordered::{self, PASSED_ON_ROWS},
    records::{DropRecord, LogRecord},
    shared::{FanOut, Shared},
    tables,
};
use crate::{
    model::{
        delivery::DeliveryState,
        ids::{EventSeq, WebhookNo},
        time::Timestamp,
        webhook::Webhook,
    },
    store::types::{CancelReason, LogEntry, WebhookCancelled},
};

/// Rows of what is scheduled, dropped or not, that one slice looks at.
const EXAMINED_MAX: usize = 10 * CANCEL_ROWS;

/// A key of `SCHEDULED`, without the webhook.
type Place = (i64, u64, u32);

/// A drop that is being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drop {
    /// Deliveries of events below this number.
    pub(super) below: u64,
    /// When it was decided.
    pub(super) time: Timestamp,
    /// What is scheduled before this place has been looked at. In memory only: after a restart it is looked at again.
    from: Place,
}

impl Drop {
    /// From the start.
    pub(super) fn new(record: DropRecord) -> Self {
        Self { below: record.below, time: Timestamp::from_micros(record.time), from: (i64::MIN, 0, 0) }
    }
}

/// The drops under way, by webhook.
pub(super) type Drops = BTreeMap<u64, Drop>;

/// What a snapshot says of a webhook's drop; asked only `if_any`, which [`Shared::drops_anything`] said before the snapshot.
pub(super) fn drop_of(txn: &ReadTransaction, if_any: bool, webhook: WebhookNo) -> Result<Option<Drop>, EngineError> {
    if !if_any {
        return Ok(None);
    }
    let record = txn.open_table(tables::DROPS)?.get(webhook.0)?;
    Ok(record.map(|bytes| DropRecord::decode_from(bytes.value())).transpose()?.map(Drop::new))
}

impl Change<'_> {
    /// Cancels all that is pending for the webhook; returns how many.
    pub(super) fn drop_pending(
        &mut self,
        tables: &mut Tables<'_>,
        webhook: &Webhook,
        reason: CancelReason,
        time: Timestamp,
    ) -> Result<u64, EngineError> {
        let no = webhook.no.0;
        let cancelled = self.forget_pending(no);
        if cancelled == 0 {
            return Ok(0);
        }
        let record = DropRecord { below: self.counters.next_event, time: time.micros() };
        tables.drops.insert(no, record.encode_to_vec().as_slice())?;
        self.drops_changed.push((no, Some(Drop::new(record))));
        // What this transaction made due before it decided so.
        self.fresh.retain(|(fresh, _)| *fresh != webhook.no);
        self.cancelled.push(webhook.no);
        let (tenant, webhook) = (webhook.tenant.clone(), webhook.id);
        let entry = WebhookCancelled { reason, tenant, webhook, deliveries: cancelled, time };
        self.append(LogRecord::webhook_cancelled(&entry), Some(LogEntry::WebhookCancelled(entry)));
        Ok(cancelled)
    }

    /// Counts all that is pending for the webhook as cancelled; returns how many. What was dropped before does not count.
    pub(super) fn forget_pending(&mut self, no: u64) -> u64 {
        let dropped_below = self.drop_of(no).map_or(0, |drop| drop.below);
        let waiting = self.on_their_way(WebhookNo(no), EventSeq(dropped_below));
        let pending = self.pending_of(no);
        let cancelled = Standing::At(DeliveryState::Cancelled);
        self.count(no, pending, Standing::At(DeliveryState::Pending), cancelled);
        self.count(no, waiting, Standing::OnTheWay, cancelled);
        pending + waiting
    }

    /// How many events, from this one on, have not reached the webhook. Those that this transaction took there have.
    fn on_their_way(&self, no: WebhookNo, from: EventSeq) -> u64 {
        let moved = |seq: EventSeq| self.fan_outs.iter().rev().find(|(here, _)| *here == seq);
        let awaits = |(seq, committed): &(&EventSeq, &FanOut)| {
            let here = moved(**seq).is_none_or(|(_, fan_out)| fan_out.as_ref().is_some_and(|it| it.awaits(no)));
            committed.awaits(no) && here
        };
        self.shared.fan_outs.read().range(from..).filter(awaits).count() as u64
    }

    /// The webhook's drop, this transaction included.
    pub(super) fn drop_of(&self, no: u64) -> Option<&Drop> {
        let here = self.drops_changed.iter().rev().find(|(webhook, _)| *webhook == no);
        here.map_or_else(|| self.drops.get(&no), |(_, drop)| drop.as_ref())
    }

    /// The drop that this delivery fell to, if its webhook's is not done yet.
    pub(super) fn dropped(&self, no: WebhookNo, event: EventSeq) -> Option<&Drop> {
        if self.drops.is_empty() && self.drops_changed.is_empty() {
            return None;
        }
        self.drop_of(no.0).filter(|drop| event.0 < drop.below)
    }

    /// Takes what was dropped of an ordered webhook out of its queues, one slice of it; returns whether that is done. First what
    /// is parked, so that no head passes on to it, and then the heads: what was accepted since does not wait for them.
    fn drop_order(&mut self, tables: &mut Tables<'_>, no: u64, drop: &Drop) -> Result<bool, EngineError> {
        let mut rows = Vec::new();
        let parked = ordered::take_parked(tables, no, drop.below, CANCEL_ROWS, &mut rows)?;
        if !rows.is_empty() {
            self.cancel_rows(tables, no, drop.time, &rows)?;
        }
        if parked == CANCEL_ROWS {
            return Ok(false);
        }
        let most = CANCEL_ROWS.div_ceil(PASSED_ON_ROWS);
        Ok(self.pass_on_below(tables, no, drop.below, most)? < most)
    }

    /// One slice of the first drop.
    pub(super) fn drop_slice(&mut self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        // One that this transaction decided on waits for the next.
        let Some((&no, &drop)) = self.drops.iter().find(|(no, drop)| self.drop_of(**no) == Some(*drop)) else {
            return Ok(());
        };
        if !self.drop_order(tables, no, &drop)? {
            return Ok(());
        }
        let mut rows = tables.ready.take_of_webhook(no, drop.below, CANCEL_ROWS)?;
        let ready = rows.len();
        let (mut scheduled, mut next) = (Vec::new(), None);
        let (time, event, replay) = drop.from;
        let range = (no, time, event, replay)..=(no, i64::MAX, u64::MAX, u32::MAX);
        for (examined, row) in tables.scheduled.range(range)?.enumerate() {
            let key = row?.0.value();
            if examined == EXAMINED_MAX || ready + scheduled.len() == CANCEL_ROWS {
                next = Some((key.1, key.2, key.3));
                break;
            }
            if key.2 < drop.below {
                scheduled.push(key);
            }
        }
        for key in scheduled {
            tables.scheduled.remove(key)?;
            rows.push((key.2, key.3, Timestamp::UNIX_EPOCH));
        }
        if !rows.is_empty() {
            self.cancel_rows(tables, no, drop.time, &rows)?;
        }
        let arriving = self.shared.not_fanned_out(WebhookNo(no), EventSeq(0)) > 0;
        if ready == CANCEL_ROWS || next.is_some() || arriving {
            let from = next.unwrap_or((i64::MAX, u64::MAX, u32::MAX));
            self.drops_changed.push((no, Some(Drop { from, ..drop })));
        } else {
            tables.drops.remove(no)?;
            self.drops_changed.push((no, None));
        }
        Ok(())
    }
}

impl Shared {
    /// Whether a drop is under way, as of the last commit. To be asked before a snapshot is taken: what is done by then is in
    /// its rows.
    pub(super) fn drops_anything(&self) -> bool {
        self.dropping.load(std::sync::atomic::Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use ::redb::{ReadableDatabase as _, ReadableTableMetadata as _};
    use tempfile::TempDir;

    use super::{
        super::{
            RedbStore,
            tests::{opened, outcome, publish, webhook},
        },
        *,
    };
    use crate::{
        model::delivery::DeliveryState,
        store::{ConfigChange, OutcomeGroup, Repair, Repaired, Store as _},
    };

    /// Rows of what is due, and of decisions that are not carried out.
    fn rows(store: &RedbStore) -> [u64; 4] {
        let hot = store.shared.hot.read().clone().unwrap();
        let txn = hot.begin_read().unwrap();
        let ready = super::super::ready::ReadyIn::open(&txn).unwrap().len();
        let scheduled = txn.open_table(tables::SCHEDULED).unwrap().len().unwrap();
        let drops = txn.open_table(tables::DROPS).unwrap().len().unwrap();
        [ready, scheduled, drops, txn.open_table(tables::CANCELS).unwrap().len().unwrap()]
    }

    /// A webhook with deliveries never attempted and deliveries due again, more than a few slices take.
    async fn busy(store: &RedbStore) -> WebhookNo {
        let no = webhook(store).await;
        for n in 0..60 {
            publish(store, &format!("event-{n}")).await.unwrap();
        }
        let mut outcomes = Vec::new();
        for hint in store.due(no, Timestamp::UNIX_EPOCH, 100).await.unwrap().hints.into_iter().take(25) {
            let next_attempt = Some(Timestamp::UNIX_EPOCH + std::time::Duration::from_mins(1));
            let made = outcome(store, no, hint).await;
            outcomes.push(crate::model::delivery::Outcome { state: DeliveryState::Pending, next_attempt, ..made });
        }
        store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
        assert_eq!(rows(store), [35, 25, 0, 0]);
        no
    }

    /// The slices go on after a restart, take what was decided and no more, and leave nothing behind, also if the webhook goes
    /// in the middle of them.
    #[tokio::test]
    async fn slices_take_what_was_dropped_and_leave_nothing_behind() {
        for deleted in [false, true] {
            let dir = TempDir::new().unwrap();
            let store = opened(&dir);
            let no = busy(&store).await;
            let cancel = Repair::CancelAll { webhook: no, time: Timestamp::UNIX_EPOCH };
            assert_eq!(store.repair(cancel).await.unwrap(), Repaired::Cancelled(60));
            if deleted {
                let webhook = store.catalog().webhook(no).unwrap().webhook;
                let (tenant, id) = (webhook.tenant.clone(), webhook.id);
                let delete = ConfigChange::DeleteWebhook { tenant, id, expect: None, time: Timestamp::UNIX_EPOCH };
                store.put_config(delete).await.unwrap();
            } else {
                publish(&store, "later").await.unwrap();
            }
            store.close().await.unwrap();
            drop(store);

            let store = opened(&dir);
            let left = [u64::from(!deleted), 0, 0, 0];
            let done = async {
                // In the tables, and then in memory.
                while rows(&store) != left || store.shared.drops_anything() {
                    tokio::task::yield_now().await;
                }
            };
            let done = tokio::time::timeout(std::time::Duration::from_secs(30), done).await;
            assert!(done.is_ok(), "deleted: {deleted}, left: {:?}", rows(&store));
            assert!(!store.shared.drops_anything());
            let counts = store.counts(&[no]).await.unwrap()[0];
            let expected = if deleted { (0, 0) } else { (1, 60) };
            assert_eq!((counts.pending, counts.cancelled), expected, "deleted: {deleted}");
            store.close().await.unwrap();
        }
    }
}
