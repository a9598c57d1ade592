//! The life of a delivery: its states, what an attempt can lead to, and the decision what comes next.
//!
//! ```text
//!                 2xx
//!   PENDING ─────────────▶ DELIVERED
//!    │  ▲ │  last attempt failed, or 410
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
    ids::{DeliveryId, DeliveryKey, EventId, EventTypeName, Tenant, WebhookId},
    retry::RetryPolicy,
    time::Timestamp,
    webhook::DisableReason,
};

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
    excused: u16,
}

impl Attempts {
    /// As many have ended, `excused` of them before it was last retried by hand: those are not held against it. More than
    /// `DELIVERY_ATTEMPTS_MAX` are not told apart.
    pub fn new(ended: u32, excused: u32) -> Self {
        let small = |count| u16::try_from(count).unwrap_or(u16::MAX);
        Self { ended: small(ended), excused: small(excused.min(ended)) }
    }

    /// How many have ended.
    pub fn ended(self) -> u32 {
        self.ended.into()
    }

    /// How many of them are not held against it.
    pub fn excused(self) -> u32 {
        self.excused.into()
    }

    /// In one number, which is that of attempts if none are excused.
    pub fn to_bits(self) -> u32 {
        u32::from(self.excused) << 16 | u32::from(self.ended)
    }

    /// What [`Self::to_bits`] made.
    pub fn from_bits(bits: u32) -> Self {
        Self::new(bits & 0xffff, bits >> 16)
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
}

/// Decides what follows from the `attempt`-th attempt (from 1) of a pending delivery.
pub fn conclude(attempt: u32, result: &AttemptResult, policy: &RetryPolicy, rng: &mut impl Rng) -> Verdict {
    let gone = result.http_status == Some(410);
    let event = match result.error_class {
        None => DeliveryEvent::Succeeded,
        Some(_) if gone => DeliveryEvent::GaveUp,
        Some(_) if policy.allows_after(attempt) => DeliveryEvent::Deferred,
        Some(_) => DeliveryEvent::GaveUp,
    };
    let state = DeliveryState::Pending.after(event).expect("a pending delivery may go anywhere");
    let delay = (state == DeliveryState::Pending).then(|| policy.delay(attempt, result.retry_after, rng));
    Verdict {
        state,
        next_attempt: delay.map(|delay| result.time + delay),
        disable: gone.then_some(DisableReason::Gone),
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
    /// Which attempt it was, from 1.
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
}
