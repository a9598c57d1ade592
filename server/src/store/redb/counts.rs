//! The counters of webhooks: a row each, written by the commits that do what they count.
//!
//! Invariant: nothing else changes them, so that they add up to the deliveries there are, whatever is interrupted: see
//! [`Change::count`].

use std::collections::HashMap;

use ::redb::{ReadTransaction, ReadableTable as _};
use prost::Message as _;

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::{CountsRecord, millis},
    shared::Shared,
    tables,
};
use crate::{
    model::{delivery::DeliveryState, ids::WebhookNo, time::Timestamp},
    store::counts::Counts,
};

/// Where deliveries are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nowhere: they are new, or gone without a trace.
    Nowhere,
    /// Among all that is pending, but not for their webhook: a wide event has not reached it.
    OnTheWay,
    /// For their webhook, as they stand.
    At(DeliveryState),
}

impl Standing {
    fn is_pending(self) -> bool {
        matches!(self, Self::OnTheWay | Self::At(DeliveryState::Pending))
    }
}

/// What a transaction adds to a webhook's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pending: i64,
    delivered: i64,
    failed: i64,
    cancelled: i64,
    /// Milliseconds; 0: none was.
    last_delivered: u64,
    last_failed: u64,
}

impl Tally {
    fn add(&mut self, place: Standing, deliveries: i64) {
        let Standing::At(state) = place else { return };
        let count = match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Delivered => &mut self.delivered,
            DeliveryState::Failed => &mut self.failed,
            DeliveryState::Cancelled => &mut self.cancelled,
        };
        *count += deliveries;
    }

    /// Pending deliveries that were so many before.
    pub(super) fn pending(&self, before: u64) -> u64 {
        before.saturating_add_signed(self.pending)
    }

    /// How many more are pending, or fewer.
    pub(super) fn more_pending(&self) -> i64 {
        self.pending
    }

    fn on(&self, before: &CountsRecord) -> CountsRecord {
        CountsRecord {
            pending: self.pending(before.pending),
            delivered: before.delivered.saturating_add_signed(self.delivered),
            failed: before.failed.saturating_add_signed(self.failed),
            cancelled: before.cancelled.saturating_add_signed(self.cancelled),
            last_delivered: before.last_delivered.max(self.last_delivered),
            last_failed: before.last_failed.max(self.last_failed),
        }
    }
}

impl Change<'_> {
    /// Counts so many deliveries of a webhook where they stand now, and not where they stood. Whatever makes, ends, revives or
    /// removes deliveries says so here.
    pub(super) fn count(&mut self, webhook: u64, deliveries: u64, from: Standing, to: Standing) {
        let all = &mut self.counters.pending;
        match (from.is_pending(), to.is_pending()) {
            (false, true) => *all += deliveries,
            (true, false) => *all = all.saturating_sub(deliveries),
            (true, true) | (false, false) => {}
        }
        let deliveries = i64::try_from(deliveries).expect("counts fit");
        let tally = self.tallies.entry(webhook).or_default();
        tally.add(from, -deliveries);
        tally.add(to, deliveries);
    }

    /// Counts a pending delivery that an attempt, or its age, brought to its end.
    pub(super) fn count_end(&mut self, webhook: u64, state: DeliveryState, time: Timestamp) {
        self.count(webhook, 1, Standing::At(DeliveryState::Pending), Standing::At(state));
        let tally = self.tallies.entry(webhook).or_default();
        match state {
            DeliveryState::Delivered => tally.last_delivered = tally.last_delivered.max(millis(time)),
            DeliveryState::Failed => tally.last_failed = tally.last_failed.max(millis(time)),
            DeliveryState::Pending | DeliveryState::Cancelled => {}
        }
    }

    /// How many deliveries of the webhook are pending, this transaction included.
    pub(super) fn pending_of(&self, no: u64) -> u64 {
        let before = self.pending_before.get(&no).copied().unwrap_or(0);
        self.tallies.get(&no).map_or(before, |tally| tally.pending(before))
    }

    /// The webhooks of which more or fewer deliveries are pending, with how many.
    pub(super) fn pending_changed(&self) -> Vec<(u64, u64)> {
        let changed = self.tallies.iter().filter(|(_, tally)| tally.pending != 0);
        changed.map(|(&no, _)| (no, self.pending_of(no))).collect()
    }

    /// Writes what was counted, a row a webhook. Those of a webhook that goes, go with it.
    pub(super) fn flush_counts(&self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let counted =
            |(no, tally): &(u64, Tally)| *tally != Tally::default() && !self.removed.contains(&WebhookNo(*no));
        let mut tallies: Vec<_> = self.tallies.iter().map(|(no, tally)| (*no, *tally)).filter(counted).collect();
        // In the order of keys, so that neighbours share pages.
        tallies.sort_unstable_by_key(|(no, _)| *no);
        let mut bytes = Vec::new();
        for (no, tally) in tallies {
            let before = match tables.counts.get(no)? {
                Some(bytes) => CountsRecord::decode_from(bytes.value())?,
                None => CountsRecord::default(),
            };
            bytes.clear();
            tally.on(&before).encode(&mut bytes).expect("a vector has room");
            tables.counts.insert(no, bytes.as_slice())?;
        }
        Ok(())
    }
}

/// The counters of webhooks, one after the other. All are of one commit.
pub(super) fn counts(shared: &Shared, webhooks: &[WebhookNo]) -> Result<Vec<Counts>, EngineError> {
    let (txn, _) = shared.read()?;
    let table = txn.open_table(tables::COUNTS)?;
    let of = |no: &WebhookNo| match table.get(no.0)? {
        Some(bytes) => Ok(CountsRecord::decode_from(bytes.value())?.into()),
        None => Ok(Counts::default()),
    };
    webhooks.iter().map(of).collect()
}

/// How many deliveries are pending, by webhook, where there are any.
pub(super) fn load_pending(txn: &ReadTransaction) -> Result<HashMap<u64, u64>, EngineError> {
    let mut pending = HashMap::new();
    for row in txn.open_table(tables::COUNTS)?.iter()? {
        let (no, bytes) = row?;
        let record = CountsRecord::decode_from(bytes.value())?;
        if record.pending > 0 {
            pending.insert(no.value(), record.pending);
        }
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_what_stands_elsewhere_now() {
        use DeliveryState::{Cancelled, Delivered, Failed, Pending};
        let before = CountsRecord { pending: 5, delivered: 1, failed: 2, last_failed: 9, ..CountsRecord::default() };
        let after = |steps: &[(i64, Standing, Standing)]| {
            let mut tally = Tally::default();
            for &(deliveries, from, to) in steps {
                tally.add(from, -deliveries);
                tally.add(to, deliveries);
            }
            let after = tally.on(&before);
            [after.pending, after.delivered, after.failed, after.cancelled, after.last_failed]
        };
        for (steps, expected) in [
            (&[(3, Standing::Nowhere, Standing::At(Pending))][..], [8, 1, 2, 0, 9]),
            (&[(1, Standing::At(Pending), Standing::At(Delivered))], [4, 2, 2, 0, 9]),
            (
                &[(1, Standing::At(Failed), Standing::At(Pending)), (2, Standing::OnTheWay, Standing::At(Pending))],
                [8, 1, 1, 0, 9],
            ),
            (
                &[
                    (5, Standing::At(Pending), Standing::At(Cancelled)),
                    (4, Standing::OnTheWay, Standing::At(Cancelled)),
                ],
                [0, 1, 2, 9, 9],
            ),
        ] {
            assert_eq!(after(steps), expected, "{steps:?}");
        }
    }
}
