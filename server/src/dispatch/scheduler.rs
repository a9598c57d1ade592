//! What is launched next, and what is read for it: the pure core of dispatch.
//!
//! ```text
//!   news, settled, refilled, surveyed ─▶ lanes ─▶ ready ─▶ next_launch
//!                tick (time passes)  ─▶   │
//!                                         └─ short of hints ─▶ next_refill
//! ```
//!
//! Deterministic: it reads no clock and no store, and answers are pulled out of it. *The queue holds hints; the store holds the
//! truth*: a delivery that is pending on disk, for an enabled webhook, is at any time in a window, in flight, aside, behind the
//! mark of its lane or of the lane to be, behind the lane's next due time, or on its way here on the board. If a gate holds the
//! webhook back for longer than the horizon, the time when it opens counts as the next due time. Nothing here is
//! needed for that to be delivered but what memory holds; after a restart [`Scheduler::surveyed`] builds it again.
//!
//! Invariant: the board is handed in before what settled. A commit posts its deliveries before the next commit, so none can
//! settle before it was posted, and news of a delivery that is over already is impossible.

mod gates;
mod hints;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

#[cfg(test)]
use super::fairness::Waiting;
use super::{
    budget::Budget,
    gate::{self, Gate},
    lane::{DeliveryInLane, Lane, Listed},
    orders::{Launch, Limits, Refill, Unmade, Webhooks},
    ready::Ready,
};
use crate::{
    flow::{GateView, Settled},
    model::{
        breaker::Change,
        ids::{DeliveryKey, Tenant, WebhookNo},
        time::Timestamp,
    },
    store::{AsOf, Hint},
};

/// Most tenants passed over, because they have their share of the hints, in search of one that may be read. Those behind them
/// come first when it is asked again.
const REFILL_TENANTS_PASSED_MAX: usize = 64;

/// What is known of a webhook. Most have no lane: they sleep until their next delivery is due.
#[derive(Debug, Default)]
struct Entry {
    /// The first delivery on disk that is due beyond the horizon is due no earlier, as reads from this one on see; or nothing is
    /// launched before.
    next_due: Option<(Timestamp, AsOf)>,
    /// Something is due, as reads from this one on see, and it waits without a lane for its turn to be read. Set only if there
    /// is no lane: memory does not follow the number of webhooks that are due.
    due_since: Option<AsOf>,
    /// Its last attempt was slow. Forgotten when nothing is pending for it.
    slow: bool,
    /// What holds it back.
    gate: Option<Box<Gate>>,
    lane: Option<Box<Lane>>,
}

impl Entry {
    /// Whether a delivery may be launched now, permits aside.
    fn is_ready(&self, now: Timestamp, ceiling: usize) -> bool {
        let Some(lane) = self.lane.as_deref().filter(|lane| lane.has_due(now)) else { return false };
        let cap = gate::cap(ceiling, lane.pace.max_in_flight);
        let Some(gate) = &self.gate else { return lane.under_way() < cap };
        let busy = if gate.waits_for_outcomes() { lane.in_flight() } else { lane.under_way() };
        busy < gate.allowed(cap) && gate.shut_until(&lane.pace, now).is_none()
    }

    /// Until when its gate lets nothing pass, if not now.
    fn shut_until(&self, now: Timestamp) -> Option<Timestamp> {
        let pace = self.lane.as_deref().map(|lane| lane.pace).unwrap_or_default();
        self.gate.as_deref().and_then(|gate| gate.shut_until(&pace, now))
    }

    /// Whether nothing is pending for it, as far as memory is concerned.
    fn is_idle(&self) -> bool {
        self.lane.is_none() && self.next_due.is_none() && self.due_since.is_none()
    }
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    entries: HashMap<WebhookNo, Entry>,
    budget: Budget,
    ready: Ready,
    /// Slow ones that would be ready if their share of permits were not used up.
    parked: Ready,
    /// When lanes are to be looked at again.
    alarms: BTreeSet<(Timestamp, WebhookNo)>,
    /// When webhooks have something due on disk.
    sleepers: BTreeSet<(Timestamp, WebhookNo)>,
    /// When gates of webhooks with nothing pending are forgotten.
    idle_gates: BTreeSet<(Timestamp, WebhookNo)>,
    /// What there is to see of gates, as far as it has changed.
    gate_changes: Vec<(WebhookNo, Option<GateView>)>,
    /// Breakers that opened or closed, and when.
    trips: Vec<(WebhookNo, Change, Timestamp)>,
    /// Those that wait for their turn to be read: lanes, and webhooks with something due that have none yet.
    refills: Ready,
    refills_running: usize,
    in_flight: usize,
    slow_in_flight: usize,
    /// Every hint in memory is seen by reads from this one on.
    seen: AsOf,
}

impl Scheduler {
    /// With nothing to do.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            entries: HashMap::new(),
            budget: Budget::new(limits.hints_max, limits.lane_hints_max),
            ready: Ready::default(),
            parked: Ready::default(),
            alarms: BTreeSet::new(),
            sleepers: BTreeSet::new(),
            idle_gates: BTreeSet::new(),
            gate_changes: Vec::new(),
            trips: Vec::new(),
            refills: Ready::default(),
            refills_running: 0,
            in_flight: 0,
            slow_in_flight: 0,
            seen: AsOf::default(),
            limits,
        }
    }

    /// The next attempt to make, if there is one and a permit for it. Ask again until there is none.
    pub(super) fn next_launch(&mut self, now: Timestamp, webhooks: &impl Webhooks) -> Option<Launch> {
        while self.in_flight < self.limits.in_flight_max {
            self.unpark();
            let webhook = self.ready.front()?;
            let enabled = webhooks.if_enabled(webhook);
            if enabled.is_none() {
                self.dismiss(webhook);
            }
            let ceiling = self.limits.webhook_in_flight_max;
            let entry = self.entries.get_mut(&webhook).expect("what is listed is kept");
            let lane = entry.lane.as_deref_mut().expect("what is listed is kept");
            lane.pace = enabled.map(|enabled| enabled.pace).unwrap_or_default();
            if !entry.is_ready(now, ceiling) {
                self.ready.leave();
                let lane = entry.lane.as_deref_mut().expect("what is listed is kept");
                lane.listed = Listed::No;
                self.review(webhook, now);
                continue;
            }
            let lane = entry.lane.as_deref_mut().expect("what is listed is kept");
            if entry.slow && self.slow_in_flight >= self.limits.slow_in_flight_max {
                self.ready.leave();
                self.parked.push(lane.tenant(), webhook);
                lane.listed = Listed::Parked;
                continue;
            }
            let hint = lane.take(&mut self.budget).expect("a lane that is ready has a hint");
            self.in_flight += 1;
            self.slow_in_flight += usize::from(entry.slow);
            let key = DeliveryKey { webhook, event: hint.event, replay: hint.replay };
            let launch = Launch { key, attempts: hint.attempts, slow: entry.slow };
            if entry.gate.is_some() || lane.pace.rate_limit.is_some() {
                let pace = lane.pace;
                self.pass(webhook, |gate| gate.launch(&pace, now));
            }
            let entry = self.entries.get_mut(&webhook).expect("what is listed is kept");
            let stays = entry.is_ready(now, ceiling);
            self.ready.served(stays);
            if let (false, Some(lane)) = (stays, entry.lane.as_deref_mut()) {
                lane.listed = Listed::No;
            }
            self.review(webhook, now);
            return Some(launch);
        }
        None
    }

    /// The next lane to read, if one is short of hints and its tenant may have more. Ask again until there is none.
    pub(super) fn next_refill(&mut self, now: Timestamp) -> Option<Refill> {
        let mut passed = 0;
        while self.refills_running < self.limits.refills_max {
            let (tenant, webhook) = (self.refills.front_tenant()?.clone(), self.refills.front()?);
            if !self.may_grow(&tenant, webhook) {
                passed += 1;
                if passed >= self.refills.tenants().min(REFILL_TENANTS_PASSED_MAX) {
                    return None;
                }
                self.refills.next_tenant();
                continue;
            }
            self.refills.served(false);
            self.awaken(webhook, tenant);
            self.suspend(webhook, now);
            let (lane, budget) = self.lane(webhook).expect("it was woken");
            let Some(limit) = lane.begin_refill(budget) else {
                self.review(webhook, now);
                continue;
            };
            self.refills_running += 1;
            return Some(Refill { webhook, horizon: now + self.limits.horizon, limit });
        }
        None
    }

    /// Permits taken.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// All permits.
    pub(super) fn in_flight_max(&self) -> usize {
        self.limits.in_flight_max
    }

    /// When to call [`Self::tick`] if nothing else happens.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let sleeper = self.sleepers.first().map(|(due, _)| *due - self.lead());
        let forgotten = self.idle_gates.first().map(|(at, _)| *at);
        [alarm, sleeper, forgotten].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp, webhooks: &impl Webhooks) {
        while let Some(&(at, webhook)) = self.alarms.first()
            && at <= now
        {
            self.alarms.pop_first();
            let seen = self.seen;
            if let Some((lane, _)) = self.lane(webhook) {
                lane.alarm = None;
                lane.wake(now, seen);
            }
            self.review(webhook, now);
        }
        while let Some(&(due, webhook)) = self.sleepers.first()
            && due <= now + self.lead()
        {
            self.sleepers.pop_first();
            let next_due = self.entries.get_mut(&webhook).and_then(|entry| entry.next_due.take());
            match (next_due, webhooks.if_enabled(webhook), self.shut_for_long(webhook, now)) {
                (_, None, _) => self.dismiss(webhook),
                (None, Some(_), _) => {}
                (Some((_, as_of)), Some(_), Some(until)) => self.expect(webhook, until, as_of),
                (Some((_, as_of)), Some(enabled), None) => self.call(webhook, &enabled.tenant, as_of),
            }
            self.review(webhook, now);
        }
        while let Some(&(at, webhook)) = self.idle_gates.first()
            && at <= now
        {
            self.forget_idle_gate(at, webhook);
        }
    }

    /// A receiver is done with an attempt, whose outcome is yet to be committed.
    pub(super) fn answered(&mut self, key: DeliveryKey, now: Timestamp) {
        let Some((lane, _)) = self.lane(key.webhook) else { return };
        lane.answer((key.event, key.replay));
        self.review(key.webhook, now);
    }

    /// An outcome is committed.
    pub(super) fn settled(&mut self, settled: &Settled, now: Timestamp, webhooks: &impl Webhooks) {
        self.see(settled.as_of);
        let DeliveryKey { webhook, event, replay } = settled.key;
        let is_recalled = settled.next_attempt.is_some()
            && self.lane(webhook).is_some_and(|(lane, _)| lane.is_recalled((event, replay)));
        if !self.land(settled.key, |lane, delivery, budget| lane.settle(delivery, settled.as_of, budget)) {
            return;
        }
        if let Some(slow) = settled.slow {
            self.set_slow(webhook, slow);
        }
        self.judge(settled, now, webhooks);
        if let Some(due) = settled.next_attempt {
            if webhooks.if_enabled(webhook).is_none() {
                self.dismiss(webhook);
            } else if is_recalled {
                // It may be cancelled: what is on disk counts, and is read again.
                if let Some((lane, _)) = self.lane(webhook) {
                    lane.raise(settled.as_of);
                }
            } else {
                let hint = Hint { event, replay, attempts: settled.attempts, due };
                self.note(webhook, &hint, settled.as_of, now);
            }
        }
        self.review(webhook, now);
    }

    /// A launched delivery was not attempted.
    pub(super) fn unmade(&mut self, key: DeliveryKey, why: Unmade, now: Timestamp) {
        let seen = self.seen;
        let (failure_pause, unreadable_pause) = (self.limits.failure_pause, self.limits.unreadable_pause);
        self.land(key, |lane, delivery, budget| match why {
            Unmade::NotWanted => lane.put_back(delivery, seen),
            Unmade::StoreFailed => {
                lane.pause(now + failure_pause);
                lane.put_back(delivery, seen)
            }
            Unmade::Unreadable => lane.set_aside(delivery, now + unreadable_pause, budget),
        });
        if why == Unmade::NotWanted {
            self.dismiss(key.webhook);
        }
        self.review(key.webhook, now);
    }

    /// How long before it is due a sleeping webhook is read, so that one read serves what becomes due together.
    fn lead(&self) -> Duration {
        self.limits.horizon / 2
    }

    fn lane(&mut self, webhook: WebhookNo) -> Option<(&mut Lane, &mut Budget)> {
        let lane = self.entries.get_mut(&webhook)?.lane.as_deref_mut()?;
        Some((lane, &mut self.budget))
    }

    fn awaken(&mut self, webhook: WebhookNo, tenant: Tenant) -> (&mut Lane, &mut Budget) {
        let entry = self.entries.entry(webhook).or_default();
        let lane = entry.lane.get_or_insert_with(|| Box::new(Lane::new(tenant, webhook)));
        if let Some(since) = entry.due_since.take() {
            lane.raise(since);
            lane.queue_refill();
        }
        (lane, &mut self.budget)
    }

    /// Forgets all of a webhook but its attempts under way and its turn to be read. What is pending for it stays on disk.
    fn dismiss(&mut self, webhook: WebhookNo) {
        self.forget_deliveries(webhook);
        self.drop_gate(webhook);
    }

    /// The same, but for its gate.
    fn forget_deliveries(&mut self, webhook: WebhookNo) {
        let Some(entry) = self.entries.get_mut(&webhook) else { return };
        if let Some((due, _)) = entry.next_due.take() {
            self.sleepers.remove(&(due, webhook));
        }
        if let Some(lane) = entry.lane.as_deref_mut() {
            lane.clear(&mut self.budget);
        }
    }

    /// Gives a launched delivery's permits back. False: it had none.
    fn land(&mut self, key: DeliveryKey, how: impl FnOnce(&mut Lane, DeliveryInLane, &Budget) -> bool) -> bool {
        let Some(entry) = self.entries.get_mut(&key.webhook) else { return false };
        let Some(lane) = entry.lane.as_deref_mut() else { return false };
        let landed = how(lane, (key.event, key.replay), &self.budget);
        if landed {
            self.in_flight -= 1;
            self.slow_in_flight -= usize::from(entry.slow);
        }
        landed
    }

    fn set_slow(&mut self, webhook: WebhookNo, slow: bool) {
        let Some(entry) = self.entries.get_mut(&webhook).filter(|entry| entry.slow != slow) else { return };
        entry.slow = slow;
        let Some(lane) = entry.lane.as_deref_mut() else { return };
        if slow {
            self.slow_in_flight += lane.in_flight();
        } else {
            self.slow_in_flight -= lane.in_flight();
            if lane.listed == Listed::Parked {
                self.parked.remove(lane.tenant(), webhook);
                lane.listed = Listed::No;
            }
        }
    }

    /// Lets a parked lane back into the round if slow ones may launch. One at a time: it may find no permit left.
    fn unpark(&mut self) {
        if self.slow_in_flight >= self.limits.slow_in_flight_max {
            return;
        }
        let Some(webhook) = self.parked.front() else { return };
        self.parked.served(false);
        let (lane, _) = self.lane(webhook).expect("what is listed is kept");
        lane.listed = Listed::Ready;
        let tenant = lane.tenant().clone();
        self.ready.push(&tenant, webhook);
    }

    /// Draws the consequences of what happened to a lane: lists it, queues it for a read, sets its alarm, puts it to sleep.
    fn review(&mut self, webhook: WebhookNo, now: Timestamp) {
        self.suspend(webhook, now);
        let Some(entry) = self.entries.get_mut(&webhook) else { return };
        let ready = entry.is_ready(now, self.limits.webhook_in_flight_max);
        let opens = entry.shut_until(now);
        if let Some(lane) = entry.lane.as_deref_mut() {
            if lane.listed == Listed::No && ready {
                lane.listed = Listed::Ready;
                self.ready.push(lane.tenant(), webhook);
            }
            if lane.wants_refill(&self.budget) {
                lane.queue_refill();
                self.refills.push(lane.tenant(), webhook);
            }
            let opens = opens.filter(|_| lane.has_hints());
            let alarm = lane.next_alarm(now).into_iter().chain(opens).min();
            if alarm != lane.alarm {
                lane.alarm.map(|at| self.alarms.remove(&(at, webhook)));
                alarm.map(|at| self.alarms.insert((at, webhook)));
                lane.alarm = alarm;
            }
            if let Some(since) = lane.only_waits() {
                entry.due_since = Some(since);
                entry.lane = None;
            } else if lane.is_idle() {
                entry.lane = None;
            }
        }
        if entry.gate.is_some() {
            self.review_gate(webhook, now);
        }
        if self.entries.get(&webhook).is_some_and(|entry| entry.is_idle() && entry.gate.is_none()) {
            self.entries.remove(&webhook);
        }
    }
}

#[cfg(test)]
impl Scheduler {
    /// The counts are what they count, and within their limits.
    pub(super) fn check(&self, now: Timestamp) {
        let lanes = || self.entries.values().filter_map(|entry| Some((entry.slow, entry.lane.as_deref()?)));
        assert_eq!(self.budget.hints(), lanes().map(|(_, lane)| lane.hints()).sum::<usize>());
        assert!(self.budget.hints() <= self.limits.hints_max);
        assert!(lanes().all(|(_, lane)| lane.hints() <= self.limits.lane_hints_max));
        assert!(lanes().all(|(_, lane)| lane.latest().is_none_or(|due| due <= now + self.limits.horizon)));
        assert_eq!(self.in_flight, lanes().map(|(_, lane)| lane.in_flight()).sum::<usize>());
        let slow: usize = lanes().filter(|(slow, _)| *slow).map(|(_, lane)| lane.in_flight()).sum();
        assert_eq!(self.slow_in_flight, slow);
        assert!(self.entries.values().all(|entry| entry.lane.is_none() || entry.due_since.is_none()));
        assert!(lanes().all(|(_, lane)| lane.only_waits().is_none()), "a lane for nothing");
        assert_eq!(self.alarms.len(), lanes().filter(|(_, lane)| lane.alarm.is_some()).count());
        let forgotten = self.entries.values().filter_map(|entry| entry.gate.as_deref()?.forget_at);
        assert_eq!(self.idle_gates.len(), forgotten.count());
        assert!(self.idle_gates.len() <= self.limits.idle_gates_max);
        assert_eq!(self.sleepers.len(), self.entries.values().filter(|entry| entry.next_due.is_some()).count());
    }

    /// Those that could be launched at once, given a permit; slow ones not among them.
    pub(super) fn waiting(&self, now: Timestamp) -> Waiting {
        let lanes = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.slow)
            .filter_map(|(webhook, entry)| Some((webhook, entry.lane.as_deref()?)));
        let ceiling = self.limits.webhook_in_flight_max;
        let ready = lanes.filter(|(webhook, _)| self.entries[*webhook].is_ready(now, ceiling));
        ready.map(|(webhook, lane)| (*webhook, lane.tenant().clone())).collect()
    }

    /// Nobody who may have more waits to be read.
    pub(super) fn check_shares(&self) {
        let idle = self.refills_running < self.limits.refills_max;
        for (tenant, webhook) in self.refills.fronts().filter(|_| idle) {
            assert!(!self.may_grow(tenant, webhook), "{tenant:?} is kept waiting: {self:?}");
        }
    }

    /// Nothing is remembered when there is nothing to do.
    pub(super) fn check_empty(&self) {
        assert!(
            self.entries.is_empty() && self.alarms.is_empty() && self.sleepers.is_empty() && self.idle_gates.is_empty(),
            "{self:?}"
        );
        assert!(self.ready.front().is_none() && self.parked.front().is_none() && self.refills.front().is_none());
        assert_eq!((self.in_flight, self.slow_in_flight, self.budget.hints()), (0, 0, 0));
    }
}
