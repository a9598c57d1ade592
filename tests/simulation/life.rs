//! One process: the real stages between a store in memory and scripted receivers, on a runtime of its own with virtual time.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use postrider_server::{
    accept,
    clock::Clock,
    dispatch,
    flow::News,
    limits::{ACCEPT_BYTES_IN_FLIGHT_MAX, DELIVER_AHEAD_MAX},
    metrics::Metrics,
    model::{breaker::PROBE_AFTER_MAX, time::Timestamp},
    replay, retention,
    store::Store,
    tasks::Tasks,
    watch,
};
use postrider_tests::memory::MemoryStore;
use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    runtime,
    sync::mpsc,
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    people,
    plan::{End, Life},
    receivers, repairs, replays, steps,
    world::{START, Weathered, World},
};

/// As in the daemon.
const PROGRESS_MESSAGES: usize = 1024;
/// How long an orderly stop may take. Receivers answer within seconds; the store may fail a few times.
const STOP_MAX: Duration = Duration::from_mins(5);
/// How long watchers may take to catch up.
const CATCH_UP_MAX: Duration = Duration::from_mins(5);

/// Runs all processes of a schedule, one after the other. Returns when the last one has ended.
pub(crate) fn run(world: &Arc<World>) -> Timestamp {
    let mut now = START;
    let mut fate = World::rng(&world.plan, "fate", 0);
    for (number, life) in world.plan.lives.iter().enumerate() {
        world.record.lock().life_begins(now, number);
        // Dropped with all its tasks wherever they stand, as a process is.
        let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without threads");
        let (end, orderly) = runtime.block_on(async { Process::start(world, number, now, life).live(life.end).await });
        drop(runtime);
        now = end;
        let mut storage = world.storage.lock();
        let survived = storage.crash(fate.random_bool(0.5));
        let mut record = world.record.lock();
        if let Some(effects) = survived {
            record.committed(now, &effects);
        }
        record.life_ended(now, orderly, &storage.image);
        if record.violation.is_some() {
            break;
        }
        now = now + life.down;
    }
    now
}

struct Process {
    world: Arc<World>,
    clock: Clock,
    tasks: Tasks,
    store: Arc<MemoryStore>,
    disk: Arc<Weathered>,
    crash: CancellationToken,
    calls: CancellationToken,
    work: CancellationToken,
    watches: CancellationToken,
    outcomes_ended: CancellationToken,
}

impl Process {
    /// Builds the stages as the daemon does.
    fn start(world: &Arc<World>, number: usize, now: Timestamp, life: &Life) -> Self {
        let plan = &world.plan;
        let [crash, calls, work, watches] = std::array::from_fn(|_| CancellationToken::new());
        let (clock, tasks) = (Clock::simulated(now), Tasks::default());
        let commits_left = match life.end {
            End::CrashInCommit(commits) => Some(commits),
            End::Crash(_) | End::Stop(_) | End::Rest(_) => None,
        };
        let disk = Arc::new(Weathered::new(world, number, clock, commits_left, crash.clone()));
        let news = Arc::new(News::bounded(plan.dispatch.hints_max, plan.dispatch.lane_hints_max));
        let store = Arc::new(MemoryStore::open(world.storage.clone(), disk.clone(), news.clone(), &tasks));

        let metrics = Metrics::default();
        let (attempted, attempted_ends) = mpsc::channel(plan.dispatch.in_flight_max);
        let (progress, progress_ends) = mpsc::channel(PROGRESS_MESSAGES);
        let mut jobs = Vec::new();
        for _ in 0..plan.loops {
            let (sender, inbox) = mpsc::channel(plan.dispatch.in_flight_max);
            jobs.push(sender);
            tasks.spawn("deliver", receivers::run(world.clone(), clock, inbox, attempted.clone()));
        }
        let seed = plan.seed.wrapping_add(number as u64);
        let deps = dispatch::Deps {
            store: store.clone(),
            news,
            clock,
            jobs,
            progress: progress_ends,
            seed,
            gates: Arc::default(),
            metrics: metrics.dispatch,
        };
        let dispatch = plan.dispatch.clone().build(deps);
        let outcomes =
            plan.outcomes.clone().build(store.clone(), clock, attempted_ends, progress, seed, metrics.outcomes);
        let retention = retention::Config { interval: Duration::from_secs(30) }.build(store.clone(), clock);
        let bytes_in_flight_max = ACCEPT_BYTES_IN_FLIGHT_MAX;
        let accept = accept::Config { bytes_in_flight_max, deliver_ahead_max: DELIVER_AHEAD_MAX }.build(
            store.clone(),
            clock,
            tasks.clone(),
            metrics.accept,
        );
        let watch = watch::Config { heartbeat: Duration::from_secs(15) }.build(store.clone(), metrics.watch);

        let naps = |stage| World::rng(plan, stage, number);
        // Attempts always end here, so nobody aborts them.
        let outcomes = outcomes.run(CancellationToken::new());
        let outcomes_ended = tasks.spawn_ending("outcomes", dozing(outcomes, plan.weather.naps, naps("outcomes")));
        tasks.spawn("dispatch", dozing(dispatch.run(work.clone()), plan.weather.naps, naps("dispatch")));
        tasks.spawn("retention", retention.run(work.clone()));
        let replaying = replay::Config { interval: Duration::from_secs(1), retention: plan.limits.retention };
        let replaying = replaying.build(store.clone(), clock);
        tasks.spawn("replay", dozing(replaying.run(work.clone()), plan.weather.naps, naps("replay")));
        tasks.spawn("replays", replays::replay(world.clone(), clock, store.clone(), calls.clone()));
        tasks.spawn("repairs", repairs::repair(world.clone(), clock, store.clone(), calls.clone()));
        tasks.spawn("clock", steps::jump(world.clone(), number, clock, calls.clone()));
        tasks.spawn("configure", people::configure(world.clone(), clock, store.clone(), calls.clone()));
        for publisher in 0..plan.traffic.publishers {
            let publish = people::publish(world.clone(), publisher, clock, accept.clone(), calls.clone());
            tasks.spawn("publish", publish);
        }
        for watcher in 0..plan.traffic.watchers {
            tasks.spawn("watch", people::watch(world.clone(), watcher, clock, watch.clone(), watches.clone()));
        }
        let world = world.clone();
        Self { world, clock, tasks, store, disk, crash, calls, work, watches, outcomes_ended }
    }

    /// Lives to the end. Returns when that is, and whether it was an orderly one.
    async fn live(&self, end: End) -> (Timestamp, bool) {
        let violated = self.world.record.lock().violated.clone();
        let orderly = tokio::select! {
            biased;
            () = violated.cancelled() => false,
            name = self.tasks.broken() => {
                self.violate(format_args!("{name} panicked"));
                false
            }
            () = self.crash.cancelled() => false,
            orderly = self.until(end) => orderly,
        };
        (self.clock.now(), orderly)
    }

    async fn until(&self, end: End) -> bool {
        match end {
            End::Crash(span) => {
                sleep(span).await;
                false
            }
            End::CrashInCommit(_) => {
                // If there are not as many commits, it crashes all the same.
                sleep(Duration::from_secs(20)).await;
                false
            }
            End::Stop(span) => {
                sleep(span).await;
                self.stop().await
            }
            End::Rest(span) => {
                sleep(span).await;
                self.rest().await;
                self.stop().await
            }
        }
    }

    /// Nothing new comes and the store is well; waits until all is done, and looks at what is left.
    async fn rest(&self) {
        self.disk.calm();
        self.calls.cancel();
        // Those who hang have their deliveries attempted one at a time in the worst case.
        let backlog = u32::try_from(self.world.record.lock().deliveries()).expect("few");
        // And those of one ordering key one after the other, each with all its attempts.
        let line = self.world.record.lock().longest_line();
        let patience =
            Duration::from_mins(10) + self.world.plan.longest() * (1 + line) + Duration::from_secs(10) * backlog;
        let soon = self.world.plan.longest() + Duration::from_mins(1);
        if timeout(soon, self.done()).await.is_err() {
            // What is owed to those who fail for ever is put off, one probe after the other. Once they are well it flows.
            self.world.record.lock().healed = true;
            let patience = patience + PROBE_AFTER_MAX;
            if timeout(patience, self.done()).await.is_err() {
                let left = self.left();
                return self.violate(format_args!("it does not come to rest within {patience:?}: {left}"));
            }
        }
        let _in_vain = timeout(CATCH_UP_MAX, self.caught_up()).await;
        let world = &self.world;
        for (number, watcher) in world.watchers.iter().enumerate() {
            if watcher.lock().lags(world) {
                self.violate(format_args!("watcher {number} was not shown everything"));
            }
        }
        let storage = world.storage.lock();
        let mut record = world.record.lock();
        record.judge_rest(self.clock.now(), &storage.image);
        for registered in self.store.catalog().list(None, None, usize::MAX) {
            let (no, pending) = (registered.webhook.no, registered.pending());
            let waiting = record.waiting(no);
            if pending != waiting {
                record.violate(self.clock.now(), format_args!("{pending} are said to wait at {no:?}, {waiting} do"));
            }
        }
    }

    async fn done(&self) {
        // At least one, so that the last answers are in.
        loop {
            sleep(Duration::from_secs(1)).await;
            let slices = self.world.storage.lock().image.has_slices();
            if !slices && self.world.record.lock().at_rest() && replays::at_rest(self.store.as_ref()) {
                // What is durable becomes known.
                sleep(Duration::from_secs(1)).await;
                return;
            }
        }
    }

    /// What keeps it from rest, for people.
    fn left(&self) -> String {
        let slices = self.world.storage.lock().image.has_slices();
        let active = self.store.replays().active();
        let active: Vec<_> = active.iter().map(|it| (it.no, it.next, it.last, it.spec.webhook, &it.progress)).collect();
        format!("slices {slices}, {}, replays {active:?}", self.world.record.lock().left())
    }

    async fn caught_up(&self) {
        while self.world.watchers.iter().any(|watcher| watcher.lock().lags(&self.world)) {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Stops as the daemon does. False: it was not done in time.
    async fn stop(&self) -> bool {
        let stopped = timeout(STOP_MAX, async {
            self.calls.cancel();
            self.work.cancel();
            self.outcomes_ended.cancelled().await;
            self.watches.cancel();
            let closed = self.store.close().await;
            self.tasks.ended().await;
            closed
        });
        match stopped.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                self.violate(format_args!("the store does not close: {error}"));
                false
            }
            Err(_) => {
                self.violate(format_args!("it does not stop within {STOP_MAX:?}"));
                false
            }
        }
    }

    fn violate(&self, what: std::fmt::Arguments<'_>) {
        self.world.record.lock().violate(self.clock.now(), what);
    }
}

/// Runs a stage that does not always run when it could, as on a busy machine: with this chance it sleeps up to so many
/// milliseconds first.
async fn dozing<F: Future>(stage: F, (chance, longest_ms): (f64, u64), mut rng: StdRng) -> F::Output {
    let mut stage = pin!(stage);
    let mut nap: Option<Pin<Box<Sleep>>> = None;
    poll_fn(move |context| {
        if nap.is_none() && chance > 0.0 && rng.random_bool(chance) {
            let span = Duration::from_millis(rng.random_range(1..=longest_ms));
            nap = Some(Box::pin(sleep(span)));
        }
        if let Some(sleeping) = &mut nap {
            ready!(sleeping.as_mut().poll(context));
            nap = None;
        }
        match stage.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(output),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
