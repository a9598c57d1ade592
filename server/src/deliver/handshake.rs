//! Asking a receiver whether it wants what would be sent to it. What its answer means is decided in the core.

use std::num::NonZeroU32;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCEPT_ENCODING, USER_AGENT},
};
use tokio::time::timeout;

use super::{attempt::Attempts, result::Failure};
use crate::model::ownership::{Answer, Question, Refusal};

/// Who asks; deliveries carry it as well once the receiver has consented.
pub(super) const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

impl Attempts {
    /// Asks a receiver, through the same guard as attempts go; takes at most the attempt timeout. Nothing that the webhook's owner
    /// keeps secret is sent, and the body of the answer is not read.
    pub(super) async fn ask(&self, question: &Question) -> Result<Option<NonZeroU32>, Refusal> {
        let limit = question.timeout.map_or(self.timeout, |own| own.min(self.timeout_max));
        let request = || Ok((Method::OPTIONS, self.question_headers(question)?, Bytes::new()));
        let sent = self.client.send(&question.target, question.tls.as_deref(), self.clock, request);
        let sent = timeout(limit, sent).await;
        let sent = sent.unwrap_or_else(|_| Err(Failure::late(format!("no answer within {limit:?}"))));
        let response = sent.map_err(|failure| Refusal::Unanswered(failure.text))?;
        let texts = |name: &HeaderName| {
            let values = response.headers().get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        let (origins, rates) = (texts(&ALLOWED_ORIGIN), texts(&ALLOWED_RATE));
        Answer { status: response.status(), origins, rates }.permission(&question.origin)
    }

    fn question_headers(&self, question: &Question) -> Result<HeaderMap, Failure> {
        let origin = HeaderValue::from_str(question.origin.as_str());
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, self.user_agent.clone());
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(REQUEST_ORIGIN, origin.map_err(|_| Failure::unsendable("the origin cannot be sent"))?);
        if let Some(per_minute) = question.per_minute {
            headers.insert(REQUEST_RATE, per_minute.get().into());
        }
        Ok(headers)
    }
}
