//! A child process that takes commands.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{self, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Serialize, de::DeserializeOwned};

/// Answers that wait to be read; a child gives one for each command.
const ANSWERS_WAITING_MAX: usize = 4;

/// This program in another role, killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    role: &'static str,
    process: process::Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Child {
    /// Starts this program in that role.
    pub(crate) fn role(role: &'static str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(role).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("starting the {role}"))?;
        let stdin = process.stdin.take().context("stdin is a pipe")?;
        let stdout = process.stdout.take().context("stdout is a pipe")?;
        let (sender, answers) = mpsc::sync_channel(ANSWERS_WAITING_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { role, process, stdin, answers })
    }

    /// Gives it a command; its answer is for [`Child::hear`].
    pub(crate) fn tell(&mut self, command: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stdin.write_all(&line).with_context(|| format!("the {} has gone", self.role))
    }

    /// Waits for the answer to the oldest command that has none yet.
    pub(crate) fn hear<R: DeserializeOwned>(&mut self, patience: Duration) -> Result<R> {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("the {} did not answer within {patience:?}", self.role),
            Err(RecvTimeoutError::Disconnected) => bail!("the {} has ended", self.role),
        };
        let answer: Result<R, String> = serde_json::from_str(&line)?;
        answer.map_err(|problem| anyhow!("the {}: {problem}", self.role))
    }

    /// Gives it a command and waits for the answer.
    pub(crate) fn ask<C: Serialize, R: DeserializeOwned>(&mut self, command: &C, patience: Duration) -> Result<R> {
        self.tell(command)?;
        self.hear(patience)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
