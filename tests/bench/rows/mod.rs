//! The rows of the table.

mod acknowledge;
mod latency;
mod throughput;

use anyhow::{Result, bail};

use crate::{rig::Rig, table::Table};

/// Figures that are measured together.
pub(crate) struct Row {
    /// What it is, for people.
    pub(crate) title: &'static str,
    /// The figures by which it is chosen.
    pub(crate) names: &'static [&'static str],
    /// Measures them.
    pub(crate) measure: fn(&mut Rig, &mut Table) -> Result<()>,
}

const ROWS: &[Row] = &[
    Row {
        title: "Yardsticks",
        names: &["yardstick_reqwest", "yardstick_hyper", "yardstick_redb"],
        measure: throughput::yardsticks,
    },
    Row { title: "End to end, one webhook", names: &["e2e_1"], measure: throughput::one },
    Row { title: "End to end, ten webhooks per event", names: &["e2e_fan10"], measure: throughput::fan_10 },
    Row { title: "End to end, 1,000 webhooks", names: &["e2e_1000"], measure: throughput::thousand },
    Row {
        title: "Acknowledgements, deliveries parked",
        names: &["publish_ack", "publish_ack_1000"],
        measure: acknowledge::parked,
    },
    Row { title: "Latency at 1,000 events/s", names: &["latency_1k"], measure: latency::at_1k },
    Row { title: "Latency at 10,000 events/s", names: &["latency_10k"], measure: latency::at_10k },
];

/// The rows that hold these figures; all rows if none is named.
pub(crate) fn selected(names: &[String]) -> Result<Vec<&'static Row>> {
    for name in names {
        if !ROWS.iter().any(|row| row.names.contains(&name.as_str())) {
            let known: Vec<&str> = ROWS.iter().flat_map(|row| row.names).copied().collect();
            bail!("there is no figure {name}; there are {}", known.join(", "));
        }
    }
    let chosen = |row: &&Row| names.is_empty() || row.names.iter().any(|name| names.iter().any(|given| given == name));
    Ok(ROWS.iter().filter(chosen).collect())
}
