//! The API keys in memory: who may speak is decided without waiting for the disk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::RwLock;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::model::{
    credentials::{ApiKey, ApiKeyId, ApiKeySpec, Digest},
    time::Timestamp,
};

/// A change of API keys.
#[derive(Debug, Clone)]
pub enum KeyChange {
    /// Remember a key. From the first one on, whoever calls needs one.
    Create {
        /// Its id, which is random.
        id: ApiKeyId,
        /// What is kept of its text.
        digest: Digest,
        /// What was decided about it.
        spec: ApiKeySpec,
        /// Now.
        time: Timestamp,
    },
    /// Forget a key.
    Revoke {
        /// Which one.
        id: ApiKeyId,
    },
}

/// What became of a [`KeyChange`].
#[derive(Debug, Clone)]
pub enum KeyAnswer {
    /// The key is good from now on.
    Created(ApiKey),
    /// The key is worth nothing from now on.
    Revoked,
    /// There is no such key.
    NotFound,
    /// No more keys fit.
    TooMany,
}

/// One step of what is known about API keys.
#[derive(Debug, Clone)]
pub enum KeyStep {
    /// There is this key.
    Put(ApiKey),
    /// There is no such key any more.
    Revoked(ApiKeyId),
}

/// Whether somebody may go on, for calls that take long. Cheap to clone, cheap to ask.
#[derive(Debug, Clone, Default)]
pub struct Validity(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Asked for every message: a token's own state is behind a lock.
    over: AtomicBool,
    ended: CancellationToken,
}

impl Validity {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// Completes when it ends.
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.0.ended.clone().cancelled_owned()
    }

    fn end(&self) {
        self.0.over.store(true, Ordering::Release);
        self.0.ended.cancel();
    }
}

/// A key with what is known about it only in memory.
#[derive(Debug)]
pub struct KnownKey {
    /// The key.
    pub key: ApiKey,
    validity: Validity,
    /// Microseconds; 0: never since this process began.
    last_use: AtomicI64,
}

impl KnownKey {
    /// Ends when the key is revoked. Nobody tells it when the key expires.
    pub fn validity(&self) -> &Validity {
        &self.validity
    }

    /// Notes a call made with it.
    pub fn used(&self, now: Timestamp) {
        self.last_use.fetch_max(now.micros(), Ordering::Relaxed);
    }

    /// When the last call was made with it, since this process began.
    pub fn last_use(&self) -> Option<Timestamp> {
        let micros = self.last_use.load(Ordering::Relaxed);
        (micros > 0).then(|| Timestamp::from_micros(micros))
    }
}

/// All API keys.
#[derive(Debug, Default)]
pub struct Keyring {
    inner: RwLock<Inner>,
    /// That of who calls without a key: it ends with the first key ever created.
    open: Validity,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<ApiKeyId, Arc<KnownKey>>,
    by_no: BTreeMap<u64, ApiKeyId>,
}

impl Inner {
    fn put(&mut self, key: ApiKey) {
        self.by_no.insert(key.no, key.id);
        let known = KnownKey { validity: Validity::default(), last_use: AtomicI64::new(0), key };
        self.known.insert(known.key.id, Arc::new(known));
    }

    fn revoke(&mut self, id: ApiKeyId) {
        if let Some(known) = self.known.remove(&id) {
            self.by_no.remove(&known.key.no);
            known.validity.end();
        }
    }
}

impl Keyring {
    /// Whether a key has ever been created. Revoking the last one changes nothing about that.
    pub fn is_locked(&self) -> bool {
        self.open.is_over()
    }

    /// Holds for calls without a key, until the first one is created.
    pub fn open(&self) -> &Validity {
        &self.open
    }

    /// The key of this id.
    pub fn find(&self, id: ApiKeyId) -> Option<Arc<KnownKey>> {
        self.inner.read().known.get(&id).cloned()
    }

    /// Keys in the order of their creation, after the one of this number.
    pub fn list(&self, after: u64, limit: usize) -> Vec<Arc<KnownKey>> {
        let inner = self.inner.read();
        let ids = inner.by_no.range(after.saturating_add(1)..).take(limit);
        ids.map(|(_, id)| inner.known[id].clone()).collect()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.inner.read().known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For the engine: a key came or went.
    pub fn step(&self, step: KeyStep) {
        let mut inner = self.inner.write();
        match step {
            KeyStep::Put(key) => {
                inner.put(key);
                self.open.end();
            }
            KeyStep::Revoked(id) => inner.revoke(id),
        }
    }

    /// For the engine: these are all the keys there are. Those that were known before and are not among them are revoked.
    pub fn load(&self, all: impl IntoIterator<Item = ApiKey>, locked: bool) {
        let mut inner = self.inner.write();
        let mut gone: BTreeSet<_> = inner.known.keys().copied().collect();
        for key in all {
            gone.remove(&key.id);
            if !inner.known.contains_key(&key.id) {
                inner.put(key);
            }
        }
        for id in gone {
            inner.revoke(id);
        }
        if locked || !inner.known.is_empty() {
            self.open.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::model::credentials::{Right, TenantScope};

    fn key(n: u8) -> ApiKey {
        let rights = [Right::Read].into_iter().collect();
        let spec = ApiKeySpec { name: "n".into(), tenants: TenantScope::All, rights, expire_time: None };
        let (id, digest) = (ApiKeyId::from_bytes([n; 12]), Digest::from_bytes([n; 32]));
        ApiKey { id, no: n.into(), digest, spec, create_time: Timestamp::UNIX_EPOCH }
    }

    fn numbers(keys: &Keyring, after: u64) -> Vec<u64> {
        keys.list(after, 10).iter().map(|known| known.key.no).collect()
    }

    #[test]
    fn the_first_key_locks_for_good_and_who_holds_a_revoked_one_is_told() {
        let keys = Keyring::default();
        let open = keys.open().clone();
        assert!(!keys.is_locked() && !open.is_over() && open.ended().now_or_never().is_none());
        keys.step(KeyStep::Put(key(2)));
        keys.step(KeyStep::Put(key(1)));
        assert!(keys.is_locked() && open.is_over() && open.ended().now_or_never().is_some());
        assert_eq!((numbers(&keys, 0), numbers(&keys, 1)), (vec![1, 2], vec![2]));

        let held = keys.find(key(2).id).unwrap();
        assert_eq!(held.last_use(), None);
        held.used(Timestamp::from_micros(9));
        held.used(Timestamp::from_micros(7));
        assert_eq!(held.last_use(), Some(Timestamp::from_micros(9)));
        keys.step(KeyStep::Revoked(key(2).id));
        assert!(held.validity().is_over() && held.validity().ended().now_or_never().is_some());
        assert!(keys.find(key(2).id).is_none());
        keys.step(KeyStep::Revoked(key(1).id));
        assert!(keys.is_empty() && keys.is_locked(), "the door stays shut");
    }

    #[test]
    fn what_is_loaded_again_keeps_who_is_there_and_revokes_the_others() {
        let keys = Keyring::default();
        keys.load([], false);
        assert!(!keys.is_locked());
        keys.load([key(1), key(2)], true);
        let held = [1, 2].map(|n| keys.find(key(n).id).unwrap());
        keys.load([key(2), key(3)], true);
        assert_eq!(held.map(|known| known.validity().is_over()), [true, false]);
        assert_eq!(numbers(&keys, 0), [2, 3]);
        let revoked_all = Keyring::default();
        revoked_all.load([], true);
        assert!(revoked_all.is_locked(), "also after a restart");
    }
}
