//! Streams: messages that are right, changed, or made of nothing, one after the other; read to the end, or left in the middle.
//!
//! Whatever comes, each event has its own answer, a stream that ends badly says what its caller did wrong, and neighbours on other
//! connections notice nothing.

use postrider_proto::v1::{self, PublishEventsRequest, PublishEventsResponse};
use postrider_tests::{
    client::{Client, Watcher},
    daemon::{Daemon, Setup},
    deadline::within,
    events::event,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    BINARY, Change, Source, World, call::Conversation, changes, sources, start, wrong_rejection, wrong_status,
};
use crate::harness::explore;

/// Most messages of one stream.
const MESSAGES_MAX: usize = 8;

/// How a client goes about it.
#[derive(Debug, Clone)]
struct Manner {
    messages: Vec<(Source, Vec<Change>)>,
    /// It says that nothing more comes. Otherwise its side stays open.
    ends: bool,
    /// It reads so many answers, of those there may be, and goes; `None`: all of them.
    leaves_after: Option<Index>,
}

fn manners() -> impl Strategy<Value = Manner> {
    let messages = vec((sources(), changes()), 0..=MESSAGES_MAX);
    let leaves = prop_oneof![1 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (messages, any::<bool>(), leaves).prop_map(|(messages, ends, leaves_after)| Manner { messages, ends, leaves_after })
}

/// Somebody who publishes over one stream, and somebody who watches, all the time.
struct Neighbours {
    events: mpsc::Sender<PublishEventsRequest>,
    replies: Streaming<PublishEventsResponse>,
    watch: Watcher,
    published: usize,
}

impl Neighbours {
    async fn move_in(daemon: &Daemon, key: &str) -> Self {
        let client = Client::keyed(daemon.channel().await, key);
        let (events, requests) = mpsc::channel(1);
        events.send(Self::event(0)).await.expect("there is room");
        let opened = client.events.clone().publish_events(ReceiverStream::new(requests)).await;
        let mut replies = opened.expect("the stream opens").into_inner();
        within("a reply", replies.message()).await.expect("the stream is open").expect("the event is answered");
        let watch = client.watch().await;
        Self { events, replies, watch, published: 1 }
    }

    fn event(n: usize) -> PublishEventsRequest {
        PublishEventsRequest { event: Some(event(&format!("neighbour-{n}"), "NEW_LEAD", "{}")) }
    }

    /// What is wrong with how they are served; nothing is best.
    async fn disturbed(&mut self) -> Option<String> {
        if self.events.send(Self::event(self.published)).await.is_err() {
            return Some("their stream has ended".into());
        }
        self.published += 1;
        let reply = within("a reply to a neighbour", self.replies.message()).await;
        let accepted = reply.as_ref().is_ok_and(|reply| {
            let result = reply.as_ref().and_then(|reply| reply.result.as_ref());
            matches!(result, Some(v1::publish_events_response::Result::Accepted(_)))
        });
        (!accepted).then(|| format!("{reply:?}"))
    }
}

/// How many answers there are to wait for: one for each event. Of watches it is only sure that they begin to answer.
fn answers(path: &str, messages: usize, ends: bool) -> usize {
    match (path.ends_with("/PublishEvents"), ends) {
        // And then the end.
        (true, true) => usize::MAX,
        (true, false) => messages,
        (false, _) => 1,
    }
}

/// What is wrong with how a conversation went; nothing is best.
fn wrong(path: &str, sent: usize, held: &Conversation) -> Option<String> {
    if let Some(Err(status)) = &held.end
        && let Some(wrong) = wrong_status(status)
    {
        return Some(wrong);
    }
    if !path.ends_with("/PublishEvents") {
        return None;
    }
    if matches!(held.end, Some(Ok(()))) && held.answers.len() != sent {
        return Some(format!("{} answers to {sent} events", held.answers.len()));
    }
    held.answers.iter().find_map(|answer| {
        let reply = PublishEventsResponse::decode(answer.as_slice()).expect("an answer can be read");
        match reply.result {
            Some(v1::publish_events_response::Result::Accepted(_)) => None,
            Some(v1::publish_events_response::Result::Rejected(status)) => wrong_rejection(&status),
            None => Some("an answer without a result".into()),
        }
    })
}

async fn hold(world: &World, which: Index, manner: &Manner) -> Result<(), String> {
    let method = which.get(&world.streams);
    let requests: Vec<_> =
        manner.messages.iter().map(|(source, changes)| world.request(method, source, changes)).collect();
    let sent = requests.len();
    let all = answers(&method.path, sent, manner.ends);
    let reads = manner.leaves_after.map_or(all, |after| after.index(sent + 1).min(all));
    // A call with one request is answered when nothing more can come.
    let is_answered = manner.ends || (sent > 0 && method.path.ends_with("/PublishEvents"));
    let reads = if is_answered { reads } else { 0 };
    let held = world.caller.converse(&method.path, requests.clone(), manner.ends, reads).await;
    wrong(&method.path, sent, &held).map_or(Ok(()), |wrong| Err(format!("{}: {wrong}\n{requests:02x?}", method.path)))
}

#[test]
fn no_stream_fails_because_of_the_server_or_of_its_neighbours() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let setup = Setup::new(BINARY).flag("--retry-schedule", "1h").flag("--watch-heartbeat", "100ms").with_whole_log();
    let daemon = runtime.block_on(setup.start());
    let (world, key) = runtime.block_on(start(&daemon));
    assert!(world.streams.len() >= 3, "the contract has fewer streams: {:?}", world.streams);
    let neighbours = std::cell::RefCell::new(runtime.block_on(Neighbours::move_in(&daemon, &key)));
    explore("streams", (any::<Index>(), manners()), |(which, manner)| {
        runtime.block_on(hold(&world, which, &manner)).map_err(TestCaseError::fail)?;
        let disturbed = runtime.block_on(neighbours.borrow_mut().disturbed());
        prop_assert!(disturbed.is_none(), "a neighbour: {disturbed:?}");
        Ok(())
    });
    let mut neighbours = neighbours.into_inner();
    let message = runtime.block_on(neighbours.watch.message());
    assert!(matches!(message, Ok(Some(_))), "a watch stream goes on: {message:?}");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    drop(neighbours);
    runtime.block_on(daemon.stop());
}
