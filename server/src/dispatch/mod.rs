//! Dispatch: decides which delivery is attempted next, reads its event, and hands it to a delivery loop.
//!
//! ```text
//!            news, settled, time ─▶ scheduler ─Launch─▶ loader ─Job─▶ delivery loops
//!   store ─due, lanes─────────────────▲  (pure)           ▲
//!     └────events─────────────────────────────────────────┘
//! ```
//!
//! The scheduler decides; this shell is one task that feeds it, runs the reads it asks for, and looks at the catalogue once
//! more before it hands a job out: no attempt starts of a webhook whose deletion has been answered.
//!
//! Invariant: the same input has the same result, which the simulation relies on; so selects are `biased`. What frees permits
//! comes first, reads next; news are taken in every turn anyway.
//!
//! Dispatch alone owns the permits. It never waits for anything but its inputs: reads run beside each other within the task,
//! and the channels to the loops have room for every permit.
//!
//! What a webhook's owner or its receiver decides holds its lane back: [`gate`]. A lane that is held back for longer than the
//! window looks ahead gives its hints up, so that those who wait for hours take no room from others.
//!
//! A delivery whose event cannot be read stays pending on disk and counts as no attempt. If the whole read failed, its lane
//! pauses for `FAILURE_PAUSE`. If the store has no such event, though the delivery is pending, that is our fault and no
//! receiver's: it is logged, and that delivery alone is left alone for `UNREADABLE_PAUSE`, so that its lane flows on and
//! nothing is given up that a repaired store could still deliver.

mod budget;
#[cfg(test)]
mod fairness;
mod gate;
mod lane;
mod load;
mod orders;
mod ready;
mod reports;
#[cfg(test)]
mod rules;
mod scheduler;
#[cfg(test)]
mod simulation;
mod sorted;
mod survey;
#[cfg(test)]
mod tests;

use std::{fmt, future::pending, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::{SeedableRng as _, rngs::StdRng};
use thiserror::Error;
use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    load::{Loaded, Loader},
    orders::{Enabled, Launch, Limits, Unmade, Webhooks},
    reports::Reports,
    scheduler::Scheduler,
    survey::Survey,
};
use crate::{
    clock::Clock,
    flow::{Gates, Job, News, Progress},
    limits::{
        DISPATCH_IDLE_GATES_MAX, DISPATCH_REFILLS_MAX, DISPATCH_SURVEY_LANES_MAX, HINTS_MAX, LANE_HORIZON,
        LANE_WINDOW_HINTS_MAX,
    },
    metrics::DispatchMetrics,
    model::{ids::WebhookNo, protection::Rates, time::Timestamp},
    store::{Catalog, DuePage, LanePage, OutcomeGroup, Store, StoreError},
};

/// After a failed read, before the next one of the same lane.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How long a delivery is left alone whose event the store does not have.
const UNREADABLE_PAUSE: Duration = Duration::from_mins(1);
/// How long a webhook's failures are remembered when nothing is pending for it.
const GATE_KEPT: Duration = Duration::from_hours(1);
/// Most messages of progress taken at once.
const PROGRESS_BATCHES_MAX: usize = 64;

/// What dispatch may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Deliveries launched whose outcome is not committed, at a time.
    pub in_flight_max: usize,
    /// Attempts under way to one webhook.
    pub webhook_in_flight_max: usize,
    /// How often webhooks may be called.
    pub rates: Rates,
    /// The share, between 0 and 1, that webhooks whose last attempt was slow may have of `in_flight_max` and of the bytes of
    /// bodies, all of them together. They always get one attempt at a time.
    pub slow_share: f64,
    /// Hints of due deliveries in memory, over all lanes.
    pub hints_max: usize,
    /// Hints of one lane.
    pub lane_hints_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_flight_max: 512,
            webhook_in_flight_max: 10,
            rates: Rates::default(),
            slow_share: 0.5,
            hints_max: HINTS_MAX,
            lane_hints_max: LANE_WINDOW_HINTS_MAX,
        }
    }
}

/// What dispatch works with.
pub struct Deps {
    /// Where the deliveries are.
    pub store: Arc<dyn Store>,
    /// What commits make due. Posted after the catalogue has changed and before the next commit.
    pub news: Arc<News>,
    /// Time.
    pub clock: Clock,
    /// To the delivery loops; each has room for `in_flight_max` batches.
    pub jobs: Vec<mpsc::Sender<Vec<Job>>>,
    /// How the jobs get on.
    pub progress: mpsc::Receiver<Progress>,
    /// Where others see which webhooks are held back.
    pub gates: Arc<Gates>,
    /// What is counted.
    pub metrics: DispatchMetrics,
    /// What its jitter is drawn from.
    pub seed: u64,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").field("loops", &self.jobs.len()).finish_non_exhaustive()
    }
}

impl Config {
    /// Builds the stage. There must be a delivery loop, with room for every permit.
    pub fn build(self, deps: Deps) -> Dispatch {
        assert!(!deps.jobs.is_empty(), "dispatch needs a delivery loop");
        assert!(deps.jobs.iter().all(|jobs| jobs.max_capacity() >= self.in_flight_max), "a permit means room");
        let limits = Limits {
            in_flight_max: self.in_flight_max,
            webhook_in_flight_max: self.webhook_in_flight_max,
            slow_in_flight_max: share_of(self.in_flight_max, self.slow_share).max(1),
            hints_max: self.hints_max,
            lane_hints_max: self.lane_hints_max,
            horizon: LANE_HORIZON,
            refills_max: DISPATCH_REFILLS_MAX,
            failure_pause: FAILURE_PAUSE,
            unreadable_pause: UNREADABLE_PAUSE,
            gate_kept: GATE_KEPT,
            idle_gates_max: DISPATCH_IDLE_GATES_MAX,
        };
        Dispatch {
            scheduler: Scheduler::new(limits),
            loader: Loader::new(self.slow_share),
            survey: Survey::new(deps.clock.now()),
            reports: Reports::default(),
            rates: self.rates,
            rng: StdRng::seed_from_u64(deps.seed),
            reads: FuturesUnordered::new(),
            store_fails: false,
            deps,
        }
    }
}

/// The dispatch stage, ready to run.
pub struct Dispatch {
    deps: Deps,
    scheduler: Scheduler,
    loader: Loader,
    survey: Survey,
    reports: Reports,
    rates: Rates,
    rng: StdRng,
    /// Invariant: bounded, by what the scheduler, the loader and the survey have under way at a time.
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    store_fails: bool,
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").field("deps", &self.deps).finish_non_exhaustive()
    }
}

/// A read that has ended.
enum Read {
    Due(WebhookNo, Result<DuePage, StoreError>),
    Lanes(Result<LanePage, StoreError>),
    Events(Loaded),
    /// Not a read, but waited for like one: whether a commit of reports succeeded.
    Reported(bool),
}

/// A delivery loop is gone, which happens only when it panicked.
#[derive(Debug, Error)]
#[error("a delivery loop has ended")]
struct LoopEnded;

impl Dispatch {
    /// Runs until it is told to stop, and drops the senders to the delivery loops then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut progress = Vec::new();
        let mut progresses = true;
        while !stop.is_cancelled() {
            let wake = self.start_reads();
            let wake = async {
                match wake {
                    Some(at) => sleep_until(self.deps.clock.instant(at)).await,
                    None => pending().await,
                }
            };
            let mut read = None;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batches = self.deps.progress.recv_many(&mut progress, PROGRESS_BATCHES_MAX), if progresses => {
                    progresses = batches > 0;
                }
                Some(ended) = self.reads.next(), if !self.reads.is_empty() => read = Some(ended),
                () = self.deps.news.posted() => {}
                () = wake => {}
            }
            if let Err(error) = self.take_in(read, &mut progress) {
                error!(%error, "dispatch stops");
                break;
            }
        }
    }

    /// Feeds what has happened to the scheduler.
    fn take_in(&mut self, read: Option<Read>, progress: &mut Vec<Progress>) -> Result<(), LoopEnded> {
        let now = self.deps.clock.now();
        let store = self.deps.store.clone();
        let catalog = &Registered { catalog: store.catalog(), rates: self.rates };
        // The board comes first: the scheduler must not hear that a delivery is over before it hears of it.
        self.scheduler.news(self.deps.news.take(), now, catalog);
        for progress in progress.drain(..) {
            match progress {
                Progress::Answered(keys) => {
                    for key in keys {
                        self.scheduler.answered(key, now);
                    }
                }
                Progress::Settled(settled) => {
                    for settled in &settled {
                        self.scheduler.settled(settled, now, catalog);
                    }
                }
                Progress::Unmade(keys) => {
                    for key in keys {
                        self.scheduler.unmade(key, Unmade::NotWanted, now);
                    }
                }
            }
        }
        match read {
            None => {}
            Some(Read::Due(webhook, page)) => {
                self.watch_store(page.as_ref().err());
                self.scheduler.refilled(webhook, page.as_ref().ok(), now, catalog);
            }
            Some(Read::Lanes(page)) => {
                self.watch_store(page.as_ref().err());
                if let Ok(page) = page {
                    self.scheduler.surveyed(&page);
                    self.survey.read(&page, now, &mut self.rng);
                } else {
                    self.survey.failed(now + FAILURE_PAUSE);
                }
            }
            Some(Read::Events(loaded)) => self.hand_out(loaded, now)?,
            Some(Read::Reported(committed)) => self.reports.ended((!committed).then(|| now + FAILURE_PAUSE)),
        }
        self.scheduler.tick(now, catalog);
        self.show_gates();
        Ok(())
    }

    /// Lets others see which webhooks are held back by now, and puts what happened to breakers down for the log.
    fn show_gates(&mut self) {
        let changes = self.scheduler.take_gate_changes();
        if !changes.is_empty() {
            self.deps.gates.update(changes);
        }
        for (webhook, change, time) in self.scheduler.take_trips() {
            self.reports.add(webhook, change, time, self.deps.store.catalog());
        }
    }

    /// Starts the reads that are wanted. Returns when to look again if nothing happens.
    fn start_reads(&mut self) -> Option<Timestamp> {
        let now = self.deps.clock.now();
        let store = &self.deps.store;
        let catalog = Registered { catalog: store.catalog(), rates: self.rates };
        while let Some(launch) = self.scheduler.next_launch(now, &catalog) {
            self.loader.push(launch);
        }
        while let Some(load) = self.loader.next_load() {
            self.reads.push(load.read(store.clone()).map(Read::Events).boxed());
        }
        while let Some(refill) = self.scheduler.next_refill(now) {
            let store = store.clone();
            let read =
                async move { Read::Due(refill.webhook, store.due(refill.webhook, refill.horizon, refill.limit).await) };
            self.reads.push(read.boxed());
        }
        if self.survey.begin(now) {
            let (store, after) = (store.clone(), self.survey.after());
            let read = async move { Read::Lanes(store.lanes(after, DISPATCH_SURVEY_LANES_MAX).await) };
            self.reads.push(read.boxed());
        }
        if let Some(operational) = self.reports.begin(now) {
            let store = store.clone();
            let group = OutcomeGroup { operational, ..OutcomeGroup::default() };
            let commit = async move { Read::Reported(store.commit(store.owner(), vec![group]).await.is_ok()) };
            self.reads.push(commit.boxed());
        }
        self.deps.metrics.permits(self.scheduler.in_flight(), self.scheduler.in_flight_max());
        [self.scheduler.next_wake(), self.survey.next(), self.reports.next()].into_iter().flatten().min()
    }

    /// Makes jobs of what was read and gives them to the delivery loops.
    fn hand_out(&mut self, loaded: Loaded, now: Timestamp) -> Result<(), LoopEnded> {
        let loaded = match loaded {
            Loaded::Read(loaded, left) => {
                self.loader.ended(left);
                loaded
            }
            Loaded::Failed(launches, error, left) => {
                self.loader.ended(left);
                self.watch_store(Some(&error));
                for launch in launches {
                    self.scheduler.unmade(launch.key, Unmade::StoreFailed, now);
                }
                return Ok(());
            }
        };
        self.watch_store(None);
        let mut batches: Vec<Vec<Job>> = Vec::new();
        batches.resize_with(self.deps.jobs.len(), Vec::new);
        for (Launch { key, attempts, .. }, read) in loaded {
            let registered = self.deps.store.catalog().webhook(key.webhook);
            let webhook = registered.map(|registered| registered.webhook).filter(|webhook| webhook.is_enabled());
            match (webhook, read) {
                (Some(webhook), Some((event, permit))) => {
                    let delivery_id = self.deps.store.sealer().delivery_id(key);
                    let (attempt, excused) = (attempts.ended() + 1, attempts.excused());
                    let job = Job { key, delivery_id, attempt, excused, webhook, event, body_permit: Some(permit) };
                    batches[loop_of(key.webhook, self.deps.jobs.len())].push(job);
                }
                (None, _) => self.scheduler.unmade(key, Unmade::NotWanted, now),
                (Some(_), None) => {
                    let delivery = self.deps.store.sealer().delivery_id(key);
                    error!(
                        delivery.id = %delivery,
                        "a pending delivery's event is not in the store, or was erased just now; tried again in a minute"
                    );
                    self.deps.metrics.unreadable.inc();
                    self.scheduler.unmade(key, Unmade::Unreadable, now);
                }
            }
        }
        for (jobs, batch) in self.deps.jobs.iter().zip(batches) {
            if !batch.is_empty() {
                // There is room, since each batch holds a permit; so this fails only if the loop is gone.
                jobs.try_send(batch).map_err(|_| LoopEnded)?;
            }
        }
        Ok(())
    }

    /// Logs when the store begins to fail and when it works again; each read that fails is tried again.
    fn watch_store(&mut self, error: Option<&StoreError>) {
        match error {
            Some(error) if !self.store_fails => {
                warn!(%error, "dispatch cannot read the store; it tries again every second");
            }
            None if self.store_fails => info!("dispatch can read the store again"),
            Some(_) | None => {}
        }
        self.store_fails = error.is_some();
    }
}

/// The webhooks there are, as the operator lets them be called.
struct Registered<'a> {
    catalog: &'a Catalog,
    rates: Rates,
}

impl Webhooks for Registered<'_> {
    fn if_enabled(&self, webhook: WebhookNo) -> Option<Enabled> {
        let webhook = self.catalog.webhook(webhook)?.webhook;
        let pace = || self.rates.temper(webhook.settings.pace());
        webhook.is_enabled().then(|| Enabled { tenant: webhook.tenant.clone(), pace: pace() })
    }
}

/// The delivery loop that makes a webhook's attempts: always the same one, which has its connections. Multiplicative hashing
/// (Knuth, *The Art of Computer Programming*, volume 3, section 6.4).
fn loop_of(webhook: WebhookNo, loops: usize) -> usize {
    let hash = webhook.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(hash).expect("32 bits") % loops
}

/// A share of `whole`, which lies between none and all of it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts are far below 2^52 and the share is clamped to 0..=1"
)]
fn share_of(whole: usize, share: f64) -> usize {
    (whole as f64 * share.clamp(0.0, 1.0)) as usize
}
