//! One webhook's lane: a window of hints, and what is known about the rest on disk.
//!
//! Three rules keep the hints honest:
//!
//! - (a) The mark *more on disk since commit c* clears only on a short read whose snapshot is at least `c`.
//! - (b) A delivery stays *taken* from launch until its outcome is committed **and** no refill with an older snapshot is under
//!   way. After the outcome and until that refill has ended it is a *ghost*: pages older than the outcome cannot bring it back.
//! - (c) Only what is due within the horizon enters the window (the scheduler sees to that); in a full window an earlier
//!   delivery evicts the latest, which sets the mark.
//!
//! Deliberately absent: permits, other lanes, time to come, reading. The scheduler has those.

use super::{
    budget::{Budget, Part},
    sorted::SortedMap,
};
use crate::{
    model::{
        delivery::Attempts,
        ids::{EventSeq, Tenant, WebhookNo},
        protection::Pace,
        time::Timestamp,
    },
    store::{AsOf, DuePage, Hint},
};

/// A delivery, within its lane: event and replay.
pub(super) type DeliveryInLane = (EventSeq, u32);

/// A place in the order of a window, which is the order of [`crate::store::Store::due`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    due: Timestamp,
    event: EventSeq,
    replay: u32,
}

impl Slot {
    fn of(hint: &Hint) -> Self {
        Self { due: hint.due, event: hint.event, replay: hint.replay }
    }

    fn delivery(self) -> DeliveryInLane {
        (self.event, self.replay)
    }
}

/// Where a delivery that a lane knows of is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the window, due then.
    Window(Timestamp),
    /// Launched, and not answered.
    InFlight,
    /// Answered, and its outcome not committed.
    Answered,
    /// Its event could not be read; left alone for a while.
    Aside,
}

/// Where a lane's reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refill {
    Idle,
    /// Waits for its turn to read.
    Queued,
    /// Under way. A `void` page will not be used: too much has happened meanwhile.
    Running {
        void: bool,
    },
}

/// Where a lane waits for permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// Nowhere.
    No,
    /// Among the ready ones.
    Ready,
    /// Among the slow ones, whose share of the permits is used up.
    Parked,
}

/// A webhook with something in memory.
#[derive(Debug)]
pub(super) struct Lane {
    /// Whose it is, and the room it takes.
    part: Part,
    /// Where it waits for permits.
    pub(super) listed: Listed,
    /// When the scheduler is to look at it again, as registered there.
    pub(super) alarm: Option<Timestamp>,
    /// What attempts keep to, as far as is known: a launch looks it up again.
    pub(super) pace: Pace,
    /// With the attempts that have ended.
    window: SortedMap<Slot, Attempts>,
    known: SortedMap<DeliveryInLane, Place>,
    ghosts: SortedMap<DeliveryInLane, AsOf>,
    /// Reads from this one on see deliveries, due within the horizon, that are not `known`.
    mark: Option<AsOf>,
    /// Retried by hand while an attempt was under way, or maybe cancelled, as reads from this one on see: news may come before
    /// those of an outcome that was committed earlier, and the outcome of what was cancelled is left out.
    recalled: SortedMap<DeliveryInLane, AsOf>,
    refill: Refill,
    in_flight: usize,
    /// As many of these are answered.
    answered: usize,
    /// Nothing is launched or read before.
    paused_until: Option<Timestamp>,
    /// What is aside is tried again then.
    aside_until: Option<Timestamp>,
}

impl Lane {
    /// A lane with nothing in it.
    pub(super) fn new(tenant: Tenant, webhook: WebhookNo) -> Self {
        Self {
            part: Part::new(tenant, webhook),
            listed: Listed::No,
            alarm: None,
            pace: Pace::default(),
            window: SortedMap::default(),
            known: SortedMap::default(),
            ghosts: SortedMap::default(),
            mark: None,
            recalled: SortedMap::default(),
            refill: Refill::Idle,
            in_flight: 0,
            answered: 0,
            paused_until: None,
            aside_until: None,
        }
    }

    /// Whose webhook it is.
    pub(super) fn tenant(&self) -> &Tenant {
        self.part.tenant()
    }

    /// Deliveries launched whose outcome is not committed.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Hints in its window.
    #[cfg(test)]
    pub(super) fn hints(&self) -> usize {
        self.window.len()
    }

    /// When the latest in its window is due.
    #[cfg(test)]
    pub(super) fn latest(&self) -> Option<Timestamp> {
        self.window.last().map(|(slot, _)| slot.due)
    }

    /// Whether there is nothing left to know about it.
    pub(super) fn is_idle(&self) -> bool {
        self.known.is_empty()
            && self.mark.is_none()
            && self.refill == Refill::Idle
            && self.listed == Listed::No
            && self.paused_until.is_none()
    }

    /// Reads from this one on see what it waits for, if all it does is wait for its turn to read; that takes no lane.
    pub(super) fn only_waits(&self) -> Option<AsOf> {
        let waits = self.known.is_empty()
            && self.refill == Refill::Queued
            && self.listed == Listed::No
            && self.paused_until.is_none();
        self.mark.filter(|_| waits)
    }

    /// Deliveries launched and not answered.
    pub(super) fn under_way(&self) -> usize {
        self.in_flight - self.answered
    }

    /// Whether a delivery is there to be launched now.
    pub(super) fn has_due(&self, now: Timestamp) -> bool {
        self.paused_until.is_none() && self.window.first().is_some_and(|(slot, _)| slot.due <= now)
    }

    /// Whether there is anything in its window.
    pub(super) fn has_hints(&self) -> bool {
        !self.window.is_empty()
    }

    /// Leaves what is not in flight to the disk, since nothing is launched for long. Returns from when on reads see it; `None`:
    /// there is nothing.
    pub(super) fn suspend(&mut self, seen: AsOf, budget: &mut Budget) -> Option<AsOf> {
        if self.has_hints() {
            self.window.clear();
            budget.resize(&mut self.part, 0);
            self.known.retain(|place| !matches!(place, Place::Window(_)));
            self.raise(seen);
        }
        self.mark.take()
    }

    /// When it is to be looked at again though nothing happens.
    pub(super) fn next_alarm(&self, now: Timestamp) -> Option<Timestamp> {
        let pause = [self.paused_until, self.aside_until].into_iter().flatten().min();
        let future = self.window.first().map(|(slot, _)| slot.due).filter(|due| *due > now);
        match (pause, future) {
            (Some(pause), Some(future)) if self.paused_until.is_none() => Some(pause.min(future)),
            (Some(pause), _) => Some(pause),
            (None, future) => future,
        }
    }

    /// Ends pauses that have passed.
    pub(super) fn wake(&mut self, now: Timestamp, seen: AsOf) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        if self.aside_until.is_some_and(|until| until <= now) {
            self.aside_until = None;
            self.known.retain(|place| *place != Place::Aside);
            self.raise(seen);
        }
    }

    /// Sets the mark: reads from `since` on see deliveries that are not in memory.
    pub(super) fn raise(&mut self, since: AsOf) {
        self.mark = self.mark.max(Some(since));
    }

    /// Takes note of a delivery, due within the horizon, that reads from `as_of` on see.
    pub(super) fn admit(&mut self, hint: &Hint, as_of: AsOf, budget: &mut Budget) {
        let slot = Slot::of(hint);
        match self.known.get(&slot.delivery()) {
            Some(Place::Window(due)) if slot.due < *due => {
                let stale = Slot { due: *due, ..slot };
                self.forget(stale, budget);
            }
            Some(Place::InFlight | Place::Answered) => {
                self.recalled.insert(slot.delivery(), as_of);
                return;
            }
            Some(Place::Window(_) | Place::Aside) => return,
            None => {}
        }
        if !self.is_open() {
            return self.raise(as_of);
        }
        self.insert(slot, hint.attempts, as_of, budget);
    }

    /// Whether newcomers enter the window. What is on disk and not known may be earlier: it would wait for ever if later ones
    /// kept filling the window.
    fn is_open(&self) -> bool {
        self.mark.is_none() || matches!(self.refill, Refill::Running { .. })
    }

    /// How many of these it would take in if the budget had room.
    pub(super) fn takes(&self, hints: &[Hint], budget: &Budget) -> usize {
        let below_cap = budget.lane_cap(self.tenant()).saturating_sub(self.window.len());
        if below_cap == 0 || !self.is_open() {
            return 0;
        }
        hints.iter().filter(|hint| !self.known.contains(&Slot::of(hint).delivery())).take(below_cap).count()
    }

    /// Takes the earliest delivery out for an attempt. Whether that may be launched is for [`Self::has_due`] and its
    /// gate to say.
    pub(super) fn take(&mut self, budget: &mut Budget) -> Option<Hint> {
        let (slot, attempts) = self.window.pop_first()?;
        budget.resize(&mut self.part, self.window.len());
        self.known.insert(slot.delivery(), Place::InFlight);
        self.in_flight += 1;
        Some(Hint { event: slot.event, replay: slot.replay, attempts, due: slot.due })
    }

    /// The receiver is done with the delivery: another one may be launched.
    pub(super) fn answer(&mut self, delivery: DeliveryInLane) {
        if let Some(place @ Place::InFlight) = self.known.get_mut(&delivery) {
            *place = Place::Answered;
            self.answered += 1;
        }
    }

    /// The delivery's outcome is committed: reads from `as_of` on see it. False: it was not in flight.
    pub(super) fn settle(&mut self, delivery: DeliveryInLane, as_of: AsOf, budget: &Budget) -> bool {
        if !self.land(delivery) {
            return false;
        }
        if let Refill::Running { void } = &mut self.refill {
            self.ghosts.insert(delivery, as_of);
            if self.ghosts.len() > budget.lane_hints_max() {
                // Rather than remember ever more, do without the page.
                *void = true;
                self.ghosts.clear();
            }
        }
        true
    }

    /// The delivery was not attempted and nothing about it changed on disk. False: it was not in flight.
    pub(super) fn put_back(&mut self, delivery: DeliveryInLane, seen: AsOf) -> bool {
        let landed = self.land(delivery);
        if landed {
            self.raise(seen);
        }
        landed
    }

    /// The delivery was not attempted because its event cannot be read; it is left alone until then. False: it was not in
    /// flight.
    pub(super) fn set_aside(&mut self, delivery: DeliveryInLane, until: Timestamp, budget: &Budget) -> bool {
        if !self.land(delivery) {
            return false;
        }
        self.known.insert(delivery, Place::Aside);
        self.aside_until = self.aside_until.or(Some(until));
        if self.known.values().filter(|place| **place == Place::Aside).count() >= budget.lane_hints_max() {
            self.pause(until);
        }
        true
    }

    fn land(&mut self, delivery: DeliveryInLane) -> bool {
        match self.known.get(&delivery) {
            Some(Place::InFlight) => {}
            Some(Place::Answered) => self.answered -= 1,
            Some(Place::Window(_) | Place::Aside) | None => return false,
        }
        self.known.remove(&delivery);
        self.in_flight -= 1;
        if let Some(since) = self.recalled.remove(&delivery) {
            self.raise(since);
        }
        true
    }

    /// Launches and reads nothing before.
    pub(super) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// Whether it should be queued for a read.
    pub(super) fn wants_refill(&self, budget: &Budget) -> bool {
        self.refill == Refill::Idle && self.needs_refill(budget)
    }

    fn needs_refill(&self, budget: &Budget) -> bool {
        self.mark.is_some() && self.paused_until.is_none() && self.window.len() <= budget.lane_cap(self.tenant()) / 4
    }

    /// It is in the queue for a read.
    pub(super) fn queue_refill(&mut self) {
        self.refill = Refill::Queued;
    }

    /// Its turn to read has come. Returns how many deliveries to read, or `None` if it needs none any more.
    ///
    /// The first ones on disk are those known already, so that many more are read: every long read brings something new.
    pub(super) fn begin_refill(&mut self, budget: &Budget) -> Option<usize> {
        if !self.needs_refill(budget) {
            self.refill = Refill::Idle;
            return None;
        }
        self.refill = Refill::Running { void: false };
        Some(self.known.len() + budget.lane_cap(self.tenant()))
    }

    /// The read failed, or its result is of no use.
    pub(super) fn end_refill(&mut self) {
        self.refill = Refill::Idle;
        self.ghosts.clear();
    }

    /// Takes in what was read.
    pub(super) fn absorb(&mut self, page: &DuePage, seen: AsOf, budget: &mut Budget) {
        let void = self.refill == Refill::Running { void: true };
        let ghosts = std::mem::take(&mut self.ghosts);
        self.end_refill();
        if void {
            return;
        }
        if page.more {
            self.raise(page.as_of);
            if let Some(last) = page.hints.last() {
                // What lies beyond came by another way, and earlier ones may be on disk before it.
                self.evict_after(Slot::of(last), seen, budget);
            }
        } else if self.mark.is_some_and(|since| page.as_of >= since) {
            self.mark = None;
        }
        for hint in &page.hints {
            let slot = Slot::of(hint);
            let is_ghost = ghosts.get(&slot.delivery()).is_some_and(|settled| page.as_of < *settled);
            if !is_ghost && !self.known.contains(&slot.delivery()) {
                self.insert(slot, hint.attempts, seen, budget);
            }
        }
    }

    /// Drops all but what is in flight.
    pub(super) fn clear(&mut self, budget: &mut Budget) {
        self.window.clear();
        budget.resize(&mut self.part, 0);
        self.known.retain(|place| matches!(place, Place::InFlight | Place::Answered));
        self.mark = None;
        self.paused_until = None;
        self.aside_until = None;
        // What is being read may be cancelled by now.
        if let Refill::Running { void } = &mut self.refill {
            *void = true;
        }
    }

    /// What is in flight may have been cancelled, as reads from `as_of` on see.
    pub(super) fn recall(&mut self, as_of: AsOf) {
        let flying = self.known.iter().filter(|(_, place)| matches!(place, Place::InFlight | Place::Answered));
        for delivery in flying.map(|(delivery, _)| *delivery) {
            self.recalled.insert(delivery, as_of);
        }
    }

    /// Whether only the disk says what follows from the attempt of a delivery that is in flight.
    pub(super) fn is_recalled(&self, delivery: DeliveryInLane) -> bool {
        self.recalled.contains(&delivery)
    }

    /// Puts a delivery into the window. If that is full the latest one makes room, which may be this one.
    fn insert(&mut self, slot: Slot, attempts: Attempts, seen: AsOf, budget: &mut Budget) {
        if self.window.len() >= budget.lane_cap(self.tenant()) || budget.free() == 0 {
            match self.window.last() {
                Some((last, _)) if slot < *last => self.evict_last(seen, budget),
                Some(_) | None => return self.raise(seen),
            }
        }
        self.window.insert(slot, attempts);
        budget.resize(&mut self.part, self.window.len());
        self.known.insert(slot.delivery(), Place::Window(slot.due));
    }

    fn evict_after(&mut self, slot: Slot, seen: AsOf, budget: &mut Budget) {
        while self.window.last().is_some_and(|(last, _)| *last > slot) {
            self.evict_last(seen, budget);
        }
    }

    /// Drops the latest of the window, which sets the mark.
    pub(super) fn evict_last(&mut self, seen: AsOf, budget: &mut Budget) {
        let Some(&(last, _)) = self.window.last() else { return };
        self.forget(last, budget);
        self.raise(seen);
    }

    fn forget(&mut self, slot: Slot, budget: &mut Budget) {
        self.window.remove(&slot);
        budget.resize(&mut self.part, self.window.len());
        self.known.remove(&slot.delivery());
    }
}
