//! What each of many may have at a time of something that all of them need: nobody waits behind all that somebody else has asked for.
//!
//! Whoever asks for more than their share waits for their own, in the order in which they asked.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shares of everybody who has one now or waits for one. Invariant: there is no entry of anybody else.
type Holders<K> = Arc<Mutex<HashMap<K, Holder>>>;

/// Shares for those who are told apart by a `K`. Cheap to clone; clones share what they hand out.
pub(crate) struct Shares<K: Eq + Hash + Clone> {
    each: usize,
    holders: Holders<K>,
}

struct Holder {
    semaphore: Arc<Semaphore>,
    /// How many have a share or wait for one.
    concerned: usize,
}

/// One share, until it is dropped.
pub(crate) struct Share<K: Eq + Hash + Clone> {
    /// Given back first.
    _permit: OwnedSemaphorePermit,
    _concern: Concern<K>,
}

/// Somebody who has a share or waits for one.
struct Concern<K: Eq + Hash + Clone> {
    holders: Holders<K>,
    who: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// At most this many at a time for each, which is at least one.
    pub(crate) fn new(each: usize) -> Self {
        Self { each: each.max(1), holders: Arc::default() }
    }

    /// One share; waits until there is one.
    pub(crate) async fn take(&self, who: &K) -> Share<K> {
        let (semaphore, concern) = self.concern(who);
        let permit = semaphore.acquire_owned().await.expect("never closed");
        Share { _permit: permit, _concern: concern }
    }

    /// One share; `None`: there is none now.
    pub(crate) fn try_take(&self, who: &K) -> Option<Share<K>> {
        let (semaphore, concern) = self.concern(who);
        let permit = semaphore.try_acquire_owned().ok()?;
        Some(Share { _permit: permit, _concern: concern })
    }

    fn concern(&self, who: &K) -> (Arc<Semaphore>, Concern<K>) {
        let mut holders = self.holders.lock();
        let none_yet = || Holder { semaphore: Arc::new(Semaphore::new(self.each)), concerned: 0 };
        let holder = holders.entry(who.clone()).or_insert_with(none_yet);
        holder.concerned += 1;
        (holder.semaphore.clone(), Concern { holders: self.holders.clone(), who: who.clone() })
    }
}

impl<K: Eq + Hash + Clone> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self { each: self.each, holders: self.holders.clone() }
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for Shares<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("each", &self.each).finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone> Drop for Concern<K> {
    fn drop(&mut self) {
        let mut holders = self.holders.lock();
        let Some(holder) = holders.get_mut(&self.who) else { return };
        holder.concerned -= 1;
        if holder.concerned == 0 {
            holders.remove(&self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn everybody_has_a_share_and_waits_for_nobody_elses() {
        let shares = Shares::new(2);
        let mut theirs = vec![shares.take(&"theirs").await, shares.take(&"theirs").await];
        assert!(shares.try_take(&"theirs").is_none());
        let (mut third, mut fourth) = (Box::pin(shares.take(&"theirs")), Box::pin(shares.take(&"theirs")));
        assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
        let ours = shares.try_take(&"ours").expect("nobody else's are in the way");

        theirs.pop();
        assert!(poll!(&mut fourth).is_pending(), "it came later");
        let third = third.await;
        assert!(shares.try_take(&"theirs").is_none());
        drop((theirs, third, ours));
        let _fourth = fourth.await;
    }

    #[tokio::test]
    async fn nothing_is_left_of_those_who_have_gone() {
        let shares = Shares::new(1);
        let share = shares.take(&1).await;
        let mut gives_up = Box::pin(shares.take(&1));
        assert!(poll!(&mut gives_up).is_pending());
        assert!(shares.try_take(&1).is_none());
        drop(share);
        drop(gives_up);
        assert!(shares.holders.lock().is_empty());
        drop(shares.take(&1).await);
        assert!(shares.holders.lock().is_empty());
    }
}
