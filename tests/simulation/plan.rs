//! What a seed stands for: how the daemon is set up, how the world treats it, and when it ends.

use std::time::Duration;

use postrider_server::{dispatch, model::retry::RetryPolicy, outcomes};
use postrider_tests::memory;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// How long an attempt may take.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// A receiver that takes longer is slow.
pub(crate) const SLOW_AFTER: Duration = Duration::from_secs(1);

/// One schedule.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) dispatch: dispatch::Config,
    pub(crate) outcomes: outcomes::Config,
    /// Delivery loops.
    pub(crate) loops: usize,
    pub(crate) limits: memory::Limits,
    pub(crate) weather: Weather,
    pub(crate) traffic: Traffic,
    pub(crate) lives: Vec<Life>,
    /// Longest pause of whoever wants things sent again, if anybody does.
    pub(crate) replay_ms: Option<u64>,
    /// Longest pause of whoever cancels and retries deliveries, if anybody does.
    pub(crate) repair_ms: Option<u64>,
}

/// How the disk and the machine behave.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Longest time a commit takes.
    pub(crate) commit_ms: u64,
    /// Longest time until a durable commit, which reads see, is known to anybody else.
    pub(crate) show_ms: u64,
    /// Longest time until it is answered then.
    pub(crate) answer_ms: u64,
    /// Longest time a read takes, and as long to arrive.
    pub(crate) read_ms: u64,
    /// How often an operation of the store fails.
    pub(crate) failures: f64,
    /// How often a stage does not run at once when it could, and for how long at most.
    pub(crate) naps: (f64, u64),
}

/// Who wants what of the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) tenants: usize,
    /// Webhooks at the beginning.
    pub(crate) webhooks: usize,
    pub(crate) publishers: usize,
    pub(crate) watchers: usize,
    /// Longest pause of a publisher.
    pub(crate) pause_ms: u64,
    /// How often a batch is large.
    pub(crate) bursts: f64,
    /// How often events and creations come twice.
    pub(crate) repeats: f64,
    /// Longest pause between changes of configuration.
    pub(crate) change_ms: u64,
    /// How many of a hundred receivers are healthy.
    pub(crate) healthy: u32,
    /// How often a webhook is ordered.
    pub(crate) ordered: f64,
    /// How often an event is to be sent later.
    pub(crate) scheduled: f64,
    /// How often a webhook wants only some events of its types, by label or by payload.
    pub(crate) filtered: f64,
}

/// One process, from its start to its end.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) end: End,
    /// How long nothing runs afterwards.
    pub(crate) down: Duration,
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// The machine loses power after this time.
    Crash(Duration),
    /// It loses power when this many commits were durable, before anybody has heard of the last one.
    CrashInCommit(u64),
    /// It is stopped in order after this time.
    Stop(Duration),
    /// After this time nothing new comes; it is stopped once all is done.
    Rest(Duration),
}

impl Plan {
    /// The schedule of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let webhook_in_flight_max = rng.random_range(1..=4);
        let delays = [200, 500, 1_000, 3_000, 10_000, 40_000];
        let schedule = (0..rng.random_range(1..=4)).map(|_| Duration::from_millis(delays[rng.random_range(0..6)]));
        let schedule = schedule.collect();
        let jitter = [0.0, 0.2, 0.5][rng.random_range(0..3)];
        let lane_hints_max = rng.random_range(2..=8);
        // A machine is fast in all or slow in some.
        let slowest = if rng.random_bool(0.3) { 1 } else { 5 };
        let mut longest_ms = || [0, 2, 5, 15, 50][rng.random_range(0..slowest)];
        let [commit_ms, mut show_ms, answer_ms, read_ms] = std::array::from_fn(|_| longest_ms());
        let mut naps = [(0.0, 0), (0.0, 0), (0.1, 3), (0.1, 30), (0.3, 200)][rng.random_range(0..5)];
        if rng.random_bool(0.2) {
            // Deliveries are read, made and over before anybody is told that they are due.
            (show_ms, naps) = (150, (0.2, 300));
        }
        Self {
            seed,
            dispatch: dispatch::Config {
                in_flight_max: rng.random_range(4 * webhook_in_flight_max..=20),
                webhook_in_flight_max,
                slow_share: 0.5,
                hints_max: rng.random_range(lane_hints_max..=40),
                lane_hints_max,
                ..dispatch::Config::default()
            },
            outcomes: outcomes::Config {
                retry: RetryPolicy {
                    schedule,
                    jitter,
                    retry_after_max: Duration::from_secs(30),
                    ..RetryPolicy::default()
                },
                slow_after: SLOW_AFTER,
                group_outcomes: rng.random_range(1..=6),
                ..outcomes::Config::default()
            },
            loops: rng.random_range(1..=3),
            limits: memory::Limits {
                retention: Duration::from_hours(240),
                slice_rows_max: rng.random_range(1..=6),
                ..memory::Limits::default()
            },
            weather: Weather {
                commit_ms,
                show_ms,
                answer_ms,
                read_ms,
                failures: if rng.random_bool(0.3) { [0.02, 0.1][rng.random_range(0..2)] } else { 0.0 },
                naps,
            },
            traffic: Traffic {
                tenants: rng.random_range(1..=4),
                webhooks: rng.random_range(1..=10),
                publishers: rng.random_range(1..=3),
                watchers: rng.random_range(1..=3),
                pause_ms: [300, 1_000, 4_000][rng.random_range(0..3)],
                bursts: [0.0, 0.02, 0.1][rng.random_range(0..3)],
                repeats: 0.15,
                change_ms: [3_000, 10_000][rng.random_range(0..2)],
                healthy: [30, 60, 90][rng.random_range(0..3)],
                ordered: [0.0, 0.0, 0.4][rng.random_range(0..3)],
                scheduled: [0.0, 0.0, 0.2][rng.random_range(0..3)],
                filtered: [0.0, 0.5][rng.random_range(0..2)],
            },
            lives: lives(&mut rng),
            replay_ms: [None, None, Some(4_000)][rng.random_range(0..3)],
            repair_ms: [None, None, Some(1_500)][rng.random_range(0..3)],
        }
    }

    /// The longest time from the first attempt of a delivery to its last one, if each starts when it is due.
    pub(crate) fn longest(&self) -> Duration {
        let retry = &self.outcomes.retry;
        retry.schedule.iter().map(|delay| delay.mul_f64(1.0 + retry.jitter).max(retry.retry_after_max)).sum()
    }
}

fn lives(rng: &mut StdRng) -> Vec<Life> {
    let before = rng.random_range(0..=4);
    let mut lives: Vec<_> = (0..before)
        .map(|_| {
            let span = Duration::from_millis(rng.random_range(1..12_000));
            let end = match rng.random_range(0..4) {
                0 => End::CrashInCommit(rng.random_range(1..60)),
                1 => End::Stop(span),
                _ => End::Crash(span),
            };
            Life { end, down: Duration::from_millis(rng.random_range(0..20_000)) }
        })
        .collect();
    let span = Duration::from_millis(rng.random_range(1_000..15_000));
    lives.push(Life { end: End::Rest(span), down: Duration::from_secs(1) });
    lives
}
