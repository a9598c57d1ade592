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

/// One webhook.
pub(crate) fn one(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(300_000, 50_000);
    let rate = end_to_end(rig, table, "e2e_1", 0.4, ONE_WEBHOOK, &Spread::one(), events)?;
    let note = "over svix-server, one endpoint";
    table.add(Figure::new("e2e_1_peer", rate, "deliveries/s", note).over(PEER).target(RatioAtLeast(15.0)));
    Ok(())
}

/// Every event for ten webhooks.
pub(crate) fn fan_10(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(40_000, 8_000);
    end_to_end(rig, table, "e2e_fan10", 0.5, &[], &Spread::fan(10), events)?;
    Ok(())
}

/// Every event for one of a thousand webhooks on a hundred hosts.
pub(crate) fn thousand(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(300_000, 50_000);
    end_to_end(rig, table, "e2e_1000", 0.4, &[], &spread_of_thousand(), events)?;
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
fn end_to_end(
    rig: &mut Rig,
    table: &mut Table,
    name: &str,
    ratio: f64,
    flags: &[&str],
    spread: &Spread,
    events: u64,
) -> Result<f64> {
    let daemon = rig.daemon_with(flags, spread)?;
    rig.burst(&daemon, spread, events / 10 + 1)?;
    let (mut yardsticks, mut bursts) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        yardsticks.push(rig.post(HttpClient::Reqwest)?);
        bursts.push(rig.burst(&daemon, spread, events)?);
    }
    let of = |figure: fn(&Burst) -> f64| median(bursts.iter().map(figure));
    let deliveries = bursts[0].deliveries;
    let settings = if flags.is_empty() { "defaults".to_owned() } else { flags.join(" ") };
    let note = format!("{ROUNDS} × {deliveries} deliveries; {settings}");
    let rate = of(|burst| burst.deliveries_per_second);
    let figure = Figure::new(name, rate, "deliveries/s", note).over(median(yardsticks));
    table.add(figure.target(RatioAtLeast(ratio)));
    table.add(Figure::new(
        format!("{name}_cpu"),
        of(|burst| burst.cpu_micros),
        "µs/delivery",
        "the daemon's processor time",
    ));
    table.add(Figure::new(format!("{name}_rss"), daemon.resident_peak_mib()?, "MiB", "peak"));
    let note = "while it delivers";
    table.add(Figure::new(format!("{name}_acks"), of(|burst| burst.acknowledged_per_second), "events/s", note));
    Ok(rate)
}
