//! The committer's three inboxes, and what it takes from them for one commit.
//!
//! Outcomes and configuration go first, then accepts up to a size, then one piece of upkeep: a flood of accepts never starves
//! outcomes, and upkeep never starves either.
//!
//! Invariant: bounded. A sender waits for room; its room is given back when its work is answered.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{archive::Archived, erase::Decision, heartbeat::Heartbeat, space::Space};
use crate::{
    limits::{COMMIT_EVENT_BYTES_MAX, COMMIT_OUTCOMES_MAX, COMMIT_ROWS_MAX, COMMITTER_BEAT_INTERVAL, REQUEST_ROWS_MAX},
    metrics::Depth,
    model::audit::AuditNo,
    store::{
        StoreError,
        audit::AuditStep,
        erase::Erased,
        repair::{Repair, Repaired},
        replays::{ReplayAnswer, ReplayChange},
        types::{ConfigAnswer, ConfigChange, GroupCommitted, OutcomeGroup, Owner, Publish, Published},
    },
};

/// Most pieces of work waiting in one inbox.
const WAITING_MAX: usize = 1_024;

/// An answer on its way to who asked.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// One piece of work with its room in the inbox.
#[derive(Debug)]
pub(super) struct Item<W> {
    pub(super) work: W,
    _room: OwnedSemaphorePermit,
}

/// Work that goes first.
#[derive(Debug)]
pub(super) enum Urgent {
    Outcomes { owner: Owner, groups: Vec<OutcomeGroup>, answer: Answer<Vec<GroupCommitted>> },
    Config { change: ConfigChange, answer: Answer<ConfigAnswer> },
    Repair { repair: Repair, answer: Answer<Repaired> },
    Erase { decision: Decision, answer: Answer<Erased> },
    Replay { change: ReplayChange, answer: Answer<ReplayAnswer> },
    Audit { step: AuditStep, answer: Answer<AuditNo> },
}

/// Events to store.
#[derive(Debug)]
pub(super) struct Accepts {
    pub(super) batch: Vec<Publish>,
    pub(super) answer: Answer<Vec<Published>>,
}

/// Work that can wait.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) work: Archived,
    pub(super) answer: Answer<()>,
}

/// What goes into one commit.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) urgent: Vec<Item<Urgent>>,
    pub(super) accepts: Vec<Item<Accepts>>,
    pub(super) upkeep: Option<Item<Upkeep>>,
}

#[derive(Debug)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    urgent_room: Arc<Semaphore>,
    accepts_room: Arc<Semaphore>,
    upkeep_room: Arc<Semaphore>,
    space: Arc<Space>,
}

#[derive(Debug, Default)]
struct Waiting {
    urgent: VecDeque<Item<Urgent>>,
    accepts: VecDeque<Item<Accepts>>,
    upkeep: VecDeque<Item<Upkeep>>,
    closed: bool,
    /// The committer is to look after the store though nothing waits.
    woken: bool,
    /// The last commit left accepts waiting for a change of configuration.
    accepts_next: bool,
}

impl Inbox {
    /// Empty. `space` says why commits fail, if it knows.
    pub(super) fn new(space: Arc<Space>) -> Self {
        let room = || Arc::new(Semaphore::new(WAITING_MAX));
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            urgent_room: room(),
            accepts_room: room(),
            upkeep_room: room(),
            space,
        }
    }

    pub(super) async fn urgent<T>(&self, work: impl FnOnce(Answer<T>) -> Urgent) -> Result<T, StoreError> {
        self.submit(&self.urgent_room, |waiting| &mut waiting.urgent, work).await
    }

    pub(super) async fn accepts(&self, batch: Vec<Publish>) -> Result<Vec<Published>, StoreError> {
        self.submit(&self.accepts_room, |waiting| &mut waiting.accepts, |answer| Accepts { batch, answer }).await
    }

    pub(super) async fn upkeep(&self, work: Archived) -> Result<(), StoreError> {
        self.submit(&self.upkeep_room, |waiting| &mut waiting.upkeep, |answer| Upkeep { work, answer }).await
    }

    /// How full each inbox is, the urgent one first, then accepts, then upkeep.
    pub(super) fn depths(&self) -> [Depth; 3] {
        let depth = |room: &Semaphore| Depth { waiting: WAITING_MAX - room.available_permits(), capacity: WAITING_MAX };
        [&self.urgent_room, &self.accepts_room, &self.upkeep_room].map(|room| depth(room))
    }

    /// Refuses what comes from now on; what waits is still done.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Lets the committer find out that the store has failed.
    pub(super) fn wake(&self) {
        self.waiting.lock().woken = true;
        self.arrived.notify_one();
    }

    /// What the next commit is made of. Waits if there is nothing, unless `busy`: then the committer has work of its own.
    /// `None`: closed, and everything is done. Gives signs of life meanwhile.
    pub(super) fn take(&self, busy: bool, heartbeat: &Heartbeat) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        heartbeat.beat();
        while waiting.is_empty() && !busy && !waiting.woken {
            if waiting.closed {
                return None;
            }
            self.arrived.wait_for(&mut waiting, COMMITTER_BEAT_INTERVAL);
            heartbeat.beat();
        }
        if waiting.is_empty() && waiting.closed {
            return None;
        }
        waiting.woken = false;
        Some(waiting.take())
    }

    /// Refuses everything that waits or comes in the next `pause`. False: closed.
    pub(super) fn refuse_for(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut waiting = self.waiting.lock();
        loop {
            waiting.urgent.clear();
            waiting.accepts.clear();
            waiting.upkeep.clear();
            if waiting.closed {
                return false;
            }
            if self.arrived.wait_until(&mut waiting, until).timed_out() {
                return true;
            }
        }
    }

    async fn submit<T, W>(
        &self,
        room: &Arc<Semaphore>,
        queue: impl FnOnce(&mut Waiting) -> &mut VecDeque<Item<W>>,
        work: impl FnOnce(Answer<T>) -> W,
    ) -> Result<T, StoreError> {
        let handed_in = Instant::now();
        let permit = room.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(StoreError::Closed);
            }
            queue(&mut waiting).push_back(Item { work: work(answer), _room: permit });
        }
        self.arrived.notify_one();
        // Dropped unanswered: the commit it was part of failed.
        answered.await.map_err(|_| {
            if self.space.was_short(handed_in) {
                return StoreError::Full;
            }
            StoreError::Failed(Arc::from("the commit failed, nothing was stored"))
        })?
    }
}

/// Rows that an event adds for its targets in the commit that accepts it.
pub(super) fn rows_of(publish: &Publish) -> usize {
    publish.targets.webhooks.len().min(REQUEST_ROWS_MAX)
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.accepts.is_empty() && self.upkeep.is_empty()
    }

    fn take(&mut self) -> Work {
        let mut work = Work::default();
        let (mut outcomes, mut config) = (0, false);
        while outcomes < COMMIT_OUTCOMES_MAX
            && let Some(item) = self.urgent.pop_front_if(|item| {
                // Changes of configuration take turns with accepts: neither can keep the other out.
                !self.accepts_next || !matches!(item.work, Urgent::Config { .. } | Urgent::Erase { .. })
            })
        {
            match &item.work {
                Urgent::Outcomes { groups, .. } => {
                    outcomes += groups.iter().map(|group| group.outcomes.len()).sum::<usize>();
                }
                Urgent::Config { .. } | Urgent::Erase { .. } => config = true,
                Urgent::Repair { repair, .. } => outcomes += repair.named(),
                Urgent::Replay { change, .. } => outcomes += change.deliveries(),
                Urgent::Audit { .. } => outcomes += 1,
            }
            work.urgent.push(item);
        }
        // Events are matched against committed configuration, so they never share a commit with a change of it.
        let (mut bytes, mut rows) = (0, 0);
        while !config
            && bytes < COMMIT_EVENT_BYTES_MAX
            && rows < COMMIT_ROWS_MAX
            && let Some(item) = self.accepts.pop_front()
        {
            bytes += item.work.batch.iter().map(|publish| publish.event.weight_bytes()).sum::<usize>();
            rows += item.work.batch.iter().map(rows_of).sum::<usize>();
            work.accepts.push(item);
        }
        self.accepts_next = config && !self.accepts.is_empty();
        work.upkeep = self.upkeep.pop_front();
        work
    }
}
