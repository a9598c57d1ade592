//! The life of a delivery: its states, what an attempt can lead to, and the decision what comes next.
//!
//! ```text
//!                 2xx
//!   PENDING ─────────────▶ DELIVERED
//!    │  ▲ │  last attempt failed, or 410, or too old
//!    │  └─┤─────────────▶ FAILED
//!    │ retry
//!    └──────────────────▶ CANCELLED     the webhook was deleted, or somebody wanted it so
//! ```
//!
//! A retry by hand makes any of those that have ended PENDING again.
//!
//! HELD is PENDING seen through a disabled webhook; it is never stored.

use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use thiserror::Error;

use super::{
    exchange::Exchange,
    ids::{DeliveryId, DeliveryKey, EventId, EventTypeName, Tenant, WebhookId},
    retry::Schedule,
    time::Timestamp,
    webhook::DisableReason,
};
use crate::limits::ATTEMPT_ERROR_BYTES_MAX;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Waiting for its first or next attempt, or in one.
    Pending,
    /// A receiver answered 2xx.
    Delivered,
    /// Given up.
    Failed,
    /// Its webhook was deleted first, or somebody wanted it so.
    Cancelled,
}

/// What can happen to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryEvent {
    /// An attempt got a 2xx answer.
    Succeeded,
    /// An attempt failed and another one will follow.
    Deferred,
    /// An attempt failed and none will follow.
    GaveUp,
    /// The webhook was deleted, or somebody wanted it cancelled.
    Cancelled,
    /// Somebody wants it to be tried again.
    Retried,
}

/// A delivery was told to do what one in its state cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a delivery that is {state:?} cannot have {event:?}")]
pub struct IllegalTransition {
    /// Where it stood.
    pub state: DeliveryState,
    /// What was to happen.
    pub event: DeliveryEvent,
}

impl DeliveryState {
    /// The transition table.
    pub fn after(self, event: DeliveryEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Pending, DeliveryEvent::Succeeded) => Ok(Self::Delivered),
            (Self::Pending, DeliveryEvent::Deferred) | (_, DeliveryEvent::Retried) => Ok(Self::Pending),
            (Self::Pending, DeliveryEvent::GaveUp) => Ok(Self::Failed),
            (Self::Pending, DeliveryEvent::Cancelled) => Ok(Self::Cancelled),
            (Self::Delivered | Self::Failed | Self::Cancelled, event) => Err(IllegalTransition { state: self, event }),
        }
    }

    /// Whether nothing more will happen to it by itself.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending => false,
            Self::Delivered | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// Attempts of a delivery that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    ended: u16,
    /// 0: it was never retried by hand; otherwise one more than are excused.
    retried: u16,
}

impl Attempts {
    /// As many have ended, `excused` of them before it was last retried by hand, if it was: those are not held against it. More
    /// than `DELIVERY_ATTEMPTS_MAX` are not told apart.
    pub fn new(ended: u32, excused: Option<u32>) -> Self {
        let small = |count| u16::try_from(count).unwrap_or(u16::MAX);
        Self { ended: small(ended), retried: excused.map_or(0, |excused| small(excused.min(ended).saturating_add(1))) }
    }

    /// How many have ended.
    pub fn ended(self) -> u32 {
        self.ended.into()
    }

    /// How many of them are not held against it; `None`: it was never retried by hand after it had ended.
    pub fn excused(self) -> Option<u32> {
        self.retried.checked_sub(1).map(u32::from)
    }

    /// In one number, which is that of attempts if it was never retried by hand.
    pub fn to_bits(self) -> u32 {
        u32::from(self.retried) << 16 | u32::from(self.ended)
    }

    /// What [`Self::to_bits`] made.
    pub fn from_bits(bits: u32) -> Self {
        Self::new(bits & 0xffff, (bits >> 16).checked_sub(1))
    }
}

/// What kind of thing went wrong in an attempt. The contract's `ErrorClass` says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The address is not allowed; nothing was sent.
    Blocked,
    /// The name could not be resolved.
    Dns,
    /// No connection.
    Connect,
    /// No TLS session.
    Tls,
    /// The deadline passed.
    Timeout,
    /// The connection broke, or the answer was not HTTP.
    Protocol,
    /// An answer other than 2xx.
    HttpStatus,
    /// Our own fault.
    Internal,
    /// Given up because of its age.
    Expired,
}

/// What one HTTP request led to, before anything is decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResult {
    /// The receiver's status code, if an answer arrived.
    pub http_status: Option<u16>,
    /// What went wrong; `None` exactly if the answer was 2xx and arrived whole, or was cut at its allowed length.
    pub error_class: Option<ErrorClass>,
    /// What went wrong, for people, at most `ATTEMPT_ERROR_BYTES_MAX`; empty after a success.
    pub error: String,
    /// From start to end.
    pub latency: Duration,
    /// When it ended.
    pub time: Timestamp,
    /// What the receiver's `Retry-After` asked for, from `time` on.
    pub retry_after: Option<Duration>,
    /// The first `RESPONSE_KEPT_BYTES_MAX` of the answer's body.
    pub response_body: Bytes,
    /// What it was like. Headers of the answer only if the attempt failed or somebody waits to see it.
    pub exchange: Exchange,
}

impl AttemptResult {
    /// Of an attempt that was not made, because its delivery was too old at that time.
    pub fn expired(time: Timestamp) -> Self {
        Self {
            http_status: None,
            error_class: Some(ErrorClass::Expired),
            error: "the delivery is older than its max_age; nothing was sent".into(),
            latency: Duration::ZERO,
            time,
            retry_after: None,
            response_body: Bytes::new(),
            exchange: Exchange::default(),
        }
    }

    /// Whether there was an attempt at all.
    pub fn was_made(&self) -> bool {
        self.error_class != Some(ErrorClass::Expired)
    }
}

/// An error's text, cut to `ATTEMPT_ERROR_BYTES_MAX` where a character ends.
pub fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(ATTEMPT_ERROR_BYTES_MAX));
    text
}

/// An attempt that has ended, or that was not made because its delivery expired, and what is known about its delivery.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Which attempt it was or would have been, from 1.
    pub attempt: u32,
    /// What it led to.
    pub result: &'a AttemptResult,
    /// When it is repeated.
    pub schedule: Schedule<'a>,
    /// Whether one that ran into its deadline is repeated.
    pub retry_on_timeout: bool,
    /// Since when the delivery is due. `None`: it is a replay, which takes as long as it takes.
    pub since: Option<Timestamp>,
    /// When the delivery is too old.
    pub expires: Option<Timestamp>,
}

/// What is decided after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Where the delivery stands now.
    pub state: DeliveryState,
    /// When the next attempt is due; set exactly while it is pending.
    pub next_attempt: Option<Timestamp>,
    /// Whether the webhook is to be disabled with it.
    pub disable: Option<DisableReason>,
    /// Whether it was given up because of its age.
    pub expired: bool,
}

/// Decides what follows from an attempt of a pending delivery.
pub fn conclude(ended: Ended<'_>, rng: &mut impl Rng) -> Verdict {
    let Ended { attempt, result, schedule, retry_on_timeout, since, expires } = ended;
    let gone = result.http_status == Some(410);
    let spent = result.error_class == Some(ErrorClass::Timeout) && !retry_on_timeout;
    let mut next = || {
        let next = result.time + schedule.delay(attempt, result.retry_after, rng);
        let limit = since.zip(schedule.elapsed_max()).map(|(since, most)| since + most);
        (limit.is_none_or(|limit| next <= limit)).then_some(next)
    };
    let next = match result.error_class {
        None | Some(ErrorClass::Expired) => None,
        Some(_) if gone || spent || !schedule.allows_after(attempt) => None,
        Some(_) => next(),
    };
    let too_late = next.zip(expires).is_some_and(|(next, expires)| next >= expires);
    let event = match (result.error_class, next) {
        (None, _) => DeliveryEvent::Succeeded,
        (Some(_), Some(_)) if !too_late => DeliveryEvent::Deferred,
        (Some(_), _) => DeliveryEvent::GaveUp,
    };
    let state = DeliveryState::Pending.after(event).expect("a pending delivery may go anywhere");
    Verdict {
        state,
        next_attempt: next.filter(|_| state == DeliveryState::Pending),
        disable: gone.then_some(DisableReason::Gone),
        expired: too_late || !result.was_made(),
    }
}

/// What one attempt led to: history and watch log at once, complete in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The delivery, for the store.
    pub key: DeliveryKey,
    /// The delivery, for callers.
    pub delivery_id: DeliveryId,
    /// Whose it is.
    pub tenant: Tenant,
    /// The webhook it was for.
    pub webhook_id: WebhookId,
    /// The event it carried.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: EventTypeName,
    /// Which attempt it was, from 1. If the delivery expired before another one was made: how many there had been.
    pub attempt: u32,
    /// Where the delivery stands after it.
    pub state: DeliveryState,
    /// The receiver's status code, if an answer arrived.
    pub http_status: Option<u16>,
    /// What went wrong.
    pub error_class: Option<ErrorClass>,
    /// What went wrong, for people.
    pub error: String,
    /// From start to end.
    pub latency: Duration,
    /// When it ended.
    pub time: Timestamp,
    /// When the next attempt is due.
    pub next_attempt: Option<Timestamp>,
    /// Pending, and its webhook was disabled meanwhile: the next attempt waits for that to change. Set by the store.
    pub held: bool,
    /// The first bytes of an answer that was not 2xx.
    pub response_body: Bytes,
    /// What the attempt was like.
    pub exchange: Exchange,
}

impl Outcome {
    /// Whether it is the next outcome of a delivery with so many attempts.
    pub fn follows(&self, attempts: u32) -> bool {
        self.attempt == attempts + 1 || (self.attempt == attempts && self.error_class == Some(ErrorClass::Expired))
    }

    /// For watchers, who are not sent what receivers answered and what the attempt was like.
    #[must_use]
    pub fn without_exchange(self) -> Self {
        Self { response_body: Bytes::new(), exchange: Exchange::default(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::model::retry::{Retry, RetryPolicy};

    const START: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    fn result(error_class: Option<ErrorClass>, http_status: u16, time: Timestamp) -> AttemptResult {
        AttemptResult { http_status: Some(http_status), error_class, ..AttemptResult::expired(time) }
    }

    /// After the first attempt, which ended 10 s after the delivery was due and is to be repeated 5 s later.
    fn verdict(result: &AttemptResult, elapsed_max: Option<u64>, expires: Option<u64>) -> Verdict {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let own = Retry { elapsed_max: elapsed_max.map(Duration::from_secs), ..Retry::default() };
        let schedule = policy.schedule_of(elapsed_max.map(|_| &own));
        let expires = expires.map(at);
        let ended = Ended { attempt: 1, result, schedule, retry_on_timeout: true, since: Some(START), expires };
        conclude(ended, &mut StdRng::seed_from_u64(0))
    }

    #[test]
    fn a_verdict_for_every_end() {
        let failed = result(Some(ErrorClass::HttpStatus), 500, at(10));
        let retried =
            Verdict { state: DeliveryState::Pending, next_attempt: Some(at(15)), disable: None, expired: false };
        let failed_for_good = Verdict { state: DeliveryState::Failed, next_attempt: None, ..retried };
        let expired = Verdict { expired: true, ..failed_for_good };
        let delivered = Verdict { state: DeliveryState::Delivered, ..failed_for_good };
        let gone = Verdict { disable: Some(DisableReason::Gone), ..failed_for_good };
        for (what, result, elapsed_max, expires, expected) in [
            ("no limits", failed.clone(), None, None, retried),
            ("in time for both", failed.clone(), Some(15), Some(16), retried),
            ("tried for too long", failed.clone(), Some(14), None, failed_for_good),
            ("too old by then", failed.clone(), None, Some(15), expired),
            ("tried for too long comes first", failed.clone(), Some(14), Some(12), failed_for_good),
            ("too old, but it worked", result(None, 200, at(10)), None, Some(5), delivered),
            ("gone counts more than age", result(Some(ErrorClass::HttpStatus), 410, at(10)), None, Some(5), gone),
            ("not made", AttemptResult::expired(at(10)), None, Some(10), expired),
        ] {
            assert_eq!(verdict(&result, elapsed_max, expires), expected, "{what}");
        }
    }

    #[test]
    fn attempts_in_one_number() {
        for (ended, excused, bits) in [
            (0, None, 0),
            (3, None, 3),
            (0, Some(0), 1 << 16),
            (5, Some(3), (4 << 16) | 5),
            (60_000, Some(60_000), 3_932_285_536),
        ] {
            let attempts = Attempts::new(ended, excused);
            assert_eq!((attempts.ended(), attempts.excused(), attempts.to_bits()), (ended, excused, bits));
            assert_eq!(Attempts::from_bits(bits), attempts);
        }
    }

    #[test]
    fn a_replay_takes_as_long_as_it_takes() {
        let failed = result(Some(ErrorClass::HttpStatus), 500, at(1_000_000_000));
        let policy = RetryPolicy::default();
        let own = Retry { elapsed_max: Some(Duration::from_secs(1)), ..Retry::default() };
        let ended = Ended {
            attempt: 1,
            result: &failed,
            schedule: policy.schedule_of(Some(&own)),
            retry_on_timeout: true,
            since: None,
            expires: None,
        };
        assert_eq!(conclude(ended, &mut StdRng::seed_from_u64(0)).state, DeliveryState::Pending);
    }

    #[test]
    fn a_timeout_is_final_where_it_may_not_be_repeated() {
        let check = |class, http_status, retry_on_timeout: bool, expected| {
            let result = AttemptResult { http_status, error_class: class, ..AttemptResult::expired(START) };
            let policy = RetryPolicy::default();
            let schedule = policy.schedule_of(None);
            let ended =
                Ended { attempt: 1, result: &result, schedule, retry_on_timeout, since: Some(START), expires: None };
            let verdict = conclude(ended, &mut StdRng::seed_from_u64(0));
            assert_eq!(verdict.state, expected, "{class:?} {http_status:?} {retry_on_timeout}");
            assert_eq!(verdict.next_attempt.is_some(), expected == DeliveryState::Pending);
        };
        let timeout = Some(ErrorClass::Timeout);
        check(timeout, None, true, DeliveryState::Pending);
        check(timeout, None, false, DeliveryState::Failed);
        // The answer began and did not end in time.
        check(timeout, Some(200), false, DeliveryState::Failed);
        for class in [ErrorClass::Connect, ErrorClass::Dns, ErrorClass::Protocol, ErrorClass::HttpStatus] {
            check(Some(class), None, false, DeliveryState::Pending);
        }
        check(None, Some(200), false, DeliveryState::Delivered);
    }
}
