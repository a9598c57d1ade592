//! The course of a soak: one life of the daemon after the other.

use std::{
    collections::HashMap,
    env,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use postrider_tests::{
    client::Client,
    daemon::{Daemon, Setup},
    receiver::{Answer, Keep, Received, Receiver},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use crate::{
    DAEMON_NAME,
    fleet::{self, ATTEMPT_TIMEOUT, EVENT_TYPES, FAN_OUT, SCHEDULE, WEBHOOKS},
    ledger::{Ending, Ledger, Request},
    load::{Load, Pace},
    options::Options,
    report::Report,
    samples::Sample,
};

/// Receivers; webhooks take turns over them.
const RECEIVERS: usize = 10;
/// The daemon's `--in-flight`: what one kill may have to repeat.
const IN_FLIGHT_MAX: u32 = 512;
/// At least so many lives, unless long ones are asked for: what `--life` says by itself is for a soak of twenty minutes.
const LIVES_MIN: u32 = 6;
/// Lives that are not shortened to make them as many.
const LIFE_LONG: Duration = Duration::from_secs(90);
/// A life is at least so many times shorter than the longest.
const LIFE_SPREAD: u32 = 8;
/// How many of ten lives end with SIGKILL.
const KILLS_OF_TEN: u32 = 6;
/// Until the load is steady; then capacity is measured.
const WARM_UP: Duration = Duration::from_secs(3);
/// Longest measurement of capacity.
const MEASURE_MAX: Duration = Duration::from_secs(15);
/// How often the daemon is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Every how many samples a line is printed.
const SAMPLES_PER_LINE: usize = 30;
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Grace of the daemon, 10 s, and the second within which it ends after it, twice.
const STOP_PATIENCE: Duration = Duration::from_secs(22);
/// How long there may be no outcome at all while something is pending and nothing more is published; retries are seconds apart.
const SETTLE_PATIENCE: Duration = Duration::from_mins(1);
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);
/// Idle messages of the watcher after which it has seen all that was committed before, and anything that comes once too often.
const IDLE_MESSAGES: u64 = 10;

/// Runs a soak.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("soak of {} minutes, --seed {seed}", options.minutes);
    let ledger = Arc::new(Mutex::new(Ledger::new(IN_FLIGHT_MAX)));
    let mut receivers = Vec::new();
    for _ in 0..RECEIVERS {
        let ledger = ledger.clone();
        receivers.push(Receiver::keeping(Keep::Nothing, move |received| answer(&ledger, received)).await);
    }
    let setup = Setup::new(env::current_exe()?.to_str().context("a path that is text")?)
        .named(DAEMON_NAME)
        .flag("--retention", "1m")
        .flag("--retry-schedule", SCHEDULE)
        .flag("--attempt-timeout", ATTEMPT_TIMEOUT)
        .flag("--in-flight", &IN_FLIGHT_MAX.to_string())
        .flag("--watch-heartbeat", "200ms");
    let webhooks = create_webhooks(&setup, &receivers).await?;
    let mut soak = Soak {
        load: Load::new(ledger.clone(), webhooks),
        ledger,
        receivers,
        setup,
        rng: StdRng::seed_from_u64(seed),
        until: Instant::now() + Duration::from_mins(options.minutes.into()),
        life_max: life_max(options),
        capacity: None,
        rate: options.rate,
        slowest_start: Duration::ZERO,
        samples: Vec::new(),
    };
    while soak.live().await?.is_continue() {}
    Ok(soak.report(options.minutes, seed))
}

async fn create_webhooks(setup: &Setup, receivers: &[Receiver]) -> Result<HashMap<String, usize>> {
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let mut webhooks = HashMap::new();
    for webhook in 0..WEBHOOKS {
        let url = receivers[webhook % receivers.len()].url(&format!("/{webhook}"));
        webhooks.insert(client.create(&url, &[EVENT_TYPES[fleet::event_type(webhook)]]).await.id(), webhook);
    }
    ensure!(webhooks.len() == WEBHOOKS, "webhooks share ids");
    daemon.stop().await;
    Ok(webhooks)
}

/// What a receiver does with a request, once it is in the ledger.
fn answer(ledger: &Mutex<Ledger>, received: &Received) -> Answer {
    let webhook = received.path.trim_start_matches('/').parse().expect("the daemon posts to the URLs it was given");
    ledger.lock().arrived(&Request {
        webhook,
        event: &received.event_id,
        attempt: received.attempt,
        delivery: received.header("webhook-delivery-id"),
        body: &received.body,
    });
    let number = fleet::number(&received.event_id).unwrap_or_default();
    fleet::status(webhook, number, received.attempt).map_or(Answer::Hang, Answer::status)
}

struct Soak {
    ledger: Arc<Mutex<Ledger>>,
    load: Load,
    receivers: Vec<Receiver>,
    setup: Setup,
    rng: StdRng,
    /// When the last life ends.
    until: Instant,
    life_max: Duration,
    /// Events per second.
    capacity: Option<f64>,
    /// Events per second, once it is known.
    rate: Option<f64>,
    slowest_start: Duration,
    samples: Vec<Sample>,
}

impl Soak {
    /// One life of the daemon, from its start until it is gone and all of its requests are in the ledger.
    async fn live(&mut self) -> Result<ControlFlow<()>> {
        let start = Instant::now();
        let daemon = self.setup.start().await;
        self.slowest_start = self.slowest_start.max(start.elapsed());
        let client = daemon.client().await;
        if self.rate.is_none() {
            let capacity = self.measure_capacity(&client).await;
            ensure!(capacity > 0.0, "nothing is delivered; the daemon's log:\n{}", daemon.log());
            eprintln!("capacity: {capacity:.0} events/s, {:.0} deliveries/s", capacity * deliveries_per_event());
            self.capacity = Some(capacity);
            self.rate = Some(capacity / 2.0);
        }
        self.load.set_pace(Pace::Rate(self.rate.context("just set")?));
        let life = self.rng.random_range(self.life_max / LIFE_SPREAD..=self.life_max);
        let kill = self.rng.random_ratio(KILLS_OF_TEN, 10);
        let death = Instant::now() + life;
        let last = death >= self.until;
        let ending = if kill && !last { Ending::Killed } else { Ending::Stopped };
        let (load, samples, ledger) = (&self.load, &mut self.samples, &self.ledger);
        let data = self.setup.data().to_owned();
        let course = async {
            watch_over(&daemon, &data, load, ledger, samples, death.min(self.until)).await;
            if last {
                load.set_pace(Pace::Rest);
                settle(load, ledger, &client).await;
            }
            match ending {
                Ending::Killed => daemon.kill().await,
                Ending::Stopped => stop(daemon, ledger).await,
            }
        };
        tokio::join!(load.publish(&client, 0), load.publish(&client, 1), load.follow(&client), course);
        for receiver in &self.receivers {
            receiver.drained().await;
        }
        self.ledger.lock().end_life(ending);
        Ok(if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Events per second, when as many are published as are delivered.
    async fn measure_capacity(&self, client: &Client) -> f64 {
        let load = &self.load;
        load.set_pace(Pace::Full);
        let measure = async {
            sleep(WARM_UP).await;
            let (start, before) = (Instant::now(), self.ledger.lock().counts.begun);
            sleep((self.life_max / 2).min(MEASURE_MAX)).await;
            let begun = u32::try_from(self.ledger.lock().counts.begun - before).unwrap_or(u32::MAX);
            f64::from(begun) / start.elapsed().as_secs_f64() / deliveries_per_event()
        };
        tokio::select! {
            capacity = measure => capacity,
            // All of these end only when the daemon is gone.
            _ = async { tokio::join!(load.publish(client, 0), load.publish(client, 1), load.follow(client)) } => 0.0,
        }
    }

    fn report(self, minutes: u32, seed: u64) -> Report {
        let mut ledger = self.ledger.lock();
        ledger.finish();
        let (violations, first) = ledger.violations();
        Report {
            seed,
            minutes,
            capacity: self.capacity,
            rate: self.rate.unwrap_or_default(),
            counts: ledger.counts,
            endings: ledger.endings().to_vec(),
            repeats_max: ledger.repeats_max(),
            slowest_start: self.slowest_start,
            samples: self.samples,
            violations,
            first_violations: first.to_vec(),
        }
    }
}

/// Longest life of a daemon.
fn life_max(options: &Options) -> Duration {
    let asked = Duration::from_secs(options.life.into());
    let shorter = Duration::from_mins(options.minutes.into()) / LIVES_MIN;
    if asked > LIFE_LONG { asked } else { asked.min(shorter) }
}

fn deliveries_per_event() -> f64 {
    f64::from(u32::try_from(FAN_OUT).expect("few webhooks"))
}

/// Looks at the daemon every second until it is to end.
async fn watch_over(
    daemon: &Daemon,
    data: &Path,
    load: &Load,
    ledger: &Mutex<Ledger>,
    samples: &mut Vec<Sample>,
    until: Instant,
) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = sleep_until(until.into()) => return,
            _ = ticks.tick() => {}
        }
        samples.extend(Sample::take(daemon.pid(), data));
        if samples.len().is_multiple_of(SAMPLES_PER_LINE)
            && let Some(sample) = samples.last()
        {
            let mut ledger = ledger.lock();
            ledger.tidy(load.now_secs());
            print_line(&ledger, sample, load.now_secs());
        }
    }
}

fn print_line(ledger: &Ledger, sample: &Sample, now_secs: u32) {
    let counts = &ledger.counts;
    let Sample { resident_mib, descriptors, hot_mib, segments_mib, segments } = sample;
    eprintln!(
        "{now_secs:>5} s: {} acknowledged, {} delivered, {} given up, {} waiting; {} restarts, {} repeats; RSS {resident_mib:.0} MiB, \
         {descriptors} descriptors, hot.redb {hot_mib:.0} MiB, {segments} segments {segments_mib:.0} MiB; {} violations",
        counts.acknowledged,
        counts.delivered,
        counts.failed,
        ledger.untried(),
        ledger.endings().len(),
        counts.repeats,
        ledger.violations().0,
    );
}

/// Waits until everything published has come to its end, or the daemon says so.
async fn settle(load: &Load, ledger: &Mutex<Ledger>, client: &Client) {
    let (mut deadline, mut outcomes) = (Instant::now() + SETTLE_PATIENCE, 0);
    let mut next_line = Instant::now() + LINE_INTERVAL;
    while Instant::now() < deadline {
        sleep(SETTLE_INTERVAL).await;
        let (complete, unfinished, seen) = {
            let ledger = ledger.lock();
            (ledger.is_complete(), ledger.unfinished(), ledger.counts.outcomes)
        };
        if seen > outcomes {
            (deadline, outcomes) = (Instant::now() + SETTLE_PATIENCE, seen);
        }
        if complete || !load.is_pending(client).await {
            break;
        }
        if Instant::now() >= next_line {
            next_line += LINE_INTERVAL;
            eprintln!("{:>5} s: nothing more is published; {unfinished} deliveries to go", load.now_secs());
        }
    }
    // What is missing after this is lost; what comes is too much.
    let idle = load.idle_messages();
    while Instant::now() < deadline && load.idle_messages() < idle + IDLE_MESSAGES {
        sleep(SETTLE_INTERVAL).await;
    }
}

/// SIGTERM, after which it must end well.
async fn stop(daemon: Daemon, ledger: &Mutex<Ledger>) {
    daemon.terminate();
    let ended = daemon.ended(STOP_PATIENCE).await;
    if !ended.status.success() {
        ledger.lock().ended_badly(&format!("{}; its log:\n{}", ended.status, ended.log));
    }
}
