//! The memory for the bodies of attempts under way, and which webhook holds how much of it.
//!
//! A receiver that hangs holds its bodies until its attempts time out, and nobody knows beforehand which one will. So that a few
//! of them do not hold everything meanwhile, a webhook gets no more once it holds more than a quarter of what is free. One that
//! has the memory to itself comes to about a fifth of it; each further one finds less and takes less, and leaves room for
//! the next. A webhook that holds nothing is never refused on these grounds. After A. K. Choudhury and E. L. Hahne, *Dynamic
//! Queue Length Thresholds for Shared-Memory Packet Switches* (1998).

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::ids::WebhookNo;

/// A webhook may hold one part in so many of what is free, and then one body more.
const FREE_PARTS: usize = 4;

/// Some memory, counted in permits. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct Bodies {
    free: Arc<Semaphore>,
    /// Only those that hold something: no more than there are attempts under way.
    held: Arc<Mutex<HashMap<WebhookNo, usize>>>,
}

/// Memory set aside for bodies that are being read. What is left of it is free again when this is dropped.
#[derive(Debug)]
pub struct Room {
    bodies: Bodies,
    permits: OwnedSemaphorePermit,
}

/// What one body takes. Free again when this is dropped.
#[derive(Debug)]
pub struct BodyPermit {
    bodies: Bodies,
    webhook: WebhookNo,
    permits: OwnedSemaphorePermit,
}

impl Bodies {
    /// As much, all of it free.
    pub fn new(permits: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(permits)), held: Arc::default() }
    }

    /// Permits neither held nor set aside.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Sets as many permits aside; `None` if fewer are free.
    pub fn set_aside(&self, permits: usize) -> Option<Room> {
        let permits = self.free.clone().try_acquire_many_owned(u32::try_from(permits).ok()?).ok()?;
        Some(Room { bodies: self.clone(), permits })
    }

    /// Says of one body after the other whether its webhook may have it, if all that it said so of are taken. To be given the
    /// webhook and the permits of the body, zero if those are not known. Nobody takes any or gives any back meanwhile.
    pub fn judge(&self) -> impl FnMut(WebhookNo, usize) -> bool {
        let (held, mut free) = (self.held.lock(), self.free());
        let mut promised = HashMap::<_, usize>::new();
        move |webhook, permits| {
            let has = [held.get(&webhook), promised.get(&webhook)].into_iter().flatten().sum();
            let may = may_have_more(has, free);
            if may && permits > 0 {
                *promised.entry(webhook).or_default() += permits;
                free = free.saturating_sub(permits);
            }
            may
        }
    }
}

impl Room {
    /// Permits that are left.
    pub fn permits(&self) -> usize {
        self.permits.num_permits()
    }

    /// Takes the permits of a body; `None` if there are fewer left, or if its webhook holds too many by now.
    pub fn take(&mut self, webhook: WebhookNo, permits: usize) -> Option<BodyPermit> {
        let mut held = self.bodies.held.lock();
        let free = self.bodies.free() + self.permits();
        if !may_have_more(held.get(&webhook).copied().unwrap_or_default(), free) {
            return None;
        }
        let taken = self.permits.split(permits)?;
        *held.entry(webhook).or_default() += permits;
        Some(BodyPermit { bodies: self.bodies.clone(), webhook, permits: taken })
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        let mut held = self.bodies.held.lock();
        if let Some(of_webhook) = held.get_mut(&self.webhook) {
            *of_webhook -= self.permits.num_permits();
            if *of_webhook == 0 {
                held.remove(&self.webhook);
            }
        }
    }
}

fn may_have_more(held: usize, free: usize) -> bool {
    held * FREE_PARTS <= free
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes bodies of so many permits for a webhook until there are no more.
    fn fill(bodies: &Bodies, webhook: u64, permits: usize) -> Vec<BodyPermit> {
        let take = || bodies.set_aside(permits)?.take(WebhookNo(webhook), permits);
        std::iter::from_fn(take).collect()
    }

    #[test]
    fn whoever_comes_finds_room_and_takes_less_than_those_before() {
        let bodies = Bodies::new(1600);
        let taken: Vec<_> = (1..=7).map(|webhook| fill(&bodies, webhook, 100)).collect();
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3, 2, 2, 2, 1, 1]);
        assert!(fill(&bodies, 1, 1).is_empty(), "who holds more than its part gets nothing, however little");
        assert_eq!(fill(&bodies, 8, 100).len(), 1, "who holds nothing gets the last of it");
        drop(taken);
        assert_eq!(bodies.free(), 1600);
        assert!(bodies.held.lock().is_empty());
        assert!(fill(&bodies, 1, 1).len() > 300, "small ones are many");
    }
}
