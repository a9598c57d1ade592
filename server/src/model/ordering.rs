//! Ordered webhooks: events with the same ordering key are delivered one after the other, in publish order.
//!
//! The first delivery of a key that has not ended is its *head*; it alone is attempted, and the others wait behind it. Keys do not
//! wait for each other, and events without a key wait for nothing.

use std::num::NonZeroU8;

use twox_hash::XxHash3_128;

use super::{delivery::DeliveryState, event::Event, ids::Tenant};
use crate::limits::ORDERING_SKIP_AFTER_MAX;

/// What its owner decides about the order of a webhook's deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ordering {
    /// Whether events with the same ordering key are delivered in publish order.
    pub ordered: bool,
    /// What happens behind a delivery that keeps failing; without effect while it is not ordered.
    pub head: HeadRule,
}

/// How long the head of a key keeps the others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadRule {
    /// Until it has ended.
    #[default]
    Block,
    /// Until it has ended or had so many attempts; it is then retried on its own, and the next one goes on without it.
    Skip {
        /// Attempts, at most `ORDERING_SKIP_AFTER_MAX`.
        after: NonZeroU8,
    },
}

impl HeadRule {
    /// To skip after so many attempts. `None`: not between 1 and `ORDERING_SKIP_AFTER_MAX`.
    pub fn skip_after(attempts: u32) -> Option<Self> {
        let after = u8::try_from(attempts).ok().filter(|after| *after <= ORDERING_SKIP_AFTER_MAX)?;
        NonZeroU8::new(after).map(|after| Self::Skip { after })
    }

    /// Whether a head that stands so after this many attempts lets the next one go on.
    pub fn lets_go(self, state: DeliveryState, attempts: u32) -> bool {
        match self {
            Self::Block => state.is_final(),
            Self::Skip { after } => state.is_final() || attempts >= u32::from(after.get()),
        }
    }
}

/// An ordering key, in brief. Two keys that share one share an order, which harms nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey(pub u128);

impl OrderKey {
    /// That of an event; `None`: it has no ordering key.
    pub fn of(event: &Event) -> Option<Self> {
        Self::new(&event.tenant, &event.ordering_key)
    }

    /// That of a tenant's ordering key, by XXH3-128; `None`: the key is empty. On disk: never to change.
    pub fn new(tenant: &Tenant, key: &str) -> Option<Self> {
        if key.is_empty() {
            return None;
        }
        let mut hasher = XxHash3_128::new();
        for part in [tenant.as_str(), key] {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        Some(Self(hasher.finish_128()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_lets_go_when_it_has_ended_or_by_its_rule() {
        let skip = HeadRule::skip_after(3).expect("in range");
        let cases = [
            (HeadRule::Block, DeliveryState::Pending, 100, false),
            (HeadRule::Block, DeliveryState::Delivered, 1, true),
            (HeadRule::Block, DeliveryState::Failed, 1, true),
            (HeadRule::Block, DeliveryState::Cancelled, 0, true),
            (skip, DeliveryState::Pending, 2, false),
            (skip, DeliveryState::Pending, 3, true),
            (skip, DeliveryState::Pending, 9, true),
            (skip, DeliveryState::Delivered, 1, true),
        ];
        for (rule, state, attempts, expected) in cases {
            assert_eq!(rule.lets_go(state, attempts), expected, "{rule:?} {state:?} {attempts}");
        }
        for (attempts, valid) in [(0, false), (1, true), (100, true), (101, false), (256, false), (u32::MAX, false)] {
            assert_eq!(HeadRule::skip_after(attempts).is_some(), valid, "{attempts}");
        }
    }

    #[test]
    fn keys_are_told_apart_by_tenant_and_key_and_stay_what_they_are() {
        let key = |tenant: &str, key: &str| OrderKey::new(&tenant.parse().expect("a tenant"), key);
        assert_eq!(key("a", ""), None);
        assert_eq!(key("a", "bc"), key("a", "bc"));
        assert_ne!(key("a", "bc"), key("ab", "c"));
        assert_ne!(key("a", "b"), key("a", "c"));
        assert_eq!(
            key("default", "t1"),
            Some(OrderKey(293_195_215_340_393_383_771_521_913_565_710_132_612)),
            "as on disk"
        );
    }
}
