//! The control socket: what is asked of a running daemon by whoever may use its data directory anyway.
//!
//! It lies in that directory, and the kernel says who is at its other end: nobody is heard but the daemon's own user and root, who
//! could read its files as well. So there is no key to manage, no port, and no caller on the network who names paths of this machine.
//!
//! One request a connection, a line of JSON; replies are such lines, too, and the last one says how it ended. Whoever goes away
//! gives up what was asked for.

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    backup::{Failed, code_of, on_record, said},
    clock::Clock,
    store::redb::{BackupPlan, BackupProgress, RedbStore},
};

/// Name of the socket in the data directory.
const SOCKET: &str = "control.sock";
/// Most connections at a time.
const CALLS_MAX: usize = 8;
/// Most bytes of a request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long a caller may take to say what it wants, or to read what it is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a caller is told how far it is.
const TOLD_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can be asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// A backup.
    Backup {
        /// The folder that it goes to, from the root on.
        dir: PathBuf,
        /// Whether the master key is part of it.
        master_key: bool,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// So far it is.
    Progress {
        /// Bytes of rows copied.
        copied: u64,
        /// About how many there are.
        total: u64,
    },
    /// It is done, and this is to be said about it.
    Done(String),
    /// Nothing came of it.
    Failed(Failed),
}

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Something else has its name.
    #[error("{0} is in the way: it is not a socket, and the daemon needs this name for one; move it away")]
    Occupied(PathBuf),
    /// The system has no such long names for sockets, nor a way around.
    #[error("{path} is too long for a socket ({bytes} bytes): choose a data directory with a shorter path")]
    TooLong {
        /// Its path.
        path: PathBuf,
        /// How long that is.
        bytes: usize,
    },
    /// The system says so; some file systems have no sockets.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The daemon that has a data directory. Blocks.
pub fn connect(data: &Path) -> io::Result<net::UnixStream> {
    net::UnixStream::connect(Address::of(data)?.path)
}

/// A path of the socket of a data directory that the system takes for one: those are some hundred bytes long at most, and paths of
/// files may be longer. Then it leads over the open folder, where the system has such paths.
struct Address {
    path: PathBuf,
    _folder: Option<fs::File>,
}

impl Address {
    fn of(data: &Path) -> io::Result<Self> {
        let path = data.join(SOCKET);
        if net::SocketAddr::from_pathname(&path).is_ok() {
            return Ok(Self { path, _folder: None });
        }
        let folder = fs::File::open(data)?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET);
        Ok(Self { path, _folder: Some(folder) })
    }
}

/// The socket, open.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    engine: Arc<RedbStore>,
    clock: Clock,
}

impl Control {
    /// Makes the socket of a data directory that this process has locked: one that is there is a dead daemon's. Nothing else of
    /// that name is removed.
    pub fn open(data: &Path, engine: Arc<RedbStore>, clock: Clock) -> Result<Self, ControlError> {
        let path = data.join(SOCKET);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(&path)?,
            Ok(_) => return Err(ControlError::Occupied(path)),
            // Whatever it is, it shows when the socket is made.
            Err(_) => {}
        }
        let address = Address::of(data)?;
        let listener = UnixListener::bind(&address.path).map_err(|error| {
            let bytes = path.as_os_str().len();
            if address.path == path {
                ControlError::System(error)
            } else {
                ControlError::TooLong { path: path.clone(), bytes }
            }
        })?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, engine, clock })
    }

    /// Serves until it is to stop; gives up then what is under way.
    pub async fn run(self, stop: CancellationToken) {
        let mut calls = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept(), if calls.len() < CALLS_MAX => match accepted {
                    Ok((stream, _)) => calls.push(call(stream, &self.engine, self.clock)),
                    Err(error) => {
                        warn!(%error, "a connection to the control socket could not be taken");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(()) = calls.next(), if !calls.is_empty() => {}
            }
        }
        drop(calls);
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(%error, "the control socket could not be removed");
        }
    }
}

/// One connection. Ended early, by either side, what it asked for is given up.
async fn call(stream: UnixStream, engine: &RedbStore, clock: Clock) {
    if !stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid(), rustix::process::geteuid().as_raw())) {
        warn!("somebody else's process was refused at the control socket");
        return;
    }
    let (reader, writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    if !matches!(timeout(PATIENCE, reader.read_line(&mut line)).await, Ok(Ok(1..))) {
        return;
    }
    let mut caller = Caller { reader: reader.into_inner().into_inner(), writer };
    let reply = match serde_json::from_str(&line) {
        Ok(Request::Backup { dir, master_key }) => {
            let plan = BackupPlan { dir, master_key };
            let Some(reply) = back_up(&mut caller, engine, clock, plan).await else { return };
            reply
        }
        Err(error) => Reply::Failed(Failed::usage(format!("the daemon does not understand the request: {error}"))),
    };
    caller.tell(&reply).await;
}

/// Whether a process of this user is heard by a daemon of that one.
fn may_ask(peer: u32, daemon: u32) -> bool {
    peer == daemon || peer == 0
}

/// Makes a backup; `None`: the caller has gone, and so has the backup.
async fn back_up(caller: &mut Caller, engine: &RedbStore, clock: Clock, plan: BackupPlan) -> Option<Reply> {
    let dir = plan.dir.display().to_string();
    if !plan.dir.is_absolute() {
        return Some(Reply::Failed(Failed::usage(format!("{dir} is not a path from the root on"))));
    }
    info!(backup.directory = dir, backup.master_key = plan.master_key, "making a backup on request");
    let progress = Arc::new(BackupProgress::default());
    let mut made = std::pin::pin!(on_record(engine, clock, plan, progress.clone()));
    let mut ticks = interval(TOLD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            (made, recorded) = &mut made => return Some(match made {
                Ok(backed_up) => {
                    if let Err(error) = &recorded {
                        warn!(%error, backup.directory = dir, "a backup could not be written to the audit log");
                    }
                    let said = said(&dir, &backed_up, &recorded);
                    info!(backup.directory = dir, backup.bytes = backed_up.bytes, hot.grew_bytes = backed_up.hot_grew, "made a backup");
                    Reply::Done(said)
                }
                Err(error) => {
                    warn!(%error, backup.directory = dir, "no backup was made");
                    Reply::Failed(Failed { code: code_of(&error), message: error.to_string() })
                }
            }),
            () = caller.gone() => break,
            _ = ticks.tick() => {
                let (copied, total) = progress.bytes();
                if !caller.tell(&Reply::Progress { copied, total }).await {
                    break;
                }
            }
        }
    }
    warn!(backup.directory = dir, "who asked for a backup has gone: it is given up");
    None
}

/// Who asked.
struct Caller {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Caller {
    /// Whether it could be told.
    async fn tell(&mut self, reply: &Reply) -> bool {
        let line = serde_json::to_string(reply).expect("replies are texts and numbers") + "\n";
        matches!(timeout(PATIENCE, self.writer.write_all(line.as_bytes())).await, Ok(Ok(())))
    }

    /// Waits until it has closed its side. It has nothing more to say.
    async fn gone(&mut self) {
        while matches!(self.reader.read(&mut [0; 64]).await, Ok(1..)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_paths_have_sockets_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = dir.path().to_owned();
        for n in [3, 60, 300] {
            while data.as_os_str().len() < n {
                data.push("a-folder-with-quite-a-long-name");
            }
            fs::create_dir_all(&data).unwrap();
            let listener = UnixListener::bind(Address::of(&data).unwrap().path).unwrap();
            assert!(data.join(SOCKET).exists());
            connect(&data).unwrap();
            listener.accept().await.unwrap();
        }
    }

    #[test]
    fn only_its_own_user_and_root_are_heard() {
        assert!(may_ask(7, 7) && may_ask(0, 7) && may_ask(0, 0));
        assert!(!may_ask(8, 7) && !may_ask(7, 0));
    }
}
