//! Looking back: lists, details, retention.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::DeliveryState,
        ids::{EventTypeName, Position},
        webhook::Subscription,
    },
    store::{Delivery, DeliveryQuery, DeliveryView, FeedError, FeedFilter},
};

use crate::fixture::{Engine, Fixture, Limits, at};

/// All pages of a list.
async fn list(fixture: &Fixture, query: &DeliveryQuery, size: usize) -> Vec<Delivery> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = fixture.store.list(query, after, size).await.expect("the store answers");
        assert!(page.deliveries.len() <= size);
        all.extend(page.deliveries);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// Some deliveries in every state.
async fn history(fixture: &Fixture) -> Vec<DeliveryQuery> {
    let (first, second) = (fixture.webhook().await, fixture.webhook().await);
    let theirs = fixture.webhook_of("theirs", Subscription::All).await;
    fixture.publish(0, 30).await;
    for (n, hint) in fixture.due(&first, at(100)).await.hints.into_iter().enumerate() {
        let states = [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Pending];
        if let Some(&state) = states.get(n % 4) {
            fixture.commit(vec![fixture.outcome(&first, hint, state, at(100)).await]).await;
        }
    }
    let all = DeliveryQuery::default();
    vec![
        all.clone(),
        DeliveryQuery { tenant: Some(first.tenant.clone()), ..all.clone() },
        DeliveryQuery { tenant: Some(theirs.tenant), ..all.clone() },
        DeliveryQuery { webhook: Some(first.id), ..all.clone() },
        DeliveryQuery { webhook: Some(second.id), ..all.clone() },
        DeliveryQuery { webhook: Some(theirs.id), ..all.clone() },
        DeliveryQuery { event: Some("e7".parse().expect("an id")), ..all.clone() },
        DeliveryQuery { event: Some("e7".parse().expect("an id")), webhook: Some(first.id), ..all.clone() },
        DeliveryQuery { states: vec![DeliveryView::State(DeliveryState::Failed)], ..all.clone() },
        DeliveryQuery {
            states: vec![DeliveryView::State(DeliveryState::Pending)],
            webhook: Some(first.id),
            ..all.clone()
        },
        DeliveryQuery { from: Some(at(3)), until: Some(at(5)), ..all.clone() },
        DeliveryQuery { from: Some(at(29)), webhook: Some(second.id), ..all.clone() },
        DeliveryQuery { event_types: [EventTypeName::new("ADD_TAG")].into(), until: Some(at(1)), ..all.clone() },
        DeliveryQuery { event_types: [EventTypeName::new("NEW_LEAD")].into(), ..all },
    ]
}

pub(crate) async fn lists_page_newest_first_without_gaps_or_repeats<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let queries = history(&fixture).await;
    let expected = [60, 60, 0, 30, 30, 0, 2, 1, 8, 14, 4, 1, 2, 0];
    for (query, expected) in queries.iter().zip(expected) {
        let whole = list(&fixture, query, 1_000).await;
        assert_eq!(whole.len(), expected, "{query:?}");
        assert!(whole.is_sorted_by(|a, b| a.key.event >= b.key.event), "newest first");
        for size in [1, 7] {
            assert_eq!(list(&fixture, query, size).await, whole, "in pages of {size}: {query:?}");
        }
    }
}

pub(crate) async fn details_hold_every_attempt<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 1).await;
    let hint = fixture.due(&webhook, at(10)).await.hints[0];
    let outcome = fixture.outcome(&webhook, hint, DeliveryState::Pending, at(10)).await;
    let id = outcome.delivery_id;
    let fresh = fixture.store.get(id).await.expect("the store answers").expect("it exists before its first attempt");
    assert_eq!((fresh.delivery.attempts, fresh.delivery.next_attempt, fresh.attempts.len()), (0, Some(at(0)), 0));
    fixture.commit(vec![outcome.clone()]).await;
    let hint = fixture.due(&webhook, at(100)).await.hints[0];
    let second = fixture.outcome(&webhook, hint, DeliveryState::Delivered, at(70)).await;
    fixture.commit(vec![second.clone()]).await;
    let detail = fixture.store.get(id).await.expect("the store answers").expect("it exists");
    assert_eq!(detail.attempts, [outcome, second]);
    assert_eq!(detail.delivery.state, DeliveryView::State(DeliveryState::Delivered));
    assert_eq!((detail.delivery.attempts, detail.delivery.create_time), (2, at(0)));
    assert_eq!((detail.delivery.update_time, detail.delivery.next_attempt), (Some(at(70)), None));
    let none = postrider_server::model::ids::DeliveryId::from_bytes([1; 16]);
    assert!(fixture.store.get(none).await.expect("the store answers").is_none());
}

pub(crate) async fn history_reads_the_same_after_archiving<E: Engine>() {
    let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max: 1, ..Limits::default() });
    let queries = history(&fixture).await;
    let mut before = Vec::new();
    for query in &queries {
        before.push(list(&fixture, query, 1_000).await);
    }
    let details = async |fixture: &Fixture, all: &[Delivery]| {
        let mut details = Vec::new();
        for delivery in all {
            let detail = fixture.store.get(delivery.id).await.expect("the store answers").expect("it exists");
            details.push((detail.delivery, detail.attempts));
        }
        details
    };
    let attempts = details(&fixture, &before[0]).await;
    fixture.upkeep(at(200)).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        for (query, before) in queries.iter().zip(&before) {
            assert_eq!(list(&fixture, query, 7).await, *before, "{query:?}, reopened: {reopened}");
        }
        assert_eq!(details(&fixture, &before[0]).await, attempts);
    }
}

pub(crate) async fn retention_drops_what_is_done_and_keeps_what_is_pending<E: Engine>() {
    let retention = Duration::from_mins(16);
    let mut fixture = Fixture::with::<E>(Limits { retention, ..Limits::default() });
    let (done, waiting) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 20).await;
    fixture.deliver_all(&done, at(100), at(100)).await;
    let held = fixture.due(&waiting, at(100)).await.hints;
    for hint in &held[10..] {
        fixture.commit(vec![fixture.outcome(&waiting, *hint, DeliveryState::Delivered, at(100)).await]).await;
    }
    let all = DeliveryQuery::default();
    assert_eq!(list(&fixture, &all, 100).await.len(), 40);

    // Old enough to be archived and sealed, then old enough to go.
    fixture.upkeep(at(300)).await;
    fixture.upkeep(at(400)).await;
    assert_eq!(list(&fixture, &all, 100).await.len(), 40);
    fixture.upkeep(at(100 + 17 * 60)).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let left = list(&fixture, &all, 7).await;
        let pending = left.iter().filter(|one| one.state == DeliveryView::State(DeliveryState::Pending)).count();
        assert_eq!(pending, 10, "what is pending is never removed");
        let due = fixture.due(&waiting, at(10_000)).await.hints;
        assert_eq!(due.len(), 10);
        let seqs: Vec<_> = due.iter().map(|hint| hint.event).collect();
        let bodies = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
        assert!(bodies.iter().all(Option::is_some), "and can still be sent");
        let gone: Vec<_> = held[10..].iter().map(|hint| hint.event).collect();
        let bodies = fixture.store.events(&gone, usize::MAX).await.expect("the store answers");
        assert!(bodies.iter().all(Option::is_none), "what is done has gone");
        let feed = fixture.store.feed(Position(0), &FeedFilter::default(), 10).await;
        assert!(matches!(feed, Err(FeedError::Expired { .. })), "{feed:?}");
    }
    // The last deliveries end; then their events go, too.
    fixture.deliver_all(&waiting, at(10_000), at(2_000)).await;
    fixture.upkeep(at(2_000)).await;
    let seqs: Vec<_> = held[..10].iter().map(|hint| hint.event).collect();
    let bodies = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    assert!(bodies.iter().all(Option::is_none));
}

pub(crate) async fn events_are_found_by_their_ids<E: Engine>() {
    let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max: 1, ..Limits::default() });
    fixture.webhook().await;
    fixture.publish(0, 30).await;
    let tenant = "default".parse().expect("a tenant");
    for archived in [false, true] {
        if archived {
            fixture.upkeep(at(60)).await;
            fixture.reopen::<E>().await;
        }
        let id = "e7".parse().expect("an id");
        let found = fixture.store.find_event(&tenant, &id).await.expect("the store answers").expect("it is retained");
        assert_eq!((found.event, found.accept_time), (crate::fixture::event("e7"), at(7)), "archived: {archived}");
        let theirs = "theirs".parse().expect("a tenant");
        assert!(fixture.store.find_event(&theirs, &id).await.expect("the store answers").is_none());
        let nobody = "e99".parse().expect("an id");
        assert!(fixture.store.find_event(&tenant, &nobody).await.expect("the store answers").is_none());
    }
}
