//! What follows a failed attempt.

use std::time::Duration;

use postrider_proto::v1::{DeliveryState, DisableReason, ErrorClass, ListDeliveriesRequest, Outcome};
use postrider_tests::{
    client::as_watched,
    events::event,
    independent,
    receiver::{Answer, Garbage, Receiver, closed_port},
};

use crate::{impatient, setup};

/// From the end of an attempt to the next one.
pub(crate) fn until_next(outcome: &Outcome) -> Duration {
    let millis = |time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref().expect("the time is set");
        u64::try_from(time.seconds).expect("after 1970") * 1000
            + u64::try_from(time.nanos / 1_000_000).expect("positive")
    };
    Duration::from_millis(millis(&outcome.next_attempt_time) - millis(&outcome.time))
}

/// Promise 2 and design section 8: attempts are numbered, keep the event's id and the delivery's, and carry a timestamp and
/// a signature of their own; the history is with the delivery.
#[tokio::test]
async fn a_failed_attempt_is_repeated_under_the_same_id() {
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match request.attempt {
        1 => Answer::status(500),
        // Long enough for the clock to show another second: the timestamp must be the attempt's, not the event's.
        // And closed, so that the next attempt has a connection of its own to lose.
        2 => Answer::after(Duration::from_millis(1100), 503).then_close(),
        3 => Answer::Reset,
        _ => Answer::status(200),
    })
    .await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish([event("e-1", "ADD_TAG", r#"{"a":1}"#)]).await;

    let outcomes = watch.outcomes(4).await;
    let expected = [
        (1, DeliveryState::Pending, 500, ErrorClass::HttpStatus),
        (2, DeliveryState::Pending, 503, ErrorClass::HttpStatus),
        (3, DeliveryState::Pending, 0, ErrorClass::Protocol),
        (4, DeliveryState::Delivered, 200, ErrorClass::Unspecified),
    ];
    let got: Vec<_> = outcomes.iter().map(|o| (o.attempt, o.state(), o.http_status, o.error_class())).collect();
    assert_eq!(got, expected);
    for outcome in &outcomes[..3] {
        assert!(!outcome.error.is_empty(), "{outcome:?}");
        // 100 ms, and the jitter of at most 20 %.
        assert!((80..=120).contains(&until_next(outcome).as_millis()), "{:?}", until_next(outcome));
    }
    let requests = receiver.received(4).await;
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(request.attempt as usize, index + 1);
        assert_eq!(request.event_id, "e-1");
        assert_eq!(request.header("webhook-delivery-id"), outcomes[0].delivery_id);
        assert!(independent::is_signed(request, &webhook.secret), "attempt {}", index + 1);
    }
    let timestamp = |n: usize| requests[n].header("webhook-timestamp").parse::<u64>().expect("unix seconds");
    assert!(timestamp(3) > timestamp(0), "timestamps are fresh: {} and {}", timestamp(0), timestamp(3));

    let read = client.delivery(&outcomes[0].delivery_id).await;
    assert_eq!(read.attempts.into_iter().map(as_watched).collect::<Vec<_>>(), outcomes);
    assert_eq!(read.delivery.expect("a reply holds the delivery").attempts, 4);
}

/// Facts on senders, L8: a connection that was kept open and turns out to be closed costs no attempt; the request is sent once
/// more, at once, on a new one. A new connection that breaks does cost one.
#[tokio::test]
async fn a_stale_connection_costs_no_attempt() {
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let second = std::sync::atomic::AtomicU32::new(0);
    let receiver = Receiver::start(move |request| match request.event_id.as_str() {
        "second" if second.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => Answer::Reset,
        _ => Answer::status(200),
    })
    .await;
    client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish([event("first", "ADD_TAG", "{}")]).await;
    watch.outcome(DeliveryState::Delivered).await;
    client.publish([event("second", "ADD_TAG", "{}")]).await;
    let outcome = watch.outcome(DeliveryState::Delivered).await;
    assert_eq!((outcome.event_id.as_str(), outcome.attempt), ("second", 1));
    let requests = receiver.received(3).await;
    assert_eq!(requests.iter().map(|request| request.attempt).collect::<Vec<_>>(), [1, 1, 1]);
}

/// Design section 8: `Retry-After` raises the delay, in seconds or as a date; nonsense is ignored.
#[tokio::test]
async fn retry_after_is_honoured() {
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match (request.path.as_str(), request.attempt) {
        ("/seconds", 1) => Answer::with_header(429, "retry-after", "2"),
        ("/nonsense", 1) => Answer::with_header(503, "retry-after", "soon, I hope"),
        ("/past", 1) => Answer::with_header(503, "retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("/future", 1) => Answer::with_header(503, "retry-after", "Fri, 31 Dec 9999 23:59:59 GMT"),
        _ => Answer::status(200),
    })
    .await;
    let day = Duration::from_hours(24);
    let bounds = [
        ("/seconds", Duration::from_secs(2), Duration::from_millis(2500)),
        ("/nonsense", Duration::from_millis(80), Duration::from_millis(120)),
        ("/past", Duration::from_millis(80), Duration::from_millis(120)),
        // No receiver may put a delivery off for ever; a day is the default bound.
        ("/future", Duration::from_secs(24 * 3600 - 1), day + Duration::from_secs(1)),
    ];
    for (path, least, most) in bounds {
        let mut watch = client.watch().await;
        let webhook = client.create(&receiver.url(path), &["ADD_TAG"]).await;
        client.publish([event(&path[1..], "ADD_TAG", "{}")]).await;
        let first = watch.outcome(DeliveryState::Pending).await;
        let wait = until_next(&first);
        assert!((least..=most).contains(&wait), "{path}: {wait:?}");
        if path != "/future" {
            watch.outcome(DeliveryState::Delivered).await;
            let requests = receiver.all();
            let times: Vec<_> = requests.iter().filter(|r| r.path == path).map(|request| request.at).collect();
            // Due times are kept to the millisecond or so; the receiver's own clock reading is the slack.
            assert!(times[1] - times[0] + Duration::from_millis(20) >= least, "{path}: came early");
        }
        let request = postrider_proto::v1::DeleteWebhookRequest { id: webhook.id(), ..Default::default() };
        client.webhooks.clone().delete_webhook(request).await.expect("the webhook is deleted");
    }
}

/// Design section 8: 410 Gone ends the delivery and disables the webhook; what comes later is held, and nothing is sent.
#[tokio::test]
async fn gone_disables_the_webhook() {
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(410).await;
    let webhook = client.create(&receiver.url("/"), &["ADD_TAG"]).await;
    let sentinel = Receiver::answering(200).await;
    client.create(&sentinel.url("/"), &["NEW_LEAD"]).await;
    let mut watch = client.watch().await;

    client.publish([event("first", "ADD_TAG", "{}")]).await;
    let outcome = watch.outcome(DeliveryState::Failed).await;
    assert_eq!((outcome.attempt, outcome.http_status), (1, 410));
    let disabled = client.webhook(&webhook.webhook.id).await;
    assert_eq!((disabled.enabled, disabled.disable_reason()), (Some(false), DisableReason::Gone), "{disabled:?}");
    assert!(disabled.disable_time.is_some());
    assert_ne!(disabled.etag, webhook.webhook.etag);

    let deliveries = client.publish([event("later", "ADD_TAG", "{}"), event("sentinel", "NEW_LEAD", "{}")]).await;
    assert_eq!(deliveries, [1, 1], "held deliveries count");
    watch.outcome(DeliveryState::Delivered).await;
    assert_eq!(receiver.count(), 1, "a disabled webhook is left alone");
    let states = vec![DeliveryState::Held.into()];
    let held = client.deliveries(ListDeliveriesRequest { states, ..Default::default() }).await;
    assert_eq!(held.iter().map(|delivery| delivery.event_id.as_str()).collect::<Vec<_>>(), ["later"]);
    assert_eq!(client.webhook(&webhook.webhook.id).await.pending_deliveries, 1);
}

/// Design section 8: when the schedule is exhausted the delivery has failed, and is not tried again.
#[tokio::test]
async fn the_schedule_ends() {
    let daemon = setup().flag("--retry-schedule", "50ms,50ms").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(500).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let outcomes = watch.outcomes(3).await;
    let states: Vec<_> = outcomes.iter().map(|outcome| (outcome.attempt, outcome.state())).collect();
    let expected = [(1, DeliveryState::Pending), (2, DeliveryState::Pending), (3, DeliveryState::Failed)];
    assert_eq!(states, expected);
    assert_eq!(outcomes[2].next_attempt_time, None);
    let after = client.webhook(&webhook.webhook.id).await;
    assert_eq!((after.pending_deliveries, after.enabled), (0, Some(true)));
    assert_eq!(receiver.count(), 3);
}

/// Promise 6: a redirect is a failure like any other; where it points is never called.
#[tokio::test]
async fn redirects_are_not_followed() {
    let daemon = setup().flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let elsewhere = Receiver::answering(200).await;
    let target = elsewhere.url("/");
    let receiver = Receiver::start(move |request| {
        let status = request.path[1..].parse().expect("the path is the status");
        Answer::with_header(status, "location", target.clone())
    })
    .await;
    let mut watch = client.watch().await;
    let statuses = [301, 302, 303, 307, 308];
    for status in statuses {
        client.create(&receiver.url(&format!("/{status}")), &["*"]).await;
    }
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let mut got = Vec::new();
    for outcome in watch.outcomes(statuses.len()).await {
        assert_eq!((outcome.state(), outcome.error_class()), (DeliveryState::Pending, ErrorClass::HttpStatus));
        got.push(outcome.http_status);
    }
    got.sort_unstable();
    assert_eq!(got, statuses);
    assert_eq!(elsewhere.count(), 0);
}

/// Contract: each way to fail has its class, and no error shows an address behind a name or a URL's query.
#[tokio::test]
async fn failures_are_classified() {
    let daemon = setup().flag("--retry-schedule", "1h").flag("--attempt-timeout", "1s").start().await;
    let client = daemon.client().await;
    let hanging = Receiver::start(|_| Answer::Hang).await;
    let resetting = Receiver::start(|_| Answer::Reset).await;
    let garbage = Garbage::start().await;
    let refused = format!("http://127.0.0.1:{}/?secret=canary", closed_port());
    let plain = Receiver::answering(200).await;
    let cases = [
        (hanging.url("/?secret=canary"), ErrorClass::Timeout),
        (resetting.url("/?secret=canary"), ErrorClass::Protocol),
        (garbage.url(), ErrorClass::Protocol),
        (refused, ErrorClass::Connect),
        (plain.url("/?secret=canary").replace("http://", "https://"), ErrorClass::Tls),
    ];
    let mut watch = client.watch().await;
    let mut expected = std::collections::HashMap::new();
    for (url, class) in &cases {
        expected.insert(client.create(url, &["*"]).await.id(), (url, *class));
    }
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    for outcome in watch.outcomes(cases.len()).await {
        let (url, class) = expected[&outcome.webhook_id];
        assert_eq!(outcome.error_class(), class, "{url}: {outcome:?}");
        assert!(!outcome.error.is_empty() && outcome.error.len() <= 256, "{outcome:?}");
        assert!(!outcome.error.contains("canary"), "{outcome:?}");
    }
    assert!(!daemon.log().contains("canary"), "{}", daemon.log());
}
