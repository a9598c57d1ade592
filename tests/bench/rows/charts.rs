//! The points of the charts.

use anyhow::Result;

use super::{
    backlog,
    throughput::{ONE_WEBHOOK, ROUNDS, rate, spread_of_thousand},
};
use crate::{
    chart::{Chart, Line},
    protocol::HttpClient,
    rig::{HOSTS, Rig},
    spread::Spread,
    statistics::median,
    table::{Figure, Table},
};

const WEBHOOKS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const BACKLOGS: [u64; 4] = [0, 10_000, 100_000, 1_000_000];
/// The longest one of the quick table.
const QUICK_BACKLOG_MAX: u64 = 100_000;
const LOADS: [u32; 5] = [200, 1_000, 5_000, 10_000, 15_000];

/// Throughput over the number of webhooks that events are spread over.
pub(crate) fn over_webhooks(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(100_000, 15_000);
    let mut line = Line::new("Postrider");
    for webhooks in WEBHOOKS {
        let spread = Spread::over(webhooks).hosts(u8::try_from(webhooks).unwrap_or(HOSTS).min(HOSTS));
        let rate = rate(rig, ONE_WEBHOOK, &spread, events)?;
        let note = format!("{ROUNDS} × {events} deliveries; {}", ONE_WEBHOOK.join(" "));
        table.add(Figure::new(format!("chart_webhooks_{webhooks}"), rate, "deliveries/s", note));
        line.values.push(rate);
    }
    table.draw(&Chart {
        file: "webhooks.svg",
        title: "Throughput over the number of webhooks",
        across: "webhooks",
        places: WEBHOOKS.map(u64::from).to_vec(),
        up: "deliveries per second, end to end",
        rises: false,
        lines: vec![yardstick(rig, &line)?, line],
    })
}

/// Throughput over what was pending before.
pub(crate) fn over_backlog(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let mut line = Line::new("Postrider");
    let most = if rig.scale.quick { QUICK_BACKLOG_MAX } else { u64::MAX };
    let backlogs: Vec<u64> = BACKLOGS.into_iter().filter(|&pending| pending <= most).collect();
    for &pending in &backlogs {
        let (rate, note) = if pending == 0 {
            let events = rig.scale.count(100_000, 15_000);
            (rate(rig, &[], &spread_of_thousand(), events)?, format!("{ROUNDS} × {events} deliveries as they come"))
        } else {
            let events = rig.scale.count(pending, pending);
            (backlog::drain(rig, events)?, format!("1 × until {events} are delivered"))
        };
        let name = format!("chart_backlog_{pending}");
        table.add(Figure::new(name, rate, "deliveries/s", note + "; 1,000 webhooks"));
        line.values.push(rate);
    }
    table.draw(&Chart {
        file: "backlog.svg",
        title: "Throughput over the backlog, 1,000 webhooks",
        across: "deliveries pending at the start",
        places: backlogs,
        up: "deliveries per second",
        rises: false,
        lines: vec![yardstick(rig, &line)?, line],
    })
}

/// Latency over load.
pub(crate) fn over_load(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let micros = rig.scale.micros(5_000_000, 1_000_000);
    let (mut p99, mut p50) = (Line::new("p99"), Line::new("p50"));
    for load in LOADS {
        let daemon = rig.daemon_with(ONE_WEBHOOK, &Spread::one())?;
        rig.latency(&daemon, &Spread::one(), load.into(), micros / 2)?;
        let latencies = (0..ROUNDS)
            .map(|_| Ok(rig.latency(&daemon, &Spread::one(), load.into(), micros)?.arrival))
            .collect::<Result<Vec<_>>>()?;
        for (line, name, value) in [
            (&mut p99, "p99", median(latencies.iter().map(|latency| latency.p99_ms()))),
            (&mut p50, "p50", median(latencies.iter().map(|latency| latency.p50_ms()))),
        ] {
            let note = format!("{name} publish to arrival; {ROUNDS} × {} events", latencies[0].count);
            table.add(Figure::new(format!("chart_load_{load}_{name}"), value, "ms", note));
            line.values.push(value);
        }
    }
    table.draw(&Chart {
        file: "latency.svg",
        title: "Latency over load, one webhook",
        across: "events per second",
        places: LOADS.map(u64::from).to_vec(),
        up: "milliseconds from publish to receiver",
        rises: true,
        lines: vec![p99, p50],
    })
}

/// The bare loop, level over the whole width.
fn yardstick(rig: &mut Rig, over: &Line) -> Result<Line> {
    let rates = (0..ROUNDS).map(|_| rig.post(HttpClient::Reqwest)).collect::<Result<Vec<_>>>()?;
    let rate = median(rates);
    Ok(Line { name: "bare reqwest loop, nothing stored", values: vec![rate; over.values.len()] })
}
