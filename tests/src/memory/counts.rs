//! The counters of webhooks.

use std::time::Duration;

use postrider_server::{
    model::{delivery::DeliveryState, ids::WebhookNo, time::Timestamp},
    store::Counts,
};

use super::image::Image;

impl Image {
    /// Where a webhook's deliveries stand, in numbers.
    pub(super) fn counts(&self, no: WebhookNo) -> Counts {
        let pending = self.pending.get(&no).copied().unwrap_or(0);
        Counts { pending, ..self.ended.get(&no).copied().unwrap_or_default() }
    }

    /// So many of a webhook's deliveries, which were pending, have ended so.
    pub(super) fn count_ended(&mut self, no: WebhookNo, state: DeliveryState, deliveries: u64, time: Timestamp) {
        let counts = self.ended.entry(no).or_default();
        let time = Some(to_the_millisecond(time));
        match state {
            DeliveryState::Delivered => counts.last_delivered = counts.last_delivered.max(time),
            DeliveryState::Failed => counts.last_failed = counts.last_failed.max(time),
            DeliveryState::Pending | DeliveryState::Cancelled => {}
        }
        if let Some(count) = count_of(counts, state) {
            *count += deliveries;
        }
    }
}

/// One of a webhook's deliveries that had ended so is pending again.
pub(super) fn revived(counts: &mut Counts, state: DeliveryState) {
    if let Some(count) = count_of(counts, state) {
        *count -= 1;
    }
}

fn count_of(counts: &mut Counts, state: DeliveryState) -> Option<&mut u64> {
    match state {
        DeliveryState::Pending => None,
        DeliveryState::Delivered => Some(&mut counts.delivered),
        DeliveryState::Failed => Some(&mut counts.failed),
        DeliveryState::Cancelled => Some(&mut counts.cancelled),
    }
}

fn to_the_millisecond(time: Timestamp) -> Timestamp {
    let whole = time.since(Timestamp::UNIX_EPOCH).as_millis();
    Timestamp::UNIX_EPOCH + Duration::from_millis(u64::try_from(whole).expect("not so late"))
}
