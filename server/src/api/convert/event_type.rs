//! Contract ⇄ model for event types.

use std::sync::Arc;

use postrider_proto::{error_info as reason, v1};
use prost_types::FieldMask;

use super::{ALL_TENANTS, mask, tenant, text, time};
use crate::{
    api::status::{Failure, Violations},
    limits::{DESCRIPTION_BYTES_MAX, EVENT_TYPE_EXAMPLE_BYTES_MAX, EVENT_TYPE_TITLE_BYTES_MAX},
    model::{
        catalogue,
        event_type::{EventType, EventTypeContent, EventTypeKey, new_name},
        schema::Schema,
    },
};

/// Every field that may be updated.
const FIELDS: [&str; 4] = ["title", "description", "example", "json_schema"];
/// Every other one.
const FIXED: [&str; 6] = ["name", "tenant", "built_in", "etag", "create_time", "update_time"];

/// The event type to register.
pub(in crate::api) fn create(request: v1::CreateEventTypeRequest) -> Result<(EventTypeKey, EventTypeContent), Failure> {
    let mut violations = Violations::default();
    let Some(event_type) = request.event_type else {
        violations.add("event_type", "must be set");
        return Err(violations.into());
    };
    let key = key(&mut violations, "event_type.", &event_type.tenant, &event_type.name);
    let content = content(&mut violations, event_type);
    violations.check()?;
    match key.expect("no violations") {
        Named::Free(key) => Ok((key, content.expect("no violations"))),
        Named::BuiltIn => Err(Failure::event_type_exists()),
    }
}

/// Which event type a call is about.
pub(in crate::api) fn registered(tenant: &str, name: &str) -> Result<EventTypeKey, Failure> {
    let mut violations = Violations::default();
    let key = key(&mut violations, "", tenant, name);
    violations.check()?;
    key.expect("no violations").registered()
}

/// Whose name it is.
enum Named {
    /// A built-in event type's.
    BuiltIn,
    /// A registered one's, or nobody's.
    Free(EventTypeKey),
}

impl Named {
    /// Nobody registered a built-in one.
    fn registered(self) -> Result<EventTypeKey, Failure> {
        match self {
            Self::BuiltIn => Err(Failure::event_type_not_found()),
            Self::Free(key) => Ok(key),
        }
    }
}

fn key(violations: &mut Violations, prefix: &str, whose: &str, name: &str) -> Option<Named> {
    let name = violations.note(&format!("{prefix}name"), new_name(name));
    let tenant = if whose == ALL_TENANTS { None } else { Some(tenant(violations, &format!("{prefix}tenant"), whose)?) };
    Some(name?.map_or(Named::BuiltIn, |name| Named::Free(EventTypeKey { tenant, name })))
}

fn content(violations: &mut Violations, event_type: v1::EventType) -> Option<EventTypeContent> {
    let title = text(violations, "event_type.title", event_type.title, EVENT_TYPE_TITLE_BYTES_MAX);
    let description = text(violations, "event_type.description", event_type.description, DESCRIPTION_BYTES_MAX);
    let example = text(violations, "event_type.example", event_type.example, EVENT_TYPE_EXAMPLE_BYTES_MAX);
    if !example.is_empty() && serde_json::from_str::<serde_json::Value>(&example).is_err() {
        violations.add("event_type.example", "must be JSON");
    }
    let schema = match event_type.json_schema.as_str() {
        "" => None,
        schema => Some(Arc::new(violations.note("event_type.json_schema", Schema::compile(schema))?)),
    };
    Some(EventTypeContent { title, description, example, schema })
}

/// An update, checked as far as it can be without the event type.
#[derive(Debug)]
pub(in crate::api) struct Update {
    pub(in crate::api) key: EventTypeKey,
    /// Empty: whatever it is.
    pub(in crate::api) etag: String,
    event_type: v1::EventType,
    paths: Vec<&'static str>,
}

/// What is to be updated.
pub(in crate::api) fn update(request: v1::UpdateEventTypeRequest) -> Result<Update, Failure> {
    let mut violations = Violations::default();
    let Some(mut event_type) = request.event_type else {
        violations.add("event_type", "must be set");
        return Err(violations.into());
    };
    let key = key(&mut violations, "event_type.", &event_type.tenant, &event_type.name);
    let paths = paths(&mut violations, &event_type, request.update_mask.as_ref());
    violations.check()?;
    let key = key.expect("no violations").registered()?;
    Ok(Update { key, etag: std::mem::take(&mut event_type.etag), event_type, paths })
}

fn paths(violations: &mut Violations, event_type: &v1::EventType, mask: Option<&FieldMask>) -> Vec<&'static str> {
    let v1::EventType { title, description, example, json_schema, .. } = event_type;
    let values = [title, description, example, json_schema];
    let set: Vec<_> =
        FIELDS.into_iter().zip(values).filter(|(_, value)| !value.is_empty()).map(|(name, _)| name).collect();
    mask::paths(violations, mask, &mask::Fields { noun: "event type", all: &FIELDS, fixed: &FIXED, set: &set })
}

impl Update {
    /// What it makes of the event type.
    pub(in crate::api) fn apply(&self, known: &EventType) -> Result<EventTypeContent, Failure> {
        let mut merged = reply(known);
        let from = &self.event_type;
        for path in &self.paths {
            match *path {
                "title" => merged.title.clone_from(&from.title),
                "description" => merged.description.clone_from(&from.description),
                "example" => merged.example.clone_from(&from.example),
                _ => merged.json_schema.clone_from(&from.json_schema),
            }
        }
        let mut violations = Violations::default();
        let content = content(&mut violations, merged);
        violations.check()?;
        content.ok_or_else(|| Failure::field(reason::INVALID_FIELD, "event_type", "cannot be read"))
    }
}

/// A registered event type as callers see it.
pub(in crate::api) fn reply(event_type: &EventType) -> v1::EventType {
    let content = &event_type.content;
    v1::EventType {
        name: event_type.key.name.to_string(),
        title: content.title.to_string(),
        description: content.description.to_string(),
        example: content.example.to_string(),
        tenant: event_type.key.tenant.as_ref().map_or_else(|| ALL_TENANTS.to_owned(), ToString::to_string),
        json_schema: content.schema.as_ref().map_or_else(String::new, |schema| schema.text().to_owned()),
        built_in: false,
        etag: event_type.etag(),
        create_time: Some(time(event_type.create_time)),
        update_time: Some(time(event_type.update_time)),
    }
}

/// A built-in event type as callers see it.
pub(in crate::api) fn built_in_reply(event_type: &catalogue::EventType) -> v1::EventType {
    v1::EventType {
        name: event_type.name.into(),
        title: event_type.title.into(),
        description: event_type.description.into(),
        example: event_type.example.into(),
        tenant: ALL_TENANTS.into(),
        built_in: true,
        ..v1::EventType::default()
    }
}
