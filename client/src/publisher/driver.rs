//! The task that owns the stream.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};

use super::{
    PublisherConfig, Window,
    ledger::{Entry, Ledger},
};
use crate::{
    Client, Error,
    v1::{PublishEventsRequest, PublishEventsResponse},
};

/// Requests handed to the transport ahead of its own flow control.
const REQUESTS_AHEAD: usize = 64;
/// How long the server may take to end a stream that is through.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// How often expired events are looked for at most.
const TICK_MAX: Duration = Duration::from_secs(1);

/// Sends what is admitted, settles what is answered, and comes back after breaks.
#[derive(Debug)]
pub(super) struct Driver {
    client: Client,
    config: PublisherConfig,
    input: mpsc::Receiver<Entry>,
    input_open: bool,
    window: Arc<Window>,
    ledger: Ledger,
    tick: Interval,
    /// Breaks since the last answer.
    failures: u32,
    last_error: Option<Error>,
}

/// How a stream ended.
enum End {
    /// Everything is answered and nothing more will come.
    Flushed,
    Broken(Error),
}

/// What a break calls for.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// Try again.
    Resend,
    /// The first unanswered event broke the stream; go on without it.
    BlameFirst,
    /// This client may not publish.
    Stop,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        config: PublisherConfig,
        input: mpsc::Receiver<Entry>,
        window: Arc<Window>,
    ) -> Self {
        let period = config.answer_within.map_or(TICK_MAX, |limit| limit / 8).clamp(Duration::from_millis(1), TICK_MAX);
        let mut tick = interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            client,
            config,
            input,
            input_open: true,
            window,
            ledger: Ledger::default(),
            tick,
            failures: 0,
            last_error: None,
        }
    }

    /// Runs until the input is closed and everything is answered, or the server refuses this client.
    pub(super) async fn run(mut self) {
        while self.has_work().await {
            let error = match self.converse().await {
                End::Flushed => return,
                End::Broken(error) => error,
            };
            match remedy(error.code()) {
                Remedy::Stop => return self.stop(&error),
                Remedy::BlameFirst => self.ledger.blame_first(&error),
                Remedy::Resend => {}
            }
            self.ledger.rewind();
            self.failures = self.failures.saturating_add(1);
            let delay = self.config.backoff.delay(self.failures, &mut rand::rng());
            let delay = delay.max(error.retry_delay().unwrap_or_default());
            self.last_error = Some(error);
            self.rest(delay).await;
        }
    }

    /// Waits until there is something to publish. `false`: there never will be.
    async fn has_work(&mut self) -> bool {
        if self.ledger.is_empty() {
            match self.input.recv().await {
                Some(entry) => self.ledger.admit(entry),
                None => return false,
            }
        }
        true
    }

    /// One stream, from opening it to its end.
    async fn converse(&mut self) -> End {
        let (outgoing, requests) = mpsc::channel::<PublishEventsRequest>(REQUESTS_AHEAD);
        let mut service = self.client.event_service();
        // Events go out while the stream opens: a server may answer its head only after the first of them.
        let mut opening = pin!(service.publish_events(ReceiverStream::new(requests)));
        let mut replies: Option<Streaming<PublishEventsResponse>> = None;
        let mut feeding = true;
        loop {
            if self.ledger.is_empty() && !self.input_open {
                drop(outgoing);
                say_goodbye(opening, replies).await;
                return End::Flushed;
            }
            tokio::select! {
                opened = &mut opening, if replies.is_none() => match opened {
                    Ok(opened) => replies = Some(opened.into_inner()),
                    Err(status) => return End::Broken(status.into()),
                },
                reply = next_reply(&mut replies) => match reply.and_then(|reply| self.ledger.settle(reply)) {
                    Ok(()) => (self.failures, self.last_error) = (0, None),
                    Err(error) => return End::Broken(error),
                },
                place = outgoing.reserve(), if feeding && self.ledger.has_unsent() => match place {
                    Ok(place) => place.send(self.ledger.send_next().expect("there is one unsent")),
                    // The stream is ending; the replies will say why.
                    Err(_) => feeding = false,
                },
                entry = self.input.recv(), if self.input_open => self.admit(entry),
                _ = self.tick.tick() => if self.expire() {
                    return End::Broken(Error::new(Code::DeadlineExceeded, "the server stopped answering"));
                },
            }
        }
    }

    /// Waits out a backoff, still taking what comes and giving up on what has waited too long.
    async fn rest(&mut self, delay: Duration) {
        let mut over = pin!(sleep(delay));
        loop {
            tokio::select! {
                () = &mut over => return,
                entry = self.input.recv(), if self.input_open => self.admit(entry),
                _ = self.tick.tick() => {
                    self.expire();
                    if self.ledger.is_empty() && !self.input_open {
                        return;
                    }
                }
            }
        }
    }

    fn admit(&mut self, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.ledger.admit(entry),
            None => self.input_open = false,
        }
    }

    fn expire(&mut self) -> bool {
        let Some(limit) = self.config.answer_within else { return false };
        self.ledger.expire(Instant::now(), limit, self.last_error.as_ref())
    }

    /// Fails what is in flight, and whatever is still sent.
    fn stop(mut self, error: &Error) {
        self.ledger.stop(error);
        self.window.close(error.clone());
        self.input.close();
        while let Ok(entry) = self.input.try_recv() {
            self.ledger.admit(entry);
        }
        self.ledger.stop(error);
    }
}

/// The next reply, once the stream is open; until then it never completes.
async fn next_reply(replies: &mut Option<Streaming<PublishEventsResponse>>) -> Result<PublishEventsResponse, Error> {
    let Some(replies) = replies else { return std::future::pending().await };
    let reply = replies.message().await?;
    reply.ok_or_else(|| Error::new(Code::Unavailable, "the server ended the stream"))
}

/// Lets the server end the stream, so that it does not see a reset where all is well.
async fn say_goodbye(
    opening: impl Future<Output = Result<Response<Streaming<PublishEventsResponse>>, Status>>,
    replies: Option<Streaming<PublishEventsResponse>>,
) {
    let goodbye = async {
        let mut replies = match replies {
            Some(replies) => replies,
            None => opening.await?.into_inner(),
        };
        while replies.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    // Everything is answered: however this ends, it ends well.
    let _ = timeout(GOODBYE_WITHIN, goodbye).await;
}

fn remedy(code: Code) -> Remedy {
    match code {
        Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => Remedy::Stop,
        // The server never ends a stream for these without a reason in the event it was reading: above all a message over
        // its limit. Replies to everything before it have come, so it is the first unanswered one; sending it again
        // would break the stream for ever.
        Code::ResourceExhausted
        | Code::OutOfRange
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists => Remedy::BlameFirst,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Remedy::Resend,
    }
}
