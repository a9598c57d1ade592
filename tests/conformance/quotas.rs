//! Quotas: a tenant never has more than it may, exactly, whoever publishes at once and whatever is interrupted.

use std::time::Duration;

use bytes::Bytes;
use postrider_server::{
    model::{
        delivery::DeliveryState,
        event::Event,
        ids::Tenant,
        quota::{self, Excess, Limit, Quota, TenantQuota, day},
        rate::RateLimit,
        webhook::{Subscription, Webhook},
    },
    store::{
        ConfigAnswer, ConfigChange, Publish, Published, QuotaAnswer, QuotaChange, Repair, Repaired, ReplayAnswer,
        ReplayChange, RequestKey,
    },
};

use crate::{
    erase::{all, erase, finish},
    fixture::{Engine, Fixture, Limits, at, event, secret, spec, targets},
    publish::{WIDE, all_due},
    repair::{key, repair, retry},
    replays::{NOW, all_for, ask, next_step, now, start},
};

const NEW: Published = Published::New { deliveries: 1 };
const DAY: u64 = 86_400;

fn tenant(name: &str) -> Tenant {
    name.parse().expect("a tenant")
}

async fn set(fixture: &Fixture, name: &str, quota: Quota) {
    let change = QuotaChange { tenant: tenant(name), quota, time: at(1) };
    let answer = fixture.store.put_config(ConfigChange::Quota(change)).await.expect("the store answers");
    assert!(matches!(answer, ConfigAnswer::Quota(QuotaAnswer::Set)), "{answer:?}");
}

fn pending(most: u64) -> Quota {
    Quota { pending: Limit::AtMost(most), ..Quota::default() }
}

fn excess(limit: u64, usage: u64, more: u64) -> Published {
    Published::OverQuota(Excess::Pending { limit, usage, more })
}

fn used(fixture: &Fixture, name: &str) -> u64 {
    fixture.store.catalog().pending_of(&tenant(name))
}

/// Waits until that is so: a commit that nobody waits for can be read a moment before it is known.
async fn uses(fixture: &Fixture, name: &str, expected: u64) {
    let known = async {
        while used(fixture, name) != expected {
            tokio::task::yield_now().await;
        }
    };
    let known = tokio::time::timeout(Duration::from_secs(30), known).await;
    assert!(known.is_ok(), "{name} uses {} and not {expected}", used(fixture, name));
}

fn of(name: &str, id: &str) -> Event {
    Event { tenant: tenant(name), ..event(id) }
}

async fn publish(fixture: &Fixture, events: impl IntoIterator<Item = Event>) -> Vec<Published> {
    let batch = events.into_iter().map(|event| fixture.matched(event, at(5))).collect();
    fixture.store.publish(batch).await.expect("the store answers")
}

pub(crate) async fn quotas_are_found_listed_and_survive<E: Engine>() {
    let defaults = quota::Limits { webhooks: Some(9), ..quota::Limits::default() };
    let mut fixture = Fixture::with::<E>(Limits { quotas: defaults, ..Limits::default() });
    let mixed = Quota {
        events: Limit::AtMost(RateLimit::new(0.5, 3).expect("in bounds")),
        pending: Limit::AtMost(0),
        webhooks: Limit::Unlimited,
        bytes_per_day: Limit::Default,
    };
    set(&fixture, "b", pending(1)).await;
    set(&fixture, "c", pending(2)).await;
    set(&fixture, "a", mixed).await;
    set(&fixture, "b", pending(3)).await;
    set(&fixture, "c", Quota::default()).await;
    for _ in 0..2 {
        let quotas = fixture.store.catalog().quotas();
        let own = |name: &str, quota| TenantQuota { tenant: tenant(name), quota, update_time: at(1) };
        assert_eq!(quotas.list(None, 10), [own("a", mixed), own("b", pending(3))], "by name");
        assert_eq!(quotas.list(Some(&tenant("a")), 10), [own("b", pending(3))]);
        assert_eq!(quotas.list(None, 1), [own("a", mixed)]);
        assert_eq!(quotas.find(&tenant("a")), Some(own("a", mixed)));
        assert_eq!(quotas.find(&tenant("c")), None, "as for all is none of its own");
        assert_eq!(quotas.limits(&tenant("a")), mixed.over(&defaults));
        assert_eq!(quotas.limits(&tenant("c")), defaults);
        fixture.reopen::<E>().await;
    }
}

pub(crate) async fn no_more_is_pending_than_may_be<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (one, two) = (fixture.webhook().await, fixture.webhook().await);
    fixture.webhook_of("other", Subscription::All).await;
    set(&fixture, "default", pending(5)).await;
    let two_new = Published::New { deliveries: 2 };
    let batch = [event("e1"), of("other", "o1"), event("e2"), event("e3"), of("other", "o2")];
    let published = publish(&fixture, batch).await;
    assert_eq!(
        published,
        [two_new, NEW, two_new, excess(5, 4, 2), NEW],
        "all its deliveries or none, and others go on"
    );
    let narrow = Publish { targets: targets(&fixture, [one.no]), ..fixture.matched(event("n1"), at(5)) };
    let none = Publish { targets: targets(&fixture, []), ..fixture.matched(event("n2"), at(5)) };
    let published = fixture.store.publish(vec![narrow, none]).await.expect("the store answers");
    assert_eq!(published, [NEW, Published::New { deliveries: 0 }], "what fits fits, and nothing always does");
    for _ in 0..2 {
        assert_eq!((used(&fixture, "default"), used(&fixture, "other")), (5, 2));
        assert_eq!(
            publish(&fixture, [event("e1"), event("e3")]).await,
            [Published::Duplicate { deliveries: 2 }, excess(5, 5, 2)]
        );
        fixture.reopen::<E>().await;
    }

    let hints = fixture.due(&one, at(100)).await.hints;
    let later = fixture.outcome(&one, hints[0], DeliveryState::Pending, at(10)).await;
    fixture.commit(vec![later]).await;
    assert_eq!(used(&fixture, "default"), 5, "what is tried again is pending");
    let failed = fixture.outcome(&one, hints[1], DeliveryState::Failed, at(10)).await;
    fixture.commit(vec![failed]).await;
    assert_eq!(used(&fixture, "default"), 4);
    assert_eq!(publish(&fixture, [event("e3")]).await, [excess(5, 4, 2)]);
    assert_eq!(retry(&fixture, key(one.no, hints[1]), at(20)).await, Repaired::Retried);
    let delivered = fixture.outcome(&one, hints[2], DeliveryState::Delivered, at(10)).await;
    fixture.commit(vec![delivered]).await;
    let cancelled = repair(&fixture, Repair::CancelAll { webhook: two.no, time: at(30) }).await;
    assert_eq!((cancelled, used(&fixture, "default")), (Repaired::Cancelled(2), 2));
    assert_eq!(publish(&fixture, [event("e3"), event("e4")]).await, [two_new, excess(5, 4, 2)]);
    fixture.delete(&one).await;
    assert_eq!(used(&fixture, "default"), 1);
    fixture.reopen::<E>().await;
    assert_eq!(used(&fixture, "default"), 1);
    assert_eq!(publish(&fixture, (0..5).map(|n| event(&format!("f{n}")))).await, [NEW, NEW, NEW, NEW, excess(5, 5, 1)]);
}

pub(crate) async fn a_retry_needs_room<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    set(&fixture, "default", pending(2)).await;
    publish(&fixture, [event("e1"), event("e2")]).await;
    let hints = fixture.due(&webhook, at(100)).await.hints;
    let failed = fixture.outcome(&webhook, hints[0], DeliveryState::Failed, at(10)).await;
    fixture.commit(vec![failed]).await;
    assert_eq!(publish(&fixture, [event("e3")]).await, [NEW]);
    let refused = Repaired::OverQuota(Excess::Pending { limit: 2, usage: 2, more: 1 });
    assert_eq!(retry(&fixture, key(webhook.no, hints[0]), at(20)).await, refused);
    assert_eq!(
        retry(&fixture, key(webhook.no, hints[1]), at(20)).await,
        Repaired::Retried,
        "one that is pending anyway"
    );
    assert_eq!(used(&fixture, "default"), 2);
}

/// Counting begins with the first limit, at what there is by then, and holds through its changes.
pub(crate) async fn a_limit_set_later_counts_what_is_there<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 6).await;
    assert_eq!(used(&fixture, "default"), 6);
    set(&fixture, "default", pending(5)).await;
    assert_eq!(publish(&fixture, [event("e7")]).await, [excess(5, 6, 1)], "nothing is taken away");
    let hints = fixture.due(&webhook, at(100)).await.hints;
    let mut outcomes = Vec::new();
    for hint in &hints[..2] {
        outcomes.push(fixture.outcome(&webhook, *hint, DeliveryState::Delivered, at(10)).await);
    }
    fixture.commit(outcomes).await;
    assert_eq!(publish(&fixture, [event("e7"), event("e8")]).await, [NEW, excess(5, 5, 1)]);
    set(&fixture, "default", Quota { pending: Limit::Unlimited, ..Quota::default() }).await;
    assert_eq!(publish(&fixture, [event("e8")]).await, [NEW]);
    set(&fixture, "default", pending(7)).await;
    assert_eq!(publish(&fixture, [event("e9"), event("e10")]).await, [NEW, excess(7, 7, 1)]);
    set(&fixture, "default", Quota::default()).await;
    assert_eq!(publish(&fixture, [event("e10")]).await, [NEW]);
    assert_eq!(used(&fixture, "default"), 8);
}

/// Many at once, each of which fits, and not all of them together.
pub(crate) async fn who_publishes_at_once_shares_what_is_left<E: Engine>() {
    let defaults = quota::Limits { pending: Some(25), ..quota::Limits::default() };
    let fixture = Fixture::with::<E>(Limits { quotas: defaults, ..Limits::default() });
    for name in ["a", "b", "c"] {
        fixture.webhook_of(name, Subscription::All).await;
    }
    let calls = (0..120).map(|n| {
        let name = ["a", "b", "c"][n % 3];
        publish(&fixture, [of(name, &format!("e{n}"))])
    });
    let published = futures::future::join_all(calls).await;
    let accepted = published.iter().flatten().filter(|published| **published == NEW).count();
    assert_eq!(accepted, 75, "{published:?}");
    assert_eq!(["a", "b", "c"].map(|name| used(&fixture, name)), [25; 3]);
}

pub(crate) async fn a_wide_event_counts_at_once<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhooks = futures::future::join_all((0..WIDE).map(|_| fixture.webhook())).await;
    let all = WIDE as u64;
    set(&fixture, "default", pending(all + 1)).await;
    let published = publish(&fixture, [event("e1"), event("e2")]).await;
    let wide = Published::New { deliveries: u32::try_from(WIDE).expect("fits") };
    assert_eq!(published, [wide, excess(all + 1, all, all)]);
    // A slice is counted where it comes from and where it goes one after the other.
    uses(&fixture, "default", all).await;
    fixture.reopen::<E>().await;
    uses(&fixture, "default", all).await;
    let narrow =
        |id: &str| Publish { targets: targets(&fixture, [webhooks[0].no]), ..fixture.matched(event(id), at(5)) };
    let published = fixture.store.publish(vec![narrow("n1"), narrow("n2")]).await.expect("the store answers");
    assert_eq!(published, [NEW, excess(all + 1, all + 1, 1)]);
    all_due(&fixture).await;
    uses(&fixture, "default", all + 1).await;
    assert_eq!(fixture.deliver_all(&webhooks[0], at(10), at(10)).await, 2);
    assert_eq!(used(&fixture, "default"), all - 1);
    fixture.delete(&webhooks[1]).await;
    assert_eq!(used(&fixture, "default"), all - 2);
}

async fn create(fixture: &Fixture, name: &str, request: Option<&str>) -> ConfigAnswer {
    let request = request.map(|id| RequestKey { id: id.to_owned(), hash: 7 });
    let (spec, keys) = (spec(name, Subscription::All), secret().into());
    let change = ConfigChange::CreateWebhook { spec, keys, request, time: at(1) };
    fixture.store.put_config(change).await.expect("the store answers")
}

fn created(answer: ConfigAnswer) -> Webhook {
    let ConfigAnswer::Created(webhook) = answer else { panic!("not created: {answer:?}") };
    webhook
}

pub(crate) async fn no_more_webhooks_are_there_than_may_be<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    set(&fixture, "default", Quota { webhooks: Limit::AtMost(2), ..Quota::default() }).await;
    let first = created(create(&fixture, "default", Some("r1")).await);
    // At once, so that some share a commit.
    let calls = (0..20).map(|_| create(&fixture, "default", None));
    let answers = futures::future::join_all(calls).await;
    let more = answers.iter().filter(|answer| matches!(answer, ConfigAnswer::Created(_))).count();
    assert_eq!(more, 1);
    for _ in 0..2 {
        let refused = create(&fixture, "default", None).await;
        let ConfigAnswer::OverQuota(excess) = refused else { panic!("not refused: {refused:?}") };
        assert_eq!(excess, Excess::Webhooks { limit: 2, usage: 2 });
        assert_eq!(created(create(&fixture, "default", Some("r1")).await).id, first.id, "a repeat makes none");
        assert_eq!(fixture.store.catalog().webhooks_of(&tenant("default")), 2);
        fixture.reopen::<E>().await;
    }
    created(create(&fixture, "other", None).await);
    fixture.delete(&first).await;
    created(create(&fixture, "default", None).await);
    assert!(matches!(create(&fixture, "default", None).await, ConfigAnswer::OverQuota(_)));
}

pub(crate) async fn bytes_are_counted_by_the_day<E: Engine>() {
    let defaults = quota::Limits { bytes_per_day: Some(100), ..quota::Limits::default() };
    let mut fixture = Fixture::with::<E>(Limits { quotas: defaults, ..Limits::default() });
    fixture.webhook().await;
    let sized = |id: &str, bytes: usize| {
        let labels = [("ab".to_owned(), "c".to_owned())].into();
        Event { body: Bytes::from(vec![b'x'; bytes - 5]), labels, ordering_key: "de".into(), ..event(id) }
    };
    let publish = async |fixture: &Fixture, batch: Vec<(Event, u64)>| {
        let batch = batch.into_iter().map(|(event, second)| fixture.matched(event, at(second))).collect();
        fixture.store.publish(batch).await.expect("the store answers")
    };
    let today = day(at(0));
    let accepted = async |fixture: &Fixture, day: u32| {
        let asked = [tenant("default"), tenant("free"), tenant("default")];
        let bytes = fixture.store.bytes_of_day(day, &asked).await.expect("the store answers");
        assert_eq!((bytes[1], bytes[0]), (0, bytes[2]));
        bytes[0]
    };
    let end = quota::day_end(at(7)).since(at(7));
    let over = |usage, more| Published::OverQuota(Excess::Bytes { limit: 100, usage, more, retry_after: end });
    let batch = vec![(sized("e1", 60), 7), (sized("e2", 50), 7), (sized("e3", 40), 7), (sized("e4", 5), 7)];
    assert_eq!(publish(&fixture, batch).await, [NEW, over(60, 50), NEW, over(100, 5)], "what fits exactly fits");
    for _ in 0..2 {
        assert_eq!(accepted(&fixture, today).await, 100);
        let again = publish(&fixture, vec![(sized("e1", 60), 7), (sized("e4", 5), 7)]).await;
        assert_eq!(again, [Published::Duplicate { deliveries: 1 }, over(100, 5)]);
        fixture.reopen::<E>().await;
    }
    let batch = vec![(sized("e2", 50), DAY), (sized("e5", 50), DAY), (sized("e4", 5), 7)];
    assert_eq!(
        publish(&fixture, batch).await,
        [NEW, NEW, over(100, 5)],
        "another day, and what came in before it was over"
    );
    assert_eq!((accepted(&fixture, today).await, accepted(&fixture, today + 1).await), (100, 100));
    set(&fixture, "free", Quota { bytes_per_day: Limit::Unlimited, ..Quota::default() }).await;
    let free = Event { tenant: tenant("free"), ..sized("e6", 500) };
    assert_eq!(publish(&fixture, vec![(free, 7)]).await, [Published::New { deliveries: 0 }]);
    assert_eq!(accepted(&fixture, today).await, 100, "who has no limit is not counted");
}

/// An event that one quota refuses takes nothing of another.
pub(crate) async fn what_is_refused_uses_nothing<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    let bytes = event("e1").written_bytes();
    let both = Quota { bytes_per_day: Limit::AtMost(bytes), ..pending(1) };
    set(&fixture, "default", both).await;
    let empty = |id: &str| Event { body: Bytes::new(), ..event(id) };
    assert_eq!(publish(&fixture, [empty("f1"), event("e1")]).await, [NEW, excess(1, 1, 1)]);
    fixture.deliver_all(&webhook, at(100), at(10)).await;
    let published = publish(&fixture, [event("e1")]).await;
    assert_eq!(published, [NEW], "its bytes were not counted when it was refused");
    fixture.deliver_all(&webhook, at(100), at(20)).await;
    let over = publish(&fixture, [event("e2"), empty("f2"), empty("f3")]).await;
    assert!(matches!(over[0], Published::OverQuota(Excess::Bytes { .. })), "{over:?}");
    assert_eq!(over[1..], [NEW, excess(1, 1, 1)], "nor its deliveries");
}

/// A replay leaves the last tenth of the quota to what is published.
pub(crate) async fn a_replay_leaves_room_in_the_quota<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 10).await;
    let replay = start(&fixture, all_for(&webhook)).await;
    set(&fixture, "default", pending(20)).await;
    let step = next_step(&fixture, &replay, 9).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Busy);
    let step = next_step(&fixture, &replay, 8).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Done);
    assert_eq!(used(&fixture, "default"), 18);
    let step = next_step(&fixture, &now(&fixture, &replay), 1).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step.clone())).await, ReplayAnswer::Busy);
    assert_eq!(publish(&fixture, [event("n1"), event("n2"), event("n3")]).await, [NEW, NEW, excess(20, 20, 1)]);
    fixture.deliver_all(&webhook, at(NOW), at(NOW)).await;
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Done);
}

/// The quota is the operator's.
pub(crate) async fn erasing_a_tenant_leaves_its_quota<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    fixture.webhook().await;
    let bytes = event("e1").written_bytes();
    let both = Quota { bytes_per_day: Limit::AtMost(2 * bytes), ..pending(1) };
    set(&fixture, "default", both).await;
    assert_eq!(publish(&fixture, [event("e1"), event("e2")]).await, [NEW, excess(1, 1, 1)]);
    let erasure = erase(&fixture, all("r-1")).await;
    finish(&fixture, &erasure).await;
    for _ in 0..2 {
        uses(&fixture, "default", 0).await;
        assert_eq!(fixture.store.catalog().quotas().limits(&tenant("default")), both.over(&quota::Limits::default()));
        let used = fixture.store.bytes_of_day(day(at(5)), &[tenant("default")]).await.expect("the store answers");
        assert_eq!(used, [bytes], "of this day's bytes, too");
        fixture.reopen::<E>().await;
    }
    fixture.webhook().await;
    assert_eq!(publish(&fixture, [event("e3"), event("e4")]).await, [NEW, excess(1, 1, 1)]);
}
