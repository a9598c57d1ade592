//! The watch against a scripted server. Time is virtual.

use super::*;
use crate::{
    fake::{Fake, OnWatch},
    v1::{DeliveryUpdate, Outcome, WatchDeliveriesResponse},
};

/// A message with outcomes of the given attempt numbers; 0 stands for a kind of update this client does not know.
fn message(cursor: &str, attempts: &[i32]) -> OnWatch {
    let update = |attempt: &i32| {
        let outcome = Outcome { attempt: *attempt, ..Outcome::default() };
        DeliveryUpdate { update: (*attempt > 0).then_some(Update::Outcome(outcome)) }
    };
    OnWatch::Send(WatchDeliveriesResponse { cursor: cursor.into(), updates: attempts.iter().map(update).collect() })
}

fn end(code: Code) -> OnWatch {
    OnWatch::End(Status::new(code, "scripted"))
}

fn fake(scripts: impl IntoIterator<Item = Vec<OnWatch>>) -> Fake {
    let fake = Fake::default();
    fake.state().watch.extend(scripts);
    fake
}

fn attempt(update: Option<Result<Update, Error>>) -> i32 {
    match update.expect("goes on").expect("no error") {
        Update::Outcome(outcome) => outcome.attempt,
        other @ (Update::WebhookCancelled(_) | Update::OperationalEvent(_)) => panic!("{other:?}"),
    }
}

fn from_beginning() -> WatchDeliveriesRequest {
    WatchDeliveriesRequest { start: Some(Start::FromBeginning(true)), ..Default::default() }
}

fn starts(fake: &Fake) -> Vec<Start> {
    fake.state().watched.iter().filter_map(|request| request.start.clone()).collect()
}

fn cursor(cursor: &str) -> Start {
    Start::Cursor(cursor.into())
}

#[tokio::test(start_paused = true)]
async fn each_update_comes_once_across_breaks() {
    let fake = fake([
        vec![end(Code::Unavailable)],
        vec![message("c0", &[]), message("c1", &[1, 2]), end(Code::Unavailable)],
        vec![end(Code::Internal)],
        vec![message("c1", &[]), message("c2", &[3, 0, 4]), end(Code::Cancelled)],
        vec![message("c3", &[0]), message("c4", &[5])],
    ]);
    let mut watch = fake.serve().watch(from_beginning(), WatchConfig::default());
    for expected in 1..=5 {
        assert_eq!(attempt(watch.next().await), expected);
    }
    assert_eq!(watch.cursor(), Some("c4"));
    let beginning = Start::FromBeginning(true);
    assert_eq!(starts(&fake), [beginning.clone(), beginning, cursor("c1"), cursor("c1"), cursor("c2")]);
}

#[tokio::test(start_paused = true)]
async fn the_cursor_never_runs_ahead_of_what_was_yielded() {
    let fake = fake([vec![message("c0", &[]), message("c1", &[1, 2]), message("c2", &[])]]);
    let mut watch = fake.serve().watch(WatchDeliveriesRequest::default(), WatchConfig::default());
    assert_eq!(watch.cursor(), None);
    assert_eq!(attempt(watch.next().await), 1);
    assert_eq!(watch.cursor(), Some("c0"), "the second update of the batch is still to come");
    assert_eq!(attempt(watch.next().await), 2);
    assert_eq!(watch.cursor(), Some("c1"));
}

#[tokio::test(start_paused = true)]
async fn batches_carry_their_cursor() {
    let fake = fake([vec![message("c0", &[]), message("c1", &[1, 0])]]);
    let batches = fake.serve().watch_batches(from_beginning(), WatchConfig::default());
    let batches: Vec<_> =
        batches.take(2).map(|batch| batch.map(|b| (b.cursor, b.updates.len())).unwrap()).collect().await;
    assert_eq!(batches, [("c0".to_owned(), 0), ("c1".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_opened_again() {
    let fake = fake([
        vec![message("c0", &[]), message("c1", &[1]), OnWatch::Hang],
        vec![OnWatch::Hang],
        vec![message("c2", &[2])],
    ]);
    let mut watch = fake.serve().watch(from_beginning(), WatchConfig::default());
    assert_eq!(attempt(watch.next().await), 1);
    let before = Instant::now();
    assert_eq!(attempt(watch.next().await), 2);
    let silence = WatchConfig::default().silence_max;
    assert!((2 * silence..3 * silence).contains(&before.elapsed()), "{:?}", before.elapsed());
    assert_eq!(starts(&fake)[1..], [cursor("c1"), cursor("c1")]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_ends_with_the_reason() {
    for code in [Code::InvalidArgument, Code::OutOfRange, Code::PermissionDenied, Code::Unimplemented] {
        let fake = fake([vec![message("c1", &[1]), end(code)]]);
        let mut watch = fake.serve().watch(from_beginning(), WatchConfig::default());
        assert_eq!(attempt(watch.next().await), 1);
        assert_eq!(watch.next().await.unwrap().unwrap_err().code(), code);
        assert!(watch.next().await.is_none());
        assert_eq!(watch.cursor(), Some("c1"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_the_watch_only_if_told_so() {
    let outage_max = Duration::from_secs(30);
    let fake = fake([]);
    fake.state().refuse_connections = usize::MAX;
    let config = WatchConfig { outage_max: Some(outage_max), ..WatchConfig::default() };
    let mut watch = fake.serve().watch(from_beginning(), config);
    let before = Instant::now();
    assert_eq!(watch.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!((outage_max..outage_max * 2).contains(&before.elapsed()), "{:?}", before.elapsed());
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_first_message_must_come_before_an_outage_is_too_long() {
    let outage_max = Duration::from_secs(5);
    let config = WatchConfig { outage_max: Some(outage_max), ..WatchConfig::default() };
    for scripts in [
        vec![vec![OnWatch::Hang]],
        vec![vec![end(Code::Unavailable)], vec![OnWatch::Hang]],
        vec![vec![message("c0", &[]), end(Code::Unavailable)], vec![OnWatch::Hang]],
    ] {
        let mut watch = fake(scripts).serve().watch(from_beginning(), config.clone());
        let before = Instant::now();
        assert!(watch.next().await.unwrap().unwrap_err().is_unreachable());
        assert!((outage_max..outage_max * 2).contains(&before.elapsed()), "{:?}", before.elapsed());
        assert!(watch.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn silence_between_messages_is_no_outage() {
    let config = WatchConfig { outage_max: Some(Duration::from_secs(5)), ..WatchConfig::default() };
    let fake = fake([vec![message("c0", &[]), OnWatch::Hang], vec![message("c0", &[]), message("c1", &[1])]]);
    let mut watch = fake.serve().watch(from_beginning(), config);
    let before = Instant::now();
    assert_eq!(attempt(watch.next().await), 1);
    assert!(before.elapsed() >= WatchConfig::default().silence_max);
}

#[tokio::test(start_paused = true)]
async fn a_watch_can_be_heard_before_it_has_updates() {
    let fake = fake([vec![message("c0", &[]), message("c1", &[1, 2]), message("c2", &[3])]]);
    let mut watch = fake.serve().watch(from_beginning(), WatchConfig::default());
    for cursor in ["c0", "c0", "c0"] {
        watch.heard().await.unwrap();
        assert_eq!(watch.cursor(), Some(cursor), "nothing was yielded yet");
    }
    assert_eq!(attempt(watch.next().await), 1);
    assert_eq!(attempt(watch.next().await), 2);
    assert_eq!(watch.cursor(), Some("c1"), "one batch is kept, not more");
    assert_eq!(attempt(watch.next().await), 3);
}

#[tokio::test(start_paused = true)]
async fn with_one_update_a_message_every_update_has_its_place() {
    let fake = fake([vec![message("c0", &[]), message("c1", &[1]), message("c2", &[2])]]);
    let request = WatchDeliveriesRequest { max_updates: 1, ..from_beginning() };
    let mut watch = fake.serve().watch(request, WatchConfig::default());
    for (number, cursor) in [(1, "c1"), (2, "c2")] {
        assert_eq!(attempt(watch.next().await), number);
        assert_eq!(watch.cursor(), Some(cursor));
    }
    assert_eq!(fake.state().watched[0].max_updates, 1);
}
