//! Backups that come to a bad end: a disk that fills up, and whoever makes them killed in the middle.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use postrider_tests::{
    client::{Client, Verdict, verdict},
    daemon::Setup,
    deadline::within,
    events::event,
    receiver::Receiver,
};
use tokio::task::{spawn_blocking, yield_now};

use crate::{
    BINARY,
    backup::{EXIT_CANNOT_CREATE, EXIT_DAMAGED, command, done, text},
    patient,
};

/// Codes of `sysexits.h`: a service is not there, or there is trouble with a disk, or it may be tried again.
const EXIT_UNAVAILABLE: i32 = 69;
const EXIT_IO: i32 = 74;
const EXIT_AGAIN: i32 = 75;
/// More than the hot store has to hold, so that its backup is mostly a segment.
const SEGMENT_BYTES: u64 = 8 << 20;
/// What the hot store needs for what a test adds.
const ROOM_BYTES: u64 = 1 << 20;

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    /// `postriderd` with these arguments about this data directory; with a limit of how long files may be, in blocks of 512 bytes.
    fn start(arguments: &[&str], data: &Path, blocks: Option<u64>) -> Self {
        let mut command = match blocks {
            None => Command::new(BINARY),
            Some(blocks) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("ulimit -f {blocks} && exec \"$0\" \"$@\"")]).arg(BINARY);
                command
            }
        };
        command.args(arguments).arg("--data").arg(data).env_clear().stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().expect("the binary starts"))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_some()
    }

    /// Waits for its end; how that was, and what it said.
    async fn ended(mut self) -> (ExitStatus, String) {
        let stderr = self.0.stderr.take().expect("stderr is a pipe");
        let said = spawn_blocking(move || std::io::read_to_string(stderr));
        let said = within("the command to end", said).await.expect("it does not panic").expect("text");
        (self.0.wait().expect("it is ours"), said)
    }

    async fn fails(self, code: i32, words: &str) {
        let (status, said) = self.ended().await;
        assert_eq!(status.code(), Some(code), "{status}: {said}");
        assert!(said.contains(words), "{words} in {said}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    // A file may go meanwhile.
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}

fn archived() -> Setup {
    // The latter has upkeep look around more often.
    patient().flag("--store-hot", "64KiB").flag("--retention-bytes", "1GiB")
}

async fn publish(client: &Client, id: &str, bytes: usize) -> Verdict {
    let body = format!("\"{}\"", "x".repeat(bytes));
    let (replies, ended) = client.publish_all([event(id, "ADD_TAG", body)]).await;
    ended.expect("the stream ends well");
    verdict(&replies[0])
}

/// Publishes until most of it is in a long segment, and stops the daemon.
async fn fill(setup: &Setup) {
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(500).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await.id();
    let segments = setup.data().join("segments");
    let filled = async {
        for n in 0.. {
            assert!(matches!(publish(&client, &format!("e-{n}"), 64 << 10).await, Verdict::Accepted { .. }));
            if bytes_in(&segments) >= SEGMENT_BYTES.max(2 * bytes_in(&setup.data().join("hot.redb")) + 2 * ROOM_BYTES) {
                return;
            }
        }
    };
    within("a long segment", filled).await;
    assert!(client.webhook(&webhook).await.pending_deliveries > 10);
    daemon.stop().await;
}

/// What is there is a backup, or nobody takes it for one: neither those who look at it, nor who restores it, nor a daemon.
async fn is_whole_or_refused(backup: &Path) -> bool {
    let nobody = archived();
    if !backup.exists() {
        return false;
    }
    let (code, said) = command(&nobody, &["check", text(backup)]).await;
    if code == 0 {
        done(&nobody, &["restore", text(backup)], &["Restored"]).await;
        done(&nobody, &["check"], &["is well"]).await;
        return true;
    }
    // Of one that has not begun there is nothing to damage.
    assert!([EXIT_DAMAGED, EXIT_CANNOT_CREATE].contains(&code), "{code}: {said}");
    let (code, said) = command(&nobody, &["restore", text(backup)]).await;
    assert_eq!(code, EXIT_DAMAGED, "{said}");
    assert_eq!(fs::read_dir(nobody.data()).expect("a folder").count(), 0, "nothing is left of it");
    if bytes_in(backup) > 0 {
        let (status, said) = Process::start(&["--listen", "127.0.0.1:0"], backup, None).ended().await;
        assert!(!status.success() && said.contains("interrupted"), "{status}: {said}");
    }
    false
}

/// Waits until so much of a backup is there, or whoever makes it has ended.
async fn begun(process: &mut Process, backup: &Path, bytes: u64) {
    let begun = async {
        while bytes_in(backup) < bytes && !process.has_ended() {
            yield_now().await;
        }
    };
    within("the backup to begin", begun).await;
}

/// Issue 5, backups: one that does not fit fails in words and leaves nothing; the daemon goes on.
#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_leaves_no_backup() {
    let setup = archived();
    fill(&setup).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let backup = folder.path().join("backup");
    let arguments = ["backup", text(&backup)];
    let hot = fs::metadata(setup.data().join("hot.redb")).expect("it is there").len();
    let limit = (hot + ROOM_BYTES) / 512;
    assert!(limit * 512 < bytes_in(&setup.data().join("segments")));

    // Without a daemon.
    Process::start(&arguments, setup.data(), Some(limit)).fails(EXIT_IO, "cannot be copied").await;
    assert!(!backup.exists());
    // The hot store itself cannot be opened, or not be copied.
    let (status, said) = Process::start(&arguments, setup.data(), Some(hot / 512 / 2)).ended().await;
    assert!(status.code().is_some_and(|code| code != 0) && !said.is_empty(), "{status}: {said}");
    assert!(!backup.exists());
    // With one, which has nothing to move to a segment: those are longer than it may write.
    let daemon = setup.clone().with_other("--store-hot", "1GiB").file_bytes_max(limit * 512).start().await;
    let client = daemon.client().await;
    Process::start(&arguments, setup.data(), None).fails(EXIT_IO, "cannot be copied").await;
    assert!(!backup.exists());
    assert!(matches!(publish(&client, "after", 10).await, Verdict::Accepted { deliveries: 1, duplicate: false }));
    daemon.stop().await;

    done(&setup, &["check"], &["is well"]).await;
    done(&setup, &arguments, &["Backed up to"]).await;
    let other = archived();
    Process::start(&["restore", text(&backup)], other.data(), Some(limit)).fails(EXIT_IO, "cannot be written").await;
    assert_eq!(fs::read_dir(other.data()).expect("a folder").count(), 0, "nothing is left of it");
    assert!(is_whole_or_refused(&backup).await);
}

/// The same when the command, or the daemon, is killed at any moment.
#[tokio::test]
async fn whoever_is_killed_in_the_middle_leaves_no_half_backup() {
    let setup = archived();
    fill(&setup).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let whole = folder.path().join("whole");
    done(&setup, &["backup", text(&whole)], &["Backed up to"]).await;
    assert!(is_whole_or_refused(&whole).await);
    let whole = bytes_in(&whole);

    let mut halves = 0;
    for eighths in [0, 1, 4, 7] {
        let place = |who: &str| folder.path().join(format!("{who}-{eighths}"));
        // The command, without a daemon.
        let backup = place("alone");
        let mut process = Process::start(&["backup", text(&backup)], setup.data(), None);
        begun(&mut process, &backup, whole * eighths / 8 + 1).await;
        drop(process);
        halves += u32::from(!is_whole_or_refused(&backup).await && backup.exists());
        done(&setup, &["check"], &["is well"]).await;

        // The command, of a daemon, which cleans up and makes the next one.
        let daemon = setup.start().await;
        let backup = place("asked");
        let mut process = Process::start(&["backup", text(&backup)], setup.data(), None);
        begun(&mut process, &backup, whole * eighths / 8 + 1).await;
        drop(process);
        let next = place("next");
        let made = async {
            loop {
                let (code, said) = command(&setup, &["backup", text(&next)]).await;
                if code == 0 {
                    return;
                }
                assert_eq!(code, EXIT_AGAIN, "{said}");
            }
        };
        within("the next backup", made).await;
        assert!(is_whole_or_refused(&next).await);
        assert!(is_whole_or_refused(&backup).await || !backup.exists(), "it is cleaned up");

        // The daemon.
        let backup = place("served");
        let mut process = Process::start(&["backup", text(&backup)], setup.data(), None);
        begun(&mut process, &backup, whole * eighths / 8 + 1).await;
        daemon.kill().await;
        let (status, said) = process.ended().await;
        assert!(status.success() || status.code() == Some(EXIT_UNAVAILABLE), "{status}: {said}");
        let is_whole = is_whole_or_refused(&backup).await;
        assert!(is_whole || !status.success());
        halves += u32::from(!is_whole && backup.exists());
        done(&setup, &["check"], &["is well"]).await;
    }
    println!("{halves} halves of backups");
    assert!(halves > 0, "nobody was killed in the middle");
}
