//! Whether the disk has room for more events.
//!
//! A store that runs into a full disk can commit nothing, outcomes included, and deliveries stop. So events are refused while a
//! reserve is left, which outcomes, moves and removals go on with.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{info, warn};

/// What is known about room on the disk.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes that are kept free for what ends deliveries and frees space.
    reserve: u64,
    /// How long events are refused after a write found no room, whatever a look shows: a quota or a limit of a file's size does
    /// not show, and every attempt that fails takes outcomes with it.
    pause: Duration,
    short: AtomicBool,
    found_none: Mutex<Option<Instant>>,
    /// Whether that was since the last commit.
    fails: AtomicBool,
}

impl Space {
    /// With this many bytes kept free, and this long a pause after a write that found no room.
    pub(super) fn new(reserve: u64, pause: Duration) -> Self {
        let (short, fails) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { reserve, pause, short, found_none: Mutex::default(), fails }
    }

    /// Whether events are to be refused.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// A write found no room.
    pub(super) fn found_none(&self) {
        *self.found_none.lock() = Some(Instant::now());
        self.fails.store(true, Ordering::Release);
        self.shorten("a write found no room on the disk: events are refused");
    }

    /// Everything was written.
    pub(super) fn committed(&self) {
        self.fails.store(false, Ordering::Release);
    }

    /// Whether what was handed in at a time and not committed failed for want of room: whatever a look has shown since.
    pub(super) fn was_short(&self, handed_in: Instant) -> bool {
        let found_none = self.found_none.lock().is_some_and(|found| found >= handed_in);
        found_none || self.fails.load(Ordering::Acquire) || self.is_short()
    }

    /// So many bytes are free, as of now. To be told about once a second, or more often.
    pub(super) fn look(&self, free: u64) {
        self.look_at(free, Instant::now());
    }

    fn look_at(&self, free: u64, now: Instant) {
        let waits = self.found_none.lock().is_some_and(|found| now.duration_since(found) < self.pause);
        if free < self.reserve {
            self.shorten("the disk is almost full: events are refused, deliveries go on");
        } else if !waits && self.short.swap(false, Ordering::AcqRel) {
            info!(disk.free_bytes = free, "there is room on the disk again: events are accepted");
        }
    }

    fn shorten(&self, what: &'static str) {
        if !self.short.swap(true, Ordering::AcqRel) {
            warn!(disk.reserve_bytes = self.reserve, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_refused_below_the_reserve_and_for_a_while_after_a_write_found_no_room() {
        let (space, start) = (Space::new(100, Duration::from_secs(3)), Instant::now());
        let look = |(free, after)| {
            space.look_at(free, start + after);
            space.is_short()
        };
        let soon = Duration::ZERO;
        assert_eq!([(100, soon), (99, soon), (100, soon)].map(look), [false, true, false]);
        space.found_none();
        assert!(space.is_short());
        let later = Duration::from_secs(6);
        assert_eq!([(100, soon), (100, soon), (99, later), (100, later)].map(look), [true, true, true, false]);

        // What was refused meanwhile learns why, also if it asks when there is room again.
        assert!(space.was_short(start) && space.was_short(start + later));
        space.committed();
        assert!(space.was_short(start) && !space.was_short(start + later));
    }
}
