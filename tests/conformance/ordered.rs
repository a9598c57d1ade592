//! Ordered webhooks: of each ordering key one delivery is due, in publish order, and nothing waits for ever.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::DeliveryState,
        event::Event,
        ids::{DeliveryKey, EventSeq, EventTypeName},
        ordering::{HeadRule, Ordering},
        time::Timestamp,
        webhook::{Settings, Subscription, Webhook},
    },
    store::{ConfigAnswer, ConfigChange, Delivery, DeliveryQuery, DeliveryView, Hint, Published, Repair, Repaired},
};

use crate::fixture::{Engine, Fixture, Limits, START, at, event, secret, spec};

/// When everything is due.
const LATER: u64 = 100_000;

async fn ordered(fixture: &Fixture, head: HeadRule) -> Webhook {
    let mut spec = spec("default", Subscription::All);
    spec.settings.ordering = Ordering { ordered: true, head };
    let change = ConfigChange::CreateWebhook { spec, keys: secret().into(), request: None, time: START };
    let answer = fixture.store.put_config(change).await.expect("the store answers");
    let ConfigAnswer::Created(webhook) = answer else { panic!("not created: {answer:?}") };
    webhook
}

async fn set(fixture: &Fixture, webhook: &Webhook, ordering: Ordering) -> Webhook {
    let settings = Settings { ordering, ..webhook.settings.clone() };
    let change = ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: webhook.version,
        settings,
        enabled: true,
        drop_held: false,
        pair: None,
        time: START,
    };
    let answer = fixture.store.put_config(change).await.expect("the store answers");
    let ConfigAnswer::Updated(webhook) = answer else { panic!("not updated: {answer:?}") };
    webhook
}

fn keyed(id: &str, key: &str) -> Event {
    Event { ordering_key: key.into(), ..event(id) }
}

/// Publishes events, each named by its key and a number: `a-1`. Those of the key `x` have none.
async fn publish(fixture: &Fixture, ids: &[&str]) {
    let batch = ids.iter().enumerate().map(|(n, id)| {
        let key = id.split('-').next().filter(|key| *key != "x").unwrap_or_default();
        fixture.matched(keyed(id, key), at(n as u64))
    });
    let published = fixture.store.publish(batch.collect()).await.expect("the store answers");
    assert!(published.iter().all(|one| matches!(one, Published::New { .. })), "{published:?}");
}

/// What is due, with the ids of the events, sorted by them.
async fn due(fixture: &Fixture, webhook: &Webhook) -> Vec<(String, Hint)> {
    let hints = fixture.due(webhook, at(LATER)).await.hints;
    let seqs: Vec<EventSeq> = hints.iter().map(|hint| hint.event).collect();
    let events = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    let ids = events.into_iter().map(|stored| stored.expect("it is retained").event.id.to_string());
    let mut due: Vec<_> = ids.zip(hints).collect();
    due.sort_by(|one, other| one.0.cmp(&other.0));
    due
}

async fn ids_due(fixture: &Fixture, webhook: &Webhook) -> Vec<String> {
    due(fixture, webhook).await.into_iter().map(|(id, _)| id).collect()
}

/// An attempt of the delivery of this event, which must be due, ends.
async fn attempt(fixture: &Fixture, webhook: &Webhook, id: &str, state: DeliveryState) {
    let due = due(fixture, webhook).await;
    let hint = due.iter().find(|(known, _)| known == id).unwrap_or_else(|| panic!("{id} is not due: {due:?}")).1;
    fixture.commit(vec![fixture.outcome(webhook, hint, state, at(50)).await]).await;
}

async fn list(fixture: &Fixture, query: &DeliveryQuery) -> Vec<Delivery> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = fixture.store.list(query, after, 7).await.expect("the store answers");
        all.extend(page.deliveries);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

fn pending(fixture: &Fixture, webhook: &Webhook) -> u64 {
    fixture.store.catalog().webhook(webhook.no).expect("it exists").pending()
}

/// Waits for slices to do what was decided.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap_or_else(|_| panic!("never {what}"));
}

pub(crate) async fn one_of_each_key_is_due_and_the_next_one_follows<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (webhook, other) = (ordered(&fixture, HeadRule::Block).await, fixture.webhook().await);
    publish(&fixture, &["a-1", "a-2", "b-1", "x-1", "a-3", "x-2", "b-2"]).await;
    assert_eq!(
        ids_due(&fixture, &webhook).await,
        ["a-1", "b-1", "x-1", "x-2"],
        "events without a key wait for nothing"
    );
    assert_eq!(fixture.due(&other, at(LATER)).await.hints.len(), 7, "others know no order");
    assert_eq!(pending(&fixture, &webhook), 7, "those who wait are pending");

    attempt(&fixture, &webhook, "a-1", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-2", "b-1", "x-1", "x-2"]);
    fixture.reopen::<E>().await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-2", "b-1", "x-1", "x-2"]);
    publish(&fixture, &["a-4"]).await;
    attempt(&fixture, &webhook, "a-2", DeliveryState::Pending).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-2", "b-1", "x-1", "x-2"], "a head that is to be retried blocks");
    attempt(&fixture, &webhook, "a-2", DeliveryState::Failed).await;
    attempt(&fixture, &webhook, "b-1", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-3", "b-2", "x-1", "x-2"]);
    for id in ["a-3", "a-4", "b-2", "x-1", "x-2"] {
        attempt(&fixture, &webhook, id, DeliveryState::Delivered).await;
    }
    assert_eq!((ids_due(&fixture, &webhook).await.len(), pending(&fixture, &webhook)), (0, 0));
    publish(&fixture, &["a-5", "a-6"]).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-5"], "a key that was done begins anew");
}

/// What ends and what comes in one commit is put in order all the same.
pub(crate) async fn order_holds_within_a_commit<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    publish(&fixture, &["a-0"]).await;
    for n in 0..30 {
        let (last, hint) = due(&fixture, &webhook).await.remove(0);
        assert_eq!(last, format!("a-{n}"));
        let ended = vec![fixture.outcome(&webhook, hint, DeliveryState::Delivered, at(50)).await];
        let next = format!("a-{}", n + 1);
        let published = [next.as_str()];
        tokio::join!(fixture.commit(ended), publish(&fixture, &published));
        assert_eq!(ids_due(&fixture, &webhook).await, [next]);
    }
    assert_eq!(pending(&fixture, &webhook), 1);
}

pub(crate) async fn a_head_is_skipped_after_as_many_attempts_as_it_may_block<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::skip_after(2).expect("in range")).await;
    publish(&fixture, &["a-1", "a-2", "a-3"]).await;
    attempt(&fixture, &webhook, "a-1", DeliveryState::Pending).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1"]);
    attempt(&fixture, &webhook, "a-1", DeliveryState::Pending).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "a-2"], "it is retried beside the next one");
    attempt(&fixture, &webhook, "a-1", DeliveryState::Pending).await;
    fixture.reopen::<E>().await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "a-2"], "and takes no more turns");
    attempt(&fixture, &webhook, "a-1", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-2"], "nor when it ends");
    attempt(&fixture, &webhook, "a-2", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-3"]);
}

pub(crate) async fn who_waits_is_listed_as_pending_without_a_time<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    publish(&fixture, &["a-1", "a-2", "b-1", "a-3"]).await;
    for query in [DeliveryQuery::default(), DeliveryQuery { webhook: Some(webhook.id), ..DeliveryQuery::default() }] {
        let listed = list(&fixture, &query).await;
        let seen: Vec<_> = listed.iter().map(|one| (one.event.as_str(), one.next_attempt.is_some())).collect();
        assert_eq!(seen, [("a-3", false), ("b-1", true), ("a-2", false), ("a-1", true)]);
        for one in &listed {
            assert_eq!((one.state, one.attempts), (DeliveryView::State(DeliveryState::Pending), 0));
            let detail = fixture.store.get(one.id).await.expect("the store answers").expect("it exists");
            assert_eq!(&detail.delivery, one);
        }
    }
}

pub(crate) async fn deleting_cancels_who_waits<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    let ids: Vec<_> = (0..1_200).map(|n| format!("a-{n}")).collect();
    publish(&fixture, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    attempt(&fixture, &webhook, "a-0", DeliveryState::Pending).await;
    let other = ordered(&fixture, HeadRule::Block).await;
    assert_eq!(fixture.delete(&webhook).await, 1_200);
    publish(&fixture, &["a-new-1", "a-new-2"]).await;
    fixture.reopen::<E>().await;
    let query = DeliveryQuery { webhook: Some(webhook.id), ..DeliveryQuery::default() };
    let cancelled = DeliveryView::State(DeliveryState::Cancelled);
    for _ in 0..2 {
        let listed = list(&fixture, &query).await;
        assert_eq!(listed.len(), 1_200);
        assert!(listed.iter().all(|one| one.state == cancelled && one.next_attempt.is_none()));
        // The slices go on meanwhile, or have come to their end.
        fixture.publish(0, 1).await;
    }
    assert_eq!(ids_due(&fixture, &other).await, ["a-new-1", "e0"], "another webhook keeps its own order");
    assert_eq!(pending(&fixture, &other), 3);
}

/// A wide event reaches its webhooks in slices; what was published after it does not overtake it.
pub(crate) async fn a_wide_event_is_not_overtaken<E: Engine>() {
    const WIDE: usize = 2_500;
    let fixture = Fixture::new::<E>();
    let only_tags = Subscription::to([EventTypeName::new("ADD_TAG")].into());
    futures::future::join_all((0..WIDE).map(|_| fixture.webhook_of("default", only_tags.clone()))).await;
    let webhook = ordered(&fixture, HeadRule::Block).await;
    let narrow = |id: &str| Event { event_type: EventTypeName::new("NEW_LEAD"), ..keyed(id, "a") };
    let batch = vec![
        fixture.matched(narrow("a-0"), at(0)),
        fixture.matched(keyed("a-1", "a"), at(1)),
        fixture.matched(narrow("a-2"), at(2)),
        fixture.matched(keyed("a-3", "a"), at(3)),
        fixture.matched(narrow("a-4"), at(4)),
    ];
    fixture.store.publish(batch).await.expect("the store answers");
    for n in 0..=4 {
        let next = format!("a-{n}");
        until("due", async || {
            let due = ids_due(&fixture, &webhook).await;
            assert!(due.is_empty() || due == [next.as_str()], "{due:?} instead of {next}");
            !due.is_empty()
        })
        .await;
        attempt(&fixture, &webhook, &next, DeliveryState::Delivered).await;
    }
    assert_eq!(pending(&fixture, &webhook), 0);
}

pub(crate) async fn turned_off_it_releases_who_waits<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    let ids: Vec<_> = (0..900).map(|n| format!("a-{n:03}")).collect();
    publish(&fixture, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-000"]);
    let off = set(&fixture, &webhook, Ordering::default()).await;
    fixture.reopen::<E>().await;
    // What comes now is in no order, whatever is still to be released.
    publish(&fixture, &["a-900", "a-901"]).await;
    let due = ids_due(&fixture, &webhook).await;
    assert!(due.contains(&"a-900".to_owned()) && due.contains(&"a-901".to_owned()), "{due:?}");
    until("released", async || ids_due(&fixture, &webhook).await.len() == 902).await;
    assert_eq!(pending(&fixture, &webhook), 902);
    let hints = fixture.due(&webhook, at(LATER)).await.hints;
    let accepted: Vec<Timestamp> = hints.iter().map(|hint| hint.due).collect();
    assert!(accepted.is_sorted(), "in publish order");

    // Turned on again, it does not wait for what was released.
    set(&fixture, &off, webhook.settings.ordering).await;
    publish(&fixture, &["a-902", "a-903"]).await;
    until("let go", async || {
        let due = ids_due(&fixture, &webhook).await;
        assert!(!due.contains(&"a-903".to_owned()), "it waits for a-902");
        due.len() == 903
    })
    .await;
    attempt(&fixture, &webhook, "a-902", DeliveryState::Delivered).await;
    assert!(ids_due(&fixture, &webhook).await.contains(&"a-903".to_owned()));
}

/// On, off and on again faster than the slices: nothing is left behind for ever.
pub(crate) async fn turned_off_and_on_nobody_waits_for_ever<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let mut webhook = ordered(&fixture, HeadRule::Block).await;
    let on = webhook.settings.ordering;
    let mut published = 0;
    for round in 0..6 {
        let ids: Vec<_> = (0..300).map(|n| format!("a-{round}-{n}")).collect();
        publish(&fixture, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        published += ids.len();
        webhook = set(&fixture, &webhook, if round % 2 == 0 { Ordering::default() } else { on }).await;
    }
    let mut delivered = 0;
    until("delivered", async || {
        delivered += fixture.deliver_all(&webhook, at(LATER), at(50)).await;
        delivered == published
    })
    .await;
    assert_eq!(pending(&fixture, &webhook), 0);
}

/// A head that came before the webhook was ordered holds nobody up, and nobody it.
pub(crate) async fn turned_on_it_holds_for_what_comes<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    publish(&fixture, &["a-1", "a-2"]).await;
    set(&fixture, &webhook, Ordering { ordered: true, head: HeadRule::Block }).await;
    publish(&fixture, &["a-3", "a-4"]).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "a-2", "a-3"]);
    attempt(&fixture, &webhook, "a-1", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-2", "a-3"]);
    attempt(&fixture, &webhook, "a-3", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-2", "a-4"]);
}

/// An event that is scheduled takes its place in the order: it is waited for, and waits before its time counts.
pub(crate) async fn who_is_scheduled_keeps_its_place<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    let scheduled = |id: &str, seconds| Event { deliver_at: Some(at(seconds)), ..keyed(id, &id[..1]) };
    let batch = vec![
        fixture.matched(scheduled("a-1", 500), START),
        fixture.matched(keyed("a-2", "a"), START),
        fixture.matched(keyed("b-1", "b"), START),
        fixture.matched(scheduled("b-2", 600), START),
        fixture.matched(keyed("b-3", "b"), START),
        fixture.matched(scheduled("x-1", 700), START),
    ];
    fixture.store.publish(batch).await.expect("the store answers");
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "b-1", "x-1"]);
    assert_eq!(fixture.due(&webhook, at(499)).await.hints.len(), 1, "heads are not due before their time");
    let next_attempts = async || {
        let query = DeliveryQuery { webhook: Some(webhook.id), ..DeliveryQuery::default() };
        let mut listed = list(&fixture, &query).await;
        listed.sort_by(|one, other| one.event.as_str().cmp(other.event.as_str()));
        listed.into_iter().map(|one| one.next_attempt).collect::<Vec<_>>()
    };
    let expected = [Some(at(500)), None, Some(START), None, None, Some(at(700))];
    assert_eq!(next_attempts().await, expected, "who waits has no time, whatever it was to be");

    // The second one's turn comes before its time.
    attempt(&fixture, &webhook, "b-1", DeliveryState::Delivered).await;
    fixture.reopen::<E>().await;
    let early = fixture.due(&webhook, at(499)).await;
    assert_eq!((early.hints.len(), early.next_due), (0, Some(at(500))));
    let hint = due(&fixture, &webhook).await[1].1;
    assert_eq!((hint.due, hint.attempts.ended()), (at(600), 0));
    attempt(&fixture, &webhook, "b-2", DeliveryState::Pending).await;
    attempt(&fixture, &webhook, "b-2", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "b-3", "x-1"]);
    assert_eq!(pending(&fixture, &webhook), 4);

    // Turned off, what is released keeps its time.
    publish(&fixture, &["c-1"]).await;
    fixture.store.publish(vec![fixture.matched(scheduled("c-2", 800), START)]).await.expect("the store answers");
    set(&fixture, &webhook, Ordering::default()).await;
    until("released", async || ids_due(&fixture, &webhook).await.len() == 6).await;
    let times = due(&fixture, &webhook).await;
    assert!(times.iter().any(|(id, hint)| id == "c-2" && hint.due == at(800)), "{times:?}");
}

/// A delivery that is given up for its age ends like any other: the next one of its key goes on, and may be too old itself.
pub(crate) async fn who_expires_lets_the_next_one_go_on<E: Engine>() {
    for rule in [HeadRule::Block, HeadRule::skip_after(2).expect("in range")] {
        let mut fixture = Fixture::new::<E>();
        let webhook = ordered(&fixture, rule).await;
        let other = Event { deliver_at: Some(at(60)), ..keyed("a-2", "a") };
        publish(&fixture, &["a-1"]).await;
        fixture.store.publish(vec![fixture.matched(other, START)]).await.expect("the store answers");
        publish(&fixture, &["a-3", "a-4"]).await;
        for id in ["a-1", "a-2", "a-3"] {
            if id == "a-3" {
                attempt(&fixture, &webhook, id, DeliveryState::Pending).await;
                fixture.reopen::<E>().await;
            }
            let (head, hint) = due(&fixture, &webhook).await.remove(0);
            assert_eq!(head, id, "{rule:?}");
            let expiry = fixture.expiry(&webhook, hint, at(1_000)).await;
            fixture.commit(vec![expiry]).await;
        }
        assert_eq!(ids_due(&fixture, &webhook).await, ["a-4"], "{rule:?}");
        assert_eq!(pending(&fixture, &webhook), 1);
    }
}

pub(crate) async fn retention_keeps_who_waits<E: Engine>() {
    let retention = Duration::from_mins(16);
    let mut fixture = Fixture::with::<E>(Limits { retention, ..Limits::default() });
    let webhook = ordered(&fixture, HeadRule::Block).await;
    let ids: Vec<_> = (0..10).map(|n| format!("a-{n}")).collect();
    publish(&fixture, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for now in [300, 400, 100 + 17 * 60] {
        fixture.upkeep(at(now)).await;
    }
    fixture.reopen::<E>().await;
    fixture.upkeep(at(100 + 17 * 60)).await;
    for id in &ids {
        assert_eq!(ids_due(&fixture, &webhook).await, [id.as_str()], "with its event, which can be read");
        attempt(&fixture, &webhook, id, DeliveryState::Delivered).await;
    }
}

/// Turns a webhook off, or on again without what it held.
async fn turn(fixture: &Fixture, webhook: &Webhook, enabled: bool) -> Webhook {
    let change = ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: webhook.version,
        settings: webhook.settings.clone(),
        enabled,
        drop_held: enabled,
        pair: None,
        time: START,
    };
    let answer = fixture.store.put_config(change).await.expect("the store answers");
    let ConfigAnswer::Updated(webhook) = answer else { panic!("not updated: {answer:?}") };
    webhook
}

async fn repair(fixture: &Fixture, repair: Repair) -> Repaired {
    fixture.store.repair(repair).await.expect("the store answers")
}

pub(crate) async fn what_is_cancelled_lets_the_next_one_go_on<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    publish(&fixture, &["a-1", "a-2", "a-3", "a-4", "a-5", "b-1"]).await;
    let listed = list(&fixture, &DeliveryQuery { webhook: Some(webhook.id), ..DeliveryQuery::default() }).await;
    // The newest come first.
    let keys: Vec<DeliveryKey> = listed.iter().rev().map(|delivery| delivery.key).collect();
    let retried = repair(&fixture, Repair::Retry { key: keys[1], time: at(20) }).await;
    assert_eq!(retried, Repaired::WaitsInOrder, "who waits cannot be retried");
    let cancelled = repair(&fixture, Repair::Cancel { keys: vec![keys[3]], time: at(20) }).await;
    assert_eq!(cancelled, Repaired::Cancelled(1), "who waits is pending");
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "b-1"]);

    // One that has been tried and one that has not: the one after both is the next.
    attempt(&fixture, &webhook, "a-1", DeliveryState::Pending).await;
    let cancelled = repair(&fixture, Repair::Cancel { keys: vec![keys[1], keys[0]], time: at(20) }).await;
    assert_eq!(cancelled, Repaired::Cancelled(2));
    for _ in 0..2 {
        assert_eq!(ids_due(&fixture, &webhook).await, ["a-3", "b-1"]);
        assert_eq!(pending(&fixture, &webhook), 3);
        fixture.reopen::<E>().await;
    }
    attempt(&fixture, &webhook, "a-3", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-5", "b-1"], "who was cancelled while waiting is passed over");
    let retried = repair(&fixture, Repair::Retry { key: keys[0], time: at(60) }).await;
    assert_eq!(retried, Repaired::Retried);
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-1", "a-5", "b-1"], "what had ended waits for nobody");
    attempt(&fixture, &webhook, "a-1", DeliveryState::Delivered).await;
    attempt(&fixture, &webhook, "a-5", DeliveryState::Delivered).await;
    publish(&fixture, &["a-6"]).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-6", "b-1"]);
}

pub(crate) async fn what_is_dropped_holds_nothing_up<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = ordered(&fixture, HeadRule::Block).await;
    let old: Vec<String> =
        (0..2_000).map(|n| format!("{}-{n}", if n % 3 == 0 { "a".into() } else { format!("k{n}") })).collect();
    publish(&fixture, &old.iter().map(String::as_str).collect::<Vec<_>>()).await;
    attempt(&fixture, &webhook, "a-0", DeliveryState::Pending).await;
    let off = turn(&fixture, &webhook, false).await;
    turn(&fixture, &off, true).await;
    assert_eq!(pending(&fixture, &webhook), 0);
    assert!(ids_due(&fixture, &webhook).await.is_empty(), "the decision counts at once");
    publish(&fixture, &["a-x", "a-y", "k1-x", "x-1"]).await;
    let query = DeliveryQuery { webhook: Some(webhook.id), ..DeliveryQuery::default() };
    let cancelled = DeliveryView::State(DeliveryState::Cancelled);
    for _ in 0..2 {
        until("due", async || ids_due(&fixture, &webhook).await == ["a-x", "k1-x", "x-1"]).await;
        assert_eq!(pending(&fixture, &webhook), 4);
        let listed = list(&fixture, &query).await;
        assert_eq!(listed.iter().filter(|delivery| delivery.state == cancelled).count(), 2_000);
        fixture.reopen::<E>().await;
    }
    attempt(&fixture, &webhook, "a-x", DeliveryState::Delivered).await;
    assert_eq!(ids_due(&fixture, &webhook).await, ["a-y", "k1-x", "x-1"]);
    assert_eq!(repair(&fixture, Repair::CancelAll { webhook: webhook.no, time: at(99) }).await, Repaired::Cancelled(3));
    assert_eq!(pending(&fixture, &webhook), 0);
}
