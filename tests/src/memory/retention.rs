//! What is kept no longer.

use std::collections::BTreeSet;

use postrider_server::{
    limits::REQUEST_ID_WINDOW,
    model::{
        event::StoredEvent,
        ids::{DeliveryId, Tenant},
        seal::Sealer,
        time::Timestamp,
    },
    store::{CancelReason, LogEntry},
};

use super::image::{Effects, Image};

impl Image {
    /// Cancels what is held and older than the retention time.
    pub(super) fn expire_held(&mut self, now: Timestamp, effects: &mut Effects) {
        let retention = self.limits.retention;
        let is_over = |stored: &StoredEvent| {
            stored.event.scheduled(stored.accept_time).unwrap_or(stored.accept_time) + retention <= now
        };
        let waiting = self.deliveries.iter().filter(|(_, row)| !row.state.is_final()).map(|(key, _)| *key);
        let held = waiting.filter(|key| {
            let webhook = self.webhooks.get(&key.webhook);
            webhook.is_some_and(|(_, webhook)| !webhook.is_enabled())
                && self.events.get(&key.event).is_some_and(is_over)
        });
        let held: Vec<_> = held.collect();
        self.cancel_named(&held, CancelReason::HeldExpired, now, effects);
    }

    /// Drops what is older than the retention time, but nothing that is pending.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.requests.retain(|_, known| now.since(known.time) < REQUEST_ID_WINDOW);
        let retention = self.limits.retention;
        let waiting: BTreeSet<_> =
            self.deliveries.iter().filter(|(_, row)| !row.state.is_final()).map(|(key, _)| key.event).collect();
        let old = |event: &StoredEvent| event.accept_time + retention <= now && !waiting.contains(&event.seq);
        let gone: BTreeSet<_> = self.events.values().filter(|event| old(event)).map(|event| event.seq).collect();
        for event in gone.iter().filter_map(|seq| self.events.get(seq)) {
            let (until, newest) = &mut self.gone;
            until.0 = until.0.max(event.seq.0 + 1);
            *newest = event.accept_time.max(*newest);
        }
        if !gone.is_empty() {
            self.forget_events(&gone);
        }
        self.erasures.forget(now - retention);
        self.forget_audit(now);
        let time = |entry: &LogEntry| match entry {
            LogEntry::Outcome(outcome) => outcome.time,
            LogEntry::WebhookCancelled(cancelled) => cancelled.time,
            LogEntry::Operational(event) => event.time,
        };
        let kept = self.log[self.log_forgotten..].iter().position(|entry| time(entry) + retention > now);
        self.log_forgotten = kept.map_or(self.log.len(), |kept| self.log_forgotten + kept);
    }

    /// Whose delivery it was, if its event is gone.
    pub(super) fn expired(&self, sealer: &Sealer, id: DeliveryId) -> Option<Tenant> {
        let key = sealer.delivery_key(id);
        let is_gone = key.event.0 > 0 && key.event < self.gone.0 && !self.events.contains_key(&key.event);
        self.webhook(key.webhook).filter(|_| is_gone).map(|(_, tenant, _)| tenant)
    }
}
