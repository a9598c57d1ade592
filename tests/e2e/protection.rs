//! What protects receivers: rates, concurrency, pauses they ask for, the breaker, and automatic disabling.

use std::time::Duration;

use postrider_proto::v1::{
    BreakerState, CreateWebhookRequest, DeliveryState, DisableReason, RateLimit, UpdateWebhookRequest,
    WatchDeliveriesRequest, Webhook, delivery_update::Update,
};
use postrider_tests::{
    client::Client,
    deadline::within,
    events::{event, numbered},
    receiver::{Answer, Received, Receiver},
    rejection::Rejection,
};

use tonic::Code;

use crate::{impatient, setup};

async fn create(client: &Client, webhook: Webhook) -> Webhook {
    let webhook = Webhook { event_types: vec!["*".into()], ..webhook };
    let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
    let reply = client.webhooks.clone().create_webhook(request).await.expect("the webhook is created");
    reply.into_inner().webhook.expect("a reply holds the webhook")
}

async fn update(client: &Client, webhook: Webhook) -> Webhook {
    let request = UpdateWebhookRequest { webhook: Some(webhook), ..UpdateWebhookRequest::default() };
    let reply = client.webhooks.clone().update_webhook(request).await.expect("the webhook is updated");
    reply.into_inner().webhook.expect("a reply holds the webhook")
}

fn at_path(requests: Vec<Received>, path: &str) -> Vec<Received> {
    requests.into_iter().filter(|request| request.path == path).collect()
}

/// Issue 4: a rate limit holds for the receiver, over a restart; another webhook does not wait for it; lifting it takes effect
/// at once.
#[tokio::test]
async fn a_rate_limit_holds() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let limit = RateLimit { per_second: 10.0, burst: 3 };
    let limited =
        create(&client, Webhook { url: receiver.url("/limited"), rate_limit: Some(limit), ..Webhook::default() });
    let limited = limited.await;
    create(&client, Webhook { url: receiver.url("/free"), ..Webhook::default() }).await;
    client.publish(numbered("n", "ADD_TAG", 40)).await;
    receiver.received(40 + 3 + 7).await;
    let requests = at_path(receiver.all(), "/limited");
    let span = requests[9].at.duration_since(requests[0].at);
    // Three at once and seven at 100 ms; what the last ones may be early is what the first was late.
    assert!(span >= Duration::from_millis(650), "ten in {span:?}");
    let free = at_path(receiver.all(), "/free");
    assert!(free.len() == 40 || requests.len() > 12, "nobody else waits: {} and {}", free.len(), requests.len());
    drop((client, daemon));

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let again = client.webhook(&limited.id).await;
    assert_eq!(again.rate_limit, Some(limit));
    let faster = RateLimit { per_second: 10_000.0, burst: 0 };
    update(&client, Webhook { id: limited.id, rate_limit: Some(faster), ..Webhook::default() }).await;
    within("the rest at the new rate", async {
        while at_path(receiver.all(), "/limited").len() < 40 {
            receiver.received(receiver.count() + 1).await;
        }
    })
    .await;
}

/// Issue 4: the operator's rate is for webhooks that have none, and no webhook is called more often than the operator lets it be.
#[tokio::test]
async fn the_operator_s_rates_hold() {
    let daemon = setup().flag("--rate-limit", "10").flag("--rate-limit-max", "20").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let fast = Webhook {
        url: receiver.url("/"),
        event_types: vec!["*".into()],
        rate_limit: Some(RateLimit { per_second: 20.5, burst: 1 }),
        ..Webhook::default()
    };
    let fast = CreateWebhookRequest { webhook: Some(fast), ..CreateWebhookRequest::default() };
    let refused = client.webhooks.clone().create_webhook(fast).await;
    let refused = refused.expect_err("more than the operator lets it");
    Rejection::from(&refused).check("fast", Code::InvalidArgument, "INVALID_FIELD", "webhook.rate_limit.per_second");
    let own = Some(RateLimit { per_second: 20.0, burst: 10 });
    create(&client, Webhook { url: receiver.url("/own"), rate_limit: own, ..Webhook::default() }).await;
    create(&client, Webhook { url: receiver.url("/default"), ..Webhook::default() }).await;
    client.publish(numbered("n", "ADD_TAG", 20)).await;
    receiver.received(40).await;
    for (path, at_once, interval) in [("/own", 10, 50), ("/default", 10, 100)] {
        let requests = at_path(receiver.all(), path);
        let span = requests[19].at.duration_since(requests[0].at);
        // What the last ones may be early is what the first was late.
        let least = Duration::from_millis((20 - at_once) * interval - interval);
        assert!(span >= least, "{path}: twenty in {span:?}");
    }
}

/// Issue 4: no more attempts under way to a webhook than it wants, and no more than the server allows.
#[tokio::test]
async fn concurrency_is_the_webhook_s_and_the_server_s() {
    let daemon = setup().flag("--in-flight-per-webhook", "4").start().await;
    let client = daemon.client().await;
    for (path, wanted, most) in [("/two", 2, 2), ("/many", 50, 4), ("/default", 0, 4)] {
        let busy = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let seen = busy.clone();
        let receiver = Receiver::start(move |request| {
            seen.lock().push(request.at);
            Answer::after(Duration::from_millis(150), 200)
        })
        .await;
        let created =
            create(&client, Webhook { url: receiver.url(path), max_in_flight: wanted, ..Webhook::default() }).await;
        assert_eq!(created.max_in_flight, wanted, "as it was wished");
        client.publish(numbered(&path[1..], "ADD_TAG", 12)).await;
        receiver.received(12).await;
        let times = busy.lock().clone();
        // One that begins while the one `most` places before it is under way would be too many.
        for pair in times.windows(most + 1) {
            let apart = pair[most].duration_since(pair[0]);
            assert!(apart >= Duration::from_millis(140), "{path}: {} at once", most + 1);
        }
        let request = postrider_proto::v1::DeleteWebhookRequest { id: created.id, ..Default::default() };
        client.webhooks.clone().delete_webhook(request).await.expect("the webhook is deleted");
    }
}

/// Issue 4: `Retry-After` of a 429 or 503 holds for all of the webhook's deliveries; a change of the webhook ends it.
#[tokio::test]
async fn an_overloaded_receiver_gets_the_pause_it_asks_for() {
    let daemon = impatient().flag("--in-flight-per-webhook", "1").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match (request.event_id.as_str(), request.attempt) {
        ("first", 1) => Answer::with_header(429, "retry-after", "2"),
        ("long", 1) => Answer::with_header(503, "retry-after", "3600"),
        _ => Answer::status(200),
    })
    .await;
    let webhook = create(&client, Webhook { url: receiver.url("/"), ..Webhook::default() }).await;
    let mut watch = client.watch().await;
    client.publish([event("first", "ADD_TAG", "{}"), event("second", "ADD_TAG", "{}")]).await;
    watch.outcomes(1).await;
    client.publish([event("third", "ADD_TAG", "{}")]).await;
    let requests = receiver.received(4).await;
    for request in &requests[1..] {
        let waited = request.at.duration_since(requests[0].at);
        assert!(waited >= Duration::from_millis(1_950), "{} after {waited:?}", request.event_id);
    }

    watch.outcomes(3).await;
    client.publish([event("long", "ADD_TAG", "{}")]).await;
    watch.outcomes(1).await;
    client.publish([event("after", "ADD_TAG", "{}")]).await;
    update(&client, Webhook { id: webhook.id, display_name: "mended".into(), ..Webhook::default() }).await;
    let requests = receiver.received(6).await;
    assert_eq!(requests[5].event_id, "after", "what asked for an hour itself still waits");
}

/// Issue 4: after ten failures in a row over half a minute nothing is sent; a change of the webhook sends a probe, and success
/// closes the breaker.
#[tokio::test]
async fn the_breaker_opens_and_closes() {
    let retries = ["4s"; 12].join(",");
    let daemon = setup().flag("--retry-schedule", &retries).flag("--retry-jitter", "0").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.path == "/new" { 200 } else { 500 })).await;
    let webhook = create(&client, Webhook { url: receiver.url("/"), ..Webhook::default() }).await;
    assert_eq!(webhook.breaker.expect("always set").state(), BreakerState::Closed);
    let mut watch = client.watch().await;
    let asking = WatchDeliveriesRequest { operational_events: true, ..WatchDeliveriesRequest::default() };
    let mut events = client.watch_with(asking).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let mut failures = 0;
    let open = loop {
        watch.outcome(DeliveryState::Pending).await;
        failures += 1;
        // The outcome is told when it is committed, and dispatch hears of it a moment later.
        let breaker = within("the breaker to count", async {
            loop {
                let breaker = client.webhook(&webhook.id).await.breaker.expect("always set");
                if breaker.consecutive_failures >= failures {
                    break breaker;
                }
            }
        })
        .await;
        if breaker.state() == BreakerState::Open {
            break breaker;
        }
    };
    assert_eq!((failures, receiver.count()), (10, 10));
    let seconds = |time: Option<prost_types::Timestamp>| time.expect("it is open").seconds;
    assert!(seconds(open.next_probe_time) >= seconds(open.since) + 29, "{open:?}");
    client.publish([event("later", "ADD_TAG", "{}")]).await;

    update(&client, Webhook { id: webhook.id.clone(), url: receiver.url("/new"), ..Webhook::default() }).await;
    let delivered = [watch.outcome(DeliveryState::Delivered).await, watch.outcome(DeliveryState::Delivered).await];
    // Put off, and no attempt spent on it.
    let later = delivered.iter().find(|outcome| outcome.event_id == "later").expect("it is delivered");
    assert_eq!(later.attempt, 1);
    // One probe of ten: it stays half open until there is more to send.
    client.publish(numbered("more", "ADD_TAG", 20)).await;
    within("the breaker to close", async {
        while client.webhook(&webhook.id).await.breaker.expect("always set").state() != BreakerState::Closed {}
    })
    .await;
    assert_eq!(client.webhook(&webhook.id).await.breaker.expect("always set").consecutive_failures, 0);
    for expected in ["postrider.webhook.breaker_opened", "postrider.webhook.breaker_closed"] {
        let told = loop {
            if let Update::OperationalEvent(told) = events.update().await {
                break told;
            }
        };
        assert_eq!((told.r#type.as_str(), &told.webhook_id), (expected, &webhook.id));
    }
}

/// Issue 4: who fails continuously for longer than allowed is disabled; the span goes on over a restart; never means never.
#[tokio::test]
async fn failing_for_too_long_disables() {
    let setup = impatient();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(500).await;
    let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let hook = |auto_disable_after| Webhook { url: receiver.url("/"), auto_disable_after, ..Webhook::default() };
    let doomed = create(&client, hook(span(4))).await;
    let spared = create(&client, hook(span(0))).await;
    let began = std::time::Instant::now();
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    receiver.received(4).await;
    assert_eq!(client.webhook(&doomed.id).await.enabled, Some(true));
    drop((client, daemon));

    let daemon = setup.start().await;
    let started = began.elapsed();
    let client = daemon.client().await;
    let disabled = within("it to be disabled", async {
        loop {
            let webhook = client.webhook(&doomed.id).await;
            if webhook.enabled == Some(false) {
                break webhook;
            }
        }
    })
    .await;
    assert_eq!(disabled.disable_reason(), DisableReason::Failing);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4), "after {took:?}");
    assert!(took < started + Duration::from_secs(4), "it began anew after {started:?}, and took {took:?}");
    assert_eq!(client.webhook(&spared.id).await.enabled, Some(true));

    // Enabled again it has the whole span.
    update(&client, Webhook { id: doomed.id.clone(), enabled: Some(true), ..Webhook::default() }).await;
    receiver.received(receiver.count() + 4).await;
    assert_eq!(client.webhook(&doomed.id).await.enabled, Some(true));
}
