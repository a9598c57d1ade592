//! The one thread that writes: take what waits, write it, commit once, then make it visible, tell, and answer.
//!
//! Load makes batches; an idle store adds no delay. Committed decisions that are too wide for one transaction run here in
//! slices, one a commit, between everything else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tracing::{error, info};

use super::{
    archive::Archived,
    change::{Change, Tables, Written, begin},
    drops::{Drop, Drops},
    erase::{Job, Swept},
    error::EngineError,
    inbox::{Accepts, Answer, Urgent, Work},
    open,
    records::CountersRecord,
    shared::{FanOut, Shared},
};
use crate::{
    metrics::CommitSize,
    model::{
        audit::AuditNo,
        ids::{ConfigSeq, EventSeq, Position, WebhookNo},
        replay::Replay,
    },
    store::{
        erase::Erased,
        keyring::KeyStep,
        quotas::QuotaStep,
        repair::Repaired,
        replays::ReplayAnswer,
        types::{AsOf, ConfigAnswer, ConfigStep, EventTypeStep, GroupCommitted, Hint, LogEntry, Published},
    },
};

pub(super) struct Committer {
    shared: Arc<Shared>,
    counters: CountersRecord,
    pending: HashMap<u64, u64>,
    cancels: VecDeque<u64>,
    releases: BTreeSet<u64>,
    drops: Drops,
}

/// What the committer starts from.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Pending deliveries by webhook number.
    pub(super) pending: HashMap<u64, u64>,
    /// Deleted webhooks whose deliveries are not all marked yet.
    pub(super) cancels: VecDeque<u64>,
    /// Webhooks whose parked deliveries are not all released yet.
    pub(super) releases: BTreeSet<u64>,
    /// Webhooks whose dropped deliveries are not all marked yet.
    pub(super) drops: Drops,
}

/// An answer held back until the commit. Dropped unsent if it fails, which tells who waits that nothing was stored.
enum Answered {
    /// With, for each group, whether it was fenced.
    Groups(Answer<Vec<GroupCommitted>>, Vec<bool>),
    Config(Answer<ConfigAnswer>, ConfigAnswer),
    Repaired(Answer<Repaired>, Repaired),
    Erased(Answer<Erased>, Erased),
    Replay(Answer<ReplayAnswer>, ReplayAnswer),
    Audited(Answer<AuditNo>, AuditNo),
    Published(Answer<Vec<Published>>, Vec<Published>),
    Upkeep(Answer<()>),
}

impl Answered {
    /// Sends the answer; nobody may be waiting any more.
    fn send(self, as_of: AsOf) {
        match self {
            Self::Groups(answer, fenced) => {
                let committed =
                    |&fenced: &bool| if fenced { GroupCommitted::Fenced } else { GroupCommitted::Applied(as_of) };
                drop(answer.send(Ok(fenced.iter().map(committed).collect())));
            }
            Self::Config(answer, config) => drop(answer.send(Ok(config))),
            Self::Repaired(answer, repaired) => drop(answer.send(Ok(repaired))),
            Self::Erased(answer, erased) => drop(answer.send(Ok(erased))),
            Self::Replay(answer, replayed) => drop(answer.send(Ok(replayed))),
            Self::Audited(answer, no) => drop(answer.send(Ok(no))),
            Self::Published(answer, published) => drop(answer.send(Ok(published))),
            Self::Upkeep(answer) => drop(answer.send(Ok(()))),
        }
    }
}

/// What a commit did to memory's idea of the store.
struct Effects {
    counters: CountersRecord,
    pending: Vec<(u64, u64)>,
    written: Written,
    fresh: Vec<(WebhookNo, Hint)>,
    shown: Vec<Option<LogEntry>>,
    steps: Vec<(ConfigSeq, ConfigStep)>,
    event_types: Vec<EventTypeStep>,
    keys: Vec<KeyStep>,
    quotas: Vec<QuotaStep>,
    fan_outs: Vec<(EventSeq, Option<FanOut>)>,
    cancels_started: Vec<u64>,
    cancels_done: usize,
    releases: Vec<(u64, bool)>,
    drops_changed: Vec<(u64, Option<Drop>)>,
    replays: BTreeMap<u32, Option<Replay>>,
    cancelled: Vec<WebhookNo>,
    revived: bool,
    erasures: Vec<(u64, Option<Job>)>,
    swept: Option<Swept>,
    hollowed: Vec<Range<EventSeq>>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, recovered: Recovered) -> Self {
        let counters = *shared.counters.lock();
        let Recovered { pending, cancels, releases, drops } = recovered;
        Self { shared, counters, pending, cancels, releases, drops }
    }

    /// Runs until the inbox is closed and empty.
    pub(super) fn run(mut self) {
        let mut failed_before = false;
        while let Some(work) = self.shared.inbox.take(self.has_slices(), &self.shared.heartbeat) {
            let began = Instant::now();
            let empties = work.upkeep.as_ref().is_some_and(|item| matches!(item.work.work, Archived::Emptied));
            match self.commit(work) {
                Ok((effects, answers)) => {
                    failed_before = false;
                    self.shared.space.committed();
                    self.shared.metrics.committed(effects.size(&self.counters), began.elapsed());
                    let as_of = self.show(effects);
                    for answer in answers {
                        answer.send(as_of);
                    }
                    if empties {
                        self.shared.give_room_back();
                    }
                }
                Err(error) => {
                    error!(%error, "a commit failed; nothing in it was acknowledged; opening the store again");
                    self.reopen(failed_before);
                    failed_before = true;
                }
            }
        }
        self.shared.heartbeat.end();
    }

    fn has_slices(&self) -> bool {
        let of_webhooks = !self.cancels.is_empty() || !self.releases.is_empty() || !self.drops.is_empty();
        of_webhooks || !self.shared.fan_outs.read().is_empty() || self.shared.erasing.has_slices()
    }

    /// Writes everything in one transaction.
    fn commit(&mut self, work: Work) -> Result<(Effects, Vec<Answered>), EngineError> {
        let hot = self.shared.hot.read().clone().filter(|hot| !hot.has_failed()).ok_or(EngineError::Unavailable)?;
        let txn = begin(&hot)?;
        let mut change = Change::new(&self.shared, self.counters, &self.pending, &self.releases, &self.drops);
        let mut answers = Vec::new();
        let written = {
            let batches = self.shared.batches.read();
            let mut tables = Tables::open(&txn, &batches)?;
            for item in work.urgent {
                answers.push(change.urgent(&mut tables, item.work)?);
            }
            for item in work.accepts {
                let Accepts { batch, answer } = item.work;
                let published: Result<Vec<_>, _> =
                    batch.iter().map(|publish| change.publish(&mut tables, publish)).collect();
                answers.push(Answered::Published(answer, published?));
            }
            if let Some(item) = work.upkeep {
                change.archived(&mut tables, item.work.work)?;
                answers.push(Answered::Upkeep(item.work.answer));
            }
            change.fan_out_slice(&mut tables)?;
            change.cancel_slice(&mut tables, self.cancels.iter().copied())?;
            change.drop_slice(&mut tables)?;
            change.release_slice(&mut tables)?;
            change.erase_slice(&mut tables)?;
            change.flush(&mut tables)?
        };
        let effects = Effects::of(change, written);
        txn.commit()?;
        Ok((effects, answers))
    }

    /// Makes a durable commit visible, before anybody is answered.
    fn show(&mut self, effects: Effects) -> AsOf {
        let shared = &self.shared;
        // First: whoever sees that something is pending finds it due.
        shared.batches.write().show(effects.written.ready);
        self.counters = effects.counters;
        *shared.counters.lock() = effects.counters;
        effects.event_types.into_iter().for_each(|step| shared.catalog.step_event_type(step));
        effects.keys.into_iter().for_each(|step| shared.catalog.keys().step(step));
        effects.quotas.into_iter().for_each(|step| shared.catalog.step_quota(step));
        let mut changed = Vec::new();
        for (seq, step) in effects.steps {
            match step {
                ConfigStep::Put(webhook) => {
                    changed.push(webhook.no);
                    shared.catalog.put(seq, webhook);
                }
                ConfigStep::Removed(no) => {
                    changed.push(no);
                    shared.catalog.remove(seq, no);
                }
            }
        }
        for (no, pending) in effects.pending {
            shared.catalog.set_pending(WebhookNo(no), pending);
            if pending == 0 {
                self.pending.remove(&no);
            } else {
                self.pending.insert(no, pending);
            }
        }
        {
            let mut chunks = shared.chunks.lock();
            effects.hollowed.into_iter().for_each(|range| chunks.forget(range));
            for (first, chunk, bytes) in effects.written.chunks {
                chunks.wrote(first, chunk, bytes);
            }
        }
        shared.fan_outs_went_on(effects.fan_outs);
        self.cancels.drain(..effects.cancels_done);
        self.cancels.extend(effects.cancels_started);
        for (no, begins) in effects.releases {
            if begins {
                self.releases.insert(no);
            } else {
                self.releases.remove(&no);
            }
        }
        for (no, drop) in effects.drops_changed {
            match drop {
                Some(drop) => self.drops.insert(no, drop),
                None => self.drops.remove(&no),
            };
        }
        shared.dropping.store(self.drops.len(), Ordering::Release);
        for (_, job) in &effects.erasures {
            if let Some(job) = job {
                shared.recent.lock().hollow(|entry| job.hides_entry(entry));
            }
        }
        let erases = !effects.erasures.is_empty();
        shared.erasing.committed(effects.erasures, effects.swept);
        if erases {
            shared.hide_replays();
        }
        if !effects.replays.is_empty() {
            shared.replays.put(effects.replays);
        }
        if effects.revived {
            shared.revivals.fetch_add(1, Ordering::AcqRel);
        }
        let grew = !effects.shown.is_empty();
        if grew {
            let mut recent = shared.recent.lock();
            for entry in effects.shown {
                recent.push(entry.filter(|entry| !shared.erasing.hides_entry(entry)));
            }
        }
        let as_of = shared.committed();
        if !effects.fresh.is_empty() || !changed.is_empty() || !effects.cancelled.is_empty() {
            shared.news.post(as_of, effects.fresh, changed, effects.cancelled);
        }
        if grew {
            shared.head.send_replace(Position(effects.counters.log_head));
        }
        as_of
    }

    /// Closes the failed database and opens it again, for as long as it takes. redb refuses everything after its first I/O
    /// error, reads included, until then. Whether the failed commit survived is read from the file. One that failed again at
    /// its first commit is given time: the next one would hardly fare better.
    fn reopen(&mut self, mut pause: bool) {
        self.shared.metrics.failures.inc();
        self.shared.works.send_replace(false);
        let failed = self.shared.hot.write().take();
        drop(failed);
        loop {
            if pause && !self.shared.inbox.refuse_for(self.shared.config.reopen_pause) {
                return;
            }
            pause = true;
            self.shared.heartbeat.beat();
            match open::reopen(&self.shared) {
                Ok(recovered) => {
                    self.counters = *self.shared.counters.lock();
                    self.pending = recovered.pending;
                    self.cancels = recovered.cancels;
                    self.releases = recovered.releases;
                    self.drops = recovered.drops;
                    self.shared.metrics.reopenings.inc();
                    self.shared.works.send_replace(true);
                    info!("the store is open again");
                    return;
                }
                Err(error) => error!(%error, "the store cannot be opened yet"),
            }
        }
    }
}

impl Change<'_> {
    fn urgent(&mut self, tables: &mut Tables<'_>, work: Urgent) -> Result<Answered, EngineError> {
        match work {
            Urgent::Outcomes { owner, groups, answer } => {
                let fenced = owner != self.shared.owner;
                let answers = vec![fenced; groups.len()];
                for group in groups.into_iter().filter(|_| !fenced) {
                    self.commit_group(tables, group)?;
                }
                Ok(Answered::Groups(answer, answers))
            }
            Urgent::Config { change, answer } => {
                let config = self.configure(tables, change)?;
                Ok(Answered::Config(answer, config))
            }
            Urgent::Erase { decision, answer } => {
                let erased = self.erase(tables, decision)?;
                Ok(Answered::Erased(answer, erased))
            }
            Urgent::Repair { repair, answer } => {
                let repaired = self.repair(tables, repair)?;
                Ok(Answered::Repaired(answer, repaired))
            }
            Urgent::Audit { step, answer } => {
                let no = self.audit(tables, step)?;
                Ok(Answered::Audited(answer, no))
            }
            Urgent::Replay { change, answer } => {
                let replayed = self.replay(tables, change)?;
                Ok(Answered::Replay(answer, replayed))
            }
        }
    }
}

impl Effects {
    fn of(change: Change<'_>, written: Written) -> Self {
        Self {
            counters: change.counters,
            pending: change.pending_changed(),
            written,
            fresh: change.fresh,
            shown: change.shown,
            steps: change.steps,
            event_types: change.event_types,
            keys: change.keys,
            quotas: change.quotas,
            fan_outs: change.fan_outs,
            cancels_started: change.cancels_started,
            cancels_done: change.cancels_done,
            releases: change.releases,
            drops_changed: change.drops_changed,
            replays: change.replays,
            cancelled: change.cancelled,
            revived: change.revived,
            erasures: change.erasures,
            swept: change.swept,
            hollowed: change.hollowed,
        }
    }

    /// What the commit held, on top of what there was before.
    fn size(&self, before: &CountersRecord) -> CommitSize {
        CommitSize {
            events: self.counters.next_event - before.next_event,
            outcomes: self.shown.iter().filter(|entry| !matches!(entry, Some(LogEntry::Operational(_)))).count() as u64,
            deliveries: self.fresh.len() as u64,
        }
    }
}
