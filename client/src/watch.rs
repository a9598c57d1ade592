//! Following outcomes.
//!
//! ```text
//!            ┌────────── failed, or silent too long ──────────┐
//!            ▼                                                │
//!  WAITING ─ backoff over ─▶ OPENING ─ head ─▶ READING ─ message ─▶ yields, remembers the cursor
//!                               │                  │
//!                               └──── refused ─────┴──▶ ENDED
//! ```

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Future, Stream, StreamExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Status, Streaming};

use crate::{
    Backoff, Client, Error, Update,
    v1::{WatchDeliveriesRequest, WatchDeliveriesResponse, watch_deliveries_request::Start},
};

/// How a watch behaves.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// How long a stream may be silent before it is given up as dead and opened again. The server says something every
    /// 15 s.
    pub silence_max: Duration,
    /// How long the server may be out of reach before the watch ends with the last error: from the start of the watch or
    /// from a break to the next message. The server sends one (a heartbeat) as soon as a watch opens. `None`: for ever.
    pub outage_max: Option<Duration>,
    /// Waits between a break and the next try.
    pub backoff: Backoff,
}

impl Default for WatchConfig {
    /// Three heartbeats of silence, and patience for ever.
    fn default() -> Self {
        Self { silence_max: Duration::from_secs(45), outage_max: None, backoff: Backoff::default() }
    }
}

/// One message of the server: what happened since the one before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The place just after `updates`: a watch started here goes on with what follows.
    pub cursor: String,
    /// What happened, oldest first. Empty: nothing new, but remember the cursor.
    pub updates: Vec<Update>,
}

/// Updates one by one, each once, across any breaks; a stream that ends only when the server refuses to go on
/// (`INVALID_ARGUMENT`: the filter or cursor; `OUT_OF_RANGE`: the cursor has expired, see [`Error::metadata`]
/// `oldest_cursor`, or is newer than the backup that the server was restored from, `last_cursor`; or this client may not watch) or after [`WatchConfig::outage_max`], with that error as its last item.
///
/// To store updates together with the place they led to, use [`Client::watch_batches`]. Kinds of updates that this version does
/// not know are skipped.
#[derive(Debug)]
pub struct Watch {
    batches: Batches,
    received: VecDeque<Update>,
    /// After everything yielded; behind `batches.cursor` while something received is not yet yielded.
    cursor: Option<String>,
}

impl Watch {
    pub(crate) fn new(batches: Batches) -> Self {
        Self { cursor: batches.cursor().map(str::to_owned), batches, received: VecDeque::new() }
    }

    /// A place to start the next watch from, so that nothing yielded by this one is followed by a gap. Updates reach the
    /// client in batches, and only batches have places: between two updates of one batch, it is the place before the
    /// batch. With [`WatchDeliveriesRequest::max_updates`] 1 every update is a batch of its own, and this is exactly the
    /// place after the last one yielded. None until the server has told the first.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Waits for the server's next message, such as the heartbeat that it sends as soon as a watch opens; what it brings is
    /// kept for the stream, and as long as something is kept this returns at once. Fails as the stream would. Dropping the
    /// future loses nothing.
    pub async fn heard(&mut self) -> Result<(), Error> {
        if !self.received.is_empty() {
            return Ok(());
        }
        match self.batches.next().await {
            Some(Ok(batch)) => self.keep(batch),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(())
    }

    /// Keeps a batch to be yielded, when there is no other; an empty one leads on at once.
    fn keep(&mut self, batch: Batch) {
        self.received.extend(batch.updates);
        if self.received.is_empty() {
            self.cursor = Some(batch.cursor);
        }
    }
}

impl Stream for Watch {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(update) = self.received.pop_front() {
                if self.received.is_empty() {
                    self.cursor = self.batches.cursor().map(str::to_owned);
                }
                return Poll::Ready(Some(Ok(update)));
            }
            match ready!(Pin::new(&mut self.batches).poll_next(context)) {
                Some(Ok(batch)) => self.keep(batch),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Updates in the batches in which they come, heartbeats (empty batches) included; ends as [`Watch`] does.
pub struct Batches {
    client: Client,
    request: WatchDeliveriesRequest,
    config: WatchConfig,
    state: State,
    /// Tries in a row that brought no message.
    failures: u32,
    /// Since when there has been no answer: the start of the watch, or a break. None while messages come.
    outage_since: Option<Instant>,
}

enum State {
    Waiting { until: Pin<Box<Sleep>>, last: Option<Error> },
    Opening { stream: BoxFuture<'static, Result<Streaming<WatchDeliveriesResponse>, Status>>, dead: Pin<Box<Sleep>> },
    Reading { stream: Box<Streaming<WatchDeliveriesResponse>>, dead: Pin<Box<Sleep>> },
    Ended,
}

impl Batches {
    pub(crate) fn new(client: Client, request: WatchDeliveriesRequest, config: WatchConfig) -> Self {
        let state = State::Waiting { until: Box::pin(sleep(Duration::ZERO)), last: None };
        Self { client, request, config, state, failures: 0, outage_since: Some(Instant::now()) }
    }

    /// The place after the last batch yielded, or the one this watch was told to start from.
    pub fn cursor(&self) -> Option<&str> {
        match &self.request.start {
            Some(Start::Cursor(cursor)) => Some(cursor),
            Some(Start::FromBeginning(_)) | None => None,
        }
    }

    fn open(&self) -> State {
        let mut service = self.client.delivery_service();
        let request = self.request.clone();
        let stream = async move { Ok(service.watch_deliveries(request).await?.into_inner()) };
        State::Opening { stream: Box::pin(stream), dead: Box::pin(sleep(self.patience())) }
    }

    /// How long to wait for a stream's first message.
    fn patience(&self) -> Duration {
        self.outage_left().map_or(self.config.silence_max, |left| left.min(self.config.silence_max))
    }

    /// What is left of the longest outage allowed; none if it has no end, or there is no outage.
    fn outage_left(&self) -> Option<Duration> {
        Some(self.config.outage_max?.saturating_sub(self.outage_since?.elapsed()))
    }

    /// Takes a message; from now on its cursor is where a new stream starts.
    fn take(&mut self, message: WatchDeliveriesResponse) -> Batch {
        self.failures = 0;
        self.outage_since = None;
        self.request.start = Some(Start::Cursor(message.cursor.clone()));
        let updates = message.updates.into_iter().filter_map(|update| update.update).collect();
        Batch { cursor: message.cursor, updates }
    }

    /// Decides what follows a failure: another try after a while, or the end.
    fn fail(&mut self, error: Error) -> Poll<Option<Result<Batch, Error>>> {
        self.outage_since.get_or_insert_with(Instant::now);
        let left = self.outage_left();
        if is_final(error.code()) || left.is_some_and(|left| left.is_zero()) {
            self.state = State::Ended;
            return Poll::Ready(Some(Err(error)));
        }
        self.failures = self.failures.saturating_add(1);
        let delay = self.config.backoff.delay(self.failures, &mut rand::rng());
        let delay = delay.max(error.retry_delay().unwrap_or_default());
        let delay = left.map_or(delay, |left| left.min(delay));
        self.state = State::Waiting { until: Box::pin(sleep(delay)), last: Some(error) };
        Poll::Pending
    }
}

impl Stream for Batches {
    type Item = Result<Batch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let silent = |dead: &mut Pin<Box<Sleep>>, context: &mut Context<'_>| {
                ready!(dead.as_mut().poll(context));
                Poll::Ready(Error::new(Code::DeadlineExceeded, "the server does not answer: the watch is silent"))
            };
            let error = match &mut this.state {
                State::Waiting { until, last } => {
                    ready!(until.as_mut().poll(context));
                    match last.take() {
                        // Another try would have no time left.
                        Some(last) if this.outage_left().is_some_and(|left| left.is_zero()) => last,
                        Some(_) | None => {
                            this.state = this.open();
                            continue;
                        }
                    }
                }
                State::Opening { stream, dead } => match stream.as_mut().poll(context) {
                    Poll::Ready(Ok(stream)) => {
                        let dead = Box::pin(sleep(this.patience()));
                        this.state = State::Reading { stream: Box::new(stream), dead };
                        continue;
                    }
                    Poll::Ready(Err(status)) => status.into(),
                    Poll::Pending => ready!(silent(dead, context)),
                },
                State::Reading { stream, dead } => match Pin::new(&mut **stream).poll_next(context) {
                    Poll::Ready(Some(Ok(message))) => {
                        dead.as_mut().reset(Instant::now() + this.config.silence_max);
                        return Poll::Ready(Some(Ok(this.take(message))));
                    }
                    Poll::Ready(Some(Err(status))) => status.into(),
                    Poll::Ready(None) => Error::new(Code::Unavailable, "the server ended the stream"),
                    Poll::Pending => ready!(silent(dead, context)),
                },
                State::Ended => return Poll::Ready(None),
            };
            if let Poll::Ready(last) = this.fail(error) {
                return Poll::Ready(last);
            }
        }
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Waiting { .. } => "waiting",
            State::Opening { .. } => "opening",
            State::Reading { .. } => "reading",
            State::Ended => "ended",
        };
        f.debug_struct("Batches").field("request", &self.request).field("state", &state).finish_non_exhaustive()
    }
}

/// Whether the same request would be refused again.
fn is_final(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

#[cfg(test)]
mod tests;
