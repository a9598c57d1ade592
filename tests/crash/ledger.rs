//! What happened, and what is wrong with it. Pure, so that each violation can be planted and found.

use std::collections::{HashMap, HashSet};

use postrider_proto::v1::{DeliveryState, Outcome};

/// One request at a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) webhook: String,
    pub(crate) event: String,
    pub(crate) attempt: u32,
    /// Which daemon made it: 0 before the first kill.
    pub(crate) epoch: u64,
}

/// One outcome on a watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) webhook: String,
    pub(crate) event: String,
    pub(crate) attempt: u32,
    pub(crate) delivered: bool,
    /// During which daemon's life it was seen, so that it was committed by then.
    pub(crate) epoch: u64,
}

impl Seen {
    pub(crate) fn new(webhook: &str, outcome: &Outcome, epoch: u64) -> Self {
        let delivered = outcome.state() == DeliveryState::Delivered;
        assert!(delivered || outcome.state() == DeliveryState::Pending, "{outcome:?}");
        Self {
            webhook: webhook.to_owned(),
            event: outcome.event_id.clone(),
            attempt: outcome.attempt.try_into().expect("attempts count from 1"),
            delivered,
            epoch,
        }
    }

    fn identity(&self) -> (&str, &str, u32, bool) {
        (&self.webhook, &self.event, self.attempt, self.delivered)
    }
}

/// Everything that was observed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Event ids that were answered `accepted`, and to how many webhooks they go.
    pub(crate) acknowledged: HashMap<String, i32>,
    /// Outcomes as the watcher saw them that resumed after every kill.
    pub(crate) resumed_log: Vec<Seen>,
    /// Outcomes as a watcher sees them that starts from the beginning when all is over.
    pub(crate) full_log: Vec<Seen>,
    /// Requests, in the order of arrival.
    pub(crate) receipts: Vec<Receipt>,
}

impl Ledger {
    /// The size of the evidence, in a line.
    pub(crate) fn summary(&self) -> String {
        let distinct: HashSet<_> = self.receipts.iter().map(|r| (&r.webhook, &r.event, r.attempt)).collect();
        format!(
            "{} events acknowledged, {} outcomes, {} requests, {} of them repeats",
            self.acknowledged.len(),
            self.resumed_log.len(),
            self.receipts.len(),
            self.receipts.len() - distinct.len()
        )
    }

    /// Every broken promise, in words; `webhooks` all get every event.
    pub(crate) fn violations(&self, webhooks: &[&str], in_flight_max: usize) -> Vec<String> {
        let mut violations = Vec::new();
        self.check_losses(webhooks, &mut violations);
        self.check_log(&mut violations);
        self.check_repeats(in_flight_max, &mut violations);
        violations
    }

    fn check_losses(&self, webhooks: &[&str], violations: &mut Vec<String>) {
        let mut deliveries: HashMap<&str, usize> = HashMap::new();
        for seen in self.resumed_log.iter().filter(|seen| seen.delivered) {
            *deliveries.entry(&seen.event).or_default() += 1;
        }
        let arrived: HashSet<_> = self.receipts.iter().map(|r| (r.webhook.as_str(), r.event.as_str())).collect();
        for (event, &fan_out) in &self.acknowledged {
            if usize::try_from(fan_out) != Ok(webhooks.len()) {
                violations.push(format!("{event} was accepted for {fan_out} webhooks"));
            }
            let delivered = deliveries.get(event.as_str()).copied().unwrap_or_default();
            if delivered != webhooks.len() {
                violations.push(format!("{event} was acknowledged, and delivered {delivered} times"));
            }
            for webhook in webhooks.iter().filter(|webhook| !arrived.contains(&(**webhook, event.as_str()))) {
                violations.push(format!("{event} was acknowledged and never arrived at {webhook}"));
            }
        }
    }

    /// Each outcome once, in order, and the same for those who come late.
    fn check_log(&self, violations: &mut Vec<String>) {
        let mut attempts: HashMap<(&str, &str), (u32, bool)> = HashMap::new();
        for seen in &self.resumed_log {
            let (last, ended) = attempts.entry((&seen.webhook, &seen.event)).or_default();
            if *ended || seen.attempt != *last + 1 {
                violations.push(format!("after attempt {last} (delivered: {ended}) the watcher saw {seen:?}"));
            }
            (*last, *ended) = (seen.attempt, seen.delivered);
        }
        let same = self.resumed_log.iter().map(Seen::identity).eq(self.full_log.iter().map(Seen::identity));
        if !same {
            violations.push("the log from the beginning differs from the one that was followed".to_owned());
        }
    }

    /// An attempt arrives twice only if a kill hit it in flight: in different epochs, its outcome not yet committed.
    fn check_repeats(&self, in_flight_max: usize, violations: &mut Vec<String>) {
        let committed: HashMap<_, _> =
            self.resumed_log.iter().map(|s| ((s.webhook.as_str(), s.event.as_str(), s.attempt), s.epoch)).collect();
        let mut last_epochs: HashMap<_, u64> = HashMap::new();
        // By the epoch whose kill hit the attempt: a later daemon may repeat what several kills hit.
        let mut repeats: HashMap<u64, usize> = HashMap::new();
        for receipt in &self.receipts {
            let attempt = (receipt.webhook.as_str(), receipt.event.as_str(), receipt.attempt);
            if let Some(last) = last_epochs.insert(attempt, receipt.epoch) {
                *repeats.entry(last).or_default() += 1;
                if last == receipt.epoch {
                    violations.push(format!("one daemon made the same attempt twice: {receipt:?}"));
                }
            }
            if committed.get(&attempt).is_some_and(|&epoch| receipt.epoch > epoch) {
                violations.push(format!("made although its outcome was committed before: {receipt:?}"));
            }
        }
        for (epoch, count) in repeats {
            if count > in_flight_max {
                violations.push(format!("{count} attempts by the daemon of epoch {epoch} were repeated"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(event: &str, attempt: u32, epoch: u64) -> Receipt {
        Receipt { webhook: "/w".into(), event: event.into(), attempt, epoch }
    }

    fn seen(event: &str, attempt: u32, delivered: bool, epoch: u64) -> Seen {
        Seen { webhook: "/w".into(), event: event.into(), attempt, delivered, epoch }
    }

    /// Two events over one kill: `x` is retried, `y` is in flight at the kill and repeated after it.
    fn history() -> Ledger {
        let log = vec![seen("x", 1, false, 0), seen("x", 2, true, 1), seen("y", 1, true, 1)];
        Ledger {
            acknowledged: [("x".to_owned(), 1), ("y".to_owned(), 1)].into(),
            full_log: log.clone(),
            resumed_log: log,
            receipts: vec![receipt("x", 1, 0), receipt("y", 1, 0), receipt("y", 1, 1), receipt("x", 2, 1)],
        }
    }

    #[test]
    fn a_history_that_keeps_the_promises_passes() {
        assert_eq!(history().violations(&["/w"], 1), Vec::<String>::new());
    }

    #[test]
    fn every_planted_violation_is_found() {
        type Plant = fn(&mut Ledger);
        let plants: [(&str, Plant); 9] = [
            ("and delivered 0 times", |l| _ = l.acknowledged.insert("lost".into(), 1)),
            ("was accepted for 0 webhooks", |l| _ = l.acknowledged.insert("x".into(), 0)),
            ("never arrived at /w", |l| l.receipts.retain(|r| r.event != "y")),
            ("one daemon made the same attempt twice", |l| l.receipts.push(receipt("y", 1, 1))),
            ("its outcome was committed before", |l| l.receipts.push(receipt("x", 1, 1))),
            ("2 attempts by the daemon of epoch 0 were repeated", |l| {
                l.receipts.extend([receipt("x", 3, 0), receipt("x", 3, 1)]);
            }),
            ("the watcher saw", |l| l.resumed_log.push(seen("y", 1, true, 1))),
            ("the watcher saw", |l| l.resumed_log.swap(0, 1)),
            ("differs from the one that was followed", |l| _ = l.full_log.pop()),
        ];
        for (expected, plant) in plants {
            let mut ledger = history();
            plant(&mut ledger);
            let violations = ledger.violations(&["/w"], 1);
            assert!(violations.iter().any(|found| found.contains(expected)), "{expected}: {violations:?}");
        }
    }
}
