//! Where a webhook's deliveries stand, in numbers.

use crate::model::time::Timestamp;

/// How many deliveries a webhook has had since it was created. Each is counted once, where it stands: one that has ended and is
/// retried by hand is pending again. Those that are no longer retained count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// To be made. One of a wide event is counted from when that reaches the webhook.
    pub pending: u64,
    /// Delivered.
    pub delivered: u64,
    /// Given up.
    pub failed: u64,
    /// Cancelled, those of wide events on their way included.
    pub cancelled: u64,
    /// When one was delivered last, to the millisecond.
    pub last_delivered: Option<Timestamp>,
    /// When one was given up last, to the millisecond.
    pub last_failed: Option<Timestamp>,
}

impl Counts {
    /// All of them.
    pub fn events(&self) -> u64 {
        self.pending + self.delivered + self.failed + self.cancelled
    }
}
