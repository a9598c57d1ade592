//! Stopping: signals, and the one order in which everything ends.
//!
//! ```text
//! health NOT_SERVING
//!   │ calls          no new connection or call; publish streams answer what they took, and end
//!   │ work           dispatch hands out nothing more; attempts under way go on
//!   │ ……………………       … until they have ended, or the grace is over: then they are aborted
//!   │ outcomes       the last of them are committed
//!   │ watches        streams get them, and end
//!   │ connections    whoever still holds one is cut off
//!   ▼ store          closed
//! ```
//!
//! Invariant: from the first lever to the last at most grace + [`LAST_WORDS`] pass, whatever clients, receivers and the disk do.
//! What is not done by then is as safe as after a power cut.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal as Listener, SignalKind, signal},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{api::Health, store::Store, tasks::Tasks};

/// How the daemon stops.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long attempts under way may take to end.
    pub grace: Duration,
}

/// How long committing, saying goodbye and closing may take after the grace, together.
pub const LAST_WORDS: Duration = Duration::from_millis(800);
/// How long watchers may take to read their last outcomes.
const FAREWELL: Duration = Duration::from_millis(300);

/// The daemon did not come to its end in time and has to be left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overdue {
    /// The last outcomes were not committed; their attempts will be repeated.
    #[error("the last outcomes could not be committed in time")]
    Outcomes,
    /// The store was not closed.
    #[error("the store could not be closed in time")]
    Store,
}

/// What stops the parts of a daemon. Dropped without [`Levers::stop`], it stops them all at once.
pub(crate) struct Levers {
    /// What callers are told.
    pub(crate) health: Health,
    /// Ends everything that takes new work from callers.
    pub(crate) calls: CancellationToken,
    /// Ends everything that begins work of its own: dispatch, retention.
    pub(crate) work: CancellationToken,
    /// Aborts attempts under way.
    pub(crate) attempts: CancellationToken,
    /// Ends watch streams.
    pub(crate) watches: CancellationToken,
    /// Cuts connections.
    pub(crate) connections: CancellationToken,
    /// Is cancelled when the last outcome is committed.
    pub(crate) outcomes_ended: CancellationToken,
    /// Is cancelled when the last connection is closed.
    pub(crate) serving_ended: CancellationToken,
    /// Every task of the daemon.
    pub(crate) tasks: Tasks,
    /// Closed last.
    pub(crate) store: Arc<dyn Store>,
}

impl Levers {
    /// Pulls all levers in order.
    pub(crate) async fn stop(self, grace: Duration) -> Result<(), Overdue> {
        let started = Instant::now();
        let deadline = started + grace;
        let end = deadline + LAST_WORDS;

        self.health.set_serving(false).await;
        self.calls.cancel();
        self.work.cancel();
        if timeout_at(deadline, self.outcomes_ended.cancelled()).await.is_err() {
            warn!(
                grace_ms = duration_ms(grace),
                "attempts are still under way; they are aborted now and repeated after the next start"
            );
            self.attempts.cancel();
        }
        // Closing must have its turn even if this has not.
        let outcomes = timeout_at(end - LAST_WORDS / 2, self.outcomes_ended.cancelled()).await;

        self.watches.cancel();
        let farewell = (Instant::now() + FAREWELL).min(end - LAST_WORDS / 4);
        if timeout_at(farewell, self.serving_ended.cancelled()).await.is_err() {
            info!("some clients keep their connections open; they are cut off");
        }
        self.connections.cancel();

        // A store closes cleanly only if nobody reads it any more, but better late than never.
        if timeout_at(end - LAST_WORDS / 8, self.tasks.ended()).await.is_err() {
            warn!("some parts of the daemon have not ended");
        }
        let closed = timeout_at(end, self.store.close()).await;
        if let Ok(Err(error)) = &closed {
            error!(%error, "the store did not close well; it recovers at the next start");
        }
        info!(duration_ms = duration_ms(started.elapsed()), "stopped");
        outcomes.map_err(|_| Overdue::Outcomes).and(closed.map(|_| ()).map_err(|_| Overdue::Store))
    }
}

impl Drop for Levers {
    fn drop(&mut self) {
        for lever in [&self.calls, &self.work, &self.attempts, &self.watches, &self.connections] {
            lever.cancel();
        }
    }
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A signal that asks the daemon to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a supervisor.
    Terminate,
}

impl Signal {
    /// The exit code of a process that it ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Listens to signals. From its making on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: Listener,
    terminate: Listener,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}
