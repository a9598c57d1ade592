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

use std::{io, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal as Listener, SignalKind, signal},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{api::Health, store::StoreError, tasks::Tasks};

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
    /// Closes the store; awaited last.
    pub(crate) close: BoxFuture<'static, Result<(), StoreError>>,
}

impl Levers {
    /// Pulls all levers in order.
    pub(crate) async fn stop(mut self, grace: Duration) -> Result<(), Overdue> {
        let started = Instant::now();
        let deadline = started + grace;
        let end = deadline + LAST_WORDS;

        self.health.stop().await;
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
        let closed = timeout_at(end, &mut self.close).await;
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

/// Has a write beyond the limit of a file's size fail like any other from now on, and not end the process, in a command that listens
/// to no signals.
pub fn outlive_size_limits() -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    too_large().map(drop)
}

fn too_large() -> io::Result<Listener> {
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
}

/// Listens to signals. From its making on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: Listener,
    terminate: Listener,
    /// A write beyond the limit of a file's size is to fail like any other, and not to end the process.
    _too_large: Listener,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            _too_large: too_large()?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future, sync::Arc};

    use futures::FutureExt as _;
    use parking_lot::Mutex;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    /// A daemon that consists of nothing but its levers.
    fn levers(close: BoxFuture<'static, Result<(), StoreError>>) -> Levers {
        Levers {
            health: Health::default(),
            calls: CancellationToken::new(),
            work: CancellationToken::new(),
            attempts: CancellationToken::new(),
            watches: CancellationToken::new(),
            connections: CancellationToken::new(),
            outcomes_ended: CancellationToken::new(),
            serving_ended: CancellationToken::new(),
            tasks: Tasks::default(),
            close,
        }
    }

    /// Notes `name` once `cause` is cancelled, and ends what ends with it.
    fn follow(levers: &Levers, notes: &Arc<Mutex<Vec<&'static str>>>, name: &'static str, cause: &CancellationToken) {
        let (notes, cause) = (notes.clone(), cause.clone());
        let effect = match name {
            "work" => levers.outcomes_ended.clone(),
            "watches" => levers.serving_ended.clone(),
            _ => CancellationToken::new(),
        };
        levers.tasks.spawn(name, async move {
            cause.cancelled().await;
            notes.lock().push(name);
            effect.cancel();
        });
    }

    #[tokio::test(start_paused = true)]
    async fn everything_ends_in_order_and_without_waiting_when_nothing_is_under_way() {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let closing = notes.clone();
        let close = async move {
            closing.lock().push("store");
            Ok(())
        };
        let levers = levers(close.boxed());
        for (name, cause) in
            [("work", &levers.work), ("watches", &levers.watches), ("connections", &levers.connections)]
        {
            follow(&levers, &notes, name, cause);
        }
        let attempts = levers.attempts.clone();
        let started = Instant::now();
        assert_eq!(levers.stop(GRACE).await, Ok(()));
        assert_eq!(*notes.lock(), ["work", "watches", "connections", "store"]);
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(attempts.is_cancelled(), "a lever that was not needed is pulled in the end");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_get_the_grace_and_are_aborted_then() {
        let levers = levers(future::ready(Ok(())).boxed());
        let (attempts, ended) = (levers.attempts.clone(), levers.outcomes_ended.clone());
        levers.serving_ended.cancel();
        let started = Instant::now();
        levers.tasks.spawn("hanging receiver", async move {
            attempts.cancelled().await;
            assert_eq!(started.elapsed(), GRACE);
            ended.cancel();
        });
        assert_eq!(levers.stop(GRACE).await, Ok(()));
        assert_eq!(started.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_hangs_the_end_comes_in_time() {
        let check = async |outcomes_end, close: BoxFuture<'static, _>, expect| {
            let levers = levers(close);
            if outcomes_end {
                levers.outcomes_ended.cancel();
            }
            levers.tasks.spawn("stuck", future::pending());
            let started = Instant::now();
            assert_eq!(levers.stop(GRACE).await, expect);
            // Timers are a millisecond coarse.
            let limit = GRACE + LAST_WORDS + Duration::from_millis(5);
            assert!(started.elapsed() <= limit, "{:?}", started.elapsed());
        };
        check(true, future::ready(Ok(())).boxed(), Ok(())).await;
        check(true, future::pending().boxed(), Err(Overdue::Store)).await;
        check(false, future::ready(Ok(())).boxed(), Err(Overdue::Outcomes)).await;
        check(false, future::pending().boxed(), Err(Overdue::Outcomes)).await;
    }
}
