//! The outcome log: numbered without gaps, in order, for everybody the same.

use postrider_server::{
    model::{delivery::DeliveryState, ids::Position, webhook::Subscription},
    store::{DeliveryView, FeedError, FeedFilter, LogEntry},
};

use crate::fixture::{Engine, Fixture, Limits, at};

/// Everything in the log that passes, read `limit` at a time.
async fn read(fixture: &Fixture, filter: &FeedFilter, limit: usize) -> Vec<LogEntry> {
    let head = *fixture.store.head().borrow();
    let (mut position, mut entries) = (Position(0), Vec::new());
    while position < head {
        let page = fixture.store.feed(position, filter, limit).await.expect("the log is readable");
        assert!(page.position > position, "a read always gets on");
        assert!(page.entries.len() <= limit);
        position = page.position;
        entries.extend(page.entries);
    }
    entries
}

pub(crate) async fn positions_have_no_gaps_and_filters_only_hide<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let (ours, other) = (fixture.webhook().await, fixture.webhook().await);
    let theirs = fixture.webhook_of("theirs", Subscription::All).await;
    fixture.publish(0, 30).await;
    fixture.deliver_all(&ours, at(100), at(100)).await;
    let hints = fixture.due(&other, at(100)).await.hints;
    for hint in hints {
        fixture.commit(vec![fixture.outcome(&other, hint, DeliveryState::Failed, at(200)).await]).await;
    }
    let all = read(&fixture, &FeedFilter::default(), 7).await;
    assert_eq!(all.len(), 60);
    // Each delivery that was given up has an entry of its own for those who ask.
    assert_eq!(*fixture.store.head().borrow(), Position(90));

    let check = |filter: FeedFilter, expected: usize| {
        let fixture = &fixture;
        async move { assert_eq!(read(fixture, &filter, 7).await.len(), expected, "{filter:?}") }
    };
    check(FeedFilter { webhooks: [ours.id].into(), ..FeedFilter::default() }, 30).await;
    check(FeedFilter { webhooks: [theirs.id].into(), ..FeedFilter::default() }, 0).await;
    check(FeedFilter { states: vec![DeliveryView::State(DeliveryState::Failed)], ..FeedFilter::default() }, 30).await;
    check(FeedFilter { tenant: Some(theirs.tenant.clone()), ..FeedFilter::default() }, 0).await;
    check(FeedFilter { tenant: Some(ours.tenant.clone()), ..FeedFilter::default() }, 60).await;
    let asking = FeedFilter { operational: true, ..FeedFilter::default() };
    check(asking.clone(), 90).await;
    check(FeedFilter { webhooks: [ours.id].into(), ..asking.clone() }, 30).await;
    check(FeedFilter { webhooks: [other.id].into(), ..asking.clone() }, 60).await;
    check(FeedFilter { tenant: Some(theirs.tenant.clone()), ..asking }, 0).await;
}

pub(crate) async fn a_reader_may_stop_anywhere<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 20).await;
    fixture.deliver_all(&webhook, at(100), at(100)).await;
    let all = read(&fixture, &FeedFilter::default(), 100).await;
    fixture.reopen::<E>().await;
    for place in 0..=20 {
        let page = fixture.store.feed(Position(place), &FeedFilter::default(), 100).await.expect("readable");
        assert_eq!(page.entries, all[usize::try_from(place).expect("small")..], "from {place}");
        assert_eq!(page.position, Position(20));
    }
}

pub(crate) async fn a_place_beyond_the_end_is_unknown<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let page = fixture.store.feed(Position(0), &FeedFilter::default(), 10).await.expect("the beginning is known");
    assert_eq!((page.entries.len(), page.position), (0, Position(0)));
    let beyond = fixture.store.feed(Position(1), &FeedFilter::default(), 10).await;
    assert!(matches!(beyond, Err(FeedError::Unknown)), "{beyond:?}");
}

pub(crate) async fn the_log_reads_the_same_after_archiving<E: Engine>() {
    let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max: 1, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.publish(0, 40).await;
    for hint in fixture.due(&webhook, at(100)).await.hints {
        fixture.commit(vec![fixture.outcome(&webhook, hint, DeliveryState::Pending, at(100)).await]).await;
    }
    let before = read(&fixture, &FeedFilter::default(), 100).await;
    fixture.upkeep(at(100)).await;
    assert_eq!(read(&fixture, &FeedFilter::default(), 7).await, before);
    fixture.deliver_all(&webhook, at(1_000), at(1_000)).await;
    let before = read(&fixture, &FeedFilter::default(), 100).await;
    assert_eq!(before.len(), 80);
    fixture.upkeep(at(1_000)).await;
    fixture.reopen::<E>().await;
    assert_eq!(read(&fixture, &FeedFilter::default(), 7).await, before);
}
