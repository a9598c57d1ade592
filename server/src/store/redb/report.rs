//! What the engine tells about itself: counted by the committer, or read when somebody asks.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use tokio::sync::watch;

use super::{RedbStore, shared::Shared};
use crate::metrics::{Queues, write_gauge};

impl RedbStore {
    /// Gives what the engine counts its names.
    pub fn register(&self, registry: &mut Registry) {
        self.shared.metrics.register(registry);
        let help = "Payload filters that could not be applied to an event, which therefore did not go to their webhook";
        registry.register("payload_filter_errors", help, self.shared.catalog.troubles().errors.clone());
        registry.register_collector(Box::new(Report(self.shared.clone())));
    }

    /// Adds the committer's inboxes.
    #[must_use]
    pub fn inboxes(&self, queues: Queues) -> Queues {
        let names = ["store_urgent", "store_accepts", "store_upkeep"];
        names.into_iter().enumerate().fold(queues, |queues, (index, name)| {
            let shared = self.shared.clone();
            queues.with(name, move || shared.inbox.depths()[index])
        })
    }

    /// Whether the store works: false from a commit that failed until the store is open again.
    pub fn works(&self) -> watch::Receiver<bool> {
        self.shared.works.subscribe()
    }

    /// How long the committer has given no sign of life. It gives one with every commit, and every few seconds while it has
    /// nothing to do. Zero once the store is closed; `None`: it has panicked.
    pub fn silence(&self) -> Option<Duration> {
        self.tasks.failed().is_none().then(|| self.shared.heartbeat.silence())
    }
}

/// Reads what there is at the moment. May ask the file system.
#[derive(Debug)]
struct Report(Arc<Shared>);

impl Collector for Report {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(shared) = self;
        let encoder = &mut encoder;
        let pending = shared.counters.lock().pending;
        let help = "Deliveries pending, those of disabled webhooks included";
        write_gauge(encoder, "deliveries_pending", help, None, pending)?;
        let help = "Most deliveries pending: --max-pending";
        write_gauge(encoder, "deliveries_pending_limit", help, None, shared.config.pending_max)?;
        write_gauge(encoder, "webhooks", "Webhooks of all tenants", None, shared.catalog.len() as u64)?;
        let works = u64::from(*shared.works.borrow());
        let help = "1 while the store works, 0 from a failed commit until it is open again";
        write_gauge(encoder, "store_open", help, None, works)?;

        let hot = shared.hot_file_bytes();
        let (segments, segment_bytes) = shared.segments.on_disk();
        write_gauge(encoder, "store_segments", "Files of moved events and outcomes", None, segments)?;
        let help = "Size of the store's files.";
        let mut bytes = encoder.encode_descriptor("store_disk", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (part, size) in [("hot", hot), ("segments", segment_bytes)] {
            ConstGauge::new(size).encode(bytes.encode_family(&[("part", part)])?)?;
        }
        let help =
            "1 while the data directory holds more than --retention-bytes and nothing more may be removed, else 0";
        let unmet = u64::from(shared.volume.is_unmet());
        write_gauge(encoder, "retention_bytes_unmet", help, None, unmet)?;
        Ok(())
    }
}
