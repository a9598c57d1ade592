//! The rows of the table.

mod acknowledge;
mod backlog;
mod charts;
mod disk;
mod growth;
mod latency;
mod memory;
mod neighbours;
mod throughput;
mod watching;

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
    Row { title: "End to end, one webhook", names: &["e2e_1", "disk"], measure: throughput::one },
    Row { title: "End to end, ten webhooks per event", names: &["e2e_fan10"], measure: throughput::fan_10 },
    Row { title: "End to end, 1,000 webhooks", names: &["e2e_1000"], measure: throughput::thousand },
    Row {
        title: "Acknowledgements, deliveries parked",
        names: &["publish_ack", "publish_ack_1000"],
        measure: acknowledge::parked,
    },
    Row { title: "Latency at 1,000 events/s", names: &["latency_1k"], measure: latency::at_1k },
    Row { title: "Latency at 10,000 events/s", names: &["latency_10k"], measure: latency::at_10k },
    Row { title: "Latency with a full data directory", names: &["latency_1k_10gb"], measure: latency::at_1k_full },
    Row { title: "Memory at rest", names: &["rss_idle"], measure: memory::idle },
    Row { title: "Memory with 1,000 receivers that hang", names: &["rss_1k_hanging"], measure: memory::hanging },
    Row { title: "Memory with a backlog", names: &["rss_1m_pending"], measure: backlog::memory },
    Row {
        title: "kill -9 with a backlog, and working it off",
        names: &["restart_1m", "drain_1m"],
        measure: backlog::restart_and_drain,
    },
    Row { title: "Growth: webhooks", names: &["growth_webhooks"], measure: growth::webhooks },
    Row { title: "Growth: history", names: &["growth_history"], measure: growth::history },
    Row { title: "Growth: retries", names: &["growth_retries"], measure: growth::retries },
    Row { title: "Wide fan-out", names: &["wide"], measure: neighbours::wide },
    Row { title: "Fairness", names: &["fairness"], measure: neighbours::fairness },
    Row { title: "Watchers", names: &["watchers"], measure: watching::watchers },
    Row { title: "Soak with a short retention", names: &["disk_file"], measure: disk::soak },
];

/// Measured only when charts are drawn, or asked for by name.
const CHARTS: &[Row] = &[
    Row { title: "Chart: webhooks", names: &["chart_webhooks"], measure: charts::over_webhooks },
    Row { title: "Chart: backlog", names: &["chart_backlog"], measure: charts::over_backlog },
    Row { title: "Chart: load", names: &["chart_load"], measure: charts::over_load },
];

/// The rows that hold these figures; without names all rows, and the charts if they are to be drawn.
pub(crate) fn selected(names: &[String], charts: bool) -> Result<Vec<&'static Row>> {
    let all = || ROWS.iter().chain(CHARTS);
    if names.is_empty() {
        return Ok(ROWS.iter().chain(if charts { CHARTS } else { &[] }).collect());
    }
    for name in names {
        if !all().any(|row| row.names.contains(&name.as_str())) {
            let known: Vec<&str> = all().flat_map(|row| row.names).copied().collect();
            bail!("there is no figure {name} to choose; there are {}", known.join(", "));
        }
    }
    Ok(all().filter(|row| row.names.iter().any(|name| names.iter().any(|given| given == name))).collect())
}
