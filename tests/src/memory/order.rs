//! Who is due, and who waits behind whom.

use postrider_server::{
    model::{
        delivery::Attempts,
        ids::{DeliveryKey, EventSeq, WebhookNo},
        ordering::OrderKey,
    },
    store::Hint,
};

use super::image::{Effects, Image, Move, Sending};

impl Image {
    /// A delivery reaches its webhook: it is due, or waits behind the head of its key.
    pub(super) fn arrive(&mut self, no: WebhookNo, sending: Sending, effects: &mut Effects) {
        let (event, replay) = sending;
        *self.pending.entry(no).or_default() += 1;
        effects.touched.insert(no);
        let is_ordered = self.webhooks[&no].1.settings.ordering.ordered;
        let order = OrderKey::of(&self.events[&event].event).filter(|_| is_ordered);
        let Some(order) = order else { return self.make_due(no, sending, effects) };
        let behind = self.is_on_its_way(no, order, event);
        let queues = self.queues.entry(no).or_default();
        if behind || queues.heads.contains_key(&order) {
            queues.parked.insert(sending, order);
            effects.moves.push(Move::Parked(DeliveryKey { webhook: no, event, replay }));
        } else {
            queues.heads.insert(order, sending);
            self.make_due(no, sending, effects);
        }
    }

    /// Whether an older event of this key has not reached the webhook yet.
    fn is_on_its_way(&self, no: WebhookNo, order: OrderKey, before: EventSeq) -> bool {
        self.fan_outs
            .range(..before)
            .filter(|(seq, rest)| rest.contains(&no) && OrderKey::of(&self.events[seq].event) == Some(order))
            // What was cancelled on its way will not arrive.
            .any(|(&event, _)| !self.deliveries[&DeliveryKey { webhook: no, event, replay: 0 }].state.is_final())
    }

    /// What waits behind a head goes on.
    pub(super) fn pass_on(&mut self, no: WebhookNo, sending: Sending, effects: &mut Effects) {
        let Some(queues) = self.queues.get_mut(&no) else { return };
        let Some(order) = queues.heads.iter().find_map(|(order, head)| (*head == sending).then_some(*order)) else {
            return;
        };
        let next = queues.parked.iter().find_map(|(next, waits_for)| (*waits_for == order).then_some(*next));
        // An older one that is on its way becomes the head when it arrives.
        let next = next.filter(|next| !self.is_on_its_way(no, order, next.0));
        let queues = self.queues.entry(no).or_default();
        match next {
            Some(next) => {
                queues.parked.remove(&next);
                queues.heads.insert(order, next);
                self.make_due(no, next, effects);
            }
            None => drop(queues.heads.remove(&order)),
        }
    }

    pub(super) fn release_slice(&mut self, effects: &mut Effects) {
        let Some((&no, &until)) = self.releases.first_key_value() else { return };
        let queues = self.queues.entry(no).or_default();
        let parked: Vec<_> = queues.parked.range(..(until, 0)).map(|(sending, _)| *sending).collect();
        for sending in parked.iter().take(self.limits.slice_rows_max).copied() {
            self.queues.entry(no).or_default().parked.remove(&sending);
            self.make_due(no, sending, effects);
        }
        if parked.len() > self.limits.slice_rows_max {
            return;
        }
        let heads: Vec<_> = self.queues[&no].heads.values().copied().filter(|head| head.0 < until).collect();
        for head in heads {
            self.pass_on(no, head, effects);
        }
        self.releases.remove(&no);
    }

    fn make_due(&mut self, no: WebhookNo, (event, replay): Sending, effects: &mut Effects) {
        let row = &self.deliveries[&DeliveryKey { webhook: no, event, replay }];
        let hint = Hint { event, replay, attempts: Attempts::default(), due: row.due };
        let scheduled = hint.due > self.events[&event].accept_time;
        let due = self.due.entry(no).or_default();
        let slots = if scheduled { &mut due.scheduled } else { &mut due.ready };
        slots.insert((hint.due, event, replay));
        effects.due(no, hint);
    }
}
