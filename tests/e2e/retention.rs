//! What is kept, for how long, and how much of it.

use std::{path::Path, time::Duration};

use postrider_proto::v1::{
    CancelReason, Delivery, DeliveryState, Event, GetDeliveryRequest, GetEventRequest, ListDeliveriesRequest,
    RetryDeliveryRequest, UpdateWebhookRequest, Webhook, delivery_update::Update, event::Payload,
};
use postrider_tests::{
    client::{Client, Verdict, verdict, webhook},
    deadline::{within, within_at_most},
    events::{event, numbered},
    ops::Scrape,
    receiver::{Answer, Receiver, closed_port},
    rejection::Rejection,
};
use tonic::{Code, Status};

use crate::patient;

const LIMIT: u64 = 64 << 20;
/// By how much the data directory may be larger for moments: what is moved is in two files, and files grow by doubling.
const SLACK: u64 = LIMIT / 2;
const BODY_BYTES: usize = 1_000_000;

/// Size of all files below a directory; of those that are being removed, nothing.
fn bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let size = |path: &Path| path.metadata().map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 });
    entries.map(|path| if path.is_dir() { bytes(&path) } else { size(&path) }).sum()
}

/// A million bytes that no other event has.
fn large(n: usize) -> String {
    format!("{{\"n\":{n},\"filling\":\"{}\"}}", "x".repeat(BODY_BYTES))
}

async fn read(client: &Client, id: &str) -> Result<Event, Status> {
    let request = GetEventRequest { tenant: String::new(), id: id.to_owned() };
    let reply = within("GetEvent", async { client.events.clone().get_event(request).await }).await?;
    Ok(reply.into_inner().event.expect("a reply holds the event"))
}

async fn get(client: &Client, tenant: &str, id: &str) -> Result<Delivery, Status> {
    let request = GetDeliveryRequest { tenant: tenant.to_owned(), id: id.to_owned() };
    let reply = within("GetDelivery", async { client.deliveries.clone().get_delivery(request).await }).await?;
    Ok(reply.into_inner().delivery.expect("a reply holds the delivery"))
}

async fn retry(client: &Client, id: &str) -> Result<(), Status> {
    let request = RetryDeliveryRequest { tenant: String::new(), id: id.to_owned() };
    within("RetryDelivery", async { client.deliveries.clone().retry_delivery(request).await }).await.map(drop)
}

fn of(webhook_id: &str) -> ListDeliveriesRequest {
    ListDeliveriesRequest { webhook_id: webhook_id.to_owned(), ..ListDeliveriesRequest::default() }
}

/// Contract of `--retention-bytes`: however much is published, the data directory stays about as small as it is told to; what is
/// finished goes, oldest first, and is then said to have expired; what is pending survives, and a restart, and is delivered whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_directory_stays_small_and_what_is_pending_survives() {
    let setup = patient().flag("--retention-bytes", "64MiB").flag("--ops", "127.0.0.1:0");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| {
        let fails = request.path == "/later" && request.attempt == 1;
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    let (now, later) = (receiver.url("/now"), receiver.url("/later"));
    let (now, later) = (client.create(&now, &["ADD_TAG"]).await.id(), client.create(&later, &["NEW_LEAD"]).await.id());
    let mut watch = client.watch().await;
    let (replies, _) = client.publish_all([event("", "ADD_TAG", "{}"), event("theirs", "ADD_TAG", "{}")]).await;
    let early = replies[0].event_id.clone();
    client.publish(numbered("lead", "NEW_LEAD", 10)).await;
    let outcomes = watch.outcomes(12).await;
    let finished = outcomes.iter().find(|one| one.event_id == early).expect("it was delivered").delivery_id.clone();
    let (created, pending) =
        (get(&client, "", &finished).await.expect("it is retained").create_time, client.deliveries(of(&later)).await);

    let at_most = |most| {
        let data = setup.data();
        async move {
            while bytes(data) > most {
                tokio::task::yield_now().await;
            }
        }
    };
    let template = |n| event(&format!("large-{n}"), "TEMPLATE_UPDATE", large(n));
    for n in 0..160 {
        client.publish([template(n)]).await;
        // What goes takes its time, and what comes does not wait for it.
        within("not much more than the limit", at_most(LIMIT + SLACK)).await;
    }
    // A flood, after which the files are larger than what is left in them.
    client.publish((160..260).map(template)).await;
    within("no more than the limit", at_most(LIMIT)).await;
    assert_eq!(Scrape::of(daemon.ops().await).await.count("retention_bytes_unmet"), 0);
    assert!(bytes(setup.data()) > LIMIT / 2, "and no less than need be: {}", bytes(setup.data()));

    let expired = |what: &str, status: Status| Rejection::from(&status).check(what, Code::OutOfRange, "EXPIRED", "");
    expired("event", read(&client, &early).await.expect_err("gone"));
    expired("delivery", get(&client, "", &finished).await.expect_err("gone"));
    let stranger = get(&client, "other", &finished).await.expect_err("another tenant's");
    Rejection::from(&stranger).check("tenant", Code::NotFound, "DELIVERY_NOT_FOUND", "");
    let gone = retry(&client, &finished).await.expect_err("gone");
    Rejection::from(&gone).check("retry", Code::FailedPrecondition, "EVENT_EXPIRED", "");
    let list = |request| async { client.deliveries.clone().list_deliveries(request).await };
    let until = |webhook_id: &str| ListDeliveriesRequest {
        end_time: created.map(|time| prost_types::Timestamp { seconds: time.seconds + 1, ..time }),
        ..of(webhook_id)
    };
    expired("list", list(until(&now)).await.expect_err("nothing is left of it"));
    let page = list(until(&later)).await.expect("what is pending is listed").into_inner();
    assert_eq!(page.deliveries, pending);
    assert!(page.oldest_time.zip(created).is_some_and(|(oldest, created)| oldest.seconds >= created.seconds));
    // The memory of an id goes with its event, and lasts as long as that.
    let (replies, _) = client.publish_all([event("theirs", "ADD_TAG", "{}"), pending_event(9)]).await;
    let verdicts: Vec<_> = replies.iter().map(verdict).collect();
    let accepted = |duplicate| Verdict::Accepted { deliveries: 1, duplicate };
    assert_eq!(verdicts, [accepted(false), accepted(true)]);
    // Or it would be sent again after the kill.
    let under_way = || ListDeliveriesRequest { states: vec![DeliveryState::Pending.into()], ..of(&now) };
    let recorded = async { while !client.deliveries(under_way()).await.is_empty() {} };
    within("the outcome is recorded", recorded).await;
    daemon.kill().await;

    let daemon = setup.start().await;
    let client = daemon.client().await;
    for delivery in &pending {
        assert_eq!(get(&client, "", &delivery.id).await.expect("it is pending").state(), DeliveryState::Pending);
        retry(&client, &delivery.id).await.expect("its event is retained");
    }
    let arrived = receiver.received(12 + 1 + 10).await;
    for n in 0..10 {
        let expected = pending_event(n);
        let second = arrived.iter().find(|it| it.event_id == expected.id && it.attempt == 2).expect("it is sent again");
        assert_eq!(Some(Payload::Body(second.body.clone())), expected.payload);
    }
    expired("event", read(&client, &early).await.expect_err("gone for good"));
}

fn pending_event(n: usize) -> Event {
    numbered("lead", "NEW_LEAD", n + 1).last().expect("there are some")
}

/// Contract of `--retention-bytes`: nothing pending is removed, however much it is; that there is more than there may be is told
/// once in the log, and in the metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_below_what_is_pending_is_said_not_to_be_met() {
    let setup = patient().flag("--retention-bytes", "64MiB").flag("--ops", "127.0.0.1:0");
    let daemon = setup.start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let webhook = client.create(&format!("http://127.0.0.1:{}/", closed_port()), &["*"]).await.id();
    for n in 0..90 {
        client.publish([event(&format!("large-{n}"), "ADD_TAG", large(n))]).await;
    }
    Scrape::until(address, "the limit is not met", |scrape| scrape.count("retention_bytes_unmet") == 1).await;
    assert!(bytes(setup.data()) > LIMIT);
    let pending = ListDeliveriesRequest { states: vec![DeliveryState::Pending.into()], ..of(&webhook) };
    assert_eq!(client.deliveries(pending).await.len(), 90);
    for n in [0, 45, 89] {
        let payload = read(&client, &format!("large-{n}")).await.expect("it can be sent").payload;
        assert!(payload == Some(Payload::Body(large(n).into())), "large-{n}");
    }
    let told = daemon.log().lines().filter(|line| line.contains("holds more than --retention-bytes")).count();
    assert_eq!(told, 1);
}

/// Contract of retention: what is held when it ends is cancelled with that reason, and told to watchers; nothing else that is
/// pending is, however old. Takes the shortest retention there is, a minute.
#[tokio::test]
async fn what_is_held_is_cancelled_at_the_end_of_retention() {
    let daemon = patient().flag("--retention", "1m").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| {
        let fails = request.path == "/later" && request.attempt == 1;
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    let disabled = Webhook { enabled: Some(false), ..webhook("", &receiver.url("/held"), &["*"]) };
    let held = client.create_as(disabled).await.id();
    let later = client.create(&receiver.url("/later"), &["*"]).await.id();
    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", 5)).await;
    assert_eq!(client.webhook(&held).await.pending_deliveries, 5);

    let told = async {
        let mut told = Vec::new();
        while told.iter().map(|(_, _, deliveries)| deliveries).sum::<i64>() < 5 {
            let message = watch.message().await.expect("the watch goes on").expect("the watch goes on");
            for update in message.updates {
                if let Some(Update::WebhookCancelled(it)) = update.update {
                    told.push((it.reason(), it.webhook_id, it.deliveries));
                }
            }
        }
        told
    };
    let told = within_at_most(Duration::from_mins(3), "the end of retention", told).await;
    assert_eq!(told, [(CancelReason::HeldExpired, held.clone(), 5)]);
    assert_eq!(client.webhook(&held).await.pending_deliveries, 0);
    let states = |deliveries: Vec<Delivery>| deliveries.iter().map(Delivery::state).collect::<Vec<_>>();
    assert_eq!(states(client.deliveries(of(&held)).await), [DeliveryState::Cancelled; 5]);
    let pending = client.deliveries(of(&later)).await;
    assert_eq!(states(pending.clone()), [DeliveryState::Pending; 5]);

    let enable = Webhook { id: held.clone(), enabled: Some(true), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(enable), ..UpdateWebhookRequest::default() };
    client.webhooks.clone().update_webhook(request).await.expect("enabled");
    for delivery in &pending {
        retry(&client, &delivery.id).await.expect("it is pending");
    }
    client.publish([event("after", "ADD_TAG", "{}")]).await;
    let arrived = receiver.received(5 + 5 + 2).await;
    let at_held: Vec<_> = arrived.iter().filter(|it| it.path == "/held").map(|it| it.event_id.as_str()).collect();
    assert_eq!(at_held, ["after"], "nothing that was cancelled is sent");
}
