//! kill -9, again and again, under load, with receivers and watchers that remember everything.
//!
//! `KILLS=200 cargo test -p postrider-tests --test crash -- --nocapture` kills more often than the 30 times of an ordinary
//! run; `SEED=…` repeats the random choices of a run that failed.

mod ledger;
mod load;

use std::{collections::HashMap, time::Duration};

use postrider_tests::{
    client::Client,
    daemon::Setup,
    deadline::{PATIENCE, within},
    receiver::{Answer, Keep, Received, Receiver},
    tools::setting,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    ledger::{Ledger, Receipt},
    load::Load,
};

const BINARY: &str = env!("CARGO_BIN_EXE_postriderd-under-test");
const KILLS: u32 = 30;
/// Most attempts under way, from their start to the commit of their outcome: what a kill may have to repeat.
const IN_FLIGHT_MAX: usize = 30;
const VIOLATIONS_SHOWN: usize = 20;
/// All webhooks get every event: one is always well, one fails at first, one is slow enough that something is always under way.
const PATHS: [&str; 3] = ["/steady", "/flaky", "/slow"];

fn behave(request: &Received) -> Answer {
    match request.path.as_str() {
        "/flaky" if request.attempt == 1 && request.event_id.ends_with(['3', '6', '9']) => Answer::status(500),
        "/slow" => Answer::after(Duration::from_millis(10), 200),
        _ => Answer::status(200),
    }
}

/// Done-item 4, promises 1, 2 and 5: whatever was acknowledged is delivered, nothing is lost; only attempts in flight at a
/// kill are repeated; a watcher that resumes from its cursor sees each outcome once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let number = |name| setting(name).map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number")));
    let kills = number("KILLS").map_or(KILLS, |kills| u32::try_from(kills).expect("a sensible number of kills"));
    let seed = number("SEED").unwrap_or_else(rand::random);
    println!("SEED={seed} KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);

    let setup = Setup::new(BINARY)
        .flag("--retry-schedule", &["50ms"; 100].join(","))
        // Small, so that kills land in the middle of moves to segments as well.
        .flag("--store-hot", "256KiB")
        .flag("--watch-heartbeat", "200ms")
        .flag("--in-flight", &IN_FLIGHT_MAX.to_string());
    let receiver = Receiver::keeping(Keep::Identity, behave).await;
    let load = Load::new(create_webhooks(&setup, &receiver).await);

    for kill in 0..kills {
        load.start_epoch(kill.into());
        if rng.random_ratio(1, 6) {
            die_starting(&setup, &mut rng).await;
        } else {
            die_working(&setup, &load, &mut rng).await;
        }
        receiver.drained().await;
        receiver.start_epoch();
        println!("kill {}: {} acknowledged so far", kill + 1, load.acknowledged());
    }
    load.start_epoch(kills.into());
    let full = finish(&setup, &load).await;
    let receipts = receiver.all().into_iter().map(|request| Receipt {
        webhook: request.path,
        event: request.event_id,
        attempt: request.attempt,
        epoch: request.epoch,
    });
    let ledger = Ledger { receipts: receipts.collect(), full_log: full, ..load.ledger() };
    println!("{}", ledger.summary());
    let violations = ledger.violations(&PATHS, IN_FLIGHT_MAX);
    let shown = violations.iter().take(VIOLATIONS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(violations.is_empty(), "SEED={seed}: {} violations:\n{shown}", violations.len());
    assert!(load.acknowledged() > kills as usize * 10, "the load was too light to prove anything");
}

async fn create_webhooks(setup: &Setup, receiver: &Receiver) -> HashMap<String, String> {
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let mut paths = HashMap::new();
    for path in PATHS {
        paths.insert(client.create(&receiver.url(path), &["*"]).await.id(), path.to_owned());
    }
    daemon.kill().await;
    paths
}

/// Kills the daemon before it serves, or just then.
async fn die_starting(setup: &Setup, rng: &mut StdRng) {
    let daemon = setup.spawn();
    moment(rng, 0..150).await;
    daemon.kill().await;
}

/// Kills the daemon while it accepts, delivers and is watched.
async fn die_working(setup: &Setup, load: &Load, rng: &mut StdRng) {
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let work = async { tokio::join!(load.publish(&client, "a"), load.publish(&client, "b"), load.follow(&client)) };
    let death = async {
        moment(rng, 0..900).await;
        daemon.kill().await;
    };
    within("clients to notice that the daemon is gone", Box::pin(futures::future::join(work, death))).await;
}

/// A kill has no condition to wait for: a random moment is what the test is about.
async fn moment(rng: &mut StdRng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(millis))).await;
}

/// One last, undisturbed round: everything comes to its end. Returns the whole outcome log, read afresh.
async fn finish(setup: &Setup, load: &Load) -> Vec<ledger::Seen> {
    let daemon = setup.start().await;
    let client = daemon.client().await;
    load.publish_unanswered(&client).await;
    let ended = tokio::time::timeout(PATIENCE, load.follow_to_the_end(&client)).await;
    let unfinished = if ended.is_ok() { String::new() } else { load.unfinished(&client).await };
    assert!(ended.is_ok(), "deliveries are pending and nothing comes of them:\n{unfinished}");
    load.check_counters(&client).await;
    let full = read_everything(&client, load).await;
    daemon.stop().await;
    full
}

async fn read_everything(client: &Client, load: &Load) -> Vec<ledger::Seen> {
    let outcomes = client.watch_from_beginning().await.outcomes(load.outcomes()).await;
    outcomes.iter().map(|outcome| load.seen(outcome)).collect()
}
