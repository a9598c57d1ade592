//! Every request message, at a running daemon: valid ones, valid ones with bytes changed, and what follows the descriptors and nothing
//! else. Whatever is sent, the answer says what is wrong with it: never that the server is, and never nothing.
//!
//! Nothing here may make the daemon call anybody: requests whose URL leads anywhere but to a port of this machine that nobody listens on
//! are not sent.

mod call;
mod grammar;
mod samples;
mod streams;

use postrider_proto::{error_info, v1};
use postrider_tests::{
    daemon::{Daemon, Setup},
    receiver::closed_port,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use prost::Message as _;
use rand::{SeedableRng as _, rngs::StdRng};
use tonic::{Code, Status};
use tonic_types::{StatusExt as _, pb};

use self::{
    call::Caller,
    grammar::{Grammar, Method},
    samples::Samples,
};
use crate::harness::explore;

const BINARY: &str = env!("CARGO_BIN_EXE_postriderd-under-test");
/// Longest status message a caller may get.
const MESSAGE_BYTES_MAX: usize = 1024;

/// How a request is made.
#[derive(Debug, Clone)]
enum Source {
    /// One that is right, from the corpus.
    Sample(Index),
    /// By the descriptors, from this seed.
    Made(u64),
    /// Bytes.
    Noise(Vec<u8>),
}

/// What is done to the bytes of a request afterwards.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, u8),
    Cut(Index),
    Double(Index),
}

fn sources() -> impl Strategy<Value = Source> {
    prop_oneof![
        3 => any::<Index>().prop_map(Source::Sample),
        6 => any::<u64>().prop_map(Source::Made),
        1 => vec(any::<u8>(), 0..200).prop_map(Source::Noise),
    ]
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => any::<Index>().prop_map(Change::Double),
    ];
    prop_oneof![1 => Just(Vec::new()), 1 => vec(change, 1..5)]
}

fn change(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match change {
        Change::Set(at, byte) => *at.get_mut(&mut bytes) = *byte,
        Change::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Double(at) => bytes.extend_from_within(at.index(bytes.len())..),
    }
    bytes
}

/// What requests are made of, and who makes them.
struct World {
    grammar: Grammar,
    methods: Vec<Method>,
    streams: Vec<Method>,
    samples: Samples,
    caller: Caller,
}

impl World {
    fn request(&self, method: &Method, source: &Source, changes: &[Change]) -> Vec<u8> {
        let bytes = match source {
            Source::Sample(which) => self.samples.of(&method.path, *which),
            Source::Made(seed) => Some(self.grammar.message(&method.input, &mut StdRng::seed_from_u64(*seed))),
            Source::Noise(bytes) => Some(bytes.clone()),
        };
        changes.iter().fold(bytes.unwrap_or_default(), change)
    }

    /// Whether the daemon calls nobody because of it.
    fn stays_at_home(&self, method: &Method, request: &[u8]) -> bool {
        let url = match method.path.rsplit('/').next() {
            Some("CreateWebhook") => v1::CreateWebhookRequest::decode(request).ok().and_then(|request| request.webhook),
            Some("UpdateWebhook") => v1::UpdateWebhookRequest::decode(request).ok().and_then(|request| request.webhook),
            _ => None,
        };
        let url = url.and_then(|webhook| url::Url::parse(&webhook.url).ok());
        url.is_none_or(|url| self.samples.is_home(&url))
    }
}

/// What is wrong with an answer; nothing is best.
fn wrong(method: &Method, answer: &Result<Vec<u8>, Status>) -> Option<String> {
    match answer {
        Ok(reply) if method.path.ends_with("/PublishEvent") => {
            // A rejected event is an answer, which must not hide what would be wrong as a status.
            let reply = v1::PublishEventResponse::decode(reply.as_slice()).expect("an answer can be read");
            let Some(v1::publish_event_response::Result::Rejected(status)) = reply.result else { return None };
            wrong_rejection(&status)
        }
        Ok(_) => None,
        Err(status) => wrong_status(status),
    }
}

/// What is wrong with how an event was rejected.
fn wrong_rejection(status: &pb::Status) -> Option<String> {
    let is_callers = is_callers(status.code.into()) && status.message.len() <= MESSAGE_BYTES_MAX;
    (!is_callers).then(|| format!("{status:?}"))
}

/// What is wrong with how a call failed.
fn wrong_status(status: &Status) -> Option<String> {
    let info = status.get_details_error_info();
    let is_ours = info.is_some_and(|info| info.domain == error_info::DOMAIN && !info.reason.is_empty());
    let is_right = is_ours && is_callers(status.code()) && status.message().len() <= MESSAGE_BYTES_MAX;
    (!is_right).then(|| format!("{status:?}"))
}

/// Whether a code says that the request was wrong, or came at a wrong time.
fn is_callers(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Aborted
            | Code::ResourceExhausted
    )
}

/// A world, and the key that opens it.
async fn start(daemon: &Daemon) -> (World, String) {
    let samples = Samples::make(&daemon.client().await, closed_port()).await;
    let key = samples::admin_key(&daemon.client().await).await;
    let (grammar, methods, streams) = Grammar::read(samples.words());
    assert!(methods.len() >= 25, "the contract has more calls than {}", methods.len());
    let caller = Caller::new(daemon.channel().await, &key);
    // What is right has to be taken, or this harness would only ever see what is refused at the door.
    for (path, request) in samples.all() {
        let answer = caller.call(path, request).await;
        assert!(answer.is_ok(), "{path}: {answer:?}");
    }
    (World { grammar, methods, streams, samples, caller }, key)
}

#[test]
fn no_request_is_answered_with_a_failure_of_the_server() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let setup = Setup::new(BINARY).flag("--retry-schedule", "1h").with_whole_log();
    let daemon = runtime.block_on(setup.start());
    let (world, _) = runtime.block_on(start(&daemon));
    explore("requests", (any::<Index>(), sources(), changes()), |(which, source, changes)| {
        let method = which.get(&world.methods);
        let request = world.request(method, &source, &changes);
        if world.stays_at_home(method, &request) {
            let answer = runtime.block_on(world.caller.call(&method.path, &request));
            let wrong = wrong(method, &answer);
            prop_assert!(wrong.is_none(), "{}: {:?}\nrequest: {:02x?}", method.path, wrong, request);
        }
        Ok(())
    });
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    runtime.block_on(daemon.stop());
}
