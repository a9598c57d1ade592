//! A store in a directory of its own, and short words for what tests do to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_server::{
    clock::Clock,
    flow::News,
    model::{
        delivery::{DeliveryState, ErrorClass, Outcome},
        event::{Event, JSON},
        exchange::{Exchange, ResponseHeaders, Timings},
        ids::{DeliveryKey, EventTypeName, Tenant, WebhookId, WebhookNo},
        quota,
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, Webhook, WebhookSpec},
    },
    store::{
        ConfigAnswer, ConfigChange, DuePage, GroupCommitted, Hint, OutcomeGroup, Publish, Published, Store, Targets,
        redb,
    },
    tasks::Tasks,
};
use postrider_tests::memory::{self, MemoryStore};
use tempfile::TempDir;

/// How tests open an engine.
pub(crate) trait Engine {
    /// Opens what is in `dir`, or makes it. Small limits, so that tests reach them.
    fn open(dir: &Path, limits: Limits) -> Arc<dyn Store>;
}

/// The limits of a store under test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most deliveries pending.
    pub(crate) pending_max: u64,
    /// What holds for tenants without a quota of their own.
    pub(crate) quotas: quota::Limits,
    /// How much history is kept close; the rest is archived.
    pub(crate) hot_bytes_max: usize,
    /// How long history is kept.
    pub(crate) retention: Duration,
    /// Most entries of the audit log, which are kept for a day.
    pub(crate) audit_entries_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_max: 1_000_000,
            quotas: quota::Limits::default(),
            hot_bytes_max: 64 << 20,
            retention: Duration::from_hours(16),
            audit_entries_max: 100,
        }
    }
}

/// The engine on redb.
pub(crate) struct Embedded;

impl Engine for Embedded {
    fn open(dir: &Path, limits: Limits) -> Arc<dyn Store> {
        open_redb(dir, limits, &redb::Config::default())
    }
}

/// The engine on redb, where whatever is read must come from the tables.
pub(crate) struct Uncached;

impl Engine for Uncached {
    fn open(dir: &Path, limits: Limits) -> Arc<dyn Store> {
        open_redb(dir, limits, &redb::Config { chunk_cache_bytes: 0, log_cache_bytes: 0, ..redb::Config::default() })
    }
}

/// The store the simulation runs on. What would be in the directory is kept in this process.
pub(crate) struct InMemory;

impl Engine for InMemory {
    fn open(dir: &Path, limits: Limits) -> Arc<dyn Store> {
        static DIRECTORIES: Mutex<BTreeMap<PathBuf, Arc<Mutex<memory::Storage>>>> = Mutex::new(BTreeMap::new());
        let limits = memory::Limits {
            pending_max: limits.pending_max,
            quotas: limits.quotas,
            retention: limits.retention,
            audit_retention: Duration::from_hours(24),
            audit_entries_max: limits.audit_entries_max,
            ..memory::Limits::default()
        };
        let made = || Arc::new(Mutex::new(memory::Storage::new(memory::Image::new(limits, [7; 16]))));
        let storage = DIRECTORIES.lock().entry(dir.to_owned()).or_insert_with(made).clone();
        Arc::new(MemoryStore::open(storage, Arc::new(memory::Prompt), Arc::new(News::default()), &Tasks::default()))
    }
}

fn open_redb(dir: &Path, limits: Limits, config: &redb::Config) -> Arc<dyn Store> {
    let config = redb::Config {
        hot_bytes_max: limits.hot_bytes_max,
        retention: limits.retention,
        pending_max: limits.pending_max,
        quotas: limits.quotas,
        audit_retention: Duration::from_hours(24),
        audit_entries_max: limits.audit_entries_max,
        ..config.clone()
    };
    Arc::new(redb::open(dir, config, Arc::new(News::default()), Clock::start()).expect("the store opens"))
}

/// When tests begin: in the past, whatever the machine's clock says.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// `seconds` after [`START`].
pub(crate) fn at(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

/// A store under test.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    limits: Limits,
    pub(crate) store: Arc<dyn Store>,
}

impl Fixture {
    pub(crate) fn new<E: Engine>() -> Self {
        Self::with::<E>(Limits::default())
    }

    pub(crate) fn with<E: Engine>(limits: Limits) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let store = E::open(dir.path(), limits);
        Self { dir, limits, store }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen<E: Engine>(&mut self) {
        self.store.close().await.expect("the store closes");
        self.store = E::open(self.dir.path(), self.limits);
    }

    /// Registers a webhook of the default tenant for all types.
    pub(crate) async fn webhook(&self) -> Webhook {
        self.webhook_of("default", Subscription::All).await
    }

    pub(crate) async fn webhook_of(&self, tenant: &str, subscription: Subscription) -> Webhook {
        let spec = spec(tenant, subscription);
        let change = ConfigChange::CreateWebhook { spec, keys: secret().into(), request: None, time: START };
        let answer = self.store.put_config(change).await.expect("the store answers");
        let ConfigAnswer::Created(webhook) = answer else { panic!("not created: {answer:?}") };
        webhook
    }

    pub(crate) async fn delete(&self, webhook: &Webhook) -> u64 {
        let change = ConfigChange::DeleteWebhook {
            tenant: webhook.tenant.clone(),
            id: webhook.id,
            expect: None,
            time: at(1_000),
        };
        let answer = self.store.put_config(change).await.expect("the store answers");
        let ConfigAnswer::Deleted { cancelled } = answer else { panic!("not deleted: {answer:?}") };
        cancelled
    }

    /// An event with the targets that the catalogue says.
    pub(crate) fn matched(&self, event: Event, accept_time: Timestamp) -> Publish {
        let targets = self.store.catalog().targets(&event);
        Publish { event, targets, accept_time }
    }

    /// Publishes events `first..first + count`, one second apart.
    pub(crate) async fn publish(&self, first: u64, count: u64) -> Vec<Published> {
        let batch = (first..first + count).map(|n| self.matched(event(&format!("e{n}")), at(n))).collect();
        self.store.publish(batch).await.expect("the store answers")
    }

    /// Everything due for a webhook until `until`.
    pub(crate) async fn due(&self, webhook: &Webhook, until: Timestamp) -> DuePage {
        self.store.due(webhook.no, until, 10_000).await.expect("the store answers")
    }

    /// Commits outcomes and returns how that went.
    pub(crate) async fn commit(&self, outcomes: Vec<Outcome>) -> GroupCommitted {
        let group = OutcomeGroup { outcomes, ..OutcomeGroup::default() };
        self.store.commit(self.store.owner(), vec![group]).await.expect("the store answers")[0]
    }

    /// What the next attempt of a due delivery led to.
    pub(crate) async fn outcome(
        &self,
        webhook: &Webhook,
        hint: Hint,
        state: DeliveryState,
        time: Timestamp,
    ) -> Outcome {
        let stored = self.store.events(&[hint.event], usize::MAX).await.expect("the store answers").remove(0);
        let stored = stored.expect("the event is retained");
        let key = DeliveryKey { webhook: webhook.no, event: hint.event, replay: hint.replay };
        let failed = state != DeliveryState::Delivered;
        Outcome {
            key,
            delivery_id: self.store.sealer().delivery_id(key),
            tenant: webhook.tenant.clone(),
            webhook_id: webhook.id,
            event_id: stored.event.id,
            event_type: stored.event.event_type,
            attempt: hint.attempts.ended() + 1,
            state,
            http_status: Some(if failed { 500 } else { 200 }),
            error_class: failed.then_some(ErrorClass::HttpStatus),
            error: if failed { "500".into() } else { String::new() },
            latency: Duration::from_millis(5),
            time,
            next_attempt: (state == DeliveryState::Pending).then(|| time + Duration::from_mins(1)),
            held: false,
            response_body: if failed { Bytes::from_static(b"no") } else { Bytes::new() },
            exchange: exchange(failed),
        }
    }

    /// Delivers everything due until `until`, in the order it comes, one second apart from `time`.
    pub(crate) async fn deliver_all(&self, webhook: &Webhook, until: Timestamp, time: Timestamp) -> usize {
        let hints = self.due(webhook, until).await.hints;
        let mut outcomes = Vec::new();
        for (n, hint) in hints.iter().enumerate() {
            let time = time + Duration::from_secs(n as u64);
            outcomes.push(self.outcome(webhook, *hint, DeliveryState::Delivered, time).await);
        }
        self.commit(outcomes).await;
        hints.len()
    }

    /// Publishes an event that is to be sent at a time.
    pub(crate) async fn schedule(&self, id: &str, accepted: Timestamp, deliver_at: Timestamp) -> Published {
        let scheduled = Event { deliver_at: Some(deliver_at), ..event(id) };
        self.store.publish(vec![self.matched(scheduled, accepted)]).await.expect("the store answers")[0]
    }

    /// That a due delivery was given up because of its age, before another attempt was made.
    pub(crate) async fn expiry(&self, webhook: &Webhook, hint: Hint, time: Timestamp) -> Outcome {
        let outcome = self.outcome(webhook, hint, DeliveryState::Failed, time).await;
        Outcome { attempt: hint.attempts.ended(), http_status: None, error_class: Some(ErrorClass::Expired), ..outcome }
    }

    /// Runs upkeep until there is no more to do.
    pub(crate) async fn upkeep(&self, now: Timestamp) {
        while self.store.upkeep(now).await.expect("upkeep works") {}
    }
}

pub(crate) fn spec(tenant: &str, subscription: Subscription) -> WebhookSpec {
    WebhookSpec {
        tenant: tenant.parse().expect("a tenant"),
        settings: Settings {
            description: "for tests".into(),
            ..Settings::new(Target::from_stored("https://receiver.example/hook").expect("a URL"), subscription)
        },
        enabled: true,
    }
}

/// What an attempt was like: with all there can be if it failed, over a connection that was there already if not.
fn exchange(failed: bool) -> Exchange {
    let first_byte = Some(Duration::from_micros(1_234));
    let remote = |text: &str| Some(text.parse().expect("an address"));
    if !failed {
        let timings = Timings { first_byte, ..Timings::default() };
        return Exchange { timings, remote: remote("192.0.2.7:80"), ..Exchange::default() };
    }
    let timings = Timings {
        dns: Some(Duration::ZERO),
        connect: Some(Duration::from_micros(5)),
        tls: Some(Duration::from_secs(7)),
        first_byte,
    };
    let headers = ResponseHeaders::from_stored(Bytes::from_static(b"server:test\nx-empty:\n"), 3);
    Exchange { timings, remote: remote("[2001:db8::7]:443"), headers }
}

pub(crate) fn secret() -> Secret {
    Secret::from_bytes(&[7; 32]).expect("long enough")
}

pub(crate) fn event(id: &str) -> Event {
    Event {
        id: id.parse().expect("an id"),
        tenant: Tenant::default(),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: BTreeMap::new(),
        ordering_key: String::new(),
        occur_time: None,
        content_type: JSON.into(),
        body: Bytes::from(format!("{{\"id\": \"{id}\"}}")),
        deliver_at: None,
        max_age: None,
    }
}

/// Targets that say they were matched just now.
pub(crate) fn targets(fixture: &Fixture, webhooks: impl IntoIterator<Item = WebhookNo>) -> Targets {
    let event = event("any");
    let now = fixture.store.catalog().targets(&event).matched_at;
    Targets { webhooks: webhooks.into_iter().collect(), matched_at: now, filtered: false }
}

/// An id nobody has.
pub(crate) fn nobody() -> WebhookId {
    WebhookId::generate()
}
