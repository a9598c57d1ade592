//! Repairing by hand: what callers ask for about deliveries, and what becomes of it.

use crate::model::{
    ids::{DeliveryKey, WebhookNo},
    quota::Excess,
    time::Timestamp,
};

/// Something to do about deliveries. Whose they are is the caller's to check.
#[derive(Debug, Clone)]
pub enum Repair {
    /// The next attempt is due now. A delivery that has ended is pending again, with as many retries as it had at first.
    Retry {
        /// Which one.
        key: DeliveryKey,
        /// Now.
        time: Timestamp,
    },
    /// All that is pending for a webhook is cancelled, and what is accepted afterwards is not.
    CancelAll {
        /// Which webhook.
        webhook: WebhookNo,
        /// Now.
        time: Timestamp,
    },
    /// Those of these that are pending are cancelled.
    Cancel {
        /// At most `CALL_DELIVERIES_MAX`.
        keys: Vec<DeliveryKey>,
        /// Now.
        time: Timestamp,
    },
}

impl Repair {
    /// How many deliveries it names.
    pub(in crate::store) fn named(&self) -> usize {
        match self {
            Self::Retry { .. } | Self::CancelAll { .. } => 1,
            Self::Cancel { keys, .. } => keys.len(),
        }
    }
}

/// What became of a [`Repair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The delivery is due.
    Retried,
    /// So many were pending, and are cancelled.
    Cancelled(u64),
    /// The webhook was deleted.
    WebhookDeleted,
    /// There is no such delivery, or none any more.
    NoDelivery,
    /// The delivery's event is no longer retained.
    EventExpired,
    /// The delivery has had `DELIVERY_ATTEMPTS_MAX` attempts.
    TooManyAttempts,
    /// The delivery was cancelled with many others, and the store is not done with that.
    Cancelling,
    /// The delivery waits behind another one of its ordering key.
    WaitsInOrder,
    /// As many deliveries are pending as may be.
    BacklogFull,
    /// As many deliveries of the tenant are pending as may be.
    OverQuota(Excess),
}
