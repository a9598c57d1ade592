//! Replays: what was accepted before is sent again, as a job that survives anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use postrider_proto::v1::{
    CancelReason, CancelReplayRequest, DeleteWebhookRequest, DeliveryState, Event, GetReplayRequest, LabelValues,
    ListDeliveriesRequest, ListReplaysRequest, Replay, ReplayEventsRequest, ReplayState, UpdateWebhookRequest,
    WatchReplayRequest, WatchReplayResponse, Webhook, delivery_update::Update,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::{event, numbered},
    ops::Scrape,
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tonic::{Code, Status, Streaming};

use crate::{patient, setup};

async fn start(client: &Client, request: ReplayEventsRequest) -> Result<Replay, Status> {
    let call = async { client.replays.clone().replay_events(request).await };
    Ok(within("ReplayEvents", call).await?.into_inner().replay.expect("a reply holds the replay"))
}

/// Of everything there is, as fast as may be.
fn all(webhook_id: &str) -> ReplayEventsRequest {
    ReplayEventsRequest { webhook_id: webhook_id.to_owned(), per_second: 1_000, ..ReplayEventsRequest::default() }
}

async fn get(client: &Client, id: &str) -> Result<Replay, Status> {
    let request = GetReplayRequest { tenant: String::new(), id: id.to_owned() };
    let call = async { client.replays.clone().get_replay(request).await };
    Ok(within("GetReplay", call).await?.into_inner().replay.expect("a reply holds the replay"))
}

async fn watch(client: &Client, id: &str) -> Streaming<WatchReplayResponse> {
    let request = WatchReplayRequest { tenant: String::new(), id: id.to_owned() };
    let call = async { client.replays.clone().watch_replay(request).await };
    within("WatchReplay", call).await.expect("the watch opens").into_inner()
}

/// The next message; `None`: the stream has ended.
async fn message(watch: &mut Streaming<WatchReplayResponse>) -> Option<Replay> {
    let message = within("a message about a replay", watch.message()).await.expect("the watch goes on");
    message.map(|message| message.replay.expect("a message holds the replay"))
}

/// How it stands when it has ended.
async fn ended(client: &Client, id: &str) -> Replay {
    let mut watch = watch(client, id).await;
    let mut last = None;
    while let Some(replay) = message(&mut watch).await {
        last = Some(replay);
    }
    let last = last.expect("a watch says at least how it stands");
    assert_ne!(last.state(), ReplayState::Running, "the stream ends with the replay: {last:?}");
    last
}

async fn cancel(client: &Client, id: &str, cancel_pending: bool) -> Replay {
    let request = CancelReplayRequest { tenant: String::new(), id: id.to_owned(), cancel_pending };
    let call = async { client.replays.clone().cancel_replay(request).await };
    within("CancelReplay", call).await.expect("cancelled").into_inner().replay.expect("a reply holds the replay")
}

async fn turn(client: &Client, id: &str, enabled: bool) {
    let webhook = Webhook { id: id.to_owned(), enabled: Some(enabled), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(webhook), ..UpdateWebhookRequest::default() };
    let call = async { client.webhooks.clone().update_webhook(request).await };
    within("UpdateWebhook", call).await.expect("updated");
}

fn numbers(replay: &Replay) -> (i64, i64, i64) {
    let progress = replay.progress.expect("a replay says how far it is");
    assert_eq!(
        progress.examined_events,
        progress.created_deliveries + progress.skipped_events + progress.expired_events
    );
    (progress.examined_events, progress.created_deliveries, progress.skipped_events)
}

/// Contract: a replay goes on after `kill -9`, and gives each event one delivery, with the event's id, an id of its own and attempts
/// from 1, however often the daemon is killed in the middle.
#[tokio::test]
async fn a_replay_survives_kills_and_sends_each_event_under_one_delivery_id() {
    const EVENTS: usize = 1_200;
    let setup = setup();
    let mut daemon = setup.start().await;
    let mut client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await.id();
    client.publish(numbered("e", "ADD_TAG", EVENTS)).await;
    receiver.received(EVENTS).await;
    let first: BTreeMap<_, _> = receiver.all().into_iter().map(|it| (it.event_id.clone(), delivery_id(&it))).collect();
    assert_eq!(first.len(), EVENTS);

    let replay = start(&client, all(&webhook)).await.expect("started");
    for kill in 1..=3 {
        receiver.received(EVENTS + kill * EVENTS / 5).await;
        daemon.kill().await;
        daemon = setup.start().await;
        client = daemon.client().await;
    }
    let done = ended(&client, &replay.id).await;
    assert_eq!(done.state(), ReplayState::Succeeded, "{done:?}");
    assert_eq!(numbers(&done), (1_200, 1_200, 0));
    let delivered = async {
        loop {
            let progress = get(&client, &replay.id).await.expect("it is remembered").progress.expect("it has progress");
            if progress.pending_deliveries == 0 {
                return progress;
            }
            tokio::task::yield_now().await;
        }
    };
    let progress = within("all deliveries to be made", delivered).await;
    assert_eq!((progress.delivered_deliveries, progress.percent), (1_200, 100));

    let mut again: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in receiver.all() {
        let id = delivery_id(&request);
        if first[&request.event_id] != id {
            // One attempt each, repeated only if it was on its way when the daemon was killed.
            assert_eq!(request.attempt, 1, "{request:?}");
            again.entry(request.event_id).or_default().insert(id);
        }
    }
    assert_eq!(again.len(), EVENTS, "each event was sent again");
    assert!(again.values().all(|ids| ids.len() == 1), "and under one id");
    let request = ListDeliveriesRequest { webhook_id: webhook, page_size: 1_000, ..Default::default() };
    assert_eq!(client.deliveries(request).await.len(), 2 * EVENTS);
}

fn delivery_id(request: &postrider_tests::receiver::Received) -> String {
    request.header("webhook-delivery-id").to_owned()
}

/// Contract: a webhook that comes later gets what it would have got, by its types, labels and body filter, narrowed by the replay's types
/// and times; and no faster than asked.
#[tokio::test]
async fn a_late_webhook_gets_what_it_wants_of_the_past() {
    let daemon = setup().flag("--ops", "127.0.0.1:0").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let labelled = |id: String, event_type: &str, waba: &str, n: usize| Event {
        labels: [("waba".to_owned(), waba.to_owned())].into(),
        ..event(&id, event_type, format!("{{\"n\": {n}}}"))
    };
    let mut events = Vec::new();
    for n in 0..40 {
        let (event_type, waba) = (["ADD_TAG", "NEW_LEAD"][n % 2], ["1", "2"][n / 2 % 2]);
        events.push(labelled(format!("e-{n}"), event_type, waba, n));
    }
    events.push(Event { tenant: "other".into(), ..event("theirs", "ADD_TAG", "{}") });
    client.publish(events).await;
    let filtered = Webhook {
        label_filter: [("waba".to_owned(), LabelValues { values: vec!["1".to_owned()] })].into(),
        payload_filter: "body.n < 30".to_owned(),
        ..webhook("", &receiver.url("/"), &["ADD_TAG", "REMOVE_TAG"])
    };
    let id = client.create_as(filtered).await.id();
    let replay = start(&client, ReplayEventsRequest { per_second: 10, ..all(&id) }).await.expect("started");
    let done = ended(&client, &replay.id).await;
    // Multiples of four below 30.
    let expected: BTreeSet<_> = (0..30).step_by(4).map(|n| format!("e-{n}")).collect();
    assert_eq!(numbers(&done), (40, 8, 32));
    let got = receiver.received(8).await;
    assert_eq!(got.iter().map(|it| it.event_id.clone()).collect::<BTreeSet<_>>(), expected);
    // Ten a second, one at a time: the eighth is made no sooner than 0.7 s after the first.
    let (first, last) = (done.create_time.expect("set"), done.finish_time.expect("set"));
    let took = (last.seconds - first.seconds) * 1_000 + i64::from(last.nanos - first.nanos) / 1_000_000;
    assert!(took >= 700, "{took} ms");
    // How long ago the events were published says nothing about how quick the daemon is.
    let scrape = Scrape::of(daemon.ops().await).await;
    assert_eq!(scrape.count("publish_to_first_attempt_seconds_count"), 0);

    let other = client.create(&receiver.url("/other"), &["*"]).await.id();
    let narrowed = ReplayEventsRequest { event_types: vec!["NEW_LEAD".into()], ..all(&other) };
    let replay = start(&client, narrowed).await.expect("started");
    assert_eq!(numbers(&ended(&client, &replay.id).await), (40, 20, 20));
    let nothing = ReplayEventsRequest { start_time: replay.create_time, ..all(&other) };
    let replay = start(&client, nothing).await.expect("started");
    assert_eq!(numbers(&ended(&client, &replay.id).await), (0, 0, 0), "nothing was accepted since");
}

/// Contract: by state, only what has ended so is sent again; what was given up in an outage arrives after it.
#[tokio::test]
async fn what_failed_in_an_outage_is_sent_again() {
    let daemon = setup().flag("--retry-schedule", "none").start().await;
    let client = daemon.client().await;
    let down = Arc::new(AtomicBool::new(false));
    let outage = down.clone();
    let receiver =
        Receiver::start(move |_| Answer::status(if outage.load(Ordering::SeqCst) { 400 } else { 200 })).await;
    let id = client.create(&receiver.url("/"), &["*"]).await.id();
    let mut outcomes = client.watch().await;
    client.publish(numbered("before", "ADD_TAG", 5)).await;
    outcomes.outcomes(5).await;
    down.store(true, Ordering::SeqCst);
    client.publish(numbered("during", "ADD_TAG", 7)).await;
    outcomes.outcomes(7).await;
    down.store(false, Ordering::SeqCst);
    let failed = ReplayEventsRequest { states: vec![DeliveryState::Failed.into()], ..all(&id) };
    let replay = start(&client, failed.clone()).await.expect("started");
    assert_eq!(replay.states, [i32::from(DeliveryState::Failed)]);
    assert_eq!(numbers(&ended(&client, &replay.id).await), (12, 7, 5));
    let again = outcomes.outcomes(7).await;
    assert!(again.iter().all(|it| it.event_id.starts_with("during") && it.state() == DeliveryState::Delivered));
    // It is how the first delivery stands that counts: the same replay takes the same events.
    let replay = start(&client, failed).await.expect("started");
    assert_eq!(numbers(&ended(&client, &replay.id).await), (12, 7, 5));
}

/// Contract: a replay waits while 250 of its deliveries are pending, and what is published meanwhile is before the rest of it; its watch
/// says so again and again, and it goes on when they end. Cancelled, it makes no more, and takes what is pending along if told to.
#[tokio::test]
async fn a_replay_waits_for_its_receiver_and_can_be_cancelled() {
    const EVENTS: usize = 600;
    let setup = setup().flag("--watch-heartbeat", "100ms");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.publish(numbered("e", "ADD_TAG", EVENTS)).await;
    let id = client.create(&receiver.url("/"), &["*"]).await.id();
    turn(&client, &id, false).await;
    let replay = start(&client, all(&id)).await.expect("started");
    let mut follower = watch(&client, &replay.id).await;
    let (mut heartbeats, mut last) = (0, None);
    // Nothing happens any more, and the stream says so.
    while heartbeats < 3 {
        let next = message(&mut follower).await;
        heartbeats = if next == last { heartbeats + 1 } else { 0 };
        last = next;
    }
    let held = last.expect("it goes on");
    assert_eq!(held.state(), ReplayState::Running);
    assert_eq!(held.progress.expect("it has some").pending_deliveries, 250);
    assert_eq!(client.webhook(&id).await.pending_deliveries, 250);
    turn(&client, &id, true).await;
    receiver.received(EVENTS).await;
    assert_eq!(ended(&client, &replay.id).await.state(), ReplayState::Succeeded);

    turn(&client, &id, false).await;
    let mut updates = client.watch().await;
    let second = start(&client, all(&id)).await.expect("started");
    while client.webhook(&id).await.pending_deliveries < 250 {
        tokio::task::yield_now().await;
    }
    let stopped = cancel(&client, &second.id, true).await;
    assert_eq!((stopped.state(), stopped.reason.as_str()), (ReplayState::Cancelled, "on request"));
    let mut told = 0;
    while told < 250 {
        match updates.update().await {
            Update::WebhookCancelled(it) => {
                assert_eq!(it.reason(), CancelReason::Requested);
                told += it.deliveries;
            }
            Update::Outcome(_) => {}
            Update::OperationalEvent(it) => panic!("{it:?}"),
        }
    }
    assert_eq!(client.webhook(&id).await.pending_deliveries, 0);
    turn(&client, &id, true).await;
    client.publish([event("after", "ADD_TAG", "{}")]).await;
    let got = receiver.received(EVENTS + 1).await;
    assert_eq!(got.last().expect("some").event_id, "after", "nothing of what was cancelled is sent");
    daemon.kill().await;
    let daemon = setup.start().await;
    let known = get(&daemon.client().await, &second.id).await.expect("remembered");
    assert_eq!(known.state(), ReplayState::Cancelled);
    let progress = known.progress.expect("it has some");
    assert_eq!(
        (progress.created_deliveries, progress.cancelled_deliveries, progress.pending_deliveries),
        (250, 250, 0)
    );
}

/// Contract: a replay ends with its webhook, its watch says so; it is one however often it is asked for under one id; and lists are by
/// webhook, newest first, page by page.
#[tokio::test]
async fn replays_are_listed_and_end_with_their_webhook() {
    let daemon = patient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(500).await;
    let id = client.create(&receiver.url("/"), &["*"]).await.id();
    let other = client.create(&receiver.url("/other"), &["*"]).await.id();
    client.publish(numbered("e", "ADD_TAG", 10)).await;
    let request = ReplayEventsRequest { request_id: "r-1".into(), per_second: 1, ..all(&id) };
    let first = start(&client, request.clone()).await.expect("started");
    assert_eq!(start(&client, request.clone()).await.expect("the same").id, first.id);
    let changed = start(&client, ReplayEventsRequest { per_second: 2, ..request }).await.expect_err("another request");
    Rejection::from(&changed).check("reused", Code::AlreadyExists, "REQUEST_ID_REUSED", "");
    let mut ids = vec![first.id.clone()];
    for _ in 1..4 {
        ids.insert(0, start(&client, ReplayEventsRequest { per_second: 1, ..all(&id) }).await.expect("started").id);
    }
    let fifth = start(&client, all(&id)).await.expect_err("too many");
    Rejection::from(&fifth).check("fifth", Code::ResourceExhausted, "TOO_MANY_REPLAYS", "");
    start(&client, all(&other)).await.expect("another webhook's");

    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListReplaysRequest {
            webhook_id: id.clone(),
            page_size: 3,
            page_token: page_token.clone(),
            ..ListReplaysRequest::default()
        };
        let page = client.replays.clone().list_replays(request).await.expect("listed").into_inner();
        listed.extend(page.replays.into_iter().map(|replay| replay.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);

    let mut follower = watch(&client, &first.id).await;
    assert_eq!(message(&mut follower).await.expect("it runs").state(), ReplayState::Running);
    let delete = DeleteWebhookRequest { id: id.clone(), ..DeleteWebhookRequest::default() };
    client.webhooks.clone().delete_webhook(delete).await.expect("deleted");
    let mut last = None;
    while let Some(replay) = message(&mut follower).await {
        last = Some(replay);
    }
    let last = last.expect("it says that it has ended");
    assert_eq!((last.state(), last.reason.as_str()), (ReplayState::Cancelled, "its webhook was deleted"));
    assert!(last.finish_time.is_some());
}

/// Contract: what cannot be is refused with the field named, and what is from before the retention as expired.
#[tokio::test]
async fn bad_replays_are_refused() {
    let daemon = setup().flag("--retention", "1m").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let id = client.create(&receiver.url("/"), &["*"]).await.id();
    #[expect(clippy::disallowed_methods, reason = "the daemon's clock is the machine's")]
    let ago = |seconds: u64| Some(prost_types::Timestamp::from(SystemTime::now() - Duration::from_secs(seconds)));
    let field = |field| (Code::InvalidArgument, "INVALID_FIELD", field);
    for (what, request, (code, reason, field)) in [
        ("no webhook", ReplayEventsRequest::default(), field("webhook_id")),
        (
            "a state",
            ReplayEventsRequest { states: vec![DeliveryState::Pending.into()], ..all(&id) },
            field("states[0]"),
        ),
        ("held", ReplayEventsRequest { states: vec![DeliveryState::Held.into()], ..all(&id) }, field("states[0]")),
        ("too fast", ReplayEventsRequest { per_second: 1_001, ..all(&id) }, field("per_second")),
        ("backwards", ReplayEventsRequest { start_time: ago(5), end_time: ago(10), ..all(&id) }, field("start_time")),
        (
            "a type",
            ReplayEventsRequest { event_types: vec!["ADD_TAGS".into()], ..all(&id) },
            (Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event_types[0]"),
        ),
        ("long ago", ReplayEventsRequest { end_time: ago(120), ..all(&id) }, (Code::OutOfRange, "EXPIRED", "")),
        (
            "another tenant's",
            ReplayEventsRequest { tenant: "other".into(), ..all(&id) },
            (Code::NotFound, "WEBHOOK_NOT_FOUND", ""),
        ),
    ] {
        let refused = start(&client, request).await.expect_err(what);
        Rejection::from(&refused).check(what, code, reason, field);
    }
    let unknown = format!("rpl_{}", "0".repeat(32));
    let refused = get(&client, &unknown).await.expect_err("unknown");
    Rejection::from(&refused).check("unknown", Code::NotFound, "REPLAY_NOT_FOUND", "");
    let refused = get(&client, "rpl_1").await.expect_err("malformed");
    Rejection::from(&refused).check("malformed", Code::InvalidArgument, "INVALID_FIELD", "id");
    let some =
        start(&client, ReplayEventsRequest { start_time: ago(120), ..all(&id) }).await.expect("some is retained");
    assert_eq!(ended(&client, &some.id).await.state(), ReplayState::Succeeded);
}
