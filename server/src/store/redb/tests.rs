//! How the engine as a whole behaves when something fails or is in great demand.

use std::{fs, sync::mpsc};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
    poll,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{runtime::Builder, time::timeout};

use super::*;
use crate::{
    limits::READER_THREADS,
    model::{
        delivery::{DeliveryState, Outcome},
        event::{Event, JSON},
        exchange::Exchange,
        ids::{DeliveryKey, EventTypeName},
        signing::Secret,
        target::Target,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::{DuePage, Hint},
};

const LONG: Duration = Duration::from_secs(20);

pub(super) fn opened(dir: &TempDir) -> RedbStore {
    open(dir.path(), Config::default(), Arc::default(), Clock::start()).unwrap()
}

pub(super) async fn webhook(store: &RedbStore) -> WebhookNo {
    let spec = WebhookSpec {
        tenant: "t".parse().unwrap(),
        settings: Settings::new(Target::from_stored("https://receiver.example/").unwrap(), Subscription::All),
        enabled: true,
    };
    let secret = Secret::from_bytes(&[7; 32]).unwrap();
    let change = ConfigChange::CreateWebhook { spec, keys: secret.into(), request: None, time: Timestamp::UNIX_EPOCH };
    let ConfigAnswer::Created(webhook) = store.put_config(change).await.unwrap() else { panic!("not created") };
    webhook.no
}

/// Enables or disables a webhook.
pub(super) async fn turn(store: &RedbStore, no: WebhookNo, enabled: bool) {
    let webhook = store.catalog().webhook(no).unwrap().webhook;
    let change = ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: webhook.version,
        settings: webhook.settings.clone(),
        enabled,
        drop_held: false,
        pair: None,
        time: Timestamp::UNIX_EPOCH,
    };
    let answer = store.put_config(change).await.unwrap();
    assert!(matches!(answer, ConfigAnswer::Updated(_)), "{answer:?}");
}

pub(super) async fn publish(store: &RedbStore, id: &str) -> Result<Vec<Published>, StoreError> {
    publish_at(store, id, Timestamp::UNIX_EPOCH).await
}

pub(super) async fn publish_at(
    store: &RedbStore,
    id: &str,
    accept_time: Timestamp,
) -> Result<Vec<Published>, StoreError> {
    publish_all(store, vec![event(id)], accept_time).await
}

/// An event of the tenant that the webhooks are of.
pub(super) fn event(id: &str) -> Event {
    Event {
        id: id.parse().unwrap(),
        tenant: "t".parse().unwrap(),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: std::collections::BTreeMap::default(),
        ordering_key: String::new(),
        occur_time: None,
        content_type: JSON.into(),
        body: Bytes::from_static(b"{}"),
        deliver_at: None,
        max_age: None,
    }
}

pub(super) async fn publish_all(
    store: &RedbStore,
    events: Vec<Event>,
    accept_time: Timestamp,
) -> Result<Vec<Published>, StoreError> {
    let matched = events.into_iter().map(|event| {
        let targets = store.catalog().targets(&event);
        Publish { event, targets, accept_time }
    });
    store.publish(matched.collect()).await
}

/// What a first attempt that was answered leads to.
pub(super) async fn outcome(store: &RedbStore, webhook: WebhookNo, hint: Hint) -> Outcome {
    let key = DeliveryKey { webhook, event: hint.event, replay: hint.replay };
    let stored = store.events(&[hint.event], usize::MAX).await.unwrap().remove(0).unwrap();
    Outcome {
        key,
        delivery_id: store.sealer().delivery_id(key),
        tenant: stored.event.tenant,
        webhook_id: store.catalog().webhook(webhook).unwrap().webhook.id,
        event_id: stored.event.id,
        event_type: stored.event.event_type,
        attempt: 1,
        state: DeliveryState::Delivered,
        http_status: Some(200),
        error_class: None,
        error: String::new(),
        latency: Duration::from_millis(5),
        time: Timestamp::UNIX_EPOCH,
        next_attempt: None,
        held: false,
        response_body: Bytes::new(),
        exchange: Exchange::default(),
    }
}

/// Makes the next commit fail, as a database does that has had an I/O error.
fn fail(store: &RedbStore) {
    store.shared.hot.write().take();
}

#[tokio::test]
async fn a_store_that_failed_opens_again_by_itself_and_has_what_it_acknowledged() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    let no = webhook(&store).await;
    assert_eq!(publish(&store, "a").await.unwrap(), [Published::New { deliveries: 1 }]);
    fail(&store);
    let refused = publish(&store, "b").await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    // The committer takes nothing before it is open again, or refuses it.
    while publish(&store, "b").await.is_err() {
        tokio::task::yield_now().await;
    }
    let DuePage { hints, .. } = store.due(no, Timestamp::UNIX_EPOCH, 10).await.unwrap();
    assert_eq!(hints.len(), 2);
    assert_eq!(store.catalog().webhook(no).unwrap().pending(), 2);
    assert_eq!(publish(&store, "a").await.unwrap(), [Published::Duplicate { deliveries: 1 }]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_that_vanished_under_a_failed_store_is_waited_for_and_not_made_anew() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    assert_eq!(publish(&store, "a").await.unwrap(), [Published::New { deliveries: 0 }]);
    let (hot, aside) = (dir.path().join("hot.redb"), dir.path().join("aside"));
    fs::rename(&hot, &aside).unwrap();
    fail(&store);
    for _ in 0..2 {
        assert!(publish(&store, "b").await.is_err());
        assert!(!hot.exists(), "nothing is put in its place");
    }
    // Something that opens and cannot be loaded is no reason to give up either.
    ::redb::Database::create(&hot).unwrap();
    assert!(publish(&store, "b").await.is_err());
    fs::rename(&aside, &hot).unwrap();
    while publish(&store, "b").await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(publish(&store, "a").await.unwrap(), [Published::Duplicate { deliveries: 0 }]);
    store.close().await.unwrap();
}

fn with_reader_threads(count: usize, test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(count).build();
    runtime.unwrap().block_on(test);
}

#[test]
fn callers_who_read_for_ever_do_not_hold_up_dispatch() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    with_reader_threads(READER_THREADS, async {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        let hang = || {
            let held = held.clone();
            store.read_for_caller(move |_| held.lock().recv().map_err(|_| StoreError::Closed))
        };
        let mut callers = join_all((0..2 * READER_THREADS).map(|_| hang()));
        let dispatch = async {
            let lanes = store.lanes(None, 10).await.unwrap();
            assert_eq!(lanes.lanes, []);
            store.due(WebhookNo(1), Timestamp::UNIX_EPOCH, 10).await.unwrap();
            store.events(&[EventSeq(1)], 1024).await.unwrap();
            store.upkeep(Timestamp::UNIX_EPOCH).await.unwrap();
        };
        tokio::select! {
            biased;
            _ = &mut callers => panic!("they hang"),
            read = timeout(LONG, dispatch) => read.expect("there is a thread for dispatch"),
        }
        drop(release);
        callers.await;
        store.close().await.unwrap();
    });
}

#[test]
fn a_tenant_that_searches_without_end_holds_up_no_other_one() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    with_reader_threads(READER_THREADS, async {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        let theirs: Option<Tenant> = Some("theirs".parse().unwrap());
        let hang = || {
            let held = held.clone();
            store.search_for_caller(theirs.as_ref(), move |_| held.lock().recv().map_err(|_| StoreError::Closed))
        };
        let mut searches = join_all((0..20).map(|_| hang()));
        assert!(poll!(&mut searches).is_pending());
        let query = DeliveryQuery { tenant: Some("ours".parse().unwrap()), ..DeliveryQuery::default() };
        let mut ours = store.list(&query, None, 10).boxed();
        assert!(poll!(&mut ours).is_pending(), "the threads are taken");
        release.send(()).unwrap();
        tokio::select! {
            biased;
            _ = &mut searches => panic!("they hang"),
            read = timeout(LONG, ours) => drop(read.expect("it waits for one of them, and not for twenty").unwrap()),
        }
        drop(release);
        searches.await;
        store.close().await.unwrap();
    });
}

/// Streams are driven by whoever reads them: one who stops reading, at whatever moment that is, keeps no turn from others.
#[test]
fn who_stops_looking_keeps_no_turn() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    with_reader_threads(READER_THREADS, async {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        let theirs: Option<Tenant> = Some("theirs".parse().unwrap());
        let hang = || {
            let held = held.clone();
            store
                .search_for_caller(theirs.as_ref(), move |_| held.lock().recv().map_err(|_| StoreError::Closed))
                .boxed()
        };
        let mut left: Vec<_> = (0..3 * CALLER_READS_MAX).map(|_| hang()).collect();
        for search in &mut left {
            assert!(poll!(search).is_pending());
        }
        drop(release);
        for tenant in ["theirs", "ours"] {
            let query = DeliveryQuery { tenant: Some(tenant.parse().unwrap()), ..DeliveryQuery::default() };
            timeout(LONG, store.list(&query, None, 10)).await.expect("the turns of the others are over").unwrap();
        }
        drop(left);
        store.close().await.unwrap();
    });
}

#[test]
fn who_goes_away_gives_no_turn_back_early() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    with_reader_threads(READER_THREADS, async {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        for _ in 0..CALLER_READS_MAX {
            let held = held.clone();
            let read = store.read_for_caller(move |_| held.lock().recv().map_err(|_| StoreError::Closed));
            assert!(poll!(Box::pin(read)).is_pending(), "it is given up at once");
        }
        tokio::task::yield_now().await;
        assert_eq!(store.callers.available_permits(), 0, "the threads still read");
        drop(release);
        let all = store.callers.acquire_many(u32::try_from(CALLER_READS_MAX).unwrap());
        drop(timeout(LONG, all).await.expect("they have read").unwrap());
        store.close().await.unwrap();
    });
}

#[test]
fn whatever_callers_read_takes_a_turn_of_theirs() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    // With one thread, what was begun before a read has ended when that has.
    with_reader_threads(1, async {
        let turns = store.callers.acquire_many(u32::try_from(CALLER_READS_MAX).unwrap()).await.unwrap();
        let (tenant, start) = (Tenant::default(), Timestamp::UNIX_EPOCH);
        let query = DeliveryQuery::default();
        let request = RequestKey { id: "r".into(), hash: 0 };
        let id = store.sealer().delivery_id(DeliveryKey { webhook: WebhookNo(1), event: EventSeq(1), replay: 0 });
        let mut callers: [(&str, BoxFuture<'_, ()>); 5] = [
            ("list", store.list(&query, None, 10).map(drop).boxed()),
            ("get", store.get(id).map(drop).boxed()),
            ("counts", store.counts(&[WebhookNo(1)]).map(drop).boxed()),
            ("answered", store.answered(&tenant, &request, start).map(drop).boxed()),
            ("config_since", store.config_since(ConfigSeq(0), 10).map(drop).boxed()),
        ];
        for (name, caller) in &mut callers {
            assert!(poll!(caller).is_pending(), "{name} blocks");
        }
        store.lanes(None, 10).await.unwrap();
        for (name, caller) in &mut callers {
            assert!(poll!(caller).is_pending(), "{name} does not wait for its turn");
        }
        drop(turns);
        for (_, caller) in callers {
            timeout(LONG, caller).await.expect("the turns are free");
        }
        store.close().await.unwrap();
    });
}

#[tokio::test]
async fn a_segment_that_cannot_be_sealed_does_not_keep_what_is_too_old() {
    let dir = TempDir::new().unwrap();
    let hours = |hours: u64| Timestamp::UNIX_EPOCH + Duration::from_hours(hours);
    // A segment spans an hour.
    let config = Config { retention: Duration::from_hours(16), ..Config::default() };
    let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
    publish_at(&store, "old", hours(0)).await.unwrap();
    while store.upkeep(hours(4)).await.unwrap() {}
    publish_at(&store, "young", hours(10)).await.unwrap();
    while store.upkeep(hours(12)).await.unwrap() {}
    let sealed = || store.shared.segments.all().iter().map(|it| (it.no, it.record.sealed)).collect::<Vec<_>>();
    assert_eq!(sealed(), [(1, true), (2, false)]);

    let file = |no: u64| dir.path().join(format!("segments/{no:08}.redb"));
    let aside = dir.path().join("aside");
    store.shared.segments.close();
    fs::rename(file(2), &aside).unwrap();
    // The second one is due to be sealed, the first one to go.
    let mut failure = None;
    for _ in 0..10 {
        failure = failure.or(store.upkeep(hours(16)).await.err());
    }
    assert_eq!(sealed(), [(2, false)]);
    assert!(!file(1).exists());
    assert!(matches!(failure, Some(StoreError::Failed(_))), "and that is told: {failure:?}");

    fs::rename(&aside, file(2)).unwrap();
    while store.upkeep(hours(16)).await.unwrap() {}
    assert_eq!(sealed(), [(2, true)]);
    store.close().await.unwrap();
}

/// A move that is cut short leaves more in its segment than the segment's record names. The hot store has that still, and it is
/// no business of the segment's retention.
#[tokio::test]
async fn what_a_segment_has_and_does_not_name_stays_known_when_the_segment_goes() {
    let dir = TempDir::new().unwrap();
    let minutes = |minutes: f64| Timestamp::UNIX_EPOCH + Duration::from_secs_f64(minutes * 60.0);
    // A segment spans a minute.
    let config = Config { retention: Duration::from_mins(16), ..Config::default() };
    let small = Config { hot_bytes_max: 1, ..config.clone() };
    let store = open(dir.path(), small, Arc::default(), Clock::start()).unwrap();
    let no = webhook(&store).await;
    let ids: Vec<String> = (0..9).map(|n| format!("e-{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        publish_at(&store, id, minutes(if n < 3 { 0.0 } else { 15.5 })).await.unwrap();
    }
    // All of it is copied, and the hot store forgets the first three.
    assert!(store.upkeep(minutes(15.5)).await.unwrap());
    assert_eq!(store.shared.counters.lock().hot_events_from, 4);
    store.close().await.unwrap();

    let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
    while store.upkeep(minutes(16.2)).await.unwrap() {}
    assert_eq!(store.shared.counters.lock().hot_events_from, 4, "the others are too young to be moved again");
    assert!(store.shared.segments.all().is_empty(), "the segment has gone");
    let hints = store.due(no, minutes(16.2), 100).await.unwrap().hints;
    assert_eq!(hints.len(), ids.len());
    let mut outcomes = Vec::new();
    for hint in hints {
        outcomes.push(outcome(&store, no, hint).await);
    }
    store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
    while store.upkeep(minutes(16.2)).await.unwrap() {}
    for id in &ids[3..] {
        assert_eq!(
            publish_at(&store, id, minutes(16.2)).await.unwrap(),
            [Published::Duplicate { deliveries: 1 }],
            "{id}"
        );
    }
    store.close().await.unwrap();
}

/// The list of segments says more than the hot store has forgotten when the commit of a slice fails. To seal the segment then
/// would make it true for good.
#[tokio::test]
async fn a_segment_is_not_sealed_before_the_hot_store_has_forgotten_what_it_holds() {
    let dir = TempDir::new().unwrap();
    let config = Config { retention: Duration::from_mins(16), hot_bytes_max: 1, ..Config::default() };
    let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
    for n in 0..6 {
        publish(&store, &format!("e-{n}")).await.unwrap();
    }
    assert!(store.upkeep(Timestamp::UNIX_EPOCH).await.unwrap());
    assert_eq!(store.shared.counters.lock().hot_events_from, 4, "a slice of two");
    fail(&store);
    assert!(store.upkeep(Timestamp::UNIX_EPOCH).await.is_err(), "the other one");
    // Idle for so long that it is due to be sealed.
    let late = Timestamp::UNIX_EPOCH + Duration::from_mins(10);
    let (mut sealed, mut steps) = (false, 0);
    while !sealed {
        // Until the store is open again it refuses.
        if store.upkeep(late).await.is_err() {
            tokio::task::yield_now().await;
        }
        let segment = store.shared.segments.all().pop().unwrap();
        let forgotten = store.shared.counters.lock().hot_events_from;
        sealed = segment.record.sealed;
        assert!(!sealed || segment.record.events_until <= forgotten, "{:?}, {forgotten}", segment.record);
        steps += 1;
        assert!(steps < 10_000, "it is sealed in the end");
    }
    store.close().await.unwrap();
}

/// Or the next start would take idleness for a month's absence, and doubt the machine's clock.
#[tokio::test]
async fn an_idle_store_says_now_and_then_that_it_is_there() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    while store.upkeep(store.shared.clock.now()).await.unwrap() {}
    let last_commit = || Timestamp::from_micros(store.shared.counters.lock().last_commit);
    let idle = last_commit();
    store.upkeep(idle).await.unwrap();
    assert_eq!(last_commit(), idle, "it need not say it so soon");
    let long_ago = idle - Duration::from_hours(2);
    store.shared.counters.lock().last_commit = long_ago.micros();
    store.upkeep(idle).await.unwrap();
    assert!(last_commit() > idle);
    store.close().await.unwrap();
}
