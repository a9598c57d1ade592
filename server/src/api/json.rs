//! `google.protobuf.Struct` as compact JSON, and back.
//!
//! Keys come out sorted because `Struct` keeps them so. How deep values nest is bounded by prost, which refuses to decode
//! more than 100 levels of messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::model::json_object;

/// Below 2^63 doubles that are integers are written as such: what reads 64-bit integers can read them.
const INTEGERS: f64 = 9_223_372_036_854_775_808.0;

/// Why a struct has no JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum JsonError {
    /// A number is NaN or infinite.
    #[error("must be a finite number: JSON has no other")]
    NotFinite {
        /// Where, from the struct on: `.key` or `[index]`, repeatedly.
        path: String,
    },
    /// A value has no kind.
    #[error("must be a value of some kind; null has one too")]
    NoKind {
        /// Where, as above.
        path: String,
    },
    /// The text is longer than allowed.
    #[error("must not be larger than {bytes_max} bytes as JSON")]
    TooLarge {
        /// How long it may be.
        bytes_max: usize,
    },
}

/// Writes `data` as JSON text of at most `bytes_max`.
pub(super) fn to_json(data: &Struct, bytes_max: usize) -> Result<Bytes, JsonError> {
    let mut writer = Writer { out: Vec::new(), bytes_max };
    writer.object(data).map_err(Fault::error)?;
    Ok(Bytes::from(writer.out))
}

/// Reads back what [`to_json`] wrote.
pub(super) fn from_json(json: &str) -> Struct {
    let mut fields = BTreeMap::new();
    json_object::visit(json.as_bytes(), |name, value| drop(fields.insert(name.into_owned(), read(value))))
        .expect("this is an object");
    Struct { fields }
}

fn read(json: &str) -> Value {
    let kind = match json.as_bytes().first() {
        Some(b'{') => Kind::StructValue(from_json(json)),
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_str(json).expect("this is a list");
            Kind::ListValue(ListValue { values: values.into_iter().map(|value| read(value.get())).collect() })
        }
        Some(b'"') => Kind::StringValue(json_object::text(json).expect("this is text").into_owned()),
        Some(b't' | b'f') => Kind::BoolValue(json == "true"),
        Some(b'n') | None => Kind::NullValue(0),
        // Unlike serde_json, exactly the double that was written.
        Some(_) => Kind::NumberValue(json.parse().expect("this is a number")),
    };
    Value { kind: Some(kind) }
}

struct Writer {
    out: Vec<u8>,
    bytes_max: usize,
}

/// What went wrong, and the way to it, innermost step first.
struct Fault {
    problem: Problem,
    steps: Vec<String>,
}

enum Problem {
    NotFinite,
    NoKind,
    TooLarge(usize),
}

impl Fault {
    fn new(problem: Problem) -> Self {
        Self { problem, steps: Vec::new() }
    }

    fn within(mut self, step: impl FnOnce() -> String) -> Self {
        self.steps.push(step());
        self
    }

    fn error(mut self) -> JsonError {
        self.steps.reverse();
        let path = self.steps.concat();
        match self.problem {
            Problem::NotFinite => JsonError::NotFinite { path },
            Problem::NoKind => JsonError::NoKind { path },
            Problem::TooLarge(bytes_max) => JsonError::TooLarge { bytes_max },
        }
    }
}

impl Writer {
    fn object(&mut self, object: &Struct) -> Result<(), Fault> {
        self.put(b"{")?;
        for (index, (key, value)) in object.fields.iter().enumerate() {
            if index > 0 {
                self.put(b",")?;
            }
            self.string(key)?;
            self.put(b":")?;
            self.value(value).map_err(|fault| fault.within(|| format!(".{key}")))?;
        }
        self.put(b"}")
    }

    fn value(&mut self, value: &Value) -> Result<(), Fault> {
        match &value.kind {
            None => Err(Fault::new(Problem::NoKind)),
            Some(Kind::NullValue(_)) => self.put(b"null"),
            Some(Kind::BoolValue(true)) => self.put(b"true"),
            Some(Kind::BoolValue(false)) => self.put(b"false"),
            Some(Kind::NumberValue(number)) => self.number(*number),
            Some(Kind::StringValue(text)) => self.string(text),
            Some(Kind::StructValue(object)) => self.object(object),
            Some(Kind::ListValue(list)) => {
                self.put(b"[")?;
                for (index, value) in list.values.iter().enumerate() {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    self.value(value).map_err(|fault| fault.within(|| format!("[{index}]")))?;
                }
                self.put(b"]")
            }
        }
    }

    fn number(&mut self, number: f64) -> Result<(), Fault> {
        if !number.is_finite() {
            return Err(Fault::new(Problem::NotFinite));
        }
        if number.fract() == 0.0 && number.abs() < INTEGERS {
            // As an integer; the sign of zero goes with it.
            return self.put(format!("{:.0}", number + 0.0).as_bytes());
        }
        self.serialized(&number)
    }

    fn string(&mut self, text: &str) -> Result<(), Fault> {
        // Escapes only make it longer.
        if text.len() > self.bytes_max {
            return Err(Fault::new(Problem::TooLarge(self.bytes_max)));
        }
        self.serialized(text)
    }

    fn serialized(&mut self, value: &(impl serde::Serialize + ?Sized)) -> Result<(), Fault> {
        serde_json::to_writer(&mut self.out, value).expect("text and finite numbers can always be written to memory");
        self.put(b"")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.out.extend_from_slice(bytes);
        if self.out.len() > self.bytes_max {
            return Err(Fault::new(Problem::TooLarge(self.bytes_max)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-17.0, "-17"),
            (1.5, "1.5"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (1e16, "10000000000000000"),
            (-9_223_372_036_854_774_784.0, "-9223372036854774784"),
            (9_223_372_036_854_775_808.0, "9.223372036854776e+18"),
            (1e300, "1e+300"),
            (0.1, "0.1"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (8.5e-5, "0.000085"),
        ];
        for (number, expected) in cases {
            let json = to_json(&object([("n", of(Kind::NumberValue(number)))]), 100).unwrap();
            assert_eq!(json, format!("{{\"n\":{expected}}}"), "{number}");
            let back = from_json(str::from_utf8(&json).unwrap());
            assert_eq!(back, object([("n", of(Kind::NumberValue(number)))]), "{number}");
        }
    }

    #[test]
    fn everything_nests_compactly_with_sorted_keys() {
        let list =
            ListValue { values: vec![of(Kind::NullValue(0)), of(Kind::BoolValue(true)), of(Kind::BoolValue(false))] };
        let inner = object([("é\"\n", of(Kind::StringValue("\u{1}🦀/".into())))]);
        let data = object([
            ("z", of(Kind::ListValue(list))),
            ("a", of(Kind::StructValue(inner))),
            ("m", of(Kind::StructValue(object([])))),
        ]);
        let json = to_json(&data, 1_000).unwrap();
        assert_eq!(json, r#"{"a":{"é\"\n":"\u0001🦀/"},"m":{},"z":[null,true,false]}"#);
        assert_eq!(from_json(str::from_utf8(&json).unwrap()), data);
    }

    #[test]
    fn what_json_cannot_say_is_named() {
        let check = |value: Value, expected: JsonError| {
            let list = ListValue { values: vec![of(Kind::BoolValue(true)), value] };
            let data = object([("a", of(Kind::StructValue(object([("b", of(Kind::ListValue(list)))]))))]);
            assert_eq!(to_json(&data, 1_000), Err(expected));
        };
        let path = || ".a.b[1]".to_owned();
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            check(of(Kind::NumberValue(number)), JsonError::NotFinite { path: path() });
        }
        check(Value { kind: None }, JsonError::NoKind { path: path() });
        check(of(Kind::StringValue("x".repeat(1_000))), JsonError::TooLarge { bytes_max: 1_000 });
        // Short enough as text, too long once escaped.
        check(of(Kind::StringValue("\u{1}".repeat(200))), JsonError::TooLarge { bytes_max: 1_000 });
    }
}
