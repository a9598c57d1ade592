//! What is erased: at once, for this store has no files.

use std::collections::BTreeSet;

use postrider_server::{
    model::{
        erasure::{Erasure, Subject},
        ids::{DeliveryKey, EventId, EventSeq, Tenant},
        seal::Sealer,
        time::Timestamp,
    },
    store::{CancelReason, Erase, Erased, EventTypeStep, LogEntry},
};

use super::image::{Effects, Image};

/// What was erased, or which request it was: whose, and the id.
type Name = (Tenant, Subject, String);

/// The erasures of an image.
#[derive(Debug, Default)]
pub(super) struct Erasures {
    /// By number: whose, and what is told of it.
    all: Vec<(Tenant, Erasure)>,
    /// What is not to be done again, and the index of its erasure.
    names: Vec<(Name, usize)>,
    /// Indexes of log entries that nothing is left of.
    hollow: BTreeSet<usize>,
}

impl Erasures {
    fn known(&self, name: &Name) -> Option<Erased> {
        let known = self.names.iter().find(|(known, _)| known == name);
        known.map(|(_, index)| Erased::Decided(self.all[*index].1))
    }

    /// Whether an event of this id was erased.
    pub(super) fn has_event(&self, tenant: &Tenant, id: &EventId) -> bool {
        self.known(&(tenant.clone(), Subject::Event, id.to_string())).is_some()
    }

    /// An erasure of a tenant.
    pub(super) fn find(&self, tenant: &Tenant, id: postrider_server::model::ids::ErasureId) -> Option<Erasure> {
        let mut mine = self.all.iter().filter(|(whose, _)| whose == tenant).map(|(_, erasure)| *erasure);
        mine.find(|erasure| erasure.id == id)
    }

    /// Whether the log entry at this index was erased.
    pub(super) fn has_entry(&self, index: usize) -> bool {
        self.hollow.contains(&index)
    }

    /// Forgets that events were erased before that.
    pub(super) fn forget(&mut self, before: Timestamp) {
        let all = &self.all;
        self.names.retain(|(_, index)| all[*index].1.request_time > before);
    }
}

impl Image {
    pub(super) fn erase(&mut self, erase: &Erase, effects: &mut Effects) -> Erased {
        match erase {
            Erase::Event { tenant, id, time } => self.erase_event(tenant, id, *time, effects),
            Erase::Tenant { tenant, request_id, time } => self.erase_tenant(tenant, request_id, *time, effects),
        }
    }

    fn erase_event(&mut self, tenant: &Tenant, id: &EventId, time: Timestamp, effects: &mut Effects) -> Erased {
        let name = (tenant.clone(), Subject::Event, id.to_string());
        if let Some(known) = self.erasures.known(&name) {
            return known;
        }
        let Some(seq) = self.event_seq(tenant, id) else { return Erased::NotFound };
        self.arrive_all(&|event| event == seq, effects);
        let keys: Vec<DeliveryKey> = self.deliveries.keys().copied().filter(|key| key.event == seq).collect();
        self.cancel_named(&keys, CancelReason::Requested, time, effects);
        self.forget_events(&BTreeSet::from([seq]));
        self.hollow(|entry| match entry {
            LogEntry::Outcome(outcome) => outcome.key.event == seq,
            LogEntry::Operational(it) => it.tenant == *tenant && it.occurrence.event() == Some(id),
            LogEntry::WebhookCancelled(_) => false,
        });
        self.erased(tenant, Subject::Event, Some(name), time)
    }

    fn erase_tenant(&mut self, tenant: &Tenant, request_id: &str, time: Timestamp, effects: &mut Effects) -> Erased {
        let name = (tenant.clone(), Subject::Tenant, request_id.to_owned());
        if let Some(known) = self.erasures.known(&name).filter(|_| !request_id.is_empty()) {
            return known;
        }
        let mine = self.events.values().filter(|stored| stored.event.tenant == *tenant);
        let events: BTreeSet<EventSeq> = mine.map(|stored| stored.seq).collect();
        self.arrive_all(&|event| events.contains(&event), effects);
        let webhooks = self.webhooks.values().map(|(_, webhook)| webhook).filter(|webhook| webhook.tenant == *tenant);
        for id in webhooks.map(|webhook| webhook.id).collect::<Vec<_>>() {
            self.delete(tenant, id, None, time, effects);
        }
        self.forget_events(&events);
        self.tombstones.retain(|_, (_, webhook, _)| webhook.tenant != *tenant);
        self.requests.retain(|(whose, _), _| whose != tenant);
        let types: Vec<_> =
            self.event_types.keys().filter(|key| key.tenant.as_ref() == Some(tenant)).cloned().collect();
        for key in types {
            self.event_types.remove(&key);
            effects.event_types.push(EventTypeStep::Removed(key));
        }
        let replays = self.replays.values().filter(|replay| replay.spec.tenant == *tenant).map(|replay| replay.no);
        for no in replays.collect::<Vec<_>>() {
            self.replays.remove(&no);
            effects.replays.insert(no, None);
        }
        self.hollow(|entry| match entry {
            LogEntry::Outcome(outcome) => outcome.tenant == *tenant,
            LogEntry::Operational(it) => it.tenant == *tenant,
            LogEntry::WebhookCancelled(cancelled) => cancelled.tenant == *tenant,
        });
        self.forget_names(tenant);
        self.erased(tenant, Subject::Tenant, (!request_id.is_empty()).then_some(name), time)
    }

    /// Wide events reach their webhooks first, so that what waits behind them goes on.
    fn arrive_all(&mut self, is_concerned: &dyn Fn(EventSeq) -> bool, effects: &mut Effects) {
        while self.fan_outs.keys().any(|seq| is_concerned(*seq)) {
            self.fan_out_slice(effects);
        }
    }

    fn hollow(&mut self, is_erased: impl Fn(&LogEntry) -> bool) {
        let erased = self.log.iter().enumerate().filter(|(_, entry)| is_erased(entry)).map(|(index, _)| index);
        self.erasures.hollow.extend(erased);
    }

    fn erased(&mut self, tenant: &Tenant, subject: Subject, name: Option<Name>, time: Timestamp) -> Erased {
        let index = self.erasures.all.len();
        let id = Sealer::new(self.key).erasure_id(index as u64 + 1);
        let erasure = Erasure { id, subject, request_time: time, finish_time: Some(time) };
        self.erasures.all.push((tenant.clone(), erasure));
        self.erasures.names.extend(name.map(|name| (name, index)));
        Erased::Decided(erasure)
    }
}
