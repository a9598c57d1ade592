//! Counters of webhooks, and lists of webhooks by filters and orders.

use std::collections::{BTreeMap, HashMap};

use postrider_proto::v1::{
    CancelDeliveriesRequest, DeliveryState, DisableReason, ListDeliveriesRequest, ListWebhooksRequest,
    RetryDeliveryRequest, Webhook, WebhookStats,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::{event, numbered},
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tonic::{Code, Status};

use crate::setup;

async fn stats(client: &Client, id: &str) -> WebhookStats {
    let webhook = client.webhook(id).await;
    let stats = webhook.stats.expect("always set");
    assert_eq!(stats.pending, webhook.pending_deliveries);
    assert_eq!(stats.events, stats.delivered + stats.failed + stats.pending + stats.cancelled, "{stats:?}");
    stats
}

/// Delivered, failed, pending, cancelled.
async fn counted(client: &Client, id: &str) -> [i64; 4] {
    let stats = stats(client, id).await;
    [stats.delivered, stats.failed, stats.pending, stats.cancelled]
}

async fn list(client: &Client, request: ListWebhooksRequest) -> Result<(Vec<Webhook>, String), Status> {
    let call = within("ListWebhooks", async { client.webhooks.clone().list_webhooks(request).await });
    let page = call.await?.into_inner();
    Ok((page.webhooks, page.next_page_token))
}

/// Contract: a webhook's counters say where its deliveries stand, each counted once; retries by hand and cancelling move them;
/// they are the same after a kill, and right after one in the middle of deliveries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_exact_whatever_is_interrupted() {
    let setup = setup().flag("--retry-schedule", "100ms");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let answer = |path: &str, epoch| if path == "/bad" && epoch == 0 { 500 } else { 200 };
    let receiver = Receiver::start(move |request| Answer::status(answer(&request.path, request.epoch))).await;
    let good = client.create(&receiver.url("/good"), &["*"]).await.id();
    let bad = client.create(&receiver.url("/bad"), &["ADD_TAG"]).await;
    let (created, bad) = (bad.webhook.stats, bad.id());
    let held = Webhook { enabled: Some(false), ..webhook("", &receiver.url("/held"), &["ADD_TAG"]) };
    let held = client.create_as(held).await.id();
    assert_eq!(created, Some(WebhookStats::default()));

    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", 20)).await;
    let outcomes = watch.outcomes(60).await;
    let failed = outcomes.iter().find(|outcome| outcome.state() == DeliveryState::Failed).expect("20 of them").clone();
    assert_eq!(counted(&client, &good).await, [20, 0, 0, 0]);
    assert_eq!(counted(&client, &bad).await, [0, 20, 0, 0], "attempts are not counted");
    assert_eq!(counted(&client, &held).await, [0, 0, 20, 0]);
    let before = [stats(&client, &good).await, stats(&client, &bad).await, stats(&client, &held).await];
    let times = before.map(|stats| (stats.last_delivered_time.is_some(), stats.last_failed_time.is_some()));
    assert_eq!(times, [(true, false), (false, true), (false, false)]);
    daemon.kill().await;

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let (listed, _) = list(&client, ListWebhooksRequest::default()).await.expect("a page");
    assert_eq!(listed.iter().map(|webhook| webhook.stats).collect::<Vec<_>>(), before.map(Some));
    receiver.start_epoch();
    let mut watch = client.watch().await;
    let retry = RetryDeliveryRequest { id: failed.delivery_id, ..Default::default() };
    client.deliveries.clone().retry_delivery(retry).await.expect("it has failed");
    watch.outcome(DeliveryState::Delivered).await;
    assert_eq!(counted(&client, &bad).await, [1, 19, 0, 0]);
    let cancel = CancelDeliveriesRequest { webhook_id: held.clone(), ..Default::default() };
    client.deliveries.clone().cancel_deliveries(cancel).await.expect("they are pending");
    assert_eq!(counted(&client, &held).await, [0, 0, 0, 20]);

    client.publish(numbered("late", "NEW_LEAD", 500)).await;
    receiver.received(100).await;
    daemon.kill().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let done = async {
        while stats(&client, &good).await.pending > 0 {
            tokio::task::yield_now().await;
        }
    };
    within("everything is delivered", done).await;
    assert_eq!(counted(&client, &good).await, [520, 0, 0, 0]);
    assert_eq!(counted(&client, &bad).await, [1, 19, 0, 0]);
    for (id, expected) in [(&good, 520), (&bad, 20), (&held, 20)] {
        let deliveries =
            client.deliveries(ListDeliveriesRequest { webhook_id: id.clone(), ..Default::default() }).await;
        assert_eq!(deliveries.len(), expected, "as many as are on record");
    }
}

/// Contract: webhooks are found by type, state, text and metadata, all of which must hold; they come in the order that is asked
/// for; page tokens belong to filters and order.
#[tokio::test]
async fn webhooks_are_found_and_ordered() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(410).await;
    let mut ids = BTreeMap::new();
    let named = |name: &str, url: &str, types: &[&str], team: &str| Webhook {
        display_name: name.to_owned(),
        metadata: BTreeMap::from([("team".to_owned(), team.to_owned())]),
        ..webhook("", url, types)
    };
    for (key, webhook) in [
        ("crm", named("CRM", "https://crm.receiver.invalid/Hook", &["NEW_LEAD"], "sales")),
        ("all", named("archive", "https://archive.invalid/", &["*"], "ops")),
        ("off", Webhook { enabled: Some(false), ..named("", "https://off.receiver.invalid/", &["ADD_TAG"], "sales") }),
        ("gone", named("Bot", &receiver.url("/crm"), &["ADD_TAG", "REMOVE_TAG"], "ops")),
    ] {
        ids.insert(client.create_as(webhook).await.id(), key);
    }
    let mut watch = client.watch().await;
    client.publish([event("e", "REMOVE_TAG", "{}")]).await;
    receiver.received(1).await;
    // Those that are elsewhere are tried again and again.
    while watch.outcomes(1).await[0].http_status != 410 {}

    let found = async |request: ListWebhooksRequest| {
        let (webhooks, token) = list(&client, request.clone()).await.expect("a page");
        assert_eq!(token, "", "{request:?}");
        webhooks.iter().map(|webhook| ids[&webhook.id]).collect::<Vec<_>>()
    };
    let all = ListWebhooksRequest::default();
    let text = |text: &str| ListWebhooksRequest { text: text.into(), ..ListWebhooksRequest::default() };
    let of_type = |name: &str| ListWebhooksRequest { event_type: name.into(), ..ListWebhooksRequest::default() };
    let order = |order: &str| ListWebhooksRequest { order_by: order.into(), ..ListWebhooksRequest::default() };
    let team = |team: &str| HashMap::from([("team".to_owned(), team.to_owned())]);
    for (request, expected) in [
        (all.clone(), &["crm", "all", "off", "gone"][..]),
        (of_type("ADD_TAG"), &["all", "off", "gone"]),
        (of_type("NEW_LEAD"), &["crm", "all"]),
        (ListWebhooksRequest { enabled: Some(true), ..all.clone() }, &["crm", "all"]),
        (ListWebhooksRequest { enabled: Some(false), ..all.clone() }, &["off", "gone"]),
        (ListWebhooksRequest { disable_reason: DisableReason::Requested.into(), ..all.clone() }, &["off"]),
        (ListWebhooksRequest { failing: true, ..all.clone() }, &["gone"]),
        (text("CRM"), &["crm", "gone"]),
        (text("receiver.INVALID/h"), &["crm"]),
        (ListWebhooksRequest { metadata: team("sales"), ..all.clone() }, &["crm", "off"]),
        (ListWebhooksRequest { metadata: team("ops"), enabled: Some(true), ..all.clone() }, &["all"]),
        (ListWebhooksRequest { metadata: team("sale"), ..all.clone() }, &[]),
        (order("create_time desc"), &["gone", "off", "all", "crm"]),
        (order("display_name"), &["off", "all", "gone", "crm"]),
        (order("display_name desc"), &["crm", "gone", "all", "off"]),
        (ListWebhooksRequest { text: "e".into(), ..order("display_name") }, &["off", "all", "crm"]),
    ] {
        assert_eq!(found(request.clone()).await, expected, "{request:?}");
    }

    let mut paged = Vec::new();
    let mut request = ListWebhooksRequest { page_size: 1, ..order("display_name desc") };
    loop {
        let (webhooks, token) = list(&client, request.clone()).await.expect("a page");
        paged.extend(webhooks.iter().map(|webhook| ids[&webhook.id]));
        if token.is_empty() {
            break;
        }
        let other = ListWebhooksRequest { page_token: token.clone(), failing: true, ..request.clone() };
        let status = list(&client, other).await.expect_err("the token belongs to another request");
        Rejection::from(&status).check("filter", Code::InvalidArgument, "INVALID_PAGE_TOKEN", "page_token");
        request.page_token = token;
    }
    assert_eq!(paged, ["crm", "gone", "all", "off"]);

    for (request, field) in [
        (order("url"), "order_by"),
        (ListWebhooksRequest { tenant: "-".into(), ..order("display_name") }, "order_by"),
        (ListWebhooksRequest { disable_reason: 77, ..all.clone() }, "disable_reason"),
        (text(&"x".repeat(300)), "text"),
    ] {
        let status = list(&client, request).await.expect_err("no such list");
        Rejection::from(&status).check(field, Code::InvalidArgument, "INVALID_FIELD", field);
    }
    let status = list(&client, of_type("ADD_TAGS")).await.expect_err("no such type");
    Rejection::from(&status).check("type", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event_type");
}
