//! What a replay leaves in the tables.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ::redb::{ReadableDatabase as _, ReadableTableMetadata as _};
use tempfile::TempDir;

use super::{
    super::{
        Config, RedbStore,
        archive::Archived,
        open, tables,
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

/// Does what upkeep does until a step is found that is asked for; returns that, undone.
async fn upkeep_until(store: &RedbStore, now: Timestamp, is_it: impl Fn(&Archived) -> bool) -> Archived {
    loop {
        let step = store.archivist.step(&store.shared, now).unwrap();
        match step {
            Some(step) if is_it(&step) => return step,
            Some(step) => carry_out(store, step).await,
            None => assert!(store.shared.volume.is_looking(), "upkeep ends without it"),
        }
    }
}

async fn carry_out(store: &RedbStore, step: Archived) {
    let afterwards = step.afterwards();
    store.shared.inbox.upkeep(step).await.unwrap();
    afterwards.run(&store.shared).unwrap();
}

/// What is archived is not copied for a replay, unless its segment is being searched for what is pending because it is to go.
#[tokio::test]
async fn events_are_kept_beside_their_segment_only_if_that_is_about_to_go() {
    for (retires, kept) in [(false, 0), (true, 6)] {
        let dir = TempDir::new().unwrap();
        let (store, no) = archived(&dir).await;
        if retires {
            upkeep_until(&store, hours(18), |step| matches!(step, Archived::Announced)).await;
        }
        replay_all(&store, no, hours(15)).await;
        assert_eq!(rows(&store), [kept, 6], "{retires}");
        while store.upkeep(hours(18)).await.unwrap() {}
        assert!(store.shared.segments.all().iter().all(|segment| segment.record.events_until == 0));
        assert_eq!(rows(&store), [6, 6], "{retires}");
        let hints = store.due(no, hours(18), 100).await.unwrap().hints;
        deliver(&store, no, &hints).await;
        while store.upkeep(hours(18)).await.unwrap() {}
        assert_eq!(rows(&store), [0, 0], "{retires}");
        store.close().await.unwrap();
    }
}

/// Contract: nothing pending is removed, also if it became pending between the search for it and the end of its segment; be that
/// because of its age or because the data directory holds too much.
#[tokio::test]
async fn what_is_sent_again_while_its_segment_goes_outlives_it() {
    for (retention_bytes, now) in [(None, hours(18)), (Some(16), hours(2))] {
        let dir = TempDir::new().unwrap();
        let config =
            Config { retention: Duration::from_hours(16), hot_bytes_max: 1, retention_bytes, ..Config::default() };
        let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
        let no = webhook(&store).await;
        publish_at(&store, "old", hours(0)).await.unwrap();
        let hints = store.due(no, hours(0), 100).await.unwrap().hints;
        deliver(&store, no, &hints).await;
        while store.upkeep(hours(1)).await.unwrap() {}
        // The newest segment stays, so there is another one.
        publish_at(&store, "new", hours(2)).await.unwrap();
        let dropped = upkeep_until(&store, now, |step| matches!(step, Archived::Dropped(..))).await;
        replay_all(&store, no, hours(2)).await;
        carry_out(&store, dropped).await;
        let hints = store.due(no, hours(18), 100).await.unwrap().hints;
        let again: Vec<_> = hints.into_iter().filter(|hint| hint.replay > 0).map(|hint| hint.event).collect();
        assert_eq!(again.len(), 1, "{retention_bytes:?}: before the new one was accepted");
        let found = store.events(&again, usize::MAX).await.unwrap();
        assert_eq!(found[0].as_ref().map(|stored| stored.event.id.as_str()), Some("old"), "{retention_bytes:?}");
        store.close().await.unwrap();
    }
}

/// A replayed delivery may be to a webhook that its event was not for; gone, it is told from what never was all the same.
#[tokio::test]
async fn what_was_sent_again_expires_also_if_its_event_is_kept_for_others() {
    let dir = TempDir::new().unwrap();
    let (store, no) = archived(&dir).await;
    let later = webhook(&store).await;
    let replay = replay_all(&store, later, hours(2)).await;
    let hints = store.due(later, hours(2), 100).await.unwrap().hints;
    deliver(&store, later, &hints).await;
    let key = DeliveryKey { webhook: no, event: hints[0].event, replay: 0 };
    assert_eq!(store.repair(Repair::Retry { key, time: hours(2) }).await.unwrap(), Repaired::Retried);
    for now in [3, 20, 40] {
        while store.upkeep(hours(now)).await.unwrap() {}
    }
    assert_eq!(rows(&store)[0], 1, "one event is kept");
    let id = store.sealer().delivery_id(DeliveryKey { webhook: later, event: key.event, replay: replay.no });
    assert!(store.get(id).await.unwrap().is_none());
    assert_eq!(store.expired(id).await.unwrap(), Some(replay.spec.tenant));
    store.close().await.unwrap();
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

/// When what is older has gone, the oldest segment may hold outcomes alone.
#[tokio::test]
async fn a_replay_begins_behind_a_segment_without_events() {
    let dir = TempDir::new().unwrap();
    let store = opened(&dir);
    let no = webhook(&store).await;
    for (id, accepted, ended) in [("old", 0, 5), ("new", 9, 9)] {
        publish_at(&store, id, hours(accepted)).await.unwrap();
        while store.upkeep(hours(ended)).await.unwrap() {}
        let hint = store.due(no, hours(ended), 1).await.unwrap().hints[0];
        let made = crate::model::delivery::Outcome { time: hours(ended), ..outcome(&store, no, hint).await };
        let group = OutcomeGroup { outcomes: vec![made], ..OutcomeGroup::default() };
        store.commit(store.owner(), vec![group]).await.unwrap();
        while store.upkeep(hours(ended + 4)).await.unwrap() {}
    }
    while store.upkeep(hours(17)).await.unwrap() {}
    let oldest = store.shared.segments.all()[0].record.clone();
    assert_eq!(oldest.events_from, oldest.events_until, "it holds no event");
    let replay = replay_all(&store, no, hours(17)).await;
    assert_eq!(store.replays().get(replay.no).unwrap().progress.created, 1);
    store.close().await.unwrap();
}
