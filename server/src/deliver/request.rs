//! What an attempt sends besides the body.

use std::fmt::{self, Write as _};

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, InvalidHeaderValue, USER_AGENT},
};

use super::{handshake::REQUEST_ORIGIN, result::Failure, shape::Shaped, signature::sign};
use crate::{
    clock::Clock,
    flow::Job,
    model::{event::JSON, request::RequestShape, signing::Signed, time::Timestamp},
};

const WEBHOOK_EVENT_TYPE: HeaderName = HeaderName::from_static("webhook-event-type");
const WEBHOOK_EVENT_TIME: HeaderName = HeaderName::from_static("webhook-event-time");
const WEBHOOK_DELIVERY_ID: HeaderName = HeaderName::from_static("webhook-delivery-id");
const WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");

/// Room for our headers and those the client adds.
const HEADERS_MAX: usize = 16;
/// Room for all values that vary; an unusually long content type makes it grow.
const VALUES_BYTES: usize = 256;

/// When an attempt is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// By the wall clock, which receivers compare with theirs.
    wall: Timestamp,
    /// By the clock that never steps, which says what still signs along.
    now: Timestamp,
}

impl Moment {
    /// The present.
    pub(super) fn of(clock: Clock) -> Self {
        Self { wall: clock.wall(), now: clock.now() }
    }
}

/// The headers of one attempt, signature included.
///
/// The client adds `host`, `content-length` and, unless it is there, `accept: */*`. All that varies is written into one buffer the values share:
/// the client copies the headers more than once, and copies of slices cost next to nothing.
pub(super) fn headers(
    job: &Job,
    shaped: &Shaped<'_>,
    user_agent: &HeaderValue,
    at: Moment,
) -> Result<HeaderMap, Failure> {
    let headers = varying(job, shaped, user_agent, at);
    let mut headers = headers.map_err(|_| Failure::unsendable("a header of this event cannot be sent"))?;
    if let Some(request) = job.webhook.settings.request.as_deref() {
        add(&mut headers, request);
    }
    Ok(headers)
}

fn varying(
    job: &Job,
    shaped: &Shaped<'_>,
    user_agent: &HeaderValue,
    at: Moment,
) -> Result<HeaderMap, InvalidHeaderValue> {
    let stored = &job.event;
    let event = &stored.event;
    let mut values = Values(BytesMut::with_capacity(VALUES_BYTES));
    let mut headers = HeaderMap::with_capacity(HEADERS_MAX);
    headers.insert(USER_AGENT, user_agent.clone());
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(content_type) = shaped.content_type {
        let value = if content_type == JSON { HeaderValue::from_static(JSON) } else { values.text(content_type)? };
        headers.insert(CONTENT_TYPE, value);
        if shaped.body.is_empty() {
            // Left out by the client otherwise, and some servers answer 411 then.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
    let signed = Signed { id: event.id.as_str(), time: at.wall, keys_at: at.now, body: &shaped.body };
    sign(&mut headers, &mut values, &job.webhook, &signed)?;
    headers.insert(WEBHOOK_EVENT_TYPE, values.text(event.event_type.as_str())?);
    headers.insert(WEBHOOK_EVENT_TIME, values.format(format_args!("{}", rfc_3339(stored.occur_time())))?);
    headers.insert(WEBHOOK_DELIVERY_ID, values.format(format_args!("{}", job.delivery_id))?);
    headers.insert(WEBHOOK_ATTEMPT, values.format(format_args!("{}", job.attempt))?);
    if let Some(consent) = job.webhook.settings.consent() {
        headers.insert(REQUEST_ORIGIN, values.text(consent.origin.as_str())?);
    }
    Ok(headers)
}

/// Adds what the webhook's owner wants sent. Ours are there already and stay: their names are reserved when a webhook is created,
/// but one that is older than the reservation must not change them either.
fn add(headers: &mut HeaderMap, request: &RequestShape) {
    if let Some(authorization) = &request.authorization {
        headers.insert(AUTHORIZATION, authorization.header());
    }
    for (name, value) in request.headers.iter() {
        headers.entry(name).or_insert_with(|| value.clone());
    }
}

/// Makes header values that share one buffer.
pub(super) struct Values(BytesMut);

impl Values {
    pub(super) fn text(&mut self, text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
        self.0.extend_from_slice(text.as_bytes());
        self.cut()
    }

    pub(super) fn format(&mut self, text: fmt::Arguments<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
        self.0.write_fmt(text).expect("the buffer grows");
        self.cut()
    }

    fn cut(&mut self) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_maybe_shared(self.0.split().freeze())
    }
}

/// A time that is written as RFC 3339 in UTC, with as many digits of a second as it needs: none, three or six.
fn rfc_3339(time: Timestamp) -> impl fmt::Display {
    prost_types::Timestamp { seconds: time.seconds(), nanos: time.subsec_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let check = |micros, expected: &str| {
            assert_eq!(rfc_3339(Timestamp::from_micros(micros)).to_string(), expected);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(-1, "1969-12-31T23:59:59.999999Z");
        check(1_709_210_096_000_000, "2024-02-29T12:34:56Z");
        check(1_709_210_096_120_000, "2024-02-29T12:34:56.120Z");
        check(1_709_210_096_000_001, "2024-02-29T12:34:56.000001Z");
        check(951_782_400_000_000, "2000-02-29T00:00:00Z");
        check(4_107_542_400_000_000, "2100-03-01T00:00:00Z");
        check(-62_135_596_800_000_000, "0001-01-01T00:00:00Z");
        check(253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn values_that_cannot_be_headers_are_refused() {
        let mut values = Values(BytesMut::new());
        assert_eq!(values.text("a").unwrap(), "a");
        assert!(values.text("a\r\nb: c").is_err());
        assert_eq!(values.format(format_args!("{}", 7)).unwrap(), "7", "what was refused leaves nothing behind");
    }
}
