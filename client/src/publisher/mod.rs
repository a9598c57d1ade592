//! Many events over one stream.
//!
//! ```text
//!  send ── room in the window ──▶ ledger ──▶ PublishEvents stream ──▶ replies, in order ──▶ Pending
//!                                   ▲                │ breaks
//!                                   └── rewind ──────┘ back off, reconnect, send again from the first unanswered
//! ```
//!
//! What becomes of an event:
//! - accepted, or a duplicate of one published before: a [`Receipt`];
//! - rejected for what it is, or because the server has no room (`RESOURCE_EXHAUSTED`, with [`Error::retry_delay`]): that
//!   error, at once; its neighbours are untouched. Waiting for room is left to the caller, who may rather shed load;
//! - rejected with `UNAVAILABLE`, or unanswered when the stream breaks: sent again, in order, until it is answered or
//!   [`PublisherConfig::answer_within`] has passed.
//!
//! Resending is safe because every event has an id before it is first sent: the server answers an event it already has as
//! a duplicate, and a duplicate after a resend is reported as accepted.

mod driver;
mod ledger;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use prost::Message;
use thiserror::Error as ThisError;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use uuid::Uuid;

use self::{driver::Driver, ledger::Entry};
use crate::{
    Backoff, Client, Error,
    v1::{Accepted, Event, PublishEventsRequest, event::Payload},
};

/// Largest body of one event, as the server has it.
pub const EVENT_BODY_BYTES_MAX: usize = 1024 * 1024;
/// A message of this size or more would end the stream, so it is not sent.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an event costs the window besides its encoded size.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// How a publisher behaves.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// Most events sent or waiting to be sent and not yet answered. At least one.
    pub events_in_flight_max: usize,
    /// Most bytes of them. One event always fits.
    pub bytes_in_flight_max: usize,
    /// How long an event may go without an answer, over all resends, before it fails as [`PublishError::Unanswered`].
    /// `None`: for ever.
    pub answer_within: Option<Duration>,
    /// Waits between a break and the next try.
    pub backoff: Backoff,
}

impl Default for PublisherConfig {
    /// 1,024 events, 16 MiB, two minutes.
    fn default() -> Self {
        Self {
            events_in_flight_max: 1024,
            bytes_in_flight_max: 16 * 1024 * 1024,
            answer_within: Some(Duration::from_mins(2)),
            backoff: Backoff::default(),
        }
    }
}

/// The server has the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The event's id: the caller's, or the one assigned here.
    pub event_id: String,
    /// How many webhooks it goes to. 0: nobody asked for it.
    pub deliveries: i32,
    /// Whether it had been published under this id before. Never set because of a resend of the publisher's own.
    pub duplicate: bool,
}

/// Why an event was not published, or may not have been.
#[derive(Debug, Clone, ThisError)]
pub enum PublishError {
    /// It is too large to send; nothing was sent.
    #[error("event {event_id} is too large: its {part} has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLarge {
        /// Its id.
        event_id: String,
        /// What is too large: the body, or the message as a whole.
        part: &'static str,
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        bytes_max: usize,
    },
    /// The server refused it.
    #[error("event {event_id} was rejected: {error}")]
    Rejected {
        /// Its id.
        event_id: String,
        /// Why.
        error: Error,
    },
    /// No answer came in time. It may have been accepted: publishing it again under the same id is safe.
    #[error("event {event_id} was not answered in time{}", error.as_ref().map(|e| format!("; last: {e}")).unwrap_or_default())]
    Unanswered {
        /// Its id.
        event_id: String,
        /// What went wrong last, if anything did.
        error: Option<Error>,
    },
    /// The server does not let this client publish at all; the publisher has stopped. What was unanswered may have been
    /// accepted.
    #[error("the publisher has stopped: {0}")]
    Stopped(Error),
    /// The publisher was dropped before an answer came. The event may have been accepted.
    #[error("the publisher was dropped before the event was answered")]
    Dropped,
}

impl PublishError {
    /// What the server, or the way to it, had to say.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Rejected { error, .. } | Self::Stopped(error) => Some(error),
            Self::Unanswered { error, .. } => error.as_ref(),
            Self::TooLarge { .. } | Self::Dropped => None,
        }
    }
}

/// Publishes events over one stream that comes back after breaks; see the module's description of what becomes of an event.
///
/// Events arrive at the server in the order in which `send` returned. Dropping the publisher abandons what is unanswered;
/// [`Publisher::close`] waits for it.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    input: Option<mpsc::Sender<Entry>>,
    window: Arc<Window>,
    driver: JoinHandle<()>,
}

/// Room for what is in flight.
#[derive(Debug)]
struct Window {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    stopped: OnceLock<Error>,
}

/// An event's share of the window, given back when it is answered.
#[derive(Debug)]
struct Room {
    _event: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Publisher {
    pub(crate) fn start(client: Client, config: PublisherConfig) -> Self {
        let events_max = config.events_in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let bytes_max = u32::try_from(config.bytes_in_flight_max).unwrap_or(u32::MAX).max(1);
        let window = Arc::new(Window {
            events: Arc::new(Semaphore::new(events_max)),
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            stopped: OnceLock::new(),
        });
        // As many places as there are permits: whoever has room in the window has a place here.
        let (input, entries) = mpsc::channel(events_max);
        let driver = Driver::new(client.clone(), config, entries, window.clone());
        #[expect(clippy::disallowed_methods, reason = "the one task of this library: close() joins it, drop aborts it")]
        let driver = tokio::spawn(driver.run());
        Self { client, input: Some(input), window, driver }
    }

    /// Waits for room in the window and queues the event; the future it returns resolves when the event is answered.
    ///
    /// Neither future has to be polled to the end: dropped before it returns, `send` has sent nothing; a dropped
    /// [`Pending`] is published all the same.
    pub async fn send(&self, mut event: Event) -> Result<Pending, PublishError> {
        event.tenant = self.client.tenant_or(event.tenant);
        ensure_id(&mut event);
        let request = PublishEventsRequest { event: Some(event) };
        let bytes = check_size(&request, request.event.as_ref().expect("just set"))?;
        let room = self.room(bytes).await?;

        let event_id = request.event.as_ref().expect("just set").id.clone();
        let (reply, answer) = oneshot::channel();
        let entry = Entry { request, reply, admitted: Instant::now(), sends: 0, _room: room };
        let input = self.input.as_ref().expect("taken by close and drop only");
        // Without room only when the driver has ended, and then `reply` is dropped and says so.
        let _ = input.try_send(entry);
        Ok(Pending { event_id, answer, window: self.window.clone() })
    }

    /// Sends the event and waits for its answer.
    pub async fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        self.send(event).await?.await
    }

    /// Waits until everything sent is answered, then ends the stream. Fails only if the publisher has stopped; what became
    /// of each event is for its [`Pending`] to say.
    pub async fn close(mut self) -> Result<(), PublishError> {
        self.input = None;
        // A driver that panicked has dropped its replies, which tells their owners.
        let _ = (&mut self.driver).await;
        match self.window.stopped.get() {
            Some(error) => Err(PublishError::Stopped(error.clone())),
            None => Ok(()),
        }
    }

    async fn room(&self, bytes: usize) -> Result<Room, PublishError> {
        let Window { events, bytes: window_bytes, bytes_max, .. } = &*self.window;
        let weight = u32::try_from(bytes + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX).min(*bytes_max);
        let closed = |_| self.window.gone();
        let event = events.clone().acquire_owned().await.map_err(closed)?;
        let bytes = window_bytes.clone().acquire_many_owned(weight).await.map_err(closed)?;
        Ok(Room { _event: event, _bytes: bytes })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Window {
    /// Lets nobody in any more.
    fn close(&self, error: Error) {
        // Only the driver sets it, and only once.
        let _ = self.stopped.set(error);
        self.events.close();
        self.bytes.close();
    }

    /// Why nobody answers.
    fn gone(&self) -> PublishError {
        match self.stopped.get() {
            Some(error) => PublishError::Stopped(error.clone()),
            None => PublishError::Dropped,
        }
    }
}

/// The answer to one event, to be awaited.
#[derive(Debug)]
pub struct Pending {
    event_id: String,
    answer: oneshot::Receiver<Result<Receipt, PublishError>>,
    window: Arc<Window>,
}

impl Pending {
    /// The event's id: the caller's, or the one assigned here.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }
}

impl Future for Pending {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready(answer.unwrap_or_else(|_| Err(self.window.gone())))
    }
}

/// Gives the event an id of the server's own shape if it has none: `evt_` and a version 7 UUID, so that ids sort by time.
pub(crate) fn ensure_id(event: &mut Event) {
    if event.id.is_empty() {
        event.id = format!("evt_{}", Uuid::now_v7().simple());
    }
}

/// Refuses what the server would refuse for its size; for the message as a whole it would end the stream. Returns the
/// encoded size.
pub(crate) fn check_size(request: &impl Message, event: &Event) -> Result<usize, PublishError> {
    let too_large =
        |part, bytes, bytes_max| PublishError::TooLarge { event_id: event.id.clone(), part, bytes, bytes_max };
    if let Some(Payload::Body(body)) = &event.payload
        && body.len() > EVENT_BODY_BYTES_MAX
    {
        return Err(too_large("body", body.len(), EVENT_BODY_BYTES_MAX));
    }
    let bytes = request.encoded_len();
    if bytes >= MESSAGE_BYTES_MAX {
        return Err(too_large("message", bytes, MESSAGE_BYTES_MAX - 1));
    }
    Ok(bytes)
}

/// What a reply means for the one who published the event. `None`: a kind of result this client does not know.
pub(crate) fn receipt(event_id: &str, result: Option<Result<Accepted, Error>>) -> Result<Receipt, PublishError> {
    let event_id = event_id.to_owned();
    match result {
        Some(Ok(Accepted { deliveries, duplicate })) => Ok(Receipt { event_id, deliveries, duplicate }),
        Some(Err(error)) => Err(PublishError::Rejected { event_id, error }),
        None => Err(PublishError::Unanswered { event_id, error: None }),
    }
}

#[cfg(test)]
mod tests;
