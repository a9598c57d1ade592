//! One event for very many webhooks: accepted as a decision, expanded in small transactions.

use std::collections::HashSet;

use futures::{StreamExt as _, stream};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    events::event,
    receiver::{Answer, Keep, Receiver},
};

use crate::setup;

/// More than two and a half times the rows of one transaction.
const WEBHOOKS: usize = 2_500;
const DELIVERIES: i32 = 2_500;

async fn create_many(client: &Client, receiver: &Receiver) {
    let created = stream::iter(0..WEBHOOKS).map(|n| async move {
        let url = receiver.url(&format!("/{n}"));
        client.create(&url, &["ADD_TAG"]).await.id()
    });
    let ids: HashSet<_> = created.buffer_unordered(128).collect().await;
    assert_eq!(ids.len(), WEBHOOKS);
}

/// Design section 7, small transactions: the whole fan-out is acknowledged at once and every webhook gets the event, also
/// when the daemon is killed right after the acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_fan_out_reaches_everyone_despite_a_kill() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::keeping(Keep::Identity, |_| Answer::status(200)).await;
    create_many(&client, &receiver).await;

    let (replies, ended) = client.publish_all([event("wide", "ADD_TAG", "{}")]).await;
    ended.expect("the stream ends well");
    let expected = Verdict::Accepted { deliveries: DELIVERIES, duplicate: false };
    assert_eq!(verdict(&replies[0]), expected);
    daemon.kill().await;
    receiver.drained().await;
    receiver.start_epoch();

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let outcomes = client.watch_from_beginning().await.outcomes(WEBHOOKS).await;
    let webhooks: HashSet<_> = outcomes.iter().map(|outcome| &outcome.webhook_id).collect();
    assert_eq!(webhooks.len(), WEBHOOKS, "each webhook has one outcome");
    let paths: HashSet<_> = receiver.all().into_iter().map(|request| request.path).collect();
    assert_eq!(paths.len(), WEBHOOKS);
}
