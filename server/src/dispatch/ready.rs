//! Whose turn it is: deficit round robin over tenants, then over the webhooks of the tenant.
//!
//! After M. Shreedhar and G. Varghese, *Efficient Fair Queuing using Deficit Round Robin* (1996). Every delivery costs one, so
//! a deficit is never carried into the next round and all that is left of it is how much of the present turn remains. A turn
//! that is interrupted because permits ran out goes on when there are some again.

use std::collections::{HashMap, VecDeque};

use crate::model::ids::{Tenant, WebhookNo};

/// Deliveries a tenant makes before the next one's turn.
const TENANT_QUANTUM: u32 = 8;
/// Deliveries a webhook makes before the tenant's next one's turn.
const WEBHOOK_QUANTUM: u32 = 4;

/// Webhooks waiting for their turn.
///
/// Invariant: a webhook is listed at most once (its lane knows whether it is), and no tenant is listed without webhooks.
#[derive(Debug, Default)]
pub(super) struct Ready {
    ring: VecDeque<Tenant>,
    /// What remains of the turn of the ring's first.
    left: u32,
    tenants: HashMap<Tenant, Turns>,
}

/// The webhooks of one tenant.
#[derive(Debug, Default)]
struct Turns {
    ring: VecDeque<WebhookNo>,
    /// What remains of the turn of the ring's first.
    left: u32,
}

impl Ready {
    /// Lists a webhook, behind those that wait already.
    pub(super) fn push(&mut self, tenant: &Tenant, webhook: WebhookNo) {
        if let Some(turns) = self.tenants.get_mut(tenant) {
            turns.ring.push_back(webhook);
            return;
        }
        let turns = Turns { ring: VecDeque::from([webhook]), left: WEBHOOK_QUANTUM };
        self.tenants.insert(tenant.clone(), turns);
        match self.ring.len() {
            0 => self.left = TENANT_QUANTUM,
            // Who was alone and has been served makes one more delivery; for a whole turn the newcomer would wait too long.
            1 if self.left < TENANT_QUANTUM => self.left = self.left.min(1),
            _ => {}
        }
        self.ring.push_back(tenant.clone());
    }

    /// Tenants listed.
    pub(super) fn tenants(&self) -> usize {
        self.ring.len()
    }

    /// Whose turn it is among tenants.
    pub(super) fn front_tenant(&self) -> Option<&Tenant> {
        self.ring.front()
    }

    /// Whose turn it is.
    pub(super) fn front(&self) -> Option<WebhookNo> {
        let turns = &self.tenants[self.ring.front()?];
        turns.ring.front().copied()
    }

    /// Whoever's turn it is made one delivery; it stays listed if it `stays` ready.
    pub(super) fn served(&mut self, stays: bool) {
        self.left = self.left.saturating_sub(1);
        if let Some(turns) = self.front_turns() {
            turns.left = turns.left.saturating_sub(1);
            if stays && turns.left == 0 {
                turns.ring.rotate_left(1);
                turns.left = WEBHOOK_QUANTUM;
            }
        }
        if !stays {
            self.leave();
        } else if self.left == 0 {
            self.next_tenant();
        }
    }

    /// Whoever's turn it is has nothing to do any more.
    pub(super) fn leave(&mut self) {
        let Some(turns) = self.front_turns() else { return };
        turns.ring.pop_front();
        turns.left = WEBHOOK_QUANTUM;
        if turns.ring.is_empty() {
            let tenant = self.ring.pop_front().expect("it has a turn");
            self.tenants.remove(&tenant);
            self.left = TENANT_QUANTUM;
        } else if self.left == 0 {
            self.next_tenant();
        }
    }

    /// Takes a webhook out, wherever it waits; the time this takes grows with the tenant's listed webhooks.
    pub(super) fn remove(&mut self, tenant: &Tenant, webhook: WebhookNo) {
        if self.front() == Some(webhook) {
            return self.leave();
        }
        let Some(turns) = self.tenants.get_mut(tenant) else { return };
        turns.ring.retain(|listed| *listed != webhook);
        if turns.ring.is_empty() {
            self.tenants.remove(tenant);
            self.ring.retain(|listed| listed != tenant);
        }
    }

    /// Every tenant's next one.
    #[cfg(test)]
    pub(super) fn fronts(&self) -> impl Iterator<Item = (&Tenant, WebhookNo)> {
        self.tenants.iter().filter_map(|(tenant, turns)| Some((tenant, *turns.ring.front()?)))
    }

    fn front_turns(&mut self) -> Option<&mut Turns> {
        self.tenants.get_mut(self.ring.front()?)
    }

    /// Whoever's turn it is lets the next tenant go first.
    pub(super) fn next_tenant(&mut self) {
        if self.ring.len() > 1 {
            self.ring.rotate_left(1);
            self.left = TENANT_QUANTUM;
        } else {
            // Alone, it goes on delivery by delivery until another one comes.
            self.left = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    /// Serves `turns` times, webhooks staying ready, and says who was served.
    fn serve(ready: &mut Ready, turns: usize) -> Vec<u64> {
        let serve_one = |ready: &mut Ready| {
            let no = ready.front()?;
            ready.served(true);
            Some(no.0)
        };
        (0..turns).map_while(|_| serve_one(ready)).collect()
    }

    #[test]
    fn a_tenant_with_many_webhooks_gets_no_more_than_one_with_one() {
        let mut ready = Ready::default();
        for no in 0..100 {
            ready.push(&tenant("big"), WebhookNo(no));
        }
        ready.push(&tenant("small"), WebhookNo(1000));
        let served = serve(&mut ready, 160);
        assert_eq!(served.iter().filter(|no| **no == 1000).count(), 80);
        let of_big: Vec<_> = served.iter().filter(|no| **no < 1000).copied().collect();
        assert_eq!(of_big[..9], [0, 0, 0, 0, 1, 1, 1, 1, 2], "webhooks take turns");
    }

    #[test]
    fn a_newcomer_does_not_wait_for_the_turn_of_one_that_was_alone() {
        let mut ready = Ready::default();
        ready.push(&tenant("a"), WebhookNo(1));
        assert_eq!(serve(&mut ready, 2), [1, 1]);
        ready.push(&tenant("b"), WebhookNo(2));
        assert_eq!(serve(&mut ready, 2), [1, 2]);
        ready.push(&tenant("c"), WebhookNo(3));
        assert_eq!(serve(&mut ready, 7), [2; 7], "of two or more, each has whole turns");
    }

    #[test]
    fn those_who_leave_are_not_served_and_others_go_on() {
        let mut ready = Ready::default();
        ready.push(&tenant("a"), WebhookNo(1));
        ready.push(&tenant("a"), WebhookNo(2));
        ready.push(&tenant("b"), WebhookNo(3));
        ready.push(&tenant("b"), WebhookNo(4));
        ready.served(false);
        assert_eq!(ready.front(), Some(WebhookNo(2)));
        ready.remove(&tenant("b"), WebhookNo(3));
        ready.leave();
        assert_eq!(serve(&mut ready, 2), [4, 4]);
        ready.remove(&tenant("b"), WebhookNo(4));
        assert_eq!(ready.front(), None);
        assert!(ready.tenants.is_empty() && ready.ring.is_empty());
        ready.push(&tenant("c"), WebhookNo(5));
        assert_eq!(serve(&mut ready, 20), [5; 20]);
    }
}
