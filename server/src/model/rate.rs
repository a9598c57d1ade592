//! How often a receiver may be called.
//!
//! A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, annex A): instead of tokens and the time they
//! were counted, one point in time is kept, the *theoretical arrival time*: when the bucket would be full again.

use std::{num::NonZeroU32, time::Duration};

use super::time::Timestamp;

/// Least attempts per second: one in ten seconds. Slower than that and nobody could tell a lane that waits from one that hangs.
pub const PER_SECOND_MIN: f64 = 0.1;
/// Most attempts per second.
pub const PER_SECOND_MAX: f64 = 10_000.0;
/// Most attempts at once.
pub const BURST_MAX: u32 = 10_000;

/// So many attempts per second, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Microseconds from one attempt to the next; what was asked for, rounded.
    interval_us: u32,
    /// Attempts per second, in thousandths.
    per_mille: u32,
    burst: u32,
}

impl RateLimit {
    /// `None`: a number is out of bounds. A burst of 0 stands for one second's worth, at least 1.
    pub fn new(per_second: f64, burst: u32) -> Option<Self> {
        // Not a number is in no range.
        if !(PER_SECOND_MIN..=PER_SECOND_MAX).contains(&per_second) || burst > BURST_MAX {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above, and positive")]
        let per_mille = (per_second * 1_000.0).round() as u32;
        let burst = if burst == 0 { per_mille.div_ceil(1_000) } else { burst };
        Some(Self { interval_us: 1_000_000_000_u32.div_ceil(per_mille), per_mille, burst })
    }

    /// As it was given, from [`Self::per_mille`] and [`Self::burst`].
    pub fn from_stored(per_mille: u32, burst: u32) -> Option<Self> {
        Self::new(f64::from(per_mille) / 1_000.0, burst)
    }

    /// At most so many in any minute; a hundredth of them, at least one, at once after a rest. Slower and faster than
    /// [`Self::new`] takes.
    pub fn per_minute(most: NonZeroU32) -> Self {
        let most = most.get();
        let burst = (most / 100).max(1);
        // What the burst takes of a minute is missing from its rate: in a minute there are the burst and one less than intervals.
        let interval_us = 60_000_000_u32.div_ceil(most - burst + 1);
        let per_mille = u32::try_from(u64::from(most) * 1_000 / 60).unwrap_or(u32::MAX);
        Self { interval_us, per_mille, burst }
    }

    /// What keeps to this limit and the other one.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            interval_us: self.interval_us.max(other.interval_us),
            per_mille: self.per_mille.min(other.per_mille),
            burst: self.burst.min(other.burst),
        }
    }

    /// Attempts in a minute, rounded up; at least one.
    pub fn whole_per_minute(&self) -> u32 {
        u32::try_from((u64::from(self.per_mille) * 60).div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
    }

    /// Attempts per second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.per_mille) / 1_000.0
    }

    /// Attempts in a thousand seconds.
    pub fn per_mille(&self) -> u32 {
        self.per_mille
    }

    /// Attempts that may be made at once after a rest.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_us.into())
    }
}

/// What is left of a rate: full at first, and after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    full_at: Option<Timestamp>,
}

impl Bucket {
    /// When the next attempt may be made, if not now.
    pub fn next(&self, limit: &RateLimit, now: Timestamp) -> Option<Timestamp> {
        // A limit that was lowered meanwhile cannot have taken more than all of the present one.
        let full_at = self.full_at?.min(now + limit.interval() * limit.burst);
        let at = full_at - limit.interval() * (limit.burst - 1);
        (at > now).then_some(at)
    }

    /// An attempt is made.
    pub fn take(&mut self, limit: &RateLimit, now: Timestamp) {
        let from = self.full_at.map_or(now, |at| at.clamp(now, now + limit.interval() * limit.burst));
        self.full_at = Some(from + limit.interval());
    }

    /// When it is as if it had never been used; `None`: it is.
    pub fn full_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.full_at.filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn bounds_and_defaults() {
        let check = |per_second, burst, expected: Option<(u32, u32)>| {
            let got = RateLimit::new(per_second, burst).map(|limit| (limit.per_mille(), limit.burst()));
            assert_eq!(got, expected, "{per_second} {burst}");
        };
        check(10.0, 0, Some((10_000, 10)));
        check(0.5, 0, Some((500, 1)));
        check(2.5, 0, Some((2_500, 3)));
        check(0.1, 7, Some((100, 7)));
        check(10_000.0, 10_000, Some((10_000_000, 10_000)));
        for wrong in [0.0, -1.0, 0.09, 10_001.0, f64::NAN, f64::INFINITY] {
            check(wrong, 0, None);
        }
        check(1.0, 10_001, None);
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let limit = RateLimit::new(10.0, 3).unwrap();
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.next(&limit, NOW), None);
            bucket.take(&limit, NOW);
        }
        let at = bucket.next(&limit, NOW).unwrap();
        assert_eq!(at.since(NOW), Duration::from_millis(100));
        assert_eq!(bucket.next(&limit, at), None);
        bucket.take(&limit, at);
        assert_eq!(bucket.next(&limit, at).unwrap().since(at), Duration::from_millis(100));
        assert_eq!(bucket.full_at(at).unwrap().since(at), Duration::from_millis(300));
        assert_eq!(bucket.full_at(at + Duration::from_millis(300)), None);
    }

    #[test]
    fn a_changed_limit_holds_at_once() {
        let (slow, fast) = (RateLimit::new(0.1, 100).unwrap(), RateLimit::new(100.0, 1).unwrap());
        let mut bucket = Bucket::default();
        for _ in 0..100 {
            bucket.take(&slow, NOW);
        }
        assert_eq!(bucket.next(&slow, NOW).unwrap().since(NOW), Duration::from_secs(10));
        assert_eq!(bucket.next(&fast, NOW).unwrap().since(NOW), Duration::from_millis(10));
    }

    #[test]
    fn rates_per_minute() {
        let per_minute = |most| RateLimit::per_minute(NonZeroU32::new(most).unwrap());
        for (most, burst, interval_us) in [
            (1, 1, 60_000_000),
            (60, 1, 1_000_000),
            (600, 6, 100_841),
            (60_000, 600, 1_011),
            (u32::MAX, u32::MAX / 100, 1),
        ] {
            let limit = per_minute(most);
            assert_eq!((limit.burst, limit.interval_us), (burst, interval_us), "{most}");
        }
        assert_eq!((per_minute(1).per_mille(), per_minute(120).per_mille()), (16, 2_000));
        for (per_second, expected) in [(0.1, 6), (0.15, 9), (10.0, 600), (1.001, 61), (10_000.0, 600_000)] {
            assert_eq!(RateLimit::new(per_second, 0).unwrap().whole_per_minute(), expected, "{per_second}");
        }
    }

    #[test]
    fn both_of_two_limits_hold() {
        let (fast, slow) = (RateLimit::new(100.0, 2).unwrap(), RateLimit::new(1.0, 50).unwrap());
        for both in [fast.and(&slow), slow.and(&fast)] {
            assert_eq!((both.per_mille(), both.burst(), both.interval_us), (1_000, 2, slow.interval_us));
        }
        assert_eq!(fast.and(&fast), fast);
    }

    proptest! {
        /// In no minute there are more than so many, whatever the rests in between.
        #[test]
        fn never_more_in_a_minute(most in 1_u32..1_000, pauses in proptest::collection::vec(0_u64..30_000_000, 0..40)) {
            let limit = RateLimit::per_minute(NonZeroU32::new(most).unwrap());
            let (mut bucket, mut now, mut taken) = (Bucket::default(), NOW, Vec::new());
            let mut pauses = pauses.into_iter();
            // Everything at once that is allowed, then the next one as soon as it is; after a rest more at once.
            while taken.len() < 3 * most as usize + 3 {
                if let Some(at) = bucket.next(&limit, now) {
                    now = at + Duration::from_micros(pauses.next().unwrap_or_default());
                } else {
                    bucket.take(&limit, now);
                    taken.push(now);
                }
            }
            for (first, next) in taken.iter().zip(&taken[most as usize..]) {
                prop_assert!(next.since(*first) >= Duration::from_mins(1), "{} within {:?}", most + 1, next.since(*first));
            }
        }

        /// In any span there are no more than the burst and what the rate allows for it.
        #[test]
        fn never_more_than_allowed(per_second in 0.1_f64..1_000.0, burst in 1_u32..50, steps in proptest::collection::vec(0_u64..200_000, 1..200)) {
            let limit = RateLimit::new(per_second, burst).unwrap();
            let (mut bucket, mut now, mut taken) = (Bucket::default(), NOW, Vec::new());
            for step in steps {
                now = now + Duration::from_micros(step);
                if bucket.next(&limit, now).is_none() {
                    bucket.take(&limit, now);
                    taken.push(now);
                }
            }
            for (index, from) in taken.iter().enumerate() {
                for (more, to) in (0_u32..).zip(&taken[index..]) {
                    let allowed = f64::from(burst) + to.since(*from).as_secs_f64() * per_second + 0.01;
                    prop_assert!(f64::from(more) <= allowed, "{} in {:?}", more + 1, to.since(*from));
                }
            }
        }
    }
}
