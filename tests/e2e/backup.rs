//! Backups of a daemon at work, and what is restored from them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use postrider_proto::v1::{
    DeliveryState, ListDeliveriesRequest, WatchDeliveriesRequest, watch_deliveries_request::Start,
};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    daemon::Setup,
    deadline::within,
    events::event,
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
};
use tonic_types::StatusExt as _;

use crate::{BINARY, patient, setup};

/// Codes of `sysexits.h`: data is damaged, an output cannot be made, the settings do not fit.
pub(super) const EXIT_DAMAGED: i32 = 65;
pub(super) const EXIT_CANNOT_CREATE: i32 = 73;
const EXIT_CONFIG: i32 = 78;
const SHORTLY: Duration = Duration::from_secs(30);

/// Runs a command about the data directory of a setup; what it wrote, together.
pub(super) async fn command(setup: &Setup, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--data").arg(setup.data()).env_clear();
    let run = spawn_blocking(move || command.output());
    let Output { status, stdout, stderr } =
        within("the command", run).await.expect("it does not panic").expect("the binary starts");
    let said = [stdout, stderr].map(|text| String::from_utf8(text).expect("text")).concat();
    (status.code().expect("it ended by itself"), said)
}

pub(super) async fn done(setup: &Setup, arguments: &[&str], texts: &[&str]) {
    expect(setup, arguments, 0, texts).await;
}

async fn expect(setup: &Setup, arguments: &[&str], code: i32, texts: &[&str]) {
    let (ended, said) = command(setup, arguments).await;
    println!("{arguments:?}: {said}");
    assert_eq!(ended, code, "{arguments:?}: {said}");
    for text in texts {
        assert!(said.contains(text), "{text} in {said}");
    }
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// Publishes until it is told to stop; tells how many were acknowledged.
async fn load(client: Client, told: watch::Sender<Vec<String>>, stop: watch::Receiver<bool>) {
    for batch in 0.. {
        let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(1_000));
        let events = (0..20).map(move |n| event(&format!("e-{batch}-{n}"), "ADD_TAG", body.clone()));
        // The daemon is killed in the middle.
        let (replies, _) = client.publish_all(events).await;
        let accepted = replies.iter().filter(|reply| matches!(verdict(reply), Verdict::Accepted { .. }));
        let ids: Vec<_> = accepted.map(|reply| reply.event_id.clone()).collect();
        told.send_modify(|known| known.extend(ids));
        if *stop.borrow() {
            return;
        }
    }
}

async fn acknowledged(told: &mut watch::Receiver<Vec<String>>, count: usize) -> BTreeSet<String> {
    let known = within("acknowledgements", told.wait_for(|known| known.len() >= count)).await;
    known.expect("the load goes on").iter().cloned().collect()
}

async fn watch_from(client: &Client, cursor: &str) -> Result<(), tonic::Status> {
    let start = Some(Start::Cursor(cursor.to_owned()));
    let request = WatchDeliveriesRequest { start, ..WatchDeliveriesRequest::default() };
    let mut stream = client.deliveries.clone().watch_deliveries(request).await?.into_inner();
    stream.message().await.map(|_| ())
}

/// The drill: a backup under load, the machine is lost, and everything acknowledged before the backup was asked for is delivered, or
/// pending, elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_backup_outlives_the_machine() {
    let setup = patient().flag("--store-hot", "256KiB").flag("--watch-heartbeat", "100ms");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let backup = folder.path().join("backup");
    let receiver = Receiver::start(|request| Answer::status(if request.path == "/bad" { 500 } else { 200 })).await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let good = client.create(&receiver.url("/good"), &["*"]).await.id();
    let bad = client.create(&receiver.url("/bad"), &["*"]).await.id();
    let mut watcher = client.watch().await;
    let (told, mut known) = watch::channel(Vec::new());
    let (stop, stops) = watch::channel(false);
    let mut publishing = JoinSet::new();
    publishing.spawn(load(daemon.client().await, told, stops));

    let before = acknowledged(&mut known, 1_000).await;
    watcher.outcomes(10).await;
    let kept = watcher.cursor().to_owned();
    done(&setup, &["backup", text(&backup)], &["Backed up to", "master.key", "apart from it"]).await;
    let after = acknowledged(&mut known, before.len() + 200).await;
    let mut lost = client.watch().await;
    lost.outcomes(1).await;
    let lost = lost.cursor().to_owned();
    let key = fs::read(setup.data().join("master.key")).expect("readable");
    daemon.kill().await;
    stop.send_replace(true);
    within("the load to end", publishing.join_next()).await.expect("it was begun").expect("it does not panic");
    receiver.drained().await;
    receiver.start_epoch();
    // A daemon that was killed leaves its files in order.
    done(&setup, &["check"], &["data directory", "is well"]).await;
    done(&setup, &["check", text(&backup)], &["backup", "is well"]).await;

    // On another machine.
    let restored = patient().flag("--watch-heartbeat", "100ms");
    done(&restored, &["restore", text(&backup)], &["Restored", "The master key is missing", "master.key"]).await;
    let refused = restored.spawn().ended(SHORTLY).await;
    assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{}", refused.log);
    assert!(refused.log.contains("no master key"), "{}", refused.log);
    let file = restored.data().join("master.key");
    fs::write(&file, key).expect("writable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let daemon = restored.start().await;
    assert!(daemon.log().contains("restored from a backup"), "{}", daemon.log());
    let client = daemon.client().await;
    while client.webhook(&good).await.pending_deliveries > 0 {
        client.watch().await.message().await.expect("the watch goes on");
    }
    for (webhook, state) in [(&good, DeliveryState::Delivered), (&bad, DeliveryState::Pending)] {
        let request = ListDeliveriesRequest { webhook_id: webhook.clone(), page_size: 1_000, ..Default::default() };
        let found = client.deliveries(request).await;
        let ids: BTreeSet<String> =
            found.into_iter().filter(|found| found.state() == state).map(|found| found.event_id).collect();
        let missing: Vec<_> = before.difference(&ids).collect();
        assert!(missing.is_empty(), "{state:?}: {missing:?} of {}", before.len());
    }
    // What comes again comes under the same id.
    let receipts = receiver.all();
    let of = |epoch| {
        let mine = receipts.iter().filter(move |request| request.epoch == epoch && request.path == "/good");
        mine.map(|request| request.event_id.clone()).collect::<BTreeSet<_>>()
    };
    assert!(of(1).is_subset(&after.union(&of(0)).cloned().collect()), "nothing is made up");

    watch_from(&client, &kept).await.expect("what the backup reaches is still there");
    let status = watch_from(&client, &lost).await.expect_err("that never happened");
    let rejection = Rejection::from(&status);
    assert_eq!((rejection.code, rejection.reason.as_str()), (tonic::Code::OutOfRange, "CURSOR_UNDONE"), "{status:?}");
    let at_backup = status.get_error_details().error_info().expect("it is told").metadata["last_cursor"].clone();
    watch_from(&client, &at_backup).await.expect("from there it goes on");
    expect(&restored, &["check"], EXIT_CANNOT_CREATE, &["in use"]).await;
    daemon.stop().await;
    done(&restored, &["check"], &["is well"]).await;
}

/// Without a daemon, to places that are no good, and with damage.
#[tokio::test]
async fn what_cannot_be_is_refused_in_words() {
    let (setup, other) = (setup(), setup());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let [backup, second] = ["1", "2"].map(|name| folder.path().join(name));
    expect(&setup, &["backup", text(&backup)], EXIT_CANNOT_CREATE, &["holds no data"]).await;
    expect(&setup, &["restore", text(&backup)], EXIT_DAMAGED, &["holds no backup"]).await;
    let daemon = setup.start().await;
    let inside = setup.data().join("backup");
    expect(&setup, &["backup", text(&inside)], EXIT_CANNOT_CREATE, &["inside the data directory"]).await;
    done(&setup, &["backup", "--with-master-key", text(&backup)], &["Backed up to"]).await;
    expect(&setup, &["backup", text(&backup)], EXIT_CANNOT_CREATE, &["not empty"]).await;
    expect(&setup, &["restore", text(&backup)], EXIT_CANNOT_CREATE, &["not empty"]).await;
    daemon.stop().await;
    assert!(!setup.data().join("control.sock").exists(), "it goes with the daemon");

    done(&setup, &["backup", text(&second)], &["Backed up to"]).await;
    fs::remove_file(second.join("backup.json.sha256")).expect("removable");
    expect(&other, &["restore", text(&second)], EXIT_DAMAGED, &["not complete"]).await;
    let hot = backup.join("hot.redb");
    let mut bytes = fs::read(&hot).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&hot, &bytes).expect("writable");
    expect(&other, &["restore", text(&backup)], EXIT_DAMAGED, &["hot.redb", "checksum"]).await;
    assert_eq!(fs::read_dir(other.data()).expect("a folder").count(), 0, "nothing is left of it");
    expect(&other, &["check", text(&backup)], EXIT_DAMAGED, &["is damaged", "hot.redb", "checksum"]).await;
    expect(&other, &["check"], EXIT_CANNOT_CREATE, &["holds neither"]).await;
    bytes[middle] ^= 1;
    fs::write(&hot, &bytes).expect("writable");
    done(&other, &["restore", text(&backup)], &["Restored"]).await;
    other.start().await.stop().await;
}

/// Who asks and goes away has asked for nothing; a daemon that was killed leaves a socket that the next one replaces.
#[tokio::test]
async fn the_socket_is_for_those_who_wait() {
    let setup = setup();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let socket = setup.data().join("control.sock");
    setup.start().await.kill().await;
    assert!(socket.exists());
    let daemon = setup.start().await;
    let mode = fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let silent: Vec<_> = (0..3).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    done(&setup, &["backup", text(&folder.path().join("1"))], &["Backed up to"]).await;
    drop(silent);
    // A silent one does not hold up the end.
    let _silent = UnixStream::connect(&socket).expect("it listens");
    daemon.stop().await;
}
