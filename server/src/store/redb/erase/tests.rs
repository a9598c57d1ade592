//! That nothing is left in any file, whatever was where, and that a restart at any step changes nothing about that.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use crate::{
    clock::Clock,
    limits::FEED_EXAMINED_MAX,
    model::{
        delivery::{DeliveryState, ErrorClass, Outcome},
        erasure::Erasure,
        event::{Event, JSON, StoredEvent},
        ids::{EventTypeName, Position, Tenant, WebhookNo},
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::{
        ConfigAnswer, ConfigChange, DeliveryQuery, Erase, Erased, FeedFilter, OutcomeGroup, Publish, Published,
        RequestKey, Store as _,
        redb::{Config, RedbStore, open, tests::outcome},
    },
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Where what is erased lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Hot,
    /// In segments, but for what came last.
    Segments,
}

fn opened(dir: &TempDir, place: Place) -> RedbStore {
    let hot_bytes_max = if place == Place::Hot { 1 << 30 } else { 0 };
    let config = Config { hot_bytes_max, operator: Some(tenant("operator")), ..Config::default() };
    open(dir.path(), config, std::sync::Arc::default(), Clock::start()).unwrap()
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

/// A webhook whose URL and description say whose it is.
async fn webhook(store: &RedbStore, whose: &str) -> WebhookNo {
    create(store, whose, Some(RequestKey { id: format!("mark-{whose}-request"), hash: 1 })).await
}

async fn create(store: &RedbStore, whose: &str, request: Option<RequestKey>) -> WebhookNo {
    let target = Target::from_stored(&format!("https://mark-{whose}.example/")).unwrap();
    let settings =
        Settings { description: format!("mark-{whose}-text").into(), ..Settings::new(target, Subscription::All) };
    let spec = WebhookSpec { tenant: tenant(whose), settings, enabled: true };
    let secret = Secret::from_bytes(&[7; 32]).unwrap();
    let change = ConfigChange::CreateWebhook { spec, keys: secret.into(), request, time: NOW };
    let ConfigAnswer::Created(webhook) = store.put_config(change).await.unwrap() else { panic!("not created") };
    webhook.no
}

fn event(whose: &str, id: &str) -> Event {
    Event {
        id: id.parse().unwrap(),
        tenant: tenant(whose),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: BTreeMap::from([("label".into(), format!("mark-{whose}-{id}-label"))]),
        ordering_key: format!("mark-{whose}-{id}-key"),
        occur_time: None,
        content_type: JSON.into(),
        body: Bytes::from(format!("{{\"body\": \"mark-{whose}-{id}-body\"}}")),
        deliver_at: None,
        max_age: None,
    }
}

async fn publish(store: &RedbStore, whose: &str, id: &str) -> Published {
    let event = event(whose, id);
    let targets = store.catalog().targets(&event);
    store.publish(vec![Publish { event, targets, accept_time: NOW }]).await.unwrap()[0]
}

/// Lets attempts of the webhook's first deliveries fail, so many of them for good.
async fn fail(store: &RedbStore, no: WebhookNo, whose: &str, finally: usize) {
    let hints = store.due(no, NOW, 100).await.unwrap().hints;
    let mut outcomes = Vec::new();
    for (index, hint) in hints.into_iter().enumerate() {
        let made = outcome(store, no, hint).await;
        let id = made.event_id.clone();
        let is_last = index < finally;
        outcomes.push(Outcome {
            state: if is_last { DeliveryState::Failed } else { DeliveryState::Pending },
            next_attempt: (!is_last).then_some(NOW + Duration::from_hours(1)),
            http_status: Some(500),
            error_class: Some(ErrorClass::HttpStatus),
            error: format!("mark-{whose}-{id}-error"),
            response_body: Bytes::from(format!("mark-{whose}-{id}-answer")),
            ..made
        });
    }
    store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
}

/// Events of two tenants in the same chunks and segments, each with a failed attempt; the first ones have failed for good, the last
/// ones were never attempted.
async fn fill(store: &RedbStore) {
    webhook(store, "operator").await;
    let (mine, theirs) = (webhook(store, "mine").await, webhook(store, "theirs").await);
    for n in 0..6 {
        let (mine, theirs) = (event("mine", &format!("m{n}")), event("theirs", &format!("t{n}")));
        let both = [mine, theirs].map(|event| {
            let targets = store.catalog().targets(&event);
            Publish { event, targets, accept_time: NOW }
        });
        store.publish(both.to_vec()).await.unwrap();
    }
    fail(store, mine, "mine", 3).await;
    fail(store, theirs, "theirs", 3).await;
    while store.upkeep(NOW).await.unwrap() {}
    for n in 6..8 {
        publish(store, "mine", &format!("m{n}")).await;
        publish(store, "theirs", &format!("t{n}")).await;
    }
}

/// The files that hold a text.
fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

async fn decide(store: &RedbStore, erase: Erase) -> Erasure {
    match store.erase(erase).await.unwrap() {
        Erased::Decided(erasure) => erasure,
        other @ (Erased::NotFound | Erased::TooMany) => panic!("{other:?}"),
    }
}

fn one(id: &str) -> Erase {
    Erase::Event { tenant: tenant("mine"), id: id.parse().unwrap(), time: NOW }
}

fn all() -> Erase {
    Erase::Tenant { tenant: tenant("mine"), request_id: "leaving".into(), time: NOW }
}

async fn is_finished(store: &RedbStore, erasure: &Erasure) -> bool {
    store.erasure(&tenant("mine"), erasure.id).await.unwrap().expect("it is remembered").finish_time.is_some()
}

async fn finish(store: &RedbStore, erasure: &Erasure) {
    let finished = async {
        while !is_finished(store, erasure).await {
            store.upkeep(NOW).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), finished).await.expect("an erasure ends");
}

async fn found(store: &RedbStore, whose: &str, id: &str) -> Option<StoredEvent> {
    store.find_event(&tenant(whose), &id.parse().unwrap()).await.unwrap()
}

/// The log has no gaps; returns how many entries of it watchers see, and the text of them.
async fn log(store: &RedbStore) -> String {
    let filter = FeedFilter { operational: true, ..FeedFilter::default() };
    let page = store.feed(Position(0), &filter, FEED_EXAMINED_MAX).await.unwrap();
    assert_eq!(page.position, *store.head().borrow(), "every position is there");
    format!("{:?}", page.entries)
}

async fn deliveries(store: &RedbStore, whose: &str) -> usize {
    let query = DeliveryQuery { tenant: Some(tenant(whose)), ..DeliveryQuery::default() };
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.list(&query, after, 100).await.unwrap();
        count += page.deliveries.len();
        after = page.next;
        if after.is_none() {
            return count;
        }
    }
}

/// What others have, to be compared.
async fn others(store: &RedbStore) -> String {
    let mut all = Vec::new();
    for n in 0..8 {
        all.push(found(store, "theirs", &format!("t{n}")).await.expect("it is retained"));
    }
    let query = DeliveryQuery { tenant: Some(tenant("theirs")), ..DeliveryQuery::default() };
    let list = store.list(&query, None, 100).await.unwrap().deliveries;
    let mut details = Vec::new();
    for delivery in &list {
        details.push(store.get(delivery.id).await.unwrap().expect("it is retained"));
    }
    assert_eq!(list.len(), 8);
    format!("{all:?} {list:?} {details:?}")
}

#[tokio::test]
async fn nothing_is_left_of_an_event_and_all_of_others() {
    for place in [Place::Hot, Place::Segments] {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir, place);
        fill(&store).await;
        let before = others(&store).await;
        // Failed for good, waiting for another attempt, never attempted.
        for id in ["m1", "m4", "m7"] {
            let mark = format!("mark-mine-{id}");
            assert!(!files_with(dir.path(), &mark).is_empty(), "{place:?}: the test looks where it is");
            let deliveries_before = deliveries(&store, "mine").await;
            let erasure = decide(&store, one(id)).await;
            assert!(found(&store, "mine", id).await.is_none(), "{place:?} {id}");
            assert!(!log(&store).await.contains(&mark), "{place:?} {id}");
            assert_eq!(deliveries(&store, "mine").await, deliveries_before - 1, "{place:?} {id}");
            assert_eq!(publish(&store, "mine", id).await, Published::Erased);
            assert_eq!(decide(&store, one(id)).await.id, erasure.id, "it is erased once");
            finish(&store, &erasure).await;
            assert_eq!(files_with(dir.path(), &mark), [""; 0], "{place:?} {id}");
            assert!(found(&store, "mine", id).await.is_none() && !log(&store).await.contains(&mark));
            assert_eq!(publish(&store, "mine", id).await, Published::Erased);
        }
        assert_eq!(store.erase(one("m9")).await.unwrap(), Erased::NotFound);
        assert_eq!(others(&store).await, before, "{place:?}");
        assert!(found(&store, "mine", "m2").await.is_some());
        assert_eq!(store.shared.counters.lock().pending, 10 - 2 + 6 - 1, "{place:?}: and what the operator is told");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_tenant_and_all_of_others() {
    for place in [Place::Hot, Place::Segments] {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir, place);
        fill(&store).await;
        let before = others(&store).await;
        assert!(log(&store).await.contains("mark-mine"));
        let marks = ["label", "key", "body", "error", "answer"].map(|what| format!("mark-mine-m1-{what}"));
        for mark in marks.into_iter().chain(["mark-mine-text".into(), "mark-mine-request".into()]) {
            assert!(!files_with(dir.path(), &mark).is_empty(), "{place:?}: the test looks where it is: {mark}");
        }
        let erasure = decide(&store, all()).await;
        assert_eq!(store.catalog().list(Some(&tenant("mine")), None, 9).len(), 0);
        assert_eq!(deliveries(&store, "mine").await, 0);
        assert!(!log(&store).await.contains("mark-mine"), "{place:?}");
        if !is_finished(&store, &erasure).await {
            assert_eq!(publish(&store, "mine", "new").await, Published::TenantBeingErased);
        }
        finish(&store, &erasure).await;
        assert_eq!(files_with(dir.path(), "mark-mine"), [""; 0], "{place:?}");
        assert!(!log(&store).await.contains("mark-mine"));
        assert_eq!(others(&store).await, before, "{place:?}");
        // Another life.
        assert_eq!(publish(&store, "mine", "m1").await, Published::New { deliveries: 0 });
        assert_eq!(decide(&store, all()).await.id, erasure.id, "the same request erases nothing more");
        assert!(found(&store, "mine", "m1").await.is_some());
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_restart_at_any_step_changes_nothing() {
    for erase in [one("m1"), all()] {
        for steps in 0.. {
            let dir = TempDir::new().unwrap();
            let store = opened(&dir, Place::Segments);
            fill(&store).await;
            let before = others(&store).await;
            let erasure = decide(&store, erase.clone()).await;
            for _ in 0..steps * 19 {
                store.upkeep(NOW).await.unwrap();
            }
            let was_finished = is_finished(&store, &erasure).await;
            store.close().await.unwrap();
            drop(store);

            let store = opened(&dir, Place::Segments);
            assert!(found(&store, "mine", "m1").await.is_none(), "after {steps}");
            finish(&store, &erasure).await;
            let mark = if matches!(erase, Erase::Tenant { .. }) { "mark-mine" } else { "mark-mine-m1" };
            assert_eq!(files_with(dir.path(), mark), [""; 0], "after {steps}");
            assert_eq!(others(&store).await, before, "after {steps}");
            log(&store).await;
            store.close().await.unwrap();
            if was_finished {
                assert!(steps > 1, "there are several steps");
                break;
            }
        }
    }
}

/// A page that somebody reads is not filled with zeros, so the erasure waits.
#[tokio::test]
async fn an_erasure_is_not_finished_before_those_who_read_what_was_there() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir, Place::Hot);
    fill(&store).await;
    let reader = store.shared.read().unwrap();
    let erasure = decide(&store, one("m1")).await;
    for _ in 0..600 {
        store.upkeep(NOW).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(!is_finished(&store, &erasure).await);
    drop(reader);
    finish(&store, &erasure).await;
    assert_eq!(files_with(dir.path(), "mark-mine-m1"), [""; 0]);
    store.close().await.unwrap();
}

/// Upkeep that has nothing to do is left alone for a second, and an erasure takes many steps.
#[tokio::test]
async fn upkeep_has_more_to_do_until_an_erasure_is_finished() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir, Place::Hot);
    fill(&store).await;
    let erasure = decide(&store, one("m1")).await;
    while store.shared.erasing.has_slices() {
        tokio::task::yield_now().await;
    }
    while store.upkeep(NOW).await.unwrap() {}
    // What the operator was told is erased along, which may take another round.
    while store.shared.erasing.has_slices() {
        tokio::task::yield_now().await;
    }
    while store.upkeep(NOW).await.unwrap() {}
    assert!(is_finished(&store, &erasure).await);
    store.close().await.unwrap();
}

/// What was erased is remembered as long as events are, and then forgotten.
#[tokio::test]
async fn an_id_is_free_again_when_its_event_would_have_expired() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir, Place::Hot);
    fill(&store).await;
    let erasure = decide(&store, one("m1")).await;
    finish(&store, &erasure).await;
    let end = NOW + store.shared.config.retention;
    store.upkeep(end - Duration::from_secs(1)).await.unwrap();
    assert_eq!(publish(&store, "mine", "m1").await, Published::Erased);
    while store.upkeep(end).await.unwrap() {}
    assert_eq!(publish(&store, "mine", "m1").await, Published::New { deliveries: 1 });
    assert_eq!(store.erasure(&tenant("mine"), erasure.id).await.unwrap(), None);
    store.close().await.unwrap();
}

/// What was on its way to a tenant's webhooks is taken from what is pending once, though it arrives while they are being deleted.
#[tokio::test]
async fn what_is_on_its_way_is_taken_from_the_backlog_once() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir, Place::Hot);
    webhook(&store, "theirs").await;
    for n in 0..100 {
        publish(&store, "theirs", &format!("t{n}")).await;
    }
    for _ in 0..30 {
        create(&store, "mine", None).await;
    }
    for n in 0..3 {
        assert_eq!(publish(&store, "mine", &format!("m{n}")).await, Published::New { deliveries: 30 });
    }
    let erasure = decide(&store, all()).await;
    finish(&store, &erasure).await;
    assert_eq!(store.shared.counters.lock().pending, 100);
    store.close().await.unwrap();
}
