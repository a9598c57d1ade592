//! The engine on a disk that loses power, fails and fills up: whatever happens to it, what it acknowledged is there.
//!
//! A *history* is work on a simulated disk. Every now and then, before an operation that changes something, an *image* is
//! taken: what is durable, what is not, and what was acknowledged by then. From each image disks are made as a power cut could
//! leave them; the engine must open them and hold what the model says. Images are taken of that, too: power can go while the
//! engine recovers. One image of a history is where it goes on.
//!
//! `cargo test` checks a fixed set of histories and one drawn at random, whose seed it prints.
//! `IMAGES=20000 cargo test -p postrider-server --lib images::power -- --nocapture` goes on for so many images, from
//! `SEED` on; with `SEED` alone it repeats that history. A seed draws the same work and the same images nearly always: the engine's
//! threads are real.

mod auditing;
mod backups;
mod contents;
mod disk;
mod driver;
mod erasing;
mod faults;
mod image;
mod model;
mod power;
mod quotas;
mod replaying;
mod verify;

use std::{path::Path, sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    disk::SimulatedDisk,
    model::{Model, RETENTION},
    verify::Violation,
};
use super::{
    Config, KeySource, RedbStore,
    disk::OpenFile,
    open_on,
    segments::{Segment, file_name},
    space::Space,
};
use crate::{clock::Clock, model::master_key::MasterKey, store::Store as _};

const DATA: &str = "/var/data";

fn config() -> Config {
    Config {
        // There is no file of one on a simulated disk.
        master_key: KeySource::Given("the test", MasterKey::generate(&mut StdRng::seed_from_u64(1))),
        cache_bytes: 1 << 20,
        // What is read comes from the tables.
        chunk_cache_bytes: 0,
        log_cache_bytes: 0,
        hot_bytes_max: 6 * 1024,
        retention: RETENTION,
        audit_retention: RETENTION,
        audit_entries_max: auditing::ENTRIES_MAX,
        reopen_pause: Duration::from_millis(1),
        ..Config::default()
    }
}

/// A cramped store may hold next to nothing: of what is over, only the newest stays.
fn config_of(model: &Model) -> Config {
    Config { retention_bytes: model.cramped.then_some(1), ..config() }
}

fn open(disk: &SimulatedDisk) -> Result<RedbStore, Violation> {
    open_with(disk, config())
}

fn open_with(disk: &SimulatedDisk, config: Config) -> Result<RedbStore, Violation> {
    let opened = open_on(Arc::new(disk.clone()), Path::new(DATA), config, Arc::default(), Clock::start());
    opened.map_err(|error| Violation(format!("it does not open: {error}")))
}

/// Closes the store and has redb look at every page of every file.
async fn close(store: RedbStore, disk: &SimulatedDisk) -> Result<(), Violation> {
    store.close().await?;
    let folder = Path::new(DATA);
    let segments = store.shared.segments.all();
    let file = |segment: &Segment| file_name((segment.no, segment.record.generation));
    let segments = segments.iter().map(|segment| folder.join("segments").join(file(segment)));
    let space = Arc::new(Space::new(0, Duration::ZERO));
    for path in segments.chain([folder.join("hot.redb")]) {
        let broken = |error: &dyn std::fmt::Display| Violation(format!("{}: {error}", path.display()));
        let mut file = OpenFile::open(disk, &path, 1 << 20, &space).map_err(|error| broken(&error))?;
        if !file.check_integrity().map_err(|error| broken(&error))? {
            return Err(broken(&"was damaged"));
        }
    }
    Ok(())
}

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "how much a test does is told by whoever runs it")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs a test on this thread; what blocks gets others.
fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}
