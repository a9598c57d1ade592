//! What the stages hand to each other. They meet in `daemon.rs`; none imports another.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::{
    bodies::BodyPermit,
    limits::{HINTS_MAX, LANE_WINDOW_HINTS_MAX},
    model::{
        breaker::{BreakerState, Health},
        delivery::{AttemptResult, Attempts},
        event::StoredEvent,
        ids::{DeliveryId, DeliveryKey, WebhookNo},
        time::Timestamp,
        webhook::Webhook,
    },
    store::{AsOf, Hint},
};

/// dispatch → deliver: one attempt to make.
#[derive(Debug)]
pub struct Job {
    /// The delivery.
    pub key: DeliveryKey,
    /// The delivery, for receivers.
    pub delivery_id: DeliveryId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// So many of those before it are not held against the delivery, which was retried by hand; `None`: it was not.
    pub excused: Option<u32>,
    /// The receiver, as configured when the attempt was dispatched.
    pub webhook: Arc<Webhook>,
    /// What to send.
    pub event: StoredEvent,
    /// Gives the body's share of memory back when the attempt is over.
    pub body_permit: Option<BodyPermit>,
}

impl Job {
    /// Whether somebody asked for the delivery after the event had been delivered or given up: then it takes as long as it takes.
    pub fn is_by_hand(&self) -> bool {
        self.key.replay > 0 || self.excused.is_some()
    }

    /// Gives back the memory of a body that is not needed any more.
    pub fn forget_body(&mut self) {
        self.event.event.body = Bytes::new();
        self.body_permit = None;
    }
}

/// deliver → outcomes: one attempt made.
#[derive(Debug)]
pub struct Attempted {
    /// What was to be done. Its body is no longer needed.
    pub job: Job,
    /// What it led to; `None`: it was not made, because its webhook was deleted or disabled while it waited.
    pub result: Option<AttemptResult>,
}

/// outcomes → dispatch: how attempts get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The receivers are done with these; their outcomes are not committed yet. The webhook may be sent something else
    /// meanwhile, but the permits of the whole are still taken: a store that cannot keep up stops dispatch.
    Answered(Vec<DeliveryKey>),
    /// The outcomes of these are committed.
    Settled(Vec<Settled>),
    /// These were not attempted, because their webhooks were deleted or disabled.
    Unmade(Vec<DeliveryKey>),
}

/// An outcome is committed, and the delivery's permit is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The delivery.
    pub key: DeliveryKey,
    /// Attempts that have ended so far.
    pub attempts: Attempts,
    /// When the next attempt is due, if there will be one.
    pub next_attempt: Option<Timestamp>,
    /// Whether the receiver was slow: it timed out, or took longer than a healthy one may. `None`: it was not asked.
    pub slow: Option<bool>,
    /// What the attempt says about the receiver.
    pub health: Health,
    /// The receiver is overloaded: nothing more is sent to it before.
    pub pause_until: Option<Timestamp>,
    /// Reads from this one on see the outcome.
    pub as_of: AsOf,
}

/// store → dispatch: what commits made due, as far as it fits; a board that is wiped and read at once, so that the committer
/// never waits for the dispatcher.
///
/// Invariant: bounded. Hints beyond the window of their lane or the common budget become a mark: *more on disk since*.
#[derive(Debug)]
pub struct News {
    board: Mutex<Board>,
    posted: Notify,
    hints_max: usize,
    lane_hints_max: usize,
}

impl Default for News {
    fn default() -> Self {
        Self::bounded(HINTS_MAX, LANE_WINDOW_HINTS_MAX)
    }
}

/// What has been posted since the board was last wiped.
#[derive(Debug, Default)]
pub struct Board {
    /// By lane.
    pub fresh: HashMap<WebhookNo, Fresh>,
    /// Webhooks that were changed or deleted.
    pub changed: HashSet<WebhookNo>,
    /// Webhooks some of whose deliveries were cancelled: what is known of them may be on disk no more.
    pub cancelled: HashSet<WebhookNo>,
    /// Reads from this one on see everything posted.
    pub as_of: AsOf,
    hints: usize,
}

/// New deliveries of one lane.
#[derive(Debug, Default)]
pub struct Fresh {
    /// In the order of acceptance.
    pub hints: Vec<Hint>,
    /// Set: there are more on disk, seen by reads from this one on.
    pub more_since: Option<AsOf>,
}

impl News {
    /// A board for this many hints, and for this many of one lane.
    pub fn bounded(hints_max: usize, lane_hints_max: usize) -> Self {
        Self { board: Mutex::default(), posted: Notify::new(), hints_max, lane_hints_max }
    }

    /// Posts what one commit did, after it is durable and before it is answered.
    pub fn post(
        &self,
        as_of: AsOf,
        fresh: impl IntoIterator<Item = (WebhookNo, Hint)>,
        changed: impl IntoIterator<Item = WebhookNo>,
        cancelled: impl IntoIterator<Item = WebhookNo>,
    ) {
        let mut board = self.board.lock();
        board.as_of = board.as_of.max(as_of);
        for (webhook, hint) in fresh {
            let full = board.hints >= self.hints_max;
            let lane = board.fresh.entry(webhook).or_default();
            // Once one is left out the later ones must be too, or the lane would lose its order.
            if full || lane.more_since.is_some() || lane.hints.len() >= self.lane_hints_max {
                lane.more_since = Some(as_of);
            } else {
                if lane.hints.is_empty() {
                    // Most lanes get one, and there may be very many.
                    lane.hints.reserve_exact(1);
                }
                lane.hints.push(hint);
                board.hints += 1;
            }
        }
        board.changed.extend(changed);
        board.cancelled.extend(cancelled);
        drop(board);
        self.posted.notify_one();
    }

    /// Takes everything posted so far.
    pub fn take(&self) -> Board {
        std::mem::take(&mut *self.board.lock())
    }

    /// Completes after a post. One reader only; a post before the call counts.
    pub async fn posted(&self) {
        self.posted.notified().await;
    }
}

/// dispatch → others: which webhooks have failed of late and which are held back, for a look at any moment.
///
/// Invariant: bounded, as dispatch remembers a bounded number of them.
#[derive(Debug, Default)]
pub struct Gates {
    views: RwLock<HashMap<WebhookNo, GateView>>,
}

/// What holds a webhook back, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateView {
    /// Where its breaker stands.
    pub state: BreakerState,
    /// Since when that is not closed.
    pub since: Option<Timestamp>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Nothing is sent before; it may have passed.
    pub held_until: Option<Timestamp>,
}

impl Gates {
    /// What there is to see of a webhook; `None`: all is well.
    pub fn get(&self, webhook: WebhookNo) -> Option<GateView> {
        self.views.read().get(&webhook).copied()
    }

    /// Whether nothing is sent to a webhook at `now` because it asked for that, or because its breaker is open.
    pub fn holds(&self, webhook: WebhookNo, now: Timestamp) -> bool {
        self.get(webhook).and_then(|view| view.held_until).is_some_and(|until| until > now)
    }

    /// For dispatch: these have changed.
    pub fn update(&self, changes: impl IntoIterator<Item = (WebhookNo, Option<GateView>)>) {
        let mut views = self.views.write();
        for (webhook, view) in changes {
            match view {
                Some(view) => drop(views.insert(webhook, view)),
                None => drop(views.remove(&webhook)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::EventSeq;

    #[test]
    fn the_board_is_bounded_and_says_what_it_left_out() {
        let news = News::default();
        let hint =
            |n| Hint { event: EventSeq(n), replay: 0, attempts: Attempts::default(), due: Timestamp::UNIX_EPOCH };
        let many = LANE_WINDOW_HINTS_MAX as u64 + 10;
        news.post(AsOf(7), (0..many).map(|n| (WebhookNo(1), hint(n))), [], []);
        news.post(AsOf(8), [(WebhookNo(1), hint(many)), (WebhookNo(2), hint(0))], [WebhookNo(3)], [WebhookNo(4)]);
        let board = news.take();
        assert_eq!(board.fresh[&WebhookNo(1)].hints.len(), LANE_WINDOW_HINTS_MAX);
        assert_eq!(board.fresh[&WebhookNo(1)].more_since, Some(AsOf(8)));
        assert_eq!(board.fresh[&WebhookNo(2)].more_since, None);
        assert!(board.changed.contains(&WebhookNo(3)) && board.cancelled.contains(&WebhookNo(4)));
        assert_eq!(board.as_of, AsOf(8));
        assert!(news.take().fresh.is_empty());
    }
}
