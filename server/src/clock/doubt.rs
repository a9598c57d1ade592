//! Whether the wall clock can be believed: pure.
//!
//! A clock that is wrong by years would give up what is pending and remove what is retained, and nothing brings that back. So
//! where the wall clock and the time that has passed disagree, the time that has passed is believed, until a person looks.

use std::time::Duration;

use crate::{
    limits::{CLOCK_AWAY_MAX, CLOCK_STEP_MAX},
    model::time::Timestamp,
};

/// Where the last run left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// What its clock showed at its last commit.
    pub at: Timestamp,
    /// By how many microseconds the wall clock was ahead of that when an operator confirmed it; 0: nobody has.
    pub confirmed: i64,
}

/// What a run's clock shows when it starts.
///
/// The wall clock's time, if that is what may be expected after a pause of up to [`CLOCK_AWAY_MAX`]. It is no earlier than what
/// was left, so that nothing is un-ordered by a small step back; unless the step back was confirmed.
pub(super) fn resumed(wall: Timestamp, left: Left) -> Timestamp {
    let expected = Timestamp::from_micros(left.at.micros().saturating_add(left.confirmed));
    if left.confirmed != 0 && (expected - CLOCK_STEP_MAX..=expected + CLOCK_AWAY_MAX).contains(&wall) {
        return wall;
    }
    if wall > left.at + CLOCK_AWAY_MAX { left.at } else { wall.max(left.at) }
}

/// Whether a wall clock that is so many microseconds ahead, or behind, is neither right nor the one that was confirmed.
pub(super) fn is_doubtful(ahead: i64, confirmed: i64) -> bool {
    !is_small(ahead) && (confirmed == 0 || !is_small(ahead.saturating_sub(confirmed)))
}

/// Whether so many microseconds are no matter.
pub(super) fn is_small(ahead: i64) -> bool {
    Duration::from_micros(ahead.unsigned_abs()) <= CLOCK_STEP_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;
    const YEARS: i64 = 3650 * DAY;
    const LEFT: i64 = 50 * 365 * DAY;

    #[test]
    fn a_run_begins_when_it_is_or_where_the_last_one_left_off() {
        for (what, wall, confirmed, expected) in [
            ("at once", 0, 0, 0),
            ("an hour later, or a step of one", HOUR, 0, HOUR),
            ("a month later", 31 * DAY, 0, 31 * DAY),
            ("too long after", 31 * DAY + 1, 0, 0),
            ("a step of years", YEARS, 0, 0),
            ("a small step back", -HOUR, 0, 0),
            ("a large step back", -YEARS, 0, 0),
            ("years, confirmed", YEARS + 5, YEARS, YEARS + 5),
            ("years, confirmed, and a month later", YEARS + 31 * DAY, YEARS, YEARS + 31 * DAY),
            ("years, confirmed, and too long after", YEARS + 32 * DAY, YEARS, 0),
            ("years back, confirmed", 5 - YEARS, -YEARS, 5 - YEARS),
            ("years back, confirmed, and a small step back", -HOUR - YEARS, -YEARS, -HOUR - YEARS),
            ("years back when years ahead were confirmed", -YEARS, YEARS, 0),
            ("right again after years were confirmed", DAY, YEARS, DAY),
        ] {
            let at = |micros| Timestamp::from_micros(LEFT + micros);
            let left = Left { at: at(0), confirmed };
            assert_eq!(resumed(at(wall), left), at(expected), "{what}");
        }
    }

    #[test]
    fn an_hour_is_no_matter_and_more_is_a_doubt() {
        for (ahead, confirmed, expected) in [
            (0, 0, false),
            (HOUR, 0, false),
            (-HOUR, 0, false),
            (HOUR + 1, 0, true),
            (-HOUR - 1, 0, true),
            (YEARS, 0, true),
            (i64::MIN, 0, true),
            (YEARS, YEARS, false),
            (YEARS + HOUR, YEARS, false),
            (YEARS + HOUR + 1, YEARS, true),
            (-YEARS, YEARS, true),
            (0, YEARS, false),
        ] {
            assert_eq!(is_doubtful(ahead, confirmed), expected, "{ahead} {confirmed}");
        }
    }
}
