//! Where the daemon may connect, and what a webhook may put into a request's head: every way in.

use std::collections::BTreeMap;

use postrider_proto::v1::{
    Authorization, BasicCredentials, BearerToken, CreateWebhookRequest, Event, PublishEventRequest, Signature,
    UpdateWebhookRequest, Webhook, authorization::Scheme, publish_event_response::Result as Answer,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::event,
    receiver::Receiver,
    rejection::Rejection,
};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::setup;

/// Texts that would end a line of a request's head, or end it for a parser that is careless about bytes or Unicode.
const LINE_ENDS: &[&str] = &[
    "a\r\nx-injected: 1",
    "a\nx-injected: 1",
    "a\rx-injected: 1",
    "a\r\n\r\nGET / HTTP/1.1",
    "a\r\n folded",
    "a\n\tfolded",
    "a\0b",
    "a\u{b}b",
    "a\u{c}b",
    "a\u{7f}b",
    "a\u{85}b",
    "a\u{2028}b",
    "a\u{2029}b",
    // Their last bytes are those of CR and LF, where characters are cut to bytes.
    "a\u{10d}\u{10a}x-injected: 1",
    "a\u{560d}\u{560a}x-injected: 1",
    "a\u{ff0d}\u{ff0a}b",
];

async fn create(client: &Client, webhook: Webhook) -> Result<(), Status> {
    let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
    within("CreateWebhook", async { client.webhooks.clone().create_webhook(request).await }).await.map(|_| ())
}

async fn update(client: &Client, webhook: Webhook, path: &str) -> Result<(), Status> {
    let update_mask = Some(FieldMask { paths: vec![path.to_owned()] });
    let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask, ..UpdateWebhookRequest::default() };
    within("UpdateWebhook", async { client.webhooks.clone().update_webhook(request).await }).await.map(|_| ())
}

/// Checks that neither a new webhook nor an old one can have what `with` says.
async fn check_refused(client: &Client, id: &str, with: Webhook, path: &str, reason: &str, field: &str) {
    let base = webhook("", "https://receiver.invalid/", &["*"]);
    let url = if with.url.is_empty() { base.url } else { with.url.clone() };
    let new = Webhook { url, event_types: base.event_types, ..with.clone() };
    let what = format!("{path} of {with:?}");
    let refused = create(client, new).await.expect_err(&what);
    Rejection::from(&refused).check(&what, Code::InvalidArgument, reason, field);
    let old = Webhook { id: id.to_owned(), ..with };
    let refused = update(client, old, path).await.expect_err(&what);
    Rejection::from(&refused).check(&what, Code::InvalidArgument, reason, field);
}

fn one(name: &str, value: &str) -> BTreeMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

fn authorized(scheme: Scheme) -> Webhook {
    Webhook { authorization: Some(Authorization { scheme: Some(scheme) }), ..Webhook::default() }
}

fn basic(username: &str, password: &str) -> Webhook {
    authorized(Scheme::Basic(BasicCredentials { username: username.into(), password: password.into() }))
}

/// Issue 5, header injection: nothing that ends a line gets into a head, by no field, neither at create nor at update.
#[tokio::test]
async fn no_field_can_inject_a_header() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let created = client.create(&receiver.url("/"), &["*"]).await;
    let id = created.id();
    for (number, text) in LINE_ENDS.iter().enumerate() {
        let cases = [
            (Webhook { headers: one("x-a", text), ..Webhook::default() }, "headers"),
            (Webhook { headers: one(text, "a"), ..Webhook::default() }, "headers"),
            (authorized(Scheme::Bearer(BearerToken { token: (*text).into() })), "authorization"),
            (Webhook { signature: prefixed(text), ..Webhook::default() }, "signature"),
            (Webhook { signature: headed(text), ..Webhook::default() }, "signature"),
        ];
        for (with, path) in cases {
            check_refused(&client, &id, with, path, "INVALID_FIELD", "").await;
        }
        // An event's own texts stand in the head as well.
        for bad in [
            Event { content_type: (*text).into(), ..event("", "ADD_TAG", "{}") },
            event(text, "ADD_TAG", "{}"),
            event("", text, "{}"),
        ] {
            let request = PublishEventRequest { event: Some(bad) };
            let reply = within("PublishEvent", client.events.clone().publish_event(request)).await;
            let Some(Answer::Rejected(refused)) = reply.expect("a rejection is a reply").into_inner().result else {
                panic!("{text:?} was accepted")
            };
            Rejection::from(&refused).check(text, Code::InvalidArgument, "", "");
        }
        // Queries and base64 may hold anything: whether it is refused or encoded, no head shows it.
        let encoded = Webhook { id: id.clone(), query: one("q", text), ..basic("ravi", text) };
        for path in ["query", "authorization"] {
            if let Err(refused) = update(&client, encoded.clone(), path).await {
                assert_eq!(refused.code(), Code::InvalidArgument, "{text:?}: {refused:?}");
            }
        }
        assert_eq!(client.publish([event(&format!("good-{number}"), "ADD_TAG", "{}")]).await, [1]);
        let request = receiver.received(number + 1).await.remove(number);
        assert!(!request.headers.contains_key("x-injected"), "{:?}", request.headers);
        assert!(request.path.bytes().all(|byte| byte.is_ascii_graphic()), "{}", request.path);
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn prefixed(header_prefix: &str) -> Option<Signature> {
    Some(Signature { header_prefix: header_prefix.into(), ..Signature::default() })
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn headed(signature_header: &str) -> Option<Signature> {
    Some(Signature { signature_header: signature_header.into(), ..Signature::default() })
}

/// Issue 5: userinfo, fragments, ports and line ends in a URL are refused at create and at update; so are reserved headers, whatever
/// their case.
#[tokio::test]
async fn urls_and_header_names_are_judged_at_create_and_update() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let id = client.create("http://127.0.0.1:9999/", &["*"]).await.id();
    let (invalid, not_allowed) = ("INVALID_FIELD", "URL_NOT_ALLOWED");
    let urls = [
        ("https://u:p@e.invalid/", invalid),
        ("https://8.8.8.8@127.0.0.1/", invalid),
        ("https://e.invalid/#f", invalid),
        ("https://e.invalid:0/", invalid),
        ("https://e.invalid:65536/", invalid),
        ("https://e.invalid/\r\nx-injected: 1", invalid),
        ("https://e.invalid/\0", invalid),
        ("https://e.invalid\r\n/", invalid),
        ("https://[fe80::1%25eth0]/", invalid),
        ("https://e.invalid:22/", not_allowed),
        ("https://10.0.0.1/", not_allowed),
        ("https://[::ffff:10.0.0.1]/", not_allowed),
        ("https://[64:ff9b::a00:1]/", not_allowed),
        ("https://[2002:a00:1::]/", not_allowed),
        ("https://169.254.169.254/", not_allowed),
        ("https://0xa9fea9fe/", not_allowed),
        ("http://8.8.8.8/", not_allowed),
    ];
    for (url, reason) in urls {
        let with = Webhook { url: url.into(), ..Webhook::default() };
        check_refused(&client, &id, with, "url", reason, "webhook.url").await;
    }
    let names = "host connection keep-alive proxy-authorization te trailer trailers transfer-encoding upgrade expect \
        content-length content-type content-encoding accept-encoding user-agent date via forwarded x-forwarded-for cookie \
        webhook-id webhook-signature postrider-x metadata metadata-flavor metadata-token x-google-metadata-request \
        x-goog-a x-aws-ec2-metadata-token x-amz-date x-azure-ref x-aliyun-ecs-metadata-token http2-settings";
    for name in names.split_whitespace() {
        for name in [name.to_owned(), name.to_uppercase()] {
            let with = Webhook { headers: one(&name, "1"), ..Webhook::default() };
            check_refused(&client, &id, with, "headers", "INVALID_FIELD", "").await;
        }
    }
    assert_eq!(client.webhook(&id).await.url, "http://127.0.0.1:9999/", "nothing of it was kept");
}

/// Issue 5, own listeners: the daemon's ports are no receivers although loopback is open, at any address of the machine; their
/// neighbours are.
#[tokio::test]
async fn the_daemon_is_no_receiver() {
    let daemon = setup().flag("--ops", "127.0.0.1:0").start().await;
    let client = daemon.client().await;
    let id = client.create("http://127.0.0.1:9999/", &["*"]).await.id();
    for own in [daemon.address(), daemon.ops().await] {
        for host in ["127.0.0.1", "127.0.0.2", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
            let with = Webhook { url: format!("http://{host}:{}/", own.port()), ..Webhook::default() };
            check_refused(&client, &id, with, "url", "URL_NOT_ALLOWED", "webhook.url").await;
        }
    }
    let neighbour = Receiver::answering(200).await;
    client.create(&neighbour.url("/"), &["*"]).await;
    assert_eq!(client.publish([event("e", "ADD_TAG", "{}")]).await, [2]);
    neighbour.received(1).await;
}
