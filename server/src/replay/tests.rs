//! The stage, over a store that says what it is told to, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    model::{
        event::{Event, JSON},
        ids::{ConfigSeq, EventTypeName, ReplayId, Tenant, WebhookId, WebhookNo},
        replay::{ReplaySpec, ReplayState},
        signing::Secret,
        target::Target,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::fake::FakeStore,
};

const HOOK: WebhookNo = WebhookNo(1);

fn stored(seq: u64, event_type: &str) -> StoredEvent {
    StoredEvent {
        seq: EventSeq(seq),
        accept_time: Timestamp::UNIX_EPOCH,
        event: Event {
            id: format!("e{seq}").parse().unwrap(),
            tenant: Tenant::default(),
            event_type: EventTypeName::new(event_type),
            labels: BTreeMap::new(),
            ordering_key: String::new(),
            occur_time: None,
            content_type: JSON.into(),
            body: Bytes::from_static(b"{}"),
            deliver_at: None,
            max_age: None,
        },
    }
}

/// Of the events before `next`, these are to be looked at.
#[expect(clippy::unnecessary_wraps, reason = "as the store answers")]
fn page(events: Vec<StoredEvent>, next: u64) -> Result<ReplayPage, StoreError> {
    let examined = events.len() as u64;
    Ok(ReplayPage { events, next: EventSeq(next), examined, reached: Some(Timestamp::UNIX_EPOCH) })
}

fn unreadable() -> Result<ReplayPage, StoreError> {
    Err(StoreError::Failed("planted".into()))
}

/// A store with a webhook for `ADD_TAG`, and a replay of events 1 to 100 to it.
fn store(per_second: u32) -> Arc<FakeStore> {
    let store = FakeStore::new();
    let only = Subscription::to([EventTypeName::new("ADD_TAG")].into());
    let target = Target::from_stored("https://receiver.example/").unwrap();
    let spec = WebhookSpec { tenant: Tenant::default(), settings: Settings::new(target, only), enabled: true };
    let keys = Secret::from_bytes(&[7; 32]).unwrap().into();
    store.catalog().put(ConfigSeq(1), spec.register(HOOK, WebhookId::generate(), keys, Timestamp::UNIX_EPOCH));
    let spec = ReplaySpec {
        tenant: Tenant::default(),
        webhook: HOOK,
        webhook_id: WebhookId::generate(),
        event_types: BTreeSet::new(),
        states: Vec::new(),
        start: None,
        end: Timestamp::from_micros(i64::MAX),
        per_second,
    };
    let events = (EventSeq(1), EventSeq(100));
    let replay = Replay::begin(1, ReplayId::generate(), spec, events, Timestamp::UNIX_EPOCH);
    store.replays.put([(1, Some(replay))]);
    store
}

/// Runs the stage for so long.
async fn run(store: &Arc<FakeStore>, span: Duration) {
    let config = Config { interval: Duration::from_secs(1), retention: Duration::from_hours(24) };
    let (stop, stage) = (CancellationToken::new(), config.build(store.clone(), Clock::start()));
    let timer = async {
        sleep(span).await;
        stop.cancel();
    };
    tokio::join!(stage.run(stop.clone()), timer);
}

/// What was asked of the store, in order, with the seconds from the first to each.
fn steps(store: &FakeStore) -> Vec<(u64, Vec<u64>, u64)> {
    let changes = store.replay_changes.lock();
    let first = changes.first().map_or_else(Instant::now, |(at, _)| *at);
    let step = |(at, change): &(Instant, ReplayChange)| {
        let ReplayChange::Step(step) = change else { panic!("{change:?}") };
        ((*at - first).as_secs(), step.events.iter().map(|seq| seq.0).collect(), step.next.0)
    };
    changes.iter().map(step).collect()
}

#[tokio::test(start_paused = true)]
async fn it_keeps_its_rate_and_ends() {
    let store = store(1);
    let tag = |seq| stored(seq, "ADD_TAG");
    let pages = [
        page(vec![tag(1)], 2),
        page(vec![stored(2, "NEW_LEAD")], 3),
        page(vec![tag(3), tag(4)], 5),
        page(Vec::new(), 60),
        page(vec![tag(70)], 101),
    ];
    store.replay_pages.lock().extend(pages);
    run(&store, Duration::from_secs(20)).await;
    // A second for each that was made; what is not wanted costs no time, and no commit of its own.
    assert_eq!(steps(&store), [(0, vec![1], 2), (1, vec![3, 4], 5), (3, vec![70], 101)]);
    let replay = store.replays.get(1).unwrap();
    assert_eq!((&replay.state, replay.progress.created, replay.progress.skipped()), (&ReplayState::Succeeded, 4, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_looked_at_in_vain_is_written_down_now_and_then() {
    let store = store(100);
    store.replay_pages.lock().extend((0..70).map(|n| page(Vec::new(), 2 + n)));
    run(&store, Duration::from_secs(5)).await;
    assert_eq!(steps(&store), [(0, vec![], 65)]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_while_much_is_pending_and_goes_on_at_once_when_that_ends() {
    let store = store(1_000);
    store.replay_pages.lock().extend([page(vec![stored(1, "ADD_TAG")], 101)]);
    let mut replay = Replay::clone(&store.replays.get(1).unwrap());
    let other = Replay { no: 2, id: ReplayId::generate(), ..replay.clone() };
    let mut other = other.ended(ReplayState::Succeeded, Timestamp::from_micros(i64::MAX));
    (replay.progress.created, other.progress.created) = (REPLAY_PENDING_MAX - 10, 10);
    store.replays.put([(1, Some(replay)), (2, Some(other.clone()))]);
    run(&store, Duration::from_mins(1)).await;
    assert!(steps(&store).is_empty());
    other.progress.delivered = 9;
    let started = Instant::now();
    let ended = async {
        sleep(Duration::from_millis(500)).await;
        store.replays.put([(2, Some(other))]);
    };
    tokio::join!(run(&store, Duration::from_secs(5)), ended);
    assert_eq!(steps(&store).len(), 1);
    let (at, _) = store.replay_changes.lock()[0];
    assert!(at - started < Duration::from_millis(600), "before it would have looked anyway: {:?}", at - started);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_refused_is_made_again_from_its_beginning() {
    for refusal in [Ok(ReplayAnswer::Busy), Err(StoreError::Full), Err(StoreError::Failed("planted".into()))] {
        let store = store(100);
        let whole = || [page(Vec::new(), 50), page(vec![stored(60, "ADD_TAG")], 101)];
        store.replay_pages.lock().extend(whole().into_iter().chain(whole()));
        store.replay_answers.lock().push_back(refusal);
        run(&store, Duration::from_secs(5)).await;
        assert_eq!(steps(&store), [(0, vec![60], 101), (1, vec![60], 101)]);
        assert_eq!(store.replays.get(1).unwrap().progress.created, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn it_fails_if_its_events_cannot_be_read_for_long() {
    let tries = usize::try_from(UNREADABLE_TRIES).unwrap();
    for (failures, fails) in [(tries - 1, false), (tries, true)] {
        let store = store(100);
        store.replay_pages.lock().extend((0..failures).map(|_| unreadable()));
        store.replay_pages.lock().push_back(page(Vec::new(), 101));
        run(&store, UNREADABLE_PAUSE * (UNREADABLE_TRIES + 5)).await;
        let state = store.replays.get(1).unwrap().state.clone();
        assert_eq!(matches!(state, ReplayState::Failed(_)), fails, "{failures}: {state:?}");
        assert_eq!(state == ReplayState::Succeeded, !fails, "{failures}: {state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn deliveries_go_on_being_cancelled_and_what_is_old_is_forgotten() {
    let store = store(100);
    let replay = Replay::clone(&store.replays.get(1).unwrap()).ended(ReplayState::Succeeded, Timestamp::UNIX_EPOCH);
    store.replays.put([(1, Some(Replay { drops: true, ..replay }))]);
    run(&store, Duration::from_secs(1)).await;
    let changes: Vec<_> = store.replay_changes.lock().drain(..).map(|(_, change)| change).collect();
    let done = matches!(&changes[..], [ReplayChange::Drop { replay: 1, .. }, ReplayChange::Forget { .. }]);
    assert!(done, "{changes:?}");
    assert_eq!(store.replays.get(1), None, "it ended long before anything that is retained");
}
