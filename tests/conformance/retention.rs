//! The end of retention: what is held is cancelled, what is gone is said to be, and what is left is found by its time.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::DeliveryState,
        ids::{DeliveryId, DeliveryKey, EventSeq, Position},
        ordering::Ordering,
        time::Timestamp,
        webhook::{Settings, Subscription, Webhook},
    },
    store::{
        CancelReason, ConfigAnswer, ConfigChange, Delivery, DeliveryQuery, DeliveryView, FeedError, FeedFilter, Hint,
        LogEntry, Published,
    },
};

use crate::fixture::{Engine, Fixture, Limits, at, event};

const RETENTION: Duration = Duration::from_mins(16);
/// When what was accepted in the first minutes has been archived, and when it is due to go.
const ARCHIVED: [u64; 2] = [300, 500];
const OVER: u64 = 1_500;

fn limits() -> Limits {
    Limits { retention: RETENTION, ..Limits::default() }
}

async fn update(fixture: &Fixture, webhook: &Webhook, enabled: bool, settings: impl FnOnce(&mut Settings)) {
    let now = fixture.store.catalog().webhook(webhook.no).expect("it exists").webhook;
    let mut changed = now.settings.clone();
    settings(&mut changed);
    let change = ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: now.version,
        settings: changed,
        enabled,
        drop_held: false,
        pair: None,
        time: at(200),
    };
    let answer = fixture.store.put_config(change).await.expect("the store answers");
    assert!(matches!(answer, ConfigAnswer::Updated(_)), "{answer:?}");
}

async fn turn(fixture: &Fixture, webhook: &Webhook, enabled: bool) {
    update(fixture, webhook, enabled, |_| {}).await;
}

/// What watchers were told of cancelled deliveries, from where the log is retained: the reasons, and how many in all.
async fn told(fixture: &Fixture, webhook: &Webhook) -> (Vec<CancelReason>, u64) {
    let (mut place, head) = (Position(0), *fixture.store.head().borrow());
    let (mut reasons, mut count) = (Vec::new(), 0);
    while place < head {
        let page = match fixture.store.feed(place, &FeedFilter::default(), 10_000).await {
            Ok(page) => page,
            Err(FeedError::Expired { oldest }) => {
                place = oldest;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        for entry in page.entries {
            if let LogEntry::WebhookCancelled(cancelled) = entry
                && cancelled.webhook == webhook.id
            {
                reasons.push(cancelled.reason);
                count += cancelled.deliveries;
            }
        }
        place = page.position;
    }
    reasons.dedup();
    (reasons, count)
}

async fn list(fixture: &Fixture, query: &DeliveryQuery) -> Vec<Delivery> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = fixture.store.list(query, after, 7).await.expect("the store answers");
        all.extend(page.deliveries);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn pending(fixture: &Fixture, webhook: &Webhook) -> u64 {
    fixture.store.catalog().webhook(webhook.no).expect("it exists").pending()
}

fn id(fixture: &Fixture, webhook: &Webhook, hint: Hint) -> DeliveryId {
    let key = DeliveryKey { webhook: webhook.no, event: hint.event, replay: hint.replay };
    fixture.store.sealer().delivery_id(key)
}

/// Held ones, never attempted, due again or scheduled, are cancelled once the retention of their event is over, in the middle of
/// which the store is opened again; nothing else that is pending is.
pub(crate) async fn what_is_held_is_cancelled_when_its_retention_ends<E: Engine>() {
    let mut fixture = Fixture::with::<E>(limits());
    let (held, enabled) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 100).await;
    let hints = fixture.due(&held, at(100)).await.hints;
    let mut tried = Vec::new();
    for hint in &hints[..50] {
        tried.push(fixture.outcome(&held, *hint, DeliveryState::Pending, at(100)).await);
    }
    fixture.commit(tried).await;
    // Retention counts from when it is to be sent.
    fixture.schedule("later", at(100), at(900)).await;
    turn(&fixture, &held, false).await;
    assert_eq!(pending(&fixture, &held), 101, "held ones count");
    for now in ARCHIVED {
        fixture.upkeep(at(now)).await;
    }
    assert_eq!(told(&fixture, &held).await, (vec![], 0), "not before it is over");
    fixture.publish(1_450, 3).await;
    fixture.store.upkeep(at(OVER)).await.expect("upkeep works");
    fixture.store.upkeep(at(OVER)).await.expect("upkeep works");
    fixture.reopen::<E>().await;
    fixture.upkeep(at(OVER)).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        assert_eq!(told(&fixture, &held).await, (vec![CancelReason::HeldExpired], 100), "reopened: {reopened}");
        assert_eq!(pending(&fixture, &held), 4, "the young ones, and the one that was to be sent later");
        let query = DeliveryQuery { webhook: Some(held.id), ..DeliveryQuery::default() };
        let (left, ended): (Vec<_>, Vec<_>) =
            list(&fixture, &query).await.into_iter().partition(|it| it.state == DeliveryView::Held);
        let left: Vec<_> = left.iter().map(|it| it.event.as_str()).collect();
        assert_eq!(left, ["e1452", "e1451", "e1450", "later"]);
        // Their events are kept for the other one.
        assert_eq!(ended.len(), 100);
        assert!(ended.iter().all(|it| it.state == DeliveryView::State(DeliveryState::Cancelled)));
        assert_eq!(pending(&fixture, &enabled), 104);
        assert_eq!(fixture.due(&enabled, at(2_000)).await.hints.len(), 104, "what is not held is never removed");
        assert_eq!(told(&fixture, &enabled).await, (vec![], 0));
    }
    let seqs: Vec<_> = hints.iter().map(|hint| hint.event).collect();
    let bodies = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    assert!(bodies.iter().all(Option::is_some), "the other one can still be made");

    turn(&fixture, &held, true).await;
    assert_eq!(fixture.due(&held, at(2_000)).await.hints.len(), 4);
    // Kept for longer than anything else, and held now.
    turn(&fixture, &enabled, false).await;
    fixture.upkeep(at(OVER)).await;
    assert_eq!(told(&fixture, &enabled).await, (vec![CancelReason::HeldExpired], 100));
    fixture.upkeep(at(OVER)).await;
    let bodies = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    assert!(bodies.iter().all(Option::is_none), "nobody needs them any more");
}

/// Who is enabled before its deliveries were cancelled makes them all the same, however old they are.
pub(crate) async fn whoever_is_enabled_first_keeps_what_was_held<E: Engine>() {
    let mut fixture = Fixture::with::<E>(limits());
    let webhook = fixture.webhook().await;
    fixture.publish(0, 20).await;
    turn(&fixture, &webhook, false).await;
    for now in ARCHIVED {
        fixture.upkeep(at(now)).await;
    }
    // At the same time: some may be cancelled before, and none after.
    tokio::join!(turn(&fixture, &webhook, true), fixture.upkeep(at(OVER)));
    let (_, cancelled) = told(&fixture, &webhook).await;
    let due = fixture.due(&webhook, at(OVER)).await.hints;
    assert_eq!(due.len() as u64 + cancelled, 20);
    assert_eq!(pending(&fixture, &webhook), due.len() as u64);
    fixture.upkeep(at(3_000)).await;
    fixture.reopen::<E>().await;
    assert_eq!(fixture.due(&webhook, at(OVER)).await.hints, due);
    let seqs: Vec<_> = due.iter().map(|hint| hint.event).collect();
    let bodies = fixture.store.events(&seqs, usize::MAX).await.expect("the store answers");
    assert!(bodies.iter().all(Option::is_some));
    assert_eq!(told(&fixture, &webhook).await.1, cancelled);
}

/// With an ordered webhook, heads and those behind them are cancelled alike, and what comes later is not in their order.
pub(crate) async fn ordered_ones_end_too_and_nobody_waits_behind_them<E: Engine>() {
    let fixture = Fixture::with::<E>(limits());
    let webhook = fixture.webhook().await;
    let ordering = Ordering { ordered: true, ..Ordering::default() };
    update(&fixture, &webhook, true, |settings| settings.ordering = ordering).await;
    let publish = async |first: u64, count: u64| {
        let keyed = |n: u64| {
            let event = postrider_server::model::event::Event {
                ordering_key: format!("k{}", n % 3),
                ..event(&format!("e{n}"))
            };
            fixture.matched(event, at(n))
        };
        let batch = (first..first + count).map(keyed).collect();
        fixture.store.publish(batch).await.expect("the store answers");
    };
    publish(0, 30).await;
    turn(&fixture, &webhook, false).await;
    for now in ARCHIVED {
        fixture.upkeep(at(now)).await;
    }
    publish(1_450, 6).await;
    fixture.upkeep(at(OVER)).await;
    assert_eq!(told(&fixture, &webhook).await, (vec![CancelReason::HeldExpired], 30));
    turn(&fixture, &webhook, true).await;
    let mut made = Vec::new();
    loop {
        let hints = fixture.due(&webhook, at(OVER)).await.hints;
        let Some(hint) = hints.first() else { break };
        assert!(hints.len() <= 3, "one of each key");
        made.push(hint.event);
        fixture.commit(vec![fixture.outcome(&webhook, *hint, DeliveryState::Delivered, at(OVER)).await]).await;
    }
    assert_eq!(made.len(), 6);
}

/// A delivery whose event has gone is known to have been its tenant's, also after its webhook was deleted; one that there is, or
/// that never was, has not expired.
pub(crate) async fn what_has_expired_is_told_from_what_never_was<E: Engine>() {
    let mut fixture = Fixture::with::<E>(limits());
    let (ours, deleted) = (fixture.webhook().await, fixture.webhook().await);
    let theirs = fixture.webhook_of("theirs", Subscription::All).await;
    fixture.publish(0, 10).await;
    let (first, second) = (fixture.due(&ours, at(100)).await.hints, fixture.due(&deleted, at(100)).await.hints);
    for hint in &first[..9] {
        fixture.commit(vec![fixture.outcome(&ours, *hint, DeliveryState::Delivered, at(100)).await]).await;
    }
    fixture.deliver_all(&deleted, at(100), at(100)).await;
    let never = [
        id(&fixture, &theirs, first[0]),
        id(&fixture, &ours, Hint { event: EventSeq(1 << 40), ..first[0] }),
        id(&fixture, &ours, Hint { event: EventSeq(0), ..first[0] }),
        DeliveryId::from_bytes([1; 16]),
    ];
    let (gone, gone_with_webhook) = (id(&fixture, &ours, first[0]), id(&fixture, &deleted, second[0]));
    let (kept, beside) = (id(&fixture, &ours, first[9]), id(&fixture, &deleted, second[9]));
    assert!(fixture.store.retained_since() <= at(0), "nothing has gone");
    assert_eq!(fixture.store.expired(gone).await.expect("the store answers"), None);
    fixture.delete(&deleted).await;
    for now in [ARCHIVED[0], ARCHIVED[1], OVER, OVER] {
        fixture.upkeep(at(now)).await;
    }
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        for gone in [gone, gone_with_webhook] {
            assert!(fixture.store.get(gone).await.expect("the store answers").is_none());
            let expired = fixture.store.expired(gone).await.expect("the store answers");
            assert_eq!(expired, Some(ours.tenant.clone()), "reopened: {reopened}");
        }
        // Its event is kept for the other one.
        let (there, expired) = (fixture.store.get(beside).await, fixture.store.expired(beside).await);
        let expired = expired.expect("the store answers") == Some(ours.tenant.clone());
        assert_ne!(there.expect("the store answers").is_some(), expired, "reopened: {reopened}");
        let pending = fixture.store.get(kept).await.expect("the store answers").expect("it is pending");
        assert_eq!(pending.delivery.state, DeliveryView::State(DeliveryState::Pending));
        for id in never.into_iter().chain([kept]).skip(1) {
            assert_eq!(fixture.store.expired(id).await.expect("the store answers"), None, "{id}");
        }
        let whose = fixture.store.expired(never[0]).await.expect("the store answers");
        assert!(whose.is_none_or(|tenant| tenant == theirs.tenant), "nobody is told of another tenant's");
        let since = fixture.store.retained_since();
        assert!(since > at(8) && since <= at(OVER), "{since:?}, reopened: {reopened}");
    }
    // What is gone may be published anew: it is another event.
    assert_eq!(fixture.publish(0, 1).await, [Published::New { deliveries: 1 }]);
}

/// Events are not accepted in the order of their numbers where many are at once, and where a clock is set back.
pub(crate) async fn lists_of_a_time_are_whole_whatever_the_order_of_acceptance<E: Engine>() {
    for set_back in [0, 40] {
        let fixture = Fixture::with::<E>(Limits { hot_bytes_max: 1, retention: RETENTION, ..Limits::default() });
        let (webhook, other) = (fixture.webhook().await, fixture.webhook().await);
        let time = |n: u64| match n {
            0..60 => at(100 + n + 7 * (n % 3)),
            n => at(100 + n + 7 * (n % 3) - set_back),
        };
        let publish = async |range: std::ops::Range<u64>| {
            for n in range {
                let publish = fixture.matched(event(&format!("e{n}")), time(n));
                fixture.store.publish(vec![publish]).await.expect("the store answers");
            }
        };
        // The first third is gone, but for what is pending; the second lies in segments; the last is new.
        publish(0..30).await;
        fixture.deliver_all(&webhook, at(300), at(130)).await;
        let hints = fixture.due(&other, at(300)).await.hints;
        for hint in hints.into_iter().filter(|hint| hint.event.0 % 5 > 0) {
            fixture.commit(vec![fixture.outcome(&other, hint, DeliveryState::Delivered, at(130)).await]).await;
        }
        for now in [130, 400, 400, 1_200, 1_200] {
            fixture.upkeep(at(now)).await;
        }
        publish(30..60).await;
        fixture.upkeep(at(200)).await;
        publish(60..90).await;
        let everything = list(&fixture, &DeliveryQuery::default()).await;
        assert!((126..180).contains(&everything.len()), "set back: {set_back}, {}", everything.len());
        for start in (90..200).step_by(7) {
            for length in [0, 1, 5, 30, 200] {
                for only in [None, Some(webhook.id), Some(other.id)] {
                    let (from, until) = (at(start), at(start + length));
                    check(&fixture, &everything, DeliveryQuery { webhook: only, ..range(Some(from), Some(until)) })
                        .await;
                    check(&fixture, &everything, DeliveryQuery { webhook: only, ..range(Some(from), None) }).await;
                    check(&fixture, &everything, DeliveryQuery { webhook: only, ..range(None, Some(until)) }).await;
                }
            }
        }
    }
}

fn range(from: Option<Timestamp>, until: Option<Timestamp>) -> DeliveryQuery {
    DeliveryQuery { from, until, ..DeliveryQuery::default() }
}

/// A list is what its query picks from everything.
async fn check(fixture: &Fixture, everything: &[Delivery], query: DeliveryQuery) {
    let expected = everything.iter().filter(|it| {
        query.wants_event(&it.event_type, it.create_time) && query.webhook.is_none_or(|only| only == it.webhook)
    });
    let expected: Vec<_> = expected.map(|it| it.key).collect();
    let listed: Vec<_> = list(fixture, &query).await.into_iter().map(|it| it.key).collect();
    assert_eq!(listed, expected, "{query:?}");
}
