//! Trying a webhook with a test event.

use std::time::Duration;

use postrider_proto::v1::{
    DeliveryState, ErrorClass, ListDeliveriesRequest, Outcome, SendTestEventRequest, UpdateWebhookRequest, Webhook,
};
use postrider_tests::{
    client::Client,
    deadline::within,
    events::event,
    independent,
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tonic::{Code, Status};

use crate::setup;

async fn try_send(client: &Client, id: &str, event_type: &str) -> Result<Outcome, Status> {
    let request = SendTestEventRequest { id: id.into(), event_type: event_type.into(), ..Default::default() };
    let call = within("SendTestEvent", async { client.webhooks.clone().send_test_event(request).await }).await;
    Ok(call?.into_inner().outcome.expect("a reply holds the outcome"))
}

/// Contract: the type's example arrives signed, though the webhook is disabled and asked for another type; the reply says what
/// the receiver answered; nothing is on record.
#[tokio::test]
async fn a_test_event_arrives_whatever_the_webhook_asked_for() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|_| Answer::status(200)).await;
    let created = client.create(&receiver.url("/hook"), &["NEW_LEAD"]).await;
    let off = Webhook { id: created.id(), enabled: Some(false), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(off), ..UpdateWebhookRequest::default() };
    client.webhooks.clone().update_webhook(request).await.expect("the webhook is disabled");
    let before = client.webhook(&created.id()).await;

    let outcome = try_send(&client, &created.id(), "ADD_TAG").await.expect("it is sent");
    assert_eq!((outcome.state(), outcome.http_status, outcome.attempt), (DeliveryState::Delivered, 200, 1));
    assert_eq!((outcome.error_class(), outcome.error.as_str()), (ErrorClass::Unspecified, ""));
    assert!(outcome.event_id.starts_with("test_") && outcome.webhook_id == created.id(), "{outcome:?}");
    let request = receiver.received(1).await.remove(0);
    assert_eq!((request.event_id.as_str(), request.path.as_str()), (outcome.event_id.as_str(), "/hook"));
    assert!(independent::is_signed(&request, &created.secret));
    assert_eq!(request.headers["webhook-event-type"], "ADD_TAG");
    let body: serde_json::Value = serde_json::from_slice(&request.body).expect("the example is JSON");
    assert!(body.get("tagAdded").is_some(), "{body}");

    assert_eq!(client.webhook(&created.id()).await, before);
    assert!(client.deliveries(ListDeliveriesRequest::default()).await.is_empty());
    let mut watch = client.watch_from_beginning().await;
    client.create(&receiver.url("/other"), &["*"]).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    assert_eq!(watch.outcomes(1).await[0].event_id, "e", "watchers hear of real events only");
}

/// Contract: a failure is an answer, too, with its class and what the receiver said; a 410 disables nothing.
#[tokio::test]
async fn what_went_wrong_is_said() {
    let daemon = setup().flag("--attempt-timeout", "1s").start().await;
    let client = daemon.client().await;
    let refusing = Receiver::answering(410).await;
    let created = client.create(&refusing.url("/"), &["*"]).await;
    let outcome = try_send(&client, &created.id(), "ADD_TAG").await.expect("it is sent");
    assert_eq!((outcome.state(), outcome.http_status), (DeliveryState::Failed, 410));
    assert_eq!(outcome.error_class(), ErrorClass::HttpStatus);
    assert!(outcome.next_attempt_time.is_none());
    assert_eq!(client.webhook(&created.id()).await.enabled, Some(true));

    let hanging = Receiver::start(|_| Answer::Hang).await;
    let created = client.create(&hanging.url("/"), &["*"]).await;
    let outcome = try_send(&client, &created.id(), "ADD_TAG").await.expect("it is sent");
    assert_eq!((outcome.state(), outcome.error_class()), (DeliveryState::Failed, ErrorClass::Timeout));
    let latency = outcome.latency.expect("it took a while");
    assert!(Duration::new(latency.seconds.cast_unsigned(), latency.nanos.cast_unsigned()) >= Duration::from_secs(1));

    for (name, id, event_type, code, reason, field) in [
        ("unknown type", created.id(), "ADD_TGA", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event_type"),
        ("no type", created.id(), "", Code::InvalidArgument, "INVALID_FIELD", "event_type"),
        ("malformed id", "x".to_owned(), "ADD_TAG", Code::InvalidArgument, "INVALID_FIELD", "id"),
        ("unknown id", format!("wh_{:032x}", 7), "ADD_TAG", Code::NotFound, "WEBHOOK_NOT_FOUND", ""),
    ] {
        let status = try_send(&client, &id, event_type).await.expect_err(name);
        Rejection::from(&status).check(name, code, reason, field);
    }
}
