//! How long an event takes at a given load.

use anyhow::Result;

use super::throughput::{ONE_WEBHOOK, ROUNDS};
use crate::{
    rig::{Daemon, Latency, Rig},
    spread::Spread,
    statistics::median,
    table::{
        Figure, Table,
        Target::{self, AtMost, Stated},
    },
};

/// What is asked at a load, in milliseconds: p50 and p99 to the acknowledgement, then to the receiver.
struct Targets {
    ack: [Target; 2],
    arrival: [Target; 2],
}

const AT_1K: Targets = Targets { ack: [AtMost(1.5), AtMost(6.0)], arrival: [AtMost(2.0), AtMost(10.0)] };
const AT_10K: Targets = Targets { ack: [AtMost(2.0), Stated], arrival: [AtMost(2.0), Stated] };

/// At 1,000 events per second.
pub(crate) fn at_1k(rig: &mut Rig, table: &mut Table) -> Result<()> {
    at(rig, table, "latency_1k", 1_000.0, &AT_1K)
}

/// At 10,000 events per second.
pub(crate) fn at_10k(rig: &mut Rig, table: &mut Table) -> Result<()> {
    at(rig, table, "latency_10k", 10_000.0, &AT_10K)
}

fn at(rig: &mut Rig, table: &mut Table, name: &str, rate: f64, targets: &Targets) -> Result<()> {
    let daemon = rig.daemon(ONE_WEBHOOK)?;
    rig.create_webhooks(&daemon, &Spread::one())?;
    measure(rig, table, &daemon, name, rate, targets)
}

/// Measures on a daemon that has the webhook of [`Spread::one`] already.
fn measure(rig: &mut Rig, table: &mut Table, daemon: &Daemon, name: &str, rate: f64, targets: &Targets) -> Result<()> {
    let micros = rig.scale.micros(10_000_000, 2_000_000);
    rig.latency(daemon, &Spread::one(), rate, micros / 2)?;
    let latencies =
        (0..ROUNDS).map(|_| rig.latency(daemon, &Spread::one(), rate, micros)).collect::<Result<Vec<_>>>()?;
    let note = format!("{ROUNDS} × {} events; {}", latencies[0].arrival.count, ONE_WEBHOOK.join(" "));
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
