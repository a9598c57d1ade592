//! What the figures were measured on.

use std::{fs, thread};

/// Processors and load, in a line; as much of it as the system tells.
pub(crate) fn description() -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (cpuinfo, load) = (read("/proc/cpuinfo"), read("/proc/loadavg"));
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{processors} × {}; load average before the start {load}", model.trim_start_matches([' ', '\t', ':']))
}
