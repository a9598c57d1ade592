use postrider_proto::{error_info as reason, v1};
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;

use super::{event, told};
use crate::{
    api::{
        convert::{delivery, event as event_fields, webhook},
        status::{Failure, Violations},
    },
    model::{address::AddressPolicy, event::JSON, target::TargetRules, time::Timestamp, webhook::Subscription},
    store::{Catalog, DeliveryView},
    watch::Start,
};

fn rules() -> webhook::Rules {
    let targets = TargetRules { allow_http: false, policy: AddressPolicy::new(vec![]) };
    webhook::Rules { targets, ..webhook::Rules::default() }
}

fn latest() -> Timestamp {
    Timestamp::from_micros(2_000_000_000_000_000)
}

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const PAIR: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

fn create() -> v1::CreateWebhookRequest {
    let webhook = v1::Webhook {
        url: "https://hooks.example.com/in".into(),
        event_types: vec!["NEW_LEAD".into()],
        ..v1::Webhook::default()
    };
    v1::CreateWebhookRequest { webhook: Some(webhook), ..v1::CreateWebhookRequest::default() }
}

fn sign(webhook: &mut v1::Webhook, scheme: i32, header_prefix: &str, signature_header: &str) {
    let (header_prefix, signature_header) = (header_prefix.into(), signature_header.into());
    webhook.signature = Some(v1::Signature { scheme, header_prefix, signature_header });
}

#[track_caller]
fn refused<T>(result: Result<T, Failure>, reason: &str, fields: &[&str]) -> String {
    let Err(failure) = result else { panic!("was not refused, expected {fields:?}") };
    let status = failure.into_status();
    let expected = (Code::InvalidArgument, reason.to_owned(), fields.iter().map(ToString::to_string).collect());
    assert_eq!(told(&status), expected, "{}", status.message());
    status.message().to_owned()
}

#[test]
fn every_wrong_field_of_a_webhook_is_named() {
    type Change = fn(&mut v1::Webhook);
    let cases: [(Change, &str, &[&str]); 23] = [
        (|w| w.tenant = "Ü".into(), reason::INVALID_FIELD, &["webhook.tenant"]),
        (|w| w.tenant = "-".into(), reason::INVALID_FIELD, &["webhook.tenant"]),
        (|w| w.url.clear(), reason::INVALID_FIELD, &["webhook.url"]),
        (|w| w.url = "no url".into(), reason::INVALID_FIELD, &["webhook.url"]),
        (|w| w.url = "https://localhost/".into(), reason::URL_NOT_ALLOWED, &["webhook.url"]),
        (|w| w.url = "http://hooks.example.com/".into(), reason::URL_NOT_ALLOWED, &["webhook.url"]),
        (|w| w.event_types.clear(), reason::INVALID_FIELD, &["webhook.event_types"]),
        (|w| w.event_types = vec!["ADD_TAG".into(); 257], reason::INVALID_FIELD, &["webhook.event_types"]),
        (|w| w.event_types.push("*".into()), reason::INVALID_FIELD, &["webhook.event_types[1]"]),
        (|w| w.event_types.push("ADD_TAGS".into()), reason::UNKNOWN_EVENT_TYPE, &["webhook.event_types[1]"]),
        (|w| w.display_name = "x".repeat(129), reason::INVALID_FIELD, &["webhook.display_name"]),
        (|w| drop(w.metadata.insert("a b".into(), "x".into())), reason::INVALID_FIELD, &["webhook.metadata[\"a b\"]"]),
        (
            |w| drop(w.label_filter.insert("a b".into(), v1::LabelValues { values: vec!["x".into()] })),
            reason::INVALID_FIELD,
            &["webhook.label_filter[\"a b\"]"],
        ),
        (
            |w| drop(w.label_filter.insert("a".into(), v1::LabelValues::default())),
            reason::INVALID_FIELD,
            &["webhook.label_filter[\"a\"]"],
        ),
        (
            |w| drop(w.label_filter.insert("a".into(), v1::LabelValues { values: vec!["x".repeat(257)] })),
            reason::INVALID_FIELD,
            &["webhook.label_filter[\"a\"].values[0]"],
        ),
        (
            |w| drop(w.label_filter.insert("a".into(), v1::LabelValues { values: vec!["x".into(); 257] })),
            reason::INVALID_FIELD,
            &["webhook.label_filter"],
        ),
        (|w| w.payload_filter = "body.a ==".into(), reason::INVALID_FIELD, &["webhook.payload_filter"]),
        (|w| w.description = "x".repeat(1025), reason::INVALID_FIELD, &["webhook.description"]),
        (|w| sign(w, 77, "", ""), reason::INVALID_FIELD, &["webhook.signature.scheme"]),
        (|w| sign(w, 1, "x-amz", ""), reason::INVALID_FIELD, &["webhook.signature.header_prefix"]),
        (|w| sign(w, 3, "", "Host"), reason::INVALID_FIELD, &["webhook.signature.signature_header"]),
        (|w| sign(w, 5, "", "x-sig"), reason::INVALID_FIELD, &["webhook.signature.signature_header"]),
        (
            |w| {
                *w = v1::Webhook {
                    tenant: ".".into(),
                    event_types: vec!["A".into(), String::new()],
                    ..v1::Webhook::default()
                }
            },
            reason::UNKNOWN_EVENT_TYPE,
            &["webhook.tenant", "webhook.url", "webhook.event_types[0]", "webhook.event_types[1]"],
        ),
    ];
    for (change, reason, fields) in cases {
        let mut request = create();
        change(request.webhook.as_mut().unwrap());
        refused(webhook::create(request, &rules(), &Catalog::default()), reason, fields);
    }
    let no_webhook = v1::CreateWebhookRequest { request_id: "a.b".into(), ..v1::CreateWebhookRequest::default() };
    refused(
        webhook::create(no_webhook, &rules(), &Catalog::default()),
        reason::INVALID_FIELD,
        &["request_id", "webhook"],
    );

    for secret in ["secret", "whsec_", "whsk_", PAIR] {
        let request = v1::CreateWebhookRequest { signing_secret: secret.into(), ..create() };
        let message = refused(
            webhook::create(request, &rules(), &Catalog::default()),
            reason::INVALID_FIELD,
            &["signing_secret"],
        );
        assert!(!message.contains("6Xb"), "{message}");
    }

    let mut slip = create();
    slip.webhook.as_mut().unwrap().event_types = vec!["NEW_LAED".into()];
    let message = refused(
        webhook::create(slip, &rules(), &Catalog::default()),
        reason::UNKNOWN_EVENT_TYPE,
        &["webhook.event_types[0]"],
    );
    assert!(message.contains("did you mean NEW_LEAD?"), "{message}");
}

#[test]
fn a_webhook_is_read_with_its_defaults() {
    let mut request = create();
    let webhook = request.webhook.as_mut().unwrap();
    webhook.event_types = vec!["NEW_LEAD".into(), "ADD_TAG".into(), "NEW_LEAD".into()];
    webhook.id = "ignored".into();
    let (spec, key, guard) = webhook::create(request, &rules(), &Catalog::default()).unwrap();
    assert_eq!(spec.tenant.as_str(), "default");
    assert!(spec.enabled && key.is_none() && guard.is_none());
    let Subscription::Types(types) = spec.settings.subscription else { panic!("not all") };
    assert_eq!(types.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ADD_TAG", "NEW_LEAD"]);

    let mut all = create();
    all.webhook.as_mut().unwrap().event_types = vec!["*".into()];
    assert_eq!(webhook::create(all, &rules(), &Catalog::default()).unwrap().0.settings.subscription, Subscription::All);
}

#[test]
fn the_request_hash_covers_what_is_read_and_nothing_else() {
    let hash = |change: fn(&mut v1::Webhook)| {
        let mut request = create();
        request.request_id = "r".into();
        change(request.webhook.as_mut().unwrap());
        webhook::create(request, &rules(), &Catalog::default()).unwrap().2.expect("it has an id").hash
    };
    let base = hash(|_| {});
    for same in [(|w| w.enabled = Some(true)) as fn(&mut v1::Webhook), |w| w.etag = "1".into(), |w| w.id = "x".into()] {
        assert_eq!(hash(same), base);
    }
    let changes: [fn(&mut v1::Webhook); 8] = [
        |w| sign(w, 1, "svix", ""),
        |w| w.display_name = "x".into(),
        |w| drop(w.metadata.insert("a".into(), "b".into())),
        |w| w.enabled = Some(false),
        |w| w.url.push('x'),
        |w| w.description = "x".into(),
        |w| w.event_types = vec!["*".into()],
        |w| w.event_types.push("ADD_TAG".into()),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert_ne!(hash(change), base, "change {index}");
    }
    let request = v1::CreateWebhookRequest { request_id: "r".into(), signing_secret: SECRET.into(), ..create() };
    assert_ne!(
        webhook::create(request, &rules(), &Catalog::default()).unwrap().2.expect("it has an id").hash,
        base,
        "a secret brought"
    );
}

#[test]
fn every_wrong_field_of_an_event_is_named() {
    fn time(seconds: i64, nanos: i32) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos }
    }
    fn data(number: f64) -> v1::event::Payload {
        let value = Value { kind: Some(Kind::NumberValue(number)) };
        v1::event::Payload::Data(Struct { fields: [("n".to_owned(), value)].into() })
    }
    type Change = fn(&mut v1::Event);
    let cases: [(Change, &[&str]); 24] = [
        (|e| e.id = "a.b".into(), &["event.id"]),
        (|e| e.id = "x".repeat(65), &["event.id"]),
        (|e| e.tenant = "A".into(), &["event.tenant"]),
        (|e| e.r#type.clear(), &["event.type"]),
        (|e| e.labels = [("k y".into(), String::new())].into(), &["event.labels[\"k y\"]"]),
        (|e| e.labels = [(String::new(), String::new())].into(), &["event.labels[\"\"]"]),
        (|e| e.labels = [("k".into(), "v".repeat(257))].into(), &["event.labels[\"k\"]"]),
        (|e| e.labels = (0..17).map(|n| (n.to_string(), String::new())).collect(), &["event.labels"]),
        (|e| e.ordering_key = "x".repeat(257), &["event.ordering_key"]),
        (|e| e.occur_time = Some(time(253_402_300_800, 0)), &["event.occur_time"]),
        (|e| e.occur_time = Some(time(-62_135_596_801, 0)), &["event.occur_time"]),
        (|e| e.occur_time = Some(time(0, -1)), &["event.occur_time"]),
        (|e| e.occur_time = Some(time(0, 1_000_000_000)), &["event.occur_time"]),
        (|e| e.deliver_at = Some(time(2_000_000_000, 1_000)), &["event.deliver_at"]),
        (|e| e.deliver_at = Some(time(0, -1)), &["event.deliver_at"]),
        (|e| e.max_age = Some(prost_types::Duration { seconds: 0, nanos: 999_999_999 }), &["event.max_age"]),
        (|e| e.max_age = Some(prost_types::Duration { seconds: 30 * 24 * 3600, nanos: 1_000 }), &["event.max_age"]),
        (|e| e.content_type = "text/plain\r\nx: y".into(), &["event.content_type"]),
        (|e| e.content_type = "é".into(), &["event.content_type"]),
        (|e| e.content_type = "x".repeat(257), &["event.content_type"]),
        (|e| (e.content_type, e.payload) = ("text/plain".into(), Some(data(1.0))), &["event.content_type"]),
        (|e| e.payload = None, &["event.payload"]),
        (|e| e.payload = Some(data(f64::NAN)), &["event.data.n"]),
        (|e| e.payload = Some(v1::event::Payload::Body(vec![0; 1_048_577].into())), &["event.body"]),
    ];
    for (change, fields) in cases {
        let mut event = event("e");
        change(&mut event);
        refused(event_fields::event(Some(event), &Catalog::default(), latest), reason::INVALID_FIELD, fields);
    }
    refused(event_fields::event(None, &Catalog::default(), latest), reason::INVALID_FIELD, &["event"]);

    let mut unknown = event("e");
    unknown.r#type = "add_tag".into();
    let message = refused(
        event_fields::event(Some(unknown), &Catalog::default(), latest),
        reason::UNKNOWN_EVENT_TYPE,
        &["event.type"],
    );
    assert!(message.contains("did you mean ADD_TAG?"), "{message}");
}

#[test]
fn an_event_keeps_what_it_says() {
    let read = event_fields::event(Some(event("")), &Catalog::default(), latest).unwrap();
    assert!(read.id.as_str().starts_with("evt_"));
    assert_eq!((read.content_type.as_str(), read.occur_time, &read.body[..]), (JSON, None, b"{}".as_slice()));

    let mut full = event("e");
    full.content_type = "Application/Vnd.x+JSON; charset=utf-8".into();
    full.occur_time = Some(prost_types::Timestamp { seconds: -1, nanos: 999_999_999 });
    full.payload = Some(v1::event::Payload::Data(Struct::default()));
    full.deliver_at = Some(prost_types::Timestamp { seconds: 2_000_000_000, nanos: 999 });
    full.max_age = Some(prost_types::Duration { seconds: 1, nanos: 1_999 });
    full.labels = [("a.B-9_".into(), "v".repeat(256))].into();
    let read = event_fields::event(Some(full), &Catalog::default(), latest).unwrap();
    assert_eq!((read.deliver_at, read.max_age), (Some(latest()), Some(std::time::Duration::from_micros(1_000_001))));
    assert_eq!(read.content_type, "Application/Vnd.x+JSON; charset=utf-8");
    assert_eq!(read.occur_time, Some(Timestamp::from_micros(-1)));
    assert_eq!(&read.body[..], b"{}");

    for json in ["application/json", "a/b+json", "APPLICATION/JSON;a=b"] {
        let mut event = event("e");
        event.content_type = json.into();
        event.payload = Some(v1::event::Payload::Data(Struct::default()));
        assert!(event_fields::event(Some(event), &Catalog::default(), latest).is_ok(), "{json}");
    }
}

#[test]
fn watch_filters_are_checked_whole() {
    use v1::watch_deliveries_request::Start::{Cursor, FromBeginning};
    let wrong = v1::WatchDeliveriesRequest {
        tenant: "!".into(),
        webhook_ids: vec![format!("wh_{}", "0".repeat(32)), "x".into()],
        event_types: vec!["*".into()],
        states: vec![1, 0, 5, 77],
        start: Some(FromBeginning(false)),
        max_updates: -1,
        operational_events: false,
    };
    let fields =
        ["tenant", "webhook_ids[1]", "event_types[0]", "states[1]", "states[3]", "max_updates", "from_beginning"];
    refused(delivery::watch(wrong, &Catalog::default()), reason::UNKNOWN_EVENT_TYPE, &fields);
    let many = v1::WatchDeliveriesRequest {
        webhook_ids: vec!["x".into(); 101],
        event_types: vec!["x".into(); 101],
        ..v1::WatchDeliveriesRequest::default()
    };
    refused(delivery::watch(many, &Catalog::default()), reason::INVALID_FIELD, &["webhook_ids", "event_types"]);

    let all = v1::WatchDeliveriesRequest { tenant: "-".into(), ..v1::WatchDeliveriesRequest::default() };
    let (filter, start, at_once) = delivery::watch(all, &Catalog::default()).unwrap();
    assert_eq!((filter.tenant, start, at_once), (None, Start::Now, 500));
    let start = Some(Cursor("c".into()));
    let one = v1::WatchDeliveriesRequest { start, max_updates: 1, ..v1::WatchDeliveriesRequest::default() };
    let (filter, start, at_once) = delivery::watch(one, &Catalog::default()).unwrap();
    assert_eq!((filter.tenant.unwrap().as_str(), start, at_once), ("default", Start::At("c".into()), 1));
}

#[test]
fn list_filters_are_checked_whole() {
    let mut violations = Violations::default();
    let wrong = v1::ListDeliveriesRequest {
        tenant: "!".into(),
        webhook_id: "x".into(),
        event_id: "a.b".into(),
        states: vec![0],
        ..v1::ListDeliveriesRequest::default()
    };
    delivery::delivery_query(&mut violations, &Catalog::default(), &wrong);
    refused(violations.check(), reason::INVALID_FIELD, &["tenant", "webhook_id", "event_id", "states[0]"]);

    let mut violations = Violations::default();
    let held = v1::ListDeliveriesRequest { states: vec![5, 5], ..v1::ListDeliveriesRequest::default() };
    let query = delivery::delivery_query(&mut violations, &Catalog::default(), &held);
    assert_eq!((query.states, violations.check()), (vec![DeliveryView::Held], Ok(())));
}
