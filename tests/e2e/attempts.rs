//! What an attempt was like: its parts, where it went, and what came back.

use std::time::Duration;

use postrider_proto::v1::{AttemptTimings, DeliveryState, ErrorClass, Outcome, ResponseHeader, SendTestEventRequest};
use postrider_tests::{
    client::{Client, as_watched},
    events::event,
    receiver::{Answer, Receiver, closed_port},
};

use crate::setup;

/// How long the receiver thinks.
const THINKS: Duration = Duration::from_millis(300);

fn plain(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.map(|duration| Duration::try_from(duration).expect("it is positive"))
}

/// Which parts there are: `dns`, `connect`, `tls`, `first_byte`.
fn parts(attempt: &Outcome) -> [bool; 4] {
    let timings = attempt.timings.unwrap_or_default();
    let AttemptTimings { dns, connect, tls, first_byte } = timings;
    let parts = [dns, connect, tls, first_byte];
    let sum: Duration = parts.into_iter().filter_map(plain).sum();
    assert!(sum <= plain(attempt.latency).expect("it took a while"), "{attempt:?}");
    parts.map(|part| part.is_some())
}

fn header<'a>(attempt: &'a Outcome, name: &str) -> Option<&'a str> {
    let named = |header: &&ResponseHeader| header.name == name;
    attempt.response_headers.iter().find(named).map(|header| header.value.as_str())
}

async fn try_send(client: &Client, id: &str) -> Outcome {
    let request = SendTestEventRequest { id: id.into(), event_type: "ADD_TAG".into(), ..Default::default() };
    let reply = client.webhooks.clone().send_test_event(request).await.expect("it is sent");
    reply.into_inner().outcome.expect("a reply holds the outcome")
}

/// Contract: `GetDelivery` says where the time of each attempt went, which address was called, and which headers came back;
/// watchers are not told. It is the same after a restart.
#[tokio::test]
async fn attempts_are_shown_with_their_parts_and_the_answer() {
    let setup = setup().flag("--retry-schedule", "100ms");
    let mut daemon = setup.start().await;
    let receiver = Receiver::start(|request| match request.attempt {
        1 => Answer::Reply { status: 500, headers: vec![("x-reason", "coffee".into())], delay: THINKS },
        _ => Answer::with_header(200, "x-reason", "none"),
    })
    .await;
    let address = receiver.url("").trim_start_matches("http://").to_owned();
    let mut before = Vec::new();
    let mut id = String::new();
    for restarted in [false, true] {
        let client = daemon.client().await;
        if !restarted {
            client.create(&receiver.url("/"), &["*"]).await;
            let mut watch = client.watch().await;
            client.publish([event("e", "ADD_TAG", "{}")]).await;
            let watched = watch.outcomes(2).await;
            id.clone_from(&watched[0].delivery_id);
            before = client.delivery(&id).await.attempts;
            assert_eq!(before.iter().cloned().map(as_watched).collect::<Vec<_>>(), watched);
        }
        let attempts = client.delivery(&id).await.attempts;
        assert_eq!(attempts, before, "restarted: {restarted}");

        let (first, second) = (&attempts[0], &attempts[1]);
        assert_eq!(parts(first), [false, true, false, true], "{first:?}");
        let waited = plain(first.timings.expect("parts").first_byte).expect("an answer came");
        assert!(waited >= THINKS, "{waited:?}");
        assert_eq!((header(first, "x-reason"), header(first, "content-length")), (Some("coffee"), Some("0")));
        assert_eq!(first.remote_address, address);

        assert_eq!(parts(second), [false, false, false, true], "the connection was there already: {second:?}");
        assert_eq!(second.remote_address, address);
        assert_eq!(second.response_headers, [], "of a success nothing is kept");
        daemon.stop().await;
        daemon = setup.start().await;
    }
}

/// Contract: headers are bounded, and what was left out is counted.
#[tokio::test]
async fn headers_are_cut_openly() {
    let daemon = setup().flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match request.event_id.as_str() {
        "many" => Answer::Reply {
            status: 500,
            headers: (0..70).map(|_| ("x-many", "value".to_owned())).collect(),
            delay: Duration::ZERO,
        },
        _ => Answer::with_header(500, "x-long", "x".repeat(9_000)),
    })
    .await;
    client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    for (id, least) in [("many", 6), ("long", 1)] {
        client.publish([event(id, "ADD_TAG", "{}")]).await;
        let outcome = watch.outcome(DeliveryState::Pending).await;
        let attempt = client.delivery(&outcome.delivery_id).await.attempts.remove(0);
        assert!(attempt.response_headers.len() <= 64, "{id}: {}", attempt.response_headers.len());
        assert!(attempt.omitted_response_headers >= least, "{id}: {}", attempt.omitted_response_headers);
        let bytes: usize = attempt.response_headers.iter().map(|it| it.name.len() + it.value.len()).sum();
        assert!(bytes <= 8 * 1024, "{id}: {bytes}");
        assert!(attempt.response_headers.iter().all(|it| it.name != "x-many" || it.value == "value"), "none is cut");
    }
}

/// Contract: of a failure there is what it reached; an address that was refused is never told. `SendTestEvent` says the same, and
/// shows the answer of a success, too.
#[tokio::test]
async fn failures_and_test_events_show_what_they_reached() {
    let daemon = setup().flag("--attempt-timeout", "1s").flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let hanging = Receiver::start(|_| Answer::Hang).await;
    let fine = Receiver::start(|_| Answer::with_header(200, "x-reason", "none")).await;
    let refused = format!("https://localhost:{}/", closed_port());
    for (event_type, url, class, expected, reason) in [
        ("ADD_TAG", refused, ErrorClass::Connect, [false, true, false, false], None),
        ("REMOVE_TAG", hanging.url("/"), ErrorClass::Timeout, [false, true, false, false], None),
        // Plain http at a port for https.
        ("NEW_LEAD", fine.url("/").replace("http:", "https:"), ErrorClass::Tls, [false, true, true, false], None),
        ("MESSAGE_RECEIVED", fine.url("/"), ErrorClass::Unspecified, [false, true, false, true], Some("none")),
    ] {
        let created = client.create(&url, &[event_type]).await;
        let tried = try_send(&client, &created.id()).await;
        let mut watch = client.watch().await;
        client.publish([event(event_type, event_type, "{}")]).await;
        let outcome = watch.outcomes(1).await.remove(0);
        let attempt = client.delivery(&outcome.delivery_id).await.attempts.remove(0);
        for (what, shown) in [("test", &tried), ("delivery", &attempt)] {
            assert_eq!((shown.error_class(), parts(shown)), (class, expected), "{what} {url}: {shown:?}");
            let connected = [ErrorClass::Timeout, ErrorClass::Unspecified].contains(&class);
            assert_eq!(!shown.remote_address.is_empty(), connected, "{what} {url}: {shown:?}");
        }
        assert_eq!(header(&tried, "x-reason"), reason, "{url}");
    }
}
