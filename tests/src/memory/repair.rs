//! What is repaired by hand.

use postrider_server::{
    limits::DELIVERY_ATTEMPTS_MAX,
    model::{
        delivery::{Attempts, DeliveryState},
        ids::DeliveryKey,
        time::Timestamp,
        webhook::Webhook,
    },
    store::{CancelReason, Hint, LogEntry, Repair, Repaired, WebhookCancelled},
};

use super::{
    counts,
    image::{Effects, Image, Move, rows_of},
};

impl Image {
    pub(super) fn repair(&mut self, repair: &Repair, effects: &mut Effects) -> Repaired {
        match repair {
            Repair::Retry { key, time } => self.retry(*key, *time, effects),
            Repair::CancelAll { webhook, time } => match self.webhooks.get(webhook).cloned() {
                Some((_, webhook)) => {
                    Repaired::Cancelled(self.cancel_all(&webhook, CancelReason::Requested, *time, effects))
                }
                None => Repaired::WebhookDeleted,
            },
            Repair::Cancel { keys, time } => {
                Repaired::Cancelled(self.cancel_named(keys, CancelReason::Requested, *time, effects))
            }
        }
    }

    fn retry(&mut self, key: DeliveryKey, time: Timestamp, effects: &mut Effects) -> Repaired {
        if !self.webhooks.contains_key(&key.webhook) {
            return Repaired::WebhookDeleted;
        }
        if !self.events.contains_key(&key.event) {
            return Repaired::EventExpired;
        }
        let fits_quota = self.one_more_fits_quota(key.webhook);
        let Some(row) = self.deliveries.get_mut(&key) else { return Repaired::NoDelivery };
        let before = row.state;
        if row.attempts >= DELIVERY_ATTEMPTS_MAX {
            return Repaired::TooManyAttempts;
        }
        if self.queues.get(&key.webhook).is_some_and(|queues| queues.parked.contains_key(&(key.event, key.replay))) {
            return Repaired::WaitsInOrder;
        }
        let is_on_its_way =
            key.replay == 0 && self.fan_outs.get(&key.event).is_some_and(|it| it.contains(&key.webhook));
        if is_on_its_way {
            // One that is pending is as good as due. One that was cancelled must not be there twice when its event passes by.
            return if row.state.is_final() { Repaired::Cancelling } else { Repaired::Retried };
        }
        let slot = |due| (due, key.event, key.replay);
        if row.state == DeliveryState::Pending {
            let due = self.due.entry(key.webhook).or_default();
            if row.due <= time || !due.scheduled.remove(&slot(row.due)) {
                return Repaired::Retried;
            }
        } else {
            if self.pending_total >= self.limits.pending_max {
                return Repaired::BacklogFull;
            }
            if let Err(excess) = fits_quota {
                return Repaired::OverQuota(excess);
            }
            row.excused = Some(row.attempts);
            counts::revived(self.ended.entry(key.webhook).or_default(), row.state);
            self.pending_total += 1;
            *self.pending.entry(key.webhook).or_default() += 1;
        }
        (row.state, row.due) = (DeliveryState::Pending, time);
        let attempts = Attempts::new(row.attempts, row.excused);
        self.replayed_moved(key, before, DeliveryState::Pending, effects);
        self.due.entry(key.webhook).or_default().scheduled.insert(slot(time));
        effects.touched.insert(key.webhook);
        effects.due(key.webhook, Hint { event: key.event, replay: key.replay, attempts, due: time });
        Repaired::Retried
    }

    pub(super) fn cancel_named(
        &mut self,
        keys: &[DeliveryKey],
        reason: CancelReason,
        time: Timestamp,
        effects: &mut Effects,
    ) -> u64 {
        let mut cancelled = 0;
        if keys.is_empty() {
            return cancelled;
        }
        for (no, (_, webhook)) in self.webhooks.clone() {
            let mut ended = Vec::new();
            for key in keys.iter().filter(|key| key.webhook == no) {
                let Some(row) = self.deliveries.get_mut(key) else { continue };
                let slot = (row.due, key.event, key.replay);
                let was_due = self.due.get_mut(&no).is_some_and(|due| due.remove(&slot));
                let parked = self.queues.get_mut(&no).and_then(|queues| queues.parked.remove(&(key.event, key.replay)));
                if was_due || parked.is_some() {
                    row.state = DeliveryState::Cancelled;
                    row.update_time = Some(time);
                    ended.push((key.event, key.replay));
                    effects.moves.push(Move::Cancelled(*key));
                    self.replayed_moved(*key, DeliveryState::Pending, DeliveryState::Cancelled, effects);
                }
            }
            let count = ended.len() as u64;
            if count > 0 {
                self.ended(no, count, effects);
                self.count_ended(no, DeliveryState::Cancelled, count, time);
                for sending in ended {
                    self.pass_on(no, sending, effects);
                }
                self.tell(&webhook, reason, count, time, effects);
                cancelled += count;
            }
        }
        cancelled
    }

    /// Cancels all that is pending for a webhook; returns how many.
    pub(super) fn cancel_all(
        &mut self,
        webhook: &Webhook,
        reason: CancelReason,
        time: Timestamp,
        effects: &mut Effects,
    ) -> u64 {
        let no = webhook.no;
        let (mut cancelled, mut replayed) = (0, Vec::new());
        for (key, row) in self.deliveries.range_mut(rows_of(no)).filter(|(_, row)| !row.state.is_final()) {
            row.state = DeliveryState::Cancelled;
            row.update_time = Some(time);
            cancelled += 1;
            effects.moves.push(Move::Cancelled(*key));
            replayed.extend((key.replay > 0).then_some(*key));
        }
        for key in replayed {
            self.replayed_moved(key, DeliveryState::Pending, DeliveryState::Cancelled, effects);
        }
        self.due.remove(&no);
        self.queues.remove(&no);
        self.releases.remove(&no);
        self.pending.remove(&no);
        self.pending_total -= cancelled;
        self.count_ended(no, DeliveryState::Cancelled, cancelled, time);
        if cancelled > 0 {
            self.tell(webhook, reason, cancelled, time, effects);
        }
        cancelled
    }

    fn tell(
        &mut self,
        webhook: &Webhook,
        reason: CancelReason,
        deliveries: u64,
        time: Timestamp,
        effects: &mut Effects,
    ) {
        effects.touched.insert(webhook.no);
        effects.cancelled.insert(webhook.no);
        let entry = WebhookCancelled { reason, tenant: webhook.tenant.clone(), webhook: webhook.id, deliveries, time };
        self.append(LogEntry::WebhookCancelled(entry), effects);
    }
}
