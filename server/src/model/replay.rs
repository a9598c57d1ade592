//! Replays: jobs that send a webhook again what was accepted before.
//!
//! ```text
//!               every event was looked at
//!   RUNNING ───────────────────────────────▶ SUCCEEDED
//!    │ │  what is stored cannot be read
//!    │ └───────────────────────────────────▶ FAILED
//!    └─────────────────────────────────────▶ CANCELLED     somebody wanted it so, or the webhook was deleted
//! ```
//!
//! A replay looks at events in the order of their numbers. How far it has come, and the deliveries that it has made until there, are
//! committed together: so it goes on where it was, whatever happens, and makes no delivery twice.

use std::{collections::BTreeSet, time::Duration};

use super::{
    delivery::DeliveryState,
    event::StoredEvent,
    ids::{EventSeq, EventTypeName, ReplayId, Tenant, WebhookId, WebhookNo},
    scope::{FilterError, Verdict, View},
    time::Timestamp,
    webhook::Settings,
};
use crate::limits::REPLAY_STEP_DELIVERIES_MAX;

/// So many batches of deliveries are made per second, if each holds one or more.
const BATCHES_PER_SECOND: u32 = 10;

/// What somebody wants to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaySpec {
    /// Whose events, and whose webhook.
    pub tenant: Tenant,
    /// The webhook to send to, by number.
    pub webhook: WebhookNo,
    /// Its public id.
    pub webhook_id: WebhookId,
    /// Only events of these types; empty: of any.
    pub event_types: BTreeSet<EventTypeName>,
    /// Only events whose first delivery to the webhook has ended so; empty: those that the webhook wants.
    pub states: Vec<DeliveryState>,
    /// Only events accepted then or later.
    pub start: Option<Timestamp>,
    /// Only events accepted before then.
    pub end: Timestamp,
    /// Most deliveries to make per second; never 0.
    pub per_second: u32,
}

impl ReplaySpec {
    /// Whether an event of the tenant is within the times.
    pub fn is_within(&self, accept_time: Timestamp) -> bool {
        self.start.is_none_or(|start| start <= accept_time) && accept_time < self.end
    }

    /// Whether an event of this type may be taken.
    pub fn names(&self, event_type: &EventTypeName) -> bool {
        self.event_types.is_empty() || self.event_types.contains(event_type)
    }

    /// Whether an event that passes everything else is to be sent to a webhook with these settings. An error: its payload filter
    /// cannot say; then it is not.
    pub fn wants(&self, settings: &Settings, stored: &StoredEvent, now: Timestamp) -> Result<bool, FilterError> {
        if stored.due_time() > now {
            return Ok(false);
        }
        if !self.states.is_empty() {
            return Ok(true);
        }
        match settings.verdict(&mut View::of(&stored.event)) {
            Verdict::Admitted => Ok(true),
            Verdict::OtherType | Verdict::Label(_) | Verdict::Payload => Ok(false),
            Verdict::Failed(error) => Err(error),
        }
    }

    /// How many deliveries are made at once.
    pub fn batch(&self) -> usize {
        let batch = self.per_second.div_ceil(BATCHES_PER_SECOND);
        usize::try_from(batch).unwrap_or(usize::MAX).clamp(1, REPLAY_STEP_DELIVERIES_MAX)
    }

    /// How long to wait after so many were made.
    pub fn pause_after(&self, made: usize) -> Duration {
        Duration::from_secs(u64::try_from(made).unwrap_or(u64::MAX)) / self.per_second.max(1)
    }
}

/// Where a replay stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayState {
    /// It makes deliveries, or waits until it may.
    Running,
    /// It has looked at every event.
    Succeeded,
    /// It was stopped.
    Cancelled(StoppedBy),
    /// It cannot go on, and this is why.
    Failed(Box<str>),
}

/// Who stopped a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// Somebody who wanted that.
    Request,
    /// The end of its webhook.
    Deletion,
}

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayProgress {
    /// Events of its tenant, accepted within its times, that were looked at.
    pub examined: u64,
    /// Deliveries made.
    pub created: u64,
    /// Events that were to be taken, and were no longer there.
    pub expired: u64,
    /// Of the deliveries made, those that were delivered.
    pub delivered: u64,
    /// Those that were given up.
    pub failed: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// When the last event that was looked at was accepted.
    pub reached: Option<Timestamp>,
}

impl ReplayProgress {
    /// Events that were not to be taken.
    pub fn skipped(&self) -> u64 {
        self.examined.saturating_sub(self.created).saturating_sub(self.expired)
    }

    /// Deliveries made that have not ended.
    pub fn pending(&self) -> u64 {
        [self.delivered, self.failed, self.cancelled].into_iter().fold(self.created, u64::saturating_sub)
    }

    /// How many have ended so.
    fn ended_so(&mut self, state: DeliveryState) -> Option<&mut u64> {
        match state {
            DeliveryState::Pending => None,
            DeliveryState::Delivered => Some(&mut self.delivered),
            DeliveryState::Failed => Some(&mut self.failed),
            DeliveryState::Cancelled => Some(&mut self.cancelled),
        }
    }
}

/// What was looked at, and what is to be done about it. Nothing, if the replay is not where the step begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayStep {
    /// Which replay.
    pub replay: u32,
    /// It is to be here.
    pub from: EventSeq,
    /// It goes on here.
    pub next: EventSeq,
    /// Events in between that are its tenant's and within its times.
    pub examined: u64,
    /// When the last of them was accepted.
    pub reached: Option<Timestamp>,
    /// Those of them that are to be sent, ascending: at most `REPLAY_STEP_DELIVERIES_MAX`.
    pub events: Vec<EventSeq>,
    /// Now.
    pub time: Timestamp,
}

/// A job that sends events again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The store's number of it, counted from 1, never reused: the `replay` of the deliveries it makes.
    pub no: u32,
    /// Its public id.
    pub id: ReplayId,
    /// What it is to do.
    pub spec: ReplaySpec,
    /// The first event to look at.
    pub first: EventSeq,
    /// Every event before this one was looked at.
    pub next: EventSeq,
    /// The last event to look at.
    pub last: EventSeq,
    /// How far it is.
    pub progress: ReplayProgress,
    /// Where it stands.
    pub state: ReplayState,
    /// Whether its pending deliveries are being cancelled.
    pub drops: bool,
    /// When it was started.
    pub create_time: Timestamp,
    /// When it ended.
    pub finish_time: Option<Timestamp>,
}

impl Replay {
    /// One that begins; it has succeeded already if there is nothing to look at.
    pub fn begin(no: u32, id: ReplayId, spec: ReplaySpec, events: (EventSeq, EventSeq), time: Timestamp) -> Self {
        let (first, last) = events;
        let replay = Self {
            no,
            id,
            spec,
            first,
            next: first,
            last,
            progress: ReplayProgress::default(),
            state: ReplayState::Running,
            drops: false,
            create_time: time,
            finish_time: None,
        };
        if first > last { replay.ended(ReplayState::Succeeded, time) } else { replay }
    }

    /// Whether it makes deliveries.
    pub fn is_running(&self) -> bool {
        self.state == ReplayState::Running
    }

    /// Whether something is to be done about it.
    pub fn is_active(&self) -> bool {
        self.is_running() || self.drops
    }

    /// As it is when it has ended; one that has ended before stays as it is.
    #[must_use]
    pub fn ended(self, state: ReplayState, time: Timestamp) -> Self {
        if self.is_running() { Self { state, finish_time: Some(time), ..self } } else { self }
    }

    /// As a step leaves it that made `created` deliveries, and found `expired` events no longer there.
    #[must_use]
    pub fn stepped(mut self, step: &ReplayStep, created: u64, expired: u64) -> Self {
        self.next = step.next;
        self.progress.examined += step.examined;
        self.progress.created += created;
        self.progress.expired += expired;
        self.progress.reached = step.reached.or(self.progress.reached);
        let done = self.next > self.last;
        if done { self.ended(ReplayState::Succeeded, step.time) } else { self }
    }

    /// One of its deliveries that stood so now stands so.
    pub fn moved(&mut self, before: DeliveryState, after: DeliveryState) {
        if let Some(count) = self.progress.ended_so(before) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.progress.ended_so(after) {
            *count += 1;
        }
    }

    /// How much of what there is to look at was looked at, in percent.
    pub fn percent(&self) -> u8 {
        if self.state == ReplayState::Succeeded {
            return 100;
        }
        let all = u128::from(self.last.0.saturating_sub(self.first.0)) + 1;
        let done = u128::from(self.next.0.saturating_sub(self.first.0)).min(all);
        u8::try_from(done * 100 / all).unwrap_or(100).min(99)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::model::{
        event::{Event, JSON},
        scope::{LabelFilter, PayloadFilter, Scope},
        target::Target,
        webhook::Subscription,
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn spec() -> ReplaySpec {
        ReplaySpec {
            tenant: Tenant::default(),
            webhook: WebhookNo(1),
            webhook_id: WebhookId::from_bytes([1; 16]),
            event_types: BTreeSet::new(),
            states: Vec::new(),
            start: Some(at(10)),
            end: at(20),
            per_second: 100,
        }
    }

    fn replay(first: u64, last: u64) -> Replay {
        Replay::begin(1, ReplayId::from_bytes([1; 16]), spec(), (EventSeq(first), EventSeq(last)), at(30))
    }

    fn step(next: u64, examined: u64) -> ReplayStep {
        ReplayStep {
            replay: 1,
            from: EventSeq(1),
            next: EventSeq(next),
            examined,
            reached: None,
            events: Vec::new(),
            time: at(40),
        }
    }

    #[test]
    fn times_are_half_open_and_types_narrow() {
        for (seconds, within) in [(9, false), (10, true), (19, true), (20, false)] {
            assert_eq!(spec().is_within(at(seconds)), within, "{seconds}");
        }
        let any = ReplaySpec { start: None, ..spec() };
        let name = EventTypeName::new;
        assert!(any.names(&name("ADD_TAG")));
        let narrowed = ReplaySpec { event_types: [name("NEW_LEAD")].into(), ..any };
        assert!(narrowed.names(&name("NEW_LEAD")) && !narrowed.names(&name("ADD_TAG")));
    }

    #[test]
    fn the_webhook_s_filters_hold_unless_states_are_named() {
        let target = Target::from_stored("https://receiver.example/").unwrap();
        let only = Subscription::to([EventTypeName::new("ADD_TAG")].into());
        let filter = PayloadFilter::compile("body.n == 1").unwrap();
        let settings =
            Settings { scope: Scope::new(LabelFilter::default(), Some(filter)), ..Settings::new(target, only) };
        let states = ReplaySpec { states: vec![DeliveryState::Failed], ..spec() };
        let event = |event_type: &str, body: &'static str, deliver_at: Option<u64>| StoredEvent {
            seq: EventSeq(1),
            accept_time: at(12),
            event: Event {
                id: "e".parse().unwrap(),
                tenant: Tenant::default(),
                event_type: EventTypeName::new(event_type),
                labels: BTreeMap::new(),
                ordering_key: String::new(),
                occur_time: None,
                content_type: JSON.into(),
                body: Bytes::from_static(body.as_bytes()),
                deliver_at: deliver_at.map(at),
                max_age: None,
            },
        };
        for (event, by_filters, by_states) in [
            (event("ADD_TAG", r#"{"n": 1}"#, None), Some(true), true),
            (event("ADD_TAG", r#"{"n": 2}"#, None), Some(false), true),
            (event("NEW_LEAD", r#"{"n": 1}"#, None), Some(false), true),
            (event("ADD_TAG", "no JSON", None), None, true),
            (event("ADD_TAG", r#"{"n": 1}"#, Some(50)), Some(true), true),
            (event("ADD_TAG", r#"{"n": 1}"#, Some(51)), Some(false), false),
        ] {
            assert_eq!(spec().wants(&settings, &event, at(50)).ok(), by_filters, "{event:?}");
            assert_eq!(states.wants(&settings, &event, at(50)).ok(), Some(by_states), "{event:?}");
        }
    }

    #[test]
    fn a_rate_is_kept_in_batches() {
        for (per_second, batch) in [(1, 1), (10, 1), (11, 2), (20, 2), (1_000, REPLAY_STEP_DELIVERIES_MAX)] {
            let spec = ReplaySpec { per_second, ..spec() };
            assert_eq!(spec.batch(), batch, "{per_second}");
            let pause = spec.pause_after(10_000).as_secs_f64();
            assert!((pause * f64::from(per_second) - 10_000.0).abs() < 0.1, "{per_second}: {pause}");
        }
    }

    #[test]
    fn steps_add_up_and_the_last_one_ends_it() {
        let replay = replay(1, 100).stepped(&step(51, 40), 25, 5);
        assert_eq!((replay.percent(), replay.is_running(), replay.progress.skipped()), (50, true, 10));
        let mut done = replay.stepped(&step(101, 10), 10, 0);
        assert_eq!((done.percent(), &done.state, done.finish_time), (100, &ReplayState::Succeeded, Some(at(40))));
        assert_eq!((done.progress.created, done.progress.pending(), done.progress.skipped()), (35, 35, 10));
        for (before, after, pending) in [
            (DeliveryState::Pending, DeliveryState::Delivered, 34),
            (DeliveryState::Pending, DeliveryState::Failed, 33),
            (DeliveryState::Failed, DeliveryState::Pending, 34),
            (DeliveryState::Pending, DeliveryState::Cancelled, 33),
        ] {
            done.moved(before, after);
            assert_eq!(done.progress.pending(), pending, "{before:?} {after:?}");
        }
        let ReplayProgress { delivered, failed, cancelled, .. } = done.progress;
        assert_eq!((delivered, failed, cancelled), (1, 0, 1));
    }

    #[test]
    fn what_has_ended_stays_as_it_is() {
        assert_eq!(replay(1, 0).state, ReplayState::Succeeded, "there is nothing to look at");
        let stopped = replay(1, 9).ended(ReplayState::Cancelled(StoppedBy::Request), at(50));
        assert_eq!(stopped.finish_time, Some(at(50)));
        assert_eq!(stopped.clone().ended(ReplayState::Failed("late".into()), at(60)), stopped);
    }
}
