//! JSON Schemas that bodies of an event type must hold to.
//!
//! Who writes a schema decides what every publish of its type costs, so a schema may refer only to parts of itself, never in
//! a circle, and is weighed with all its references written out: see [`weight`]. What it weighs and how long a body is bound
//! what one costs that is held against it. Nothing is ever fetched: the library is built without the means to.

mod unique;
mod weight;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

use crate::{
    limits::{
        EVENT_SCHEMA_BYTES_MAX, EVENT_SCHEMA_COST_MAX, EVENT_SCHEMA_PATTERN_BYTES_MAX, EVENT_SCHEMA_PLACE_COST_MAX,
    },
    model::event::{Event, is_json},
};

/// Room for the deepest schema with the deepest pattern: some 4 MiB in an unoptimised build, 1 MiB in an optimised one.
const COMPILER_STACK_BYTES: usize = 16 * 1024 * 1024;

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
    compiled: Option<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    validator: Validator,
    /// Longest body that is held against it, in bytes.
    body_bytes_max: usize,
    /// Longest body of which it is told where it does not.
    place_bytes_max: usize,
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
        Ok(Self { text: text.into(), compiled: Some(compile(text)?) })
    }

    /// From the store, where it was good once: one that no longer is refuses every event, which can be seen and repaired.
    pub fn from_stored(text: &str) -> Self {
        Self { text: text.into(), compiled: compile(text).ok() }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the event's body holds to it.
    pub fn check(&self, event: &Event) -> Result<(), Mismatch> {
        let whole = |problem: &str| Mismatch { pointer: String::new(), problem: problem.into() };
        let Some(Compiled { validator, body_bytes_max, place_bytes_max }) = &self.compiled else {
            return Err(whole("its type's schema is not one that this version understands; update the event type"));
        };
        if !is_json(&event.content_type) {
            return Err(whole("must be JSON, and say so: its type has a schema"));
        }
        if event.body.len() > *body_bytes_max {
            return Err(whole(&format!(
                "must not be longer than {body_bytes_max} bytes: its type's schema has many parts or long patterns"
            )));
        }
        let body: Value =
            serde_json::from_slice(&event.body).map_err(|_| whole("must be JSON: its type has a schema"))?;
        let is_short = event.body.len() <= *place_bytes_max;
        let checked = catch_unwind(AssertUnwindSafe(|| {
            if validator.is_valid(&body) {
                return Ok(());
            }
            if !is_short {
                return Err(whole(&format!(
                    "does not hold to its type's schema; where is told of bodies of {place_bytes_max} bytes, at most: that schema \
                     has alternatives, or parts about what was not evaluated"
                )));
            }
            validator.validate(&body).map_err(|error| Mismatch {
                pointer: error.instance_path().as_str().to_owned(),
                problem: error.masked().to_string(),
            })
        }));
        checked.unwrap_or_else(|_| Err(whole("could not be held against its type's schema")))
    }
}

fn compile(text: &str) -> Result<Compiled, InvalidSchema> {
    let whole = |problem: String| InvalidSchema::new("", problem);
    if text.len() > EVENT_SCHEMA_BYTES_MAX {
        return Err(whole(format!("must not be longer than {EVENT_SCHEMA_BYTES_MAX} bytes")));
    }
    let schema: Value = serde_json::from_str(text).map_err(|error| whole(format!("must be JSON: {error}")))?;
    // Compilers go as deep as schemas and patterns do; a stack that overflows is the end of the process.
    let compiled = thread::scope(|scope| {
        let thread = thread::Builder::new().name("schema".into()).stack_size(COMPILER_STACK_BYTES);
        let ended = thread.spawn_scoped(scope, || build(&schema)).map(thread::ScopedJoinHandle::join);
        ended.unwrap_or_else(|error| Ok(Err(whole(format!("cannot be compiled now: {error}")))))
    });
    compiled.unwrap_or_else(|_| Err(whole("cannot be compiled".into())))
}

fn build(schema: &Value) -> Result<Compiled, InvalidSchema> {
    let weight = weight::of(schema)?.steps;
    let patterns = PatternOptions::regex()
        .size_limit(EVENT_SCHEMA_PATTERN_BYTES_MAX)
        .dfa_size_limit(EVENT_SCHEMA_PATTERN_BYTES_MAX);
    let options = jsonschema::options().with_pattern_options(patterns).should_validate_formats(false);
    let options = options.with_keyword("uniqueItems", unique::keyword);
    let validator = options.build(schema).map_err(|error| {
        let pointer = error.instance_path().as_str().to_owned();
        InvalidSchema::new(&pointer, error.masked().to_string())
    })?;
    let body_bytes_max = EVENT_SCHEMA_COST_MAX / weight;
    let place_bytes_max = if collects(schema) { EVENT_SCHEMA_PLACE_COST_MAX / weight } else { body_bytes_max };
    Ok(Compiled { validator, body_bytes_max, place_bytes_max })
}

/// Whether the library collects all that is wrong with a body to tell of any of it, as it does of alternatives and of what was not
/// evaluated: each mistake takes some 400 bytes and 1 µs, and there may be as many as a schema has parts for each byte.
fn collects(part: &Value) -> bool {
    const COLLECTING: [&str; 4] = ["anyOf", "oneOf", "unevaluatedItems", "unevaluatedProperties"];
    match part {
        Value::Array(parts) => parts.iter().any(collects),
        Value::Object(parts) => parts.iter().any(|(key, part)| COLLECTING.contains(&key.as_str()) || collects(part)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
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
        check(&growing(14, 10), "weigh more");
        check(&growing(40, 1), "leads through too many others");
        assert!(Schema::compile(&growing(8, 2)).is_ok());
        assert!(Schema::compile(&"[".repeat(60_000)).is_err());
        assert!(Schema::compile("true").is_ok());
    }

    fn nested(open: &str, close: &str, levels: usize) -> String {
        format!("{}true{}", open.repeat(levels), close.repeat(levels))
    }

    #[test]
    fn schemas_that_would_take_for_ever_are_refused() {
        let in_place = r#"{"unevaluatedProperties": false, "allOf": ["#;
        for (open, close) in [
            (r#"{"unevaluatedItems": "#, "}"),
            (r#"{"unevaluatedProperties": "#, "}"),
            (in_place, "]}"),
            (r#"{"unevaluatedItems": {"type": "number"}, "anyOf": ["#, "]}"),
            (r#"{"unevaluatedItems": false, "contains": "#, "}"),
        ] {
            let error = Schema::compile(&nested(open, close, 12)).expect_err(open).to_string();
            assert!(error.contains("weigh more"), "{open}: {error}");
            // What is taken is soon done with.
            let taken = Schema::compile(&nested(open, close, 7)).expect(open);
            let (lists, objects) = (nested("[", "]", 7), nested(r#"{"a":"#, "}", 7));
            for body in [&lists, &objects, "{}", "[]", "[1, 2]"] {
                let _ = taken.check(&event(body));
            }
        }
        let pattern = |pattern: &str| format!(r#"{{"pattern": "{pattern}"}}"#);
        let many = |count| format!(r#"{{"allOf": [{}]}}"#, vec![pattern("[xy]*x[xy]{200}z"); count].join(","));
        assert!(Schema::compile(&many(1)).is_ok());
        for heavy in [&many(200), &pattern("([xy]{100}){100}"), r#"{"patternProperties": {"([xy]{100}){100}": {}}}"#] {
            assert!(Schema::compile(heavy).is_err(), "{heavy:.100}");
        }
    }

    #[test]
    fn deep_schemas_and_patterns_leave_the_stack_alone() {
        let wide =
            |name: &str, next: &str| format!(r#""{name}": {}"#, nested(r#"{"not": "#, "}", 100).replace("true", next));
        let chain: Vec<_> =
            (0..4).map(|n| wide(&format!("d{n}"), &format!(r##"{{"$ref": "#/$defs/d{}"}}"##, n + 1))).collect();
        let error =
            Schema::compile(&format!(r##"{{"$ref": "#/$defs/d0", "$defs": {{{}, "d4": true}}}}"##, chain.join(",")));
        assert!(error.expect_err("too deep").to_string().contains("deeper"), "as deep as written out");
        let deepest = nested(r#"{"additionalProperties": "#, "}", 120);
        let schema =
            Schema::compile(&deepest.replace("true", &format!(r#"{{"pattern": "(a{})+"}}"#, "+".repeat(200)))).unwrap();
        assert_eq!(schema.check(&event(&nested(r#"{"a": "#, "}", 120))), Ok(()));
    }

    /// To tell of one thing that is wrong the library would keep millions.
    #[test]
    fn what_is_wrong_with_a_long_body_is_not_collected() {
        let schema = |alternatives: &str, parts: usize| {
            let parts = vec!["false"; parts].join(",");
            Schema::compile(&format!(r#"{{"{alternatives}": [{{"items": {{"allOf": [{parts}]}}}}]}}"#)).unwrap()
        };
        let body = |items: usize| event(&format!("[{}]", vec!["1"; items].join(",")));
        for alternatives in ["anyOf", "oneOf"] {
            let heavy = schema(alternatives, 1_000);
            for (items, is_told) in [(20, false), (65_000, true)] {
                let problem = heavy.check(&body(items)).unwrap_err().problem;
                assert_eq!(problem.contains("where is told of"), is_told, "{alternatives} of {items}: {problem}");
            }
            assert_eq!(heavy.check(&body(0)), Ok(()));
        }
        let list = Schema::compile(r#"{"properties": {"a": {"unevaluatedItems": false}}}"#).unwrap();
        let nested = |items: usize| event(&format!(r#"{{"a": [{}]}}"#, vec!["1"; items].join(",")));
        assert_eq!(list.check(&nested(10)).unwrap_err().pointer, "/a");
        assert_eq!(list.check(&nested(200_000)).unwrap_err().pointer, "");
    }

    #[test]
    fn a_pattern_that_many_refer_to_is_read_once() {
        let level = |n: usize| {
            format!(r#""d{n}": {{"allOf": [{0}, {0}]}}"#, format_args!(r##"{{"$ref": "#/$defs/d{}"}}"##, n + 1))
        };
        let all: Vec<_> = (0..9).map(level).collect();
        let pattern = format!("(?:a{{0}}){{0}}{}", "(?:)".repeat(10_000));
        let text =
            format!(r##"{{"$ref": "#/$defs/d0", "$defs": {{{}, "d9": {{"pattern": "{pattern}"}}}}}}"##, all.join(","));
        assert!(Schema::compile(&text).is_ok());
        let schema = serde_json::from_str(&text).unwrap();
        assert_eq!(weight::of(&schema).map(|weighed| weighed.patterns_read), Ok(1));
    }

    /// However many items the library would think alike.
    #[test]
    fn items_are_told_apart_by_their_brackets_too() {
        let lists = |n: usize| {
            format!(
                "[{}]",
                (0..n).map(|n| format!("{}{}", "[".repeat(n + 1), "]".repeat(n + 1))).collect::<Vec<_>>().join(",")
            )
        };
        let unique = Schema::compile(r#"{"uniqueItems": true}"#).unwrap();
        assert_eq!(unique.check(&event(&lists(100))), Ok(()));
        assert_eq!(
            unique.check(&event("[[1, [2]], [1.0, [2]]]")).unwrap_err().problem,
            "value has items that are equal"
        );
        assert_eq!(Schema::compile(r#"{"uniqueItems": false}"#).unwrap().check(&event("[1, 1]")), Ok(()));
        assert!(Schema::compile(r#"{"uniqueItems": 1}"#).is_err());
    }

    #[test]
    fn bodies_are_as_short_as_their_schema_is_heavy() {
        let heavy = format!(r#"{{"allOf": [{}]}}"#, vec![r#"{"type": "array"}"#; 2_000].join(","));
        let schema = Schema::compile(&heavy).unwrap();
        assert_eq!(schema.check(&event("[1]")), Ok(()));
        let long = format!("[{}]", vec!["1"; 20_000].join(","));
        let mismatch = schema.check(&event(&long)).unwrap_err();
        assert!(mismatch.problem.contains("must not be longer than"), "{}", mismatch.problem);
        let usual = Schema::compile(r#"{"type": "array", "items": {"type": "integer"}}"#).unwrap();
        assert_eq!(usual.check(&event(&long)), Ok(()));
    }
}
