//! What the engine remembers of the newest commits, so that the usual reader never touches the disk.
//!
//! Invariant: bounded in bytes; what has fallen out is read from the tables.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use super::records::EventChunk;
use crate::{
    limits::FEED_EXAMINED_MAX,
    model::ids::{EventSeq, Position},
    store::types::{FeedFilter, FeedPage, LogEntry},
};

/// Chunks of events: those just written, and those just read.
#[derive(Debug)]
pub(super) struct ChunkCache {
    written: Shelf,
    read: Shelf,
    /// How often something was forgotten.
    forgotten: u64,
}

impl ChunkCache {
    pub(super) fn new(bytes: usize) -> Self {
        Self { written: Shelf::new(bytes / 2), read: Shelf::new(bytes / 2), forgotten: 0 }
    }

    /// The chunk that holds `seq`, with its first event's number.
    pub(super) fn find(&self, seq: EventSeq) -> Option<(EventSeq, Arc<EventChunk>)> {
        self.written.find(seq).or_else(|| self.read.find(seq))
    }

    /// To be asked before something is read that is to be put here.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets chunks that begin in this range: they are no longer retained, or have changed.
    pub(super) fn forget(&mut self, range: Range<EventSeq>) {
        self.forgotten += 1;
        for shelf in [&mut self.written, &mut self.read] {
            for (first, (_, bytes)) in shelf.chunks.extract_if(range.clone(), |_, _| true) {
                shelf.order.retain(|known| *known != first);
                shelf.bytes -= bytes;
            }
        }
    }

    pub(super) fn wrote(&mut self, first: EventSeq, chunk: Arc<EventChunk>, bytes: usize) {
        self.written.put(first, chunk, bytes);
    }

    /// Keeps a chunk that was read, unless something was forgotten since it was asked how often: the chunk may be old.
    pub(super) fn read(&mut self, first: EventSeq, chunk: Arc<EventChunk>, bytes: usize, forgotten: u64) {
        if forgotten != self.forgotten {
            return;
        }
        self.read.put(first, chunk, bytes);
    }
}

/// Chunks, first in first out.
#[derive(Debug)]
struct Shelf {
    chunks: BTreeMap<EventSeq, (Arc<EventChunk>, usize)>,
    order: VecDeque<EventSeq>,
    bytes: usize,
    bytes_max: usize,
}

impl Shelf {
    fn new(bytes_max: usize) -> Self {
        Self { chunks: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn find(&self, seq: EventSeq) -> Option<(EventSeq, Arc<EventChunk>)> {
        let (&first, (chunk, _)) = self.chunks.range(..=seq).next_back()?;
        (seq.0 - first.0 < chunk.len() as u64).then(|| (first, chunk.clone()))
    }

    fn put(&mut self, first: EventSeq, chunk: Arc<EventChunk>, bytes: usize) {
        if self.chunks.insert(first, (chunk, bytes)).is_some() {
            return;
        }
        self.order.push_back(first);
        self.bytes += bytes;
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some((_, bytes)) = self.chunks.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}

/// The newest entries of the outcome log, as watchers see them.
#[derive(Debug)]
pub(super) struct RecentLog {
    /// Number of the first entry here.
    first: u64,
    /// `None`: not for watchers.
    entries: VecDeque<Option<LogEntry>>,
    bytes: usize,
    bytes_max: usize,
}

impl RecentLog {
    /// Empty, to go on after `head`.
    pub(super) fn new(head: Position, bytes_max: usize) -> Self {
        Self { first: head.0 + 1, entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The number of the last entry.
    pub(super) fn head(&self) -> Position {
        Position(self.first + self.entries.len() as u64 - 1)
    }

    pub(super) fn push(&mut self, entry: Option<LogEntry>) {
        let entry = entry.map(LogEntry::without_exchange);
        self.bytes += weight(entry.as_ref());
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= weight(oldest.as_ref());
            self.first += 1;
        }
    }

    /// Forgets entries with lower numbers: they are no longer retained.
    pub(super) fn forget_before(&mut self, first: Position) {
        while self.first < first.0
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= weight(oldest.as_ref());
            self.first += 1;
        }
    }

    /// Forgets what is in entries of which that is true. They keep their numbers.
    pub(super) fn hollow(&mut self, is_erased: impl Fn(&LogEntry) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| entry.as_ref().is_some_and(&is_erased)) {
            self.bytes -= weight(entry.as_ref());
            *entry = None;
            self.bytes += weight(None);
        }
    }

    /// Entries after `after`, if all of them are still here.
    pub(super) fn page(&self, after: Position, filter: &FeedFilter, limit: usize) -> Option<FeedPage> {
        let skip = usize::try_from((after.0 + 1).checked_sub(self.first)?).ok()?;
        let mut page = FeedPage { entries: Vec::new(), position: after };
        for entry in self.entries.iter().skip(skip).take(FEED_EXAMINED_MAX) {
            if page.entries.len() >= limit {
                break;
            }
            page.position.0 += 1;
            page.entries.extend(entry.as_ref().filter(|entry| filter.passes(entry)).cloned());
        }
        Some(page)
    }
}

fn weight(entry: Option<&LogEntry>) -> usize {
    256 + match entry {
        Some(LogEntry::Outcome(outcome)) => outcome.error.len(),
        Some(LogEntry::Operational(event)) => event.url.len(),
        Some(LogEntry::WebhookCancelled(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_forgets_its_oldest_and_says_so() {
        let mut log = RecentLog::new(Position(10), 3 * 256);
        for _ in 0..5 {
            log.push(None);
        }
        let filter = FeedFilter::default();
        assert!(log.page(Position(11), &filter, 10).is_none(), "entry 12 has fallen out");
        assert_eq!(log.page(Position(12), &filter, 10).map(|page| page.position), Some(Position(15)));
        assert_eq!(log.page(Position(15), &filter, 10).map(|page| page.position), Some(Position(15)));
    }
}
