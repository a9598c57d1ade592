//! Operational events: in the log and, for the operator's webhooks, events, in the commit of what they report.

use tracing::warn;

use super::{
    change::{Change, Tables},
    error::EngineError,
    publish::By,
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
            let mut targets = self.shared.catalog.targets(&event);
            if targets.webhooks.iter().any(|no| self.removed.contains(no)) {
                // The catalogue does not know yet that this commit deletes them.
                let exist = targets.webhooks.iter().copied().filter(|no| !self.removed.contains(no));
                targets.webhooks = exist.collect();
            }
            let publish = Publish { event, targets, accept_time: self.shared.clock.now() };
            match self.publish_by(tables, &publish, By::Server)? {
                Published::New { .. } | Published::Duplicate { .. } => {}
                refused @ (Published::Conflict
                | Published::TooManyTargets
                | Published::BacklogFull
                | Published::OverQuota(_)
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

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeSet, HashMap},
        sync::Arc,
    };

    use tempfile::TempDir;

    use super::{
        super::{Config, change::begin, drops::Drops, open, ready::Batches, tests::webhook},
        *,
    };
    use crate::{
        clock::Clock,
        model::{ids::WebhookId, time::Timestamp, webhook::DisableReason},
        store::{ConfigChange, Store as _},
    };

    #[tokio::test]
    async fn an_operators_webhook_that_goes_in_the_same_commit_is_told_nothing() {
        let dir = TempDir::new().unwrap();
        let config = Config { operator: Some("t".parse().unwrap()), ..Config::default() };
        let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
        let no = webhook(&store).await;
        let operators = store.catalog().webhook(no).unwrap().webhook;
        let it = OperationalEvent {
            occurrence: Occurrence::WebhookDisabled(DisableReason::Gone),
            tenant: "other".parse().unwrap(),
            webhook: WebhookId::generate(),
            url: "https://other.example/".into(),
            time: Timestamp::UNIX_EPOCH,
        };
        for deleted in [false, true] {
            let hot = store.shared.hot.read().clone().unwrap();
            let counters = *store.shared.counters.lock();
            let txn = begin(&hot).unwrap();
            let batches = Batches::default();
            let mut tables = Tables::open(&txn, &batches).unwrap();
            let (pending, releasing, drops) = (HashMap::new(), BTreeSet::new(), Drops::new());
            let mut change = Change::new(&store.shared, counters, &pending, &releasing, &drops);
            if deleted {
                let (tenant, id) = (operators.tenant.clone(), operators.id);
                let delete = ConfigChange::DeleteWebhook { tenant, id, expect: None, time: Timestamp::UNIX_EPOCH };
                change.configure(&mut tables, delete).unwrap();
            }
            change.report(&mut tables, it.clone()).unwrap();
            let due = change.ready.len();
            assert_eq!((due, change.counters.pending), (usize::from(!deleted), u64::from(!deleted)));
            drop((change, tables));
            txn.abort().unwrap();
        }
        store.close().await.unwrap();
    }
}
