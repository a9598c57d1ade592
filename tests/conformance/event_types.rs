//! Event types: who may have which name, and what keeps one from being deleted.

use std::sync::Arc;

use postrider_server::{
    limits::{EVENT_SCHEMA_BYTES_MAX, TENANT_EVENT_SCHEMAS_BYTES_MAX, TENANT_EVENT_TYPES_MAX},
    model::{
        event_type::{EventType, EventTypeContent, EventTypeKey},
        ids::{EventTypeName, Tenant},
        schema::Schema,
        webhook::{Settings, Subscription},
    },
    store::{ConfigAnswer, ConfigChange},
};

use crate::fixture::{Engine, Fixture, START, at, secret, spec};

/// `-`: every tenant's.
fn key(tenant: &str, name: &str) -> EventTypeKey {
    let tenant = (tenant != "-").then(|| tenant.parse().expect("a tenant"));
    EventTypeKey { tenant, name: EventTypeName::new(name) }
}

fn titled(title: &str) -> EventTypeContent {
    EventTypeContent { title: title.into(), ..EventTypeContent::default() }
}

async fn change(fixture: &Fixture, change: ConfigChange) -> ConfigAnswer {
    fixture.store.put_config(change).await.expect("the store answers")
}

async fn create(fixture: &Fixture, tenant: &str, name: &str) -> ConfigAnswer {
    let create = ConfigChange::CreateEventType { key: key(tenant, name), content: titled(name), time: at(1) };
    change(fixture, create).await
}

async fn created(fixture: &Fixture, tenant: &str, name: &str) -> EventType {
    let answer = create(fixture, tenant, name).await;
    let ConfigAnswer::EventTypePut(event_type) = answer else { panic!("not created: {answer:?}") };
    event_type
}

async fn delete(fixture: &Fixture, tenant: &str, name: &str, expect: Option<u64>) -> ConfigAnswer {
    change(fixture, ConfigChange::DeleteEventType { key: key(tenant, name), expect }).await
}

fn names(fixture: &Fixture, tenant: &str) -> Vec<String> {
    let tenant: Tenant = tenant.parse().expect("a tenant");
    let all = fixture.store.catalog().event_types(&tenant, 0, 100);
    all.iter().map(|event_type| event_type.key.name.to_string()).collect()
}

pub(crate) async fn names_mean_one_type_to_a_tenant<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    created(&fixture, "ours", "b").await;
    created(&fixture, "theirs", "b").await;
    created(&fixture, "-", "a").await;
    created(&fixture, "ours", "c").await;
    for (tenant, name) in [("ours", "b"), ("-", "b"), ("-", "a"), ("theirs", "a")] {
        let answer = create(&fixture, tenant, name).await;
        assert!(matches!(answer, ConfigAnswer::EventTypeExists), "{tenant} {name}: {answer:?}");
    }
    for _ in 0..2 {
        assert_eq!(names(&fixture, "ours"), ["b", "a", "c"], "in the order of their creation");
        assert_eq!(names(&fixture, "theirs"), ["b", "a"]);
        assert_eq!(names(&fixture, "nobody"), ["a"]);
        assert_eq!(fixture.store.catalog().event_type_totals().0, 4);
        fixture.reopen::<E>().await;
    }
    assert!(matches!(delete(&fixture, "theirs", "b", None).await, ConfigAnswer::EventTypeDeleted));
    assert!(matches!(delete(&fixture, "theirs", "b", None).await, ConfigAnswer::NotFound));
    assert!(matches!(delete(&fixture, "theirs", "a", None).await, ConfigAnswer::NotFound), "it is everybody's");
    assert!(matches!(delete(&fixture, "-", "a", None).await, ConfigAnswer::EventTypeDeleted));
    fixture.reopen::<E>().await;
    assert_eq!(names(&fixture, "ours"), ["b", "c"]);
    assert!(created(&fixture, "theirs", "a").await.no > 4, "numbers are never used again");
}

pub(crate) async fn what_is_said_of_a_type_changes_under_its_condition_and_survives<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let first = created(&fixture, "ours", "a").await;
    let schema = Arc::new(Schema::compile(r#"{"type": "object"}"#).expect("a schema"));
    let content = EventTypeContent { schema: Some(schema), example: "{}".into(), ..titled("new") };
    let update = |key, expect| ConfigChange::UpdateEventType { key, expect, content: content.clone(), time: at(2) };
    let missing = change(&fixture, update(key("-", "a"), 1)).await;
    assert!(matches!(missing, ConfigAnswer::NotFound), "{missing:?}");
    let ConfigAnswer::EventTypePut(second) = change(&fixture, update(first.key.clone(), 1)).await else {
        panic!("not updated")
    };
    assert_eq!((second.version, second.no, second.create_time), (2, first.no, first.create_time));
    assert_eq!((&second.content, second.update_time), (&content, at(2)));
    let stale = change(&fixture, update(first.key.clone(), 1)).await;
    assert!(matches!(stale, ConfigAnswer::VersionMismatch), "{stale:?}");
    let ConfigAnswer::EventTypePut(same) = change(&fixture, update(first.key.clone(), 2)).await else {
        panic!("not updated")
    };
    assert_eq!(same, second, "nothing changed, and no version is spent on it");
    let stale = delete(&fixture, "ours", "a", Some(1)).await;
    assert!(matches!(stale, ConfigAnswer::VersionMismatch), "{stale:?}");
    fixture.reopen::<E>().await;
    assert_eq!(*fixture.store.catalog().find_event_type(&first.key).expect("it is there"), second);
    assert_eq!(fixture.store.catalog().event_type_totals(), (1, 18));
    assert!(matches!(delete(&fixture, "ours", "a", Some(2)).await, ConfigAnswer::EventTypeDeleted));
}

pub(crate) async fn a_tenant_has_room_of_its_own_for_types<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let text = format!(r#"{{"description": "{}"}}"#, "x".repeat(EVENT_SCHEMA_BYTES_MAX - 32));
    let long = Arc::new(Schema::compile(&text).expect("a schema"));
    let create = |tenant: &str, name: &str, schema: Option<&Arc<Schema>>| {
        let content = EventTypeContent { schema: schema.cloned(), ..titled("new") };
        change(&fixture, ConfigChange::CreateEventType { key: key(tenant, name), content, time: START })
    };
    let is_put = |answer: &ConfigAnswer| matches!(answer, ConfigAnswer::EventTypePut(_));
    let fit = TENANT_EVENT_SCHEMAS_BYTES_MAX / EVENT_SCHEMA_BYTES_MAX;
    for n in 0..fit {
        assert!(is_put(&create("ours", &format!("s{n}"), Some(&long)).await), "{n}");
    }
    let refused = create("ours", "more", Some(&long)).await;
    assert!(matches!(refused, ConfigAnswer::TooManyEventTypes), "{refused:?}");
    assert!(is_put(&create("theirs", "more", Some(&long)).await), "others have theirs");

    let names: Vec<_> = (fit..=TENANT_EVENT_TYPES_MAX).map(|n| format!("n{n}")).collect();
    let answers = futures::future::join_all(names.iter().map(|name| create("ours", name, None))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| !is_put(answer)).collect();
    assert!(matches!(refused[..], [ConfigAnswer::TooManyEventTypes]), "one too many, {} refused", refused.len());
    assert!(is_put(&create("theirs", "another", None).await));
    assert!(is_put(&create("-", "everybodys", Some(&long)).await));
    assert!(matches!(delete(&fixture, "ours", "s0", None).await, ConfigAnswer::EventTypeDeleted));
    assert!(is_put(&create("ours", "more", Some(&long)).await), "there is room again");
}

pub(crate) async fn a_type_that_webhooks_name_stays<E: Engine>() {
    let fixture = Fixture::new::<E>();
    created(&fixture, "ours", "a").await;
    created(&fixture, "-", "b").await;
    let naming = |names: &[&str]| Subscription::to(names.iter().map(|name| EventTypeName::new(name)).collect());
    fixture.webhook_of("ours", Subscription::All).await;
    let webhook = fixture.webhook_of("ours", naming(&["a", "b"])).await;
    fixture.webhook_of("theirs", naming(&["b", "ADD_TAG"])).await;
    let refused = delete(&fixture, "ours", "a", None).await;
    assert!(matches!(refused, ConfigAnswer::EventTypeInUse { webhooks: 1 }), "{refused:?}");
    let refused = delete(&fixture, "-", "b", None).await;
    assert!(matches!(refused, ConfigAnswer::EventTypeInUse { webhooks: 2 }), "{refused:?}");

    // Both changes may be in one commit: whichever goes first, no webhook names what there is not.
    let (gone, deleted) = tokio::join!(fixture.delete(&webhook), delete(&fixture, "ours", "a", None));
    assert_eq!(gone, 0);
    if !matches!(deleted, ConfigAnswer::EventTypeDeleted) {
        assert!(matches!(delete(&fixture, "ours", "a", None).await, ConfigAnswer::EventTypeDeleted));
    }
    let create = ConfigChange::CreateWebhook {
        spec: spec("ours", naming(&["a"])),
        keys: secret().into(),
        request: None,
        time: at(3),
    };
    let refused = change(&fixture, create).await;
    assert!(matches!(&refused, ConfigAnswer::UnknownEventType(name) if name.as_str() == "a"), "{refused:?}");
    let webhook = fixture.webhook_of("ours", Subscription::All).await;
    let update = ConfigChange::UpdateWebhook {
        tenant: webhook.tenant.clone(),
        id: webhook.id,
        expect: webhook.version,
        settings: Settings { subscription: naming(&["a"]), ..webhook.settings },
        enabled: true,
        drop_held: false,
        pair: None,
        time: at(4),
    };
    let refused = change(&fixture, update).await;
    assert!(matches!(&refused, ConfigAnswer::UnknownEventType(_)), "{refused:?}");
}
