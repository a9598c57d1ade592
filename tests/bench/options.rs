//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::statistics::number;

/// Measures the daemon and prints the table of README's figures.
///
/// Starts the daemon, a lean receiver and a publisher as processes of their own on the loopback interface. Yardsticks are
/// measured in the same run, in turns with what they are compared to: a bare reqwest loop (64 in flight, 2 workers) and a bare
/// hyper loop that sign and post the same bodies to the same receiver, and a bare redb loop that commits the same bytes
/// (a row with the body and a row that says when it is due for each event, two-phase, 100 events per commit).
///
/// Every figure is the median of the measurements that the table states, three at least unless one takes minutes. A row
/// fails, and the exit code is 1, when what arrived is not exactly what was acknowledged.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 110, after_long_help = NAMES)]
pub(crate) struct Options {
    /// About two minutes with smaller numbers, which the table states, instead of the whole table
    #[arg(long)]
    pub(crate) quick: bool,

    /// Write the figures to this file: a list of {name, value, unit, yardstick, ratio}
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Only the rows that hold these figures, such as `e2e_1,latency_1k`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Draw the charts into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) charts: Option<PathBuf>,

    /// Put stores into this directory, which must be on a real disk; a temporary one by default
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Multiply all counts and durations, to try the benchmark itself; the figures then say nothing
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, hide_short_help = true)]
    pub(crate) scale: f64,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// What the child processes are started as.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Role {
    /// Takes requests and counts them
    #[command(hide = true)]
    Receiver {
        /// On how many addresses
        #[arg(long)]
        hosts: u8,
    },
    /// Publishes events
    #[command(hide = true)]
    Publisher,
    /// Posts without a daemon
    #[command(hide = true)]
    Poster,
    /// Commits without a daemon
    #[command(hide = true)]
    Committer,
    /// Follows outcomes
    #[command(hide = true)]
    Watchers,
}

/// How large measurements are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// The smaller ones.
    pub(crate) quick: bool,
    /// Times this.
    pub(crate) factor: f64,
}

impl Scale {
    /// A count: of the whole table, or of the quick one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a benchmark")]
    pub(crate) fn count(self, whole: u64, quick: u64) -> u64 {
        let count = if self.quick { quick } else { whole };
        ((number(count) * self.factor) as u64).max(1)
    }

    /// A duration in microseconds, at least a tenth of a second.
    pub(crate) fn micros(self, whole: u64, quick: u64) -> u64 {
        self.count(whole, quick).max(100_000)
    }
}

const NAMES: &str = "\
Figures that scripts may rely on. Rates are deliveries per second unless stated otherwise; deliveries count from the first
event sent to the last arrival, so publishing is part of it.
  yardstick_reqwest, yardstick_hyper, yardstick_redb   the bare loops
  e2e_1, e2e_fan10, e2e_1000   1 webhook; 10 webhooks per event; 1,000 webhooks, each event for one of them.
      Each also as …_cpu (µs of the daemon's processor time per delivery, what is done afterwards included), …_rss (peak, MiB)
      and …_acks (acknowledged events per second meanwhile); e2e_1_peer is e2e_1 over the peer's 1,300/s
  publish_ack                  acknowledged events/s, deliveries parked on one webhook; publish_ack_1000 over 1,000
  latency_1k, latency_10k      p99 from publish to arrival at the receiver, ms, at that many events per second, sent when
      they are due whatever the daemon does; also …_p50, and …_ack_p50, …_ack_p99 from publish to acknowledgement";
