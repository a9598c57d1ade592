//! A map for few entries, sorted by key, in one piece of memory no larger than it has to be.

use std::collections::VecDeque;

/// Room for so many entries is never given back.
const KEPT: usize = 8;

/// A sorted map. Looking up takes time logarithmic in its size; putting in and taking out moves what lies between the place and
/// the nearer end, which is nothing for the first and the last entries. So it is for hundreds of entries, mostly used at its ends.
#[derive(Debug)]
pub(super) struct SortedMap<K, V> {
    /// Invariant: ascending by key, without repeats.
    entries: VecDeque<(K, V)>,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self { entries: VecDeque::new() }
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry with the lowest key.
    pub(super) fn first(&self) -> Option<&(K, V)> {
        self.entries.front()
    }

    /// The entry with the highest key.
    pub(super) fn last(&self) -> Option<&(K, V)> {
        self.entries.back()
    }

    /// What is kept under this key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|place| &self.entries[place].1)
    }

    /// What is kept under this key, to change it.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|place| &mut self.entries[place].1)
    }

    /// Whether something is kept under this key.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// Keeps a value under this key, in the place of the one before.
    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(place) => self.entries[place].1 = value,
            Err(place) => {
                if self.entries.len() == self.entries.capacity() {
                    // From one on, not from four: most of these maps have a single entry.
                    self.entries.reserve_exact(self.entries.len().max(1));
                }
                self.entries.insert(place, (key, value));
            }
        }
    }

    /// Takes out what is kept under this key.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.find(key).ok()?;
        let (_, value) = self.entries.remove(place)?;
        self.give_back();
        Some(value)
    }

    /// Takes out the entry with the lowest key.
    pub(super) fn pop_first(&mut self) -> Option<(K, V)> {
        let first = self.entries.pop_front()?;
        self.give_back();
        Some(first)
    }

    /// Takes out what `keeps` says no to.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&V) -> bool) {
        self.entries.retain(|(_, value)| keeps(value));
        self.give_back();
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.give_back();
    }

    /// All values, by key.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Gives back memory that was needed once. Some stays, so that this and growing again are rare.
    fn give_back(&mut self) {
        let (len, capacity) = (self.entries.len(), self.entries.capacity());
        if capacity > KEPT && len < capacity / 4 {
            self.entries.shrink_to(2 * len);
        }
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        // Most keys come in order.
        match self.entries.back() {
            Some((last, _)) if last < key => Err(self.entries.len()),
            Some(_) | None => self.entries.binary_search_by(|(known, _)| known.cmp(key)),
        }
    }
}
