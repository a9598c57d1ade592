//! Changing a webhook: what an update names changes, at once, and nothing else.

use postrider_proto::v1::{DeliveryState, DisableReason, ListDeliveriesRequest, UpdateWebhookRequest, Webhook};
use postrider_tests::{
    client::{Client, Created},
    deadline::within,
    events::{event, numbered},
    receiver::Receiver,
    rejection::Rejection,
};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::{patient, setup};

async fn try_update(client: &Client, webhook: Webhook, paths: Option<&[&str]>) -> Result<Webhook, Status> {
    let update_mask = paths.map(|paths| FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask, held_deliveries: 0 };
    let call = within("UpdateWebhook", async { client.webhooks.clone().update_webhook(request).await }).await;
    Ok(call?.into_inner().webhook.expect("a reply holds the webhook"))
}

async fn update(client: &Client, webhook: Webhook, paths: Option<&[&str]>) -> Webhook {
    try_update(client, webhook, paths).await.expect("the webhook is updated")
}

fn of(created: &Created) -> Webhook {
    Webhook { id: created.id(), ..Webhook::default() }
}

/// Contract: with a mask the named fields change, emptied ones too; without one those that are not empty; `*` replaces all.
#[tokio::test]
async fn what_the_mask_names_changes_and_nothing_else() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let created = client.create(&receiver.url("/"), &["ADD_TAG"]).await;
    let team = [("team".to_owned(), "crm".to_owned())];
    let named = Webhook { display_name: "CRM".into(), metadata: team.clone().into(), ..of(&created) };
    let first = update(&client, named, None).await;
    assert_eq!((first.display_name.as_str(), &first.metadata), ("CRM", &team.into()));
    assert_eq!((&first.url, &first.event_types), (&created.webhook.url, &created.webhook.event_types));
    assert_ne!(first.etag, created.webhook.etag);
    assert_eq!(client.webhook(&created.id()).await, first);

    let masked = Webhook { description: "ignored".into(), event_types: vec!["NEW_LEAD".into()], ..of(&created) };
    let second = update(&client, masked, Some(&["event_types", "metadata"])).await;
    assert_eq!((second.event_types[0].as_str(), second.event_types.len()), ("NEW_LEAD", 1));
    assert!(second.metadata.is_empty() && second.description.is_empty() && second.display_name == "CRM", "{second:?}");

    let whole = Webhook { url: receiver.url("/new"), event_types: vec!["*".into()], ..of(&created) };
    let third = update(&client, whole, Some(&["*"])).await;
    assert_eq!((third.url, third.display_name.as_str()), (receiver.url("/new"), ""));
    assert_eq!(third.create_time, created.webhook.create_time);
    assert_eq!(client.publish([event("e", "REMOVE_TAG", "{}")]).await, [1]);
    assert_eq!(receiver.received(1).await[0].path, "/new");
}

/// What it is called, the update, and the reason and the field it is refused for.
type Case<'a> = (&'a str, Webhook, Option<&'a [&'a str]>, &'a str, &'a str);

/// Contract: what cannot be updated is refused by name, and a stale etag with ABORTED; nothing changes.
#[tokio::test]
async fn wrong_updates_are_refused_by_name() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let created = client.create(&receiver.url("/"), &["ADD_TAG"]).await;
    let (invalid, field) = (Code::InvalidArgument, "INVALID_FIELD");
    let cases: [Case<'_>; 8] = [
        ("unknown", of(&created), Some(&["colour"]), field, "update_mask.paths[0]"),
        ("camel case", of(&created), Some(&["url", "eventTypes"]), field, "update_mask.paths[1]"),
        ("output only", of(&created), Some(&["create_time"]), field, "update_mask.paths[0]"),
        ("star in company", of(&created), Some(&["url", "*"]), field, "update_mask.paths[1]"),
        ("nothing", of(&created), None, field, "webhook"),
        ("emptied URL", of(&created), Some(&["url"]), field, "webhook.url"),
        ("malformed id", Webhook { id: "x".into(), ..of(&created) }, Some(&["metadata"]), field, "webhook.id"),
        (
            "forbidden URL",
            Webhook { url: "https://10.0.0.1/".into(), ..of(&created) },
            None,
            "URL_NOT_ALLOWED",
            "webhook.url",
        ),
    ];
    for (name, webhook, paths, reason, field) in cases {
        let status = try_update(&client, webhook, paths).await.expect_err(name);
        Rejection::from(&status).check(name, invalid, reason, field);
    }
    let stale = Webhook { etag: "stale".into(), description: "x".into(), ..of(&created) };
    let status = try_update(&client, stale, None).await.expect_err("the etag is stale");
    Rejection::from(&status).check("stale etag", Code::Aborted, "ETAG_MISMATCH", "");
    let theirs = Webhook { tenant: "theirs".into(), description: "x".into(), ..of(&created) };
    let status = try_update(&client, theirs, None).await.expect_err("another tenant's");
    Rejection::from(&status).check("another tenant", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
    assert_eq!(client.webhook(&created.id()).await, created.webhook);
    let present = Webhook { etag: created.webhook.etag.clone(), description: "x".into(), ..of(&created) };
    assert_eq!(update(&client, present, None).await.description, "x");
}

/// Contract: the next attempt is made as the webhook says then, those of pending deliveries included.
#[tokio::test]
async fn pending_deliveries_follow_the_webhook() {
    let setup = patient();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let (old, new) = (Receiver::answering(500).await, Receiver::answering(200).await);
    let created = client.create(&old.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", 3)).await;
    for outcome in watch.outcomes(3).await {
        assert_eq!(outcome.state(), DeliveryState::Pending);
    }
    let off = Webhook { enabled: Some(false), url: new.url("/"), ..of(&created) };
    let off = update(&client, off, Some(&["enabled", "url"])).await;
    assert_eq!((off.enabled, off.disable_reason(), off.pending_deliveries), (Some(false), DisableReason::Requested, 3));
    client.publish(numbered("held", "ADD_TAG", 2)).await;
    let request = ListDeliveriesRequest { states: vec![DeliveryState::Held.into()], ..Default::default() };
    assert_eq!(client.deliveries(request).await.len(), 5);
    daemon.kill().await;
    let daemon = setup.start().await;

    let client = daemon.client().await;
    let on = Webhook { enabled: Some(true), ..of(&created) };
    assert_eq!(update(&client, on, None).await.disable_reason(), DisableReason::Unspecified);
    // The two that were never attempted; the others when they are due.
    new.received(2).await;
    assert_eq!(old.count(), 3);
}
