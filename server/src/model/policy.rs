//! Delivery policy: what a webhook's owner says about time.

use std::time::Duration;

use super::{event::StoredEvent, retry::Retry, time::Timestamp, webhook::Settings};

/// What a webhook's owner decides about attempts and their end; what is unset is the server's to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long one attempt may take.
    pub attempt_timeout: Option<Duration>,
    /// When failed attempts are repeated.
    pub retry: Option<Retry>,
    /// Deliveries older than this are given up.
    pub max_age: Option<Duration>,
}

impl Policy {
    /// As settings have it: most webhooks have none.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl Settings {
    /// How long one attempt may take, if the owner says so.
    pub fn attempt_timeout(&self) -> Option<Duration> {
        self.policy.as_ref()?.attempt_timeout
    }

    /// When failed attempts are repeated, if the owner says so.
    pub fn retry(&self) -> Option<&Retry> {
        self.policy.as_ref()?.retry.as_ref()
    }

    /// When a delivery of the event to this webhook is too old: the shorter `max_age` of the two counts, from when it was due. One
    /// that somebody asked for by hand, after the event had been delivered or given up, is never too old: it is wanted now.
    pub fn expiry(&self, event: &StoredEvent, by_hand: bool) -> Option<Timestamp> {
        let own = self.policy.as_ref().and_then(|policy| policy.max_age);
        let max_age = match (own, event.event.max_age) {
            (Some(own), Some(its)) => own.min(its),
            (one, other) => one.or(other)?,
        };
        (!by_hand).then(|| event.due_time() + max_age)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{
        event::{Event, JSON},
        ids::{EventSeq, EventTypeName, Tenant},
        target::Target,
        webhook::Subscription,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_shorter_age_counts_from_when_it_was_due() {
        let check = |own: Option<u64>, its: Option<u64>, deliver_at: Option<i64>, expected: Option<i64>| {
            let target = Target::from_stored("https://receiver.example/").unwrap();
            let policy = Policy { max_age: own.map(Duration::from_secs), ..Policy::default() };
            let settings = Settings { policy: policy.boxed(), ..Settings::new(target, Subscription::All) };
            let event = Event {
                id: "e".parse().unwrap(),
                tenant: Tenant::default(),
                event_type: EventTypeName::new("ADD_TAG"),
                labels: std::collections::BTreeMap::new(),
                ordering_key: String::new(),
                occur_time: None,
                content_type: JSON.into(),
                body: Bytes::new(),
                deliver_at: deliver_at.map(at),
                max_age: its.map(Duration::from_secs),
            };
            let stored = StoredEvent { seq: EventSeq(1), accept_time: at(1_000), event };
            assert_eq!(settings.expiry(&stored, false), expected.map(at), "{own:?}, {its:?}, {deliver_at:?}");
            assert_eq!(settings.expiry(&stored, true), None, "by hand");
        };
        check(None, None, None, None);
        check(Some(10), None, None, Some(1_010));
        check(None, Some(20), None, Some(1_020));
        check(Some(10), Some(20), None, Some(1_010));
        check(Some(30), Some(20), None, Some(1_020));
        check(Some(10), None, Some(5_000), Some(5_010));
        check(Some(10), None, Some(999), Some(1_010));
    }
}
