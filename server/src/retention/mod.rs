//! Keeps the disk finite: calls the store's upkeep, in small steps, for as long as there is more to do.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{clock::Clock, store::Store};

/// Settings of the retention stage.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pause between looks when there was nothing to do.
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

impl Config {
    /// The stage.
    pub fn build(self, store: Arc<dyn Store>, clock: Clock) -> Retention {
        Retention { config: self, store, clock }
    }
}

/// The retention stage.
pub struct Retention {
    config: Config,
    store: Arc<dyn Store>,
    clock: Clock,
}

impl Retention {
    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            match self.store.upkeep(self.clock.certain()).await {
                Ok(true) if !stop.is_cancelled() => continue,
                Ok(_) => {}
                Err(error) => warn!(%error, "upkeep failed; the next round tries again"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(self.config.interval) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::{clock::Turn, store::fake::FakeStore};

    /// It stands still, so that it is behind by what passes.
    fn stopped() -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(24 * 365 * 50)
    }

    /// Design, section 5: a clock that is more than an hour off suspends deletions.
    #[tokio::test(start_paused = true)]
    async fn nothing_gets_older_while_the_clock_is_doubted() {
        let (store, clock) = (FakeStore::new(), Clock::following(stopped));
        let run = Config::default().build(store.clone(), clock).run(CancellationToken::new());
        let watched = async {
            sleep(Duration::from_mins(50)).await;
            assert_eq!(clock.look(), None);
            assert!(clock.now().since(store.upkept.lock().unwrap()) <= Duration::from_secs(1));
            sleep(Duration::from_mins(50)).await;
            assert!(matches!(clock.look(), Some(Turn::Began(_))));
            let doubted = clock.now();
            sleep(Duration::from_hours(24)).await;
            assert_eq!(*store.upkept.lock(), Some(doubted));
            clock.confirm();
            sleep(Duration::from_mins(1)).await;
            assert!(clock.now().since(store.upkept.lock().unwrap()) <= Duration::from_secs(1));
        };
        tokio::select! {
            () = run => unreachable!("nobody stops it"),
            () = watched => {}
        }
    }
}
