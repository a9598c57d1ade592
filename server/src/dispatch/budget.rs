//! The room for hints that all windows share.

/// How many hints there are and may be.
///
/// No lane may hold more than its fair share of half the room, so that a new one finds some; when the room runs out all the
/// same, because shares have shrunk since others filled theirs, the scheduler trims every lane to its present share.
#[derive(Debug)]
pub(super) struct Budget {
    hints_max: usize,
    lane_hints_max: usize,
    hints: usize,
    /// Lanes with at least one.
    lanes: usize,
}

impl Budget {
    /// Room for `hints_max` in all, and for `lane_hints_max` of one lane.
    pub(super) fn new(hints_max: usize, lane_hints_max: usize) -> Self {
        Self { hints_max, lane_hints_max, hints: 0, lanes: 0 }
    }

    /// Most hints one lane may hold at any time.
    pub(super) fn lane_hints_max(&self) -> usize {
        self.lane_hints_max
    }

    /// Most hints one lane may hold now.
    pub(super) fn lane_cap(&self) -> usize {
        (self.hints_max / 2 / self.lanes.max(1)).clamp(1, self.lane_hints_max)
    }

    /// Whether there is no room.
    pub(super) fn is_full(&self) -> bool {
        self.hints >= self.hints_max
    }

    /// Whether the lanes should be trimmed: room is short and trimming frees at least an eighth of it, so that the time it takes
    /// is spread over as many hints.
    pub(super) fn wants_trim(&self) -> bool {
        self.hints >= self.hints_max / 8 * 7 && self.lanes < self.hints_max / 4 * 3
    }

    /// A window changed its size.
    pub(super) fn resized(&mut self, before: usize, after: usize) {
        self.hints = self.hints + after - before;
        self.lanes = self.lanes + usize::from(after > 0) - usize::from(before > 0);
    }

    /// Hints there are.
    #[cfg(test)]
    pub(super) fn hints(&self) -> usize {
        self.hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_with_the_number_of_lanes() {
        let mut budget = Budget::new(1024, 256);
        for (lanes, cap) in [(0, 256), (1, 256), (2, 256), (4, 128), (100, 5), (512, 1), (1024, 1)] {
            while budget.lanes < lanes {
                budget.resized(0, 1);
            }
            assert_eq!(budget.lane_cap(), cap, "{lanes} lanes");
        }
        assert!(budget.is_full());
        assert!(!budget.wants_trim(), "there is nothing to trim when each has one");
        budget.resized(1, 0);
        assert!(!budget.is_full());
    }
}
