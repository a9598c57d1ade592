//! The daemon under test: the real binary, in a process of its own, killed when the test lets go of it.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    client::Client,
    deadline::{within, within_at_most},
    process::resident_bytes,
};

/// Lines of the daemon's log that a failure shows.
const LOG_LINES_KEPT: usize = 200;

/// How to start a daemon. Starting it several times continues on the same data directory.
#[derive(Debug, Clone)]
pub struct Setup {
    binary: PathBuf,
    data: Arc<TempDir>,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    log_lines_kept: usize,
    file_bytes_max: Option<u64>,
    descriptors_max: Option<u64>,
    name: Option<&'static str>,
    tls: Option<ClientTlsConfig>,
}

impl Setup {
    /// A daemon of `binary` on a fresh data directory that may deliver to the loopback interface.
    pub fn new(binary: &str) -> Self {
        Self::bare(binary).flag("--allow-cidr", "127.0.0.0/8")
    }

    /// A daemon with nothing but a data directory and an address.
    pub fn bare(binary: &str) -> Self {
        let data = tempfile::Builder::new().prefix("postrider-test-").tempdir().expect("a temporary directory");
        Self {
            binary: binary.into(),
            data: Arc::new(data),
            arguments: Vec::new(),
            variables: Vec::new(),
            log_lines_kept: LOG_LINES_KEPT,
            file_bytes_max: None,
            descriptors_max: None,
            name: None,
            tls: None,
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Gives a flag that was added another value.
    #[must_use]
    pub fn with_other(mut self, name: &str, value: &str) -> Self {
        let at = self.arguments.iter().position(|argument| argument == name).expect("it was added");
        value.clone_into(&mut self.arguments[at + 1]);
        self
    }

    /// Adds an argument that is no flag with a value.
    #[must_use]
    pub fn argument(mut self, text: &str) -> Self {
        self.arguments.push(text.to_owned());
        self
    }

    /// Sets a variable of its environment, which is empty otherwise.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Keeps the whole log.
    #[must_use]
    pub fn with_whole_log(mut self) -> Self {
        self.log_lines_kept = usize::MAX;
        self
    }

    /// The daemon can make no file longer than this, in bytes, a multiple of 512: to it the disk is full then.
    #[must_use]
    pub fn file_bytes_max(mut self, bytes: u64) -> Self {
        self.file_bytes_max = Some(bytes);
        self
    }

    /// The daemon can have no more descriptors open than this.
    #[must_use]
    pub fn descriptors_max(mut self, count: u64) -> Self {
        self.descriptors_max = Some(count);
        self
    }

    /// The daemon can make files of any length again.
    #[must_use]
    pub fn unlimited(mut self) -> Self {
        self.file_bytes_max = None;
        self
    }

    /// The binary is started under this name, and with a stdin that closes when this process ends, however it does: for a
    /// program that is the daemon under that name.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Connections to the daemon are encrypted, and so made.
    #[must_use]
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Starts the daemon and waits until it serves.
    ///
    /// # Panics
    /// When it does not serve in time; the message shows its log.
    pub async fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.serving().await;
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&self) -> Daemon {
        // The shell's own `ulimit` counts blocks of 512 bytes, and the process stays the same.
        let limits = [("-f", self.file_bytes_max.map(|bytes| bytes / 512)), ("-n", self.descriptors_max)];
        let limits: String =
            limits.iter().filter_map(|(what, limit)| limit.map(|limit| format!("ulimit {what} {limit} && "))).collect();
        let mut command = if limits.is_empty() {
            Command::new(&self.binary)
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{limits}exec \"$0\" \"$@\"")]).arg(&self.binary);
            command
        };
        command
            .args(["--listen", "127.0.0.1:0", "--log-format", "json", "--data"])
            .arg(self.data.path())
            .args(&self.arguments)
            // What the developer's shell sets for a daemon of theirs is not for this one.
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(if self.name.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(name) = self.name {
            command.arg0(name);
        }
        let mut child = command.spawn().expect("the daemon's binary starts");
        let log = Log::follow(child.stderr.take().expect("stderr is a pipe"), self.log_lines_kept);
        let stdin = child.stdin.take();
        Daemon { child, log, address: None, tls: self.tls.clone(), _stdin: stdin, _data: self.data.clone() }
    }
}

/// A running daemon, killed on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Log,
    address: Option<SocketAddr>,
    tls: Option<ClientTlsConfig>,
    _stdin: Option<ChildStdin>,
    _data: Arc<TempDir>,
}

impl Daemon {
    /// Waits until health says SERVING.
    ///
    /// # Panics
    /// When that does not come in time, or the daemon ends first; the message shows its log.
    pub async fn serving(&mut self) {
        let Some(address) = self.log.address().await else {
            panic!("the daemon ended before it listened; its log:\n{}", self.log.text());
        };
        self.address = Some(address);
        let serving = async {
            let mut health = self.health().await;
            while health.next_status().await != Some(ServingStatus::Serving) {}
        };
        within("health SERVING", serving).await;
    }

    /// Waits until it serves or ends. Whether it serves.
    pub async fn serves(&mut self) -> bool {
        let serves = self.log.address().await.is_some();
        if serves {
            self.serving().await;
        }
        serves
    }

    /// Waits until its log has a line with this text, or it has ended.
    pub async fn logged(&self, text: &str) {
        let lines = self.log.lines.clone();
        let told = |_: &Progress| lines.lock().iter().any(|line| line.contains(text)).then_some(());
        self.log.wait_for(text, told).await;
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Before [`Daemon::serving`].
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the daemon serves")
    }

    /// Where it serves metrics and health. Waits until that is known, which is before it serves.
    ///
    /// # Panics
    /// When it ends first; the message shows its log.
    pub async fn ops(&self) -> SocketAddr {
        let Some(address) = self.log.wait_for("metrics and health", |progress| progress.ops).await else {
            panic!("the daemon ended before it served metrics; its log:\n{}", self.log.text());
        };
        address
    }

    /// A new connection to it.
    pub async fn channel(&self) -> Channel {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address())).expect("an address makes a URL");
        let endpoint = match &self.tls {
            Some(tls) => endpoint.tls_config(tls.clone()).expect("certificates of the test are good"),
            None => endpoint,
        };
        within("a connection to the daemon", Box::pin(endpoint.connect()))
            .await
            .expect("the daemon accepts connections")
    }

    /// A client on a new connection.
    pub async fn client(&self) -> Client {
        Client::new(self.channel().await)
    }

    /// Follows the health of the whole server.
    pub async fn health(&self) -> Health {
        let request = HealthCheckRequest { service: String::new() };
        let stream = HealthClient::new(self.channel().await).watch(request).await.expect("health can be watched");
        Health { stream: stream.into_inner() }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory of the process that is in RAM, in bytes. Linux only.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid()).expect("/proc tells about the daemon")
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(mut self) {
        self.child.kill().expect("the daemon is ours to kill");
        self.log.ended().await;
        self.child.wait().expect("the daemon can be waited for");
    }

    /// SIGTERM; returns at once.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGHUP; returns at once.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill` is the one way to send it that is everywhere and needs no unsafe code.
        let status = Command::new("sh").args(["-c", "kill -\"$1\" \"$0\"", &self.pid().to_string(), name]).status();
        assert!(status.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
    }

    /// Waits until the daemon has ended by itself.
    ///
    /// # Panics
    /// When that takes longer than `limit`; the message shows its log.
    pub async fn ended(mut self, limit: Duration) -> Ended {
        within_at_most(limit, "the daemon to end", self.log.ended()).await;
        // Its stderr is closed, so it is ending; only the kernel's part is left.
        let status = self.child.wait().expect("the daemon can be waited for");
        Ended { status, log: self.log.text() }
    }

    /// SIGTERM, and waits until it has ended well.
    ///
    /// # Panics
    /// When its exit code is not 0.
    pub async fn stop(self) {
        self.terminate();
        let ended = self.ended(crate::deadline::PATIENCE).await;
        assert!(ended.status.success(), "{}: {}", ended.status, ended.log);
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the daemon's last log lines ---\n{}", self.log.text());
        }
    }
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The last lines of its log.
    pub log: String,
}

/// A stream of health states.
#[derive(Debug)]
pub struct Health {
    stream: tonic::Streaming<HealthCheckResponse>,
}

impl Health {
    /// The next state; `None` when the server has gone.
    pub async fn next_status(&mut self) -> Option<ServingStatus> {
        let message = within("a health state", self.stream.message()).await;
        message.ok().flatten().map(|response| response.status())
    }
}

/// The daemon's log, drained by a thread so that the daemon never waits for the test.
#[derive(Debug)]
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    progress: watch::Receiver<Progress>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    address: Option<SocketAddr>,
    ops: Option<SocketAddr>,
    ended: bool,
    lines: u64,
}

impl Log {
    fn follow(stderr: ChildStderr, lines_kept: usize) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, progress) = watch::channel(Progress::default());
        let log = Self { lines: lines.clone(), progress };
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some(address) = address_in(&line, "listen.address") {
                    sender.send_modify(|progress| progress.address = Some(address));
                }
                if let Some(address) = address_in(&line, "ops.address") {
                    sender.send_modify(|progress| progress.ops = Some(address));
                }
                {
                    let mut lines = lines.lock();
                    if lines.len() == lines_kept {
                        lines.pop_front();
                    }
                    lines.push_back(line);
                }
                sender.send_modify(|progress| progress.lines += 1);
            }
            sender.send_modify(|progress| progress.ended = true);
        });
        log
    }

    /// The address it listens on; `None` if it ended first.
    async fn address(&self) -> Option<SocketAddr> {
        self.wait_for("the daemon's address in its log", |progress| progress.address).await
    }

    /// What `told` finds; `None` if the daemon ended first.
    async fn wait_for<T>(&self, what: &str, told: impl Fn(&Progress) -> Option<T>) -> Option<T> {
        let mut progress = self.progress.clone();
        let known = progress.wait_for(|progress| told(progress).is_some() || progress.ended);
        within(what, known).await.ok().and_then(|progress| told(&progress))
    }

    async fn ended(&self) {
        let mut progress = self.progress.clone();
        let _ = progress.wait_for(|progress| progress.ended).await;
    }

    fn text(&self) -> String {
        self.lines.lock().iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// The field `field` of a JSON log line.
fn address_in(line: &str, field: &str) -> Option<SocketAddr> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = entry.get("fields").unwrap_or(&entry);
    fields.get(field)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_log() {
        let expected = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        assert_eq!(
            address_in(r#"{"fields":{"message":"x","listen.address":"127.0.0.1:4711"}}"#, "listen.address"),
            expected
        );
        assert_eq!(address_in(r#"{"message":"x","listen.address":"127.0.0.1:4711"}"#, "listen.address"), expected);
        assert_eq!(address_in(r#"{"message":"x"}"#, "listen.address"), None);
        assert_eq!(address_in("thread 'main' panicked", "listen.address"), None);
    }
}
