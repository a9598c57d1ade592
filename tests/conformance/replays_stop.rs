//! How replays end before they are done, and what they leave to others.

use std::time::Duration;

use postrider_server::{
    limits::{REPLAY_CANCEL_DELIVERIES_MAX, REPLAYS_PER_WEBHOOK_MAX},
    model::{
        ids::Position,
        replay::{Replay, ReplaySpec, ReplayState, StoppedBy},
    },
    store::{FeedFilter, LogEntry, Repair, Repaired, ReplayAnswer, ReplayChange},
};

use crate::{
    fixture::{Engine, Fixture, Limits, at},
    replays::{NOW, all_for, ask, finish, next_step, now, start},
};

/// A cancelled one makes no more; what it made is cancelled if that is wanted, slice by slice, and nothing else is.
pub(crate) async fn a_cancelled_replay_makes_no_more<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    let count = 2 * REPLAY_CANCEL_DELIVERIES_MAX as u64 + 10;
    fixture.publish(0, count).await;
    let replay = start(&fixture, all_for(&webhook)).await;
    let kept = start(&fixture, all_for(&webhook)).await;
    finish(&fixture, &replay).await;
    let step = next_step(&fixture, &kept, 5).await;
    ask(&fixture, ReplayChange::Step(step)).await;
    let pending = |fixture: &Fixture| fixture.store.catalog().webhook(webhook.no).expect("it exists").pending();
    assert_eq!(pending(&fixture), 2 * count + 5);

    let step = next_step(&fixture, &now(&fixture, &kept), 5).await;
    let cancel =
        |replay: &Replay, drop_pending| ReplayChange::Cancel { replay: replay.no, drop_pending, time: at(NOW) };
    let answer = ask(&fixture, cancel(&kept, false)).await;
    let ReplayAnswer::Put(stopped) = answer else { panic!("{answer:?}") };
    assert_eq!((&stopped.state, stopped.progress.pending()), (&ReplayState::Cancelled(StoppedBy::Request), 5));
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Stale, "a step on its way comes too late");

    // One that has succeeded stays so, and what it made can be cancelled.
    let answer = ask(&fixture, cancel(&replay, true)).await;
    let ReplayAnswer::Put(dropping) = answer else { panic!("{answer:?}") };
    assert_eq!((&dropping.state, dropping.drops), (&ReplayState::Succeeded, true));
    assert_eq!(dropping.progress.cancelled, REPLAY_CANCEL_DELIVERIES_MAX as u64);
    fixture.reopen::<E>().await;
    assert!(fixture.store.replays().active().iter().any(|active| active.no == replay.no), "it goes on");
    while now(&fixture, &replay).drops {
        let drop = ReplayChange::Drop { replay: replay.no, time: at(NOW) };
        assert_eq!(ask(&fixture, drop).await, ReplayAnswer::Done);
    }
    assert_eq!(now(&fixture, &replay).progress.pending(), 0);
    assert_eq!(pending(&fixture), count + 5, "nothing else is cancelled");
    let hints = fixture.due(&webhook, at(NOW)).await.hints;
    assert_eq!(hints.iter().filter(|hint| hint.replay == replay.no).count(), 0);
    let page = fixture.store.feed(Position(0), &FeedFilter::default(), 10_000).await.expect("readable");
    let told = page.entries.iter().map(|entry| match entry {
        LogEntry::WebhookCancelled(cancelled) => cancelled.deliveries,
        LogEntry::Outcome(_) | LogEntry::Operational(_) => 0,
    });
    assert_eq!(told.sum::<u64>(), count, "watchers are told");
    assert_eq!(ask(&fixture, ReplayChange::Forget { replays: vec![replay.no, 99] }).await, ReplayAnswer::Done);
    assert!(fixture.store.replays().get(replay.no).is_none());
    assert_eq!(ask(&fixture, cancel(&replay, true)).await, ReplayAnswer::Stale);
    // What a forgotten one made goes on like anything else.
    assert_eq!(ask(&fixture, ReplayChange::Forget { replays: vec![kept.no] }).await, ReplayAnswer::Done);
    fixture.reopen::<E>().await;
    assert_eq!(fixture.deliver_all(&webhook, at(NOW), at(NOW)).await as u64, count + 5);
    assert_eq!(pending(&fixture), 0);
}

/// A deleted webhook's replays end with it, and so do their deliveries.
pub(crate) async fn a_deleted_webhook_ends_its_replays<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (webhook, other) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 20).await;
    let (replay, others) = (start(&fixture, all_for(&webhook)).await, start(&fixture, all_for(&other)).await);
    let step = next_step(&fixture, &replay, 5).await;
    ask(&fixture, ReplayChange::Step(step)).await;
    assert_eq!(fixture.delete(&webhook).await, 25);
    let stopped = now(&fixture, &replay);
    assert_eq!(stopped.state, ReplayState::Cancelled(StoppedBy::Deletion), "in the same commit");
    let again = ReplayChange::Start { spec: all_for(&webhook), request: None, time: at(NOW) };
    assert_eq!(ask(&fixture, again).await, ReplayAnswer::WebhookDeleted);
    fixture.reopen::<E>().await;
    let settled = async {
        while now(&fixture, &replay).progress.pending() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect("all are marked");
    assert!(now(&fixture, &others).is_running());
    let (done, _) = finish(&fixture, &others).await;
    assert_eq!(done.progress.created, 20);
}

/// Only so many run to one webhook.
pub(crate) async fn only_so_many_replays_run<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 3).await;
    let first = start(&fixture, all_for(&webhook)).await;
    for _ in 1..REPLAYS_PER_WEBHOOK_MAX {
        start(&fixture, all_for(&webhook)).await;
    }
    let one_more = || ReplayChange::Start { spec: all_for(&webhook), request: None, time: at(NOW) };
    assert_eq!(ask(&fixture, one_more()).await, ReplayAnswer::TooMany);
    let failed = ReplayChange::Fail { replay: first.no, why: "planted".into(), time: at(NOW) };
    assert_eq!(ask(&fixture, failed).await, ReplayAnswer::Done);
    assert_eq!(now(&fixture, &first).state, ReplayState::Failed("planted".into()));
    assert!(matches!(ask(&fixture, one_more()).await, ReplayAnswer::Put(_)));
}

/// A replay leaves the last tenth of the backlog to what is published.
pub(crate) async fn a_replay_leaves_room_in_the_backlog<E: Engine>() {
    let fixture = Fixture::with::<E>(Limits { pending_max: 20, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.publish(0, 10).await;
    let replay = start(&fixture, all_for(&webhook)).await;
    let step = next_step(&fixture, &replay, 9).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Busy);
    let step = next_step(&fixture, &replay, 8).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Done);
    let replay = now(&fixture, &replay);
    let step = next_step(&fixture, &replay, 1).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step.clone())).await, ReplayAnswer::Busy);
    fixture.publish(100, 2).await;
    assert_eq!(now(&fixture, &replay), replay);
    fixture.deliver_all(&webhook, at(NOW), at(NOW)).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Done);
}

/// While what is pending for a webhook is being cancelled, a replay waits: or what it makes would be cancelled with that.
pub(crate) async fn what_is_dropped_holds_a_replay_up<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 2_000).await;
    let spec = ReplaySpec { end: at(50), ..all_for(&webhook) };
    let replay = start(&fixture, spec).await;
    let step = next_step(&fixture, &replay, 5).await;
    ask(&fixture, ReplayChange::Step(step)).await;
    let cancel = Repair::CancelAll { webhook: webhook.no, time: at(NOW) };
    assert_eq!(fixture.store.repair(cancel).await.expect("the store answers"), Repaired::Cancelled(2_005));
    let (done, sent) = finish(&fixture, &replay).await;
    assert_eq!((sent.len(), done.progress.created), (45, 50));
    let settled = async {
        while now(&fixture, &replay).progress.cancelled < 5 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect("all are marked");
    assert_eq!(fixture.deliver_all(&webhook, at(NOW), at(NOW)).await, 45);
    let progress = now(&fixture, &replay).progress;
    assert_eq!((progress.delivered, progress.cancelled, progress.pending()), (45, 5, 0));
}
