//! The publisher against a scripted server. Time is virtual.

use std::time::Duration;

use futures::{FutureExt as _, future::join_all};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;
use crate::fake::{Fake, OnPublish};

fn event(id: &str) -> Event {
    let body = Payload::Body(bytes::Bytes::from_static(b"{}"));
    Event { id: id.into(), r#type: "ADD_TAG".into(), payload: Some(body), ..Event::default() }
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("e{n}")).collect()
}

fn fake(scripts: impl IntoIterator<Item = Vec<OnPublish>>) -> Fake {
    let fake = Fake::default();
    fake.state().publish.extend(scripts);
    fake
}

fn end(code: Code) -> OnPublish {
    OnPublish::End(Status::new(code, "scripted"))
}

/// Publishes `e0…` to a server with these scripts, all at once.
async fn publish_all(fake: &Fake, count: usize) -> Vec<Result<Receipt, PublishError>> {
    let publisher = fake.serve().publisher(PublisherConfig::default());
    let mut pending = Vec::new();
    for id in ids(0..count) {
        pending.push(publisher.send(event(&id)).await.expect("there is room"));
    }
    let answers = join_all(pending).await;
    drop(publisher.close().await);
    answers
}

fn codes(answers: &[Result<Receipt, PublishError>]) -> Vec<Code> {
    answers
        .iter()
        .map(|answer| match answer {
            Ok(receipt) => {
                assert!(!receipt.duplicate, "{receipt:?}");
                Code::Ok
            }
            Err(error) => error.error().map_or(Code::Unknown, Error::code),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn events_arrive_in_order_and_close_flushes() {
    let fake = fake([]);
    let publisher = fake.serve().publisher(PublisherConfig::default());
    let mut pending = Vec::new();
    for id in ids(0..3000) {
        pending.push(publisher.send(event(&id)).await.unwrap());
    }
    publisher.close().await.unwrap();
    assert_eq!(fake.state().stored.len(), 3000, "close waits for everything sent");
    for pending in pending {
        let id = pending.event_id().to_owned();
        let receipt = pending.await.unwrap();
        assert_eq!(receipt, Receipt { event_id: id, deliveries: 1, duplicate: false });
    }
    assert_eq!(fake.state().stored, ids(0..3000));
    assert_eq!(fake.state().received.len(), 1, "one stream is enough");
}

#[tokio::test(start_paused = true)]
async fn ids_are_assigned_once_and_in_the_server_s_shape() {
    let fake = fake([vec![OnPublish::Swallow(1), end(Code::Unavailable)]]);
    let publisher = fake.serve().publisher(PublisherConfig::default());
    let receipt = publisher.publish(event("")).await.unwrap();
    assert!(receipt.event_id.starts_with("evt_") && receipt.event_id.len() == 36, "{receipt:?}");
    assert!(!receipt.duplicate, "the duplicate of our own resend");
    assert_eq!(fake.state().stored, [receipt.event_id]);
}

#[tokio::test(start_paused = true)]
async fn after_a_break_the_unanswered_are_resent_in_order_without_doubling() {
    use OnPublish::{Accept, Swallow};
    for code in [Code::Unavailable, Code::Internal, Code::Cancelled, Code::Unknown] {
        let fake = fake([
            vec![Accept(3), Swallow(4), end(code)],
            vec![end(code)],
            vec![Accept(1), end(code)],
            vec![Swallow(9), end(code)],
        ]);
        let answers = publish_all(&fake, 40).await;
        assert_eq!(codes(&answers), [Code::Ok; 40], "{code}");
        let state = fake.state();
        assert_eq!(state.stored, ids(0..40));
        for (received, from) in state.received.iter().zip([0, 3, 4, 4]) {
            assert!(ids(from..40).starts_with(received), "{code}: from e{from}: {received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let fake = fake([]);
    fake.state().refuse_connections = 5;
    assert_eq!(codes(&publish_all(&fake, 3).await), [Code::Ok; 3]);
}

#[tokio::test(start_paused = true)]
async fn the_duplicate_of_somebody_else_is_reported() {
    let fake = fake([]);
    let publisher = fake.serve().publisher(PublisherConfig::default());
    assert!(!publisher.publish(event("same")).await.unwrap().duplicate);
    assert!(publisher.publish(event("same")).await.unwrap().duplicate);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_event_fails_alone_and_at_once() {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(Duration::from_secs(5)));
    let full = Status::with_error_details(Code::ResourceExhausted, "full", details);
    let wrong = Status::with_error_details(Code::InvalidArgument, "wrong", ErrorDetails::new());
    let script = vec![OnPublish::Accept(1), OnPublish::Reject(full), OnPublish::Reject(wrong)];
    let fake = fake([script]);
    let answers = publish_all(&fake, 4).await;
    assert_eq!(codes(&answers), [Code::Ok, Code::ResourceExhausted, Code::InvalidArgument, Code::Ok]);
    let error = answers[1].as_ref().unwrap_err().error().unwrap();
    assert_eq!(error.retry_delay(), Some(Duration::from_secs(5)));
    assert_eq!(fake.state().stored, ["e0", "e3"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_rejected_as_unavailable_is_sent_again() {
    let stopping = Status::with_error_details(Code::Unavailable, "stopping", ErrorDetails::new());
    let fake = fake([vec![OnPublish::Accept(1), OnPublish::Reject(stopping), OnPublish::Swallow(1)]]);
    assert_eq!(codes(&publish_all(&fake, 3).await), [Code::Ok; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_breaks_the_stream_is_not_sent_for_ever() {
    for code in [Code::ResourceExhausted, Code::OutOfRange, Code::InvalidArgument] {
        let fake = fake([vec![OnPublish::Accept(2), end(code)]]);
        let answers = publish_all(&fake, 5).await;
        assert_eq!(codes(&answers), [Code::Ok, Code::Ok, code, Code::Ok, Code::Ok]);
        assert_eq!(fake.state().stored, ["e0", "e1", "e3", "e4"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_may_not_publish_is_told_so_for_every_event() {
    for code in [Code::Unimplemented, Code::PermissionDenied, Code::Unauthenticated] {
        let fake = fake([vec![end(code)]]);
        let config = PublisherConfig { events_in_flight_max: 2, ..PublisherConfig::default() };
        let publisher = fake.serve().publisher(config);
        let first = publisher.send(event("a")).await.unwrap();
        let second = publisher.send(event("b")).await.unwrap();
        // This one waits for room, which never comes.
        let third = publisher.publish(event("c"));
        let (first, second, third) = tokio::join!(first, second, third);
        let fourth = publisher.publish(event("d")).await;
        for answer in [first, second, third, fourth] {
            let error = answer.unwrap_err();
            assert!(matches!(&error, PublishError::Stopped(error) if error.code() == code), "{error:?}");
        }
        assert!(matches!(publisher.close().await, Err(PublishError::Stopped(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_bounds_what_is_in_flight() {
    // By count, and by bytes: each of these events weighs a little over 256 bytes.
    for (events_max, bytes_max) in [(3, usize::MAX), (1000, 3 * 300)] {
        let fake = fake([vec![OnPublish::Hang], vec![]]);
        let config = PublisherConfig {
            events_in_flight_max: events_max,
            bytes_in_flight_max: bytes_max,
            answer_within: Some(Duration::from_mins(1)),
            ..PublisherConfig::default()
        };
        let publisher = fake.serve().publisher(config);
        let mut pending = Vec::new();
        for id in ids(0..3) {
            pending.push(publisher.send(event(&id)).await.unwrap());
        }
        assert!(publisher.send(event("full")).now_or_never().is_none());
        // The one that gave up took no room with it: as soon as there is an answer, the next fits.
        let next = publisher.send(event("next")).await.unwrap();
        assert!(matches!(pending.remove(0).await, Err(PublishError::Unanswered { .. })));
        assert!(next.await.is_ok());
        assert_eq!(fake.state().stored, ["next"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_larger_than_the_window_still_fits() {
    let fake = fake([]);
    let config = PublisherConfig { bytes_in_flight_max: 10, ..PublisherConfig::default() };
    let publisher = fake.serve().publisher(config);
    assert!(publisher.publish(event("large")).await.is_ok());
    assert!(publisher.publish(event("and another")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn dropped_futures_do_not_wedge_the_publisher() {
    let fake = fake([vec![OnPublish::Accept(5), end(Code::Unavailable)]]);
    let config = PublisherConfig { events_in_flight_max: 2, ..PublisherConfig::default() };
    let publisher = fake.serve().publisher(config);
    for id in ids(0..20) {
        drop(publisher.send(event("never polled twice")).now_or_never().filter(|_| false));
        drop(publisher.send(event(&id)).await.unwrap());
    }
    publisher.close().await.unwrap();
    let mut stored = fake.state().stored.clone();
    stored.retain(|id| id != "never polled twice");
    assert_eq!(stored, ids(0..20));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_event_fails_in_time() {
    let within = Duration::from_secs(8);
    let config = PublisherConfig { answer_within: Some(within), ..PublisherConfig::default() };

    let hanging = fake([vec![OnPublish::Hang]]);
    let publisher = hanging.serve().publisher(config.clone());
    let started = Instant::now();
    let error = publisher.publish(event("a")).await.unwrap_err();
    assert!(matches!(&error, PublishError::Unanswered { error: None, .. }), "{error:?}");
    assert!((within..within * 2).contains(&started.elapsed()), "{:?}", started.elapsed());

    let gone = fake([]);
    gone.state().refuse_connections = usize::MAX;
    let publisher = gone.serve().publisher(config);
    let started = Instant::now();
    let error = publisher.publish(event("a")).await.unwrap_err();
    assert_eq!(error.error().map(Error::code), Some(Code::Unavailable), "{error:?}");
    assert!((within..within * 2).contains(&started.elapsed()), "{:?}", started.elapsed());
    publisher.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_not_sent() {
    let fake = fake([]);
    let client = fake.serve();
    let publisher = client.publisher(PublisherConfig::default());
    let with_body = |bytes: usize| Event { payload: Some(Payload::Body(vec![0; bytes].into())), ..event("body") };
    let mut wide = event("wide");
    wide.labels.insert("key".into(), "x".repeat(MESSAGE_BYTES_MAX));
    for (event, part) in [(with_body(EVENT_BODY_BYTES_MAX + 1), "body"), (wide, "message")] {
        for result in [publisher.publish(event.clone()).await, client.publish_event(event).await] {
            let error = result.unwrap_err();
            assert!(matches!(&error, PublishError::TooLarge { part: p, .. } if *p == part), "{error:?}");
        }
    }
    assert!(publisher.publish(with_body(EVENT_BODY_BYTES_MAX)).await.is_ok());
    assert_eq!(fake.state().stored, ["body"]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_publisher_abandons_the_unanswered() {
    let fake = fake([vec![OnPublish::Hang]]);
    let publisher = fake.serve().publisher(PublisherConfig::default());
    let pending = publisher.send(event("a")).await.unwrap();
    drop(publisher);
    assert!(matches!(pending.await, Err(PublishError::Dropped)));
}
