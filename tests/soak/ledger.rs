//! What happened, and what is wrong with it, found out as it goes. Pure, so that each violation can be planted and found.
//!
//! Memory is bounded: a delivery takes a few bytes and no text, and an event is forgotten once all that came of it was seen in
//! an earlier *life* of the daemon, because from then on any request and any outcome of it is a violation.

mod delivery;

use std::collections::VecDeque;

use postrider_proto::v1::DeliveryState;

use self::delivery::{Delivery, Last};
use crate::fleet::{self, BUSY_TYPES, HANGING_EVERY, HANGING_TYPE};

/// Violations kept in words; the rest are counted.
const VIOLATIONS_KEPT: usize = 20;
/// An acknowledged event of which something is still missing so much later is stuck. Its retries take some twenty seconds.
const STUCK_AFTER_SECS: u32 = 150;

/// How a life of the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGKILL: attempts in flight may be repeated.
    Killed,
    /// SIGTERM: everything under way came to its end.
    Stopped,
}

/// One request at a receiver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// At which webhook.
    pub(crate) webhook: usize,
    /// `webhook-id`.
    pub(crate) event: &'a str,
    /// `webhook-attempt`.
    pub(crate) attempt: u32,
    /// `webhook-delivery-id`.
    pub(crate) delivery: &'a str,
    /// The body.
    pub(crate) body: &'a [u8],
}

/// One outcome from the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// For which webhook.
    pub(crate) webhook: usize,
    /// Of which event.
    pub(crate) event: &'a str,
    /// Of which attempt.
    pub(crate) attempt: u32,
    /// The delivery's id.
    pub(crate) delivery: &'a str,
    /// Where it stands now.
    pub(crate) state: DeliveryState,
    /// What the receiver answered; 0 if nothing.
    pub(crate) status: u16,
}

/// How much happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Events sent.
    pub(crate) sent: u64,
    /// Deliveries they should lead to.
    pub(crate) due: u64,
    /// Events acknowledged.
    pub(crate) acknowledged: u64,
    /// Requests at receivers.
    pub(crate) requests: u64,
    /// Requests for an attempt that had arrived before.
    pub(crate) repeats: u64,
    /// Outcomes followed.
    pub(crate) outcomes: u64,
    /// Those of attempts that receivers who always answer did not answer in time.
    pub(crate) silent: u64,
    /// Deliveries of which at least one outcome was followed.
    pub(crate) begun: u64,
    /// Deliveries delivered.
    pub(crate) delivered: u64,
    /// Deliveries given up by the policy.
    pub(crate) failed: u64,
}

/// One event, from when it is first sent until it is forgotten.
#[derive(Debug)]
struct Row {
    event_type: u8,
    /// Reported as lost or stuck, so not waited for any more.
    written_off: bool,
    /// When it was acknowledged, in seconds since the beginning.
    acknowledged: Option<u32>,
    deliveries: Box<[Delivery]>,
}

/// The oracle.
#[derive(Debug)]
pub(crate) struct Ledger {
    in_flight_max: u32,
    /// The present life of the daemon, from 1.
    life: u16,
    endings: Vec<Ending>,
    /// By life: attempts of it that were made again later.
    repeats: Vec<u32>,
    /// The number of the first row; all below are forgotten.
    base: u64,
    rows: VecDeque<Row>,
    /// When the next event for the webhook that hangs is due, in seconds.
    hanging_due: u64,
    /// How much happened.
    pub(crate) counts: Counts,
    violations: Vec<String>,
    violations_count: u64,
}

impl Ledger {
    /// Begins the daemon's first life. `in_flight_max`: how many attempts one kill may have to repeat.
    pub(crate) fn new(in_flight_max: u32) -> Self {
        Self {
            in_flight_max,
            life: 1,
            endings: Vec::new(),
            repeats: vec![0],
            base: 0,
            rows: VecDeque::new(),
            hanging_due: 0,
            counts: Counts::default(),
            violations: Vec::new(),
            violations_count: 0,
        }
    }

    /// The next event: its number and its type.
    pub(crate) fn next_event(&mut self, now_secs: u32) -> (u64, usize) {
        let number = self.base + self.rows.len() as u64;
        let mut event_type = usize::try_from(number % BUSY_TYPES as u64).expect("few types");
        if u64::from(now_secs) >= self.hanging_due {
            self.hanging_due = u64::from(now_secs) + HANGING_EVERY.as_secs();
            event_type = HANGING_TYPE;
        }
        self.counts.sent += 1;
        self.counts.due += fleet::fan_out(event_type) as u64;
        self.rows.push_back(Row {
            event_type: u8::try_from(event_type).expect("few types"),
            written_off: false,
            acknowledged: None,
            deliveries: vec![Delivery::default(); fleet::fan_out(event_type)].into(),
        });
        (number, event_type)
    }

    /// The type of an event that is not answered yet.
    pub(crate) fn type_of(&self, number: u64) -> usize {
        let row = number.checked_sub(self.base).and_then(|index| self.rows.get(usize::try_from(index).ok()?));
        row.expect("events are kept until they are acknowledged").event_type.into()
    }

    /// Deliveries of events that were sent of which nothing was heard yet.
    pub(crate) fn untried(&self) -> u64 {
        self.counts.due - self.counts.begun
    }

    /// An event was acknowledged. `resent`: it had been sent to an earlier life already.
    pub(crate) fn acknowledged(&mut self, number: u64, deliveries: i32, duplicate: bool, resent: bool, now_secs: u32) {
        let event_type = self.type_of(number);
        let expected = fleet::fan_out(event_type);
        if usize::try_from(deliveries) != Ok(expected) {
            self.violation(format!("event {number} was accepted for {deliveries} webhooks, not for {expected}"));
        }
        if duplicate && !resent {
            self.violation(format!("event {number} was sent once, and said to have been published before"));
        }
        let index = usize::try_from(number - self.base).expect("it has a row");
        if self.rows[index].acknowledged.replace(now_secs).is_some() {
            self.violation(format!("event {number} was acknowledged twice"));
        } else {
            self.counts.acknowledged += 1;
        }
    }

    /// The daemon did not end as it should.
    pub(crate) fn ended_badly(&mut self, how: &str) {
        self.violation(format!("the daemon ended with {how}"));
    }

    /// An event was refused for good.
    pub(crate) fn rejected(&mut self, number: u64, why: &str) {
        self.violation(format!("event {number} was rejected: {why}"));
    }

    /// A reply came that answers nothing, or not what was asked first.
    pub(crate) fn stray_reply(&mut self, event: &str) {
        self.violation(format!("a reply about {event} came out of turn"));
    }

    /// A request arrived.
    pub(crate) fn arrived(&mut self, request: &Request<'_>) {
        self.counts.requests += 1;
        let Request { webhook, attempt, .. } = *request;
        let what = || format!("attempt {attempt} of {} at webhook {webhook}", request.event);
        if fleet::number(request.event).is_none_or(|number| request.body != fleet::body(number)) {
            return self.violation(format!("{} arrived with a body that is not the event's", what()));
        }
        let life = self.life;
        let delivery = match self.delivery(webhook, request.event) {
            Ok(delivery) => delivery,
            Err(problem) => return self.violation(format!("{} arrived: {problem}", what())),
        };
        match delivery.arrived(attempt, life, request.delivery) {
            Ok(None) => {}
            Ok(Some(earlier)) => {
                self.counts.repeats += 1;
                self.repeats[usize::from(earlier) - 1] += 1;
                if self.endings[usize::from(earlier) - 1] == Ending::Stopped {
                    self.violation(format!("{} was repeated, although the daemon was stopped in order", what()));
                }
            }
            Err(problem) => self.violation(format!("{} arrived: {problem}", what())),
        }
    }

    /// An outcome was read from the log.
    pub(crate) fn outcome(&mut self, seen: &Seen<'_>) {
        self.counts.outcomes += 1;
        let Seen { webhook, attempt, state, .. } = *seen;
        let what = || {
            format!(
                "the outcome {state:?} (status {}) of attempt {attempt} of {} for webhook {webhook}",
                seen.status, seen.event
            )
        };
        let life = self.life;
        let delivery = match self.delivery(webhook, seen.event) {
            Ok(delivery) => delivery,
            Err(problem) => return self.violation(format!("the watcher saw {}: {problem}", what())),
        };
        let begins = !delivery.has_begun();
        let number = fleet::number(seen.event).expect("it has a row");
        let answer = fleet::status(webhook, number, attempt);
        let told = delivery.outcome(seen, life, answer);
        match told {
            Ok(last) => {
                self.counts.silent += u64::from(seen.status == 0 && answer.is_some());
                self.counts.begun += u64::from(begins);
                self.counts.delivered += u64::from(last == Last::Delivered);
                self.counts.failed += u64::from(last == Last::Failed);
                if last == Last::Failed && fleet::status(webhook, number, fleet::ATTEMPTS_MAX) == Some(200) {
                    self.violation(format!("{} was given up, although its receiver answers", what()));
                }
            }
            Err(problem) => self.violation(format!("the watcher saw {}: {problem}", what())),
        }
    }

    /// The watcher was told what cannot be.
    pub(crate) fn watch_broke(&mut self, why: &str) {
        self.violation(format!("the watcher could not go on: {why}"));
    }

    /// The daemon is gone, and everything it sent and said has been told.
    pub(crate) fn end_life(&mut self, ending: Ending) {
        self.endings.push(ending);
        self.repeats.push(0);
        self.life = self.life.checked_add(1).expect("a few restarts a minute");
        self.forget();
    }

    /// Reports what is stuck, and forgets what is over.
    pub(crate) fn tidy(&mut self, now_secs: u32) {
        self.write_off(|acknowledged| now_secs.saturating_sub(acknowledged) > STUCK_AFTER_SECS, "is stuck");
        self.forget();
    }

    /// All is over: what is not finished now never will be.
    pub(crate) fn finish(&mut self) {
        let unanswered = self.rows.iter().filter(|row| row.acknowledged.is_none()).count();
        if unanswered > 0 {
            self.violation(format!("{unanswered} events were never acknowledged"));
        }
        self.write_off(|_| true, "is lost");
        for life in 0..self.repeats.len() {
            let (count, max) = (self.repeats[life], self.in_flight_max);
            if count > max {
                let life = life + 1;
                self.violation(format!("{count} attempts of life {life} were repeated, and {max} can be in flight"));
            }
        }
    }

    /// Whether every event is acknowledged and every delivery has come to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.acknowledged.is_some() && (row.written_off || row.is_finished()))
    }

    /// How many deliveries have not come to their end.
    pub(crate) fn unfinished(&self) -> usize {
        self.rows.iter().flat_map(|row| &row.deliveries).filter(|delivery| !delivery.has_ended()).count()
    }

    /// Most attempts that one kill made to be repeated.
    pub(crate) fn repeats_max(&self) -> u32 {
        self.repeats.iter().copied().max().unwrap_or_default()
    }

    /// How the lives before this one ended.
    pub(crate) fn endings(&self) -> &[Ending] {
        &self.endings
    }

    /// Broken promises: how many, and the first of them in words.
    pub(crate) fn violations(&self) -> (u64, &[String]) {
        (self.violations_count, &self.violations)
    }

    fn violation(&mut self, violation: String) {
        self.violations_count += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            eprintln!("VIOLATION: {violation}");
            self.violations.push(violation);
        }
    }

    fn delivery(&mut self, webhook: usize, event: &str) -> Result<&mut Delivery, &'static str> {
        let number = fleet::number(event).ok_or("nobody published that")?;
        let index = number.checked_sub(self.base).ok_or("all of it had ended in an earlier life of the daemon")?;
        let row =
            usize::try_from(index).ok().and_then(|index| self.rows.get_mut(index)).ok_or("nobody published that")?;
        if fleet::event_type(webhook) != usize::from(row.event_type) {
            return Err("that webhook did not ask for it");
        }
        Ok(&mut row.deliveries[fleet::place(webhook)])
    }

    /// Reports every unfinished delivery of events that were acknowledged then.
    fn write_off(&mut self, long_ago: impl Fn(u32) -> bool, what: &str) {
        let mut missing = Vec::new();
        for (row, number) in self.rows.iter_mut().zip(self.base..) {
            let due = row.acknowledged.is_some_and(&long_ago);
            if !due || row.written_off || row.is_finished() {
                continue;
            }
            row.written_off = true;
            let unfinished = row.deliveries.iter().enumerate().filter(|(_, delivery)| !delivery.has_ended());
            missing.extend(unfinished.map(|(place, delivery)| {
                let webhook = fleet::webhook(row.event_type.into(), place);
                format!("event {number} was acknowledged, and for webhook {webhook} it {what} {delivery}")
            }));
        }
        for violation in missing {
            self.violation(violation);
        }
    }

    fn forget(&mut self) {
        while self.rows.front().is_some_and(|row| row.is_over(self.life)) {
            self.rows.pop_front();
            self.base += 1;
        }
    }
}

impl Row {
    fn is_finished(&self) -> bool {
        self.deliveries.iter().all(Delivery::has_ended)
    }

    fn is_over(&self, life: u16) -> bool {
        let over = self.written_off || self.deliveries.iter().all(|delivery| delivery.has_ended_before(life));
        self.acknowledged.is_some() && over
    }
}

#[cfg(test)]
mod tests;
