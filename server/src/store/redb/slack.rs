//! Giving back the room that the hot store's file has grown by and does not need any more.
//!
//! redb makes a file longer when it needs a page and none is free, and keeps it so: after a flood, of which all has moved to segments or
//! has gone, nearly every page of it is free, and the disk has less for others. So once the flood has moved, the file is compacted.
//! Nobody reads or writes for that time, which grows with what is left, not with what has gone; hence it has to be worth it.

use std::{sync::Arc, time::Duration};

use ::redb::CompactionError;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{change::begin, shared::Shared, volume};

/// The file may be as large as this, whatever is in it, unless all files together may not be much more.
const FREE_BYTES: u64 = if cfg!(test) { 256 << 10 } else { 64 << 20 };
/// And as so many times what may lie in it besides what is pending: a commit copies the pages that it changes.
const TIMES: u64 = 4;
/// Tried again after so long if somebody was reading.
const PAUSE: Duration = Duration::from_secs(5);

/// What is known about the file's room.
#[derive(Debug, Default)]
pub(super) struct Slack(Mutex<Known>);

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    /// Not to be tried again before.
    not_before: Option<Instant>,
    /// What could not be given back last time: what is pending, for instance.
    needed_bytes: u64,
}

impl Shared {
    /// How large the hot store's file may be before something is done about it.
    fn hot_file_bytes_max(&self) -> u64 {
        let part = volume::part(&self.config);
        let kept = part.min(self.config.hot_bytes_max as u64);
        let needed = self.slack.0.lock().needed_bytes;
        TIMES.saturating_mul(kept).saturating_add(FREE_BYTES.min(part.saturating_mul(TIMES))).max(2 * needed)
    }

    /// Size of the hot store's file without what is about to be given back, roughly.
    pub(super) fn hot_needed_bytes(&self) -> u64 {
        let file_bytes = self.hot_file_bytes();
        if file_bytes <= self.hot_file_bytes_max() {
            return file_bytes;
        }
        // What is moved is in two files for a while.
        let moving_bytes = 2 * self.counters.lock().hot_bytes;
        file_bytes.min(moving_bytes.max(self.slack.0.lock().needed_bytes))
    }

    /// Whether the file has room to give back, and what came has moved.
    pub(super) fn has_room_to_give_back(&self) -> bool {
        let kept = volume::part(&self.config).min(self.config.hot_bytes_max as u64);
        let is_time = self.slack.0.lock().not_before.is_none_or(|not_before| not_before <= Instant::now());
        is_time && self.counters.lock().hot_bytes <= kept && self.hot_file_bytes() > self.hot_file_bytes_max()
    }

    /// Gives it back, between two commits. Readers wait; if there are some, it is tried again later.
    pub(super) fn give_room_back(&self) {
        let (began, before) = (Instant::now(), self.hot_file_bytes());
        self.slack.0.lock().not_before = Some(began + PAUSE);
        let mut slot = self.hot.write();
        let Some(hot) = slot.take() else { return };
        let compacted = match Arc::try_unwrap(hot) {
            Ok(mut file) => {
                let compacted = file.compact();
                *slot = Some(Arc::new(file));
                compacted
            }
            Err(hot) => {
                *slot = Some(hot);
                Err(CompactionError::TransactionInProgress)
            }
        };
        let hot = slot.clone();
        drop(slot);
        match compacted {
            Ok(_) => {
                // Or opening the store after a kill would read all of it.
                if let Some(Err(error)) = hot.map(|hot| begin(&hot).and_then(|txn| Ok(txn.commit()?))) {
                    warn!(%error, "the store was compacted, and an empty commit failed");
                }
                let after = self.hot_file_bytes();
                self.slack.0.lock().needed_bytes = after;
                info!(hot.bytes_before = before, hot.bytes = after, took = ?began.elapsed(), "gave room back to the disk");
            }
            Err(CompactionError::TransactionInProgress) => debug!("somebody reads: no room is given back yet"),
            // The next commit finds out what is wrong with the file.
            Err(error) => warn!(%error, "the store could not be compacted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::{
        super::{
            Config, RedbStore, open,
            tests::{event, publish_all, webhook},
        },
        *,
    };
    use crate::{
        clock::Clock,
        model::{event::Event, time::Timestamp},
        store::Store as _,
    };

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const FLOOD: usize = 16 << 20;

    fn flood(name: &str) -> Vec<Event> {
        let body = Bytes::from(vec![7; 64 << 10]);
        (0..FLOOD / body.len()).map(|n| Event { body: body.clone(), ..event(&format!("{name}-{n}")) }).collect()
    }

    async fn settle(store: &RedbStore) {
        while store.upkeep(NOW).await.unwrap() {}
    }

    #[tokio::test]
    async fn what_a_flood_took_is_given_back_once_it_has_moved_and_nobody_reads() {
        let dir = TempDir::new().unwrap();
        let config = || Config { hot_bytes_max: 32 << 10, ..Config::default() };
        let store = open(dir.path(), config(), Arc::default(), Clock::start()).unwrap();
        let no = webhook(&store).await;
        for round in 0..2 {
            publish_all(&store, flood(&format!("e-{round}")), NOW).await.unwrap();
            let flooded = store.shared.hot_file_bytes();
            assert!(flooded > FLOOD as u64);
            let reader = store.shared.read().unwrap();
            settle(&store).await;
            assert!(store.shared.hot_file_bytes() >= flooded, "somebody reads");
            drop(reader);
            store.shared.slack.0.lock().not_before = None;
            settle(&store).await;
            let left = store.shared.hot_file_bytes();
            assert!(left <= store.shared.hot_file_bytes_max() && left < FLOOD as u64 / 4, "{left}");
        }
        let pending = store.due(no, NOW, 10_000).await.unwrap().hints.len();
        store.close().await.unwrap();
        let store = open(dir.path(), config(), Arc::default(), Clock::start()).unwrap();
        let hints = store.due(no, NOW, 10_000).await.unwrap().hints;
        assert_eq!((pending, hints.len()), (2 * flood("e").len(), 2 * flood("e").len()));
        let seqs: Vec<_> = hints.iter().map(|hint| hint.event).collect();
        assert!(store.events(&seqs, usize::MAX).await.unwrap().iter().all(Option::is_some));
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_needed_is_not_asked_for_again_and_again() {
        let dir = TempDir::new().unwrap();
        let config = Config { hot_bytes_max: 32 << 10, ..Config::default() };
        let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
        publish_all(&store, flood("e"), NOW).await.unwrap();
        assert!(!store.shared.has_room_to_give_back(), "nothing has moved");
        let reader = store.shared.read().unwrap();
        settle(&store).await;
        drop(reader);
        assert!(!store.shared.has_room_to_give_back(), "it was tried a moment ago");
        for (needed_bytes, expected) in [(0, true), (store.shared.hot_file_bytes() / 2, false)] {
            *store.shared.slack.0.lock() = Known { not_before: None, needed_bytes };
            assert_eq!(store.shared.has_room_to_give_back(), expected, "{needed_bytes}");
        }
        store.close().await.unwrap();
    }
}
