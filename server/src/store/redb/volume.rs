//! Retention by size: when the data directory holds more than it may, the oldest segments go before their time.
//!
//! What is pending in a segment outlives it in the hot store. So a segment of which much is pending stays: it would free little,
//! and a large hot store makes every commit dearer. It is looked at again from time to time.
//!
//! Invariant: the newest segment stays, and nothing pending is removed. A limit that cannot be met so is said not to be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tracing::{info, warn};

use super::{
    Config,
    archive::{STEP_CHUNKS, fanning_out, is_live},
    error::EngineError,
    open::HOT,
    ready::ReadyIn,
    records::EventChunk,
    segments::Segment,
    shared::Shared,
    tables,
};
use crate::model::{ids::EventSeq, time::Timestamp};

/// Chunks in the hot store, and those of one segment, are such a part of the limit at most: what goes, goes in small portions.
const PARTS: u64 = 16;
/// A segment stays if more than such a part of it is pending.
const PENDING_PART: u64 = 4;
/// A segment that had to stay is not looked through again before.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// How much the hot store may keep, and a segment may hold, for the sake of the limit.
pub(super) fn part(config: &Config) -> u64 {
    config.retention_bytes.map_or(u64::MAX, |limit| limit / PARTS)
}

/// What is known about a data directory that holds too much.
#[derive(Debug, Default)]
pub(super) struct Volume {
    known: Mutex<Known>,
    unmet: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// Segments that stay for what is pending in them, and when that was found, by the clock that goes on whatever is doubted.
    staying: BTreeMap<u64, Timestamp>,
    /// The segment that was looked through last, or is being looked through.
    look: Option<Look>,
}

/// How much of a segment is pending.
#[derive(Debug, Clone, Copy)]
struct Look {
    segment: u64,
    /// The first event that was not looked at, and the end.
    next: u64,
    until: u64,
    pending_bytes: u64,
}

impl Volume {
    /// The oldest segment that is to go because the data directory holds too much, if it is known already. May have looked
    /// through a few chunks of one.
    pub(super) fn surplus(&self, shared: &Shared) -> Result<Option<Arc<Segment>>, EngineError> {
        let Some(limit) = shared.config.retention_bytes else { return Ok(None) };
        let bytes = shared.hot_needed_bytes()? + shared.segments.on_disk().1;
        if bytes <= limit {
            self.met(bytes);
        }
        let mut known = self.known.lock();
        // A part before it is reached, for what comes in while segments go.
        if bytes <= limit - part(&shared.config) {
            known.look = None;
            return Ok(None);
        }
        let mut segments = shared.segments.all();
        segments.pop();
        let now = shared.clock.now();
        known.staying.retain(|no, _| segments.iter().any(|segment| segment.no == *no));
        for segment in segments.into_iter().filter(|segment| segment.record.sealed) {
            let stays = |found: &Timestamp| now.since(*found) < LOOK_AGAIN;
            if known.staying.get(&segment.no).is_some_and(stays) {
                continue;
            }
            let look = Look::on(known.look, &segment).go_on(shared)?;
            known.look = Some(look);
            if look.next < look.until {
                return Ok(None);
            }
            if look.pending_bytes * PENDING_PART <= segment.record.bytes {
                return Ok(Some(segment));
            }
            known.look = None;
            known.staying.insert(segment.no, now);
        }
        // What is not moved yet may still go.
        if bytes > limit && shared.counters.lock().hot_bytes <= part(&shared.config) {
            self.cannot_be_met(bytes, limit);
        }
        Ok(None)
    }

    /// Whether a segment is being looked through, so that there is more to do.
    pub(super) fn is_looking(&self) -> bool {
        self.known.lock().look.is_some_and(|look| look.next < look.until)
    }

    /// Whether the data directory holds too much and nothing more may be removed.
    pub(super) fn is_unmet(&self) -> bool {
        self.unmet.load(Ordering::Acquire)
    }

    fn met(&self, bytes: u64) {
        if self.unmet.swap(false, Ordering::AcqRel) {
            info!(store.bytes = bytes, "the data directory holds no more than --retention-bytes again");
        }
    }

    fn cannot_be_met(&self, bytes: u64, limit: u64) {
        if !self.unmet.swap(true, Ordering::AcqRel) {
            warn!(
                store.bytes = bytes,
                store.bytes_max = limit,
                "the data directory holds more than --retention-bytes, and nothing more may be removed: what is left is pending, \
                 or the newest, or room that files have grown by"
            );
        }
    }
}

impl Look {
    /// At a segment: the one there is, or from the start.
    fn on(look: Option<Self>, segment: &Segment) -> Self {
        let record = &segment.record;
        let start =
            Self { segment: segment.no, next: record.events_from, until: record.events_until, pending_bytes: 0 };
        look.filter(|look| look.segment == segment.no).unwrap_or(start)
    }

    /// Looks through a few chunks more.
    fn go_on(mut self, shared: &Shared) -> Result<Self, EngineError> {
        if self.next >= self.until {
            return Ok(self);
        }
        let wide = fanning_out(shared);
        let (hot, _) = shared.read()?;
        let (rescued, ready) = (hot.open_table(tables::RESCUED)?, ReadyIn::open(&hot)?);
        let read = shared.segments.read(self.segment)?;
        let chunks = read.open_table(tables::EVENT_CHUNKS)?;
        let mut rows = chunks.range(self.next..self.until)?;
        for row in rows.by_ref().take(STEP_CHUNKS) {
            let (first, encoded) = row?;
            let chunk = EventChunk::decode_from(Bytes::copy_from_slice(encoded.value()))?;
            for index in 0..chunk.len() {
                let seq = first.value() + index as u64;
                let Some(record) = chunk.event(index).transpose()? else { continue };
                // What is rescued already costs nothing more.
                if rescued.get(seq)?.is_none() && is_live(shared, &wide, &hot, &ready, EventSeq(seq), &record, None)? {
                    self.pending_bytes += record.encoded_len() as u64;
                }
            }
        }
        self.next = rows.next().transpose()?.map_or(self.until, |(first, _)| first.value());
        Ok(self)
    }
}

impl Shared {
    /// Size of the hot store's file; 0 if the file system does not say.
    pub(super) fn hot_file_bytes(&self) -> u64 {
        self.disk.len(&self.dir.join(HOT)).ok().flatten().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use ::redb::ReadableTableMetadata as _;
    use tempfile::TempDir;
    use tokio::time::advance;

    use super::{
        super::{
            RedbStore, open,
            tests::{event, outcome, publish_all, turn, webhook},
        },
        *,
    };
    use crate::{
        clock::Clock,
        model::event::Event,
        store::{Erase, Erased, OutcomeGroup, Published, Store as _},
    };

    const LIMIT: u64 = 8 << 20;

    fn opened(dir: &TempDir) -> RedbStore {
        let config = Config { retention_bytes: Some(LIMIT), ..Config::default() };
        open(dir.path(), config, Arc::default(), Clock::start()).unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Half a mebibyte of events, of a tenant.
    fn batch(tenant: &str, first: u64) -> Vec<Event> {
        let large = |n| Event {
            tenant: tenant.parse().unwrap(),
            body: Bytes::from(vec![u8::try_from(n % 251).unwrap(); 64 << 10]),
            ..event(&format!("e-{n}"))
        };
        (first..first + 8).map(large).collect()
    }

    fn bytes(store: &RedbStore) -> u64 {
        store.shared.hot_file_bytes() + store.shared.segments.on_disk().1
    }

    fn rescued(store: &RedbStore) -> u64 {
        store.shared.read().unwrap().0.open_table(tables::RESCUED).unwrap().len().unwrap()
    }

    #[tokio::test]
    async fn the_oldest_goes_when_there_is_too_much_and_what_is_pending_stays() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir);
        let no = webhook(&store).await;
        let pending = vec![event("pending-1"), event("pending-2")];
        publish_all(&store, pending.clone(), at(0)).await.unwrap();
        // What is held is pending until its time is over.
        turn(&store, no, false).await;
        for n in 0..50 {
            publish_all(&store, batch("nobody", 8 * n), at(n)).await.unwrap();
            while store.upkeep(at(n)).await.unwrap() {}
            assert!(bytes(&store) <= LIMIT, "{} after {n}", bytes(&store));
            assert!(!store.shared.volume.is_unmet());
        }
        assert!(bytes(&store) > LIMIT / 2, "no more went than had to: {}", bytes(&store));
        assert!(store.retained_since() > at(20) && store.retained_since() <= at(49), "{:?}", store.retained_since());

        let hints = store.due(no, at(50), 100).await.unwrap().hints;
        let seqs: Vec<_> = hints.iter().map(|hint| hint.event).collect();
        let kept = store.events(&seqs, usize::MAX).await.unwrap();
        assert_eq!(kept.into_iter().map(|it| it.unwrap().event).collect::<Vec<_>>(), pending);
        let again = publish_all(&store, pending, at(51)).await.unwrap();
        assert_eq!(again, [Published::Duplicate { deliveries: 1 }; 2]);
        // The ids of the others go with them.
        let again = publish_all(&store, batch("nobody", 0), at(51)).await.unwrap();
        assert_eq!(again, [Published::New { deliveries: 0 }; 8]);
        let again = publish_all(&store, batch("nobody", 8 * 49), at(51)).await.unwrap();
        assert_eq!(again, [Published::Duplicate { deliveries: 0 }; 8]);
        store.close().await.unwrap();
    }

    /// And what stays is looked at again after a time, also while the time stands by which things get old.
    #[tokio::test(start_paused = true)]
    async fn what_is_mostly_pending_stays_where_it_is_and_that_is_told() {
        let dir = TempDir::new().unwrap();
        let store = opened(&dir);
        let no = webhook(&store).await;
        for n in 0..25 {
            publish_all(&store, batch("t", 8 * n), at(n)).await.unwrap();
            while store.upkeep(at(n)).await.unwrap() {}
        }
        assert!(bytes(&store) > LIMIT && store.shared.volume.is_unmet());
        assert_eq!(rescued(&store), 0, "nothing is gained by that");
        let hints = store.due(no, at(50), 1_000).await.unwrap().hints;
        assert_eq!(hints.len(), 200);
        let mut outcomes = Vec::new();
        for hint in hints {
            outcomes.push(outcome(&store, no, hint).await);
        }
        store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
        // Not looked at again at once; and the newest of those that stayed was found to do so at the end.
        while store.upkeep(at(24)).await.unwrap() {}
        assert!(store.shared.volume.is_unmet());
        advance(LOOK_AGAIN).await;
        while store.upkeep(at(24)).await.unwrap() {}
        assert!(bytes(&store) <= LIMIT && !store.shared.volume.is_unmet(), "{}", bytes(&store));
        store.close().await.unwrap();
    }

    /// An erased event leaves a place without anything in its chunk, which says nothing about those behind it.
    #[tokio::test]
    async fn what_is_pending_behind_an_erased_event_counts() {
        let dir = TempDir::new().unwrap();
        let config = Config { hot_bytes_max: 1, ..Config::default() };
        let store = open(dir.path(), config, Arc::default(), Clock::start()).unwrap();
        webhook(&store).await;
        let events: Vec<_> = (0..5).map(|n| event(&format!("e-{n}"))).collect();
        let (tenant, id) = (events[0].tenant.clone(), events[0].id.clone());
        publish_all(&store, events, at(0)).await.unwrap();
        while store.upkeep(at(1)).await.unwrap() {}
        let erase = Erase::Event { tenant: tenant.clone(), id, time: at(1) };
        let Erased::Decided(erasure) = store.erase(erase).await.unwrap() else { panic!("not decided") };
        let is_finished = async || store.erasure(&tenant, erasure.id).await.unwrap().unwrap().finish_time.is_some();
        while !is_finished().await {
            store.upkeep(at(1)).await.unwrap();
            tokio::task::yield_now().await;
        }
        let segment = store.shared.segments.all().remove(0);
        assert_eq!(segment.record.events_until, 6);
        let look = Look::on(None, &segment).go_on(&store.shared).unwrap();
        assert!(look.next == look.until && look.pending_bytes > 0, "{look:?}");
        store.close().await.unwrap();
    }
}
