//! Reading the events of what is launched, within the bytes dispatch may hold.
//!
//! How large an event is shows only once it is read. So each read is given half of the room there is, and brings what fits; what
//! does not is read again when some is free. What was not needed is given back: the bound holds at any time, also while reading.
//!
//! Slow webhooks have a pool of their own, as they have of permits: large bodies that hang with them leave room for others. Of
//! each pool a webhook gets only a part, so that those that hang and are not known to be slow yet leave some, too.
//!
//! Not counted: what a body keeps alive because it is a slice of something larger, such as a chunk of the store. That is at most
//! one chunk for each attempt under way.
//!
//! Nobody waits for bytes: who holds some is in flight, so that they are free before its outcome wakes the dispatcher.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::orders::Launch;
use crate::{
    bodies::{Bodies, BodyPermit, Room},
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
    waiting: VecDeque<Waiting>,
    bodies: Bodies,
}

/// A launched delivery that waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    launch: Launch,
    /// What its event takes; zero if it was not read yet.
    permits: usize,
}

impl From<Launch> for Waiting {
    fn from(launch: Launch) -> Self {
        Self { launch, permits: 0 }
    }
}

/// Events to read, and the room for them.
#[derive(Debug)]
pub(super) struct Load {
    launches: Vec<Waiting>,
    room: Room,
}

/// What became of a [`Load`].
#[derive(Debug)]
pub(super) enum Loaded {
    /// The events with the room they take, `None` where the store has none; and those there was no room for.
    Read(Vec<(Launch, Option<(StoredEvent, BodyPermit)>)>, Vec<Waiting>),
    /// The event of the first ones could not be read; the others are to be read without it.
    Failed(Vec<Launch>, StoreError, Vec<Waiting>),
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
        self.pool(launch).waiting.push_back(launch.into());
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
    pub(super) fn ended(&mut self, left: Vec<Waiting>) {
        self.running -= 1;
        for waiting in left.into_iter().rev() {
            self.pool(waiting.launch).waiting.push_front(waiting);
        }
    }

    fn pool(&mut self, launch: Launch) -> &mut Pool {
        if launch.slow { &mut self.slow } else { &mut self.fast }
    }
}

impl Pool {
    fn new(permits: usize) -> Self {
        Self { waiting: VecDeque::new(), bodies: Bodies::new(permits) }
    }

    fn next_load(&mut self) -> Option<Load> {
        let free = self.bodies.free();
        if self.waiting.is_empty() || free < EVENT_PERMITS_MAX {
            return None;
        }
        let mut may_have = self.bodies.judge();
        let mut launches = Vec::new();
        self.waiting.retain(|waiting| {
            let Waiting { launch, permits } = *waiting;
            let chosen = launches.len() < DISPATCH_LOAD_EVENTS_MAX && may_have(launch.key.webhook, permits);
            if chosen {
                launches.push(*waiting);
            }
            !chosen
        });
        let count = launches.len();
        if count == 0 {
            return None;
        }
        // Room for the largest event, or half of what there is for what waits, so that there can be another read meanwhile.
        let permits = (free / 2).max(EVENT_PERMITS_MAX).min(count * EVENT_PERMITS_MAX);
        let room = self.bodies.set_aside(permits).expect("nobody else sets any aside");
        Some(Load { launches, room })
    }
}

impl Load {
    /// Reads what there is room for, each event once, and gives back the room that is not needed.
    pub(super) async fn read(self, store: Arc<dyn Store>) -> Loaded {
        let Self { launches, mut room } = self;
        let mut known = HashSet::with_capacity(launches.len());
        let mut seqs: Vec<_> = launches.iter().map(|waiting| waiting.launch.key.event).collect();
        seqs.retain(|seq| known.insert(*seq));
        let events = match store.events(&seqs, room.permits() * PERMIT_BYTES).await {
            Ok(events) => events,
            Err(error) => {
                let is_first = |waiting: &mut Waiting| Some(&waiting.launch.key.event) == seqs.first();
                let mut left = launches;
                let failed = left.extract_if(.., is_first).map(|waiting| waiting.launch).collect();
                return Loaded::Failed(failed, error, left);
            }
        };
        let events: HashMap<EventSeq, Option<StoredEvent>> = seqs.into_iter().zip(events).collect();
        let (mut read, mut left) = (Vec::with_capacity(launches.len()), Vec::new());
        for waiting in launches {
            let launch = waiting.launch;
            match events.get(&launch.key.event) {
                Some(Some(stored)) => {
                    let permits = stored.event.weight_bytes().div_ceil(PERMIT_BYTES).min(EVENT_PERMITS_MAX);
                    match room.take(launch.key.webhook, permits) {
                        Some(permit) => read.push((launch, Some((stored.clone(), permit)))),
                        None => left.push(Waiting { launch, permits }),
                    }
                }
                Some(None) => read.push((launch, None)),
                None => left.push(waiting),
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
        let room: usize = loads.iter().map(|load| load.room.permits() * PERMIT_BYTES).sum();
        assert!(loads.len() > 1, "one read leaves room for others");
        assert!(room <= DISPATCH_BODY_BYTES_MAX / 2);
        loader.push(launch(10_000, true));
        assert_eq!(loader.next_load().unwrap().launches, [launch(10_000, true).into()]);
        let first = loads.remove(0);
        let left = vec![launch(7, false).into(), launch(9, false).into()];
        drop(first);
        loader.ended(left.clone());
        assert_eq!(loader.next_load().unwrap().launches[..2], left, "in order");
    }

    #[test]
    fn a_webhook_that_holds_its_part_waits_and_others_pass() {
        let large = 4 * EVENT_PERMITS_MAX;
        let other = |event| {
            let key = DeliveryKey { webhook: WebhookNo(2), ..launch(event, false).key };
            Launch { key, ..launch(event, false) }
        };
        let mut loader = Loader::new(0.5);
        let mut room = loader.fast.bodies.set_aside(large).unwrap();
        let body = room.take(WebhookNo(1), large).unwrap();
        loader.push(launch(1, false));
        assert!(loader.next_load().is_none());
        loader.push(other(2));
        assert_eq!(loader.next_load().unwrap().launches, [other(2).into()]);
        drop(body);
        // What was read and did not fit is read again one by one: its size is known by now.
        let known = |event| Waiting { launch: launch(event, false), permits: large };
        loader.ended(vec![known(3), known(4)]);
        assert_eq!(loader.next_load().unwrap().launches, [known(3)]);
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
