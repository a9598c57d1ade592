//! Seen while it runs: `/metrics`, `/livez` and `/readyz` over plain HTTP, on a port of their own.
//!
//! ```text
//!   server.rs   connections, as few and as short as can be
//!      │ answer.rs    what is asked, and what is said to it
//!      │    ├ readiness.rs   whether work should be sent here, and if not, why (pure)
//!      │    │    └ pulse.rs  what that is judged by: the store, the oldest delivery that is due, whether anything moves
//!      │    └ process.rs     what the operating system says about this process
//! ```
//!
//! The port is open before the store is, and until the process ends: who asks while the daemon starts or stops gets an answer.
//! It belongs to no order of stopping and holds nothing up; dropped, it is closed.
//!
//! Deliberately absent: anything that changes the daemon. There is no authentication, so there is nothing here but to look.

mod answer;
mod process;
mod pulse;
mod readiness;
mod server;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

pub use self::pulse::Deps;
use self::{pulse::Pulse, readiness::NotReady, server::Server};
use crate::{
    clock::Clock,
    limits::{OPS_CONNECTION_TIMEOUT, OPS_CONNECTIONS_MAX, OPS_HEAD_TIMEOUT},
    metrics::PREFIX,
    tasks::Tasks,
};

/// Where and how the daemon can be looked at.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one. `None`: nowhere.
    pub address: Option<SocketAddr>,
    /// Most connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// A connection is closed whose request has not come within this time.
    pub head_timeout: Duration,
    /// A connection is closed after this time, whatever its client does.
    pub connection_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: None,
            connections_max: OPS_CONNECTIONS_MAX,
            head_timeout: OPS_HEAD_TIMEOUT,
            connection_timeout: OPS_CONNECTION_TIMEOUT,
        }
    }
}

impl Config {
    /// Takes the port and answers from now on. `tasks` are those that must run for the daemon to be alive.
    pub async fn open(self, clock: Clock, tasks: Tasks) -> io::Result<Ops> {
        let desk = Arc::new(Desk::new(clock, tasks));
        let (own_tasks, stop) = (Tasks::default(), CancellationToken::new());
        let mut address = None;
        if let Some(wanted) = self.address {
            let server = Server::bind(wanted, self).await?;
            address = Some(server.address());
            info!(ops.address = %server.address(), "metrics and health are served");
            own_tasks.spawn("ops", server.run(desk.clone(), stop.clone()));
        }
        Ok(Ops { desk, address, tasks: own_tasks, _stop: stop.drop_guard() })
    }
}

/// The port, open until this is dropped.
pub struct Ops {
    desk: Arc<Desk>,
    address: Option<SocketAddr>,
    tasks: Tasks,
    _stop: DropGuard,
}

impl Ops {
    /// Where it listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Adds metrics; the registry puts [`PREFIX`] before their names.
    pub async fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(self.desk.registry.lock().await.sub_registry_with_prefix(PREFIX));
    }

    /// The daemon has recovered and serves: readiness is judged by these from now on.
    pub fn serving(&self, deps: Deps) {
        *self.desk.phase.lock() = Phase::Serving(Arc::new(Pulse::new(deps)));
    }

    /// The daemon was told to stop.
    pub fn stopping(&self) {
        let mut phase = self.desk.phase.lock();
        if let Phase::Serving(pulse) = &*phase {
            *phase = Phase::Stopping(pulse.clone());
        }
    }

    /// Completes when nothing is read from the store any more. To be awaited after [`Self::stopping`].
    pub fn quiet(&self) -> impl Future<Output = ()> + Send + use<> {
        let desk = self.desk.clone();
        async move {
            let phase = desk.phase.lock().clone();
            if let Phase::Serving(pulse) | Phase::Stopping(pulse) = phase {
                pulse.rest().await;
            }
        }
    }

    /// Completes when the port's task has panicked, with its name.
    pub async fn broken(&self) -> &'static str {
        self.tasks.broken().await
    }
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What answers are made from.
struct Desk {
    /// Held while metrics are written.
    registry: Arc<tokio::sync::Mutex<Registry>>,
    phase: Mutex<Phase>,
    tasks: Tasks,
    ready: Gauge,
    oldest_due: Gauge<f64, AtomicU64>,
}

/// Where the daemon is in its life.
#[derive(Clone)]
enum Phase {
    /// The store is being opened and recovered.
    Starting,
    /// It takes and delivers events.
    Serving(Arc<Pulse>),
    /// It was told to stop.
    Stopping(Arc<Pulse>),
}

impl Desk {
    fn new(clock: Clock, tasks: Tasks) -> Self {
        let (ready, oldest_due) = (Gauge::default(), Gauge::<f64, AtomicU64>::default());
        let mut registry = Registry::default();
        process::register(&mut registry, clock.now());
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register("build", "Which version runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        ours.register("ready", "1 if /readyz says so, else 0", ready.clone());
        let help = "How long the oldest delivery that is due has been due, attempts under way included; NaN if unknown";
        ours.register_with_unit("oldest_due_age", help, Unit::Seconds, oldest_due.clone());
        let (registry, phase) = (Arc::new(tokio::sync::Mutex::new(registry)), Mutex::new(Phase::Starting));
        Self { registry, phase, tasks, ready, oldest_due }
    }

    /// Whether work should be sent here.
    async fn readiness(&self) -> Result<(), NotReady> {
        let phase = self.phase.lock().clone();
        let (age, judged) = match phase {
            Phase::Starting => (None, Err(NotReady::Starting)),
            Phase::Stopping(_) => (None, Err(NotReady::Stopping)),
            Phase::Serving(pulse) => {
                let vitals = pulse.feel().await;
                (vitals.overdue, self.liveness().and(readiness::judge(&vitals)))
            }
        };
        self.oldest_due.set(age.map_or(f64::NAN, |age| age.as_secs_f64()));
        self.ready.set(i64::from(judged.is_ok()));
        judged
    }

    /// Whether every task runs that should, and the store's committer goes round.
    fn liveness(&self) -> Result<(), NotReady> {
        if let Some(name) = self.tasks.failed() {
            return Err(NotReady::Broken(name));
        }
        match &*self.phase.lock() {
            Phase::Starting => Ok(()),
            Phase::Serving(pulse) | Phase::Stopping(pulse) => pulse.liveness(),
        }
    }
}
