//! Those who use the daemon: publishers, owners of webhooks, and watchers. They outlive it and remember.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use postrider_server::{
    accept::Accept,
    clock::Clock,
    model::{
        delivery::DeliveryState,
        event::{Event, JSON},
        ids::{EventTypeName, Tenant, WebhookId},
        ordering::{HeadRule, Ordering},
        scope::{LabelFilter, PayloadFilter, Scope},
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::{ConfigAnswer, ConfigChange, DeliveryView, FeedFilter, RequestKey, Store, StoreError},
    watch::{Start, Watch},
};
use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{plan::Plan, plan::Traffic, receivers::Manner, world::World};

const TYPES: [&str; 3] = ["ADD_TAG", "REMOVE_TAG", "NEW_LEAD"];
/// Ordering keys; some events have none.
const KEYS: [&str; 4] = ["", "a", "b", "c"];
/// What events are labelled with.
const SIDES: [&str; 2] = ["left", "right"];
/// Ids that all publishers use, with the same content.
const SHARED_IDS: u32 = 30;
/// Nothing more is published once there are as many.
pub(crate) const DELIVERIES_ENOUGH: usize = 500;
/// How long before it is to be sent an event is published at most.
const SCHEDULED_MS: u64 = 20_000;
/// Pause before a change that failed is asked for again.
const AGAIN: Duration = Duration::from_millis(300);

fn tenant(number: usize) -> Tenant {
    format!("t{number}").parse().expect("a tenant")
}

/// Waits; false: it is time to stop.
pub(crate) async fn wait(longest_ms: u64, rng: impl FnOnce(u64) -> u64, stop: &CancellationToken) -> bool {
    let pause = Duration::from_millis(rng(longest_ms));
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = sleep(pause) => true,
    }
}

/// Somebody who publishes.
pub(crate) struct Publisher {
    number: usize,
    rng: StdRng,
    made: Vec<Event>,
    count: u32,
    traffic: Traffic,
}

impl Publisher {
    pub(crate) fn new(plan: &Plan, number: usize) -> Self {
        let rng = World::rng(plan, "publisher", number);
        Self { number, rng, made: Vec::new(), count: 0, traffic: plan.traffic.clone() }
    }

    fn batch(&mut self, now: Timestamp) -> Vec<Event> {
        let large = self.rng.random_bool(self.traffic.bursts);
        let count = if large { self.rng.random_range(10..40) } else { self.rng.random_range(1..5) };
        (0..count).map(|_| self.event(now)).collect()
    }

    fn event(&mut self, now: Timestamp) -> Event {
        let repeats = self.traffic.repeats;
        if self.rng.random_bool(repeats)
            && let Some(known) = self.made.choose(&mut self.rng)
        {
            let mut again = known.clone();
            if self.rng.random_bool(0.3) {
                again.body = Bytes::from_static(b"\"something else\"");
            }
            return again;
        }
        let is_shared = self.rng.random_bool(repeats / 2.0);
        let id = if is_shared {
            format!("shared-{}", self.rng.random_range(0..SHARED_IDS))
        } else {
            self.count += 1;
            format!("p{}-{}", self.number, self.count)
        };
        let later = !is_shared && self.rng.random_bool(self.traffic.scheduled);
        let deliver_at = later.then(|| now + Duration::from_millis(self.rng.random_range(0..SCHEDULED_MS)));
        let hash = id.bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let event = Event {
            tenant: tenant(hash % self.traffic.tenants),
            event_type: EventTypeName::new(TYPES[hash / 7 % TYPES.len()]),
            labels: BTreeMap::from([("side".into(), SIDES[hash / 84 % SIDES.len()].into())]),
            ordering_key: KEYS[hash / 21 % KEYS.len()].into(),
            occur_time: None,
            content_type: JSON.into(),
            body: Bytes::from(format!("{{\"id\": \"{id}\", \"n\": {}}}", hash / 168 % 3)),
            deliver_at,
            max_age: None,
            id: id.parse().expect("an id"),
        };
        self.made.push(event.clone());
        event
    }
}

/// Publishes until it is told to stop.
pub(crate) async fn publish(world: Arc<World>, number: usize, clock: Clock, accept: Accept, stop: CancellationToken) {
    let publisher = &world.publishers[number];
    let pause_ms = world.plan.traffic.pause_ms;
    while wait(pause_ms, |longest| publisher.lock().rng.random_range(0..=longest), &stop).await {
        if world.record.lock().deliveries() > DELIVERIES_ENOUGH {
            return;
        }
        let batches: Vec<_> = {
            let mut publisher = publisher.lock();
            (0..publisher.rng.random_range(1..=2)).map(|_| publisher.batch(clock.now())).collect()
        };
        let mut submitted = Vec::new();
        for batch in batches {
            let since = world.record.lock().submitted(clock.now(), &batch);
            submitted.push((since, batch.clone(), accept.submit(batch).await));
        }
        for (since, batch, submitted) in submitted {
            let answers = submitted.answers().await;
            let mut record = world.record.lock();
            for (event, answer) in batch.iter().zip(&answers) {
                record.answered(clock.now(), since, event, answer);
            }
        }
    }
}

/// Whoever creates and deletes webhooks.
pub(crate) struct Webhooks {
    rng: StdRng,
    wanted: Vec<Wanted>,
}

/// A webhook somebody wants.
#[derive(Clone)]
struct Wanted {
    spec: WebhookSpec,
    request: Option<RequestKey>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Asked for; nobody knows whether it exists.
    Unsure,
    Exists(WebhookId),
    /// Deleted, or never to be asked for again.
    Over,
}

impl Webhooks {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { rng: World::rng(plan, "webhooks", 0), wanted: Vec::new() }
    }

    /// Invents a webhook. Its URL ends with its index.
    fn invent(&mut self, traffic: &Traffic) -> (usize, Manner) {
        let rng = &mut self.rng;
        let manner = Manner::random(traffic.healthy, rng);
        let index = self.wanted.len();
        let types = TYPES.iter().filter(|_| rng.random_bool(0.5)).map(|name| EventTypeName::new(name)).collect();
        let all = rng.random_bool(0.6);
        let subscription = if all { Subscription::All } else { Subscription::to(types) };
        let request = rng.random_bool(0.8).then(|| RequestKey { id: format!("create-{index}"), hash: 1 });
        let target = Target::from_stored(&format!("https://receiver.example/hook/{index}")).expect("a URL");
        let tenant = tenant(rng.random_range(0..traffic.tenants));
        let ordered = rng.random_bool(traffic.ordered);
        let skip_after = HeadRule::skip_after(rng.random_range(1..=3)).filter(|_| rng.random_bool(0.4));
        let ordering = Ordering { ordered, head: skip_after.unwrap_or_default() };
        let scope = if rng.random_bool(traffic.filtered) { some_events(rng) } else { None };
        let spec = WebhookSpec {
            tenant,
            settings: Settings { ordering, scope, ..Settings::new(target, subscription) },
            enabled: rng.random_bool(0.97),
        };
        self.wanted.push(Wanted { spec, request, state: State::Unsure });
        (index, manner)
    }

    fn existing(&self) -> Vec<usize> {
        let exists = |(index, wanted): (usize, &Wanted)| matches!(wanted.state, State::Exists(_)).then_some(index);
        self.wanted.iter().enumerate().filter_map(exists).collect()
    }
}

/// A filter by label, by payload, or by both.
fn some_events(rng: &mut StdRng) -> Option<Box<Scope>> {
    let by_label = rng.random_bool(0.6);
    let side = SIDES[rng.random_range(0..SIDES.len())].to_owned();
    let labels = if by_label { LabelFilter::new([("side".into(), vec![side])]) } else { LabelFilter::default() };
    let payload = PayloadFilter::compile("body.n > 0").expect("a filter");
    Scope::new(labels, (!by_label || rng.random_bool(0.3)).then_some(payload))
}

/// Makes the first webhooks, asks again for those whose fate is unknown, and then makes changes until it is told to stop.
pub(crate) async fn configure(world: Arc<World>, clock: Clock, store: Arc<dyn Store>, stop: CancellationToken) {
    let traffic = &world.plan.traffic;
    let unsure: Vec<_> = {
        let webhooks = world.webhooks.lock();
        let unsure = webhooks.wanted.iter().enumerate().filter(|(_, wanted)| wanted.state == State::Unsure);
        unsure.map(|(index, _)| index).collect()
    };
    for index in unsure {
        ask(&world, clock, store.as_ref(), index).await;
    }
    while world.webhooks.lock().wanted.len() < traffic.webhooks && !stop.is_cancelled() {
        create(&world, clock, store.as_ref()).await;
    }
    while wait(traffic.change_ms, |longest| world.webhooks.lock().rng.random_range(0..=longest), &stop).await {
        let chosen = {
            let webhooks = &mut *world.webhooks.lock();
            let existing = webhooks.existing();
            let deletes = webhooks.rng.random_bool(0.5) || webhooks.wanted.len() > 3 * traffic.webhooks;
            existing.choose(&mut webhooks.rng).copied().filter(|_| deletes)
        };
        match chosen {
            Some(index) => delete(&world, clock, store.as_ref(), index).await,
            None => create(&world, clock, store.as_ref()).await,
        }
    }
}

async fn create(world: &World, clock: Clock, store: &dyn Store) {
    let index = {
        let mut webhooks = world.webhooks.lock();
        let (index, manner) = webhooks.invent(&world.plan.traffic);
        world.record.lock().create_requested(clock.now(), webhooks.wanted[index].spec.clone(), manner);
        index
    };
    ask(world, clock, store, index).await;
}

/// Asks for a webhook until that is answered; without a request id only once.
async fn ask(world: &World, clock: Clock, store: &dyn Store, index: usize) {
    loop {
        let Wanted { spec, request, .. } = world.webhooks.lock().wanted[index].clone();
        let secret = Secret::from_bytes(&[7; 32]).expect("long enough");
        let change =
            ConfigChange::CreateWebhook { spec, keys: secret.into(), request: request.clone(), time: clock.now() };
        if request.is_none() {
            // Whatever happens, it is not asked for again: it might be created twice.
            world.webhooks.lock().wanted[index].state = State::Over;
        }
        match store.put_config(change).await {
            Ok(ConfigAnswer::Created(webhook)) => {
                world.webhooks.lock().wanted[index].state = State::Exists(webhook.id);
                return world.record.lock().created(clock.now(), &webhook);
            }
            Ok(other) => {
                let what = format!("hook {index} is not created: {other:?}");
                return world.record.lock().violate(clock.now(), format_args!("{what}"));
            }
            Err(StoreError::Failed(_)) if request.is_some() => sleep(AGAIN).await,
            Err(_) => return,
        }
    }
}

async fn delete(world: &World, clock: Clock, store: &dyn Store, index: usize) {
    let Wanted { spec, state, .. } = world.webhooks.lock().wanted[index].clone();
    let State::Exists(id) = state else { return };
    world.record.lock().delete_requested(clock.now(), index);
    loop {
        let change = ConfigChange::DeleteWebhook { tenant: spec.tenant.clone(), id, expect: None, time: clock.now() };
        match store.put_config(change).await {
            // Not found: it was deleted by a request whose answer got lost.
            Ok(ConfigAnswer::Deleted { .. } | ConfigAnswer::NotFound) => {
                world.webhooks.lock().wanted[index].state = State::Over;
                return world.record.lock().deleted(clock.now(), index);
            }
            Ok(other) => {
                let what = format!("hook {index} is not deleted: {other:?}");
                return world.record.lock().violate(clock.now(), format_args!("{what}"));
            }
            Err(StoreError::Failed(_) | StoreError::Full) => sleep(AGAIN).await,
            Err(StoreError::Closed) => return,
        }
    }
}

/// Somebody who follows outcomes.
pub(crate) struct Watcher {
    rng: StdRng,
    filter: FeedFilter,
    from_beginning: bool,
    cursor: Option<String>,
    /// How many entries of the log were shown to it or left out.
    place: Option<usize>,
}

impl Watcher {
    pub(crate) fn new(plan: &Plan, number: usize) -> Self {
        let mut rng = World::rng(plan, "watcher", number);
        let mut filter = FeedFilter::default();
        match rng.random_range(0..4) {
            0 => filter.tenant = Some(tenant(0)),
            1 => filter.states = vec![DeliveryView::State(DeliveryState::Failed)],
            2 => filter.event_types = [EventTypeName::new(TYPES[0])].into(),
            _ => {}
        }
        let from_beginning = rng.random_bool(0.7);
        Self { rng, filter, from_beginning, cursor: None, place: None }
    }

    /// Whether there is something in the log it should have been shown and was not.
    pub(crate) fn lags(&self, world: &World) -> bool {
        let record = world.record.lock();
        let rest = record.log.get(self.place.unwrap_or(0)..).unwrap_or_default();
        rest.iter().any(|entry| self.filter.passes(entry))
    }

    fn start(&self) -> Start {
        match (&self.cursor, self.from_beginning) {
            (Some(cursor), _) => Start::At(cursor.clone()),
            (None, true) => Start::Beginning,
            (None, false) => Start::Now,
        }
    }
}

/// Follows, with pauses and from cursor to cursor.
pub(crate) async fn watch(world: Arc<World>, number: usize, clock: Clock, watch: Watch, stop: CancellationToken) {
    let watcher = &world.watchers[number];
    while !stop.is_cancelled() {
        let (filter, start, most) = {
            let mut watcher = watcher.lock();
            let most = watcher.rng.random_range(1..20);
            (watcher.filter.clone(), watcher.start(), most)
        };
        let mut stream = match watch.open(filter, start, most).await {
            Ok(stream) => stream.boxed(),
            Err(error) => {
                let what = format!("watcher {number} is refused: {error}");
                return world.record.lock().violate(clock.now(), format_args!("{what}"));
            }
        };
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = stream.next() => next,
            };
            let Some(Ok(batch)) = next else { break };
            let pause = {
                let watcher = &mut *watcher.lock();
                let mut record = world.record.lock();
                let place = watcher.place.get_or_insert_with(|| record.place_of(&batch.cursor));
                record.watched(clock.now(), number, &watcher.filter, place, &batch.entries);
                watcher.cursor = Some(batch.cursor);
                match watcher.rng.random_range(0..10) {
                    0 => break,
                    1 => watcher.rng.random_range(0..3_000),
                    _ => 0,
                }
            };
            if pause > 0 && !wait(pause, |pause| pause, &stop).await {
                return;
            }
        }
    }
}
