//! Feeling the pulse: how long the oldest delivery has been due, and whether anything moves.
//!
//! It asks the store, which holds the truth, and not dispatch, which may be what hangs: one seek for each webhook that has
//! something pending. That costs nothing per delivery and nothing while nobody asks. It is bounded: a look takes at most
//! `OPS_LOOK_PAGES_MAX` pages and is as good for `OPS_LOOK_INTERVAL`. With more webhooks than that it takes several looks to see
//! all of them; until then the oldest of the round before counts as well, so that a round can only tell too much, and only for
//! its own length.
//!
//! What it sees: deliveries of webhooks that exist, are enabled and are not held back, from the moment they are due until their outcome is
//! committed. An attempt under way is therefore still due. What it does not see: events whose fan-out to many webhooks is not
//! written yet.
//!
//! Invariant: one read of the store at a time. One that does not end, because the disk does not answer, is waited for again by
//! the next look, and no other is begun.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout_at},
};

use super::readiness::{self, NotReady, Vitals};
use crate::{
    clock::Clock,
    limits::{DISPATCH_SURVEY_LANES_MAX, OPS_LOOK_INTERVAL, OPS_LOOK_PAGES_MAX, OPS_LOOK_TIMEOUT},
    model::{ids::WebhookNo, time::Timestamp},
    store::{LanePage, Store, StoreError},
};

/// What is looked at.
pub struct Deps {
    /// Where the deliveries are.
    pub store: Arc<dyn Store>,
    /// Whether it commits.
    pub works: watch::Receiver<bool>,
    /// How long its committer has given no sign of life; `None`: it is gone.
    pub silence: Box<dyn Fn() -> Option<Duration> + Send + Sync>,
    /// Time.
    pub clock: Clock,
    /// A number that changes whenever something moves: attempts begun.
    pub moves: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Whether a webhook is held back, because its receiver asked for that or fails all the time: what is due for it waits for
    /// good reason.
    pub held: Box<dyn Fn(WebhookNo) -> bool + Send + Sync>,
}

/// Looks, when asked.
pub(super) struct Pulse {
    deps: Deps,
    state: Mutex<State>,
}

struct State {
    round: Round,
    /// A page that is being read.
    reading: Option<BoxFuture<'static, Result<LanePage, StoreError>>>,
    /// When the last look ended, and what came of it: when the oldest delivery was due, if one was.
    looked: Option<(Instant, Result<Option<Timestamp>, String>)>,
    moves: u64,
    moved: Instant,
}

/// One way through all webhooks.
#[derive(Debug, Default)]
struct Round {
    after: Option<WebhookNo>,
    oldest: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Round {
    /// Takes in the next page: when the enabled ones of its webhooks have their first delivery due. True: that was the last.
    fn take_in(&mut self, due: impl IntoIterator<Item = Timestamp>, next: Option<WebhookNo>) -> bool {
        self.oldest = self.oldest.into_iter().chain(due).min();
        self.after = next;
        if next.is_none() {
            self.before = self.oldest.take();
        }
        next.is_none()
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.oldest.into_iter().chain(self.before).min()
    }
}

impl Pulse {
    /// From now on.
    pub(super) fn new(deps: Deps) -> Self {
        let moves = (deps.moves)();
        let state = State { round: Round::default(), reading: None, looked: None, moves, moved: Instant::now() };
        Self { deps, state: Mutex::new(state) }
    }

    /// Whether the store's committer goes round. Looks at nothing that can be slow.
    pub(super) fn liveness(&self) -> Result<(), NotReady> {
        readiness::judge_committer((self.deps.silence)())
    }

    /// How it is at the moment, give or take `OPS_LOOK_INTERVAL`. Takes at most about `OPS_LOOK_TIMEOUT`.
    pub(super) async fn feel(&self) -> Vitals {
        let store_works = *self.deps.works.borrow();
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let moves = (self.deps.moves)();
        if moves != state.moves {
            (state.moves, state.moved) = (moves, now);
        }
        let known = state.looked.as_ref().filter(|(at, _)| now.duration_since(*at) < OPS_LOOK_INTERVAL);
        let seen = if let Some((_, seen)) = known {
            seen.clone()
        } else {
            let seen = self.look(&mut state, now + OPS_LOOK_TIMEOUT).await;
            state.looked = Some((Instant::now(), seen.clone()));
            seen
        };
        let (overdue, unreadable) = match seen {
            Ok(oldest) => (Some(oldest.map_or(Duration::ZERO, |due| self.deps.clock.now().since(due))), None),
            Err(why) => (None, Some(why)),
        };
        Vitals { store_works, unreadable, overdue, idle: now.duration_since(state.moved) }
    }

    /// Waits for a look under way and gives up what it left behind.
    pub(super) async fn rest(&self) {
        self.state.lock().await.reading = None;
    }

    async fn look(&self, state: &mut State, deadline: Instant) -> Result<Option<Timestamp>, String> {
        for _ in 0..OPS_LOOK_PAGES_MAX {
            let (store, after) = (self.deps.store.clone(), state.round.after);
            let reading = state
                .reading
                .get_or_insert_with(|| Box::pin(async move { store.lanes(after, DISPATCH_SURVEY_LANES_MAX).await }));
            let page = timeout_at(deadline, reading).await.map_err(|_| "it does not answer".to_owned())?;
            state.reading = None;
            let page = page.map_err(|error| error.to_string())?;
            let catalog = self.deps.store.catalog();
            let enabled = |no| catalog.webhook(no).is_some_and(|registered| registered.webhook.is_enabled());
            let expected = |no| enabled(no) && !(self.deps.held)(no);
            let due = page.lanes.iter().filter(|lane| expected(lane.webhook)).map(|lane| lane.first_due);
            if state.round.take_in(due, page.next) {
                break;
            }
        }
        Ok(state.round.oldest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_over_several_looks_tells_the_oldest_of_both() {
        let at = Timestamp::from_micros;
        let mut round = Round::default();
        assert_eq!(round.oldest(), None);
        assert!(!round.take_in([at(5), at(3)], Some(WebhookNo(2))));
        assert_eq!((round.oldest(), round.after), (Some(at(3)), Some(WebhookNo(2))));
        assert!(round.take_in([at(9)], None));
        assert_eq!((round.oldest(), round.after), (Some(at(3)), None), "a full round");
        assert!(!round.take_in([at(7)], Some(WebhookNo(2))));
        assert_eq!(round.oldest(), Some(at(3)), "the rest of this round may still have it");
        assert!(round.take_in([], None));
        assert_eq!(round.oldest(), Some(at(7)), "it is gone");
        assert!(round.take_in([], None));
        assert_eq!(round.oldest(), None);
    }
}
