//! Whether the disk has room for more events.
//!
//! A store that runs into a full disk can commit nothing, outcomes included, and deliveries stop. So events are refused while a
//! reserve is left, which outcomes, moves and removals go on with.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tracing::{info, warn};

/// Looks for which events are refused after a write found no room, whatever a look shows: a quota or a limit of a file's size
/// does not show, and every attempt that fails takes outcomes with it.
const LOOKS_AFTER_NONE: u32 = 3;

/// What is known about room on the disk.
#[derive(Debug)]
pub(super) struct Space {
    /// Bytes that are kept free for what ends deliveries and frees space.
    reserve: u64,
    short: AtomicBool,
    looks_to_wait: AtomicU32,
}

impl Space {
    /// With this many bytes kept free.
    pub(super) fn new(reserve: u64) -> Self {
        Self { reserve, short: AtomicBool::new(false), looks_to_wait: AtomicU32::new(0) }
    }

    /// Whether events are to be refused.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// A write found no room.
    pub(super) fn found_none(&self) {
        self.looks_to_wait.store(LOOKS_AFTER_NONE, Ordering::Release);
        self.shorten("a write found no room on the disk: events are refused");
    }

    /// So many bytes are free, as of now. To be told about once a second.
    pub(super) fn look(&self, free: u64) {
        let waits = self.looks_to_wait.fetch_update(Ordering::AcqRel, Ordering::Acquire, |looks| looks.checked_sub(1));
        if free < self.reserve {
            self.shorten("the disk is almost full: events are refused, deliveries go on");
        } else if waits.is_err() && self.short.swap(false, Ordering::AcqRel) {
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
        let space = Space::new(100);
        let look = |free| {
            space.look(free);
            space.is_short()
        };
        assert_eq!([100, 99, 100].map(look), [false, true, false]);
        space.found_none();
        assert!(space.is_short());
        assert_eq!([100, 100, 100, 100].map(look), [true, true, true, false]);
    }
}
