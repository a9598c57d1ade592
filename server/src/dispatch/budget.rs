//! The room for hints that all windows share, and who has to give some up when it runs out.
//!
//! Room is shared by tenant: while there is some, everybody takes; when there is none, a tenant that has clearly less than the
//! one with the most takes from that one, and any other only from its own lanes that hold more than they may by now. So a
//! tenant with a hundred thousand webhooks shuts nobody out but its own. Every operation takes time logarithmic in the lanes.

use std::collections::{BTreeSet, HashMap};

use crate::model::ids::{Tenant, WebhookNo};

/// A tenant takes from the one with the most if that has more by this part of its own; or each would take from the other for
/// every single hint, at the price of a read.
const CLEARLY_LESS: usize = 8;

/// How many hints there are and may be, and whose they are.
///
/// No lane may hold more than its fair share of half the room, so that a new one finds some.
#[derive(Debug)]
pub(super) struct Budget {
    hints_max: usize,
    lane_hints_max: usize,
    hints: usize,
    /// Only those with at least one hint.
    tenants: HashMap<Tenant, Share>,
    /// The same ones by the hints they have.
    ranking: BTreeSet<(usize, Tenant)>,
    /// Changes of windows so far.
    changes: u64,
}

/// What one tenant has.
#[derive(Debug, Default)]
struct Share {
    hints: usize,
    /// Lanes with at least one: hints, last change, and whose.
    lanes: BTreeSet<(usize, u64, WebhookNo)>,
}

/// One lane's part of the room.
#[derive(Debug)]
pub(super) struct Part {
    tenant: Tenant,
    webhook: WebhookNo,
    hints: usize,
    /// When it changed last; see [`Budget::changes`].
    changed: u64,
}

impl Part {
    /// A lane without hints.
    pub(super) fn new(tenant: Tenant, webhook: WebhookNo) -> Self {
        Self { tenant, webhook, hints: 0, changed: 0 }
    }

    /// Whose lane it is.
    pub(super) fn tenant(&self) -> &Tenant {
        &self.tenant
    }
}

impl Budget {
    /// Room for `hints_max` in all, and for `lane_hints_max` of one lane.
    pub(super) fn new(hints_max: usize, lane_hints_max: usize) -> Self {
        Self { hints_max, lane_hints_max, hints: 0, tenants: HashMap::new(), ranking: BTreeSet::new(), changes: 0 }
    }

    /// Most hints one lane may hold at any time.
    pub(super) fn lane_hints_max(&self) -> usize {
        self.lane_hints_max
    }

    /// Most hints one lane of the tenant may hold now.
    pub(super) fn lane_cap(&self, tenant: &Tenant) -> usize {
        let lanes = self.tenants.get(tenant).map_or(1, |share| share.lanes.len());
        (self.hints_max / 2 / self.ranking.len().max(1) / lanes).clamp(1, self.lane_hints_max)
    }

    /// How many more there may be.
    pub(super) fn free(&self) -> usize {
        self.hints_max - self.hints
    }

    /// The lane to take a hint from so that this one, which has less than it may, can have one more than fits by now. `None`:
    /// its tenant has its share, and no other lane of it holds too many.
    ///
    /// It is the largest, and of equals the one that changed last: those that wait longer come to their turn.
    pub(super) fn giver(&self, tenant: &Tenant, webhook: WebhookNo) -> Option<WebhookNo> {
        let (most, richest) = self.ranking.last()?;
        let has = self.tenants.get(tenant).map_or(0, |share| share.hints) + self.free();
        if richest != tenant && *most > has + has / CLEARLY_LESS + 1 {
            return self.largest(richest).map(|(_, giver)| giver);
        }
        let (hints, giver) = self.largest(tenant)?;
        (giver != webhook && hints > self.lane_cap(tenant)).then_some(giver)
    }

    fn largest(&self, tenant: &Tenant) -> Option<(usize, WebhookNo)> {
        let (hints, _, webhook) = self.tenants.get(tenant)?.lanes.last()?;
        Some((*hints, *webhook))
    }

    /// A window has as many hints now.
    pub(super) fn resize(&mut self, part: &mut Part, hints: usize) {
        if part.hints == hints {
            return;
        }
        if !self.tenants.contains_key(&part.tenant) {
            self.tenants.insert(part.tenant.clone(), Share::default());
        }
        let share = self.tenants.get_mut(&part.tenant).expect("inserted if it was missing");
        share.lanes.remove(&(part.hints, part.changed, part.webhook));
        let mut rank =
            self.ranking.take(&(share.hints, part.tenant.clone())).unwrap_or_else(|| (0, part.tenant.clone()));
        share.hints = share.hints + hints - part.hints;
        self.hints = self.hints + hints - part.hints;
        self.changes += 1;
        part.hints = hints;
        part.changed = self.changes;
        if hints > 0 {
            share.lanes.insert((hints, part.changed, part.webhook));
        }
        if share.hints > 0 {
            rank.0 = share.hints;
            self.ranking.insert(rank);
        } else {
            self.tenants.remove(&part.tenant);
        }
    }

    /// Hints there are, after a look at whether the parts make up the whole.
    #[cfg(test)]
    pub(super) fn hints(&self) -> usize {
        assert!(self.tenants.iter().all(|(tenant, share)| self.ranking.contains(&(share.hints, tenant.clone()))));
        assert_eq!(self.tenants.len(), self.ranking.len());
        let of_lanes = |share: &Share| share.lanes.iter().map(|(hints, ..)| hints).sum::<usize>();
        assert!(self.tenants.values().all(|share| share.hints > 0 && share.hints == of_lanes(share)));
        assert_eq!(self.hints, self.tenants.values().map(|share| share.hints).sum::<usize>());
        self.hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    fn part(budget: &mut Budget, name: &str, webhook: u64, hints: usize) -> Part {
        let mut part = Part::new(tenant(name), WebhookNo(webhook));
        budget.resize(&mut part, hints);
        part
    }

    #[test]
    fn shares_shrink_with_the_number_of_lanes_and_of_tenants() {
        let mut budget = Budget::new(1024, 256);
        let mut parts = Vec::new();
        for (lanes, cap) in [(0, 256), (1, 256), (2, 256), (4, 128), (100, 5), (512, 1), (1023, 1)] {
            while parts.len() < lanes {
                let webhook = parts.len() as u64;
                parts.push(part(&mut budget, "many", webhook, 1));
            }
            assert_eq!(budget.lane_cap(&tenant("many")), cap, "{lanes} lanes");
        }
        let mut other = part(&mut budget, "few", 5000, 1);
        assert_eq!((budget.lane_cap(&tenant("few")), budget.free()), (256, 0));
        budget.resize(&mut other, 0);
        assert_eq!((budget.hints(), budget.free()), (1023, 1));
        for part in &mut parts {
            budget.resize(part, 0);
        }
        assert!(budget.hints() == 0 && budget.tenants.is_empty() && budget.ranking.is_empty());
    }

    #[test]
    fn who_has_the_most_gives_and_who_has_a_share_gives_of_its_own() {
        let mut budget = Budget::new(12, 8);
        let _of_a = [part(&mut budget, "a", 1, 1), part(&mut budget, "a", 2, 1), part(&mut budget, "a", 3, 1)];
        let mut of_b = part(&mut budget, "b", 4, 1);
        let giver = |budget: &Budget, name: &str, webhook| budget.giver(&tenant(name), WebhookNo(webhook));
        assert_eq!(giver(&budget, "c", 9), None, "there is room");
        budget.resize(&mut of_b, 9);
        assert_eq!(giver(&budget, "c", 9), Some(WebhookNo(4)), "who has nothing takes");
        assert_eq!(giver(&budget, "a", 5), Some(WebhookNo(4)), "who has less takes");
        assert_eq!(
            giver(&budget, "b", 6),
            Some(WebhookNo(4)),
            "a lane that holds too many gives to its tenant's others"
        );
        assert_eq!(giver(&budget, "b", 4), None, "and not to itself");
        budget.resize(&mut of_b, 1);
        let _of_d: Vec<_> = (10..18).map(|webhook| part(&mut budget, "d", webhook, 1)).collect();
        assert_eq!(giver(&budget, "d", 18), None, "who has the most takes from nobody");
        assert_eq!(giver(&budget, "b", 5), Some(WebhookNo(17)), "of equals the latest gives");
    }
}
