//! A receiver process, and the check that it sees exactly what it should.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use super::{Child, Daemon, PATIENCE};
use crate::protocol::{Behaviour, Receive, Seen};

/// How often a receiver that should fall silent is looked at, and how often in a row it has to be.
const QUIET_INTERVAL: Duration = Duration::from_millis(500);
const QUIET_LOOKS: usize = 5;

/// One receiver process.
#[derive(Debug)]
pub(crate) struct Receiver {
    child: Child,
    port: u16,
    /// What it must have seen when it is reset; anything more came twice or was never published.
    expected: Option<Seen>,
}

impl Receiver {
    /// Starts one on the first `hosts` addresses of the loopback interface.
    pub(crate) fn start(hosts: u8) -> Result<Self> {
        let mut child = Child::role("receiver", &["--hosts", &hosts.to_string()])?;
        let seen: Seen = child.ask(&Receive::Look, PATIENCE)?;
        Ok(Self { child, port: seen.port, expected: None })
    }

    /// Its port, on all its addresses.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Makes it behave.
    pub(crate) fn behave(&mut self, behaviour: Behaviour) -> Result<()> {
        self.child.ask::<_, Seen>(&Receive::Behave(behaviour), PATIENCE)?;
        Ok(())
    }

    /// What it has seen.
    pub(crate) fn seen(&mut self) -> Result<Seen> {
        self.child.ask(&Receive::Look, PATIENCE)
    }

    /// Makes it forget what it has seen; fails if it saw more than was expected.
    pub(crate) fn reset(&mut self, latencies: bool) -> Result<()> {
        let before: Seen = self.child.ask(&Receive::Reset { latencies }, PATIENCE)?;
        if let Some(expected) = self.expected.take() {
            ensure!(
                before.arrived == expected.arrived && before.fingerprint == expected.fingerprint,
                "after {} requests had arrived, as many as were acknowledged, {} more came",
                expected.arrived,
                before.arrived - expected.arrived
            );
        }
        Ok(())
    }

    /// Waits until so many requests have arrived since the last reset.
    pub(crate) fn wait(&mut self, arrived: u64) -> Result<Seen> {
        self.child.ask(&Receive::Wait { arrived }, PATIENCE)
    }

    /// Waits until everything acknowledged since the last reset has arrived, and checks that it is just that.
    pub(crate) fn arrived(&mut self, daemon: &Daemon, deliveries: u64, fingerprint: u64) -> Result<Seen> {
        let seen = self.wait(deliveries).map_err(|error| daemon.blame(&error))?;
        ensure!(
            seen.arrived == deliveries && seen.fingerprint == fingerprint,
            "{deliveries} deliveries were acknowledged, and {} arrived, {}",
            seen.arrived,
            if seen.fingerprint == fingerprint { "the same ones" } else { "not the same ones" }
        );
        self.expected = Some(seen.clone());
        Ok(seen)
    }

    /// Waits until nothing more arrives.
    pub(crate) fn quiet(&mut self) -> Result<Seen> {
        let (mut before, mut looks) = (self.seen()?, 0);
        while looks < QUIET_LOOKS {
            thread::sleep(QUIET_INTERVAL);
            let now = self.seen()?;
            looks = if now.arrived == before.arrived { looks + 1 } else { 0 };
            before = now;
        }
        Ok(before)
    }
}
