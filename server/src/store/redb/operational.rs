//! Operational events: in the log and, for the operator's webhooks, events, in the commit of what they report.

use tracing::warn;

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::LogRecord,
};
use crate::{
    model::{
        delivery::Outcome,
        operational::{Occurrence, OperationalEvent},
        webhook::{Switch, Webhook},
    },
    store::types::{LogEntry, Publish, Published},
};

impl Change<'_> {
    /// Reports that a webhook is disabled now, which it was not before.
    pub(super) fn report_if_disabled(&mut self, tables: &mut Tables<'_>, webhook: &Webhook) -> Result<(), EngineError> {
        let Switch::Disabled { reason, since } = webhook.switch else { return Ok(()) };
        let event = OperationalEvent {
            occurrence: Occurrence::WebhookDisabled(reason),
            tenant: webhook.tenant.clone(),
            webhook: webhook.id,
            url: webhook.settings.target.url().as_str().into(),
            time: since,
        };
        self.report(tables, event)
    }

    /// Reports that a delivery was given up.
    pub(super) fn report_exhausted(&mut self, tables: &mut Tables<'_>, outcome: &Outcome) -> Result<(), EngineError> {
        let Some(webhook) = self.shared.catalog.webhook(outcome.key.webhook) else { return Ok(()) };
        let event = OperationalEvent {
            occurrence: Occurrence::DeliveryExhausted {
                delivery: outcome.delivery_id,
                event: outcome.event_id.clone(),
                event_type: outcome.event_type.clone(),
                attempts: outcome.attempt,
            },
            tenant: outcome.tenant.clone(),
            webhook: outcome.webhook_id,
            url: webhook.webhook.settings.target.url().as_str().into(),
            time: outcome.time,
        };
        self.report(tables, event)
    }

    /// Reports something. What happens to the operator's own webhooks makes no events: or one that fails would make ever more.
    pub(super) fn report(&mut self, tables: &mut Tables<'_>, it: OperationalEvent) -> Result<(), EngineError> {
        if self.is_tenant_erased(&it.tenant) {
            return Ok(());
        }
        if let Some(operator) = self.shared.config.operator.as_ref().filter(|operator| **operator != it.tenant) {
            let event = it.event(operator);
            let targets = self.shared.catalog.targets(&event);
            let publish = Publish { event, targets, accept_time: self.shared.clock.now() };
            match self.publish(tables, &publish)? {
                Published::New { .. } | Published::Duplicate { .. } => {}
                refused @ (Published::Conflict
                | Published::TooManyTargets
                | Published::BacklogFull
                | Published::Unreadable
                | Published::Erased
                | Published::TenantBeingErased) => {
                    warn!(event.id = %it.id(), ?refused, "an operational event stays in the log alone");
                }
            }
        }
        self.append(LogRecord::operational(&it), Some(LogEntry::Operational(it)));
        Ok(())
    }
}
