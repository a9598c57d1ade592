//! The rig: a receiver, a publisher and yardsticks that live as long as the benchmark, and a daemon for each row.

mod child;
mod daemon;
mod measure;
mod webhooks;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

pub(crate) use self::{
    child::Child,
    daemon::{Daemon, NAME as DAEMON_NAME},
    measure::{Burst, Latency},
};
use crate::{
    options::Scale,
    protocol::{Behaviour, Commit, Committed, HttpClient, Post, Posted, Receive, Seen},
    spread::Spread,
    statistics::per_second,
};

/// How long anything may take that should be over in far less; what is measured has limits of its own where it may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_mins(10);

/// Attempts under way at a time in the yardstick.
const YARDSTICK_IN_FLIGHT: usize = 64;
/// Events of one transaction in the yardstick.
const YARDSTICK_EVENTS: u64 = 100;
/// Addresses of the receiver.
pub(crate) const HOSTS: u8 = 100;

/// Everything around the daemon.
pub(crate) struct Rig {
    /// How large measurements are.
    pub(crate) scale: Scale,
    runtime: Runtime,
    root: TempDir,
    daemon_binary: Option<std::path::PathBuf>,
    receiver: Child,
    receiver_port: u16,
    publisher: Child,
    poster: Child,
    committer: Child,
    /// No number is used twice, so that an event of one measurement is never taken for one of another.
    next_event: u64,
    /// What the receiver must have seen when it is reset; anything else came twice or was never published.
    expected: Option<Seen>,
}

impl Rig {
    /// Starts it. Stores are put below `root`.
    pub(crate) fn start(scale: Scale, root: TempDir, daemon_binary: Option<std::path::PathBuf>) -> Result<Self> {
        let mut receiver = Child::role("receiver", &["--hosts", &HOSTS.to_string()])?;
        let seen: Seen = receiver.ask(&Receive::Look, PATIENCE)?;
        Ok(Self {
            scale,
            runtime: runtime::Builder::new_current_thread().enable_all().build()?,
            root,
            daemon_binary,
            receiver,
            receiver_port: seen.port,
            publisher: Child::role("publisher", &[])?,
            poster: Child::role("poster", &[])?,
            committer: Child::role("committer", &[])?,
            next_event: 1,
            expected: None,
        })
    }

    /// The same with all processes new: after a failure nobody knows what they are about.
    pub(crate) fn renew(self) -> Result<Self> {
        Self::start(self.scale, self.root, self.daemon_binary)
    }

    /// A daemon on a new store that may deliver to the loopback interface.
    pub(crate) fn daemon(&self, flags: &[&str]) -> Result<Daemon> {
        Daemon::start(self.daemon_binary.as_deref(), self.root.path(), flags)
    }

    /// Creates the webhooks of a spread.
    pub(crate) fn create_webhooks(&self, daemon: &Daemon, spread: &Spread) -> Result<()> {
        self.runtime
            .block_on(webhooks::create(daemon.endpoint(), spread, self.receiver_port))
            .context("creating webhooks")
    }

    /// Makes the receiver behave.
    pub(crate) fn behave(&mut self, behaviour: Behaviour) -> Result<()> {
        self.receiver.ask::<_, Seen>(&Receive::Behave(behaviour), PATIENCE)?;
        Ok(())
    }

    /// What the receiver has seen.
    pub(crate) fn seen(&mut self) -> Result<Seen> {
        self.receiver.ask(&Receive::Look, PATIENCE)
    }

    /// Makes the receiver forget what it has seen.
    pub(crate) fn reset_receiver(&mut self, latencies: bool) -> Result<()> {
        let before: Seen = self.receiver.ask(&Receive::Reset { latencies }, PATIENCE)?;
        if let Some(expected) = self.expected.take() {
            ensure!(
                before.arrived == expected.arrived && before.fingerprint == expected.fingerprint,
                "after {} requests had arrived, as many as were published, {} more came",
                expected.arrived,
                before.arrived - expected.arrived
            );
        }
        Ok(())
    }

    /// Waits until so many requests have arrived since the last reset.
    pub(crate) fn wait_for_arrivals(&mut self, arrived: u64, patience: Duration) -> Result<Seen> {
        let waited = self.receiver.ask(&Receive::Wait { arrived }, patience);
        waited.with_context(|| format!("waiting for {arrived} requests to arrive"))
    }

    /// Requests per second of a bare loop in place of the daemon.
    pub(crate) fn post(&mut self, client: HttpClient) -> Result<f64> {
        self.reset_receiver(false)?;
        let url = Spread::one().url(0, 0, self.receiver_port);
        let micros = self.scale.micros(2_000_000, 1_000_000);
        let post = Post { url, client, in_flight: YARDSTICK_IN_FLIGHT, micros };
        let posted: Posted = self.poster.ask(&post, PATIENCE)?;
        let seen = self.seen()?;
        ensure!(seen.arrived == posted.requests, "{} posted, {} arrived", posted.requests, seen.arrived);
        self.reset_receiver(false)?;
        Ok(per_second(posted.requests, posted.micros))
    }

    /// Events per second of a bare loop in place of the store.
    pub(crate) fn commit(&mut self) -> Result<f64> {
        let micros = self.scale.micros(2_000_000, 1_000_000);
        let commit = Commit { directory: self.root.path().to_owned(), events: YARDSTICK_EVENTS, micros };
        let committed: Committed = self.committer.ask(&commit, PATIENCE)?;
        Ok(per_second(committed.events, committed.micros))
    }

    /// Where stores are put.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }
}
