//! What happened, and whether it was allowed to: every promise that does not need the end to be judged.
//!
//! The record believes receivers, callers and watchers. Of the store it takes what became durable, and judges that, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use postrider_server::{
    accept::{Accepted, Rejected},
    flow::Job,
    model::{
        delivery::{AttemptResult, DeliveryState, Outcome},
        event::Event,
        ids::{DeliveryId, DeliveryKey, EventId, Tenant, WebhookNo},
        retry::RetryPolicy,
        seal::Sealer,
        time::Timestamp,
        webhook::{Webhook, WebhookSpec},
    },
    store::{ConfigStep, FeedFilter, Hint, LogEntry, StoreError},
};
use postrider_tests::memory::{Effects, Image};
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use crate::{
    plan::Plan,
    receivers::{Manner, Reaction},
    trace::Trace,
    world::{START, World},
};

/// A delivery to a healthy receiver starts this soon after it is due, its lane's last one has started, and the last trouble is
/// over. Shorter than the pause between surveys, which would make good what a lost wake-up left behind.
const HEALTHY_START_MAX: Duration = Duration::from_secs(20);

/// What happened so far.
pub(crate) struct Record {
    pub(crate) trace: Trace,
    /// The first promise that was broken.
    pub(crate) violation: Option<String>,
    /// Cancelled with it.
    pub(crate) violated: CancellationToken,
    pub(crate) sealer: Sealer,
    plan: Plan,
    /// Orders what happens at one point of virtual time.
    step: u64,
    life_began: Timestamp,
    last_trouble: Timestamp,
    pub(crate) hooks: Vec<Hook>,
    hook_of: BTreeMap<WebhookNo, usize>,
    pub(crate) events: BTreeMap<(Tenant, EventId), Occurrence>,
    courses: BTreeMap<DeliveryKey, Course>,
    /// Those of them that have not ended.
    open: BTreeSet<DeliveryKey>,
    /// Those that were started in this life, and are not recorded.
    flying: BTreeSet<DeliveryKey>,
    /// As watchers are to see it.
    pub(crate) log: Vec<LogEntry>,
}

/// A webhook: what was asked for, what is known of it, and its receiver.
pub(crate) struct Hook {
    spec: WebhookSpec,
    manner: Manner,
    rng: StdRng,
    pub(crate) no: Option<WebhookNo>,
    requested: u64,
    created: Option<u64>,
    delete_requested: Option<u64>,
    deleted: Option<(u64, Timestamp)>,
    /// Durably, if not seen by everybody.
    disabled: Option<Timestamp>,
    removed: bool,
    /// Attempts under way.
    busy: usize,
    last_start: Timestamp,
}

/// An event: what was asked for and what was answered.
#[derive(Default)]
pub(crate) struct Occurrence {
    contents: BTreeSet<u128>,
    first_submitted: u64,
    accepted: Option<u128>,
    /// Webhooks that must get it, by index.
    pub(crate) definite: Vec<usize>,
}

/// A delivery.
struct Course {
    delivery_id: Option<DeliveryId>,
    state: DeliveryState,
    attempts: u32,
    due: Timestamp,
    /// When that became durable.
    known: Timestamp,
    results: Vec<(u32, AttemptResult)>,
}

impl Record {
    pub(crate) fn new(plan: &Plan, key: [u8; 16]) -> Self {
        Self {
            trace: Trace::default(),
            violation: None,
            violated: CancellationToken::new(),
            sealer: Sealer::new(key),
            plan: plan.clone(),
            step: 0,
            life_began: START,
            last_trouble: START,
            hooks: Vec::new(),
            hook_of: BTreeMap::new(),
            events: BTreeMap::new(),
            courses: BTreeMap::new(),
            open: BTreeSet::new(),
            flying: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    /// A promise is broken.
    pub(crate) fn violate(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        self.trace.line(now, format_args!("VIOLATION {what}"));
        self.violation.get_or_insert_with(|| what.to_string());
        self.violated.cancel();
    }

    fn note(&mut self, now: Timestamp, what: fmt::Arguments<'_>) -> u64 {
        self.trace.line(now, what);
        self.step += 1;
        self.step
    }

    /// Something fails by plan; what waits may wait longer.
    pub(crate) fn trouble(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        self.last_trouble = now;
        self.note(now, what);
    }

    /// A process starts.
    pub(crate) fn life_begins(&mut self, now: Timestamp, life: usize) {
        self.life_began = now;
        self.note(now, format_args!("life {life} begins"));
    }

    /// A process is gone. What was acknowledged is on the disk, and after an orderly stop nothing is left half done.
    pub(crate) fn life_ended(&mut self, now: Timestamp, orderly: bool, image: &Image) {
        self.note(now, format_args!("life ends{}", if orderly { " in order" } else { "" }));
        if let (true, Some(key)) = (orderly, self.flying.first().map(shown)) {
            self.violate(now, format_args!("{key} was attempted, and an orderly stop did not record it"));
        }
        self.flying.clear();
        for hook in &mut self.hooks {
            hook.busy = 0;
        }
        let lost = |(tenant, id): &(Tenant, EventId)| image.event_seq(tenant, id).is_none();
        let mut accepted = self.events.iter().filter(|(_, event)| event.accepted.is_some()).map(|(id, _)| id);
        if let Some((_, id)) = accepted.find(|id| lost(id)).cloned() {
            self.violate(now, format_args!("{id} was accepted and is lost"));
        }
    }

    // --- Configuration --------------------------------------------------------------------------------------------

    /// Somebody wants a webhook. Returns the number that its URL must end with.
    pub(crate) fn create_requested(&mut self, now: Timestamp, spec: WebhookSpec, manner: Manner) {
        let index = self.hooks.len();
        let requested =
            self.note(now, format_args!("create hook {index} of {}: {manner:?} {:?}", spec.tenant, spec.subscription));
        self.hooks.push(Hook {
            disabled: (!spec.enabled).then_some(START),
            spec,
            manner,
            rng: World::rng(&self.plan, "receiver", index),
            no: None,
            requested,
            created: None,
            delete_requested: None,
            deleted: None,
            removed: false,
            busy: 0,
            last_start: START,
        });
    }

    /// It is answered that it exists.
    pub(crate) fn created(&mut self, now: Timestamp, webhook: &Webhook) {
        let index = index_of(webhook);
        self.learn(now, index, webhook.no);
        let step = self.note(now, format_args!("hook {index} is created: {:?}", webhook.no));
        self.hooks[index].created.get_or_insert(step);
    }

    fn learn(&mut self, now: Timestamp, index: usize, no: WebhookNo) {
        let known = *self.hooks[index].no.get_or_insert(no);
        if known != no {
            self.violate(now, format_args!("hook {index} is created twice: {known:?} and {no:?}"));
        }
        self.hook_of.insert(no, index);
    }

    pub(crate) fn delete_requested(&mut self, now: Timestamp, index: usize) {
        let step = self.note(now, format_args!("delete hook {index}"));
        self.hooks[index].delete_requested.get_or_insert(step);
    }

    pub(crate) fn deleted(&mut self, now: Timestamp, index: usize) {
        let step = self.note(now, format_args!("hook {index} is deleted"));
        self.hooks[index].deleted.get_or_insert((step, now));
    }

    // --- Publishing -----------------------------------------------------------------------------------------------

    /// Somebody publishes. Returns when, for [`Self::answered`].
    pub(crate) fn submitted(&mut self, now: Timestamp, batch: &[Event]) -> u64 {
        let ids: Vec<_> = batch.iter().map(|event| event.id.as_str()).collect();
        let step = self.note(now, format_args!("publish {ids:?}"));
        for event in batch {
            let fresh = || Occurrence { first_submitted: step, ..Occurrence::default() };
            let known = self.events.entry((event.tenant.clone(), event.id.clone())).or_insert_with(fresh);
            known.contents.insert(event.content_hash());
        }
        step
    }

    /// What was answered to an event submitted at `since`.
    pub(crate) fn answered(&mut self, now: Timestamp, since: u64, event: &Event, answer: &Result<Accepted, Rejected>) {
        let id = &event.id;
        let step = self.note(now, format_args!("{id} is answered {answer:?}"));
        let hash = event.content_hash();
        let known = self.events.get_mut(&(event.tenant.clone(), id.clone())).expect("it was submitted");
        match answer {
            Ok(Accepted { deliveries, duplicate }) => {
                let before = known.accepted.replace(hash);
                if before.is_some_and(|before| before != hash) {
                    return self.violate(now, format_args!("{id} is accepted with two contents"));
                }
                if before.is_some() && !duplicate {
                    return self.violate(now, format_args!("{id} is accepted as new twice"));
                }
                if before.is_none() {
                    let since = if *duplicate { known.first_submitted } else { since };
                    self.targets(now, event, since, step, *deliveries as usize);
                }
            }
            Err(Rejected::IdReused) if known.contents.len() > 1 => {}
            Err(Rejected::Store(StoreError::Closed)) => {}
            Err(Rejected::Store(_)) if self.plan.weather.failures > 0.0 => {}
            Err(error) => self.violate(now, format_args!("{id} is refused without cause: {error}")),
        }
    }

    /// An event stored between two steps goes to all who wanted it all that time, and to nobody who never did.
    fn targets(&mut self, now: Timestamp, event: &Event, since: u64, until: u64, deliveries: usize) {
        let wants = |hook: &Hook| hook.spec.tenant == event.tenant && hook.spec.subscription.wants(&event.event_type);
        let definite = |hook: &Hook| {
            hook.created.is_some_and(|created| created < since)
                && hook.delete_requested.is_none_or(|requested| requested > until)
        };
        let possible = |hook: &Hook| hook.requested < until && hook.deleted.is_none_or(|(deleted, _)| deleted > since);
        let hooks = || self.hooks.iter().enumerate().filter(|(_, hook)| wants(hook));
        let must: Vec<_> = hooks().filter(|(_, hook)| definite(hook)).map(|(index, _)| index).collect();
        let may = hooks().filter(|(_, hook)| possible(hook)).count();
        if !(must.len()..=may).contains(&deliveries) {
            let (id, least) = (&event.id, must.len());
            self.violate(now, format_args!("{id} goes to {deliveries} webhooks; {least} to {may} want it"));
        }
        let known = self.events.get_mut(&(event.tenant.clone(), event.id.clone())).expect("it was submitted");
        known.definite = must;
    }

    // --- Attempts -------------------------------------------------------------------------------------------------

    /// A request reaches a receiver. Returns what that will do; `None`: it should never have come.
    pub(crate) fn attempt_started(&mut self, now: Timestamp, job: &Job) -> Option<Reaction> {
        let index = index_of(&job.webhook);
        let (key, attempt) = (job.key, job.attempt);
        self.note(now, format_args!("hook {index} gets {}, {} attempt {attempt}", job.event.event.id, shown(&key)));
        if let Err(why) = self.judge_start(now, index, job) {
            self.violate(now, format_args!("attempt {attempt} of {} at hook {index}: {why}", shown(&key)));
            return None;
        }
        let hook = &mut self.hooks[index];
        hook.busy += 1;
        hook.last_start = now;
        let reaction = hook.manner.react(&mut hook.rng);
        let course = self.courses.get_mut(&key).expect("judged");
        if !course.state.is_final() {
            self.flying.insert(key);
        }
        course.delivery_id = Some(job.delivery_id);
        Some(reaction)
    }

    fn judge_start(&self, now: Timestamp, index: usize, job: &Job) -> Result<(), String> {
        let limits = &self.plan.dispatch;
        let hook = &self.hooks[index];
        let event = &job.event.event;
        let known = self.events.get(&(event.tenant.clone(), event.id.clone())).ok_or("nobody published the event")?;
        let course = self.courses.get(&job.key).ok_or("no such delivery is durable")?;
        let wanted = hook.spec.tenant == event.tenant && hook.spec.subscription.wants(&event.event_type);
        let shown = Duration::from_millis(self.plan.weather.show_ms);
        let waiting_since = [course.due, course.known, hook.last_start, self.last_trouble, self.life_began];
        let idle = now.since(waiting_since.into_iter().max().unwrap_or_default());
        check(known.contents.contains(&event.content_hash()), "the content is not what was published")?;
        check(wanted, "the webhook does not want the event")?;
        check(job.body_permit.is_some(), "its body has no permit")?;
        check(job.delivery_id == self.sealer.delivery_id(job.key), "the delivery id is another one")?;
        check(course.delivery_id.is_none_or(|id| id == job.delivery_id), "the delivery id has changed")?;
        check(hook.deleted.is_none_or(|(_, deleted)| now <= deleted), "the webhook is deleted, and that was answered")?;
        check(hook.disabled.is_none_or(|disabled| now <= disabled + shown), "the webhook is disabled")?;
        check(!self.flying.contains(&job.key), "it is under way already")?;
        // Until its deletion is answered, a webhook may be called.
        check(!course.state.is_final() || course.state == DeliveryState::Cancelled, "the delivery is over")?;
        check(job.attempt == course.attempts + 1, "an attempt is left out or repeated")?;
        check(now >= course.due, "it is not due")?;
        check(self.rested(now, course), "it is too soon after the attempt before")?;
        check(hook.busy < limits.webhook_in_flight_max, "too many attempts at one webhook")?;
        check(self.flying.len() < limits.in_flight_max, "too many attempts")?;
        if hook.manner == Manner::Healthy && idle > HEALTHY_START_MAX {
            return Err(format!("a healthy receiver waited {idle:?}"));
        }
        Ok(())
    }

    /// By the receiver's own clock: the pause after the attempt before is as long as the policy and the receiver want it.
    fn rested(&self, now: Timestamp, course: &Course) -> bool {
        let before = course.results.iter().filter(|(attempt, _)| *attempt == course.attempts);
        let earliest =
            before.map(|(attempt, result)| result.time + least_pause(&self.plan.outcomes.retry, *attempt, result));
        earliest.min().is_none_or(|earliest| now >= earliest)
    }

    /// The receiver is done with it.
    pub(crate) fn attempt_ended(&mut self, now: Timestamp, job: &Job, result: &AttemptResult) {
        let (status, class) = (result.http_status, result.error_class);
        self.note(now, format_args!("{} attempt {} ends: {status:?} {class:?}", shown(&job.key), job.attempt));
        let index = index_of(&job.webhook);
        self.hooks[index].busy -= 1;
        let course = self.courses.get_mut(&job.key).expect("it was started");
        course.results.push((job.attempt, result.clone()));
    }

    // --- What becomes durable -------------------------------------------------------------------------------------

    /// A commit is durable.
    pub(crate) fn committed(&mut self, now: Timestamp, effects: &Effects) {
        for (webhook, hint) in &effects.fresh {
            self.became_due(now, *webhook, hint);
        }
        for (_, step) in &effects.steps {
            match step {
                ConfigStep::Put(webhook) => {
                    let index = index_of(webhook);
                    self.learn(now, index, webhook.no);
                    if !webhook.is_enabled() {
                        self.note(now, format_args!("hook {index} is disabled"));
                        self.hooks[index].disabled.get_or_insert(now);
                    }
                }
                ConfigStep::Removed(_) => {}
            }
        }
        for entry in &effects.log {
            match entry {
                LogEntry::Outcome(outcome) => self.recorded(now, outcome),
                LogEntry::WebhookCancelled(_) => self.log.push(entry.clone()),
            }
        }
        // Outcomes that share a commit with the end of their webhook may come before it.
        for (_, step) in &effects.steps {
            if let ConfigStep::Removed(no) = step {
                self.removed(now, *no);
            }
        }
    }

    fn became_due(&mut self, now: Timestamp, webhook: WebhookNo, hint: &Hint) {
        let key = DeliveryKey { webhook, event: hint.event, replay: hint.replay };
        self.note(now, format_args!("{} is due {:?}", shown(&key), hint.due));
        let course = Course {
            delivery_id: None,
            state: DeliveryState::Pending,
            attempts: 0,
            due: hint.due,
            known: now,
            results: Vec::new(),
        };
        self.open.insert(key);
        if self.courses.insert(key, course).is_some() {
            self.violate(now, format_args!("{} is made due twice", shown(&key)));
        }
    }

    fn removed(&mut self, now: Timestamp, no: WebhookNo) {
        self.note(now, format_args!("{no:?} is removed"));
        let index = self.hook_of[&no];
        self.hooks[index].removed = true;
        let of_webhook = |key: &DeliveryKey| key.webhook == no;
        for key in self.open.extract_if(.., of_webhook) {
            self.courses.get_mut(&key).expect("it is open").state = DeliveryState::Cancelled;
        }
        self.flying.retain(|key| key.webhook != no);
    }

    fn recorded(&mut self, now: Timestamp, outcome: &Outcome) {
        let (key, attempt, state) = (outcome.key, outcome.attempt, outcome.state);
        self.note(
            now,
            format_args!("{} attempt {attempt} is recorded: {state:?} {:?}", shown(&key), outcome.next_attempt),
        );
        if let Err(why) = self.judge_outcome(outcome) {
            self.violate(now, format_args!("the outcome of attempt {attempt} of {}: {why}", shown(&key)));
            return;
        }
        let course = self.courses.get_mut(&key).expect("judged");
        course.state = state;
        course.attempts = attempt;
        course.due = outcome.next_attempt.unwrap_or(course.due);
        course.known = now;
        self.flying.remove(&key);
        if state.is_final() {
            self.open.remove(&key);
        }
        self.log.push(LogEntry::Outcome(Outcome { response_body: Bytes::new(), ..outcome.clone() }));
    }

    fn judge_outcome(&self, outcome: &Outcome) -> Result<(), String> {
        let retry = &self.plan.outcomes.retry;
        let course = self.courses.get(&outcome.key).ok_or("no such delivery")?;
        check(!course.state.is_final(), "the delivery is over")?;
        check(outcome.attempt == course.attempts + 1, "it is not the next one's")?;
        let made = |(attempt, result): &&(u32, AttemptResult)| {
            *attempt == outcome.attempt && result.time == outcome.time && result.http_status == outcome.http_status
        };
        let (attempt, result) = course.results.iter().find(made).ok_or("no such attempt was made")?;
        let last = *attempt as usize > retry.schedule.len();
        let expected = match (result.error_class, result.http_status) {
            (None, _) => DeliveryState::Delivered,
            (Some(_), Some(410)) => DeliveryState::Failed,
            (Some(_), _) if last => DeliveryState::Failed,
            (Some(_), _) => DeliveryState::Pending,
        };
        check(outcome.state == expected, "it led to something else than policy says")?;
        check(outcome.next_attempt.is_some() == (expected == DeliveryState::Pending), "a next attempt, or none")?;
        if let Some(next) = outcome.next_attempt {
            let pause = next.since(result.time);
            let asked = result.retry_after.unwrap_or_default().min(retry.retry_after_max);
            let longest = retry.schedule[*attempt as usize - 1].mul_f64(1.0 + retry.jitter).max(asked);
            check(pause >= least_pause(retry, *attempt, result), "the next attempt is too soon")?;
            check(pause <= longest + Duration::from_millis(1), "the next attempt is too late")?;
        }
        Ok(())
    }

    // --- Watching -------------------------------------------------------------------------------------------------

    /// A watcher who has seen everything that passes its filter up to `place` gets these.
    pub(crate) fn watched(
        &mut self,
        now: Timestamp,
        watcher: usize,
        filter: &FeedFilter,
        place: &mut usize,
        entries: &[LogEntry],
    ) {
        for entry in entries {
            let rest = self.log.get(*place..).unwrap_or_default();
            let next = rest.iter().position(|known| filter.passes(known));
            match next {
                Some(next) if rest[next] == *entry => *place += next + 1,
                Some(_) | None => {
                    let expected = next.map(|next| rest[next].clone());
                    let what = format!("watcher {watcher} at {place} gets {entry:?} and should get {expected:?}");
                    return self.violate(now, format_args!("{what}"));
                }
            }
        }
    }

    /// Where in the log a cursor stands.
    pub(crate) fn place_of(&self, cursor: &str) -> usize {
        let sealed = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| bytes.try_into().ok());
        let position = sealed.and_then(|sealed| self.sealer.position(sealed)).expect("a cursor of this store");
        usize::try_from(position.0).expect("small")
    }

    // --- The end --------------------------------------------------------------------------------------------------

    /// Whether nothing is left to be done but what disabled webhooks hold.
    pub(crate) fn at_rest(&self) -> bool {
        let held = |key: &DeliveryKey| self.hooks[self.hook_of[&key.webhook]].disabled.is_some();
        self.open.iter().all(held) && self.flying.is_empty()
    }

    /// Nothing new came for long enough: everything that was accepted is delivered, failed by policy, held or cancelled.
    pub(crate) fn judge_rest(&mut self, now: Timestamp, image: &Image) {
        let mut forgotten = None;
        for ((tenant, id), event) in self.events.iter().filter(|(_, event)| event.accepted.is_some()) {
            let Some(seq) = image.event_seq(tenant, id) else { continue };
            for index in &event.definite {
                let hook = &self.hooks[*index];
                let key = hook.no.map(|webhook| DeliveryKey { webhook, event: seq, replay: 0 });
                let course = key.and_then(|key| self.courses.get(&key));
                let done = course.is_some_and(|course| course.state.is_final());
                if !done && hook.disabled.is_none() && !hook.removed {
                    forgotten = Some(format!("{id} was never delivered to hook {index} and did not fail"));
                }
            }
        }
        let wrong = image.pending().find(|(no, pending)| *pending != self.waiting(*no));
        if let Some((no, pending)) = wrong {
            forgotten = Some(format!("{pending} deliveries of {no:?} are counted, {} wait", self.waiting(no)));
        }
        if let Some(what) = forgotten {
            self.violate(now, format_args!("{what}"));
        }
    }

    /// Deliveries of a webhook that have not ended.
    pub(crate) fn waiting(&self, no: WebhookNo) -> u64 {
        self.open.iter().filter(|key| key.webhook == no).count() as u64
    }

    /// Deliveries so far.
    pub(crate) fn deliveries(&self) -> usize {
        self.courses.len()
    }
}

/// A delivery in as few letters as possible.
fn shown(key: &DeliveryKey) -> String {
    format!("{}>{}", key.event.0, key.webhook.0)
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn least_pause(retry: &RetryPolicy, attempt: u32, result: &AttemptResult) -> Duration {
    let scheduled = retry.schedule.get(attempt as usize - 1).copied().unwrap_or_default();
    let asked = result.retry_after.unwrap_or_default().min(retry.retry_after_max);
    scheduled.mul_f64(1.0 - retry.jitter).saturating_sub(Duration::from_micros(1)).max(asked)
}

/// The number at the end of a webhook's URL, which says which of the requested ones it is.
fn index_of(webhook: &Webhook) -> usize {
    let (_, index) = webhook.target.url().path().rsplit_once('/').expect("the URLs of these tests have a path");
    index.parse().expect("the URLs of these tests end with a number")
}
