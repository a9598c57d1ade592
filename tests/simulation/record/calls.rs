//! What callers asked for, what they were answered, and whether that fits.

use postrider_server::{
    accept::{Accepted, Rejected},
    model::{
        event::Event,
        ids::WebhookNo,
        time::Timestamp,
        webhook::{Webhook, WebhookSpec},
    },
    store::StoreError,
};

use super::{Hook, Occurrence, Record, index_of};
use crate::{
    receivers::Manner,
    world::{START, World},
};

/// Configuration.
impl Record {
    /// Somebody wants a webhook, whose URL must end with the number of those wanted before.
    pub(crate) fn create_requested(&mut self, now: Timestamp, spec: WebhookSpec, manner: Manner) {
        let index = self.hooks.len();
        let requested = self.note(
            now,
            format_args!("create hook {index} of {}: {manner:?} {:?}", spec.tenant, spec.settings.subscription),
        );
        self.hooks.push(Hook {
            disabled: (!spec.enabled).then_some(START),
            spec,
            manner,
            rng: World::rng(&self.plan, "receiver", index),
            no: None,
            requested,
            created: None,
            delete_requested: None,
            deleted: None,
            removed: false,
            busy: 0,
            last_start: START,
        });
    }

    /// It is answered that it exists.
    pub(crate) fn created(&mut self, now: Timestamp, webhook: &Webhook) {
        let index = index_of(webhook);
        self.learn(now, index, webhook.no);
        let step = self.note(now, format_args!("hook {index} is created: {:?}", webhook.no));
        self.hooks[index].created.get_or_insert(step);
    }

    pub(super) fn learn(&mut self, now: Timestamp, index: usize, no: WebhookNo) {
        let known = *self.hooks[index].no.get_or_insert(no);
        if known != no {
            self.violate(now, format_args!("hook {index} is created twice: {known:?} and {no:?}"));
        }
        self.hook_of.insert(no, index);
    }

    pub(crate) fn delete_requested(&mut self, now: Timestamp, index: usize) {
        let step = self.note(now, format_args!("delete hook {index}"));
        self.hooks[index].delete_requested.get_or_insert(step);
    }

    pub(crate) fn deleted(&mut self, now: Timestamp, index: usize) {
        let step = self.note(now, format_args!("hook {index} is deleted"));
        self.hooks[index].deleted.get_or_insert((step, now));
    }
}

/// Publishing.
impl Record {
    /// Somebody publishes. Returns when, for [`Self::answered`].
    pub(crate) fn submitted(&mut self, now: Timestamp, batch: &[Event]) -> u64 {
        let ids: Vec<_> = batch.iter().map(|event| event.id.as_str()).collect();
        let step = self.note(now, format_args!("publish {ids:?}"));
        for event in batch {
            let fresh = || Occurrence { first_submitted: step, ..Occurrence::default() };
            let known = self.events.entry((event.tenant.clone(), event.id.clone())).or_insert_with(fresh);
            known.contents.insert(event.content_hash());
        }
        step
    }

    /// What was answered to an event submitted at `since`.
    pub(crate) fn answered(&mut self, now: Timestamp, since: u64, event: &Event, answer: &Result<Accepted, Rejected>) {
        let id = &event.id;
        let step = self.note(now, format_args!("{id} is answered {answer:?}"));
        let hash = event.content_hash();
        let known = self.events.get_mut(&(event.tenant.clone(), id.clone())).expect("it was submitted");
        match answer {
            Ok(Accepted { deliveries, duplicate }) => {
                let before = known.accepted.replace(hash);
                if before.is_some_and(|before| before != hash) {
                    return self.violate(now, format_args!("{id} is accepted with two contents"));
                }
                if before.is_some() && !duplicate {
                    return self.violate(now, format_args!("{id} is accepted as new twice"));
                }
                if before.is_none() {
                    let since = if *duplicate { known.first_submitted } else { since };
                    self.targets(now, event, since, step, *deliveries as usize);
                }
            }
            Err(Rejected::IdReused) if known.contents.len() > 1 => {}
            Err(Rejected::Store(StoreError::Closed)) => {}
            Err(Rejected::Store(_)) if self.plan.weather.failures > 0.0 => {}
            Err(error) => self.violate(now, format_args!("{id} is refused without cause: {error}")),
        }
    }

    /// An event stored between two steps goes to all who wanted it all that time, and to nobody who never did.
    fn targets(&mut self, now: Timestamp, event: &Event, since: u64, until: u64, deliveries: usize) {
        let definite = |hook: &Hook| {
            hook.created.is_some_and(|created| created < since)
                && hook.delete_requested.is_none_or(|requested| requested > until)
        };
        let possible = |hook: &Hook| hook.requested < until && hook.deleted.is_none_or(|(deleted, _)| deleted > since);
        let hooks = || self.hooks.iter().enumerate().filter(|(_, hook)| hook.wants(event));
        let must: Vec<_> = hooks().filter(|(_, hook)| definite(hook)).map(|(index, _)| index).collect();
        let may = hooks().filter(|(_, hook)| possible(hook)).count();
        if !(must.len()..=may).contains(&deliveries) {
            let (id, least) = (&event.id, must.len());
            self.violate(now, format_args!("{id} goes to {deliveries} webhooks; {least} to {may} want it"));
        }
        let known = self.events.get_mut(&(event.tenant.clone(), event.id.clone())).expect("it was submitted");
        known.definite = must;
    }
}
