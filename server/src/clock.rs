//! The one place that reads clocks.
//!
//! ```text
//!   wall clock ── at start, if it can be believed ──▶ anchor + monotonic clock = now()     due times, ages, records
//!        │                                                │
//!        └──── more than an hour from each other ─────────┴──▶ doubt: certain() stands     removal, expiry
//! ```
//!
//! Invariant: within one run [`Clock::now`] never steps, whatever becomes of the wall clock. From one run to the next it goes
//! back only if an operator has confirmed that it may.

mod doubt;

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

pub use self::doubt::Left;
use crate::model::time::Timestamp;

/// Tells the wall clock's time.
pub type Wall = fn() -> SystemTime;

/// No doubt.
const NONE: i64 = i64::MIN;

/// Time for decisions, anchored once to the wall clock and carried on by the monotonic one.
///
/// A step of the wall clock therefore neither fires retries early nor holds them up. Cheap to copy; all copies show the same.
#[derive(Clone, Copy)]
pub struct Clock {
    anchor: &'static Anchor,
}

/// What the copies of a clock share. There is one in a process, which is never freed.
struct Anchor {
    started: Instant,
    /// What it showed then, microseconds.
    started_at: AtomicI64,
    /// `None`: the wall clock is simulated, and shows what this one shows and so many microseconds more.
    wall: Option<Wall>,
    simulated_ahead: AtomicI64,
    /// How far the wall clock was ahead when an operator confirmed it, microseconds; 0: nobody has.
    confirmed: AtomicI64,
    /// What it showed when doubt began, microseconds, or [`NONE`].
    doubted: AtomicI64,
}

/// That doubt has begun, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The wall clock is so many microseconds ahead; negative: behind.
    Began(i64),
    /// It is right again.
    Ended,
}

impl Clock {
    /// Anchors the clock to the present.
    pub fn start() -> Self {
        Self::following(system)
    }

    /// One that takes this for the wall clock, for tests of its steps.
    pub fn following(wall: Wall) -> Self {
        Self::anchored(timestamp(wall()), Some(wall))
    }

    /// A clock that shows `at` now and goes as tokio's time goes, the wall clock included until it jumps: for simulations.
    pub fn simulated(at: Timestamp) -> Self {
        Self::anchored(at, None)
    }

    fn anchored(at: Timestamp, wall: Option<Wall>) -> Self {
        let anchor = Anchor {
            started: Instant::now(),
            started_at: AtomicI64::new(at.micros()),
            wall,
            simulated_ahead: AtomicI64::new(0),
            confirmed: AtomicI64::new(0),
            doubted: AtomicI64::new(NONE),
        };
        Self { anchor: Box::leak(Box::new(anchor)) }
    }

    /// Goes on from where the last run left off, before anybody has decided anything by this clock. With `confirm` an operator
    /// says that the wall clock is right, whatever was left.
    pub fn resume(&self, left: Option<Left>, confirm: bool) {
        let wall = self.wall();
        let at = match left {
            Some(left) if !confirm => doubt::resumed(wall, left),
            Some(_) | None => wall,
        };
        let elapsed = self.anchor.started.elapsed();
        self.anchor.started_at.store((at - elapsed).micros(), Ordering::Relaxed);
        self.anchor.confirmed.store(0, Ordering::Relaxed);
    }

    /// Time for due times, ages and records: never steps.
    pub fn now(&self) -> Timestamp {
        self.started_at() + self.anchor.started.elapsed()
    }

    fn started_at(self) -> Timestamp {
        Timestamp::from_micros(self.anchor.started_at.load(Ordering::Relaxed))
    }

    /// As late as it certainly is, for removing and giving up what has become too old: as [`Self::now`], but it stands while there
    /// is doubt.
    pub fn certain(&self) -> Timestamp {
        self.doubted().unwrap_or_else(|| self.now())
    }

    /// Since when the wall clock is doubted, by this clock.
    pub fn doubted(&self) -> Option<Timestamp> {
        let doubted = self.anchor.doubted.load(Ordering::Relaxed);
        (doubted != NONE).then(|| Timestamp::from_micros(doubted))
    }

    /// When `at` will be, for sleeping; at once if it has passed.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.anchor.started + at.since(self.started_at())
    }

    /// What the wall clock says, for what other machines compare with theirs: signatures.
    pub fn wall(&self) -> Timestamp {
        let simulated = || {
            let ahead = self.anchor.simulated_ahead.load(Ordering::Relaxed);
            Timestamp::from_micros(self.now().micros().saturating_add(ahead))
        };
        self.anchor.wall.map_or_else(simulated, |wall| timestamp(wall()))
    }

    /// Sets a simulated wall clock so many microseconds ahead; negative: back.
    pub fn jump(&self, ahead: i64) {
        self.anchor.simulated_ahead.store(ahead, Ordering::Relaxed);
    }

    /// By how many microseconds the wall clock is ahead; negative: behind.
    pub fn ahead(&self) -> i64 {
        self.wall().micros().saturating_sub(self.now().micros())
    }

    /// Compares with the wall clock. Says whether doubt has begun or ended by that.
    pub fn look(&self) -> Option<Turn> {
        let ahead = self.ahead();
        if doubt::is_small(ahead) {
            // What was confirmed was another wall clock.
            self.anchor.confirmed.store(0, Ordering::Relaxed);
        }
        match (self.doubted(), doubt::is_doubtful(ahead, self.confirmed())) {
            (None, true) => {
                self.anchor.doubted.store(self.now().micros(), Ordering::Relaxed);
                Some(Turn::Began(ahead))
            }
            (Some(_), false) => {
                self.anchor.doubted.store(NONE, Ordering::Relaxed);
                Some(Turn::Ended)
            }
            (None, false) | (Some(_), true) => None,
        }
    }

    /// An operator says that the wall clock is right: doubt ends, and the next run goes by it. Until then this clock goes on as
    /// it does. Nothing happens if there is no doubt.
    pub fn confirm(&self) {
        if self.doubted().is_some() {
            self.anchor.confirmed.store(self.ahead(), Ordering::Relaxed);
            self.anchor.doubted.store(NONE, Ordering::Relaxed);
        }
    }

    /// How far the wall clock was ahead when it was confirmed, microseconds; 0: it was not.
    pub fn confirmed(&self) -> i64 {
        self.anchor.confirmed.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).field("doubted", &self.doubted()).finish_non_exhaustive()
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    // A machine whose clock stands before 1970 gets 1970.
    Timestamp::UNIX_EPOCH + time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn system() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::{sync::LazyLock, time::Duration};

    use parking_lot::Mutex;
    use tokio::time::advance;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const TEN_YEARS: Duration = Duration::from_hours(24 * 3650);

    /// What the wall clock of the one test shows.
    static WALL: LazyLock<Mutex<SystemTime>> = LazyLock::new(|| Mutex::new(UNIX_EPOCH + 5 * TEN_YEARS));

    fn scripted() -> SystemTime {
        *WALL.lock()
    }

    fn step(by: Duration, forward: bool) {
        let mut wall = WALL.lock();
        *wall = if forward { *wall + by } else { *wall - by };
    }

    async fn pass(time: Duration) {
        advance(time).await;
        step(time, true);
    }

    #[tokio::test(start_paused = true)]
    async fn steps_change_nothing_but_what_is_certain() {
        let clock = Clock::following(scripted);
        let start = clock.now();
        assert_eq!(clock.look(), None);
        for (by, forward, doubtful) in [
            (HOUR / 2, true, false),
            (HOUR / 2, false, false),
            (2 * HOUR, true, true),
            (2 * HOUR, false, false),
            (TEN_YEARS, true, true),
            (TEN_YEARS, false, false),
            (TEN_YEARS, false, true),
            (TEN_YEARS, true, false),
        ] {
            let before = clock.now();
            step(by, forward);
            assert_eq!(clock.now(), before, "{by:?}");
            let was = clock.doubted().is_some();
            let turn = clock.look();
            assert_eq!((clock.doubted().is_some(), turn.is_some()), (doubtful, was != doubtful), "{by:?}");
            let certain = clock.certain();
            pass(HOUR).await;
            assert_eq!(clock.now(), before + HOUR);
            assert_eq!(clock.certain(), if doubtful { certain } else { before + HOUR }, "{by:?}");
            assert_eq!(clock.instant(before + 2 * HOUR), Instant::now() + HOUR);
        }
        assert_eq!(clock.now(), start + 8 * HOUR);

        // Confirmed: it goes on as it did, and another step is another doubt.
        step(TEN_YEARS, true);
        assert!(
            matches!(clock.look(), Some(Turn::Began(ahead)) if Timestamp::from_micros(ahead) == Timestamp::UNIX_EPOCH + TEN_YEARS)
        );
        let before = clock.now();
        clock.confirm();
        assert_eq!((clock.look(), clock.doubted(), clock.certain()), (None, None, before));
        step(2 * HOUR, false);
        assert!(matches!(clock.look(), Some(Turn::Began(_))));
        step(TEN_YEARS, false);
        step(2 * HOUR, true);
        assert_eq!((clock.look(), clock.confirmed()), (Some(Turn::Ended), 0));
    }
}
