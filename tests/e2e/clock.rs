//! What becomes of due times, retention and expiry when the machine's clock jumps.

use std::time::{SystemTime, UNIX_EPOCH};

use postrider_proto::v1::{
    Clock, ConfirmClockRequest, DeliveryState, ErrorClass, GetClockRequest, GetEventRequest, ListDeliveriesRequest,
    RetryDeliveryRequest, Webhook,
};
use postrider_tests::{
    client::{Client, webhook},
    daemon::{Daemon, Setup},
    deadline::within,
    events::event,
    ops::{Scrape, ready},
    receiver::{Answer, Receiver},
    wall::Wall,
};
use tonic::Code;

use crate::setup;

const HOUR: i64 = 3_600;
const TEN_YEARS: i64 = 3650 * 24 * HOUR;
/// How much a test may take, in seconds, and clocks read at different moments may differ.
const SLACK: i64 = 50;

/// A daemon that forgets after ten minutes, and tries again after an hour.
fn forgetful() -> (Wall, Setup) {
    let setup = setup().flag("--retention", "10m").flag("--store-hot", "64KiB").flag("--ops", "127.0.0.1:0");
    Wall::of(setup.flag("--retry-schedule", "1h,1h"))
}

#[expect(clippy::disallowed_methods, reason = "what is right, to compare with")]
fn right() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("a small number")
}

async fn clock(client: &Client) -> Clock {
    let call = within("GetClock", async { client.clock.clone().get_clock(GetClockRequest {}).await }).await;
    call.expect("the clock can be asked").into_inner().clock.expect("a reply has the clock")
}

async fn confirm(client: &Client) -> Clock {
    let call = within("ConfirmClock", async { client.clock.clone().confirm_clock(ConfirmClockRequest {}).await }).await;
    call.expect("the clock can be confirmed").into_inner().clock.expect("a reply has the clock")
}

async fn event_code(client: &Client, id: &str) -> Code {
    let request = GetEventRequest { tenant: String::new(), id: id.to_owned() };
    let call = within("GetEvent", async { client.events.clone().get_event(request).await }).await;
    call.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Seconds until the one pending delivery is due, by the right clock.
async fn pending_due(client: &Client) -> i64 {
    let states = vec![DeliveryState::Pending.into()];
    let request = ListDeliveriesRequest { states, ..ListDeliveriesRequest::default() };
    let pending = client.deliveries(request).await;
    let [pending] = pending.as_slice() else { panic!("one is pending: {pending:?}") };
    pending.next_attempt_time.expect("it is due some time").seconds - right()
}

fn assert_near(what: &str, seconds: i64, expected: i64) {
    assert!((seconds - expected).abs() < SLACK, "{what}: {seconds}, not about {expected}");
}

/// Fails what comes to `/fails`.
async fn receiver() -> Receiver {
    Receiver::start(|request| Answer::status(if request.path == "/fails" { 500 } else { 200 })).await
}

/// Has an event delivered, and another one fail once, to be tried again in an hour.
async fn begin(client: &Client, receiver: &Receiver) {
    client.create(&receiver.url("/fails"), &["NEW_LEAD"]).await;
    client.create(&receiver.url("/works"), &["ADD_TAG"]).await;
    let mut watch = client.watch().await;
    client.publish([event("works", "ADD_TAG", "{}"), event("fails", "NEW_LEAD", "{}")]).await;
    watch.outcomes(2).await;
}

fn attempts(receiver: &Receiver, path: &str) -> usize {
    receiver.all().iter().filter(|request| request.path == path).count()
}

/// The daemon does its work, has repeated nothing and removed nothing.
async fn check(daemon: &Daemon, receiver: &Receiver, name: &str, ahead: i64) {
    let client = daemon.client().await;
    let (fails, works) = (attempts(receiver, "/fails"), attempts(receiver, "/works"));
    let mut watch = client.watch().await;
    client.publish([event(name, "ADD_TAG", "{}")]).await;
    watch.outcome(DeliveryState::Delivered).await;
    assert_eq!((attempts(receiver, "/fails"), attempts(receiver, "/works")), (fails, works + 1), "{name}");
    // Receivers compare that with their clocks.
    let signed = receiver.all().pop().expect("it was received").header("webhook-timestamp").parse::<i64>();
    assert_near(name, signed.expect("seconds"), right() + ahead);
    for _ in 0..20 {
        assert_eq!(event_code(&client, "works").await, Code::Ok, "{name}");
    }
    assert!(ready(daemon.ops().await).await.0, "{name}");
}

/// The issue: jumps of an hour and of ten years while it runs repeat nothing early, remove nothing, hold up nothing. More than an
/// hour is doubted, said so, and forgotten when it is right again.
#[tokio::test]
async fn jumps_while_it_runs_change_nothing() {
    let (wall, setup) = forgetful();
    let daemon = setup.start().await;
    let (client, receiver) = (daemon.client().await, receiver().await);
    begin(&client, &receiver).await;
    let due = pending_due(&client).await;
    let ops = daemon.ops().await;
    for (name, ahead, doubted) in [
        ("an-hour", HOUR - SLACK, 0),
        ("an-hour-back", SLACK - HOUR, 0),
        ("two-hours", 2 * HOUR, 1),
        ("years", TEN_YEARS, 1),
        ("years-back", -TEN_YEARS, 1),
        ("right", 0, 0),
    ] {
        wall.set(ahead);
        let expected = f64::from(i32::try_from(ahead).expect("a few years"));
        let told = |scrape: &Scrape| {
            let is_near = (scrape.value("clock_ahead_seconds") - expected).abs() < 1.0;
            is_near && scrape.count("clock_doubted") == doubted
        };
        Scrape::until(ops, name, told).await;
        check(&daemon, &receiver, name, ahead).await;
        assert_near(name, pending_due(&client).await, due);
        let shown = clock(&client).await;
        assert_near(name, shown.server_time.expect("set").seconds, right());
        assert_near(name, shown.machine_time.expect("set").seconds, right() + ahead);
        assert_eq!((shown.doubted_since.is_some(), shown.confirmed), (doubted == 1, false));
    }
    let log = daemon.log();
    assert!(log.contains("postrider clock confirm") && log.contains("is right again"), "{log}");
    daemon.stop().await;
}

/// While there is doubt nothing is given up for its age, before an attempt or after one; and what is too old is, when it is over.
#[tokio::test]
async fn nothing_expires_while_there_is_doubt() {
    let (wall, setup) = forgetful();
    let daemon = setup.start().await;
    let (client, receiver, ops) = (daemon.client().await, receiver().await, daemon.ops().await);
    wall.set(2 * HOUR);
    Scrape::until(ops, "doubt", |scrape| scrape.count("clock_doubted") == 1).await;
    let max_age = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    client.create_as(Webhook { max_age, ..webhook("", &receiver.url("/fails"), &["NEW_LEAD"]) }).await;
    let mut watch = client.watch().await;
    let published = clock(&client).await.server_time.expect("set").seconds;
    client.publish([event("fails", "NEW_LEAD", "{}")]).await;
    // It would come in an hour, and is not too late.
    let first = watch.outcome(DeliveryState::Pending).await;
    let old = async { while clock(&client).await.server_time.expect("set").seconds < published + 3 {} };
    within("it to be too old", old).await;
    let retry = async || {
        let request = RetryDeliveryRequest { tenant: String::new(), id: first.delivery_id.clone() };
        let call = within("RetryDelivery", async { client.deliveries.clone().retry_delivery(request).await }).await;
        call.expect("it is pending");
    };
    retry().await;
    let second = watch.outcome(DeliveryState::Pending).await;
    assert_eq!((second.attempt, second.error_class()), (2, ErrorClass::HttpStatus));
    wall.set(0);
    Scrape::until(ops, "no doubt", |scrape| scrape.count("clock_doubted") == 0).await;
    retry().await;
    let last = watch.outcome(DeliveryState::Failed).await;
    assert_eq!((last.error_class(), attempts(&receiver, "/fails")), (ErrorClass::Expired, 2));
    daemon.stop().await;
}

/// The same between two runs: the second one goes on where the first one left off.
#[tokio::test]
async fn jumps_between_runs_change_nothing() {
    for (name, ahead) in
        [("years", TEN_YEARS), ("months", 32 * 24 * HOUR), ("back", -2 * HOUR), ("years-back", -TEN_YEARS)]
    {
        let (wall, setup) = forgetful();
        let daemon = setup.start().await;
        let receiver = receiver().await;
        begin(&daemon.client().await, &receiver).await;
        let due = pending_due(&daemon.client().await).await;
        daemon.kill().await;
        wall.set(ahead);
        for run in ["one", "two"] {
            let daemon = setup.start().await;
            daemon.logged("postrider clock confirm").await;
            check(&daemon, &receiver, &format!("{name}-{run}"), ahead).await;
            assert_near(name, pending_due(&daemon.client().await).await, due);
            assert_eq!(Scrape::of(daemon.ops().await).await.count("clock_doubted"), 1);
            daemon.stop().await;
        }
        wall.set(0);
        let daemon = setup.start().await;
        check(&daemon, &receiver, &format!("{name}-right"), 0).await;
        assert_eq!(Scrape::of(daemon.ops().await).await.count("clock_doubted"), 0);
        daemon.stop().await;
    }
}

/// What an operator confirms is so, and durably: from the next start on what is due by the machine's clock is sent, and what is
/// too old by it is removed; and a clock that is then set right has to be confirmed as well.
#[tokio::test]
async fn a_jump_that_is_confirmed_is_the_time() {
    let (wall, setup) = forgetful();
    let daemon = setup.start().await;
    let receiver = receiver().await;
    begin(&daemon.client().await, &receiver).await;
    daemon.stop().await;

    wall.set(TEN_YEARS);
    let daemon = setup.start().await;
    let client = daemon.client().await;
    assert!(clock(&client).await.doubted_since.is_some());
    let confirmed = confirm(&client).await;
    assert!(confirmed.confirmed && confirmed.doubted_since.is_none(), "{confirmed:?}");
    assert_near("ahead", confirmed.ahead.expect("set").seconds, TEN_YEARS);
    assert_near("until the restart", confirmed.server_time.expect("set").seconds, right());
    check(&daemon, &receiver, "confirmed", TEN_YEARS).await;
    daemon.kill().await;

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let shown = clock(&client).await;
    assert_near("now", shown.server_time.expect("set").seconds, right() + TEN_YEARS);
    assert!(shown.doubted_since.is_none() && !shown.confirmed, "{shown:?}");
    let again = async {
        while attempts(&receiver, "/fails") < 2 {
            tokio::task::yield_now().await;
        }
    };
    within("the retry that is due", again).await;
    let removed = async { while event_code(&client, "works").await == Code::Ok {} };
    within("what is too old to be removed", removed).await;
    daemon.stop().await;

    wall.set(0);
    let daemon = setup.start().await;
    assert!(clock(&daemon.client().await).await.doubted_since.is_some());
    daemon.stop().await;
}

/// A due time from a clock that was ten years ahead is not waited for: its delay is. Neither is it forgotten nor early.
#[tokio::test]
async fn what_a_clock_ahead_put_off_is_due_after_its_delay() {
    let (wall, setup) = Wall::of(setup().flag("--retry-schedule", "5s,1h").flag("--retry-jitter", "0"));
    wall.set(TEN_YEARS);
    let daemon = setup.start().await;
    let receiver = receiver().await;
    let client = daemon.client().await;
    client.create(&receiver.url("/fails"), &["NEW_LEAD"]).await;
    let mut watch = client.watch().await;
    client.publish([event("fails", "NEW_LEAD", "{}")]).await;
    watch.outcome(DeliveryState::Pending).await;
    daemon.stop().await;

    wall.set(0);
    let begun = right();
    let daemon = setup.clone().argument("--confirm-clock").start().await;
    let client = daemon.client().await;
    assert_near("confirmed", clock(&client).await.server_time.expect("set").seconds, begun);
    let outcome = client.watch_from_beginning().await.outcomes(2).await.remove(1);
    assert_eq!((outcome.attempt, outcome.error_class()), (2, ErrorClass::HttpStatus));
    let second = outcome.time.expect("set").seconds;
    assert!((begun + 4..begun + SLACK).contains(&second), "{second} after {begun}");
    assert_near("and the next in an hour", pending_due(&client).await, HOUR);
    daemon.stop().await;
}
