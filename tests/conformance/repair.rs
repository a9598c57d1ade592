//! Repairing by hand: held deliveries dropped, deliveries cancelled and tried again.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::{Attempts, DeliveryState},
        ids::{DeliveryKey, Position, WebhookNo},
        time::Timestamp,
        webhook::{Switch, Webhook},
    },
    store::{
        CancelReason, ConfigAnswer, ConfigChange, DeliveryQuery, DeliveryView, FeedFilter, Hint, LogEntry, Published,
        Repair, Repaired,
    },
};

use crate::fixture::{Engine, Fixture, Limits, at};

pub(crate) async fn turn(fixture: &Fixture, webhook: &Webhook, enabled: bool, drop_held: bool, time: Timestamp) {
    let now = fixture.store.catalog().webhook(webhook.no).expect("it exists").webhook;
    let change = ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: now.version,
        settings: now.settings.clone(),
        enabled,
        drop_held,
        pair: None,
        time,
    };
    let answer = fixture.store.put_config(change).await.expect("the store answers");
    let ConfigAnswer::Updated(webhook) = answer else { panic!("not updated: {answer:?}") };
    assert_eq!(webhook.switch == Switch::Enabled, enabled);
}

pub(crate) async fn repair(fixture: &Fixture, repair: Repair) -> Repaired {
    fixture.store.repair(repair).await.expect("the store answers")
}

pub(crate) async fn retry(fixture: &Fixture, key: DeliveryKey, time: Timestamp) -> Repaired {
    // What was cancelled with many others cannot be retried before all are marked.
    loop {
        let repaired = repair(fixture, Repair::Retry { key, time }).await;
        if repaired != Repaired::Cancelling {
            return repaired;
        }
        tokio::task::yield_now().await;
    }
}

/// The reasons and counts of the cancellations that watchers were told of.
async fn cancellations(fixture: &Fixture) -> Vec<(CancelReason, u64)> {
    let page = fixture.store.feed(Position(0), &FeedFilter::default(), 10_000).await.expect("readable");
    let cancelled = page.entries.into_iter().filter_map(|entry| match entry {
        LogEntry::WebhookCancelled(cancelled) => Some((cancelled.reason, cancelled.deliveries)),
        LogEntry::Outcome(_) | LogEntry::Operational(_) => None,
    });
    cancelled.collect()
}

pub(crate) async fn count(fixture: &Fixture, webhook: &Webhook, state: DeliveryState) -> usize {
    let states = vec![DeliveryView::State(state)];
    let query = DeliveryQuery { webhook: Some(webhook.id), states, ..DeliveryQuery::default() };
    let (mut after, mut count) = (None, 0);
    loop {
        let page = fixture.store.list(&query, after, 1_000).await.expect("the store answers");
        count += page.deliveries.len();
        let Some(next) = page.next else { return count };
        after = Some(next);
    }
}

pub(crate) fn key(webhook: WebhookNo, hint: Hint) -> DeliveryKey {
    DeliveryKey { webhook, event: hint.event, replay: hint.replay }
}

fn pending(fixture: &Fixture, webhook: &Webhook) -> u64 {
    fixture.store.catalog().webhook(webhook.no).expect("it exists").pending()
}

pub(crate) async fn held_deliveries_are_dropped_at_once_and_for_good<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (webhook, other) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 3_000).await;
    let hints = fixture.due(&webhook, at(10_000)).await.hints;
    // Among those that were tried, one has been delivered, some are due again, and one comes back only later.
    let mut tried = Vec::new();
    for hint in &hints[..10] {
        tried.push(fixture.outcome(&webhook, *hint, DeliveryState::Pending, at(1)).await);
    }
    fixture.commit(tried).await;
    fixture.commit(vec![fixture.outcome(&webhook, hints[10], DeliveryState::Delivered, at(1)).await]).await;
    let late = fixture.outcome(&webhook, hints[11], DeliveryState::Delivered, at(2)).await;
    turn(&fixture, &webhook, false, false, at(3_000)).await;
    assert_eq!(pending(&fixture, &webhook), 2_999, "held ones count");
    turn(&fixture, &webhook, true, true, at(3_001)).await;

    assert!(fixture.due(&webhook, at(10_000)).await.hints.is_empty(), "the decision counts at once");
    assert_eq!(pending(&fixture, &webhook), 0);
    assert_eq!(count(&fixture, &webhook, DeliveryState::Cancelled).await, 2_999);
    fixture.commit(vec![late]).await;
    fixture.publish(5_000, 5).await;
    assert_eq!(fixture.due(&webhook, at(10_000)).await.hints.len(), 5, "what comes afterwards is delivered");
    for reopened in [false, true] {
        if reopened {
            // In the middle of the slices, or soon after.
            fixture.reopen::<E>().await;
        }
        assert_eq!(fixture.due(&webhook, at(10_000)).await.hints.len(), 5);
        let lanes = fixture.store.lanes(None, 10).await.expect("the store answers").lanes;
        let first_due: Vec<_> = lanes.iter().map(|lane| (lane.webhook, lane.first_due)).collect();
        assert_eq!(first_due, [(webhook.no, at(5_000)), (other.no, at(0))]);
        assert_eq!(count(&fixture, &webhook, DeliveryState::Cancelled).await, 2_999, "reopened: {reopened}");
        assert_eq!(count(&fixture, &webhook, DeliveryState::Delivered).await, 1);
        assert_eq!(pending(&fixture, &webhook), 5);
        assert_eq!(cancellations(&fixture).await, [(CancelReason::HeldDropped, 2_999)]);
    }
    let all = fixture.due(&other, at(10_000)).await.hints.len();
    assert_eq!(all, 3_005, "nobody else is touched");
    // Once all are marked, one can be brought back.
    assert_eq!(retry(&fixture, key(webhook.no, hints[20]), at(6_000)).await, Repaired::Retried);
    assert_eq!(fixture.due(&webhook, at(10_000)).await.hints.len(), 6);
    assert_eq!(fixture.deliver_all(&webhook, at(10_000), at(6_001)).await, 6);
    fixture.reopen::<E>().await;
    assert!(fixture.due(&webhook, at(100_000)).await.hints.is_empty());
    assert_eq!(count(&fixture, &webhook, DeliveryState::Cancelled).await, 2_998);
}

pub(crate) async fn what_is_held_is_released_by_default<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    turn(&fixture, &webhook, false, true, at(0)).await;
    fixture.publish(0, 3).await;
    // Only enabling drops.
    turn(&fixture, &webhook, false, true, at(1)).await;
    turn(&fixture, &webhook, true, false, at(2)).await;
    turn(&fixture, &webhook, true, true, at(3)).await;
    assert_eq!(fixture.due(&webhook, at(10)).await.hints.len(), 3);
    assert_eq!(pending(&fixture, &webhook), 3);
    assert!(cancellations(&fixture).await.is_empty());
}

pub(crate) async fn a_wide_event_on_its_way_is_dropped_too<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhooks = futures::future::join_all((0..2_500).map(|_| fixture.webhook())).await;
    let last = webhooks.iter().max_by_key(|webhook| webhook.no).expect("there are some").clone();
    let cancel = Repair::CancelAll { webhook: last.no, time: at(1) };
    let (published, repaired) = tokio::join!(fixture.publish(0, 1), repair(&fixture, cancel));
    assert_eq!(published, [Published::New { deliveries: 2_500 }]);
    let Repaired::Cancelled(cancelled) = repaired else { panic!("{repaired:?}") };
    fixture.reopen::<E>().await;
    // The event after it shows that it has arrived.
    fixture.publish(1, 1).await;
    let expected = 2 - usize::try_from(cancelled).expect("one at most");
    let arrived = async {
        // The counts are the last to know.
        while pending(&fixture, &last) < expected as u64 || pending(&fixture, &webhooks[0]) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), arrived).await.expect("it arrives");
    assert_eq!(fixture.due(&last, at(10)).await.hints.len(), expected);
    assert_eq!(pending(&fixture, &last), expected as u64);
    assert_eq!(count(&fixture, &last, DeliveryState::Cancelled).await as u64, cancelled);
}

pub(crate) async fn what_was_cancelled_on_its_way_comes_back_once<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhooks = futures::future::join_all((0..2_500).map(|_| fixture.webhook())).await;
    let (first, last) = (&webhooks[0], webhooks.iter().max_by_key(|webhook| webhook.no).expect("there are some"));
    assert_eq!(fixture.publish(0, 1).await, [Published::New { deliveries: 2_500 }]);
    let cancel = Repair::CancelAll { webhook: last.no, time: at(1) };
    assert_eq!(repair(&fixture, cancel).await, Repaired::Cancelled(1));
    let event = fixture.due(first, at(10)).await.hints[0].event;
    let key = DeliveryKey { webhook: last.no, event, replay: 0 };
    assert_eq!(retry(&fixture, key, at(2)).await, Repaired::Retried);
    // The event after it shows that it has arrived.
    fixture.publish(3, 1).await;
    let arrived = async {
        while pending(&fixture, last) < 2 || pending(&fixture, first) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), arrived).await.expect("it arrives");
    assert_eq!(fixture.due(last, at(10)).await.hints.len(), 2);
    assert_eq!(pending(&fixture, last), 2);
    assert_eq!(count(&fixture, last, DeliveryState::Cancelled).await, 0);
}

pub(crate) async fn a_delivery_is_due_again_whatever_became_of_it<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 4).await;
    let hints = fixture.due(&webhook, at(10)).await.hints;
    let states = [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Pending];
    for (hint, state) in hints.iter().zip(states) {
        fixture.commit(vec![fixture.outcome(&webhook, *hint, state, at(10)).await]).await;
    }
    let cancel = Repair::Cancel { keys: vec![key(webhook.no, hints[3])], time: at(11) };
    assert_eq!(repair(&fixture, cancel.clone()).await, Repaired::Cancelled(1));
    assert_eq!(repair(&fixture, cancel).await, Repaired::Cancelled(0), "it has ended");
    assert_eq!(pending(&fixture, &webhook), 1);
    for hint in &hints {
        assert_eq!(retry(&fixture, key(webhook.no, *hint), at(20)).await, Repaired::Retried);
    }
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        assert_eq!(pending(&fixture, &webhook), 4);
        let due = fixture.due(&webhook, at(20)).await.hints;
        let seen: Vec<_> = due.iter().map(|hint| (hint.due, hint.attempts)).collect();
        let fresh = |ended| (at(20), Attempts::new(ended, Some(ended)));
        assert_eq!(seen, [fresh(1), fresh(1), (at(20), Attempts::new(1, None)), fresh(0)], "reopened: {reopened}");
    }
    // They count on, and keep their history and their excuse.
    let due = fixture.due(&webhook, at(20)).await.hints;
    let again = fixture.outcome(&webhook, due[0], DeliveryState::Pending, at(21)).await;
    let id = again.delivery_id;
    fixture.commit(vec![again]).await;
    let due = fixture.due(&webhook, at(1_000)).await.hints;
    let rescheduled = due.iter().find(|hint| hint.event == hints[0].event).expect("it is pending");
    assert_eq!(rescheduled.attempts, Attempts::new(2, Some(1)));
    fixture.commit(vec![fixture.outcome(&webhook, *rescheduled, DeliveryState::Failed, at(99)).await]).await;
    let detail = fixture.store.get(id).await.expect("the store answers").expect("it exists");
    assert_eq!(detail.attempts.iter().map(|outcome| outcome.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(detail.delivery.state, DeliveryView::State(DeliveryState::Failed));
    assert_eq!(pending(&fixture, &webhook), 3);
    let nobody = DeliveryKey { webhook: WebhookNo(99), ..key(webhook.no, hints[0]) };
    assert_eq!(retry(&fixture, nobody, at(30)).await, Repaired::WebhookDeleted);
    fixture.delete(&webhook).await;
    assert_eq!(retry(&fixture, key(webhook.no, hints[0]), at(30)).await, Repaired::WebhookDeleted);
}

/// What was archived is pending again and stays so, however old it gets and whatever is archived after it.
pub(crate) async fn what_was_archived_is_retried_and_outlives_its_segment<E: Engine>() {
    let retention = Duration::from_mins(16);
    let mut fixture = Fixture::with::<E>(Limits { retention, hot_bytes_max: 1, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.publish(0, 20).await;
    let hints = fixture.due(&webhook, at(100)).await.hints;
    fixture.deliver_all(&webhook, at(100), at(100)).await;
    // Between its end and the move that would take it, and after.
    let (early, late) = (key(webhook.no, hints[3]), key(webhook.no, hints[7]));
    assert_eq!(retry(&fixture, early, at(130)).await, Repaired::Retried);
    fixture.upkeep(at(140)).await;
    assert_eq!(retry(&fixture, late, at(150)).await, Repaired::Retried);
    fixture.upkeep(at(300)).await;
    fixture.upkeep(at(400)).await;
    fixture.reopen::<E>().await;
    fixture.upkeep(at(130 + 17 * 60)).await;
    assert_eq!(count(&fixture, &webhook, DeliveryState::Pending).await, 2, "nothing pending is ever removed");
    assert_eq!(count(&fixture, &webhook, DeliveryState::Delivered).await, 0, "the others have gone");
    let due = fixture.due(&webhook, at(10_000)).await.hints;
    assert_eq!(due.iter().map(|hint| hint.event).collect::<Vec<_>>(), [early.event, late.event]);
    let seqs = [early.event, late.event];
    let bodies = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    assert!(bodies.iter().all(Option::is_some), "and can be sent");
    let gone = retry(&fixture, key(webhook.no, hints[0]), at(2_000)).await;
    assert!(matches!(gone, Repaired::EventExpired | Repaired::NoDelivery), "{gone:?}");
    // They end once more, are archived with that, and read the same.
    let mut outcomes = Vec::new();
    for hint in due {
        outcomes.push(fixture.outcome(&webhook, hint, DeliveryState::Failed, at(2_000)).await);
    }
    let id = outcomes[0].delivery_id;
    fixture.commit(outcomes).await;
    fixture.upkeep(at(2_001)).await;
    fixture.reopen::<E>().await;
    assert_eq!(pending(&fixture, &webhook), 0);
    if let Some(detail) = fixture.store.get(id).await.expect("the store answers") {
        assert_eq!(detail.delivery.state, DeliveryView::State(DeliveryState::Failed));
        assert_eq!(detail.delivery.attempts, 2);
    }
}

pub(crate) async fn all_or_some_deliveries_are_cancelled<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (webhook, other) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 1_200).await;
    let hints = fixture.due(&webhook, at(10_000)).await.hints;
    let rescheduled = fixture.outcome(&webhook, hints[0], DeliveryState::Pending, at(1)).await;
    fixture.commit(vec![rescheduled, fixture.outcome(&webhook, hints[1], DeliveryState::Delivered, at(1)).await]).await;
    let keys = hints[..3].iter().map(|hint| key(webhook.no, *hint)).collect();
    assert_eq!(repair(&fixture, Repair::Cancel { keys, time: at(2) }).await, Repaired::Cancelled(2));
    assert_eq!(fixture.due(&webhook, at(10_000)).await.hints.len(), 1_197);
    assert_eq!(pending(&fixture, &webhook), 1_197);
    let all = Repair::CancelAll { webhook: webhook.no, time: at(3) };
    assert_eq!(repair(&fixture, all.clone()).await, Repaired::Cancelled(1_197));
    assert_eq!(repair(&fixture, all).await, Repaired::Cancelled(0));
    assert!(fixture.due(&webhook, at(10_000)).await.hints.is_empty());
    fixture.publish(2_000, 1).await;
    // A webhook that goes while its deliveries are being cancelled takes them along.
    assert_eq!(fixture.delete(&webhook).await, 1);
    fixture.reopen::<E>().await;
    assert_eq!(count(&fixture, &webhook, DeliveryState::Cancelled).await, 1_200);
    assert_eq!(count(&fixture, &webhook, DeliveryState::Pending).await, 0);
    assert_eq!(fixture.due(&other, at(10_000)).await.hints.len(), 1_201);
    let reasons = [CancelReason::Requested, CancelReason::Requested, CancelReason::WebhookDeleted];
    let told: Vec<_> = reasons.into_iter().zip([2, 1_197, 1]).collect();
    assert_eq!(cancellations(&fixture).await, told);
}

/// What is to be sent later can be sent now, cancelled alone or with all, and brought back.
pub(crate) async fn what_is_scheduled_is_retried_cancelled_and_dropped<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    for id in ["now", "named", "all"] {
        fixture.schedule(id, at(0), at(500)).await;
    }
    let hints = fixture.due(&webhook, at(500)).await.hints;
    let [now, named, all] = [0, 1, 2].map(|nth| key(webhook.no, hints[nth]));
    assert_eq!(retry(&fixture, now, at(10)).await, Repaired::Retried);
    let sent = fixture.due(&webhook, at(10)).await.hints;
    assert_eq!(
        sent.iter().map(|hint| (hint.event, hint.attempts)).collect::<Vec<_>>(),
        [(now.event, Attempts::default())]
    );
    let cancel = Repair::Cancel { keys: vec![named], time: at(11) };
    assert_eq!(repair(&fixture, cancel).await, Repaired::Cancelled(1));
    fixture.commit(vec![fixture.outcome(&webhook, sent[0], DeliveryState::Delivered, at(12)).await]).await;
    assert_eq!(pending(&fixture, &webhook), 1);
    let cancel = Repair::CancelAll { webhook: webhook.no, time: at(13) };
    assert_eq!(repair(&fixture, cancel).await, Repaired::Cancelled(1));
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        assert!(fixture.due(&webhook, at(1_000)).await.hints.is_empty(), "reopened: {reopened}");
        assert_eq!(pending(&fixture, &webhook), 0);
        assert_eq!(count(&fixture, &webhook, DeliveryState::Cancelled).await, 2);
    }
    for key in [named, all] {
        assert_eq!(retry(&fixture, key, at(20)).await, Repaired::Retried);
    }
    let again = fixture.due(&webhook, at(20)).await.hints;
    // None of their attempts is held against them, though there were none.
    assert!(again.iter().all(|hint| hint.attempts == Attempts::new(0, Some(0))), "{again:?}");
    assert_eq!(fixture.deliver_all(&webhook, at(20), at(21)).await, 2);
}

/// What had ended because of its age is pending again, and known as retried by hand, even if it was never attempted.
pub(crate) async fn what_expired_is_retried<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 1).await;
    let hint = fixture.due(&webhook, at(10)).await.hints[0];
    fixture.commit(vec![fixture.expiry(&webhook, hint, at(10)).await]).await;
    assert_eq!(retry(&fixture, key(webhook.no, hint), at(20)).await, Repaired::Retried);
    fixture.reopen::<E>().await;
    let again = fixture.due(&webhook, at(20)).await.hints;
    assert_eq!(again.iter().map(|hint| hint.attempts).collect::<Vec<_>>(), [Attempts::new(0, Some(0))]);
    let delivery = fixture.outcome(&webhook, again[0], DeliveryState::Delivered, at(21)).await;
    let id = delivery.delivery_id;
    fixture.commit(vec![delivery]).await;
    let detail = fixture.store.get(id).await.expect("readable").expect("it exists");
    assert_eq!((detail.delivery.attempts, detail.attempts.len()), (1, 2));
    assert_eq!(detail.delivery.state, DeliveryView::State(DeliveryState::Delivered));
}
