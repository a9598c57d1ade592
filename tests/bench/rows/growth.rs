//! The first row again on a daemon that has grown, in turns with one that has not.

use anyhow::{Result, ensure};

use super::throughput::{ONE_WEBHOOK, ROUNDS};
use crate::{
    protocol::{Behaviour, OTHERS},
    rig::{Daemon, HOSTS, Rig},
    spread::Spread,
    statistics::median,
    table::{Figure, Table, Target::RatioAtLeast},
};

/// With many webhooks registered that ask for none of these events.
pub(crate) fn webhooks(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let webhooks = u32::try_from(rig.scale.count(100_000, 10_000))?;
    let grown = rig.daemon(ONE_WEBHOOK)?;
    rig.create_webhooks(&grown, &Spread::over(webhooks).hosts(HOSTS).of(OTHERS), &rig.receiver)?;
    compare(rig, table, "growth_webhooks", &grown, ONE_WEBHOOK, &format!("{webhooks} webhooks registered"))
}

/// With many deliveries finished.
pub(crate) fn history(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let deliveries = rig.scale.count(5_000_000, 200_000);
    let spread = Spread::fan(10).of(OTHERS);
    let grown = rig.daemon_with(ONE_WEBHOOK, &spread)?;
    rig.burst(&grown, &spread, deliveries.div_ceil(10))?;
    compare(rig, table, "growth_history", &grown, ONE_WEBHOOK, &format!("{deliveries} deliveries finished"))
}

/// With many deliveries that wait for their next attempt.
pub(crate) fn retries(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let flags: Vec<&str> = ONE_WEBHOOK.iter().copied().chain(["--retry-schedule", "12h"]).collect();
    let deliveries = rig.scale.count(1_000_000, 100_000);
    let spread = Spread { places: 10, ..Spread::fan(10) }.hosts(HOSTS).of(OTHERS);
    let grown = rig.daemon_with(&flags, &spread)?;
    rig.receiver.reset(false)?;
    rig.receiver.behave(Behaviour::Fail)?;
    let command = rig.publish_command(&grown, &spread, deliveries.div_ceil(10));
    let published = rig.publish(&grown, &command)?;
    // Not every delivery needs to have been attempted: a daemon may see soon enough that a receiver is not well.
    let attempted = rig.receiver.quiet()?.arrived;
    ensure!(attempted <= published.deliveries, "{attempted} attempts of {} deliveries", published.deliveries);
    grown.settle()?;
    // The circuit breakers of the others go on probing.
    rig.receiver.behave(Behaviour::FailOthers)?;
    rig.receiver.reset(false)?;
    let what = format!("{} pending, {attempted} attempted once", published.deliveries);
    let compared = compare(rig, table, "growth_retries", &grown, &flags, &what);
    rig.receiver.behave(Behaviour::Answer)?;
    compared
}

/// Measures one webhook on the grown daemon and on a new one.
fn compare(rig: &mut Rig, table: &mut Table, name: &str, grown: &Daemon, flags: &[&str], what: &str) -> Result<()> {
    let spread = Spread::one();
    let empty = rig.daemon_with(flags, &spread)?;
    rig.create_webhooks(grown, &spread, &rig.receiver)?;
    let events = rig.scale.count(200_000, 20_000);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for daemon in [&empty, grown] {
        rig.burst(daemon, &spread, events / 5 + 1)?;
    }
    for _ in 0..ROUNDS {
        before.push(rig.burst(&empty, &spread, events)?.deliveries_per_second);
        after.push(rig.burst(grown, &spread, events)?.deliveries_per_second);
    }
    let note = format!("{ROUNDS} × {events} deliveries; {what}; over an empty store; {}", flags.join(" "));
    let figure = Figure::new(name, median(after), "deliveries/s", note).over(median(before));
    table.add(figure.target(RatioAtLeast(0.8)));
    let peak = grown.resident_peak_mib()?;
    table.add(Figure::new(format!("{name}_rss"), peak, "MiB", "peak").over(empty.resident_peak_mib()?));
    Ok(())
}
