//! How much room the store takes.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    moment::now_micros,
    payload::BODY_BYTES,
    rig::Rig,
    spread::Spread,
    statistics::number,
    table::{Figure, Table, Target::RatioAtMost},
};

/// Events per second of the soak.
const SOAK_RATE: u32 = 3_000;
const SOAK_MICROS: u64 = 600_000_000;
const SOAK_RETENTION_SECONDS: u32 = 60;
const SOAK_FLAGS: &[&str] = &["--retention", "1m", "--in-flight-per-webhook", "64"];
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Size of the data directory in a soak with a retention of a minute. Not in the quick table.
pub(crate) fn soak(rig: &mut Rig, table: &mut Table) -> Result<()> {
    if rig.scale.quick {
        eprintln!("  takes ten minutes: not in the quick table");
        return Ok(());
    }
    let micros = rig.scale.micros(SOAK_MICROS, SOAK_MICROS);
    let daemon = rig.daemon_with(SOAK_FLAGS, &Spread::one())?;
    rig.receiver.reset(false)?;
    let command = rig.publish_command_at(&daemon, &Spread::one(), f64::from(SOAK_RATE), micros);
    let start = now_micros();
    rig.start_publishing(&command)?;
    let (mut largest, mut rss) = (0, 0.0);
    while now_micros() < start + micros {
        thread::sleep(LOOK_INTERVAL);
        // The first half fills it up.
        if now_micros() > start + micros / 2 {
            largest = daemon.data_bytes()?.max(largest);
        } else {
            rss = daemon.resident_peak_mib()?;
        }
    }
    let published = rig.published(&daemon)?;
    rig.receiver.arrived(&daemon, published.deliveries, published.fingerprint)?;
    let live = number(u64::from(SOAK_RATE * SOAK_RETENTION_SECONDS)) * number(BODY_BYTES) / 1e6;
    let note = format!(
        "largest in the second half of 1 × {} s at {SOAK_RATE} events/s, over the bodies of a minute; {}",
        micros / 1_000_000,
        SOAK_FLAGS.join(" ")
    );
    table.add(Figure::new("disk_file", number(largest) / 1e6, "MB", note).over(live).target(RatioAtMost(3.0)));
    let figure = Figure::new("disk_rss", daemon.resident_peak_mib()?, "MiB", "peak, over that of the first half");
    table.add(figure.over(rss));
    Ok(())
}
