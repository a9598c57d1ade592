//! Payload filters that said neither yes nor no: counted, and told of now and then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use crate::{
    metrics::CounterBy,
    model::{
        scope::{FilterError, Trouble},
        webhook::Webhook,
    },
};

/// At most one line of the log in this time: a filter may fail on every event.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of filters that failed. The events did not go to those webhooks.
#[derive(Debug, Default)]
pub struct FilterTroubles {
    /// How many there were, by their kind.
    pub errors: CounterBy<Trouble>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// So many since then.
    untold: u64,
}

impl Told {
    /// How many have not been told of, this one included, if it is time to.
    fn due(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < LINE_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl FilterTroubles {
    /// A filter could not be applied to an event, which does not go to its webhook.
    pub fn happened(&self, webhook: &Webhook, error: &FilterError) {
        self.errors.inc(error.trouble);
        if let Some(errors) = self.told.lock().due(Instant::now()) {
            warn!(
                webhook.id = %webhook.id, tenant = %webhook.tenant, %error, errors,
                "a payload filter could not be applied, and the event did not go to its webhook"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_at_most_once_in_an_interval_and_then_of_all() {
        let (mut told, start) = (Told::default(), Instant::now());
        assert_eq!(told.due(start), Some(1));
        assert_eq!(told.due(start), None);
        assert_eq!(told.due(start + LINE_INTERVAL / 2), None);
        assert_eq!(told.due(start + LINE_INTERVAL), Some(3));
        assert_eq!(told.due(start + LINE_INTERVAL), None);
    }
}
