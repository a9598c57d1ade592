//! The audit log, as the gate writes it: an entry before a call is carried out, its ending before it is answered.
//!
//! ```text
//!  admitted ─▶ entry committed ─▶ service ─▶ ending committed ─▶ answer
//!                    └ fails: refused          └ fails: answered all the same; the entry says that it is not known
//!  refused  ─▶ entry with its ending, or counted in the next one ─▶ answer
//! ```
//!
//! Refused calls are nobody's right, so that they may not fill the log: so many have an entry, the others are counted. Callers who are
//! known have a share of their own, so that strangers cannot make them invisible, and one of them has a part of it. Who is let in
//! too often is refused: see [`super::pace`].

use std::{collections::HashMap, mem, sync::Arc};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{error, warn};

use super::{caller::Caller, pace::Paces};
use crate::{
    api::status::Failure,
    clock::Clock,
    limits::{AUDIT_REFUSALS_MAX, AUDIT_REFUSALS_OF_ONE_MAX, AUDIT_REFUSALS_SPAN},
    metrics::AuditMetrics,
    model::{
        audit::{AuditEnd, AuditEntry, AuditNo, Ending, Principal},
        audit_shares::Account,
    },
    store::{AuditStep, Store},
};

/// Writes the audit log.
pub struct Audit {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: AuditMetrics,
    refusals: Mutex<[Refusals; 2]>,
    paces: Mutex<Paces>,
}

/// Whose refused calls share what they may write.
#[derive(Debug, Clone, Copy)]
enum Share {
    Strangers,
    Known,
}

impl Share {
    const ALL: [Self; 2] = [Self::Strangers, Self::Known];

    fn of(principal: &Principal) -> Self {
        if matches!(principal, Principal::Unauthenticated(_)) { Self::Strangers } else { Self::Known }
    }

    /// How many of its calls one caller may have written: of strangers, nobody knows who is one.
    fn of_one_max(self) -> u32 {
        match self {
            Self::Strangers => AUDIT_REFUSALS_MAX,
            Self::Known => AUDIT_REFUSALS_OF_ONE_MAX,
        }
    }

    /// The code of what is only counted.
    fn code(self) -> Code {
        match self {
            Self::Strangers => Code::Unauthenticated,
            Self::Known => Code::PermissionDenied,
        }
    }
}

/// How many refused calls may still have an entry. Pure.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Instant>,
    written: u32,
    /// Of those, how many of whom.
    by: HashMap<Account, u32>,
    omitted: u64,
}

impl Refusals {
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= AUDIT_REFUSALS_SPAN)
    }

    /// Counts a refused call of whom so many may be written. If it gets an entry: how many before it have none.
    fn count(&mut self, account: Account, of_one_max: u32, now: Instant) -> Option<u64> {
        if self.is_over(now) {
            (self.since, self.written) = (Some(now), 0);
            self.by.clear();
        }
        if self.written == AUDIT_REFUSALS_MAX || self.by.get(&account).is_some_and(|by| *by == of_one_max) {
            self.omitted += 1;
            return None;
        }
        self.written += 1;
        *self.by.entry(account).or_default() += 1;
        Some(mem::take(&mut self.omitted))
    }

    /// How many were left out, if that is to be told though no other call came.
    fn untold(&mut self, now: Instant, last: bool) -> Option<u64> {
        (self.omitted > 0 && (last || self.is_over(now))).then(|| mem::take(&mut self.omitted))
    }
}

impl Audit {
    pub(in crate::api) fn new(store: Arc<dyn Store>, clock: Clock, metrics: AuditMetrics) -> Self {
        Self { store, clock, metrics, refusals: Mutex::default(), paces: Mutex::default() }
    }

    /// Fails if calls of this caller that are to be written come too fast. It counts if not.
    pub(super) fn admit(&self, caller: &Caller) -> Result<(), Failure> {
        self.paces.lock().take(caller, self.clock.now())
    }

    /// A call of this path that comes now, of nobody yet.
    pub(super) fn entry(&self, path: &str) -> AuditEntry {
        AuditEntry::new(path.trim_start_matches('/'), Principal::Unauthenticated(None), self.clock.now())
    }

    /// Commits the entry of a call that is about to be carried out. If that fails, it is not.
    pub(super) async fn begin(&self, entry: AuditEntry) -> Result<AuditNo, Failure> {
        let method = entry.method.clone();
        let begun = self.store.audit(AuditStep::Begin(entry.into())).await;
        match &begun {
            Ok(_) => {
                self.metrics.entries.inc();
            }
            Err(error) => {
                self.metrics.failures.inc();
                warn!(%error, call = &*method, "a call is refused, because it cannot be written to the audit log");
            }
        }
        Ok(begun?)
    }

    /// Commits how a call ended. If that fails, its caller is told how it ended all the same.
    pub(super) async fn end(&self, no: AuditNo, end: impl FnOnce(AuditEnd) -> AuditEnd, code: Code) {
        let end = end(AuditEnd::new(code.into(), self.clock.now()));
        if let Err(error) = self.store.audit(AuditStep::End(no, end.into())).await {
            self.metrics.failures.inc();
            error!(%error, audit.entry = no.0, ?code, "how a call ended could not be written to the audit log");
        }
    }

    /// Writes or counts a call that was refused.
    pub(super) async fn refused(&self, entry: AuditEntry, code: Code) {
        let share = Share::of(&entry.principal);
        let (account, of_one_max) = (entry.principal.account(), share.of_one_max());
        let counted = self.refusals.lock()[share as usize].count(account, of_one_max, Instant::now());
        let Some(omitted) = counted else {
            self.metrics.omitted.inc();
            return;
        };
        self.write_refused(share, entry, code, omitted, 1).await;
    }

    /// Tells, until `stop`, of calls that were left out and that nobody comes after.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = sleep(AUDIT_REFUSALS_SPAN / 6) => {}
            }
            for share in Share::ALL {
                let untold = self.refusals.lock()[share as usize].untold(Instant::now(), stop.is_cancelled());
                if let Some(omitted) = untold {
                    let entry = AuditEntry::new("", Principal::Several, self.clock.now());
                    self.write_refused(share, entry, share.code(), omitted, 0).await;
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Writes an entry that stands for so many calls, and those that were left out before.
    async fn write_refused(&self, share: Share, entry: AuditEntry, code: Code, omitted: u64, calls: u64) {
        let ending = Some(Ending { code: code.into(), time: self.clock.now() });
        let written = self.store.audit(AuditStep::Begin(AuditEntry { ending, omitted, ..entry }.into())).await;
        match written {
            Ok(_) => {
                self.metrics.entries.inc();
            }
            Err(error) => {
                self.metrics.failures.inc();
                self.refusals.lock()[share as usize].omitted += omitted + calls;
                warn!(%error, "a refused call could not be written to the audit log; it is counted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::fake::FakeStore;

    fn audit(store: &Arc<FakeStore>) -> Arc<Audit> {
        Audit::new(store.clone(), Clock::start(), AuditMetrics::default()).into()
    }

    /// How many were left out before each entry.
    fn omitted(store: &FakeStore) -> Vec<u64> {
        store.audited.lock().iter().map(|entry| entry.omitted).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn refused_calls_are_written_at_a_bounded_rate_and_all_are_counted() {
        let store = FakeStore::new();
        let audit = audit(&store);
        let refuse = async |principal: Principal| {
            let entry = AuditEntry { principal, ..audit.entry("/s/m") };
            audit.refused(entry, Code::Unauthenticated).await;
        };
        for _ in 0..AUDIT_REFUSALS_MAX + 7 {
            refuse(Principal::Unauthenticated(None)).await;
        }
        assert_eq!(store.audited.lock().len(), AUDIT_REFUSALS_MAX as usize);
        assert_eq!(audit.metrics.omitted.get(), 7);
        refuse(Principal::Anonymous).await;
        assert_eq!(
            store.audited.lock().len(),
            AUDIT_REFUSALS_MAX as usize + 1,
            "who is known has a share of their own"
        );
        tokio::time::advance(AUDIT_REFUSALS_SPAN).await;
        refuse(Principal::Unauthenticated(None)).await;
        refuse(Principal::Unauthenticated(None)).await;
        assert_eq!(omitted(&store)[AUDIT_REFUSALS_MAX as usize + 1..], [7, 0], "told once");
        assert!(store.audited.lock().iter().all(|entry| entry.ending.is_some_and(|ending| ending.code == 16)));
    }

    /// One who is refused very often does not hide that others were.
    #[tokio::test(start_paused = true)]
    async fn one_caller_has_a_part_of_what_all_may_write() {
        let store = FakeStore::new();
        let audit = audit(&store);
        let refuse = async |n: u32| {
            let principal = Principal::Certificate(n.to_string().into());
            audit.refused(AuditEntry { principal, ..audit.entry("/s/m") }, Code::NotFound).await;
        };
        for _ in 0..2 * AUDIT_REFUSALS_MAX {
            refuse(0).await;
        }
        assert_eq!(store.audited.lock().len(), AUDIT_REFUSALS_OF_ONE_MAX as usize);
        refuse(1).await;
        assert_eq!(omitted(&store).last(), Some(&u64::from(2 * AUDIT_REFUSALS_MAX - AUDIT_REFUSALS_OF_ONE_MAX)));
        for n in 2..100 {
            refuse(n).await;
        }
        assert_eq!(store.audited.lock().len(), AUDIT_REFUSALS_MAX as usize, "all together have no more");
        tokio::time::advance(AUDIT_REFUSALS_SPAN).await;
        refuse(0).await;
        assert_eq!(store.audited.lock().len(), AUDIT_REFUSALS_MAX as usize + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_comes_after_is_told_after_a_while_and_at_the_end() {
        let store = FakeStore::new();
        let audit = audit(&store);
        let stop = CancellationToken::new();
        let running = audit.clone().run(stop.clone());
        let flood = async || {
            for _ in 0..AUDIT_REFUSALS_MAX + 3 {
                audit.refused(audit.entry("/s/m"), Code::Unauthenticated).await;
            }
        };
        let test = async {
            flood().await;
            sleep(2 * AUDIT_REFUSALS_SPAN).await;
            assert_eq!(omitted(&store).last(), Some(&3));
            let last = store.audited.lock().last().cloned().unwrap();
            assert_eq!((last.principal, &*last.method), (Principal::Several, ""));
            flood().await;
            stop.cancel();
        };
        tokio::join!(running, test);
        assert_eq!(omitted(&store).iter().sum::<u64>(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_counted() {
        let store = FakeStore::new();
        let audit = audit(&store);
        *store.audits_left.lock() = 0;
        audit.refused(audit.entry("/s/m"), Code::Unauthenticated).await;
        *store.audits_left.lock() = 9;
        tokio::time::advance(Duration::from_secs(1)).await;
        audit.refused(audit.entry("/s/m"), Code::Unauthenticated).await;
        assert_eq!(omitted(&store), [1]);
    }
}
