//! The benchmark. See `options.rs`, or `cargo run --release -p postrider-tests --bin bench -- --help`.
//!
//! ```text
//!  bench ── commands, JSON over stdin ──▶ publisher ─gRPC─▶ daemon ─signed POST─▶ receiver
//!    │                                                        ▲                      ▲
//!    ├── starts, kills, /proc ────────────────────────────────┘                      │
//!    ├── commands ──▶ poster (bare reqwest or hyper loop) ───────────────────────────┘
//!    └── commands ──▶ committer (bare redb loop)
//! ```
//!
//! All of them are this one program, started again in another role; under the name `postriderd` it is the daemon. So whatever
//! builds the benchmark has built all of it, from the same sources and with the same settings.

mod chart;
mod machine;
mod moment;
mod options;
mod payload;
mod protocol;
mod rig;
mod roles;
mod rows;
mod spread;
mod statistics;
mod table;

use std::{env, fs, path::Path, process::ExitCode, thread};

use anyhow::{Result, ensure};
use clap::Parser as _;
use postrider_tests::process::exit_with_parent;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    options::{Options, Role, Scale},
    rig::{DAEMON_NAME, Rig},
    table::Table,
};

/// `statfs` of a file system in memory, where an fsync costs nothing: `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: u64 = 0x0102_1994;

fn main() -> ExitCode {
    if env::args_os().next().is_some_and(|name| name == DAEMON_NAME) {
        exit_with_parent();
        return postrider_server::cli::run();
    }
    let options = Options::parse();
    let ended = match options.role {
        None => bench(&options),
        Some(Role::Receiver { hosts }) => roles::receiver::run(hosts).map(|()| true),
        Some(Role::Publisher) => roles::publisher::run().map(|()| true),
        Some(Role::Poster) => roles::poster::run().map(|()| true),
        Some(Role::Committer) => roles::committer::run().map(|()| true),
        Some(Role::Watchers) => roles::watchers::run().map(|()| true),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what was asked for; false if something failed.
fn bench(options: &Options) -> Result<bool> {
    let selected = rows::selected(&options.only, options.charts.is_some())?;
    let root = directory(options.data.as_deref())?;
    remove_on_signal(root.path())?;
    // Before the processes here add to the load.
    let machine = machine::description();
    let scale = Scale { quick: options.quick, factor: options.scale };
    let mut rig = Rig::start(scale, root)?;
    if let Some(charts) = &options.charts {
        fs::create_dir_all(charts)?;
    }
    let mut table = Table::new(options.charts.clone());
    for row in selected {
        eprintln!("{}", row.title);
        if let Err(error) = (row.measure)(&mut rig, &mut table) {
            table.fail(row.title, &error);
            rig = rig.renew()?;
        }
        // After every row: whoever interrupts a long run keeps what is measured.
        if let Some(path) = &options.json {
            table.write_json(path)?;
        }
    }
    println!("{} table, {machine}\n\n{table}", if options.quick { "Quick" } else { "Whole" });
    Ok(table.failures().is_empty())
}

/// Where stores are put, removed in the end.
fn directory(data: Option<&Path>) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("postrider-bench-");
    let root = match data {
        Some(data) => {
            fs::create_dir_all(data)?;
            builder.tempdir_in(data)?
        }
        None => builder.tempdir()?,
    };
    let kind = u64::try_from(rustix::fs::statfs(root.path())?.f_type)?;
    ensure!(kind != TMPFS, "{} is in memory: name a directory on a disk with --data", root.path().display());
    Ok(root)
}

/// The child processes notice by themselves that this one has ended; their files do not.
fn remove_on_signal(root: &Path) -> Result<()> {
    let root = root.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // A daemon may make a file in the very moment: then the second try finds it.
        if fs::remove_dir_all(&root).is_err() {
            let _ = fs::remove_dir_all(&root);
        }
        std::process::exit(130);
    });
    Ok(())
}
