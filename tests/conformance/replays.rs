//! Replays: what was accepted before is sent again, each event once a replay, whatever happens meanwhile.

use std::{collections::BTreeSet, time::Duration};

use postrider_server::{
    model::{
        delivery::{Attempts, DeliveryState},
        event::Event,
        ids::{DeliveryKey, EventSeq, EventTypeName},
        ordering::{HeadRule, Ordering},
        replay::{Replay, ReplaySpec, ReplayState, ReplayStep},
        webhook::{Subscription, Webhook},
    },
    store::{
        ConfigAnswer, ConfigChange, DeliveryQuery, DeliveryView, Repair, Repaired, ReplayAnswer, ReplayChange,
        RequestKey,
    },
};

use crate::fixture::{Engine, Fixture, Limits, START, at, event, secret, spec};

/// When replays are made.
pub(crate) const NOW: u64 = 5_000;

pub(crate) fn all_for(webhook: &Webhook) -> ReplaySpec {
    ReplaySpec {
        tenant: webhook.tenant.clone(),
        webhook: webhook.no,
        webhook_id: webhook.id,
        event_types: BTreeSet::new(),
        states: Vec::new(),
        start: None,
        end: at(NOW),
        per_second: 100,
    }
}

pub(crate) async fn ask(fixture: &Fixture, change: ReplayChange) -> ReplayAnswer {
    fixture.store.replay(change).await.expect("the store answers")
}

pub(crate) async fn start(fixture: &Fixture, spec: ReplaySpec) -> Replay {
    let answer = ask(fixture, ReplayChange::Start { spec, request: None, time: at(NOW) }).await;
    let ReplayAnswer::Put(replay) = answer else { panic!("not started: {answer:?}") };
    replay
}

pub(crate) fn now(fixture: &Fixture, replay: &Replay) -> Replay {
    Replay::clone(&fixture.store.replays().get(replay.no).expect("it is remembered"))
}

/// The next step of a replay, of a page of at most so many events.
pub(crate) async fn next_step(fixture: &Fixture, replay: &Replay, limit: usize) -> ReplayStep {
    let (mut next, mut examined, mut reached) = (replay.next, 0, None);
    loop {
        let page = fixture.store.replayable(replay, next, limit).await.expect("the store answers");
        assert!(page.next > next, "it looks at something");
        (next, examined, reached) = (page.next, examined + page.examined, page.reached.or(reached));
        if !page.events.is_empty() || next > replay.last {
            let events = page.events.iter().map(|stored| stored.seq).collect();
            return ReplayStep { replay: replay.no, from: replay.next, next, examined, reached, events, time: at(NOW) };
        }
    }
}

/// Carries a replay on to its end; returns it, with the events that were sent.
pub(crate) async fn finish(fixture: &Fixture, replay: &Replay) -> (Replay, Vec<EventSeq>) {
    let mut sent = Vec::new();
    loop {
        let replay = now(fixture, replay);
        if !replay.is_running() {
            return (replay, sent);
        }
        let step = next_step(fixture, &replay, 7).await;
        match ask(fixture, ReplayChange::Step(step.clone())).await {
            ReplayAnswer::Done => sent.extend(step.events),
            ReplayAnswer::Busy => tokio::task::yield_now().await,
            refused @ (ReplayAnswer::Put(_)
            | ReplayAnswer::Stale
            | ReplayAnswer::Unreadable
            | ReplayAnswer::WebhookDeleted
            | ReplayAnswer::RequestReused
            | ReplayAnswer::TooMany) => panic!("{refused:?}"),
        }
    }
}

async fn listed(fixture: &Fixture, query: DeliveryQuery) -> Vec<(DeliveryKey, DeliveryView)> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = fixture.store.list(&query, after, 3).await.expect("the store answers");
        all.extend(page.deliveries.iter().map(|delivery| (delivery.key, delivery.state)));
        let Some(next) = page.next else { return all };
        after = Some(next);
    }
}

fn replayed(webhook: &Webhook, replay: &Replay, event: EventSeq) -> DeliveryKey {
    DeliveryKey { webhook: webhook.no, event, replay: replay.no }
}

/// Each event gets a delivery of its own, from the first attempt on; a step that is repeated makes nothing.
pub(crate) async fn a_replay_makes_new_deliveries_step_by_step<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 10).await;
    fixture.deliver_all(&webhook, at(100), at(100)).await;
    let replay = start(&fixture, all_for(&webhook)).await;
    let first = next_step(&fixture, &replay, 4).await;
    assert_eq!((first.events.len(), first.examined, first.reached), (4, 4, Some(at(3))));
    let late = ReplayStep { from: EventSeq(replay.next.0 + 1), ..first.clone() };
    assert_eq!(ask(&fixture, ReplayChange::Step(late)).await, ReplayAnswer::Stale, "it is not there yet");
    assert_eq!(ask(&fixture, ReplayChange::Step(first.clone())).await, ReplayAnswer::Done);
    assert_eq!(ask(&fixture, ReplayChange::Step(first.clone())).await, ReplayAnswer::Stale, "it is beyond");
    fixture.reopen::<E>().await;
    assert_eq!(ask(&fixture, ReplayChange::Step(first.clone())).await, ReplayAnswer::Stale);
    assert_eq!(now(&fixture, &replay).progress.created, 4);
    let (done, rest) = finish(&fixture, &replay).await;
    assert_eq!((&done.state, done.progress.created, done.progress.pending()), (&ReplayState::Succeeded, 10, 10));
    let sent: Vec<_> = first.events.into_iter().chain(rest).collect();

    let hints = fixture.due(&webhook, at(NOW)).await.hints;
    assert_eq!(hints.iter().map(|hint| hint.event).collect::<Vec<_>>(), sent);
    assert!(
        hints.iter().all(|hint| (hint.replay, hint.attempts, hint.due) == (replay.no, Attempts::default(), at(NOW)))
    );
    let page = fixture.store.lanes(None, 10).await.expect("the store answers");
    assert_eq!(page.lanes.len(), 1, "dispatch is told of them");
    let registered = fixture.store.catalog().webhook(webhook.no).expect("it exists");
    assert_eq!(registered.pending(), 10);

    let outcome = fixture.outcome(&webhook, hints[0], DeliveryState::Delivered, at(NOW)).await;
    let again = fixture.outcome(&webhook, hints[1], DeliveryState::Pending, at(NOW)).await;
    let failed = fixture.outcome(&webhook, hints[2], DeliveryState::Failed, at(NOW)).await;
    let ids = [outcome.delivery_id, again.delivery_id, failed.delivery_id];
    fixture.commit(vec![outcome, again, failed]).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let progress = now(&fixture, &replay).progress;
        assert_eq!((progress.delivered, progress.failed, progress.pending()), (1, 1, 8));
        let detail = fixture.store.get(ids[1]).await.expect("readable").expect("it exists");
        assert_eq!((detail.delivery.attempts, detail.attempts.len()), (1, 1));
        assert_eq!(detail.delivery.create_time, at(1), "of its event");
        let one = DeliveryQuery { event: Some("e0".parse().expect("an id")), ..DeliveryQuery::default() };
        let delivered = DeliveryView::State(DeliveryState::Delivered);
        let keys =
            [replayed(&webhook, &replay, sent[0]), DeliveryKey { replay: 0, ..replayed(&webhook, &replay, sent[0]) }];
        assert_eq!(listed(&fixture, one).await, keys.map(|key| (key, delivered)));
        let of_webhook = DeliveryQuery { webhook: Some(webhook.id), ..DeliveryQuery::default() };
        assert_eq!(listed(&fixture, of_webhook).await.len(), 20);
        assert_eq!(listed(&fixture, DeliveryQuery::default()).await.len(), 20);
    }
    // A retry by hand takes it back.
    let key = replayed(&webhook, &replay, sent[2]);
    let retried = fixture.store.repair(Repair::Retry { key, time: at(NOW) }).await.expect("the store answers");
    assert_eq!(retried, Repaired::Retried);
    let progress = now(&fixture, &replay).progress;
    assert_eq!((progress.failed, progress.pending()), (0, 9));
    assert_eq!(fixture.deliver_all(&webhook, at(2 * NOW), at(NOW)).await, 9);
    let progress = now(&fixture, &replay).progress;
    assert_eq!((progress.delivered, progress.failed, progress.pending()), (10, 0, 0));
}

/// By time, type, tenant, and how the first delivery stands; also what the webhook never had.
pub(crate) async fn a_replay_takes_what_it_is_asked_for<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let early = fixture.webhook().await;
    fixture.webhook_of("other", Subscription::All).await;
    let mut batch = Vec::new();
    for n in 0..12 {
        let event_type = EventTypeName::new(if n % 2 == 0 { "ADD_TAG" } else { "NEW_LEAD" });
        batch.push(fixture.matched(Event { event_type, ..event(&format!("e{n}")) }, at(n)));
        let other = Event { tenant: "other".parse().expect("a tenant"), ..event(&format!("o{n}")) };
        batch.push(fixture.matched(other, at(n)));
    }
    fixture.store.publish(batch).await.expect("the store answers");
    let hints = fixture.due(&early, at(100)).await.hints;
    // The first four fail, the next four are delivered, two are cancelled, and two are pending.
    let mut outcomes = Vec::new();
    for (n, hint) in hints[..8].iter().enumerate() {
        let state = if n < 4 { DeliveryState::Failed } else { DeliveryState::Delivered };
        outcomes.push(fixture.outcome(&early, *hint, state, at(50)).await);
    }
    fixture.commit(outcomes).await;
    let keys = hints[8..10].iter().map(|hint| DeliveryKey { webhook: early.no, event: hint.event, replay: 0 });
    let cancel = Repair::Cancel { keys: keys.collect(), time: at(60) };
    assert_eq!(fixture.store.repair(cancel).await.expect("the store answers"), Repaired::Cancelled(2));
    let late = fixture.webhook().await;

    let seqs: Vec<_> = hints.iter().map(|hint| hint.event).collect();
    let picked = |indexes: &[usize]| indexes.iter().map(|n| seqs[*n]).collect::<Vec<_>>();
    let all: Vec<_> = (0..12).collect();
    let states = |states: &[DeliveryState]| ReplaySpec { states: states.to_vec(), ..all_for(&early) };
    let tags: BTreeSet<_> = [EventTypeName::new("ADD_TAG")].into();
    let between = ReplaySpec { start: Some(at(3)), end: at(7), ..all_for(&early) };
    for (spec, expected) in [
        (all_for(&early), all.clone()),
        (all_for(&late), all),
        (between.clone(), vec![3, 4, 5, 6]),
        (ReplaySpec { event_types: tags.clone(), ..between }, vec![4, 6]),
        (states(&[DeliveryState::Failed]), vec![0, 1, 2, 3]),
        (states(&[DeliveryState::Cancelled, DeliveryState::Delivered]), vec![4, 5, 6, 7, 8, 9]),
        (ReplaySpec { event_types: tags, ..states(&[DeliveryState::Failed]) }, vec![0, 2]),
        (ReplaySpec { states: vec![DeliveryState::Failed], ..all_for(&late) }, vec![]),
        (ReplaySpec { start: Some(at(12)), ..all_for(&early) }, vec![]),
    ] {
        let replay = start(&fixture, spec.clone()).await;
        // Never what is accepted after it was started.
        let (done, sent) = finish(&fixture, &replay).await;
        assert_eq!(sent, picked(&expected), "{spec:?}");
        assert_eq!(done.progress.created, expected.len() as u64);
        let within = (0..12).filter(|n| spec.is_within(at(*n))).count() as u64;
        assert_eq!(done.progress.examined, within, "{spec:?}");
    }
    let replay = start(&fixture, all_for(&early)).await;
    fixture.publish(100, 3).await;
    assert_eq!(finish(&fixture, &replay).await.1.len(), 12, "not what is accepted after the call");
    // One that waited for its commit is stored after one that was accepted later.
    let (later, sooner) = (fixture.matched(event("later"), at(400)), fixture.matched(event("sooner"), at(350)));
    fixture.store.publish(vec![later, sooner]).await.expect("the store answers");
    let spec = ReplaySpec { start: Some(at(340)), end: at(360), ..all_for(&early) };
    let (done, _) = finish(&fixture, &start(&fixture, spec).await).await;
    assert_eq!((done.progress.created, done.progress.reached), (1, Some(at(350))));
}

/// The same request under the same id starts one.
pub(crate) async fn a_request_starts_one_replay<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 3).await;
    let request = |hash: u128, time: u64| ReplayChange::Start {
        spec: all_for(&webhook),
        request: Some(RequestKey { id: "r-1".into(), hash }),
        time: at(time),
    };
    let first = ask(&fixture, request(7, NOW)).await;
    let ReplayAnswer::Put(replay) = &first else { panic!("{first:?}") };
    finish(&fixture, replay).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        assert_eq!(ask(&fixture, request(7, NOW + 10)).await, first, "as it was then");
        assert_eq!(ask(&fixture, request(8, NOW + 10)).await, ReplayAnswer::RequestReused);
        let create = ConfigChange::CreateWebhook {
            spec: spec("default", Subscription::All),
            keys: secret().into(),
            request: Some(RequestKey { id: "r-1".into(), hash: 7 }),
            time: at(NOW + 10),
        };
        let answer = fixture.store.put_config(create).await.expect("the store answers");
        assert!(matches!(answer, ConfigAnswer::RequestReused), "{answer:?}");
    }
    assert_eq!(fixture.store.replays().list(None, None, None, 10).len(), 1);
    let later = ask(&fixture, request(8, NOW + 25 * 3600)).await;
    assert!(matches!(&later, ReplayAnswer::Put(other) if other.no != replay.no), "{later:?}");
}

/// What is archived is replayed like anything else; its event is there as long as a replayed delivery is pending, and no longer.
pub(crate) async fn archived_events_are_replayed_and_kept_until_they_are_sent<E: Engine>() {
    let retention = Duration::from_mins(160);
    let mut fixture = Fixture::with::<E>(Limits { retention, hot_bytes_max: 1, ..Limits::default() });
    let early = fixture.webhook().await;
    fixture.publish(0, 20).await;
    fixture.deliver_all(&early, at(100), at(100)).await;
    fixture.upkeep(at(2_000)).await;
    let late = fixture.webhook().await;
    let replay = start(&fixture, all_for(&late)).await;
    let (_, sent) = finish(&fixture, &replay).await;
    assert_eq!(sent.len(), 20);
    let some = start(&fixture, ReplaySpec { start: Some(at(10)), ..all_for(&early) }).await;
    assert_eq!(finish(&fixture, &some).await.1, sent[10..]);
    assert_eq!(fixture.deliver_all(&early, at(NOW), at(NOW)).await, 10);
    fixture.upkeep(at(2_001)).await;
    // Some are sent, and archived with their outcomes; the others outlive everything else.
    let hints = fixture.due(&late, at(NOW)).await.hints;
    let mut outcomes = Vec::new();
    for hint in &hints[..15] {
        outcomes.push(fixture.outcome(&late, *hint, DeliveryState::Delivered, at(NOW)).await);
    }
    fixture.commit(outcomes).await;
    fixture.upkeep(at(7_000)).await;
    fixture.reopen::<E>().await;
    let of_event =
        |n: u64| DeliveryQuery { event: Some(format!("e{n}").parse().expect("an id")), ..DeliveryQuery::default() };
    let delivered = DeliveryView::State(DeliveryState::Delivered);
    let both = [replayed(&late, &replay, sent[0]), DeliveryKey { webhook: early.no, event: sent[0], replay: 0 }];
    assert_eq!(listed(&fixture, of_event(0)).await, both.map(|key| (key, delivered)));
    let of_late = DeliveryQuery { webhook: Some(late.id), ..DeliveryQuery::default() };
    assert_eq!(listed(&fixture, of_late.clone()).await.len(), 20);

    fixture.upkeep(at(7_000 + 161 * 60)).await;
    let left = fixture.due(&late, at(NOW)).await.hints;
    assert_eq!(left, hints[15..]);
    let seqs: Vec<_> = hints.iter().map(|hint| hint.event).collect();
    let kept = |events: Vec<Option<_>>| events.iter().map(Option::is_some).collect::<Vec<_>>();
    let events = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    assert_eq!(
        kept(events),
        (0..20).map(|n| n >= 15).collect::<Vec<_>>(),
        "what is pending can be sent, the others have gone"
    );
    assert_eq!(fixture.deliver_all(&late, at(NOW), at(17_000)).await, 5);
    fixture.upkeep(at(17_001)).await;
    let events = fixture.store.events(&seqs[15..], usize::MAX).await.expect("the store answers");
    assert_eq!(kept(events), [false; 5], "nobody needs them any more");
}

/// An event may go between the look at it and the step: it is counted, and the others are sent. One that was due to go and is to be
/// sent again stays.
pub(crate) async fn what_is_gone_meanwhile_is_counted<E: Engine>() {
    let retention = Duration::from_mins(16);
    let fixture = Fixture::with::<E>(Limits { retention, hot_bytes_max: 1, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.publish(0, 10).await;
    let pending = fixture.due(&webhook, at(100)).await.hints[9];
    let mut outcomes = Vec::new();
    for hint in fixture.due(&webhook, at(100)).await.hints.into_iter().take(9) {
        outcomes.push(fixture.outcome(&webhook, hint, DeliveryState::Delivered, at(100)).await);
    }
    fixture.commit(outcomes).await;
    fixture.upkeep(at(200)).await;
    let replay = start(&fixture, all_for(&webhook)).await;
    let step = next_step(&fixture, &replay, 100).await;
    assert_eq!(step.events.len(), 10);
    fixture.upkeep(at(100 + 20 * 60)).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Done);
    let progress = now(&fixture, &replay).progress;
    assert_eq!((progress.examined, progress.created, progress.expired, progress.skipped()), (10, 1, 9, 0));
    let outcome = fixture.outcome(&webhook, pending, DeliveryState::Delivered, at(NOW)).await;
    fixture.commit(vec![outcome]).await;
    fixture.upkeep(at(NOW)).await;
    let due = fixture.due(&webhook, at(NOW)).await.hints;
    assert_eq!(due.iter().map(|hint| (hint.event, hint.replay)).collect::<Vec<_>>(), [(pending.event, replay.no)]);
    let events = fixture.store.events(&[pending.event], usize::MAX).await.expect("the store answers");
    assert!(events[0].is_some(), "the replayed one needs it");
    // A replay of what is left looks at that alone.
    let again = start(&fixture, all_for(&webhook)).await;
    assert_eq!(finish(&fixture, &again).await.1, [pending.event]);
}

/// In an ordered webhook replayed deliveries have their place in the order of their key, one attempt at a time.
pub(crate) async fn replayed_deliveries_keep_the_order_of_their_key<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let mut ordered = spec("default", Subscription::All);
    ordered.settings.ordering = Ordering { ordered: true, head: HeadRule::Block };
    let change = ConfigChange::CreateWebhook { spec: ordered, keys: secret().into(), request: None, time: START };
    let ConfigAnswer::Created(webhook) = fixture.store.put_config(change).await.expect("the store answers") else {
        panic!("not created")
    };
    let keyed = |id: &str, key: &str| Event { ordering_key: key.into(), ..event(id) };
    let publish = async |ids: &[(&str, &str)]| {
        let batch = ids.iter().map(|(id, key)| fixture.matched(keyed(id, key), at(0))).collect();
        fixture.store.publish(batch).await.expect("the store answers");
    };
    publish(&[("a1", "a"), ("a2", "a"), ("b1", "b"), ("x", "")]).await;
    while fixture.deliver_all(&webhook, at(NOW), at(10)).await > 0 {}
    let replay = start(&fixture, all_for(&webhook)).await;
    publish(&[("a3", "a"), ("a4", "a")]).await;
    finish(&fixture, &replay).await;
    fixture.reopen::<E>().await;
    // What is parked is listed, without a time, and cannot be retried.
    let parked = DeliveryQuery { event: Some("a1".parse().expect("an id")), ..DeliveryQuery::default() };
    let page = fixture.store.list(&parked, None, 10).await.expect("the store answers");
    let again = &page.deliveries[0];
    assert_eq!(
        (again.key.replay, again.state, again.next_attempt),
        (replay.no, DeliveryView::State(DeliveryState::Pending), None)
    );
    let retry = Repair::Retry { key: again.key, time: at(NOW) };
    assert_eq!(fixture.store.repair(retry).await.expect("the store answers"), Repaired::WaitsInOrder);

    let mut order = Vec::new();
    loop {
        let hints = fixture.due(&webhook, at(NOW)).await.hints;
        if hints.is_empty() {
            break;
        }
        let mut outcomes = Vec::new();
        for hint in hints {
            outcomes.push(fixture.outcome(&webhook, hint, DeliveryState::Delivered, at(NOW)).await);
        }
        let mut round: Vec<_> =
            outcomes.iter().map(|outcome| (outcome.event_id.to_string(), outcome.key.replay > 0)).collect();
        round.sort();
        order.push(round);
        fixture.commit(outcomes).await;
    }
    let one = |id: &str, replayed: bool| (id.to_owned(), replayed);
    let expected = [
        vec![one("a3", false), one("b1", true), one("x", true)],
        vec![one("a1", true)],
        vec![one("a2", true)],
        vec![one("a4", false)],
    ];
    assert_eq!(order, expected);
    assert_eq!(now(&fixture, &replay).progress.delivered, 4);
}
