//! Power cuts.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    close, config_of,
    disk::SimulatedDisk,
    driver::{Broken, Driver},
    image::Image,
    model::Model,
    open_with, run, setting,
    verify::{Violation, verify},
};

/// Images in the fixed part of an ordinary run.
const IMAGES: u64 = 700;
/// Images of one generation of a history, and generations of one history.
const GENERATION_IMAGES: usize = 40;
const GENERATIONS: u32 = 4;
const STEPS: u32 = 24;
/// An image is taken before about one of so many operations: at work, and while a store recovers.
const WORK_EVERY: u32 = 24;
const RECOVERY_EVERY: u32 = 60;
/// Power cuts in a row.
const DEPTH: u32 = 3;

/// An image with what was known when it was taken.
type Taken = Arc<Mutex<Vec<(Image, Arc<Model>)>>>;

/// A history under way.
struct History {
    rng: StdRng,
    images: u64,
}

impl History {
    /// Lives through a history; returns how many images it had.
    async fn run(seed: u64) -> Result<u64, Violation> {
        let mut history = Self { rng: StdRng::seed_from_u64(seed), images: 0 };
        let cramped = seed.is_multiple_of(3);
        let (mut disk, mut model) = (SimulatedDisk::new(seed), Model { cramped, ..Model::new() });
        for generation in 0..GENERATIONS {
            let taken = history.work(&disk, model).await.map_err(|why| why.at(format!("generation {generation}")))?;
            let next = history.rng.random_range(0..taken.len());
            let (image, known) = taken[next].clone();
            let settled = history.rng.random();
            for (number, (image, known)) in taken.into_iter().enumerate() {
                let (operation, settled) =
                    (image.operation, if number == next { settled } else { history.rng.random() });
                let checked = history.check(image.settle(settled), known, 1).await;
                checked.map_err(|why| {
                    why.at(format!("generation {generation}, image {number}, before operation {operation}"))
                })?;
            }
            (disk, model) = (image.settle(settled), Model::clone(&known));
        }
        Ok(history.images)
    }

    /// Opens what is on the disk, checks it and works with it. Returns the images that were taken.
    async fn work(&mut self, disk: &SimulatedDisk, model: Model) -> Result<Vec<(Image, Arc<Model>)>, Violation> {
        let shared = Arc::new(Mutex::new(Arc::new(model)));
        let taken = watch(disk, WORK_EVERY, GENERATION_IMAGES, self.rng.random(), {
            let shared = shared.clone();
            move || shared.lock().clone()
        });
        let config = config_of(&shared.lock());
        let store = open_with(disk, config)?;
        let known = shared.lock().clone();
        let mut known = verify(&store, &known, &mut self.rng).await?;
        known.note("opened again".into());
        *shared.lock() = Arc::new(known);
        for _ in 0..STEPS {
            let mut driver = Driver { store: &store, model: &shared, rng: &mut self.rng };
            driver.step().await?;
        }
        close(store, disk).await?;
        disk.unwatch();
        let mut taken = std::mem::take(&mut *taken.lock());
        taken.push((disk.image(), shared.lock().clone()));
        Ok(taken)
    }

    /// Opens a disk after a power cut and checks what is on it; then cuts the power again.
    fn check(&mut self, disk: SimulatedDisk, known: Arc<Model>, depth: u32) -> BoxFuture<'_, Result<(), Violation>> {
        async move {
            self.images += 1;
            let taken = watch(&disk, RECOVERY_EVERY, usize::from(depth < DEPTH), self.rng.random(), {
                let known = known.clone();
                move || known.clone()
            });
            let store = open_with(&disk, config_of(&known))?;
            let mut settled = verify(&store, &known, &mut self.rng).await?;
            settled.note("opened again".into());
            disk.unwatch();
            let mut taken = std::mem::take(&mut *taken.lock());
            let shared = Arc::new(Mutex::new(Arc::new(settled)));
            if depth < DEPTH && self.rng.random_ratio(1, 8) {
                // What was seen once stays.
                taken.push((disk.image(), shared.lock().clone()));
            }
            if self.rng.random_ratio(1, 3) {
                let mut driver = Driver { store: &store, model: &shared, rng: &mut self.rng };
                // What was cut short is taken up again.
                driver.tend().await?;
                for _ in 0..3 {
                    driver.step().await?;
                }
                let known = shared.lock().clone();
                verify(&store, &known, &mut self.rng).await.map_err(|why| why.at("after more work"))?;
            }
            close(store, &disk).await?;
            for (image, known) in taken {
                let (operation, settled) = (image.operation, self.rng.random());
                let checked = self.check(image.settle(settled), known, depth + 1).await;
                checked.map_err(|why| why.at(format!("cut again before operation {operation}")))?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Takes up to `most` images, as evenly over all operations as chance has it.
fn watch(
    disk: &SimulatedDisk,
    every: u32,
    most: usize,
    seed: u64,
    known: impl Fn() -> Arc<Model> + Send + 'static,
) -> Taken {
    let taken = Taken::default();
    if most == 0 {
        return taken;
    }
    let (kept, mut offered, mut rng) = (taken.clone(), 0, StdRng::seed_from_u64(seed));
    disk.watch(every, move |image| {
        let mut kept = kept.lock();
        offered += 1;
        let place = rng.random_range(0..offered);
        if kept.len() < most {
            kept.push((image, known()));
        } else if let Some(kept) = kept.get_mut(place) {
            *kept = (image, known());
        }
    });
    taken
}

impl Violation {
    fn at(self, place: impl std::fmt::Display) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

impl From<Broken> for Violation {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Store(error) => Self(format!("the store refuses to work: {error}")),
            Broken::Wrong(what) => Self(what),
        }
    }
}

/// Histories from a seed on, until there were so many images.
fn histories(first: u64, images: u64) {
    let (mut seed, mut checked) = (first, 0);
    while checked < images {
        match run(History::run(seed)) {
            Ok(images) => checked += images,
            Err(Violation(why)) => panic!("SEED={seed}: {why}"),
        }
        seed += 1;
    }
    println!("{checked} images of {} histories, SEED={first} on", seed - first);
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    match (setting("SEED"), setting("IMAGES")) {
        (None, None) => histories(1, IMAGES),
        (seed, images) => histories(seed.unwrap_or_else(rand::random), images.unwrap_or(1)),
    }
}

#[test]
fn power_cuts_of_a_random_history_lose_nothing() {
    let seed = rand::random::<u32>().into();
    println!("SEED={seed}");
    histories(seed, 1);
}
