//! The part of the scheduler that is about gates: they arise, let nothing pass for a while, and are forgotten.

use super::{Entry, Scheduler};
use crate::{
    dispatch::{
        gate::{self, Gate},
        orders::{Enabled, Webhooks},
    },
    flow::{GateView, Settled},
    model::{breaker::Change, ids::WebhookNo, time::Timestamp},
};

impl Scheduler {
    /// What there is to see of gates that have changed since it was asked last; of each, the last is what holds.
    pub(in crate::dispatch) fn take_gate_changes(&mut self) -> Vec<(WebhookNo, Option<GateView>)> {
        std::mem::take(&mut self.gate_changes)
    }

    /// Breakers that opened or closed since it was asked last, and when.
    pub(in crate::dispatch) fn take_trips(&mut self) -> Vec<(WebhookNo, Change, Timestamp)> {
        std::mem::take(&mut self.trips)
    }

    /// What an outcome means for the webhook's gate. A webhook that was disabled meanwhile gets none.
    pub(super) fn judge(&mut self, settled: &Settled, now: Timestamp, webhooks: &impl Webhooks) {
        let webhook = settled.key.webhook;
        let Some(entry) = self.entries.get(&webhook) else { return };
        let arises = Gate::is_left_by(settled) && webhooks.if_enabled(webhook).is_some();
        if entry.gate.is_some() || arises {
            let wanted = entry.lane.as_deref().and_then(|lane| lane.pace.max_in_flight);
            let cap = gate::cap(self.limits.webhook_in_flight_max, wanted);
            let change = self.pass(webhook, |gate| gate.settle(settled, cap, now)).flatten();
            self.trips.extend(change.map(|change| (webhook, change, now)));
        }
    }

    /// Something happens at a webhook's gate, which is made if there is none.
    pub(super) fn pass<T>(&mut self, webhook: WebhookNo, what: impl FnOnce(&mut Gate) -> T) -> Option<T> {
        let gate = self.entries.get_mut(&webhook)?.gate.get_or_insert_default();
        let before = gate.view();
        let result = what(gate);
        let view = gate.view();
        if view != before {
            self.gate_changes.push((webhook, view));
        }
        Some(result)
    }

    /// A webhook's settings may have changed.
    pub(super) fn adapt(&mut self, webhook: WebhookNo, enabled: &Enabled, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&webhook) else { return };
        if let Some(lane) = entry.lane.as_deref_mut() {
            lane.pace = enabled.pace;
        }
        if entry.gate.is_some() {
            self.pass(webhook, |gate| gate.relent(now));
        }
    }

    /// Until when nothing is launched for a webhook, if that is longer than its window looks ahead.
    pub(super) fn shut_for_long(&self, webhook: WebhookNo, now: Timestamp) -> Option<Timestamp> {
        let until = self.entries.get(&webhook)?.shut_until(now)?;
        (until > now + self.limits.horizon).then_some(until)
    }

    /// Leaves what waits behind a gate that is shut for long to the disk, and comes back when it opens.
    pub(super) fn suspend(&mut self, webhook: WebhookNo, now: Timestamp) {
        let Some(until) = self.shut_for_long(webhook, now) else { return };
        let seen = self.seen;
        let since = self.lane(webhook).and_then(|(lane, budget)| lane.suspend(seen, budget));
        if let Some(since) = since {
            self.expect(webhook, until, since);
        }
    }

    /// Forgets a gate that is as good as new, or of a webhook that has had nothing pending for long.
    pub(super) fn review_gate(&mut self, webhook: WebhookNo, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&webhook) else { return };
        let idle = entry.is_idle();
        let Some(gate) = entry.gate.as_deref_mut() else { return };
        let useful_until = gate.useful_until(now + self.limits.gate_kept, now);
        let forget_at = useful_until.filter(|_| idle);
        if forget_at != gate.forget_at {
            gate.forget_at.map(|at| self.idle_gates.remove(&(at, webhook)));
            forget_at.map(|at| self.idle_gates.insert((at, webhook)));
            gate.forget_at = forget_at;
        }
        if useful_until.is_none() {
            self.drop_gate(webhook);
        }
        if self.idle_gates.len() > self.limits.idle_gates_max
            && let Some(&(at, first)) = self.idle_gates.first()
        {
            self.forget_idle_gate(at, first);
        }
    }

    pub(super) fn forget_idle_gate(&mut self, at: Timestamp, webhook: WebhookNo) {
        self.idle_gates.remove(&(at, webhook));
        self.drop_gate(webhook);
        if self.entries.get(&webhook).is_some_and(Entry::is_idle) {
            self.entries.remove(&webhook);
        }
    }

    pub(super) fn drop_gate(&mut self, webhook: WebhookNo) {
        let Some(gate) = self.entries.get_mut(&webhook).and_then(|entry| entry.gate.take()) else { return };
        gate.forget_at.map(|at| self.idle_gates.remove(&(at, webhook)));
        if gate.view().is_some() {
            self.gate_changes.push((webhook, None));
        }
    }
}
