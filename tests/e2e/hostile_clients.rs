//! Clients that mean no good to the gRPC port: whatever they do costs a bounded amount, and others are served meanwhile.

use std::{
    future::poll_fn,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use postrider_proto::v1::{
    DeliveryState, ListDeliveriesRequest, PublishEventsRequest, WatchDeliveriesRequest, watch_deliveries_request::Start,
};
use postrider_tests::{
    client::Client,
    daemon::Daemon,
    deadline::within,
    events::{event, numbered},
    http2::{END_HEADERS, GREETING, Kind, closed, connect, field, frame, head},
    ops::Scrape,
    process::{peak_resident_bytes, processor_time},
    receiver::{Answer, Keep, Receiver},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    body::Body,
    client::GrpcService,
    transport::{Channel, Endpoint},
};

use crate::setup;

/// How many clients do each thing at the same time.
const CLIENTS: usize = 2;
/// How often each of them does it, at most, over as many connections as it takes.
const FRAMES: usize = 4_000;
/// How much memory all of them may cost together.
const MEMORY_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// A client that cannot send for this long is held up.
const STALLED: Duration = Duration::from_secs(3);
/// One that floods gives up sooner: it has proved what there is to prove.
const STALLED_ATTACK: Duration = Duration::from_millis(500);
const CALL: &str = "/postrider.v1.WebhookService/ListWebhooks";

/// The n-th thing that a client sends on a connection.
type Attack = fn(usize) -> Vec<u8>;

fn stream_id(n: usize) -> u32 {
    u32::try_from(2 * n + 1).expect("few streams")
}

/// CVE-2023-44487: a call, taken back at once.
fn rapid_reset(n: usize) -> Vec<u8> {
    let call = frame(Kind::Headers, END_HEADERS, stream_id(n), &head(CALL));
    [call, frame(Kind::Reset, 0, stream_id(n), &8_u32.to_be_bytes())].concat()
}

/// CVE-2025-8671: a call, and then what makes the server take it back.
fn made_to_reset(n: usize) -> Vec<u8> {
    let call = frame(Kind::Headers, END_HEADERS, stream_id(n), &head(CALL));
    [call, frame(Kind::WindowUpdate, 0, stream_id(n), &[0; 4])].concat()
}

/// Settings, each of which is to be acknowledged.
fn settings(_: usize) -> Vec<u8> {
    frame(Kind::Settings, 0, 0, &[])
}

/// Pings, each of which is to be answered.
fn pings(n: usize) -> Vec<u8> {
    frame(Kind::Ping, 0, 0, &n.to_be_bytes())
}

/// A head that does not end.
fn continuations(n: usize) -> Vec<u8> {
    match n {
        0 => frame(Kind::Headers, 0, 1, &head(CALL)),
        _ => frame(Kind::Continuation, 0, 1, &field("x-header", &"v".repeat(100))),
    }
}

/// A head that does not end, of which nothing comes.
fn empty_continuations(n: usize) -> Vec<u8> {
    match n {
        0 => frame(Kind::Headers, 0, 1, &head(CALL)),
        _ => frame(Kind::Continuation, 0, 1, &[]),
    }
}

/// A body of nothing that does not end.
fn empty_data(n: usize) -> Vec<u8> {
    match n {
        0 => frame(Kind::Headers, END_HEADERS, 1, &head(CALL)),
        _ => frame(Kind::Data, 0, 1, &[]),
    }
}

/// Heads that are larger than allowed.
fn large_heads(n: usize) -> Vec<u8> {
    // Twice the limit, in two frames.
    let more: Vec<u8> = (0..80).flat_map(|_| field("x-header", &"v".repeat(100))).collect();
    let start = frame(Kind::Headers, 0, stream_id(n), &[head(CALL), more.clone()].concat());
    [
        start,
        frame(Kind::Continuation, 0, stream_id(n), &more),
        frame(Kind::Continuation, END_HEADERS, stream_id(n), &more),
    ]
    .concat()
}

/// More calls than a connection may have, none of which is ever finished.
fn open_calls(n: usize) -> Vec<u8> {
    frame(Kind::Headers, END_HEADERS, stream_id(n), &head(CALL))
}

const ATTACKS: &[Attack] = &[
    rapid_reset,
    made_to_reset,
    settings,
    pings,
    continuations,
    empty_continuations,
    empty_data,
    large_heads,
    open_calls,
];

/// Does it over and over, on a new connection whenever the server has had enough of one, and never reads.
async fn attack(address: SocketAddr, attack: Attack) {
    let mut sent = 0;
    while sent < FRAMES {
        let Ok(mut connection) = connect(address).await else { return };
        for n in 0.. {
            sent += 1;
            // A server that reads no more has defended itself, too.
            let written = timeout(STALLED_ATTACK, connection.write_all(&attack(n))).await;
            if sent >= FRAMES || !matches!(written, Ok(Ok(()))) {
                break;
            }
        }
    }
}

/// Publishes one event after the other and waits for each one's arrival, until told.
async fn serve_others(client: &Client, healthy: &Receiver) {
    for n in 0.. {
        client.publish([event(&format!("healthy-{n}"), "NEW_LEAD", "{}")]).await;
        within("a delivery meanwhile", healthy.received(n + 1)).await;
    }
}

/// Runs it while others are served; returns by how many bytes memory grew at most.
async fn beside_others(daemon: &Daemon, hostile: impl Future<Output = ()>) -> u64 {
    let client = daemon.client().await;
    let healthy = Receiver::start(|_| Answer::status(200)).await;
    client.create(&healthy.url("/"), &["NEW_LEAD"]).await;
    let before = daemon.resident_bytes();
    tokio::select! {
        () = hostile => {}
        () = serve_others(&client, &healthy) => unreachable!("they are served until the hostile ones are done"),
    }
    assert!(healthy.count() > 0, "nobody was served meanwhile");
    peak_resident_bytes(daemon.pid()).expect("it runs").saturating_sub(before)
}

/// Issue 5: rapid resets, floods of what is to be answered, heads and bodies without an end, too many calls: each costs the
/// server little, and others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_cost_little_and_hold_up_nobody() {
    let daemon = setup().start().await;
    let address = daemon.address();
    let grown = beside_others(&daemon, async {
        let all = ATTACKS.iter().flat_map(|&kind| (0..CLIENTS).map(move |_| attack(address, kind)));
        let mut attacks: JoinSet<()> = all.collect();
        while attacks.join_next().await.is_some() {}
    })
    .await;
    println!("{} MiB more", grown / (1024 * 1024));
    assert!(grown < MEMORY_BYTES_MAX, "memory grew by {} MiB", grown / (1024 * 1024));
    daemon.stop().await;
}

/// Issue 5: connections that say nothing, or half of a greeting, or too little too slowly, are closed, and make room: there are more
/// of them than there may be connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_handshakes_make_room() {
    let daemon = setup().flag("--connections-per-address", "0").start().await;
    let address = daemon.address();
    postrider_tests::process::provide_descriptors().expect("the limit of open files can be raised");
    let grown = beside_others(&daemon, async {
        let mut stalled = JoinSet::new();
        for n in 0..1_100_usize {
            let said = GREETING[..n % GREETING.len()].to_vec();
            let mut connection = TcpStream::connect(address).await.expect("the kernel takes connections");
            stalled.spawn(async move {
                // Some are closed before they have said it.
                let _ = connection.write_all(&said).await;
                within("a stalled connection to be closed", closed(&mut connection)).await;
            });
        }
        let _late = within("a new client to be served", daemon.client()).await;
        while let Some(closed) = stalled.join_next().await {
            closed.expect("it is closed");
        }
    })
    .await;
    assert!(grown < MEMORY_BYTES_MAX, "memory grew by {} MiB", grown / (1024 * 1024));
    daemon.stop().await;
}

/// A connection from this address.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("all of 127.0.0.0/8 is this machine's");
    let mut stream = socket.connect(to).await.expect("the kernel takes connections");
    // One that is refused may be gone already.
    let _ = stream.write_all(&[GREETING, &frame(Kind::Settings, 0, 0, &[])].concat()).await;
    stream
}

/// Whether the server speaks to it.
async fn is_served(stream: &mut TcpStream) -> bool {
    within("a frame, or the end", stream.read(&mut [0; 9])).await.is_ok_and(|read| read > 0)
}

/// Issue 5: one address takes only so many connections, others have theirs, and one that ends makes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_its_share_of_connections() {
    let greedy = [127, 0, 0, 2];
    let setup = setup().flag("--connections-per-address", "3").flag("--ops", "127.0.0.1:0");
    let daemon = setup.start().await;
    let address = daemon.address();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect_from(greedy, address).await);
        assert!(is_served(held.last_mut().expect("one more")).await);
    }
    for _ in 0..5 {
        assert!(!is_served(&mut connect_from(greedy, address).await).await, "one too many is closed");
    }
    daemon.client().await.publish([event("e-1", "ADD_TAG", "{}")]).await;
    assert_eq!(Scrape::of(daemon.ops().await).await.count("connections_refused_total"), 5);
    held.pop();
    let again = async { while !is_served(&mut connect_from(greedy, address).await).await {} };
    within("room for another one", again).await;
    daemon.stop().await;
}

/// Issue 5: of messages of which most comes and the rest never does, only so much is taken; small ones of others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_are_bounded() {
    const CALLS: usize = 120;
    const MESSAGE_BYTES: usize = 3 * 1024 * 1024;
    // What is read of them, and the buffers it is in, which grow by doubling; without a bound it is 360 MiB.
    const UNFINISHED_BYTES_MAX: u64 = 192 * 1024 * 1024;
    // So many fit into what a connection may hold.
    const TAKEN: usize = 11;
    let daemon = setup().start().await;
    let grown = beside_others(&daemon, async {
        let channel = daemon.channel().await;
        let mut calls: JoinSet<Status> = (0..CALLS).map(|_| never_finished(channel.clone(), MESSAGE_BYTES)).collect();
        for refused in 0..CALLS - TAKEN {
            let status =
                within(&format!("a refusal after {refused}"), calls.join_next()).await.expect("there are more");
            let status = status.expect("it ends");
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        }
    })
    .await;
    println!("{} MiB more", grown / (1024 * 1024));
    assert!(grown < UNFINISHED_BYTES_MAX, "memory grew by {} MiB", grown / (1024 * 1024));
    daemon.stop().await;
}

/// A call that sends all of a message but its end, and how it is answered.
async fn never_finished(mut channel: Channel, bytes: usize) -> Status {
    let length = u32::try_from(bytes).expect("it fits").to_be_bytes();
    let mut message = [&[0][..], &length].concat();
    message.resize(bytes, b'x');
    let frames = stream::iter([Ok::<_, Status>(Frame::data(message.into()))]).chain(stream::pending());
    let call = http::Request::post("/postrider.v1.EventService/PublishEvent")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(frames)))
        .expect("a request");
    poll_fn(|context| GrpcService::poll_ready(&mut channel, context)).await.expect("it is connected");
    let answer = GrpcService::call(&mut channel, call).await.expect("the connection lasts");
    Status::from_header_map(answer.headers()).expect("an answer without a message is a status")
}

/// Issue 5: a publisher that never reads its acknowledgements is held up, and one that does is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_never_reads_is_held_up() {
    const ENOUGH: usize = 30_000;
    let daemon = setup().start().await;
    let grown = beside_others(&daemon, async {
        let (events, requests) = mpsc::channel(1);
        // A client that holds unread acknowledgements of 64 KiB at most.
        let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address())).expect("a URL");
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let channel = within("a connection", endpoint.connect()).await.expect("it listens");
        let mut service = Client::new(channel).events;
        let opened = service.publish_events(ReceiverStream::new(requests));
        let (opened, sent) = tokio::join!(opened, async {
            for n in 0..ENOUGH {
                let event = event(&format!("unread-{n}"), "ADD_TAG", vec![b'1'; 1024]);
                match timeout(STALLED, events.send(PublishEventsRequest { event: Some(event) })).await {
                    Ok(sent) => sent.expect("the stream is open"),
                    Err(_) => return n,
                }
            }
            ENOUGH
        });
        println!("held up after {sent} events");
        assert!(sent < ENOUGH, "{sent} events were taken from a publisher that reads nothing");
        let mut replies = opened.expect("the stream opens").into_inner();
        within("a reply, once they are read", replies.message()).await.expect("the stream is open").expect("a reply");
    })
    .await;
    assert!(grown < MEMORY_BYTES_MAX, "memory grew by {} MiB", grown / (1024 * 1024));
    daemon.stop().await;
}

/// Issue 5, promise 4: watchers that never read cost nothing that grows, and hold up neither deliveries nor other watchers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_never_read_cost_nothing() {
    const EVENTS: usize = 4_000;
    let daemon = setup().flag("--store-cache", "16MiB").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::keeping(Keep::Nothing, |_| Answer::status(200)).await;
    client.create(&receiver.url("/"), &["ADD_TAG"]).await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(client.watch().await);
    }
    let grown = beside_others(&daemon, async {
        let mut watch = daemon.client().await.watch().await;
        client.publish(numbered("e", "ADD_TAG", EVENTS)).await;
        let mut seen = 0;
        while seen < EVENTS {
            let outcome = watch.outcome(DeliveryState::Delivered).await;
            seen += usize::from(outcome.event_type == "ADD_TAG");
        }
    })
    .await;
    println!("{} MiB more", grown / (1024 * 1024));
    assert!(grown < MEMORY_BYTES_MAX, "memory grew by {} MiB", grown / (1024 * 1024));
    drop(idle);
    daemon.stop().await;
}

/// A stream is driven by whoever reads it: one that is left in the middle of a read of the store has to give back its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_stop_reading_keep_no_turn_to_read() {
    const EVENTS: usize = 2_000;
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::keeping(Keep::Nothing, |_| Answer::status(200)).await;
    client.create(&receiver.url("/"), &["ADD_TAG"]).await;
    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", EVENTS)).await;
    watch.outcomes(EVENTS).await;
    drop((watch, client));
    daemon.stop().await;

    // It has nothing in memory of what was before it began.
    let daemon = setup.start().await;
    let mut left = Vec::new();
    for _ in 0..8 {
        let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address())).expect("a URL");
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let channel = within("a connection", endpoint.connect()).await.expect("it listens");
        let start = Some(Start::FromBeginning(true));
        let request = WatchDeliveriesRequest { start, max_updates: 20, ..WatchDeliveriesRequest::default() };
        left.push(Client::new(channel).watch_with(request).await);
    }
    let client = daemon.client().await;
    for _ in 0..20 {
        assert_eq!(client.deliveries(ListDeliveriesRequest::default()).await.len(), EVENTS);
    }
    for mut watcher in left {
        watcher.outcomes(EVENTS).await;
    }
    daemon.stop().await;
}

/// Issue 5: when file descriptors have run out, accepting pauses instead of spinning, who is connected is served, and once there
/// are some again, so is everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_it_waits_and_does_not_spin() {
    let daemon = setup().descriptors_max(96).start().await;
    let client = daemon.client().await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(daemon.address()).await.expect("the kernel takes connections"));
    }
    daemon.logged("a connection cannot be accepted").await;
    let (began, before) = (Instant::now(), processor_time(daemon.pid()).expect("it runs"));
    // It has no receiver, which would need a descriptor.
    client.publish([event("e-1", "ADD_TAG", "{}")]).await;
    within("the first silent connection to be closed", closed(&mut crowd[0])).await;
    let (elapsed, after) = (began.elapsed(), processor_time(daemon.pid()).expect("it runs"));
    let used = after.saturating_sub(before);
    println!("{used:?} of processor time in {elapsed:?}");
    assert!(used < elapsed / 4, "{used:?} of processor time in {elapsed:?}");
    drop(crowd);
    daemon.client().await.publish([event("e-2", "ADD_TAG", "{}")]).await;
    daemon.stop().await;
}
