//! The committer's sign of life: whether it still goes round, or hangs in a write that does not come back.
//!
//! It gives one whenever it looks for work, and while there is none every `COMMITTER_BEAT_INTERVAL`. What is between two of them is
//! one commit, or one try to open a store that has failed.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// When the committer gave its last sign of life.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// `None`: it has ended in order.
    last: Mutex<Option<Instant>>,
}

impl Default for Heartbeat {
    /// One that has just begun.
    fn default() -> Self {
        Self { last: Mutex::new(Some(Instant::now())) }
    }
}

impl Heartbeat {
    /// It lives.
    pub(super) fn beat(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// It ends in order: nothing is expected of it any more.
    pub(super) fn end(&self) {
        *self.last.lock() = None;
    }

    /// How long it has given no sign; zero after the end.
    pub(super) fn silence(&self) -> Duration {
        self.last.lock().map_or(Duration::ZERO, |last| last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use tempfile::TempDir;
    use tokio::{runtime, task::yield_now, time::timeout};

    use crate::{
        clock::Clock,
        limits::COMMITTER_BEAT_INTERVAL,
        store::{
            Store as _,
            redb::{Config, RedbStore, open},
        },
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    /// No committer that goes round is silent for as long.
    const MANY_BEATS: Duration = COMMITTER_BEAT_INTERVAL.saturating_mul(50);

    fn opened(dir: &TempDir) -> RedbStore {
        open(dir.path(), Config::default(), Arc::default(), Clock::start()).unwrap()
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(LONG, test).await.expect("it takes no longer") })
    }

    async fn silence(store: &RedbStore, is_it: impl Fn(Duration) -> bool) {
        while !is_it(store.silence().expect("it has not panicked")) {
            yield_now().await;
        }
    }

    #[test]
    fn a_commit_that_hangs_is_silence_and_idleness_is_not() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir);
        thread::scope(|scope| {
            // What a commit needs first; it waits for this as it would for a disk that does not answer.
            let hot = store.shared.hot.write();
            let commit = scope.spawn(|| run(store.publish(Vec::new())));
            run(silence(&store, |silence| silence > MANY_BEATS));
            drop(hot);
            assert!(commit.join().unwrap().is_ok());
        });
        // It has nothing to do, and tells so again and again.
        for _ in 0..3 {
            run(silence(&store, |silence| silence > Duration::ZERO && silence < MANY_BEATS));
            let before = store.shared.heartbeat.last.lock().unwrap();
            run(silence(&store, |_| store.shared.heartbeat.last.lock().unwrap() > before));
        }
        run(store.close()).unwrap();
        assert_eq!(store.silence(), Some(Duration::ZERO), "it has ended as it should");
    }

    #[test]
    fn a_committer_that_panicked_is_gone_at_once() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir);
        store.tasks.thread("planted", || panic!("planted")).unwrap();
        assert_eq!(run(store.broken()), "planted");
        assert_eq!(store.silence(), None);
        run(store.close()).unwrap();
    }
}
