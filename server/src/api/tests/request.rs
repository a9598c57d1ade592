use std::collections::BTreeMap;

use postrider_proto::{
    error_info as reason,
    v1::{self, Authorization, BasicCredentials, BearerToken, BodyFormat, HttpMethod, authorization::Scheme},
};
use prost_types::{FieldMask, Struct, Value, value::Kind};
use rand::{SeedableRng as _, rngs::StdRng};
use tonic::Code;

use super::told;
use crate::{
    api::{
        convert::{
            update::update,
            webhook::{Rules, create, reply},
        },
        status::Failure,
    },
    model::{
        ids::{WebhookId, WebhookNo},
        signing::Secret,
        time::Timestamp,
        webhook::Webhook,
    },
    store::Catalog,
};

fn base() -> v1::Webhook {
    v1::Webhook { url: "https://e.example/".into(), event_types: vec!["*".into()], ..v1::Webhook::default() }
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn basic(username: &str, password: &str) -> Option<Authorization> {
    let basic = BasicCredentials { username: username.into(), password: password.into() };
    Some(Authorization { scheme: Some(Scheme::Basic(basic)) })
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn bearer(token: &str) -> Option<Authorization> {
    Some(Authorization { scheme: Some(Scheme::Bearer(BearerToken { token: token.into() })) })
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn fields<const N: usize>(pairs: [(&str, Kind); N]) -> Option<Struct> {
    Some(Struct { fields: pairs.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) })).into() })
}

fn full() -> v1::Webhook {
    v1::Webhook {
        method: HttpMethod::Put.into(),
        headers: texts([("X-Key", "s3cret-1"), ("x-a", "s3cret-2")]),
        query: texts([("q", "1")]),
        body: fields([("n", Kind::NumberValue(0.1)), ("t", Kind::StringValue("x".into()))]),
        body_format: BodyFormat::Form.into(),
        authorization: basic("ravi", "s3cret-3"),
        retry_on_timeout: Some(false),
        ..base()
    }
}

fn created(webhook: v1::Webhook) -> Webhook {
    let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..v1::CreateWebhookRequest::default() };
    let (spec, _, _) = create(request, &Rules::default(), &Catalog::default()).unwrap();
    let secret = Secret::generate(&mut StdRng::seed_from_u64(0));
    spec.register(WebhookNo(1), WebhookId::from_bytes([1; 16]), secret.into(), Timestamp::UNIX_EPOCH)
}

/// The webhook after an update of these fields, or of those that are set.
fn updated(webhook: &Webhook, change: v1::Webhook, paths: &[&str]) -> Result<Webhook, Failure> {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() });
    let change = v1::Webhook { id: webhook.id.to_string(), ..change };
    let update = update(v1::UpdateWebhookRequest { webhook: Some(change), update_mask, held_deliveries: 0 })?;
    let (settings, enabled) = update.apply(webhook, &Rules::default(), &Catalog::default())?;
    Ok(webhook.updated(settings, enabled, Timestamp::UNIX_EPOCH))
}

#[track_caller]
fn refused<T>(result: Result<T, Failure>, fields: &[&str]) -> String {
    let Err(failure) = result else { panic!("was not refused, expected {fields:?}") };
    let status = failure.into_status();
    let fields = fields.iter().map(ToString::to_string).collect();
    assert_eq!(told(&status), (Code::InvalidArgument, reason::INVALID_FIELD.to_owned(), fields), "{status:?}");
    format!("{status:?}")
}

#[test]
fn replies_show_everything_but_secrets() {
    let shown = reply(&created(full()), 0);
    assert!(!format!("{shown:?}").contains("s3cret"), "{shown:?}");
    let expected = v1::Webhook {
        headers: texts([("x-key", "***"), ("x-a", "***")]),
        authorization: basic("ravi", "***"),
        ..full()
    };
    assert_eq!(shown.headers, expected.headers);
    assert_eq!((shown.method, &shown.query, &shown.body), (expected.method, &expected.query, &expected.body));
    assert_eq!((shown.body_format, &shown.authorization), (expected.body_format, &expected.authorization));
    assert_eq!(shown.retry_on_timeout, Some(false));

    let token = reply(&created(v1::Webhook { authorization: bearer("s3cret"), ..base() }), 0);
    assert_eq!(token.authorization, bearer("***"));
    let usual = reply(&created(base()), 0);
    assert_eq!((usual.method(), usual.body_format()), (HttpMethod::Post, BodyFormat::Json));
    assert_eq!((usual.retry_on_timeout, usual.authorization, usual.body), (Some(true), None, None));
}

#[test]
fn what_is_as_usual_is_not_kept() {
    let usual = created(base());
    assert_eq!(usual.settings.request, None);
    let spelt_out = v1::Webhook {
        method: HttpMethod::Post.into(),
        body: fields([]),
        body_format: BodyFormat::Json.into(),
        retry_on_timeout: Some(true),
        ..base()
    };
    assert_eq!(created(spelt_out).settings, usual.settings);
    let back = updated(&created(full()), base(), &["*"]).unwrap();
    assert_eq!(back.settings, usual.settings);
}

#[test]
fn a_reply_that_comes_back_changes_nothing() {
    for webhook in [created(full()), created(base()), created(v1::Webhook { authorization: bearer("t"), ..base() })] {
        for paths in [&["*"][..], &[]] {
            assert_eq!(updated(&webhook, reply(&webhook, 0), paths).unwrap(), webhook, "{paths:?}");
        }
    }
}

#[test]
fn secrets_stay_unless_an_update_names_them() {
    let webhook = created(full());
    let kept = |change, paths: &[&str]| updated(&webhook, change, paths).unwrap().settings.request.unwrap();
    let before = webhook.settings.request.clone().unwrap();

    let other = kept(v1::Webhook { method: HttpMethod::Patch.into(), ..v1::Webhook::default() }, &[]);
    assert_eq!((&other.headers, &other.authorization), (&before.headers, &before.authorization));

    let headers = texts([("X-KEY", "***"), ("x-new", "s3cret-4")]);
    let some = kept(v1::Webhook { headers, ..v1::Webhook::default() }, &["headers"]);
    assert_eq!(some.headers.texts().collect::<Vec<_>>(), [("x-key", "s3cret-1"), ("x-new", "s3cret-4")]);

    let renamed = kept(v1::Webhook { authorization: basic("asha", "***"), ..v1::Webhook::default() }, &[]);
    assert_eq!(renamed.authorization.unwrap().header(), "Basic YXNoYTpzM2NyZXQtMw==");
    let changed = kept(v1::Webhook { authorization: bearer("new"), ..v1::Webhook::default() }, &[]);
    assert_eq!(changed.authorization.unwrap().header(), "Bearer new");
    let removed = kept(v1::Webhook::default(), &["authorization", "headers"]);
    assert_eq!((removed.authorization, removed.headers.iter().len()), (None, 0));
}

#[test]
fn a_secret_that_is_not_there_cannot_stay() {
    let field = "webhook.headers[\"x-other\"]";
    let headers = || texts([("x-other", "***")]);
    refused(updated(&created(full()), v1::Webhook { headers: headers(), ..v1::Webhook::default() }, &[]), &[field]);
    let token = v1::Webhook { authorization: bearer("***"), ..v1::Webhook::default() };
    refused(updated(&created(full()), token, &[]), &["webhook.authorization.bearer.token"]);
    let webhook = v1::Webhook { headers: headers(), authorization: basic("u", "***"), ..base() };
    let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..v1::CreateWebhookRequest::default() };
    refused(create(request, &Rules::default(), &Catalog::default()), &[field, "webhook.authorization.basic.password"]);
}

#[test]
fn every_wrong_field_is_named_and_no_secret_repeated() {
    type Change = fn(&mut v1::Webhook);
    let cases: [(Change, &[&str]); 18] = [
        (|w| w.method = 7, &["webhook.method"]),
        (|w| w.body_format = 3, &["webhook.body_format"]),
        (|w| w.headers = texts([("host", "s3cret")]), &["webhook.headers[\"host\"]"]),
        (
            |w| w.headers = texts([("a b", "s3cret"), ("x-a", "s3cret\r\nhost: e")]),
            &["webhook.headers[\"a b\"]", "webhook.headers[\"x-a\"]"],
        ),
        (|w| w.headers = (0..33).map(|n| (format!("x-{n}"), String::new())).collect(), &["webhook.headers"]),
        (|w| w.headers = (0..5).map(|n| (format!("x-{n}"), "x".repeat(4096))).collect(), &["webhook.headers"]),
        (|w| w.query = texts([("", "x")]), &["webhook.query[\"\"]"]),
        (|w| w.query = (0..33).map(|n| (n.to_string(), String::new())).collect(), &["webhook.query"]),
        (|w| w.query = texts([("q", &"%".repeat(700))]), &["webhook.query"]),
        (|w| w.body = fields([("n", Kind::NumberValue(f64::NAN))]), &["webhook.body.n"]),
        (|w| w.body = fields([("t", Kind::StringValue("x".repeat(16_384)))]), &["webhook.body"]),
        (|w| w.authorization = Some(Authorization::default()), &["webhook.authorization"]),
        (|w| w.authorization = basic("a:b", "s3cret"), &["webhook.authorization.basic.username"]),
        (|w| w.authorization = basic("a", "s3cret\n"), &["webhook.authorization.basic.password"]),
        (|w| w.authorization = bearer("s3cret s3cret"), &["webhook.authorization.bearer.token"]),
        (
            |w| (w.authorization, w.headers) = (bearer("s3cret"), texts([("Authorization", "s3cret")])),
            &["webhook.headers[\"authorization\"]"],
        ),
        (
            |w| {
                w.headers = texts([("X-Mine-Id", "s3cret"), ("x-sig", "s3cret")]);
                w.signature = Some(v1::Signature {
                    header_prefix: "x-mine".into(),
                    signature_header: "X-Sig".into(),
                    ..v1::Signature::default()
                });
            },
            &["webhook.headers[\"x-mine-id\"]", "webhook.headers[\"x-sig\"]"],
        ),
        (
            |w| {
                w.set_method(HttpMethod::Get);
                w.set_body_format(BodyFormat::Form);
                w.body = fields([("l", Kind::StructValue(Struct::default()))]);
            },
            &["webhook.body_format", "webhook.body"],
        ),
    ];
    for (change, fields) in cases {
        let mut webhook = base();
        change(&mut webhook);
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..v1::CreateWebhookRequest::default() };
        let said = refused(create(request, &Rules::default(), &Catalog::default()), fields);
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn the_request_hash_covers_every_field() {
    type Change = fn(&mut v1::Webhook);
    let hash = |change: Change| {
        let mut webhook = full();
        change(&mut webhook);
        let request = v1::CreateWebhookRequest {
            webhook: Some(webhook),
            request_id: "r".into(),
            ..v1::CreateWebhookRequest::default()
        };
        create(request, &Rules::default(), &Catalog::default()).unwrap().2.expect("it has an id").hash
    };
    let changes: [Change; 7] = [
        |w| w.set_method(HttpMethod::Patch),
        |w| w.headers = texts([("X-Key", "other"), ("x-a", "s3cret-2")]),
        |w| w.query.clear(),
        |w| w.body = fields([("n", Kind::NumberValue(0.2))]),
        |w| w.set_body_format(BodyFormat::Json),
        |w| w.authorization = basic("ravi", "other"),
        |w| w.retry_on_timeout = None,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert_ne!(hash(change), hash(|_| ()), "change {index}");
    }
    assert_eq!(hash(|w| w.headers = texts([("x-a", "s3cret-2"), ("x-KEY", "s3cret-1")])), hash(|_| ()));
}
