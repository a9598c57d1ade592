//! The real stages of the daemon under a virtual clock, over a store in memory that fails and crashes, with scripted receivers:
//! seeded schedules of publishes, changes, failures, crashes and restarts, checked against the promises.
//!
//! `cargo test` runs a fixed set of schedules and one of a random seed, which it prints. A longer run, and one schedule again:
//!
//! ```text
//! SEEDS=20000 cargo test -p postrider-tests --test simulation -- --nocapture
//! SEED=4711 cargo test -p postrider-tests --test simulation -- --nocapture
//! ```
//!
//! Deliberately absent: the HTTP client, the engine on redb, and threads. A schedule has one thread and one source of chance,
//! so that its seed says everything about it.

mod life;
mod people;
mod plan;
mod receivers;
mod record;
mod repairs;
mod replays;
mod steps;
mod trace;
mod world;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use parking_lot::Mutex;

use self::{plan::Plan, world::World};

/// Schedules that every run of the tests goes through.
const FIXED_SEEDS: u64 = 300;

/// What is left of a run.
struct Outcome {
    fingerprint: (u64, u64),
    failure: Option<String>,
}

fn run(plan: Plan) -> Outcome {
    let seed = plan.seed;
    let world = World::new(plan);
    life::run(&world);
    let record = world.record.lock();
    let failure = record.violation.as_ref().map(|violation| {
        let (tail, plan) = (record.trace.tail(), &world.plan);
        format!(
            "seed {seed} breaks a promise: {violation}\n{tail}{plan:?}\nseed {seed} breaks a promise: {violation}\n"
        )
    });
    Outcome { fingerprint: record.trace.fingerprint(), failure }
}

/// Runs the schedules of these seeds, on all cores, up to the first one that fails.
fn run_all(first: u64, count: u64) {
    let (next, failures) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let work = || {
        while failures.lock().is_empty() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            failures.lock().extend(run(Plan::of(first.wrapping_add(number))).failure);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some(failure) = failures.into_inner().first() {
        panic!("{failure}");
    }
}

#[expect(clippy::disallowed_methods, reason = "what to run is for the caller of the tests to say")]
fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn every_schedule_keeps_the_promises() {
    if let Some(seed) = setting("SEED") {
        return run_all(seed, 1);
    }
    run_all(0, setting("SEEDS").unwrap_or(FIXED_SEEDS));
    let seed = rand::random();
    println!("a random seed: {seed}");
    run_all(seed, 1);
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for seed in 0..40 {
        let [first, second] = [(); 2].map(|()| run(Plan::of(seed)).fingerprint);
        assert_eq!(first, second, "seed {seed}");
    }
}
