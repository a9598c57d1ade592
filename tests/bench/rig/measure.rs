//! Measurements that several rows share. Each checks that what arrived is what was published.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, PATIENCE, Rig};
use crate::{
    payload::BODY_BYTES,
    protocol::{Publish, Published, Receive, Seen},
    spread::Spread,
    statistics::{Percentiles, number, per_second},
};

/// `PublishEvents` streams of a burst.
const STREAMS: usize = 4;
/// How long the last delivery may take after the last acknowledgement.
const DELIVERED_WITHIN: Duration = Duration::from_mins(10);

/// Events published as fast as the daemon takes them, until the last is delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    /// Deliveries.
    pub(crate) deliveries: u64,
    /// Deliveries per second, from the first event sent to the last delivery.
    pub(crate) deliveries_per_second: f64,
    /// Acknowledgements per second, from the first event sent to the last acknowledgement.
    pub(crate) acknowledged_per_second: f64,
    /// Processor time of the daemon for each delivery, until it has settled, in microseconds.
    pub(crate) cpu_micros: f64,
    /// Bytes written to disk for each KiB delivered, until it has settled.
    pub(crate) written_per_byte: f64,
}

/// Latencies at a fixed rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    /// From publish to acknowledgement.
    pub(crate) ack: Percentiles,
    /// From publish to arrival at the receiver.
    pub(crate) arrival: Percentiles,
}

impl Rig {
    /// A command to publish 1 KiB bodies as fast as possible.
    pub(crate) fn publish_command(&mut self, daemon: &Daemon, spread: &Spread, events: u64) -> Publish {
        let first = self.next_event;
        self.next_event += events;
        Publish {
            endpoint: daemon.endpoint().to_owned(),
            streams: STREAMS,
            spread: spread.clone(),
            first,
            events,
            body_bytes: BODY_BYTES,
            rate: None,
            samples: false,
        }
    }

    /// Publishes, and returns when everything is acknowledged.
    pub(crate) fn publish(&mut self, daemon: &Daemon, command: &Publish) -> Result<Published> {
        self.start_publishing(command)?;
        self.published(daemon)
    }

    /// Starts to publish; [`Rig::published`] waits for the end.
    pub(crate) fn start_publishing(&mut self, command: &Publish) -> Result<()> {
        self.publisher.tell(command)
    }

    /// Waits until everything is acknowledged.
    pub(crate) fn published(&mut self, daemon: &Daemon) -> Result<Published> {
        self.publisher.hear(PATIENCE).with_context(|| format!("the daemon's log:\n{}", daemon.log()))
    }

    /// Waits until everything published since the last reset has arrived, and checks that it is just that.
    pub(crate) fn arrived(&mut self, daemon: &Daemon, deliveries: u64, fingerprint: u64) -> Result<Seen> {
        let waited = self.receiver.ask(&Receive::Wait { arrived: deliveries }, DELIVERED_WITHIN);
        let seen: Seen = match waited {
            Ok(seen) => seen,
            Err(error) => {
                return Err(error.context(format!("{deliveries} deliveries do not arrive; log:\n{}", daemon.log())));
            }
        };
        ensure!(
            seen.arrived == deliveries && seen.fingerprint == fingerprint,
            "{deliveries} deliveries were acknowledged, and {} arrived, {}",
            seen.arrived,
            if seen.fingerprint == fingerprint { "the same ones" } else { "not the same ones" }
        );
        self.expected = Some(seen.clone());
        Ok(seen)
    }

    /// Publishes `events` as fast as possible to a receiver that answers, until all are delivered.
    pub(crate) fn burst(&mut self, daemon: &Daemon, spread: &Spread, events: u64) -> Result<Burst> {
        self.reset_receiver(false)?;
        let (cpu, written) = (daemon.cpu_micros()?, daemon.written_bytes()?);
        let command = self.publish_command(daemon, spread, events);
        let published = self.publish(daemon, &command)?;
        let deliveries = published.deliveries;
        ensure!(
            deliveries == events * u64::from(spread.copies),
            "{events} events went to {deliveries} webhooks, not to {} each",
            spread.copies
        );
        let seen = self.arrived(daemon, deliveries, published.fingerprint)?;
        daemon.settle()?;
        let (cpu, written) = (daemon.cpu_micros()? - cpu, daemon.written_bytes()? - written);
        Ok(Burst {
            deliveries,
            deliveries_per_second: per_second(deliveries, seen.last.saturating_sub(published.first)),
            acknowledged_per_second: per_second(events, published.last.saturating_sub(published.first)),
            cpu_micros: number(cpu) / number(deliveries),
            written_per_byte: number(written) / (number(deliveries) * number(BODY_BYTES)),
        })
    }

    /// Publishes at a fixed rate for `micros`, whatever the daemon does.
    pub(crate) fn latency(&mut self, daemon: &Daemon, spread: &Spread, rate: f64, micros: u64) -> Result<Latency> {
        self.reset_receiver(true)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousands of events")]
        let events = ((rate * number(micros) / 1e6) as u64).max(1);
        let command = Publish { rate: Some(rate), ..self.publish_command(daemon, spread, events) };
        let published = self.publish(daemon, &command)?;
        let seen = self.arrived(daemon, published.deliveries, published.fingerprint)?;
        Ok(Latency { ack: published.ack, arrival: seen.latency })
    }
}
