//! One event for one webhook, in a few bytes.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use postrider_proto::v1::DeliveryState;

use super::Seen;
use crate::fleet::ATTEMPTS_MAX;

/// What the last outcome said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Last {
    /// Nothing yet, or that another attempt follows.
    #[default]
    Pending,
    /// It is delivered.
    Delivered,
    /// The policy has given up.
    Failed,
}

/// What was seen of a delivery.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delivery {
    /// By attempt: the life of the daemon in which it last arrived; 0: never.
    arrived: [u16; ATTEMPTS_MAX as usize],
    /// Of its id, which never changes; 0: not known yet.
    id_hash: u32,
    /// The life in which the last outcome was seen, so that it was committed by then.
    outcome_life: u16,
    /// How many outcomes were seen: of attempts 1, 2, ….
    outcomes: u8,
    last: Last,
}

impl Delivery {
    /// An attempt arrived; `Some`: for the second time, the first was in that life.
    pub(super) fn arrived(&mut self, attempt: u32, life: u16, id: &str) -> Result<Option<u16>, String> {
        self.is_called(id)?;
        let index = index(attempt)?;
        let earlier = std::mem::replace(&mut self.arrived[index], life);
        if earlier == life {
            return Err("one daemon made the same attempt twice".into());
        }
        let ended = attempt <= self.outcomes.into();
        if ended && self.outcome_life < life {
            return Err("its outcome had been committed in an earlier life of the daemon".into());
        }
        // An attempt that timed out may be read only after its outcome; one after the end was never due.
        if !ended && self.last != Last::Pending {
            return Err(format!("the delivery had ended ({:?}) with attempt {}", self.last, self.outcomes));
        }
        Ok((earlier > 0).then_some(earlier))
    }

    /// An outcome was seen; `status` is what the receiver answered the attempt with, if it did in time.
    pub(super) fn outcome(&mut self, seen: &Seen<'_>, life: u16, status: Option<u16>) -> Result<Last, String> {
        self.is_called(seen.delivery)?;
        let index = index(seen.attempt)?;
        if self.last != Last::Pending || seen.attempt != u32::from(self.outcomes) + 1 {
            return Err(format!("it came after {} outcomes, the last of them {:?}", self.outcomes, self.last));
        }
        let last = match seen.state {
            DeliveryState::Pending if seen.attempt < ATTEMPTS_MAX => Last::Pending,
            DeliveryState::Failed if seen.attempt == ATTEMPTS_MAX => Last::Failed,
            DeliveryState::Delivered => Last::Delivered,
            DeliveryState::Pending
            | DeliveryState::Failed
            | DeliveryState::Unspecified
            | DeliveryState::Cancelled
            | DeliveryState::Held => return Err("not a state that the policy allows then".into()),
        };
        if (last == Last::Delivered) != (200..300).contains(&seen.status) {
            return Err("the state does not follow from the status".into());
        }
        if seen.status > 0 && status != Some(seen.status) {
            return Err(format!("the receiver's answer was {status:?}"));
        }
        if seen.status > 0 && self.arrived[index] == 0 {
            return Err("the attempt never arrived".into());
        }
        if last != Last::Pending && self.arrived[index + 1..].iter().any(|&life| life > 0) {
            return Err("a later attempt had arrived already".into());
        }
        (self.outcomes, self.outcome_life, self.last) = (self.outcomes + 1, life, last);
        Ok(last)
    }

    /// Whether any outcome was seen.
    pub(super) fn has_begun(&self) -> bool {
        self.outcomes > 0
    }

    /// Whether it was delivered or given up.
    pub(super) fn has_ended(&self) -> bool {
        self.last != Last::Pending
    }

    /// Whether that was in an earlier life.
    pub(super) fn has_ended_before(&self, life: u16) -> bool {
        self.has_ended() && self.outcome_life < life
    }

    fn is_called(&mut self, id: &str) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        // The lower half is as good as any; 0 means unknown.
        let hash = u32::try_from(hasher.finish() & u64::from(u32::MAX)).expect("masked").max(1);
        if self.id_hash != 0 && self.id_hash != hash {
            return Err(format!("the delivery has another id than before: {id}"));
        }
        self.id_hash = hash;
        Ok(())
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(outcomes seen: {}, attempts arrived in lives {:?})", self.outcomes, self.arrived)
    }
}

fn index(attempt: u32) -> Result<usize, String> {
    if (1..=ATTEMPTS_MAX).contains(&attempt) {
        Ok(attempt as usize - 1)
    } else {
        Err(format!("the policy allows {ATTEMPTS_MAX} attempts"))
    }
}
