//! A disk that is full.

use std::collections::BTreeSet;

use postrider_proto::{error_info::DISK_FULL, v1::DeliveryState};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    deadline::within,
    events::event,
    receiver::Receiver,
};
use tonic::Code;

use crate::impatient;

/// Larger than a new store, and soon reached.
const FILE_BYTES_MAX: u64 = 6 << 20;
const BODY_BYTES: usize = 64 << 10;

/// Promises 1 and 4: when nothing more fits, publishing is refused with a code that says so, the daemon lives on, and what it
/// accepted is delivered; with room again, everything goes on.
#[tokio::test]
async fn what_was_accepted_before_the_disk_was_full_is_delivered() {
    let limited = impatient().file_bytes_max(FILE_BYTES_MAX);
    let daemon = limited.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;

    let mut accepted = BTreeSet::new();
    let refused = within("the disk to be full", async {
        for n in 0.. {
            match publish(&client, &format!("before-{n}")).await {
                Verdict::Accepted { .. } => drop(accepted.insert(format!("before-{n}"))),
                Verdict::Rejected(rejection) => return rejection,
            }
        }
        unreachable!("a file has a last byte")
    });
    refused.await.check("a full disk", Code::ResourceExhausted, DISK_FULL, "");
    assert!(accepted.len() > 10, "{}", accepted.len());
    // It lives, and says the same again or takes what still fits.
    match publish(&client, "after").await {
        Verdict::Accepted { .. } => drop(accepted.insert("after".to_owned())),
        Verdict::Rejected(rejection) => rejection.check("a full disk", Code::ResourceExhausted, DISK_FULL, ""),
    }
    daemon.kill().await;

    let daemon = limited.unlimited().start().await;
    let client = daemon.client().await;
    assert!(matches!(publish(&client, "with-room").await, Verdict::Accepted { deliveries: 1, duplicate: false }));
    accepted.insert("with-room".to_owned());
    let mut watch = client.watch_from_beginning().await;
    let mut delivered = BTreeSet::new();
    while !accepted.is_subset(&delivered) {
        let outcome = watch.outcome(DeliveryState::Delivered).await;
        assert!(delivered.insert(outcome.event_id.clone()), "twice in the log: {outcome:?}");
    }
    let arrived: BTreeSet<_> = receiver.all().into_iter().map(|request| request.event_id).collect();
    assert!(accepted.is_subset(&arrived));
}

async fn publish(client: &Client, id: &str) -> Verdict {
    let body = format!("\"{}\"", "x".repeat(BODY_BYTES));
    let (replies, ended) = client.publish_all([event(id, "ADD_TAG", body)]).await;
    ended.expect("the stream ends well");
    verdict(&replies[0])
}
