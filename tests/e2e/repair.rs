//! Repairing by hand: what was held is dropped, deliveries are cancelled and tried again, events are looked up.

use postrider_proto::v1::{
    CancelDeliveriesRequest, CancelReason, CreateWebhookRequest, DeleteWebhookRequest, Delivery, DeliveryState,
    ErrorClass, Event, GetEventRequest, HeldDeliveries, ListDeliveriesRequest, Outcome, RetryDeliveryRequest,
    UpdateWebhookRequest, Webhook, WebhookCancelled, delivery_update::Update, event::Payload,
};
use postrider_tests::{
    client::{Client, Watcher, webhook},
    deadline::within,
    events::{event, numbered},
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tonic::{Code, Status};

use crate::{patient, setup};

async fn turn(client: &Client, id: &str, enabled: bool, held: HeldDeliveries) -> Result<Webhook, Status> {
    let webhook = Webhook { id: id.to_owned(), enabled: Some(enabled), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask: None, held_deliveries: held.into() };
    let reply = within("UpdateWebhook", async { client.webhooks.clone().update_webhook(request).await }).await?;
    Ok(reply.into_inner().webhook.expect("a reply holds the webhook"))
}

async fn retry(client: &Client, tenant: &str, id: &str) -> Result<Delivery, Status> {
    let request = RetryDeliveryRequest { tenant: tenant.to_owned(), id: id.to_owned() };
    let reply = within("RetryDelivery", async { client.deliveries.clone().retry_delivery(request).await }).await?;
    Ok(reply.into_inner().delivery.expect("a reply holds the delivery"))
}

async fn cancel(client: &Client, request: CancelDeliveriesRequest) -> Result<i64, Status> {
    let call = async { client.deliveries.clone().cancel_deliveries(request).await };
    Ok(within("CancelDeliveries", call).await?.into_inner().cancelled_deliveries)
}

async fn of_webhook(client: &Client, id: &str, states: &[DeliveryState]) -> Vec<Delivery> {
    let states = states.iter().map(|state| i32::from(*state)).collect();
    client.deliveries(ListDeliveriesRequest { webhook_id: id.to_owned(), states, ..Default::default() }).await
}

async fn cancelled(watch: &mut Watcher) -> WebhookCancelled {
    match watch.update().await {
        Update::WebhookCancelled(cancelled) => cancelled,
        Update::Outcome(outcome) => panic!("{outcome:?}"),
        Update::OperationalEvent(event) => panic!("{event:?}"),
    }
}

/// Contract: what was held goes out when its webhook is enabled again, or is dropped if that is wanted: then nothing of it is
/// sent, watchers are told how much it was, and what comes afterwards is delivered. So it is after a restart.
#[tokio::test]
async fn what_was_held_is_released_or_dropped() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await.id();
    turn(&client, &webhook, false, HeldDeliveries::Unspecified).await.expect("disabled");
    client.publish(numbered("released", "ADD_TAG", 3)).await;
    assert_eq!(of_webhook(&client, &webhook, &[DeliveryState::Held]).await.len(), 3);
    turn(&client, &webhook, true, HeldDeliveries::Unspecified).await.expect("enabled");
    receiver.received(3).await;

    turn(&client, &webhook, false, HeldDeliveries::Unspecified).await.expect("disabled");
    client.publish(numbered("dropped", "ADD_TAG", 2_000)).await;
    let mut watch = client.watch().await;
    let enabled = turn(&client, &webhook, true, HeldDeliveries::Drop).await.expect("enabled");
    assert_eq!(enabled.pending_deliveries, 0);
    let told = cancelled(&mut watch).await;
    assert_eq!((told.reason(), told.deliveries, told.webhook_id), (CancelReason::HeldDropped, 2_000, webhook.clone()));
    daemon.kill().await;

    let daemon = setup.start().await;
    let client = daemon.client().await;
    client.publish([event("after", "ADD_TAG", "{}")]).await;
    let got: Vec<_> = receiver.received(4).await.into_iter().map(|request| request.event_id).collect();
    assert_eq!(got[3], "after", "nothing that was dropped is sent");
    assert_eq!(of_webhook(&client, &webhook, &[DeliveryState::Cancelled]).await.len(), 2_000);

    for (enabled, held) in [(false, HeldDeliveries::Drop), (false, HeldDeliveries::Release)] {
        let refused = turn(&client, &webhook, enabled, held).await.expect_err("it does not enable");
        Rejection::from(&refused).check("held", Code::InvalidArgument, "INVALID_FIELD", "held_deliveries");
    }
}

/// Contract: a retry is made at once, whatever became of the delivery, under the same ids and with the next number; it has
/// all the retries of a new one.
#[tokio::test]
async fn any_delivery_is_tried_again_at_once() {
    let daemon = setup().flag("--retry-schedule", "100ms").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt < 4 { 500 } else { 200 })).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await.id();
    let mut watch = client.watch().await;
    client.publish([event("e-1", "ADD_TAG", "{}")]).await;
    let attempts = |outcomes: &[Outcome]| outcomes.iter().map(|one| (one.attempt, one.state())).collect::<Vec<_>>();
    let first = watch.outcomes(2).await;
    assert_eq!(attempts(&first), [(1, DeliveryState::Pending), (2, DeliveryState::Failed)]);

    let id = &first[0].delivery_id;
    let retried = retry(&client, "", id).await.expect("it has failed");
    assert_eq!((retried.state(), retried.attempts), (DeliveryState::Pending, 2));
    assert!(retried.next_attempt_time.is_some());
    let second = watch.outcomes(2).await;
    assert_eq!(attempts(&second), [(3, DeliveryState::Pending), (4, DeliveryState::Delivered)], "a retry of its own");
    retry(&client, "", id).await.expect("it was delivered");
    assert_eq!(attempts(&watch.outcomes(1).await), [(5, DeliveryState::Delivered)]);
    let requests = receiver.received(5).await;
    assert!(requests.iter().all(|it| it.event_id == "e-1" && it.header("webhook-delivery-id") == id));
    let read = client.delivery(id).await;
    assert_eq!(read.attempts.len(), 5);
    assert_eq!(read.delivery.expect("it exists").state(), DeliveryState::Delivered);

    let stranger = retry(&client, "other", id).await.expect_err("another tenant's");
    Rejection::from(&stranger).check("tenant", Code::NotFound, "DELIVERY_NOT_FOUND", "");
    let unknown = retry(&client, "", &format!("dlv_{}", "0".repeat(32))).await.expect_err("nobody's");
    Rejection::from(&unknown).check("unknown", Code::NotFound, "DELIVERY_NOT_FOUND", "");
    let delete = DeleteWebhookRequest { id: webhook, ..DeleteWebhookRequest::default() };
    client.webhooks.clone().delete_webhook(delete).await.expect("deleted");
    let gone = retry(&client, "", id).await.expect_err("its webhook is gone");
    Rejection::from(&gone).check("gone", Code::FailedPrecondition, "WEBHOOK_DELETED", "");
}

/// Contract: what was too old is sent when it is retried by hand, and repeated as often as anything, however old it is.
#[tokio::test]
async fn what_was_too_old_is_sent_after_all() {
    let daemon = setup().flag("--retry-schedule", "100ms,1s").flag("--retry-jitter", "0").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt < 5 { 500 } else { 200 })).await;
    let aged = Webhook {
        max_age: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..webhook("", &receiver.url("/"), &["*"])
    };
    let request = CreateWebhookRequest { webhook: Some(aged), ..CreateWebhookRequest::default() };
    client.webhooks.clone().create_webhook(request).await.expect("created");
    let mut watch = client.watch().await;
    client.publish([event("e-1", "ADD_TAG", "{}")]).await;
    let attempted = watch.outcomes(2).await;
    assert_eq!((attempted[1].attempt, attempted[1].error_class()), (2, ErrorClass::Expired));
    let id = &attempted[0].delivery_id;
    retry(&client, "", id).await.expect("it expired");
    // The last of them comes more than a second later.
    let retried: Vec<_> = watch.outcomes(3).await.iter().map(|it| (it.attempt, it.state())).collect();
    let expected = [(3, DeliveryState::Pending), (4, DeliveryState::Pending), (5, DeliveryState::Delivered)];
    assert_eq!(retried, expected);
}

/// Contract: a delivery that waits for its next attempt does not wait any longer.
#[tokio::test]
async fn what_waits_for_its_next_attempt_is_tried_now() {
    let daemon = patient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt == 1 { 500 } else { 200 })).await;
    client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish([event("e-1", "ADD_TAG", "{}")]).await;
    let outcome = watch.outcome(DeliveryState::Pending).await;
    retry(&client, "", &outcome.delivery_id).await.expect("it waits");
    assert_eq!(watch.outcome(DeliveryState::Delivered).await.attempt, 2);
}

/// Contract: pending deliveries are cancelled, all of a webhook or those named, and nothing of them is sent; each can be
/// brought back.
#[tokio::test]
async fn pending_deliveries_are_cancelled() {
    let daemon = patient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt == 1 { 500 } else { 200 })).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await.id();
    let other = client.create(&receiver.url("/other"), &["*"]).await.id();
    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", 20)).await;
    let outcomes = watch.outcomes(40).await;
    let ours: Vec<_> = outcomes.iter().filter(|one| one.webhook_id == webhook).collect();
    let theirs = outcomes.iter().find(|one| one.webhook_id == other).expect("it has some");

    let request = |event_id: &str, ids: Vec<String>| CancelDeliveriesRequest {
        webhook_id: webhook.clone(),
        event_id: event_id.to_owned(),
        ids,
        ..CancelDeliveriesRequest::default()
    };
    let ids = vec![ours[0].delivery_id.clone(), ours[1].delivery_id.clone(), theirs.delivery_id.clone()];
    assert_eq!(cancel(&client, request("", ids.clone())).await.expect("cancelled"), 2, "not the other webhook's");
    let told = cancelled(&mut watch).await;
    assert_eq!((told.reason(), told.deliveries), (CancelReason::Requested, 2));
    assert_eq!(cancel(&client, request("", ids)).await.expect("cancelled"), 0, "they have ended");
    assert_eq!(cancel(&client, request(&ours[2].event_id, Vec::new())).await.expect("cancelled"), 1);
    assert_eq!(cancelled(&mut watch).await.deliveries, 1);
    assert_eq!(cancel(&client, request("nobody", Vec::new())).await.expect("cancelled"), 0, "no such event");
    assert_eq!(cancel(&client, request("", Vec::new())).await.expect("cancelled"), 17);
    assert_eq!(cancelled(&mut watch).await.deliveries, 17);
    assert_eq!(client.webhook(&webhook).await.pending_deliveries, 0);
    assert_eq!(client.webhook(&other).await.pending_deliveries, 20);
    assert_eq!(of_webhook(&client, &webhook, &[DeliveryState::Cancelled]).await.len(), 20);
    assert_eq!(receiver.count(), 40);

    let back = async {
        loop {
            // Until the last one is marked.
            match retry(&client, "", &ours[5].delivery_id).await {
                Ok(delivery) => return delivery,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    };
    assert_eq!(within("the retry", back).await.state(), DeliveryState::Pending);
    assert_eq!(watch.outcome(DeliveryState::Delivered).await.delivery_id, ours[5].delivery_id);

    let of_nobody = CancelDeliveriesRequest { tenant: "other".into(), ..request("", Vec::new()) };
    let refused = cancel(&client, of_nobody).await.expect_err("another tenant's");
    Rejection::from(&refused).check("tenant", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
    let many = vec![ours[0].delivery_id.clone(); 251];
    let refused = cancel(&client, request("", many)).await.expect_err("too many");
    Rejection::from(&refused).check("ids", Code::InvalidArgument, "INVALID_FIELD", "ids");
}

/// Contract: lists are narrowed by type and by when the event was accepted, page by page, and tokens belong to their filters.
#[tokio::test]
async fn lists_are_narrowed_by_type_and_time() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;
    client.publish(numbered("tag", "ADD_TAG", 10)).await;
    receiver.received(10).await;
    client.publish(numbered("lead", "NEW_LEAD", 10)).await;
    receiver.received(20).await;
    let all = client.deliveries(ListDeliveriesRequest::default()).await;
    let middle = all.iter().find(|it| it.event_type == "ADD_TAG").expect("the last of them").create_time;
    // Published after the answers to the first ten.
    let first_lead = all[9].create_time;
    let base = ListDeliveriesRequest { page_size: 3, ..Default::default() };
    let of_type = |name: &str| ListDeliveriesRequest { event_types: vec![name.to_owned()], ..base.clone() };
    let cases = [
        (of_type("ADD_TAG"), 10),
        (of_type("NEW_LEAD"), 10),
        (ListDeliveriesRequest { event_types: vec!["ADD_TAG".into(), "NEW_LEAD".into()], ..base.clone() }, 20),
        (ListDeliveriesRequest { start_time: first_lead, ..base.clone() }, 10),
        (ListDeliveriesRequest { end_time: first_lead, ..base.clone() }, 10),
        (ListDeliveriesRequest { end_time: first_lead, ..of_type("NEW_LEAD") }, 0),
    ];
    for (request, expected) in cases {
        assert_eq!(client.deliveries(request.clone()).await.len(), expected, "{request:?}");
    }
    let list = |request| {
        let mut deliveries = client.deliveries.clone();
        async move { deliveries.list_deliveries(request).await.map(tonic::Response::into_inner) }
    };
    let page_token = list(of_type("ADD_TAG")).await.expect("a page").next_page_token;
    for other in [of_type("NEW_LEAD"), base.clone(), ListDeliveriesRequest { end_time: middle, ..of_type("ADD_TAG") }] {
        let request = ListDeliveriesRequest { page_token: page_token.clone(), ..other };
        let status = list(request).await.expect_err("the token belongs to another request");
        Rejection::from(&status).check("filter", Code::InvalidArgument, "INVALID_PAGE_TOKEN", "page_token");
    }
    let status = list(of_type("ADD_TAGS")).await.expect_err("no such type");
    Rejection::from(&status).check("type", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event_types[0]");
    let backwards = ListDeliveriesRequest { start_time: first_lead, end_time: all[19].create_time, ..base };
    let status = list(backwards).await.expect_err("it ends before it starts");
    Rejection::from(&status).check("time", Code::InvalidArgument, "INVALID_FIELD", "end_time");
}

/// Contract: an event is read as it was published; one that is not there is not found, or said to be too old if its id tells.
#[tokio::test]
async fn events_are_read_with_their_bodies() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let published = Event {
        labels: [("waba".to_owned(), "1".to_owned())].into(),
        ordering_key: "k".into(),
        content_type: "text/plain".into(),
        payload: Some(Payload::Body("größer".into())),
        ..event("e-1", "ADD_TAG", "{}")
    };
    client.publish([published.clone()]).await;
    let read = |tenant: &str, id: &str| {
        let (mut events, request) = (client.events.clone(), GetEventRequest { tenant: tenant.into(), id: id.into() });
        async move { events.get_event(request).await.map(tonic::Response::into_inner) }
    };
    let got = read("", "e-1").await.expect("it is retained");
    assert!(got.accept_time.is_some());
    assert_eq!(got.event, Some(Event { tenant: "default".into(), ..published }));
    let check = |status: Status, code, reason, field| Rejection::from(&status).check("event", code, reason, field);
    check(read("other", "e-1").await.expect_err("another tenant's"), Code::NotFound, "EVENT_NOT_FOUND", "");
    check(read("", "e-2").await.expect_err("nobody's"), Code::NotFound, "EVENT_NOT_FOUND", "");
    // The example of RFC 9562, of 2022.
    let old = "evt_017f22e279b07cc398c4dc0c0c07398f";
    check(read("", old).await.expect_err("too old"), Code::OutOfRange, "EXPIRED", "");
    check(read("", "a.b").await.expect_err("malformed"), Code::InvalidArgument, "INVALID_FIELD", "id");
}
