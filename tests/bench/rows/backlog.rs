//! What a backlog costs, and how fast it goes.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use super::throughput::{ROUNDS, rate, spread_of_thousand};
use crate::{
    protocol::{Behaviour, Published},
    rig::{Daemon, HOSTS, Rig},
    spread::Spread,
    statistics::{median, number, per_second},
    table::{
        Figure, Table,
        Target::{AtMost, RatioAtLeast},
    },
};

/// Longer than it takes to publish, so that the backlog is of deliveries never attempted to the end.
const FLAGS: &[&str] = &["--attempt-timeout", "60s"];
/// How long what a killed daemon had sent may take to arrive.
const ARRIVING: Duration = Duration::from_millis(300);
/// How long memory is watched after the last acknowledgement.
const WATCHED: Duration = Duration::from_secs(2);
const RSS_MIB: f64 = 150.0;

/// A daemon with deliveries pending for receivers that hang.
struct Backlog {
    daemon: Daemon,
    published: Published,
}

fn backlog(rig: &mut Rig, spread: &Spread, events: u64) -> Result<Backlog> {
    rig.receiver.reset(false)?;
    rig.receiver.behave(Behaviour::Hang)?;
    let daemon = rig.daemon_with(FLAGS, spread)?;
    let command = rig.publish_command(&daemon, spread, events);
    let published = rig.publish(&daemon, &command)?;
    Ok(Backlog { daemon, published })
}

fn done(rig: &mut Rig, daemon: Daemon) -> Result<()> {
    drop(daemon);
    thread::sleep(ARRIVING);
    rig.receiver.behave(Behaviour::Answer)?;
    rig.receiver.reset(false)
}

/// Memory with a backlog on one webhook, and spread over many.
pub(crate) fn memory(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(1_000_000, 100_000);
    let many = u32::try_from(rig.scale.count(100_000, 10_000))?;
    let mut worst = 0.0_f64;
    for (name, spread) in
        [("rss_1m_pending_one", Spread::one()), ("rss_1m_pending_many", Spread::over(many).hosts(HOSTS))]
    {
        let Backlog { daemon, .. } = backlog(rig, &spread, events)?;
        thread::sleep(WATCHED);
        let peak = daemon.resident_peak_mib()?;
        worst = worst.max(peak);
        let settings = FLAGS.join(" ");
        let note = format!("peak; 1 × {events} pending over {} webhooks; {settings}", spread.places);
        table.add(Figure::new(name, peak, "MiB", note).target(AtMost(RSS_MIB)));
        done(rig, daemon)?;
    }
    table.add(Figure::new("rss_1m_pending", worst, "MiB", "the worse of the two").target(AtMost(RSS_MIB)));
    Ok(())
}

/// kill -9 with a backlog: how soon the next daemon delivers, and how fast it works the backlog off.
pub(crate) fn restart_and_drain(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let events = rig.scale.count(1_000_000, 100_000);
    let spread = spread_of_thousand();
    let Backlog { mut daemon, published } = backlog(rig, &spread, events)?;
    let (mut firsts, mut servings) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let killed = daemon.kill()?;
        thread::sleep(ARRIVING);
        rig.receiver.reset(false)?;
        daemon = killed.restart()?;
        let first = rig.receiver.wait(1)?.first;
        ensure!(first >= daemon.started, "what arrived was sent by the daemon before");
        firsts.push(number(first - daemon.started) / 1e6);
        servings.push(number(daemon.serving - daemon.started) / 1e6);
    }
    let note = format!("{ROUNDS} × kill -9 with {events} pending over 1,000 webhooks");
    let figure = |name, seconds, what| Figure::new(name, median(seconds), "s", format!("{what}; {note}"));
    table.add(figure("restart_1m", firsts, "exec to first delivery").target(AtMost(1.0)));
    table.add(figure("restart_1m_serving", servings, "exec to SERVING").target(AtMost(2.0)));

    // The last one has been at it for a moment only, and every attempt so far hangs.
    let (rate_of_drain, cpu) = release(rig, &daemon, &published)?;
    let peak = daemon.resident_peak_mib()?;
    done(rig, daemon)?;
    let yardstick = e2e_1000(rig, table)?;
    let note = format!("1 × {events} pending over 1,000 webhooks, after a restart; over e2e_1000");
    let figure = Figure::new("drain_1m", rate_of_drain, "deliveries/s", note).over(yardstick);
    table.add(figure.target(RatioAtLeast(0.8)));
    table.add(Figure::new("drain_1m_cpu", cpu, "µs/delivery", "the daemon's processor time"));
    table.add(Figure::new("drain_1m_rss", peak, "MiB", "peak"));
    Ok(())
}

/// Deliveries per second of a backlog over 1,000 webhooks, none of which was attempted to the end before.
pub(crate) fn drain(rig: &mut Rig, events: u64) -> Result<f64> {
    let Backlog { daemon, published } = backlog(rig, &spread_of_thousand(), events)?;
    let killed = daemon.kill()?;
    thread::sleep(ARRIVING);
    rig.receiver.reset(false)?;
    let daemon = killed.restart()?;
    rig.receiver.wait(1)?;
    let (rate, _) = release(rig, &daemon, &published)?;
    done(rig, daemon)?;
    Ok(rate)
}

/// Lets the receiver answer, and returns deliveries per second until the last, and the daemon's processor time for each.
fn release(rig: &mut Rig, daemon: &Daemon, published: &Published) -> Result<(f64, f64)> {
    let cpu = daemon.cpu_micros()?;
    let start = crate::moment::now_micros();
    rig.receiver.behave(Behaviour::Answer)?;
    let seen = rig.receiver.arrived(daemon, published.deliveries, published.fingerprint)?;
    daemon.settle()?;
    let cpu = number(daemon.cpu_micros()? - cpu) / number(published.deliveries);
    Ok((per_second(published.deliveries, seen.last.saturating_sub(start)), cpu))
}

/// As measured before, or measured now.
fn e2e_1000(rig: &mut Rig, table: &Table) -> Result<f64> {
    match table.value("e2e_1000") {
        Some(value) => Ok(value),
        None => rate(rig, &[], &spread_of_thousand(), rig.scale.count(300_000, 40_000)),
    }
}
