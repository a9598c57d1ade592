//! End-to-end throughput, and the loops it is compared with.

use anyhow::Result;

use crate::{
    protocol::HttpClient,
    rig::{Burst, HOSTS, Rig},
    spread::Spread,
    statistics::median,
    table::{Figure, Table, Target::RatioAtLeast},
};

/// Measurements of each figure.
pub(crate) const ROUNDS: usize = 3;
/// Deliveries per second of svix-server 1.100 with `PostgreSQL` and Redis, one endpoint, 64 connections, on two such cores.
const PEER: f64 = 1_300.0;

/// What a row with one webhook sets: the default of 10 attempts at a time is for receivers one does not know.
pub(crate) const ONE_WEBHOOK: &[&str] = &["--in-flight-per-webhook", "64"];

/// The loops that the daemon is compared with.
pub(crate) fn yardsticks(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let note = format!("{ROUNDS} × 64 in flight, 2 workers, signed");
    for (name, client) in [("yardstick_reqwest", HttpClient::Reqwest), ("yardstick_hyper", HttpClient::Hyper)] {
        let rates = (0..ROUNDS).map(|_| rig.post(client)).collect::<Result<Vec<_>>>()?;
        table.add(Figure::new(name, median(rates), "requests/s", &note));
    }
    let rates = (0..ROUNDS).map(|_| rig.commit()).collect::<Result<Vec<_>>>()?;
    let note = format!("{ROUNDS} × two-phase, 100 events per commit");
    table.add(Figure::new("yardstick_redb", median(rates), "events/s", note));
    Ok(())
}

/// What is delivered, with which settings, and what is asked of it.
struct EndToEnd {
    name: &'static str,
    /// The figure of what is written to disk meanwhile.
    disk: &'static str,
    flags: &'static [&'static str],
    spread: Spread,
    events: u64,
    /// Share of the yardstick, at least.
    ratio: f64,
}

/// One webhook.
pub(crate) fn one(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(300_000, 40_000);
    let (flags, spread) = (ONE_WEBHOOK, Spread::one());
    let row = EndToEnd { name: "e2e_1", disk: "disk", flags, spread, events, ratio: 0.4 };
    let rate = end_to_end(rig, table, &row)?;
    let note = "over svix-server, one endpoint";
    table.add(Figure::new("e2e_1_peer", rate, "deliveries/s", note).over(PEER).target(RatioAtLeast(15.0)));
    Ok(())
}

/// Every event for ten webhooks.
pub(crate) fn fan_10(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let (events, spread) = (rig.scale.count(40_000, 6_000), Spread::fan(10));
    let row = EndToEnd { name: "e2e_fan10", disk: "disk_fan10", flags: &[], spread, events, ratio: 0.5 };
    end_to_end(rig, table, &row)?;
    Ok(())
}

/// Every event for one of a thousand webhooks on a hundred hosts.
pub(crate) fn thousand(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let (events, spread) = (rig.scale.count(300_000, 40_000), spread_of_thousand());
    let row = EndToEnd { name: "e2e_1000", disk: "disk_1000", flags: &[], spread, events, ratio: 0.4 };
    end_to_end(rig, table, &row)?;
    Ok(())
}

/// The webhooks of that row.
pub(crate) fn spread_of_thousand() -> Spread {
    Spread::over(1_000).hosts(HOSTS)
}

/// Deliveries per second of a spread on a store of its own.
pub(crate) fn rate(rig: &mut Rig, flags: &[&str], spread: &Spread, events: u64) -> Result<f64> {
    let daemon = rig.daemon_with(flags, spread)?;
    rig.burst(&daemon, spread, events / 10 + 1)?;
    let bursts = (0..ROUNDS).map(|_| rig.burst(&daemon, spread, events)).collect::<Result<Vec<_>>>()?;
    Ok(median(bursts.iter().map(|burst| burst.deliveries_per_second)))
}

/// Measures one row, in turns with its yardstick, and returns its rate.
fn end_to_end(rig: &mut Rig, table: &mut Table, row: &EndToEnd) -> Result<f64> {
    let EndToEnd { name, disk, flags, ref spread, events, ratio } = *row;
    let daemon = rig.daemon_with(flags, spread)?;
    rig.burst(&daemon, spread, events / 10 + 1)?;
    let (mut yardsticks, mut bursts) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        yardsticks.push(rig.post(HttpClient::Reqwest)?);
        bursts.push(rig.burst(&daemon, spread, events)?);
    }
    let of = |figure: fn(&Burst) -> f64| median(bursts.iter().map(figure));
    let settings = if flags.is_empty() { "defaults".to_owned() } else { flags.join(" ") };
    let note = format!("{ROUNDS} × {} deliveries; {settings}", bursts[0].deliveries);
    let rate = of(|burst| burst.deliveries_per_second);
    let figure = Figure::new(name, rate, "deliveries/s", &note).over(median(yardsticks));
    table.add(figure.target(RatioAtLeast(ratio)));
    let cpu = of(|burst| burst.cpu_micros);
    table.add(Figure::new(format!("{name}_cpu"), cpu, "µs/delivery", "the daemon's processor time"));
    table.add(Figure::new(format!("{name}_rss"), daemon.resident_peak_mib()?, "MiB", "peak"));
    let acks = of(|burst| burst.acknowledged_per_second);
    table.add(Figure::new(format!("{name}_acks"), acks, "events/s", "acknowledged while it delivers"));
    let written = of(|burst| burst.written_bytes);
    table.add(Figure::new(disk, written, "bytes/KiB", format!("written to disk per KiB delivered; {note}")));
    Ok(rate)
}
