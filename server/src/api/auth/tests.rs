//! The gate as callers meet it: real services behind it, on a store in memory.

mod audited;

use std::{sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use postrider_proto::{error_info as reason, v1};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, body::Body, service::Routes};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

use crate::{
    api::tests::services::{api_by, api_with},
    clock::Clock,
    model::credentials::{ApiKeySecret, ApiKeySpec, Right, TenantScope},
    peer::Peer,
    store::{KeyStep, fake::FakeStore},
};

const LONG: Duration = Duration::from_secs(20);

/// A store, the services on it, and the keys that were made.
struct World {
    store: Arc<FakeStore>,
    routes: Routes,
    clock: Clock,
}

impl World {
    async fn new() -> Self {
        let (store, clock) = (FakeStore::new(), Clock::start());
        Self { routes: api_by(clock, &store, false, Vec::new()).await.routes, store, clock }
    }

    /// A key for these tenants (none: all) with these rights.
    fn key(&self, tenants: &[&str], rights: &[Right], lives: Option<Duration>) -> ApiKeySecret {
        let secret = ApiKeySecret::generate(&mut rand::rng());
        let tenants = tenants.iter().map(|name| name.parse().unwrap());
        let spec = ApiKeySpec {
            name: "test".into(),
            tenants: TenantScope::only(tenants).unwrap_or(TenantScope::All),
            rights: rights.iter().copied().collect(),
            expire_time: lives.map(|lives| self.clock.now() + lives),
        };
        let no = self.store.catalog_keys().len() as u64 + 1;
        let key = crate::model::credentials::ApiKey {
            id: secret.id(),
            no,
            digest: secret.digest(),
            spec,
            create_time: self.clock.now(),
        };
        self.store.catalog_keys().step(KeyStep::Put(key));
        secret
    }

    async fn call(&self, method: &str, message: &impl Message, authorization: &[&str]) -> Result<Bytes, Status> {
        let body = Body::new(Full::new(frame(&message.encode_to_vec())));
        self.send(method, body, authorization).await
    }

    /// The first message of the answer, or how it ended.
    async fn send(&self, method: &str, body: Body, authorization: &[&str]) -> Result<Bytes, Status> {
        let answer = self.open(method, body, authorization).await;
        let collected = timeout(LONG, answer.into_body().collect()).await.expect("the call ends").unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let mut bytes = collected.to_bytes();
        match Status::from_header_map(&trailers) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ if bytes.is_empty() => Ok(bytes),
            _ => Ok(bytes.split_off(5)),
        }
    }

    async fn open(&self, method: &str, body: Body, authorization: &[&str]) -> http::Response<Body> {
        let path = format!("/postrider.v1.{method}");
        let mut request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let answer = self.routes.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        match Status::from_header_map(answer.headers()) {
            // An answer that is nothing but a head: as trailers, so that callers look in one place.
            Some(_) => {
                let trailers = answer.headers().clone();
                let frames = futures::stream::iter([Ok::<_, Status>(Frame::trailers(trailers))]);
                http::Response::new(Body::new(StreamBody::new(frames)))
            }
            None => answer,
        }
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

fn bearer(secret: &ApiKeySecret) -> String {
    format!("Bearer {}", secret.reveal())
}

fn told(result: Result<Bytes, Status>) -> (Code, String) {
    let Err(status) = result else { return (Code::Ok, String::new()) };
    let details = status.get_error_details();
    (status.code(), details.error_info().map(|info| info.reason.clone()).unwrap_or_default())
}

fn list(tenant: &str) -> v1::ListWebhooksRequest {
    v1::ListWebhooksRequest { tenant: tenant.into(), ..v1::ListWebhooksRequest::default() }
}

const LIST: &str = "WebhookService/ListWebhooks";

#[tokio::test]
async fn without_any_key_everybody_may_and_with_the_first_nobody_may_without() {
    let world = World::new().await;
    assert_eq!(told(world.call(LIST, &list("-"), &[]).await).0, Code::Ok);
    let unknown = ApiKeySecret::generate(&mut rand::rng());
    let expected = (Code::Unauthenticated, reason::UNAUTHENTICATED.to_owned());
    assert_eq!(told(world.call(LIST, &list(""), &[&bearer(&unknown)]).await), expected, "what is shown is checked");

    let key = world.key(&[], &[Right::Read], None);
    assert_eq!(told(world.call(LIST, &list("-"), &[&bearer(&key)]).await).0, Code::Ok);
    assert_eq!(told(world.call(LIST, &list(""), &[]).await), expected);
    world.store.catalog_keys().step(KeyStep::Revoked(key.id()));
    assert_eq!(told(world.call(LIST, &list(""), &[]).await), expected, "the last one does not open the door");
}

#[tokio::test]
async fn a_server_that_requires_credentials_does_so_from_the_beginning() {
    let store = FakeStore::new();
    let routes = api_with(&store, true, Vec::new()).await.routes;
    let world = World { store, routes, clock: Clock::start() };
    assert_eq!(told(world.call(LIST, &list(""), &[]).await).0, Code::Unauthenticated);
    let key = world.key(&[], &[Right::Read], None);
    assert_eq!(told(world.call(LIST, &list(""), &[&bearer(&key)]).await).0, Code::Ok);
}

/// Missing, malformed, unknown, expired and revoked look the same.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_credentials_is_not_told() {
    let world = World::new().await;
    let good = world.key(&[], &[Right::Read], None);
    let expiring = world.key(&[], &[Right::Read], Some(Duration::from_mins(1)));
    let revoked = world.key(&[], &[Right::Read], None);
    assert_eq!(told(world.call(LIST, &list(""), &[&bearer(&expiring)]).await).0, Code::Ok);
    world.store.catalog_keys().step(KeyStep::Revoked(revoked.id()));
    // The clocks of the test and of the server differ by what it took to start them.
    tokio::time::advance(Duration::from_secs(61)).await;

    let mut other_secret = good.reveal().to_owned();
    let last = if other_secret.ends_with('A') { "E" } else { "A" };
    other_secret.replace_range(71.., last);
    let text = good.reveal();
    let cases = [
        vec![],
        vec![String::new()],
        vec![text.to_owned()],
        vec![format!("Basic {text}")],
        vec!["Bearer".to_owned()],
        vec![format!("Bearer {other_secret}")],
        vec![format!("Bearer {text} ")],
        vec![format!("Bearer {text}"), format!("Bearer {text}")],
        vec![bearer(&expiring)],
        vec![bearer(&revoked)],
        vec![bearer(&ApiKeySecret::generate(&mut rand::rng()))],
    ];
    let mut texts = Vec::new();
    for case in &cases {
        let shown: Vec<&str> = case.iter().map(String::as_str).collect();
        let status = world.call(LIST, &list(""), &shown).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unauthenticated, "{shown:?}");
        texts.push((status.message().to_owned(), status.details().to_vec()));
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(told(world.call(LIST, &list(""), &[&format!("bearer  {text}")]).await).0, Code::Ok);
}

#[tokio::test]
async fn each_right_allows_its_calls_and_no_others() {
    let world = World::new().await;
    let create = v1::CreateWebhookRequest::default();
    let publish = v1::PublishEventRequest::default();
    let keys = v1::ListKeysRequest::default();
    for right in Right::ALL {
        let key = bearer(&world.key(&[], &[right], None));
        let answers = [
            (Right::Read, told(world.call(LIST, &list(""), &[&key]).await)),
            (Right::Manage, told(world.call("WebhookService/CreateWebhook", &create, &[&key]).await)),
            (Right::Publish, told(world.call("EventService/PublishEvent", &publish, &[&key]).await)),
            (Right::Operate, told(world.call("KeyService/ListKeys", &keys, &[&key]).await)),
        ];
        for (needed, (code, reason)) in answers {
            assert_eq!(code == Code::PermissionDenied, right != needed, "{right:?} for {needed:?}: {code:?}");
            assert_eq!(reason == reason::PERMISSION_DENIED, right != needed);
        }
    }
    let key = bearer(&world.key(&[], &[Right::Read], None));
    let denied = world.call("WebhookService/CreateWebhook", &create, &[&key]).await.expect_err("denied");
    assert!(denied.message().contains("manage"), "{denied:?}");
}

#[tokio::test]
async fn a_certificate_is_good_for_what_is_granted_to_its_name() {
    let store = FakeStore::new();
    let grants = ["spiffe://x/y=read@acme", "a.example=publish@*"].map(|text| text.parse().unwrap());
    let routes = api_with(&store, false, grants.into()).await.routes;
    let world = World { store, routes, clock: Clock::start() };
    let call = async |names: &[&str], tenant: &str, key: Option<&str>| {
        let mut request =
            http::Request::post(format!("/postrider.v1.{LIST}")).header("content-type", "application/grpc");
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let body = Body::new(Full::new(frame(&list(tenant).encode_to_vec())));
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Peer::named(names));
        let answer = world.routes.clone().oneshot(request).await.unwrap();
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    };
    assert_eq!(call(&["spiffe://x/y"], "acme", None).await, Code::Ok);
    assert_eq!(call(&["b.example", "spiffe://x/y"], "acme", None).await, Code::Ok);
    assert_eq!(call(&["spiffe://x/y"], "other", None).await, Code::NotFound);
    assert_eq!(call(&["a.example"], "acme", None).await, Code::PermissionDenied);
    assert_eq!(call(&["SPIFFE://x/y"], "acme", None).await, Code::Unauthenticated);
    assert_eq!(call(&[], "acme", None).await, Code::Unauthenticated, "with grants the door is shut");
    let key = bearer(&world.key(&["other"], &[Right::Read], None));
    assert_eq!(call(&["spiffe://x/y"], "acme", Some(&key)).await, Code::NotFound, "a key that is shown counts");
    assert_eq!(call(&["spiffe://x/y"], "other", Some(&key)).await, Code::Ok);
    assert_eq!(call(&["spiffe://x/y"], "acme", Some("Bearer x")).await, Code::Unauthenticated);
}

#[tokio::test]
async fn other_tenants_are_not_there() {
    let world = World::new().await;
    let key = bearer(&world.key(&["acme", "beta"], &Right::ALL, None));
    let hidden = (Code::NotFound, reason::TENANT_NOT_FOUND.to_owned());
    let too_wide = (Code::PermissionDenied, reason::PERMISSION_DENIED.to_owned());
    for (tenant, expected) in [
        ("acme", (Code::Ok, String::new())),
        ("beta", (Code::Ok, String::new())),
        ("other", hidden.clone()),
        // That is `default`.
        ("", hidden.clone()),
        ("!", hidden.clone()),
        ("-", too_wide.clone()),
    ] {
        assert_eq!(told(world.call(LIST, &list(tenant), &[&key]).await), expected, "{tenant:?}");
    }
    let webhook = |tenant: &str| v1::Webhook { tenant: tenant.into(), ..v1::Webhook::default() };
    let create = |tenant: &str| v1::CreateWebhookRequest { webhook: Some(webhook(tenant)), ..Default::default() };
    let created = world.call("WebhookService/CreateWebhook", &create("other"), &[&key]).await;
    assert_eq!(told(created), hidden);
    let created = world.call("WebhookService/CreateWebhook", &create("acme"), &[&key]).await;
    assert_eq!(told(created).0, Code::InvalidArgument, "it reaches the service, which has more to say");
    let keys = world.call("KeyService/ListKeys", &v1::ListKeysRequest::default(), &[&key]).await;
    assert_eq!(told(keys), too_wide, "keys are nobody's in particular");
}

#[tokio::test]
async fn an_event_of_another_tenant_is_rejected_alone() {
    let world = World::new().await;
    let key = bearer(&world.key(&["acme"], &[Right::Publish], None));
    let event = |id: &str, tenant: &str| v1::Event { tenant: tenant.into(), ..crate::api::tests::event(id) };
    let request = |id, tenant| frame(&v1::PublishEventsRequest { event: Some(event(id, tenant)) }.encode_to_vec());
    let frames = [request("a", "acme"), request("b", "other"), request("c", ""), request("d", "acme")].concat();
    let answer = world.open("EventService/PublishEvents", Body::new(Full::new(Bytes::from(frames))), &[&key]).await;
    let mut bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let mut codes = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        let message = bytes.split_to(5 + length).split_off(5);
        let reply = v1::PublishEventsResponse::decode(message).unwrap();
        codes.push(match reply.result.unwrap() {
            v1::publish_events_response::Result::Accepted(_) => 0,
            v1::publish_events_response::Result::Rejected(status) => status.code,
        });
    }
    assert_eq!(codes, [0, 5, 5, 0]);
    let stored: Vec<_> = world.store.order.lock().iter().map(ToString::to_string).collect();
    assert_eq!(stored, ["a", "d"]);

    let one = v1::PublishEventRequest { event: Some(event("e", "other")) };
    let reply = world.call("EventService/PublishEvent", &one, &[&key]).await.unwrap();
    let rejected = v1::PublishEventResponse::decode(reply).unwrap().result.unwrap();
    assert!(matches!(rejected, v1::publish_event_response::Result::Rejected(status) if status.code == 5));
}

#[tokio::test]
async fn what_cannot_be_read_is_let_in_for_nobody_limited() {
    let world = World::new().await;
    let limited = bearer(&world.key(&["acme"], &Right::ALL, None));
    let good = frame(&list("acme").encode_to_vec());
    let mut compressed = good.to_vec();
    compressed[0] = 1;
    let mut cut = good.to_vec();
    cut.pop();
    for body in [compressed, cut, vec![], frame(b"\xff").to_vec()] {
        let sent = world.send(LIST, Body::new(Full::new(Bytes::from(body.clone()))), &[&limited]).await;
        assert_eq!(told(sent).0, Code::InvalidArgument, "{body:?}");
    }
    let too_large = frame(&vec![0; crate::limits::GRPC_MESSAGE_BYTES_MAX + 1]);
    let sent = world.send(LIST, Body::new(Full::new(too_large)), &[&limited]).await;
    assert_eq!(told(sent), (Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE.into()));
    // A second message does not count, to the service neither.
    let two = [good, frame(&list("other").encode_to_vec())].concat();
    let sent = world.send(LIST, Body::new(Full::new(Bytes::from(two))), &[&limited]).await;
    assert_eq!(told(sent).0, Code::Ok);
}

/// Opens a watch, takes its first message, and returns what comes next once `end` has happened.
async fn next_of_watch(world: &World, authorization: &[&str], end: impl AsyncFnOnce()) -> Status {
    let request = frame(&v1::WatchDeliveriesRequest { tenant: "acme".into(), ..Default::default() }.encode_to_vec());
    let answer = world.open("DeliveryService/WatchDeliveries", Body::new(Full::new(request)), authorization).await;
    let mut body = answer.into_body();
    let first = timeout(LONG, body.frame()).await.expect("it opens").unwrap().unwrap();
    assert!(first.is_data(), "{first:?}");
    // Nothing but the end of the credentials wakes who waits for more, not even a heartbeat.
    let next = async { (body.frame().await, Instant::now()) };
    let end = async {
        end().await;
        Instant::now()
    };
    let ((last, told), ended) = tokio::join!(next, end);
    assert!(told - ended < Duration::from_secs(1), "{:?}", told - ended);
    let last = last.expect("it says why").expect("it ends in order");
    let status = Status::from_header_map(last.trailers_ref().expect("it has ended")).unwrap();
    assert!(body.frame().await.is_none(), "and is over");
    status
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_credentials_it_was_opened_with() {
    let world = World::new().await;
    let status = next_of_watch(&world, &[], async || drop(world.key(&[], &[Right::Read], None))).await;
    assert_eq!(status.code(), Code::Unauthenticated, "the first key ends what was open to everybody");

    let key = world.key(&["acme"], &[Right::Read], None);
    let revoke = async || world.store.catalog_keys().step(KeyStep::Revoked(key.id()));
    assert_eq!(next_of_watch(&world, &[&bearer(&key)], revoke).await.code(), Code::Unauthenticated);

    let key = world.key(&["acme"], &[Right::Read], Some(Duration::from_secs(5)));
    let expire = async || tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(next_of_watch(&world, &[&bearer(&key)], expire).await.code(), Code::Unauthenticated);
}

/// A call that is held open is no way to outlive a key.
#[tokio::test]
async fn a_request_that_comes_after_its_key_is_revoked_comes_too_late() {
    let world = World::new().await;
    for tenants in [&[][..], &["acme"]] {
        let key = world.key(tenants, &[Right::Read], None);
        let (sender, frames) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
        let body = Body::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(frames)));
        let shown = bearer(&key);
        let shown = [shown.as_str()];
        let mut call = Box::pin(world.send(LIST, body, &shown));
        assert!(futures::poll!(&mut call).is_pending());
        world.store.catalog_keys().step(KeyStep::Revoked(key.id()));
        sender.send(Ok(Frame::data(frame(&list("acme").encode_to_vec())))).await.expect("it is waited for");
        drop(sender);
        assert_eq!(told(call.await).0, Code::Unauthenticated, "{tenants:?}");
    }
}

#[tokio::test]
async fn health_is_open_and_unknown_calls_are_unimplemented() {
    let world = World::new().await;
    world.key(&[], &[Right::Read], None);
    let open = async |path: &str| {
        let request = http::Request::post(path).header("content-type", "application/grpc");
        let request = request.body(Body::new(Full::new(frame(b"")))).unwrap();
        let answer = world.routes.clone().oneshot(request).await.unwrap();
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    };
    assert_eq!(open("/grpc.health.v1.Health/Check").await, Code::Ok);
    for path in ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/postrider.v1.EventService/GetEvent"] {
        assert_eq!(open(path).await, Code::Unauthenticated, "{path}");
    }
    for path in ["/postrider.v1.EventService/Nonsense", "/", "/postrider.v1.WebhookService/GetWebhook/"] {
        assert_eq!(open(path).await, Code::Unimplemented, "{path}");
    }
}
