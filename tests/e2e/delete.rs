//! Deleting a webhook with work pending.

use postrider_proto::v1::{
    DeleteWebhookRequest, DeliveryState, ListDeliveriesRequest, WatchDeliveriesRequest, delivery_update::Update,
};
use postrider_tests::{
    client::{Client, Created},
    deadline::within,
    events::{event, numbered},
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tonic::Code;

use crate::{patient, setup};

async fn delete(client: &Client, webhook: &Created) -> i64 {
    let request = DeleteWebhookRequest { id: webhook.id(), ..DeleteWebhookRequest::default() };
    let call = within("DeleteWebhook", async { client.webhooks.clone().delete_webhook(request).await }).await;
    call.expect("the webhook is deleted").into_inner().cancelled_deliveries
}

/// Contract: what was pending is cancelled and counted, watchers are told whatever types they follow, and the records say
/// CANCELLED. A stale etag deletes nothing.
#[tokio::test]
async fn what_is_pending_is_cancelled_and_counted() {
    let daemon = patient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(500).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    let other_types = vec!["NEW_LEAD".to_owned()];
    let mut other = client.watch_with(WatchDeliveriesRequest { event_types: other_types, ..Default::default() }).await;
    client.publish(numbered("e", "ADD_TAG", 20)).await;
    for outcome in watch.outcomes(20).await {
        assert_eq!(outcome.state(), DeliveryState::Pending);
    }
    assert_eq!(client.webhook(&webhook.webhook.id).await.pending_deliveries, 20);

    let stale = DeleteWebhookRequest { id: webhook.id(), etag: "stale".into(), ..Default::default() };
    let status = client.webhooks.clone().delete_webhook(stale).await.expect_err("the etag is wrong");
    Rejection::from(&status).check("stale etag", Code::Aborted, "ETAG_MISMATCH", "");

    assert_eq!(delete(&client, &webhook).await, 20);
    for watch in [&mut watch, &mut other] {
        match watch.update().await {
            Update::WebhookCancelled(cancelled) => {
                assert_eq!((cancelled.webhook_id, cancelled.deliveries), (webhook.id(), 20));
                assert_eq!(cancelled.tenant, "default");
                assert!(cancelled.time.is_some());
            }
            other @ (Update::Outcome(_) | Update::OperationalEvent(_)) => panic!("{other:?}"),
        }
    }
    let request = ListDeliveriesRequest { webhook_id: webhook.id(), ..Default::default() };
    let deliveries = client.deliveries(request).await;
    assert_eq!(deliveries.len(), 20);
    for delivery in &deliveries {
        assert_eq!(delivery.state(), DeliveryState::Cancelled, "{delivery:?}");
        assert!(delivery.next_attempt_time.is_none() && delivery.update_time.is_some(), "{delivery:?}");
    }
    let read = client.delivery(&deliveries[0].id).await;
    assert_eq!(read.attempts.len(), 1, "what was attempted stays on record");
    assert_eq!(client.publish([event("late", "ADD_TAG", "{}")]).await, [0]);
}

/// Contract: no attempt starts after the reply, not even of what was being dispatched; what was in flight is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attempt_starts_after_the_reply() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let doomed = Receiver::start(|_| Answer::Hang).await;
    let sentinel = Receiver::answering(200).await;
    let webhook = client.create(&doomed.url("/"), &["ADD_TAG"]).await;
    client.create(&sentinel.url("/"), &["NEW_LEAD"]).await;
    let mut watch = client.watch().await;
    client.publish(numbered("doomed", "ADD_TAG", 300)).await;
    doomed.received(1).await;

    assert_eq!(delete(&client, &webhook).await, 300);
    // What was on its way may still arrive; by the time the sentinel has, so has that.
    client.publish([event("sentinel-1", "NEW_LEAD", "{}")]).await;
    sentinel.received(1).await;
    let arrived = doomed.count();
    client.publish(numbered("sentinel-2", "NEW_LEAD", 100)).await;
    sentinel.received(101).await;
    assert_eq!(doomed.count(), arrived);
    assert!(arrived < 300, "the test needs a backlog");
    assert!(matches!(watch.update().await, Update::WebhookCancelled(cancelled) if cancelled.deliveries == 300));
    for outcome in watch.outcomes(101).await {
        assert_ne!(outcome.webhook_id, webhook.webhook.id, "no outcome after the deletion: {outcome:?}");
    }
}
