//! A disk that fails or is full at any moment of a script: what cannot be done is refused with the right code, the store comes
//! back by itself, and a power cut afterwards finds everything that was acknowledged.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    super::{Config, RedbStore},
    close, config,
    disk::{Fault, SimulatedDisk},
    driver::{Broken, Driver, FAR, FEW, FEW_HOOKS, WIDE, WIDE_HOOKS},
    model::{Model, RETENTION, Shared},
    open, open_with, run, setting,
    verify::{Violation, verify},
};
use crate::{
    model::ids::WebhookNo,
    store::{Store as _, StoreError},
};

/// How long a store may take to come back once its disk is well.
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);
/// An ordinary run fails one of so many operations; `FAULTS=1` all of them.
const EVERY: u64 = 12;

/// What the script does, in order.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Publish,
    Attempt,
    Delete,
    Tend,
    /// Time passes.
    Pass(Duration),
}

const A_WHILE: Duration = Duration::from_secs(12);

/// Everything an engine does: moves, wide events, a deletion, sealing, rescues, the removal of segments.
const SCRIPT: [Step; 24] = [
    Step::Create,
    Step::Publish,
    Step::Attempt,
    Step::Tend,
    Step::Publish,
    Step::Attempt,
    Step::Pass(A_WHILE),
    Step::Publish,
    Step::Tend,
    Step::Delete,
    Step::Attempt,
    Step::Pass(A_WHILE),
    Step::Publish,
    Step::Tend,
    Step::Pass(A_WHILE),
    Step::Attempt,
    Step::Publish,
    Step::Tend,
    Step::Pass(RETENTION),
    Step::Publish,
    Step::Tend,
    Step::Attempt,
    Step::Tend,
    Step::Publish,
];

/// What a disk lasts with in a run of the script.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    fault: Fault,
    /// From this operation on.
    from: u64,
    /// It alone, or all until the disk is healed.
    once: bool,
}

struct Script {
    disk: SimulatedDisk,
    model: Shared,
    rng: StdRng,
}

impl Script {
    /// Runs the script with this trouble; returns how many operations that were.
    async fn run(mut trouble: Option<Trouble>) -> Result<u64, Violation> {
        let disk = SimulatedDisk::new(1);
        if let Some(Trouble { fault, from, once }) = trouble {
            disk.fail(fault, from, once);
        }
        let model = Arc::new(Mutex::new(Arc::new(Model::new())));
        let mut script = Self { disk: disk.clone(), model, rng: StdRng::seed_from_u64(1) };
        // A daemon that cannot start says so and is started again.
        let store = match open(&disk) {
            Err(_) if disk.heal() => open(&disk)?,
            opened => opened?,
        };
        for step in SCRIPT {
            if let Err(error) = script.step(&store, step).await {
                // Once: a store that has recovered has no excuse.
                let struck = trouble.take_if(|_| disk.has_failed());
                let Some(trouble) = struck else { return Err(error.into()) };
                script.suffer(&store, trouble, step, error).await?;
                script.recover(&store).await?;
            }
        }
        disk.heal();
        let operations = disk.operations();
        script.recover(&store).await?;
        close(store, &disk).await?;
        script.cut_power().await?;
        Ok(operations)
    }

    async fn step(&mut self, store: &RedbStore, step: Step) -> Result<(), Broken> {
        let mut driver = Driver { store, model: &self.model, rng: &mut self.rng };
        match step {
            Step::Create => {
                driver.create(FEW, FEW_HOOKS).await?;
                driver.create(WIDE, WIDE_HOOKS).await
            }
            Step::Publish => driver.publish().await,
            Step::Attempt => driver.attempt().await,
            Step::Delete => driver.delete().await,
            Step::Tend => driver.tend().await,
            Step::Pass(time) => {
                let mut model = self.model.lock();
                let model = Arc::make_mut(&mut model);
                model.now = model.now + time;
                Ok(())
            }
        }
    }

    /// Something was refused. It must have been for the right reason; so is what comes while the disk is as it is.
    async fn suffer(
        &mut self,
        store: &RedbStore,
        trouble: Trouble,
        step: Step,
        error: Broken,
    ) -> Result<(), Violation> {
        judge(trouble, step, error)?;
        if !trouble.once {
            for step in [Step::Publish, Step::Attempt, Step::Publish] {
                if let Err(error) = self.step(store, step).await {
                    judge(trouble, step, error)?;
                }
            }
        }
        self.disk.heal();
        Ok(())
    }

    /// Waits until the store works again, first for readers alone, and settles what was open.
    async fn recover(&mut self, store: &RedbStore) -> Result<(), Violation> {
        let well = async {
            while store.due(WebhookNo(1), FAR, 1).await.is_err() {
                tokio::task::yield_now().await;
            }
            let now = self.model.lock().now;
            while store.publish(Vec::new()).await.is_err() {
                // Looks for room.
                let _tried_again = store.upkeep(now).await;
            }
        };
        let well = tokio::time::timeout(RECOVERED_WITHIN, well).await;
        well.map_err(|_| Violation("the store does not come back".into()))?;
        let known = self.model.lock().clone();
        let settled = verify(store, &known, &mut self.rng).await?;
        *self.model.lock() = Arc::new(settled);
        Ok(())
    }

    /// What the store promised after its disk had failed is there when the power goes.
    async fn cut_power(&mut self) -> Result<(), Violation> {
        let disk = self.disk.image().settle(self.rng.random());
        let known = self.model.lock().clone();
        let store = open(&disk)?;
        verify(&store, &known, &mut self.rng).await?;
        close(store, &disk).await
    }
}

/// Whether something was refused for the right reason.
fn judge(trouble: Trouble, step: Step, error: Broken) -> Result<(), Violation> {
    let error = match error {
        Broken::Store(error) => error,
        wrong @ Broken::Wrong(_) => return Err(wrong.into()),
    };
    let right = match (&error, trouble.fault) {
        (StoreError::Failed(_), Fault::Io) | (StoreError::Full, Fault::NoRoom) => true,
        (StoreError::Failed(_), Fault::NoRoom) => !matches!(step, Step::Publish),
        (StoreError::Full, Fault::Io) | (StoreError::Closed, _) => false,
    };
    if right { Ok(()) } else { Err(Violation(format!("{step:?} was refused with: {error}"))) }
}

/// Runs the script once for every operation, or every few, that can meet with trouble.
fn sweep(fault: Fault, once: bool) {
    let operations = run(Script::run(None)).unwrap_or_else(|Violation(why)| panic!("without any fault: {why}"));
    let every = setting("FAULTS").unwrap_or(EVERY);
    // Another part of them each time.
    let first = setting("FIRST").unwrap_or_else(|| rand::random_range(1..=every));
    println!("{fault:?}, once: {once}: FIRST={first} FAULTS={every}, of {operations} operations");
    for from in (first..=operations).step_by(usize::try_from(every).expect("a small number")) {
        let trouble = Trouble { fault, from, once };
        if let Err(Violation(why)) = run(Script::run(Some(trouble))) {
            panic!("{trouble:?}: {why}");
        }
    }
}

#[test]
fn one_operation_fails() {
    sweep(Fault::Io, true);
}

#[test]
fn operations_fail_until_the_disk_is_well() {
    sweep(Fault::Io, false);
}

#[test]
fn one_operation_finds_no_room() {
    sweep(Fault::NoRoom, true);
}

#[test]
fn no_room_until_some_is_made() {
    sweep(Fault::NoRoom, false);
}

#[test]
fn below_the_reserve_events_are_refused_and_outcomes_are_not() {
    run(async {
        let disk = SimulatedDisk::new(1);
        let model = Arc::new(Mutex::new(Arc::new(Model::new())));
        let mut script = Script { disk: disk.clone(), model, rng: StdRng::seed_from_u64(1) };
        let store = open(&disk).expect("a new store");
        script.step(&store, Step::Create).await.expect("created");
        script.step(&store, Step::Publish).await.expect("published");
        disk.set_free(config().disk_reserve - 1);
        script.step(&store, Step::Tend).await.expect("tended");
        let refused = script.step(&store, Step::Publish).await;
        assert!(matches!(refused, Err(Broken::Store(StoreError::Full))), "{refused:?}");
        let mut driver = Driver { store: &store, model: &script.model, rng: &mut script.rng };
        driver.attempt_while(false).await.expect("outcomes go on");
        driver.delete().await.expect("what ends deliveries goes on");
        driver.tend().await.expect("what frees space goes on");
        disk.set_free(config().disk_reserve);
        script.step(&store, Step::Tend).await.expect("tended");
        script.step(&store, Step::Publish).await.expect("published");
        script.recover(&store).await.expect("all there");
        close(store, &disk).await.expect("whole");
    });
}

#[test]
fn a_failed_read_is_noticed_though_nothing_is_committed() {
    run(async {
        let disk = SimulatedDisk::new(1);
        let model = Arc::new(Mutex::new(Arc::new(Model::new())));
        let mut script = Script { disk: disk.clone(), model, rng: StdRng::seed_from_u64(1) };
        // Without a cache, so that reads reach the disk.
        let store = open_with(&disk, Config { cache_bytes: 0, ..config() }).expect("a new store");
        script.step(&store, Step::Create).await.expect("created");
        disk.fail(Fault::Io, disk.operations() + 1, true);
        let read = store.due(WebhookNo(1), FAR, 1).await;
        assert!(read.is_err() && disk.has_failed(), "{read:?}");
        script.recover(&store).await.expect("it comes back");
        close(store, &disk).await.expect("whole");
    });
}
