//! The main job: events in over gRPC, signed requests out, outcomes back.

use std::collections::HashMap;

use bytes::Bytes;
use http::Method;
use postrider_proto::v1::{
    DeleteWebhookRequest, DeliveryState, ErrorClass, Event, GetWebhookRequest, ListDeliveriesRequest,
    ListEventTypesRequest, ListWebhooksRequest, event::Payload,
};
use postrider_tests::{
    client::{Client, Created},
    events::event,
    independent,
    payloads::{DOCUMENTED, FRAGILE, NOT_JSON},
    receiver::{Received, Receiver},
    rejection::Rejection,
};
use prost_types::{Struct, Timestamp, Value, value::Kind};
use tonic::Code;

use crate::setup;

/// An event and the exact bytes its receiver must get.
struct Sent {
    event: Event,
    body: Vec<u8>,
    content_type: &'static str,
}

/// Done-items 2 and 3, promise 1: all eleven triggers, and every body that a careless sender would change, arrive byte for
/// byte with the right headers and signature; the outcomes are on the watch stream, in the list and in the delivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_payload_arrives_byte_for_byte_and_signed() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(204).await;
    let webhook = client.create(&receiver.url("/hook?key=1"), &["*"]).await;
    let mut watch = client.watch().await;

    let sent = everything(&client).await;
    let total = sent.len();
    let fan_out = client.publish(sent.iter().map(|sent| sent.event.clone()).collect::<Vec<_>>()).await;
    assert_eq!(fan_out, vec![1; total]);

    let arrived: HashMap<_, _> =
        receiver.received(total).await.into_iter().map(|request| (request.event_id.clone(), request)).collect();
    assert_eq!(arrived.len(), total, "every event once");
    for sent in &sent {
        check_request(&arrived[&sent.event.id], sent, &webhook.secret);
    }

    let outcomes = watch.outcomes(total).await;
    for outcome in &outcomes {
        assert_eq!(outcome.state(), DeliveryState::Delivered, "{outcome:?}");
        assert_eq!((outcome.attempt, outcome.http_status), (1, 204), "{outcome:?}");
        assert_eq!(outcome.error_class(), ErrorClass::Unspecified, "{outcome:?}");
        assert_eq!((outcome.webhook_id.as_str(), outcome.tenant.as_str()), (webhook.webhook.id.as_str(), "default"));
        assert!(outcome.error.is_empty() && outcome.next_attempt_time.is_none(), "{outcome:?}");
        assert!(outcome.latency.is_some() && outcome.time.is_some(), "{outcome:?}");
        let request = &arrived[&outcome.event_id];
        assert_eq!(request.header("webhook-delivery-id"), outcome.delivery_id);
        assert_eq!(request.header("webhook-event-type"), outcome.event_type);
    }
    check_records(&client, &webhook, &sent).await;
    check_delete(&client, &webhook).await;
}

async fn everything(client: &Client) -> Vec<Sent> {
    let types = client.event_types.clone().list_event_types(ListEventTypesRequest::default()).await;
    let types = types.expect("event types can be listed").into_inner();
    assert!(types.next_page_token.is_empty(), "the default page holds all built-in types");
    assert_eq!(types.event_types.iter().filter(|it| !it.name.starts_with("postrider.")).count(), 11);
    let json = "application/json";
    let exact = |id: String, name: &str, body: &[u8], content_type: &'static str| Sent {
        event: Event {
            content_type: if content_type == json { String::new() } else { content_type.to_owned() },
            ..event(&id, name, Bytes::copy_from_slice(body))
        },
        body: body.to_vec(),
        content_type,
    };
    let mut sent = Vec::new();
    for listed in &types.event_types {
        assert!(!listed.title.is_empty() && !listed.description.is_empty(), "{listed:?}");
        let example: serde_json::Value = serde_json::from_str(&listed.example).expect("an example is JSON");
        assert!(example.is_object(), "{listed:?}");
        sent.push(exact(
            format!("example-{}", listed.name.replace('.', "-")),
            &listed.name,
            listed.example.as_bytes(),
            json,
        ));
    }
    for (index, (name, body)) in DOCUMENTED.into_iter().enumerate() {
        assert!(types.event_types.iter().any(|listed| listed.name == name), "{name} is built in");
        sent.push(exact(format!("documented-{index}"), name, body.as_bytes(), json));
    }
    for (index, (_, body)) in FRAGILE.into_iter().enumerate() {
        sent.push(exact(format!("fragile-{index}"), "MESSAGE_RECEIVED", body, json));
    }
    for (index, (content_type, body)) in NOT_JSON.into_iter().enumerate() {
        sent.push(exact(format!("not-json-{index}"), "ADD_TAG", body, content_type));
    }
    sent.push(structured());
    sent
}

/// An event with `data`: compact JSON, keys sorted.
fn structured() -> Sent {
    let number = |n| Value { kind: Some(Kind::NumberValue(n)) };
    let text = Value { kind: Some(Kind::StringValue("é \"q\"".to_owned())) };
    let data = Struct { fields: [("z".into(), number(1.0)), ("a".into(), text), ("m".into(), number(2.5))].into() };
    let body = r#"{"a":"é \"q\"","m":2.5,"z":1}"#.into();
    Sent {
        event: Event {
            payload: Some(Payload::Data(data)),
            occur_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..event("structured", "NEW_LEAD", Bytes::new())
        },
        body,
        content_type: "application/json",
    }
}

fn check_request(request: &Received, sent: &Sent, secret: &str) {
    let id = &sent.event.id;
    assert_eq!(request.body, sent.body, "{id}: {:?}", String::from_utf8_lossy(&request.body));
    assert_eq!((&request.method, request.path.as_str()), (&Method::POST, "/hook?key=1"), "{id}");
    assert!(independent::is_signed(request, secret), "{id}: {:?}", request.headers);
    assert_eq!(request.header("content-type"), sent.content_type, "{id}");
    assert_eq!(request.header("content-length"), sent.body.len().to_string(), "{id}");
    assert_eq!(request.header("webhook-event-type"), sent.event.r#type, "{id}");
    assert_eq!(request.header("webhook-attempt"), "1", "{id}");
    assert!(request.header("user-agent").starts_with("Postrider/"), "{id}");
    assert!(!request.headers.contains_key("transfer-encoding"), "{id}");
    let time = request.header("webhook-event-time");
    assert!(time.ends_with('Z') && time.contains('T'), "{id}: {time}");
    if sent.event.occur_time.is_some() {
        assert!(time.starts_with("2023-11-14T22:13:20"), "{id}: {time}");
    }
}

async fn check_records(client: &Client, webhook: &Created, sent: &[Sent]) {
    let request = ListDeliveriesRequest { webhook_id: webhook.id(), page_size: 7, ..ListDeliveriesRequest::default() };
    let deliveries = client.deliveries(request).await;
    let listed: Vec<_> = deliveries.iter().map(|delivery| delivery.event_id.as_str()).collect();
    let newest_first: Vec<_> = sent.iter().rev().map(|sent| sent.event.id.as_str()).collect();
    assert_eq!(listed, newest_first);
    for delivery in &deliveries {
        assert_eq!(delivery.state(), DeliveryState::Delivered, "{delivery:?}");
        assert_eq!((delivery.attempts, delivery.last_http_status), (1, 204), "{delivery:?}");
        assert!(delivery.next_attempt_time.is_none(), "{delivery:?}");
        let read = client.delivery(&delivery.id).await;
        assert_eq!(read.delivery.as_ref(), Some(delivery));
        let attempts: Vec<_> = read.attempts.iter().map(|attempt| (attempt.attempt, attempt.state())).collect();
        assert_eq!(attempts, [(1, DeliveryState::Delivered)]);
    }
    assert_eq!(client.webhook(&webhook.webhook.id).await.pending_deliveries, 0);
}

async fn check_delete(client: &Client, webhook: &Created) {
    let mut webhooks = client.webhooks.clone();
    let listed = webhooks.list_webhooks(ListWebhooksRequest::default()).await.expect("webhooks can be listed");
    assert_eq!(listed.into_inner().webhooks, [client.webhook(&webhook.webhook.id).await]);
    let request = DeleteWebhookRequest { id: webhook.id(), ..DeleteWebhookRequest::default() };
    let reply = webhooks.delete_webhook(request.clone()).await.expect("the webhook is deleted");
    assert_eq!(reply.into_inner().cancelled_deliveries, 0);
    let again = webhooks.delete_webhook(request).await.expect_err("it is gone");
    Rejection::from(&again).check("delete again", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
    let request = GetWebhookRequest { id: webhook.id(), ..GetWebhookRequest::default() };
    let gone = webhooks.get_webhook(request).await.expect_err("it is gone");
    Rejection::from(&gone).check("get", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
}

/// Promise 5 and contract section 4: a reply names the assigned id, and a webhook gets only the types it asked for.
#[tokio::test]
async fn webhooks_get_what_they_asked_for() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/tags"), &["REMOVE_TAG", "ADD_TAG", "ADD_TAG"]).await;
    client.create(&receiver.url("/all"), &["*"]).await;
    let events = [event("", "ADD_TAG", "{}"), event("", "NEW_LEAD", "{}"), event("", "REMOVE_TAG", "{}")];
    let (replies, ended) = client.publish_all(events).await;
    ended.expect("the stream ends well");
    let ids: Vec<_> = replies.iter().map(|reply| reply.event_id.clone()).collect();
    let mut expected =
        vec![("/tags", &ids[0]), ("/all", &ids[0]), ("/all", &ids[1]), ("/tags", &ids[2]), ("/all", &ids[2])];
    let requests = receiver.received(5).await;
    let mut got: Vec<_> = requests.iter().map(|request| (request.path.as_str(), &request.event_id)).collect();
    expected.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, expected);
    assert!(ids.iter().all(|id| !id.is_empty()), "{ids:?}");
}
