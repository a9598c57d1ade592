//! What the operator is told of: webhooks that are disabled, breakers, deliveries that are given up.

use postrider_proto::v1::{
    CreateWebhookRequest, DisableReason, OperationalEvent, UpdateWebhookRequest, WatchDeliveriesRequest, Webhook,
    delivery_update::Update, watch_deliveries_request::Start,
};
use postrider_tests::{
    client::{Client, Watcher},
    events::event,
    receiver::{Answer, Receiver},
};
use serde_json::Value;

use crate::setup;

async fn create(client: &Client, tenant: &str, url: String, event_type: &str) -> String {
    let webhook = Webhook { tenant: tenant.into(), url, event_types: vec![event_type.into()], ..Webhook::default() };
    let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
    let reply = client.webhooks.clone().create_webhook(request).await.expect("the webhook is created");
    reply.into_inner().webhook.expect("a reply holds the webhook").id
}

/// Follows all tenants from the beginning, operational events included.
async fn watch(client: &Client) -> Watcher {
    let request = WatchDeliveriesRequest {
        tenant: "-".into(),
        start: Some(Start::FromBeginning(true)),
        operational_events: true,
        ..WatchDeliveriesRequest::default()
    };
    client.watch_with(request).await
}

async fn next_operational(watch: &mut Watcher) -> OperationalEvent {
    loop {
        if let Update::OperationalEvent(event) = watch.update().await {
            return event;
        }
    }
}

/// Issue 4: what is disabled or given up reaches the watch of those who ask, and the operator's webhooks, under the same id; it is
/// still there after a restart, once; what happens to the operator's own webhooks is watched and makes no events.
#[tokio::test]
async fn the_operator_is_told() {
    let setup = setup().flag("--retry-schedule", "50ms").flag("--operator-tenant", "ops");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let operator = Receiver::answering(200).await;
    let broken = Receiver::answering(500).await;
    let receiver = Receiver::start(|request| Answer::status(if request.path == "/gone" { 410 } else { 500 })).await;
    let failing = create(&client, "default", receiver.url("/failing?key=1"), "ADD_TAG").await;
    let gone = create(&client, "default", receiver.url("/gone"), "NEW_LEAD").await;
    create(&client, "ops", operator.url("/disabled"), "postrider.webhook.disabled").await;
    create(&client, "ops", operator.url("/exhausted"), "postrider.delivery.exhausted").await;
    // The operator's own trouble: it would go on for ever if it made events.
    let own = create(&client, "ops", broken.url("/"), "postrider.delivery.exhausted").await;
    let mut quiet = client.watch_from_beginning().await;
    let mut watch_all = watch(&client).await;

    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let exhausted = next_operational(&mut watch_all).await;
    assert_eq!((exhausted.r#type.as_str(), exhausted.tenant.as_str()), ("postrider.delivery.exhausted", "default"));
    assert_eq!((&exhausted.webhook_id, exhausted.event_id.as_str(), exhausted.attempts), (&failing, "e", 2));
    assert_eq!(
        (exhausted.event_type.as_str(), exhausted.url.as_str()),
        ("ADD_TAG", receiver.url("/failing?key=1").as_str())
    );
    let own_trouble = next_operational(&mut watch_all).await;
    assert_eq!((&own_trouble.webhook_id, &own_trouble.event_id), (&own, &exhausted.id));

    client.publish([event("f", "NEW_LEAD", "{}")]).await;
    let told = [next_operational(&mut watch_all).await, next_operational(&mut watch_all).await];
    let disabled = told.iter().find(|it| it.r#type == "postrider.webhook.disabled").expect("it is disabled");
    assert_eq!((&disabled.webhook_id, disabled.disable_reason()), (&gone, DisableReason::Gone));
    let given_up = told.iter().find(|it| it.r#type == "postrider.delivery.exhausted").expect("and given up");
    assert_eq!((given_up.event_id.as_str(), given_up.attempts), ("f", 1));
    let arrived = operator.received(3).await;
    for it in [&exhausted, disabled, given_up] {
        let request = arrived.iter().find(|request| request.event_id == it.id).expect("the operator is told");
        assert_eq!(request.header("webhook-event-type"), it.r#type);
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(
            (&body["tenant"], &body["webhook_id"]),
            (&"default".into(), &it.webhook_id.clone().into()),
            "{body}"
        );
        assert_eq!(body["url"], it.url, "{body}");
    }
    assert_eq!(next_operational(&mut watch_all).await.webhook_id, own, "that of the second one, and no more");

    let off = Webhook { id: failing.clone(), enabled: Some(false), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(off), ..UpdateWebhookRequest::default() };
    client.webhooks.clone().update_webhook(request).await.expect("it is disabled");
    let requested = next_operational(&mut watch_all).await;
    assert_eq!((&requested.webhook_id, requested.disable_reason()), (&failing, DisableReason::Requested));
    operator.received(4).await;
    // Who does not ask hears of outcomes alone.
    assert_eq!(quiet.outcomes(3).await.len(), 3);
    drop((client, daemon));

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let mut again = watch(&client).await;
    let mut ids = Vec::new();
    while ids.last() != Some(&requested.id) {
        ids.push(next_operational(&mut again).await.id);
    }
    let unique: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), unique.len()), (6, 6), "{ids:?}");
    let told: std::collections::BTreeSet<_> = operator.all().into_iter().map(|request| request.event_id).collect();
    assert_eq!(told.len(), 4, "what happens to the operator's own makes no events: {told:?}");
}
