//! What the gate writes to the audit log.

use super::*;
use crate::{
    limits::{AUDIT_CALLS_BURST, AUDIT_CALLS_PER_SECOND, AUDIT_REFUSALS_OF_ONE_MAX},
    model::audit::{About, AuditEntry, Ending, Principal},
};

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

/// A flood is refused, and what is refused is not done; nobody else waits for that.
#[tokio::test(start_paused = true)]
async fn who_makes_calls_too_fast_has_to_wait() {
    let world = World::new().await;
    let [flooding, other] = [(); 2].map(|()| bearer(&world.key(&["acme"], &[Right::Manage, Right::Read], None)));
    let missing = v1::DeleteWebhookRequest {
        tenant: "acme".into(),
        id: "wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80".into(),
        ..v1::DeleteWebhookRequest::default()
    };
    for _ in 0..AUDIT_CALLS_BURST {
        let answer = world.call("WebhookService/DeleteWebhook", &missing, &[&flooding]).await;
        assert_eq!(told(answer), (Code::NotFound, reason::WEBHOOK_NOT_FOUND.into()));
    }
    let carried_out = world.entries();
    let wait = Duration::from_secs_f64(1.0 / AUDIT_CALLS_PER_SECOND);
    for _ in 0..100 {
        let refused = world.call("WebhookService/CreateWebhook", &create("acme"), &[&flooding]).await.unwrap_err();
        let details = refused.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((refused.code(), &*info.reason), (Code::ResourceExhausted, reason::TOO_MANY_CALLS));
        assert_eq!((&*info.metadata["limit"], &*info.metadata["burst"]), ("20", "1000"));
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(wait));
    }
    let listed = world.call(LIST, &list("acme"), &[&flooding]).await.expect("reads go on");
    assert!(v1::ListWebhooksResponse::decode(listed).unwrap().webhooks.is_empty(), "nothing was done");
    assert_eq!(world.entries() - carried_out, AUDIT_REFUSALS_OF_ONE_MAX as usize, "that it happened is on record");
    assert_eq!(code(&world.last()), Some(Code::ResourceExhausted));

    world.call("WebhookService/CreateWebhook", &create("acme"), &[&other]).await.expect("nobody else waits");
    let all = bearer(&world.key(&[], &[Right::Manage], None));
    for _ in 0..2 * AUDIT_CALLS_BURST {
        let answer = world.call("WebhookService/DeleteWebhook", &missing, &[&all]).await;
        assert_eq!(told(answer).0, Code::NotFound, "who acts for all has more");
    }
    tokio::time::advance(wait).await;
    world.call("WebhookService/CreateWebhook", &create("acme"), &[&flooding]).await.expect("it waited");
}

/// A tenant's operator sees that others were refused there, and not who they are.
#[tokio::test]
async fn outsiders_are_shown_without_their_names() {
    let world = World::new().await;
    let (operator, everybody) =
        (world.key(&["acme"], &[Right::Operate], None), world.key(&[], &[Right::Operate], None));
    let stranger = world.key(&["other"], &[Right::Manage, Right::Read, Right::Operate, Right::Publish], None);
    let id = stranger.id().to_string();
    let theirs = bearer(&stranger);
    let event =
        v1::PublishEventRequest { event: Some(v1::Event { tenant: "acme".into(), ..crate::api::tests::event("e") }) };
    let quota = v1::Quota { tenant: "acme".into(), ..v1::Quota::default() };
    let quota = v1::SetQuotaRequest { quota: Some(quota) };
    let draft = v1::ExplainEventRequest {
        tenant: "other".into(),
        subject: Some(v1::explain_event_request::Subject::Event(event.event.clone().unwrap())),
        ..v1::ExplainEventRequest::default()
    };
    for refused in [
        world.call("WebhookService/CreateWebhook", &create("acme"), &[&theirs]).await,
        world.call(LIST, &list("acme"), &[&theirs]).await,
        world.call("QuotaService/SetQuota", &quota, &[&theirs]).await,
        world.call("EventService/ExplainEvent", &draft, &[&theirs]).await,
    ] {
        assert!(matches!(told(refused).0, Code::NotFound | Code::PermissionDenied));
    }
    let reply = world.call("EventService/PublishEvent", &event, &[&theirs]).await.expect("it is answered");
    let reply = v1::PublishEventResponse::decode(reply).unwrap();
    assert!(matches!(reply.result, Some(v1::publish_event_response::Result::Rejected(_))));
    let who = bearer(&world.key(&["acme", "other"], &[Right::Manage], None));
    world.call("WebhookService/CreateWebhook", &create("acme"), &[&who]).await.expect("it may");

    let listed = async |key: &ApiKeySecret, principal: &str| {
        let request =
            v1::ListAuditEntriesRequest { tenant: "acme".into(), principal: principal.into(), ..Default::default() };
        let reply = world.call("AuditService/ListAuditEntries", &request, &[&bearer(key)]).await.unwrap();
        v1::ListAuditEntriesResponse::decode(reply).unwrap().entries
    };
    let seen = listed(&operator, "").await;
    let kinds: Vec<_> = seen.iter().map(|entry| entry.principal.as_ref().unwrap().kind()).collect();
    let withheld = v1::PrincipalKind::Withheld;
    assert_eq!(kinds, [v1::PrincipalKind::Key, withheld, withheld, withheld, withheld, withheld], "{seen:?}");
    assert!(!format!("{:?}", &seen[1..]).contains(&id) && !format!("{:?}", &seen[1..]).contains("test"), "{seen:?}");
    let codes: Vec<_> = seen.iter().map(|entry| Code::from(entry.code.unwrap())).collect();
    let (hidden, denied) = (Code::NotFound, Code::PermissionDenied);
    assert_eq!(codes, [Code::Ok, hidden, hidden, denied, hidden, hidden]);
    assert!(listed(&operator, &id).await.is_empty(), "nor by asking for them");

    let all = listed(&everybody, &id).await;
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|entry| entry.principal.as_ref().unwrap().id == id), "{all:?}");
}

/// Publishing for others is refused event by event, and so it goes on record, as far as refused calls do.
#[tokio::test]
async fn publishing_for_another_tenant_is_on_record() {
    let world = World::new().await;
    let key = world.key(&["acme"], &[Right::Publish], None);
    let request = |n: usize, tenant: &str| v1::PublishEventsRequest {
        event: Some(v1::Event { tenant: tenant.into(), ..crate::api::tests::event(&format!("e-{n}")) }),
    };
    let events = 3 * AUDIT_REFUSALS_OF_ONE_MAX as usize;
    let tenant = |n: usize| if n.is_multiple_of(2) { "other" } else { "acme" };
    let frames: BytesMut = (0..events).flat_map(|n| frame(&request(n, tenant(n)).encode_to_vec())).collect();
    let body = Body::new(Full::new(frames.freeze()));
    let answer = world.open("EventService/PublishEvents", body, &[&bearer(&key)]).await;
    let mut replies = timeout(LONG, answer.into_body().collect()).await.unwrap().unwrap().to_bytes();
    for n in 0..events {
        let length = u32::from_be_bytes(replies[1..5].try_into().unwrap()) as usize;
        let reply = v1::PublishEventsResponse::decode(replies.split_to(5 + length).slice(5..)).unwrap();
        let is_rejected = matches!(reply.result, Some(v1::publish_events_response::Result::Rejected(_)));
        assert_eq!((reply.event_id, is_rejected), (format!("e-{n}"), tenant(n) == "other"), "the others pass");
    }
    let entries = world.store.audited.lock().clone();
    assert_eq!(entries.len(), AUDIT_REFUSALS_OF_ONE_MAX as usize, "the others are counted");
    for entry in entries {
        assert_eq!((&*entry.method, code(&entry)), ("postrider.v1.EventService/PublishEvents", Some(Code::NotFound)));
        assert!(matches!(&entry.principal, Principal::Key { id, .. } if *id == key.id()) && entry.is_outsiders);
        assert_eq!(entry.about, About::named("other"));
    }
}

/// What a tenant may use is the operator's decision, and about the tenant: it goes with its name.
#[tokio::test]
async fn a_quota_is_about_its_tenant() {
    let world = World::new().await;
    let quota = v1::Quota { tenant: "acme".into(), ..v1::Quota::default() };
    world.call("QuotaService/SetQuota", &v1::SetQuotaRequest { quota: Some(quota) }, &[]).await.expect("it is set");
    let entry = world.last();
    assert_eq!((&entry.about, &*entry.resource), (&About::named("acme"), ""));
    assert!(!format!("{:?}", entry.without_tenant()).contains("acme"));
}
