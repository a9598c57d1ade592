//! Attempts become outcomes: decide what follows, commit it, and tell the dispatcher of both.
//!
//! ```text
//!   Attempted ──▶ decide (pure) ──▶ one group ──▶ store.commit
//!                    └─ Answered ─▶ dispatch ◀─ Settled ─┘
//! ```
//!
//! One commit is under way at a time, and they keep a distance from each other: what arrives meanwhile makes the next group,
//! so load makes batches, and a lone outcome is committed at once. What is decided and not committed holds the dispatcher's
//! permits, so a store that cannot keep up stops dispatch: that is the whole of the backpressure.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, OptionFuture},
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, error, warn};

use crate::{
    flow::{Attempted, Job, Progress, Settled},
    limits::COMMIT_OUTCOMES_MAX,
    metrics::OutcomesMetrics,
    model::{
        delivery::{AttemptResult, Attempts, ErrorClass, Outcome, conclude},
        retry::RetryPolicy,
    },
    store::{AsOf, GroupCommitted, OutcomeGroup, Store, StoreError},
};

/// Pause before outcomes are offered again to a store that failed.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// From the start of one commit to that of the next, unless the group is large enough before. Half of what a commit costs is
/// the same for one outcome and for a hundred.
const COMMIT_DISTANCE: Duration = Duration::from_millis(5);

/// Settings of the outcomes stage.
#[derive(Debug, Clone)]
pub struct Config {
    /// When failed attempts are repeated.
    pub retry: RetryPolicy,
    /// A receiver that takes longer than this is slow.
    pub slow_after: Duration,
    /// A group of so many outcomes is committed without waiting for more; a part of what dispatch may have in flight, or it
    /// would run out of permits meanwhile.
    pub group_outcomes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), slow_after: Duration::from_secs(5), group_outcomes: 128 }
    }
}

impl Config {
    /// The stage, between these channels. `seed` is what its jitter is drawn from.
    pub fn build(
        self,
        store: Arc<dyn Store>,
        attempted: mpsc::Receiver<Vec<Attempted>>,
        progress: mpsc::Sender<Progress>,
        seed: u64,
        metrics: OutcomesMetrics,
    ) -> Outcomes {
        Outcomes { config: self, store, attempted, progress, rng: StdRng::seed_from_u64(seed), metrics }
    }
}

/// The outcomes stage.
pub struct Outcomes {
    config: Config,
    store: Arc<dyn Store>,
    attempted: mpsc::Receiver<Vec<Attempted>>,
    progress: mpsc::Sender<Progress>,
    rng: StdRng,
    metrics: OutcomesMetrics,
}

/// Outcomes that are committed together, and what dispatch is told then.
#[derive(Debug, Default)]
struct Decided {
    group: OutcomeGroup,
    settled: Vec<Settled>,
}

impl Outcomes {
    /// Runs until all senders of attempts are gone and everything they sent is committed.
    pub async fn run(mut self) {
        let mut decided = Decided::default();
        let mut committing: OptionFuture<BoxFuture<'static, Vec<Settled>>> = None.into();
        let (mut commits, mut open) = (false, true);
        let mut next_commit = Instant::now();
        while open || commits || !decided.is_empty() {
            tokio::select! {
                biased;
                Some(settled) = &mut committing, if commits => {
                    commits = false;
                    self.tell(Progress::Settled(settled)).await;
                }
                batch = self.attempted.recv(), if open && decided.has_room() => match batch {
                    Some(batch) => self.take_in(batch, &mut decided).await,
                    None => open = false,
                },
                () = sleep_until(next_commit), if !commits && !decided.is_empty() => {}
            }
            let now = Instant::now();
            let grows = open && decided.has_room() && decided.settled.len() < self.config.group_outcomes;
            let waits = grows && now < next_commit;
            if !commits && !decided.is_empty() && !waits {
                let commit = commit(self.store.clone(), std::mem::take(&mut decided), self.metrics.clone());
                committing = Some(commit.boxed()).into();
                commits = true;
                next_commit = now + COMMIT_DISTANCE;
            }
        }
    }

    /// Decides what follows from a batch, and whatever else is there already, and tells dispatch.
    async fn take_in(&mut self, mut batch: Vec<Attempted>, decided: &mut Decided) {
        let (mut keys, mut unmade) = (Vec::with_capacity(batch.len()), Vec::new());
        loop {
            for Attempted { job, result } in batch {
                match result {
                    Some(result) => {
                        keys.push(job.key);
                        self.decide(job, result, decided);
                    }
                    None => unmade.push(job.key),
                }
            }
            if !decided.has_room() {
                break;
            }
            let Ok(more) = self.attempted.try_recv() else { break };
            batch = more;
        }
        if !keys.is_empty() {
            self.tell(Progress::Answered(keys)).await;
        }
        if !unmade.is_empty() {
            self.tell(Progress::Unmade(unmade)).await;
        }
    }

    /// Tells dispatch; while the daemon stops it is gone, and needs nothing any more.
    async fn tell(&self, progress: Progress) {
        let _stopping = self.progress.send(progress).await;
    }

    /// Decides what follows from one attempt.
    fn decide(&mut self, job: Job, result: AttemptResult, decided: &mut Decided) {
        let verdict = conclude(job.attempt - job.excused, &result, &self.config.retry, &mut self.rng);
        let slow = result.error_class == Some(ErrorClass::Timeout) || result.latency > self.config.slow_after;
        if let Some(reason) = verdict.disable {
            warn!(webhook.id = %job.webhook.id, tenant = %job.webhook.tenant, "the receiver is gone; disabling the webhook");
            decided.group.disable.push((job.key.webhook, reason));
        }
        let outcome = Outcome {
            key: job.key,
            delivery_id: job.delivery_id,
            tenant: job.webhook.tenant.clone(),
            webhook_id: job.webhook.id,
            event_id: job.event.event.id,
            event_type: job.event.event.event_type,
            attempt: job.attempt,
            state: verdict.state,
            http_status: result.http_status,
            error_class: result.error_class,
            error: result.error,
            latency: result.latency,
            time: result.time,
            next_attempt: verdict.next_attempt,
            held: false,
            response_body: if result.error_class.is_some() { result.response_body } else { bytes::Bytes::new() },
        };
        debug!(
            delivery.id = %outcome.delivery_id, webhook.id = %outcome.webhook_id, attempt = outcome.attempt,
            state = ?outcome.state, http.status = outcome.http_status, error.class = ?outcome.error_class,
            latency_ms = u64::try_from(outcome.latency.as_millis()).unwrap_or(u64::MAX),
            "attempt ended"
        );
        let next_attempt = verdict.next_attempt;
        let as_of = AsOf::default();
        let attempts = Attempts::new(job.attempt, job.excused);
        decided.settled.push(Settled { key: job.key, attempts, next_attempt, slow, as_of });
        decided.group.outcomes.push(outcome);
    }
}

impl Decided {
    fn is_empty(&self) -> bool {
        self.settled.is_empty()
    }

    fn has_room(&self) -> bool {
        self.settled.len() < COMMIT_OUTCOMES_MAX
    }
}

/// Commits outcomes, for as long as it takes, and returns what dispatch is to be told.
///
/// Meanwhile the deliveries' permits are taken, so a store that stays away stops dispatch, and nothing is sent twice for it. If
/// the group is fenced or the store is closed, the deliveries remain due and will be repeated by their next owner.
async fn commit(store: Arc<dyn Store>, decided: Decided, metrics: OutcomesMetrics) -> Vec<Settled> {
    let Decided { group, mut settled } = decided;
    let outcomes = group.outcomes.len();
    loop {
        match store.commit(store.owner(), vec![group.clone()]).await {
            Ok(committed) => {
                if let Some(&GroupCommitted::Applied(as_of)) = committed.first() {
                    metrics.committed(group.outcomes.iter().map(|outcome| outcome.state), group.disable.len());
                    for settled in &mut settled {
                        settled.as_of = as_of;
                    }
                    return settled;
                }
                error!(outcomes, "outcomes were fenced; another owner repeats them");
                break;
            }
            Err(StoreError::Closed) => {
                error!(outcomes, "the store was closed before outcomes were committed; their deliveries stay due");
                break;
            }
            Err(error @ (StoreError::Failed(_) | StoreError::Full)) => {
                warn!(%error, outcomes, "outcomes could not be committed; trying again");
                sleep(COMMIT_RETRY_PAUSE).await;
            }
        }
    }
    // What was decided did not happen: dispatch is to believe the store alone.
    for settled in &mut settled {
        settled.next_attempt = None;
    }
    settled
}
