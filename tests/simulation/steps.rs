//! A machine whose clock jumps: by an hour, by ten years, back and forth, and now and then to where it should be.

use std::sync::Arc;

use postrider_server::clock::Clock;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use crate::{people::wait, world::World};

/// Longest time between two jumps.
const PAUSE_MS: u64 = 5_000;
const HOUR: i64 = 3_600_000_000;
const TEN_YEARS: i64 = 3_650 * 24 * HOUR;

/// Sets the wall clock, and has the daemon look at it, until it is told to stop. An operator may confirm it.
pub(crate) async fn jump(world: Arc<World>, number: usize, clock: Clock, stop: CancellationToken) {
    let mut rng = World::rng(&world.plan, "clock", number);
    while wait(PAUSE_MS, |longest| rng.random_range(0..=longest), &stop).await {
        let jumps = [0, HOUR, -HOUR, 2 * HOUR, -2 * HOUR, TEN_YEARS, -TEN_YEARS];
        clock.jump(jumps[rng.random_range(0..jumps.len())]);
        clock.look();
        if rng.random_bool(0.2) {
            clock.confirm();
        }
    }
}
