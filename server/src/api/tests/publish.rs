use std::{sync::Arc, task::Poll, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use postrider_proto::{error_info as reason, v1};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{accept, anybody, event, stop, told};
use crate::{
    api::publish::{Incoming, Reply, publish_all, publish_one},
    limits::{PUBLISH_BATCH_EVENTS_MAX, STREAM_EVENTS_IN_FLIGHT_MAX},
    metrics::AcceptMetrics,
    model::{event::Event, time::Timestamp},
    store::{Catalog, fake::FakeStore},
};

#[expect(clippy::unnecessary_wraps, reason = "a stream of messages may hold failures too")]
fn message(event: Option<v1::Event>) -> Result<Incoming, Status> {
    Ok(Ok(v1::PublishEventsRequest { event }))
}

fn good(id: &str) -> Result<Incoming, Status> {
    message(Some(event(id)))
}

fn bad(id: &str) -> Result<Incoming, Status> {
    message(Some(v1::Event { r#type: "NO_SUCH".into(), ..event(id) }))
}

fn large(id: &str, bytes: usize) -> Result<Incoming, Status> {
    message(Some(v1::Event { payload: Some(v1::event::Payload::Body(vec![b' '; bytes].into())), ..event(id) }))
}

/// `id` if it was accepted, `!id` if it was rejected; a status as its code.
fn brief(reply: Result<Reply, Status>) -> String {
    match reply {
        Ok(Reply { event_id, result: Ok(_) }) => event_id,
        Ok(Reply { event_id, result: Err(_) }) => format!("!{event_id}"),
        Err(status) => format!("{:?}", status.code()),
    }
}

async fn all(store: &Arc<FakeStore>, requests: Vec<Result<Incoming, Status>>) -> Vec<String> {
    publish_all(stream::iter(requests), accept(store), anybody(store), stop()).map(brief).collect().await
}

#[tokio::test]
async fn replies_come_in_order_and_wrong_events_are_rejected_alone() {
    let unreadable: Incoming = v1::PublishEventsRequest::decode(b"\xff".as_slice());
    let requests = vec![good("a"), bad("b"), good("c"), message(None), Ok(unreadable), bad(""), good("d"), good("a")];
    let store = FakeStore::new();
    assert_eq!(all(&store, requests).await, ["a", "!b", "c", "!", "!", "!", "d", "a"]);
    let order: Vec<_> = store.order.lock().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["a", "c", "d", "a"]);
    assert_eq!(all(&store, vec![bad("x"), bad("y")]).await, ["!x", "!y"]);
    assert_eq!(all(&store, vec![]).await, [""; 0]);
}

#[tokio::test]
async fn one_event_is_answered_as_on_the_stream() {
    let store = FakeStore::new();
    let first = publish_one(&accept(&store), &anybody(&store), Some(event("a"))).await;
    assert_eq!(first.result.unwrap(), v1::Accepted { deliveries: 0, duplicate: false });
    let again = publish_one(&accept(&store), &anybody(&store), Some(event("a"))).await;
    assert_eq!(again.result.unwrap(), v1::Accepted { deliveries: 0, duplicate: true });
    let other =
        publish_one(&accept(&store), &anybody(&store), Some(v1::Event { ordering_key: "k".into(), ..event("a") }))
            .await;
    assert_eq!((other.event_id.as_str(), other.result.unwrap_err().code), ("a", Code::AlreadyExists as i32));
    let assigned = publish_one(&accept(&store), &anybody(&store), Some(event(""))).await;
    assert!(assigned.event_id.starts_with("evt_") && assigned.result.is_ok());
    // Not an id at all: not sent back.
    let wrong = publish_one(&accept(&store), &anybody(&store), Some(event(&"x".repeat(100_000)))).await;
    assert_eq!((wrong.event_id.as_str(), wrong.result.unwrap_err().code), ("", Code::InvalidArgument as i32));
}

#[tokio::test]
async fn a_message_too_large_ends_the_stream_after_the_replies_before_it() {
    let store = FakeStore::new();
    let requests = vec![good("a"), good("b"), Err(Status::out_of_range("too large")), good("c")];
    let mut replies: Vec<_> =
        publish_all(stream::iter(requests), accept(&store), anybody(&store), stop()).collect().await;
    let end = replies.pop().unwrap().unwrap_err();
    assert_eq!(told(&end), (Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE.into(), vec![]));
    assert_eq!(replies.into_iter().map(brief).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn large_bodies_make_small_groups_in_order() {
    let store = FakeStore::new();
    let ids: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    let requests = ids.iter().map(|id| large(id, 400_000)).collect();
    assert_eq!(all(&store, requests).await, ids);
}

/// Counts what is read from it.
fn counted(read: Arc<std::sync::atomic::AtomicUsize>) -> impl Stream<Item = Result<Incoming, Status>> + Unpin {
    let mut next = 0;
    stream::poll_fn(move |_| {
        next += 1;
        read.store(next, std::sync::atomic::Ordering::Relaxed);
        Poll::Ready(Some(good(&next.to_string())))
    })
}

#[tokio::test]
async fn a_publisher_faster_than_the_store_is_read_no_further_than_the_limit() {
    let store = FakeStore::held();
    let read = Arc::default();
    let mut replies = publish_all(counted(Arc::clone(&read)), accept(&store), anybody(&store), stop()).boxed();
    let read = || read.load(std::sync::atomic::Ordering::Relaxed);
    assert!(replies.next().now_or_never().is_none());
    assert_eq!(read(), STREAM_EVENTS_IN_FLIGHT_MAX);

    store.commits.add_permits(1);
    for expected in 1..=PUBLISH_BATCH_EVENTS_MAX {
        assert_eq!(brief(replies.next().await.unwrap()), expected.to_string());
    }
    assert_eq!(read(), STREAM_EVENTS_IN_FLIGHT_MAX, "nothing more is read before it is asked for more replies");
    assert!(replies.next().now_or_never().is_none());
    assert_eq!(read(), STREAM_EVENTS_IN_FLIGHT_MAX + PUBLISH_BATCH_EVENTS_MAX);
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_reads_no_more() {
    let store = FakeStore::held();
    let stop = stop();
    let (requests, incoming) = mpsc::channel(4);
    let mut replies = publish_all(ReceiverStream::new(incoming), accept(&store), anybody(&store), stop.clone()).boxed();
    requests.send(good("a")).await.unwrap();
    assert!(replies.next().now_or_never().is_none());
    stop.cancel();
    requests.send(good("b")).await.unwrap();
    assert!(replies.next().now_or_never().is_none(), "a is not committed");
    store.commits.add_permits(1);
    assert_eq!(brief(replies.next().await.unwrap()), "a");
    let end = replies.next().await.unwrap().unwrap_err();
    assert_eq!(told(&end), (Code::Unavailable, reason::STOPPING.into(), vec![]));
    assert!(replies.next().await.is_none());
}

/// What waits for room has its turn though nobody looks, or it would keep the room, and its place in the line, for good.
#[tokio::test]
async fn who_does_not_read_replies_keeps_no_room_from_others() {
    let store = FakeStore::held();
    let config = accept::Config { bytes_in_flight_max: 1_000, deliver_ahead_max: Duration::ZERO };
    let clock = crate::clock::Clock::start();
    let accept = config.build(store.clone(), clock, crate::tasks::Tasks::default(), AcceptMetrics::default());
    let (requests, incoming) = mpsc::channel(4);
    let mut theirs = publish_all(ReceiverStream::new(incoming), accept.clone(), anybody(&store), stop()).boxed();
    for id in ["a", "b"] {
        requests.send(large(id, 2_000)).await.unwrap();
        assert!(theirs.next().now_or_never().is_none(), "{id} waits: all the room is taken");
    }
    let mut ours = publish_all(stream::iter([large("c", 2_000)]), accept.clone(), anybody(&store), stop()).boxed();
    assert!(ours.next().now_or_never().is_none());
    store.commits.add_permits(3);
    let reply =
        tokio::time::timeout(Duration::from_secs(20), ours.next()).await.expect("the others are not in the way");
    assert_eq!(brief(reply.unwrap()), "c");
    assert_eq!(brief(theirs.next().await.unwrap()), "a");

    // Who goes away before there is room has published nothing.
    store.commits.forget_permits(usize::MAX);
    let mut gone = publish_all(stream::iter([large("d", 2_000)]), accept.clone(), anybody(&store), stop()).boxed();
    let mut goes = publish_all(stream::iter([large("e", 2_000)]), accept.clone(), anybody(&store), stop()).boxed();
    assert!(gone.next().now_or_never().is_none() && goes.next().now_or_never().is_none());
    drop((gone, goes));
    store.commits.add_permits(9);
    let last = publish_one(&accept, &anybody(&store), Some(event("f"))).await;
    assert!(last.result.is_ok());
    let order: Vec<_> = store.order.lock().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["a", "b", "c", "d", "f"]);
}

#[tokio::test]
async fn room_is_given_back_by_the_commit_and_not_by_a_caller_who_leaves() {
    let store = FakeStore::held();
    let tasks = crate::tasks::Tasks::default();
    let config = accept::Config { bytes_in_flight_max: 1_000, deliver_ahead_max: Duration::ZERO };
    let accept = config.build(store.clone(), crate::clock::Clock::start(), tasks.clone(), AcceptMetrics::default());
    let batch = |id: &str| -> Vec<Event> {
        vec![crate::api::convert::event::event(Some(event(id)), &Catalog::default(), Timestamp::default).unwrap(); 3]
    };

    drop(accept.submit(batch("a")).await);
    assert!(accept.submit(batch("b")).now_or_never().is_none(), "a is still on its way");
    store.commits.add_permits(1);
    // Nobody asks for the answers of either: they are stored all the same.
    drop(accept.submit(batch("c")).await);
    store.commits.add_permits(1);
    tasks.ended().await;
    let order: Vec<_> = store.order.lock().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["a", "a", "a", "c", "c", "c"]);
}
