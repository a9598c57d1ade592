//! Giving back the room that the hot store's file has grown by and does not need any more.
//!
//! redb makes a file longer when it needs a page and none is free, and keeps it so: after a flood, of which all has moved to segments or
//! has gone, nearly every page of it is free, and the disk has less for others. So once the flood has moved, the file is compacted.
//! Nobody reads or writes for that time, which grows with what is left, some 20 ms for a mebibyte, and not with what has gone. So it is
//! done only if little is left and much is won; how much is left is reckoned from the numbers of rows.

use std::{sync::Arc, time::Duration};

use ::redb::{
    CompactionError, Key, ReadTransaction, ReadableTableMetadata as _, TableDefinition, TableHandle as _, Value,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    change::begin,
    error::EngineError,
    shared::Shared,
    table_list::{Visit, visit_all},
    tables::{self, existing},
    volume,
};

/// The file may be larger by this, unless all files together may not be much more.
const FREE_BYTES: u64 = if cfg!(test) { 256 << 10 } else { 64 << 20 };
/// The file may be as many times what is left in it: a commit copies the pages that it changes.
const TIMES: u64 = 4;
/// What is left is too much to be moved while everybody waits.
const MOVED_BYTES_MAX: u64 = 128 << 20;
/// Tried again after so long if somebody was reading.
const PAUSE: Duration = Duration::from_secs(5);
/// And if less was won than was reckoned with, or it failed.
const LONG_PAUSE: Duration = Duration::from_hours(1);
/// What a row of most tables takes, with its share of pages that are not full.
const ROW_BYTES: u64 = 128;

/// When the file may be compacted again.
#[derive(Debug, Default)]
pub(super) struct Slack(Mutex<Option<Instant>>);

/// Adds up what the rows of all tables take, but for those that `hot_bytes` counts.
struct Reckoning<'a> {
    hot: &'a ReadTransaction,
    bytes: u64,
}

impl Visit for Reckoning<'_> {
    type Error = EngineError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), EngineError> {
        let row_bytes = match table.name() {
            name if name == tables::EVENT_CHUNKS.name() || name == tables::LOG.name() => return Ok(()),
            // One event each, of any size.
            name if name == tables::RESCUED.name() => 1 << 20,
            name if name == tables::EVENT_TYPES.name() => 8 << 10,
            name if name == tables::WEBHOOKS.name() => 1 << 10,
            name if name == tables::DELIVERIES.name() => 4 * ROW_BYTES,
            _ => ROW_BYTES,
        };
        let rows = existing(self.hot.open_table(table))?.map_or(Ok(0), |table| table.len())?;
        self.bytes = self.bytes.saturating_add(rows.saturating_mul(row_bytes));
        Ok(())
    }
}

/// Whether so little is left in a file of this size that it is worth its while to move that.
fn is_worth_it(file_bytes: u64, left_bytes: u64, free_bytes: u64) -> bool {
    left_bytes <= MOVED_BYTES_MAX && file_bytes > left_bytes.saturating_mul(TIMES).saturating_add(free_bytes)
}

impl Shared {
    /// What is left in the hot store's file if it is to be compacted, now or once what came has moved.
    fn left_if_worth_it(&self, file_bytes: u64) -> Result<Option<u64>, EngineError> {
        let free_bytes = FREE_BYTES.min(volume::part(&self.config).saturating_mul(TIMES));
        if file_bytes <= free_bytes {
            return Ok(None);
        }
        let mut reckoning = Reckoning { hot: &self.read()?.0, bytes: 0 };
        visit_all(&mut reckoning)?;
        let moving_bytes = self.counters.lock().hot_bytes;
        let kept_bytes = moving_bytes.min(self.kept_bytes());
        if !is_worth_it(file_bytes, reckoning.bytes.saturating_add(kept_bytes), free_bytes) {
            return Ok(None);
        }
        // What is moved is in two files for a while.
        Ok(Some(reckoning.bytes.saturating_add(2 * moving_bytes)))
    }

    /// How much of what came stays in the hot store.
    fn kept_bytes(&self) -> u64 {
        volume::part(&self.config).min(self.config.hot_bytes_max as u64)
    }

    /// Whether nothing speaks against it that passes.
    fn may_give_room_back(&self) -> bool {
        let is_time = self.slack.0.lock().is_none_or(|not_before| not_before <= Instant::now());
        // Compacting takes some pages itself.
        is_time && !self.space.is_short()
    }

    /// Size of the hot store's file without what is about to be given back, roughly.
    pub(super) fn hot_needed_bytes(&self) -> Result<u64, EngineError> {
        let file_bytes = self.hot_file_bytes();
        let left = if self.may_give_room_back() { self.left_if_worth_it(file_bytes)? } else { None };
        Ok(left.map_or(file_bytes, |left| left.min(file_bytes)))
    }

    /// Whether the file has room to give back, and what came has moved.
    pub(super) fn has_room_to_give_back(&self) -> Result<bool, EngineError> {
        if !self.may_give_room_back() || self.counters.lock().hot_bytes > self.kept_bytes() {
            return Ok(false);
        }
        Ok(self.left_if_worth_it(self.hot_file_bytes())?.is_some())
    }

    /// Gives it back, between two commits. Readers wait; if there are some, it is tried again later.
    pub(super) fn give_room_back(&self) {
        let (began, before) = (Instant::now(), self.hot_file_bytes());
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
        let pause = match compacted {
            Ok(_) => {
                // Or opening the store after a kill would read all of it.
                if let Some(Err(error)) = hot.map(|hot| begin(&hot).and_then(|txn| Ok(txn.commit()?))) {
                    warn!(%error, "the store was compacted, and an empty commit failed");
                }
                let after = self.hot_file_bytes();
                info!(hot.bytes_before = before, hot.bytes = after, took = ?began.elapsed(), "gave room back to the disk");
                if after <= before / 2 { Duration::ZERO } else { LONG_PAUSE }
            }
            Err(CompactionError::TransactionInProgress) => {
                debug!("somebody reads: no room is given back yet");
                PAUSE
            }
            Err(error) => {
                // The next commit finds out what is wrong with the file.
                warn!(%error, "the store could not be compacted");
                LONG_PAUSE
            }
        };
        *self.slack.0.lock() = Some(Instant::now() + pause);
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
            *store.shared.slack.0.lock() = None;
            settle(&store).await;
            let left = store.shared.hot_file_bytes();
            assert!(left < FLOOD as u64 / 4, "{left}");
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
    async fn it_is_not_tried_again_and_again_nor_before_what_came_has_moved() {
        let dir = TempDir::new().unwrap();
        let config = Config { hot_bytes_max: 32 << 10, ..Config::default() };
        let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
        publish_all(&store, flood("e"), NOW).await.unwrap();
        assert!(!store.shared.has_room_to_give_back().unwrap(), "nothing has moved");
        let reader = store.shared.read().unwrap();
        settle(&store).await;
        drop(reader);
        assert!(!store.shared.has_room_to_give_back().unwrap(), "it was tried a moment ago");
        *store.shared.slack.0.lock() = None;
        assert!(store.shared.has_room_to_give_back().unwrap());
        store.close().await.unwrap();
    }

    #[test]
    fn what_is_full_of_rows_is_left_alone() {
        const MIB: u64 = 1 << 20;
        for (file, left, expected) in [
            (403 * MIB, 4 * MIB, true),
            (403 * MIB, 84 * MIB, true),
            (403 * MIB, 85 * MIB, false),
            (64 * MIB, 0, false),
            (65 * MIB, 0, true),
            (10_000 * MIB, 128 * MIB, true),
            (10_000 * MIB, 129 * MIB, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(is_worth_it(file, left, 64 * MIB), expected, "{left} in {file}");
        }
    }

    #[tokio::test]
    async fn rows_count_for_what_they_take() {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path(), Config::default(), Arc::default(), Clock::start()).unwrap();
        let left = || {
            let hot = store.shared.read().unwrap().0;
            let mut reckoning = Reckoning { hot: &hot, bytes: 0 };
            visit_all(&mut reckoning).unwrap();
            reckoning.bytes
        };
        let before = left();
        webhook(&store).await;
        let events = (0..1_000).map(|n| event(&format!("e-{n}"))).collect();
        publish_all(&store, events, NOW).await.unwrap();
        let (due, known) = (1_000 * ROW_BYTES, 1_000 * ROW_BYTES);
        assert!((due + known..due + known + 4_096).contains(&(left() - before)), "{}", left() - before);
        store.close().await.unwrap();
    }
}
