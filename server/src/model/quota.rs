//! Quotas: how much of the server one tenant may use.
//!
//! Bytes are counted by the day (UTC). Unlike what is stored at a moment, which the end of retention, archiving and erasing change in
//! whole files, what was accepted in a day is one number that only accepting changes, in the commit that accepts; and times the
//! days of retention it bounds what is stored besides what is pending.

use std::time::Duration;

use super::{ids::Tenant, rate::RateLimit, time::Timestamp};

/// Microseconds of a day.
const DAY: i64 = 86_400 * 1_000_000;
/// When one whom the backlog, or the number of webhooks, turns away may try again: nobody knows when there is room.
const PENDING_RETRY: Duration = Duration::from_secs(5);
const WEBHOOKS_RETRY: Duration = Duration::from_mins(1);

/// What was decided about one thing that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit<T> {
    /// Nothing: it is as for all tenants.
    #[default]
    Default,
    /// There is no limit, whatever holds for others.
    Unlimited,
    /// So much, and no more.
    AtMost(T),
}

impl<T> Limit<T> {
    /// What holds, if `default` holds for all tenants; `None`: there is no limit.
    pub fn over(self, default: Option<T>) -> Option<T> {
        match self {
            Self::Default => default,
            Self::Unlimited => None,
            Self::AtMost(most) => Some(most),
        }
    }
}

/// What was decided about one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// How fast events may come.
    pub events: Limit<RateLimit>,
    /// How many deliveries may be pending.
    pub pending: Limit<u64>,
    /// How many webhooks there may be.
    pub webhooks: Limit<u64>,
    /// How many bytes of events may be accepted in a day.
    pub bytes_per_day: Limit<u64>,
}

impl Quota {
    /// What holds, if `defaults` hold for all tenants.
    pub fn over(&self, defaults: &Limits) -> Limits {
        Limits {
            events: self.events.over(defaults.events),
            pending: self.pending.over(defaults.pending),
            webhooks: self.webhooks.over(defaults.webhooks),
            bytes_per_day: self.bytes_per_day.over(defaults.bytes_per_day),
        }
    }
}

/// The limits that hold; `None`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// How fast events may come.
    pub events: Option<RateLimit>,
    /// How many deliveries may be pending.
    pub pending: Option<u64>,
    /// How many webhooks there may be.
    pub webhooks: Option<u64>,
    /// How many bytes of events may be accepted in a day.
    pub bytes_per_day: Option<u64>,
}

/// A tenant's own quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantQuota {
    /// Whose.
    pub tenant: Tenant,
    /// What was decided.
    pub quota: Quota,
    /// When.
    pub update_time: Timestamp,
}

/// What went beyond which quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Events came too fast.
    Events {
        /// How fast they may.
        limit: RateLimit,
        /// When the next one may come.
        retry_after: Duration,
    },
    /// Too many deliveries would be pending.
    Pending {
        /// How many may.
        limit: u64,
        /// How many are.
        usage: u64,
        /// How many would be added.
        more: u64,
    },
    /// There would be too many webhooks.
    Webhooks {
        /// How many there may be.
        limit: u64,
        /// How many there are.
        usage: u64,
    },
    /// Too much would be accepted this day.
    Bytes {
        /// How much may be.
        limit: u64,
        /// How much was.
        usage: u64,
        /// How much would be added.
        more: u64,
        /// When the day is over.
        retry_after: Duration,
    },
}

impl Excess {
    /// When who was turned away may try again.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Events { retry_after, .. } | Self::Bytes { retry_after, .. } => *retry_after,
            Self::Pending { .. } => PENDING_RETRY,
            Self::Webhooks { .. } => WEBHOOKS_RETRY,
        }
    }
}

/// Whether so many deliveries more may be pending.
pub fn check_pending(limit: u64, usage: u64, more: u64) -> Result<(), Excess> {
    // What makes nothing pending is no matter, however much is.
    if more == 0 || usage.saturating_add(more) <= limit { Ok(()) } else { Err(Excess::Pending { limit, usage, more }) }
}

/// Whether one webhook more may be there.
pub fn check_webhooks(limit: u64, usage: u64) -> Result<(), Excess> {
    if usage < limit { Ok(()) } else { Err(Excess::Webhooks { limit, usage }) }
}

/// Whether so many bytes more may be accepted at this time.
pub fn check_bytes(limit: u64, usage: u64, more: u64, time: Timestamp) -> Result<(), Excess> {
    if usage.saturating_add(more) <= limit {
        return Ok(());
    }
    Err(Excess::Bytes { limit, usage, more, retry_after: day_end(time).since(time) })
}

/// How many deliveries a replay may make pending: it leaves a tenth of the limit to what is published.
pub fn replay_room(limit: u64, usage: u64) -> u64 {
    (limit - limit / 10).saturating_sub(usage)
}

/// Number of the day, UTC, from 1970 on; before, that of the first.
pub fn day(time: Timestamp) -> u32 {
    u32::try_from(time.micros().div_euclid(DAY)).unwrap_or(0)
}

/// When the day of this time is over.
pub fn day_end(time: Timestamp) -> Timestamp {
    Timestamp::from_micros((i64::from(day(time)) + 1) * DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_decided_is_as_for_all() {
        let (own, all) = (RateLimit::new(1.0, 0), RateLimit::new(2.0, 0));
        let quota = Quota {
            events: Limit::AtMost(own.unwrap()),
            pending: Limit::Unlimited,
            webhooks: Limit::Default,
            bytes_per_day: Limit::AtMost(0),
        };
        let defaults = Limits { events: all, pending: Some(1), webhooks: Some(2), bytes_per_day: None };
        let expected = Limits { events: own, pending: None, webhooks: Some(2), bytes_per_day: Some(0) };
        assert_eq!(quota.over(&defaults), expected);
        assert_eq!(Quota::default().over(&defaults), defaults);
    }

    #[test]
    fn what_fits_exactly_fits() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        assert!(check_pending(10, 5, 5).is_ok() && check_pending(10, 10, 0).is_ok() && check_pending(3, 9, 0).is_ok());
        assert_eq!(check_pending(10, 5, 6), Err(Excess::Pending { limit: 10, usage: 5, more: 6 }));
        assert!(check_pending(u64::MAX - 1, u64::MAX, 1).is_err());
        assert!(check_webhooks(1, 0).is_ok() && check_webhooks(0, 0).is_err() && check_webhooks(1, 2).is_err());
        assert!(check_bytes(10, 5, 5, at(0)).is_ok());
        let late = check_bytes(10, 5, 6, at(2 * 86_400 - 90)).unwrap_err();
        assert_eq!(late.retry_after(), Duration::from_secs(90));
        assert_eq!(late, Excess::Bytes { limit: 10, usage: 5, more: 6, retry_after: late.retry_after() });
        for (limit, usage, room) in [(100, 0, 90), (100, 90, 0), (100, 95, 0), (5, 2, 3), (0, 0, 0)] {
            assert_eq!(replay_room(limit, usage), room, "{limit} {usage}");
        }
    }

    #[test]
    fn days_end_at_midnight() {
        let check = |seconds: i64, expected: u32, end: i64| {
            let time = Timestamp::from_micros(seconds * 1_000_000);
            assert_eq!((day(time), day_end(time).seconds()), (expected, end), "{seconds}");
        };
        check(0, 0, 86_400);
        check(86_399, 0, 86_400);
        check(86_400, 1, 172_800);
        check(1_700_000_000, 19_675, 1_700_006_400);
        check(-5, 0, 86_400);
    }
}
