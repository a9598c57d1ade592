//! Single attempts for somebody who waits for what they lead to: made exactly as the loops make theirs, and part of nothing.

use std::sync::Arc;

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::attempt::Attempts;
use crate::{flow::Job, limits::TRIALS_MAX, model::delivery::AttemptResult};

/// Makes attempts at once. They take no permits of dispatch and are not counted among those of deliveries.
pub struct Trials {
    inbox: mpsc::Sender<Asked>,
    places: Arc<Semaphore>,
}

/// An attempt that somebody waits for.
pub(super) struct Asked {
    job: Job,
    answer: oneshot::Sender<AttemptResult>,
    _place: OwnedSemaphorePermit,
}

impl Trials {
    /// With the other end for [`run`].
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (inbox, asked) = mpsc::channel(TRIALS_MAX);
        (Self { inbox, places: Arc::new(Semaphore::new(TRIALS_MAX)) }, asked)
    }

    /// Makes one attempt; takes at most the attempt timeout. `None`: as many are under way as may be, or the daemon is stopping.
    pub async fn attempt(&self, job: Job) -> Option<AttemptResult> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Asked { job, answer, _place: place }).await.ok()?;
        answered.await.ok()
    }
}

/// Makes the attempts that are asked for, until nobody can ask any more or `abort` is cancelled.
pub(super) async fn run(attempts: Attempts, mut asked: mpsc::Receiver<Asked>, abort: CancellationToken) {
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            () = abort.cancelled() => return,
            Some(()) = under_way.next() => {}
            next = asked.recv(), if open => match next {
                Some(next) => under_way.push(perform(&attempts, next)),
                None => open = false,
            },
        }
    }
}

async fn perform(attempts: &Attempts, asked: Asked) {
    if let Some(result) = attempts.perform(asked.job).await.result {
        // Who asked may have gone.
        drop(asked.answer.send(result));
    }
}
