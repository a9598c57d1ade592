//! How fast one who is known may make calls that go to the audit log.
//!
//! The log is bounded, and what one writes pushes out what they did before; it takes two commits a call besides. So there is a rate
//! for each caller: too high for people, and for scripts at work all day, too low to empty one's own share of the log in seconds.
//! What others did is kept by shares, whatever the rate: see [`crate::model::audit_shares`].
//!
//! Deliberately absent: a rate for callers of whom no credentials are asked. They cannot be told apart, and whoever is one of them
//! may do everything anyway.

use std::{collections::HashMap, time::Duration};

use super::caller::Caller;
use crate::{
    api::status::Failure,
    limits::{AUDIT_CALLS_BURST, AUDIT_CALLS_PER_SECOND, AUDIT_OPERATOR_CALLS_BURST, AUDIT_OPERATOR_CALLS_PER_SECOND},
    model::{
        audit_shares::Account,
        rate::{Bucket, RateLimit},
        time::Timestamp,
    },
};

/// So many are remembered before the first look at who need not be.
const ACCOUNTS: usize = 64;

/// What those who are known have left of their rates. Pure.
#[derive(Debug)]
pub(super) struct Paces {
    /// Of who acts for some tenants.
    limited: RateLimit,
    /// Of who acts for all.
    operators: RateLimit,
    buckets: HashMap<Account, Bucket>,
    /// With so many it is time to look who need not be remembered.
    crowd: usize,
}

impl Default for Paces {
    fn default() -> Self {
        let limit = |per_second, burst| RateLimit::new(per_second, burst).expect("the limits are within bounds");
        Self {
            limited: limit(AUDIT_CALLS_PER_SECOND, AUDIT_CALLS_BURST),
            operators: limit(AUDIT_OPERATOR_CALLS_PER_SECOND, AUDIT_OPERATOR_CALLS_BURST),
            buckets: HashMap::new(),
            crowd: ACCOUNTS,
        }
    }
}

impl Paces {
    /// Counts a call, if it does not come too soon.
    pub(super) fn take(&mut self, caller: &Caller, now: Timestamp) -> Result<(), Failure> {
        let limit = match caller {
            Caller::Anybody(_) | Caller::Nobody => return Ok(()),
            Caller::Key(_) | Caller::Certificate(_) if caller.is_for_all() => self.operators,
            Caller::Key(_) | Caller::Certificate(_) => self.limited,
        };
        let wait = self.count(caller.principal().account(), &limit, now);
        wait.map_err(|wait| Failure::too_many_calls(&limit, wait))
    }

    /// How long to wait, if it comes too soon.
    fn count(&mut self, account: Account, limit: &RateLimit, now: Timestamp) -> Result<(), Duration> {
        if self.buckets.len() >= self.crowd {
            // Who has all of it again is as one who never came: forgetting them is no way around it. The others are keys and names of
            // this minute, which only operators make.
            self.buckets.retain(|_, bucket| bucket.full_at(now).is_some());
            self.crowd = ACCOUNTS.max(2 * self.buckets.len());
        }
        let bucket = self.buckets.entry(account).or_default();
        if let Some(at) = bucket.next(limit, now) {
            return Err(at.since(now));
        }
        bucket.take(limit, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credentials::ApiKeyId;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn account(n: u32) -> Account {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Account::Key(ApiKeyId::from_bytes(id))
    }

    #[test]
    fn each_has_a_rate_of_their_own() {
        let mut paces = Paces::default();
        let limit = paces.limited;
        for _ in 0..AUDIT_CALLS_BURST {
            assert_eq!(paces.count(account(1), &limit, NOW), Ok(()));
        }
        assert_eq!(paces.count(account(1), &limit, NOW), Err(Duration::from_millis(50)));
        assert_eq!(paces.count(account(2), &limit, NOW), Ok(()));
        let later = NOW + Duration::from_millis(50);
        assert_eq!(paces.count(account(1), &limit, later), Ok(()), "who waits as told goes on");
        assert!(paces.count(account(1), &limit, later).is_err());
    }

    /// Memory is bounded by who calls at a time, and coming with others does not help.
    #[test]
    fn who_is_at_rest_is_forgotten_and_nobody_else() {
        let mut paces = Paces::default();
        let limit = paces.limited;
        while paces.count(account(0), &limit, NOW).is_ok() {}
        let mut now = NOW;
        for n in 1..100_000 {
            now = now + Duration::from_micros(1);
            assert_eq!(paces.count(account(n), &limit, now), Ok(()));
            if n % 100 == 0 {
                assert!(paces.count(account(0), &limit, now).is_err() || now >= NOW + Duration::from_millis(50));
            }
        }
        now = now + Duration::from_mins(2);
        for n in 0..100_000 {
            now = now + Duration::from_millis(1);
            assert_eq!(paces.count(account(1_000_000 + n), &limit, now), Ok(()));
        }
        assert!(paces.buckets.len() <= 2 * ACCOUNTS + 100, "{}", paces.buckets.len());
    }
}
