//! Work for a store, drawn at random, written down in the model before it is asked for and after it was answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{RngExt as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{
    super::RedbStore,
    model::{Attempt, Delivery, Fate, Hook, Model, Occurrence, Shared, event, is_ordered},
    quotas::is_excess,
};
use crate::{
    limits::REQUEST_ROWS_MAX,
    model::{
        delivery::{DeliveryState, ErrorClass, Outcome},
        exchange::Exchange,
        ids::DeliveryKey,
        ordering::Ordering,
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::{
        ConfigAnswer, ConfigChange, GroupCommitted, OutcomeGroup, Publish, Published, Store as _, StoreError,
        types::Hint,
    },
};

/// As far ahead as anything is due.
pub(super) const FAR: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
/// The tenant with few webhooks, and the one whose events go to more than one transaction writes.
pub(super) const FEW: &str = "few";
pub(super) const WIDE: &str = "wide";
pub(super) const FEW_HOOKS: usize = 3;
pub(super) const WIDE_HOOKS: usize = REQUEST_ROWS_MAX + 3;

/// Something that the store was asked for and did not do.
#[derive(Debug)]
pub(super) enum Broken {
    /// It said so.
    Store(StoreError),
    /// It gave an answer that is wrong.
    Wrong(String),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Asks things of a store.
pub(super) struct Driver<'a> {
    pub(super) store: &'a RedbStore,
    pub(super) model: &'a Shared,
    pub(super) rng: &'a mut StdRng,
}

impl Driver<'_> {
    pub(super) fn write<T>(&self, write: impl FnOnce(&mut Model) -> T) -> T {
        write(Arc::make_mut(&mut self.model.lock()))
    }

    pub(super) fn note(&self, what: String) {
        self.write(|model| model.note(what));
    }

    /// What is known so far.
    pub(super) fn known(&self) -> Arc<Model> {
        self.model.lock().clone()
    }

    /// Does something at random, a little later than what was done before.
    pub(super) async fn step(&mut self) -> Result<(), Broken> {
        let passed = Duration::from_millis(self.rng.random_range(0..14_000));
        self.write(|model| model.now = model.now + passed);
        for (tenant, hooks) in [(FEW, FEW_HOOKS), (WIDE, WIDE_HOOKS)] {
            let known = self.known();
            let missing = hooks - known.targets(tenant).count().min(hooks);
            let wanted = missing > 0 && (missing > 1 || self.rng.random_ratio(1, 3));
            if wanted && !known.is_being_erased(tenant) {
                return self.create(tenant, missing).await;
            }
        }
        match self.rng.random_range(0..100) {
            0..22 => self.publish().await,
            22..44 => self.attempt().await,
            44..50 => self.delete().await,
            50..56 => self.publish_again().await,
            56..62 => self.erase_event().await,
            62..64 => self.erase_tenant().await,
            64..66 => self.finish_erasing().await,
            66..80 => self.replay().await,
            80..84 => self.set_quota().await,
            _ => self.tend().await,
        }
    }

    /// Registers webhooks, all at once.
    pub(super) async fn create(&mut self, tenant: &'static str, count: usize) -> Result<(), Broken> {
        self.note(format!("create {count} webhooks of {tenant}"));
        let entry = self.begin("CreateWebhook", tenant).await?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let (label, time) = self.write(|model| {
                let label = model.label();
                let hook = Hook { tenant, created: Fate::Open, known: None, deleted: None, erased: false };
                model.hooks.insert(label, hook);
                (label, model.now)
            });
            let spec = WebhookSpec {
                tenant: tenant.parse().expect("a tenant"),
                settings: Settings {
                    description: label.to_string().into(),
                    ordering: Ordering { ordered: is_ordered(label), ..Ordering::default() },
                    ..Settings::new(Target::from_stored("https://receiver.example/").expect("a URL"), Subscription::All)
                },
                enabled: true,
            };
            let secret = Secret::from_bytes(&[7; 32]).expect("long enough");
            changes.push(ConfigChange::CreateWebhook { spec, keys: secret.into(), request: None, time });
        }
        let answers = futures::future::join_all(changes.into_iter().map(|change| self.store.put_config(change))).await;
        for answer in answers {
            let ConfigAnswer::Created(webhook) = answer? else { return wrong("a webhook was not created") };
            self.write(|model| {
                let hook = label_of(&webhook.settings.description).and_then(|label| model.hooks.get_mut(&label));
                let hook = hook.expect("it was asked for");
                (hook.created, hook.known) = (Fate::Done, Some((webhook.no, webhook.id)));
            });
        }
        self.end(entry).await
    }

    /// Deletes a webhook with whatever is pending for it.
    pub(super) async fn delete(&mut self) -> Result<(), Broken> {
        self.clear().await?;
        let tenant = if self.rng.random() { FEW } else { WIDE };
        let known = self.known();
        let found = known.targets(tenant).choose(self.rng).map(|label| (label, known.pending(label)));
        let Some((label, pending)) = found else { return Ok(()) };
        self.note(format!("delete webhook {label} with {pending} pending"));
        let entry = self.begin("DeleteWebhook", tenant).await?;
        let (id, time) = self.write(|model| {
            let now = model.now;
            let hook = model.hooks.get_mut(&label).expect("it was drawn from them");
            hook.deleted = Some((Fate::Open, now, pending));
            (hook.known.expect("it was created").1, now)
        });
        let change = ConfigChange::DeleteWebhook { tenant: tenant.parse().expect("a tenant"), id, expect: None, time };
        let answer = self.store.put_config(change).await?;
        let ConfigAnswer::Deleted { cancelled } = answer else { return wrong("a webhook was not deleted") };
        if cancelled != pending {
            return wrong(format!("{cancelled} deliveries were cancelled, {pending} were pending"));
        }
        self.write(|model| {
            let hook = model.hooks.get_mut(&label).expect("it was drawn from them");
            hook.deleted = Some((Fate::Done, time, pending));
            model.replays.stop_of(label);
        });
        self.end(entry).await
    }

    /// Publishes a few events.
    pub(super) async fn publish(&mut self) -> Result<(), Broken> {
        let mut labels = Vec::new();
        for _ in 0..self.rng.random_range(1..6) {
            let tenant = if self.rng.random_ratio(1, 4) { WIDE } else { FEW };
            let bytes = if self.rng.random_ratio(1, 8) { self.rng.random_range(0..20_000) } else { 50 };
            labels.push(self.write(|model| {
                let label = model.label();
                let mut event = Occurrence {
                    tenant,
                    accepted: Fate::Open,
                    time: model.now,
                    bytes,
                    counted: model.bytes_max(tenant).is_some(),
                    erased: false,
                    deliveries: BTreeMap::new(),
                };
                let due = event.due();
                event.deliveries = model.targets(tenant).map(|hook| ((hook, 0), Delivery::new(due))).collect();
                model.events.insert(label, event);
                label
            }));
        }
        self.note(format!("publish {labels:?}"));
        let answers = self.store.publish(self.batch(&labels)).await?;
        let first = labels[0];
        for (label, answer) in labels.into_iter().zip(answers) {
            self.accepted(first, label, answer)?;
        }
        Ok(())
    }

    /// An event was answered; it is part of a batch that begins with `first`.
    fn accepted(&self, first: u32, label: u32, answer: Published) -> Result<(), Broken> {
        self.write(|model| {
            // What was published before and not answered may have used up what there was.
            let is_unsure = model.events.range(..first).any(|(_, event)| event.accepted == Fate::Open);
            let expected = model.refusal(label);
            let event = model.events.get_mut(&label).expect("it was published");
            let deliveries = event.deliveries.len();
            let new = Published::New { deliveries: u32::try_from(deliveries).expect("a few") };
            let is_right = answer == expected.unwrap_or(new) || (is_unsure && (answer == new || is_excess(answer)));
            if !is_right {
                return wrong(format!(
                    "event {label} with {deliveries} deliveries was answered {answer:?}, not {expected:?}"
                ));
            }
            if answer == new {
                event.accepted = Fate::Done;
            } else {
                model.events.remove(&label);
            }
            Ok(())
        })
    }

    fn batch(&self, labels: &[u32]) -> Vec<Publish> {
        let known = self.known();
        let events = labels.iter().map(|label| (*label, known.events[label].clone()));
        let published = events.map(|(label, occurrence)| {
            let event = event(label, &occurrence);
            let targets = self.store.catalog().targets(&event);
            Publish { event, targets, accept_time: occurrence.time }
        });
        published.collect()
    }

    /// Publishes what was published before.
    pub(super) async fn publish_again(&mut self) -> Result<(), Broken> {
        let known = self.known();
        let kept = known.events.iter().filter(|(_, event)| known.is_kept(event)).sample(self.rng, 12);
        let kept = kept.into_iter().map(|(label, event)| (*label, super::model::duplicate(event)));
        let (labels, expected): (Vec<_>, Vec<_>) = kept.unzip();
        let answers = self.store.publish(self.batch(&labels)).await?;
        if answers != expected {
            return wrong(format!("events {labels:?} are duplicates {expected:?}, and were answered {answers:?}"));
        }
        Ok(())
    }

    /// Records attempts of what is due for a webhook, sometimes while events are published.
    pub(super) async fn attempt(&mut self) -> Result<(), Broken> {
        let publishing = self.rng.random_ratio(1, 3);
        self.attempt_while(publishing).await
    }

    /// Records attempts of what is due for a webhook, in one or two groups.
    pub(super) async fn attempt_while(&mut self, publishing: bool) -> Result<(), Broken> {
        let known = self.known();
        let Some((&hook, known)) = known.hooks.iter().filter(|(hook, _)| known.lives(**hook)).choose(self.rng) else {
            return Ok(());
        };
        let (no, _) = known.known.expect("it lives");
        let page = self.store.due(no, FAR, 40).await?;
        let mut groups: Vec<OutcomeGroup> = vec![OutcomeGroup::default(); self.rng.random_range(1..3)];
        let mut labels = BTreeMap::new();
        for hint in page.hints {
            if self.rng.random_ratio(1, 3) {
                continue;
            }
            let at = self.rng.random_range(0..groups.len());
            let group = *labels.entry(at).or_insert_with(|| self.write(Model::label));
            if let Some(outcome) = self.outcome(hook, hint, group).await? {
                groups[at].outcomes.push(outcome);
            }
        }
        self.note(format!("attempts for webhook {hook} in groups {labels:?}"));
        let store = self.store;
        let commit = store.commit(store.owner(), groups);
        let committed = if publishing {
            let (committed, published) = futures::join!(commit, self.publish());
            published?;
            committed?
        } else {
            commit.await?
        };
        if !committed.iter().all(|group| matches!(group, GroupCommitted::Applied(_))) {
            return wrong("outcomes were fenced");
        }
        self.write(|model| labels.into_values().for_each(|group| model.happened(group)));
        Ok(())
    }

    async fn outcome(&mut self, hook: u32, hint: Hint, group: u32) -> Result<Option<Outcome>, Broken> {
        let Some(stored) = self.store.events(&[hint.event], usize::MAX).await?.remove(0) else {
            // What is erased is due until that is cleared.
            return if self.known().erases() {
                Ok(None)
            } else {
                wrong(format!("{:?} is due and not there", hint.event))
            };
        };
        let label = label_of(&stored.event.id.as_str()[1..]).expect("ours");
        let time = self.known().now;
        let (state, next) = match self.rng.random_range(0..4) {
            0 => {
                let wait = Duration::from_secs(self.rng.random_range(1..40));
                (DeliveryState::Pending, Some(time + wait))
            }
            1 => (DeliveryState::Failed, None),
            _ => (DeliveryState::Delivered, None),
        };
        let noted = self.write(|model| {
            let event = model.events.get_mut(&label).expect("it was published");
            let delivery = event.deliveries.get_mut(&(hook, hint.replay)).expect("it goes there");
            // One that is open already is not attempted again before it is known what became of it.
            let free = event.accepted == Fate::Done && delivery.open.is_none();
            free.then(|| delivery.open = Some((group, Attempt { time, state, next })))
        });
        if noted.is_none() {
            return Ok(None);
        }
        let (no, id) = self.known().hooks[&hook].known.expect("it lives");
        let key = DeliveryKey { webhook: no, event: hint.event, replay: hint.replay };
        let failed = state != DeliveryState::Delivered;
        Ok(Some(Outcome {
            key,
            delivery_id: self.store.sealer().delivery_id(key),
            tenant: stored.event.tenant,
            webhook_id: id,
            event_id: stored.event.id,
            event_type: stored.event.event_type,
            attempt: hint.attempts.ended() + 1,
            state,
            http_status: Some(if failed { 500 } else { 200 }),
            error_class: failed.then_some(ErrorClass::HttpStatus),
            error: String::new(),
            latency: Duration::from_millis(5),
            time,
            next_attempt: next,
            held: false,
            response_body: Bytes::new(),
            exchange: Exchange::default(),
        }))
    }

    /// Some steps of upkeep: moves, sealing, rescues, removals.
    pub(super) async fn tend(&mut self) -> Result<(), Broken> {
        self.note("tend".into());
        for _ in 0..self.rng.random_range(1..12) {
            let now = self.known().now;
            if !self.store.upkeep(now).await? {
                break;
            }
        }
        self.note_finished().await
    }
}

/// The label that a text is.
pub(super) fn label_of(text: &str) -> Option<u32> {
    text.parse().ok()
}

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken::Wrong(what.into()))
}
