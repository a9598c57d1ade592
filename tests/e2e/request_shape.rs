//! What a webhook's requests look like: `DoubleTick`'s registration fields.

use std::collections::BTreeMap;

use postrider_proto::v1::{
    Authorization, BasicCredentials, BearerToken, BodyFormat, CreateWebhookRequest, DeliveryState, ErrorClass,
    HttpMethod, UpdateWebhookRequest, Webhook, authorization::Scheme,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::event,
    independent,
    receiver::{Answer, Received, Receiver},
    rejection::Rejection,
    tools,
};
use prost_types::{FieldMask, Struct, Value, value::Kind};
use serde_json::json;

use crate::{impatient, patient, setup, verifier::Verifier};

const BODY: &str = r#"{ "from": "+91 98", "id": 12345678901234567890, "new": true, "none": null, "o": {"a": [1, 2]} }"#;

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn fields<const N: usize>(pairs: [(&str, Kind); N]) -> Option<Struct> {
    Some(Struct { fields: pairs.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) })).into() })
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn basic(password: &str) -> Option<Authorization> {
    let basic = BasicCredentials { username: "Aladdin".into(), password: password.into() };
    Some(Authorization { scheme: Some(Scheme::Basic(basic)) })
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn bearer(token: &str) -> Option<Authorization> {
    Some(Authorization { scheme: Some(Scheme::Bearer(BearerToken { token: token.into() })) })
}

/// A webhook that uses everything but a method without a body.
fn full(url: &str) -> Webhook {
    Webhook {
        method: HttpMethod::Put.into(),
        headers: texts([("X-Key", "s3cret-1"), ("Accept", "text/plain")]),
        query: texts([("account", "a&b"), ("q", "")]),
        body: fields([("from", Kind::StringValue("ours".into())), ("source", Kind::NumberValue(7.0))]),
        authorization: basic("open sesame"),
        retry_on_timeout: Some(false),
        ..webhook("", url, &["*"])
    }
}

fn is_full(request: &Received) {
    assert_eq!((request.method.as_str(), request.path.as_str()), ("PUT", "/hook?own=1&account=a%26b&q="));
    assert_eq!(request.body, BODY.replace(" }", ",\"source\":7 }"), "only a field was added");
    assert_eq!(request.header("x-key"), "s3cret-1");
    assert_eq!(request.header("accept"), "text/plain");
    // RFC 7617, section 2.
    assert_eq!(request.header("authorization"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    assert_eq!(request.header("content-type"), "application/json");
}

async fn update(client: &Client, webhook: Webhook, paths: &[&str]) -> Webhook {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request =
        UpdateWebhookRequest { webhook: Some(webhook), update_mask: Some(FieldMask { paths }), held_deliveries: 0 };
    let call = within("UpdateWebhook", async { client.webhooks.clone().update_webhook(request).await }).await;
    call.expect("the webhook is updated").into_inner().webhook.expect("a reply holds the webhook")
}

/// Issue 4: method, headers, query, body and authorization are sent, signed as they are sent, and survive a restart; replies show them
/// without their secrets, and what a reply shows can be sent back without changing anything.
#[tokio::test]
async fn requests_look_as_they_were_told_to() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let created = client.create_as(full(&receiver.url("/hook?own=1"))).await;
    let mut watch = client.watch().await;
    client.publish([event("e-1", "NEW_LEAD", BODY)]).await;
    watch.outcome(DeliveryState::Delivered).await;
    let request = receiver.received(1).await.remove(0);
    is_full(&request);
    assert!(independent::is_signed(&request, &created.secret));

    let shown = client.webhook(&created.id()).await;
    let expected = Webhook {
        headers: texts([("x-key", "***"), ("accept", "***")]),
        authorization: basic("***"),
        body_format: BodyFormat::Json.into(),
        ..full("")
    };
    assert_eq!((shown.method(), shown.body_format()), (HttpMethod::Put, BodyFormat::Json));
    assert_eq!((&shown.headers, &shown.authorization), (&expected.headers, &expected.authorization));
    assert_eq!((&shown.query, &shown.body), (&expected.query, &expected.body));
    assert_eq!(shown.retry_on_timeout, Some(false));
    let same = update(&client, shown.clone(), &["*"]).await;
    assert_eq!(same.etag, shown.etag, "nothing changed");

    daemon.stop().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    assert_eq!(client.webhook(&created.id()).await, shown);
    client.publish([event("e-2", "NEW_LEAD", BODY)]).await;
    is_full(&receiver.received(2).await[1]);

    let change = Webhook {
        id: created.id(),
        headers: texts([("X-KEY", "***"), ("x-other", "2")]),
        authorization: bearer("t0ken"),
        ..Webhook::default()
    };
    update(&client, change, &["headers", "authorization", "query", "body", "method"]).await;
    client.publish([event("e-3", "NEW_LEAD", BODY)]).await;
    let request = receiver.received(3).await.remove(2);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook?own=1"));
    assert_eq!(request.body, BODY);
    assert_eq!((request.header("x-key"), request.header("x-other")), ("s3cret-1", "2"));
    assert_eq!((request.header("authorization"), request.header("accept")), ("Bearer t0ken", "*/*"));
}

/// Issue 4: GET, HEAD and DELETE carry the flat fields in the query and nothing else; their answers count as any other's.
#[tokio::test]
async fn methods_without_a_body_carry_the_flat_fields_in_the_query() {
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt == 1 { 500 } else { 200 })).await;
    let mut watch = client.watch().await;
    for method in [HttpMethod::Get, HttpMethod::Head, HttpMethod::Delete] {
        let told = Webhook {
            method: method.into(),
            query: texts([("q", "1")]),
            body: fields([("source", Kind::StringValue("x y".into()))]),
            ..webhook("", &receiver.url("/hook?own=1"), &["*"])
        };
        let created = client.create_as(told).await;
        let name = method.as_str_name().trim_start_matches("HTTP_METHOD_");
        let before = receiver.count();
        client.publish([event(&format!("{name}-1"), "NEW_LEAD", BODY)]).await;
        assert_eq!(watch.outcome(DeliveryState::Pending).await.http_status, 500);
        watch.outcome(DeliveryState::Delivered).await;
        client.publish([event(&format!("{name}-2"), "NEW_LEAD", "[1]")]).await;
        watch.outcome(DeliveryState::Pending).await;
        watch.outcome(DeliveryState::Delivered).await;
        let requests = receiver.received(before + 4).await.split_off(before);
        let flat = "/hook?own=1&q=1&from=%2B91+98&id=12345678901234567890&new=true&none=&source=x+y";
        for (request, path) in requests.iter().zip([flat, flat, "/hook?own=1&q=1", "/hook?own=1&q=1"]) {
            assert_eq!((request.method.as_str(), request.path.as_str()), (name, path));
            assert!(request.body.is_empty() && !request.headers.contains_key("content-type"), "{request:?}");
            assert!(independent::is_signed(request, &created.secret), "over the empty body");
        }
        let update = Webhook { id: created.id(), enabled: Some(false), ..Webhook::default() };
        self::update(&client, update, &["enabled"]).await;
    }
}

/// Issue 4: without the repeat a timeout is the end, and other failures are repeated as ever.
#[tokio::test]
async fn timeouts_are_not_repeated_where_they_must_not_be() {
    let daemon = patient().flag("--attempt-timeout", "1s").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match request.event_id.as_str() {
        "hangs" => Answer::Hang,
        _ => Answer::status(503),
    })
    .await;
    let once = Webhook { retry_on_timeout: Some(false), ..webhook("", &receiver.url("/once"), &["*"]) };
    let once = client.create_as(once).await.id();
    client.create(&receiver.url("/again"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish([event("hangs", "ADD_TAG", "{}"), event("fails", "ADD_TAG", "{}")]).await;
    for outcome in watch.outcomes(4).await {
        let is_final = outcome.webhook_id == once && outcome.event_id == "hangs";
        let state = if is_final { DeliveryState::Failed } else { DeliveryState::Pending };
        assert_eq!(outcome.state(), state, "{outcome:?}");
        let class = if outcome.event_id == "hangs" { ErrorClass::Timeout } else { ErrorClass::HttpStatus };
        assert_eq!((outcome.error_class(), outcome.attempt), (class, 1));
        assert_eq!(outcome.next_attempt_time.is_some(), !is_final);
    }
}

/// Issue 4: what must not be sent is refused, by name, and without repeating secrets; nor are they in the daemon's log.
#[tokio::test]
async fn what_must_not_be_sent_is_refused_by_name() {
    let daemon = setup().flag("--log", "debug").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let base = || webhook("", &receiver.url("/"), &["*"]);
    let refused = [
        (Webhook { headers: texts([("Host", "s3cret")]), ..base() }, "webhook.headers[\"Host\"]"),
        (Webhook { headers: texts([("x-a", "s3cret\r\nhost: b")]), ..base() }, "webhook.headers[\"x-a\"]"),
        (Webhook { authorization: bearer("s3cret\n"), ..base() }, "webhook.authorization.bearer.token"),
        (Webhook { authorization: basic("***"), ..base() }, "webhook.authorization.basic.password"),
        (
            Webhook { method: HttpMethod::Get.into(), body_format: BodyFormat::Form.into(), ..base() },
            "webhook.body_format",
        ),
    ];
    for (webhook, field) in refused {
        let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
        let status = client.webhooks.clone().create_webhook(request).await.expect_err(field);
        let rejection = Rejection::from(&status);
        assert_eq!(rejection.fields, [field], "{status:?}");
        assert!(!format!("{status:?}").contains("s3cret"), "{status:?}");
    }
    client.create_as(full(&receiver.url("/hook?own=1"))).await;
    client.publish([event("e", "NEW_LEAD", BODY)]).await;
    is_full(&receiver.received(1).await[0]);
    let log = daemon.log();
    for secret in ["s3cret", "sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Issue 4, with a receiver nobody here wrote: Flask reads queries, forms, JSON and authorization as they were meant, and the
/// reference verifier accepts the signature over each body as it was sent.
#[tokio::test]
async fn flask_understands_every_shape() {
    let Some(python) = tools::python_with_flask() else { return };
    let mut flask = Verifier::start(&python, "flask_app.py");
    let port = flask.line().await;
    let daemon = setup().flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let mut seen = BTreeMap::new();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}?own=1");
    let form = BodyFormat::Form.into();
    let get = HttpMethod::Get.into();
    let shapes = [
        full(&url("/full")),
        Webhook { body_format: form, authorization: bearer("t0ken"), ..full(&url("/form")) },
        Webhook { method: get, ..full(&url("/get")) },
        Webhook { method: HttpMethod::Head.into(), ..full(&url("/head")) },
        Webhook { method: HttpMethod::Delete.into(), ..full(&url("/delete")) },
        Webhook { method: HttpMethod::Patch.into(), ..full(&url("/patch")) },
    ];
    let count = shapes.len();
    for shape in shapes {
        let path = shape.url[..shape.url.len() - "?own=1".len()].rsplit('/').next().expect("a path").to_owned();
        let created = client.create_as(shape).await;
        flask.trust(&format!("/{path}"), &created.secret).await;
    }
    client.publish([event("e", "NEW_LEAD", BODY)]).await;
    for _ in 0..count {
        let request = flask.line().await;
        assert_eq!(request["accepted"], true, "{request}");
        assert_eq!(request["key"], "s3cret-1");
        seen.insert(request["path"].as_str().expect("a path").to_owned(), request);
    }
    let own = [["own", "1"], ["account", "a&b"], ["q", ""]];
    let flat = [["from", "+91 98"], ["id", "12345678901234567890"], ["new", "true"], ["none", ""]];
    let basic = json!(["basic", "Aladdin", "open sesame", null]);
    for (path, method) in [("/full", "PUT"), ("/patch", "PATCH")] {
        let request = &seen[path];
        assert_eq!((&request["method"], &request["authorization"]), (&method.into(), &basic));
        assert_eq!(request["args"], json!(own));
        assert_eq!((&request["json"]["source"], &request["json"]["from"]), (&7.into(), &"+91 98".into()));
    }
    let request = &seen["/form"];
    assert_eq!(request["form"], json!([&flat[..], &[["o", r#"{"a":[1,2]}"#], ["source", "7"]]].concat()));
    assert_eq!((&request["args"], &request["authorization"]), (&json!(own), &json!(["bearer", null, null, "t0ken"])));
    for (path, method) in [("/get", "GET"), ("/head", "HEAD"), ("/delete", "DELETE")] {
        let request = &seen[path];
        assert_eq!((&request["method"], &request["body"]), (&method.into(), &"".into()));
        assert_eq!(request["args"], json!([&own[..], &flat, &[["source", "7"]]].concat()), "{path}");
        assert_eq!(request["authorization"], basic);
    }
}
