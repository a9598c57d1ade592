//! How fast events are acknowledged while none is delivered.

use anyhow::Result;

use super::throughput::{ROUNDS, spread_of_thousand};
use crate::{
    protocol::Behaviour,
    rig::Rig,
    spread::Spread,
    statistics::{median, per_second},
    table::{
        Figure, Table,
        Target::{RatioAtLeast, Stated},
    },
};

/// Longer than a round, so that attempts at the hanging receiver cost nothing.
const FLAGS: &[&str] = &["--attempt-timeout", "60s"];

/// On one webhook, and over a thousand, of a receiver that hangs.
pub(crate) fn parked(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let one = (Spread::one(), "publish_ack", RatioAtLeast(0.8));
    let thousand = (spread_of_thousand(), "publish_ack_1000", Stated);
    for (spread, name, target) in [one, thousand] {
        let events = rig.scale.count(300_000, 50_000);
        rig.receiver.reset(false)?;
        rig.receiver.behave(Behaviour::Hang)?;
        let daemon = rig.daemon_with(FLAGS, &spread)?;
        let warm_up = rig.publish_command(&daemon, &spread, events / 10 + 1);
        rig.publish(&daemon, &warm_up)?;
        let (mut yardsticks, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            yardsticks.push(rig.commit()?);
            let command = rig.publish_command(&daemon, &spread, events);
            let published = rig.publish(&daemon, &command)?;
            rates.push(per_second(published.acknowledged, published.last - published.first));
        }
        drop(daemon);
        rig.receiver.behave(Behaviour::Answer)?;
        rig.receiver.reset(false)?;
        let note = format!("{ROUNDS} × {events} events, 4 streams; {}", FLAGS.join(" "));
        table.add(Figure::new(name, median(rates), "events/s", note).over(median(yardsticks)).target(target));
    }
    Ok(())
}
