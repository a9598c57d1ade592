//! The top-level fields of a JSON object, as they are written: numbers keep their digits, and what is not asked for its spaces.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Deserializer as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use thiserror::Error;

/// The bytes are not a JSON object, or one with text that is not Unicode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be a JSON object")]
pub struct NotAnObject;

/// Hands each top-level field to `each`: its name, and its value as it is written. In their order, repeats included; some may
/// have been handed over before it shows that this is no object.
pub fn visit<'a>(json: &'a [u8], each: impl FnMut(Cow<'a, str>, &'a str)) -> Result<(), NotAnObject> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let visited = deserializer.deserialize_map(Fields(each)).and_then(|()| deserializer.end());
    visited.map_err(|_| NotAnObject)
}

struct Fields<F>(F);

impl<'de, F: FnMut(Cow<'de, str>, &'de str)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            self.0(name.0, value.get());
        }
        Ok(())
    }
}

/// Borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value by what a list of names and texts can make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text without its quotes and escapes; null as an empty text; a number, true or false as it is written.
    Flat(Cow<'a, str>),
    /// A list or an object, without spaces.
    Nested(String),
}

impl<'a> Value<'a> {
    /// Reads a value that [`visit`] handed over.
    pub fn of(written: &'a str) -> Result<Self, NotAnObject> {
        Ok(match written.as_bytes().first() {
            Some(b'"') => Self::Flat(text(written).ok_or(NotAnObject)?),
            Some(b'{' | b'[') => Self::Nested(compact(written)),
            Some(b'n') => Self::Flat("".into()),
            Some(_) | None => Self::Flat(written.into()),
        })
    }

    /// What a form says of it.
    pub fn text(&self) -> &str {
        match self {
            Self::Flat(text) => text,
            Self::Nested(json) => json,
        }
    }

    /// Whether it is a list or an object, without reading it.
    pub fn is_nested(written: &str) -> bool {
        written.starts_with(['{', '['])
    }
}

/// What a JSON string says; `None` if it is none, or holds half of a surrogate pair.
pub fn text(written: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(written).ok().map(|text| text.0)
}

/// Valid JSON without the spaces between its parts.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keeps = |c: &char| {
        if quoted {
            (quoted, escaped) = (*c != '"' || escaped, *c == '\\' && !escaped);
            return true;
        }
        quoted = *c == '"';
        !matches!(c, ' ' | '\t' | '\n' | '\r')
    };
    json.chars().filter(keeps).collect()
}

/// The object with `more` after its own last field; each is a name and a value as JSON. Nothing else changes, not even spaces.
pub fn insert<'a>(object: &[u8], more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<u8>, NotAnObject> {
    let end = object.iter().rposition(|&byte| byte == b'}').ok_or(NotAnObject)?;
    let last = object[..end].iter().rposition(|byte| !byte.is_ascii_whitespace()).ok_or(NotAnObject)?;
    let mut first = object[last] == b'{' && object[..last].iter().all(u8::is_ascii_whitespace);
    let mut extended = Vec::with_capacity(object.len() + 64);
    extended.extend_from_slice(&object[..=last]);
    for (name, value) in more {
        if !std::mem::take(&mut first) {
            extended.push(b',');
        }
        serde_json::to_writer(&mut extended, name).expect("text can always be written to memory");
        extended.push(b':');
        extended.extend_from_slice(value.as_bytes());
    }
    extended.extend_from_slice(&object[last + 1..]);
    Ok(extended)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(json: &[u8]) -> Result<Vec<(String, String)>, NotAnObject> {
        let mut fields = Vec::new();
        visit(json, |name, value| fields.push((name.into_owned(), value.to_owned()))).map(|()| fields)
    }

    #[test]
    fn fields_are_seen_as_they_are_written() {
        let check = |json: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            assert_eq!(fields(json.as_bytes()), Ok(expected), "{json}");
        };
        check("{}", &[]);
        check(" \n{ } ", &[]);
        check(
            r#"{"b": 12345678901234567890.10 ,"a":[ 1, {"x" : null}], "b":"\u00e9"}"#,
            &[("b", "12345678901234567890.10"), ("a", r#"[ 1, {"x" : null}]"#), ("b", r#""\u00e9""#)],
        );
        check(r#"{"\u0062\n": true}"#, &[("b\n", "true")]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let bodies: [&[u8]; 12] = [
            b"",
            b"[]",
            b"1",
            b"\"{}\"",
            b"null",
            b"{",
            b"{}{}",
            b"{} x",
            b"{\"a\":}",
            b"{'a':1}",
            b"{\"\xff\":1}",
            b"{\"a\":\"\xff\"}",
        ];
        for body in bodies {
            assert_eq!(fields(body), Err(NotAnObject), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn values_become_text() {
        let flat = |text: &'static str| Ok(Value::Flat(text.into()));
        let nested = |text: &str| Ok(Value::Nested(text.to_owned()));
        for (written, expected) in [
            (r#""a b""#, flat("a b")),
            (r#""\u00e9\"""#, flat("é\"")),
            (r#""""#, flat("")),
            ("null", flat("")),
            ("true", flat("true")),
            ("1e400", flat("1e400")),
            ("12345678901234567890.10", flat("12345678901234567890.10")),
            ("[ ]", nested("[]")),
            ("{ \"a b\" :\t[ 1 ,\r\n\" \\\" \\\\\", 2 ] }", nested(r#"{"a b":[1," \" \\",2]}"#)),
            (r#""\ud800""#, Err(NotAnObject)),
        ] {
            assert_eq!(Value::of(written), expected, "{written}");
        }
    }

    #[test]
    fn fields_are_inserted_after_the_last_one() {
        let check = |object: &str, expected: &str| {
            let extended = insert(object.as_bytes(), [("x", "1"), ("é\"", "[2]")]).unwrap();
            assert_eq!(String::from_utf8(extended).unwrap(), expected);
        };
        check("{}", r#"{"x":1,"é\"":[2]}"#);
        check("\n{ }\n", "\n{\"x\":1,\"é\\\"\":[2] }\n");
        check(r#"{ "a" : "}" }"#, r#"{ "a" : "}","x":1,"é\"":[2] }"#);
        check(r#"{"a":{}}"#, r#"{"a":{},"x":1,"é\"":[2]}"#);
        check("{\"a\":{}\n}\r\n", "{\"a\":{},\"x\":1,\"é\\\"\":[2]\n}\r\n");
    }

    proptest! {
        #[test]
        fn what_is_inserted_is_seen_and_the_rest_unchanged(names in prop::collection::vec(".{0,4}", 0..4), spaces in "[ \n]{0,2}") {
            let own: Vec<_> = names.iter().map(|name| (name.clone(), "{}".to_owned())).collect();
            let written: Vec<_> = names.iter().map(|name| format!("{}{spaces}:{{}}{spaces}", serde_json::to_string(name).unwrap())).collect();
            let object = format!("{spaces}{{{spaces}{}}}{spaces}", written.join(","));
            prop_assert_eq!(fields(object.as_bytes()).unwrap(), own.clone());
            let extended = insert(object.as_bytes(), [("x", "1")]).unwrap();
            prop_assert_eq!(fields(&extended).unwrap(), [own, vec![("x".into(), "1".into())]].concat());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = fields(&bytes);
            let _ = insert(&bytes, [("x", "1")]);
        }
    }
}
