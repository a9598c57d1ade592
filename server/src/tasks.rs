//! Every task and thread of the daemon: named, joined, and never lost in silence.
//!
//! A task that panics takes the daemon down in an orderly way: a stage that has vanished would leave promises unkept while
//! everything else looks well.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, thread};

use futures::FutureExt as _;
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, error, error_span};

/// Spawns tasks and knows when the last one ended. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    broken: Arc<watch::Sender<Option<&'static str>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { tracker: TaskTracker::new(), broken: Arc::new(watch::Sender::new(None)) }
    }
}

impl Tasks {
    /// Runs `task` on the present runtime.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let broken = self.broken.clone();
        let task = AssertUnwindSafe(task).catch_unwind();
        let watched = async move {
            if task.await.is_err() {
                error!(task.name = name, "a task panicked; stopping");
                broken.send_replace(Some(name));
            }
        };
        self.tracker.spawn(watched.instrument(error_span!("task", name)));
    }

    /// Runs `task`; the token is cancelled when it has ended, however it ended.
    pub fn spawn_ending(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> CancellationToken {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        self.spawn(name, async move {
            let _guard = guard;
            task.await;
        });
        ended
    }

    /// Polls `work` until it is done, however seldom this is polled; `None`: it panicked. Dropped, it gives up the work.
    ///
    /// Streams are driven by whoever reads them, and who stops reading leaves them as they are. What waits in line there, and has its
    /// turn come, would keep it from everybody behind.
    pub async fn drive<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut work = Box::pin(work);
        if let Some(done) = work.as_mut().now_or_never() {
            return Some(done);
        }
        let (mut answer, answered) = oneshot::channel();
        self.spawn(name, async move {
            tokio::select! {
                biased;
                () = answer.closed() => {}
                done = work => drop(answer.send(done)),
            }
        });
        answered.await.ok()
    }

    /// Runs `work` on a thread of its own.
    pub fn thread(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let broken = self.broken.clone();
        let token = self.tracker.token();
        thread::Builder::new().name(name.into()).spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
                error!(task.name = name, "a thread panicked; stopping");
                broken.send_replace(Some(name));
            }
            drop(token);
        })?;
        Ok(())
    }

    /// Completes when a task has panicked, with its name.
    pub async fn broken(&self) -> &'static str {
        let mut broken = self.broken.subscribe();
        let name = broken.wait_for(Option::is_some).await.expect("the sender lives in self");
        name.expect("waited for it")
    }

    /// The name of a task that has panicked.
    pub fn failed(&self) -> Option<&'static str> {
        *self.broken.borrow()
    }

    /// Completes when every task and thread has ended. None may be spawned after this is called.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_and_everything_is_joined() {
        let tasks = Tasks::default();
        tasks.spawn("fine", async {});
        tasks.thread("thread", || panic!("planted")).unwrap();
        assert_eq!(tasks.broken().await, "thread");
        tasks.spawn_ending("ending", async { panic!("planted") }).cancelled().await;
        tasks.ended().await;
    }

    #[tokio::test]
    async fn what_is_driven_needs_nobody_who_polls_it_but_somebody_who_wants_it() {
        let tasks = Tasks::default();
        assert_eq!(tasks.drive("ready", async { 1 }).await, Some(1));
        assert_eq!(tasks.drive("slow", async { tokio::task::yield_now().await }).await, Some(()));
        let room = Arc::new(Semaphore::new(0));
        let wait = || {
            let room = room.clone();
            Box::pin(tasks.drive("waits", async move { drop(room.acquire().await.unwrap()) }))
        };
        let (mut first, mut second, mut third) = (wait(), wait(), wait());
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        drop(second);
        room.add_permits(1);
        assert_eq!(third.await, Some(()), "the first in line is not polled again");
        assert_eq!(first.await, Some(()));
        tasks.ended().await;
        let panics = async {
            tokio::task::yield_now().await;
            panic!("planted")
        };
        assert_eq!(tasks.drive::<()>("panics", panics).await, None);
        assert_eq!(tasks.failed(), Some("panics"));
    }
}
