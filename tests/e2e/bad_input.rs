//! Bad input for every call: the right code, the field named, the daemon unharmed.
//!
//! Events on a publish stream are in `publish_stream.rs`.

use std::future::Future;

use postrider_proto::v1::{
    CreateWebhookRequest, DeleteWebhookRequest, Event, GetDeliveryRequest, GetWebhookRequest, ListDeliveriesRequest,
    ListEventTypesRequest, ListWebhooksRequest, PublishEventRequest, WatchDeliveriesRequest, Webhook,
    publish_event_response, watch_deliveries_request::Start,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::event,
    receiver::Receiver,
    rejection::Rejection,
};
use prost_types::{ListValue, Struct, Timestamp, Value, value::Kind};
use tonic::{Code, Response, Status};

use crate::setup;

const URL: &str = "https://receiver.invalid/";
const NO_WEBHOOK: &str = "wh_00000000000000000000000000000000";
const NO_DELIVERY: &str = "dlv_00000000000000000000000000000000";

/// How a call that must be refused was.
async fn refusal<T: std::fmt::Debug>(what: &str, call: impl Future<Output = Result<Response<T>, Status>>) -> Rejection {
    match within(what, call).await {
        Ok(response) => panic!("{what} was not refused: {:?}", response.into_inner()),
        Err(status) => Rejection::from(&status),
    }
}

/// A daemon is unharmed when a good event still reaches a good webhook.
async fn check_unharmed(client: &Client) {
    let receiver = Receiver::answering(200).await;
    client.create_for("unharmed", &receiver.url("/"), &["*"]).await;
    let good = Event { tenant: "unharmed".into(), ..event("", "ADD_TAG", "{}") };
    assert_eq!(client.publish([good]).await, [1]);
    receiver.received(1).await;
}

/// Done-item 6 for `CreateWebhook`.
#[tokio::test]
async fn create_webhook() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let with_url = |url: &str| webhook("", url, &["ADD_TAG"]);
    let with_types = |types: &[&str]| webhook("", URL, types);
    let names: Vec<_> = (0..257).map(|n| format!("TYPE_{n}")).collect();
    let too_many: Vec<_> = names.iter().map(String::as_str).collect();
    let long_url = format!("{URL}{}", "x".repeat(2048));
    let long = Webhook { description: "x".repeat(1025), ..with_types(&["*"]) };
    let (invalid, not_allowed, unknown) = ("INVALID_FIELD", "URL_NOT_ALLOWED", "UNKNOWN_EVENT_TYPE");
    let cases = vec![
        ("no url", with_url(""), invalid, "webhook.url"),
        ("no scheme", with_url("receiver.invalid/x"), invalid, "webhook.url"),
        ("not a url", with_url("https://"), invalid, "webhook.url"),
        ("long url", with_url(&long_url), invalid, "webhook.url"),
        ("user information", with_url("https://user:hunter2@receiver.invalid/"), invalid, "webhook.url"),
        ("fragment", with_url("https://receiver.invalid/#part"), invalid, "webhook.url"),
        ("other scheme", with_url("ftp://receiver.invalid/"), "", "webhook.url"),
        ("metadata address", with_url("https://169.254.169.254/latest"), not_allowed, "webhook.url"),
        ("private address", with_url("https://10.1.2.3/"), not_allowed, "webhook.url"),
        ("mapped address", with_url("https://[::ffff:10.1.2.3]/"), not_allowed, "webhook.url"),
        ("address as a number", with_url("https://167838211/"), not_allowed, "webhook.url"),
        ("plain http to a public address", with_url("http://93.184.216.34/"), not_allowed, "webhook.url"),
        ("no event types", with_types(&[]), invalid, "webhook.event_types"),
        ("star and more", with_types(&["*", "ADD_TAG"]), invalid, "webhook.event_types[0]"),
        ("too many event types", with_types(&too_many), "", "webhook.event_types"),
        ("unknown event type", with_types(&["ADD_TAG", "MESAGE_RECEIVED"]), unknown, "webhook.event_types[1]"),
        ("long description", long, invalid, "webhook.description"),
        ("bad tenant", webhook("Not A Tenant", URL, &["*"]), invalid, "webhook.tenant"),
        ("all tenants", webhook("-", URL, &["*"]), invalid, "webhook.tenant"),
    ];
    let mut webhooks = client.webhooks.clone();
    for (what, webhook, reason, field) in cases {
        let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
        let rejection = refusal(what, webhooks.create_webhook(request)).await;
        rejection.check(what, Code::InvalidArgument, reason, field);
        assert!(!rejection.message.contains("hunter2"), "{what}: credentials are not echoed: {rejection:?}");
        if what == "unknown event type" {
            assert!(rejection.message.contains("MESSAGE_RECEIVED"), "the nearest name is a hint: {rejection:?}");
        }
    }
    let request = CreateWebhookRequest::default();
    let rejection = refusal("nothing", webhooks.create_webhook(request)).await;
    rejection.check("nothing", Code::InvalidArgument, invalid, "webhook");
    let request = CreateWebhookRequest {
        webhook: Some(with_url(URL)),
        request_id: "not an id!".into(),
        ..CreateWebhookRequest::default()
    };
    let rejection = refusal("request id", webhooks.create_webhook(request)).await;
    rejection.check("request id", Code::InvalidArgument, invalid, "request_id");
    // Several mistakes are told at once.
    let request = CreateWebhookRequest {
        webhook: Some(webhook("-", "", &[])),
        request_id: "?".into(),
        ..CreateWebhookRequest::default()
    };
    let rejection = refusal("several", webhooks.create_webhook(request)).await;
    for field in ["webhook.tenant", "webhook.url", "webhook.event_types", "request_id"] {
        rejection.check("several", Code::InvalidArgument, "", field);
    }

    let listed = webhooks.list_webhooks(ListWebhooksRequest { tenant: "-".into(), ..Default::default() }).await;
    assert_eq!(listed.expect("webhooks can be listed").into_inner().webhooks, [], "nothing was created");
    check_unharmed(&client).await;
}

/// Done-item 6 for `GetWebhook`, `DeleteWebhook`, `ListWebhooks` and `ListEventTypes`.
#[tokio::test]
async fn webhooks_and_event_types() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let mut webhooks = client.webhooks.clone();
    let ids = [
        ("bad tenant", "A B", NO_WEBHOOK, Code::InvalidArgument, "INVALID_FIELD", "tenant"),
        ("all tenants", "-", NO_WEBHOOK, Code::InvalidArgument, "INVALID_FIELD", "tenant"),
        ("no id", "", "", Code::InvalidArgument, "INVALID_FIELD", "id"),
        ("bad id", "", "wh_1", Code::InvalidArgument, "INVALID_FIELD", "id"),
        ("delivery's id", "", NO_DELIVERY, Code::InvalidArgument, "INVALID_FIELD", "id"),
        ("unknown id", "", NO_WEBHOOK, Code::NotFound, "WEBHOOK_NOT_FOUND", ""),
    ];
    for (what, tenant, id, code, reason, field) in ids {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        let request = GetWebhookRequest { tenant: tenant.clone(), id: id.clone() };
        refusal(what, webhooks.get_webhook(request)).await.check(what, code, reason, field);
        let request = DeleteWebhookRequest { tenant, id, etag: String::new() };
        refusal(what, webhooks.delete_webhook(request)).await.check(what, code, reason, field);
    }
    let pages = [
        ("bad tenant", "é", 0, "", "INVALID_FIELD", "tenant"),
        ("negative size", "", -1, "", "INVALID_FIELD", "page_size"),
        ("bad token", "", 0, "token", "INVALID_PAGE_TOKEN", "page_token"),
        ("long token", "", 0, &"A".repeat(10_000), "INVALID_PAGE_TOKEN", "page_token"),
    ];
    for (what, tenant, page_size, page_token, reason, field) in pages {
        let (tenant, page_token) = (tenant.to_owned(), page_token.to_owned());
        let request = ListWebhooksRequest {
            tenant: tenant.clone(),
            page_size,
            page_token: page_token.clone(),
            ..Default::default()
        };
        let rejection = refusal(what, webhooks.list_webhooks(request)).await;
        rejection.check(what, Code::InvalidArgument, reason, field);
        let request = ListEventTypesRequest { tenant, page_size, page_token };
        let rejection = refusal(what, client.event_types.clone().list_event_types(request)).await;
        rejection.check(what, Code::InvalidArgument, reason, field);
    }
    check_unharmed(&client).await;
}

/// Done-item 6 for `GetDelivery` and `ListDeliveries`.
#[tokio::test]
async fn deliveries() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let mut deliveries = client.deliveries.clone();
    let ids = [
        ("bad tenant", "A B", NO_DELIVERY, Code::InvalidArgument, "INVALID_FIELD", "tenant"),
        ("all tenants", "-", NO_DELIVERY, Code::InvalidArgument, "INVALID_FIELD", "tenant"),
        ("no id", "", "", Code::InvalidArgument, "INVALID_FIELD", "id"),
        ("bad id", "", "dlv_XYZ", Code::InvalidArgument, "INVALID_FIELD", "id"),
        ("unknown id", "", NO_DELIVERY, Code::NotFound, "DELIVERY_NOT_FOUND", ""),
    ];
    for (what, tenant, id, code, reason, field) in ids {
        let request = GetDeliveryRequest { tenant: tenant.into(), id: id.into() };
        refusal(what, deliveries.get_delivery(request)).await.check(what, code, reason, field);
    }
    let base = ListDeliveriesRequest::default();
    let lists = [
        ("bad tenant", ListDeliveriesRequest { tenant: "A".into(), ..base.clone() }, "INVALID_FIELD", "tenant"),
        ("webhook", ListDeliveriesRequest { webhook_id: "x".into(), ..base.clone() }, "INVALID_FIELD", "webhook_id"),
        ("event", ListDeliveriesRequest { event_id: "a b".into(), ..base.clone() }, "INVALID_FIELD", "event_id"),
        ("no state", ListDeliveriesRequest { states: vec![0], ..base.clone() }, "INVALID_FIELD", "states[0]"),
        ("unknown state", ListDeliveriesRequest { states: vec![1, 99], ..base.clone() }, "INVALID_FIELD", "states[1]"),
        ("size", ListDeliveriesRequest { page_size: -1, ..base.clone() }, "INVALID_FIELD", "page_size"),
        ("token", ListDeliveriesRequest { page_token: "?".into(), ..base }, "INVALID_PAGE_TOKEN", "page_token"),
    ];
    for (what, request, reason, field) in lists {
        let rejection = refusal(what, deliveries.list_deliveries(request)).await;
        rejection.check(what, Code::InvalidArgument, reason, field);
    }
    check_unharmed(&client).await;
}

/// Done-item 6 for `WatchDeliveries`.
#[tokio::test]
async fn watch_deliveries() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let base = WatchDeliveriesRequest::default();
    let starting = |start| WatchDeliveriesRequest { start: Some(start), ..base.clone() };
    let many = |text: &str| vec![text.to_owned(); 101];
    let of_webhooks = |webhook_ids| WatchDeliveriesRequest { webhook_ids, ..base.clone() };
    let of_types = |event_types| WatchDeliveriesRequest { event_types, ..base.clone() };
    let (invalid, unknown) = ("INVALID_FIELD", "UNKNOWN_EVENT_TYPE");
    let cases = [
        ("bad tenant", WatchDeliveriesRequest { tenant: "A".into(), ..base.clone() }, invalid, "tenant"),
        ("bad webhook", of_webhooks(vec![NO_WEBHOOK.into(), "x".into()]), invalid, "webhook_ids[1]"),
        ("too many webhooks", of_webhooks(many(NO_WEBHOOK)), invalid, "webhook_ids"),
        ("unknown type", of_types(vec!["ADD_TAGS".into()]), unknown, "event_types[0]"),
        ("too many types", of_types(many("ADD_TAG")), invalid, "event_types"),
        ("bad state", WatchDeliveriesRequest { states: vec![77], ..base.clone() }, invalid, "states[0]"),
        ("bad cursor", starting(Start::Cursor("cursor".into())), "INVALID_CURSOR", "cursor"),
        ("no cursor", starting(Start::Cursor(String::new())), "INVALID_CURSOR", "cursor"),
        ("long cursor", starting(Start::Cursor("A".repeat(10_000))), "INVALID_CURSOR", "cursor"),
        ("not from the beginning", starting(Start::FromBeginning(false)), invalid, "from_beginning"),
    ];
    for (what, request, reason, field) in cases {
        // A stream may be refused before or in place of its first message.
        let first = async {
            let mut stream = client.deliveries.clone().watch_deliveries(request).await?.into_inner();
            stream.message().await.map(Response::new)
        };
        refusal(what, first).await.check(what, Code::InvalidArgument, reason, field);
    }
    check_unharmed(&client).await;
}

/// Done-item 6 for `PublishEvent`: each field of an event.
#[tokio::test]
async fn publish_event() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let base = || event("e", "ADD_TAG", "{}");
    let labelled = |key: &str, value: &str| Event { labels: [(key.into(), value.into())].into(), ..base() };
    let many = (0..17).map(|n| (format!("k{n}"), String::new())).collect();
    let data = |kind| {
        let fields = [("a".to_owned(), Value { kind: Some(kind) })].into();
        Event { payload: Some(postrider_proto::v1::event::Payload::Data(Struct { fields })), ..base() }
    };
    let time = |seconds, nanos| Event { occur_time: Some(Timestamp { seconds, nanos }), ..base() };
    let typed = |content_type: &str| Event { content_type: content_type.into(), ..base() };
    let invalid = "INVALID_FIELD";
    let cases = [
        ("bad id", Event { id: "a/b".into(), ..base() }, invalid, "event.id"),
        ("long id", Event { id: "x".repeat(65), ..base() }, invalid, "event.id"),
        ("bad tenant", Event { tenant: "Acme".into(), ..base() }, invalid, "event.tenant"),
        ("all tenants", Event { tenant: "-".into(), ..base() }, invalid, "event.tenant"),
        ("no type", Event { r#type: String::new(), ..base() }, "", "event.type"),
        ("star", Event { r#type: "*".into(), ..base() }, "", "event.type"),
        ("unknown type", Event { r#type: "ADD-TAG".into(), ..base() }, "UNKNOWN_EVENT_TYPE", "event.type"),
        ("too many labels", Event { labels: many, ..base() }, invalid, "event.labels"),
        ("bad label", labelled("a b", ""), invalid, r#"event.labels["a b"]"#),
        ("long label", labelled("a", &"x".repeat(257)), invalid, r#"event.labels["a"]"#),
        ("long key", Event { ordering_key: "x".repeat(257), ..base() }, invalid, "event.ordering_key"),
        ("impossible nanos", time(0, -1), invalid, "event.occur_time"),
        ("year 10000", time(253_402_300_800, 0), invalid, "event.occur_time"),
        ("line break", typed("text/plain\r\nx-injected: 1"), invalid, "event.content_type"),
        ("long content type", typed(&"x".repeat(257)), invalid, "event.content_type"),
        (
            "text as data",
            Event { content_type: "text/plain".into(), ..data(Kind::BoolValue(true)) },
            invalid,
            "event.content_type",
        ),
        ("not a number", data(Kind::NumberValue(f64::NAN)), invalid, "event.data.a"),
        // Too deep to be decoded at all, so that there is no field to name.
        ("deep", data(nested(200)), invalid, ""),
        ("large data", data(Kind::StringValue("x".repeat(1024 * 1024))), invalid, "event.data"),
        ("large body", event("e", "ADD_TAG", vec![0; 1024 * 1024 + 1]), invalid, "event.body"),
        ("no payload", Event { payload: None, ..base() }, invalid, "event.payload"),
    ];
    let answer = |event| {
        let mut events = client.events.clone();
        async move {
            let call = within("PublishEvent", events.publish_event(PublishEventRequest { event })).await;
            call.expect("a rejection is a reply").into_inner().result.expect("a reply has a result")
        }
    };
    for (what, event, reason, field) in cases {
        match answer(Some(event)).await {
            publish_event_response::Result::Rejected(status) => {
                Rejection::from(&status).check(what, Code::InvalidArgument, reason, field);
            }
            publish_event_response::Result::Accepted(_) => panic!("{what} was accepted"),
        }
    }
    match answer(None).await {
        publish_event_response::Result::Rejected(status) => {
            Rejection::from(&status).check("nothing", Code::InvalidArgument, invalid, "event");
        }
        publish_event_response::Result::Accepted(_) => panic!("nothing was accepted"),
    }
    check_unharmed(&client).await;
}

/// Lists in lists: deep enough to overflow a stack that follows them without counting, or to be refused on the way.
fn nested(depth: usize) -> Kind {
    (0..depth).fold(Kind::BoolValue(true), |inner, _| {
        Kind::ListValue(ListValue { values: vec![Value { kind: Some(inner) }] })
    })
}
