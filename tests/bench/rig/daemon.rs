//! The daemon that is measured, and what the kernel says about it.

use std::{
    collections::VecDeque,
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::PATIENCE;
use crate::{moment::now_micros, statistics::number};

/// The name under which this program is the daemon.
pub(crate) const NAME: &str = "postriderd";
/// Lines of its log that an error shows.
const LOG_LINES_KEPT: usize = 20;
/// The unit of `st_blocks`, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;
/// How often it is looked at while it settles, and how much of a processor it may use meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);
const SETTLED_MICROS: u64 = 20_000;
const SETTLE_TRIES: usize = 120;

/// A running daemon, killed when dropped; then its store is removed, unless another one goes on with it.
#[derive(Debug)]
pub(crate) struct Daemon {
    flags: Vec<String>,
    data: Arc<TempDir>,
    process: Child,
    _stdin: Option<ChildStdin>,
    log: Arc<Mutex<VecDeque<String>>>,
    endpoint: String,
    /// When the process was started.
    pub(crate) started: u64,
    /// When it said that it serves.
    pub(crate) serving: u64,
}

/// What a killed daemon leaves behind.
#[derive(Debug)]
pub(crate) struct Killed {
    flags: Vec<String>,
    data: Arc<TempDir>,
}

impl Killed {
    /// A new daemon with the same settings on the same store.
    pub(crate) fn restart(self) -> Result<Daemon> {
        Daemon::start_on(self.data, self.flags)
    }
}

impl Daemon {
    /// Starts one on a new store below `root`, and waits until it serves.
    pub(crate) fn start(root: &Path, flags: &[&str]) -> Result<Self> {
        let data = Arc::new(tempfile::Builder::new().prefix("store-").tempdir_in(root)?);
        Self::start_on(data, flags.iter().map(|&flag| flag.to_owned()).collect())
    }

    fn start_on(data: Arc<TempDir>, flags: Vec<String>) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg0(NAME)
            .args(["--listen", "127.0.0.1:0", "--log-format", "json", "--allow-cidr", "127.0.0.0/8", "--data"])
            .arg(data.path())
            .args(&flags)
            // What the developer's shell sets for a daemon of theirs is not for this one.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = now_micros();
        let mut process = command.spawn().context("starting the daemon")?;
        let stdin = process.stdin.take();
        let stderr = process.stderr.take().context("stderr is a pipe")?;
        let (log, address) = follow(stderr);
        let mut daemon =
            Self { flags, data, process, _stdin: stdin, log, endpoint: String::new(), started, serving: 0 };
        let address = address.recv_timeout(PATIENCE);
        let address = address.map_err(|_| daemon.blame(&anyhow!("the daemon does not serve")))?;
        daemon.serving = now_micros();
        daemon.endpoint = format!("http://{address}");
        Ok(daemon)
    }

    /// SIGKILL; the store stays for another one.
    pub(crate) fn kill(mut self) -> Result<Killed> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(Killed { flags: std::mem::take(&mut self.flags), data: self.data.clone() })
    }

    /// Where it serves: `http://ADDRESS`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// An error with the last lines of its log.
    pub(crate) fn blame(&self, error: &anyhow::Error) -> anyhow::Error {
        let log = self.log.lock().iter().fold(String::new(), |text, line| text + "\n" + line);
        anyhow!("{error:#}; the end of the daemon's log:{log}")
    }

    /// Processor time it has used, in its own code and in the kernel, in microseconds; the kernel counts in steps of 10 ms.
    pub(crate) fn cpu_micros(&self) -> Result<u64> {
        let stat = self.proc("stat")?;
        // The name in parentheses may hold spaces; user time and system time are the 14th and the 15th field.
        let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
    }

    /// Memory that is in RAM now, in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        self.status_mib("VmRSS:")
    }

    /// Most memory that was in RAM at any time since it started, in MiB.
    pub(crate) fn resident_peak_mib(&self) -> Result<f64> {
        self.status_mib("VmHWM:")
    }

    /// Bytes it has handed to the disk.
    pub(crate) fn written_bytes(&self) -> Result<u64> {
        let io = self.proc("io")?;
        Ok(io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?.parse()?)
    }

    /// Room that its data directory takes on the disk.
    pub(crate) fn data_bytes(&self) -> Result<u64> {
        directory_bytes(self.data.path())
    }

    /// Waits until it has nothing more to do: outcomes are committed, segments written.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut before = self.cpu_micros()?;
        for _ in 0..SETTLE_TRIES {
            thread::sleep(SETTLE_INTERVAL);
            let now = self.cpu_micros()?;
            if now - before <= SETTLED_MICROS {
                break;
            }
            before = now;
        }
        Ok(())
    }

    fn status_mib(&self, field: &str) -> Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a line of /proc/PID/status")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(number(kibibytes) / 1024.0)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.process.id());
        fs::read_to_string(&path)
            .with_context(|| format!("{path} cannot be read: the daemon has ended, or this is not Linux"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the log on a thread, so that the daemon never waits for us; gives the address once it serves.
fn follow(stderr: ChildStderr) -> (Arc<Mutex<VecDeque<String>>>, Receiver<String>) {
    let log = Arc::new(Mutex::new(VecDeque::new()));
    let (sender, address) = mpsc::sync_channel(1);
    let lines = log.clone();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(address) = listen_address(&line) {
                // Nobody listens any more after the first.
                let _ = sender.try_send(address);
            }
            let mut lines = lines.lock();
            if lines.len() == LOG_LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
    (log, address)
}

/// The field `listen.address` of the line that says that it serves.
fn listen_address(line: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = entry.get("fields").unwrap_or(&entry);
    fields.get("version")?;
    Some(fields.get("listen.address")?.as_str()?.to_owned())
}

fn directory_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Files may go at any moment.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { directory_bytes(&entry.path())? } else { metadata.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}
