//! What a schema weighs: how many steps validation takes, at most, for each byte of a body.
//!
//! Every value that a schema holds weighs one, as often as references lead to it. A pattern weighs as many states as its
//! automaton has: all of them are looked at for each character when nothing can be remembered of them. Whatever stands in one
//! object with `unevaluatedItems` or `unevaluatedProperties` weighs three times as much: to find out what was evaluated the
//! library looks at it again, and at what stands in it again and again (measured: 2.0 to 2.9 times for each level).

use std::collections::HashMap;

use jsonschema_regex::to_rust_regex;
use regex_automata::nfa::thompson::{Config, NFA, WhichCaptures};
use serde_json::{Map, Value};

use super::InvalidSchema;
use crate::limits::{
    EVENT_SCHEMA_DEPTH_MAX, EVENT_SCHEMA_PATTERN_BYTES_MAX, EVENT_SCHEMA_REFERENCES_MAX, EVENT_SCHEMA_WEIGHT_MAX,
};

/// How much more everything weighs in an object that asks what was not evaluated.
const UNEVALUATED_TIMES: usize = 3;

/// What a schema weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    /// At least 1.
    pub(super) steps: usize,
    /// How often a pattern was read to find out.
    pub(super) patterns_read: usize,
}

/// What a schema weighs; refused if it is too much, too deep, or leads in a circle or elsewhere.
pub(super) fn of(schema: &Value) -> Result<Weight, InvalidSchema> {
    let mut walk = Walk {
        schema,
        weight: 0,
        times: 1,
        depth: 0,
        references: Vec::new(),
        patterns: HashMap::default(),
        patterns_read: 0,
    };
    walk.part(schema, &mut String::new())?;
    Ok(Weight { steps: walk.weight, patterns_read: walk.patterns_read })
}

struct Walk<'a> {
    schema: &'a Value,
    weight: usize,
    /// How often what is being looked at counts.
    times: usize,
    /// Values around the one that is being looked at, references written out.
    depth: usize,
    /// References that are being followed.
    references: Vec<&'a str>,
    /// What patterns weigh: references may lead to a long one thousands of times, and it takes milliseconds to find out.
    patterns: HashMap<&'a str, usize>,
    patterns_read: usize,
}

impl<'a> Walk<'a> {
    fn part(&mut self, part: &'a Value, pointer: &mut String) -> Result<(), InvalidSchema> {
        self.add(1)?;
        if self.depth >= EVENT_SCHEMA_DEPTH_MAX {
            let problem = format!("must not be deeper than {EVENT_SCHEMA_DEPTH_MAX} levels, references written out");
            return Err(InvalidSchema::new("", problem));
        }
        self.depth += 1;
        match part {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            Value::Array(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    self.below(part, &index.to_string(), pointer)?;
                }
            }
            Value::Object(parts) => self.object(parts, pointer)?,
        }
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self, parts: &'a Map<String, Value>, pointer: &mut String) -> Result<(), InvalidSchema> {
        let around = self.times;
        for keyword in ["unevaluatedItems", "unevaluatedProperties"] {
            if parts.contains_key(keyword) {
                self.times = self.times.saturating_mul(UNEVALUATED_TIMES);
            }
        }
        for (key, part) in parts {
            match part {
                Value::String(text) => self.keyword(key, text, pointer)?,
                Value::Object(named) if key == "patternProperties" => {
                    for pattern in named.keys() {
                        self.pattern(pattern, key, pointer)?;
                    }
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {}
            }
            self.below(part, key, pointer)?;
        }
        self.times = around;
        Ok(())
    }

    fn below(&mut self, part: &'a Value, key: &str, pointer: &mut String) -> Result<(), InvalidSchema> {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        self.part(part, pointer)?;
        pointer.truncate(length);
        Ok(())
    }

    fn add(&mut self, weight: usize) -> Result<(), InvalidSchema> {
        self.weight = self.weight.saturating_add(weight.saturating_mul(self.times));
        if self.weight > EVENT_SCHEMA_WEIGHT_MAX {
            let problem = format!(
                "must not weigh more than {EVENT_SCHEMA_WEIGHT_MAX}: its parts, references written out, and the states of its \
                 patterns; three times as much where `unevaluatedItems` or `unevaluatedProperties` stands"
            );
            return Err(InvalidSchema::new("", problem));
        }
        Ok(())
    }

    fn keyword(&mut self, key: &str, text: &'a str, pointer: &str) -> Result<(), InvalidSchema> {
        match key {
            "$dynamicRef" | "$recursiveRef" => Err(refusal(key, "is not available", pointer)),
            "$id" | "id" if !pointer.is_empty() => Err(refusal(key, "may only stand at the top", pointer)),
            "$ref" => self.reference(text, pointer),
            "pattern" => self.pattern(text, key, pointer),
            _ => Ok(()),
        }
    }

    fn reference(&mut self, reference: &'a str, pointer: &str) -> Result<(), InvalidSchema> {
        let refuse = |problem| Err(refusal("$ref", problem, pointer));
        let target = match reference.strip_prefix('#') {
            Some("") => Some(self.schema),
            Some(target) if target.starts_with('/') && !target.contains('%') => self.schema.pointer(target),
            Some(_) | None => return refuse("may only point to a part of this schema, as `#/$defs/name` does"),
        };
        let Some(target) = target else { return refuse("points nowhere") };
        let around = pointer.strip_prefix(&reference[1..]).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if around || self.references.contains(&reference) {
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

    fn pattern(&mut self, pattern: &'a str, key: &str, pointer: &str) -> Result<(), InvalidSchema> {
        if let Some(&known) = self.patterns.get(pattern) {
            return self.add(known);
        }
        let Some(weight) = states(pattern) else {
            return Err(refusal(key, "has too many repetitions, or is too long", pointer));
        };
        self.patterns_read += 1;
        self.patterns.insert(pattern, weight);
        self.add(weight)
    }
}

/// How many states a pattern's automaton has; `None`: too many. What is no pattern is refused by the library, if it stands where a
/// pattern does.
fn states(pattern: &str) -> Option<usize> {
    let limits = Config::new().nfa_size_limit(Some(EVENT_SCHEMA_PATTERN_BYTES_MAX)).which_captures(WhichCaptures::None);
    let Ok(translated) = to_rust_regex(pattern) else { return Some(pattern.len()) };
    match NFA::compiler().configure(limits).build(&translated) {
        Ok(automaton) => Some(automaton.states().len()),
        Err(error) if error.size_limit().is_some() => None,
        Err(_) => Some(pattern.len()),
    }
}

fn refusal(key: &str, problem: &str, pointer: &str) -> InvalidSchema {
    InvalidSchema::new(pointer, format!("`{key}` {problem}"))
}
