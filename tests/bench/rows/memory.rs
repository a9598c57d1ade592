//! Memory without a backlog.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use super::throughput::{ROUNDS, spread_of_thousand};
use crate::{
    protocol::Behaviour,
    rig::Rig,
    statistics::{median, number},
    table::{Figure, Table, Target::AtMost},
};

const IDLE: Duration = Duration::from_secs(1);
/// Room for every receiver to hang at the same time.
const HANGING_FLAGS: &[&str] = &["--in-flight", "2048"];
const HANGING_EVENTS_EACH: u64 = 20;

/// A daemon that has nothing to do on a new store.
pub(crate) fn idle(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let one = |rig: &Rig| {
        let daemon = rig.daemon(&[])?;
        thread::sleep(IDLE);
        daemon.resident_mib()
    };
    let sizes = (0..ROUNDS).map(|_| one(rig)).collect::<Result<Vec<_>>>()?;
    let note = format!("{ROUNDS} × a second after the start; defaults");
    table.add(Figure::new("rss_idle", median(sizes), "MiB", note).target(AtMost(20.0)));
    Ok(())
}

/// A thousand receivers that never answer, until their attempts have timed out and been made again.
pub(crate) fn hanging(rig: &mut Rig, table: &mut Table) -> Result<()> {
    rig.receiver.reset(false)?;
    rig.receiver.behave(Behaviour::Hang)?;
    let spread = spread_of_thousand();
    let daemon = rig.daemon_with(HANGING_FLAGS, &spread)?;
    let command = rig.publish_command(&daemon, &spread, HANGING_EVENTS_EACH * u64::from(spread.places));
    rig.publish(&daemon, &command)?;
    rig.receiver.wait(u64::from(spread.places))?;
    let watched = Duration::from_micros(rig.scale.micros(25_000_000, 5_000_000));
    thread::sleep(watched);
    let arrived = rig.receiver.seen()?.arrived;
    ensure!(arrived >= u64::from(spread.places), "only {arrived} attempts");
    let note = format!(
        "peak within {:.0} s; 1 × 1,000 receivers, {HANGING_EVENTS_EACH} events each, {arrived} attempts; {}",
        number(u64::try_from(watched.as_micros())?) / 1e6,
        HANGING_FLAGS.join(" ")
    );
    table.add(Figure::new("rss_1k_hanging", daemon.resident_peak_mib()?, "MiB", note).target(AtMost(150.0)));
    drop(daemon);
    rig.receiver.quiet()?;
    rig.receiver.behave(Behaviour::Answer)?;
    rig.receiver.reset(false)
}
