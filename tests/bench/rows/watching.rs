//! What watchers cost.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use super::throughput::ROUNDS;
use crate::{
    protocol::{Watch, Watched},
    rig::{Child, HOSTS, PATIENCE, Rig},
    spread::Spread,
    statistics::median,
    table::{
        Figure, Table,
        Target::{RatioAtLeast, RatioAtMost},
    },
};

const WATCHERS: u32 = 100;
/// How long the last updates may take to arrive.
const LOOKS: usize = 300;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A hundred streams of one webhook each and one that never reads, in turns with a daemon that nobody watches.
pub(crate) fn watchers(rig: &mut Rig, table: &mut Table) -> Result<()> {
    let spread = Spread::over(WATCHERS).hosts(HOSTS);
    let alone = rig.daemon_with(&[], &spread)?;
    let watched = rig.daemon(&[])?;
    let webhooks = rig.create_webhooks(&watched, &spread, &rig.receiver)?;
    let mut child = Child::role("watchers", &[])?;
    let open = Watch::Open { endpoint: watched.endpoint().to_owned(), webhooks };
    child.ask::<_, Watched>(&open, PATIENCE)?;

    let events = rig.scale.count(200_000, 20_000);
    rig.burst(&alone, &spread, events / 5 + 1)?;
    let mut delivered = rig.burst(&watched, &spread, events / 5 + 1)?.deliveries;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        before.push(rig.burst(&alone, &spread, events)?.deliveries_per_second);
        let burst = rig.burst(&watched, &spread, events)?;
        delivered += burst.deliveries;
        after.push(burst.deliveries_per_second);
        expect_updates(&mut child, delivered)?;
    }
    let note = format!(
        "{ROUNDS} × {events} deliveries with {WATCHERS} streams of one webhook each and one that never reads, over a daemon \
         without; defaults"
    );
    let figure = Figure::new("watchers", median(after), "deliveries/s", note).over(median(before));
    table.add(figure.target(RatioAtLeast(0.9)));
    let figure = Figure::new("watchers_rss", watched.resident_peak_mib()?, "MiB", "peak, over a daemon without");
    table.add(figure.over(alone.resident_peak_mib()?).target(RatioAtMost(1.5)));
    Ok(())
}

/// Every delivery is one update to one watcher.
fn expect_updates(child: &mut Child, delivered: u64) -> Result<()> {
    let mut updates = 0;
    for _ in 0..LOOKS {
        updates = child.ask::<_, Watched>(&Watch::Look, PATIENCE)?.updates;
        if updates >= delivered {
            break;
        }
        thread::sleep(LOOK_INTERVAL);
    }
    ensure!(updates == delivered, "{delivered} deliveries, but watchers saw {updates} outcomes");
    Ok(())
}
