//! The daemon, built as a binary of this crate so that its tests can start and kill it, and step its clock.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use postrider_server::{cli, clock::Clock};
use postrider_tests::wall::FILE_VARIABLE;

/// The file that says by how many seconds the wall clock is ahead; negative: behind.
static SCRIPT: OnceLock<PathBuf> = OnceLock::new();

#[expect(clippy::disallowed_methods, reason = "this is the clock of the tests")]
fn wall() -> SystemTime {
    let script = SCRIPT.get().and_then(|file| fs::read_to_string(file).ok());
    let ahead: i64 = script.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let span = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
}

#[expect(clippy::disallowed_methods, reason = "not a setting of the daemon's")]
fn main() -> ExitCode {
    match std::env::var_os(FILE_VARIABLE) {
        Some(file) => {
            SCRIPT.get_or_init(|| file.into());
            cli::run_by(Clock::following(wall))
        }
        None => cli::run(),
    }
}
