//! Which deliveries a webhook has, newest first, merged from where they lie.
//!
//! What was never attempted lies by webhook. What was lies by event, and is found by looking through the hot store's share of
//! it, which is bounded, and through the runs of each segment.

use std::collections::{BTreeMap, BTreeSet};

use ::redb::{ReadTransaction, ReadableTable};

use super::{
    error::EngineError,
    records::RunRecord,
    shared::{FanOut, Shared},
    tables::{self, existing},
};
use crate::model::ids::{DeliveryKey, EventSeq, WebhookNo};

/// Deliveries of the webhook that one call takes from each place.
const TAKEN_MAX: usize = 1_000;
/// Rows of the hot store, of whatever webhook, that one call looks at.
const EXAMINED_MAX: usize = if cfg!(test) { 4 } else { 50_000 };

/// A delivery, among those of its webhook.
pub(super) type Place = (u64, u32);

/// What was found.
pub(super) struct Found {
    /// Newest first, without gaps.
    pub(super) keys: Vec<DeliveryKey>,
    /// Set if there may be more: go on after this one.
    pub(super) next: Option<DeliveryKey>,
}

/// What the webhook has after `after` that is not sorted by webhook yet, newest first. To be asked before the snapshot: what is sorted
/// meanwhile is in that.
pub(super) fn noted(shared: &Shared, webhook: WebhookNo, after: Option<DeliveryKey>) -> Vec<Place> {
    let end = after.map_or((u64::MAX, u32::MAX), |key| (key.event.0, key.replay));
    shared.batches.read().newest_of(webhook.0, end, TAKEN_MAX)
}

/// A webhook's deliveries after `after`; `noted` is what [`noted`] said before the snapshot.
pub(super) fn find(
    shared: &Shared,
    hot: &ReadTransaction,
    fan_outs: &BTreeMap<EventSeq, FanOut>,
    noted: Vec<Place>,
    webhook: WebhookNo,
    after: Option<DeliveryKey>,
) -> Result<Found, EngineError> {
    let after = after.map(|key| (key.event.0, key.replay));
    let mut search = Search { webhook: webhook.0, end: after, found: BTreeSet::new(), floor: None };
    search.add(noted);
    search.ready(hot)?;
    search.recorded(hot)?;
    let segments = shared.segments.all();
    for segment in segments.iter().rev() {
        if search.may_add_from(segment.record.deliveries_from, segment.record.deliveries_until) {
            let read = shared.segments.read(segment.no)?;
            search.segment(&read)?;
        }
    }
    for (seq, _) in fan_outs.iter().filter(|(_, fan_out)| fan_out.awaits(webhook)) {
        if search.is_wanted((seq.0, 0)) {
            search.found.insert((seq.0, 0));
        }
    }
    Ok(search.finish())
}

struct Search {
    webhook: u64,
    /// Only what comes before it.
    end: Option<Place>,
    found: BTreeSet<Place>,
    /// Below it some place was not looked at, so there may be gaps.
    floor: Option<Place>,
}

impl Search {
    fn is_wanted(&self, place: Place) -> bool {
        self.end.is_none_or(|end| place < end)
    }

    /// Whether deliveries of these events are wanted, and not below the floor.
    fn may_add_from(&self, from: u64, until: u64) -> bool {
        from < until && self.is_wanted((from, 0)) && self.floor.is_none_or(|(event, _)| until > event)
    }

    /// Adds what a place holds, newest first; there may be more of it.
    fn add(&mut self, places: Vec<Place>) {
        if places.len() >= TAKEN_MAX {
            self.floor = self.floor.max(places.last().copied());
        }
        self.found.extend(places);
    }

    fn ready(&mut self, hot: &ReadTransaction) -> Result<(), EngineError> {
        let (end, replay) = self.end.unwrap_or((u64::MAX, u32::MAX));
        let table = hot.open_table(tables::READY)?;
        // What is noted to have left has a record, and is found by that.
        let rows = table.range((self.webhook, 0, 0)..(self.webhook, end, replay))?.rev().take(TAKEN_MAX);
        let places = rows.map(|row| row.map(|(key, _)| (key.value().1, key.value().2)));
        self.add(places.collect::<Result<_, _>>()?);
        let table = hot.open_table(tables::PARKED)?;
        let rows = table.range((self.webhook, 0, 0)..(self.webhook, end, replay))?.rev().take(TAKEN_MAX);
        let places = rows.map(|row| row.map(|(key, _)| (key.value().1, key.value().2)));
        self.add(places.collect::<Result<_, _>>()?);
        Ok(())
    }

    fn recorded(&mut self, hot: &ReadTransaction) -> Result<(), EngineError> {
        let table = hot.open_table(tables::DELIVERIES)?;
        let mut places = Vec::new();
        let mut end = (u64::MAX, u64::MAX, u32::MAX);
        if let Some((event, replay)) = self.end {
            self.of_event(&table, event, replay, &mut places)?;
            end = (event, 0, 0);
        }
        for (examined, row) in table.range(..end)?.rev().enumerate() {
            let (event, webhook, replay) = row?.0.value();
            if examined == EXAMINED_MAX || places.len() >= TAKEN_MAX {
                // In the middle of an event: the rest of it, to go on with the one before.
                self.of_event(&table, event, u32::MAX, &mut places)?;
                self.floor = self.floor.max(Some((event, 0)));
                break;
            }
            if webhook == self.webhook {
                places.push((event, replay));
            }
        }
        self.found.extend(places);
        Ok(())
    }

    /// What the webhook has of one event, below a replay.
    fn of_event(
        &self,
        table: &impl ReadableTable<tables::DeliveryRow, &'static [u8]>,
        event: u64,
        below: u32,
        places: &mut Vec<Place>,
    ) -> Result<(), EngineError> {
        for row in table.range((event, self.webhook, 0)..(event, self.webhook, below))?.rev() {
            places.push((event, row?.0.value().2));
        }
        Ok(())
    }

    fn segment(&mut self, segment: &ReadTransaction) -> Result<(), EngineError> {
        let Some(runs) = existing(segment.open_table(tables::RUNS))? else { return Ok(()) };
        let mut places = Vec::new();
        let mut run = 0;
        while let Some(first) = runs.range((run, 0)..)?.next().transpose()? {
            (run, _) = first.0.value();
            if let Some(bytes) = runs.get((run, self.webhook))? {
                let record = RunRecord::decode_from(bytes.value())?;
                places.extend(record.deliveries().filter(|&place| self.is_wanted(place)));
            }
            run += 1;
        }
        places.sort_unstable_by(|one, other| other.cmp(one));
        places.dedup();
        places.truncate(TAKEN_MAX);
        self.add(places);
        Ok(())
    }

    fn finish(self) -> Found {
        let key = |(event, replay)| DeliveryKey { webhook: WebhookNo(self.webhook), event: EventSeq(event), replay };
        let keys = self.found.into_iter().rev().take_while(|place| self.floor.is_none_or(|floor| *place >= floor));
        Found { keys: keys.map(key).collect(), next: self.floor.map(key) }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{
        super::{
            RedbStore,
            tests::{opened, outcome, publish, webhook},
        },
        *,
    };
    use crate::{
        model::time::Timestamp,
        store::{DeliveryQuery, OutcomeGroup, Store as _},
    };

    async fn events_listed(store: &RedbStore, no: WebhookNo, limit: usize) -> Vec<u64> {
        let webhook = store.catalog().webhook(no).unwrap().webhook.id;
        let query = DeliveryQuery { webhook: Some(webhook), ..DeliveryQuery::default() };
        let mut events = Vec::new();
        let mut after = None;
        loop {
            let page = store.list(&query, after, limit).await.unwrap();
            events.extend(page.deliveries.iter().map(|delivery| delivery.key.event.0));
            after = page.next;
            if after.is_none() {
                return events;
            }
        }
    }

    /// More rows of others than one call looks at lie between those of each webhook, in the middle of an event, too.
    #[tokio::test]
    async fn a_list_of_a_webhook_has_no_gaps_and_no_repeats() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir);
        let mut webhooks = Vec::new();
        for n in 0..12_u64 {
            webhooks.push(webhook(&store).await);
            publish(&store, &format!("event-{n}")).await.unwrap();
        }
        // The first webhook has all events, the last one has the last.
        for (n, &no) in webhooks.iter().enumerate() {
            let hints = store.due(no, Timestamp::UNIX_EPOCH, 100).await.unwrap().hints;
            let ended = hints.iter().filter(|hint| !(hint.event.0 + n as u64).is_multiple_of(3));
            let mut outcomes = Vec::new();
            for hint in ended {
                outcomes.push(outcome(&store, no, *hint).await);
            }
            store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
        }
        for (n, &no) in webhooks.iter().enumerate() {
            let all: Vec<u64> = (n as u64 + 1..=12).rev().collect();
            for limit in [1, 3, 100] {
                assert_eq!(events_listed(&store, no, limit).await, all, "webhook {n}, {limit} a page");
            }
        }
        store.close().await.unwrap();
    }
}
