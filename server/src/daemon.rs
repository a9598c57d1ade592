//! The composition root: the only place that sees every part. Channels are made here, and all of them are bounded.

use std::{io, net::SocketAddr, num::NonZeroU32, slice, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api,
    clock::{Clock, Turn},
    config::Config,
    control::{Control, ControlError},
    deliver, dispatch,
    flow::{Gates, Job, News},
    limits::{CERTIFICATES_LOOK_INTERVAL, CLOCK_LOOK_INTERVAL, STALLED_AFTER},
    metrics::{Metrics, Queues},
    model::{
        delivery::AttemptResult,
        ownership::{Question, Refusal},
        target::Target,
    },
    ops::{self, Ops},
    replay,
    shutdown::{Levers, Overdue},
    store::{
        Store as _,
        redb::{self, RedbStore},
    },
    tasks::Tasks,
    tls::{Certificates, TlsError},
};

/// Messages on their way from outcomes to dispatch, which always takes them promptly.
const PROGRESS_MESSAGES: usize = 1024;

/// Why the daemon did not start. Nothing was acknowledged, and nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or the address is not this machine's.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The data directory is in use, damaged, of a newer version, or cannot be reached.
    #[error(transparent)]
    Open(#[from] redb::OpenError),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Something is where the control socket should be.
    #[error(transparent)]
    Control(ControlError),
    /// Delivery cannot be started.
    #[error(transparent)]
    Deliver(#[from] deliver::BuildError),
}

/// Starts daemons.
#[derive(Debug)]
pub struct Daemon;

/// A daemon at work. Dropped, it stops at once and without order.
pub struct Running {
    config: Config,
    address: SocketAddr,
    tasks: Tasks,
    engine: Arc<RedbStore>,
    levers: Levers,
    ops: Ops,
}

impl Daemon {
    /// Takes the ports, opens and recovers the store, starts every stage, and serves.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        Self::start_by(Clock::start(), config).await
    }

    /// The same, by this clock.
    pub async fn start_by(clock: Clock, config: Config) -> Result<Running, StartError> {
        let address = config.serve.address;
        let certificates = config.serve.tls.clone().map(Certificates::open).transpose()?;
        let server = config.serve.clone().bind().await.map_err(|error| StartError::Bind { address, error })?;
        let address = server.address();
        let gates = Arc::new(Gates::default());
        let (tasks, news) = (Tasks::default(), Arc::new(News::default()));
        let ops = open_ops(&config, clock, &tasks).await?;
        let metrics = Metrics::default();
        let engine = Arc::new(open(&config, news.clone(), clock).await?);
        let control = open_control(&config, &engine, clock)?;
        // Before anything can be removed or expire.
        watch_clock(clock);
        let store = engine.clone();

        let [calls, work, attempts, watches, connections] = std::array::from_fn(|_| CancellationToken::new());
        let (attempted, attempted_ends) = mpsc::channel(config.dispatch.in_flight_max);
        let (progress, progress_ends) = mpsc::channel(PROGRESS_MESSAGES);

        let queues = engine.inboxes(Queues::default()).with_channels("outcomes", slice::from_ref(&attempted));
        let queues = queues.with_channels("progress", slice::from_ref(&progress));
        let wanted = wanted(store.clone());
        let counted = metrics.deliver.clone();
        let own = deliver::OwnPorts::new([Some(address), ops.address()].into_iter().flatten());
        let deliver = deliver::Config { own, ..config.deliver.clone() };
        let names = Arc::new(deliver.names());
        let deliver::Deliver { jobs, trials } =
            deliver.build(clock, attempted, &tasks, attempts.clone(), counted, wanted)?;
        let trials = Arc::new(trials);
        let queues = queues.with_channels("jobs", &jobs);
        let dispatch = config.dispatch.clone().build(dispatch::Deps {
            store: store.clone(),
            news,
            clock,
            jobs,
            progress: progress_ends,
            gates: gates.clone(),
            metrics: metrics.dispatch.clone(),
            seed: rand::random(),
        });
        let (seed, counted) = (rand::random(), metrics.outcomes.clone());
        let outcomes = config.outcomes.clone().build(store.clone(), clock, attempted_ends, progress, seed, counted);
        let retention = config.retention.clone().build(store.clone(), clock);
        let replays = replay::Config { interval: config.retention.interval, retention: config.store.retention };
        let replays = replays.build(store.clone(), clock);
        let limits = api::Config {
            target_rules: config.targets.clone(),
            policy_limits: config.policy_limits,
            retention: config.store.retention,
            origin: config.origin.clone(),
            require_auth: config.require_auth,
            grants: config.grants.clone(),
            heartbeat: config.watch.heartbeat,
        };
        let api = limits.build(api::Deps {
            store: store.clone(),
            accept: config.accept.build(store.clone(), clock, tasks.clone(), metrics.accept.clone()),
            watch: config.watch.build(store.clone(), metrics.watch.clone()),
            gates: gates.clone(),
            clock,
            names,
            trial: trials.clone(),
            handshake: trials,
            audited: metrics.audit.clone(),
            stop: calls.clone(),
            stop_watching: watches.clone(),
        });
        let api = api.await;

        let outcomes_ended = tasks.spawn_ending("outcomes", outcomes.run(attempts.clone()));
        tasks.spawn("dispatch", dispatch.run(work.clone()));
        tasks.spawn("retention", retention.run(work.clone()));
        tasks.spawn("replay", replays.run(work.clone()));
        if let Some(control) = control {
            tasks.spawn("control", control.run(work.clone()));
        }
        tasks.spawn("clock", follow_clock(clock, work.clone()));
        tasks.spawn("audit", api.audit.run(work.clone()));
        if let Some(certificates) = certificates.clone() {
            tasks.spawn("certificates", follow(certificates, work.clone()));
        }
        let server = server.counted(metrics.serve.clone());
        let run = server.run(api.routes, certificates, calls.clone(), connections.clone());
        let serving_ended = tasks.spawn_ending("serve", run);

        api.health.set_serving(true).await;
        tasks.spawn("health", api.health.clone().follow(engine.works(), calls.clone()));
        show(&ops, &engine, &metrics, queues, clock, gates).await;
        announce(&config, address, engine.catalog().keys().is_locked());
        let quiet = ops.quiet();
        let levers = Levers {
            health: api.health,
            calls,
            work,
            attempts,
            watches,
            connections,
            outcomes_ended,
            serving_ended,
            tasks: tasks.clone(),
            close: Box::pin(quiet.then(|()| async move { store.close().await })),
        };
        Ok(Running { config, address, tasks, engine, levers, ops })
    }
}

/// Has certificates looked after until the daemon stops.
async fn follow(certificates: Certificates, stop: CancellationToken) {
    if let Err(error) = certificates.follow(CERTIFICATES_LOOK_INTERVAL, stop).await {
        error!(%error, "SIGHUP cannot be received; new certificates are taken at the next start");
    }
}

/// Compares the clock with the machine's until the daemon stops.
async fn follow_clock(clock: Clock, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(CLOCK_LOOK_INTERVAL)).await.is_some() {
        watch_clock(clock);
    }
}

/// Compares the clock with the machine's, and says what that means.
fn watch_clock(clock: Clock) {
    match clock.look() {
        Some(Turn::Began(ahead)) => warn!(
            clock.ahead_s = ahead / 1_000_000,
            "the machine's clock and the time that has passed disagree: nothing is removed and nothing expires until they agree \
             again, or until an operator confirms the machine's clock (postrider clock confirm)"
        ),
        Some(Turn::Ended) => info!("the machine's clock is right again; what is too old is removed and expires again"),
        None => {}
    }
}

/// What the catalogue says of a webhook at the moment its attempt would start.
fn wanted(store: Arc<RedbStore>) -> deliver::Wanted {
    Arc::new(move |no| store.catalog().webhook(no).is_some_and(|known| known.webhook.is_enabled()))
}

/// Opens the store, recovering what there is, off the runtime's threads.
async fn open(config: &Config, news: Arc<News>, clock: Clock) -> Result<RedbStore, redb::OpenError> {
    let (path, config) = (config.data.clone(), config.store.clone());
    let opened = spawn_blocking(move || redb::open(&path, config, news, clock)).await;
    opened.expect("opening reports its failures")
}

/// The control socket; `None`: the file system of the data directory has none.
fn open_control(config: &Config, engine: &Arc<RedbStore>, clock: Clock) -> Result<Option<Control>, StartError> {
    match Control::open(&config.data, engine.clone(), clock) {
        Ok(control) => Ok(Some(control)),
        Err(ControlError::System(error)) => {
            warn!(%error, "no backup can be made while the daemon runs: there is no control socket");
            Ok(None)
        }
        Err(error @ (ControlError::Occupied(_) | ControlError::TooLong { .. })) => Err(StartError::Control(error)),
    }
}

async fn open_ops(config: &Config, clock: Clock, tasks: &Tasks) -> Result<Ops, StartError> {
    let opened = config.ops.clone().open(clock, tasks.clone()).await;
    opened.map_err(|error| {
        let address = config.ops.address.expect("it fails only to listen");
        StartError::Bind { address, error }
    })
}

/// Gives everything that is counted its name, and readiness what it is judged by.
async fn show(ops: &Ops, engine: &Arc<RedbStore>, metrics: &Metrics, queues: Queues, clock: Clock, gates: Arc<Gates>) {
    ops.register(|registry| {
        metrics.register(registry);
        engine.register(registry);
        registry.register_collector(Box::new(metrics.watch.collector(engine.head())));
        registry.register_collector(Box::new(queues));
        registry.register_collector(Box::new(clock));
    })
    .await;
    let (started, unreadable) = (metrics.deliver.started.clone(), metrics.dispatch.unreadable.clone());
    let outcomes = metrics.outcomes.clone();
    let committer = engine.clone();
    ops.serving(ops::Deps {
        store: engine.clone(),
        works: engine.works(),
        silence: Box::new(move || committer.silence()),
        clock,
        // An event that the store does not have is a matter of its own: dispatch has looked at its delivery and goes on. And many
        // deliveries may have expired before a single one is attempted again.
        moves: Box::new(move || started.get() + unreadable.get() + outcomes.expired()),
        // As long as it may take until something moves again.
        held: Box::new(move |webhook| gates.holds(webhook, clock.now() - STALLED_AFTER)),
    });
}

#[async_trait]
impl api::NameJudge for deliver::Names {
    async fn judge(&self, target: &Target) -> Result<(), String> {
        deliver::Names::judge(self, target).await
    }
}

#[async_trait]
impl api::Trial for deliver::Trials {
    async fn attempt(&self, job: Job) -> Option<AttemptResult> {
        deliver::Trials::attempt(self, job).await
    }
}

#[async_trait]
impl api::Handshake for deliver::Trials {
    async fn ask(&self, question: Question) -> Option<Result<Option<NonZeroU32>, Refusal>> {
        deliver::Trials::ask(self, question).await
    }
}

impl Running {
    /// Where gRPC is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and health are served, if anywhere.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.address()
    }

    /// Completes when a part of the daemon has panicked, with its name. The daemon should be stopped then.
    pub async fn broken(&self) -> &'static str {
        tokio::select! {
            name = self.tasks.broken() => name,
            name = self.engine.broken() => name,
            name = self.ops.broken() => name,
        }
    }

    /// Stops in order, within the grace and a second. Until the end somebody answers who asks how it stands.
    pub async fn stop(self) -> Result<(), Overdue> {
        self.ops.stopping();
        self.levers.stop(self.config.shutdown.grace).await
    }
}

/// Says what runs, and what an operator has opened.
fn announce(config: &Config, address: SocketAddr, locked: bool) {
    for range in &config.opened {
        warn!(targets.range = %range, "webhooks may point into this range, and over plain http: --allow-cidr");
    }
    if config.targets.allow_http {
        warn!("webhooks may use plain http to any public address: --allow-http");
    }
    if let Some(address) = config.ops.address.filter(|address| !address.ip().to_canonical().is_loopback()) {
        warn!(ops.address = %address, "anybody who reaches this port sees metrics: --insecure-listen");
    }
    for grant in &config.grants {
        info!(certificate.name = %grant.name, rights = %grant.rights, tenants = %grant.tenants, "clients' certificates are good for this: --tls-client-rights");
    }
    let is_loopback = address.ip().to_canonical().is_loopback();
    match (locked || !config.grants.is_empty(), config.require_auth) {
        (true, _) => {}
        (false, true) => warn!("no call is taken before an API key is created: postriderd keys create"),
        (false, false) if is_loopback => {
            info!(
                "calls need no credentials until the first API key is created: whoever is on this machine controls the daemon"
            );
        }
        (false, false) => {
            warn!(listen.address = %address, "anybody who reaches this port controls the daemon: --insecure-listen");
        }
    }
    if !is_loopback && config.serve.tls.is_none() {
        warn!(listen.address = %address, "keys, events and answers travel readable on this port: --insecure-listen");
    }
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen.address = %address,
        data = %config.data.display(),
        master_key = config.store.master_key.place(&config.data),
        delivery.loops = config.deliver.loops,
        delivery.in_flight_max = config.dispatch.in_flight_max,
        delivery.webhook_in_flight_max = config.dispatch.webhook_in_flight_max,
        store.pending_max = config.store.pending_max,
        store.webhooks_max = config.store.webhooks_max,
        "postriderd serves"
    );
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::shutdown::LAST_WORDS;

    fn config(data: &tempfile::TempDir) -> Config {
        let data = data.path().to_str().expect("a temporary directory has a plain name");
        Config::from_flags(["--listen", "127.0.0.1:0", "--shutdown-grace", "10s", "--data", data]).unwrap()
    }

    #[tokio::test]
    async fn idle_clients_do_not_hold_up_the_end_and_the_data_can_be_opened_again() {
        let data = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let running = Daemon::start(config(&data)).await.unwrap();
            let _silent = TcpStream::connect(running.address()).await.unwrap();
            let mut greeted = TcpStream::connect(running.address()).await.unwrap();
            greeted.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            greeted.read_exact(&mut [0; 9]).await.unwrap();

            let started = Instant::now();
            running.stop().await.unwrap();
            // Nothing is under way, so none of the grace is spent.
            assert!(started.elapsed() < LAST_WORDS + Duration::from_secs(5), "{:?}", started.elapsed());
        }
    }

    async fn status(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        format!("{} {body}", head.split(' ').nth(1).unwrap())
    }

    #[test]
    fn it_is_alive_before_it_is_ready_and_ready_when_the_store_is_recovered() {
        // One thread for what blocks, which is taken: the store cannot be opened before it is free.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            let (recover, held) = std::sync::mpsc::sync_channel::<()>(0);
            let holder = spawn_blocking(move || held.recv());
            let data = tempfile::tempdir().unwrap();
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut config = config(&data);
            config.ops.address = Some(free);
            let mut start = Box::pin(Daemon::start(config));
            let asked = async {
                let alive = status(free, "/livez").await;
                (alive, status(free, "/readyz").await)
            };
            let (alive, ready) = tokio::select! {
                started = &mut start => panic!("started without a store: {:?}", started.err()),
                // Polled after the start, so that the port is there.
                asked = async { tokio::task::yield_now().await; asked.await } => asked,
            };
            assert_eq!(alive, "200 ok\n");
            assert_eq!(ready, "503 starting: the store is being opened and recovered\n");
            recover.send(()).unwrap();
            holder.await.unwrap().unwrap();
            let running = start.await.unwrap();
            assert_eq!(running.ops_address(), Some(free));
            assert_eq!(status(free, "/readyz").await, "200 ok\n");
            running.stop().await.unwrap();
            assert!(TcpStream::connect(free).await.is_err(), "the port is closed");
        });
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_of_its_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let running = Daemon::start(config(&one)).await.unwrap();
        let mut config = config(&other);
        config.serve.address = running.address();
        config.ops.address = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(matches!(Daemon::start(config.clone()).await.err(), Some(StartError::Bind { .. })));
        (config.serve.address, config.ops.address) = (config.ops.address.unwrap(), Some(running.address()));
        assert!(
            matches!(Daemon::start(config).await.err(), Some(StartError::Bind { address, .. }) if address == running.address())
        );
        running.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_data_directory_in_use_is_an_error_of_its_own() {
        let data = tempfile::tempdir().unwrap();
        let running = Daemon::start(config(&data)).await.unwrap();
        assert!(matches!(Daemon::start(config(&data)).await.err(), Some(StartError::Open(_))));
        running.stop().await.unwrap();
    }
}
