//! Measurements that several rows share. Each checks that what arrived is what was acknowledged.

use anyhow::{Result, ensure};

use super::{Daemon, PATIENCE, Rig};
use crate::{
    payload::BODY_BYTES,
    protocol::{Publish, Published},
    spread::Spread,
    statistics::{Percentiles, number, per_second},
};

/// `PublishEvents` streams, each on a connection of its own.
const STREAMS: usize = 4;

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
    pub(crate) written_bytes: f64,
}

/// Latencies at a fixed rate.
#[derive(Debug, Clone)]
pub(crate) struct Latency {
    /// From publish to acknowledgement.
    pub(crate) ack: Percentiles,
    /// From publish to arrival at the receiver.
    pub(crate) arrival: Percentiles,
    /// When each event was due, and how many microseconds later it was acknowledged.
    pub(crate) acks: Vec<(u64, u32)>,
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

    /// A command to publish 1 KiB bodies at a fixed rate for `micros`.
    pub(crate) fn publish_command_at(&mut self, daemon: &Daemon, spread: &Spread, rate: f64, micros: u64) -> Publish {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "millions of events at most")]
        let events = ((rate * number(micros) / 1e6) as u64).max(1);
        Publish { rate: Some(rate), samples: true, ..self.publish_command(daemon, spread, events) }
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
        self.publisher.hear(PATIENCE).map_err(|error| daemon.blame(&error))
    }

    /// Publishes `events` as fast as possible to receivers that answer, until all are delivered.
    pub(crate) fn burst(&mut self, daemon: &Daemon, spread: &Spread, events: u64) -> Result<Burst> {
        self.receiver.reset(false)?;
        let (cpu, written) = (daemon.cpu_micros()?, daemon.written_bytes()?);
        let command = self.publish_command(daemon, spread, events);
        let published = self.publish(daemon, &command)?;
        let deliveries = published.deliveries;
        ensure!(
            deliveries == events * u64::from(spread.copies),
            "{events} events went to {deliveries} webhooks, not to {} each",
            spread.copies
        );
        let seen = self.receiver.arrived(daemon, deliveries, published.fingerprint)?;
        daemon.settle()?;
        let (cpu, written) = (daemon.cpu_micros()? - cpu, daemon.written_bytes()? - written);
        Ok(Burst {
            deliveries,
            deliveries_per_second: per_second(deliveries, seen.last.saturating_sub(published.first)),
            acknowledged_per_second: per_second(events, published.last.saturating_sub(published.first)),
            cpu_micros: number(cpu) / number(deliveries),
            written_bytes: number(written) * 1024.0 / (number(deliveries) * number(BODY_BYTES)),
        })
    }

    /// Publishes at a fixed rate for `micros`, whatever the daemon does.
    pub(crate) fn latency(&mut self, daemon: &Daemon, spread: &Spread, rate: f64, micros: u64) -> Result<Latency> {
        self.start_latency(daemon, spread, rate, micros)?;
        self.finish_latency(daemon)
    }

    /// The first half of [`Rig::latency`], for rows that do something meanwhile.
    pub(crate) fn start_latency(&mut self, daemon: &Daemon, spread: &Spread, rate: f64, micros: u64) -> Result<()> {
        self.receiver.reset(true)?;
        let command = self.publish_command_at(daemon, spread, rate, micros);
        self.start_publishing(&command)
    }

    /// The second half of [`Rig::latency`].
    pub(crate) fn finish_latency(&mut self, daemon: &Daemon) -> Result<Latency> {
        let published = self.published(daemon)?;
        let seen = self.receiver.arrived(daemon, published.deliveries, published.fingerprint)?;
        Ok(Latency { ack: published.ack, arrival: seen.latency, acks: published.samples })
    }
}
