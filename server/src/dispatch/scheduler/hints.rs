//! The part of the scheduler that learns what is due: from commits, from surveys, and from what it reads.

use super::Scheduler;
use crate::{
    dispatch::orders::Webhooks,
    flow::Board,
    model::{
        ids::{Tenant, WebhookNo},
        time::Timestamp,
    },
    store::{AsOf, DuePage, Hint, LanePage},
};

impl Scheduler {
    /// What commits made due.
    pub(in crate::dispatch) fn news(&mut self, board: Board, now: Timestamp, webhooks: &impl Webhooks) {
        self.see(board.as_of);
        let Board { mut fresh, changed, cancelled, .. } = board;
        // By number, so that the same input has the same result.
        let mut again: Vec<_> = changed.union(&cancelled).copied().collect();
        again.sort_unstable();
        for webhook in again {
            // Deliveries may have been cancelled: what is on disk counts, and is read again.
            fresh.remove(&webhook);
            if cancelled.contains(&webhook)
                && let Some((lane, _)) = self.lane(webhook)
            {
                lane.recall(board.as_of);
            }
            if let Some(enabled) = webhooks.if_enabled(webhook) {
                self.forget_deliveries(webhook);
                if changed.contains(&webhook) {
                    self.adapt(webhook, &enabled, now);
                }
                self.expect(webhook, now, board.as_of);
            } else {
                self.dismiss(webhook);
            }
            self.review(webhook, now);
        }
        let mut fresh: Vec<_> = fresh.into_iter().collect();
        fresh.sort_unstable_by_key(|(webhook, _)| *webhook);
        for (webhook, fresh) in fresh {
            let Some(enabled) = webhooks.if_enabled(webhook) else {
                self.dismiss(webhook);
                self.review(webhook, now);
                continue;
            };
            if let Some(until) = self.shut_for_long(webhook, now) {
                self.expect(webhook, until, board.as_of);
                self.review(webhook, now);
                continue;
            }
            let (lane, _) = self.awaken(webhook, enabled.tenant);
            lane.pace = enabled.pace;
            for hint in &fresh.hints {
                self.note(webhook, hint, board.as_of, now);
            }
            if let (Some(since), Some((lane, _))) = (fresh.more_since, self.lane(webhook)) {
                lane.raise(since);
            }
            self.review(webhook, now);
        }
    }

    /// A page of all webhooks with deliveries to make.
    pub(in crate::dispatch) fn surveyed(&mut self, page: &LanePage) {
        self.see(page.as_of);
        for lane in &page.lanes {
            self.expect(lane.webhook, lane.first_due, page.as_of);
        }
    }

    /// What a [`Refill`](crate::dispatch::orders::Refill) read; `None`: it failed.
    pub(in crate::dispatch) fn refilled(
        &mut self,
        webhook: WebhookNo,
        page: Option<&DuePage>,
        now: Timestamp,
        webhooks: &impl Webhooks,
    ) {
        self.refills_running -= 1;
        self.see(page.map_or(AsOf::default(), |page| page.as_of));
        let enabled = webhooks.if_enabled(webhook).is_some();
        let (seen, pause) = (self.seen, now + self.limits.failure_pause);
        if let Some(page) = page.filter(|_| enabled) {
            self.make_room(webhook, &page.hints, now);
        }
        let (lane, budget) = self.lane(webhook).expect("a lane is kept while it is read");
        match page {
            Some(page) if enabled => {
                lane.absorb(page, seen, budget);
                if let (false, Some(due)) = (page.more, page.next_due) {
                    self.expect(webhook, due, page.as_of);
                }
            }
            Some(_) => lane.end_refill(),
            None => {
                lane.end_refill();
                lane.pause(pause);
            }
        }
        if !enabled {
            self.dismiss(webhook);
        }
        self.review(webhook, now);
    }

    /// Every hint in memory is seen by reads from this one on.
    pub(super) fn see(&mut self, as_of: AsOf) {
        self.seen = self.seen.max(as_of);
    }

    /// What a webhook slept for has come.
    pub(super) fn call(&mut self, webhook: WebhookNo, tenant: &Tenant, as_of: AsOf) {
        let entry = self.entries.entry(webhook).or_default();
        if let Some(lane) = entry.lane.as_deref_mut() {
            lane.raise(as_of);
            return;
        }
        if entry.due_since.is_none() {
            self.refills.push(tenant, webhook);
        }
        entry.due_since = entry.due_since.max(Some(as_of));
    }

    /// Takes note of a delivery that reads from `as_of` on see.
    pub(super) fn note(&mut self, webhook: WebhookNo, hint: &Hint, as_of: AsOf, now: Timestamp) {
        if hint.due > now + self.limits.horizon {
            self.expect(webhook, hint.due, as_of);
            return;
        }
        self.make_room(webhook, std::slice::from_ref(hint), now);
        if let Some((lane, budget)) = self.lane(webhook) {
            lane.admit(hint, as_of, budget);
        }
    }

    /// Something is due then, as reads from `as_of` on see.
    pub(super) fn expect(&mut self, webhook: WebhookNo, due: Timestamp, as_of: AsOf) {
        let entry = self.entries.entry(webhook).or_default();
        let next = match entry.next_due {
            Some((earlier, seen)) => (earlier.min(due), seen.max(as_of)),
            None => (due, as_of),
        };
        if let Some((replaced, _)) = entry.next_due.replace(next) {
            self.sleepers.remove(&(replaced, webhook));
        }
        self.sleepers.insert((next.0, webhook));
    }

    /// Whether there is room for a hint of the lane, besides one for each that is being read, or it may take another's.
    pub(super) fn may_grow(&self, tenant: &Tenant, webhook: WebhookNo) -> bool {
        self.budget.free() > self.refills_running || self.budget.giver(tenant, webhook).is_some()
    }

    /// Makes room for those of the hints that the lane would take in, as far as others have to give some up for it.
    fn make_room(&mut self, webhook: WebhookNo, hints: &[Hint], now: Timestamp) {
        let Some((lane, budget)) = self.lane(webhook) else { return };
        let wanted = lane.takes(hints, budget);
        if budget.free() >= wanted {
            return;
        }
        let tenant = lane.tenant().clone();
        while self.budget.free() < wanted
            && let Some(giver) = self.budget.giver(&tenant, webhook)
        {
            let seen = self.seen;
            let (lane, budget) = self.lane(giver).expect("who has hints has a lane");
            lane.evict_last(seen, budget);
            self.review(giver, now);
        }
    }
}
