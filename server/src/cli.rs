//! The process: command line, logs, runtime, signals, exit codes.

use std::{env, process::ExitCode};

use rustix::{fs::Mode, process::umask};
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info};

use crate::{
    backup::{self, Failed},
    clock::Clock,
    config::{Command, Config, process_environment},
    daemon::{Daemon, StartError},
    descriptors,
    keys::{self, KeysError},
    limits::READER_THREADS,
    shutdown::{Signal, Signals},
    store::redb::{self, KeySource, OpenError, RotateError, Rotated},
};

/// Many small things are allocated on one thread and freed on another: a tenth less CPU for each delivery than with the
/// system's allocator, as the benchmark measures it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes of `sysexits.h`, which supervisors know.
pub(crate) mod code {
    /// Not one of those: what was asked for cannot be.
    pub(crate) const REFUSED: u8 = 1;
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const DAMAGED: u8 = 65;
    pub(crate) const UNAVAILABLE: u8 = 69;
    pub(crate) const SOFTWARE: u8 = 70;
    pub(crate) const CANNOT_CREATE: u8 = 73;
    pub(crate) const IO: u8 = 74;
    pub(crate) const AGAIN: u8 = 75;
    pub(crate) const CONFIG: u8 = 78;
}

/// The first word of a command line that is about API keys.
const KEYS: &str = "keys";
/// What failures of these commands begin with.
const BACKUP: &str = "backup";
const RESTORE: &str = "restore";
const CHECK: &str = "check";

/// Runs `postriderd` with this process' arguments and environment, until it is told to stop.
pub fn run() -> ExitCode {
    run_by(Clock::start())
}

/// The same, by this clock: for tests of its steps.
pub fn run_by(clock: Clock) -> ExitCode {
    // Whatever is made, the data directory, backups, keys, is its owner's alone.
    umask(Mode::RWXG | Mode::RWXO);
    if env::args_os().nth(1).is_some_and(|word| word == KEYS) {
        return manage_keys();
    }
    let config = match Command::read(env::args_os(), &process_environment) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::RotateMasterKey(config, new)) => return rotate_master_key(&config, new.as_ref()),
        Ok(Command::Backup(config, plan)) => return tell(BACKUP, backup::back_up(*config, plan)),
        Ok(Command::Restore(config, from)) => return tell(RESTORE, backup::restore(&config, &from)),
        Ok(Command::Check(folder)) => return tell(CHECK, backup::check(&folder)),
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(problems) => {
            eprintln!("postriderd: {problems}");
            return ExitCode::from(code::USAGE);
        }
    };
    config.telemetry.start();
    descriptors::provide(&config);
    // gRPC, scheduling and the stages that wait share the workers; delivery loops and the committer are threads of their own.
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.workers)
        .max_blocking_threads(READER_THREADS)
        .enable_all()
        .thread_name("worker")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "the runtime cannot be started");
            return ExitCode::from(code::SOFTWARE);
        }
    };
    let code = runtime.block_on(supervise(clock, config));
    abandon(runtime);
    ExitCode::from(code)
}

/// Runs `postriderd keys …`. Nothing is logged: what is to be said goes where its caller looks.
fn manage_keys() -> ExitCode {
    match keys::run(env::args_os().skip(2), &process_environment) {
        Ok(said) => {
            print!("{}", said.output);
            eprint!("{}", said.note);
            ExitCode::SUCCESS
        }
        Err(KeysError::Usage { text, is_help: true }) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(KeysError::Usage { text, is_help: false }) => {
            eprint!("{text}");
            ExitCode::from(code::USAGE)
        }
        Err(error) => {
            eprintln!("postriderd keys: {error}");
            ExitCode::from(match error {
                KeysError::Usage { .. } => code::USAGE,
                KeysError::Open(error) => open_code(&error),
                KeysError::Nothing(_) => code::CANNOT_CREATE,
                KeysError::NotFound | KeysError::TooMany => code::REFUSED,
                KeysError::Store(_) | KeysError::Runtime(_) => code::SOFTWARE,
            })
        }
    }
}

/// Leaves threads behind that hang in the kernel; what had to end in order has.
fn abandon(runtime: Runtime) {
    runtime.shutdown_background();
}

/// Starts, waits for a reason to stop, stops.
async fn supervise(clock: Clock, config: Config) -> u8 {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            error!(%error, "signals cannot be received");
            return code::SOFTWARE;
        }
    };
    let started = tokio::select! {
        started = Daemon::start_by(clock, config) => started,
        // Nothing was promised yet.
        signal = signals.next() => return signal.exit_code(),
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => {
            error!("{error}");
            return exit_code(&error);
        }
    };
    let code = tokio::select! {
        signal = signals.next() => {
            info!(?signal, "stopping; a second signal ends at once");
            0
        }
        name = running.broken() => {
            error!(task.name = name, "stopping, because a part of the daemon has failed");
            code::SOFTWARE
        }
    };
    tokio::select! {
        stopped = running.stop() => match stopped {
            Ok(()) => code,
            Err(overdue) => {
                error!("{overdue}");
                code::SOFTWARE
            }
        },
        signal = signals.next() => end_at_once(signal),
    }
}

/// Says what came of a command about backups. Nothing is logged: what is to be said goes where its caller looks.
fn tell(command: &str, done: Result<String, Failed>) -> ExitCode {
    match done {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(failed) => {
            eprintln!("postriderd {command}: {}", failed.message);
            ExitCode::from(failed.code)
        }
    }
}

/// Replaces the master key of a data directory that no daemon uses.
fn rotate_master_key(config: &Config, new: Option<&KeySource>) -> ExitCode {
    config.telemetry.start();
    match redb::rotate(&config.data, &config.store, new) {
        Ok(Rotated { rows, key }) => {
            info!(
                rows,
                key, "secrets are encrypted with the new master key; the store is opened with no other any longer"
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{error}");
            ExitCode::from(match error {
                RotateError::Open(error) => open_code(&error),
                RotateError::SameKey | RotateError::OtherKey(_) => code::CONFIG,
            })
        }
    }
}

fn end_at_once(signal: Signal) -> u8 {
    error!(?signal, "ended by a second signal; attempts under way will be repeated");
    signal.exit_code()
}

fn exit_code(error: &StartError) -> u8 {
    match error {
        StartError::Bind { .. } => code::UNAVAILABLE,
        StartError::Open(error) => open_code(error),
        StartError::Control(_) => code::CANNOT_CREATE,
        StartError::Tls(_) => code::USAGE,
        StartError::Deliver(_) => code::SOFTWARE,
    }
}

pub(crate) fn open_code(error: &OpenError) -> u8 {
    match error {
        OpenError::Key(_) => code::CONFIG,
        OpenError::InUse(_)
        | OpenError::NewerSchema { .. }
        | OpenError::OlderSchema { .. }
        | OpenError::Unusable { .. }
        | OpenError::Broken { .. } => code::CANNOT_CREATE,
    }
}
