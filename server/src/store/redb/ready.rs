//! Deliveries that were never attempted, and how they come and go without writing a page each.
//!
//! Dispatch asks for them by webhook, so they lie by webhook in [`tables::READY`]: with a thousand webhooks in a thousand pages, of which
//! every delivery would dirty one when it comes and one when it goes. What comes and goes at about the same time is of about
//! the same events. So changes are noted by event first, in a *batch*, where neighbours share pages; most notes of
//! arrival are struck out again before anything else happens. A batch that is full is sorted into [`tables::READY`] in slices, by
//! webhook, while the other of the two takes what comes.
//!
//! ```text
//!   arrive, leave ──▶ batch that takes notes ──(full)──▶ batch being sorted ──▶ READY
//! ```
//!
//! Where a row is mentioned counts in this order: the batch that takes notes, the rest of the one being sorted, [`tables::READY`].
//! Both batches are in memory as well, by webhook: see [`Batches`].
//!
//! Invariant: a row arrives once. Whoever is attempted, or cancelled, has a record from then on and is due by that.

mod batches;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use ::redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, WriteTransaction};
use prost::Message as _;

use super::{
    error::EngineError,
    records::SortingRecord,
    tables::{self, DeliveryRow, LaneRow, meta},
};
use crate::model::time::Timestamp;

pub(super) use self::batches::{Batches, Noted};

/// From so many rows of one webhook in a commit on, they share pages in [`tables::READY`] and go there directly.
const NEIGHBOURS: usize = if cfg!(test) { 3 } else { 8 };
/// Most notes of departure of one webhook in a batch: what reads [`tables::READY`] has to pass over them.
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
    /// What is in it from this row on is being sorted into [`tables::READY`].
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

    /// Those of one event for one webhook: which sendings of it.
    pub(super) fn of_event(&self, webhook: u64, event: u64) -> Result<Vec<u32>, EngineError> {
        let mut replays = BTreeSet::new();
        for notes in &self.notes {
            for note in notes.range((event, webhook, 0)..=(event, webhook, u32::MAX))? {
                replays.insert(note?.0.value().2);
            }
        }
        for row in self.sorted.range((webhook, event, 0)..=(webhook, event, u32::MAX))? {
            replays.insert(row?.0.value().2);
        }
        let mut found = Vec::new();
        for replay in replays {
            // As this transaction leaves it.
            if self.get((webhook, event, replay))?.is_some() {
                found.push(replay);
            }
        }
        Ok(found)
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

    /// Shows all of them.
    pub(super) fn each(&self, mut see: impl FnMut(LaneRow) -> Result<(), EngineError>) -> Result<(), EngineError> {
        for batch in 0..self.notes.len() {
            for note in self.notes[batch].iter()? {
                let (row, note) = note?;
                let (event, webhook, replay) = row.value();
                let row = (webhook, event, replay);
                if note.value().is_some() && self.mentioned(row)? == Some(batch) {
                    see(row)?;
                }
            }
        }
        for row in self.sorted.iter()? {
            let row = row?.0.value();
            if self.mentioned(row)?.is_none() {
                see(row)?;
            }
        }
        Ok(())
    }

    /// The first batch in which there is a note that counts.
    fn mentioned(&self, row: LaneRow) -> Result<Option<usize>, EngineError> {
        for batch in self.standing.counting(row) {
            if self.notes[batch].get(delivery(row))?.is_some() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
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
