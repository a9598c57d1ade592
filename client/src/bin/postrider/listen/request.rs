//! One request, as people and programs want to see it.

use std::{fmt::Write as _, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, request::Parts};
use humantime::format_rfc3339_millis;
use postrider_client::verify::{ID_HEADER, VerifyError};
use serde_json::{Map, Value, json};

use super::reindent::reindent;
use crate::output::printable;

/// What is known about who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Signed with one of the secrets.
    Verified,
    /// There was no secret to verify it with.
    Unverified,
    /// Not signed, or not with one of the secrets, or not lately.
    Bad(VerifyError),
}

/// A request and our answer to it.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) now: SystemTime,
    pub(super) head: &'a Parts,
    pub(super) body: &'a [u8],
    pub(super) verdict: &'a Verdict,
    pub(super) status: StatusCode,
}

impl Received<'_> {
    /// For programs: all of it, with the body as text if it is text and in base64 otherwise.
    pub(super) fn json(&self) -> Value {
        let (verification, why) = match self.verdict {
            Verdict::Verified => ("verified", None),
            Verdict::Unverified => ("unverified", None),
            Verdict::Bad(why) => ("bad_signature", Some(why.to_string())),
        };
        let mut value = json!({
            "time": format_rfc3339_millis(self.now).to_string(),
            "method": self.head.method.as_str(),
            "path": self.head.uri.to_string(),
            "type": self.header("webhook-event-type"),
            "id": self.header(ID_HEADER),
            "delivery_id": self.header("webhook-delivery-id"),
            "attempt": self.header("webhook-attempt").and_then(|attempt| attempt.parse::<u32>().ok()),
            "verification": verification,
            "verification_error": why,
            "status": self.status.as_u16(),
            "headers": headers(&self.head.headers),
        });
        match std::str::from_utf8(self.body) {
            Ok(text) => value["body"] = text.into(),
            Err(_) => value["body_base64"] = STANDARD.encode(self.body).into(),
        }
        value
    }

    /// For people: a line about it and the body below, indented if `pretty` and JSON.
    pub(super) fn text(&self, pretty: bool) -> String {
        let or_dash = |name| printable(self.header(name).as_deref().unwrap_or("-"));
        let verdict = match self.verdict {
            Verdict::Verified => "verified".to_owned(),
            Verdict::Unverified => "unverified".to_owned(),
            Verdict::Bad(why) => format!("BAD SIGNATURE: {why}"),
        };
        let mut text = format!(
            "{}  {} {}  {}  {}  attempt {}  {verdict}  → {}",
            format_rfc3339_millis(self.now),
            printable(self.head.method.as_str()),
            printable(&self.head.uri.to_string()),
            or_dash("webhook-event-type"),
            or_dash(ID_HEADER),
            or_dash("webhook-attempt"),
            self.status.as_u16(),
        );
        let body = match std::str::from_utf8(self.body) {
            Ok(body) if pretty => reindent(body).unwrap_or_else(|| body.to_owned()),
            Ok(body) => body.to_owned(),
            Err(_) => format!("({} bytes that are not text)", self.body.len()),
        };
        for line in body.lines() {
            write!(text, "\n{}", printable(line)).expect("a string takes everything");
        }
        text
    }

    fn header(&self, name: &str) -> Option<String> {
        self.head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

/// Header values by name; those of a repeated header joined by commas.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let value = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
    };
    headers.keys().map(|name| (name.to_string(), value(name).into())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::Request;

    use super::*;

    fn head() -> Parts {
        let request = Request::post("/hook?a=b")
            .header(ID_HEADER, "evt_1")
            .header("webhook-event-type", "ADD_TAG")
            .header("webhook-attempt", "2")
            .header("webhook-delivery-id", "dlv_1")
            .header("x-two", "1")
            .header("x-two", "2");
        request.body(()).unwrap().into_parts().0
    }

    fn received<'a>(head: &'a Parts, body: &'a [u8], verdict: &'a Verdict) -> Received<'a> {
        Received { now: UNIX_EPOCH, head, body, verdict, status: StatusCode::OK }
    }

    #[test]
    fn json_has_everything() {
        let (head, verdict) = (head(), Verdict::Bad(VerifyError::NoMatch));
        let value = received(&head, b"{ \"a\": 1 }", &verdict).json();
        for (field, expected) in [
            ("time", json!("1970-01-01T00:00:00.000Z")),
            ("path", json!("/hook?a=b")),
            ("type", json!("ADD_TAG")),
            ("id", json!("evt_1")),
            ("delivery_id", json!("dlv_1")),
            ("attempt", json!(2)),
            ("verification", json!("bad_signature")),
            ("verification_error", json!("no signature matches")),
            ("status", json!(200)),
            ("body", json!("{ \"a\": 1 }")),
        ] {
            assert_eq!(value[field], expected, "{field}");
        }
        assert_eq!(value["headers"]["x-two"], "1, 2");
        let value = received(&head, &[0, 255], &Verdict::Verified).json();
        assert_eq!((&value["body"], &value["body_base64"]), (&Value::Null, &json!("AP8=")));
        assert_eq!(value["verification_error"], Value::Null);
    }

    #[test]
    fn text_is_safe_for_a_terminal() {
        let head = head();
        let body = b"{\"a\":12345678901234567890,\"b\":\"\x1b[2J\"}";
        let text = received(&head, body, &Verdict::Unverified).text(false);
        let expected = "1970-01-01T00:00:00.000Z  POST /hook?a=b  ADD_TAG  evt_1  attempt 2  unverified  → 200\n\
                        {\"a\":12345678901234567890,\"b\":\"\u{fffd}[2J\"}";
        assert_eq!(text, expected);
        let text = received(&head, b"{\"a\":12345678901234567890.10}", &Verdict::Verified).text(true);
        assert!(text.ends_with("verified  → 200\n{\n  \"a\": 12345678901234567890.10\n}"), "{text}");
        assert!(received(&head, &[255], &Verdict::Verified).text(true).ends_with("(1 bytes that are not text)"));
    }
}
