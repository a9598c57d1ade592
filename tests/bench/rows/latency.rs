//! How long an event takes at a given load.

use anyhow::Result;

use super::throughput::{ONE_WEBHOOK, ROUNDS};
use crate::{
    protocol::Publish,
    rig::{Daemon, Latency, Rig},
    spread::Spread,
    statistics::{median, number},
    table::{
        Figure, Table,
        Target::{self, AtMost, Stated},
    },
};

/// What is measured.
#[derive(Clone, Copy)]
struct Load<'a> {
    /// The figure.
    name: &'a str,
    /// The state of the store.
    what: &'a str,
    /// Events per second.
    rate: f64,
    targets: Targets,
}

/// What is asked at a load, in milliseconds: p50 and p99 to the acknowledgement, then to the receiver.
#[derive(Clone, Copy)]
struct Targets {
    ack: [Target; 2],
    arrival: [Target; 2],
}

/// Bodies that fill a store: large, because what counts here are bytes; and how many before its size is looked at again.
const FILLER_BYTES: u64 = 32 * 1024;
const FILLERS_MAX: u64 = 10_000;

const AT_1K: Targets = Targets { ack: [AtMost(1.5), AtMost(6.0)], arrival: [AtMost(2.0), AtMost(10.0)] };
const AT_10K: Targets = Targets { ack: [AtMost(2.0), Stated], arrival: [AtMost(2.0), Stated] };

/// At 1,000 events per second.
pub(crate) fn at_1k(rig: &mut Rig, table: &mut Table) -> Result<()> {
    at(rig, table, &Load { name: "latency_1k", what: "new store", rate: 1_000.0, targets: AT_1K })
}

/// At 10,000 events per second.
pub(crate) fn at_10k(rig: &mut Rig, table: &mut Table) -> Result<()> {
    at(rig, table, &Load { name: "latency_10k", what: "new store", rate: 10_000.0, targets: AT_10K })
}

/// At 1,000 events per second on a store of 10 GB.
pub(crate) fn at_1k_full(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let bytes = rig.scale.count(10_000_000_000, 200_000_000);
    let others = Spread::one().of("others");
    let daemon = rig.daemon_with(ONE_WEBHOOK, &others)?;
    while daemon.data_bytes()? < bytes {
        rig.receiver.reset(false)?;
        let events = (bytes / 10 / FILLER_BYTES).clamp(1, FILLERS_MAX);
        let command = rig.publish_command(&daemon, &others, events);
        let body_bytes = usize::try_from(FILLER_BYTES)?;
        let published = rig.publish(&daemon, &Publish { body_bytes, ..command })?;
        rig.receiver.arrived(&daemon, published.deliveries, published.fingerprint)?;
    }
    daemon.settle()?;
    rig.create_webhooks(&daemon, &Spread::one(), &rig.receiver)?;
    let full = number(daemon.data_bytes()?) / 1e9;
    let what = format!("{full:.2} GB in the data directory");
    measure(rig, table, &daemon, &Load { name: "latency_1k_10gb", what: &what, rate: 1_000.0, targets: AT_1K })
}

fn at(rig: &mut Rig, table: &mut Table, load: &Load<'_>) -> Result<()> {
    let daemon = rig.daemon_with(ONE_WEBHOOK, &Spread::one())?;
    measure(rig, table, &daemon, load)
}

/// Measures on a daemon that has the webhook of [`Spread::one`] already.
fn measure(rig: &mut Rig, table: &mut Table, daemon: &Daemon, load: &Load<'_>) -> Result<()> {
    let Load { name, what, rate, targets } = *load;
    let micros = rig.scale.micros(10_000_000, 1_500_000);
    rig.latency(daemon, &Spread::one(), rate, micros / 2)?;
    let latencies =
        (0..ROUNDS).map(|_| rig.latency(daemon, &Spread::one(), rate, micros)).collect::<Result<Vec<_>>>()?;
    let note = format!("{ROUNDS} × {} events; {what}; {}", latencies[0].arrival.count, ONE_WEBHOOK.join(" "));
    let of = |figure: fn(&Latency) -> f64| median(latencies.iter().map(figure));
    let figures = [
        (name.to_owned(), of(|latency| latency.arrival.p99_ms()), targets.arrival[1], "p99 publish to arrival"),
        (format!("{name}_p50"), of(|latency| latency.arrival.p50_ms()), targets.arrival[0], "p50 publish to arrival"),
        (format!("{name}_ack_p99"), of(|latency| latency.ack.p99_ms()), targets.ack[1], "p99 publish to acknowledged"),
        (format!("{name}_ack_p50"), of(|latency| latency.ack.p50_ms()), targets.ack[0], "p50 publish to acknowledged"),
    ];
    for (name, value, target, what) in figures {
        table.add(Figure::new(name, value, "ms", format!("{what}; {note}")).target(target));
    }
    Ok(())
}
