//! What is in flight: admitted and not yet answered, oldest first.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::oneshot, time::Instant};
use tonic::Code;

use super::{PublishError, Receipt, Room, receipt};
use crate::{
    Error,
    v1::{PublishEventsRequest, PublishEventsResponse, publish_events_response},
};

/// One event in flight.
#[derive(Debug)]
pub(super) struct Entry {
    /// Holds the event, always.
    pub(super) request: PublishEventsRequest,
    pub(super) reply: oneshot::Sender<Result<Receipt, PublishError>>,
    pub(super) admitted: Instant,
    /// On how many streams it was sent.
    pub(super) sends: u32,
    pub(super) _room: Room,
}

impl Entry {
    fn event_id(&self) -> &str {
        self.request.event.as_ref().map_or("", |event| &event.id)
    }

    fn answer(self, answer: Result<Receipt, PublishError>) {
        // The one who sent it may no longer care.
        let _ = self.reply.send(answer);
    }

    fn reject(self, error: Error) {
        let event_id = self.event_id().to_owned();
        self.answer(Err(PublishError::Rejected { event_id, error }));
    }

    fn give_up(self, error: Option<Error>) {
        let event_id = self.event_id().to_owned();
        self.answer(Err(PublishError::Unanswered { event_id, error }));
    }
}

/// Entries in the order of their admission; the first `sent` of them are on the present stream.
///
/// Invariant: replies come in request order, so a reply is always the first entry's.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: VecDeque<Entry>,
    sent: usize,
}

impl Ledger {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.entries.len()
    }

    pub(super) fn admit(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// The next request for the present stream.
    pub(super) fn send_next(&mut self) -> Option<PublishEventsRequest> {
        let entry = self.entries.get_mut(self.sent)?;
        entry.sends += 1;
        self.sent += 1;
        Some(entry.request.clone())
    }

    /// Answers the first entry. An error means that the stream cannot go on: the reply is not the first entry's, or asks
    /// for another try, and then the entry stays.
    pub(super) fn settle(&mut self, reply: PublishEventsResponse) -> Result<(), Error> {
        if self.sent == 0 {
            return Err(Error::new(Code::Internal, "the server sent a reply to nothing"));
        }
        let first = self.entries.front().expect("sent counts entries");
        if !reply.event_id.is_empty() && reply.event_id != first.event_id() {
            return Err(Error::new(Code::Internal, "the server's replies are out of order"));
        }
        let result = match reply.result {
            Some(publish_events_response::Result::Accepted(mut accepted)) => {
                // The duplicate of our own earlier try.
                accepted.duplicate &= first.sends == 1;
                Some(Ok(accepted))
            }
            Some(publish_events_response::Result::Rejected(status)) => match Error::from(status) {
                error if error.code() == Code::Unavailable => return Err(error),
                error => Some(Err(error)),
            },
            None => None,
        };
        let entry = self.pop().expect("looked at it above");
        let answer = receipt(entry.event_id(), result);
        entry.answer(answer);
        Ok(())
    }

    /// The stream is gone; everything unanswered is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Fails the first entry, if it was sent, as the one that broke the stream: everything before it was answered.
    pub(super) fn blame_first(&mut self, error: &Error) {
        if self.sent > 0
            && let Some(first) = self.pop()
        {
            first.reject(error.clone());
        }
    }

    /// Gives up on entries admitted longer ago than `answer_within`, and says whether one of them was on the stream.
    pub(super) fn expire(&mut self, now: Instant, answer_within: Duration, last_error: Option<&Error>) -> bool {
        let mut was_sent = false;
        while self.entries.front().is_some_and(|entry| now.duration_since(entry.admitted) >= answer_within) {
            was_sent |= self.sent > 0;
            if let Some(first) = self.pop() {
                first.give_up(last_error.cloned());
            }
        }
        was_sent
    }

    /// Fails everything.
    pub(super) fn stop(&mut self, error: &Error) {
        self.sent = 0;
        for entry in self.entries.drain(..) {
            entry.answer(Err(PublishError::Stopped(error.clone())));
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        self.sent = self.sent.saturating_sub(1);
        self.entries.pop_front()
    }
}
