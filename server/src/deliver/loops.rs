//! The delivery loops: attempts side by side on one thread.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream as _, stream::FuturesUnordered};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::attempt::Attempts;
use crate::{
    flow::{Attempted, Job},
    model::ids::WebhookNo,
};

/// So many attempts may start at once, and as many more for those that end meanwhile.
const STARTS: usize = 16;
/// After this time, as many again.
const STARTS_INTERVAL: Duration = Duration::from_millis(1);

/// Runs the jobs that come in until there are no more, or until it is aborted.
///
/// Results leave in batches: all that have ended since the loop looked last. Under load that wakes the next stage, on another
/// thread, once for many of them; without load there is nothing to wait for.
///
/// Invariant: there is room for every result that may be in flight, so handing them over holds nothing up. Panics are not caught
/// here: they end the thread, and with it the daemon, which is better than a loop that lost attempts whose permits nobody gives
/// back.
pub(super) async fn run(
    attempts: Attempts,
    mut jobs: mpsc::Receiver<Vec<Job>>,
    attempted: mpsc::Sender<Vec<Attempted>>,
    abort: CancellationToken,
    wanted: &(dyn Fn(WebhookNo) -> bool + Send + Sync),
) {
    let attempts = &attempts;
    let mut aborted = pin!(abort.cancelled());
    let mut running = FuturesUnordered::new();
    let mut starts = Starts::new(Instant::now());
    let mut more = true;
    while more || !running.is_empty() || !starts.waiting.is_empty() {
        select! {
            () = &mut aborted => return,
            batch = jobs.recv(), if more => match batch {
                Some(batch) => starts.waiting.extend(batch),
                None => more = false,
            },
            ended = poll_fn(|context| poll_ended(&mut running, context)), if !running.is_empty() => {
                starts.refill(ended.len());
                if attempted.send(ended).await.is_err() {
                    debug!("nobody takes results any more; the attempts will be repeated after the next start");
                }
            }
            () = sleep_until(starts.next), if !starts.waiting.is_empty() => {}
        }
        let mut unmade = Vec::new();
        while let Some(job) = starts.take(Instant::now()) {
            if wanted(job.key.webhook) {
                running.push(attempts.perform(job));
            } else {
                unmade.push(Attempted { job, result: None });
            }
        }
        if !unmade.is_empty() && attempted.send(unmade).await.is_err() {
            debug!("nobody takes results any more");
        }
    }
}

/// Spreads the starts of many jobs that come at once. Receivers that answer at once then answer over a few warm connections
/// instead of one each; for slow ones it takes some milliseconds longer until all jobs are under way.
struct Starts {
    /// Invariant: bounded, since each has a permit of dispatch.
    waiting: VecDeque<Job>,
    /// So many may start now.
    allowed: usize,
    /// When `STARTS` may start again.
    next: Instant,
}

impl Starts {
    fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), allowed: STARTS, next: now + STARTS_INTERVAL }
    }

    /// For each attempt that has ended another may start.
    fn refill(&mut self, ended: usize) {
        self.allowed = (self.allowed + ended).min(STARTS);
    }

    /// The next job, if one may start.
    fn take(&mut self, now: Instant) -> Option<Job> {
        if self.next <= now {
            self.allowed = STARTS;
            self.next = now + STARTS_INTERVAL;
        }
        if self.allowed == 0 {
            return None;
        }
        let job = self.waiting.pop_front()?;
        self.allowed -= 1;
        Some(job)
    }
}

/// All results that are there, once there is one.
fn poll_ended<F: Future<Output = Attempted>>(
    running: &mut FuturesUnordered<F>,
    context: &mut Context<'_>,
) -> Poll<Vec<Attempted>> {
    let mut ended = Vec::new();
    while let Poll::Ready(Some(attempted)) = pin!(&mut *running).poll_next(context) {
        ended.push(attempted);
    }
    if ended.is_empty() { Poll::Pending } else { Poll::Ready(ended) }
}
