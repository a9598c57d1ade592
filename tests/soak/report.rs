//! What the soak found, for people and for programs.

use std::{fmt, time::Duration};

use anyhow::Result;
use serde_json::json;

use crate::{
    fleet::BODY_BYTES,
    ledger::{Counts, Ending},
    samples::{Sample, Trend, mib, trend},
};

/// The daemon's `--retention`, in seconds.
const RETENTION_SECS: f64 = 60.0;

/// Everything that is worth a line.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) minutes: u32,
    /// Events per second that were measured; none if the rate was given.
    pub(crate) capacity: Option<f64>,
    /// Events per second that were published.
    pub(crate) rate: f64,
    pub(crate) counts: Counts,
    pub(crate) endings: Vec<Ending>,
    /// Most attempts that one kill made to be repeated.
    pub(crate) repeats_max: u32,
    /// Longest from the start of a daemon until it served.
    pub(crate) slowest_start: Duration,
    pub(crate) samples: Vec<Sample>,
    pub(crate) violations: u64,
    pub(crate) first_violations: Vec<String>,
}

impl Report {
    /// Whether nothing was violated and everything is flat.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations == 0 && self.trends().iter().all(|(_, _, trend)| trend.flat != Some(false))
    }

    /// What is sampled, and in which unit.
    fn trends(&self) -> [(&'static str, &'static str, Trend); 5] {
        let live = self.live_mib();
        let samples = &self.samples;
        let files = |sample: &Sample| sample.hot_mib + sample.segments_mib;
        [
            ("memory (RSS)", "MiB", trend(samples, |sample| sample.resident_mib, 8.0, None)),
            ("descriptors", "", trend(samples, |sample| sample.descriptors, 256.0, None)),
            ("hot.redb", "MiB", trend(samples, |sample| sample.hot_mib, 16.0, Some(live))),
            ("segments", "MiB", trend(samples, |sample| sample.segments_mib, 16.0, Some(live))),
            ("files in all", "MiB", trend(samples, files, 16.0, Some(live))),
        ]
    }

    /// The bodies that retention keeps, in MiB.
    fn live_mib(&self) -> f64 {
        self.rate * RETENTION_SECS * mib(BODY_BYTES as u64)
    }

    fn endings(&self, kind: Ending) -> usize {
        self.endings.iter().filter(|&&ending| ending == kind).count()
    }

    /// A list of `{name, value, unit}`, and the violations.
    pub(crate) fn json(&self) -> Result<String> {
        let counts = &self.counts;
        let figure =
            |name: &str, value: serde_json::Value, unit: &str| json!({"name": name, "value": value, "unit": unit});
        let mut figures = vec![
            figure("seed", json!(self.seed), ""),
            figure("duration", json!(self.minutes), "min"),
            figure("capacity", json!(self.capacity), "events/s"),
            figure("rate", json!(self.rate), "events/s"),
            figure("acknowledged", json!(counts.acknowledged), "events"),
            figure("delivered", json!(counts.delivered), "deliveries"),
            figure("failed", json!(counts.failed), "deliveries"),
            figure("requests", json!(counts.requests), "requests"),
            figure("repeats", json!(counts.repeats), "requests"),
            figure("repeats_max", json!(self.repeats_max), "requests"),
            figure("outcomes", json!(counts.outcomes), "outcomes"),
            figure("silent", json!(counts.silent), "outcomes"),
            figure("kills", json!(self.endings(Ending::Killed)), "restarts"),
            figure("stops", json!(self.endings(Ending::Stopped)), "restarts"),
            figure("slowest_start", json!(self.slowest_start.as_secs_f64()), "s"),
            figure("violations", json!(self.violations), ""),
        ];
        for (name, unit, trend) in self.trends() {
            figures.push(json!({"name": name, "value": trend.last, "unit": unit, "second_quarter": trend.second,
                "max": trend.max, "bound": trend.bound, "flat": trend.flat}));
        }
        Ok(serde_json::to_string_pretty(&json!({"figures": figures, "violations": self.first_violations}))?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let capacity = self.capacity.map_or("not measured".to_owned(), |capacity| format!("{capacity:.0} events/s"));
        let (kills, stops) = (self.endings(Ending::Killed), self.endings(Ending::Stopped));
        writeln!(f, "| soak of {} minutes, seed {} | |\n|---|---|", self.minutes, self.seed)?;
        writeln!(f, "| capacity, published | {capacity}, {:.0} events/s |", self.rate)?;
        writeln!(f, "| events acknowledged | {} |", counts.acknowledged)?;
        writeln!(f, "| deliveries delivered, given up by policy | {}, {} |", counts.delivered, counts.failed)?;
        writeln!(f, "| requests at receivers, outcomes followed | {}, {} |", counts.requests, counts.outcomes)?;
        writeln!(f, "| ended by SIGKILL, by SIGTERM | {kills}, {stops} |")?;
        writeln!(f, "| slowest start until SERVING | {:.2} s |", self.slowest_start.as_secs_f64())?;
        writeln!(f, "| requests repeated after kills, most after one | {}, {} |", counts.repeats, self.repeats_max)?;
        writeln!(f, "| attempts that receivers who always answer did not answer in time | {} |", counts.silent)?;
        writeln!(f, "| promises broken | {} |", self.violations)?;
        writeln!(f)?;
        writeln!(f, "| daemon | median of 2nd quarter | of last quarter | max | bound | |\n|---|---|---|---|---|---|")?;
        for (name, unit, trend) in self.trends() {
            let verdict = match trend.flat {
                None => "too short to tell",
                Some(true) => "flat",
                Some(false) => "GROWS",
            };
            let Trend { second, last, max, bound, .. } = trend;
            writeln!(f, "| {name} | {second:.0} | {last:.0} | {max:.0} {unit} | {bound:.0} | {verdict} |")?;
        }
        writeln!(f, "\nThe bodies of a minute, which is the retention: {:.0} MiB.", self.live_mib())?;
        for violation in &self.first_violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        Ok(())
    }
}
