//! Breakers that opened or closed, on their way into the log.
//!
//! The breaker itself lives in memory: what a crash forgets was forgotten with it, and the breaker opens again if there is reason.

use std::collections::VecDeque;

use tracing::{info, warn};

use crate::{
    model::{
        breaker::Change,
        ids::WebhookNo,
        operational::{Occurrence, OperationalEvent},
        time::Timestamp,
    },
    store::Catalog,
};

/// Most reports waiting for a commit.
const WAITING_MAX: usize = 4_096;
/// Most reports of one commit.
const BATCH_MAX: usize = 100;

/// Reports that are not committed yet.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: VecDeque<OperationalEvent>,
    /// So many of the first are being committed.
    committing: usize,
    /// Nothing is committed before.
    pause: Option<Timestamp>,
}

impl Reports {
    /// A webhook's breaker has opened or closed.
    pub(super) fn add(&mut self, no: WebhookNo, change: Change, time: Timestamp, catalog: &Catalog) {
        let Some(webhook) = catalog.webhook(no).map(|registered| registered.webhook) else { return };
        let occurrence = match change {
            Change::Opened => {
                warn!(webhook.id = %webhook.id, tenant = %webhook.tenant, "the receiver fails; its deliveries are put off");
                Occurrence::BreakerOpened
            }
            Change::Closed => {
                info!(webhook.id = %webhook.id, tenant = %webhook.tenant, "the receiver is well again");
                Occurrence::BreakerClosed
            }
        };
        if self.waiting.len() >= WAITING_MAX {
            warn!(webhook.id = %webhook.id, "too many reports of breakers wait for the store; this one is left out");
            return;
        }
        self.waiting.push_back(OperationalEvent {
            occurrence,
            tenant: webhook.tenant.clone(),
            webhook: webhook.id,
            url: webhook.settings.target.url().as_str().into(),
            time,
        });
    }

    /// What is to be committed now, unless something is already.
    pub(super) fn begin(&mut self, now: Timestamp) -> Option<Vec<OperationalEvent>> {
        if self.committing > 0 || self.waiting.is_empty() || self.pause.is_some_and(|until| until > now) {
            return None;
        }
        self.pause = None;
        self.committing = self.waiting.len().min(BATCH_MAX);
        Some(self.waiting.iter().take(self.committing).cloned().collect())
    }

    /// It is committed, or is to be tried again then.
    pub(super) fn ended(&mut self, again: Option<Timestamp>) {
        let committed = std::mem::take(&mut self.committing);
        match again {
            None => drop(self.waiting.drain(..committed)),
            Some(at) => self.pause = Some(at),
        }
    }

    /// When to try again.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.pause
    }
}
