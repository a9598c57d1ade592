//! Watch streams, and how far the slowest of them is behind.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, metrics::counter::Counter, registry::Registry,
};
use tokio::sync::watch;

use super::write_gauge;
use crate::model::ids::Position;

/// Handles of the watch stage. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    streams: Arc<Mutex<Streams>>,
    entries: Counter,
}

/// Where every open stream stands. Locked when one opens or ends, and to look at all of them.
#[derive(Debug, Default)]
struct Streams {
    opened: u64,
    places: BTreeMap<u64, Arc<AtomicU64>>,
}

impl WatchMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Outcomes and cancellations handed to watch streams";
        registry.register("watch_entries", help, self.entries.clone());
    }

    /// What is read when somebody asks; `head` is the end of the committed log.
    pub fn collector(&self, head: watch::Receiver<Position>) -> impl Collector + use<> {
        Places { streams: self.streams.clone(), head }
    }

    /// A stream opens at this place.
    pub fn opened(&self, at: Position) -> StreamPlace {
        let place = Arc::new(AtomicU64::new(at.0));
        let mut streams = self.streams.lock();
        streams.opened += 1;
        let id = streams.opened;
        streams.places.insert(id, place.clone());
        StreamPlace { metrics: self.clone(), id, place }
    }
}

/// One stream's place, known for as long as it lives.
#[derive(Debug)]
pub struct StreamPlace {
    metrics: WatchMetrics,
    id: u64,
    place: Arc<AtomicU64>,
}

impl StreamPlace {
    /// Its reader was given as many entries, and all up to here was given or left out.
    pub fn reached(&self, position: Position, entries: usize) {
        self.place.store(position.0, Ordering::Relaxed);
        self.metrics.entries.inc_by(entries as u64);
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.metrics.streams.lock().places.remove(&self.id);
    }
}

/// Looks at all streams.
#[derive(Debug)]
struct Places {
    streams: Arc<Mutex<Streams>>,
    head: watch::Receiver<Position>,
}

impl Places {
    /// How many streams there are, and how many entries of the log the one furthest behind has not been given yet.
    fn look(&self) -> (usize, u64) {
        let streams = self.streams.lock();
        let furthest = streams.places.values().map(|place| place.load(Ordering::Relaxed)).min();
        let head = self.head.borrow().0;
        (streams.places.len(), furthest.map_or(0, |furthest| head.saturating_sub(furthest)))
    }
}

impl Collector for Places {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (streams, lag) = self.look();
        write_gauge(&mut encoder, "watch_streams", "Watch streams open", None, streams as u64)?;
        let help = "Entries of the outcome log that the watch stream furthest behind has not been given yet";
        write_gauge(&mut encoder, "watch_lag_entries", help, None, lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_furthest_behind_counts_until_it_ends() {
        let (head, metrics) = (watch::Sender::new(Position(10)), WatchMetrics::default());
        let places = Places { streams: metrics.streams.clone(), head: head.subscribe() };
        assert_eq!(places.look(), (0, 0));
        let (slow, quick) = (metrics.opened(Position(4)), metrics.opened(Position(10)));
        assert_eq!(places.look(), (2, 6));
        head.send_replace(Position(20));
        quick.reached(Position(20), 10);
        assert_eq!(places.look(), (2, 16));
        drop(slow);
        assert_eq!(places.look(), (1, 0));
        assert_eq!(metrics.entries.get(), 10);
    }
}
