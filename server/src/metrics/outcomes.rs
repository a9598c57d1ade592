//! What attempts led to.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::label::{CounterBy, Label};
use crate::model::delivery::{DeliveryState, ErrorClass, Outcome};

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

    /// These outcomes are durable, and so many webhooks were disabled with them.
    pub fn committed(&self, outcomes: &[Outcome], disabled: usize) {
        for outcome in outcomes {
            self.committed.inc(Conclusion::of(outcome));
        }
        self.disabled.inc_by(disabled as u64);
    }

    /// Deliveries that were given up because of their age.
    pub fn expired(&self) -> u64 {
        self.committed.of(Conclusion::Expired)
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
    /// It was given up because of its age.
    Expired,
}

impl Conclusion {
    fn of(outcome: &Outcome) -> Self {
        match outcome.state {
            DeliveryState::Failed if outcome.error_class == Some(ErrorClass::Expired) => Self::Expired,
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::Pending => Self::Deferred,
            DeliveryState::Failed => Self::Failed,
            DeliveryState::Cancelled => Self::Cancelled,
        }
    }
}

impl Label for Conclusion {
    const NAME: &'static str = "conclusion";
    const ALL: &'static [Self] = &[Self::Delivered, Self::Deferred, Self::Failed, Self::Cancelled, Self::Expired];

    fn value(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
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
