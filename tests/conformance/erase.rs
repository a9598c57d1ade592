//! Erasing: nobody reads what is erased as soon as that is answered, and others notice nothing.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::DeliveryState,
        erasure::{Erasure, Subject},
        ids::{Position, Tenant},
        webhook::{Subscription, Webhook},
    },
    store::{DeliveryQuery, Erase, Erased, FeedFilter, GroupCommitted, Published, Repair, Repaired},
};

use crate::fixture::{Engine, Fixture, Limits, at, event, targets};

pub(crate) async fn erase(fixture: &Fixture, erase: Erase) -> Erasure {
    match fixture.store.erase(erase).await.expect("the store answers") {
        Erased::Decided(erasure) => erasure,
        other @ (Erased::NotFound | Erased::TooMany) => panic!("{other:?}"),
    }
}

fn one(id: &str) -> Erase {
    Erase::Event { tenant: Tenant::default(), id: id.parse().expect("an id"), time: at(900) }
}

pub(crate) fn all(request_id: &str) -> Erase {
    Erase::Tenant { tenant: Tenant::default(), request_id: request_id.to_owned(), time: at(900) }
}

/// Upkeep until an erasure of the default tenant is finished.
pub(crate) async fn finish(fixture: &Fixture, erasure: &Erasure) {
    let finished = async {
        loop {
            fixture.store.upkeep(at(901)).await.expect("upkeep works");
            let now = fixture.store.erasure(&Tenant::default(), erasure.id).await.expect("the store answers");
            if now.expect("it is remembered").finish_time.is_some() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), finished).await.expect("an erasure ends");
}

async fn has_event(fixture: &Fixture, tenant: &str, id: &str) -> bool {
    let (tenant, id) = (tenant.parse().expect("a tenant"), id.parse().expect("an id"));
    fixture.store.find_event(&tenant, &id).await.expect("the store answers").is_some()
}

async fn listed(fixture: &Fixture, query: DeliveryQuery) -> Vec<String> {
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let page = fixture.store.list(&query, after, 3).await.expect("the store answers");
        found.extend(page.deliveries.iter().map(|delivery| delivery.event.to_string()));
        let Some(next) = page.next else { return found };
        after = Some(next);
    }
}

/// What watchers see from the beginning; that positions have no gaps is checked on the way.
async fn logged(fixture: &Fixture) -> Vec<String> {
    let filter = FeedFilter { operational: true, ..FeedFilter::default() };
    // It may grow meanwhile.
    let head = *fixture.store.head().borrow();
    let page = fixture.store.feed(Position(0), &filter, 10_000).await.expect("readable");
    assert!(page.position >= head, "{:?}, {head:?}", page.position);
    page.entries.iter().map(|entry| format!("{entry:?}")).collect()
}

/// What became of events before and after each other matters to nobody: whether they are delivered, failed or pending.
pub(crate) async fn an_erased_event_is_gone_at_once_and_for_good<E: Engine>() {
    for hot_bytes_max in [64 << 20, 0] {
        let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max, ..Limits::default() });
        let webhook = fixture.webhook().await;
        fixture.publish(0, 5).await;
        fixture.deliver_all(&webhook, at(100), at(100)).await;
        fixture.upkeep(at(200)).await;
        fixture.publish(5, 5).await;

        for id in ["e2", "e7"] {
            let erasure = erase(&fixture, one(id)).await;
            assert_eq!((erasure.subject, erasure.request_time), (Subject::Event, at(900)));
            check_gone(&fixture, &webhook, id).await;
            assert_eq!(erase(&fixture, one(id)).await.id, erasure.id, "again is the same");
            let other: Tenant = "other".parse().expect("a tenant");
            assert_eq!(fixture.store.erasure(&other, erasure.id).await.expect("the store answers"), None);
            finish(&fixture, &erasure).await;
            check_gone(&fixture, &webhook, id).await;
        }
        assert_eq!(fixture.store.erase(one("e99")).await.expect("the store answers"), Erased::NotFound);
        fixture.reopen::<E>().await;
        for id in ["e2", "e7"] {
            check_gone(&fixture, &webhook, id).await;
        }
        let pending = fixture.store.catalog().webhook(webhook.no).expect("it exists").pending();
        assert_eq!((pending, fixture.due(&webhook, at(2_000)).await.hints.len()), (4, 4));
        let all = DeliveryQuery::default;
        assert_eq!(listed(&fixture, all()).await, ["e9", "e8", "e6", "e5", "e4", "e3", "e1", "e0"]);
        let of_webhook = DeliveryQuery { webhook: Some(webhook.id), ..all() };
        assert_eq!(listed(&fixture, of_webhook).await.len(), 8);
        assert_eq!(fixture.deliver_all(&webhook, at(2_000), at(2_000)).await, 4, "the others go on");
    }
}

async fn check_gone(fixture: &Fixture, webhook: &Webhook, id: &str) {
    assert!(!has_event(fixture, "default", id).await, "{id}");
    let query = DeliveryQuery { event: Some(id.parse().expect("an id")), ..DeliveryQuery::default() };
    assert!(listed(fixture, query).await.is_empty(), "{id}");
    assert!(
        !listed(fixture, DeliveryQuery { webhook: Some(webhook.id), ..Default::default() }).await.contains(&id.into())
    );
    let name = format!("EventId(\"{id}\")");
    assert!(!logged(fixture).await.iter().any(|entry| entry.contains(&name)), "{id}");
    let again = fixture.matched(event(id), at(950));
    assert_eq!(fixture.store.publish(vec![again]).await.expect("the store answers"), [Published::Erased]);
}

/// What an attempt under way leads to is left out, a retry finds nothing, and who waits behind an erased event goes on.
pub(crate) async fn attempts_under_way_leave_no_trace<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 2).await;
    let hint = fixture.due(&webhook, at(100)).await.hints[0];
    let outcome = fixture.outcome(&webhook, hint, DeliveryState::Pending, at(10)).await;
    let erasure = erase(&fixture, one("e0")).await;
    let before = logged(&fixture).await.len();
    assert!(matches!(fixture.commit(vec![outcome.clone()]).await, GroupCommitted::Applied(_)));
    assert!(logged(&fixture).await.len() <= before + 1, "that it was cancelled may be told");
    assert!(fixture.store.get(outcome.delivery_id).await.expect("the store answers").is_none());
    let retry = Repair::Retry { key: outcome.key, time: at(20) };
    let retried = fixture.store.repair(retry).await.expect("the store answers");
    assert!(matches!(retried, Repaired::NoDelivery | Repaired::EventExpired), "{retried:?}");
    finish(&fixture, &erasure).await;
    assert_eq!(fixture.due(&webhook, at(9_000)).await.hints.len(), 1);
    assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 1);
}

/// An event for more webhooks than a transaction writes.
pub(crate) async fn a_wide_event_is_erased_on_its_way<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let mut webhooks = Vec::new();
    for _ in 0..2_500 {
        webhooks.push(fixture.webhook().await);
    }
    let wide = targets(&fixture, webhooks.iter().map(|webhook| webhook.no));
    let publish = postrider_server::store::Publish { event: event("wide"), targets: wide, accept_time: at(1) };
    fixture.store.publish(vec![publish]).await.expect("the store answers");
    let erasure = erase(&fixture, one("wide")).await;
    assert!(listed(&fixture, DeliveryQuery::default()).await.is_empty());
    finish(&fixture, &erasure).await;
    for webhook in &webhooks {
        assert!(fixture.due(webhook, at(9_000)).await.hints.is_empty());
        assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 0);
    }
}

/// Everything of one tenant goes, nothing of another, and the name is as good as new.
pub(crate) async fn an_erased_tenant_has_nothing_and_others_all<E: Engine>() {
    for hot_bytes_max in [64 << 20, 0] {
        let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max, ..Limits::default() });
        let (mine, theirs) = (fixture.webhook().await, fixture.webhook_of("other", Subscription::All).await);
        for n in 0..6 {
            let other =
                postrider_server::model::event::Event { tenant: theirs.tenant.clone(), ..event(&format!("o{n}")) };
            let batch = vec![fixture.matched(event(&format!("e{n}")), at(n)), fixture.matched(other, at(n))];
            fixture.store.publish(batch).await.expect("the store answers");
        }
        for webhook in [&mine, &theirs] {
            let hints = fixture.due(webhook, at(100)).await.hints;
            let outcome = fixture.outcome(webhook, hints[0], DeliveryState::Failed, at(100)).await;
            fixture.commit(vec![outcome]).await;
        }
        fixture.upkeep(at(200)).await;

        let erasure = erase(&fixture, all("r-1")).await;
        for reopened in [false, true] {
            if reopened {
                fixture.reopen::<E>().await;
            }
            assert!(fixture.store.catalog().find(&mine.tenant, mine.id).is_none());
            assert!(fixture.due(&mine, at(9_000)).await.hints.is_empty());
            assert!(!has_event(&fixture, "default", "e3").await && has_event(&fixture, "other", "o3").await);
            assert_eq!(listed(&fixture, DeliveryQuery::default()).await, ["o5", "o4", "o3", "o2", "o1", "o0"]);
            assert!(!logged(&fixture).await.iter().any(|entry| entry.contains("Tenant(\"default\")")));
        }
        finish(&fixture, &erasure).await;
        assert_eq!(erasure.subject, Subject::Tenant);
        assert_eq!(listed(&fixture, DeliveryQuery::default()).await.len(), 6);
        assert_eq!(fixture.due(&theirs, at(9_000)).await.hints.len(), 5);

        let again = fixture.webhook().await;
        assert_eq!(fixture.publish(0, 1).await, [Published::New { deliveries: 1 }], "an id is free again");
        assert_eq!(erase(&fixture, all("r-1")).await.id, erasure.id, "the same request erases nothing more");
        assert!(has_event(&fixture, "default", "e0").await);
        assert_ne!(erase(&fixture, all("r-2")).await.id, erasure.id);
        assert!(!has_event(&fixture, "default", "e0").await);
        assert!(fixture.store.catalog().find(&again.tenant, again.id).is_none());
    }
}
