//! What a store that keeps its promises holds: written down before something is asked of it and after it has answered.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{auditing::Audit, erasing::Erasing, quotas::Quota, replaying::Replays};
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
/// When the first thing happens: five minutes before midnight.
pub(super) const START: Timestamp = Timestamp::from_micros(1_700_006_100_000_000);

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
    /// It went with everything of its tenant.
    pub(super) erased: bool,
}

/// One sending of an event: the label of the webhook, and the number of the replay; 0: the first one.
pub(super) type Sending = (u32, u32);

/// An event, by its label.
#[derive(Debug, Clone)]
pub(super) struct Occurrence {
    pub(super) tenant: &'static str,
    pub(super) accepted: Fate,
    pub(super) time: Timestamp,
    pub(super) bytes: usize,
    /// Whether its tenant's bytes were limited.
    pub(super) counted: bool,
    /// Nobody is to see anything of it any more.
    pub(super) erased: bool,
    pub(super) deliveries: BTreeMap<Sending, Delivery>,
}

/// A delivery: what was committed of it, and what may have been, with the number of the group it was part of.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// When the first attempt is due.
    pub(super) first: Timestamp,
    pub(super) attempts: Vec<Attempt>,
    pub(super) cancelled: Option<Timestamp>,
    pub(super) open: Option<(u32, Attempt)>,
}

/// What an attempt led to; with `Cancelled`: no attempt, but its end.
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
    /// By label.
    pub(super) erasures: BTreeMap<u32, Erasing>,
    pub(super) replays: Replays,
    /// By tenant.
    pub(super) quotas: BTreeMap<&'static str, Quota>,
    pub(super) audit: Audit,
    /// What was asked for last, for people.
    pub(super) trail: VecDeque<String>,
}

/// So much of it is kept.
const TRAIL: usize = 30;

/// Where the model of a store at work is kept. Never locked while the store is waited for.
pub(super) type Shared = Arc<Mutex<Arc<Model>>>;

impl Model {
    pub(super) fn new() -> Self {
        Self {
            hooks: BTreeMap::new(),
            events: BTreeMap::new(),
            labels: 0,
            now: START,
            cramped: false,
            erasures: BTreeMap::new(),
            replays: Replays::default(),
            quotas: BTreeMap::new(),
            audit: Audit::default(),
            trail: VecDeque::new(),
        }
    }

    /// Something is asked for.
    pub(super) fn note(&mut self, what: String) {
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back(what);
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
        let mine = accepted.flat_map(|event| event.to(hook));
        mine.filter(|delivery| delivery.before().is_some()).count() as u64
    }

    /// Where the deliveries for a webhook that lives stand, if nothing is open.
    pub(super) fn counts(&self, hook: u32) -> Counts {
        let mut counts = Counts::default();
        for delivery in self.events.values().flat_map(|event| event.to(hook)) {
            if delivery.cancelled.is_some() {
                counts.cancelled += 1;
                continue;
            }
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
        let waits = |((hook, _), it): (&Sending, &Delivery)| self.lives(*hook) && it.before().is_some();
        event.accepted == Fate::Done
            && !event.erased
            && (event.time > self.horizon() || event.deliveries.iter().any(waits))
    }

    /// What was asked for as this group has happened.
    pub(super) fn happened(&mut self, group: u32) {
        for delivery in self.events.values_mut().flat_map(|event| event.deliveries.values_mut()) {
            if let Some((_, attempt)) = delivery.open.take_if(|(open, _)| *open == group) {
                delivery.apply(attempt);
            }
        }
    }
}

impl Occurrence {
    /// Its deliveries to a webhook.
    pub(super) fn to(&self, hook: u32) -> impl Iterator<Item = &Delivery> {
        self.deliveries.range((hook, 0)..=(hook, u32::MAX)).map(|(_, delivery)| delivery)
    }

    /// When it is to be sent.
    pub(super) fn due(&self) -> Timestamp {
        scheduled(self).unwrap_or(self.time)
    }
}

impl Delivery {
    /// One that was never attempted.
    pub(super) fn new(first: Timestamp) -> Self {
        Self { first, attempts: Vec::new(), cancelled: None, open: None }
    }

    /// Where it stands if what is open did not happen.
    pub(super) fn before(&self) -> Standing {
        match self.attempts.last() {
            _ if self.cancelled.is_some() => None,
            None => Some((0, self.first)),
            Some(last) => last.next.map(|next| (attempts(&self.attempts), next)),
        }
    }

    /// That happened.
    pub(super) fn apply(&mut self, attempt: Attempt) {
        if attempt.state == DeliveryState::Cancelled {
            self.cancelled = Some(attempt.time);
        } else {
            self.attempts.push(attempt);
        }
    }

    /// How it stands, if its webhook lives.
    pub(super) fn state(&self) -> DeliveryState {
        let last = self.attempts.last().map_or(DeliveryState::Pending, |last| last.state);
        if self.cancelled.is_some() { DeliveryState::Cancelled } else { last }
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
    let first = event.deliveries.keys().filter(|(_, replay)| *replay == 0).count();
    Published::Duplicate { deliveries: u32::try_from(first).expect("a few") }
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
