//! Contract → model for events: every rule that `Event` documents.

use bytes::Bytes;
use postrider_proto::{error_info as reason, v1};

use super::{Types, duration, event_type, labels, span, tenant, time, timestamp};
use crate::{
    api::{
        json::{JsonError, to_json},
        status::{Failure, Violations},
    },
    limits::{AGE_MAX, AGE_MIN, CONTENT_TYPE_BYTES_MAX, EVENT_BODY_BYTES_MAX, ORDERING_KEY_BYTES_MAX},
    model::{
        catalogue,
        event::{Event, JSON, StoredEvent, is_json},
        ids::{EventId, InvalidId, Tenant},
        schema::Mismatch,
        time::Timestamp,
    },
    store::Catalog,
};

/// The event a caller means; an id is assigned if it has none. `latest` says until when it may be scheduled.
pub(in crate::api) fn event(
    event: Option<v1::Event>,
    catalog: &Catalog,
    latest: impl FnOnce() -> Timestamp,
) -> Result<Event, Failure> {
    let mut violations = Violations::default();
    let Some(event) = event else {
        violations.add("event", "must be set");
        return Err(violations.into());
    };
    let id = violations.note("event.id", event_id(&event.id));
    let tenant = tenant(&mut violations, "event.tenant", &event.tenant);
    let types = Types::of(catalog, tenant.as_ref());
    let event_type = event_type(&mut violations, types, || "event.type".into(), &event.r#type);
    let labels = labels(&mut violations, "event.labels", event.labels);
    if event.ordering_key.len() > ORDERING_KEY_BYTES_MAX {
        violations.add("event.ordering_key", format!("must not be longer than {ORDERING_KEY_BYTES_MAX} bytes"));
    }
    let occur_time = event.occur_time.and_then(|time| timestamp(&mut violations, "event.occur_time", time));
    let deliver_at = event.deliver_at.and_then(|time| deliver_at(&mut violations, time, latest()));
    let max_age = event.max_age.and_then(|age| duration(&mut violations, "event.max_age", age, &(AGE_MIN..=AGE_MAX)));
    let is_data = matches!(event.payload, Some(v1::event::Payload::Data(_)));
    let content_type = content_type(&mut violations, event.content_type, is_data);
    let body = body(&mut violations, event.payload);
    violations.check()?;

    let event = Event {
        id: id.expect("no violations"),
        tenant: tenant.expect("no violations"),
        event_type: event_type.expect("no violations"),
        labels,
        ordering_key: event.ordering_key,
        occur_time,
        content_type,
        body: body.expect("no violations"),
        deliver_at,
        max_age,
    };
    hold_to_schema(&event, if is_data { "event.data" } else { "event.body" }, catalog)?;
    Ok(event)
}

/// Refuses a body that does not hold to its type's schema.
fn hold_to_schema(event: &Event, field: &str, catalog: &Catalog) -> Result<(), Failure> {
    let name = event.event_type.as_str();
    if catalogue::find(name).is_some() {
        return Ok(());
    }
    let known = catalog.event_type(Some(&event.tenant), name);
    let schema = known.as_ref().and_then(|known| known.content.schema.as_ref());
    let checked = schema.map_or(Ok(()), |schema| schema.check(event));
    checked.map_err(|Mismatch { pointer, problem }| {
        Failure::field(reason::SCHEMA_MISMATCH, format!("{field}{pointer}"), problem)
    })
}

/// The tenant and id of an event to read.
pub(in crate::api) fn event_key(request: &v1::GetEventRequest) -> Result<(Tenant, EventId), Failure> {
    key_of(&request.tenant, &request.id)
}

/// The tenant and id of a call about one event.
pub(super) fn key_of(tenant_text: &str, id: &str) -> Result<(Tenant, EventId), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", tenant_text);
    let id = violations.note("id", id.parse());
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations")))
}

/// An event as callers see it.
pub(in crate::api) fn event_reply(stored: StoredEvent) -> v1::GetEventResponse {
    let StoredEvent { event, accept_time, .. } = stored;
    let event = v1::Event {
        id: event.id.to_string(),
        tenant: event.tenant.to_string(),
        r#type: event.event_type.to_string(),
        labels: event.labels.into_iter().collect(),
        ordering_key: event.ordering_key,
        occur_time: event.occur_time.map(time),
        content_type: event.content_type,
        payload: Some(v1::event::Payload::Body(event.body)),
        deliver_at: event.deliver_at.map(time),
        max_age: event.max_age.map(span),
    };
    v1::GetEventResponse { event: Some(event), accept_time: Some(time(accept_time)) }
}

fn event_id(text: &str) -> Result<EventId, InvalidId> {
    if text.is_empty() { Ok(EventId::generate()) } else { text.parse() }
}

/// When it is to be sent; not too far ahead.
fn deliver_at(violations: &mut Violations, time: prost_types::Timestamp, latest: Timestamp) -> Option<Timestamp> {
    const FIELD: &str = "event.deliver_at";
    let time = timestamp(violations, FIELD, time)?;
    if time > latest {
        violations.add(FIELD, "must not be further ahead than 30 days, nor than events are retained");
    }
    Some(time)
}

/// The media type of the body; never empty.
fn content_type(violations: &mut Violations, text: String, is_data: bool) -> String {
    const FIELD: &str = "event.content_type";
    if text.is_empty() {
        return JSON.to_owned();
    }
    // A blank is not visible, but `application/json; charset=utf-8` has one.
    let visible = text.bytes().all(|b| (b' '..=b'~').contains(&b)) && text.trim() == text;
    if text.len() > CONTENT_TYPE_BYTES_MAX || !visible {
        violations.add(FIELD, format!("must be at most {CONTENT_TYPE_BYTES_MAX} visible ASCII bytes"));
    } else if is_data && !is_json(&text) {
        violations.add(FIELD, "must be empty, `application/json` or end in `+json` when `data` is set");
    }
    text
}

fn body(violations: &mut Violations, payload: Option<v1::event::Payload>) -> Option<Bytes> {
    match payload {
        None => {
            violations.add("event.payload", "one of `data` and `body` must be set");
            None
        }
        Some(v1::event::Payload::Body(body)) if body.len() > EVENT_BODY_BYTES_MAX => {
            violations.add("event.body", format!("must not be larger than {EVENT_BODY_BYTES_MAX} bytes"));
            None
        }
        Some(v1::event::Payload::Body(body)) => Some(body),
        Some(v1::event::Payload::Data(data)) => match to_json(&data, EVENT_BODY_BYTES_MAX) {
            Ok(body) => Some(body),
            Err(error) => {
                let path = match &error {
                    JsonError::NotFinite { path } | JsonError::NoKind { path } => path,
                    JsonError::TooLarge { .. } => "",
                };
                violations.add(format!("event.data{path}"), error);
                None
            }
        },
    }
}
