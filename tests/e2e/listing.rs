//! Pages, filters and tenants.

use std::collections::HashSet;

use postrider_proto::v1::{
    DeleteWebhookRequest, DeliveryState, Event, GetDeliveryRequest, GetWebhookRequest, ListDeliveriesRequest,
    ListEventTypesRequest, ListWebhooksRequest, WatchDeliveriesRequest, Webhook,
};
use postrider_tests::{
    client::Client,
    events::{event, numbered},
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tonic::Code;

use crate::{patient, setup};

const URL: &str = "https://receiver.invalid/";

async fn webhook_pages(client: &Client, tenant: &str, page_size: i32) -> Vec<Vec<Webhook>> {
    let mut pages = Vec::new();
    let mut request = ListWebhooksRequest { tenant: tenant.into(), page_size, ..Default::default() };
    loop {
        let page = client.webhooks.clone().list_webhooks(request.clone()).await.expect("a page").into_inner();
        pages.push(page.webhooks);
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

/// Contract: webhooks are listed oldest first, page by page; `-` means all tenants; a page token belongs to its request;
/// the size is coerced to its maximum.
#[tokio::test]
async fn webhooks_are_listed_page_by_page() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let mut created = Vec::new();
    for n in 0..10 {
        let tenant = if n % 3 == 0 { "beta" } else { "acme" };
        created.push(client.create_for(tenant, URL, &["*"]).await.webhook);
    }
    let of = |tenant: &str| created.iter().filter(|w| w.tenant == tenant).cloned().collect::<Vec<_>>();
    for (tenant, expected) in [("acme", of("acme")), ("beta", of("beta")), ("-", created.clone()), ("", Vec::new())] {
        for page_size in [0, 1, 3, 1_000_000] {
            let pages = webhook_pages(&client, tenant, page_size).await;
            assert_eq!(pages.concat(), expected, "{tenant:?} by {page_size}");
            let longest = pages.iter().map(Vec::len).max().unwrap_or_default();
            assert!(page_size == 0 || i32::try_from(longest).is_ok_and(|longest| longest <= page_size));
        }
    }

    let list = |tenant: &str, page_size, page_token: &str| {
        let mut webhooks = client.webhooks.clone();
        let (tenant, page_token) = (tenant.into(), page_token.into());
        let request = ListWebhooksRequest { tenant, page_size, page_token, ..Default::default() };
        async move { webhooks.list_webhooks(request).await.map(tonic::Response::into_inner) }
    };
    let token = list("acme", 2, "").await.expect("a page").next_page_token;
    assert_eq!(list("acme", 3, &token).await.expect("the size may change").webhooks, of("acme")[2..5]);
    let tampered = format!("{}x", &token[..token.len() - 1]);
    for (tenant, token) in [("beta", token.as_str()), ("-", &token), ("acme", &tampered), ("acme", "?")] {
        let status = list(tenant, 2, token).await.expect_err("the token belongs to another request");
        Rejection::from(&status).check(tenant, Code::InvalidArgument, "INVALID_PAGE_TOKEN", "page_token");
    }
}

/// Contract: event types are listed in catalogue order, page by page, with bound tokens.
#[tokio::test]
async fn event_types_are_listed_page_by_page() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let list = |tenant: &str, page_size, page_token: &str| {
        let mut types = client.event_types.clone();
        let request = ListEventTypesRequest { tenant: tenant.into(), page_size, page_token: page_token.into() };
        async move { types.list_event_types(request).await.map(tonic::Response::into_inner) }
    };
    let all = list("", 0, "").await.expect("a page").event_types;
    let mut paged = Vec::new();
    let mut token = String::new();
    loop {
        let page = list("", 4, &token).await.expect("a page");
        assert!(page.event_types.len() <= 4);
        paged.extend(page.event_types);
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    assert_eq!(paged, all);
    let status = list("acme", 4, &token).await.expect_err("the token belongs to another request");
    Rejection::from(&status).check("tenant", Code::InvalidArgument, "INVALID_PAGE_TOKEN", "page_token");
}

/// Contract: deliveries are listed newest first; filters of different kinds must all match; tokens are bound to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_filtered_and_paged() {
    let daemon = patient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|r| Answer::status(if r.path == "/good" { 200 } else { 500 })).await;
    let good = client.create(&receiver.url("/good"), &["*"]).await.id();
    let bad = client.create(&receiver.url("/bad"), &["ADD_TAG"]).await.id();
    let mut watch = client.watch().await;
    client.publish(numbered("tag", "ADD_TAG", 30).chain(numbered("lead", "NEW_LEAD", 30))).await;
    watch.outcomes(90).await;

    let ids = |event_type: &str| (0..30).rev().map(|n| format!("{event_type}-{n}")).collect::<Vec<_>>();
    let all_good = [ids("lead"), ids("tag")].concat();
    let delivered = vec![DeliveryState::Delivered.into()];
    let pending = vec![DeliveryState::Pending.into()];
    let both = vec![DeliveryState::Pending.into(), DeliveryState::Delivered.into()];
    let base = ListDeliveriesRequest { page_size: 7, ..ListDeliveriesRequest::default() };
    let of = |webhook_id: &str, states: &Vec<i32>| ListDeliveriesRequest {
        webhook_id: webhook_id.into(),
        states: states.clone(),
        ..base.clone()
    };
    let cases = [
        (of(&good, &Vec::new()), all_good.clone()),
        (of(&bad, &both), ids("tag")),
        (of(&good, &pending), Vec::new()),
        (of("", &delivered), all_good),
        (of("", &pending), ids("tag")),
        (ListDeliveriesRequest { tenant: "other".into(), ..base.clone() }, Vec::new()),
    ];
    for (request, expected) in cases {
        let listed: Vec<_> = client.deliveries(request.clone()).await.into_iter().map(|d| d.event_id).collect();
        assert_eq!(listed, expected, "{request:?}");
    }
    let of_event = ListDeliveriesRequest { event_id: "tag-3".into(), ..base.clone() };
    let webhooks: HashSet<_> = client.deliveries(of_event).await.into_iter().map(|d| d.webhook_id).collect();
    assert_eq!(webhooks, HashSet::from([good.clone(), bad.clone()]));
    let everyone = ListDeliveriesRequest { tenant: "-".into(), page_size: 1_000_000, ..base.clone() };
    assert_eq!(client.deliveries(everyone).await.len(), 90);

    let list = |request| {
        let mut deliveries = client.deliveries.clone();
        async move { deliveries.list_deliveries(request).await.map(tonic::Response::into_inner) }
    };
    let page_token = list(of(&good, &delivered)).await.expect("a page").next_page_token;
    assert!(!page_token.is_empty());
    for other in [of(&bad, &delivered), of(&good, &both), of("", &delivered)] {
        let request = ListDeliveriesRequest { page_token: page_token.clone(), ..other };
        let status = list(request).await.expect_err("the token belongs to another request");
        Rejection::from(&status).check("filter", Code::InvalidArgument, "INVALID_PAGE_TOKEN", "page_token");
    }
}

/// Promise 3 and requirement S7: nothing of one tenant is seen, changed or received by another.
#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let ours = client.create_for("acme", &receiver.url("/acme"), &["*"]).await.id();
    client.create_for("beta", &receiver.url("/beta"), &["*"]).await;
    let watching = |tenant: &str| WatchDeliveriesRequest { tenant: tenant.into(), ..Default::default() };
    let mut of_beta = client.watch_with(watching("beta")).await;
    let mut of_all = client.watch_with(watching("-")).await;
    let of = |tenant: &str, id: &str| Event { tenant: tenant.into(), ..event(id, "ADD_TAG", "{}") };
    assert_eq!(client.publish([of("acme", "a"), of("gamma", "g"), of("beta", "b")]).await, [1, 0, 1]);

    let seen: HashSet<_> = of_all.outcomes(2).await.into_iter().map(|o| (o.tenant, o.event_id)).collect();
    assert_eq!(seen, HashSet::from([("acme".into(), "a".into()), ("beta".into(), "b".into())]));
    assert_eq!(of_beta.outcomes(1).await[0].event_id, "b");
    let got: HashSet<_> = receiver.received(2).await.into_iter().map(|r| (r.path, r.event_id)).collect();
    assert_eq!(got, HashSet::from([("/acme".into(), "a".into()), ("/beta".into(), "b".into())]));

    let request = ListDeliveriesRequest { tenant: "acme".into(), ..Default::default() };
    let delivery = client.deliveries(request).await.remove(0).id;
    for tenant in ["", "beta", "gamma"] {
        let tenant = || tenant.to_owned();
        let read = GetDeliveryRequest { tenant: tenant(), id: delivery.clone() };
        let status = client.deliveries.clone().get_delivery(read).await.expect_err("it is another tenant's");
        Rejection::from(&status).check("delivery", Code::NotFound, "DELIVERY_NOT_FOUND", "");
        let read = GetWebhookRequest { tenant: tenant(), id: ours.clone() };
        let status = client.webhooks.clone().get_webhook(read).await.expect_err("it is another tenant's");
        Rejection::from(&status).check("webhook", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
        let delete = DeleteWebhookRequest { tenant: tenant(), id: ours.clone(), etag: String::new() };
        let status = client.webhooks.clone().delete_webhook(delete).await.expect_err("it is another tenant's");
        Rejection::from(&status).check("delete", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
        let list = ListDeliveriesRequest { tenant: tenant(), webhook_id: ours.clone(), ..Default::default() };
        assert_eq!(client.deliveries(list).await, [], "another tenant's webhook has no deliveries here");
    }
}
