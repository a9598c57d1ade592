//! Deliveries that are due later than their event was accepted, and those that expire.

use postrider_server::{
    model::{
        delivery::{DeliveryState, ErrorClass},
        ids::Position,
        webhook::Webhook,
    },
    store::{DeliveryDetail, DeliveryQuery, DeliveryView, FeedFilter, LogEntry, Published},
};

use crate::{
    fixture::{Engine, Fixture, Limits, START, at},
    publish::{WIDE, all_due},
};

/// The one delivery of an event to a webhook.
async fn detail(fixture: &Fixture, webhook: &Webhook, event: &str) -> DeliveryDetail {
    let event = Some(event.parse().expect("an id"));
    let query = DeliveryQuery { event, webhook: Some(webhook.id), ..DeliveryQuery::default() };
    let listed = fixture.store.list(&query, None, 10).await.expect("the store answers").deliveries;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let detail = fixture.store.get(listed[0].id).await.expect("the store answers").expect("it is listed");
    assert_eq!(detail.delivery, listed[0], "the list and the detail say the same");
    detail
}

pub(crate) async fn a_scheduled_delivery_is_due_when_it_is_to_be<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    assert_eq!(fixture.schedule("later", START, at(500)).await, Published::New { deliveries: 1 });
    assert_eq!(fixture.schedule("past", at(1), START).await, Published::New { deliveries: 1 });
    fixture.publish(2, 1).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        assert_eq!(fixture.schedule("later", at(9), at(500)).await, Published::Duplicate { deliveries: 1 });
        assert_eq!(fixture.schedule("later", at(9), at(501)).await, Published::Conflict, "the time is content");
        let early = fixture.due(&webhook, at(499)).await;
        let due: Vec<_> = early.hints.iter().map(|hint| (hint.due, hint.attempts.ended())).collect();
        assert_eq!((due, early.next_due), (vec![(at(1), 0), (at(2), 0)], Some(at(500))));
        assert_eq!(fixture.due(&webhook, at(500)).await.hints.len(), 3);
        assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 3);
        let waiting = detail(&fixture, &webhook, "later").await;
        assert_eq!(waiting.delivery.state, DeliveryView::State(DeliveryState::Pending));
        assert_eq!((waiting.delivery.create_time, waiting.delivery.next_attempt), (START, Some(at(500))));
        assert_eq!((waiting.delivery.attempts, waiting.delivery.update_time), (0, None));
        assert!(waiting.attempts.is_empty());
    }

    // Its first attempt fails, its second succeeds.
    let later = fixture.due(&webhook, at(500)).await.hints[2];
    fixture.commit(vec![fixture.outcome(&webhook, later, DeliveryState::Pending, at(501)).await]).await;
    let again = fixture.due(&webhook, at(1_000)).await.hints[2];
    assert_eq!((again.event, again.attempts.ended(), again.due), (later.event, 1, at(561)));
    let last = fixture.outcome(&webhook, again, DeliveryState::Delivered, at(562)).await;
    fixture.commit(vec![last]).await;
    assert_eq!(fixture.due(&webhook, at(1_000)).await.hints.len(), 2);
    let ended = detail(&fixture, &webhook, "later").await;
    assert_eq!(ended.delivery.state, DeliveryView::State(DeliveryState::Delivered));
    assert_eq!((ended.delivery.create_time, ended.delivery.update_time), (START, Some(at(562))));
    assert_eq!((ended.delivery.attempts, ended.attempts.len()), (2, 2));
    assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 2);
}

pub(crate) async fn a_lane_with_nothing_but_a_scheduled_delivery_is_found<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.schedule("later", START, at(500)).await;
    let lanes = fixture.store.lanes(None, 10).await.expect("the store answers").lanes;
    assert_eq!((lanes.len(), lanes[0].webhook, lanes[0].first_due), (1, webhook.no, at(500)));
}

pub(crate) async fn a_wide_event_can_be_scheduled<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let created = futures::future::join_all((0..WIDE).map(|_| fixture.webhook())).await;
    let deliveries = u32::try_from(WIDE).expect("fits");
    assert_eq!(fixture.schedule("wide", START, at(500)).await, Published::New { deliveries });
    let last = created.last().expect("there are some");
    assert_eq!(
        detail(&fixture, last, "wide").await.delivery.next_attempt,
        Some(at(500)),
        "whether a row says so or not"
    );
    fixture.reopen::<E>().await;
    all_due(&fixture).await;
    for webhook in [&created[0], last] {
        assert!(fixture.due(webhook, at(499)).await.hints.is_empty());
        let hints = fixture.due(webhook, at(500)).await.hints;
        assert_eq!(hints.len(), 1);
        fixture.commit(vec![fixture.outcome(webhook, hints[0], DeliveryState::Delivered, at(501)).await]).await;
        assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 0);
    }
}

pub(crate) async fn scheduled_deliveries_are_cancelled_with_their_webhook<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (doomed, other) = (fixture.webhook().await, fixture.webhook().await);
    fixture.schedule("later", START, at(500)).await;
    assert_eq!(fixture.delete(&doomed).await, 1);
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let cancelled = detail(&fixture, &doomed, "later").await.delivery;
        assert_eq!(cancelled.state, DeliveryView::State(DeliveryState::Cancelled));
        assert_eq!((cancelled.create_time, cancelled.update_time), (START, Some(at(1_000))));
        assert_eq!(cancelled.next_attempt, None);
        assert!(fixture.due(&doomed, at(1_000)).await.hints.is_empty());
        assert_eq!(fixture.due(&other, at(1_000)).await.hints.len(), 1);
    }
}

/// Events are kept while a delivery is scheduled, and go when it has ended.
pub(crate) async fn what_is_scheduled_outlives_retention<E: Engine>() {
    let retention = std::time::Duration::from_mins(16);
    let mut fixture = Fixture::with::<E>(Limits { retention, hot_bytes_max: 1, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.schedule("later", START, at(5_000)).await;
    fixture.publish(1, 20).await;
    fixture.deliver_all(&webhook, at(100), at(100)).await;
    for now in [300, 400, 2_000, 3_000] {
        fixture.upkeep(at(now)).await;
    }
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let hints = fixture.due(&webhook, at(5_000)).await.hints;
        assert_eq!(hints.len(), 1);
        let stored = fixture.store.events(&[hints[0].event], usize::MAX).await.expect("the store answers").remove(0);
        assert_eq!(stored.expect("it can still be sent").event.deliver_at, Some(at(5_000)));
    }
    fixture.deliver_all(&webhook, at(5_000), at(5_001)).await;
    assert!(fixture.due(&webhook, at(10_000)).await.hints.is_empty());
}

/// An expiry is an outcome of its own that counts no attempt, before the first one and after others.
pub(crate) async fn what_expires_has_an_outcome_and_no_attempt_more<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 3).await;
    fixture.schedule("later", START, at(10)).await;
    let hints = fixture.due(&webhook, at(10)).await.hints;
    fixture.commit(vec![fixture.outcome(&webhook, hints[1], DeliveryState::Pending, at(11)).await]).await;
    let head = *fixture.store.head().borrow();
    // Never attempted, attempted once, scheduled; the third is left alone.
    let retried =
        *fixture.due(&webhook, at(100)).await.hints.iter().find(|hint| hint.attempts.ended() == 1).expect("due again");
    let mut expired = Vec::new();
    for hint in [hints[0], retried, hints[3]] {
        expired.push(fixture.expiry(&webhook, hint, at(200)).await);
    }
    fixture.commit(expired.clone()).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        // Each is given up, which is an operational event, too.
        assert_eq!(*fixture.store.head().borrow(), Position(head.0 + 6));
        let page = fixture.store.feed(head, &FeedFilter::default(), 10).await.expect("the store answers");
        let mut logged: Vec<_> = page
            .entries
            .iter()
            .map(|entry| match entry {
                LogEntry::Outcome(it) => (it.key.event, it.attempt, it.state, it.error_class),
                LogEntry::WebhookCancelled(_) | LogEntry::Operational(_) => panic!("{entry:?}"),
            })
            .collect();
        logged.sort_by_key(|entry| entry.0);
        let failed = |event, attempt| (event, attempt, DeliveryState::Failed, Some(ErrorClass::Expired));
        let expected = [failed(hints[0].event, 0), failed(hints[1].event, 1), failed(hints[3].event, 0)];
        assert_eq!(logged, expected);
        assert_eq!(fixture.due(&webhook, at(1_000)).await.hints, [hints[2]]);
        assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 1);
        for (event, attempts, entries) in [("e0", 0, 1), ("e1", 1, 2), ("later", 0, 1)] {
            let ended = detail(&fixture, &webhook, event).await;
            assert_eq!(ended.delivery.state, DeliveryView::State(DeliveryState::Failed), "{event}");
            assert_eq!((ended.delivery.attempts, ended.attempts.len()), (attempts, entries), "{event}");
            assert_eq!(ended.delivery.last_error_class, Some(ErrorClass::Expired), "{event}");
            assert_eq!(ended.delivery.update_time, Some(at(200)), "{event}");
        }
        // A repeat changes nothing, nor does an expiry that knows of too few attempts.
        fixture.commit(expired.clone()).await;
    }
    let late = fixture.outcome(&webhook, hints[2], DeliveryState::Pending, at(201)).await;
    fixture.commit(vec![late]).await;
    fixture.commit(vec![fixture.expiry(&webhook, hints[2], at(202)).await]).await;
    assert_eq!(fixture.due(&webhook, at(1_000)).await.hints.len(), 1, "it has been attempted since");
}
