//! What attempts led to.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::label::{CounterBy, Label};
use crate::model::delivery::DeliveryState;

/// Handles of the outcomes stage. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OutcomesMetrics {
    committed: CounterBy<Conclusion>,
    disabled: Counter,
}

impl OutcomesMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Outcomes of attempts committed, by what they led to";
        registry.register("outcomes", help, self.committed.clone());
        let help = "Webhooks disabled because their receiver is gone or failed for too long";
        registry.register("webhooks_disabled", help, self.disabled.clone());
    }

    /// Outcomes that led to these states are durable, and so many webhooks were disabled with them.
    pub fn committed(&self, states: impl IntoIterator<Item = DeliveryState>, disabled: usize) {
        for state in states {
            self.committed.inc(Conclusion::of(state));
        }
        self.disabled.inc_by(disabled as u64);
    }
}

/// What an outcome led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// A receiver has it.
    Delivered,
    /// It will be tried again.
    Deferred,
    /// It was given up.
    Failed,
    /// Its webhook was deleted.
    Cancelled,
}

impl Conclusion {
    fn of(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::Pending => Self::Deferred,
            DeliveryState::Failed => Self::Failed,
            DeliveryState::Cancelled => Self::Cancelled,
        }
    }
}

impl Label for Conclusion {
    const NAME: &'static str = "conclusion";
    const ALL: &'static [Self] = &[Self::Delivered, Self::Deferred, Self::Failed, Self::Cancelled];

    fn value(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_promises() {
        super::super::label::check::<Conclusion>();
    }
}
