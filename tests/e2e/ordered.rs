//! Ordered webhooks: what has the same ordering key arrives one after the other, in publish order.

use std::{collections::BTreeMap, time::Duration};

use postrider_proto::v1::{
    CreateWebhookRequest, DeliveryState, Event, HeadRule, ListDeliveriesRequest, Ordering, Webhook,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::event,
    receiver::{Answer, Received, Receiver},
};

use crate::{impatient, setup};

async fn create(client: &Client, url: &str, ordering: Option<Ordering>) -> Webhook {
    let webhook = Webhook { ordered: true, ordering, ..webhook("", url, &["*"]) };
    let request =
        CreateWebhookRequest { webhook: Some(webhook), request_id: String::new(), signing_secret: String::new() };
    let call = within("CreateWebhook", async { client.webhooks.clone().create_webhook(request).await }).await;
    call.expect("the webhook is created").into_inner().webhook.expect("a reply holds the webhook")
}

/// An event named by its key and its number among those of the key: `a-1`.
fn keyed(key: &str, number: usize, event_type: &str, body: String) -> Event {
    Event { ordering_key: key.to_owned(), ..event(&format!("{key}-{number}"), event_type, body) }
}

/// `count` events of each key, in turns.
fn in_turns(keys: &[&str], count: usize) -> Vec<Event> {
    (0..count).flat_map(|n| keys.iter().map(move |key| keyed(key, n, "ADD_TAG", "{}".into()))).collect()
}

/// The numbers of the events that arrived, by key, in the order in which they did, repeats included.
fn arrived(requests: &[Received]) -> BTreeMap<String, Vec<usize>> {
    let mut arrived: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for request in requests {
        let (key, number) = request.event_id.rsplit_once('-').expect("named by key and number");
        arrived.entry(key.to_owned()).or_default().push(number.parse().expect("a number"));
    }
    arrived
}

/// The acceptance case: a template's transitions come in order although some of their attempts fail, each as the one before left
/// the template. Other templates are not kept waiting.
#[tokio::test]
async fn the_transitions_of_a_template_arrive_in_order() {
    const STATUSES: [&str; 5] = ["PENDING", "REJECTED", "PENDING", "APPROVED", "PAUSED"];
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| {
        let number = request.event_id.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0_u32);
        // The first transition fails three times, the next ones twice, once, and not at all.
        if request.attempt + number <= 3 { Answer::status(500) } else { Answer::status(200) }
    })
    .await;
    create(&client, &receiver.url("/"), None).await;
    let templates = ["order_ok", "welcome", "reminder"];
    let transitions = STATUSES.windows(2).enumerate().flat_map(|(n, statuses)| {
        templates.map(|name| {
            let body = serde_json::json!({
                "wabaPhoneNumber": "+919100000002", "templateName": name, "templateLanguage": "en",
                "newStatus": statuses[1], "oldStatus": statuses[0], "rejectedReason": "",
                "event": "TEMPLATE_STATUS_UPDATE",
            });
            keyed(name, n, "TEMPLATE_UPDATE", body.to_string())
        })
    });
    let transitions: Vec<_> = transitions.collect();
    client.publish(transitions).await;

    // Ten attempts for the four transitions of each.
    let requests = receiver.received(30).await;
    for (name, numbers) in arrived(&requests) {
        assert_eq!(numbers, [0, 0, 0, 0, 1, 1, 1, 2, 2, 3], "{name}");
        let mut status = "PENDING".to_owned();
        let mine = requests.iter().filter(|request| request.event_id.starts_with(&name));
        for request in mine.filter(|request| request.attempt as usize + arrival(request) > 3) {
            let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
            assert_eq!(body["oldStatus"], status.as_str(), "{name}: {body}");
            body["newStatus"].as_str().expect("a status").clone_into(&mut status);
        }
        assert_eq!(status, "PAUSED", "{name}");
    }
}

/// The number of the event that a request carries.
fn arrival(request: &Received) -> usize {
    arrived(std::slice::from_ref(request)).into_values().flatten().next().expect("one")
}

/// Keys do not wait for each other, not even for one whose receiver never answers; each has one attempt under way.
#[tokio::test]
async fn keys_do_not_wait_for_each_other_and_have_one_attempt_under_way_each() {
    const THINKS: Duration = Duration::from_millis(60);
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match request.event_id.as_str() {
        "stuck-0" => Answer::Hang,
        _ => Answer::after(THINKS, 200),
    })
    .await;
    let webhook = create(&client, &receiver.url("/"), None).await;
    client.publish(in_turns(&["stuck", "a", "b", "c"], 6)).await;
    let requests = receiver.received(1 + 3 * 6).await;
    let arrived = arrived(&requests);
    for key in ["a", "b", "c"] {
        assert_eq!(arrived[key], [0, 1, 2, 3, 4, 5], "{key}");
        let mine = requests.iter().filter(|request| request.event_id.starts_with(key));
        let times: Vec<_> = mine.map(|request| request.at).collect();
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= THINKS, "{key}: the next one was sent before the last was answered");
        }
    }
    assert_eq!(arrived["stuck"], [0], "nothing passes a head");

    // Those behind it are pending, and have no time of their own.
    let request = ListDeliveriesRequest { webhook_id: webhook.id, ..ListDeliveriesRequest::default() };
    let behind: Vec<_> = client.deliveries(request).await;
    let behind = behind.iter().filter(|one| one.event_id.starts_with("stuck-") && one.event_id != "stuck-0");
    let behind: Vec<_> = behind.map(|one| (one.state(), one.next_attempt_time.is_some(), one.attempts)).collect();
    assert_eq!(behind, [(DeliveryState::Pending, false, 0); 5]);
}

/// `HEAD_RULE_BLOCK`: a delivery that fails for good lets the next one go on, not before. `HEAD_RULE_SKIP`: after so many attempts.
/// The rule can be read, and survives a restart.
#[tokio::test]
async fn a_failing_head_blocks_or_is_skipped() {
    let skip = |attempts| Ordering { head_rule: HeadRule::Skip.into(), skip_after_attempts: attempts };
    let block = Ordering { head_rule: HeadRule::Block.into(), skip_after_attempts: 0 };
    for (rule, before) in [(block, 4), (skip(2), 2)] {
        let setup = setup().flag("--retry-schedule", "50ms,50ms,50ms");
        let daemon = setup.start().await;
        let receiver = Receiver::start(|request| match request.event_id.as_str() {
            "a-0" => Answer::status(500),
            _ => Answer::status(200),
        })
        .await;
        let created = create(&daemon.client().await, &receiver.url("/"), Some(rule)).await;
        assert_eq!(created.ordering, Some(rule));
        daemon.stop().await;
        let daemon = setup.start().await;
        let client = daemon.client().await;
        let read = client.webhook(&created.id).await;
        assert_eq!((read.ordered, read.ordering), (true, Some(rule)));
        let mut watch = client.watch().await;
        client.publish(in_turns(&["a"], 3)).await;
        let outcomes = watch.outcomes(6).await;
        let failed = outcomes.iter().find(|outcome| outcome.state() == DeliveryState::Failed).expect("it fails");
        assert_eq!((failed.event_id.as_str(), failed.attempt), ("a-0", 4), "{rule:?}: it has all its attempts");
        let numbers = &arrived(&receiver.all())["a"];
        let at = numbers.iter().position(|number| *number == 1).expect("it arrives");
        assert_eq!(numbers[..at], vec![0; before], "{rule:?}: {numbers:?}");
        let rest: Vec<_> = numbers.iter().filter(|number| **number > 0).collect();
        assert_eq!(rest, [&1, &2], "{rule:?}");
    }
}

/// Promises 1 and 2 hold in order: `kill -9` in the middle may repeat the attempt that was under way, and nothing before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_survives_kill() {
    const EVENTS: usize = 40;
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let setup = impatient();
    let mut daemon = setup.start().await;
    let receiver = Receiver::start(|request| {
        // One in five fails at first.
        let fails = request.attempt == 1 && request.event_id.bytes().map(usize::from).sum::<usize>().is_multiple_of(5);
        if fails { Answer::status(503) } else { Answer::after(Duration::from_millis(2), 200) }
    })
    .await;
    create(&daemon.client().await, &receiver.url("/"), None).await;
    daemon.client().await.publish(in_turns(&KEYS, EVENTS)).await;
    for kill_after in [15, 50, 90] {
        receiver.received(kill_after).await;
        daemon.kill().await;
        receiver.drained().await;
        daemon = setup.start().await;
    }
    let mut watch = daemon.client().await.watch_from_beginning().await;
    let mut delivered = 0;
    while delivered < EVENTS * KEYS.len() {
        let outcome = watch.outcomes(1).await.remove(0);
        delivered += usize::from(outcome.state() == DeliveryState::Delivered);
    }
    for (key, numbers) in arrived(&receiver.all()) {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
        let mut once = numbers;
        once.dedup();
        assert_eq!(once, (0..EVENTS).collect::<Vec<_>>(), "{key}");
    }
}
