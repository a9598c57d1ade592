//! Which webhooks want the events of a type: found once, and remembered until something changes.

use std::sync::Arc;

use crate::model::{
    ids::{EventTypeName, WebhookNo},
    webhook::Webhook,
};

/// The webhooks that want a type.
#[derive(Debug, Clone)]
pub(super) struct Matching {
    /// Those that want all such events, ascending.
    pub(super) all: Arc<[WebhookNo]>,
    /// Those that filter them, ascending. `None`, the usual case, costs an event nothing.
    pub(super) some: Option<Arc<[Arc<Webhook>]>>,
}

impl Matching {
    /// That of a tenant without webhooks.
    pub(super) fn none() -> Self {
        Self { all: Arc::from([]), some: None }
    }

    /// Looks at every webhook of a tenant.
    pub(super) fn of(webhooks: &[Arc<Webhook>], event_type: &EventTypeName) -> Self {
        let wanting = || webhooks.iter().filter(|webhook| webhook.settings.subscription.wants(event_type));
        let all = wanting().filter(|webhook| webhook.settings.scope.is_none()).map(|webhook| webhook.no).collect();
        let some: Arc<[_]> = wanting().filter(|webhook| webhook.settings.scope.is_some()).cloned().collect();
        Self { all, some: (!some.is_empty()).then_some(some) }
    }

    /// Whether this webhook is one that filters.
    pub(super) fn filters(&self, no: WebhookNo) -> bool {
        self.some.as_ref().is_some_and(|some| some.binary_search_by_key(&no, |webhook| webhook.no).is_ok())
    }

    /// How much it takes to remember it: as many as the webhooks that it names, and one for itself, or those for types that nobody wants
    /// would be without number.
    fn weight(&self) -> usize {
        1 + self.all.len() + self.some.as_ref().map_or(0, |some| some.len())
    }
}

/// What is remembered of a tenant, by type. Filled when first asked for, emptied by changes.
#[derive(Debug, Default)]
pub(super) struct Matches {
    by_type: Vec<(EventTypeName, Matching)>,
    /// What they weigh, all together.
    weight: usize,
}

impl Matches {
    /// The webhooks that want this type, if they are known.
    pub(super) fn find(&self, event_type: &EventTypeName) -> Option<&Matching> {
        Some(&self.by_type[self.place(event_type).ok()?].1)
    }

    fn place(&self, event_type: &EventTypeName) -> Result<usize, usize> {
        self.by_type.binary_search_by_key(&event_type, |(known, _)| known)
    }

    /// Remembers them; returns what they weigh, or 0 if they were known.
    pub(super) fn remember(&mut self, event_type: &EventTypeName, matching: Matching) -> usize {
        let Err(place) = self.place(event_type) else { return 0 };
        let weight = matching.weight();
        self.by_type.reserve_exact(1);
        self.by_type.insert(place, (event_type.clone(), matching));
        self.weight += weight;
        weight
    }

    /// Forgets everything; returns what it weighed.
    pub(super) fn forget(&mut self) -> usize {
        std::mem::take(self).weight
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use crate::{
        limits::MATCHES_REMEMBERED_MAX,
        model::{
            event::{Event, JSON},
            ids::{ConfigSeq, EventTypeName, Tenant, WebhookId, WebhookNo},
            scope::{LabelFilter, Scope},
            signing::Secret,
            target::Target,
            time::Timestamp,
            webhook::{Settings, Subscription, Webhook, WebhookSpec},
        },
        store::Catalog,
    };

    /// A webhook for all types; with a label, for events that have that alone.
    fn webhook(no: u64, tenant: &str, label: Option<&str>) -> Webhook {
        let target = Target::from_stored("https://receiver.example/").unwrap();
        let labels = LabelFilter::new(label.map(|label| (label.to_owned(), vec!["1".to_owned()])));
        let scope = Scope::new(labels, None);
        let settings = Settings { scope, ..Settings::new(target, Subscription::All) };
        let spec = WebhookSpec { tenant: tenant.parse().unwrap(), settings, enabled: true };
        let secret = Secret::from_bytes(&[7; 32]).unwrap();
        spec.register(WebhookNo(no), WebhookId::generate(), secret.into(), Timestamp::UNIX_EPOCH)
    }

    fn event(tenant: &str, event_type: &str, label: &str) -> Event {
        Event {
            id: "e".parse().unwrap(),
            tenant: tenant.parse().unwrap(),
            event_type: EventTypeName::new(event_type),
            labels: BTreeMap::from([(label.to_owned(), "1".to_owned())]),
            ordering_key: String::new(),
            occur_time: None,
            content_type: JSON.into(),
            body: Bytes::new(),
            deliver_at: None,
            max_age: None,
        }
    }

    fn numbers(webhooks: &[WebhookNo]) -> Vec<u64> {
        webhooks.iter().map(|no| no.0).collect()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_right() {
        let catalog = Catalog::default();
        for (no, label) in (1..).zip([None, Some("a"), None, Some("b"), Some("a")]) {
            catalog.put(ConfigSeq(no), webhook(no, "acme", label));
        }
        catalog.put(ConfigSeq(6), webhook(6, "other", None));
        for round in 0..3 {
            for event_type in ["A", "B", "C", "D", "E", "F", "G"] {
                let targets = catalog.targets(&event("acme", event_type, "a"));
                assert_eq!(numbers(&targets.webhooks), [1, 2, 3, 5], "round {round}, {event_type}");
                let theirs = catalog.targets(&event("other", event_type, "a"));
                assert_eq!((numbers(&theirs.webhooks), theirs.filtered), (vec![6], false));
                let remembered = catalog.inner.read().remembered;
                assert!(remembered <= MATCHES_REMEMBERED_MAX, "{remembered}");
            }
        }
        let before = catalog.inner.read().remembered;
        assert!(before > 0);
        catalog.remove(ConfigSeq(7), WebhookNo(1));
        catalog.put(ConfigSeq(8), webhook(6, "other", Some("a")));
        assert_eq!(catalog.inner.read().remembered, 0, "everything was about what has changed");
        assert_eq!(numbers(&catalog.targets(&event("acme", "A", "b")).webhooks), [3, 4]);
    }

    /// Types come and go, and most of them nobody may want.
    #[test]
    fn what_nobody_wants_is_remembered_within_bounds_too() {
        let (catalog, tenant) = (Catalog::default(), "acme".parse::<Tenant>().unwrap());
        let mut webhook = webhook(1, "acme", None);
        webhook.settings.subscription = Subscription::to([EventTypeName::new("A")].into());
        catalog.put(ConfigSeq(1), webhook);
        for n in 0..1_000 {
            assert_eq!(numbers(&catalog.targets(&event("acme", &n.to_string(), "a")).webhooks), [0; 0]);
            let known = catalog.inner.read().tenants[&tenant].matches.by_type.len();
            assert!(known <= MATCHES_REMEMBERED_MAX, "{known}");
        }
        assert_eq!(numbers(&catalog.targets(&event("acme", "A", "a")).webhooks), [1]);
    }

    #[test]
    fn who_is_matched_again_is_asked_for_no_filter() {
        let catalog = Catalog::default();
        for (no, label) in (1..).zip([None, Some("a"), Some("b")]) {
            catalog.put(ConfigSeq(no), webhook(no, "acme", label));
        }
        let event = event("acme", "A", "a");
        assert!(catalog.unfiltered_targets(&event).is_none());
        let matched = catalog.targets(&event);
        assert_eq!((numbers(&matched.webhooks), matched.filtered), (vec![1, 2], true));
        catalog.remove(ConfigSeq(4), WebhookNo(1));
        // What the filter says now is nobody's concern; one that is new was not asked.
        catalog.put(ConfigSeq(5), webhook(2, "acme", Some("b")));
        catalog.put(ConfigSeq(6), webhook(4, "acme", Some("a")));
        catalog.put(ConfigSeq(7), webhook(5, "acme", None));
        assert_eq!(numbers(&catalog.targets_again(&event, &matched.webhooks)), [2, 5]);
        for no in [2, 3, 4] {
            catalog.remove(ConfigSeq(6 + no), WebhookNo(no));
        }
        assert_eq!(numbers(&catalog.targets_again(&event, &matched.webhooks)), [5]);
        assert_eq!(numbers(&catalog.unfiltered_targets(&event).unwrap().webhooks), [5]);
    }
}
