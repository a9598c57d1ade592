//! The payload filter: an expression of the Common Expression Language, <https://cel.dev>, over an event's JSON body.
//!
//! What an expression may be made of, and so what it can cost, is decided in [`super::check`].

use std::{fmt, panic::catch_unwind};

use cel::{Context, ExecutionError, Value, common::ast::IdedExpr, parser::PrattParser};
use thiserror::Error;

use super::check::{self, Size};
use crate::limits::{PAYLOAD_FILTER_BYTES_MAX, PAYLOAD_FILTER_DEPTH_MAX, PAYLOAD_FILTER_NODES_MAX};

/// What the body is called.
pub(super) const BODY: &str = "body";
/// How much of an expression or of an error is repeated to callers.
const ECHO_CHARS_MAX: usize = 80;

/// An expression that is no payload filter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}{problem}")]
pub struct InvalidFilter {
    pub(super) place: Place,
    pub(super) problem: String,
}

/// Where in an expression, as a prefix; empty if nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub(super) Option<(isize, isize)>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "line {line}, column {column}: "),
            None => Ok(()),
        }
    }
}

/// Why a filter says neither yes nor no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The body is not JSON.
    NotJson,
    /// The expression makes no sense for this body: a key that is not there, a comparison of a text with a number, say.
    Evaluation,
    /// The filters of the event cost more than they may in all.
    TooCostly,
}

/// A filter that says neither yes nor no.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct FilterError {
    /// What kind of trouble it is.
    pub trouble: Trouble,
    /// For people; holds nothing of the body but names of keys.
    why: Box<str>,
}

impl FilterError {
    pub(super) fn new(trouble: Trouble, why: impl Into<Box<str>>) -> Self {
        Self { trouble, why: why.into() }
    }
}

/// A compiled payload filter.
#[derive(Debug)]
pub struct PayloadFilter {
    text: Box<str>,
    /// `None`: an earlier version took it, and this one does not.
    program: Option<Program>,
}

/// Equal if written equally.
impl PartialEq for PayloadFilter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PayloadFilter {}

#[derive(Debug)]
struct Program {
    expression: IdedExpr,
    size: Size,
}

impl PayloadFilter {
    /// Compiles an expression.
    pub fn compile(text: &str) -> Result<Self, InvalidFilter> {
        let program = Some(Program::compile(text)?);
        Ok(Self { text: text.into(), program })
    }

    /// From the store, where it was good once: one that no longer is fails on every event, which can be seen and repaired.
    pub fn from_stored(text: &str) -> Self {
        Self { text: text.into(), program: Program::compile(text).ok() }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The most it may cost over a body of this size, in parts of expressions that look at one value each.
    pub(super) fn cost(&self, body_size: u64) -> u64 {
        self.program.as_ref().map_or(0, |Program { size, .. }| size.all + size.costly * body_size)
    }

    /// What it says.
    pub(super) fn evaluate(&self, context: &Context<'_, '_>) -> Result<bool, FilterError> {
        let failed = |why: &str| FilterError::new(Trouble::Evaluation, why);
        let Some(program) = &self.program else {
            return Err(failed("the expression is not one that this version understands"));
        };
        // The interpreter has been seen to panic where it should have failed.
        let evaluated = catch_unwind(std::panic::AssertUnwindSafe(|| context.resolve(&program.expression)));
        match evaluated {
            Ok(Ok(Value::Bool(says))) => Ok(says),
            Ok(Ok(_)) => Err(failed("the expression is neither true nor false")),
            Ok(Err(error)) => Err(failed(&explain(&error))),
            Err(_) => Err(failed("the interpreter failed")),
        }
    }
}

/// An error in words that hold nothing of the body but names of keys.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add kinds of errors, and says so")]
fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no {:?}", echo(key)),
        ExecutionError::NoSuchOverload(overload) => echo(&overload.to_string()),
        ExecutionError::UnexpectedType { got, want } => format!("{} where {} is wanted", echo(got), echo(want)),
        ExecutionError::ValuesNotComparable(..) => "values of kinds that cannot be compared".into(),
        ExecutionError::IndexOutOfBounds(_) => "a list is shorter than that".into(),
        _ => "values that do not fit what is done with them".into(),
    }
}

pub(super) fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}

impl Program {
    fn compile(text: &str) -> Result<Self, InvalidFilter> {
        let nowhere = |problem: String| InvalidFilter { place: Place(None), problem };
        if text.len() > PAYLOAD_FILTER_BYTES_MAX {
            return Err(nowhere(format!("must not be longer than {PAYLOAD_FILTER_BYTES_MAX} bytes")));
        }
        check::nests_little(text)?;
        let parser = PrattParser::new()
            .max_recursion_depth(PAYLOAD_FILTER_DEPTH_MAX)
            .max_expression_node_count(PAYLOAD_FILTER_NODES_MAX);
        let parsed = catch_unwind(std::panic::AssertUnwindSafe(|| parser.parse(text)));
        let expression = match parsed {
            Ok(Ok(expression)) => expression,
            Ok(Err(errors)) => {
                let first = errors.errors.into_iter().next();
                return Err(first.map_or_else(
                    || nowhere("is no expression".into()),
                    |error| InvalidFilter { place: Place((error.pos.0 > 0).then_some(error.pos)), problem: error.msg },
                ));
            }
            Err(_) => return Err(nowhere("is no expression".into())),
        };
        let size = check::measure(text, &expression)?;
        Ok(Self { expression, size })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{tests::event, view::View},
        *,
    };

    fn says(filter: &str, body: &str) -> Result<bool, FilterError> {
        let event = event(&[], body.to_owned());
        View::of(&event).judge(&PayloadFilter::compile(filter).unwrap_or_else(|error| panic!("{filter}: {error}")))
    }

    const BODY: &str = r#"{"status": "SENT", "from": "919800000001", "n": 12, "big": 18446744073709551615, "x": 1.5, "no": null,
        "isCTWA": false, "message": {"type": "TEXT", "text": "Hällo"}, "tags": ["VIP", "new"], "a-b": 1,
        "data": [{"field": "name", "value": "Asha"}, {"field": "email", "value": "a@b.example"}]}"#;

    #[test]
    fn expressions_say_yes_or_no() {
        for (filter, expected) in [
            ("body.status == 'SENT'", true),
            ("body.status in ['DELIVERED', 'READ']", false),
            ("body.message.type == \"TEXT\" && body.from.startsWith('9198')", true),
            ("body['a-b'] == 1", true),
            ("!body.isCTWA", true),
            ("has(body.message) && !has(body.referral)", true),
            ("has(body.referral) && body.referral.source_type == 'ad'", false),
            ("'VIP' in body.tags", true),
            ("'status' in body", true),
            ("body.tags[0] == 'VIP'", true),
            ("body.n > 10 && body.n <= 12 && body.n == 12.0", true),
            ("body.n == -12", false),
            ("body.big > 1", true),
            ("body.x < 2.0", true),
            ("body.no == null", true),
            ("body.data.exists(d, d.field == 'email' && d.value.endsWith('.example'))", true),
            ("body.data.all(d, d.value.contains('@'))", false),
            ("body.data.exists(d, d.all(key, key.size() == 5))", true),
            ("size(body.tags) == 2", true),
            ("body.status == 'SENT' ? body.n == 12 : false", true),
            ("int(body.from) > 5", true),
            ("true", true),
        ] {
            assert_eq!(says(filter, BODY), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_tells_nothing_of_the_body() {
        for (filter, why) in [
            ("body.nothing == 1", "there is no \"nothing\""),
            ("body.message.type.text == 1", ""),
            ("body.status > 1", ""),
            ("body.status", "the expression is neither true nor false"),
            ("body.tags[7] == ''", ""),
            ("body.n.startsWith('1')", ""),
            ("int(body.status) == 1", ""),
        ] {
            let error = says(filter, BODY).unwrap_err();
            assert_eq!(error.trouble, Trouble::Evaluation, "{filter}");
            let told = error.to_string();
            assert!(told.contains(why) && !told.contains("SENT") && told.len() < 400, "{filter}: {told}");
        }
        for body in ["", "nothing", "{", "\u{feff}{}", &"[".repeat(100_000)] {
            assert_eq!(says("true", body).unwrap_err().trouble, Trouble::NotJson, "{body:.20}");
        }
    }

    #[test]
    fn expressions_that_could_cost_much_or_mean_nothing_are_refused_with_their_place() {
        let check = |filter: &str, told: &str| {
            let error = PayloadFilter::compile(filter).expect_err(filter).to_string();
            assert!(error.contains(told), "{filter}: {error}");
        };
        check("", "");
        check("body.status ==", "line 1, column");
        check("body.status == 'a' &&\n  body.x ==== 1", "line 2, column");
        check("status == 'SENT'", "line 1, column 1: there is no \"status\" here; the event's body is called `body`");
        check("body.a == 1 && event.a", "line 1, column 16");
        check("body.s + body.s == ''", "\"+\" is not available");
        check("body.s.matches('a+')", "\"matches\" is not available");
        check("[body, body] == body", "a list may only stand after `in`");
        check("body.a in [body.b]", "a list may hold only literals");
        check("{'a': body} == body", "values in braces");
        check("body.a.map(x, x.b) == []", "only `has`, `all` and `exists`");
        check("body.a.filter(x, x.b) == []", "only `has`, `all` and `exists`");
        check("body.a.exists(x, body.a.exists(y, x == y))", "only their own variable is in sight");
        check("body.a.exists(x, x.b.exists(y, y == x))", "only their own variable is in sight");
        check("duration('1s') == body.a", "\"duration\" is not available");
        check(&format!("body == '{}'", "x".repeat(2_000)), "must not be longer");
        check(&format!("{}body{}", "(".repeat(400), ")".repeat(400)), "must not nest deeper");
        check(&format!("{}body", "!".repeat(1000)), "must not nest deeper");
        check(&format!("{}body", "!(".repeat(100)), "must not nest deeper");
        check(&format!("body{}", ".a".repeat(400)), "");
        check(&format!("body == 1{}", " || body == 1".repeat(70)), "parts");
    }

    /// An event cannot be made to cost more, whatever its webhooks ask for; see `PAYLOAD_FILTERS_COST_MAX`.
    #[test]
    fn all_filters_of_an_event_share_one_budget() {
        let body = format!("{{\"a\": [{}0]}}", "0,".repeat(100_000));
        let event = event(&[], body);
        let mut view = View::of(&event);
        let costly = PayloadFilter::compile("body.a.all(x, x == 0 || x == 0 || x == 0)").unwrap();
        let spent = (0..100).map(|_| view.judge(&costly)).take_while(|said| *said == Ok(true)).count();
        assert!((1..20).contains(&spent), "{spent}");
        assert_eq!(view.judge(&costly).unwrap_err().trouble, Trouble::TooCostly);
        let cheap = PayloadFilter::compile("has(body.a)").unwrap();
        assert_eq!(view.judge(&cheap), Ok(true), "what costs little still fits");
    }

    #[test]
    fn a_stored_filter_that_is_no_longer_understood_fails_visibly() {
        let filter = PayloadFilter::from_stored("body.a +");
        assert_eq!(filter.text(), "body.a +");
        let event = event(&[], "{}");
        assert_eq!(View::of(&event).judge(&filter).unwrap_err().trouble, Trouble::Evaluation);
    }

    fn token() -> impl Strategy<Value = String> {
        let known = [
            "body",
            ".",
            ".a",
            "[0]",
            "['a']",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "==",
            "!=",
            "<",
            ">=",
            "&&",
            "||",
            "!",
            "-",
            "?",
            ":",
            ",",
            " in ",
            "1",
            "-9223372036854775808",
            "18446744073709551615u",
            "1e308",
            "'a'",
            "b'\\xff'",
            "\"",
            "'",
            "r'\\'",
            "null",
            "true",
            "has(body.a)",
            ".all(x,",
            ".exists(x, x",
            ".size()",
            "size(",
            "int(",
            "double(",
            "bool(",
            "x",
            ".startsWith('a')",
            "\\",
            "`",
            "%",
            "*",
            "/",
            "+",
            "@in",
            "//",
            "\n",
            "é",
            "\u{0}",
            "\\u{ffff}",
        ];
        prop_oneof![
            20 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
            1 => ".{0,4}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Neither compiling nor evaluating panics, overflows the stack of a test's thread, or fails to come back.
        #[test]
        fn anything_may_be_written(tokens in proptest::collection::vec(token(), 0..60), prefix in "body[.]?|", body in 0..4_usize) {
            let text = prefix + &tokens.concat();
            if let Ok(filter) = PayloadFilter::compile(&text) {
                let body = ["{}", r#"{"a": {"a": [0, "a"]}}"#, r#"[1, "a", null]"#, "1"][body];
                let _ = View::of(&event(&[], body)).judge(&filter);
            }
        }
    }
}
