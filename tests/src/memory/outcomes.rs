//! What attempts led to.

use postrider_server::{
    model::{
        delivery::{DeliveryState, Outcome},
        ids::WebhookNo,
        operational::{Occurrence, OperationalEvent},
        time::Timestamp,
        webhook::{DisableReason, Switch, Webhook},
    },
    store::{LogEntry, OutcomeGroup},
};

use super::image::{Effects, Image, Move};

impl Image {
    pub(super) fn record_group(&mut self, group: &OutcomeGroup, effects: &mut Effects) {
        for &(no, reason) in &group.disable {
            self.disable(no, reason, group, effects);
        }
        for &(no, failing) in &group.failing {
            match failing.filter(|_| self.webhooks.contains_key(&no)) {
                Some(failing) => drop(self.failing.insert(no, failing)),
                None => drop(self.failing.remove(&no)),
            }
        }
        for event in &group.operational {
            self.append(LogEntry::Operational(event.clone()), effects);
        }
        for outcome in &group.outcomes {
            self.record(outcome, effects);
        }
    }

    fn record(&mut self, outcome: &Outcome, effects: &mut Effects) {
        let key = outcome.key;
        let Some((_, webhook)) = self.webhooks.get(&key.webhook) else { return };
        let held = outcome.state == DeliveryState::Pending && !webhook.is_enabled();
        let lets_go = webhook.settings.ordering.head.lets_go(outcome.state, outcome.attempt);
        let Some(row) = self.deliveries.get_mut(&key) else { return };
        let Some(due) = self.due.get_mut(&key.webhook) else { return };
        if !outcome.follows(row.attempts) || !due.remove(&(row.due, key.event, key.replay)) {
            return;
        }
        row.state = outcome.state;
        row.attempts = outcome.attempt;
        row.update_time = Some(outcome.time);
        row.http_status = outcome.http_status;
        row.error_class = outcome.error_class;
        row.entries.push(self.log.len());
        if let Some(next) = outcome.next_attempt.filter(|_| !outcome.state.is_final()) {
            row.due = next;
            due.scheduled.insert((next, key.event, key.replay));
        } else {
            self.ended(key.webhook, 1, effects);
            self.count_ended(key.webhook, outcome.state, 1, outcome.time);
            self.replayed_moved(key, DeliveryState::Pending, outcome.state, effects);
        }
        if lets_go {
            self.pass_on(key.webhook, (key.event, key.replay), effects);
        }
        let entry = LogEntry::Outcome(Outcome { held, ..outcome.clone() });
        self.append(entry, effects);
        if outcome.state == DeliveryState::Failed {
            let exhausted = Occurrence::DeliveryExhausted {
                delivery: outcome.delivery_id,
                event: outcome.event_id.clone(),
                event_type: outcome.event_type.clone(),
                attempts: outcome.attempt,
            };
            self.report(exhausted, key.webhook, outcome.time, effects);
        }
    }

    /// There is no operator's tenant here: what is reported is in the log alone.
    fn report(&mut self, occurrence: Occurrence, no: WebhookNo, time: Timestamp, effects: &mut Effects) {
        let Some((_, webhook)) = self.webhooks.get(&no) else { return };
        let url = webhook.settings.target.url().as_str().into();
        let event = OperationalEvent { occurrence, tenant: webhook.tenant.clone(), webhook: webhook.id, url, time };
        self.append(LogEntry::Operational(event), effects);
    }

    pub(super) fn report_if_disabled(&mut self, webhook: &Webhook, effects: &mut Effects) {
        if let Switch::Disabled { reason, since } = webhook.switch {
            self.report(Occurrence::WebhookDisabled(reason), webhook.no, since, effects);
        }
    }

    pub(super) fn ended(&mut self, no: WebhookNo, count: u64, effects: &mut Effects) {
        self.pending_total -= count;
        effects.touched.insert(no);
        let Some(pending) = self.pending.get_mut(&no) else { return };
        *pending -= count;
        if *pending == 0 {
            self.pending.remove(&no);
            self.due.remove(&no);
        }
    }

    pub(super) fn append(&mut self, entry: LogEntry, effects: &mut Effects) {
        self.log.push(entry.clone());
        effects.moves.push(Move::Logged(entry));
    }

    fn disable(&mut self, no: WebhookNo, reason: DisableReason, group: &OutcomeGroup, effects: &mut Effects) {
        let Some((_, webhook)) = self.webhooks.get(&no).filter(|(_, webhook)| webhook.is_enabled()) else { return };
        let since = group.outcomes.iter().map(|outcome| outcome.time).max().unwrap_or_default();
        let webhook = webhook.disabled(reason, since);
        self.put(webhook.clone(), effects);
        self.report_if_disabled(&webhook, effects);
    }
}
