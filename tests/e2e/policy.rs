//! Delivery policy: what webhooks and events say about time.

use std::time::{Duration, SystemTime};

use postrider_proto::v1::{
    CreateWebhookRequest, DeliveryState, ErrorClass, Event, ExponentialBackoff, ListDeliveriesRequest, RetryPolicy,
    UpdateWebhookRequest, Webhook,
};
use postrider_tests::{
    client::{Client, Verdict, verdict, webhook},
    events::event,
    ops::Scrape,
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use prost_types::Timestamp;

use crate::{retries::until_next, setup};

fn span(millis: u64) -> prost_types::Duration {
    Duration::from_millis(millis).try_into().expect("it is short")
}

fn ahead(millis: u64) -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "events are scheduled by the clock on the wall")]
    let at = Timestamp::from(SystemTime::now() + Duration::from_millis(millis));
    // As it is kept.
    Timestamp { nanos: at.nanos / 1_000 * 1_000, ..at }
}

fn is_before(one: &Timestamp, other: &Timestamp) -> bool {
    (one.seconds, one.nanos) < (other.seconds, other.nanos)
}

async fn create(client: &Client, webhook: Webhook) -> Webhook {
    let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
    let reply = client.webhooks.clone().create_webhook(request).await.expect("the webhook is created").into_inner();
    reply.webhook.expect("a reply holds the webhook")
}

async fn update(client: &Client, webhook: Webhook) -> Webhook {
    let request = UpdateWebhookRequest { webhook: Some(webhook), ..UpdateWebhookRequest::default() };
    let reply = client.webhooks.clone().update_webhook(request).await.expect("the webhook is updated").into_inner();
    reply.webhook.expect("a reply holds the webhook")
}

/// Issue 4, delivery policy: an attempt may take as long as its webhook says, shorter or longer than the server's default.
#[tokio::test]
async fn each_webhook_has_its_own_attempt_timeout() {
    let daemon = setup().flag("--attempt-timeout", "1s").flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match request.path.as_str() {
        "/hanging" => Answer::Hang,
        _ => Answer::after(Duration::from_millis(1500), 200),
    })
    .await;
    let with = |path: &str, timeout| Webhook { attempt_timeout: timeout, ..webhook("", &receiver.url(path), &["*"]) };
    let default = create(&client, with("/default", None)).await;
    let patient = create(&client, with("/patient", Some(span(30_000)))).await;
    let hanging = create(&client, with("/hanging", Some(span(2_000)))).await;
    let mut watch = client.watch().await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    for outcome in watch.outcomes(3).await {
        let latency = Duration::try_from(outcome.latency.expect("it took some time")).expect("positive");
        let (class, least, error) = match &outcome.webhook_id {
            id if *id == default.id => (ErrorClass::Timeout, 1_000, "no answer within 1s"),
            id if *id == patient.id => (ErrorClass::Unspecified, 1_500, ""),
            id if *id == hanging.id => (ErrorClass::Timeout, 2_000, "no answer within 2s"),
            other => panic!("{other} was never created"),
        };
        assert_eq!((outcome.error_class(), outcome.error.as_str()), (class, error), "{outcome:?}");
        assert!(latency >= Duration::from_millis(least), "{outcome:?}");
    }
}

/// Issue 4, delivery policy: a webhook's own schedule, as a list and growing, with an end by number and by time; a neighbour without
/// one keeps to the server's. It shows in `GetWebhook`, survives a restart, and can be changed for what is pending.
#[tokio::test]
async fn each_webhook_has_its_own_retry_policy() {
    let setup = setup().flag("--retry-schedule", "1h").flag("--retry-jitter", "0");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(500).await;
    let listed = RetryPolicy { delays: vec![span(200), span(400)], ..RetryPolicy::default() };
    let growing = RetryPolicy {
        exponential: Some(ExponentialBackoff { initial: Some(span(100)), factor: 3.0, max_delay: Some(span(500)) }),
        max_attempts: 5,
        ..RetryPolicy::default()
    };
    let short = RetryPolicy {
        // The first attempt may take two seconds on a busy machine, and there is none after the second all the same.
        delays: vec![span(3_000)],
        max_attempts: 50,
        max_elapsed: Some(span(5_000)),
        ..RetryPolicy::default()
    };
    let cases: [(Option<RetryPolicy>, &[u128]); 4] = [
        (Some(listed.clone()), &[200, 400]),
        (Some(growing), &[100, 300, 500, 500]),
        (Some(short), &[3_000]),
        (None, &[3_600_000]),
    ];
    let mut created = Vec::new();
    for (retry, delays) in &cases {
        let wanted = Webhook { retry: retry.clone(), ..webhook("", &receiver.url("/"), &["*"]) };
        let webhook = create(&client, wanted).await;
        assert_eq!(webhook.retry, *retry);
        created.push((webhook, delays.to_vec()));
    }
    daemon.stop().await;

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let mut watch = client.watch().await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let outcomes = watch.outcomes(3 + 5 + 2 + 1).await;
    for (webhook, expected) in &created {
        assert_eq!(client.webhook(&webhook.id).await.retry, webhook.retry);
        let own = || outcomes.iter().filter(|outcome| outcome.webhook_id == webhook.id);
        let waits = own().filter(|outcome| outcome.next_attempt_time.is_some());
        let delays: Vec<_> = waits.map(|outcome| until_next(outcome).as_millis()).collect();
        assert_eq!(delays, *expected, "{:?}", webhook.retry);
        let failed = own().filter(|outcome| outcome.next_attempt_time.is_none());
        let failed: Vec<_> = failed.map(|outcome| (outcome.state(), outcome.error_class())).collect();
        let end = (DeliveryState::Failed, ErrorClass::HttpStatus);
        assert_eq!(failed, if webhook.retry.is_some() { vec![end] } else { Vec::new() });
    }

    // What is changed counts from the next failure on.
    let (neighbour, _) = &created[3];
    update(&client, Webhook { id: neighbour.id.clone(), retry: Some(listed), ..Webhook::default() }).await;
    client.publish([event("f", "ADD_TAG", "{}")]).await;
    let mut own = Vec::new();
    while own.len() < 3 {
        own.extend(watch.outcomes(1).await.into_iter().filter(|outcome| outcome.webhook_id == neighbour.id));
    }
    assert_eq!(own[2].state(), DeliveryState::Failed, "{own:?}");
}

/// Issue 4: server-wide ceilings, and errors that name the field.
#[tokio::test]
async fn what_webhooks_may_ask_for_has_ceilings() {
    let setup = setup().flag("--attempt-timeout-max", "20s").flag("--retry-attempts-max", "5");
    let daemon = setup.flag("--retry-elapsed-max", "1h").flag("--retention", "1h").start().await;
    let client = daemon.client().await;
    let base = || webhook("", "https://receiver.example/", &["*"]);
    let retry = |retry| Webhook { retry: Some(retry), ..base() };
    let cases = [
        (Webhook { attempt_timeout: Some(span(20_001)), ..base() }, "webhook.attempt_timeout"),
        (retry(RetryPolicy { max_attempts: 6, ..RetryPolicy::default() }), "webhook.retry.max_attempts"),
        (
            retry(RetryPolicy { max_elapsed: Some(span(3_600_001)), ..RetryPolicy::default() }),
            "webhook.retry.max_elapsed",
        ),
    ];
    for (webhook, field) in cases {
        let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
        let refused = client.webhooks.clone().create_webhook(request).await.expect_err("it is refused");
        assert_eq!(Rejection::from(&refused).fields, [field]);
    }
    let scheduled = |millis| Event { deliver_at: Some(ahead(millis)), ..event("", "ADD_TAG", "{}") };
    let (replies, _) = client.publish_all([scheduled(3_700_000), scheduled(3_500_000)]).await;
    let Verdict::Rejected(refused) = verdict(&replies[0]) else { panic!("{replies:?}") };
    assert_eq!(refused.fields, ["event.deliver_at"]);
    assert!(matches!(verdict(&replies[1]), Verdict::Accepted { .. }), "{replies:?}");
}

/// Issue 4, expiry: a delivery whose next attempt would come too late is given up at once, by the webhook's `max_age` or the
/// event's, whichever is shorter; and one that has been held for too long is given up when it is released, without a request.
#[tokio::test]
async fn what_is_too_old_is_given_up() {
    let setup = setup().flag("--retry-schedule", "1h").flag("--ops", "127.0.0.1:0");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let failing = Receiver::answering(500).await;
    let aged = Webhook { max_age: Some(span(60_000)), ..webhook("", &failing.url("/"), &["ADD_TAG"]) };
    create(&client, aged).await;
    let mut watch = client.watch().await;
    client.publish([event("first", "ADD_TAG", "{}")]).await;
    let outcome = watch.outcome(DeliveryState::Failed).await;
    assert_eq!((outcome.error_class(), outcome.attempt, outcome.http_status), (ErrorClass::Expired, 1, 500));
    assert!(outcome.error.contains("max_age") && outcome.error.contains("500"), "{}", outcome.error);
    assert_eq!(outcome.next_attempt_time, None);

    // Held for longer than a second: that much time has passed when an event that is due then has been delivered.
    let receiver = Receiver::answering(200).await;
    let held = Webhook { enabled: Some(false), ..webhook("", &receiver.url("/held"), &["NEW_LEAD"]) };
    let held = create(&client, Webhook { max_age: Some(span(3_600_000)), ..held }).await;
    client.create(&receiver.url("/clock"), &["REMOVE_TAG"]).await;
    let short = Event { max_age: Some(span(1_000)), ..event("short", "NEW_LEAD", "{}") };
    client.publish([short, event("long", "NEW_LEAD", "{}")]).await;
    let clock = Event { deliver_at: Some(ahead(1_100)), ..event("clock", "REMOVE_TAG", "{}") };
    client.publish([clock]).await;
    assert_eq!(watch.outcome(DeliveryState::Delivered).await.event_id, "clock");
    update(&client, Webhook { id: held.id.clone(), enabled: Some(true), ..Webhook::default() }).await;
    let mut outcomes = watch.outcomes(2).await;
    outcomes.sort_by(|one, other| one.event_id.cmp(&other.event_id));
    assert_eq!((outcomes[0].event_id.as_str(), outcomes[0].state()), ("long", DeliveryState::Delivered));
    let expired = &outcomes[1];
    assert_eq!((expired.event_id.as_str(), expired.state()), ("short", DeliveryState::Failed));
    assert_eq!((expired.error_class(), expired.attempt, expired.http_status), (ErrorClass::Expired, 0, 0));
    assert!(receiver.all().iter().all(|request| request.event_id != "short"), "it was never sent");
    let read = client.delivery(&expired.delivery_id).await;
    assert_eq!(read.attempts, std::slice::from_ref(expired));
    let delivery = read.delivery.expect("a reply holds the delivery");
    assert_eq!((delivery.attempts, delivery.last_error_class()), (0, ErrorClass::Expired));
    assert_eq!(client.webhook(&held.id).await.pending_deliveries, 0);
    let counted = Scrape::of(daemon.ops().await).await.by_label("outcomes_total");
    assert_eq!(counted, [("delivered".to_owned(), 2), ("expired".to_owned(), 2)].into());
}

/// Issue 4: an event with a future `deliver_at` is PENDING until then, over a restart too, and is sent then and not before.
#[tokio::test]
async fn an_event_can_be_sent_later() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    let at = ahead(5_000);
    let later = || Event { deliver_at: Some(at), ..event("later", "ADD_TAG", "{}") };
    let past = Event { deliver_at: Some(Timestamp { seconds: 0, nanos: 0 }), ..event("past", "ADD_TAG", "{}") };
    client.publish([later(), past]).await;
    assert_eq!(watch.outcome(DeliveryState::Delivered).await.event_id, "past");
    let states = vec![DeliveryState::Pending.into()];
    let waiting = client.deliveries(ListDeliveriesRequest { states, ..ListDeliveriesRequest::default() }).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].event_id.as_str(), waiting[0].next_attempt_time), ("later", Some(at)));
    assert_eq!(client.webhook(&webhook.id()).await.pending_deliveries, 1);
    let cursor = watch.cursor().to_owned();
    daemon.stop().await;
    assert_eq!(receiver.count(), 1, "it is not sent early");

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let (replies, _) = client.publish_all([later()]).await;
    assert_eq!(verdict(&replies[0]), Verdict::Accepted { deliveries: 1, duplicate: true });
    let start = Some(postrider_proto::v1::watch_deliveries_request::Start::Cursor(cursor));
    let request = postrider_proto::v1::WatchDeliveriesRequest { start, ..Default::default() };
    let outcome = client.watch_with(request).await.outcome(DeliveryState::Delivered).await;
    assert_eq!((outcome.event_id.as_str(), outcome.attempt), ("later", 1));
    let time = outcome.time.expect("it ended");
    assert!(!is_before(&time, &at), "sent at {time} instead of {at}");
    assert_eq!(receiver.count(), 2);
    assert_eq!(client.webhook(&webhook.id()).await.pending_deliveries, 0);
}
