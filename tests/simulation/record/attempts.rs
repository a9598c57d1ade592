//! What receivers see: which attempts are made, and whether each was allowed to begin.

use std::time::Duration;

use postrider_server::{
    flow::Job,
    model::{
        delivery::{AttemptResult, DeliveryState},
        ids::DeliveryKey,
        time::Timestamp,
    },
};

use super::{Course, Record, check, index_of, least_pause, shown};
use crate::receivers::{Manner, Reaction};

/// A delivery to a healthy receiver starts this soon after it is due, its lane's last one has started, and the last trouble is
/// over. Shorter than the pause between surveys, which would make good what a lost wake-up left behind.
const HEALTHY_START_MAX: Duration = Duration::from_secs(20);

/// An attempt of what was cancelled may still be made if it was about to start: read, but not sent, by a slow machine.
const ABOUT_TO_START_MAX: Duration = Duration::from_secs(3);

impl Record {
    /// A request reaches a receiver. Returns what that will do; `None`: it should never have come.
    pub(crate) fn attempt_started(&mut self, now: Timestamp, job: &Job) -> Option<Reaction> {
        let index = index_of(&job.webhook);
        let (key, attempt) = (job.key, job.attempt);
        self.note(now, format_args!("hook {index} gets {}, {} attempt {attempt}", job.event.event.id, shown(&key)));
        if let Err(why) = self.judge_start(now, index, job) {
            self.violate(now, format_args!("attempt {attempt} of {} at hook {index}: {why}", shown(&key)));
            return None;
        }
        if self.keeps_order(index, job) {
            let reached = (key.webhook, job.event.event.ordering_key.clone());
            let last = self.reached.entry(reached).or_insert(key.event);
            *last = key.event.max(*last);
        }
        let hook = &mut self.hooks[index];
        hook.busy += 1;
        hook.last_start = now;
        let manner = if self.healed { Manner::Healthy } else { hook.manner };
        let reaction = manner.react(&mut hook.rng);
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
        let shown = Duration::from_millis(self.plan.weather.show_ms);
        let waiting_since = [course.due, course.known, hook.last_start, self.last_trouble, self.life_began];
        let idle = now.since(waiting_since.into_iter().max().unwrap_or_default());
        check(known.contents.contains(&event.content_hash()), "the content is not what was published")?;
        check(hook.wants(event), "the webhook does not want the event")?;
        check(job.body_permit.is_some(), "its body has no permit")?;
        check(job.delivery_id == self.sealer.delivery_id(job.key), "the delivery id is another one")?;
        check(course.delivery_id.is_none_or(|id| id == job.delivery_id), "the delivery id has changed")?;
        check(hook.deleted.is_none_or(|(_, deleted)| now <= deleted), "the webhook is deleted, and that was answered")?;
        check(hook.disabled.is_none_or(|disabled| now <= disabled + shown), "the webhook is disabled")?;
        check(!self.flying.contains(&job.key), "it is under way already")?;
        // Until its deletion is answered, a webhook may be called.
        check(!course.state.is_final() || course.state == DeliveryState::Cancelled, "the delivery is over")?;
        let about_to_start = course.cancelled.is_none_or(|answered| now <= answered + ABOUT_TO_START_MAX);
        check(about_to_start, "it was cancelled, and that was answered")?;
        check(job.attempt == course.attempts + 1, "an attempt is left out or repeated")?;
        check(now >= course.due, "it is not due")?;
        let is_time = course.by_hand || event.deliver_at.is_none_or(|deliver_at| now >= deliver_at);
        check(is_time, "its event is to be sent later")?;
        check(self.rested(now, course), "it is too soon after the attempt before")?;
        check(!course.parked, "it is not its turn")?;
        self.judge_order(index, job)?;
        check(hook.busy < limits.webhook_in_flight_max, "too many attempts at one webhook")?;
        check(self.flying.len() < limits.in_flight_max, "too many attempts")?;
        if hook.manner == Manner::Healthy && idle > HEALTHY_START_MAX {
            return Err(format!("a healthy receiver waited {idle:?}"));
        }
        Ok(())
    }

    /// What is sent again has its place in the order, too, but begins anew. Who is brought back by hand has none.
    fn keeps_order(&self, index: usize, job: &Job) -> bool {
        job.key.replay == 0
            && self.courses.get(&job.key).is_none_or(|course| course.excused.is_none())
            && self.hooks[index].spec.settings.ordering.ordered
            && !job.event.event.ordering_key.is_empty()
    }

    /// An ordered webhook is called for an event only when it is done with the one of the same key before, which must be older.
    fn judge_order(&self, index: usize, job: &Job) -> Result<(), String> {
        if !self.keeps_order(index, job) {
            return Ok(());
        }
        let rule = self.hooks[index].spec.settings.ordering.head;
        // Who is brought back by hand takes no place in the order.
        let is_let_go = |event| {
            let course = self.courses.get(&DeliveryKey { event, ..job.key });
            course.is_none_or(|course| course.excused.is_some() || rule.lets_go(course.state, course.attempts))
        };
        let event = job.key.event;
        match self.reached.get(&(job.key.webhook, job.event.event.ordering_key.clone())) {
            Some(last) if *last < event => check(is_let_go(*last), "it overtakes another one of its ordering key"),
            Some(last) if *last > event => check(is_let_go(event), "another one of its ordering key overtook it"),
            Some(_) | None => Ok(()),
        }
    }

    /// By the receiver's own clock: the pause after the attempt before is as long as the policy and the receiver want it.
    fn rested(&self, now: Timestamp, course: &Course) -> bool {
        if course.hurried {
            return true;
        }
        let before = course.results.iter().filter(|(attempt, _)| *attempt == course.attempts);
        let earliest = before.map(|(attempt, result)| {
            result.time + least_pause(&self.plan.outcomes.retry, course.counted(*attempt), result)
        });
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
}
