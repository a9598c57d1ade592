//! The soak: hours of ordinary trouble in twenty minutes. See `options.rs`, or
//! `cargo run --release -p postrider-tests --bin soak -- --help`.
//!
//! ```text
//!  publishers ──gRPC──▶ daemon ──POST──▶ receivers: 94 well, 5 failing, 1 hanging
//!      │                  │ ▲                │
//!      │    watcher ◀─────┘ │ kills, stops   │
//!      ▼       ▼            │ and starts     ▼
//!    ledger ◀──────────────────────────── ledger: what happened, and what is wrong with it
//! ```
//!
//! The daemon is this same program under another name, in a process of its own; everything else is in this one.

mod fleet;
mod ledger;
mod load;
mod options;
mod report;
mod run;
mod samples;

use std::{env, fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use postrider_tests::process::{exit_with_parent, provide_descriptors};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::options::Options;

/// The name under which this program is the daemon.
const DAEMON_NAME: &str = "postriderd";

fn main() -> ExitCode {
    if env::args_os().next().is_some_and(|name| name == DAEMON_NAME) {
        exit_with_parent();
        return postrider_server::cli::run();
    }
    match soak(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it; false if something was violated.
fn soak(options: &Options) -> Result<bool> {
    provide_descriptors()?;
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Whichever way this ends, what it holds is dropped: the daemon is killed and its store removed.
        tokio::select! {
            report = run::run(options) => report,
            _ = terminate.recv() => bail!("terminated"),
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and_then(|()| bail!("interrupted")),
        }
    })?;
    println!("{report}");
    if let Some(path) = &options.json {
        fs::write(path, report.json()?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.is_clean())
}
