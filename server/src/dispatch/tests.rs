//! The shell, over a store in memory and in virtual time.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    flow::Settled,
    limits::{DISPATCH_BODY_BYTES_MAX, EVENT_BODY_BYTES_MAX},
    model::{
        audit::{AuditNo, AuditQuery},
        breaker::Health,
        delivery::Attempts,
        erasure::Erasure,
        event::{Event, JSON, StoredEvent},
        failing::Failing,
        ids::{
            ConfigSeq, DeliveryId, DeliveryKey, ErasureId, EventId, EventSeq, EventTypeName, Position, Tenant,
            WebhookId,
        },
        replay::Replay,
        seal::Sealer,
        signing::Secret,
        target::Target,
        webhook::{Settings, Subscription, Switch, Webhook},
    },
    store::{
        AsOf, AuditPage, AuditStep, ConfigAnswer, ConfigChange, ConfigPage, Counts, DeliveryDetail, DeliveryPage,
        DeliveryQuery, Erase, Erased, FeedError, FeedFilter, FeedPage, GroupCommitted, Hint, LaneDue, ListPosition,
        OutcomeGroup, Owner, Publish, Published, Repair, Repaired, ReplayAnswer, ReplayChange, ReplayPage, Replays,
        RequestKey,
    },
};

const ONE: WebhookNo = WebhookNo(1);

/// Holds due rows; whatever dispatch does not use is closed.
struct Memory {
    catalog: Catalog,
    sealer: Sealer,
    rows: Mutex<BTreeMap<(WebhookNo, EventSeq), Timestamp>>,
    /// How many reads are still to fail.
    failures: Mutex<usize>,
    /// An event that can never be read.
    broken: Mutex<Option<EventSeq>>,
    body: Bytes,
}

impl Memory {
    fn new() -> Arc<Self> {
        Self::with(1, Bytes::from_static(b"{}"))
    }

    /// With so many webhooks, and events that all have this body.
    fn with(webhooks: u64, body: Bytes) -> Arc<Self> {
        let catalog = Catalog::default();
        for no in 1..=webhooks {
            catalog.put(ConfigSeq(no), webhook(WebhookNo(no)));
        }
        let (sealer, rows) = (Sealer::new([1; 16]), Mutex::default());
        Arc::new(Self { catalog, sealer, rows, failures: Mutex::default(), broken: Mutex::default(), body })
    }

    fn insert(&self, event: u64, due: Timestamp) -> (WebhookNo, Hint) {
        self.insert_for(ONE, event, due)
    }

    fn insert_for(&self, webhook: WebhookNo, event: u64, due: Timestamp) -> (WebhookNo, Hint) {
        self.rows.lock().insert((webhook, EventSeq(event)), due);
        (webhook, Hint { event: EventSeq(event), replay: 0, attempts: Attempts::default(), due })
    }

    fn read(&self) -> Result<(), StoreError> {
        let mut failures = self.failures.lock();
        if *failures == 0 {
            return Ok(());
        }
        *failures -= 1;
        Err(StoreError::Failed("planted".into()))
    }
}

#[async_trait]
impl Store for Memory {
    async fn publish(&self, _: Vec<Publish>) -> Result<Vec<Published>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn lanes(&self, after: Option<WebhookNo>, _: usize) -> Result<LanePage, StoreError> {
        self.read()?;
        let first_due = self.rows.lock().values().min().copied();
        let lane = first_due.filter(|_| after.is_none()).map(|first_due| LaneDue { webhook: ONE, first_due });
        Ok(LanePage { lanes: lane.into_iter().collect(), next: None, as_of: AsOf(1) })
    }

    async fn due(&self, webhook: WebhookNo, horizon: Timestamp, limit: usize) -> Result<DuePage, StoreError> {
        self.read()?;
        let rows = self.rows.lock();
        let of_webhook = rows.iter().filter(|((of, _), _)| *of == webhook);
        let mut all: Vec<_> = of_webhook.map(|((_, event), due)| (*due, *event)).collect();
        all.sort_unstable();
        let within = all.iter().take_while(|(due, _)| *due <= horizon).count();
        let hint = |(due, event): &(Timestamp, EventSeq)| Hint {
            event: *event,
            replay: 0,
            attempts: Attempts::default(),
            due: *due,
        };
        Ok(DuePage {
            hints: all[..within.min(limit)].iter().map(hint).collect(),
            more: within > limit,
            next_due: all.get(within).map(|(due, _)| *due).filter(|_| within <= limit),
            as_of: AsOf(1),
        })
    }

    /// Three at a time, as if they were large.
    async fn events(&self, seqs: &[EventSeq], _: usize) -> Result<Vec<Option<StoredEvent>>, StoreError> {
        self.read()?;
        let broken = *self.broken.lock();
        if broken.is_some() && broken.as_ref() == seqs.first() {
            return Err(StoreError::Failed("planted".into()));
        }
        let readable = seqs.iter().take(3).take_while(|seq| Some(**seq) != broken);
        Ok(readable.map(|seq| Some(stored(*seq, self.body.clone()))).collect())
    }

    async fn counts(&self, _: &[WebhookNo]) -> Result<Vec<Counts>, StoreError> {
        unreachable!("not asked")
    }

    async fn commit(&self, _: Owner, _: Vec<OutcomeGroup>) -> Result<Vec<GroupCommitted>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn bytes_of_day(&self, _: u32, _: &[Tenant]) -> Result<Vec<u64>, StoreError> {
        unreachable!("not asked")
    }

    async fn failing(&self) -> Result<Vec<(WebhookNo, Failing)>, StoreError> {
        Err(StoreError::Closed)
    }

    fn owner(&self) -> Owner {
        Owner(0)
    }

    async fn feed(&self, _: Position, _: &FeedFilter, _: usize) -> Result<FeedPage, FeedError> {
        Err(StoreError::Closed.into())
    }

    fn head(&self) -> watch::Receiver<Position> {
        watch::Sender::new(Position(0)).subscribe()
    }

    async fn list(&self, _: &DeliveryQuery, _: Option<ListPosition>, _: usize) -> Result<DeliveryPage, StoreError> {
        Err(StoreError::Closed)
    }

    async fn get(&self, _: DeliveryId) -> Result<Option<DeliveryDetail>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn find_event(&self, _: &Tenant, _: &EventId) -> Result<Option<StoredEvent>, StoreError> {
        Ok(None)
    }

    async fn expired(&self, _: DeliveryId) -> Result<Option<Tenant>, StoreError> {
        Err(StoreError::Closed)
    }

    fn retained_since(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    async fn repair(&self, _: Repair) -> Result<Repaired, StoreError> {
        Err(StoreError::Closed)
    }

    async fn erase(&self, _: Erase) -> Result<Erased, StoreError> {
        Err(StoreError::Closed)
    }

    async fn erasure(&self, _: &Tenant, _: ErasureId) -> Result<Option<Erasure>, StoreError> {
        Err(StoreError::Closed)
    }

    async fn replay(&self, _: ReplayChange) -> Result<ReplayAnswer, StoreError> {
        Err(StoreError::Closed)
    }

    async fn replayable(&self, _: &Replay, _: EventSeq, _: usize) -> Result<ReplayPage, StoreError> {
        Err(StoreError::Closed)
    }

    fn replays(&self) -> &Replays {
        unreachable!("not asked")
    }

    async fn answered(&self, _: &Tenant, _: &RequestKey, _: Timestamp) -> Result<Option<ConfigAnswer>, StoreError> {
        Ok(None)
    }

    async fn put_config(&self, _: ConfigChange) -> Result<ConfigAnswer, StoreError> {
        Err(StoreError::Closed)
    }

    async fn config_since(&self, _: ConfigSeq, _: usize) -> Result<ConfigPage, StoreError> {
        Err(StoreError::Closed)
    }

    async fn audit(&self, _: AuditStep) -> Result<AuditNo, StoreError> {
        Err(StoreError::Closed)
    }

    async fn audited(&self, _: &AuditQuery, _: Option<AuditNo>, _: usize) -> Result<AuditPage, StoreError> {
        Err(StoreError::Closed)
    }

    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    async fn upkeep(&self, _: Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn webhook(no: WebhookNo) -> Webhook {
    Webhook {
        no,
        id: WebhookId::generate(),
        tenant: Tenant::default(),
        settings: Settings::new(Target::from_stored("https://example.com/hook").unwrap(), Subscription::All),
        switch: Switch::Enabled,
        version: 1,
        create_time: Timestamp::UNIX_EPOCH,
        update_time: Timestamp::UNIX_EPOCH,
        keys: Secret::from_bytes(&[7; 32]).unwrap().into(),
    }
}

fn stored(seq: EventSeq, body: Bytes) -> StoredEvent {
    let event = Event {
        id: format!("e-{}", seq.0).parse().unwrap(),
        tenant: Tenant::default(),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: BTreeMap::new(),
        ordering_key: String::new(),
        occur_time: None,
        content_type: JSON.into(),
        body,
        deliver_at: None,
        max_age: None,
    };
    StoredEvent { seq, accept_time: Timestamp::UNIX_EPOCH, event }
}

/// A running stage and what is at its ends.
struct Stage {
    store: Arc<Memory>,
    news: Arc<News>,
    clock: Clock,
    jobs: mpsc::Receiver<Vec<Job>>,
    progress: mpsc::Sender<Progress>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start(store: Arc<Memory>) -> Stage {
    start_with(store, Config { in_flight_max: 4, webhook_in_flight_max: 2, slow_share: 0.5, ..Config::default() })
}

#[expect(clippy::disallowed_methods, reason = "each test joins its one task")]
fn start_with(store: Arc<Memory>, config: Config) -> Stage {
    let (news, clock, stop) = (Arc::new(News::default()), Clock::start(), CancellationToken::new());
    let (jobs_sender, jobs) = mpsc::channel(config.in_flight_max);
    let (progress, progress_receiver) = mpsc::channel(16);
    let deps = Deps {
        store: store.clone(),
        news: news.clone(),
        clock,
        jobs: vec![jobs_sender],
        progress: progress_receiver,
        gates: Arc::default(),
        metrics: DispatchMetrics::default(),
        seed: 1,
    };
    let task = tokio::spawn(config.build(deps).run(stop.clone()));
    Stage { store, news, clock, jobs, progress, stop, task }
}

impl Stage {
    /// The events of the next so many jobs, which are over at once.
    async fn deliver(&mut self, count: usize) -> Vec<u64> {
        let mut events = Vec::new();
        while events.len() < count {
            for job in self.jobs.recv().await.expect("dispatch runs") {
                assert!(job.body_permit.is_some());
                assert_eq!(job.attempt, 1);
                events.push(job.key.event.0);
                self.end(job, None).await;
            }
        }
        events.sort_unstable();
        events
    }

    async fn end(&self, job: Job, next_attempt: Option<Timestamp>) {
        let row = (job.key.webhook, job.key.event);
        match next_attempt {
            Some(due) => self.store.rows.lock().insert(row, due),
            None => self.store.rows.lock().remove(&row),
        };
        let key = job.key;
        drop(job);
        let settled = Settled {
            key,
            attempts: Attempts::new(1, None),
            next_attempt,
            slow: Some(false),
            health: Health::Well,
            pause_until: None,
            as_of: AsOf(1),
        };
        self.progress.send(Progress::Answered(vec![key])).await.expect("dispatch runs");
        self.progress.send(Progress::Settled(vec![settled])).await.expect("dispatch runs");
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.task.await.unwrap();
        assert!(self.jobs.recv().await.is_none(), "the senders are dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn finds_the_backlog_takes_news_and_stops() {
    let store = Memory::new();
    for event in 1..=600 {
        store.insert(event, Timestamp::UNIX_EPOCH);
    }
    let mut stage = start(store);
    assert!(stage.deliver(600).await.into_iter().eq(1..=600));
    let hint = stage.store.insert(601, stage.clock.now());
    stage.news.post(AsOf(1), [hint], [], []);
    assert_eq!(stage.deliver(1).await, [601]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sleeps_until_the_next_one_is_due() {
    let store = Memory::new();
    let mut stage = start(store);
    let hour = Duration::from_hours(1);
    let started = Instant::now();
    let hint = stage.store.insert(1, stage.clock.now() + hour);
    stage.news.post(AsOf(1), [hint], [], []);
    assert_eq!(stage.deliver(1).await, [1]);
    let waited = started.elapsed();
    assert!(waited >= hour && waited < hour + Duration::from_secs(1), "{waited:?}");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_delays_and_loses_nothing() {
    let store = Memory::new();
    for event in 1..=5 {
        store.insert(event, Timestamp::UNIX_EPOCH);
    }
    // The survey, the refill and a load fail in turn.
    *store.failures.lock() = 6;
    let mut stage = start(store);
    assert_eq!(stage.deliver(5).await, [1, 2, 3, 4, 5]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_read_holds_up_nothing_else() {
    let store = Memory::new();
    for event in 1..=5 {
        store.insert(event, Timestamp::UNIX_EPOCH);
    }
    *store.broken.lock() = Some(EventSeq(2));
    let mut stage = start(store);
    assert_eq!(stage.deliver(4).await, [1, 3, 4, 5]);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_out_once_the_webhook_is_gone() {
    let store = Memory::new();
    let mut stage = start(store);
    let hints = [1, 2, 3].map(|event| stage.store.insert(event, stage.clock.now()));
    stage.news.post(AsOf(1), hints, [], []);
    let in_flight: Vec<_> = stage.jobs.recv().await.unwrap();
    assert_eq!(in_flight.len(), 2, "as many as the webhook may have");
    stage.store.catalog.remove(ConfigSeq(2), ONE);
    for job in in_flight {
        let key: DeliveryKey = job.key;
        assert_eq!(key.webhook, ONE);
        stage.end(job, None).await;
    }
    // Longer than any pause or survey of the stage.
    let more = timeout(Duration::from_mins(5), stage.jobs.recv()).await;
    assert!(more.is_err(), "{more:?}");
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn receivers_that_hang_on_large_bodies_leave_memory_for_others() {
    let store = Memory::with(9, Bytes::from(vec![b'x'; EVENT_BODY_BYTES_MAX]));
    let mut stage = start_with(store, Config::default());
    let in_flight_max = u64::try_from(Config::default().webhook_in_flight_max).unwrap();
    let mut hanging = Vec::new();
    let mut taken = Vec::new();
    for no in 1..=9 {
        let webhook = WebhookNo(no);
        let hints = (0..in_flight_max).map(|n| stage.store.insert_for(webhook, no * 100 + n, stage.clock.now()));
        stage.news.post(AsOf(no), hints.collect::<Vec<_>>(), [], []);
        // Until dispatch has nothing more to do. Nobody is known to be slow: no attempt has ended.
        let before = hanging.len();
        while let Ok(jobs) = timeout(Duration::from_secs(1), stage.jobs.recv()).await {
            hanging.extend(jobs.expect("dispatch runs"));
        }
        taken.push(hanging.len() - before);
        assert!(hanging[before..].iter().all(|job| job.key.webhook == webhook));
    }
    assert!(taken[..8].iter().all(|bodies| *bodies > 0), "{taken:?}");
    let body_bytes: usize = hanging.iter().map(|job| job.event.event.body.len()).sum();
    assert!(body_bytes <= DISPATCH_BODY_BYTES_MAX / 2, "slow ones have the other half");
    // They answer after all, and everything else follows.
    let mut delivered = hanging.len() as u64;
    for job in hanging {
        stage.end(job, None).await;
    }
    while delivered < 9 * in_flight_max {
        delivered += stage.deliver(1).await.len() as u64;
    }
    stage.stop().await;
}
