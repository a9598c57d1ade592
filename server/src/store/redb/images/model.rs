//! What a store that keeps its promises holds: written down before something is asked of it and after it has answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    model::{
        delivery::DeliveryState,
        event::{Event, JSON},
        ids::{EventTypeName, WebhookId, WebhookNo},
        time::Timestamp,
    },
    store::{Counts, types::Published},
};

/// How long things are kept.
pub(super) const RETENTION: Duration = Duration::from_secs(160);
/// When the first thing happens.
pub(super) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Whether something has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was asked for, and not answered.
    Open,
    /// It was acknowledged, or seen.
    Done,
}

/// A webhook, by its label.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    pub(super) tenant: &'static str,
    pub(super) created: Fate,
    pub(super) known: Option<(WebhookNo, WebhookId)>,
    /// Since when, and how many deliveries went with it.
    pub(super) deleted: Option<(Fate, Timestamp, u64)>,
}

/// An event, by its label.
#[derive(Debug, Clone)]
pub(super) struct Occurrence {
    pub(super) tenant: &'static str,
    pub(super) accepted: Fate,
    pub(super) time: Timestamp,
    pub(super) bytes: usize,
    /// By the label of their webhook.
    pub(super) deliveries: BTreeMap<u32, Delivery>,
}

/// A delivery: what was committed of it, and what may have been, with the number of the group it was part of.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivery {
    pub(super) attempts: Vec<Attempt>,
    pub(super) open: Option<(u32, Attempt)>,
}

/// What an attempt led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) time: Timestamp,
    pub(super) state: DeliveryState,
    pub(super) next: Option<Timestamp>,
}

/// Where a delivery stands in the lane: attempts so far and when the next is due; `None`: it has ended.
pub(super) type Standing = Option<(u32, Timestamp)>;

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) hooks: BTreeMap<u32, Hook>,
    pub(super) events: BTreeMap<u32, Occurrence>,
    pub(super) labels: u32,
    pub(super) now: Timestamp,
    /// The store may hold next to nothing.
    pub(super) cramped: bool,
}

/// Where the model of a store at work is kept. Never locked while the store is waited for.
pub(super) type Shared = Arc<Mutex<Arc<Model>>>;

impl Model {
    pub(super) fn new() -> Self {
        Self { hooks: BTreeMap::new(), events: BTreeMap::new(), labels: 0, now: START, cramped: false }
    }

    pub(super) fn label(&mut self) -> u32 {
        self.labels += 1;
        self.labels
    }

    /// What happened until then may have been forgotten.
    pub(super) fn horizon(&self) -> Timestamp {
        if self.cramped { self.now } else { self.now - RETENTION }
    }

    /// Webhooks that get a tenant's events.
    pub(super) fn targets(&self, tenant: &str) -> impl Iterator<Item = u32> {
        let wants = move |hook: &Hook| hook.tenant == tenant && hook.created == Fate::Done && hook.deleted.is_none();
        self.hooks.iter().filter(move |(_, hook)| wants(hook)).map(|(label, _)| *label)
    }

    /// Whether deliveries for the webhook may be made.
    pub(super) fn lives(&self, hook: u32) -> bool {
        self.hooks.get(&hook).is_some_and(|hook| hook.created == Fate::Done && hook.deleted.is_none())
    }

    /// Deliveries pending for a webhook that lives.
    pub(super) fn pending(&self, hook: u32) -> u64 {
        let accepted = self.events.values().filter(|event| event.accepted == Fate::Done);
        accepted.filter(|event| event.deliveries.get(&hook).is_some_and(|it| it.before(event).is_some())).count() as u64
    }

    /// Where the deliveries for a webhook that lives stand, if nothing is open.
    pub(super) fn counts(&self, hook: u32) -> Counts {
        let mut counts = Counts::default();
        for delivery in self.events.values().filter_map(|event| event.deliveries.get(&hook)) {
            let last = delivery.attempts.last();
            match last.map(|last| (last.state, last.time)) {
                None | Some((DeliveryState::Pending, _)) => counts.pending += 1,
                Some((DeliveryState::Delivered, time)) => {
                    counts.delivered += 1;
                    counts.last_delivered = counts.last_delivered.max(Some(time));
                }
                Some((DeliveryState::Failed, time)) => {
                    counts.failed += 1;
                    counts.last_failed = counts.last_failed.max(Some(time));
                }
                Some((DeliveryState::Cancelled, _)) => counts.cancelled += 1,
            }
        }
        counts
    }

    /// Whether an event must be known, and known as a duplicate.
    pub(super) fn is_kept(&self, event: &Occurrence) -> bool {
        let waits = |(hook, it): (&u32, &Delivery)| self.lives(*hook) && it.before(event).is_some();
        event.accepted == Fate::Done && (event.time > self.horizon() || event.deliveries.iter().any(waits))
    }
}

impl Delivery {
    /// Where it stands if what is open did not happen.
    pub(super) fn before(&self, event: &Occurrence) -> Standing {
        match self.attempts.last() {
            None => Some((0, scheduled(event).unwrap_or(event.time))),
            Some(last) => last.next.map(|next| (attempts(&self.attempts), next)),
        }
    }

    /// Where it stands if it did.
    pub(super) fn after(&self) -> Option<Standing> {
        self.open.map(|(_, attempt)| attempt.next.map(|next| (attempts(&self.attempts) + 1, next)))
    }
}

fn attempts(attempts: &[Attempt]) -> u32 {
    u32::try_from(attempts.len()).expect("a few")
}

/// What the answer to an event must be when it was accepted before.
pub(super) fn duplicate(event: &Occurrence) -> Published {
    Published::Duplicate { deliveries: u32::try_from(event.deliveries.len()).expect("a few") }
}

/// Whether a webhook is ordered, by its label.
pub(super) fn is_ordered(hook: u32) -> bool {
    hook.is_multiple_of(2)
}

/// The ordering key of an event, by its label; empty: it has none.
pub(super) fn key(event: u32) -> String {
    match event % 4 {
        0 => String::new(),
        n => format!("key {}", n % 2),
    }
}

/// When it is to be sent, if that is later than it is accepted.
fn scheduled(event: &Occurrence) -> Option<Timestamp> {
    event.bytes.is_multiple_of(4).then(|| event.time + Duration::from_secs(20))
}

/// The event as it is published.
pub(super) fn event(label: u32, occurrence: &Occurrence) -> Event {
    let byte = u8::try_from(u32::from(b'a') + label % 26).expect("a letter");
    let mut body = format!("{{\"label\":{label},\"filling\":\"").into_bytes();
    body.resize(body.len() + occurrence.bytes, byte);
    body.extend(b"\"}");
    Event {
        id: format!("e{label}").parse().expect("an id"),
        tenant: occurrence.tenant.parse().expect("a tenant"),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: BTreeMap::new(),
        ordering_key: key(label),
        occur_time: None,
        content_type: JSON.into(),
        body: Bytes::from(body),
        deliver_at: scheduled(occurrence),
        max_age: None,
    }
}
