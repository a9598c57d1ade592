//! Ordered webhooks: who is the head of an ordering key, who waits behind it, and when the next one goes on.
//!
//! ```text
//!                        a head there is
//!   publish ─▶ line_up ──────────────────▶ PARKED, QUEUES
//!                 │ none                        │ the first of its key
//!                 ▼            pass_on          ▼
//!            READY, HEADS ◀─────────────── the head has ended, or is skipped
//! ```
//!
//! Only heads are due, so dispatch knows nothing of order. The commit that ends a head makes the next one due: at once, or when its
//! event is to be sent, for an event that is scheduled takes its place in the order like any other.

use ::redb::ReadableTable as _;

use super::{
    change::{Change, Tables},
    error::EngineError,
    publish::Arrival,
    shared::FanOut,
    tables::LaneRow,
};
use crate::{
    limits::REQUEST_ROWS_MAX,
    model::{
        ids::{EventSeq, WebhookNo},
        ordering::OrderKey,
        time::Timestamp,
    },
};

/// Rows that a delivery which keeps an order takes when it comes, besides those by which it is due.
pub(super) const ORDER_ROWS: usize = 2;
/// Rows that it takes when it goes on, or is released, at most.
pub(super) const PASSED_ON_ROWS: usize = 7;

impl Change<'_> {
    /// Whether an event of this key older than that one is accepted and has not reached the webhook yet.
    pub(super) fn is_on_its_way(&self, no: WebhookNo, order: OrderKey, before: EventSeq) -> bool {
        let awaits = |seq: EventSeq, fan_out: &FanOut| {
            // What was dropped is cancelled when it arrives.
            seq < before && fan_out.order == Some(order) && fan_out.awaits(no) && self.dropped(no, seq).is_none()
        };
        let is_mine = |seq: EventSeq| self.fan_outs.iter().any(|(mine, _)| *mine == seq);
        let mut mine = self.fan_outs.iter().filter_map(|(seq, fan_out)| Some((*seq, fan_out.as_ref()?)));
        let committed = self.shared.fan_outs.read();
        mine.any(|(seq, fan_out)| awaits(seq, fan_out))
            || committed.iter().any(|(&seq, fan_out)| awaits(seq, fan_out) && !is_mine(seq))
    }

    /// Makes a delivery due as the head of its key, or parks it behind the one there is, or is `behind`.
    pub(super) fn line_up(
        &mut self,
        tables: &mut Tables<'_>,
        arrival: Arrival,
        order: OrderKey,
        behind: bool,
    ) -> Result<(), EngineError> {
        let (no, event, replay) = arrival.row;
        if behind || tables.heads_by_key.get((no, order.0))?.is_some() {
            let due = arrival.scheduled.unwrap_or(arrival.accept_time);
            tables.parked.insert(arrival.row, (arrival.accept_time.micros(), due.micros(), order.0))?;
            tables.queues.insert((no, order.0, event, replay), ())?;
        } else {
            self.make_head(tables, arrival, order.0)?;
        }
        Ok(())
    }

    fn make_head(&mut self, tables: &mut Tables<'_>, arrival: Arrival, order: u128) -> Result<(), EngineError> {
        let (no, event, replay) = arrival.row;
        tables.heads.insert(arrival.row, order)?;
        tables.heads_by_key.insert((no, order), (event, replay))?;
        self.make_due(tables, arrival)
    }

    /// A delivery has ended or is skipped: if it was the head of a key, the next one of that key is now.
    pub(super) fn pass_on(&mut self, tables: &mut Tables<'_>, row: LaneRow) -> Result<(), EngineError> {
        let Some(order) = tables.heads.remove(row)?.map(|order| order.value()) else { return Ok(()) };
        let no = row.0;
        let range = (no, order, 0, 0)..=(no, order, u64::MAX, u32::MAX);
        let next = tables.queues.range(range)?.next().transpose()?.map(|(key, _)| key.value());
        let next = next.map(|(_, _, event, replay)| (no, event, replay));
        // An older one that is on its way is to become the head when it arrives.
        let next = next.filter(|next| !self.is_on_its_way(WebhookNo(no), OrderKey(order), EventSeq(next.1)));
        if let Some(next) = next.map(|next| unpark(tables, next, order)).transpose()?.flatten() {
            return self.make_head(tables, next, order);
        }
        tables.heads_by_key.remove((no, order))?;
        Ok(())
    }

    /// The same for up to `most` heads of events below a number; returns for how many. Fewer: there are no more.
    pub(super) fn pass_on_below(
        &mut self,
        tables: &mut Tables<'_>,
        no: u64,
        below: u64,
        most: usize,
    ) -> Result<usize, EngineError> {
        let heads = tables.heads.range((no, 0, 0)..(no, below, 0))?.take(most);
        let heads: Vec<_> = heads.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
        for &head in &heads {
            self.pass_on(tables, head)?;
        }
        Ok(heads.len())
    }

    /// The webhook is not ordered any more: what was accepted for it until now is to be released.
    pub(super) fn release(&mut self, tables: &mut Tables<'_>, no: u64) -> Result<(), EngineError> {
        tables.releases.insert(no, self.counters.next_event)?;
        self.releases.push((no, true));
        Ok(())
    }

    /// There is nothing to be released any more.
    pub(super) fn end_release(&mut self, tables: &mut Tables<'_>, no: u64) -> Result<(), EngineError> {
        if tables.releases.remove(no)?.is_some() {
            self.releases.push((no, false));
        }
        Ok(())
    }

    /// One slice of making due what waits for its turn with webhooks that are not ordered any more: parked ones in publish order,
    /// and then heads no longer hold up what came since, if the webhook is ordered again.
    pub(super) fn release_slice(&mut self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        let mut room = REQUEST_ROWS_MAX.div_ceil(PASSED_ON_ROWS);
        for &no in self.releasing {
            // First nothing is left that was dropped: it must not be due.
            if self.drop_of(no).is_some() {
                continue;
            }
            let Some(until) = tables.releases.get(no)?.map(|until| until.value()) else { continue };
            let rows = tables.parked.range((no, 0, 0)..(no, until, 0))?.take(room);
            let rows: Vec<_> =
                rows.map(|row| row.map(|(key, value)| (key.value(), value.value().2))).collect::<Result<_, _>>()?;
            for &(row, order) in &rows {
                if let Some(arrival) = unpark(tables, row, order)? {
                    self.make_due(tables, arrival)?;
                }
            }
            room -= rows.len();
            room -= self.pass_on_below(tables, no, until, room)?;
            if room == 0 {
                return Ok(());
            }
            self.end_release(tables, no)?;
        }
        Ok(())
    }
}

/// Takes up to `most` rows of a deleted webhook out of these tables, and adds what was parked to `rows`: event, replay, time of
/// acceptance. Returns how many; fewer: there are no more.
pub(super) fn take_out_of_order(
    tables: &mut Tables<'_>,
    no: u64,
    most: usize,
    rows: &mut Vec<(u64, u32, Timestamp)>,
) -> Result<usize, EngineError> {
    let parked = take_parked(tables, no, u64::MAX, most, rows)?;
    let heads = tables.heads.range((no, 0, 0)..=(no, u64::MAX, u32::MAX))?.take(most - parked);
    let heads: Vec<_> =
        heads.map(|row| row.map(|(key, order)| (key.value(), order.value()))).collect::<Result<_, _>>()?;
    for &(head, order) in &heads {
        tables.heads.remove(head)?;
        tables.heads_by_key.remove((no, order))?;
    }
    Ok(parked + heads.len())
}

/// Takes up to `most` parked deliveries of events below a number out of their queues, and adds them to `rows` like
/// [`take_out_of_order`]. Returns how many; fewer: there are no more.
pub(super) fn take_parked(
    tables: &mut Tables<'_>,
    no: u64,
    below: u64,
    most: usize,
    rows: &mut Vec<(u64, u32, Timestamp)>,
) -> Result<usize, EngineError> {
    let parked = tables.parked.range((no, 0, 0)..(no, below, 0))?.take(most);
    let parked: Vec<_> = parked.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    for &row in &parked {
        if let Some(accept_time) = take_from_queue(tables, row)? {
            rows.push((row.1, row.2, accept_time));
        }
    }
    Ok(parked.len())
}

/// Takes a parked delivery out of its queue; returns when it was accepted, or nothing if it is not parked.
pub(super) fn take_from_queue(tables: &mut Tables<'_>, row: LaneRow) -> Result<Option<Timestamp>, EngineError> {
    let Some(order) = tables.parked.get(row)?.map(|value| value.value().2) else { return Ok(None) };
    Ok(unpark(tables, row, order)?.map(|arrival| arrival.accept_time))
}

/// Takes a delivery out of its queue, unless it was not there.
fn unpark(tables: &mut Tables<'_>, row: LaneRow, order: u128) -> Result<Option<Arrival>, EngineError> {
    let (no, event, replay) = row;
    tables.queues.remove((no, order, event, replay))?;
    let Some(value) = tables.parked.remove(row)? else { return Ok(None) };
    let (accept_time, due, _) = value.value();
    let accept_time = Timestamp::from_micros(accept_time);
    let scheduled = Some(Timestamp::from_micros(due)).filter(|due| *due > accept_time);
    Ok(Some(Arrival { row, accept_time, scheduled }))
}
