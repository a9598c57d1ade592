//! The pass over all files that follows when nothing is pending of what is erased any more.
//!
//! ```text
//!   hot: events ─▶ log ─▶ rescued ─▶ deliveries ─▶ segments, oldest first ─▶ hot: leaves ─▶ free pages ─▶ finished
//! ```
//!
//! The hot store first: what moves from there to a segment meanwhile is clean, or is in a segment that the pass has not come to.
//! Events that told the operator of what is erased are found on the way, and erased like any other; then another pass follows.
//!
//! Invariant: a step is taken for done only when its commit says so; after one that failed the pass begins anew.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use ::redb::{ReadableTable as _, ReadableTableMetadata as _};
use bytes::Bytes;

use super::{
    apply::{Leaves, Step, Sweeping},
    rewrite::{Rewrite, Search, look_at},
    sieve::Sieve,
    tenant_range,
};
use crate::{
    model::ids::{EventId, EventSeq, Tenant},
    store::redb::{
        archive::Archived,
        error::EngineError,
        records::{EventChunk, EventRecord, LogChunk},
        segments::Segment,
        shared::Shared,
        tables::{self, DeliveryRow},
    },
};

/// An event that told of what is erased.
pub(super) type Told = (EventSeq, Tenant, EventId);

/// Chunks that one step looks through.
const STEP_CHUNKS: usize = if cfg!(test) { 2 } else { 16 };
/// Rows of numbers that one step looks through.
const STEP_ROWS: usize = if cfg!(test) { 4 } else { 4_096 };
/// Rows that one commit removes or writes anew.
const COMMIT_ROWS: usize = if cfg!(test) { 3 } else { 256 };
/// Rows with bodies that one commit writes anew.
const COMMIT_BODIES: usize = 8;
/// Commits after which redb gives out pages that nobody reads any more, and one to spare.
const SETTLING_COMMITS: u8 = 3;

/// Sweeps what is cleared; one step at a time.
#[derive(Debug, Default)]
pub(in super::super) struct Sweep {
    /// That of the last step.
    serial: u64,
    pass: Option<Pass>,
}

#[derive(Debug)]
struct Pass {
    sieve: Arc<Sieve>,
    jobs: Vec<u64>,
    phase: Phase,
    /// Steps that are to be committed before it goes on.
    waiting: VecDeque<Step>,
    /// Something was found that is to be erased as well.
    again: bool,
    /// Who read before the last page was given up.
    readers: Option<Weak<()>>,
}

/// What is looked at next, and from where on.
#[derive(Debug)]
enum Phase {
    Events(u64),
    Log(u64),
    Rescued(u64),
    Deliveries(DeliveryRow),
    /// Segments after this one.
    Segments(u64),
    Search(u64, Search),
    Rewrite(u64, Rewrite),
    FreshRescued(u64),
    FreshRequests(Vec<u8>),
    Leaves,
    Readers,
    Settle(u8),
    Fill,
    Filling,
    Clean,
    Finish,
    Done,
}

/// How a pass goes on.
enum Next {
    Commit(Step),
    /// There is more to look at.
    Look,
    /// For others, who will not take long.
    Wait,
    Done,
}

impl Sweep {
    /// Whether the segment that takes more must not change for the moment.
    pub(in super::super) fn holds_moves(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| matches!(pass.phase, Phase::Rewrite(..)) || !pass.waiting.is_empty())
    }

    /// The next step, if there is something to sweep. Not to be called in the middle of a move.
    pub(in super::super) fn step(&mut self, shared: &Shared) -> Result<Option<Archived>, EngineError> {
        if !shared.erasing.any() {
            self.pass = None;
            return Ok(None);
        }
        let committed = shared.erasing.last_swept().serial;
        if committed != self.serial {
            self.serial = committed;
            self.pass = None;
        }
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None => match Pass::begin(shared)? {
                Some(pass) => pass,
                None => return Ok(None),
            },
        };
        // Kept only if that went well: or it begins anew.
        let next = pass.next(shared)?;
        let sieve = pass.sieve.clone();
        if !matches!(next, Next::Done) {
            self.pass = Some(pass);
        }
        Ok(match next {
            Next::Commit(step) => {
                self.serial += 1;
                Some(Archived::Erase(Sweeping { serial: self.serial, sieve, step }))
            }
            Next::Look | Next::Done => Some(Archived::Looked),
            Next::Wait => None,
        })
    }
}

impl Pass {
    fn begin(shared: &Shared) -> Result<Option<Self>, EngineError> {
        let jobs = shared.erasing.to_sweep();
        if jobs.is_empty() {
            return Ok(None);
        }
        let sieve = Sieve::new(&jobs, shared.config.operator.as_ref(), &shared.read()?.0)?;
        Ok(Some(Self {
            sieve: Arc::new(sieve),
            jobs: jobs.into_iter().map(|(no, _)| no).collect(),
            phase: Phase::Events(0),
            waiting: VecDeque::new(),
            again: false,
            readers: None,
        }))
    }

    fn next(&mut self, shared: &Shared) -> Result<Next, EngineError> {
        if let Some(step) = self.waiting.pop_front() {
            return Ok(Next::Commit(step));
        }
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Events(from) => self.events(shared, from)?,
            Phase::Log(from) => self.log(shared, from)?,
            Phase::Rescued(from) => self.rescued(shared, from)?,
            Phase::Deliveries(from) => self.deliveries(shared, from)?,
            Phase::Segments(after) => self.segments(shared, after)?,
            Phase::Search(no, search) => self.search(shared, no, search)?,
            Phase::Rewrite(no, rewrite) => self.rewrite(shared, no, rewrite)?,
            Phase::FreshRescued(from) => self.fresh_rescued(shared, from)?,
            Phase::FreshRequests(from) => self.fresh_requests(shared, &from)?,
            Phase::Leaves => self.leaves(shared)?,
            Phase::Readers => match &self.readers {
                Some(readers) if readers.strong_count() > 0 => {
                    self.phase = Phase::Readers;
                    return Ok(Next::Wait);
                }
                Some(_) => Phase::Settle(SETTLING_COMMITS),
                None => {
                    self.readers = Some(shared.renew_readers());
                    Phase::Readers
                }
            },
            Phase::Settle(0) => Phase::Fill,
            Phase::Settle(left) => self.commit(Step::Settle, Phase::Settle(left - 1)),
            Phase::Fill if shared.space.is_short() => {
                self.phase = Phase::Fill;
                return Ok(Next::Wait);
            }
            Phase::Fill => self.commit(Step::Fill, Phase::Filling),
            Phase::Filling if shared.erasing.last_swept().grew => Phase::Clean,
            Phase::Filling => Phase::Fill,
            Phase::Clean if shared.read()?.0.open_table(tables::SCRUB)?.is_empty()? => Phase::Finish,
            Phase::Clean => self.commit(Step::Clean, Phase::Clean),
            // A backup has yet to copy it.
            Phase::Finish if shared.segments.keeps_what_goes() => {
                self.phase = Phase::Finish;
                return Ok(Next::Wait);
            }
            Phase::Finish => {
                shared.segments.discard_strays()?;
                self.commit(Step::Finish(self.jobs.clone()), Phase::Done)
            }
            Phase::Done => return Ok(Next::Done),
        };
        Ok(self.waiting.pop_front().map_or(Next::Look, Next::Commit))
    }

    fn commit(&mut self, step: Step, then: Phase) -> Phase {
        self.waiting.push_back(step);
        then
    }

    /// Events that told of what is erased are to be erased first.
    fn tell(&mut self, told: Vec<Told>) {
        if !told.is_empty() {
            self.again = true;
            self.waiting.push_back(Step::Along(told));
        }
    }

    fn events(&mut self, shared: &Shared, from: u64) -> Result<Phase, EngineError> {
        let (hot, _) = shared.read()?;
        let (mut found, mut told, mut next) = (Vec::new(), Vec::new(), None);
        for row in hot.open_table(tables::EVENT_CHUNKS)?.range(from..)?.take(STEP_CHUNKS) {
            let (first, bytes) = row?;
            let first = first.value();
            next = Some(first + 1);
            let chunk = EventChunk::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            if look_at(&chunk, first, &self.sieve, &mut told)? {
                found.push(first);
            }
        }
        self.tell(told);
        if !found.is_empty() {
            self.waiting.push_back(Step::Events(found.clone()));
            self.waiting.push_back(Step::Freshen(Leaves::Events(found)));
        }
        Ok(next.map_or(Phase::Log(0), Phase::Events))
    }

    fn log(&mut self, shared: &Shared, from: u64) -> Result<Phase, EngineError> {
        let (hot, _) = shared.read()?;
        let (mut found, mut next) = (Vec::new(), None);
        for row in hot.open_table(tables::LOG)?.range(from..)?.take(STEP_CHUNKS) {
            let (first, bytes) = row?;
            next = Some(first.value() + 1);
            let chunk = LogChunk::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            if chunk.entries.iter().any(|entry| self.sieve.takes_entry(entry)) {
                found.push(first.value());
            }
        }
        if !found.is_empty() {
            self.waiting.push_back(Step::Log(found.clone()));
            self.waiting.push_back(Step::Freshen(Leaves::Log(found)));
        }
        Ok(next.map_or(Phase::Rescued(0), Phase::Log))
    }

    fn rescued(&mut self, shared: &Shared, from: u64) -> Result<Phase, EngineError> {
        let (hot, _) = shared.read()?;
        let (mut found, mut told, mut next) = (Vec::new(), Vec::new(), None);
        for row in hot.open_table(tables::RESCUED)?.range(from..)?.take(COMMIT_ROWS) {
            let (seq, bytes) = row?;
            let seq = seq.value();
            next = Some(seq + 1);
            let event = EventRecord::decode_from(Bytes::copy_from_slice(bytes.value()))?;
            if self.sieve.takes_event(seq, &event) {
                found.push(seq);
            }
            told.extend(self.sieve.told(seq, &event));
        }
        self.tell(told);
        if !found.is_empty() {
            self.waiting.push_back(Step::Rescued(found));
        }
        Ok(next.map_or(Phase::Deliveries((0, 0, 0)), Phase::Rescued))
    }

    fn deliveries(&mut self, shared: &Shared, from: DeliveryRow) -> Result<Phase, EngineError> {
        let (hot, _) = shared.read()?;
        let table = hot.open_table(tables::DELIVERIES)?;
        let (mut found, mut next) = (Vec::new(), None);
        for row in table.range(from..)?.take(STEP_ROWS) {
            let row = row?.0.value();
            next = Some((row.0, row.1, row.2 + 1));
            if self.sieve.takes_delivery(row) {
                found.push(row);
            }
        }
        self.waiting.extend(found.chunks(COMMIT_ROWS).map(|rows| Step::Deliveries(rows.to_vec())));
        Ok(next.map_or(Phase::Segments(0), Phase::Deliveries))
    }

    fn segments(&mut self, shared: &Shared, after: u64) -> Result<Phase, EngineError> {
        if after == 0 {
            // Of moves that were cut short, and of files that were to be removed.
            shared.segments.discard_strays()?;
        }
        let Some(segment) = shared.segments.all().into_iter().find(|segment| segment.no > after) else {
            return Ok(if self.again { Phase::Done } else { Phase::FreshRescued(0) });
        };
        let no = segment.no;
        if segment.record.sealed {
            return Ok(Phase::Search(no, Search::new(no)));
        }
        // One that takes more may hold pages of moves that were cut short, too.
        Ok(Phase::Rewrite(no, Rewrite::begin(shared, no, &segment.record)?))
    }

    fn search(&mut self, shared: &Shared, no: u64, mut search: Search) -> Result<Phase, EngineError> {
        let Some(segment) = segment(shared, no) else { return Ok(Phase::Segments(no)) };
        let mut told = Vec::new();
        let found = search.step(shared, &segment.record, &self.sieve, &mut told)?;
        self.tell(told);
        Ok(match found {
            None => Phase::Search(no, search),
            Some(false) => Phase::Segments(no),
            Some(true) => Phase::Rewrite(no, Rewrite::begin(shared, no, &segment.record)?),
        })
    }

    fn rewrite(&mut self, shared: &Shared, no: u64, mut rewrite: Rewrite) -> Result<Phase, EngineError> {
        if segment(shared, no).is_none() {
            return Ok(Phase::Segments(no));
        }
        let mut told = Vec::new();
        let rewritten = rewrite.step(shared, &self.sieve, &mut told)?;
        self.tell(told);
        Ok(match rewritten {
            None => Phase::Rewrite(no, rewrite),
            Some((no, record)) => self.commit(Step::Swap(no, record), Phase::Segments(no)),
        })
    }

    /// Rows with bodies come and go here, so every leaf is written anew.
    fn fresh_rescued(&mut self, shared: &Shared, from: u64) -> Result<Phase, EngineError> {
        let (hot, _) = shared.read()?;
        let mut until = None;
        for row in hot.open_table(tables::RESCUED)?.range(from..)?.take(COMMIT_BODIES) {
            until = Some(row?.0.value() + 1);
        }
        let Some(until) = until else { return Ok(Phase::FreshRequests(Vec::new())) };
        Ok(self.commit(Step::Freshen(Leaves::Rescued(from..until)), Phase::FreshRescued(until)))
    }

    /// So do these, with URLs and secrets.
    fn fresh_requests(&mut self, shared: &Shared, from: &[u8]) -> Result<Phase, EngineError> {
        if !self.sieve.has_tenants() {
            return Ok(Phase::Leaves);
        }
        let (hot, _) = shared.read()?;
        let mut keys = Vec::new();
        for row in hot.open_table(tables::REQUESTS)?.range(from..)?.take(COMMIT_ROWS) {
            keys.push(row?.0.value().to_vec());
        }
        let Some(last) = keys.last() else { return Ok(Phase::Leaves) };
        let next = [last.as_slice(), &[0]].concat();
        Ok(self.commit(Step::Freshen(Leaves::Requests(keys)), Phase::FreshRequests(next)))
    }

    /// The leaves that rows were removed from: the first ones, by moves, and those next to what was a tenant's.
    fn leaves(&mut self, shared: &Shared) -> Result<Phase, EngineError> {
        let (hot, _) = shared.read()?;
        let first = hot.open_table(tables::EVENT_CHUNKS)?.first()?.map(|(key, _)| key.value());
        self.waiting.push_back(Step::Freshen(Leaves::Events(first.into_iter().collect())));
        let first = hot.open_table(tables::LOG)?.first()?.map(|(key, _)| key.value());
        self.waiting.push_back(Step::Freshen(Leaves::Log(first.into_iter().collect())));
        let webhooks = self.sieve.webhooks();
        for some in webhooks.chunks(COMMIT_ROWS) {
            self.waiting.push_back(Step::Freshen(Leaves::Webhooks(some.to_vec())));
            self.waiting.push_back(Step::Webhooks(some.to_vec()));
            self.waiting.push_back(Step::Freshen(Leaves::Tombstones(some.to_vec())));
        }
        let types: Vec<_> = self.sieve.tenants().map(|tenant| tenant_range(&tenant).0).collect();
        if !types.is_empty() {
            self.waiting.push_back(Step::Freshen(Leaves::EventTypes(types)));
        }
        Ok(Phase::Readers)
    }
}

fn segment(shared: &Shared, no: u64) -> Option<Arc<Segment>> {
    shared.segments.all().into_iter().find(|segment| segment.no == no)
}
