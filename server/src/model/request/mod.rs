//! What a webhook's requests look like, where its owner wants anything else than a POST of the body as it is.

mod authorization;
mod headers;

use std::{collections::BTreeMap, fmt};

use thiserror::Error;

pub use self::{
    authorization::{Authorization, InvalidCredentials},
    headers::{HeaderProblem, Headers},
};
use super::json_object::{self, NotAnObject, Value};
use crate::limits::{
    REQUEST_BODY_FIELDS_BYTES_MAX, REQUEST_BODY_FIELDS_MAX, REQUEST_QUERY_MAX, REQUEST_QUERY_NAME_BYTES_MAX,
};

/// How an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// With the body.
    #[default]
    Post,
    /// With the body.
    Put,
    /// With the body.
    Patch,
    /// With the flat fields in the query.
    Get,
    /// With the flat fields in the query.
    Head,
    /// With the flat fields in the query.
    Delete,
}

impl Method {
    /// Whether requests carry the body.
    pub fn has_body(self) -> bool {
        match self {
            Self::Post | Self::Put | Self::Patch => true,
            Self::Get | Self::Head | Self::Delete => false,
        }
    }
}

/// How bodies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyFormat {
    /// As they were published.
    #[default]
    Json,
    /// As `application/x-www-form-urlencoded`, where they are JSON objects.
    Form,
}

/// Names and texts added to the query of the URL. `Debug` shows the names.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Query(BTreeMap<String, String>);

/// Why names and texts are no [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryProblem {
    /// More than `REQUEST_QUERY_MAX`.
    #[error("must not be more than {REQUEST_QUERY_MAX}")]
    TooMany,
    /// A name is empty or longer than `REQUEST_QUERY_NAME_BYTES_MAX`.
    #[error("its name must be 1 to {REQUEST_QUERY_NAME_BYTES_MAX} bytes")]
    Name(String),
}

impl Query {
    /// Checks the names. How long the URL is with them is for its owner to judge.
    pub fn new(parameters: BTreeMap<String, String>) -> Result<Self, QueryProblem> {
        if parameters.len() > REQUEST_QUERY_MAX {
            return Err(QueryProblem::TooMany);
        }
        let fits = |name: &str| (1..=REQUEST_QUERY_NAME_BYTES_MAX).contains(&name.len());
        match parameters.keys().find(|name| !fits(name)) {
            Some(name) => Err(QueryProblem::Name(name.clone())),
            None => Ok(Self(parameters)),
        }
    }

    /// Names and texts, by name.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// Fields for bodies that lack them: values as compact JSON, by name. `Debug` shows the names.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ExtraFields(BTreeMap<Box<str>, Box<str>>);

/// Why a JSON text is no [`ExtraFields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FieldsProblem {
    /// It is no object.
    #[error(transparent)]
    Kind(#[from] NotAnObject),
    /// More than `REQUEST_BODY_FIELDS_MAX`.
    #[error("must not have more than {REQUEST_BODY_FIELDS_MAX} fields")]
    TooMany,
    /// Longer than `REQUEST_BODY_FIELDS_BYTES_MAX`.
    #[error("must not be larger than {REQUEST_BODY_FIELDS_BYTES_MAX} bytes as JSON")]
    TooLarge,
}

impl ExtraFields {
    /// Reads a compact JSON object.
    pub fn parse(json: &str) -> Result<Self, FieldsProblem> {
        if json.len() > REQUEST_BODY_FIELDS_BYTES_MAX {
            return Err(FieldsProblem::TooLarge);
        }
        let mut fields = BTreeMap::new();
        json_object::visit(json.as_bytes(), |name, value| drop(fields.insert(name.into(), value.into())))?;
        if fields.len() > REQUEST_BODY_FIELDS_MAX {
            return Err(FieldsProblem::TooMany);
        }
        Ok(Self(fields))
    }

    /// The object again.
    pub fn to_json(&self) -> String {
        let fields = self.0.iter().map(|(name, value)| (&**name, &**value));
        let json = json_object::insert(b"{}", fields).expect("this is an object");
        String::from_utf8(json).expect("names and values are text")
    }

    /// Values as compact JSON, by name.
    pub fn fields(&self) -> &BTreeMap<Box<str>, Box<str>> {
        &self.0
    }
}

impl fmt::Debug for ExtraFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// All that can be decided about requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestShape {
    /// How attempts are made.
    pub method: Method,
    /// Sent besides the headers of every request.
    pub headers: Headers,
    /// Added to the URL.
    pub query: Query,
    /// Added to bodies that are JSON objects.
    pub body: ExtraFields,
    /// How bodies are written.
    pub body_format: BodyFormat,
    /// Who we are to the receiver.
    pub authorization: Option<Authorization>,
    /// Whether an attempt that ran into its deadline is repeated.
    pub retry_on_timeout: bool,
}

impl Default for RequestShape {
    fn default() -> Self {
        Self {
            method: Method::default(),
            headers: Headers::default(),
            query: Query::default(),
            body: ExtraFields::default(),
            body_format: BodyFormat::default(),
            authorization: None,
            retry_on_timeout: true,
        }
    }
}

/// What cannot be had together; names the one to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Conflict {
    /// A form without a body.
    #[error("FORM cannot be sent with a method that has no body")]
    FormWithoutBody,
    /// Fields that no query can carry.
    #[error("lists and objects cannot be sent with a method that has no body")]
    NestedWithoutBody,
    /// Two headers of one name.
    #[error("cannot be set together with `authorization`")]
    TwoAuthorizations,
}

impl RequestShape {
    /// What cannot be had together.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        let without_body = !self.method.has_body();
        let nests = self.body.0.values().any(|value| Value::is_nested(value));
        let twice = self.authorization.is_some() && self.headers.has_authorization();
        [
            (without_body && self.body_format == BodyFormat::Form).then_some(Conflict::FormWithoutBody),
            (without_body && nests).then_some(Conflict::NestedWithoutBody),
            twice.then_some(Conflict::TwoAuthorizations),
        ]
        .into_iter()
        .flatten()
    }

    /// As webhooks have it: nothing, where nothing was decided.
    pub fn settled(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_decided_takes_no_room() {
        assert_eq!(RequestShape::default().settled(), None);
        let impatient = RequestShape { retry_on_timeout: false, ..RequestShape::default() };
        assert_eq!(impatient.clone().settled().as_deref(), Some(&impatient));
    }

    #[test]
    fn extra_fields_are_read_and_written_alike() {
        let json = r#"{"a":[1,{"b":null}],"n":12345678901234567890,"é\"":"x"}"#;
        let fields = ExtraFields::parse(json).unwrap();
        assert_eq!(fields.to_json(), json);
        assert_eq!(fields.fields().len(), 3);
        assert_eq!(ExtraFields::default().to_json(), "{}");
        assert_eq!(ExtraFields::parse("[1]"), Err(FieldsProblem::Kind(NotAnObject)));
        let many = |count: usize| (0..count).map(|n| format!("\"{n}\":1")).collect::<Vec<_>>().join(",");
        assert!(ExtraFields::parse(&format!("{{{}}}", many(32))).is_ok());
        assert_eq!(ExtraFields::parse(&format!("{{{}}}", many(33))), Err(FieldsProblem::TooMany));
        let long = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
        assert!(ExtraFields::parse(&long(16_384)).is_ok());
        assert_eq!(ExtraFields::parse(&long(16_385)), Err(FieldsProblem::TooLarge));
    }

    #[test]
    fn parameters_have_names() {
        let query = |name: &str| Query::new([(name.to_owned(), String::new())].into());
        assert!(query(&"x".repeat(64)).is_ok());
        for name in [String::new(), "x".repeat(65)] {
            assert_eq!(query(&name), Err(QueryProblem::Name(name)));
        }
        let many = |count: usize| Query::new((0..count).map(|n| (n.to_string(), String::new())).collect());
        assert!(many(32).is_ok());
        assert_eq!(many(33), Err(QueryProblem::TooMany));
    }

    #[test]
    fn what_contradicts_itself_is_found() {
        let check = |shape: RequestShape, expected: &[Conflict]| {
            assert_eq!(shape.conflicts().collect::<Vec<_>>(), expected, "{shape:?}");
        };
        let headers = || Headers::new([("authorization".into(), "x".into())]).unwrap();
        let authorization = || Authorization::bearer("t").unwrap();
        for method in [Method::Post, Method::Put, Method::Patch, Method::Get, Method::Head, Method::Delete] {
            let both = RequestShape {
                method,
                body: ExtraFields::parse(r#"{"a":[]}"#).unwrap(),
                body_format: BodyFormat::Form,
                ..RequestShape::default()
            };
            let conflicts = [Conflict::FormWithoutBody, Conflict::NestedWithoutBody];
            check(both, if method.has_body() { &[] } else { &conflicts });
            let flat = ExtraFields::parse(r#"{"a":1}"#).unwrap();
            check(RequestShape { method, body: flat, ..RequestShape::default() }, &[]);
        }
        check(RequestShape { headers: headers(), ..RequestShape::default() }, &[]);
        let twice =
            RequestShape { headers: headers(), authorization: Some(authorization()), ..RequestShape::default() };
        check(twice, &[Conflict::TwoAuthorizations]);
    }

    #[test]
    fn secrets_are_never_shown() {
        let shape = RequestShape {
            headers: Headers::new([("x-key".into(), "s3cret".into())]).unwrap(),
            query: Query::new([("token".to_owned(), "s3cret".to_owned())].into()).unwrap(),
            body: ExtraFields::parse(r#"{"pass":"s3cret"}"#).unwrap(),
            authorization: Some(Authorization::basic("ravi", "s3cret").unwrap()),
            ..RequestShape::default()
        };
        let shown = format!("{shape:?} {:?}", Authorization::bearer("s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
        for name in ["x-key", "token", "pass", "ravi"] {
            assert!(shown.contains(name), "{shown}");
        }
        let header = format!("{:?}", Authorization::bearer("s3cret").unwrap().header());
        assert!(!header.contains("s3cret"), "{header}");
    }
}
