//! What the gate writes to the audit log.

use super::*;
use crate::model::audit::{About, AuditEntry, Ending, Principal};

fn create(tenant: &str) -> v1::CreateWebhookRequest {
    let webhook = v1::Webhook {
        tenant: tenant.into(),
        url: "https://hooks.example.com/in".into(),
        event_types: vec!["*".into()],
        ..v1::Webhook::default()
    };
    v1::CreateWebhookRequest { webhook: Some(webhook), ..v1::CreateWebhookRequest::default() }
}

fn code(entry: &AuditEntry) -> Option<Code> {
    entry.ending.map(|Ending { code, .. }| Code::from(code))
}

impl World {
    fn last(&self) -> AuditEntry {
        self.store.audited.lock().last().cloned().expect("there is an entry")
    }

    fn entries(&self) -> usize {
        self.store.audited.lock().len()
    }
}

#[tokio::test]
async fn what_changes_something_is_written_with_what_it_led_to() {
    let world = World::new().await;
    let reply = world.call("WebhookService/CreateWebhook", &create("acme"), &[]).await.expect("it is created");
    let created = v1::CreateWebhookResponse::decode(reply).unwrap();
    assert!(created.signing_secret.starts_with("whsec_"), "the answer is whole");
    let webhook = created.webhook.unwrap();
    let entry = world.last();
    assert_eq!((&*entry.method, code(&entry)), ("postrider.v1.WebhookService/CreateWebhook", Some(Code::Ok)));
    assert_eq!((&*entry.resource, &entry.principal), (&*webhook.id, &Principal::Anonymous));
    assert_eq!(entry.about, About::Tenant("acme".parse().unwrap()));

    let key = bearer(&world.key(&[], &[Right::Manage, Right::Read], None));
    let changed = v1::Webhook { display_name: "private".into(), ..webhook.clone() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
    let update = v1::UpdateWebhookRequest { webhook: Some(changed), update_mask, ..Default::default() };
    world.call("WebhookService/UpdateWebhook", &update, &[&key]).await.expect("it is updated");
    let entry = world.last();
    assert_eq!((&*entry.fields, &*entry.resource), (&["display_name".into()][..], &*webhook.id));
    assert!(matches!(&entry.principal, Principal::Key { name, .. } if **name == *"test"), "{entry:?}");
    assert!(!format!("{entry:?}").contains("private"));

    let missing = v1::DeleteWebhookRequest { tenant: "other".into(), id: webhook.id.clone(), ..Default::default() };
    assert_eq!(told(world.call("WebhookService/DeleteWebhook", &missing, &[&key]).await).0, Code::NotFound);
    assert_eq!((code(&world.last()), &*world.last().resource), (Some(Code::NotFound), &*webhook.id));
    let wrong = v1::DeleteWebhookRequest { id: "whsec_in-the-wrong-place".into(), ..Default::default() };
    assert_eq!(told(world.call("WebhookService/DeleteWebhook", &wrong, &[&key]).await).0, Code::InvalidArgument);
    assert_eq!((code(&world.last()), &*world.last().resource), (Some(Code::InvalidArgument), ""));

    let before = world.entries();
    world.call(LIST, &list("-"), &[&key]).await.expect("it may read");
    let publisher = bearer(&world.key(&[], &[Right::Publish], None));
    let event = v1::PublishEventRequest { event: Some(crate::api::tests::event("e")) };
    world.call("EventService/PublishEvent", &event, &[&publisher]).await.expect("it may publish");
    assert_eq!(world.entries(), before, "reads and publishing are not written");
}

#[tokio::test]
async fn refused_calls_are_written_with_who_they_claim_to_be() {
    let world = World::new().await;
    let reader = world.key(&["acme"], &[Right::Read], None);
    let manager = world.key(&["acme"], &[Right::Manage], None);
    let revoked = world.key(&[], &[Right::Read], None);
    world.store.catalog_keys().step(KeyStep::Revoked(revoked.id()));
    let is_key =
        |principal: &Principal, key: &ApiKeySecret| matches!(principal, Principal::Key { id, .. } if *id == key.id());

    let denied = world.call("WebhookService/CreateWebhook", &create("acme"), &[&bearer(&reader)]).await;
    assert_eq!((told(denied).0, code(&world.last())), (Code::PermissionDenied, Some(Code::PermissionDenied)));
    assert!(is_key(&world.last().principal, &reader));
    let hidden = world.call("WebhookService/CreateWebhook", &create("other"), &[&bearer(&manager)]).await;
    assert_eq!((told(hidden).0, code(&world.last())), (Code::NotFound, Some(Code::NotFound)));
    assert!(is_key(&world.last().principal, &manager));
    assert_eq!(world.last().about, About::Tenant("other".parse().unwrap()));
    let hidden = world.call(LIST, &list("other"), &[&bearer(&reader)]).await;
    assert_eq!((told(hidden).0, &*world.last().method), (Code::NotFound, "postrider.v1.WebhookService/ListWebhooks"));

    for (shown, claimed) in
        [(vec![], None), (vec!["Bearer prk_nonsense".to_owned()], None), (vec![bearer(&revoked)], Some(revoked.id()))]
    {
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        assert_eq!(told(world.call(LIST, &list(""), &shown).await).0, Code::Unauthenticated);
        let entry = world.last();
        assert_eq!(
            (entry.principal.clone(), code(&entry)),
            (Principal::Unauthenticated(claimed), Some(Code::Unauthenticated))
        );
        assert!(!format!("{entry:?}").contains(&revoked.reveal()[30..]));
    }
    assert_eq!(world.entries(), 6);
}

/// Nothing is done that is not written; what was done is told, whether that could be written or not.
#[tokio::test]
async fn what_cannot_be_written_is_not_done() {
    let world = World::new().await;
    *world.store.audits_left.lock() = 0;
    let refused = world.call("WebhookService/CreateWebhook", &create(""), &[]).await;
    assert_eq!(told(refused), (Code::ResourceExhausted, reason::DISK_FULL.into()));
    let listed = world.call(LIST, &list("-"), &[]).await.expect("reads go on");
    assert!(v1::ListWebhooksResponse::decode(listed).unwrap().webhooks.is_empty(), "nothing was done");

    *world.store.audits_left.lock() = 1;
    world.call("WebhookService/CreateWebhook", &create(""), &[]).await.expect("it is created");
    assert_eq!((world.entries(), code(&world.last())), (1, None), "how it ended is not known");
}

#[tokio::test]
async fn a_call_is_written_before_it_is_carried_out() {
    let world = World::new().await;
    // Its name is never judged, so that it does not end.
    let webhook = v1::Webhook { url: "https://slow.example.com/".into(), ..create("").webhook.unwrap() };
    let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
    {
        let mut call = Box::pin(world.call("WebhookService/CreateWebhook", &request, &[]));
        for _ in 0..10 {
            assert!(futures::poll!(&mut call).is_pending());
        }
        assert_eq!((world.entries(), code(&world.last())), (1, None));
    }
    assert_eq!((world.entries(), code(&world.last())), (1, None), "its caller went away");
}

#[tokio::test]
async fn entries_are_listed_to_those_who_operate() {
    let world = World::new().await;
    for tenant in ["acme", "acme", "other"] {
        world.call("WebhookService/CreateWebhook", &create(tenant), &[]).await.expect("it is created");
    }
    let listed = async |request: v1::ListAuditEntriesRequest, key: &str| {
        let reply = world.call("AuditService/ListAuditEntries", &request, &[key]).await;
        reply.map(|bytes| v1::ListAuditEntriesResponse::decode(bytes).unwrap())
    };
    let of = |tenant: &str| v1::ListAuditEntriesRequest { tenant: tenant.into(), ..Default::default() };
    let operator = bearer(&world.key(&["acme"], &[Right::Operate], None));
    assert_eq!(listed(of("acme"), &operator).await.unwrap().entries.len(), 2);
    assert_eq!(listed(of("other"), &operator).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(listed(of("-"), &operator).await.unwrap_err().code(), Code::PermissionDenied);
    let manager = bearer(&world.key(&["acme"], &[Right::Manage, Right::Read, Right::Publish], None));
    assert_eq!(listed(of("acme"), &manager).await.unwrap_err().code(), Code::PermissionDenied);

    let all = bearer(&world.key(&[], &[Right::Operate], None));
    let page =
        |page_token: &str| v1::ListAuditEntriesRequest { page_size: 4, page_token: page_token.into(), ..of("-") };
    let first = listed(page(""), &all).await.unwrap();
    let second = listed(page(&first.next_page_token), &all).await.unwrap();
    let numbers: Vec<i64> = first.entries.iter().chain(&second.entries).map(|entry| entry.number).collect();
    assert_eq!((numbers, &*second.next_page_token), (vec![6, 5, 4, 3, 2, 1], ""), "and reading it adds nothing");
    let foreign = v1::ListAuditEntriesRequest { failed: true, ..page(&first.next_page_token) };
    assert_eq!(listed(foreign, &all).await.unwrap_err().code(), Code::InvalidArgument);
}
