//! The delivery loops: attempts side by side on one thread.

use std::pin::pin;

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{select, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::attempt::Attempts;
use crate::flow::{Attempted, Job};

/// Runs the jobs that come in until there are no more, or until it is aborted.
///
/// Invariant: a result that finds no room waits inside its own attempt; it holds up nobody else's. Panics are not caught here:
/// they end the thread, and with it the daemon, which is better than a loop that lost attempts whose permits nobody gives back.
pub(super) async fn run(
    attempts: Attempts,
    mut jobs: mpsc::Receiver<Vec<Job>>,
    attempted: mpsc::Sender<Attempted>,
    abort: CancellationToken,
) {
    let (attempts, attempted) = (&attempts, &attempted);
    let perform = |job| async move {
        let result = attempts.perform(job).await;
        if attempted.send(result).await.is_err() {
            debug!("nobody takes results any more; the attempt will be repeated after the next start");
        }
    };
    let mut aborted = pin!(abort.cancelled());
    let mut running = FuturesUnordered::new();
    let mut more = true;
    while more || !running.is_empty() {
        select! {
            () = &mut aborted => return,
            batch = jobs.recv(), if more => match batch {
                Some(batch) => running.extend(batch.into_iter().map(perform)),
                None => more = false,
            },
            Some(()) = running.next(), if !running.is_empty() => {}
        }
    }
}
