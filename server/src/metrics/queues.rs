//! How full the queues between stages are, read when somebody asks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::sync::mpsc;

/// How much of a queue is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// What waits in it.
    pub waiting: usize,
    /// What fits.
    pub capacity: usize,
}

type Look = Box<dyn Fn() -> Depth + Send + Sync>;

/// Every queue of the daemon, by name.
#[derive(Default)]
pub struct Queues {
    queues: Vec<(&'static str, Look)>,
}

impl Queues {
    /// Adds a queue; `look` is called whenever somebody asks, and must not wait.
    #[must_use]
    pub fn with(mut self, name: &'static str, look: impl Fn() -> Depth + Send + Sync + 'static) -> Self {
        self.queues.push((name, Box::new(look)));
        self
    }

    /// Adds channels that together are one queue. They are not kept open for it.
    #[must_use]
    pub fn with_channels<T: Send + 'static>(self, name: &'static str, channels: &[mpsc::Sender<T>]) -> Self {
        let capacity = channels.iter().map(mpsc::Sender::max_capacity).sum();
        let channels: Vec<_> = channels.iter().map(mpsc::Sender::downgrade).collect();
        self.with(name, move || {
            let open = channels.iter().filter_map(mpsc::WeakSender::upgrade);
            Depth { waiting: open.map(|channel| channel.max_capacity() - channel.capacity()).sum(), capacity }
        })
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.queues.iter().map(|(name, look)| (name, look()))).finish()
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let depths: Vec<_> = self.queues.iter().map(|(name, look)| (*name, look())).collect();
        let help = "What waits in each queue, with what is being taken out of it.";
        let mut waiting = encoder.encode_descriptor("queue_depth", help, None, MetricType::Gauge)?;
        for (name, depth) in &depths {
            gauge(depth.waiting).encode(waiting.encode_family(&[("queue", *name)])?)?;
        }
        let help = "What fits into each queue.";
        let mut capacity = encoder.encode_descriptor("queue_capacity", help, None, MetricType::Gauge)?;
        for (name, depth) in &depths {
            gauge(depth.capacity).encode(capacity.encode_family(&[("queue", *name)])?)?;
        }
        Ok(())
    }
}

fn gauge(value: usize) -> ConstGauge<u64> {
    ConstGauge::new(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_looked_at_and_not_kept_open() {
        let (one, mut one_ends) = mpsc::channel(4);
        let (other, _other_ends) = mpsc::channel(4);
        let queues = Queues::default().with_channels("jobs", &[one.clone(), other.clone()]);
        one.try_send(1).unwrap();
        other.try_send(2).unwrap();
        other.try_send(3).unwrap();
        assert_eq!(format!("{queues:?}"), r#"{"jobs": Depth { waiting: 3, capacity: 8 }}"#);
        drop(one);
        assert_eq!((one_ends.try_recv(), one_ends.try_recv().is_err()), (Ok(1), true));
        assert!(one_ends.is_closed(), "nobody keeps it open");
    }
}
