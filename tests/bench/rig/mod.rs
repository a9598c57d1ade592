//! The rig: a receiver, a publisher and yardsticks that live as long as the benchmark, and a daemon for each row.

mod calls;
mod child;
mod daemon;
mod measure;
mod receiver;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

pub(crate) use self::{
    calls::{Hook, connect},
    child::Child,
    daemon::{Daemon, NAME as DAEMON_NAME},
    measure::{Burst, Latency},
    receiver::Receiver,
};
use crate::{
    options::Scale,
    protocol::{Commit, Committed, HttpClient, Post, Posted},
    spread::Spread,
    statistics::per_second,
};

/// How long anything may take. Almost all is over in far less.
pub(crate) const PATIENCE: Duration = Duration::from_mins(15);
/// Addresses of the receiver.
pub(crate) const HOSTS: u8 = 100;

/// Attempts under way at a time in the yardstick.
const YARDSTICK_IN_FLIGHT: usize = 64;
/// Events of one transaction in the yardstick.
const YARDSTICK_EVENTS: u64 = 100;

/// Everything around the daemon.
pub(crate) struct Rig {
    /// How large measurements are.
    pub(crate) scale: Scale,
    /// Where webhooks point at, unless a row has another one besides.
    pub(crate) receiver: Receiver,
    runtime: Runtime,
    root: TempDir,
    publisher: Child,
    poster: Child,
    committer: Child,
    /// No number is used twice, so that an event of one measurement is never taken for one of another.
    next_event: u64,
}

impl Rig {
    /// Starts it. Stores are put below `root`.
    pub(crate) fn start(scale: Scale, root: TempDir) -> Result<Self> {
        Ok(Self {
            scale,
            receiver: Receiver::start(HOSTS)?,
            runtime: runtime::Builder::new_current_thread().enable_all().build()?,
            root,
            publisher: Child::role("publisher", &[])?,
            poster: Child::role("poster", &[])?,
            committer: Child::role("committer", &[])?,
            next_event: 1,
        })
    }

    /// The same with all processes new: after a failure nobody knows what they are about.
    pub(crate) fn renew(self) -> Result<Self> {
        Self::start(self.scale, self.root)
    }

    /// A daemon on a new store that may deliver to the loopback interface.
    pub(crate) fn daemon(&self, flags: &[&str]) -> Result<Daemon> {
        Daemon::start(self.root.path(), flags)
    }

    /// A daemon on a new store with the webhooks of a spread.
    pub(crate) fn daemon_with(&self, flags: &[&str], spread: &Spread) -> Result<Daemon> {
        let daemon = self.daemon(flags)?;
        self.create_webhooks(&daemon, spread, &self.receiver)?;
        Ok(daemon)
    }

    /// Creates the webhooks of a spread.
    pub(crate) fn create_webhooks(&self, daemon: &Daemon, spread: &Spread, receiver: &Receiver) -> Result<Vec<Hook>> {
        let created = self.runtime.block_on(calls::create_webhooks(daemon.endpoint(), spread, receiver.port()));
        created.context("creating webhooks").map_err(|error| daemon.blame(&error))
    }

    /// Publishes a single event, and returns to how many webhooks it goes.
    pub(crate) fn publish_one(&mut self, daemon: &Daemon, spread: &Spread) -> Result<u64> {
        self.next_event += 1;
        self.runtime.block_on(calls::publish_one(daemon.endpoint(), spread, self.next_event - 1))
    }

    /// Requests per second of a bare loop in place of the daemon.
    pub(crate) fn post(&mut self, client: HttpClient) -> Result<f64> {
        self.receiver.reset(false)?;
        let url = Spread::one().url(0, 0, self.receiver.port());
        let micros = self.scale.micros(2_000_000, 500_000);
        let post = Post { url, client, in_flight: YARDSTICK_IN_FLIGHT, micros };
        let posted: Posted = self.poster.ask(&post, PATIENCE)?;
        let arrived = self.receiver.seen()?.arrived;
        ensure!(arrived == posted.requests, "{} posted, {arrived} arrived", posted.requests);
        self.receiver.reset(false)?;
        Ok(per_second(posted.requests, posted.micros))
    }

    /// Events per second of a bare loop in place of the store.
    pub(crate) fn commit(&mut self) -> Result<f64> {
        let micros = self.scale.micros(2_000_000, 500_000);
        let commit = Commit { directory: self.root.path().to_owned(), events: YARDSTICK_EVENTS, micros };
        let committed: Committed = self.committer.ask(&commit, PATIENCE)?;
        Ok(per_second(committed.events, committed.micros))
    }
}
