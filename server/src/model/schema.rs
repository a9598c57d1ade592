//! JSON Schemas that bodies of an event type must hold to.
//!
//! Who writes a schema decides what every publish of its type costs, so a schema may refer only to parts of itself, never in
//! a circle, and is measured with all its references written out. Its patterns are matched in linear time. Nothing is ever
//! fetched: the library is built without the means to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

use crate::{
    limits::{
        EVENT_SCHEMA_BYTES_MAX, EVENT_SCHEMA_PARTS_MAX, EVENT_SCHEMA_PATTERN_BYTES_MAX, EVENT_SCHEMA_REFERENCES_MAX,
    },
    model::event::{Event, is_json},
};

/// A text that is no schema, or none that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}{problem}")]
pub struct InvalidSchema {
    /// JSON pointer and a colon; empty for the whole.
    place: String,
    problem: String,
}

impl InvalidSchema {
    fn new(pointer: &str, problem: impl Into<String>) -> Self {
        let place = if pointer.is_empty() { String::new() } else { format!("{pointer}: ") };
        Self { place, problem: problem.into() }
    }
}

/// A body that does not hold to its type's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// JSON pointer to the value that is wrong; empty for the whole body.
    pub pointer: String,
    /// What is wrong with it, without the value.
    pub problem: String,
}

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    text: Box<str>,
    /// `None`: an earlier version took it, and this one does not.
    validator: Option<Validator>,
}

/// Equal if written equally.
impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Schema {}

impl Schema {
    /// Compiles a schema.
    pub fn compile(text: &str) -> Result<Self, InvalidSchema> {
        Ok(Self { text: text.into(), validator: Some(compile(text)?) })
    }

    /// From the store, where it was good once: one that no longer is refuses every event, which can be seen and repaired.
    pub fn from_stored(text: &str) -> Self {
        Self { text: text.into(), validator: compile(text).ok() }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the event's body holds to it.
    pub fn check(&self, event: &Event) -> Result<(), Mismatch> {
        let whole = |problem: &str| Mismatch { pointer: String::new(), problem: problem.into() };
        let Some(validator) = &self.validator else {
            return Err(whole("its type's schema is not one that this version understands; update the event type"));
        };
        if !is_json(&event.content_type) {
            return Err(whole("must be JSON, and say so: its type has a schema"));
        }
        let body: Value =
            serde_json::from_slice(&event.body).map_err(|_| whole("must be JSON: its type has a schema"))?;
        let checked = catch_unwind(AssertUnwindSafe(|| {
            validator.validate(&body).map_err(|error| Mismatch {
                pointer: error.instance_path().as_str().to_owned(),
                problem: error.masked().to_string(),
            })
        }));
        checked.unwrap_or_else(|_| Err(whole("could not be held against its type's schema")))
    }
}

fn compile(text: &str) -> Result<Validator, InvalidSchema> {
    let whole = |problem: String| InvalidSchema::new("", problem);
    if text.len() > EVENT_SCHEMA_BYTES_MAX {
        return Err(whole(format!("must not be longer than {EVENT_SCHEMA_BYTES_MAX} bytes")));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| whole(format!("must be JSON: {error}")))?;
    let mut walk = Walk { schema: &schema, parts: 0, references: Vec::new() };
    walk.part(&schema, &mut String::new())?;
    let patterns = PatternOptions::regex()
        .size_limit(EVENT_SCHEMA_PATTERN_BYTES_MAX)
        .dfa_size_limit(EVENT_SCHEMA_PATTERN_BYTES_MAX);
    let options = jsonschema::options().with_pattern_options(patterns).should_validate_formats(false);
    let built = catch_unwind(AssertUnwindSafe(|| {
        options.build(&schema).map_err(|error| {
            let pointer = error.instance_path().as_str().to_owned();
            InvalidSchema::new(&pointer, error.masked().to_string())
        })
    }));
    built.unwrap_or_else(|_| Err(whole("cannot be compiled".into())))
}

/// Counts the parts of a schema as often as validation may come to them.
struct Walk<'a> {
    schema: &'a Value,
    parts: usize,
    /// References that are being followed.
    references: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn part(&mut self, part: &'a Value, pointer: &mut String) -> Result<(), InvalidSchema> {
        self.parts += 1;
        if self.parts > EVENT_SCHEMA_PARTS_MAX {
            let problem = format!("must not have more than {EVENT_SCHEMA_PARTS_MAX} parts, references written out");
            return Err(InvalidSchema::new("", problem));
        }
        match part {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
            Value::Array(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    self.below(part, &index.to_string(), pointer)?;
                }
                Ok(())
            }
            Value::Object(parts) => {
                for (key, part) in parts {
                    self.keyword(key, part, pointer)?;
                    self.below(part, key, pointer)?;
                }
                Ok(())
            }
        }
    }

    fn below(&mut self, part: &'a Value, key: &str, pointer: &mut String) -> Result<(), InvalidSchema> {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        self.part(part, pointer)?;
        pointer.truncate(length);
        Ok(())
    }

    fn keyword(&mut self, key: &str, part: &'a Value, pointer: &str) -> Result<(), InvalidSchema> {
        let refuse = |problem: &str| Err(InvalidSchema::new(pointer, format!("`{key}` {problem}")));
        let Value::String(reference) = part else { return Ok(()) };
        match key {
            "$dynamicRef" | "$recursiveRef" => return refuse("is not available"),
            "$id" | "id" if !pointer.is_empty() => return refuse("may only stand at the top"),
            "$ref" => {}
            _ => return Ok(()),
        }
        let target = match reference.strip_prefix('#') {
            Some("") => Some(self.schema),
            Some(target) if target.starts_with('/') && !target.contains('%') => self.schema.pointer(target),
            Some(_) | None => return refuse("may only point to a part of this schema, as `#/$defs/name` does"),
        };
        let Some(target) = target else { return refuse("points nowhere") };
        let around = pointer.strip_prefix(&reference[1..]).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if around || self.references.contains(&reference.as_str()) {
            return refuse("must not lead back to itself");
        }
        if self.references.len() >= EVENT_SCHEMA_REFERENCES_MAX {
            return refuse("leads through too many others");
        }
        self.references.push(reference);
        self.part(target, &mut reference[1..].to_owned())?;
        self.references.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{
        event::JSON,
        ids::{EventTypeName, Tenant},
    };

    fn event(body: &str) -> Event {
        Event {
            id: "e".parse().unwrap(),
            tenant: Tenant::default(),
            event_type: EventTypeName::new("order.created"),
            labels: BTreeMap::new(),
            ordering_key: String::new(),
            occur_time: None,
            content_type: JSON.into(),
            body: body.to_owned().into(),
            deliver_at: None,
            max_age: None,
        }
    }

    #[test]
    fn a_mismatch_names_the_value_by_its_pointer_and_does_not_repeat_it() {
        let schema = Schema::compile(
            r##"{"type": "object", "required": ["id"], "properties": {
                "id": {"type": "string", "pattern": "^o-[0-9]+$"},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
                "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}}}}"##,
        )
        .unwrap();
        assert_eq!(schema.check(&event(r#"{"id": "o-1", "lines": [{"count": 2}]}"#)), Ok(()));
        for (body, pointer) in [
            (r#"{"id": "secret"}"#, "/id"),
            (r#"{"id": "o-1", "lines": [{"count": 1}, {"count": "secret"}]}"#, "/lines/1/count"),
            (r#"{"id": "o-1", "lines": [{"count": 0}]}"#, "/lines/0/count"),
            ("{}", ""),
            ("[]", ""),
            ("", ""),
            ("{", ""),
        ] {
            let mismatch = schema.check(&event(body)).unwrap_err();
            assert_eq!(mismatch.pointer, pointer, "{body}");
            assert!(!mismatch.problem.contains("secret"), "{body}: {}", mismatch.problem);
        }
        let text = Event { content_type: "text/plain".into(), ..event(r#"{"id": "o-1"}"#) };
        assert!(schema.check(&text).is_err());
    }

    #[test]
    fn schemas_that_fetch_circle_or_grow_are_refused_with_their_place() {
        let check = |text: &str, told: &str| {
            let error = Schema::compile(text).expect_err(text).to_string();
            assert!(error.contains(told), "{text:.200}: {error}");
        };
        check("", "must be JSON");
        check("{\"type\": \"strin\"}", "/type: ");
        check(r#"{"properties": {"a": {"minimum": "1"}}}"#, "/properties/a/minimum: ");
        check(r#"{"properties": {"a": {"pattern": "("}}}"#, "/properties/a/pattern: ");
        check(r#"{"properties": {"a": {"pattern": "(?=a)b"}}}"#, "/properties/a/pattern: ");
        check(r#"{"$ref": "https://example.com/schema"}"#, "may only point to a part");
        check(r#"{"$ref": "file:///etc/passwd"}"#, "may only point to a part");
        check(r##"{"items": {"$ref": "#/nowhere"}}"##, "/items: `$ref` points nowhere");
        check(r##"{"items": {"$ref": "#"}}"##, "must not lead back to itself");
        check(r##"{"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}"##, "must not lead back to itself");
        check(
            r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}}"##,
            "lead back to itself",
        );
        check(r#"{"$dynamicRef": "\#a"}"#.replace('\\', "").as_str(), "is not available");
        check(r#"{"items": {"$id": "https://example.com/x"}}"#, "may only stand at the top");
        check(&format!("\"{}\"", "x".repeat(70_000)), "must not be longer");
        let growing = |levels: usize, width: usize| {
            let level = |n: usize| {
                let next = format!(r##"{{"$ref": "#/$defs/d{}"}}"##, n + 1);
                format!(r#""d{n}": {{"allOf": [{}]}}"#, vec![next; width].join(","))
            };
            let all: Vec<_> = (0..levels).map(level).collect();
            format!(r##"{{"$ref": "#/$defs/d0", "$defs": {{{}, "d{levels}": true}}}}"##, all.join(","))
        };
        check(&growing(14, 10), "parts");
        check(&growing(40, 1), "leads through too many others");
        assert!(Schema::compile(&growing(8, 2)).is_ok());
        assert!(Schema::compile(&"[".repeat(60_000)).is_err());
        assert!(Schema::compile("true").is_ok());
    }
}
