//! Recording what attempts led to.

use std::collections::BTreeMap;

use ::redb::ReadableTable as _;
use prost::Message as _;
use tracing::{error, warn};

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::{DeliveryRecord, LogRecord, WebhookRecord},
    tables::{DeliveryRow, delivery_row, lane_row},
};
use crate::{
    model::{
        delivery::{Attempts, DeliveryState, Outcome},
        ids::{ConfigSeq, WebhookNo},
        ordering::HeadRule,
        time::Timestamp,
        webhook::{DisableReason, Webhook},
    },
    store::types::{ConfigStep, LogEntry, OutcomeGroup},
};

impl Change<'_> {
    /// Records a group. Deliveries that were cancelled or have moved on meanwhile are left as they are.
    pub(super) fn commit_group(&mut self, tables: &mut Tables<'_>, mut group: OutcomeGroup) -> Result<(), EngineError> {
        // In the order of keys, so that neighbours share pages.
        group.outcomes.sort_by_key(|outcome| (outcome.key.webhook, outcome.key.event, outcome.key.replay));
        for (no, reason) in group.disable {
            self.disable(tables, no, reason)?;
        }
        for (no, failing) in group.failing {
            match failing.filter(|_| self.exists(no)) {
                Some(it) => drop(tables.failing.insert(no.0, (it.since.micros(), it.hour, it.hours))?),
                None => drop(tables.failing.remove(no.0)?),
            }
        }
        for event in group.operational {
            self.report(tables, event)?;
        }
        let mut records = BTreeMap::new();
        for of_webhook in group.outcomes.chunk_by_mut(|one, other| one.key.webhook == other.key.webhook) {
            let neighbours = of_webhook.len();
            for outcome in of_webhook {
                match self.commit_outcome(tables, outcome, neighbours, &mut records) {
                    // Or it would keep every other outcome from being committed, for ever.
                    Err(EngineError::Corrupt(error)) => {
                        error!(delivery.id = %outcome.delivery_id, %error, "an outcome was left out");
                    }
                    committed => committed?,
                }
            }
        }
        for (row, record) in records {
            tables.deliveries.insert(row, record.encode_to_vec().as_slice())?;
        }
        Ok(())
    }

    /// Records one outcome, one of so many of its webhook, if its webhook still wants it.
    fn commit_outcome(
        &mut self,
        tables: &mut Tables<'_>,
        outcome: &mut Outcome,
        neighbours: usize,
        records: &mut BTreeMap<DeliveryRow, DeliveryRecord>,
    ) -> Result<(), EngineError> {
        let webhook = self.webhook(outcome.key.webhook).filter(|webhook| {
            self.dropped(webhook.no, outcome.key.event).is_none()
                && !self.is_event_erased(outcome.key.event, &webhook.tenant)
        });
        let Some(webhook) = webhook else { return Ok(()) };
        let keeps_order = webhook.settings.ordering.ordered || self.releasing.contains(&webhook.no.0);
        let head_rule = keeps_order.then_some(webhook.settings.ordering.head);
        outcome.held = outcome.state == DeliveryState::Pending && !self.is_enabled(outcome.key.webhook);
        self.record(tables, outcome, neighbours, head_rule, records)
    }

    /// Records one outcome, but for the delivery's own record, which is left in `records`. With a head rule it may be what others
    /// wait for.
    fn record(
        &mut self,
        tables: &mut Tables<'_>,
        outcome: &Outcome,
        neighbours: usize,
        head_rule: Option<HeadRule>,
        records: &mut BTreeMap<DeliveryRow, DeliveryRecord>,
    ) -> Result<(), EngineError> {
        let key = outcome.key;
        let (row, webhook) = (delivery_row(key), key.webhook.0);
        // Most outcomes are of first attempts: what is ready has no record yet, and need not be looked up.
        let accepted = if outcome.follows(0) { tables.ready.remove(lane_row(key), neighbours)? } else { None };
        let before = match (accepted, records.get(&row)) {
            (Some(_), _) => None,
            (None, Some(record)) => Some(record.clone()),
            (None, None) => {
                tables.deliveries.get(row)?.map(|bytes| DeliveryRecord::decode_from(bytes.value())).transpose()?
            }
        };
        let create_time = match (accepted, &before) {
            (Some(accept_time), _) => Some(Timestamp::from_micros(accept_time)),
            (None, Some(record)) => match record.due() {
                Some(due) if outcome.follows(record.attempts) => {
                    let scheduled = (webhook, due.micros(), key.event.0, key.replay);
                    tables.scheduled.remove(scheduled)?.map(|_| record.create_time())
                }
                _ => None,
            },
            (None, None) => None,
        };
        let Some(create_time) = create_time else {
            let attempts = before.as_ref().map_or(0, |record| record.attempts);
            warn!(
                delivery.id = %outcome.delivery_id, attempt = outcome.attempt, attempts,
                "an outcome came for a delivery that was not waiting for it; left out"
            );
            return Ok(());
        };

        let entry = self.append(LogRecord::outcome(outcome), Some(LogEntry::Outcome(outcome.clone())));
        let record = DeliveryRecord::after(before, create_time, outcome, entry);
        let excused = record.excused;
        records.insert(row, record);
        if let (DeliveryState::Pending, Some(due)) = (outcome.state, outcome.next_attempt) {
            let attempts = Attempts::new(outcome.attempt, excused);
            tables.scheduled.insert((webhook, due.micros(), key.event.0, key.replay), attempts.to_bits())?;
        } else {
            self.count_end(webhook, outcome.state, outcome.time);
            if key.replay > 0 {
                self.replayed_ended(tables, key, outcome.state)?;
            }
        }
        if head_rule.is_some_and(|rule| rule.lets_go(outcome.state, outcome.attempt)) {
            self.pass_on(tables, lane_row(key))?;
        }
        if outcome.state == DeliveryState::Failed {
            self.report_exhausted(tables, outcome)?;
        }
        Ok(())
    }

    /// Whether attempts will be made for the webhook, this transaction included.
    pub(super) fn is_enabled(&self, no: WebhookNo) -> bool {
        match self.changed_here(no) {
            Some(webhook) => webhook.is_enabled(),
            None => self.shared.catalog.webhook(no).is_some_and(|known| known.webhook.is_enabled()),
        }
    }

    /// The webhook as this transaction leaves it, if it changes it.
    fn changed_here(&self, no: WebhookNo) -> Option<&Webhook> {
        self.steps.iter().rev().find_map(|(_, step)| match step {
            ConfigStep::Put(webhook) if webhook.no == no => Some(webhook),
            ConfigStep::Put(_) | ConfigStep::Removed(_) => None,
        })
    }

    fn disable(&mut self, tables: &mut Tables<'_>, no: WebhookNo, reason: DisableReason) -> Result<(), EngineError> {
        let known = match self.changed_here(no) {
            Some(webhook) => Some(webhook.clone()),
            None => self.shared.catalog.webhook(no).map(|known| Webhook::clone(&known.webhook)),
        };
        match known.filter(|webhook| webhook.is_enabled() && self.exists(no)) {
            Some(webhook) => {
                let disabled = webhook.disabled(reason, self.shared.clock.now());
                self.put_webhook(tables, disabled.clone())?;
                self.report_if_disabled(tables, &disabled)
            }
            None => Ok(()),
        }
    }

    /// Writes a webhook as it is now, under the next config number.
    pub(super) fn put_webhook(&mut self, tables: &mut Tables<'_>, webhook: Webhook) -> Result<(), EngineError> {
        let no = webhook.no.0;
        let before = match tables.webhooks.get(no)? {
            Some(bytes) => Some(WebhookRecord::decode_from(bytes.value())?.config_seq),
            None => None,
        };
        if let Some(before) = before {
            tables.config_log.remove(before)?;
        }
        self.counters.config_seq += 1;
        let seq = self.counters.config_seq;
        tables
            .webhooks
            .insert(no, WebhookRecord::new(&webhook, seq, self.shared.webhook_vault()).encode_to_vec().as_slice())?;
        tables.config_log.insert(seq, no)?;
        self.steps.push((ConfigSeq(seq), ConfigStep::Put(webhook)));
        Ok(())
    }
}
