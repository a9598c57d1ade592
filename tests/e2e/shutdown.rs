//! Stopping, with everything attached that could hold it up.

use std::time::{Duration, Instant};

use postrider_tests::{
    deadline::within,
    events::{event, numbered},
    hostile::{Hostile, Step},
    receiver::{Answer, Receiver},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::siege::is_closed_clean;
use crate::setup;

/// Requirement A2, design section 9: SIGTERM ends the daemon with exit code 0 within its grace and a second, whatever is
/// attached: watch and publish streams, half-open connections, a receiver that hangs. Watch streams end with UNAVAILABLE,
/// and nothing that was accepted is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_it_in_time_whatever_is_attached() {
    let grace = Duration::from_secs(2);
    let setup = setup().flag("--shutdown-grace", "2s");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| if request.epoch == 0 { Answer::Hang } else { Answer::status(200) }).await;
    client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    let mut health = daemon.health().await;
    assert_eq!(health.next_status().await, Some(ServingStatus::Serving));
    client.publish(numbered("e", "ADD_TAG", 50)).await;
    receiver.received(1).await;
    // A publish stream whose client says nothing more, a connection without a preface, one with half of it.
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let request = postrider_proto::v1::PublishEventsRequest { event: Some(event("open", "ADD_TAG", "{}")) };
    sender.send(request).await.expect("there is room");
    let opened = client.events.clone().publish_events(tokio_stream::wrappers::ReceiverStream::new(requests)).await;
    let mut publishing = opened.expect("the stream opens").into_inner();
    within("a reply", publishing.message()).await.expect("the stream is open").expect("the event is answered");
    let silent = TcpStream::connect(daemon.address()).await.expect("it listens");
    let mut half = TcpStream::connect(daemon.address()).await.expect("it listens");
    half.write_all(b"PRI * HTTP/2.0\r\n").await.expect("it reads");

    let began = Instant::now();
    daemon.terminate();
    while health.next_status().await == Some(ServingStatus::Serving) {}
    let status = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a watch stream ends with a status that says why"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let ended = daemon.ended(grace + Duration::from_secs(1)).await;
    println!("ended after {:?}", began.elapsed());
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.log);
    assert!(began.elapsed() <= grace + Duration::from_secs(1), "took {:?}", began.elapsed());
    drop((silent, half, sender));

    receiver.drained().await;
    receiver.start_epoch();
    let daemon = setup.start().await;
    let mut watch = daemon.client().await.watch_from_beginning().await;
    let mut delivered = std::collections::HashSet::new();
    while delivered.len() < 51 {
        let outcome = watch.outcomes(1).await.remove(0);
        if outcome.http_status == 200 {
            assert!(delivered.insert(outcome.event_id), "each event is delivered once");
        }
    }
    daemon.stop().await;
}

/// Issue 5: a receiver that sends so much that its delivery loop comes to nothing else does not keep the daemon from ending well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_that_is_kept_busy_does_not_hold_up_the_end() {
    let grace = Duration::from_secs(1);
    let setup = setup().flag("--shutdown-grace", "1s").flag("--attempt-timeout", "1m").flag("--delivery-loops", "1");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let flood = Hostile::start(vec![Step::Read, Step::write(head), Step::flood(b"0")]);
    client.create(&flood.url("http"), &["*"]).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let flooding = async {
        while flood.connections() == 0 {
            tokio::task::yield_now().await;
        }
    };
    within("the flood to begin", flooding).await;
    let began = Instant::now();
    daemon.terminate();
    let ended = daemon.ended(grace + Duration::from_secs(1)).await;
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.log);
    assert!(began.elapsed() <= grace + Duration::from_secs(1), "took {:?}", began.elapsed());
    assert!(is_closed_clean(&setup.data().join("hot.redb")), "the store was not closed clean");
}

/// Design section 9: a second signal ends it at once, however long the grace.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let setup = setup().flag("--shutdown-grace", "1h").flag("--attempt-timeout", "1m");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|_| Answer::Hang).await;
    client.create(&receiver.url("/"), &["*"]).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    receiver.received(1).await;
    let mut health = daemon.health().await;
    daemon.terminate();
    while health.next_status().await == Some(ServingStatus::Serving) {}
    daemon.terminate();
    let ended = daemon.ended(Duration::from_secs(5)).await;
    assert!(!ended.status.success(), "it did not end well: {}", ended.status);

    let daemon = setup.start().await;
    receiver.received(2).await;
    drop(daemon);
}
