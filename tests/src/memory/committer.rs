//! The one task that writes: take what waits, commit it, make it visible, tell, and answer.

use std::{collections::VecDeque, sync::Arc};

use postrider_server::{
    flow::News,
    model::{audit::AuditNo, ids::Position},
    store::{AsOf, ConfigAnswer, ConfigStep, Erased, GroupCommitted, Published, Repaired, ReplayAnswer, StoreError},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    disk::{Commit, Storage},
    image::{Done, Effects, Work},
};

/// Most pieces of work one commit takes.
const COMMIT_WORK_MAX: usize = 64;

/// Who waits for what.
#[derive(Debug)]
pub(super) enum Answer {
    Publish(oneshot::Sender<Vec<Published>>),
    Outcomes(oneshot::Sender<Vec<GroupCommitted>>),
    Config(oneshot::Sender<ConfigAnswer>),
    Repair(oneshot::Sender<Repaired>),
    Erase(oneshot::Sender<Erased>),
    Replay(oneshot::Sender<ReplayAnswer>),
    Audit(oneshot::Sender<AuditNo>),
    Upkeep(oneshot::Sender<()>),
}

/// What reaches the committer.
#[derive(Debug)]
pub(super) enum Message {
    Work(Work, Answer),
    /// Everything before this is done first; everything after it is refused.
    Close(oneshot::Sender<()>),
}

pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) news: Arc<News>,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) urgent: VecDeque<(Work, Answer)>,
    pub(super) accepts: VecDeque<(Work, Answer)>,
    pub(super) closing: Option<oneshot::Sender<()>>,
}

impl Committer {
    pub(super) async fn run(mut self) {
        while self.listen().await {
            let (work, answers) = self.take();
            if let Some(done) = self.commit(work).await {
                let as_of = AsOf(self.shared.storage.lock().commits);
                for (done, answer) in done.into_iter().zip(answers) {
                    answer.send(done, as_of);
                }
            }
        }
        if let Some(closing) = self.closing {
            drop(self.inbox);
            let _nobody_waits = closing.send(());
        }
    }

    /// Waits for work, and takes in what there is. False: there will be no more.
    async fn listen(&mut self) -> bool {
        let idle = |this: &Self| this.urgent.is_empty() && this.accepts.is_empty();
        while self.closing.is_none() {
            let message = if idle(self) && !self.shared.storage.lock().image.has_slices() {
                self.inbox.recv().await
            } else {
                match self.inbox.try_recv() {
                    Ok(message) => Some(message),
                    Err(mpsc::error::TryRecvError::Empty) => return true,
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                }
            };
            match message {
                Some(Message::Work(work @ Work::Publish(_), answer)) => self.accepts.push_back((work, answer)),
                Some(Message::Work(work, answer)) => self.urgent.push_back((work, answer)),
                Some(Message::Close(closing)) => self.closing = Some(closing),
                None => return !idle(self),
            }
        }
        !idle(self)
    }

    /// Outcomes and configuration, then accepts; those never share a commit with a change of configuration.
    fn take(&mut self) -> (Vec<Work>, Vec<Answer>) {
        let urgent = self.urgent.len().min(COMMIT_WORK_MAX);
        let mut taken: Vec<_> = self.urgent.drain(..urgent).collect();
        if !taken.iter().any(|(work, _)| matches!(work, Work::Config(_) | Work::Erase(_))) {
            let accepts = self.accepts.len().min(COMMIT_WORK_MAX);
            taken.extend(self.accepts.drain(..accepts));
        }
        taken.into_iter().unzip()
    }

    /// Makes a commit. `None`: it failed, and who waits is told so by the end of its channel.
    async fn commit(&self, work: Vec<Work>) -> Option<Vec<Done>> {
        let shared = &self.shared;
        shared.storage.lock().writing = Some(work);
        let commit = shared.disk.commit().await;
        let (done, effects) = {
            let mut storage = shared.storage.lock();
            match commit {
                Commit::Durable | Commit::FailedButDurable => storage.finish()?,
                Commit::Failed => {
                    storage.writing = None;
                    (Vec::new(), Effects::default())
                }
            }
        };
        shared.disk.committed(&effects);
        shared.disk.show().await;
        self.show(effects, commit);
        if commit == Commit::Durable {
            shared.disk.answer().await;
            Some(done)
        } else {
            None
        }
    }

    /// Makes a commit visible, before anybody is answered. After one that failed, everybody looks at the disk again.
    fn show(&self, effects: Effects, commit: Commit) {
        let shared = &self.shared;
        let mut storage = shared.storage.lock();
        effects.event_types.into_iter().for_each(|step| shared.catalog.step_event_type(step));
        effects.keys.into_iter().for_each(|step| shared.catalog.keys().step(step));
        effects.quotas.into_iter().for_each(|step| shared.catalog.step_quota(step));
        shared.catalog.load_on_the_way(storage.image.on_the_way());
        if !effects.replays.is_empty() {
            shared.replays.put(effects.replays);
        }
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
        for no in effects.touched {
            shared.catalog.set_pending(no, storage.image.pending.get(&no).copied().unwrap_or(0));
        }
        storage.commits += 1;
        let as_of = AsOf(storage.commits);
        let fresh = if commit == Commit::Durable {
            effects.fresh
        } else {
            changed.extend(storage.image.pending.keys());
            Vec::new()
        };
        let head = Position(storage.image.log.len() as u64);
        drop(storage);
        if !fresh.is_empty() || !changed.is_empty() || !effects.cancelled.is_empty() {
            self.news.post(as_of, fresh, changed, effects.cancelled);
        }
        shared.head.send_if_modified(|position| std::mem::replace(position, head) != head);
    }
}

impl Answer {
    fn send(self, done: Done, as_of: AsOf) {
        match (self, done) {
            (Self::Publish(answer), Done::Publish(published)) => drop(answer.send(published)),
            (Self::Outcomes(answer), Done::Outcomes { fenced, groups }) => {
                let committed = if fenced { GroupCommitted::Fenced } else { GroupCommitted::Applied(as_of) };
                drop(answer.send(vec![committed; groups]));
            }
            (Self::Config(answer), Done::Config(config)) => drop(answer.send(config)),
            (Self::Repair(answer), Done::Repair(repaired)) => drop(answer.send(repaired)),
            (Self::Erase(answer), Done::Erase(erased)) => drop(answer.send(erased)),
            (Self::Replay(answer), Done::Replay(replayed)) => drop(answer.send(replayed)),
            (Self::Audit(answer), Done::Audit(no)) => drop(answer.send(no)),
            (Self::Upkeep(answer), Done::Upkeep) => drop(answer.send(())),
            (answer, done) => unreachable!("{answer:?} and {done:?}"),
        }
    }
}

impl Storage {
    fn finish(&mut self) -> Option<(Vec<Done>, Effects)> {
        let work = self.writing.take()?;
        Some(self.image.apply(&work))
    }

    /// The machine is gone. A commit that was under way is kept or lost. Returns what it did if it was kept.
    pub fn crash(&mut self, kept: bool) -> Option<Effects> {
        let work = self.writing.take().filter(|_| kept)?;
        Some(self.image.apply(&work).1)
    }
}

/// Hands work to the committer and waits for what it answers.
pub(super) async fn submit<T>(
    inbox: &mpsc::Sender<Message>,
    work: Work,
    answer: impl FnOnce(oneshot::Sender<T>) -> Answer,
) -> Result<T, StoreError> {
    let (sender, answered) = oneshot::channel();
    inbox.send(Message::Work(work, answer(sender))).await.map_err(|_| StoreError::Closed)?;
    answered.await.map_err(|_| {
        if inbox.is_closed() { StoreError::Closed } else { StoreError::Failed("the commit failed".into()) }
    })
}
