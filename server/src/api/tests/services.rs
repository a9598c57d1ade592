use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use postrider_proto::{error_info as reason, v1};
use prost::Message as _;
use tonic::{Code, Request, Status, body::Body};
use tower::ServiceExt as _;
use v1::{
    delivery_service_server::DeliveryService as _, event_type_service_server::EventTypeService as _,
    webhook_service_server::WebhookService as _,
};

use super::{accept, event, stop, told};
use crate::{
    api::{
        Api, Config, Deps, Handshake, History, NameJudge, Rules, Trial, deliveries::DeliveryService,
        event_types::EventTypeService, handshake::Asker, webhooks::WebhookService,
    },
    clock::Clock,
    flow::Job,
    limits::{GRPC_MESSAGE_BYTES_MAX, WATCH_HEARTBEAT},
    metrics::{AuditMetrics, WatchMetrics},
    model::{
        address::AddressPolicy,
        credentials::Grant,
        delivery::{AttemptResult, DeliveryState},
        ids::{DeliveryId, DeliveryKey, EventSeq, EventTypeName, WebhookId, WebhookNo},
        ownership::{Origin, Question, Refusal},
        target::{Target, TargetRules},
        time::Timestamp,
    },
    store::{Delivery, DeliveryDetail, DeliveryView, fake::FakeStore},
    watch,
};

/// As many test events are on their way, and as many receivers asked, as may be.
struct NoTrial;

#[async_trait]
impl Trial for NoTrial {
    async fn attempt(&self, _: Job) -> Option<AttemptResult> {
        None
    }
}

#[async_trait]
impl Handshake for NoTrial {
    async fn ask(&self, _: Question) -> Option<Result<Option<NonZeroU32>, Refusal>> {
        None
    }
}

/// Refuses every name that begins with `evil`, and never says a word about one that begins with `slow`.
struct Judge;

#[async_trait]
impl NameJudge for Judge {
    async fn judge(&self, target: &Target) -> Result<(), String> {
        let host = target.url().host_str().unwrap_or_default();
        if host.starts_with("slow") {
            std::future::pending::<()>().await;
        }
        if host.starts_with("evil") { Err("resolves to a private address".into()) } else { Ok(()) }
    }
}

fn rules() -> Rules {
    let targets = TargetRules { allow_http: false, policy: AddressPolicy::new(vec![]) };
    Rules { targets, ..Rules::default() }
}

pub(super) fn webhooks(store: &Arc<FakeStore>) -> WebhookService {
    WebhookService {
        store: store.clone(),
        gates: Arc::default(),
        clock: Clock::start(),
        rules: rules(),
        names: Arc::new(Judge),
        trial: Arc::new(NoTrial),
        asker: Asker { handshake: Arc::new(NoTrial), origin: Origin::default(), clock: Clock::start() },
        stop: stop(),
    }
}

pub(super) fn deliveries(store: &Arc<FakeStore>) -> DeliveryService {
    let watch = watch::Config { heartbeat: WATCH_HEARTBEAT }.build(store.clone(), WatchMetrics::default());
    let clock = Clock::start();
    let history = History { store: store.clone(), clock, retention: Duration::from_hours(720) };
    DeliveryService { store: store.clone(), watch, clock, history, stop: stop(), stop_watching: stop() }
}

pub(super) fn create(host: &str, request_id: &str) -> Request<v1::CreateWebhookRequest> {
    let webhook =
        v1::Webhook { url: format!("https://{host}/in"), event_types: vec!["*".into()], ..v1::Webhook::default() };
    Request::new(v1::CreateWebhookRequest {
        webhook: Some(webhook),
        request_id: request_id.into(),
        ..Default::default()
    })
}

#[tokio::test(start_paused = true)]
async fn webhooks_are_created_read_and_deleted() {
    let store = FakeStore::new();
    let service = webhooks(&store);
    let created = service.create_webhook(create("hooks.example.com", "r1")).await.unwrap().into_inner();
    assert!(created.signing_secret.starts_with("whsec_"));
    let webhook = created.webhook.clone().unwrap();
    assert_eq!((webhook.enabled, webhook.tenant.as_str()), (Some(true), "default"));
    let again = service.create_webhook(create("hooks.example.com", "r1")).await.unwrap().into_inner();
    assert_eq!(again, created);
    let reused = service.create_webhook(create("other.example.com", "r1")).await.unwrap_err();
    assert_eq!(told(&reused), (Code::AlreadyExists, reason::REQUEST_ID_REUSED.into(), vec![]));

    let key = |tenant: &str| v1::GetWebhookRequest { tenant: tenant.into(), id: webhook.id.clone() };
    let read = service.get_webhook(Request::new(key(""))).await.unwrap().into_inner();
    assert_eq!(read.webhook, created.webhook);
    let elsewhere = service.get_webhook(Request::new(key("other"))).await.unwrap_err();
    assert_eq!(told(&elsewhere), (Code::NotFound, reason::WEBHOOK_NOT_FOUND.into(), vec![]));

    let delete =
        |etag: &str| v1::DeleteWebhookRequest { tenant: "default".into(), id: webhook.id.clone(), etag: etag.into() };
    for etag in ["zz", "+1", "01", "2"] {
        let kept = service.delete_webhook(Request::new(delete(etag))).await.unwrap_err();
        assert_eq!(told(&kept), (Code::Aborted, reason::ETAG_MISMATCH.into(), vec![]), "{etag:?}");
    }
    let deleted = service.delete_webhook(Request::new(delete(&webhook.etag))).await.unwrap().into_inner();
    assert_eq!(deleted.cancelled_deliveries, 3);
    let gone = service.delete_webhook(Request::new(delete("zz"))).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let malformed = v1::DeleteWebhookRequest { tenant: "-".into(), id: "x".into(), etag: String::new() };
    let malformed = service.delete_webhook(Request::new(malformed)).await.unwrap_err();
    assert_eq!(told(&malformed).2, ["tenant", "id"]);
}

#[tokio::test(start_paused = true)]
async fn names_are_judged_at_create_but_not_waited_for() {
    let service = webhooks(&FakeStore::new());
    let refused = service.create_webhook(create("evil.example.com", "")).await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, reason::URL_NOT_ALLOWED.into(), vec!["webhook.url".into()]));
    assert!(service.create_webhook(create("slow.example.com", "")).await.is_ok());
}

#[tokio::test]
async fn webhooks_are_listed_page_by_page() {
    let store = FakeStore::new();
    let service = webhooks(&store);
    for n in 0..5 {
        service.create_webhook(create(&format!("h{n}.example.com"), "")).await.unwrap();
    }
    let list = async |tenant: &str, page_size: i32, page_token: String| {
        let request = v1::ListWebhooksRequest { tenant: tenant.into(), page_size, page_token, ..Default::default() };
        service.list_webhooks(Request::new(request)).await.map(tonic::Response::into_inner)
    };
    let mut urls = Vec::new();
    let mut token = String::new();
    for expected in [2, 2, 1] {
        let page = list("-", 2, token).await.unwrap();
        assert_eq!(page.webhooks.len(), expected);
        urls.extend(page.webhooks.into_iter().map(|webhook| webhook.url));
        token = page.next_page_token;
    }
    assert_eq!(token, "");
    assert_eq!(urls, (0..5).map(|n| format!("https://h{n}.example.com/in")).collect::<Vec<_>>());

    assert_eq!(list("", 5, String::new()).await.unwrap().next_page_token, "");
    assert!(list("other", 0, String::new()).await.unwrap().webhooks.is_empty());
    let token = list("", 1, String::new()).await.unwrap().next_page_token;
    let foreign = list("-", 1, token.clone()).await.unwrap_err();
    assert_eq!(told(&foreign), (Code::InvalidArgument, reason::INVALID_PAGE_TOKEN.into(), vec!["page_token".into()]));
    // The size may change from page to page, and `default` may be said or not.
    assert_eq!(list("default", 1000, token).await.unwrap().webhooks.len(), 4);
    let wrong = list("!", -1, "x".into()).await.unwrap_err();
    assert_eq!(told(&wrong).2, ["tenant", "page_size", "page_token"]);
}

#[tokio::test]
async fn event_types_are_listed_page_by_page() {
    let service = EventTypeService { store: FakeStore::new(), clock: Clock::start(), stop: stop() };
    let list = async |page_size: i32, page_token: String| {
        let request = v1::ListEventTypesRequest { tenant: String::new(), page_size, page_token };
        service.list_event_types(Request::new(request)).await.unwrap().into_inner()
    };
    let all = list(0, String::new()).await;
    assert_eq!((all.event_types.len(), all.next_page_token.as_str()), (15, ""));
    let first = list(8, String::new()).await;
    let second = list(8, first.next_page_token).await;
    assert_eq!([first.event_types, second.event_types].concat(), all.event_types);
    assert_eq!(second.next_page_token, "");
}

pub(super) fn detail(tenant: &str) -> DeliveryDetail {
    let key = DeliveryKey { webhook: WebhookNo(1), event: EventSeq(1), replay: 0 };
    let delivery = Delivery {
        id: DeliveryId::from_bytes([1; 16]),
        key,
        tenant: tenant.parse().unwrap(),
        webhook: WebhookId::from_bytes([2; 16]),
        event: "e".parse().unwrap(),
        event_type: EventTypeName::new("ADD_TAG"),
        state: DeliveryView::State(DeliveryState::Failed),
        attempts: 1,
        create_time: Timestamp::UNIX_EPOCH,
        update_time: None,
        next_attempt: None,
        last_http_status: Some(500),
        last_error_class: None,
    };
    let outcome = crate::model::delivery::Outcome {
        key,
        delivery_id: delivery.id,
        tenant: delivery.tenant.clone(),
        webhook_id: delivery.webhook,
        event_id: delivery.event.clone(),
        event_type: delivery.event_type.clone(),
        attempt: 1,
        state: DeliveryState::Failed,
        http_status: Some(500),
        error_class: Some(crate::model::delivery::ErrorClass::HttpStatus),
        error: "answered 500".into(),
        latency: Duration::from_millis(1_500),
        time: Timestamp::from_micros(1),
        next_attempt: None,
        held: false,
        response_body: Bytes::from_static(b"\xffno"),
        exchange: crate::model::exchange::Exchange::default(),
    };
    DeliveryDetail { delivery, attempts: vec![outcome] }
}

#[tokio::test]
async fn a_delivery_is_shown_to_its_tenant_only_and_whole() {
    let store = FakeStore::new();
    *store.detail.lock() = Some(detail("acme"));
    let service = deliveries(&store);
    let get = async |tenant: &str, id: &str| {
        let request = v1::GetDeliveryRequest { tenant: tenant.into(), id: id.into() };
        service.get_delivery(Request::new(request)).await.map(tonic::Response::into_inner)
    };
    let id = DeliveryId::from_bytes([1; 16]).to_string();
    let shown = get("acme", &id).await.unwrap();
    assert_eq!(shown.delivery.unwrap().state, i32::from(v1::DeliveryState::Failed));
    assert_eq!(shown.attempts[0].response_body, b"\xffno");
    assert_eq!(shown.attempts[0].latency, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
    let hidden = get("other", &id).await.unwrap_err();
    assert_eq!(told(&hidden), (Code::NotFound, reason::DELIVERY_NOT_FOUND.into(), vec![]));
    assert_eq!(told(&get("-", "dlv_1").await.unwrap_err()).2, ["tenant", "id"]);
}

#[tokio::test]
async fn deliveries_are_listed_with_a_token_bound_to_the_filters() {
    let store = FakeStore::new();
    let shown = detail("acme").delivery;
    store.page.lock().0.next = Some(shown.key);
    let service = deliveries(&store);
    let list = async |states: Vec<i32>, page_token: String| {
        let request = v1::ListDeliveriesRequest { states, page_token, ..v1::ListDeliveriesRequest::default() };
        service.list_deliveries(Request::new(request)).await.map(tonic::Response::into_inner)
    };
    let token = list(vec![1, 5], String::new()).await.unwrap().next_page_token;
    assert_eq!(
        store.page.lock().1.as_ref().unwrap().states,
        [DeliveryView::State(DeliveryState::Pending), DeliveryView::Held]
    );
    assert!(list(vec![5, 1, 1], token.clone()).await.is_ok(), "the same filter, said differently");
    assert_eq!(told(&list(vec![1], token).await.unwrap_err()).1, reason::INVALID_PAGE_TOKEN);
}

#[tokio::test]
async fn a_watch_ends_with_unavailable_when_told() {
    let service = deliveries(&FakeStore::new());
    let request = Request::new(v1::WatchDeliveriesRequest::default());
    let mut stream = service.watch_deliveries(request).await.unwrap().into_inner();
    assert!(stream.next().await.unwrap().unwrap().updates.is_empty());
    service.stop_watching.cancel();
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!(told(&end), (Code::Unavailable, reason::STOPPING.into(), vec![]));
    assert!(stream.next().await.is_none());

    let wrong = v1::WatchDeliveriesRequest {
        start: Some(v1::watch_deliveries_request::Start::Cursor(String::new())),
        ..v1::WatchDeliveriesRequest::default()
    };
    let refused = service.watch_deliveries(Request::new(wrong)).await.map(|_| ()).unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, reason::INVALID_CURSOR.into(), vec!["cursor".into()]));
    service.stop.cancel();
    let request = Request::new(v1::WatchDeliveriesRequest::default());
    assert_eq!(service.watch_deliveries(request).await.map(|_| ()).unwrap_err().code(), Code::Unavailable);
}

pub(in crate::api) async fn api(store: &Arc<FakeStore>) -> Api {
    api_with(store, false, Vec::new()).await
}

pub(in crate::api) async fn api_with(store: &Arc<FakeStore>, require_auth: bool, grants: Vec<Grant>) -> Api {
    api_by(Clock::start(), store, require_auth, grants).await
}

/// By this clock: another one, started a moment later, is as much ahead.
pub(in crate::api) async fn api_by(
    clock: Clock,
    store: &Arc<FakeStore>,
    require_auth: bool,
    grants: Vec<Grant>,
) -> Api {
    let deps = Deps {
        store: store.clone(),
        accept: accept(store),
        watch: watch::Config { heartbeat: WATCH_HEARTBEAT }.build(store.clone(), WatchMetrics::default()),
        gates: Arc::default(),
        clock,
        names: Arc::new(Judge),
        trial: Arc::new(NoTrial),
        handshake: Arc::new(NoTrial),
        audited: AuditMetrics::default(),
        stop: stop(),
        stop_watching: stop(),
    };
    let retention = Duration::from_hours(720);
    let (target_rules, policy_limits) = (rules().targets, rules().policy);
    let (origin, heartbeat) = (Origin::default(), WATCH_HEARTBEAT);
    Config { target_rules, policy_limits, retention, origin, require_auth, grants, heartbeat }.build(deps).await
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

/// Sends frames as one call; gives the messages of the answer and its status.
async fn call(api: &Api, path: &str, frames: &[Bytes]) -> (Vec<Bytes>, Status) {
    let request = http::Request::post(path).header("content-type", "application/grpc");
    let request = request.body(Body::new(Full::new(Bytes::from(frames.concat())))).unwrap();
    let response = api.routes.clone().oneshot(request).await.unwrap();
    let in_head = Status::from_header_map(response.headers());
    let body = response.into_body().collect().await.unwrap();
    let status = in_head.or_else(|| Status::from_header_map(body.trailers()?)).expect("every call has a status");
    let mut bytes = body.to_bytes();
    let mut messages = Vec::new();
    while bytes.has_remaining() {
        bytes.advance(1);
        let length = bytes.get_u32() as usize;
        messages.push(bytes.split_to(length));
    }
    (messages, status)
}

/// `data` nested deeper than prost decodes.
fn deep() -> Vec<u8> {
    let mut inner = prost_types::Struct::default();
    for _ in 0..200 {
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(inner)) };
        inner = prost_types::Struct { fields: [("k".to_owned(), value)].into() };
    }
    let event = v1::Event { payload: Some(v1::event::Payload::Data(inner)), ..event("deep") };
    v1::PublishEventsRequest { event: Some(event) }.encode_to_vec()
}

#[tokio::test]
async fn messages_that_cannot_be_decoded_are_rejected_alone() {
    let api = api(&FakeStore::new()).await;
    let good = |id: &str| frame(&v1::PublishEventsRequest { event: Some(event(id)) }.encode_to_vec());
    // Field 1 of length 3: an event whose field 1, a text of one byte, is not UTF-8.
    let not_text = frame(b"\x0a\x03\x0a\x01\xff");
    let frames = [good("a"), not_text.clone(), good("b"), frame(&deep()), frame(b""), good("c")];
    let (messages, status) = call(&api, "/postrider.v1.EventService/PublishEvents", &frames).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let replies: Vec<_> =
        messages.into_iter().map(|message| v1::PublishEventsResponse::decode(message).unwrap()).collect();
    let codes = replies.iter().map(|reply| match reply.result.as_ref().unwrap() {
        v1::publish_events_response::Result::Accepted(_) => 0,
        v1::publish_events_response::Result::Rejected(status) => status.code,
    });
    assert_eq!(codes.collect::<Vec<_>>(), [0, 3, 0, 3, 3, 0]);
    assert_eq!(replies.iter().map(|reply| reply.event_id.as_str()).collect::<Vec<_>>(), ["a", "", "b", "", "", "c"]);

    let (messages, status) = call(&api, "/postrider.v1.EventService/PublishEvent", &[not_text]).await;
    assert_eq!((status.code(), messages.len()), (Code::Ok, 1));
    let reply = v1::PublishEventResponse::decode(messages[0].clone()).unwrap();
    assert!(matches!(reply.result, Some(v1::publish_event_response::Result::Rejected(status)) if status.code == 3));
}

#[tokio::test]
async fn messages_above_the_transport_limit_are_refused_with_our_reason() {
    let api = api(&FakeStore::new()).await;
    let too_large = frame(&vec![0; GRPC_MESSAGE_BYTES_MAX + 1]);
    let good = frame(&v1::PublishEventsRequest { event: Some(event("a")) }.encode_to_vec());
    let (messages, status) = call(&api, "/postrider.v1.EventService/PublishEvents", &[good, too_large.clone()]).await;
    assert_eq!(
        (messages.len(), told(&status)),
        (1, (Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE.into(), vec![]))
    );
    for path in ["EventService/PublishEvent", "WebhookService/CreateWebhook", "DeliveryService/WatchDeliveries"] {
        let (_, status) = call(&api, &format!("/postrider.v1.{path}"), std::slice::from_ref(&too_large)).await;
        assert_eq!(told(&status), (Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE.into(), vec![]), "{path}");
    }
    let (_, status) = call(&api, "/postrider.v1.WebhookService/GetWebhook", &[frame(b"\x0a\x01\xff")]).await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn unknown_methods_are_unimplemented_and_health_starts_out_not_serving() {
    let api = api(&FakeStore::new()).await;
    for path in ["/postrider.v1.EventService/Nonsense", "/postrider.v1.Nonsense/X", "/postrider.v1.WebhookService/X"] {
        assert_eq!(call(&api, path, &[frame(b"")]).await.1.code(), Code::Unimplemented, "{path}");
    }
    let health = async |service: &str| {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let (messages, status) = call(&api, "/grpc.health.v1.Health/Check", &[frame(&request.encode_to_vec())]).await;
        assert_eq!(status.code(), Code::Ok);
        tonic_health::pb::HealthCheckResponse::decode(messages[0].clone()).unwrap().status
    };
    let names = BTreeSet::from([
        "",
        "postrider.v1.WebhookService",
        "postrider.v1.EventTypeService",
        "postrider.v1.EventService",
        "postrider.v1.DeliveryService",
        "postrider.v1.KeyService",
        "postrider.v1.ClockService",
    ]);
    for (serving, expected) in [(None, 2), (Some(true), 1), (Some(false), 2)] {
        if let Some(serving) = serving {
            api.health.set_serving(serving).await;
        }
        for name in &names {
            assert_eq!(health(name).await, expected, "{name:?}");
        }
    }
}
