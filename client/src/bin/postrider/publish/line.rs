//! One line of NDJSON as an event.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use postrider_client::v1::{Event, event::Payload};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{age, parse_time};
use crate::output::parse_duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    r#type: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    tenant: String,
    /// The source text of the value: its spacing, key order and digits are what receivers get.
    #[serde(borrow, default, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    body_text: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    labels: HashMap<String, String>,
    #[serde(default)]
    ordering_key: String,
    #[serde(default)]
    content_type: String,
    occur_time: Option<String>,
    deliver_at: Option<String>,
    max_age: Option<String>,
}

/// `null` is a body like any other.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one line; an error says what is wrong with it.
pub(super) fn parse(line: &[u8]) -> Result<Event, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| {
        // Every line is a document of its own here; its number is the caller's to say.
        let text = error.to_string();
        text.replace(&format!(" at line {} column", error.line()), " at column")
    })?;
    let body = match (line.body, line.body_text, line.body_base64) {
        (Some(json), None, None) => Bytes::copy_from_slice(json.get().as_bytes()),
        (None, Some(text), None) => text.into(),
        (None, None, Some(text)) => STANDARD.decode(text).map_err(|_| "body_base64 is not standard base64")?.into(),
        _ => return Err("exactly one of body, body_text and body_base64 must be there".into()),
    };
    let time = |name, text: Option<String>| {
        text.as_deref().map(parse_time).transpose().map_err(|expected| format!("{name} {expected}"))
    };
    let max_age = line.max_age.as_deref().map(|text| parse_duration(text).and_then(|it| Ok(age(it)?))).transpose();
    Ok(Event {
        id: line.id,
        tenant: line.tenant,
        r#type: line.r#type,
        labels: line.labels,
        ordering_key: line.ordering_key,
        occur_time: time("occur_time", line.occur_time)?,
        content_type: line.content_type,
        payload: Some(Payload::Body(body)),
        deliver_at: time("deliver_at", line.deliver_at)?,
        max_age: max_age.map_err(|problem| format!("max_age: {problem}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(line: &str) -> Vec<u8> {
        match parse(line.as_bytes()).unwrap().payload {
            Some(Payload::Body(body)) => body.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies_are_the_exact_source_text() {
        for source in [
            r#"{ "b":1,"a" : 2 , "b":3}"#,
            "123456789012345678901234567890.10",
            "[1e2,  1E+2, -0.0]",
            r#""\u00e9\/é""#,
            "null",
            "false",
            "{}",
        ] {
            assert_eq!(body(&format!(r#" {{"type":"A","body": {source} }}"#)), source.as_bytes());
        }
        assert_eq!(body(r#"{"type":"A","body_text":"a\n\u00e9"}"#), "a\n\u{e9}".as_bytes());
        assert_eq!(body(r#"{"type":"A","body_text":""}"#), b"");
        assert_eq!(body(r#"{"type":"A","body_base64":"AP/+"}"#), [0, 255, 254]);
    }

    #[test]
    fn every_field_is_taken() {
        let line = r#"{"type":"A","id":"e-1","tenant":"acme","body":1,"labels":{"k":"v"},"ordering_key":"o",
            "content_type":"text/plain","occur_time":"1970-01-01T00:00:01Z","deliver_at":"1970-01-01T00:00:02Z","max_age":"1m"}"#;
        let event = parse(line.as_bytes()).unwrap();
        let expected = Event {
            id: "e-1".into(),
            tenant: "acme".into(),
            r#type: "A".into(),
            labels: HashMap::from([("k".into(), "v".into())]),
            ordering_key: "o".into(),
            occur_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            content_type: "text/plain".into(),
            payload: Some(Payload::Body("1".into())),
            deliver_at: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
            max_age: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        };
        assert_eq!(event, expected);
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (line, part) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            ("{}", "missing field `type`"),
            (r#"{"type":"A"}"#, "exactly one of"),
            (r#"{"type":"A","body":1,"body_text":""}"#, "exactly one of"),
            (r#"{"type":"A","body":{]}"#, "at column 21"),
            (r#"{"type":"A","bodi":1}"#, "unknown field `bodi`"),
            (r#"{"type":"A","body_base64":"%"}"#, "body_base64"),
            (r#"{"type":"A","body":1,"occur_time":"today"}"#, "occur_time must be"),
            (r#"{"type":"A","body":1,"deliver_at":"10m"}"#, "deliver_at must be"),
            (r#"{"type":"A","body":1,"max_age":"old"}"#, "max_age: "),
            (r#"{"type":"A","body":1} {}"#, "trailing"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(parse(b"{\"type\":\"A\",\"body_text\":\"\xff\"}").is_err());
    }
}
