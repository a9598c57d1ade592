//! Whatever comes and goes, readers see what there is.

use std::collections::BTreeMap;

use ::redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};
use tempfile::TempDir;

use super::*;
use crate::store::redb::change::begin;

const WEBHOOKS: u64 = 6;
const BATCH: usize = 24;

struct World {
    hot: Database,
    batches: Batches,
    /// What there is.
    model: BTreeMap<LaneRow, i64>,
    next_event: u64,
    /// A row arrives once.
    arrived: HashSet<LaneRow>,
    rng: StdRng,
    phases: HashSet<u8>,
}

impl World {
    fn new(dir: &TempDir, seed: u64) -> Self {
        let hot = Database::create(dir.path().join("hot.redb")).unwrap();
        let mut world = Self {
            hot,
            batches: Batches::default(),
            model: BTreeMap::new(),
            next_event: 1,
            arrived: HashSet::new(),
            rng: StdRng::seed_from_u64(seed),
            phases: HashSet::new(),
        };
        world.transact(true);
        world
    }

    /// Some come, alone or many of one webhook, and some go.
    fn transact(&mut self, commits: bool) {
        let txn = begin(&self.hot).unwrap();
        let mut model = self.model.clone();
        let shown = {
            let mut meta = txn.open_table(tables::META).unwrap();
            let mut ready = Ready::open(&txn, &self.batches).unwrap();
            let going = self.rng.random_range(0..8);
            let going = self.model.keys().copied().sample(&mut self.rng, going);
            let neighbours = self.rng.random_range(1..NEIGHBOURS + 2);
            for row in going {
                assert_eq!(ready.remove(row, neighbours).unwrap(), model.remove(&row));
                assert_eq!((ready.get(row).unwrap(), ready.remove(row, 1).unwrap()), (None, None));
            }
            let mut arrived = Vec::new();
            let one = self.rng.random_bool(0.3).then(|| self.rng.random_range(0..WEBHOOKS));
            for _ in 0..self.rng.random_range(0..8) {
                let no = one.unwrap_or_else(|| self.rng.random_range(0..WEBHOOKS));
                let row = (no, self.next_event, self.rng.random_range(0..2));
                // Mostly newer than what there is, but what was parked may be older.
                let stride = self.rng.random_range(1..4);
                self.next_event += stride;
                let row = (row.0, row.1.saturating_sub(if self.rng.random_bool(0.1) { 40 } else { 0 }), row.2);
                if self.arrived.insert(row) {
                    model.insert(row, 7);
                    arrived.push((row, 7));
                }
            }
            ready.flush(&mut meta, arrived, BATCH).unwrap();
            for no in 0..WEBHOOKS {
                let below = self.rng.random_range(1..=self.next_event);
                let of_webhook: BTreeMap<_, _> = ready.of_webhook(no, below, usize::MAX).unwrap().into_iter().collect();
                // What this transaction made due is not asked for before it ends.
                let range = model.range((no, 0, 0)..(no, below, 0));
                assert!(of_webhook.iter().all(|(row, time)| model.get(row) == Some(time)));
                assert!(range.clone().all(|(row, _)| of_webhook.contains_key(row) || !self.model.contains_key(row)));
            }
            ready.shown()
        };
        if commits {
            txn.commit().unwrap();
            self.batches.show(shown);
            self.model = model;
        }
        self.phases.insert(match self.batches.standing.phase {
            Phase::Empty => 0,
            Phase::Sorting(_) => 1,
            Phase::Spent => 2,
        });
    }

    /// By snapshot, and by what is remembered and the sorted rows together, as readers see it.
    fn check(&self) {
        let txn = self.hot.begin_read().unwrap();
        let snapshot = ReadyIn::open(&txn).unwrap();
        let sorted = txn.open_table(tables::READY).unwrap();
        assert_eq!(snapshot.len(), self.model.len() as u64);
        for no in 0..WEBHOOKS {
            let noted = self.batches.first_of(no, 0, usize::MAX);
            let mut seen: BTreeMap<_, _> = noted.arrived.iter().copied().collect();
            for row in sorted.range((no, 0, 0)..=(no, u64::MAX, u32::MAX)).unwrap() {
                let (key, time) = row.unwrap();
                if !noted.left.contains(&key.value()) {
                    seen.insert(key.value(), time.value());
                }
            }
            let model: BTreeMap<_, _> =
                self.model.range((no, 0, 0)..=(no, u64::MAX, u32::MAX)).map(|(row, time)| (*row, *time)).collect();
            assert_eq!(seen, model);
            assert!(noted.left.len() <= 2 * (DEPARTURES_MAX + 8), "{}", noted.left.len());
            let newest = self.batches.newest_of(no, (u64::MAX, u32::MAX), 3);
            let expected = noted.arrived.iter().rev().take(3).map(|((_, event, replay), _)| (*event, *replay));
            assert_eq!(newest, expected.collect::<Vec<_>>());
        }
        for row in self.model.keys() {
            assert!(snapshot.has(*row).unwrap());
            assert!(!snapshot.has((row.0, row.1, row.2 + 2)).unwrap());
        }
        let firsts = self.batches.first_of_each(1, 3).arrived;
        assert!(firsts.is_sorted() && firsts.len() <= 3);
        for (row, _) in firsts {
            assert_eq!(self.batches.first_of(row.0, 0, 1).arrived[0].0, row);
        }
    }
}

/// Whatever comes and goes, commits or not, in whatever phase, also when it is loaded anew: what readers see is what there is.
#[test]
fn what_is_seen_is_what_there_is() {
    for seed in 0..8 {
        let dir = TempDir::new().unwrap();
        let mut world = World::new(&dir, seed);
        for _ in 0..150 {
            let commits = world.rng.random_bool(0.95);
            world.transact(commits);
            if world.rng.random_bool(0.1) {
                world.batches = Batches::load(&world.hot.begin_read().unwrap()).unwrap();
            }
            world.check();
        }
        assert_eq!(world.phases.len(), 3, "seed {seed}");
    }
}

#[test]
fn a_batch_is_full_in_proportion_to_the_hot_store() {
    assert_eq!([0, 256 * 1024, 128 * 1024 * 1024, usize::MAX].map(batch_rows), [16, 64, 32_768, 32_768]);
}

impl ReadyIn {
    /// How many there are.
    pub(in super::super) fn len(&self) -> u64 {
        let mut len = self.sorted.len().unwrap();
        for batch in [0, 1] {
            for row in self.notes[batch].iter().unwrap() {
                let (key, note) = row.unwrap();
                let (event, webhook, replay) = key.value();
                if self.standing.counting((webhook, event, replay)).any(|counting| counting == batch) {
                    len = if note.value().is_some() { len + 1 } else { len - 1 };
                }
            }
        }
        len
    }
}
