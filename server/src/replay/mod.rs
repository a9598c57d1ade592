//! Carries replays on: looks at some events, decides which of them are sent again, and has the store make their deliveries.
//!
//! ```text
//!   store.replays ──▶ who may go on ──▶ store.replayable ──▶ filters ──▶ store.replay(Step)
//!        ▲             rate, pending         a page                          one commit
//!        └──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Replays take turns, a page each. Nothing is remembered here that is not in the store but what was looked at since the last step; a
//! restart looks at that again.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{task::yield_now, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock::Clock,
    limits::REPLAY_PENDING_MAX,
    model::{
        event::StoredEvent,
        ids::{EventSeq, Tenant},
        quota::replay_room,
        replay::{Replay, ReplayStep},
        time::Timestamp,
        webhook::Webhook,
    },
    store::{ReplayAnswer, ReplayChange, ReplayPage, Store, StoreError},
};

/// Pages without anything to send after which what was looked at is written down.
const PAGES_PER_STEP: u32 = 64;
/// While there is room for fewer pending deliveries, none are made: each step is a commit.
const ROOM_MIN: usize = 25;
/// Pause before a replay that the store does not let go on is tried again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Pause before events that could not be read are read again, and how often.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(2);
const UNREADABLE_TRIES: u32 = 30;
/// How often replays that ended long ago are looked for, and how many are forgotten at once.
const FORGET_INTERVAL: Duration = Duration::from_mins(1);
const FORGOTTEN_AT_ONCE: usize = 100;

/// Settings of the replay stage.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pause between looks while nothing changes.
    pub interval: Duration,
    /// How long replays that have ended are remembered.
    pub retention: Duration,
}

impl Config {
    /// The stage.
    pub fn build(self, store: Arc<dyn Store>, clock: Clock) -> Replaying {
        Replaying { config: self, store, clock, places: HashMap::new(), forgot: None }
    }
}

/// The replay stage.
pub struct Replaying {
    config: Config,
    store: Arc<dyn Store>,
    clock: Clock,
    /// Of replays that are active.
    places: HashMap<u32, Place>,
    /// When replays were last forgotten.
    forgot: Option<Timestamp>,
}

/// What is known of a replay besides what the store has.
#[derive(Debug, Default)]
struct Place {
    scan: Option<Scan>,
    /// It is not to go on before then.
    due: Option<Timestamp>,
    /// How often in a row its events could not be read.
    failures: u32,
}

/// What was looked at since the last step.
#[derive(Debug, Clone, Copy)]
struct Scan {
    from: EventSeq,
    next: EventSeq,
    examined: u64,
    reached: Option<Timestamp>,
    pages: u32,
}

impl Scan {
    fn of(replay: &Replay) -> Self {
        Self { from: replay.next, next: replay.next, examined: 0, reached: None, pages: 0 }
    }

    fn add(&mut self, page: &ReplayPage) {
        self.next = page.next;
        self.examined += page.examined;
        self.reached = page.reached.or(self.reached);
        self.pages += 1;
    }

    fn step(&self, replay: u32, events: Vec<EventSeq>, time: Timestamp) -> ReplayStep {
        let Self { from, next, examined, reached, .. } = *self;
        ReplayStep { replay, from, next, examined, reached, events, time }
    }
}

/// When a replay goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// When it is its turn again.
    Now,
    /// Not before that has passed.
    After(Duration),
    /// When something has changed.
    Changed,
}

impl Replaying {
    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.store.replays().changes();
        loop {
            // Listen before looking.
            changes.mark_unchanged();
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = self.round() => self.clock.instant(next),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = changes.changed() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Gives each replay that may go on a turn; returns when to look again.
    async fn round(&mut self) -> Timestamp {
        let active = self.store.replays().active();
        self.places.retain(|no, _| active.iter().any(|replay| replay.no == *no));
        let mut soonest = self.clock.now() + self.config.interval;
        for replay in active {
            let due = self.places.get(&replay.no).and_then(|place| place.due);
            let now = self.clock.now();
            if let Some(due) = due.filter(|due| *due > now) {
                soonest = soonest.min(due);
                continue;
            }
            let next = self.advance(&replay).await;
            let now = self.clock.now();
            let due = match next {
                Next::Now => Some(now),
                Next::After(pause) => Some(now + pause),
                Next::Changed => None,
            };
            soonest = due.map_or(soonest, |due| soonest.min(due));
            self.place(&replay).due = due;
        }
        self.forget().await;
        soonest
    }

    /// How many deliveries the quota of a tenant leaves to replays.
    fn quota_room(&self, tenant: &Tenant) -> usize {
        let catalog = self.store.catalog();
        let room = catalog.quotas().pending_max(tenant).map(|limit| replay_room(limit, catalog.pending_of(tenant)));
        room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX)
    }

    fn place(&mut self, replay: &Replay) -> &mut Place {
        self.places.entry(replay.no).or_default()
    }

    /// One turn of a replay.
    async fn advance(&mut self, replay: &Replay) -> Next {
        let time = self.clock.now();
        if replay.drops {
            let dropped = self.store.replay(ReplayChange::Drop { replay: replay.no, time }).await;
            return dropped.map_or(Next::After(BUSY_PAUSE), |_| Next::Now);
        }
        let Some(known) = self.store.catalog().webhook(replay.spec.webhook) else { return Next::Changed };
        let pending = self.store.replays().pending(replay.spec.webhook);
        let room = usize::try_from(REPLAY_PENDING_MAX.saturating_sub(pending)).unwrap_or(usize::MAX);
        let batch = replay.spec.batch();
        if room < batch.min(ROOM_MIN) {
            return Next::Changed;
        }
        let quota_room = self.quota_room(&known.webhook.tenant);
        if quota_room == 0 {
            return Next::After(BUSY_PAUSE);
        }
        let limit = batch.min(room).min(quota_room);
        let scan = self.place(replay).scan.filter(|scan| scan.from == replay.next);
        let mut scan = scan.unwrap_or_else(|| Scan::of(replay));
        let page = match self.store.replayable(replay, scan.next, limit).await {
            Ok(page) => page,
            Err(StoreError::Failed(why)) => return self.unreadable(replay, &why).await,
            Err(StoreError::Full | StoreError::Closed) => return Next::After(BUSY_PAUSE),
        };
        scan.add(&page);
        self.place(replay).failures = 0;
        let wanted = self.wanted(replay, &known.webhook, page.events, time).await;
        let ends = scan.next > replay.last;
        self.place(replay).scan = Some(scan);
        if wanted.is_empty() && !ends && scan.pages < PAGES_PER_STEP {
            return Next::Now;
        }
        let made = wanted.len();
        let step = scan.step(replay.no, wanted, time);
        self.place(replay).scan = None;
        match self.store.replay(ReplayChange::Step(step)).await {
            Ok(ReplayAnswer::Done) => {
                if ends {
                    info!(replay.id = %replay.id, webhook.id = %replay.spec.webhook_id, "a replay has looked at every event");
                }
                Next::After(replay.spec.pause_after(made))
            }
            Ok(ReplayAnswer::Busy) | Err(_) => Next::After(BUSY_PAUSE),
            Ok(ReplayAnswer::Unreadable) => self.unreadable(replay, "an event cannot be read").await,
            // Somebody stopped it, or it was deleted with its webhook.
            Ok(_) => Next::Changed,
        }
    }

    /// Those of the events that are to be sent.
    async fn wanted(
        &self,
        replay: &Replay,
        webhook: &Webhook,
        events: Vec<StoredEvent>,
        now: Timestamp,
    ) -> Vec<EventSeq> {
        let mut wanted = Vec::with_capacity(events.len());
        for event in events {
            match replay.spec.wants(&webhook.settings, &event, now) {
                Ok(true) => wanted.push(event.seq),
                Ok(false) => {}
                Err(error) => self.store.catalog().troubles().happened(webhook, &error),
            }
            if webhook.settings.scope.is_some() {
                // A filter may have taken long.
                yield_now().await;
            }
        }
        wanted
    }

    /// Events could not be read: perhaps later. If not, the replay has failed, unless it is the store as a whole that has.
    async fn unreadable(&mut self, replay: &Replay, why: &str) -> Next {
        let place = self.place(replay);
        place.scan = None;
        place.failures += 1;
        let failures = place.failures;
        warn!(replay.id = %replay.id, error = why, failures, "events for a replay cannot be read");
        if failures >= UNREADABLE_TRIES {
            let why = "events are stored that cannot be read".into();
            let change = ReplayChange::Fail { replay: replay.no, why, time: self.clock.now() };
            if self.store.replay(change).await.is_ok() {
                error!(replay.id = %replay.id, "a replay has failed, since events cannot be read");
            }
        }
        Next::After(UNREADABLE_PAUSE)
    }

    /// Forgets replays that ended longer ago than anything is retained.
    async fn forget(&mut self) {
        let now = self.clock.certain();
        if self.forgot.is_some_and(|forgot| now.since(forgot) < FORGET_INTERVAL) {
            return;
        }
        let replays = self.store.replays().ended_before(now - self.config.retention, FORGOTTEN_AT_ONCE);
        let all = replays.len() < FORGOTTEN_AT_ONCE;
        if !replays.is_empty()
            && let Err(error) = self.store.replay(ReplayChange::Forget { replays }).await
        {
            warn!(%error, "replays that ended long ago could not be forgotten; the next round tries again");
            return;
        }
        self.forgot = all.then_some(now);
    }
}
