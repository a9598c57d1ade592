//! `postriderd backup`, `restore` and `check`: what is asked of a running daemon, or done where there is none.

use std::{
    fmt::{self, Write as _},
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, absolute},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tonic::Code;

use crate::{
    cli::{code, open_code},
    clock::Clock,
    config::Config,
    control::{self, Reply, Request},
    flow::News,
    model::audit::{AuditEnd, AuditEntry, OK, Principal},
    shutdown::outlive_size_limits,
    store::{
        AuditStep, Store as _, StoreError,
        redb::{
            self, BackedUp, BackupError, BackupPlan, BackupProgress, CheckError, Checked, NoBackup, OpenError,
            RedbStore, RestoreError, Restored,
        },
    },
};

/// Why nothing came of a command, and what its process says with its exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// For people.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl Failed {
    fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), code }
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(code::USAGE, message)
    }
}

/// What a process says with its exit code when there is no backup for this reason.
pub fn code_of(error: &BackupError) -> u8 {
    match error {
        BackupError::Busy | BackupError::Cancelled => code::AGAIN,
        BackupError::Occupied(_) | BackupError::Inside(_) => code::CANNOT_CREATE,
        BackupError::NoRoom { .. } | BackupError::Copying { .. } | BackupError::Writing { .. } => code::IO,
        BackupError::Key(_) => code::CONFIG,
        BackupError::Store(_) => code::SOFTWARE,
    }
}

/// What the audit log calls making a backup.
const METHOD: &str = "postriderd backup";

/// Makes a backup between two entries of the audit log, the first of which is in the backup; says as well why they are not there, if
/// they cannot be written. That prevents nothing: whoever asks could copy the files, and a full disk is when a copy is needed most.
pub async fn on_record(
    engine: &RedbStore,
    clock: Clock,
    plan: BackupPlan,
    progress: Arc<BackupProgress>,
) -> (Result<BackedUp, BackupError>, Result<(), StoreError>) {
    let entry = AuditEntry::new(METHOD, Principal::Offline, clock.now());
    let begun = engine.audit(AuditStep::Begin(entry.into())).await;
    let made = engine.back_up(plan, progress).await;
    let code = made.as_ref().map_or_else(audited_code, |_| OK);
    let recorded = match begun {
        Ok(no) => engine.audit(AuditStep::End(no, AuditEnd::new(code, clock.now()).into())).await.map(|_| ()),
        Err(error) => Err(error),
    };
    (made, recorded)
}

/// What the audit log says of a backup that was not made: what a call of a daemon would be answered.
fn audited_code(error: &BackupError) -> i32 {
    let code = match error {
        BackupError::Busy => Code::Aborted,
        BackupError::Cancelled => Code::Cancelled,
        BackupError::Occupied(_) => Code::AlreadyExists,
        BackupError::Inside(_) => Code::InvalidArgument,
        BackupError::NoRoom { .. } => Code::ResourceExhausted,
        BackupError::Copying { .. } | BackupError::Writing { .. } => Code::Internal,
        BackupError::Key(_) => Code::FailedPrecondition,
        BackupError::Store(_) => Code::Unavailable,
    };
    code.into()
}

/// Makes a backup: through the daemon that has the data directory, or without one. Returns what is to be said. Blocks.
pub fn back_up(config: Config, mut plan: BackupPlan) -> Result<String, Failed> {
    plan.dir = absolute(&plan.dir).map_err(|error| Failed::usage(format!("{}: {error}", plan.dir.display())))?;
    match control::connect(&config.data) {
        Ok(daemon) => ask(daemon, plan),
        // Nobody listens, or nobody ever did.
        Err(_) => back_up_offline(config, plan),
    }
}

fn ask(mut daemon: UnixStream, plan: BackupPlan) -> Result<String, Failed> {
    let broken = |error: io::Error| Failed::new(code::UNAVAILABLE, format!("the daemon does not answer: {error}"));
    let request = Request::Backup { dir: plan.dir, master_key: plan.master_key };
    let request = serde_json::to_string(&request).map_err(Failed::usage)? + "\n";
    daemon.write_all(request.as_bytes()).map_err(broken)?;
    let shows = io::stderr().is_terminal();
    for line in BufReader::new(daemon).lines() {
        let reply: Reply = serde_json::from_str(&line.map_err(broken)?).map_err(|error| broken(error.into()))?;
        match reply {
            Reply::Progress { copied, total } if shows => {
                eprint!("\r{} of about {} copied", size(copied), size(total.max(copied)));
            }
            Reply::Progress { .. } => {}
            Reply::Done(said) => {
                if shows {
                    eprintln!();
                }
                return Ok(said);
            }
            Reply::Failed(failed) => return Err(failed),
        }
    }
    Err(Failed::new(code::UNAVAILABLE, "the daemon has gone; there is no backup"))
}

/// With the store that no daemon has.
fn back_up_offline(config: Config, plan: BackupPlan) -> Result<String, Failed> {
    let Config { data, store, .. } = config;
    if !data.join("hot.redb").exists() {
        return Err(Failed::new(code::CANNOT_CREATE, format!("{} holds no data of a daemon", data.display())));
    }
    outlive_size_limits().map_err(|error| Failed::new(code::SOFTWARE, error))?;
    let dir = plan.dir.display().to_string();
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(code::SOFTWARE, error))?;
    runtime.block_on(async {
        let clock = Clock::start();
        let store = redb::open(&data, store, Arc::new(News::default()), clock).map_err(|error| {
            let hint = match &error {
                OpenError::InUse(_) => ": a daemon has it and does not listen at its control socket yet, or any more",
                OpenError::NewerSchema { .. }
                | OpenError::OlderSchema { .. }
                | OpenError::Unusable { .. }
                | OpenError::Key(_)
                | OpenError::Broken { .. } => "",
            };
            Failed::new(open_code(&error), format!("{error}{hint}"))
        })?;
        let (made, recorded) = on_record(&store, clock, plan, Arc::default()).await;
        store.close().await.map_err(|error| Failed::new(code::SOFTWARE, error))?;
        let made = made.map_err(|error| Failed::new(code_of(&error), &error))?;
        Ok(said(&dir, &made, &recorded))
    })
}

/// What is said about a backup that was made, and perhaps written to the audit log.
pub fn said(dir: &str, made: &BackedUp, recorded: &Result<(), StoreError>) -> String {
    let BackedUp { files, bytes, took, read_hot, hot_grew, missing_key } = made;
    let mut said = format!(
        "Backed up to {dir}: {files} files, {}, in {}.\nhot.redb was read for {} and grew by {} meanwhile.\n",
        size(*bytes),
        span(*took),
        span(*read_hot),
        size(*hot_grew)
    );
    if let Some(place) = missing_key {
        writeln!(said, "The master key is not in the backup: keep a copy of {place} apart from it.")
            .expect("a text grows");
    }
    if let Err(error) = recorded {
        writeln!(said, "It is not, or not all of it, in the audit log: {error}.").expect("a text grows");
    }
    said
}

/// Makes a data directory of a backup. Returns what is to be said. Blocks.
pub fn restore(config: &Config, from: &Path) -> Result<String, Failed> {
    outlive_size_limits().map_err(|error| Failed::new(code::SOFTWARE, error))?;
    let restored = redb::restore(from, &config.data).map_err(|error| {
        let code = match &error {
            RestoreError::NoBackup(NoBackup::Unreadable { .. })
            | RestoreError::NoRoom { .. }
            | RestoreError::Writing { .. } => code::IO,
            RestoreError::NoBackup(_) => code::DAMAGED,
            RestoreError::Occupied(_) => code::CANNOT_CREATE,
        };
        Failed::new(code, error)
    })?;
    Ok(said_of_restored(&restored, &config.data))
}

fn said_of_restored(restored: &Restored, data: &Path) -> String {
    let Restored { begin_time, files, bytes, missing_key, is_on_record } = restored;
    let mut said = format!(
        "Restored {files} files, {}, to {}: what was acknowledged until {begin_time}.\nDeliveries made since will be made again.\n",
        size(*bytes),
        data.display()
    );
    if let Some(place) = missing_key {
        let file = data.join("master.key");
        writeln!(
            said,
            "The master key is missing. When the backup was made it was in {place}: put that one into {}, with mode 0600, or give it with \
             --master-key-file or POSTRIDER_MASTER_KEY.",
            file.display()
        )
        .expect("a text grows");
    }
    if !is_on_record {
        said.push_str(
            "It is of another version of Postrider, so that its audit log does not say that it was restored.\n",
        );
    }
    said
}

/// Looks through a data directory or a backup. Returns what is to be said if all is well. Blocks.
pub fn check(dir: &Path) -> Result<String, Failed> {
    let checked = redb::check(dir).map_err(|error| {
        let code = match &error {
            CheckError::InUse(_) | CheckError::Nothing(_) | CheckError::Schema { .. } => code::CANNOT_CREATE,
            CheckError::NoBackup(_) => code::DAMAGED,
            CheckError::Unreadable { .. } => code::IO,
        };
        Failed::new(code, error)
    })?;
    let Checked { is_backup, files, bytes, events, pending, entries, findings } = checked;
    let what = if is_backup { "backup" } else { "data directory" };
    let seen = format!(
        "{files} files, {}, with {events} events, {pending} pending deliveries and {entries} entries of the outcome log",
        size(bytes)
    );
    let dir = dir.display();
    if findings.is_empty() {
        return Ok(format!("The {what} {dir} is well: {seen}.\n"));
    }
    Err(Failed::new(code::DAMAGED, format!("the {what} {dir} is damaged: {seen}\n{}", findings.to_string().trim_end())))
}

/// Bytes for people.
#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn span(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, expected) in
            [(0, "0.0 KiB"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), ((3 << 30) + (1 << 29), "3.5 GiB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }
}
