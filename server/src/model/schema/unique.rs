//! `uniqueItems`, in place of the library's own: that hashes lists without saying where they end, so that many items that differ only
//! in their brackets are each compared with all others. A body of 1 MiB of them took some ten seconds.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
};

use jsonschema::{Keyword, ValidationError, paths::Location};
use serde_json::{Map, Number, Value};

/// The keyword, if it is set.
struct UniqueItems(bool);

impl<'i> Keyword<'i> for UniqueItems {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) { Ok(()) } else { Err(ValidationError::custom("value has items that are equal")) }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let Self(is_set) = self;
        !is_set || instance.as_array().is_none_or(|items| are_unique(items))
    }
}

/// What the library asks for each `uniqueItems` of a schema.
#[expect(clippy::unnecessary_wraps, reason = "the library calls it")]
pub(super) fn keyword<'a>(
    _: &'a Map<String, Value>,
    is_set: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    Ok(Box::new(UniqueItems(*is_set == Value::Bool(true))))
}

/// Whether no two of them are equal as JSON Schema has it: 1 is 1.0, and the order of an object's members does not matter.
fn are_unique(items: &[Value]) -> bool {
    let mut seen = HashSet::with_capacity(items.len());
    items.iter().all(|item| seen.insert(Item(item)))
}

struct Item<'a>(&'a Value);

impl PartialEq for Item<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (Value::Number(one), Value::Number(other)) => Numeric::of(one) == Numeric::of(other),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Item(one) == Item(other))
            }
            (Value::Object(one), Value::Object(other)) => {
                let has = |(key, value): (&String, &Value)| other.get(key).is_some_and(|it| Item(it) == Item(value));
                one.len() == other.len() && one.iter().all(has)
            }
            (one, other) => one == other,
        }
    }
}

impl Eq for Item<'_> {}

/// Whatever can be equal is of one hash, and what is not differs somewhere in what is hashed.
impl Hash for Item<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Value::Null => state.write_u8(0),
            Value::Bool(is_true) => (1_u8, is_true).hash(state),
            Value::Number(number) => (2_u8, Numeric::of(number)).hash(state),
            Value::String(text) => (3_u8, text).hash(state),
            Value::Array(items) => {
                (4_u8, items.len()).hash(state);
                for item in items {
                    Item(item).hash(state);
                }
            }
            Value::Object(members) => {
                (5_u8, members.len()).hash(state);
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in members {
                    key.hash(state);
                    Item(value).hash(state);
                }
            }
        }
    }
}

/// A number, equal and hashed alike however it is written.
#[derive(PartialEq, Eq, Hash)]
enum Numeric {
    Integer(i128),
    /// Bits of one that is none, or is larger than any that is written as one.
    Float(u64),
}

impl Numeric {
    fn of(number: &Number) -> Self {
        /// All floats from here on are integers, and larger than any that is written as one.
        const LARGE: f64 = 18_446_744_073_709_551_616.0;
        if let Some(integer) = number.as_i128() {
            return Self::Integer(integer);
        }
        let float = number.as_f64().unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "it is an integer of at most 65 bits")]
        let integer = (float.fract() == 0.0 && float.abs() < LARGE).then_some(float as i128);
        integer.map_or(Self::Float(float.to_bits()), Self::Integer)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use super::*;

    /// Or there are as many comparisons as there are pairs of them.
    #[test]
    fn items_that_differ_in_their_brackets_differ_in_their_hashes() {
        let mut lists = vec!["[]".to_owned()];
        for n in 0..1_000 {
            let (one, other) = (&lists[n / 2], &lists[n / 3]);
            lists.push(if n.is_multiple_of(2) { format!("[{one}]") } else { format!("[{one},{other}]") });
        }
        lists.sort_unstable();
        lists.dedup();
        let state = RandomState::new();
        let hash = |list: &String| state.hash_one(Item(&serde_json::from_str(list).unwrap()));
        let hashes: HashSet<u64> = lists.iter().map(hash).collect();
        assert!(lists.len() > 100 && hashes.len() == lists.len(), "{} of {}", hashes.len(), lists.len());
    }

    #[test]
    fn items_are_equal_as_json_schema_has_it() {
        for (items, expected) in [
            ("[]", true),
            ("[1]", true),
            ("[1, 2, 3]", true),
            ("[1, 2, 1]", false),
            ("[1, 1.0]", false),
            ("[0, -0.0]", false),
            ("[1e300, 1e300]", false),
            ("[18446744073709551615, -9223372036854775808, 1.5, 9007199254740993, 9007199254740992]", true),
            ("[9007199254740992, 9007199254740992.0]", false),
            (r#"[1, "1", true, false, null, 0, ""]"#, true),
            ("[null, null]", false),
            ("[[1, 2], [2, 1], [[1, 2]], [[1], 2], [1, [2]], [], [[]], [[], []]]", true),
            ("[[1, [2.0]], [1.0, [2]]]", false),
            (r#"[{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]"#, false),
            (r#"[{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {}]"#, true),
        ] {
            let parsed: Vec<Value> = serde_json::from_str(items).unwrap();
            assert_eq!(are_unique(&parsed), expected, "{items}");
        }
    }
}
