//! Accepting events: find the webhooks an event goes to, hand both to the store, answer after the durable commit.
//!
//! Invariant: the bytes of everything on its way to a commit are bounded over all callers. The permit for them is held by
//! the commit, not by the caller who waits for it, so that one who goes away or stops reading gives nothing back early and
//! keeps nothing late.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, oneshot},
    task::yield_now,
};
use tracing::error;

use crate::{
    clock::Clock,
    metrics::{AcceptMetrics, Reason},
    model::{event::Event, ids::Tenant, quota::Excess, time::Timestamp},
    shares::{Share, Shares},
    store::{Catalog, Publish, Published, Store, StoreError},
    tasks::Tasks,
};

#[cfg(test)]
mod tests;

/// What the stage needs to be told.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Most bytes of events waiting for their commit, over all callers.
    pub bytes_in_flight_max: usize,
    /// How far ahead events may be scheduled.
    pub deliver_ahead_max: Duration,
}

impl Config {
    /// Builds the stage.
    pub fn build(self, store: Arc<dyn Store>, clock: Clock, tasks: Tasks, metrics: AcceptMetrics) -> Accept {
        let bytes_max = self.bytes_in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let bytes = Arc::new(Semaphore::new(bytes_max));
        let (filtering, deliver_ahead_max) = (Shares::new(1), self.deliver_ahead_max);
        Accept { store, clock, tasks, metrics, bytes, bytes_max, filtering, deliver_ahead_max }
    }
}

/// Takes valid events in. Cheap to clone.
#[derive(Clone)]
pub struct Accept {
    store: Arc<dyn Store>,
    clock: Clock,
    tasks: Tasks,
    metrics: AcceptMetrics,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    /// Whose filters are asked just now.
    filtering: Shares<Tenant>,
    deliver_ahead_max: Duration,
}

/// The event is durably stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// How many webhooks it goes to.
    pub deliveries: u32,
    /// Whether it was stored before; `deliveries` is then what it was at that time.
    pub duplicate: bool,
}

/// Why an event was not stored.
#[derive(Debug, Clone, Error)]
pub enum Rejected {
    /// Its id belongs to an event with other content.
    #[error("the id belongs to another event")]
    IdReused,
    /// More webhooks match than one event may go to.
    #[error("more webhooks match than one event may go to")]
    TooManyTargets,
    /// An event of its id was erased.
    #[error("an event of this id was erased")]
    Erased,
    /// Everything of its tenant is being erased.
    #[error("the tenant is being erased")]
    TenantBeingErased,
    /// As many deliveries are pending as may be.
    #[error("the backlog is full")]
    BacklogFull,
    /// It goes beyond its tenant's quota.
    #[error("the tenant's quota is used up")]
    OverQuota(Excess),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Rejected {
    fn reason(&self) -> Reason {
        match self {
            Self::IdReused => Reason::EventIdReused,
            Self::TooManyTargets => Reason::TooManyTargets,
            Self::Erased => Reason::EventErased,
            Self::TenantBeingErased => Reason::TenantBeingErased,
            Self::BacklogFull => Reason::BacklogFull,
            Self::OverQuota(Excess::Events { .. }) => Reason::QuotaEventsPerSecond,
            // No event makes webhooks.
            Self::OverQuota(Excess::Pending { .. } | Excess::Webhooks { .. }) => Reason::QuotaPendingDeliveries,
            Self::OverQuota(Excess::Bytes { .. }) => Reason::QuotaBytesPerDay,
            Self::Store(StoreError::Failed(_)) => Reason::StoreUnavailable,
            Self::Store(StoreError::Full) => Reason::DiskFull,
            Self::Store(StoreError::Closed) => Reason::Stopping,
        }
    }
}

type Answers = Vec<Result<Accepted, Rejected>>;

/// Events of a batch that came too fast, by their place, in order.
type TooFast = Vec<(usize, Excess)>;

impl Accept {
    /// Until when events that come in now may be scheduled.
    pub fn schedules_until(&self) -> Timestamp {
        self.clock.now() + self.deliver_ahead_max
    }

    /// Stores a batch of events, each on its own merits. One answer for each, in order, after the durable commit.
    pub async fn publish(&self, batch: Vec<Event>) -> Vec<Result<Accepted, Rejected>> {
        self.submit(batch).await.answers().await
    }

    /// Hands a batch to the store and returns as soon as there is room for it; the answers come later.
    ///
    /// Batches submitted one after the other are stored in that order. What was submitted is carried through even if the
    /// answers are no longer wanted.
    pub async fn submit(&self, batch: Vec<Event>) -> Submitted {
        if batch.is_empty() {
            return Submitted::Answered(Vec::new());
        }
        let (events, handed_over) = (batch.len(), self.clock.now());
        let (batch, too_fast) = self.in_time(batch, handed_over);
        if batch.is_empty() {
            let answers = with_refused(Vec::new(), too_fast);
            count(&self.metrics, &answers, Duration::ZERO);
            return Submitted::Answered(answers);
        }
        let (matched, turns) = self.matched(batch).await;
        let weight = matched.iter().map(weight_bytes).sum::<usize>().min(self.bytes_max);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = self.bytes.clone().acquire_many_owned(weight).await.expect("the semaphore is never closed");
        drop(turns);

        let (store, metrics, clock) = (self.store.clone(), self.metrics.clone(), self.clock);
        let mut commit: BoxFuture<'static, Answers> = Box::pin(async move {
            let taken = matched.len();
            let published = store.publish(matched).await;
            drop(permit);
            let answers = with_refused(answers(taken, published), too_fast);
            count(&metrics, &answers, clock.now().since(handed_over));
            answers
        });
        // The first poll takes the batch's place in the store's queue: here, where it keeps the caller's order.
        if let Some(answers) = (&mut commit).now_or_never() {
            return Submitted::Answered(answers);
        }
        let (answer, answered) = oneshot::channel();
        self.tasks.spawn("accept", async move {
            // Nobody waits any more: the events are stored all the same.
            let _ = answer.send(commit.await);
        });
        Submitted::Waiting { events, answered }
    }

    /// Hands a batch to the store when `before` is done, as [`Self::submit`] does, and keeps at it though this is not polled: what
    /// waits for its turn, or for room, is not to keep it from others for as long as its caller does not look. Dropped while it waits,
    /// nothing is stored.
    pub async fn submit_after<B>(&self, before: Option<B>, batch: Vec<Event>) -> Submitted
    where
        B: Future<Output = ()> + Send + 'static,
    {
        let (accept, events) = (self.clone(), batch.len());
        let submitting = async move {
            if let Some(before) = before {
                before.await;
            }
            accept.submit(batch).await
        };
        let submitted = self.tasks.drive("submit", submitting).await;
        submitted.unwrap_or_else(|| Submitted::Answered(vec![Err(StoreError::Closed.into()); events]))
    }

    /// The turn of a tenant whose filters are to be asked: one at a time, so that nobody has all of the threads that everybody needs.
    pub(crate) async fn filtering(&self, tenant: &Tenant) -> Share<Tenant> {
        self.filtering.take(tenant).await
    }

    /// What events are matched against.
    pub fn catalog(&self) -> &Catalog {
        self.store.catalog()
    }

    /// Counts an event that was refused before it came here, for what it holds. `told` is the reason its caller is given.
    pub fn turned_away(&self, told: &str) {
        self.metrics.rejected.inc(Reason::of_content(told));
    }

    /// The events that do not come faster than their tenants may publish, and the others.
    fn in_time(&self, batch: Vec<Event>, now: Timestamp) -> (Vec<Event>, TooFast) {
        let quotas = self.store.catalog().quotas();
        let mut too_fast = Vec::new();
        if !quotas.limits_events() {
            return (batch, too_fast);
        }
        let comes = |(place, event): (usize, Event)| match quotas.event_comes(&event.tenant, now) {
            Ok(()) => Some(event),
            Err(excess) => {
                too_fast.push((place, excess));
                None
            }
        };
        let batch = batch.into_iter().enumerate().filter_map(comes).collect();
        (batch, too_fast)
    }

    /// Finds the webhooks of each event. Where filters are asked, that may take long, and what they admit may be much: so it comes before
    /// the batch takes any room that others need, and each tenant has one turn at a time, which is over when there is room.
    async fn matched(&self, batch: Vec<Event>) -> (Vec<Publish>, Vec<Share<Tenant>>) {
        let catalog = self.store.catalog();
        let at_once: Vec<_> = batch.iter().map(|event| catalog.unfiltered_targets(event)).collect();
        let filtering = batch.iter().zip(&at_once).filter(|(_, targets)| targets.is_none());
        // In the order of their names, or two batches could wait for each other.
        let tenants: BTreeSet<_> = filtering.map(|(event, _)| event.tenant.clone()).collect();
        let mut turns = Vec::new();
        for tenant in &tenants {
            turns.push(self.filtering.take(tenant).await);
        }
        let accept_time = self.clock.now();
        let mut matched = Vec::with_capacity(batch.len());
        for (event, targets) in batch.into_iter().zip(at_once) {
            let targets = if let Some(targets) = targets {
                targets
            } else {
                // Others on this thread do not wait for the filters of a whole batch.
                yield_now().await;
                catalog.targets(&event)
            };
            matched.push(Publish { event, targets, accept_time });
        }
        (matched, turns)
    }
}

/// What an event takes in memory until it is committed. Most share the list of their webhooks with others.
fn weight_bytes(publish: &Publish) -> usize {
    let targets = &publish.targets;
    publish.event.weight_bytes() + if targets.filtered { size_of_val(&*targets.webhooks) } else { 0 }
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accept").field("bytes_available", &self.bytes.available_permits()).finish_non_exhaustive()
    }
}

/// A batch on its way to its commit.
#[derive(Debug)]
pub enum Submitted {
    /// It is answered already.
    Answered(Vec<Result<Accepted, Rejected>>),
    /// Its commit is under way.
    Waiting {
        /// How many events it has.
        events: usize,
        /// Gets the answers.
        answered: oneshot::Receiver<Vec<Result<Accepted, Rejected>>>,
    },
}

impl Submitted {
    /// One answer for each event, in order, after the durable commit.
    pub async fn answers(self) -> Vec<Result<Accepted, Rejected>> {
        match self {
            Self::Answered(answers) => answers,
            Self::Waiting { events, answered } => {
                answered.await.unwrap_or_else(|_| vec![Err(Rejected::Store(StoreError::Closed)); events])
            }
        }
    }
}

fn answers(events: usize, published: Result<Vec<Published>, StoreError>) -> Answers {
    match published {
        Ok(published) => {
            debug_assert_eq!(published.len(), events, "the store answers every event");
            published.into_iter().map(answer).collect()
        }
        Err(error) => {
            // A full disk is told of once, by the store that finds it so.
            if !matches!(error, StoreError::Full) {
                error!(%error, events, "a batch of events could not be stored");
            }
            vec![Err(Rejected::Store(error)); events]
        }
    }
}

/// All answers of a batch, from those of the events that came in time.
fn with_refused(mut answers: Answers, too_fast: TooFast) -> Answers {
    for (place, excess) in too_fast {
        answers.insert(place, Err(Rejected::OverQuota(excess)));
    }
    answers
}

fn count(metrics: &AcceptMetrics, answers: &Answers, after: Duration) {
    let (mut new, mut duplicates) = (0, 0);
    for answer in answers {
        match answer {
            Ok(Accepted { duplicate: false, .. }) => new += 1,
            Ok(Accepted { duplicate: true, .. }) => duplicates += 1,
            Err(rejected) => metrics.rejected.inc(rejected.reason()),
        }
    }
    metrics.acknowledged(new, duplicates, after);
}

fn answer(published: Published) -> Result<Accepted, Rejected> {
    match published {
        Published::New { deliveries } => Ok(Accepted { deliveries, duplicate: false }),
        Published::Duplicate { deliveries } => Ok(Accepted { deliveries, duplicate: true }),
        Published::Conflict => Err(Rejected::IdReused),
        Published::TooManyTargets => Err(Rejected::TooManyTargets),
        Published::BacklogFull => Err(Rejected::BacklogFull),
        Published::OverQuota(excess) => Err(Rejected::OverQuota(excess)),
        Published::Erased => Err(Rejected::Erased),
        Published::TenantBeingErased => Err(Rejected::TenantBeingErased),
        Published::Unreadable => Err(Rejected::Store(StoreError::Failed("an archived segment cannot be read".into()))),
    }
}
