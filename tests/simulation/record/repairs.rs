//! What is cancelled and retried by hand.

use postrider_server::{
    model::{delivery::DeliveryState, ids::DeliveryKey, time::Timestamp},
    store::{Hint, Repair, Repaired},
};
use rand::{RngExt as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{Course, Record, shown};

/// Most deliveries that are cancelled by name at once.
const NAMED_MAX: usize = 4;

impl Record {
    /// Something that somebody may want done, noted as asked for. `None`: there is nothing.
    pub(crate) fn ask_repair(&mut self, now: Timestamp, rng: &mut StdRng) -> Option<Repair> {
        let lives = |key: &DeliveryKey| self.hooks[self.hook_of[&key.webhook]].delete_requested.is_none();
        let repair = match rng.random_range(0..10) {
            0..5 => {
                let key = *self.courses.keys().filter(|key| lives(key)).choose(rng)?;
                let course = self.courses.get_mut(&key).expect("just found");
                course.retries += 1;
                course.wanted = course.state.is_final();
                Repair::Retry { key, time: now }
            }
            5..9 => {
                let keys = self.open.iter().filter(|key| lives(key)).copied();
                Repair::Cancel { keys: keys.sample(rng, NAMED_MAX), time: now }
            }
            _ => {
                Repair::CancelAll { webhook: self.open.iter().filter(|key| lives(key)).choose(rng)?.webhook, time: now }
            }
        };
        self.note(now, format_args!("{repair:?}"));
        Some(repair)
    }

    /// What was asked for is answered. What was cancelled by then is never attempted again, and what is retried is due.
    pub(crate) fn repaired(&mut self, now: Timestamp, repair: &Repair, answer: &Repaired) {
        self.note(now, format_args!("{repair:?} is answered {answer:?}"));
        let is_named = |key: &DeliveryKey| match repair {
            Repair::Retry { .. } => false,
            Repair::Cancel { keys, .. } => keys.contains(key),
            Repair::CancelAll { webhook, .. } => key.webhook == *webhook,
        };
        if let Repair::Retry { key, .. } = repair {
            let course = self.courses.get_mut(key).expect("it was asked for");
            if *answer != Repaired::Retried {
                course.retries -= 1;
            } else if course.wanted {
                self.violate(now, format_args!("{} is retried, as was answered, and is not due", shown(key)));
            }
        }
        for (_, course) in self.courses.iter_mut().filter(|(key, _)| is_named(key)) {
            if course.state == DeliveryState::Cancelled {
                course.cancelled.get_or_insert(now);
            }
        }
    }

    /// A delivery is cancelled, durably; also one that was on its way to its webhook, which nobody knew of.
    pub(super) fn cancelled(&mut self, now: Timestamp, key: DeliveryKey) {
        self.note(now, format_args!("{} is cancelled", shown(&key)));
        self.open.remove(&key);
        self.flying.remove(&key);
        let course = self.courses.entry(key).or_insert_with(|| Course::new(now, now));
        (course.state, course.parked) = (DeliveryState::Cancelled, false);
    }

    /// What is due was there before, and somebody wanted it at once.
    pub(super) fn came_back(&mut self, now: Timestamp, key: DeliveryKey, hint: &Hint) -> bool {
        let Some(course) = self.courses.get_mut(&key).filter(|course| course.retries > 0 && !course.parked) else {
            return false;
        };
        let (state, attempts, due) = (course.state, course.attempts, course.due);
        if state.is_final() {
            course.excused = Some(attempts);
        }
        course.wanted = false;
        (course.state, course.due, course.known) = (DeliveryState::Pending, hint.due, now);
        (course.cancelled, course.by_hand, course.hurried) = (None, true, true);
        self.open.insert(key);
        let is_right = hint.attempts.ended() == attempts && (state.is_final() || hint.due <= due);
        if !is_right {
            let known = shown(&key);
            self.violate(now, format_args!("{known} with {attempts} attempts, due {due:?}, comes back as {hint:?}"));
        }
        true
    }
}
