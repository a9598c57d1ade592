//! Configuration: conditions hold, decisions count at once, there is one order.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::DeliveryState,
        event::Event,
        ids::{ConfigSeq, EventTypeName, Position},
        signing::{Key, KeyPair, Keys, Previous, Scheme, Secret, SignatureSettings},
        webhook::{DisableReason, Settings, Subscription, Switch, Webhook},
    },
    store::{
        ConfigAnswer, ConfigChange, ConfigStep, DeliveryQuery, DeliveryView, FeedFilter, LogEntry, OutcomeGroup,
        Published, RequestKey,
    },
};

use crate::fixture::{Engine, Fixture, START, at, event, nobody, secret, spec};

async fn change(fixture: &Fixture, change: ConfigChange) -> ConfigAnswer {
    fixture.store.put_config(change).await.expect("the store answers")
}

pub(crate) async fn webhooks_come_and_go_with_their_conditions<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    let delete = |tenant: &str, id, expect| ConfigChange::DeleteWebhook {
        tenant: tenant.parse().expect("a tenant"),
        id,
        expect,
        time: at(1),
    };
    assert!(matches!(change(&fixture, delete("default", nobody(), None)).await, ConfigAnswer::NotFound));
    assert!(matches!(change(&fixture, delete("theirs", webhook.id, None)).await, ConfigAnswer::NotFound));
    let stale = delete("default", webhook.id, Some(webhook.version + 1));
    assert!(matches!(change(&fixture, stale).await, ConfigAnswer::VersionMismatch));
    assert!(fixture.store.catalog().find(&webhook.tenant, webhook.id).is_some());

    let present = delete("default", webhook.id, Some(webhook.version));
    assert!(matches!(change(&fixture, present.clone()).await, ConfigAnswer::Deleted { cancelled: 0 }));
    assert!(fixture.store.catalog().find(&webhook.tenant, webhook.id).is_none());
    assert!(matches!(change(&fixture, present).await, ConfigAnswer::NotFound));
    fixture.reopen::<E>().await;
    assert!(fixture.store.catalog().is_empty());
    assert!(fixture.webhook().await.no > webhook.no, "numbers are never used again");
}

fn update(webhook: &Webhook, settings: Settings, enabled: bool, seconds: u64) -> ConfigChange {
    ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: webhook.version,
        settings,
        enabled,
        drop_held: false,
        pair: None,
        time: at(seconds),
    }
}

pub(crate) async fn updates_count_at_once_and_under_their_condition<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    let stale = update(&webhook, webhook.settings.clone(), true, 1);
    let mut theirs = stale.clone();
    if let ConfigChange::UpdateWebhook { tenant, .. } = &mut theirs {
        *tenant = "theirs".parse().expect("a tenant");
    }
    assert!(matches!(change(&fixture, theirs).await, ConfigAnswer::NotFound));
    let ConfigAnswer::Updated(same) = change(&fixture, stale).await else { panic!("not updated") };
    assert_eq!(same, webhook, "nothing changed, and no version is spent on it");

    let tags = Subscription::to([EventTypeName::new("ADD_TAG")].into());
    let metadata = [("team".to_owned(), "crm".to_owned())].into();
    let settings = Settings { subscription: tags, display_name: "CRM".into(), metadata, ..webhook.settings.clone() };
    let decision = update(&webhook, settings.clone(), true, 2);
    let ConfigAnswer::Updated(updated) = change(&fixture, decision.clone()).await else { panic!("not updated") };
    assert_eq!((&updated.settings, updated.update_time), (&settings, at(2)));
    assert_eq!((updated.no, updated.id, updated.create_time), (webhook.no, webhook.id, webhook.create_time));
    assert_ne!(updated.etag(), webhook.etag());
    assert!(matches!(change(&fixture, decision).await, ConfigAnswer::VersionMismatch));
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let now = fixture.store.catalog().find(&webhook.tenant, webhook.id).expect("it exists").webhook;
        assert_eq!(*now, updated, "reopened: {reopened}");
        let targets = |name| {
            let event = Event { event_type: EventTypeName::new(name), ..event("any") };
            fixture.store.catalog().targets(&event).webhooks
        };
        assert_eq!(targets("ADD_TAG").len(), 1);
        assert!(targets("NEW_LEAD").is_empty());
    }
    fixture.delete(&updated).await;
    let late = update(&updated, settings, true, 3);
    assert!(matches!(change(&fixture, late).await, ConfigAnswer::NotFound));
}

pub(crate) async fn secrets_are_rotated_under_their_condition<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    let new = Secret::from_bytes(&[8; 32]).expect("long enough");
    let rotate = |key: Key, expect, seconds| ConfigChange::RotateSecret {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect,
        key,
        overlap: Duration::from_mins(1),
        time: at(seconds),
    };
    let stale = rotate(Key::Secret(new.clone()), webhook.version + 1, 1);
    assert!(matches!(change(&fixture, stale).await, ConfigAnswer::VersionMismatch));
    let present = rotate(Key::Secret(new.clone()), webhook.version, 1);
    let ConfigAnswer::Updated(once) = change(&fixture, present).await else { panic!("not rotated") };
    assert_eq!((once.version, once.update_time), (webhook.version + 1, at(1)));

    // A scheme that needs a key pair comes with one; both kinds are replaced, each on its own.
    let pair = |byte| KeyPair::from_seed(&[byte; 32]).expect("32 bytes");
    let signature = SignatureSettings::new(Scheme::StandardV1a, "svix", "x-sig").expect("free names");
    let settings = Settings { signature, ..once.settings.clone() };
    let mut decision = update(&once, settings.clone(), true, 2);
    if let ConfigChange::UpdateWebhook { pair: given, .. } = &mut decision {
        *given = Some(pair(1));
    }
    let ConfigAnswer::Updated(twice) = change(&fixture, decision).await else { panic!("not updated") };
    let last = rotate(Key::Pair(pair(2)), twice.version, 3);
    let ConfigAnswer::Updated(last) = change(&fixture, last).await else { panic!("not rotated") };
    let previous = vec![
        Previous { key: Key::Pair(pair(1)), until: at(63) },
        Previous { key: Key::Secret(secret()), until: at(61) },
    ];
    assert_eq!((&last.settings, &last.keys), (&settings, &Keys::new(new, Some(pair(2)), previous)));
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let now = fixture.store.catalog().find(&webhook.tenant, webhook.id).expect("it exists").webhook;
        assert_eq!(*now, last, "reopened: {reopened}");
    }
    fixture.delete(&last).await;
    let late = rotate(Key::Pair(pair(3)), last.version, 4);
    assert!(matches!(change(&fixture, late).await, ConfigAnswer::NotFound));
}

pub(crate) async fn a_webhook_that_is_enabled_again_makes_what_it_held<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 2).await;
    let off = update(&webhook, webhook.settings.clone(), false, 1);
    let ConfigAnswer::Updated(disabled) = change(&fixture, off).await else { panic!("not updated") };
    let requested = Switch::Disabled { reason: DisableReason::Requested, since: at(1) };
    assert_eq!(disabled.switch, requested);
    fixture.publish(2, 1).await;
    fixture.reopen::<E>().await;
    let again = update(&disabled, webhook.settings.clone(), false, 5);
    let ConfigAnswer::Updated(still) = change(&fixture, again).await else { panic!("not updated") };
    assert_eq!(still.switch, requested, "since it was disabled first");
    let on = update(&still, webhook.settings.clone(), true, 6);
    let ConfigAnswer::Updated(enabled) = change(&fixture, on).await else { panic!("not updated") };
    assert!(enabled.is_enabled());
    assert_eq!(fixture.due(&enabled, at(10)).await.hints.len(), 3);
    assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 3);
}

pub(crate) async fn a_request_is_answered_once<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let create = |hash, seconds| ConfigChange::CreateWebhook {
        spec: spec("default", Subscription::All),
        keys: secret().into(),
        request: Some(RequestKey { id: "r1".into(), hash }),
        time: at(seconds),
    };
    let created = |answer| -> Webhook {
        let ConfigAnswer::Created(webhook) = answer else { panic!("not created: {answer:?}") };
        webhook
    };
    let first = created(change(&fixture, create(1, 0)).await);
    assert_eq!(created(change(&fixture, create(1, 5)).await), first);
    assert!(matches!(change(&fixture, create(2, 5)).await, ConfigAnswer::RequestReused));
    fixture.delete(&first).await;
    fixture.reopen::<E>().await;
    assert_eq!(created(change(&fixture, create(1, 3_600)).await), first, "the same reply, come what may");
    let day = 24 * 3600;
    fixture.upkeep(at(day - 1)).await;
    assert_eq!(created(change(&fixture, create(1, day - 1)).await), first);
    assert_ne!(created(change(&fixture, create(1, day)).await).id, first.id, "forgotten after a day");
    let key = RequestKey { id: "r1".into(), hash: 1 };
    let answered =
        async |key: &RequestKey, now| fixture.store.answered(&first.tenant, key, now).await.expect("the store answers");
    assert!(matches!(answered(&key, at(day)).await, Some(ConfigAnswer::Created(_))));
    let other = RequestKey { hash: 2, ..key.clone() };
    assert!(matches!(answered(&other, at(day)).await, Some(ConfigAnswer::RequestReused)));
    assert!(answered(&key, at(2 * day)).await.is_none());
    fixture.upkeep(at(10 * day)).await;
    assert!(answered(&key, at(day)).await.is_none(), "upkeep forgets for good");
}

pub(crate) async fn changes_have_one_order<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let (first, second) = (fixture.webhook().await, fixture.webhook().await);
    fixture.delete(&first).await;
    let page = fixture.store.config_since(ConfigSeq(0), 10).await.expect("the store answers");
    let steps: Vec<_> = page.steps.iter().map(|(seq, step)| (seq.0, format!("{step:?}"))).collect();
    assert!(steps.is_sorted_by_key(|step| step.0), "{steps:?}");
    let puts = page.steps.iter().filter(|(_, step)| matches!(step, ConfigStep::Put(webhook) if *webhook == second));
    let removed = page.steps.iter().filter(|(_, step)| matches!(step, ConfigStep::Removed(no) if *no == first.no));
    assert_eq!((puts.count(), removed.count(), page.steps.len(), page.more), (1, 1, 2, false));
    let (last, _) = page.steps[1];
    assert!(fixture.store.config_since(last, 10).await.expect("the store answers").steps.is_empty());
    assert!(fixture.store.config_since(ConfigSeq(0), 1).await.expect("the store answers").more);
}

pub(crate) async fn deleting_cancels_at_once_and_says_how_many<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let (webhook, other) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 1_500).await;
    let hints = fixture.due(&webhook, at(10_000)).await.hints;
    fixture.commit(vec![fixture.outcome(&webhook, hints[0], DeliveryState::Pending, at(1)).await]).await;
    fixture.commit(vec![fixture.outcome(&webhook, hints[1], DeliveryState::Delivered, at(1)).await]).await;
    let late = fixture.outcome(&webhook, hints[2], DeliveryState::Delivered, at(2)).await;
    assert_eq!(fixture.delete(&webhook).await, 1_499);

    assert!(fixture.due(&webhook, at(10_000)).await.hints.is_empty());
    let lanes = fixture.store.lanes(None, 10).await.expect("the store answers").lanes;
    assert_eq!(lanes.iter().map(|lane| lane.webhook).collect::<Vec<_>>(), [other.no]);
    let head = *fixture.store.head().borrow();
    fixture.commit(vec![late]).await;
    let page = fixture.store.feed(head, &FeedFilter::default(), 10).await.expect("readable");
    assert!(page.entries.is_empty(), "an outcome that comes after the delete is left out");

    let all = fixture.store.feed(Position(0), &FeedFilter::default(), 10).await;
    let cancelled = all.expect("readable").entries.into_iter().find_map(|entry| match entry {
        LogEntry::WebhookCancelled(cancelled) => Some(cancelled),
        LogEntry::Outcome(_) | LogEntry::Operational(_) => None,
    });
    let cancelled = cancelled.expect("watchers are told");
    assert_eq!((cancelled.webhook, cancelled.deliveries), (webhook.id, 1_499));

    let count = async |state| {
        let query = DeliveryQuery { webhook: Some(webhook.id), states: vec![state], ..DeliveryQuery::default() };
        let (mut after, mut count) = (None, 0);
        loop {
            let page = fixture.store.list(&query, after, 1_000).await.expect("the store answers");
            count += page.deliveries.len();
            let Some(next) = page.next else { return count };
            after = Some(next);
        }
    };
    assert_eq!(count(DeliveryView::State(DeliveryState::Cancelled)).await, 1_499);
    assert_eq!(count(DeliveryView::State(DeliveryState::Delivered)).await, 1);
    assert_eq!(count(DeliveryView::State(DeliveryState::Pending)).await, 0);
    assert_eq!(fixture.due(&other, at(10_000)).await.hints.len(), 1_500, "nobody else is touched");
}

pub(crate) async fn a_wide_event_counts_for_a_webhook_it_has_not_reached<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhooks = futures::future::join_all((0..2_500).map(|_| fixture.webhook())).await;
    let last = webhooks.iter().max_by_key(|webhook| webhook.no).expect("there are some").clone();
    // Both wait in the inbox together: the delete is decided before or after the slices, and counts the same.
    let (published, cancelled) = tokio::join!(fixture.publish(0, 1), fixture.delete(&last));
    let Published::New { deliveries } = published[0] else { panic!("{published:?}") };
    assert_eq!(u64::from(deliveries), 2_499 + cancelled);
    fixture.reopen::<E>().await;
    assert!(fixture.due(&last, at(10)).await.hints.is_empty());
}

pub(crate) async fn gone_webhooks_are_disabled_and_hold_their_deliveries<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 2).await;
    let due = fixture.due(&webhook, START).await.hints;
    let slow = fixture.outcome(&webhook, due[1], DeliveryState::Pending, at(1)).await;
    let outcomes = vec![slow, fixture.outcome(&webhook, due[0], DeliveryState::Failed, at(1)).await];
    let group = OutcomeGroup { outcomes, disable: vec![(webhook.no, DisableReason::Gone)], ..OutcomeGroup::default() };
    fixture.store.commit(fixture.store.owner(), vec![group]).await.expect("the store answers");
    let filter = FeedFilter { states: vec![DeliveryView::Held], ..FeedFilter::default() };
    let page = fixture.store.feed(Position(0), &filter, 10).await.expect("readable");
    assert_eq!(page.entries.len(), 1, "watchers are not told of a retry that will not come");
    fixture.reopen::<E>().await;
    let page = fixture.store.feed(Position(0), &filter, 10).await.expect("readable");
    assert_eq!(page.entries.len(), 1, "not after a restart either");
    let now = fixture.store.catalog().webhook(webhook.no).expect("it exists").webhook;
    assert!(matches!(now.switch, Switch::Disabled { reason: DisableReason::Gone, .. }));
    assert_ne!(now.version, webhook.version);
    assert_eq!(fixture.publish(2, 1).await, [Published::New { deliveries: 1 }], "events are still recorded");
    let query =
        DeliveryQuery { webhook: Some(webhook.id), states: vec![DeliveryView::Held], ..DeliveryQuery::default() };
    let held = fixture.store.list(&query, None, 10).await.expect("the store answers");
    assert_eq!(held.deliveries.len(), 2, "the one that failed is over");
    assert!(held.deliveries.iter().all(|delivery| delivery.next_attempt.is_none()));
}
