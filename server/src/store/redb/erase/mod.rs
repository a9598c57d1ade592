//! Erasing on request: decided at once, carried out in steps, until no byte is left.
//!
//! ```text
//!   decision ──▶ clearing ──▶ sweeping ──▶ finished
//!   one commit   slices of    a pass over    the files hold
//!   (answered)   the          all files,     nothing of it
//!                committer    in upkeep
//! ```
//!
//! From the commit of the decision on, readers see nothing of what it names, nothing new comes to it, and what attempts under way
//! lead to is left out. *Clearing* takes away what is pending, as cancelling and deleting webhooks do. *Sweeping* makes hollow what
//! is left in chunks (an entry keeps its number, so cursors stay as they are), writes segments anew that hold something, and in the
//! end fills every free page of the hot store with zeros, because a page that redb frees keeps what was in it.
//!
//! Only the row of an erasure is kept while it is carried out: a restart clears and sweeps from the beginning, which finds less to do.
//!
//! Deliberately absent: keys in inner nodes of the hot store's indexes, which redb may keep after their rows; they are names (event
//! ids, tenants), never content.

mod apply;
mod clear;
mod rewrite;
mod sieve;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use ::redb::ReadableTable as _;
use parking_lot::{Mutex, RwLock};

pub(super) use self::{
    apply::{Sweeping, forget_erasures},
    clear::{Decision, tenant_range},
    sweep::Sweep,
};
use super::{
    archive::Archived,
    error::EngineError,
    records::{Corrupt, ErasureRecord},
    shared::Shared,
    tables,
};
use crate::{
    model::{
        erasure::Erasure,
        ids::{ErasureId, EventId, EventSeq, Tenant},
        time::Timestamp,
    },
    store::types::LogEntry,
};

/// Finished erasures that one commit forgets.
const FORGOTTEN_ROWS: usize = 256;

/// An erasure that is being carried out.
#[derive(Debug, Clone)]
pub(super) struct Job {
    tenant: Tenant,
    /// One event's; `None`: all there is of the tenant.
    event: Option<(EventSeq, EventId)>,
    /// Number of the first event that is not concerned.
    below: u64,
    time: Timestamp,
    stage: Stage,
    /// Webhooks that are to be deleted, of a tenant.
    webhooks: Vec<u64>,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What is pending is being taken away: of webhooks up to this number, or of so many of them.
    Clearing(u64),
    /// Its name is being taken out of the audit log: entries up to this number have been looked at.
    Auditing(u64),
    /// Nothing is pending, and nothing will be.
    Sweeping,
}

impl Job {
    /// From the start.
    pub(super) fn new(record: &ErasureRecord) -> Result<Self, Corrupt> {
        let event = record.event_id()?.map(|id| (EventSeq(record.event), id));
        let (tenant, below, time) = (record.tenant()?, record.below, record.time());
        Ok(Self { tenant, event, below, time, stage: Stage::Clearing(0), webhooks: Vec::new() })
    }

    fn hides(&self, event: Option<EventSeq>, tenant: &str) -> bool {
        match &self.event {
            Some((seq, _)) => Some(*seq) == event,
            None => self.tenant.as_str() == tenant,
        }
    }

    /// Whether readers of the log see nothing of the entry.
    pub(super) fn hides_entry(&self, entry: &LogEntry) -> bool {
        match entry {
            LogEntry::Outcome(outcome) => self.hides(Some(outcome.key.event), outcome.tenant.as_str()),
            LogEntry::Operational(it) => match (&self.event, it.occurrence.event()) {
                (Some((_, id)), Some(event)) => it.tenant == self.tenant && event == id,
                (Some(_), None) => false,
                (None, _) => it.tenant == self.tenant,
            },
            LogEntry::WebhookCancelled(cancelled) => self.event.is_none() && cancelled.tenant == self.tenant,
        }
    }
}

/// The erasures that are being carried out, as of the last commit.
#[derive(Debug, Default)]
pub(super) struct Erasing {
    /// How many. Nearly always none, which costs readers one look.
    count: AtomicUsize,
    jobs: RwLock<BTreeMap<u64, Job>>,
    /// The last step of a sweep that was committed, and what it found.
    swept: Mutex<Swept>,
}

/// What a commit says about the step of a sweep that was part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Swept {
    pub(super) serial: u64,
    /// The hot store's file had no free page left, and grew.
    pub(super) grew: bool,
}

impl Erasing {
    /// Whether anything is being erased.
    pub(super) fn any(&self) -> bool {
        self.count() > 0
    }

    /// Whether readers see nothing of an event of this tenant.
    pub(super) fn hides_event(&self, seq: EventSeq, tenant: &str) -> bool {
        self.any() && self.jobs.read().values().any(|job| job.hides(Some(seq), tenant))
    }

    /// Whether readers of the log see nothing of the entry.
    pub(super) fn hides_entry(&self, entry: &LogEntry) -> bool {
        self.any() && self.jobs.read().values().any(|job| job.hides_entry(entry))
    }

    /// Whether everything of the tenant is being erased.
    pub(super) fn has_tenant(&self, tenant: &Tenant) -> bool {
        self.any() && self.jobs.read().values().any(|job| job.hides(None, tenant.as_str()))
    }

    /// The tenants of which everything is being erased.
    fn tenants(&self) -> BTreeSet<Tenant> {
        let jobs = self.jobs.read();
        jobs.values().filter(|job| job.event.is_none()).map(|job| job.tenant.clone()).collect()
    }

    /// Whether something waits to be cleared.
    pub(super) fn has_slices(&self) -> bool {
        self.any() && self.clearing().is_some()
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn of_tenant(&self, tenant: &Tenant) -> Option<u64> {
        let jobs = self.jobs.read();
        jobs.iter().find(|(_, job)| job.hides(None, tenant.as_str())).map(|(no, _)| *no)
    }

    fn clearing(&self) -> Option<(u64, Job)> {
        let jobs = self.jobs.read();
        let found = jobs.iter().find(|(_, job)| job.stage != Stage::Sweeping);
        found.map(|(&no, job)| (no, job.clone()))
    }

    /// The jobs that wait to be swept.
    fn to_sweep(&self) -> Vec<(u64, Job)> {
        let jobs = self.jobs.read();
        let waiting = jobs.iter().filter(|(_, job)| job.stage == Stage::Sweeping);
        waiting.map(|(&no, job)| (no, job.clone())).collect()
    }

    /// After a commit: jobs that changed, those without that are done, and the step of a sweep that was part of it.
    pub(super) fn committed(&self, changed: Vec<(u64, Option<Job>)>, swept: Option<Swept>) {
        if let Some(swept) = swept {
            *self.swept.lock() = swept;
        }
        if !changed.is_empty() {
            let mut jobs = self.jobs.write();
            for (no, job) in changed {
                match job {
                    Some(job) => drop(jobs.insert(no, job)),
                    None => drop(jobs.remove(&no)),
                }
            }
            self.count.store(jobs.len(), Ordering::Release);
        }
    }

    fn last_swept(&self) -> Swept {
        *self.swept.lock()
    }
}

/// Loads what is being erased.
pub(super) fn load(shared: &Shared, txn: &::redb::ReadTransaction) -> Result<(), EngineError> {
    let mut jobs = BTreeMap::new();
    for row in txn.open_table(tables::ERASURES)?.iter()? {
        let (no, bytes) = row?;
        let record = ErasureRecord::decode_from(bytes.value())?;
        if !record.is_finished() {
            jobs.insert(no.value(), Job::new(&record)?);
        }
    }
    shared.erasing.count.store(jobs.len(), Ordering::Release);
    *shared.erasing.jobs.write() = jobs;
    Ok(())
}

impl Shared {
    /// After a commit that changed what is being erased, and while loading, once the replays are there.
    pub(super) fn hide_replays(&self) {
        self.replays.hide(self.erasing.tenants());
    }

    /// A webhook was found while loading: whether it is to be deleted because everything of its tenant is erased.
    pub(super) fn is_webhook_erased(&self, tenant: &Tenant, no: u64) -> bool {
        if !self.erasing.any() {
            return false;
        }
        let mut jobs = self.erasing.jobs.write();
        let job = jobs.values_mut().find(|job| job.hides(None, tenant.as_str()));
        job.map(|job| job.webhooks.push(no)).is_some()
    }
}

/// How far an erasure of a tenant has come.
pub(super) fn find(shared: &Shared, tenant: &Tenant, id: ErasureId) -> Result<Option<Erasure>, EngineError> {
    let Some(no) = shared.sealer.erasure_no(id) else { return Ok(None) };
    let (txn, _) = shared.read()?;
    let record = txn.open_table(tables::ERASURES)?.get(no)?;
    let record = record.map(|bytes| ErasureRecord::decode_from(bytes.value())).transpose()?;
    let mine = record.filter(|record| record.whose == whose(shared, tenant));
    Ok(mine.map(|record| record.shown(id)))
}

/// Erasures that are finished, and need not be remembered: as many as one commit forgets, if the first one is such.
pub(super) fn expire(shared: &Shared, now: Timestamp) -> Result<Option<Archived>, EngineError> {
    let (hot, _) = shared.read()?;
    let mut expired = Vec::new();
    for row in hot.open_table(tables::ERASURES)?.iter()?.take(FORGOTTEN_ROWS) {
        let (no, bytes) = row?;
        let record = ErasureRecord::decode_from(bytes.value())?;
        let decided = shared.set_backs.erasure(no.value(), record.time());
        if !record.is_finished() || decided + shared.config.retention > now {
            break;
        }
        expired.push(no.value());
    }
    Ok((!expired.is_empty()).then_some(Archived::ForgetErasures(expired)))
}

/// What tells a tenant's erasures from those of others.
fn whose(shared: &Shared, tenant: &Tenant) -> [u8; 16] {
    shared.sealer.fingerprint(&["tenant", tenant.as_str()])
}

/// What tells that an event of this id was erased.
pub(super) fn event_fingerprint(shared: &Shared, tenant: &Tenant, id: &EventId) -> [u8; 16] {
    shared.sealer.fingerprint(&["event", tenant.as_str(), id.as_str()])
}

/// What tells that an erasure was asked for under this request id.
fn request_fingerprint(shared: &Shared, tenant: &Tenant, request_id: &str) -> [u8; 16] {
    shared.sealer.fingerprint(&["request", tenant.as_str(), request_id])
}
