//! The notes as readers see them: in memory, by webhook.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::RangeInclusive,
};

use ::redb::{ReadTransaction, ReadableTable as _};

use super::{DEPARTURES_MAX, Note, Phase, Shown, Standing};
use crate::store::redb::{
    error::EngineError,
    tables::{self, LaneRow},
};

/// The notes of one batch, by webhook.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// When each was accepted.
    pub(super) arrived: BTreeMap<LaneRow, i64>,
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
    pub(super) fn slice(&self, from: LaneRow, most: usize) -> (Vec<(LaneRow, Note)>, Option<LaneRow>) {
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
pub(in super::super) struct Batches {
    pub(super) standing: Standing,
    /// Of the one being sorted only what is not sorted yet.
    pub(super) notes: [Notes; 2],
}

/// What the batches say of some deliveries.
#[derive(Debug, Default)]
pub(in super::super) struct Noted {
    /// Some that came, with the time each was accepted; ascending.
    pub(in super::super) arrived: Vec<(LaneRow, i64)>,
    /// All that went.
    pub(in super::super) left: HashSet<LaneRow>,
}

impl Batches {
    /// As a snapshot has them.
    pub(in super::super) fn load(txn: &ReadTransaction) -> Result<Self, EngineError> {
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
    pub(in super::super) fn show(&mut self, shown: Shown) {
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
    pub(in super::super) fn first_of(&self, no: u64, from: u64, limit: usize) -> Noted {
        let rows = (no, from, 0)..=(no, u64::MAX, u32::MAX);
        let arrived = self.notes.iter().flat_map(|notes| notes.arrived.range(rows.clone()).take(limit));
        let mut arrived: Vec<_> = arrived.map(|(row, time)| (*row, *time)).collect();
        arrived.sort_unstable();
        arrived.truncate(limit);
        Noted { arrived, left: self.left(rows) }
    }

    /// The newest deliveries of a webhook that come before this event and replay, newest first.
    pub(in super::super) fn newest_of(&self, no: u64, (event, replay): (u64, u32), limit: usize) -> Vec<(u64, u32)> {
        let rows = (no, 0, 0)..(no, event, replay);
        let newest = self.notes.iter().flat_map(|notes| notes.arrived.range(rows.clone()).rev().take(limit));
        let mut newest: Vec<_> = newest.map(|((_, event, replay), _)| (*event, *replay)).collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(limit);
        newest
    }

    /// The first one of each of so many webhooks from this one on.
    pub(in super::super) fn first_of_each(&self, from: u64, limit: usize) -> Noted {
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
    pub(super) fn is_crowded(&self, no: u64) -> bool {
        let left = &self.notes[self.standing.current].left;
        left.range((no, 0, 0)..=(no, u64::MAX, u32::MAX)).nth(DEPARTURES_MAX - 1).is_some()
    }

    pub(super) fn len(&self, batch: usize) -> usize {
        self.notes[batch].arrived.len() + self.notes[batch].left.len()
    }
}
