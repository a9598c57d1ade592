//! One publish stream: read ahead, group, hand over, answer in request order.
//!
//! ```text
//!  requests ─▶ gather ─▶ submitting ─▶ in flight … ─▶ replies
//!              (what is   (waits for    (wait for
//!              at hand)   room)         their commits)
//! ```
//!
//! The stream is driven by whoever reads the replies. Invariant: at most `STREAM_EVENTS_IN_FLIGHT_MAX` events are between
//! the first step and the last, and at most one group of them waits for room, so that a publisher who does not read replies,
//! or who is faster than the disk, is not read any further. What waits for room does so by itself: of a publisher who does not read
//! replies, it is not in the way of others.

use std::collections::VecDeque;

use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::{self, FuturesOrdered},
};
use postrider_proto::v1;
use prost::DecodeError;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_types::pb;

use super::{
    auth::{Publisher, Trespass},
    convert::{event, small},
    status::Failure,
};
use crate::{
    accept::{Accept, Accepted, Rejected, Submitted},
    limits::{COMMIT_EVENT_BYTES_MAX, ID_BYTES_MAX, PUBLISH_BATCH_EVENTS_MAX, STREAM_EVENTS_IN_FLIGHT_MAX},
    model::{
        event::Event,
        ids::{EventId, Tenant},
    },
};

/// A message as it came in: readable, or not.
pub(super) type Incoming = Result<v1::PublishEventsRequest, DecodeError>;

/// What became of one event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    /// Its id; empty if it was rejected and had none.
    pub(super) event_id: String,
    /// Accepted or rejected.
    pub(super) result: Result<v1::Accepted, pb::Status>,
}

impl Reply {
    /// A message that could not be decoded.
    pub(super) fn unreadable(accept: &Accept, problem: &DecodeError) -> Self {
        let failure = Failure::unreadable(problem);
        accept.turned_away(failure.reason());
        Self { event_id: String::new(), result: Err(failure.into_rpc()) }
    }
}

/// An event that was read.
struct Entry {
    /// What the caller called it.
    own_id: String,
    event: Result<Event, Failure>,
    /// It is somebody else's.
    trespass: Option<Trespass>,
}

impl Entry {
    fn new(event: Option<v1::Event>, accept: &Accept, publisher: &Publisher) -> Self {
        let mut own_id = event.as_ref().map_or_else(String::new, |event| event.id.clone());
        if own_id.len() > ID_BYTES_MAX {
            // Not an id, and perhaps as large as a message may be.
            own_id.clear();
        }
        // Before anything else of it is looked at: what is wrong with an event may tell about its tenant.
        let tenant = event.as_ref().map(|event| event.tenant.as_str());
        if let Some(tenant) = tenant
            && let Err(failure) = publisher.check_tenant(tenant)
        {
            let trespass = Some(Trespass::on(tenant, &failure));
            return Self { own_id, event: Err(failure), trespass };
        }
        let event = event::event(event, accept.catalog(), || accept.schedules_until());
        Self { own_id, event, trespass: None }
    }

    fn read(message: Incoming, accept: &Accept, publisher: &Publisher) -> Self {
        match message {
            Ok(request) => Self::new(request.event, accept, publisher),
            Err(problem) => Self { own_id: String::new(), event: Err(Failure::unreadable(problem)), trespass: None },
        }
    }

    /// Counts it if it goes no further.
    fn count(&self, accept: &Accept) {
        if let Err(failure) = &self.event {
            accept.turned_away(failure.reason());
        }
    }

    fn weight_bytes(&self) -> usize {
        self.event.as_ref().map_or(0, Event::weight_bytes)
    }
}

/// Events that are handed over together, and the places of those that are wrong.
#[derive(Default)]
struct Group {
    slots: Vec<Slot>,
    events: Vec<Event>,
    /// To be put on record before it is answered.
    trespasses: Vec<Trespass>,
    weight_bytes: usize,
}

/// The place of one reply.
enum Slot {
    /// The next of the answers.
    Answer { id: EventId, tenant: Tenant, own_id: String },
    /// Known already.
    Known(Reply),
}

impl Group {
    fn has_room_for(&self, entry: &Entry) -> bool {
        self.slots.is_empty()
            || self.slots.len() < PUBLISH_BATCH_EVENTS_MAX
                && self.weight_bytes + entry.weight_bytes() <= COMMIT_EVENT_BYTES_MAX
    }

    fn push(&mut self, entry: Entry) {
        self.weight_bytes += entry.weight_bytes();
        self.trespasses.extend(entry.trespass);
        self.slots.push(match entry.event {
            Ok(event) => {
                let (id, tenant) = (event.id.clone(), event.tenant.clone());
                self.events.push(event);
                Slot::Answer { id, tenant, own_id: entry.own_id }
            }
            Err(failure) => Slot::Known(Reply { event_id: entry.own_id, result: Err(failure.into_rpc()) }),
        });
    }
}

fn replies_of(slots: Vec<Slot>, answers: Vec<Result<Accepted, Rejected>>) -> Vec<Reply> {
    let mut answers = answers.into_iter();
    let mut reply = |slot| match slot {
        Slot::Known(reply) => reply,
        Slot::Answer { id, tenant, own_id } => match answers.next() {
            Some(Ok(Accepted { deliveries, duplicate })) => Reply {
                event_id: id.to_string(),
                result: Ok(v1::Accepted { deliveries: small(deliveries), duplicate }),
            },
            Some(Err(rejected)) => {
                let failure = Failure::from(rejected).of_tenant(&tenant);
                Reply { event_id: own_id, result: Err(failure.into_rpc()) }
            }
            None => Reply { event_id: own_id, result: Err(Failure::store_confused().into_rpc()) },
        },
    };
    slots.into_iter().map(&mut reply).collect()
}

/// Publishes one event of a caller's.
pub(super) async fn publish_one(accept: &Accept, publisher: &Publisher, event: Option<v1::Event>) -> Reply {
    let mut group = Group::default();
    let entry = Entry::new(event, accept, publisher);
    entry.count(accept);
    group.push(entry);
    publisher.refused(group.trespasses).await;
    let answers = accept.publish(group.events).await;
    replies_of(group.slots, answers).pop().expect("one event, one reply")
}

/// Publishes a stream of a caller's events; yields their replies in order, then how the stream ended if not well.
pub(super) fn publish_all(
    requests: impl Stream<Item = Result<Incoming, Status>> + Send + Unpin + 'static,
    accept: Accept,
    publisher: Publisher,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Reply, Status>> + Send + 'static {
    let publishing = Publishing {
        requests,
        accept,
        publisher,
        stop,
        carried: None,
        submitting: None,
        in_flight: FuturesOrdered::new(),
        in_flight_events: 0,
        replies: VecDeque::new(),
        end: None,
    };
    stream::unfold(publishing, |mut publishing| async move {
        let reply = publishing.next().await?;
        Some((reply, publishing))
    })
}

struct Publishing<R> {
    requests: R,
    accept: Accept,
    publisher: Publisher,
    stop: CancellationToken,
    /// Read, but too large for the group before.
    carried: Option<Entry>,
    /// The group that waits for room.
    submitting: Option<BoxFuture<'static, (Vec<Slot>, Submitted)>>,
    /// Groups that wait for their commits.
    in_flight: FuturesOrdered<BoxFuture<'static, Vec<Reply>>>,
    /// Events in `submitting` and `in_flight`.
    in_flight_events: usize,
    /// Replies of the oldest group.
    replies: VecDeque<Reply>,
    /// Set: nothing more is read, and this is how it ends.
    end: Option<Result<(), Failure>>,
}

impl<R: Stream<Item = Result<Incoming, Status>> + Unpin> Publishing<R> {
    async fn next(&mut self) -> Option<Result<Reply, Status>> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Some(Ok(reply));
            }
            let has_room = self.submitting.is_none() && self.in_flight_events < STREAM_EVENTS_IN_FLIGHT_MAX;
            if has_room && let Some(entry) = self.carried.take() {
                self.gather(entry);
                continue;
            }
            if self.in_flight_events == 0
                && let Some(end) = &mut self.end
            {
                // Once said, the stream is over.
                return std::mem::replace(end, Ok(())).err().map(|failure| Err(failure.into_status()));
            }
            let open = self.end.is_none();
            tokio::select! {
                biased;
                Some(replies) = self.in_flight.next() => {
                    self.in_flight_events -= replies.len();
                    self.replies.extend(replies);
                }
                Some((slots, submitted)) = OptionFuture::from(self.submitting.as_mut()) => {
                    self.submitting = None;
                    self.in_flight.push_back(async { replies_of(slots, submitted.answers().await) }.boxed());
                }
                () = self.stop.cancelled(), if open => self.end = Some(Err(Failure::stopping())),
                message = self.requests.next(), if open && has_room => {
                    if let Some(entry) = self.take(message) {
                        self.gather(entry);
                    }
                }
            }
        }
    }

    /// Hands over `first` and what else is at hand, as far as it fits one group.
    fn gather(&mut self, first: Entry) {
        let mut group = Group::default();
        let mut next = Some(first);
        let room = STREAM_EVENTS_IN_FLIGHT_MAX - self.in_flight_events;
        while let Some(entry) = next.take() {
            if !group.has_room_for(&entry) {
                self.carried = Some(entry);
                break;
            }
            entry.count(&self.accept);
            group.push(entry);
            if group.slots.len() < room.min(PUBLISH_BATCH_EVENTS_MAX) && self.end.is_none() {
                next = self.requests.next().now_or_never().and_then(|message| self.take(message));
            }
        }
        self.in_flight_events += group.slots.len();
        let Group { slots, events, trespasses, .. } = group;
        let recorded = (!trespasses.is_empty()).then(|| {
            let publisher = self.publisher.clone();
            async move { publisher.refused(trespasses).await }
        });
        let accept = self.accept.clone();
        self.submitting = Some(async move { (slots, accept.submit_after(recorded, events).await) }.boxed());
    }

    /// The event of a message; without one, nothing more is read.
    fn take(&mut self, message: Option<Result<Incoming, Status>>) -> Option<Entry> {
        match message {
            Some(Ok(message)) => return Some(Entry::read(message, &self.accept, &self.publisher)),
            Some(Err(status)) => self.end = Some(Err(Failure::transport(&status))),
            None => self.end = Some(Ok(())),
        }
        None
    }
}
