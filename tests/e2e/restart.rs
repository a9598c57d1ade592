//! What a restart keeps.

use postrider_proto::v1::{DeliveryState, WatchDeliveriesRequest, watch_deliveries_request::Start};
use postrider_tests::{
    events::numbered,
    independent,
    receiver::{Answer, Receiver},
};

use crate::impatient;

/// Promises 1, 2 and 5: pending retries, their attempt numbers, the webhook's secret and the cursor of a watcher survive a
/// restart.
#[tokio::test]
async fn pending_retries_survive() {
    let setup = impatient();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.epoch == 0 { 500 } else { 200 })).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", 10)).await;
    let mut failed = std::collections::HashMap::new();
    while failed.len() < 10 || watch.has_unread() {
        let outcome = watch.outcome(DeliveryState::Pending).await;
        failed.insert(outcome.event_id, outcome.attempt);
    }
    let cursor = watch.cursor().to_owned();
    daemon.stop().await;
    receiver.drained().await;
    receiver.start_epoch();

    let daemon = setup.start().await;
    let client = daemon.client().await;
    assert_eq!(client.webhook(&webhook.webhook.id).await.url, receiver.url("/"));
    let start = Some(Start::Cursor(cursor));
    let mut watch = client.watch_with(WatchDeliveriesRequest { start, ..Default::default() }).await;
    let mut delivered = 0;
    while delivered < 10 {
        let outcome = watch.outcomes(1).await.remove(0);
        let last = failed.get_mut(&outcome.event_id).expect("only these events exist");
        // The watch goes on where it was left: no attempt is missing, none comes twice.
        assert_eq!(outcome.attempt, *last + 1, "{outcome:?}");
        *last = outcome.attempt;
        delivered += usize::from(outcome.state() == DeliveryState::Delivered);
    }
    for request in receiver.all() {
        assert!(independent::is_signed(&request, &webhook.secret));
    }
}
