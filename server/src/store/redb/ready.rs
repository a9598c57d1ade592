//! Deliveries that were never attempted, and how they come and go without writing a page each.
//!
//! Dispatch asks for them by webhook, so they lie by webhook in [`READY`]: with a thousand webhooks in a thousand pages, of which
//! every delivery would dirty one when it comes and one when it goes. What comes and goes at about the same time is of about
//! the same events. So changes are noted by event first, in a *batch*, where neighbours share pages; most notes of
//! arrival are struck out again before anything else happens. A batch that is full is sorted into [`READY`] in slices, by
//! webhook, while the other of the two takes what comes.
//!
//! ```text
//!   arrive, leave ──▶ batch that takes notes ──(full)──▶ batch being sorted ──▶ READY
//! ```
//!
//! Where a row is mentioned counts in this order: the batch that takes notes, the rest of the one being sorted, [`READY`].
//! Both batches are in memory as well, by webhook: see [`Batches`].
//!
//! Invariant: a row arrives once. Whoever is attempted, or cancelled, has a record from then on and is due by that.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::RangeInclusive,
};

use ::redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, WriteTransaction};
use prost::Message as _;

use super::{
    error::EngineError,
    records::SortingRecord,
    tables::{self, DeliveryRow, LaneRow, meta},
};
use crate::model::time::Timestamp;

/// From so many rows of one webhook in a commit on, they share pages in [`READY`] and go there directly.
const NEIGHBOURS: usize = if cfg!(test) { 3 } else { 8 };
/// Most notes of departure of one webhook in a batch: what reads [`READY`] has to pass over them.
const DEPARTURES_MAX: usize = if cfg!(test) { 2 } else { 64 };
/// Least rows that a slice of sorting looks at.
const SLICE_ROWS: usize = if cfg!(test) { 2 } else { 128 };
/// One batch of so many bytes of hot store.
const HOT_BYTES_PER_ROW: usize = 4 * 1024;
/// Least and most rows that a batch is full with.
const BATCH_ROWS: [usize; 2] = [16, 32 * 1024];

/// How many rows a batch is full with.
pub(super) fn batch_rows(hot_bytes_max: usize) -> usize {
    (hot_bytes_max / HOT_BYTES_PER_ROW).clamp(BATCH_ROWS[0], BATCH_ROWS[1])
}

fn delivery((webhook, event, replay): LaneRow) -> DeliveryRow {
    (event, webhook, replay)
}

/// What becomes of the batch that takes no notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// It is empty.
    #[default]
    Empty,
    /// What is in it from this row on is being sorted into [`READY`].
    Sorting(LaneRow),
    /// All of it is sorted, and its table can go.
    Spent,
}

/// Which batch does what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    /// Which one takes notes: 0 or 1.
    pub(super) current: usize,
    /// The other one.
    pub(super) phase: Phase,
}

impl Standing {
    fn read(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Self, EngineError> {
        let record = meta.get(meta::SORTING)?;
        let record = record.map(|bytes| SortingRecord::decode_from(bytes.value())).transpose()?;
        Ok(record.map(SortingRecord::standing).transpose()?.unwrap_or_default())
    }

    fn other(self) -> usize {
        1 - self.current
    }

    /// The batches in which a mention of this row counts, first things first.
    fn counting(self, row: LaneRow) -> impl Iterator<Item = usize> {
        let sorting = matches!(self.phase, Phase::Sorting(from) if row >= from);
        [Some(self.current), sorting.then_some(self.other())].into_iter().flatten()
    }
}

/// A note: when the delivery that came was accepted; `None`: it went.
type Note = Option<i64>;

/// The notes of one batch, by webhook.
#[derive(Debug, Default)]
struct Notes {
    /// When each was accepted.
    arrived: BTreeMap<LaneRow, i64>,
    left: BTreeSet<LaneRow>,
}

impl Notes {
    /// Writes a note, or strikes it out.
    fn change(&mut self, row: LaneRow, note: Option<Note>) {
        match note {
            Some(Some(time)) => drop(self.arrived.insert(row, time)),
            Some(None) => drop(self.left.insert(row)),
            None => drop(self.arrived.remove(&row)),
        }
    }

    /// So many from this row on, in order, and where the next one is.
    fn slice(&self, from: LaneRow, most: usize) -> (Vec<(LaneRow, Note)>, Option<LaneRow>) {
        let arrived = self.arrived.range(from..).take(most + 1).map(|(row, time)| (*row, Some(*time)));
        let mut slice: Vec<_> = arrived.chain(self.left.range(from..).take(most + 1).map(|row| (*row, None))).collect();
        slice.sort_unstable();
        let next = slice.get(most).map(|(row, _)| *row);
        slice.truncate(most);
        (slice, next)
    }

    /// Forgets what comes before this row.
    fn forget_before(&mut self, row: LaneRow) {
        while self.arrived.first_key_value().is_some_and(|(first, _)| *first < row) {
            self.arrived.pop_first();
        }
        while self.left.first().is_some_and(|first| *first < row) {
            self.left.pop_first();
        }
    }
}

/// Both batches as of the last commit.
///
/// Who reads looks here first and takes a snapshot then, and believes either that a row is there. So nothing is missed that was
/// there all the time, wherever it moved meanwhile; what went in between may still be seen, which is as old as the reader
/// says its answer is.
#[derive(Debug, Default)]
pub(super) struct Batches {
    standing: Standing,
    /// Of the one being sorted only what is not sorted yet.
    notes: [Notes; 2],
}

/// What the batches say of some deliveries.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Some that came, with the time each was accepted; ascending.
    pub(super) arrived: Vec<(LaneRow, i64)>,
    /// All that went.
    pub(super) left: HashSet<LaneRow>,
}

impl Batches {
    /// As a snapshot has them.
    pub(super) fn load(txn: &ReadTransaction) -> Result<Self, EngineError> {
        let standing = Standing::read(&txn.open_table(tables::META)?)?;
        let mut notes = [Notes::default(), Notes::default()];
        for batch in [0, 1] {
            for row in txn.open_table(tables::BATCHES[batch])?.iter()? {
                let (key, note) = row?;
                let (event, webhook, replay) = key.value();
                let row = (webhook, event, replay);
                if standing.counting(row).any(|counting| counting == batch) {
                    notes[batch].change(row, Some(note.value()));
                }
            }
        }
        Ok(Self { standing, notes })
    }

    /// What was committed.
    pub(super) fn show(&mut self, shown: Shown) {
        for (batch, row, note) in shown.notes {
            self.notes[batch].change(row, note);
        }
        self.standing = shown.standing;
        let rest = &mut self.notes[shown.standing.other()];
        match shown.standing.phase {
            Phase::Empty | Phase::Spent => *rest = Notes::default(),
            Phase::Sorting(from) => rest.forget_before(from),
        }
    }

    /// The first ones of a webhook, of events from this one on.
    pub(super) fn first_of(&self, no: u64, from: u64, limit: usize) -> Noted {
        let rows = (no, from, 0)..=(no, u64::MAX, u32::MAX);
        let arrived = self.notes.iter().flat_map(|notes| notes.arrived.range(rows.clone()).take(limit));
        let mut arrived: Vec<_> = arrived.map(|(row, time)| (*row, *time)).collect();
        arrived.sort_unstable();
        arrived.truncate(limit);
        Noted { arrived, left: self.left(rows) }
    }

    /// The newest deliveries of a webhook that come before this event and replay, newest first.
    pub(super) fn newest_of(&self, no: u64, (event, replay): (u64, u32), limit: usize) -> Vec<(u64, u32)> {
        let rows = (no, 0, 0)..(no, event, replay);
        let newest = self.notes.iter().flat_map(|notes| notes.arrived.range(rows.clone()).rev().take(limit));
        let mut newest: Vec<_> = newest.map(|((_, event, replay), _)| (*event, *replay)).collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(limit);
        newest
    }

    /// The first one of each of so many webhooks from this one on.
    pub(super) fn first_of_each(&self, from: u64, limit: usize) -> Noted {
        let mut firsts = BTreeMap::new();
        for notes in &self.notes {
            let mut next = Some(from);
            for _ in 0..limit {
                let first = next.and_then(|next| notes.arrived.range((next, 0, 0)..).next());
                let Some((&row, &time)) = first else { break };
                let known = firsts.entry(row.0).or_insert((row, time));
                *known = (*known).min((row, time));
                next = row.0.checked_add(1);
            }
        }
        let arrived = firsts.into_values().take(limit).collect();
        Noted { arrived, left: self.left((from, 0, 0)..=(u64::MAX, u64::MAX, u32::MAX)) }
    }

    fn left(&self, rows: RangeInclusive<LaneRow>) -> HashSet<LaneRow> {
        self.notes.iter().flat_map(|notes| notes.left.range(rows.clone())).copied().collect()
    }

    /// Whether as many of a webhook are noted to have left as may be.
    fn is_crowded(&self, no: u64) -> bool {
        let left = &self.notes[self.standing.current].left;
        left.range((no, 0, 0)..=(no, u64::MAX, u32::MAX)).nth(DEPARTURES_MAX - 1).is_some()
    }

    fn len(&self, batch: usize) -> usize {
        self.notes[batch].arrived.len() + self.notes[batch].left.len()
    }
}

/// What a transaction does to [`Batches`].
#[derive(Debug)]
pub(super) struct Shown {
    standing: Standing,
    notes: Vec<(usize, LaneRow, Option<Note>)>,
}

/// Everything about what was never attempted, open for writing.
pub(super) struct Ready<'txn> {
    sorted: Table<'txn, LaneRow, i64>,
    notes: [Table<'txn, DeliveryRow, Option<i64>>; 2],
    /// As committed.
    batches: &'txn Batches,
    standing: Standing,
    changed: Vec<(usize, LaneRow, Option<Note>)>,
    /// Struck out of the batch that is being sorted.
    struck: HashSet<LaneRow>,
}

impl<'txn> Ready<'txn> {
    /// Lets go of the table of a batch that was sorted, before any is opened.
    pub(super) fn open(txn: &'txn WriteTransaction, batches: &'txn Batches) -> Result<Self, EngineError> {
        let mut standing = batches.standing;
        if standing.phase == Phase::Spent {
            txn.delete_table(tables::BATCHES[standing.other()])?;
            standing.phase = Phase::Empty;
        }
        Ok(Self {
            sorted: txn.open_table(tables::READY)?,
            notes: [txn.open_table(tables::BATCHES[0])?, txn.open_table(tables::BATCHES[1])?],
            batches,
            standing,
            changed: Vec::new(),
            struck: HashSet::new(),
        })
    }

    /// When the delivery was accepted, if it was never attempted.
    pub(super) fn get(&self, row: LaneRow) -> Result<Option<i64>, EngineError> {
        for batch in self.standing.counting(row) {
            if let Some(note) = self.notes[batch].get(delivery(row))? {
                return Ok(note.value());
            }
        }
        Ok(self.sorted.get(row)?.map(|time| time.value()))
    }

    /// Takes it out; returns when it was accepted, if it was there. `neighbours`: how many of its webhook the transaction takes.
    pub(super) fn remove(&mut self, row: LaneRow, neighbours: usize) -> Result<Option<i64>, EngineError> {
        for batch in self.standing.counting(row) {
            let Some(note) = self.notes[batch].get(delivery(row))?.map(|note| note.value()) else { continue };
            if note.is_some() {
                self.strike(batch, row)?;
            }
            return Ok(note);
        }
        if neighbours >= NEIGHBOURS || self.batches.is_crowded(row.0) {
            return Ok(self.sorted.remove(row)?.map(|time| time.value()));
        }
        let time = self.sorted.get(row)?.map(|time| time.value());
        if time.is_some() {
            self.write(row, None)?;
        }
        Ok(time)
    }

    fn strike(&mut self, batch: usize, row: LaneRow) -> Result<(), EngineError> {
        self.notes[batch].remove(delivery(row))?;
        self.changed.push((batch, row, None));
        if batch != self.standing.current {
            self.struck.insert(row);
        }
        Ok(())
    }

    fn write(&mut self, row: LaneRow, note: Note) -> Result<(), EngineError> {
        let batch = self.standing.current;
        self.notes[batch].insert(delivery(row), note)?;
        self.changed.push((batch, row, Some(note)));
        Ok(())
    }

    /// Up to `most` of a webhook's, of events below this one, with the time each was accepted.
    fn of_webhook(&self, no: u64, below: u64, most: usize) -> Result<Vec<(LaneRow, i64)>, EngineError> {
        let range = (no, 0, 0)..(no, below, 0);
        let noted = self.batches.notes.iter().flat_map(|notes| notes.arrived.range(range.clone()));
        let noted = noted.map(|(row, _)| Ok(*row));
        let sorted = self.sorted.range(range.clone())?.map(|row| Ok::<_, EngineError>(row?.0.value()));
        let mut found = Vec::new();
        for row in noted.chain(sorted) {
            if found.len() == most {
                break;
            }
            let row = row?;
            // As this transaction leaves it.
            if let Some(time) = self.get(row)? {
                found.push((row, time));
            }
        }
        Ok(found)
    }

    /// Takes them out: event, replay, time of acceptance.
    pub(super) fn take_of_webhook(
        &mut self,
        no: u64,
        below: u64,
        most: usize,
    ) -> Result<Vec<(u64, u32, Timestamp)>, EngineError> {
        let found = self.of_webhook(no, below, most)?;
        for &(row, _) in &found {
            self.remove(row, found.len())?;
        }
        Ok(found.into_iter().map(|((_, event, replay), time)| (event, replay, Timestamp::from_micros(time))).collect())
    }

    /// Makes these due, and sorts a slice of what came before.
    pub(super) fn flush(
        &mut self,
        meta: &mut Table<'_, &'static str, &'static [u8]>,
        mut arrived: Vec<(LaneRow, i64)>,
        batch_rows: usize,
    ) -> Result<(), EngineError> {
        arrived.sort_unstable();
        let mut few = Vec::new();
        for of_webhook in arrived.chunk_by(|one, other| one.0.0 == other.0.0) {
            if of_webhook.len() < NEIGHBOURS {
                few.extend_from_slice(of_webhook);
                continue;
            }
            for (row, time) in of_webhook {
                self.sorted.insert(row, time)?;
            }
        }
        few.sort_unstable_by_key(|(row, _)| delivery(*row));
        for (row, time) in few {
            self.write(row, Some(time))?;
        }
        self.sort_slice()?;
        let noted = self.batches.len(self.standing.current) + self.changed.len();
        if self.standing.phase == Phase::Empty && noted >= batch_rows {
            self.standing = Standing { current: self.standing.other(), phase: Phase::Sorting((0, 0, 0)) };
        }
        if self.standing != self.batches.standing {
            meta.insert(meta::SORTING, SortingRecord::new(self.standing).encode_to_vec().as_slice())?;
        }
        Ok(())
    }

    /// More than this transaction noted, so that the batch is sorted before the other one is half full.
    fn sort_slice(&mut self) -> Result<(), EngineError> {
        let Phase::Sorting(from) = self.standing.phase else { return Ok(()) };
        let most = 2 * self.changed.len() + SLICE_ROWS;
        let (slice, next) = self.batches.notes[self.standing.other()].slice(from, most);
        for (row, note) in slice {
            match note {
                Some(_) if self.struck.contains(&row) => {}
                Some(time) => drop(self.sorted.insert(row, time)?),
                None => drop(self.sorted.remove(row)?),
            }
        }
        self.standing.phase = next.map_or(Phase::Spent, Phase::Sorting);
        Ok(())
    }

    /// What will be true in memory once it is committed.
    pub(super) fn shown(&mut self) -> Shown {
        Shown { standing: self.standing, notes: std::mem::take(&mut self.changed) }
    }
}

/// What was never attempted, as a snapshot has it.
pub(super) struct ReadyIn {
    sorted: ReadOnlyTable<LaneRow, i64>,
    notes: [ReadOnlyTable<DeliveryRow, Option<i64>>; 2],
    standing: Standing,
}

impl ReadyIn {
    pub(super) fn open(txn: &ReadTransaction) -> Result<Self, EngineError> {
        Ok(Self {
            sorted: txn.open_table(tables::READY)?,
            notes: [txn.open_table(tables::BATCHES[0])?, txn.open_table(tables::BATCHES[1])?],
            standing: Standing::read(&txn.open_table(tables::META)?)?,
        })
    }

    /// Whether this delivery is one of them.
    pub(super) fn has(&self, row: LaneRow) -> Result<bool, EngineError> {
        for batch in self.standing.counting(row) {
            if let Some(note) = self.notes[batch].get(delivery(row))? {
                return Ok(note.value().is_some());
            }
        }
        Ok(self.sorted.get(row)?.is_some())
    }
}

#[cfg(test)]
impl ReadyIn {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        use ::redb::ReadableTableMetadata as _;
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

#[cfg(test)]
mod tests {
    use ::redb::{Database, ReadableDatabase as _};
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
                    let of_webhook: BTreeMap<_, _> =
                        ready.of_webhook(no, below, usize::MAX).unwrap().into_iter().collect();
                    // What this transaction made due is not asked for before it ends.
                    let range = model.range((no, 0, 0)..(no, below, 0));
                    assert!(of_webhook.iter().all(|(row, time)| model.get(row) == Some(time)));
                    assert!(
                        range.clone().all(|(row, _)| of_webhook.contains_key(row) || !self.model.contains_key(row))
                    );
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
}
