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
            match self.store.upkeep(self.clock.now()).await {
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
