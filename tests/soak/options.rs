//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Runs the daemon for a while under ordinary trouble, and checks that it keeps its promises and stays as large as it is.
///
/// A daemon with a retention of one minute delivers events of 1 KiB to 100 webhooks, 11 for almost every event: 94 of
/// them are well, 4 answer 500 to about half of all attempts, 1 does to seven of eight, and 1 does not answer every other one. First its capacity
/// is measured, by publishing as fast as it delivers; then events are published at half of that. At random moments, 90
/// seconds apart at most (see --life), it is killed (SIGKILL) or stopped in order (SIGTERM), and started again on the same store. Publishers
/// send again what was not answered, and a watcher goes on from its cursor.
///
/// An oracle checks everything as it goes: every acknowledged event is delivered to each webhook that asked for it, or given
/// up by the policy; attempts arrive twice only if a kill hit them in flight, under the same ids and with the same body, and
/// never after their outcome was committed; the watcher sees every outcome once, in order.
///
/// Every second it notes the daemon's memory, descriptors and files. At the end the median of the last quarter of the time
/// must not be above 1.25 times that of the second quarter, plus 8 MiB of memory, 256 descriptors (of the 1,000 connections that ten for each
/// webhook make), 16 MiB of files; files
/// may also be up to three times as large as the bodies of a minute. That is judged from eight minutes on: before, files
/// still grow.
///
/// The exit code is 0 if nothing was violated. The store is put into TMPDIR, which should be on a real disk.
#[derive(Debug, Parser)]
#[command(name = "soak", max_term_width = 100)]
pub(crate) struct Options {
    /// For how long; 1 is a quick check of the soak itself
    #[arg(long, value_name = "MINUTES", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub(crate) minutes: u32,

    /// Repeat the random choices of a run; each run prints its own
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Restart the daemon at most so many seconds apart. What leaks in memory shows in long lives only: a life as long as the
    /// soak is one without restarts
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(5..))]
    pub(crate) life: u32,

    /// Publish so many events per second instead of half the measured capacity
    #[arg(long, value_name = "EVENTS")]
    pub(crate) rate: Option<f64>,

    /// Write the figures to this file: a list of {name, value, unit}, and the violations
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}
