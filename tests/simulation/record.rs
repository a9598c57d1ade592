//! What happened, and whether it was allowed to: every promise that does not need the end to be judged.
//!
//! The record believes receivers, callers and watchers. Of the store it takes what became durable, and judges that, too.
//!
//! Here is what is known, how lives end, and what watchers see; [`calls`] has what was asked for and answered, [`attempts`] what
//! receivers see, [`commits`] what becomes durable, and [`repairs`] what is cancelled and retried by hand.

mod attempts;
mod calls;
mod commits;
mod repairs;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use postrider_server::{
    model::{
        delivery::{AttemptResult, DeliveryState},
        event::Event,
        ids::{DeliveryId, DeliveryKey, EventId, EventSeq, Tenant, WebhookNo},
        retry::RetryPolicy,
        scope::{Verdict, View},
        seal::Sealer,
        time::Timestamp,
        webhook::{Webhook, WebhookSpec},
    },
    store::{FeedFilter, LogEntry},
};
use postrider_tests::memory::Image;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use crate::{plan::Plan, receivers::Manner, trace::Trace, world::START};

/// What happened so far.
pub(crate) struct Record {
    /// From now on every receiver is well.
    pub(crate) healed: bool,
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
    /// The latest event of each ordering key that an ordered webhook was called for.
    reached: BTreeMap<(WebhookNo, String), EventSeq>,
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
#[expect(clippy::struct_excessive_bools, reason = "they are facts, and none follows from another")]
struct Course {
    delivery_id: Option<DeliveryId>,
    state: DeliveryState,
    attempts: u32,
    /// It waits behind another one, and is not due.
    parked: bool,
    due: Timestamp,
    /// When that became durable.
    known: Timestamp,
    results: Vec<(u32, AttemptResult)>,
    /// When it was answered that it is cancelled, if nobody has wanted it back since.
    cancelled: Option<Timestamp>,
    /// How often it was asked for at once, and that was not refused.
    retries: u32,
    /// It has ended, and was asked for since.
    wanted: bool,
    /// It was made due by hand, so that the time its event is to be sent does not count.
    by_hand: bool,
    /// Its next attempt was asked for by hand.
    hurried: bool,
    /// Attempts that do not count because it had ended after them, and was brought back; `None`: it never was.
    excused: Option<u32>,
}

impl Course {
    /// Which one of those that count an attempt is.
    fn counted(&self, attempt: u32) -> u32 {
        attempt - self.excused.unwrap_or(0)
    }

    /// Of a delivery that nobody knew of, due then.
    fn new(now: Timestamp, due: Timestamp) -> Self {
        Self {
            delivery_id: None,
            state: DeliveryState::Pending,
            attempts: 0,
            parked: false,
            due,
            known: now,
            results: Vec::new(),
            cancelled: None,
            retries: 0,
            wanted: false,
            by_hand: false,
            hurried: false,
            excused: None,
        }
    }
}

impl Hook {
    /// Whether an event is for it.
    fn wants(&self, event: &Event) -> bool {
        self.spec.tenant == event.tenant && self.spec.settings.verdict(&mut View::of(event)) == Verdict::Admitted
    }
}

impl Record {
    pub(crate) fn new(plan: &Plan, key: [u8; 16]) -> Self {
        Self {
            healed: false,
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
            reached: BTreeMap::new(),
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
        let position = sealed.and_then(|sealed| self.sealer.position(sealed).ok()).expect("a cursor of this store");
        usize::try_from(position.0).expect("small")
    }

    // --- The end --------------------------------------------------------------------------------------------------

    /// Whether nothing is left to be done but what disabled webhooks hold.
    pub(crate) fn at_rest(&self) -> bool {
        let held = |key: &DeliveryKey| self.hooks[self.hook_of[&key.webhook]].disabled.is_some();
        self.open.iter().all(held) && self.flying.is_empty()
    }

    /// What is left to be done, for people.
    pub(crate) fn left(&self) -> String {
        let held = |key: &&DeliveryKey| self.hooks[self.hook_of[&key.webhook]].disabled.is_none();
        let open: Vec<_> = self.open.iter().filter(held).map(shown).collect();
        let flying: Vec<_> = self.flying.iter().map(shown).collect();
        format!("open {open:?}, under way {flying:?}")
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
        if let Some((replay, key)) = image.not_replayed() {
            forgotten = Some(format!("replay {replay} has succeeded, and {} was not sent again", shown(&key)));
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

    /// How many deliveries at most wait for one webhook in one line.
    pub(crate) fn longest_line(&self) -> u32 {
        let mut lines: BTreeMap<WebhookNo, u32> = BTreeMap::new();
        for key in self.open.iter().filter(|key| self.courses[key].parked) {
            *lines.entry(key.webhook).or_default() += 1;
        }
        lines.into_values().max().unwrap_or_default()
    }

    /// Deliveries so far.
    pub(crate) fn deliveries(&self) -> usize {
        self.courses.len()
    }
}

/// A delivery in as few letters as possible.
fn shown(key: &DeliveryKey) -> String {
    let replay = if key.replay > 0 { format!("#{}", key.replay) } else { String::new() };
    format!("{}>{}{replay}", key.event.0, key.webhook.0)
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// The least pause after an attempt, of which so many others count as made.
fn least_pause(retry: &RetryPolicy, attempt: u32, result: &AttemptResult) -> Duration {
    let scheduled = retry.schedule.get((attempt as usize).saturating_sub(1)).copied().unwrap_or_default();
    let asked = result.retry_after.unwrap_or_default().min(retry.retry_after_max);
    scheduled.mul_f64(1.0 - retry.jitter).saturating_sub(Duration::from_micros(1)).max(asked)
}

/// The number at the end of a webhook's URL, which says which of the requested ones it is.
fn index_of(webhook: &Webhook) -> usize {
    let (_, index) =
        webhook.settings.target.url().path().rsplit_once('/').expect("the URLs of these tests have a path");
    index.parse().expect("the URLs of these tests end with a number")
}
