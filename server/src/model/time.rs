//! Points in time, in microseconds: what the store keeps and decisions compare.

use std::{
    fmt,
    ops::{Add, Sub},
    time::{Duration, SystemTime},
};

/// Microseconds since the Unix epoch, UTC; before 1970 is negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// As the system has it; before 1970, 1970.
    pub fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.since(Self::UNIX_EPOCH)
    }

    /// Nanoseconds within the second, as protobuf counts them.
    pub fn subsec_nanos(self) -> i32 {
        i32::try_from(self.0.rem_euclid(1_000_000) * 1_000).expect("below 1,000,000,000")
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.seconds(), self.subsec_nanos() / 1_000)
    }
}
