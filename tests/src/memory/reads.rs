//! What stages and callers read from an image.

use std::collections::BTreeSet;

use bytes::Bytes;
use postrider_server::{
    limits::FEED_EXAMINED_MAX,
    model::{
        delivery::{Attempts, DeliveryState, Outcome},
        ids::{ConfigSeq, DeliveryId, DeliveryKey, Position, Tenant, WebhookId, WebhookNo},
        seal::Sealer,
        time::Timestamp,
    },
    store::{
        AsOf, ConfigPage, ConfigStep, Delivery, DeliveryDetail, DeliveryPage, DeliveryQuery, DeliveryView, DuePage,
        FeedError, FeedFilter, FeedPage, Hint, LaneDue, LanePage, ListPosition, LogEntry,
    },
};

use super::{disk::Storage, image::Image};

impl Storage {
    pub(super) fn lanes(&self, after: Option<WebhookNo>, limit: usize) -> LanePage {
        let from = WebhookNo(after.map_or(0, |no| no.0 + 1));
        let mut all = self.image.due.range(from..).filter_map(|(no, due)| {
            let (first_due, ..) = [&due.ready, &due.scheduled].into_iter().filter_map(BTreeSet::first).min()?;
            Some(LaneDue { webhook: *no, first_due: *first_due })
        });
        let lanes: Vec<_> = all.by_ref().take(limit).collect();
        let next = all.next().and(lanes.last()).map(|lane| lane.webhook);
        LanePage { lanes, next, as_of: AsOf(self.commits) }
    }

    pub(super) fn due(&self, webhook: WebhookNo, horizon: Timestamp, limit: usize) -> DuePage {
        let mut page = DuePage { hints: Vec::new(), more: false, next_due: None, as_of: AsOf(self.commits) };
        let Some(due) = self.image.due.get(&webhook) else { return page };
        let scheduled = due.scheduled.iter().take_while(|(due, ..)| *due <= horizon);
        let mut slots: Vec<_> = due.ready.iter().take(limit + 1).chain(scheduled.take(limit + 1)).copied().collect();
        slots.sort_unstable();
        page.more = slots.len() > limit;
        let beyond = || due.scheduled.iter().map(|(due, ..)| *due).find(|due| *due > horizon);
        page.next_due = if page.more { None } else { beyond() };
        page.hints.extend(slots.into_iter().take(limit).map(|(due, event, replay)| {
            let row = &self.image.deliveries[&DeliveryKey { webhook, event, replay }];
            Hint { event, replay, attempts: Attempts::new(row.attempts, row.excused), due }
        }));
        page
    }
}

impl Image {
    pub(super) fn feed(&self, after: Position, filter: &FeedFilter, limit: usize) -> Result<FeedPage, FeedError> {
        if after.0 < self.log_forgotten as u64 {
            return Err(FeedError::Expired { oldest: Position(self.log_forgotten as u64) });
        }
        let from = usize::try_from(after.0).unwrap_or(usize::MAX);
        let rest = self.log.get(from..).ok_or(FeedError::Unknown)?;
        let mut page = FeedPage { entries: Vec::new(), position: after };
        for entry in rest.iter().take(FEED_EXAMINED_MAX) {
            if page.entries.len() == limit {
                break;
            }
            page.position.0 += 1;
            page.entries.extend(filter.passes(entry).then(|| without_body(entry)));
        }
        Ok(page)
    }

    pub(super) fn config_since(&self, after: ConfigSeq, limit: usize) -> ConfigPage {
        let puts = self.webhooks.values().map(|(seq, webhook)| (*seq, ConfigStep::Put(webhook.clone())));
        let removals = self.tombstones.iter().map(|(no, (seq, ..))| (*seq, ConfigStep::Removed(*no)));
        let mut steps: Vec<_> = puts.chain(removals).filter(|(seq, _)| *seq > after).collect();
        steps.sort_by_key(|(seq, _)| *seq);
        let more = steps.len() > limit;
        steps.truncate(limit);
        ConfigPage { steps, more }
    }

    pub(super) fn get(&self, sealer: &Sealer, id: DeliveryId) -> Option<DeliveryDetail> {
        let key = sealer.delivery_key(id);
        let delivery = self.view(sealer, key)?;
        let outcome = |index: &usize| match &self.log[*index] {
            LogEntry::Outcome(outcome) if *index >= self.log_forgotten => Some(outcome.clone()),
            LogEntry::Outcome(_) | LogEntry::WebhookCancelled(_) | LogEntry::Operational(_) => None,
        };
        let attempts = self.deliveries[&key].entries.iter().filter_map(outcome).collect();
        Some(DeliveryDetail { delivery, attempts })
    }

    pub(super) fn list(
        &self,
        sealer: &Sealer,
        query: &DeliveryQuery,
        after: Option<ListPosition>,
        limit: usize,
    ) -> DeliveryPage {
        let rank = |key: &DeliveryKey| (key.event, key.webhook, key.replay);
        let mut keys: Vec<_> = self.deliveries.keys().copied().collect();
        keys.retain(|key| after.is_none_or(|after| rank(key) < rank(&after)));
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(rank(key)));
        let mut wanted = keys.into_iter().filter_map(|key| self.view(sealer, key)).filter(|delivery| {
            query.tenant.as_ref().is_none_or(|tenant| *tenant == delivery.tenant)
                && query.webhook.is_none_or(|webhook| webhook == delivery.webhook)
                && query.event.as_ref().is_none_or(|event| *event == delivery.event)
                && query.wants_event(&delivery.event_type, delivery.create_time)
                && (query.states.is_empty() || query.states.contains(&delivery.state))
        });
        let deliveries: Vec<_> = wanted.by_ref().take(limit).collect();
        let next = wanted.next().and(deliveries.last()).map(|delivery| delivery.key);
        DeliveryPage { deliveries, next }
    }

    fn view(&self, sealer: &Sealer, key: DeliveryKey) -> Option<Delivery> {
        let row = self.deliveries.get(&key)?;
        let stored = self.events.get(&key.event)?;
        let (webhook, tenant, enabled) = self.webhook(key.webhook)?;
        let held = row.state == DeliveryState::Pending && !enabled;
        let parked =
            self.queues.get(&key.webhook).is_some_and(|queues| queues.parked.contains_key(&(key.event, key.replay)));
        Some(Delivery {
            id: sealer.delivery_id(key),
            key,
            tenant,
            webhook,
            event: stored.event.id.clone(),
            event_type: stored.event.event_type.clone(),
            state: if held { DeliveryView::Held } else { DeliveryView::State(row.state) },
            attempts: row.attempts,
            create_time: stored.accept_time,
            update_time: row.update_time,
            next_attempt: (row.state == DeliveryState::Pending && !held && !parked).then_some(row.due),
            last_http_status: row.http_status,
            last_error_class: row.error_class,
        })
    }

    fn webhook(&self, no: WebhookNo) -> Option<(WebhookId, Tenant, bool)> {
        let existing = self.webhooks.get(&no).map(|(_, webhook)| webhook);
        let webhook = existing.or_else(|| self.tombstones.get(&no).map(|(_, webhook, _)| webhook))?;
        Some((webhook.id, webhook.tenant.clone(), webhook.is_enabled()))
    }
}

/// For watchers, who are not sent what receivers answered.
fn without_body(entry: &LogEntry) -> LogEntry {
    match entry {
        LogEntry::Outcome(outcome) => LogEntry::Outcome(Outcome { response_body: Bytes::new(), ..outcome.clone() }),
        LogEntry::WebhookCancelled(_) | LogEntry::Operational(_) => entry.clone(),
    }
}
