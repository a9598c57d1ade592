//! What becomes durable: the store's word, and whether it follows from what happened.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::{AttemptResult, Attempts, DeliveryState, Outcome},
        ids::{DeliveryKey, WebhookNo},
        time::Timestamp,
    },
    store::{ConfigStep, Hint, LogEntry},
};
use postrider_tests::memory::{Effects, Move};

use super::{Course, Record, check, index_of, least_pause, shown};

impl Record {
    /// A commit is durable.
    pub(crate) fn committed(&mut self, now: Timestamp, effects: &Effects) {
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
        for step in &effects.moves {
            match step {
                Move::Due(webhook, hint) => self.became_due(now, *webhook, hint),
                Move::Parked(key) => self.parked(now, *key),
                Move::Cancelled(key) => self.cancelled(now, *key),
                Move::Logged(LogEntry::Outcome(outcome)) => self.recorded(now, outcome),
                Move::Logged(entry @ (LogEntry::WebhookCancelled(_) | LogEntry::Operational(_))) => {
                    self.log.push(entry.clone());
                }
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
        if self.came_back(now, key, hint) {
            return;
        }
        self.open.insert(key);
        let mut course = Course::new(now, hint.due);
        let before = self.courses.get(&key);
        // It may have been asked for while it waited.
        course.retries = before.map_or(0, |before| before.retries);
        let is_known = before.is_some_and(|before| !before.parked);
        self.courses.insert(key, course);
        if is_known {
            self.violate(now, format_args!("{} is made due twice", shown(&key)));
        }
    }

    fn parked(&mut self, now: Timestamp, key: DeliveryKey) {
        let DeliveryKey { webhook, event, replay } = key;
        self.became_due(now, webhook, &Hint { event, replay, attempts: Attempts::default(), due: now });
        self.note(now, format_args!("{} is parked", shown(&key)));
        self.courses.get_mut(&key).expect("just made").parked = true;
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
        course.hurried = false;
        self.flying.remove(&key);
        if state.is_final() {
            self.open.remove(&key);
        }
        self.log.push(LogEntry::Outcome(outcome.clone().without_exchange()));
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
        // Since it was last retried by hand.
        let counted = course.counted(*attempt);
        let last = counted as usize > retry.schedule.len();
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
            let longest = retry.schedule[counted as usize - 1].mul_f64(1.0 + retry.jitter).max(asked);
            check(pause >= least_pause(retry, counted, result), "the next attempt is too soon")?;
            check(pause <= longest + Duration::from_millis(1), "the next attempt is too late")?;
        }
        Ok(())
    }
}
