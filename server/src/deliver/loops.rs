//! The delivery loops: attempts side by side on one thread.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

use futures::{Stream as _, stream::FuturesUnordered};
use tokio::{select, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::attempt::Attempts;
use crate::flow::{Attempted, Job};

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
) {
    let attempts = &attempts;
    let mut aborted = pin!(abort.cancelled());
    let mut running = FuturesUnordered::new();
    let mut more = true;
    while more || !running.is_empty() {
        select! {
            () = &mut aborted => return,
            batch = jobs.recv(), if more => match batch {
                Some(batch) => running.extend(batch.into_iter().map(|job| attempts.perform(job))),
                None => more = false,
            },
            ended = poll_fn(|context| poll_ended(&mut running, context)), if !running.is_empty() => {
                if attempted.send(ended).await.is_err() {
                    debug!("nobody takes results any more; the attempts will be repeated after the next start");
                }
            }
        }
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
