//! What the benchmark says to its child processes, and what they answer: JSON, a line each, over stdin and stdout.
//!
//! A child that loses its stdin exits at once, whatever it is doing, so that none outlives the benchmark.

use std::{
    io::{BufRead as _, Write as _},
    process, thread,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{rig::Hook, spread::Spread, statistics::Percentiles};

/// To the receiver; it answers each with [`Seen`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Receive {
    /// Say what was seen.
    Look,
    /// Say what was seen, then forget it; keep latencies from now on if asked to.
    Reset {
        /// Whether to keep them.
        latencies: bool,
    },
    /// Behave like that from now on.
    Behave(Behaviour),
    /// Answer when that many requests have arrived since the last reset; fails when none arrives for half a minute.
    Wait {
        /// How many.
        arrived: u64,
    },
}

/// What the tenants of webhooks that only stand by are called.
pub(crate) const OTHERS: &str = "others";

/// What a receiver does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Behaviour {
    /// 200 at once.
    Answer,
    /// 500 at once.
    Fail,
    /// 500 at once, uncounted, to the webhooks of [`OTHERS`]; 200 to the rest.
    FailOthers,
    /// Nothing, until it behaves otherwise.
    Hang,
}

/// What a receiver has seen since it was reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Its port, on all its addresses.
    pub(crate) port: u16,
    /// Requests that arrived whole.
    pub(crate) arrived: u64,
    /// Sum of their events' fingerprints.
    pub(crate) fingerprint: u64,
    /// When the first arrived.
    pub(crate) first: u64,
    /// When the last arrived.
    pub(crate) last: u64,
    /// From the time in each body to its arrival, if asked for.
    pub(crate) latency: Percentiles,
}

/// To the publisher, which answers with [`Published`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// Where the daemon serves: `http://ADDRESS`.
    pub(crate) endpoint: String,
    /// `PublishEvents` streams, each on a connection of its own.
    pub(crate) streams: usize,
    /// Where the events go.
    pub(crate) spread: Spread,
    /// Number of the first event; none is used twice.
    pub(crate) first: u64,
    /// How many.
    pub(crate) events: u64,
    /// Length of each body.
    pub(crate) body_bytes: usize,
    /// Events per second over all streams, sent when they are due whatever the daemon does; `None`: as fast as it takes them.
    pub(crate) rate: Option<f64>,
    /// Whether to answer with the latency of every single event.
    pub(crate) samples: bool,
}

/// What a publisher did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Events acknowledged: all of them.
    pub(crate) acknowledged: u64,
    /// To how many webhooks they go.
    pub(crate) deliveries: u64,
    /// Sum of their fingerprints, each as often as it goes somewhere.
    pub(crate) fingerprint: u64,
    /// When the first was sent, or due.
    pub(crate) first: u64,
    /// When the last was acknowledged.
    pub(crate) last: u64,
    /// From sent, or due, to acknowledged.
    pub(crate) ack: Percentiles,
    /// When each was due, and how many microseconds later it was acknowledged, if asked for.
    pub(crate) samples: Vec<(u64, u32)>,
}

/// To the poster, which answers with [`Posted`]: a loop without a daemon, the yardstick of deliveries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Post {
    /// Where to.
    pub(crate) url: String,
    /// With which HTTP client.
    pub(crate) client: HttpClient,
    /// How many requests are under way at a time.
    pub(crate) in_flight: usize,
    /// For how long.
    pub(crate) micros: u64,
}

/// Which library posts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum HttpClient {
    /// The one that the daemon uses.
    Reqwest,
    /// The one below it: hyper-util's pooling client.
    Hyper,
}

/// What a poster did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Posted {
    /// Requests answered 200: all of them.
    pub(crate) requests: u64,
    /// How long it took.
    pub(crate) micros: u64,
}

/// To the committer, which answers with [`Committed`]: a loop without a daemon, the yardstick of acknowledgements.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Directory for the file.
    pub(crate) directory: std::path::PathBuf,
    /// Events in each transaction.
    pub(crate) events: u64,
    /// For how long.
    pub(crate) micros: u64,
}

/// What a committer did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Committed {
    /// Events committed.
    pub(crate) events: u64,
    /// How long it took.
    pub(crate) micros: u64,
}

/// To the watchers, which answer with [`Watched`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Watch {
    /// Open a stream for each of these webhooks, and one for everything that is never read.
    Open {
        /// Where the daemon serves: `http://ADDRESS`.
        endpoint: String,
        /// What to watch.
        webhooks: Vec<Hook>,
    },
    /// Say what was seen.
    Look,
}

/// What watchers have seen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watched {
    /// Updates, over all streams that are read.
    pub(crate) updates: u64,
}

/// Takes commands and answers them until stdin is closed.
pub(crate) fn serve<C: DeserializeOwned + Send + 'static, R: Serialize>(
    mut answer: impl FnMut(C) -> Result<R>,
) -> Result<()> {
    let (sender, commands) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let command = serde_json::from_str::<C>(&line).context("a command that cannot be read");
            if sender.send(command).is_err() {
                break;
            }
        }
        process::exit(0);
    });
    for command in commands {
        let reply = command.and_then(&mut answer).map_err(|error| format!("{error:#}"));
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()?;
    }
    Ok(())
}
