//! Single requests for somebody who waits for what they lead to: attempts, made exactly as the loops make theirs and part of
//! nothing, and questions whether a receiver wants any.

use std::{num::NonZeroU32, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::attempt::Attempts;
use crate::{
    flow::Job,
    limits::{HANDSHAKES_MAX, TENANT_HANDSHAKES_MAX, TENANT_TRIALS_MAX, TRIALS_MAX},
    model::{
        delivery::AttemptResult,
        ids::Tenant,
        ownership::{Question, Refusal},
    },
    shares::{Share, Shares},
};

/// Makes requests at once. They take no permits of dispatch and are not counted among those of deliveries.
pub struct Trials {
    inbox: mpsc::Sender<Asked>,
    attempts: Places,
    handshakes: Places,
}

/// How many requests of one kind may be under way: in all, and for each tenant, so that nobody has all of them.
struct Places {
    all: Arc<Semaphore>,
    tenants: Shares<Tenant>,
}

/// The place of a request.
struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_tenant: Share<Tenant>,
}

impl Places {
    fn new(most: usize, most_of_tenant: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), tenants: Shares::new(most_of_tenant) }
    }

    fn take(&self, tenant: &Tenant) -> Option<Place> {
        let of_tenant = self.tenants.try_take(tenant)?;
        let of_all = self.all.clone().try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_tenant: of_tenant })
    }
}

/// What a receiver says: how often in a minute it may be called, if it may be at all.
type Permission = Result<Option<NonZeroU32>, Refusal>;

/// A request that somebody waits for. It keeps its place until it has ended.
pub(super) struct Asked {
    what: What,
    _place: Place,
}

enum What {
    Attempt(Job, oneshot::Sender<AttemptResult>),
    Permission(Question, oneshot::Sender<Permission>),
}

impl Trials {
    /// With the other end for [`run`].
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (inbox, asked) = mpsc::channel(TRIALS_MAX + HANDSHAKES_MAX);
        let attempts = Places::new(TRIALS_MAX, TENANT_TRIALS_MAX);
        let handshakes = Places::new(HANDSHAKES_MAX, TENANT_HANDSHAKES_MAX);
        (Self { inbox, attempts, handshakes }, asked)
    }

    /// Makes one attempt; takes at most the attempt timeout. `None`: as many are under way as may be, or the daemon is stopping.
    pub async fn attempt(&self, job: Job) -> Option<AttemptResult> {
        let (answer, answered) = oneshot::channel();
        let place = self.attempts.take(&job.webhook.tenant)?;
        self.hand_over(place, What::Attempt(job, answer)).await?;
        answered.await.ok()
    }

    /// Asks one receiver; takes at most the attempt timeout, and ends when the caller does. `None`: as many are being asked as may be,
    /// or the daemon is stopping.
    pub async fn ask(&self, question: Question) -> Option<Permission> {
        let (answer, answered) = oneshot::channel();
        let place = self.handshakes.take(&question.tenant)?;
        self.hand_over(place, What::Permission(question, answer)).await?;
        answered.await.ok()
    }

    async fn hand_over(&self, place: Place, what: What) -> Option<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_leaves_places_for_others() {
        let (theirs, ours) = ("theirs".parse().unwrap(), "ours".parse().unwrap());
        let places = Places::new(5, 3);
        let taken: Vec<_> = (0..3).map(|_| places.take(&theirs).expect("a place")).collect();
        assert!(places.take(&theirs).is_none(), "they have their share");
        let _ours = [places.take(&ours), places.take(&ours)].map(|place| place.expect("there are some left"));
        assert!(places.take(&ours).is_none(), "all are taken");
        drop(taken);
        assert!(places.take(&ours).is_some());
    }
}
