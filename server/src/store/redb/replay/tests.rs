//! What a replay leaves in the tables.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ::redb::{ReadableDatabase as _, ReadableTableMetadata as _};
use tempfile::TempDir;

use super::{
    super::{
        Config, RedbStore, open, tables,
        tests::{outcome, publish_at, webhook},
    },
    *,
};
use crate::{
    clock::Clock,
    store::{ConfigChange, OutcomeGroup, Repair, Repaired, Store as _, types::Hint},
};

fn hours(hours: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_hours(hours)
}

/// A segment spans an hour, and everything goes there at once.
fn opened(dir: &TempDir) -> RedbStore {
    let config = Config { retention: Duration::from_hours(16), hot_bytes_max: 1, ..Config::default() };
    open(dir.path(), config, Arc::default(), Clock::start()).unwrap()
}

/// Rows of rescued events, and of replayed deliveries that are pending.
fn rows(store: &RedbStore) -> [u64; 2] {
    let hot = store.shared.hot.read().clone().unwrap();
    let txn = hot.begin_read().unwrap();
    [txn.open_table(tables::RESCUED).unwrap().len().unwrap(), txn.open_table(tables::REPLAYED).unwrap().len().unwrap()]
}

async fn deliver(store: &RedbStore, no: WebhookNo, hints: &[Hint]) {
    let mut outcomes = Vec::new();
    for hint in hints {
        outcomes.push(outcome(store, no, *hint).await);
    }
    store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
}

/// A store with six events, delivered and archived.
async fn archived(dir: &TempDir) -> (RedbStore, WebhookNo) {
    let store = opened(dir);
    let no = webhook(&store).await;
    for n in 0..6 {
        publish_at(&store, &format!("e{n}"), hours(0)).await.unwrap();
    }
    let hints = store.due(no, hours(0), 100).await.unwrap().hints;
    deliver(&store, no, &hints).await;
    while store.upkeep(hours(1)).await.unwrap() {}
    assert_eq!(store.shared.counters.lock().hot_events_from, 7);
    (store, no)
}

/// Sends everything there is to a webhook again, at a time.
async fn replay_all(store: &RedbStore, no: WebhookNo, time: Timestamp) -> Replay {
    let webhook = store.catalog().webhook(no).unwrap().webhook;
    let spec = ReplaySpec {
        tenant: webhook.tenant.clone(),
        webhook: no,
        webhook_id: webhook.id,
        event_types: BTreeSet::new(),
        states: Vec::new(),
        start: None,
        end: time,
        per_second: 1,
    };
    let start = ReplayChange::Start { spec, request: None, time };
    let ReplayAnswer::Put(replay) = store.replay(start).await.unwrap() else { panic!("not started") };
    let page = store.replayable(&replay, replay.next, 100).await.unwrap();
    let step = ReplayStep {
        replay: replay.no,
        from: replay.next,
        next: page.next,
        examined: page.examined,
        reached: page.reached,
        events: page.events.iter().map(|stored| stored.seq).collect(),
        time,
    };
    // Not before everything that was dropped is marked.
    while store.replay(ReplayChange::Step(step.clone())).await.unwrap() == ReplayAnswer::Busy {
        tokio::task::yield_now().await;
    }
    assert!(!store.replays().get(replay.no).unwrap().is_running());
    replay
}

/// What is archived is not copied for a replay, unless its segment may go before the delivery is noticed.
#[tokio::test]
async fn events_are_kept_beside_their_segment_only_if_that_goes_soon() {
    for (replayed_at, kept) in [(2, 0), (13, 0), (15, 6)] {
        let dir = TempDir::new().unwrap();
        let (store, no) = archived(&dir).await;
        replay_all(&store, no, hours(replayed_at)).await;
        assert_eq!(rows(&store), [kept, 6], "{replayed_at}");
        while store.upkeep(hours(18)).await.unwrap() {}
        assert!(store.shared.segments.all().iter().all(|segment| segment.record.events_until == 0));
        assert_eq!(rows(&store), [6, 6], "{replayed_at}");
        let hints = store.due(no, hours(18), 100).await.unwrap().hints;
        deliver(&store, no, &hints).await;
        while store.upkeep(hours(18)).await.unwrap() {}
        assert_eq!(rows(&store), [0, 0], "{replayed_at}");
        store.close().await.unwrap();
    }
}

/// Whatever ends a replayed delivery, it is pending for its replay no longer; and again if it is retried.
#[tokio::test]
async fn what_is_pending_is_known_by_its_replay() {
    let dir = TempDir::new().unwrap();
    let (store, no) = archived(&dir).await;
    let known = |replay: &Replay| store.replays().get(replay.no).unwrap().progress;
    let settle = async |replay: &Replay, pending: u64| {
        let settled = async {
            // In the tables, and then in memory.
            while rows(&store)[1] != pending || known(replay).pending() != pending {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), settled).await.expect("slices end");
    };
    let first = replay_all(&store, no, hours(2)).await;
    let hints = store.due(no, hours(2), 100).await.unwrap().hints;
    deliver(&store, no, &hints[..1]).await;
    settle(&first, 5).await;
    let key = |hint: &Hint| DeliveryKey { webhook: no, event: hint.event, replay: hint.replay };
    let time = hours(2);
    let named = Repair::Cancel { keys: hints.iter().map(key).collect(), time };
    assert_eq!(store.repair(named).await.unwrap(), Repaired::Cancelled(5));
    settle(&first, 0).await;
    assert_eq!((known(&first).delivered, known(&first).cancelled, known(&first).pending()), (1, 5, 0));
    for hint in &hints[..3] {
        assert_eq!(store.repair(Repair::Retry { key: key(hint), time }).await.unwrap(), Repaired::Retried);
    }
    settle(&first, 3).await;
    assert_eq!((known(&first).delivered, known(&first).cancelled, known(&first).pending()), (0, 3, 3));
    assert_eq!(store.repair(Repair::CancelAll { webhook: no, time }).await.unwrap(), Repaired::Cancelled(3));
    settle(&first, 0).await;

    let second = replay_all(&store, no, hours(2)).await;
    settle(&second, 6).await;
    let webhook = store.catalog().webhook(no).unwrap().webhook;
    let (tenant, id) = (webhook.tenant.clone(), webhook.id);
    store.put_config(ConfigChange::DeleteWebhook { tenant, id, expect: None, time }).await.unwrap();
    settle(&second, 0).await;
    assert_eq!((known(&second).cancelled, known(&second).pending()), (6, 0));
    store.close().await.unwrap();
}
