//! Replays: what is asked about them, what becomes of that, and what there is of them in memory, kept current by the engine.
//!
//! Who runs replays looks at some events ([`super::Store::replayable`]), decides, and hands a step to the store, which carries it out
//! if the replay still is where the step begins. So whoever runs them, and however often, each step is made once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::types::RequestKey;
use crate::{
    limits::{REPLAYS_MAX, REPLAYS_PER_TENANT_MAX, REPLAYS_PER_WEBHOOK_MAX, REPLAYS_RUNNING_MAX},
    model::{
        event::StoredEvent,
        ids::{EventSeq, ReplayId, Tenant, WebhookId, WebhookNo},
        replay::{Replay, ReplaySpec, ReplayStep},
        time::Timestamp,
    },
};

/// Something to do about replays.
#[derive(Debug, Clone)]
pub enum ReplayChange {
    /// Start one.
    Start {
        /// What it is to do.
        spec: ReplaySpec,
        /// Guards against repeats.
        request: Option<RequestKey>,
        /// Now.
        time: Timestamp,
    },
    /// Make some of its deliveries.
    Step(ReplayStep),
    /// Stop one, if it runs.
    Cancel {
        /// Which one.
        replay: u32,
        /// Whether its pending deliveries are cancelled: some at once, the others by [`Self::Drop`].
        drop_pending: bool,
        /// Now.
        time: Timestamp,
    },
    /// Cancel some more of the pending deliveries of one for which that was decided.
    Drop {
        /// Which one.
        replay: u32,
        /// Now.
        time: Timestamp,
    },
    /// Give one up.
    Fail {
        /// Which one.
        replay: u32,
        /// Why, for people.
        why: Box<str>,
        /// Now.
        time: Timestamp,
    },
    /// Forget those of these that have ended.
    Forget {
        /// Which ones.
        replays: Vec<u32>,
    },
}

impl ReplayChange {
    /// How many deliveries it makes or cancels, at most.
    pub(in crate::store) fn deliveries(&self) -> usize {
        match self {
            Self::Step(step) => 1 + step.events.len(),
            Self::Cancel { .. } | Self::Drop { .. } => crate::limits::REPLAY_CANCEL_DELIVERIES_MAX,
            Self::Start { .. } | Self::Fail { .. } | Self::Forget { .. } => 1,
        }
    }
}

/// What became of a [`ReplayChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayAnswer {
    /// The replay is now so; of one that was started under the same request id before, what it was then.
    Put(Replay),
    /// Done.
    Done,
    /// Not now: the backlog is almost full, or deliveries of the webhook are just being cancelled.
    Busy,
    /// The replay is elsewhere than the step begins, has ended, or is not known (any more).
    Stale,
    /// An event that the step names cannot be read at the moment.
    Unreadable,
    /// The webhook was deleted.
    WebhookDeleted,
    /// The request id was used with another request.
    RequestReused,
    /// As many replays are running as may be.
    TooMany,
}

/// Some events of a replay's tenant, within its times and of its types, and of its states if it names any.
#[derive(Debug, Clone)]
pub struct ReplayPage {
    /// By number.
    pub events: Vec<StoredEvent>,
    /// Everything before this one was looked at.
    pub next: EventSeq,
    /// Events in between that are the tenant's and within the times.
    pub examined: u64,
    /// When the last of them was accepted.
    pub reached: Option<Timestamp>,
}

/// Every replay that is remembered. Readers never wait for the disk.
#[derive(Debug)]
pub struct Replays {
    inner: RwLock<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    by_no: BTreeMap<u32, Arc<Replay>>,
    by_id: HashMap<ReplayId, u32>,
    /// Those about which something is to be done.
    active: BTreeMap<u32, Arc<Replay>>,
    /// How many deliveries are pending, where that is not 0.
    pending: BTreeMap<(WebhookNo, u32), u64>,
    /// Whose are not shown to anybody.
    hidden: BTreeSet<Tenant>,
}

impl Inner {
    fn remove(&mut self, no: u32) {
        self.active.remove(&no);
        if let Some(replay) = self.by_no.remove(&no) {
            self.by_id.remove(&replay.id);
            self.pending.remove(&(replay.spec.webhook, no));
        }
    }

    fn insert(&mut self, replay: Arc<Replay>) {
        let no = replay.no;
        if replay.is_active() {
            self.active.insert(no, replay.clone());
        } else {
            self.active.remove(&no);
        }
        let place = (replay.spec.webhook, no);
        match replay.progress.pending() {
            0 => drop(self.pending.remove(&place)),
            pending => drop(self.pending.insert(place, pending)),
        }
        self.by_id.insert(replay.id, no);
        self.by_no.insert(no, replay);
    }
}

impl Default for Replays {
    fn default() -> Self {
        Self { inner: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Replays {
    /// A replay by number.
    pub fn get(&self, no: u32) -> Option<Arc<Replay>> {
        self.inner.read().by_no.get(&no).cloned()
    }

    /// A tenant's replay by id.
    pub fn find(&self, tenant: &Tenant, id: ReplayId) -> Option<Arc<Replay>> {
        let inner = self.inner.read();
        let replay = inner.by_no.get(inner.by_id.get(&id)?)?;
        (replay.spec.tenant == *tenant && !inner.hidden.contains(tenant)).then(|| replay.clone())
    }

    /// Replays of a tenant (`None`: of all) and to a webhook (`None`: to any) before the one of this number, newest first.
    pub fn list(
        &self,
        tenant: Option<&Tenant>,
        webhook: Option<WebhookId>,
        before: Option<u32>,
        limit: usize,
    ) -> Vec<Arc<Replay>> {
        let inner = self.inner.read();
        let rest = inner.by_no.range(..before.unwrap_or(u32::MAX)).rev().map(|(_, replay)| replay);
        let wanted = rest.filter(|replay| {
            tenant.is_none_or(|tenant| replay.spec.tenant == *tenant)
                && webhook.is_none_or(|webhook| replay.spec.webhook_id == webhook)
                && !inner.hidden.contains(&replay.spec.tenant)
        });
        wanted.take(limit).cloned().collect()
    }

    /// For the engine: some of a tenant's, by number, shown or not.
    pub fn of_tenant(&self, tenant: &Tenant, limit: usize) -> Vec<u32> {
        let inner = self.inner.read();
        let mine = inner.by_no.values().filter(|replay| replay.spec.tenant == *tenant);
        mine.take(limit).map(|replay| replay.no).collect()
    }

    /// Those that run, or whose deliveries are being cancelled, oldest first.
    pub fn active(&self) -> Vec<Arc<Replay>> {
        self.inner.read().active.values().cloned().collect()
    }

    /// Deliveries that replays have pending for a webhook.
    pub fn pending(&self, webhook: WebhookNo) -> u64 {
        self.inner.read().pending.range((webhook, 0)..=(webhook, u32::MAX)).map(|(_, pending)| pending).sum()
    }

    /// Those that ended before a time, at most so many.
    pub fn ended_before(&self, time: Timestamp, limit: usize) -> Vec<u32> {
        let inner = self.inner.read();
        let ended = |replay: &Replay| !replay.is_active() && replay.finish_time.is_some_and(|finish| finish < time);
        inner.by_no.values().filter(|replay| ended(replay)).take(limit).map(|replay| replay.no).collect()
    }

    /// Changes with every replay that does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// For the engine: whether another one may run beside those and these.
    pub fn has_room_for(&self, spec: &ReplaySpec, these: &[&Replay]) -> bool {
        let inner = self.inner.read();
        let all = || inner.active.values().map(Arc::as_ref).chain(these.iter().copied());
        let running = || all().filter(|replay| replay.is_running());
        running().count() < REPLAYS_RUNNING_MAX
            && running().filter(|replay| replay.spec.tenant == spec.tenant).count() < REPLAYS_PER_TENANT_MAX
            && running().filter(|replay| replay.spec.webhook == spec.webhook).count() < REPLAYS_PER_WEBHOOK_MAX
    }

    /// For the engine: those that are forgotten if so many more come, the oldest that have ended.
    pub fn surplus(&self, more: usize) -> Vec<u32> {
        let inner = self.inner.read();
        let surplus = (inner.by_no.len() + more).saturating_sub(REPLAYS_MAX);
        let ended = inner.by_no.values().filter(|replay| !replay.is_active());
        ended.take(surplus).map(|replay| replay.no).collect()
    }

    /// For the engine: these changed, or are gone.
    pub fn put(&self, changed: impl IntoIterator<Item = (u32, Option<Replay>)>) {
        let mut inner = self.inner.write();
        for (no, replay) in changed {
            match replay {
                Some(replay) => inner.insert(Arc::new(replay)),
                None => inner.remove(no),
            }
        }
        drop(inner);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// For the engine: those of these tenants, and of no others, are not shown, since all of theirs is being erased.
    pub fn hide(&self, tenants: BTreeSet<Tenant>) {
        self.inner.write().hidden = tenants;
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// For the engine: these are all there are, and all of them are shown.
    pub fn load(&self, all: impl IntoIterator<Item = Replay>) {
        *self.inner.write() = Inner::default();
        self.put(all.into_iter().map(|replay| (replay.no, Some(replay))));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::replay::{ReplayState, StoppedBy};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn replay(no: u32, tenant: &str, webhook: u64) -> Replay {
        let spec = ReplaySpec {
            tenant: tenant.parse().unwrap(),
            webhook: WebhookNo(webhook),
            webhook_id: WebhookId::from_bytes([u8::try_from(webhook).unwrap(); 16]),
            event_types: BTreeSet::new(),
            states: Vec::new(),
            start: None,
            end: at(10),
            per_second: 1,
        };
        Replay::begin(no, ReplayId::generate(), spec, (EventSeq(1), EventSeq(9)), at(no.into()))
    }

    fn stopped(replay: Replay, time: Timestamp) -> Replay {
        replay.ended(ReplayState::Cancelled(StoppedBy::Request), time)
    }

    fn put(replays: &Replays, all: impl IntoIterator<Item = Replay>) {
        replays.put(all.into_iter().map(|replay| (replay.no, Some(replay))));
    }

    #[test]
    fn they_are_found_listed_and_forgotten() {
        let replays = Replays::default();
        let mut changes = replays.changes();
        let all = [replay(1, "a", 1), replay(2, "b", 2), replay(3, "a", 3), replay(4, "a", 1)];
        put(&replays, all.clone());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let numbers = |found: Vec<Arc<Replay>>| found.iter().map(|replay| replay.no).collect::<Vec<_>>();
        let (a, b): (Tenant, Tenant) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(numbers(replays.list(None, None, None, 9)), [4, 3, 2, 1]);
        assert_eq!(numbers(replays.list(Some(&a), None, Some(4), 1)), [3]);
        assert_eq!(numbers(replays.list(None, Some(all[0].spec.webhook_id), None, 9)), [4, 1]);
        assert_eq!(replays.find(&a, all[0].id).map(|found| found.no), Some(1));
        assert_eq!(replays.find(&b, all[0].id), None, "another tenant's is as good as none");

        put(&replays, [stopped(all[0].clone(), at(50)), Replay { drops: true, ..stopped(all[1].clone(), at(50)) }]);
        assert!(changes.has_changed().unwrap());
        assert_eq!(numbers(replays.active()), [2, 3, 4]);
        assert!(replays.ended_before(at(50), 9).is_empty());
        assert_eq!(replays.ended_before(at(51), 9), [1], "not while its deliveries are being cancelled");
        replays.put([(1, None)]);
        assert_eq!(replays.find(&a, all[0].id), None);

        changes.mark_unchanged();
        replays.hide([a.clone()].into());
        assert!(changes.has_changed().unwrap(), "those who follow one of them are told");
        assert_eq!((replays.find(&a, all[2].id), numbers(replays.list(None, None, None, 9))), (None, vec![2]));
        assert_eq!(replays.of_tenant(&a, 9), [3, 4]);
        replays.hide(BTreeSet::new());
        assert_eq!(numbers(replays.list(Some(&a), None, None, 9)), [4, 3]);
        replays.load([all[3].clone()]);
        assert_eq!(numbers(replays.list(None, None, None, 9)), [4]);
    }

    #[test]
    fn only_so_many_run_and_are_remembered() {
        let check = |others: Vec<Replay>, expected: bool| {
            let replays = Replays::default();
            put(&replays, others);
            assert_eq!(replays.has_room_for(&replay(9_999, "a", 1).spec, &[]), expected);
        };
        let some = |count: usize, tenant: &'static str, webhook: u64| {
            (1..=u32::try_from(count).unwrap()).map(move |no| replay(no, tenant, webhook)).collect::<Vec<_>>()
        };
        check(some(REPLAYS_PER_WEBHOOK_MAX - 1, "a", 1), true);
        check(some(REPLAYS_PER_WEBHOOK_MAX, "a", 1), false);
        check(some(REPLAYS_PER_WEBHOOK_MAX, "a", 1).into_iter().map(|one| stopped(one, at(50))).collect(), true);
        let (before, mine) = (Replays::default(), some(REPLAYS_PER_WEBHOOK_MAX, "a", 1));
        assert!(!before.has_room_for(&mine[0].spec, &mine.iter().collect::<Vec<_>>()), "of the same commit");
        check(some(REPLAYS_PER_TENANT_MAX, "a", 2), false);
        check(some(REPLAYS_PER_TENANT_MAX, "b", 2), true);
        check(some(REPLAYS_RUNNING_MAX, "b", 2), false);

        let replays = Replays::default();
        put(&replays, some(REPLAYS_MAX - 1, "a", 1).into_iter().map(|one| stopped(one, at(50))));
        assert_eq!((replays.surplus(1), replays.surplus(2)), (vec![], vec![1]));
        put(&replays, [replay(1, "a", 1), replay(20_000, "a", 1)]);
        assert_eq!(replays.surplus(2), [2, 3], "the oldest that have ended");
    }

    #[test]
    fn what_is_pending_for_a_webhook_is_counted_over_its_replays() {
        let replays = Replays::default();
        let made = |no, webhook, created, delivered| {
            let mut one = stopped(replay(no, "a", webhook), at(50));
            (one.progress.created, one.progress.delivered) = (created, delivered);
            put(&replays, [one]);
        };
        made(1, 1, 10, 3);
        made(2, 1, 5, 5);
        made(3, 2, 100, 0);
        assert_eq!(replays.pending(WebhookNo(1)), 7);
    }
}
