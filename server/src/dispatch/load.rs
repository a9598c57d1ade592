//! Reading the events of what is launched, within the bytes dispatch may hold.
//!
//! How large an event is shows only once it is read. So each read is given half of the room there is, and brings what fits; what
//! does not is read again when some is free. What was not needed is given back: the bound holds at any time, also while reading.
//!
//! Slow webhooks have a pool of their own, as they have of permits: large bodies that hang with them leave room for others.
//!
//! Not counted: what a body keeps alive because it is a slice of something larger, such as a chunk of the store. That is at most
//! one chunk for each attempt under way.
//!
//! Nobody waits for bytes: who holds some is in flight, so that they are free before its outcome wakes the dispatcher.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::orders::Launch;
use crate::{
    limits::{DISPATCH_BODY_BYTES_MAX, DISPATCH_LOAD_EVENTS_MAX, DISPATCH_LOADS_MAX, EVENT_WEIGHT_BYTES_MAX},
    model::{event::StoredEvent, ids::EventSeq},
    store::{Store, StoreError},
};

/// One permit stands for as many bytes.
const PERMIT_BYTES: usize = 1024;
/// Permits of the largest event.
const EVENT_PERMITS_MAX: usize = EVENT_WEIGHT_BYTES_MAX.div_ceil(PERMIT_BYTES);

/// Launched deliveries whose events are still to be read.
#[derive(Debug)]
pub(super) struct Loader {
    fast: Pool,
    slow: Pool,
    running: usize,
}

#[derive(Debug)]
struct Pool {
    /// Invariant: bounded, since each holds a permit of the scheduler.
    waiting: VecDeque<Launch>,
    bytes: Arc<Semaphore>,
}

/// Events to read, and the room for them.
#[derive(Debug)]
pub(super) struct Load {
    launches: Vec<Launch>,
    room: OwnedSemaphorePermit,
}

/// What became of a [`Load`].
#[derive(Debug)]
pub(super) enum Loaded {
    /// The events with the room they take, `None` where the store has none; and those there was no room for.
    Read(Vec<(Launch, Option<(StoredEvent, OwnedSemaphorePermit)>)>, Vec<Launch>),
    /// The event of the first ones could not be read; the others are to be read without it.
    Failed(Vec<Launch>, StoreError, Vec<Launch>),
}

impl Loader {
    /// With this share of the bytes, between 0 and 1, for slow webhooks.
    pub(super) fn new(slow_share: f64) -> Self {
        let permits = DISPATCH_BODY_BYTES_MAX / PERMIT_BYTES;
        // Each pool has room for the largest event, whatever the share.
        let slow = super::share_of(permits, slow_share).clamp(EVENT_PERMITS_MAX, permits - EVENT_PERMITS_MAX);
        Self { fast: Pool::new(permits - slow), slow: Pool::new(slow), running: 0 }
    }

    /// Takes up a launched delivery.
    pub(super) fn push(&mut self, launch: Launch) {
        self.pool(launch).waiting.push_back(launch);
    }

    /// The next events to read, if there are some and there is room. Ask again until there are none.
    pub(super) fn next_load(&mut self) -> Option<Load> {
        if self.running >= DISPATCH_LOADS_MAX {
            return None;
        }
        let load = self.fast.next_load().or_else(|| self.slow.next_load())?;
        self.running += 1;
        Some(load)
    }

    /// A load has ended, and there was no room for these: they come first when there is.
    pub(super) fn ended(&mut self, left: Vec<Launch>) {
        self.running -= 1;
        for launch in left.into_iter().rev() {
            self.pool(launch).waiting.push_front(launch);
        }
    }

    fn pool(&mut self, launch: Launch) -> &mut Pool {
        if launch.slow { &mut self.slow } else { &mut self.fast }
    }
}

impl Pool {
    fn new(permits: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: Arc::new(Semaphore::new(permits)) }
    }

    fn next_load(&mut self) -> Option<Load> {
        let free = self.bytes.available_permits();
        if self.waiting.is_empty() || free < EVENT_PERMITS_MAX {
            return None;
        }
        let count = self.waiting.len().min(DISPATCH_LOAD_EVENTS_MAX);
        // Room for the largest event, or half of what there is for what waits, so that there can be another read meanwhile.
        let permits = (free / 2).max(EVENT_PERMITS_MAX).min(count * EVENT_PERMITS_MAX);
        let permits = u32::try_from(permits).expect("all permits together fit");
        // Nobody else takes any, so this succeeds.
        let room = self.bytes.clone().try_acquire_many_owned(permits).ok()?;
        Some(Load { launches: self.waiting.drain(..count).collect(), room })
    }
}

impl Load {
    /// Reads what there is room for, each event once, and gives back the room that is not needed.
    pub(super) async fn read(self, store: Arc<dyn Store>) -> Loaded {
        let Self { launches, mut room } = self;
        let mut known = HashSet::with_capacity(launches.len());
        let mut seqs: Vec<_> = launches.iter().map(|launch| launch.key.event).collect();
        seqs.retain(|seq| known.insert(*seq));
        let events = match store.events(&seqs, room.num_permits() * PERMIT_BYTES).await {
            Ok(events) => events,
            Err(error) => {
                let (failed, left) = launches.into_iter().partition(|launch| Some(&launch.key.event) == seqs.first());
                return Loaded::Failed(failed, error, left);
            }
        };
        let events: HashMap<EventSeq, Option<StoredEvent>> = seqs.into_iter().zip(events).collect();
        let (mut read, mut left) = (Vec::with_capacity(launches.len()), Vec::new());
        for launch in launches {
            match events.get(&launch.key.event) {
                Some(Some(stored)) => {
                    let permits = stored.event.weight_bytes().div_ceil(PERMIT_BYTES).min(EVENT_PERMITS_MAX);
                    match room.split(permits) {
                        Some(room) => read.push((launch, Some((stored.clone(), room)))),
                        None => left.push(launch),
                    }
                }
                Some(None) => read.push((launch, None)),
                None => left.push(launch),
            }
        }
        Loaded::Read(read, left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        delivery::Attempts,
        ids::{DeliveryKey, WebhookNo},
    };

    fn launch(event: u64, slow: bool) -> Launch {
        let key = DeliveryKey { webhook: WebhookNo(1), event: EventSeq(event), replay: 0 };
        Launch { key, attempts: Attempts::default(), slow }
    }

    #[test]
    fn no_more_is_read_than_fits_and_slow_ones_have_their_own_room() {
        let mut loader = Loader::new(0.5);
        for event in 0..10_000 {
            loader.push(launch(event, false));
        }
        let mut loads: Vec<_> = std::iter::from_fn(|| loader.next_load()).collect();
        let room: usize = loads.iter().map(|load| load.room.num_permits() * PERMIT_BYTES).sum();
        assert!(loads.len() > 1, "one read leaves room for others");
        assert!(room <= DISPATCH_BODY_BYTES_MAX / 2);
        loader.push(launch(10_000, true));
        assert_eq!(loader.next_load().unwrap().launches, [launch(10_000, true)]);
        let first = loads.remove(0);
        let left = vec![launch(7, false), launch(9, false)];
        drop(first);
        loader.ended(left);
        assert_eq!(loader.next_load().unwrap().launches[..2], [launch(7, false), launch(9, false)], "in order");
    }

    #[test]
    fn whatever_the_share_each_pool_takes_the_largest_event() {
        for share in [0.0, 0.001, 0.5, 1.0] {
            let mut loader = Loader::new(share);
            loader.push(launch(1, false));
            loader.push(launch(2, true));
            let loads: Vec<_> = std::iter::from_fn(|| loader.next_load()).collect();
            assert_eq!(loads.len(), 2, "share {share}");
        }
    }
}
