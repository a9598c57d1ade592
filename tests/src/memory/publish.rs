//! Publishing: an event is stored with its targets, and reaches them at once or in slices.

use postrider_server::{
    limits::TARGETS_MAX,
    model::{
        event::{Event, StoredEvent},
        ids::{DeliveryKey, EventSeq, WebhookNo},
        webhook::Webhook,
    },
    store::{Publish, Published, Targets},
};

use super::image::{Effects, Image, Row};

impl Image {
    pub(super) fn publish(&mut self, publish: &Publish, effects: &mut Effects) -> Published {
        let event = &publish.event;
        let id = (event.tenant.clone(), event.id.clone());
        let hash = event.content_hash();
        if self.erasures.has_event(&event.tenant, &event.id) {
            return Published::Erased;
        }
        if let Some(&(_, known, deliveries)) = self.ids.get(&id) {
            return if known == hash { Published::Duplicate { deliveries } } else { Published::Conflict };
        }
        let targets = self.targets(event, &publish.targets);
        if targets.len() > TARGETS_MAX {
            return Published::TooManyTargets;
        }
        if self.pending_total + targets.len() as u64 > self.limits.pending_max {
            return Published::BacklogFull;
        }
        if let Err(excess) = self.use_quota(publish, targets.len() as u64) {
            return Published::OverQuota(excess);
        }
        let seq = EventSeq(self.next_event);
        self.next_event += 1;
        self.pending_total += targets.len() as u64;
        let deliveries = u32::try_from(targets.len()).expect("TARGETS_MAX fits");
        self.ids.insert(id, (seq, hash, deliveries));
        let stored = StoredEvent { seq, accept_time: publish.accept_time, event: event.clone() };
        self.events.insert(seq, stored);
        for &webhook in &targets {
            let row = Row::new(event.scheduled(publish.accept_time).unwrap_or(publish.accept_time));
            self.deliveries.insert(DeliveryKey { webhook, event: seq, replay: 0 }, row);
        }
        if targets.len() <= self.limits.slice_rows_max {
            for &no in &targets {
                self.arrive(no, (seq, 0), effects);
            }
        } else {
            self.fan_outs.insert(seq, targets);
        }
        Published::New { deliveries }
    }

    /// As they were matched, or matched again if the tenant's configuration has moved since; no filter is asked twice.
    fn targets(&self, event: &Event, matched: &Targets) -> Vec<WebhookNo> {
        if self.tenants.get(&event.tenant).is_none_or(|changed_at| *changed_at <= matched.matched_at) {
            return matched.webhooks.to_vec();
        }
        let all = self.webhooks.values().map(|(_, webhook)| webhook);
        let wants = |webhook: &&Webhook| {
            let was_admitted = || matched.webhooks.binary_search(&webhook.no).is_ok();
            webhook.tenant == event.tenant
                && webhook.settings.subscription.wants(&event.event_type)
                && (webhook.settings.scope.is_none() || was_admitted())
        };
        all.filter(wants).map(|webhook| webhook.no).collect()
    }

    pub(super) fn fan_out_slice(&mut self, effects: &mut Effects) {
        let Some(mut first) = self.fan_outs.first_entry() else { return };
        let seq = *first.key();
        let rows = first.get().len().min(self.limits.slice_rows_max);
        let slice: Vec<_> = first.get_mut().drain(..rows).collect();
        if first.get().is_empty() {
            first.remove();
        }
        for no in slice {
            // A deleted webhook's deliveries were cancelled with it.
            // So were those that were cancelled alone.
            let row = &self.deliveries[&DeliveryKey { webhook: no, event: seq, replay: 0 }];
            if self.webhooks.contains_key(&no) && !row.state.is_final() {
                self.arrive(no, (seq, 0), effects);
            }
        }
    }
}
