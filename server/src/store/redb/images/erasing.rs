//! Erasing: events and whole tenants. What was decided stays decided, and nothing of what was erased is seen again.

use rand::{RngExt as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{
    super::RedbStore,
    driver::{Broken, Driver, FEW, WIDE, wrong},
    model::{Fate, Model, RETENTION, event},
    verify::Violation,
};
use crate::{
    model::{ids::ErasureId, time::Timestamp},
    store::{DeliveryQuery, Erase, Erased, Publish, Published, Store as _},
};

/// Steps of upkeep after which an erasure has come to its end.
const STEPS_MAX: usize = 3_000;

/// An erasure.
#[derive(Debug, Clone)]
pub(super) struct Erasing {
    tenant: &'static str,
    /// One event's, by label; `None`: all there is of the tenant.
    event: Option<u32>,
    time: Timestamp,
    decided: Fate,
    /// Known once it was answered.
    id: Option<ErasureId>,
    /// It was seen to be.
    finished: bool,
}

impl Erasing {
    /// What is asked for. The same request again is answered the same.
    fn request(&self, label: u32) -> Erase {
        let (tenant, time) = (self.tenant.parse().expect("a tenant"), self.time);
        match self.event {
            Some(event) => Erase::Event { tenant, id: format!("e{event}").parse().expect("an id"), time },
            None => Erase::Tenant { tenant, request_id: format!("erasure {label}"), time },
        }
    }
}

impl Model {
    /// Whether everything of the tenant is being erased.
    pub(super) fn is_being_erased(&self, tenant: &str) -> bool {
        let whole = |it: &&Erasing| it.tenant == tenant && it.event.is_none();
        self.erasures.values().filter(whole).any(|it| it.decided == Fate::Done && !it.finished)
    }

    /// Whether anything is, or may be.
    pub(super) fn erases(&self) -> bool {
        self.erasures.values().any(|it| !it.finished)
    }

    /// An erasure is decided on.
    fn erased(&mut self, label: u32) {
        let erasing = self.erasures.get_mut(&label).expect("it was asked for");
        erasing.decided = Fate::Done;
        let (tenant, time) = (erasing.tenant, erasing.time);
        if let Some(label) = erasing.event {
            let living: Vec<u32> = self.hooks.keys().copied().filter(|hook| self.lives(*hook)).collect();
            let event = self.events.get_mut(&label).expect("it was published");
            event.erased = true;
            for ((hook, _), delivery) in &mut event.deliveries {
                if living.contains(hook) && delivery.before().is_some() {
                    delivery.cancelled = Some(time);
                }
            }
            return;
        }
        for event in self.events.values_mut().filter(|event| event.tenant == tenant) {
            event.erased = true;
        }
        for hook in self.hooks.values_mut().filter(|hook| hook.tenant == tenant && hook.created == Fate::Done) {
            hook.erased = true;
            hook.deleted =
                Some(hook.deleted.map_or((Fate::Done, time, 0), |(_, time, pending)| (Fate::Done, time, pending)));
        }
        let hooks = &self.hooks;
        self.replays.forget_of(|hook| hooks[&hook].erased);
        self.audit.forget_name(tenant);
    }
}

impl Driver<'_> {
    /// Erases an event.
    pub(super) async fn erase_event(&mut self) -> Result<(), Broken> {
        let known = self.known();
        let kept =
            known.events.iter().filter(|(_, event)| known.is_kept(event) && !known.is_being_erased(event.tenant));
        let Some((&label, event)) = kept.choose(self.rng) else { return Ok(()) };
        self.erase(event.tenant, Some(label)).await
    }

    /// Erases all there is of a tenant; rarely of the one that has much.
    pub(super) async fn erase_tenant(&mut self) -> Result<(), Broken> {
        let tenant = if self.rng.random_ratio(1, 3) { WIDE } else { FEW };
        let known = self.known();
        if known.is_being_erased(tenant) || known.targets(tenant).next().is_none() {
            return Ok(());
        }
        self.erase(tenant, None).await
    }

    async fn erase(&mut self, tenant: &'static str, event: Option<u32>) -> Result<(), Broken> {
        self.note(format!("erase {event:?} of {tenant}"));
        let entry = self.begin("Erase", tenant).await?;
        let (label, erasing) = self.write(|model| {
            let label = model.label();
            let erasing = Erasing { tenant, event, time: model.now, decided: Fate::Open, id: None, finished: false };
            model.erasures.insert(label, erasing.clone());
            (label, erasing)
        });
        let Erased::Decided(decided) = self.store.erase(erasing.request(label)).await? else {
            return wrong(format!("{erasing:?} was not decided on"));
        };
        self.write(|model| {
            model.erased(label);
            model.erasures.get_mut(&label).expect("it was asked for").id = Some(decided.id);
        });
        self.end(entry).await
    }

    /// Has upkeep carry out an erasure to its end, if there is one.
    pub(super) async fn finish_erasing(&mut self) -> Result<(), Broken> {
        self.note("finish erasing".into());
        for _ in 0..STEPS_MAX {
            if !self.known().erases() {
                return Ok(());
            }
            let now = self.known().now;
            self.store.upkeep(now).await?;
            self.note_finished().await?;
        }
        wrong("an erasure is never carried out")
    }

    /// Notes which erasures have come to their end.
    pub(super) async fn note_finished(&mut self) -> Result<(), Broken> {
        for (label, erasing) in self.known().erasures.iter().filter(|(_, it)| !it.finished) {
            let Some(id) = erasing.id else { continue };
            let known = self.store.erasure(&erasing.tenant.parse().expect("a tenant"), id).await?;
            // One that ended long ago is not remembered.
            if known.is_none_or(|known| known.finish_time.is_some()) {
                self.write(|model| model.erasures.get_mut(label).expect("it is known").finished = true);
            }
        }
        Ok(())
    }

    /// Waits until everything pending of what is erased is cancelled.
    pub(super) async fn clear(&self) -> Result<(), Broken> {
        while self.store.shared.erasing.has_slices() {
            self.store.commit(self.store.owner(), Vec::new()).await?;
        }
        Ok(())
    }
}

/// What was decided is decided, what was finished is finished; what was asked for is, or not.
pub(super) async fn settle(store: &RedbStore, model: &mut Model) -> Result<(), Violation> {
    for (label, erasing) in model.erasures.clone() {
        let tenant = erasing.tenant.parse().expect("a tenant");
        if erasing.decided == Fate::Open {
            let happened = match erasing.event {
                Some(event) => {
                    let id = format!("e{event}").parse().expect("an id");
                    store.find_event(&tenant, &id).await?.is_none()
                }
                None => store.catalog().list(Some(&tenant), None, 1).is_empty(),
            };
            if !happened {
                model.erasures.remove(&label);
                continue;
            }
            model.erased(label);
        }
        let may_be_forgotten = erasing.time + RETENTION <= model.now;
        let known = model.erasures.get_mut(&label).expect("it was decided on");
        if known.id.is_none() {
            let Erased::Decided(decided) = store.erase(erasing.request(label)).await? else {
                return Err(Violation(format!("{erasing:?} was decided on, and is not known")));
            };
            known.id = Some(decided.id);
        }
        let id = known.id.expect("just asked for");
        match store.erasure(&tenant, id).await? {
            Some(found) if found.request_time != erasing.time => {
                return Err(Violation(format!("{erasing:?} has become {found:?}")));
            }
            Some(found) if known.finished && found.finish_time.is_none() => {
                return Err(Violation(format!("{erasing:?} was finished, and is not")));
            }
            Some(found) => known.finished = found.finish_time.is_some(),
            None if may_be_forgotten => known.finished = true,
            None => return Err(Violation(format!("{erasing:?} is forgotten"))),
        }
        if may_be_forgotten {
            continue;
        }
        let again = store.erase(erasing.request(label)).await?;
        if !matches!(again, Erased::Decided(decided) if decided.id == id) {
            return Err(Violation(format!("{erasing:?} is {id:?}, and was decided on again: {again:?}")));
        }
    }
    Ok(())
}

/// Nothing is seen of what was erased, by its id or in any list, and its id is taken.
pub(super) async fn verify(store: &RedbStore, model: &Model, rng: &mut StdRng) -> Result<(), Violation> {
    let erased = model.events.iter().filter(|(_, event)| event.erased).sample(rng, 8);
    for (label, occurrence) in erased {
        let tenant = occurrence.tenant.parse().expect("a tenant");
        let id: crate::model::ids::EventId = format!("e{label}").parse().expect("an id");
        if store.find_event(&tenant, &id).await?.is_some() {
            return Err(Violation(format!("event {label} was erased and is back")));
        }
        let query = DeliveryQuery { event: Some(id), ..DeliveryQuery::default() };
        if let Some(found) = store.list(&query, None, 10).await?.deliveries.first() {
            return Err(Violation(format!("event {label} was erased, and {found:?} is left")));
        }
    }
    let remembered = model.erasures.values().filter(|it| it.time + RETENTION > model.now);
    for (label, tenant) in remembered.filter_map(|it| Some((it.event?, it.tenant))).sample(rng, 3) {
        let event = event(label, &model.events[&label]);
        let targets = store.catalog().targets(&event);
        let answer = store.publish(vec![Publish { event, targets, accept_time: model.now }]).await?;
        let expected = if model.is_being_erased(tenant) { Published::TenantBeingErased } else { Published::Erased };
        if answer != [expected] {
            return Err(Violation(format!("event {label} was erased, and came again with {answer:?}")));
        }
    }
    Ok(())
}
