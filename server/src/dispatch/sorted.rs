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

    /// All entries, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.entries.iter()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn it_is_a_sorted_map() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut map, mut model) = (SortedMap::default(), BTreeMap::new());
        for step in 0..20_000 {
            let key = rng.random_range(0..100);
            match rng.random_range(0..if step % 2_000 < 1_000 { 4 } else { 9 }) {
                0..4 => {
                    map.insert(key, step);
                    model.insert(key, step);
                }
                4 | 5 => assert_eq!(map.pop_first(), model.pop_first()),
                6 | 7 => assert_eq!(map.remove(&key), model.remove(&key)),
                _ if step % 100 == 0 => {
                    map.retain(|value| value % 3 > 0);
                    model.retain(|_, value| *value % 3 > 0);
                }
                _ => {
                    assert_eq!(map.get(&key), model.get(&key));
                    assert_eq!(map.get_mut(&key), model.get_mut(&key));
                }
            }
            assert_eq!((map.len(), map.contains(&key)), (model.len(), model.contains_key(&key)));
            assert!(map.entries.iter().map(|(key, value)| (key, value)).eq(&model));
            assert_eq!(map.first().map(|(key, value)| (key, value)), model.first_key_value());
            assert_eq!(map.last().map(|(key, value)| (key, value)), model.last_key_value());
        }
    }

    #[test]
    fn it_takes_the_room_of_what_is_in_it() {
        let mut map = SortedMap::default();
        map.insert(0, 0);
        assert_eq!(map.entries.capacity(), 1);
        for key in 1..256 {
            map.insert(key, 0);
        }
        while map.len() > 1 {
            map.pop_first();
            assert!(
                map.entries.capacity() <= KEPT.max(4 * map.len() + 3),
                "{} in {}",
                map.len(),
                map.entries.capacity()
            );
        }
        map.clear();
        assert!(map.is_empty() && map.entries.capacity() <= KEPT);
    }
}
