//! Deliver: turns one job into one attempt's result.
//!
//! CPU per delivery limits the whole daemon, so there is neither a task per delivery nor a shared pool of threads: a few
//! long-lived loops, each one thread with its own runtime, connections and resolver, run their attempts side by side.
//!
//! Deliberately absent: the store, permits and retry decisions. How many attempts run at once is up to dispatch.

mod attempt;
mod certificates;
mod client;
mod connections;
mod handshake;
mod loops;
mod names;
mod own;
mod phases;
mod proxy;
mod request;
mod resolver;
mod result;
mod shape;
mod signature;
#[cfg(test)]
mod tests;
mod tls;
mod trial;

use std::{num::NonZero, sync::Arc, thread, time::Duration};

use http::{HeaderValue, header::InvalidHeaderValue};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::{runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{
    attempt::{Attempts, Shows},
    client::GuardedClient,
    resolver::{Dns, DnsConfig},
    tls::Tls,
};
pub use self::{names::Names, own::OwnPorts, proxy::Proxy, trial::Trials};
use crate::{
    clock::Clock,
    flow::{Attempted, Job},
    limits::ATTEMPT_TIMEOUT_MAX,
    metrics::DeliverMetrics,
    model::{ids::WebhookNo, target::TargetRules},
    tasks::Tasks,
};

/// The running stage.
pub struct Deliver {
    /// Where each loop takes its jobs.
    pub jobs: Vec<mpsc::Sender<Vec<Job>>>,
    /// For attempts that somebody waits for.
    pub trials: Trials,
}

/// Whether attempts of a webhook are still wanted: it exists and is enabled.
pub type Wanted = Arc<dyn Fn(WebhookNo) -> bool + Send + Sync>;

/// How deliveries are attempted.
#[derive(Debug, Clone)]
pub struct Config {
    /// What may be called.
    pub rules: TargetRules,
    /// What may not be called on this machine, whatever the rules open.
    pub own: OwnPorts,
    /// How long one attempt may take, from looking up the host to the end of the answer.
    pub attempt_timeout: Duration,
    /// How long a webhook may have its attempts take.
    pub attempt_timeout_max: Duration,
    /// How long of that may pass until there is a connection, TLS included.
    pub connect_timeout: Duration,
    /// How many loops there are; at least one.
    pub loops: usize,
    /// Idle connections each loop keeps per host; at least a loop's share of what may be in flight to one host, or
    /// connections are opened and closed all the time.
    pub idle_per_host: usize,
    /// Which library sends requests.
    pub http_client: HttpClient,
    /// Through which all connections to receivers are made.
    pub proxy: Option<Arc<Proxy>>,
    /// How requests introduce their sender.
    pub user_agent: String,
    /// Authorities that receivers' certificates may come from, besides those this machine trusts.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl Default for Config {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            rules: TargetRules::default(),
            own: OwnPorts::default(),
            attempt_timeout: Duration::from_secs(15),
            attempt_timeout_max: ATTEMPT_TIMEOUT_MAX,
            connect_timeout: Duration::from_secs(5),
            loops: (cores / 2).clamp(1, 4),
            idle_per_host: 64,
            user_agent: concat!("Postrider/", env!("CARGO_PKG_VERSION")).into(),
            authorities: Vec::new(),
            http_client: HttpClient::default(),
            proxy: None,
        }
    }
}

/// Which library sends requests. What becomes of them is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpClient {
    /// reqwest. What a receiver sends without an end is bounded by the attempt's deadline alone.
    #[default]
    Reqwest,
    /// The client of hyper-util, over connections on which is counted what is read.
    Hyper,
}

/// Why the stage could not start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// No runtime or thread for a loop.
    #[error("cannot start a delivery loop: {0}")]
    Loop(#[from] std::io::Error),
    /// The user agent cannot be sent.
    #[error("the user agent is not a valid header value")]
    UserAgent(#[from] InvalidHeaderValue),
    /// The TLS library refused its configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client refused its configuration.
    #[error("cannot build the HTTP client: {0}")]
    Client(#[from] client::Error),
}

impl Config {
    /// Starts the loops.
    ///
    /// `attempted` must hold as many batches of results as attempts may be in flight; the loops' inboxes hold as many batches
    /// of jobs, so that handing one over never fails for lack of room. Jobs wait their turn in the loop; whether one is still
    /// `wanted` is asked when it starts. A loop ends when its inbox is dropped and its attempts have ended, or at once when
    /// `abort` is cancelled: attempts in flight are then dropped without a result.
    pub fn build(
        self,
        clock: Clock,
        attempted: mpsc::Sender<Vec<Attempted>>,
        tasks: &Tasks,
        abort: CancellationToken,
        metrics: DeliverMetrics,
        wanted: Wanted,
    ) -> Result<Deliver, BuildError> {
        let dns = resolver::system_config().unwrap_or_else(|problem| {
            warn!(error = %problem, "no usable DNS configuration: only hosts in the hosts file can be delivered to by name");
            resolver::hosts_file_only()
        });
        let tls = Tls::new(&self.authorities)?;
        let parts = Parts { config: self, dns, tls, clock, attempted, abort, metrics, wanted };
        let jobs = (0..parts.config.loops.max(1)).map(|_| parts.start_loop(tasks)).collect::<Result<_, _>>()?;
        Ok(Deliver { jobs, trials: parts.start_trials(tasks)? })
    }
}

/// What every loop gets a copy of.
struct Parts {
    config: Config,
    dns: DnsConfig,
    tls: Tls,
    clock: Clock,
    attempted: mpsc::Sender<Vec<Attempted>>,
    abort: CancellationToken,
    metrics: DeliverMetrics,
    wanted: Wanted,
}

impl Parts {
    /// What makes attempts, with connections and a resolver of its own.
    fn attempts(&self, metrics: DeliverMetrics, shows: Shows) -> Result<Attempts, BuildError> {
        let dns = Dns::new(&self.dns, self.config.connect_timeout);
        Ok(Attempts {
            client: GuardedClient::build(&self.config, &self.tls, &dns)?,
            user_agent: HeaderValue::from_str(&self.config.user_agent)?,
            clock: self.clock,
            timeout: self.config.attempt_timeout,
            timeout_max: self.config.attempt_timeout_max,
            metrics,
            shows,
        })
    }

    fn start_trials(&self, tasks: &Tasks) -> Result<Trials, BuildError> {
        let (trials, asked) = Trials::new();
        let attempts = self.attempts(DeliverMetrics::default(), Shows::Everything)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let abort = self.abort.clone();
        tasks.thread("trials", move || runtime.block_on(trial::run(attempts, asked, abort)))?;
        Ok(trials)
    }

    fn start_loop(&self, tasks: &Tasks) -> Result<mpsc::Sender<Vec<Job>>, BuildError> {
        let attempts = self.attempts(self.metrics.clone(), Shows::Failures)?;
        let (inbox, jobs) = mpsc::channel(self.attempted.max_capacity());
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (attempted, abort, wanted) = (self.attempted.clone(), self.abort.clone(), self.wanted.clone());
        tasks.thread("deliver", move || runtime.block_on(loops::run(attempts, jobs, attempted, abort, &*wanted)))?;
        Ok(inbox)
    }
}
