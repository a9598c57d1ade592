//! Which events a webhook receives: label filters, payload filters, registered event types, and the explanation of all that.

use postrider_proto::v1::{
    CreateEventTypeRequest, CreateWebhookRequest, DeleteEventTypeRequest, DeleteWebhookRequest, Event, EventType,
    ExplainEventRequest, LabelValues, ListEventTypesRequest, MatchVerdict, UpdateEventTypeRequest,
    UpdateWebhookRequest, Webhook, event::Payload, explain_event_request::Subject,
};
use postrider_tests::{
    client::{Client, Verdict, verdict, webhook},
    deadline::within,
    events::event,
    ops::Scrape,
    receiver::{Received, Receiver},
    rejection::Rejection,
};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::setup;

fn allowing(labels: &[(&str, &[&str])]) -> std::collections::BTreeMap<String, LabelValues> {
    let values = |values: &[&str]| LabelValues { values: values.iter().map(|value| (*value).to_owned()).collect() };
    labels.iter().map(|(label, allowed)| ((*label).to_owned(), values(allowed))).collect()
}

async fn try_create(client: &Client, webhook: Webhook) -> Result<Webhook, Status> {
    let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
    let call = within("CreateWebhook", async { client.webhooks.clone().create_webhook(request).await }).await;
    Ok(call?.into_inner().webhook.expect("a reply holds the webhook"))
}

async fn create(client: &Client, webhook: Webhook) -> Webhook {
    try_create(client, webhook).await.expect("the webhook is created")
}

fn labelled(id: &str, labels: &[(&str, &str)], body: &str) -> Event {
    let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    Event { labels, ..event(id, "MESSAGE_RECEIVED", body.to_owned()) }
}

/// The ids of the first `count` requests to come, sorted.
async fn ids(receiver: &Receiver, count: usize) -> Vec<String> {
    let requests = receiver.received(count).await;
    let mut ids: Vec<_> = requests.iter().map(|request: &Received| request.header("webhook-id").to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// Issue 4, scope: a webhook bound to labels gets the events that carry all of them with an allowed value, and no others, not those
/// without the label; also after an update and a restart.
#[tokio::test]
async fn a_label_filter_lets_through_what_carries_the_labels() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let (bound, free) = (Receiver::answering(200).await, Receiver::answering(200).await);
    let label_filter = allowing(&[("waba", &["2", "1", "2"]), ("region", &["eu"])]);
    let created = create(&client, Webhook { label_filter, ..webhook("", &bound.url("/"), &["*"]) }).await;
    assert_eq!(created.label_filter, allowing(&[("region", &["eu"]), ("waba", &["1", "2"])]));
    client.create(&free.url("/"), &["*"]).await;
    let eu = ("region", "eu");
    let all = [
        labelled("a", &[("waba", "1"), eu], "{}"),
        labelled("b", &[("waba", "3"), eu], "{}"),
        labelled("c", &[("waba", "1")], "{}"),
        labelled("d", &[], "{}"),
        labelled("e", &[("waba", "2"), eu, ("x", "y")], "{}"),
    ];
    assert_eq!(client.publish(all).await, [2, 1, 1, 1, 2]);
    assert_eq!(ids(&free, 5).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(ids(&bound, 2).await, ["a", "e"]);

    let update = Webhook { id: created.id.clone(), label_filter: allowing(&[("waba", &["3"])]), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(update), ..UpdateWebhookRequest::default() };
    client.webhooks.clone().update_webhook(request).await.expect("the webhook is updated");
    daemon.stop().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    assert_eq!(client.webhook(&created.id).await.label_filter, allowing(&[("waba", &["3"])]));
    assert_eq!(client.publish([labelled("f", &[("waba", "1"), eu], "{}")]).await, [1]);
    assert_eq!(client.publish([labelled("g", &[("waba", "3")], "{}")]).await, [2]);
    assert_eq!(ids(&bound, 3).await, ["a", "e", "g"]);
    daemon.stop().await;
}

/// Issue 4, payload filter: it decides by the body; a wrong one is refused with its place; one that fails on an event is counted,
/// logged and explained, and the event does not go to its webhook.
#[tokio::test]
async fn a_payload_filter_decides_by_the_body_and_tells_when_it_cannot() {
    let daemon = setup().flag("--ops", "127.0.0.1:0").start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let receiver = Receiver::answering(200).await;
    let filtering =
        |filter: &str| Webhook { payload_filter: filter.to_owned(), ..webhook("", &receiver.url("/"), &["*"]) };
    let filter = "body.message.type == 'TEXT' && body.from.startsWith('9198')";
    let created = create(&client, filtering(filter)).await;
    assert_eq!(client.webhook(&created.id).await.payload_filter, filter);
    for (wrong, told) in [
        ("body.a ==", "line 1, column"),
        ("message.type == 'TEXT'", "line 1, column 1: there is no \"message\" here"),
        ("body.a.map(x, x) == []", "only `has`, `all` and `exists`"),
        (&"(".repeat(1000), "must not nest"),
    ] {
        let refused = Rejection::from(&try_create(&client, filtering(wrong)).await.expect_err("it is refused"));
        refused.check(wrong, Code::InvalidArgument, "INVALID_FIELD", "webhook.payload_filter");
        assert!(refused.message.contains(told), "{wrong}: {}", refused.message);
    }

    let text = r#"{"from": "919800000001",  "message": {"type": "TEXT"}}"#;
    let all = [
        labelled("yes", &[], text),
        labelled("no", &[], r#"{"from": "919800000001", "message": {"type": "IMAGE"}}"#),
        labelled("keyless", &[], "{}"),
        labelled("broken", &[], "no JSON"),
        Event { content_type: "text/plain".into(), ..labelled("plain", &[], text) },
        labelled("last", &[], text),
    ];
    assert_eq!(client.publish(all).await, [1, 0, 0, 0, 0, 1]);
    assert_eq!(ids(&receiver, 2).await, ["last", "yes"]);
    assert_eq!(receiver.received(2).await[0].body, text.as_bytes(), "byte for byte");

    let scrape = Scrape::of(address).await;
    let expected = [("evaluation", 1), ("not_json", 2)].map(|(error, count)| (error.to_owned(), count));
    assert_eq!(scrape.by_label("payload_filter_errors_total"), expected.into());
    let log = daemon.log();
    assert!(log.contains("a payload filter could not be applied") && log.contains(&created.id), "{log}");
    assert!(!log.contains("919800000001"), "a log never holds a body: {log}");
    for (id, expected) in [("keyless", "there is no \"from\""), ("broken", "not JSON"), ("plain", "content type")] {
        let [said] = &explain(&client, Subject::EventId(id.into()), 10).await[..] else { panic!("one webhook") };
        assert_eq!(said.0, MatchVerdict::PayloadError, "{id}");
        assert!(said.1.contains(expected), "{id}: {}", said.1);
    }
    daemon.stop().await;
}

/// What each webhook says, oldest first, read in pages of `size`.
async fn explain(client: &Client, subject: Subject, size: i32) -> Vec<(MatchVerdict, String)> {
    let mut request = ExplainEventRequest { subject: Some(subject), page_size: size, ..ExplainEventRequest::default() };
    let mut all = Vec::new();
    loop {
        let call = within("ExplainEvent", async { client.events.clone().explain_event(request.clone()).await }).await;
        let page = call.expect("the event is explained").into_inner();
        assert!(page.matches.len() <= usize::try_from(size).expect("positive"));
        all.extend(page.matches.into_iter().map(|said| (said.verdict(), said.detail)));
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

/// Issue 4, `ExplainEvent`: for each webhook of the tenant, matched or why not, for a stored event and for a draft, in pages.
#[tokio::test]
async fn an_event_is_explained_webhook_by_webhook() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let all = || webhook("", &receiver.url("/"), &["*"]);
    create(&client, all()).await;
    create(&client, webhook("", &receiver.url("/"), &["ADD_TAG"])).await;
    create(&client, Webhook { label_filter: allowing(&[("waba", &["1"])]), ..all() }).await;
    create(&client, Webhook { payload_filter: "body.n == 1".into(), ..all() }).await;
    create(&client, Webhook { payload_filter: "body.nothing == 1".into(), ..all() }).await;
    create(&client, Webhook { enabled: Some(false), ..all() }).await;
    create(&client, webhook("theirs", &receiver.url("/"), &["*"])).await;
    let draft = labelled("draft", &[("waba", "2")], r#"{"n": 2}"#);
    assert_eq!(client.publish([draft.clone()]).await, [2]);
    let expected = [
        (MatchVerdict::Matched, ""),
        (MatchVerdict::EventType, "of a type"),
        (MatchVerdict::Label, "\"waba\""),
        (MatchVerdict::Payload, "is false"),
        (MatchVerdict::PayloadError, "there is no \"nothing\""),
        (MatchVerdict::Held, "disabled"),
    ];
    for (subject, size) in
        [(Subject::EventId("draft".into()), 10), (Subject::Event(draft.clone()), 1), (Subject::Event(draft), 6)]
    {
        let said = explain(&client, subject.clone(), size).await;
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for ((verdict, detail), (expected, told)) in said.iter().zip(expected) {
            assert_eq!(*verdict, expected, "{detail}");
            assert!(detail.contains(told), "{detail}");
        }
    }
    let refused = async |subject: Option<Subject>, token: &str| {
        let request = ExplainEventRequest { subject, page_token: token.into(), ..ExplainEventRequest::default() };
        let status = client.events.clone().explain_event(request).await.expect_err("it is refused");
        Rejection::from(&status)
    };
    let id = |id: &str| Some(Subject::EventId(id.into()));
    refused(id("nobody"), "").await.check("unknown", Code::NotFound, "EVENT_NOT_FOUND", "");
    refused(id("not an id"), "").await.check("malformed", Code::InvalidArgument, "", "event_id");
    refused(id("draft"), "x").await.check("token", Code::InvalidArgument, "INVALID_PAGE_TOKEN", "page_token");
    refused(None, "").await.check("nothing", Code::InvalidArgument, "", "event");
    let wrong = Some(Subject::Event(event("e", "NO_SUCH_TYPE", "{}")));
    refused(wrong, "").await.check("draft", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event.type");
    daemon.stop().await;
}

async fn register(client: &Client, event_type: EventType) -> Result<EventType, Status> {
    let request = CreateEventTypeRequest { event_type: Some(event_type) };
    let reply = client.event_types.clone().create_event_type(request).await?.into_inner();
    Ok(reply.event_type.expect("a reply holds the event type"))
}

async fn types(client: &Client, tenant: &str) -> Vec<EventType> {
    let mut request = ListEventTypesRequest { tenant: tenant.into(), page_size: 5, page_token: String::new() };
    let mut all = Vec::new();
    loop {
        let page = client.event_types.clone().list_event_types(request.clone()).await.expect("listed").into_inner();
        all.extend(page.event_types);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

const SCHEMA: &str = r#"{"type": "object", "required": ["id"], "properties": {"lines": {"items": {"properties": {"count": {"type":
    "integer", "minimum": 1}}}}}}"#;

/// Issue 4, event types: registered ones can be published, named by webhooks and listed, by their tenant or by all, before and after
/// a restart; a body that does not hold to the schema is refused with the path that failed.
#[tokio::test]
async fn registered_event_types_are_like_built_in_ones_and_hold_bodies_to_their_schema() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let order = EventType { name: "order.created".into(), json_schema: SCHEMA.into(), ..EventType::default() };
    let unknown = event("e", "order.created", "{}");
    let (replies, _) = client.publish_all([unknown]).await;
    refusal(&replies[0]).check("unknown", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event.type");

    let registered = register(&client, order.clone()).await.expect("registered");
    assert_eq!(
        (registered.tenant.as_str(), registered.built_in, registered.etag.is_empty()),
        ("default", false, false)
    );
    let shared =
        EventType { name: "shared".into(), tenant: "-".into(), title: "For all".into(), ..EventType::default() };
    register(&client, shared).await.expect("registered");
    for (name, schema, code, reason, field) in [
        ("order.created", "", Code::AlreadyExists, "EVENT_TYPE_EXISTS", ""),
        ("ADD_TAG", "", Code::AlreadyExists, "EVENT_TYPE_EXISTS", ""),
        ("a b", "", Code::InvalidArgument, "INVALID_FIELD", "event_type.name"),
        ("a", "{", Code::InvalidArgument, "INVALID_FIELD", "event_type.json_schema"),
        (
            "a",
            r#"{"$ref": "http://169.254.169.254/"}"#,
            Code::InvalidArgument,
            "INVALID_FIELD",
            "event_type.json_schema",
        ),
    ] {
        let wrong = EventType { name: name.into(), json_schema: schema.into(), ..EventType::default() };
        let refused = register(&client, wrong).await.expect_err("it is refused");
        Rejection::from(&refused).check(name, code, reason, field);
    }

    let webhook = client.create(&receiver.url("/"), &["order.created", "shared"]).await;
    assert_eq!(webhook.webhook.event_types, ["order.created", "shared"]);
    daemon.stop().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let listed =
        |types: &[EventType]| types.iter().filter(|it| !it.built_in).map(|it| it.name.clone()).collect::<Vec<_>>();
    let ours = types(&client, "").await;
    assert_eq!((ours.len(), listed(&ours)), (17, vec!["order.created".to_owned(), "shared".to_owned()]));
    assert_eq!(listed(&types(&client, "theirs").await), ["shared"]);
    let good = r#"{"id":  "o-1", "lines": [{"count": 1}]}"#;
    assert_eq!(client.publish([event("good", "order.created", good), event("s", "shared", "not JSON")]).await, [1, 1]);
    assert_eq!(ids(&receiver, 2).await, ["good", "s"]);
    let wrong = r#"{"id": "o-2", "lines": [{"count": 1}, {"count": 0}]}"#;
    let data =
        Event { payload: Some(Payload::Data(prost_types::Struct::default())), ..event("d", "order.created", "") };
    let theirs = Event { tenant: "theirs".into(), ..event("t", "order.created", good) };
    let (replies, _) = client.publish_all([event("w", "order.created", wrong), data, theirs]).await;
    refusal(&replies[0]).check("wrong", Code::InvalidArgument, "SCHEMA_MISMATCH", "event.body/lines/1/count");
    refusal(&replies[1]).check("data", Code::InvalidArgument, "SCHEMA_MISMATCH", "event.data");
    refusal(&replies[2]).check("theirs", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "event.type");
    daemon.stop().await;
}

fn refusal(reply: &postrider_proto::v1::PublishEventsResponse) -> Rejection {
    match verdict(reply) {
        Verdict::Rejected(rejection) => rejection,
        accepted @ Verdict::Accepted { .. } => panic!("not refused: {accepted:?}"),
    }
}

/// Issue 4, event types: what is said of one changes by mask and etag; one that webhooks name is not deleted.
#[tokio::test]
async fn registered_event_types_change_and_go_under_their_conditions() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let order =
        EventType { name: "order".into(), json_schema: SCHEMA.into(), title: "Order".into(), ..EventType::default() };
    let first = register(&client, order).await.expect("registered");
    let update = async |event_type: EventType, paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(FieldMask { paths });
        let request = UpdateEventTypeRequest { event_type: Some(event_type), update_mask };
        let reply = client.event_types.clone().update_event_type(request).await?.into_inner();
        Ok::<_, Status>(reply.event_type.expect("a reply holds the event type"))
    };
    let named = |name: &str| EventType { name: name.into(), ..EventType::default() };
    let second = update(named("order"), &["json_schema"]).await.expect("updated");
    assert_eq!((second.json_schema.as_str(), second.title.as_str()), ("", "Order"));
    assert_ne!(second.etag, first.etag);
    assert_eq!(client.publish([event("anything", "order", "{}")]).await, [0], "the schema no longer holds");
    for (what, event_type, path, code, reason, field) in [
        ("stale", EventType { etag: first.etag, ..named("order") }, "title", Code::Aborted, "ETAG_MISMATCH", ""),
        ("unknown", named("nobody"), "title", Code::NotFound, "EVENT_TYPE_NOT_FOUND", ""),
        ("built-in", named("ADD_TAG"), "title", Code::NotFound, "EVENT_TYPE_NOT_FOUND", ""),
        ("fixed", named("order"), "name", Code::InvalidArgument, "", "update_mask.paths[0]"),
        ("no field", named("order"), "titel", Code::InvalidArgument, "", "update_mask.paths[0]"),
    ] {
        let refused = update(event_type, &[path]).await.expect_err(what);
        Rejection::from(&refused).check(what, code, reason, field);
    }

    let receiver = Receiver::answering(200).await;
    let naming = client.create(&receiver.url("/"), &["order"]).await;
    let delete = async |name: &str, etag: &str| {
        let request = DeleteEventTypeRequest { tenant: String::new(), name: name.into(), etag: etag.into() };
        client.event_types.clone().delete_event_type(request).await.map_err(|status| Rejection::from(&status))
    };
    delete("order", "").await.expect_err("in use").check("used", Code::FailedPrecondition, "EVENT_TYPE_IN_USE", "");
    delete("order", "0").await.expect_err("stale").check("stale", Code::Aborted, "ETAG_MISMATCH", "");
    delete("ADD_TAG", "").await.expect_err("built in").check("built-in", Code::NotFound, "EVENT_TYPE_NOT_FOUND", "");
    let gone = DeleteWebhookRequest { id: naming.id(), ..DeleteWebhookRequest::default() };
    client.webhooks.clone().delete_webhook(gone).await.expect("the webhook is deleted");
    delete("order", &second.etag).await.expect("deleted");
    let refused = try_create(&client, webhook("", &receiver.url("/"), &["order"])).await;
    let refused = Rejection::from(&refused.expect_err("it is refused"));
    refused.check("gone", Code::InvalidArgument, "UNKNOWN_EVENT_TYPE", "webhook.event_types[0]");
    daemon.stop().await;
}
