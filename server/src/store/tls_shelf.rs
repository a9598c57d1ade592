//! TLS settings of webhooks in memory: equal ones are kept once, however many webhooks have them, and all are counted.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use super::catalog::{Catalog, Known};
use crate::model::{
    ids::{Tenant, WebhookNo},
    tls::{Fingerprint, TlsSettings},
};

/// Different settings, and how many webhooks have each.
#[derive(Default)]
pub(super) struct TlsShelf {
    held: HashMap<Fingerprint, Held>,
    bytes: usize,
}

struct Held {
    settings: Arc<TlsSettings>,
    webhooks: usize,
}

/// The settings of one webhook, before and after a change that is not made yet.
#[derive(Debug, Clone)]
pub struct TlsChange {
    /// Of which webhook.
    pub webhook: WebhookNo,
    /// Whose it is.
    pub tenant: Tenant,
    /// What it has after all.
    pub after: Option<Arc<TlsSettings>>,
}

/// How many bytes of memory different settings take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlsBytes {
    /// Now.
    pub now: usize,
    /// After changes.
    pub then: usize,
}

impl TlsBytes {
    /// Whether that is within a limit, or at least no more than it was: what is there stays, should the limit be lower than it was.
    pub fn fit(self, max: usize) -> bool {
        self.then <= max || self.then <= self.now
    }
}

impl TlsShelf {
    /// One webhook more has these settings; returns those to keep.
    pub(super) fn take(&mut self, settings: Arc<TlsSettings>) -> Arc<TlsSettings> {
        match self.held.entry(settings.fingerprint()) {
            Entry::Occupied(mut held) => {
                let held = held.get_mut();
                held.webhooks += 1;
                held.settings.clone()
            }
            Entry::Vacant(place) => {
                self.bytes += settings.memory_bytes();
                place.insert(Held { settings, webhooks: 1 }).settings.clone()
            }
        }
    }

    /// One webhook less has these settings.
    pub(super) fn give_back(&mut self, settings: &TlsSettings) {
        let Entry::Occupied(mut held) = self.held.entry(settings.fingerprint()) else { return };
        held.get_mut().webhooks -= 1;
        if held.get().webhooks == 0 {
            held.remove();
            self.bytes -= settings.memory_bytes();
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many bytes it would be if webhooks had, instead of the first ones, the second ones.
    fn with<'a>(&self, changes: impl Iterator<Item = [Option<&'a TlsSettings>; 2]>) -> TlsBytes {
        let mut webhooks: HashMap<Fingerprint, (usize, usize, usize)> = HashMap::new();
        for (settings, came) in changes.flat_map(|[before, after]| [(before, false), (after, true)]) {
            let Some(settings) = settings else { continue };
            let (_, gone, come) = webhooks.entry(settings.fingerprint()).or_insert((settings.memory_bytes(), 0, 0));
            *(if came { come } else { gone }) += 1;
        }
        let mut then = self.bytes;
        for (fingerprint, (bytes, gone, come)) in webhooks {
            let before = self.held.get(&fingerprint).map_or(0, |held| held.webhooks);
            match (before, (before + come).saturating_sub(gone)) {
                (0, 1..) => then += bytes,
                (1.., 0) => then -= bytes,
                _ => {}
            }
        }
        TlsBytes { now: self.bytes, then }
    }
}

impl fmt::Debug for TlsShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsShelf").field("held", &self.held.len()).field("bytes", &self.bytes).finish()
    }
}

impl Catalog {
    /// How many bytes of memory the different TLS settings of webhooks take, of all tenants and of this one: now, and after changes, one
    /// a webhook.
    pub fn tls_bytes(&self, tenant: &Tenant, changes: &[TlsChange]) -> [TlsBytes; 2] {
        let inner = self.inner.read();
        let both = |change: &TlsChange| {
            let before = inner.webhooks.get(&change.webhook).and_then(Known::tls);
            (change.tenant == *tenant, [before, change.after.clone()])
        };
        let changes: Vec<_> = changes.iter().map(both).collect();
        let all = inner.tls.with(changes.iter().map(|(_, both)| both.each_ref().map(Option::as_deref)));
        let index = inner.tenants.get(tenant).and_then(|index| index.tls.as_deref());
        let own = changes.iter().filter(|(is_own, _)| *is_own).map(|(_, both)| both.each_ref().map(Option::as_deref));
        [all, index.map_or_else(|| TlsShelf::default().with(own.clone()), |shelf| shelf.with(own.clone()))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(n: u8, bytes: usize) -> Arc<TlsSettings> {
        Arc::new(TlsSettings::from_stored(vec![vec![n; bytes]], Vec::new(), None).unwrap())
    }

    #[test]
    fn equal_settings_are_kept_and_counted_once() {
        let mut shelf = TlsShelf::default();
        let first = shelf.take(authority(1, 100));
        for _ in 1..1_000 {
            assert!(Arc::ptr_eq(&shelf.take(authority(1, 100)), &first));
        }
        let other = shelf.take(authority(2, 100));
        assert_eq!(shelf.bytes, first.memory_bytes() + other.memory_bytes());
        shelf.give_back(&authority(2, 100));
        (1..1_000).for_each(|_| shelf.give_back(&first));
        assert_eq!(shelf.bytes, first.memory_bytes());
        shelf.give_back(&first);
        assert_eq!((shelf.bytes, shelf.is_empty()), (0, true));
    }

    #[test]
    fn what_changes_would_make_of_it_is_what_they_make_of_it() {
        let one = authority(1, 1).memory_bytes();
        let mut shelf = TlsShelf::default();
        let settings: Vec<_> = (0..4).map(|n| authority(n, 1)).collect();
        for n in [0, 0, 1] {
            shelf.take(settings[n].clone());
        }
        let check = |changes: &[[Option<usize>; 2]], expected: usize| {
            let both = |it: &[Option<usize>; 2]| it.map(|n| n.map(|n| &*settings[n]));
            let would = shelf.with(changes.iter().map(both));
            assert_eq!(would, TlsBytes { now: 2 * one, then: expected * one }, "{changes:?}");
        };
        check(&[], 2);
        check(&[[None, Some(2)]], 3);
        check(&[[None, Some(2)], [None, Some(2)]], 3);
        check(&[[None, Some(2)], [None, Some(3)]], 4);
        check(&[[Some(0), Some(2)]], 3);
        check(&[[Some(0), None], [Some(0), Some(2)]], 2);
        check(&[[Some(1), Some(0)]], 1);
        check(&[[Some(1), Some(2)], [None, Some(1)]], 3);
        check(&[[Some(1), Some(1)]], 2);
        assert!(TlsBytes { now: 9, then: 8 }.fit(7) && TlsBytes { now: 1, then: 8 }.fit(8));
        assert!(!TlsBytes { now: 7, then: 8 }.fit(7));
    }
}
