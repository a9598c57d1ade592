//! Attempts become outcomes: decide what follows, commit it, then tell the dispatcher.
//!
//! ```text
//!   Attempted ──▶ decide (pure) ──▶ one group ──▶ store.commit ──▶ Settled
//! ```
//!
//! One commit is under way at a time; what arrives meanwhile makes the next group, so load makes batches. A full queue holds
//! the dispatcher's permits, which stops dispatch: that is the whole of the backpressure.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, error, warn};

use crate::{
    flow::{Attempted, Settled},
    limits::COMMIT_OUTCOMES_MAX,
    model::{
        delivery::{ErrorClass, Outcome, conclude},
        retry::RetryPolicy,
    },
    store::{AsOf, GroupCommitted, OutcomeGroup, Store, StoreError},
};

/// Pause before outcomes are offered again to a store that failed.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often they are offered to it. A store that stays away so long has them made again: the deliveries are still due.
const COMMIT_TRIES: u32 = 60;

/// Settings of the outcomes stage.
#[derive(Debug, Clone)]
pub struct Config {
    /// When failed attempts are repeated.
    pub retry: RetryPolicy,
    /// A receiver that takes longer than this is slow.
    pub slow_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), slow_after: Duration::from_secs(5) }
    }
}

impl Config {
    /// The stage, between these channels. `seed` is what its jitter is drawn from.
    pub fn build(
        self,
        store: Arc<dyn Store>,
        attempted: mpsc::Receiver<Attempted>,
        settled: mpsc::Sender<Vec<Settled>>,
        seed: u64,
    ) -> Outcomes {
        Outcomes { config: self, store, attempted, settled, rng: StdRng::seed_from_u64(seed) }
    }
}

/// The outcomes stage.
pub struct Outcomes {
    config: Config,
    store: Arc<dyn Store>,
    attempted: mpsc::Receiver<Attempted>,
    settled: mpsc::Sender<Vec<Settled>>,
    rng: StdRng,
}

impl Outcomes {
    /// Runs until all senders of attempts are gone and everything they sent is committed.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(COMMIT_OUTCOMES_MAX);
        while self.attempted.recv_many(&mut batch, COMMIT_OUTCOMES_MAX).await > 0 {
            let mut group = OutcomeGroup::default();
            let mut settled = Vec::with_capacity(batch.len());
            for attempted in batch.drain(..) {
                let told = self.decide(attempted, &mut group);
                settled.push(told);
            }
            let as_of = self.commit(group).await;
            for told in &mut settled {
                told.as_of = as_of;
            }
            // The dispatcher is gone while the daemon stops; nobody needs its permits then.
            let _stopping = self.settled.send(settled).await;
        }
    }

    /// Decides what follows from one attempt and adds it to the group.
    fn decide(&mut self, attempted: Attempted, group: &mut OutcomeGroup) -> Settled {
        let Attempted { job, result } = attempted;
        let verdict = conclude(job.attempt, &result, &self.config.retry, &mut self.rng);
        let slow = result.error_class == Some(ErrorClass::Timeout) || result.latency > self.config.slow_after;
        if let Some(reason) = verdict.disable {
            warn!(webhook.id = %job.webhook.id, tenant = %job.webhook.tenant, "the receiver is gone; disabling the webhook");
            group.disable.push((job.key.webhook, reason));
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
            response_body: if result.error_class.is_some() { result.response_body } else { bytes::Bytes::new() },
        };
        debug!(
            delivery.id = %outcome.delivery_id, webhook.id = %outcome.webhook_id, attempt = outcome.attempt,
            state = ?outcome.state, http.status = outcome.http_status, error.class = ?outcome.error_class,
            latency_ms = u64::try_from(outcome.latency.as_millis()).unwrap_or(u64::MAX),
            "attempt ended"
        );
        group.outcomes.push(outcome);
        Settled {
            key: job.key,
            attempts: job.attempt,
            next_attempt: verdict.next_attempt,
            slow,
            as_of: AsOf::default(),
        }
    }

    /// Commits a group, patiently. Returns what reads see it from.
    ///
    /// If the store stays away or the group is fenced, the deliveries remain due, will be read from disk again and repeated:
    /// at least once is kept, and the receiver recognises them by their id.
    async fn commit(&self, group: OutcomeGroup) -> AsOf {
        for _ in 0..COMMIT_TRIES {
            match self.store.commit(self.store.owner(), vec![group.clone()]).await {
                Ok(committed) => match committed.first() {
                    Some(&GroupCommitted::Applied(as_of)) => return as_of,
                    Some(GroupCommitted::Fenced) | None => {
                        error!(outcomes = group.outcomes.len(), "outcomes were fenced; another owner repeats them");
                        return AsOf(u64::MAX);
                    }
                },
                Err(StoreError::Closed) => break,
                Err(StoreError::Failed(why)) => {
                    warn!(error = %why, outcomes = group.outcomes.len(), "outcomes could not be committed; trying again");
                    sleep(COMMIT_RETRY_PAUSE).await;
                }
            }
        }
        error!(outcomes = group.outcomes.len(), "outcomes were not committed; their deliveries stay due");
        AsOf::default()
    }
}
