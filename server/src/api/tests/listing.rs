use postrider_proto::{error_info as reason, v1};
use tonic::{Code, Request};
use v1::webhook_service_server::WebhookService as _;

use super::{
    services::{create, webhooks},
    told,
};
use crate::{
    api::webhooks::WebhookService,
    limits::LIST_WEBHOOKS_EXAMINED_MAX,
    model::{ids::WebhookNo, time::Timestamp},
    store::{Counts, fake::FakeStore},
};

/// Webhooks of one tenant, and that they are called so.
async fn named(service: &WebhookService, names: impl IntoIterator<Item = String>) {
    for name in names {
        let mut request = create("hooks.example.com", "").into_inner();
        request.webhook.as_mut().unwrap().display_name = name;
        service.create_webhook(Request::new(request)).await.unwrap();
    }
}

/// The names on each page of a list.
async fn pages(service: &WebhookService, request: v1::ListWebhooksRequest) -> Vec<Vec<String>> {
    let (mut pages, mut request) = (Vec::new(), request);
    loop {
        let page = service.list_webhooks(Request::new(request.clone())).await.unwrap().into_inner();
        pages.push(page.webhooks.into_iter().map(|webhook| webhook.display_name).collect());
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

/// However few pass a filter, a call looks at no more than it may, and all that pass are found.
#[tokio::test]
async fn pages_are_short_where_few_webhooks_pass() {
    let service = webhooks(&FakeStore::new());
    let count = 2 * LIST_WEBHOOKS_EXAMINED_MAX + 15;
    named(&service, (0..count).map(|n| format!("{}{n}", if n % 20 == 3 { "needle-" } else { "hay-" }))).await;
    let needles: Vec<_> = (0..count).filter(|n| n % 20 == 3).map(|n| format!("needle-{n}")).collect();
    for (order_by, expected) in [("", needles.clone()), ("create_time desc", needles.iter().rev().cloned().collect())] {
        let request =
            v1::ListWebhooksRequest { text: "NEEDLE".into(), order_by: order_by.into(), ..Default::default() };
        let found = pages(&service, request).await;
        assert_eq!(found.concat(), expected, "{order_by:?}");
        assert!(found.len() > 2, "{order_by:?}: {found:?}");
        let none = v1::ListWebhooksRequest { text: "nothing".into(), order_by: order_by.into(), ..Default::default() };
        let none = pages(&service, none).await;
        assert!(none.len() > 2 && none.concat().is_empty(), "{none:?}");
    }
    // What is unfiltered is given in whole pages, the last of which is known to be that.
    for (page_size, expected) in [(19, vec![19, 19, 19, 19, 19]), (1_000, vec![42, 42, 11])] {
        let request = v1::ListWebhooksRequest { page_size, ..Default::default() };
        let sizes: Vec<_> = pages(&service, request).await.iter().map(Vec::len).collect();
        assert_eq!(sizes, expected, "by {page_size}");
    }
}

#[tokio::test]
async fn lists_by_name_have_pages_too() {
    let service = webhooks(&FakeStore::new());
    named(&service, ["b", "", "C", "a", "", "B"].map(Into::into)).await;
    for (order_by, expected) in
        [("display_name", ["", "", "a", "b", "B", "C"]), ("display_name desc", ["C", "B", "b", "a", "", ""])]
    {
        for page_size in 1..8 {
            let request = v1::ListWebhooksRequest { order_by: order_by.into(), page_size, ..Default::default() };
            assert_eq!(pages(&service, request).await.concat(), expected, "{order_by:?} by {page_size}");
        }
    }
    let request = |order_by: &str, page_token| v1::ListWebhooksRequest {
        order_by: order_by.into(),
        page_token,
        page_size: 1,
        ..Default::default()
    };
    let by_name = Request::new(request("display_name", String::new()));
    let token = service.list_webhooks(by_name).await.unwrap().into_inner().next_page_token;
    let other = service.list_webhooks(Request::new(request("display_name desc", token))).await.unwrap_err();
    assert_eq!(told(&other), (Code::InvalidArgument, reason::INVALID_PAGE_TOKEN.into(), vec!["page_token".into()]));
}

#[tokio::test]
async fn counters_are_shown_and_no_change_fails_for_them() {
    let store = FakeStore::new();
    let service = webhooks(&store);
    named(&service, ["one", "two"].map(Into::into)).await;
    let counts = Counts {
        pending: 1,
        delivered: 20,
        failed: 300,
        cancelled: 4_000,
        last_delivered: Some(Timestamp::from_micros(5_000_000)),
        last_failed: None,
    };
    store.counts.lock().as_mut().unwrap().insert(WebhookNo(2), counts);
    let stats = v1::WebhookStats {
        events: 4_321,
        delivered: 20,
        failed: 300,
        pending: 1,
        cancelled: 4_000,
        last_delivered_time: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
        last_failed_time: None,
    };
    let list = || service.list_webhooks(Request::new(v1::ListWebhooksRequest::default()));
    let listed = list().await.unwrap().into_inner().webhooks;
    let shown: Vec<_> = listed.iter().map(|webhook| (webhook.stats, webhook.pending_deliveries)).collect();
    assert_eq!(shown, [(Some(v1::WebhookStats::default()), 0), (Some(stats), 1)]);
    let get = v1::GetWebhookRequest { tenant: String::new(), id: listed[1].id.clone() };
    let read = service.get_webhook(Request::new(get.clone())).await.unwrap().into_inner();
    assert_eq!(read.webhook.as_ref(), Some(&listed[1]));
    let update = |description: &str| {
        let webhook = v1::Webhook { id: get.id.clone(), description: description.into(), ..v1::Webhook::default() };
        Request::new(v1::UpdateWebhookRequest { webhook: Some(webhook), ..Default::default() })
    };
    let updated = service.update_webhook(update("a")).await.unwrap().into_inner().webhook.unwrap();
    assert_eq!(updated.stats, Some(stats));

    *store.counts.lock() = None;
    assert_eq!(list().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(service.get_webhook(Request::new(get.clone())).await.unwrap_err().code(), Code::Unavailable);
    let updated = service.update_webhook(update("b")).await.unwrap().into_inner().webhook.unwrap();
    assert_eq!((updated.stats, updated.description.as_str()), (None, "b"));
}
