//! Headers that an owner adds, and those it may not.

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};
use thiserror::Error;

use crate::{
    limits::{
        REQUEST_HEADER_NAME_BYTES_MAX, REQUEST_HEADER_VALUE_BYTES_MAX, REQUEST_HEADERS_BYTES_MAX, REQUEST_HEADERS_MAX,
    },
    model::reserved,
};

/// Beginnings of names of signatures by other schemes, which are set where signatures are.
const SIGNATURES: &[&str] = &["svix-", "stripe-signature", "x-hub-signature"];

/// Headers by name, in lower case. `Debug` never shows their values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Box<[(HeaderName, HeaderValue)]>);

/// Why names and texts are no [`Headers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderProblem {
    /// More than `REQUEST_HEADERS_MAX`.
    #[error("must not be more than {REQUEST_HEADERS_MAX}")]
    TooMany,
    /// Longer than `REQUEST_HEADERS_BYTES_MAX`, all together.
    #[error("must not be longer than {REQUEST_HEADERS_BYTES_MAX} bytes, all names and values together")]
    TooLarge,
    /// No name.
    #[error("its name must be 1 to {REQUEST_HEADER_NAME_BYTES_MAX} letters, digits and !#$%&'*+-.^_`|~")]
    Name,
    /// A name that is not to be had.
    #[error("is reserved: the server or the connection needs it, or it opens metadata services")]
    Reserved,
    /// The same name in another case.
    #[error("must not be given twice; names are the same in upper and lower case")]
    Twice,
    /// No value.
    #[error(
        "its value must be at most {REQUEST_HEADER_VALUE_BYTES_MAX} bytes of visible ASCII, with spaces only between them"
    )]
    Value,
}

impl Headers {
    /// Checks all of them, and names those that are wrong; none where it is all of them together.
    pub fn new(
        headers: impl IntoIterator<Item = (String, String), IntoIter: ExactSizeIterator>,
    ) -> Result<Self, Vec<(Option<String>, HeaderProblem)>> {
        let headers = headers.into_iter();
        if headers.len() > REQUEST_HEADERS_MAX {
            return Err(vec![(None, HeaderProblem::TooMany)]);
        }
        let (mut checked, mut problems) = (Vec::with_capacity(headers.len()), Vec::new());
        for (name, value) in headers {
            match header(&name, &value) {
                Ok((known, _)) if checked.iter().any(|(other, _)| *other == known) => {
                    problems.push((Some(name), HeaderProblem::Twice));
                }
                Ok(header) => checked.push(header),
                Err(problem) => problems.push((Some(name), problem)),
            }
        }
        let bytes: usize = checked.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > REQUEST_HEADERS_BYTES_MAX {
            problems.push((None, HeaderProblem::TooLarge));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        checked.sort_by(|(name, _), (other, _)| name.as_str().cmp(other.as_str()));
        Ok(Self(checked.into()))
    }

    /// Whether one of them has this name.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Reads back what [`Headers::texts`] said when it was stored. More names may be reserved since.
    pub fn from_stored(headers: impl IntoIterator<Item = (String, String)>) -> Result<Self, HeaderProblem> {
        let read = headers.into_iter().map(|(name, value)| Ok((parse_name(&name)?, parse_value(&value)?)));
        Ok(Self(read.collect::<Result<_, _>>()?))
    }

    /// All of them, by name; the values are marked as sensitive.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter()
    }

    /// Names and values as text.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("it is visible ASCII")))
    }

    /// Whether one of them is `authorization`.
    pub fn has_authorization(&self) -> bool {
        self.0.iter().any(|(name, _)| name == AUTHORIZATION)
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderProblem> {
    let name = parse_name(name)?;
    if is_reserved(name.as_str()) {
        return Err(HeaderProblem::Reserved);
    }
    Ok((name, parse_value(value)?))
}

fn parse_name(name: &str) -> Result<HeaderName, HeaderProblem> {
    if name.len() > REQUEST_HEADER_NAME_BYTES_MAX {
        return Err(HeaderProblem::Name);
    }
    name.parse().map_err(|_| HeaderProblem::Name)
}

fn parse_value(value: &str) -> Result<HeaderValue, HeaderProblem> {
    let visible = value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && value.trim_ascii() == value;
    if value.len() > REQUEST_HEADER_VALUE_BYTES_MAX || !visible {
        return Err(HeaderProblem::Value);
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| HeaderProblem::Value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Of a name in lower case.
fn is_reserved(name: &str) -> bool {
    reserved::is_reserved(name) || SIGNATURES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<Headers, HeaderProblem> {
        Headers::new([(name.to_owned(), value.to_owned())]).map_err(|mut problems| {
            assert_eq!(problems.len(), 1);
            problems.remove(0).1
        })
    }

    #[test]
    fn names_are_kept_in_lower_case_and_order() {
        let headers = [("X-Key", "s"), ("accept", "a b"), ("X-A", ""), ("authorization", "t")];
        let headers = Headers::new(headers.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
        let texts: Vec<_> = headers.texts().collect();
        assert_eq!(texts, [("accept", "a b"), ("authorization", "t"), ("x-a", ""), ("x-key", "s")]);
        assert!(headers.has_authorization() && !Headers::default().has_authorization());
        assert!(!format!("{headers:?}").contains("a b"), "{headers:?}");
    }

    #[test]
    fn reserved_names_are_refused_in_any_case() {
        let samples = ["Host", "CONTENT-LENGTH", "Webhook-Id", "x-forwarded-for", "X-Aws-Ec2-Metadata-Token", "cookie"];
        let prefixed = reserved::PREFIXES.iter().chain(SIGNATURES).map(|prefix| format!("{prefix}x"));
        for name in samples.into_iter().chain(reserved::NAMES.iter().copied()).map(str::to_owned).chain(prefixed) {
            assert_eq!(one(&name, "x"), Err(HeaderProblem::Reserved), "{name}");
        }
        for name in ["hostess", "x-host", "proxy", "x-webhook-id", "x-github-event", "authorization", "accept"] {
            assert!(one(name, "x").is_ok(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        assert!(one(&"x".repeat(64), &"x".repeat(4096)).is_ok());
        for name in ["", "a b", "a:", "a\r\nb", "é", &"x".repeat(65)] {
            assert_eq!(one(name, "x"), Err(HeaderProblem::Name), "{name:?}");
        }
        for value in ["a\r\nb: c", "a\n", "\0", "a\tb", " a", "a ", "é", "\x7f", &"x".repeat(4097)] {
            assert_eq!(one("x-a", value), Err(HeaderProblem::Value), "{value:?}");
        }
    }

    #[test]
    fn all_together_have_limits() {
        let many = |count: usize, bytes: usize| {
            Headers::new((0..count).map(|n| (format!("x-{n:02}"), "v".repeat(bytes))).collect::<Vec<_>>())
        };
        assert!(many(32, 1).is_ok());
        assert_eq!(many(33, 1), Err(vec![(None, HeaderProblem::TooMany)]));
        assert!(many(4, 4092).is_ok());
        assert_eq!(many(4, 4093), Err(vec![(None, HeaderProblem::TooLarge)]));
        let twice = Headers::new([("x-A".into(), "1".into()), ("X-a".into(), "2".into()), ("te".into(), "3".into())]);
        let expected = vec![(Some("X-a".into()), HeaderProblem::Twice), (Some("te".into()), HeaderProblem::Reserved)];
        assert_eq!(twice, Err(expected));
    }
}
