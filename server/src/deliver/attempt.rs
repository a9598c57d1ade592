//! One attempt: the request, the answer, and the deadline over both.

use std::{mem, time::Duration};

use bytes::BytesMut;
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use tokio::time::timeout;

use super::{
    client::{self, GuardedClient, Response},
    phases,
    request::{self, Moment},
    result::{Answer, Failure},
    shape::shape,
};
use crate::{
    clock::Clock,
    flow::{Attempted, Job},
    limits::{RESPONSE_KEPT_BYTES_MAX, RESPONSE_READ_BYTES_MAX},
    metrics::DeliverMetrics,
    model::{delivery::AttemptResult, retry::parse_retry_after},
};

/// Makes attempts. One per delivery loop.
pub(super) struct Attempts {
    pub(super) client: GuardedClient,
    pub(super) user_agent: HeaderValue,
    pub(super) clock: Clock,
    /// Of webhooks that have none of their own.
    pub(super) timeout: Duration,
    /// What a webhook's own may be at most.
    pub(super) timeout_max: Duration,
    pub(super) metrics: DeliverMetrics,
    pub(super) shows: Shows,
}

/// Of which attempts the headers of the answer are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// Of those that failed.
    Failures,
    /// Of all.
    Everything,
}

impl Attempts {
    /// Makes one attempt, unless its delivery is too old by now. Takes at most the attempt timeout.
    pub(super) async fn perform(&self, mut job: Job) -> Attempted {
        let started = self.clock.now();
        if job
            .webhook
            .settings
            .expiry(&job.event, job.is_by_hand())
            .is_some_and(|expires| expires <= self.clock.certain())
        {
            job.forget_body();
            return Attempted { job, result: Some(AttemptResult::expired(started)) };
        }
        let timeout_after =
            job.webhook.settings.attempt_timeout().map_or(self.timeout, |own| own.min(self.timeout_max));
        let is_first = job.attempt == 1 && job.key.replay == 0;
        let under_way = self.metrics.begin(is_first.then(|| started.since(job.event.due_time())));
        // Kept outside of what the deadline drops: what has arrived until then counts.
        let mut answer = Answer::default();
        let exchange = timeout(timeout_after, self.exchange(&job, &mut answer));
        let (ended, timings, remote) = phases::observed(self.clock, started, exchange).await;
        let ended = ended.unwrap_or_else(|_| Err(Failure::timeout(timeout_after, answer.status)));
        // The address of an answer has been judged.
        let remote =
            remote.filter(|address| ended.is_ok() || self.client.admits(&job.webhook.settings.target, *address));
        let mut result = answer.conclude(ended, started, self.clock.now(), self.shows);
        (result.exchange.timings, result.exchange.remote) = (timings, remote);
        under_way.ended(&result);

        job.forget_body();
        Attempted { job, result: Some(result) }
    }

    async fn exchange(&self, job: &Job, answer: &mut Answer) -> Result<(), Failure> {
        let shaped = shape(job)?;
        let request = || {
            let headers = request::headers(job, &shaped, &self.user_agent, Moment::of(self.clock))?;
            Ok((shaped.method.clone(), headers, shaped.body.clone()))
        };
        let tls = job.webhook.settings.tls.as_deref();
        let mut response = self.client.send(&shaped.target, tls, self.clock, request).await?;
        answer.status = Some(response.status());
        answer.retry_after = self.retry_after(&response);
        answer.headers = mem::take(response.headers_mut());
        read(&mut response, &mut answer.body).await.map_err(|error| Failure::from_request(&error, None))
    }

    fn retry_after(&self, response: &Response) -> Option<Duration> {
        let value = response.headers().get(RETRY_AFTER)?;
        parse_retry_after(value.to_str().ok()?, self.clock.wall())
    }
}

impl Failure {
    fn timeout(after: Duration, status: Option<StatusCode>) -> Self {
        match status {
            None => Self::late(format!("no answer within {after:?}")),
            Some(_) => Self::late(format!("the answer was not complete within {after:?}")),
        }
    }
}

/// Reads a body to its end or to `RESPONSE_READ_BYTES_MAX`, where the connection is cut, and keeps the beginning.
async fn read(response: &mut Response, kept: &mut BytesMut) -> Result<(), client::Error> {
    let mut seen = 0;
    while let Some(chunk) = response.chunk().await? {
        seen += chunk.len();
        let room = RESPONSE_KEPT_BYTES_MAX - kept.len();
        // Copied, since a chunk keeps the whole buffer alive that it was read into.
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if seen >= RESPONSE_READ_BYTES_MAX {
            break;
        }
    }
    Ok(())
}
