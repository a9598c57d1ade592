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
#[command(name = "bench", max_term_width = 100, after_long_help = NAMES)]
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
FIGURES, by name. Deliveries per second count from the first event sent to the last arrival:
publishing is part of it.
Names with --only choose what is measured together: those that start a line, and those in
[brackets].
The quick table keeps the names and makes the numbers in them smaller; its last column says so.

yardstick_reqwest, yardstick_hyper, yardstick_redb
    The bare loops.
e2e_1, e2e_fan10, e2e_1000
    Deliveries/s: one webhook; ten webhooks per event; 1,000 webhooks, each event for one of
    them. Each also as …_cpu (µs of the daemon's processor time per delivery, its work
    afterwards included), …_rss (peak, MiB), …_acks (acknowledged events/s meanwhile).
    e2e_1_peer: e2e_1 over the 1,300/s of svix-server.
    [disk], disk_fan10, disk_1000: bytes written to disk per KiB delivered.
publish_ack
    Acknowledged events/s with deliveries parked on one webhook; [publish_ack_1000] over 1,000
    webhooks.
latency_1k, latency_10k, latency_1k_10gb
    p99 from publish to arrival, ms, at 1,000 and 10,000 events/s, and at 1,000 with 10 GB in
    the data directory. Events are sent when they are due, whatever the daemon does, and latency
    counts from then. Each also as …_p50, and from publish to acknowledgement as …_ack_p50 and
    …_ack_p99.
rss_idle, rss_1k_hanging, rss_1m_pending
    MiB: at rest; peak with 1,000 receivers that hang; peak with 1,000,000 deliveries pending,
    the worse of rss_1m_pending_one (on one webhook) and rss_1m_pending_many (over 100,000).
restart_1m, [drain_1m]
    kill -9 with 1,000,000 deliveries pending over 1,000 webhooks: seconds from exec to the
    first delivery, and to SERVING (restart_1m_serving); then deliveries/s until all are
    delivered, with drain_1m_cpu and drain_1m_rss.
growth_webhooks, growth_history, growth_retries
    e2e_1 again with 100,000 webhooks registered; 5,000,000 deliveries finished; 1,000,000
    waiting for their next attempt. The yardstick is an empty store. Each also as …_rss.
wide
    p99 ack of others, ms, while one event for 10,000 webhooks is accepted, expanded and
    delivered; the yardstick is without it. wide_accept: ms until it is acknowledged; wide_rate:
    its deliveries/s.
fairness
    p99 from publish to arrival, ms, for 99 healthy webhooks beside one that hangs with
    1,000,000 pending; the yardstick is without it. Also as fairness_p50, fairness_rss.
watchers
    Deliveries/s with 100 streams of one webhook each and one that never reads; the yardstick is
    without them. watchers_rss.
disk_file
    Largest size of the data directory, MB, in the second half of ten minutes at 3,000 events/s
    with a retention of a minute; the yardstick is the bodies of a minute. disk_rss. Not in the
    quick table.
chart_webhooks, chart_backlog, chart_load
    The points of the charts, with --charts only: chart_webhooks_N, chart_backlog_N
    (deliveries/s), chart_load_N_p50, …_p99.";
