//! Single requests for somebody who waits for what they lead to: attempts, made exactly as the loops make theirs and part of
//! nothing, and questions whether a receiver wants any.

use std::{num::NonZeroU32, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::attempt::Attempts;
use crate::{
    flow::Job,
    limits::{HANDSHAKES_MAX, TRIALS_MAX},
    model::{
        delivery::AttemptResult,
        ownership::{Question, Refusal},
    },
};

/// Makes requests at once. They take no permits of dispatch and are not counted among those of deliveries.
pub struct Trials {
    inbox: mpsc::Sender<Asked>,
    attempts: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

/// What a receiver says: how often in a minute it may be called, if it may be at all.
type Permission = Result<Option<NonZeroU32>, Refusal>;

/// A request that somebody waits for. It keeps its place until it has ended.
pub(super) struct Asked {
    what: What,
    _place: OwnedSemaphorePermit,
}

enum What {
    Attempt(Job, oneshot::Sender<AttemptResult>),
    Permission(Question, oneshot::Sender<Permission>),
}

impl Trials {
    /// With the other end for [`run`].
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (inbox, asked) = mpsc::channel(TRIALS_MAX + HANDSHAKES_MAX);
        let [attempts, handshakes] = [TRIALS_MAX, HANDSHAKES_MAX].map(|most| Arc::new(Semaphore::new(most)));
        (Self { inbox, attempts, handshakes }, asked)
    }

    /// Makes one attempt; takes at most the attempt timeout. `None`: as many are under way as may be, or the daemon is stopping.
    pub async fn attempt(&self, job: Job) -> Option<AttemptResult> {
        let (answer, answered) = oneshot::channel();
        self.hand_over(&self.attempts, What::Attempt(job, answer)).await?;
        answered.await.ok()
    }

    /// Asks one receiver; takes at most the attempt timeout, and ends when the caller does. `None`: as many are being asked as may be,
    /// or the daemon is stopping.
    pub async fn ask(&self, question: Question) -> Option<Permission> {
        let (answer, answered) = oneshot::channel();
        self.hand_over(&self.handshakes, What::Permission(question, answer)).await?;
        answered.await.ok()
    }

    async fn hand_over(&self, places: &Arc<Semaphore>, what: What) -> Option<()> {
        let place = places.clone().try_acquire_owned().ok()?;
        self.inbox.send(Asked { what, _place: place }).await.ok()
    }
}

/// Makes the requests that are asked for, until nobody can ask any more or `abort` is cancelled.
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
    match asked.what {
        What::Attempt(job, answer) => {
            if let Some(result) = attempts.perform(job).await.result {
                // Who asked may have gone.
                drop(answer.send(result));
            }
        }
        What::Permission(question, mut answer) => {
            let permission = tokio::select! {
                permission = attempts.ask(&question) => permission,
                () = answer.closed() => return,
            };
            drop(answer.send(permission));
        }
    }
}
