//! The one place that reads clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::time::Timestamp;

/// Time for decisions, anchored once to the wall clock and carried on by the monotonic one.
///
/// A step of the wall clock therefore neither fires retries early nor holds them up. Cheap to clone.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_at: Timestamp,
    simulated: bool,
}

impl Clock {
    /// Anchors the clock to the present.
    pub fn start() -> Self {
        Self { started: Instant::now(), started_at: wall(), simulated: false }
    }

    /// A clock that shows `at` now and goes as tokio's time goes, the wall clock included: for simulations.
    pub fn simulated(at: Timestamp) -> Self {
        Self { started: Instant::now(), started_at: at, simulated: true }
    }

    /// Time for due times, ages and records: never steps.
    pub fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    /// When `at` will be, for sleeping; at once if it has passed.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.started + at.since(self.started_at)
    }

    /// What the wall clock says, for what other machines compare with theirs: signatures.
    pub fn wall(&self) -> Timestamp {
        if self.simulated { self.now() } else { wall() }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn wall() -> Timestamp {
    // A machine whose clock stands before 1970 gets 1970.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::UNIX_EPOCH + since_epoch
}
