//! What outlives a process: the disk, the receivers, those who publish and watch, and the record of what happened.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider_server::{clock::Clock, model::time::Timestamp, store::StoreError};
use postrider_tests::memory::{Commit, Disk, Effects, Image, Storage};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    people::{Publisher, Watcher, Webhooks},
    plan::Plan,
    record::Record,
};

/// When every schedule begins.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Everything but the process under test.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) record: Mutex<Record>,
    pub(crate) storage: Arc<Mutex<Storage>>,
    pub(crate) publishers: Vec<Mutex<Publisher>>,
    pub(crate) watchers: Vec<Mutex<Watcher>>,
    pub(crate) webhooks: Mutex<Webhooks>,
    /// The chance of whoever wants things sent again.
    pub(crate) replays: Mutex<StdRng>,
    /// That of whoever cancels and retries deliveries.
    pub(crate) repairs: Mutex<StdRng>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let mut key = [0; 16];
        key[8..].copy_from_slice(&plan.seed.to_be_bytes());
        let image = Image::new(plan.limits, key);
        Arc::new(Self {
            record: Mutex::new(Record::new(&plan, key)),
            storage: Arc::new(Mutex::new(Storage::new(image))),
            publishers: (0..plan.traffic.publishers).map(|n| Mutex::new(Publisher::new(&plan, n))).collect(),
            watchers: (0..plan.traffic.watchers).map(|n| Mutex::new(Watcher::new(&plan, n))).collect(),
            webhooks: Mutex::new(Webhooks::new(&plan)),
            replays: Mutex::new(Self::rng(&plan, "replays", 0)),
            repairs: Mutex::new(Self::rng(&plan, "repairs", 0)),
            plan,
        })
    }

    /// A source of chance for one purpose, the same for the same schedule.
    pub(crate) fn rng(plan: &Plan, purpose: &str, number: usize) -> StdRng {
        let salt = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        StdRng::seed_from_u64(plan.seed ^ salt ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// The disk of one life.
pub(crate) struct Weathered {
    world: Arc<World>,
    clock: Clock,
    chance: Mutex<Chance>,
    /// Pulled when the power is to fail at a certain commit.
    crash: CancellationToken,
}

struct Chance {
    rng: StdRng,
    failures: f64,
    /// Commits until the power fails.
    commits_left: Option<u64>,
}

impl Weathered {
    pub(crate) fn new(
        world: &Arc<World>,
        life: usize,
        clock: Clock,
        commits_left: Option<u64>,
        crash: CancellationToken,
    ) -> Self {
        let failures = world.plan.weather.failures;
        let chance = Chance { rng: World::rng(&world.plan, "disk", life), failures, commits_left };
        Self { world: world.clone(), clock, chance: Mutex::new(chance), crash }
    }

    /// From now on nothing fails.
    pub(crate) fn calm(&self) {
        self.chance.lock().failures = 0.0;
    }

    async fn pause(&self, longest_ms: u64) {
        if longest_ms > 0 {
            let pause = Duration::from_millis(self.chance.lock().rng.random_range(0..=longest_ms));
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    fn fails(&self) -> bool {
        let mut chance = self.chance.lock();
        let failures = chance.failures;
        failures > 0.0 && chance.rng.random_bool(failures)
    }
}

#[async_trait]
impl Disk for Weathered {
    async fn commit(&self) -> Commit {
        self.pause(self.world.plan.weather.commit_ms).await;
        if !self.fails() {
            return Commit::Durable;
        }
        let kept = self.chance.lock().rng.random_bool(0.5);
        let commit = if kept { Commit::FailedButDurable } else { Commit::Failed };
        self.world.record.lock().trouble(self.clock.now(), format_args!("a commit fails: {commit:?}"));
        commit
    }

    fn committed(&self, effects: &Effects) {
        self.world.record.lock().committed(self.clock.now(), effects);
    }

    async fn show(&self) {
        let crashes = {
            let left = &mut self.chance.lock().commits_left;
            *left = left.map(|left| left.saturating_sub(1));
            *left == Some(0)
        };
        if crashes {
            self.crash.cancel();
            std::future::pending::<()>().await;
        }
        self.pause(self.world.plan.weather.show_ms).await;
    }

    async fn answer(&self) {
        self.pause(self.world.plan.weather.answer_ms).await;
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.pause(self.world.plan.weather.read_ms).await;
        if self.fails() {
            self.world.record.lock().trouble(self.clock.now(), format_args!("a read fails"));
            return Err(StoreError::Failed("planned".into()));
        }
        Ok(())
    }

    async fn arrive(&self) {
        self.pause(self.world.plan.weather.read_ms).await;
    }
}
