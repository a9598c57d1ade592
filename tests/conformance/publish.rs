//! Accepting: durable, deduplicated, with its targets.

use std::time::Duration;

use bytes::Bytes;
use postrider_server::{
    limits::TARGETS_MAX,
    model::{
        ids::WebhookNo,
        scope::{LabelFilter, PayloadFilter, Scope},
        webhook::{Settings, Subscription, Webhook},
    },
    store::{ConfigAnswer, ConfigChange, Publish, Published, Registered},
};

use crate::fixture::{Engine, Fixture, Limits, START, at, event, secret, spec, targets};

pub(crate) async fn a_repeat_is_a_duplicate_and_other_content_a_conflict<E: Engine>() {
    let fixture = Fixture::new::<E>();
    fixture.webhook().await;
    let mut other = event("e1");
    other.body = Bytes::from_static(b"{}");
    let mut theirs = other.clone();
    theirs.tenant = "theirs".parse().expect("a tenant");
    let batch = [event("e1"), event("e1"), other.clone(), theirs, event("e2")];
    let batch = batch.into_iter().map(|event| fixture.matched(event, START)).collect();
    let published = fixture.store.publish(batch).await.expect("the store answers");
    let expected = [
        Published::New { deliveries: 1 },
        Published::Duplicate { deliveries: 1 },
        Published::Conflict,
        Published::New { deliveries: 0 },
        Published::New { deliveries: 1 },
    ];
    assert_eq!(published, expected, "within one batch, in order, and apart for other tenants");
    fixture.webhook().await;
    let again = vec![fixture.matched(event("e1"), at(5)), fixture.matched(other, at(5))];
    let again = fixture.store.publish(again).await.expect("the store answers");
    assert_eq!(again, [Published::Duplicate { deliveries: 1 }, Published::Conflict], "with the first result");
}

pub(crate) async fn repeats_are_known_after_reopening_and_after_archiving<E: Engine>() {
    let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max: 1, ..Limits::default() });
    fixture.webhook().await;
    fixture.publish(0, 50).await;
    fixture.upkeep(at(60)).await;
    assert!(fixture.publish(0, 50).await.iter().all(|one| *one == Published::Duplicate { deliveries: 1 }));
    fixture.reopen::<E>().await;
    assert!(fixture.publish(0, 50).await.iter().all(|one| *one == Published::Duplicate { deliveries: 1 }));
    assert_eq!(fixture.publish(50, 1).await, [Published::New { deliveries: 1 }]);
}

pub(crate) async fn targets_are_matched_again_when_configuration_moved<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let first = fixture.webhook().await;
    let stale = fixture.matched(event("e1"), START);
    let second = fixture.webhook().await;
    fixture.delete(&first).await;
    let published = fixture.store.publish(vec![stale]).await.expect("the store answers");
    assert_eq!(published, [Published::New { deliveries: 1 }]);
    assert_eq!(fixture.due(&second, START).await.hints.len(), 1, "the webhook that exists got it");
    assert!(fixture.due(&first, START).await.hints.is_empty());
}

pub(crate) async fn a_full_backlog_refuses_and_a_smaller_event_still_fits<E: Engine>() {
    let fixture = Fixture::with::<E>(Limits { pending_max: 5, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.webhook().await;
    let published = fixture.publish(0, 3).await;
    assert_eq!(published[2], Published::BacklogFull, "{published:?}");
    let narrow = Publish { targets: targets(&fixture, [webhook.no]), ..fixture.matched(event("n"), START) };
    let narrow = fixture.store.publish(vec![narrow]).await.expect("the store answers");
    assert_eq!(narrow, [Published::New { deliveries: 1 }]);
    fixture.deliver_all(&webhook, at(10), at(10)).await;
    assert_eq!(fixture.publish(2, 1).await, [Published::New { deliveries: 2 }], "there is room again");
}

/// Webhooks of a wide event.
pub(crate) const WIDE: usize = 2_500;

async fn wide<E: Engine>(fixture: &Fixture) -> Vec<Webhook> {
    let mut webhooks = Vec::with_capacity(WIDE);
    let created = futures::future::join_all((0..WIDE).map(|_| fixture.webhook())).await;
    webhooks.extend(created);
    let published = fixture.publish(0, 1).await;
    assert_eq!(published, [Published::New { deliveries: u32::try_from(WIDE).expect("fits") }]);
    webhooks
}

/// Waits until the slices have made the event due for every webhook.
pub(crate) async fn all_due(fixture: &Fixture) {
    let reached = async {
        loop {
            let page = fixture.store.lanes(None, 10_000).await.expect("the store answers");
            if page.lanes.len() == WIDE {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reached).await.expect("every webhook has its delivery");
}

pub(crate) async fn wide_events_are_accepted_at_once_and_become_due_in_slices<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhooks = wide::<E>(&fixture).await;
    all_due(&fixture).await;
    for webhook in [&webhooks[0], &webhooks[WIDE / 2], &webhooks[WIDE - 1]] {
        assert_eq!(fixture.deliver_all(webhook, at(10), at(10)).await, 1);
        assert!(fixture.due(webhook, at(10)).await.hints.is_empty());
    }
}

pub(crate) async fn wide_events_go_on_after_reopening<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    wide::<E>(&fixture).await;
    fixture.reopen::<E>().await;
    all_due(&fixture).await;
    let pending = || fixture.store.catalog().list(None, None, usize::MAX).iter().map(Registered::pending).sum::<u64>();
    let counted = async {
        // The counts are the last to know.
        while pending() < WIDE as u64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), counted).await.expect("all are counted");
    assert_eq!(pending(), WIDE as u64, "no webhook was served twice");
}

pub(crate) async fn too_wide_an_event_is_refused<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhooks = (1..=TARGETS_MAX as u64 + 1).map(WebhookNo);
    let publish = Publish { targets: targets(&fixture, webhooks), ..fixture.matched(event("e"), START) };
    let published = fixture.store.publish(vec![publish]).await.expect("the store answers");
    assert_eq!(published, [Published::TooManyTargets]);
}

async fn filtering(fixture: &Fixture, label: &str, payload: Option<&str>) -> Webhook {
    let labels = LabelFilter::new([("waba".to_owned(), vec![label.to_owned()])]);
    let payload = payload.map(|text| PayloadFilter::compile(text).expect("a filter"));
    let mut spec = spec("default", Subscription::All);
    spec.settings = Settings { scope: Scope::new(labels, payload), ..spec.settings };
    let create = ConfigChange::CreateWebhook { spec, keys: secret().into(), request: None, time: START };
    let answer = fixture.store.put_config(create).await.expect("the store answers");
    let ConfigAnswer::Created(webhook) = answer else { panic!("not created: {answer:?}") };
    webhook
}

pub(crate) async fn filters_decide_when_matched_and_are_not_asked_again<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let all = fixture.webhook().await;
    let one = filtering(&fixture, "1", None).await;
    let labelled = |id: &str, waba: &str| {
        let mut event = event(id);
        event.labels.insert("waba".into(), waba.into());
        event
    };
    let stale = fixture.matched(labelled("e1", "1"), START);
    assert_eq!(*stale.targets.webhooks, [all.no, one.no]);
    fixture.webhook_of("default", Subscription::All).await;
    let both = filtering(&fixture, "1", Some("body.id == 'e1'")).await;
    filtering(&fixture, "2", None).await;
    filtering(&fixture, "1", Some("body.id == 'e2'")).await;
    let published = fixture.store.publish(vec![stale]).await.expect("the store answers");
    assert_eq!(
        published,
        [Published::New { deliveries: 3 }],
        "those without filters, and those whose filters admitted it"
    );
    assert_eq!(fixture.due(&one, START).await.hints.len(), 1);
    assert!(fixture.due(&both, START).await.hints.is_empty(), "it came while the event was on its way");

    fixture.reopen::<E>().await;
    let catalog = fixture.store.catalog();
    let known = catalog.find(&both.tenant, both.id).expect("it exists").webhook.settings.clone();
    assert_eq!(known, both.settings, "filters survive");
    let reached = |id: &str, waba: &str| fixture.matched(labelled(id, waba), at(1)).targets.webhooks.len();
    let (mut unlabelled, expected) =
        (event("e1"), [(("e1", "1"), 4), (("e2", "1"), 4), (("e3", "1"), 3), (("e1", "3"), 2)]);
    for ((id, waba), webhooks) in expected {
        assert_eq!(reached(id, waba), webhooks, "{id} {waba}");
    }
    unlabelled.labels.clear();
    assert_eq!(
        fixture.matched(unlabelled, at(1)).targets.webhooks.len(),
        2,
        "an event without the label does not match"
    );
}
