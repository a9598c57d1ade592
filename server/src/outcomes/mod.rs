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

mod failures;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, OptionFuture},
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::failures::Failures;
use crate::{
    clock::Clock,
    flow::{Attempted, Job, Progress, Settled},
    limits::COMMIT_OUTCOMES_MAX,
    metrics::OutcomesMetrics,
    model::{
        breaker::Health,
        delivery::{AttemptResult, Attempts, Ended, ErrorClass, Outcome, Verdict, conclude, shortened},
        failing::AUTO_DISABLE_AFTER,
        ids::WebhookNo,
        retry::RetryPolicy,
        time::Timestamp,
        webhook::{DisableReason, Webhook},
    },
    store::{AsOf, GroupCommitted, OutcomeGroup, Store, StoreError},
};

/// Pause before outcomes are offered again to a store that failed.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long delivery loops take at most to end when their attempts are aborted, unless something is wrong with one.
const ABORT_TAKES: Duration = Duration::from_millis(100);
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
    /// Span of continuous failure after which webhooks are disabled whose owners do not say; zero: never.
    pub auto_disable_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            slow_after: Duration::from_secs(5),
            group_outcomes: 128,
            auto_disable_after: AUTO_DISABLE_AFTER,
        }
    }
}

impl Config {
    /// The stage, between these channels. `seed` is what its jitter is drawn from.
    pub fn build(
        self,
        store: Arc<dyn Store>,
        clock: Clock,
        attempted: mpsc::Receiver<Vec<Attempted>>,
        progress: mpsc::Sender<Progress>,
        seed: u64,
        metrics: OutcomesMetrics,
    ) -> Outcomes {
        let failures = Failures::default();
        Outcomes {
            config: self,
            store,
            clock,
            attempted,
            progress,
            failures,
            rng: StdRng::seed_from_u64(seed),
            metrics,
        }
    }
}

/// The outcomes stage.
pub struct Outcomes {
    config: Config,
    store: Arc<dyn Store>,
    clock: Clock,
    attempted: mpsc::Receiver<Vec<Attempted>>,
    progress: mpsc::Sender<Progress>,
    failures: Failures,
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
    /// Runs until all senders of attempts are gone and everything they sent is committed. Once attempts are `aborted`, no sender is
    /// waited for any longer: a receiver may keep a delivery loop busy.
    pub async fn run(mut self, aborted: CancellationToken) {
        let mut abandoned = pin!(async {
            aborted.cancelled().await;
            sleep(ABORT_TAKES).await;
        });
        self.failures = recover(&*self.store).await;
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
                () = &mut abandoned, if open => {
                    warn!("a delivery loop does not end; what it has under way is repeated after the next start");
                    open = false;
                }
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
                        let key = job.key;
                        if self.decide(job, result, decided) {
                            keys.push(key);
                        }
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

    /// Keeps in mind since when a webhook fails, and disables it when that has been too long.
    fn watch_health(&mut self, no: WebhookNo, webhook: &Webhook, health: Health, time: Timestamp, to: &mut Decided) {
        let own = webhook.settings.protection.as_deref().and_then(|protection| protection.auto_disable_after);
        let span = own.unwrap_or(self.config.auto_disable_after);
        let consequence = self.failures.note(no, health, time, webhook.update_time, span);
        if let Some(note) = consequence.store {
            to.group.failing.push((no, note.kept()));
            let catalog = self.store.catalog();
            self.failures.keep(|no| catalog.webhook(no).is_some());
        }
        if consequence.disable {
            warn!(webhook.id = %webhook.id, tenant = %webhook.tenant, "the receiver fails continuously; disabling the webhook");
            to.group.disable.push((no, DisableReason::Failing));
        }
    }

    /// Decides what follows from one attempt. Returns whether the webhook may be sent something else before that is committed:
    /// not if it is to pause, which dispatch hears of then.
    fn decide(&mut self, job: Job, result: AttemptResult, decided: &mut Decided) -> bool {
        let by_hand = job.is_by_hand();
        // While the clock is doubted nothing is given up for its age; it is judged again when it is due.
        let ages = !by_hand && self.clock.doubted().is_none();
        let ended = Ended {
            attempt: job.attempt - job.excused.unwrap_or(0),
            result: &result,
            schedule: self.config.retry.schedule_of(job.webhook.settings.retry()),
            retry_on_timeout: job.webhook.settings.retries_timeouts(),
            since: ages.then(|| job.event.due_time()),
            expires: job.webhook.settings.expiry(&job.event, !ages),
        };
        let verdict = conclude(ended, &mut self.rng);
        let health = Health::of(result.error_class);
        let slow = result.error_class == Some(ErrorClass::Timeout) || result.latency > self.config.slow_after;
        let slow = result.was_made().then_some(slow);
        let attempt = if result.was_made() { job.attempt } else { job.attempt - 1 };
        let result = named(result, verdict);
        if let Some(reason) = verdict.disable {
            warn!(webhook.id = %job.webhook.id, tenant = %job.webhook.tenant, "the receiver is gone; disabling the webhook");
            decided.group.disable.push((job.key.webhook, reason));
        }
        self.watch_health(job.key.webhook, &job.webhook, health, result.time, decided);
        let pause = self.config.retry.pause(result.http_status, result.retry_after);
        let pause_until = pause.map(|pause| result.time + pause);
        let outcome = Outcome {
            key: job.key,
            delivery_id: job.delivery_id,
            tenant: job.webhook.tenant.clone(),
            webhook_id: job.webhook.id,
            event_id: job.event.event.id,
            event_type: job.event.event.event_type,
            attempt,
            state: verdict.state,
            http_status: result.http_status,
            error_class: result.error_class,
            error: result.error,
            latency: result.latency,
            time: result.time,
            next_attempt: verdict.next_attempt,
            held: false,
            response_body: if result.error_class.is_some() { result.response_body } else { bytes::Bytes::new() },
            exchange: result.exchange,
        };
        debug!(
            delivery.id = %outcome.delivery_id, webhook.id = %outcome.webhook_id, attempt = outcome.attempt,
            state = ?outcome.state, http.status = outcome.http_status, error.class = ?outcome.error_class,
            latency_ms = u64::try_from(outcome.latency.as_millis()).unwrap_or(u64::MAX),
            "attempt ended"
        );
        let next_attempt = verdict.next_attempt;
        let as_of = AsOf::default();
        let attempts = Attempts::new(attempt, job.excused);
        let settled = Settled { key: job.key, attempts, next_attempt, slow, health, pause_until, as_of };
        decided.settled.push(settled);
        decided.group.outcomes.push(outcome);
        pause_until.is_none()
    }
}

/// What callers are told of an attempt: that it was the last one because of the delivery's age, if it was.
fn named(result: AttemptResult, verdict: Verdict) -> AttemptResult {
    if !verdict.expired || !result.was_made() {
        return result;
    }
    let error = shortened(format!("the next attempt would come after the delivery's max_age; {}", result.error));
    AttemptResult { error_class: Some(ErrorClass::Expired), error, ..result }
}

impl Decided {
    fn is_empty(&self) -> bool {
        self.settled.is_empty()
    }

    fn has_room(&self) -> bool {
        self.settled.len() < COMMIT_OUTCOMES_MAX
    }
}

/// What an earlier process knew of webhooks that fail. Dispatch may run already; what it attempts waits meanwhile.
async fn recover(store: &dyn Store) -> Failures {
    loop {
        match store.failing().await {
            Ok(failing) => return Failures::recovered(failing),
            Err(StoreError::Closed) => return Failures::default(),
            Err(error @ (StoreError::Failed(_) | StoreError::Full)) => {
                warn!(%error, "it cannot be read which webhooks fail; trying again");
                sleep(COMMIT_RETRY_PAUSE).await;
            }
        }
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
                    metrics.committed(&group.outcomes, group.disable.len());
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
