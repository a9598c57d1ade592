//! Stopping while everything is attached at once that could hold it up: hostile clients, hostile receivers, and long work.

use std::{
    collections::HashSet,
    fs,
    future::poll_fn,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use parking_lot::Mutex;
use postrider_proto::v1::{
    EraseTenantRequest, Event, GetErasureRequest, GetReplayRequest, PublishEventsRequest, Replay, ReplayEventsRequest,
    ReplayState, publish_events_response::Result as Reply,
};
use postrider_tests::{
    client::{Client, Watcher},
    daemon::{Daemon, Setup},
    deadline::within,
    events::{event, numbered},
    hostile::{Hostile, Step},
    receiver::{Answer, Receiver},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    body::Body,
    client::GrpcService,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{credentials, tls};

const GRACE: Duration = Duration::from_secs(2);
/// What every test of stopping allows: the promise.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How many clients there are of each kind.
const CLIENTS: usize = 4;
/// What an erased tenant leaves behind.
const ERASED_EVENTS: usize = 3_000;
/// What is replayed, at one a second.
const REPLAYED_EVENTS: usize = 300;

/// The daemon's authority and key, and how it is reached.
struct Door {
    authority: tls::Authority,
    key: String,
}

impl Door {
    async fn client(&self, daemon: &Daemon) -> Client {
        Client::keyed(daemon.channel().await, &self.key)
    }

    /// A connection of a client that holds unread answers of 64 KiB at most.
    async fn narrow(&self, daemon: &Daemon) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authority.pem));
        let endpoint = Endpoint::from_shared(format!("https://{}", daemon.address())).expect("a URL");
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let endpoint = endpoint.tls_config(tls).expect("certificates of the test are good");
        within("a connection", Box::pin(endpoint.connect())).await.expect("it listens")
    }
}

/// Receivers of every lasting kind: they hang, drip, and send what never ends.
fn hostile_receivers() -> Vec<Hostile> {
    let drip = |start: &str, bytes| vec![Step::Read, Step::write(start), Step::Drip(bytes, Duration::from_millis(20))];
    let flood = |start: &str, bytes| vec![Step::Read, Step::write(start), Step::flood(bytes)];
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let kinds = vec![
        vec![Step::Hang],
        vec![Step::Read, Step::Hang],
        drip("HTTP/1.1 200 OK\r\nx: ", b"a"),
        drip("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"a"),
        flood("HTTP/1.1 200 OK\r\n", b"x-header: value\r\n"),
        flood("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", &[b'a'; 1024]),
        flood(&format!("{chunked}0\r\n"), b"x-header: value\r\n"),
        flood(&format!("{chunked}1;x="), b"value"),
        flood(chunked, b"0"),
        flood("", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ];
    kinds.into_iter().map(Hostile::start).collect()
}

/// Publishes for as long as it is let, and never reads an acknowledgement.
async fn publish_unread(channel: Channel, key: String, name: usize) {
    let (events, requests) = mpsc::channel(1);
    let mut service = Client::keyed(channel, &key).events;
    let opened = service.publish_events(ReceiverStream::new(requests));
    let sending = async {
        for n in 0.. {
            let event = event(&format!("unread-{name}-{n}"), "ADD_TAG", vec![b'1'; 1024]);
            if events.send(PublishEventsRequest { event: Some(event) }).await.is_err() {
                return;
            }
        }
    };
    let (_unread, ()) = tokio::join!(opened, sending);
}

/// Publishes one event after the other, and notes each that was acknowledged, until the daemon stops.
async fn publish_all_the_time(client: Client, acknowledged: Arc<Mutex<HashSet<String>>>) {
    for n in 0.. {
        let (replies, ended) = client.publish_all([event(&format!("noted-{n}"), "NEW_LEAD", "{}")]).await;
        let accepted = replies.into_iter().filter(|reply| matches!(reply.result, Some(Reply::Accepted(_))));
        acknowledged.lock().extend(accepted.map(|reply| reply.event_id));
        if ended.is_err() {
            return;
        }
    }
}

/// A call that sends a part of its message, and no more.
async fn publish_slowly(mut channel: Channel, key: String) {
    let frames =
        stream::iter([Ok::<_, Status>(Frame::data(vec![0, 0, 1, 0, 0, b'x'].into()))]).chain(stream::pending());
    let call = http::Request::post("/postrider.v1.EventService/PublishEvent")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {key}"))
        .body(Body::new(StreamBody::new(frames)))
        .expect("a request");
    poll_fn(|context| GrpcService::poll_ready(&mut channel, context)).await.expect("it is connected");
    // It ends with the daemon.
    let _ended = GrpcService::call(&mut channel, call).await;
}

/// Clients that hold on to what they have.
struct Besiegers {
    _connections: Vec<TcpStream>,
    _watches: Vec<Watcher>,
    _calls: JoinSet<()>,
}

impl Besiegers {
    async fn gather(daemon: &Daemon, door: &Door) -> Self {
        let (mut connections, mut watches, mut calls) = (Vec::new(), Vec::new(), JoinSet::new());
        for name in 0..CLIENTS {
            for greeting in [&b""[..], b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n"] {
                let mut connection = TcpStream::connect(daemon.address()).await.expect("it listens");
                connection.write_all(greeting).await.expect("it is open");
                connections.push(connection);
            }
            watches.push(Client::keyed(door.narrow(daemon).await, &door.key).watch().await);
            calls.spawn(publish_unread(door.narrow(daemon).await, door.key.clone(), name));
            calls.spawn(publish_slowly(door.narrow(daemon).await, door.key.clone()));
        }
        Self { _connections: connections, _watches: watches, _calls: calls }
    }
}

/// Whether redb closed it: no recovery is needed (`RECOVERY_REQUIRED`, the second bit after the magic number of nine bytes).
pub(super) fn is_closed_clean(file: &Path) -> bool {
    let header = fs::read(file).expect("the file is there");
    assert_eq!(&header[..4], b"redb");
    header[9] & 2 == 0
}

fn of_erased_tenant() -> impl Iterator<Item = Event> {
    numbered("erased", "ADD_TAG", ERASED_EVENTS).map(|event| Event { tenant: "acme".into(), ..event })
}

async fn replay(client: &Client, id: &str) -> Replay {
    let request = GetReplayRequest { tenant: String::new(), id: id.to_owned() };
    let call = within("GetReplay", async { client.replays.clone().get_replay(request).await }).await;
    call.expect("the replay is there").into_inner().replay.expect("a reply holds the replay")
}

async fn erasure_ends(client: &Client, id: &str) {
    let ends = async {
        loop {
            let request = GetErasureRequest { tenant: "acme".into(), id: id.to_owned() };
            let reply = client.tenants.clone().get_erasure(request).await.expect("it is remembered").into_inner();
            if reply.erasure.expect("a reply holds the erasure").finish_time.is_some() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    within("the erasure to end", ends).await;
}

/// Starts both, so that they are under way for a while; returns their ids: replay, erasure.
async fn begin_long_work(client: &Client, webhook: &str) -> (String, String) {
    let request = ReplayEventsRequest { webhook_id: webhook.to_owned(), per_second: 1, ..Default::default() };
    let replay = client.replays.clone().replay_events(request).await.expect("it starts").into_inner().replay;
    let request = EraseTenantRequest { tenant: "acme".into(), request_id: "leaving".into() };
    let erasure = client.tenants.clone().erase_tenant(request).await.expect("it starts").into_inner().erasure;
    (replay.expect("a reply holds the replay").id, erasure.expect("a reply holds the erasure").id)
}

fn setup(authority: &tls::Authority) -> Setup {
    let setup = tls::Files::new(authority).setup.with_whole_log();
    setup
        .flag("--http-client", "hyper")
        .flag("--shutdown-grace", "2s")
        .flag("--attempt-timeout", "30s")
        .flag("--retry-schedule", "1h,1h")
}

/// Issue 5: SIGTERM with publishers that never read, watchers that never read, stalled handshakes, slow calls, receivers that hang,
/// drip and flood, a replay and an erasure under way, keys and TLS on: it ends within the grace and a second, with exit code 0 and
/// a store that is closed clean; what was acknowledged arrives after the next start, where long work goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_it_in_time_and_in_order_under_siege() {
    let authority = tls::Authority::new("ours");
    let setup = setup(&authority);
    let key = credentials::made(setup.data(), "--rights publish,manage,read,operate --all-tenants");
    let door = Door { authority, key };
    let daemon = setup.start().await;
    let client = door.client(&daemon).await;
    let healthy = Receiver::start(|_| Answer::status(200)).await;
    let hostile = hostile_receivers();
    for receiver in &hostile {
        client.create(&receiver.url("http"), &["ADD_TAG"]).await;
    }
    client.create(&healthy.url("/noted"), &["NEW_LEAD"]).await;
    let replayed = client.create(&healthy.url("/replayed"), &["TEMPLATE_UPDATE"]).await.id();
    client.create_for("acme", &hostile[0].url("http"), &["ADD_TAG"]).await;
    client.publish(numbered("again", "TEMPLATE_UPDATE", REPLAYED_EVENTS)).await;
    client.publish(of_erased_tenant()).await;
    healthy.received(REPLAYED_EVENTS).await;

    let besiegers = Besiegers::gather(&daemon, &door).await;
    let acknowledged = Arc::new(Mutex::new(HashSet::new()));
    let mut noting = JoinSet::new();
    noting.spawn(publish_all_the_time(door.client(&daemon).await, acknowledged.clone()));
    // All of them have been called, and somebody else is served all the while.
    let called = async {
        while hostile.iter().any(|receiver| receiver.connections() == 0) {
            tokio::task::yield_now().await;
        }
    };
    within("every hostile receiver to be called", called).await;
    let others = healthy.count() + 20;
    healthy.received(others).await;
    let (replay_id, erasure_id) = begin_long_work(&client, &replayed).await;

    let began = Instant::now();
    daemon.terminate();
    let ended = daemon.ended(GRACE + LAST_WORDS).await;
    let took = began.elapsed();
    println!("ended after {took:?}, {} events noted", acknowledged.lock().len());
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.log);
    assert!(took <= GRACE + LAST_WORDS, "took {took:?}");
    for complaint in ["panicked", "have not ended", "did not close well", "could not be"] {
        assert!(!ended.log.contains(complaint), "{complaint}: {}", ended.log);
    }
    assert!(is_closed_clean(&setup.data().join("hot.redb")), "the store was not closed clean");
    within("the publisher to notice", noting.join_next()).await.expect("there is one").expect("it ends well");
    drop((besiegers, hostile));

    let daemon = setup.start().await;
    let client = door.client(&daemon).await;
    let state = replay(&client, &replay_id).await.state();
    assert_eq!(state, ReplayState::Running, "it goes on");
    let arrived = async {
        loop {
            let all = healthy.all();
            let here: HashSet<_> = all.iter().map(|received| received.event_id.as_str()).collect();
            let missing = acknowledged.lock().iter().filter(|id| !here.contains(id.as_str())).count();
            if missing == 0 {
                return;
            }
            healthy.received(all.len() + 1).await;
        }
    };
    within("what was acknowledged to arrive", arrived).await;
    erasure_ends(&client, &erasure_id).await;
    daemon.stop().await;
}
