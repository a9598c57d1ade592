//! Every task and thread of the daemon: named, joined, and never lost in silence.
//!
//! A task that panics takes the daemon down in an orderly way: a stage that has vanished would leave promises unkept while
//! everything else looks well.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, thread};

use futures::FutureExt as _;
use tokio::sync::watch;
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
}
