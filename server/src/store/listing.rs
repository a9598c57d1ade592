//! The webhooks in the orders in which callers list them, a bounded number at a time.
//!
//! The order of creation is that of their numbers. By name only those that have one are indexed, so that the others, of which
//! there may be a million, cost nothing.

use std::{collections::BTreeSet, ops::Bound};

use super::catalog::{Catalog, Inner, Known, Registered, TenantIndex};
use crate::model::{
    ids::{Tenant, WebhookNo},
    webhook::Webhook,
};

/// The order of a list of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WebhookOrder {
    /// Oldest first.
    #[default]
    Oldest,
    /// Newest first.
    Newest,
    /// By display name, upper and lower case being the same: those without one first, and equal ones oldest first.
    Name,
    /// The reverse of that.
    NameDescending,
}

impl WebhookOrder {
    /// Whether it is by display name.
    pub fn is_by_name(self) -> bool {
        matches!(self, Self::Name | Self::NameDescending)
    }
}

/// Where a webhook is in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WebhookPlace {
    /// Its display name as [`folded`]; in lists that are not by name, always empty.
    pub name: Box<str>,
    /// Its number.
    pub no: WebhookNo,
}

impl WebhookPlace {
    /// The webhook's in a list of this order.
    pub fn of(webhook: &Webhook, order: WebhookOrder) -> Self {
        let name = if order.is_by_name() { folded(&webhook.settings.display_name) } else { Box::default() };
        Self { name, no: webhook.no }
    }
}

/// Some webhooks of a list.
#[derive(Debug, Clone, Default)]
pub struct WebhookRun {
    /// In order.
    pub webhooks: Vec<Registered>,
    /// Where to go on; `None`: that was all. There may be more even if none were found.
    pub next: Option<WebhookPlace>,
}

/// A text in which upper and lower case are the same.
pub fn folded(text: &str) -> Box<str> {
    text.to_lowercase().into()
}

/// The webhooks of a tenant that have a name.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<WebhookPlace>);

impl Names {
    pub(super) fn add(&mut self, webhook: &Webhook) {
        if !webhook.settings.display_name.is_empty() {
            self.0.insert(WebhookPlace::of(webhook, WebhookOrder::Name));
        }
    }

    pub(super) fn remove(&mut self, webhook: &Webhook) {
        if !webhook.settings.display_name.is_empty() {
            self.0.remove(&WebhookPlace::of(webhook, WebhookOrder::Name));
        }
    }
}

impl Catalog {
    /// Webhooks of a tenant (`None`: of all) that come after a place in the list; looks at `limit` at most, which is at least 1. The
    /// webhooks of all tenants are in no order of names: they are given oldest or newest first.
    pub fn walk(
        &self,
        tenant: Option<&Tenant>,
        order: WebhookOrder,
        after: Option<&WebhookPlace>,
        limit: usize,
    ) -> WebhookRun {
        let inner = self.inner.read();
        let Some(tenant) = tenant else { return inner.walk_all(order, after, limit) };
        let Some(index) = inner.tenants.get(tenant) else { return WebhookRun::default() };
        let found = match order {
            WebhookOrder::Oldest => index.older_first(after.map(|place| place.no), limit),
            WebhookOrder::Newest => index.newer_first(after.map(|place| place.no), limit),
            WebhookOrder::Name => index.by_name(after, limit),
            WebhookOrder::NameDescending => index.by_name_descending(after, limit),
        };
        let look = |no: &WebhookNo| Registered::look(&inner.webhooks[no]);
        WebhookRun { webhooks: found.numbers.iter().map(look).collect(), next: found.next }
    }
}

/// What an index found.
struct Found {
    numbers: Vec<WebhookNo>,
    next: Option<WebhookPlace>,
}

impl Found {
    /// All that were looked at; as many as were wanted: there may be more.
    fn new(numbers: Vec<WebhookNo>, limit: usize) -> Self {
        let last = numbers.last().filter(|_| numbers.len() == limit);
        let next = last.map(|&no| WebhookPlace { name: Box::default(), no });
        Self { numbers, next }
    }
}

impl Inner {
    fn walk_all(&self, order: WebhookOrder, after: Option<&WebhookPlace>, limit: usize) -> WebhookRun {
        let after = after.map_or(Bound::Unbounded, |place| Bound::Excluded(place.no));
        let look = |(_, known): (&WebhookNo, &Known)| Registered::look(known);
        let webhooks: Vec<_> = match order {
            WebhookOrder::Oldest | WebhookOrder::Name => {
                self.webhooks.range((after, Bound::Unbounded)).take(limit).map(look).collect()
            }
            WebhookOrder::Newest | WebhookOrder::NameDescending => {
                self.webhooks.range((Bound::Unbounded, after)).rev().take(limit).map(look).collect()
            }
        };
        let numbers = webhooks.iter().map(|known| known.webhook.no).collect();
        WebhookRun { webhooks, next: Found::new(numbers, limit).next }
    }
}

impl TenantIndex {
    fn older_first(&self, after: Option<WebhookNo>, limit: usize) -> Found {
        let from = self.webhooks.partition_point(|webhook| after.is_some_and(|after| webhook.no <= after));
        Found::new(self.webhooks[from..].iter().take(limit).map(|webhook| webhook.no).collect(), limit)
    }

    fn newer_first(&self, after: Option<WebhookNo>, limit: usize) -> Found {
        let until = self.webhooks.partition_point(|webhook| after.is_none_or(|after| webhook.no < after));
        Found::new(self.webhooks[..until].iter().rev().take(limit).map(|webhook| webhook.no).collect(), limit)
    }

    fn by_name(&self, after: Option<&WebhookPlace>, limit: usize) -> Found {
        let mut room = limit;
        let mut numbers = Vec::new();
        let named_from = match after {
            Some(place) if !place.name.is_empty() => Bound::Excluded(place),
            Some(_) | None => {
                let looked_at = self.older_first(after.map(|place| place.no), limit);
                room -= looked_at.numbers.len();
                numbers = self.without_name(looked_at.numbers);
                if looked_at.next.is_some() {
                    return Found { numbers, next: looked_at.next };
                }
                Bound::Unbounded
            }
        };
        let named: Vec<_> = self.names.0.range::<WebhookPlace, _>((named_from, Bound::Unbounded)).take(room).collect();
        let next = named.last().filter(|_| named.len() == room).map(|&last| last.clone());
        numbers.extend(named.iter().map(|place| place.no));
        Found { numbers, next }
    }

    fn by_name_descending(&self, after: Option<&WebhookPlace>, limit: usize) -> Found {
        let mut numbers = Vec::new();
        let unnamed_after = match after {
            Some(place) if place.name.is_empty() => Some(place.no),
            named => {
                let until = named.map_or(Bound::Unbounded, Bound::Excluded);
                let places: Vec<_> =
                    self.names.0.range::<WebhookPlace, _>((Bound::Unbounded, until)).rev().take(limit).collect();
                numbers.extend(places.iter().map(|place| place.no));
                if let Some(&last) = places.last().filter(|_| places.len() == limit) {
                    return Found { numbers, next: Some(last.clone()) };
                }
                None
            }
        };
        let looked_at = self.newer_first(unnamed_after, limit - numbers.len());
        numbers.extend(self.without_name(looked_at.numbers));
        Found { numbers, next: looked_at.next }
    }

    /// Those of these webhooks that have no name.
    fn without_name(&self, mut numbers: Vec<WebhookNo>) -> Vec<WebhookNo> {
        let unnamed =
            |no: WebhookNo| self.find(no).is_ok_and(|place| self.webhooks[place].settings.display_name.is_empty());
        numbers.retain(|no| unnamed(*no));
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ids::{ConfigSeq, WebhookId},
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, WebhookSpec},
    };

    fn webhook(no: u64, tenant: &str, name: &str) -> Webhook {
        let target = Target::from_stored("https://receiver.example/").unwrap();
        let settings = Settings { display_name: name.into(), ..Settings::new(target, Subscription::All) };
        let spec = WebhookSpec { tenant: tenant.parse().unwrap(), settings, enabled: true };
        let secret = Secret::from_bytes(&[7; 32]).unwrap();
        spec.register(WebhookNo(no), WebhookId::generate(), secret.into(), Timestamp::UNIX_EPOCH)
    }

    /// The names and numbers of a whole list, by steps of every size.
    #[track_caller]
    fn check(catalog: &Catalog, tenant: Option<&str>, order: WebhookOrder, expected: &[u64]) {
        let tenant = tenant.map(|tenant| tenant.parse().unwrap());
        for limit in 1..12 {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let run = catalog.walk(tenant.as_ref(), order, after.as_ref(), limit);
                assert!(run.webhooks.len() <= limit, "by {limit}");
                seen.extend(run.webhooks.iter().map(|known| known.webhook.no.0));
                after = run.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, expected, "{order:?} by {limit}");
        }
    }

    #[test]
    fn every_order_is_whole_whatever_the_steps() {
        let catalog = Catalog::default();
        let names = ["beta", "", "Alpha", "", "älpha", "ALPHA", "", "beta"];
        for (no, name) in (1..).zip(names) {
            catalog.put(ConfigSeq(no), webhook(no, "acme", name));
        }
        catalog.put(ConfigSeq(20), webhook(20, "other", "a"));
        check(&catalog, Some("acme"), WebhookOrder::Oldest, &[1, 2, 3, 4, 5, 6, 7, 8]);
        check(&catalog, Some("acme"), WebhookOrder::Newest, &[8, 7, 6, 5, 4, 3, 2, 1]);
        check(&catalog, Some("acme"), WebhookOrder::Name, &[2, 4, 7, 3, 6, 1, 8, 5]);
        check(&catalog, Some("acme"), WebhookOrder::NameDescending, &[5, 8, 1, 6, 3, 7, 4, 2]);
        check(&catalog, None, WebhookOrder::Oldest, &[1, 2, 3, 4, 5, 6, 7, 8, 20]);
        check(&catalog, None, WebhookOrder::Newest, &[20, 8, 7, 6, 5, 4, 3, 2, 1]);
        check(&catalog, Some("nobody"), WebhookOrder::Name, &[]);

        // What changes its name or goes is nowhere else.
        for (no, name) in [(1, ""), (2, "Zeta"), (3, "gamma")] {
            catalog.put(ConfigSeq(30 + no), webhook(no, "acme", name));
        }
        catalog.remove(ConfigSeq(40), WebhookNo(6));
        catalog.remove(ConfigSeq(41), WebhookNo(7));
        check(&catalog, Some("acme"), WebhookOrder::Name, &[1, 4, 8, 3, 2, 5]);
        check(&catalog, Some("acme"), WebhookOrder::NameDescending, &[5, 2, 3, 8, 4, 1]);
    }

    #[test]
    fn a_list_goes_on_though_the_place_it_stopped_at_is_gone() {
        let catalog = Catalog::default();
        for (no, name) in [(1, ""), (2, "a"), (3, "b"), (4, "c")] {
            catalog.put(ConfigSeq(no), webhook(no, "acme", name));
        }
        let tenant = "acme".parse().unwrap();
        // Four of those it looks at may be without a name.
        let run = catalog.walk(Some(&tenant), WebhookOrder::Name, None, 6);
        assert_eq!(run.next.as_ref().map(|place| place.no.0), Some(3));
        catalog.remove(ConfigSeq(5), WebhookNo(3));
        let run = catalog.walk(Some(&tenant), WebhookOrder::Name, run.next.as_ref(), 6);
        assert_eq!(run.webhooks.iter().map(|known| known.webhook.no.0).collect::<Vec<_>>(), [4]);
    }
}
