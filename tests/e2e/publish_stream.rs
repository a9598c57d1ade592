//! Publishing: one reply an event, in order; wrong events alone rejected; duplicates told apart from conflicts.

use bytes::Bytes;
use postrider_proto::v1::{Event, PublishEventRequest, publish_event_response};
use postrider_tests::{
    client::{Verdict, verdict},
    events::{event, numbered},
    receiver::Receiver,
    rejection::Rejection,
};
use tonic::Code;

use crate::setup;

const BODY_BYTES_MAX: usize = 1024 * 1024;
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

const NEW: Verdict = Verdict::Accepted { deliveries: 1, duplicate: false };
const DUPLICATE: Verdict = Verdict::Accepted { deliveries: 1, duplicate: true };

/// Done-item 6: one bad event of each kind in a stream is rejected alone; its neighbours are accepted and delivered.
#[tokio::test]
async fn a_bad_event_leaves_its_neighbours_untouched() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;

    let bad = [
        ("no payload", Event { payload: None, ..event("b", "ADD_TAG", "") }, "INVALID_FIELD", "event.payload"),
        ("body too large", event("b", "ADD_TAG", vec![0; BODY_BYTES_MAX + 1]), "INVALID_FIELD", "event.body"),
        ("bad id", event("a.b", "ADD_TAG", "{}"), "INVALID_FIELD", "event.id"),
        ("long id", event(&"x".repeat(65), "ADD_TAG", "{}"), "INVALID_FIELD", "event.id"),
        ("no type", event("b", "", "{}"), "", "event.type"),
        ("unknown type", event("b", "ADD_TAGS", "{}"), "UNKNOWN_EVENT_TYPE", "event.type"),
    ];
    let mut events = vec![event("good-0", "ADD_TAG", "{}")];
    for (index, (_, bad, _, _)) in bad.iter().enumerate() {
        events.extend([bad.clone(), event(&format!("good-{}", index + 1), "ADD_TAG", "{}")]);
    }
    let total = events.len();
    let (replies, ended) = client.publish_all(events).await;
    ended.expect("a bad event never ends the stream");
    assert_eq!(replies.len(), total);
    for (index, reply) in replies.iter().enumerate() {
        if index % 2 == 0 {
            assert_eq!((reply.event_id.as_str(), verdict(reply)), (format!("good-{}", index / 2).as_str(), NEW));
            continue;
        }
        let (what, _, reason, field) = &bad[index / 2];
        match verdict(reply) {
            Verdict::Rejected(rejection) => rejection.check(what, Code::InvalidArgument, reason, field),
            accepted @ Verdict::Accepted { .. } => panic!("{what}: {accepted:?}"),
        }
    }
    let requests = receiver.received(bad.len() + 1).await;
    assert!(requests.iter().all(|request| request.event_id.starts_with("good-")));
    assert_eq!(receiver.count(), bad.len() + 1);
}

/// Contract: a body of exactly 1 MiB is accepted and arrives whole; a message above 4 MiB ends the stream, after the replies
/// to everything before it, and the daemon goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_limits_are_exact() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;

    let largest: Bytes = (0..=250).cycle().take(BODY_BYTES_MAX).collect::<Vec<u8>>().into();
    let oversized = event("oversized", "ADD_TAG", vec![b'x'; MESSAGE_BYTES_MAX + 1]);
    let just_too_large = event("too-large", "ADD_TAG", vec![b'x'; MESSAGE_BYTES_MAX - 1024]);
    let events =
        [event("largest", "ADD_TAG", largest.clone()), just_too_large, event("small", "ADD_TAG", "{}"), oversized];
    let (replies, ended) = client.publish_all(events).await;
    assert_eq!(replies.len(), 3, "everything before the oversized message is answered: {ended:?}");
    assert_eq!((verdict(&replies[0]), verdict(&replies[2])), (NEW, NEW));
    match verdict(&replies[1]) {
        Verdict::Rejected(rejection) => rejection.check("1 MiB + 1", Code::InvalidArgument, "", "event.body"),
        accepted @ Verdict::Accepted { .. } => panic!("{accepted:?}"),
    }
    let status = ended.expect_err("a message above the transport limit ends the stream");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");

    client.publish([event("after", "ADD_TAG", "{}")]).await;
    let requests = receiver.received(3).await;
    let arrived = requests.iter().find(|request| request.event_id == "largest").expect("it arrives");
    assert_eq!(arrived.body, largest);
}

/// Promise 2: the same id with the same content is one event, answered with the first result; with other content it is a
/// conflict. Within one stream, across streams, over the unary call, and across a restart.
#[tokio::test]
async fn an_id_is_one_event() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;
    let first = event("same", "ADD_TAG", "{}");
    let other = event("same", "ADD_TAG", "{ }");
    let is_conflict = |answer: Verdict| match answer {
        Verdict::Rejected(rejection) => rejection.check("conflict", Code::AlreadyExists, "EVENT_ID_REUSED", ""),
        accepted @ Verdict::Accepted { .. } => panic!("{accepted:?}"),
    };

    let (replies, ended) = client.publish_all([first.clone(), first.clone(), other.clone()]).await;
    ended.expect("the stream ends well");
    assert_eq!([verdict(&replies[0]), verdict(&replies[1])], [NEW, DUPLICATE]);
    is_conflict(verdict(&replies[2]));
    // A webhook that comes later changes nothing: a duplicate is answered with the first result.
    client.create(&receiver.url("/later"), &["*"]).await;
    let (replies, _) = client.publish_all([first.clone()]).await;
    assert_eq!(verdict(&replies[0]), DUPLICATE);
    // Ids belong to tenants.
    let (replies, _) = client.publish_all([Event { tenant: "other".into(), ..other.clone() }]).await;
    assert_eq!(verdict(&replies[0]), Verdict::Accepted { deliveries: 0, duplicate: false });

    daemon.kill().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let unary = client.events.clone().publish_event(PublishEventRequest { event: Some(first) }).await;
    match unary.expect("the call works").into_inner().result.expect("a reply has a result") {
        publish_event_response::Result::Accepted(accepted) => {
            assert_eq!((accepted.deliveries, accepted.duplicate), (1, true));
        }
        publish_event_response::Result::Rejected(status) => panic!("{status:?}"),
    }
    let unary = client.events.clone().publish_event(PublishEventRequest { event: Some(other) }).await;
    match unary.expect("a rejection is a reply").into_inner().result.expect("a reply has a result") {
        publish_event_response::Result::Rejected(status) => is_conflict(Verdict::Rejected(Rejection::from(&status))),
        publish_event_response::Result::Accepted(accepted) => panic!("{accepted:?}"),
    }
}

/// Contract: replies come in request order, however many events are under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_come_in_request_order() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let (replies, ended) = client.publish_all(numbered("e", "ADD_TAG", 5_000)).await;
    ended.expect("the stream ends well");
    let ids: Vec<_> = replies.into_iter().map(|reply| reply.event_id).collect();
    assert_eq!(ids, (0..5_000).map(|n| format!("e-{n}")).collect::<Vec<_>>());
}
