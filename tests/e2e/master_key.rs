//! The key that secrets are encrypted with: where it comes from, what a daemon does without it, and how it is replaced.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use postrider_proto::v1::{Authorization, BearerToken, Webhook, authorization::Scheme};
use postrider_tests::{
    client::{Client, Created, webhook},
    daemon::{Daemon, Ended, Setup},
    events::event,
    independent,
    receiver::Receiver,
};

use crate::{BINARY, setup};

/// `EX_USAGE`: the settings are wrong by themselves.
const EXIT_USAGE: i32 = 64;
/// `EX_CANTCREAT`: the data directory cannot be used.
const EXIT_CANNOT_USE: i32 = 73;
/// `EX_CONFIG`: they do not fit the data directory.
const EXIT_CONFIG: i32 = 78;
const SHORTLY: Duration = Duration::from_secs(30);
const TOKEN: &str = "the-token-of-this-webhook";
/// Base64 of 32 bytes.
const KEY: &str = "a2V5IG9mIGV4YWN0bHkgdGhpcnR5LXR3byBieXRlcyE=";
const OTHER_KEY: &str = "b25lIG1vcmUga2V5IG9mIDMyIGJ5dGVzLCBmb3IgdXM=";

async fn create(client: &Client, receiver: &Receiver) -> Created {
    let scheme = Some(Scheme::Bearer(BearerToken { token: TOKEN.into() }));
    let webhook = Webhook { authorization: Some(Authorization { scheme }), ..webhook("", &receiver.url("/"), &["*"]) };
    client.create_as(webhook).await
}

/// Events are delivered with the secrets that the webhook was created with.
async fn check(daemon: &Daemon, receiver: &Receiver, created: &Created, event_id: &str) {
    let before = receiver.all().len();
    daemon.client().await.publish([event(event_id, "ADD_TAG", "{}")]).await;
    receiver.received(before + 1).await;
    let request = receiver.all().pop().expect("it was received");
    assert_eq!(request.header("authorization"), format!("Bearer {TOKEN}"));
    assert!(independent::is_signed(&request, &created.secret));
}

async fn refused(setup: &Setup, code: i32, texts: &[&str]) -> Ended {
    let ended = setup.spawn().ended(SHORTLY).await;
    assert_eq!(ended.status.code(), Some(code), "{}\n{}", ended.status, ended.log);
    for text in texts {
        assert!(ended.log.contains(text), "{text} in {}", ended.log);
    }
    ended
}

async fn rotated(setup: &Setup) -> String {
    let ended = setup.clone().argument("rotate-master-key").spawn().ended(SHORTLY).await;
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.status, ended.log);
    assert!(ended.log.contains("the store is opened with no other any longer"), "{}", ended.log);
    ended.log
}

fn write_key(path: &Path, key: &str, mode: u32) {
    fs::write(path, format!("{key}\n")).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// The issue: where none is configured, the daemon makes one that only its owner can read, says so, and goes on with it.
#[tokio::test]
async fn a_key_is_made_at_the_first_start() {
    let (setup, receiver) = (setup(), Receiver::answering(200).await);
    let file = setup.data().join("master.key");
    let daemon = setup.start().await;
    assert!(daemon.log().contains("made a master key"), "{}", daemon.log());
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o7777, 0o600);
    let key = fs::read_to_string(&file).expect("readable");
    let created = create(&daemon.client().await, &receiver).await;
    check(&daemon, &receiver, &created, "e1").await;
    daemon.kill().await;

    let daemon = setup.start().await;
    assert!(!daemon.log().contains("made a master key"), "{}", daemon.log());
    assert!(!daemon.log().contains(key.trim()), "it is in no log");
    assert_eq!(fs::read_to_string(&file).expect("readable"), key);
    check(&daemon, &receiver, &created, "e2").await;
    daemon.stop().await;
}

/// Without its key, or with another one, a store is not opened, and is as good as before once the key is back.
#[tokio::test]
async fn a_missing_or_wrong_key_is_refused_in_words() {
    let (setup, receiver) = (setup(), Receiver::answering(200).await);
    let file = setup.data().join("master.key");
    let daemon = setup.start().await;
    let created = create(&daemon.client().await, &receiver).await;
    daemon.stop().await;
    let key = fs::read_to_string(&file).expect("readable");

    fs::remove_file(&file).expect("removable");
    refused(&setup, EXIT_CONFIG, &["no master key", "--master-key-file", "POSTRIDER_MASTER_KEY"]).await;
    assert!(!file.exists(), "none is made for a store that has one");
    write_key(&file, KEY, 0o600);
    refused(&setup, EXIT_CONFIG, &["not the one", "--master-key-file"]).await;
    let other = setup.clone().variable("POSTRIDER_MASTER_KEY", OTHER_KEY);
    let ended = refused(&other, EXIT_CONFIG, &["POSTRIDER_MASTER_KEY is not the one"]).await;
    assert!(!ended.log.contains(OTHER_KEY) && !ended.log.contains(KEY), "{}", ended.log);

    write_key(&file, key.trim(), 0o644);
    refused(&setup, EXIT_CONFIG, &["others can use it", "0644", "0600"]).await;
    write_key(&file, key.trim(), 0o400);
    let daemon = setup.start().await;
    check(&daemon, &receiver, &created, "e").await;
    daemon.stop().await;
}

/// A key of the operator's own, in a file or in the environment, is the only one there is.
#[tokio::test]
async fn a_key_can_be_kept_elsewhere() {
    let (bare, receiver) = (setup().argument("--require-master-key"), Receiver::answering(200).await);
    refused(&bare, EXIT_USAGE, &["--require-master-key", "--master-key-file"]).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("key");
    let by_file = bare.clone().flag("--master-key-file", path.to_str().expect("text"));
    refused(&by_file, EXIT_CONFIG, &["no master key", "--master-key-file"]).await;
    write_key(&path, KEY, 0o640);
    refused(&by_file, EXIT_CONFIG, &["0640"]).await;
    write_key(&path, KEY, 0o600);
    let daemon = by_file.start().await;
    let created = create(&daemon.client().await, &receiver).await;
    daemon.stop().await;

    let by_variable = bare.variable("POSTRIDER_MASTER_KEY", KEY);
    let daemon = by_variable.start().await;
    check(&daemon, &receiver, &created, "e").await;
    daemon.stop().await;
    assert!(!by_variable.data().join("master.key").exists());
    let wrong = by_variable.variable("POSTRIDER_MASTER_KEY", "not a key");
    let ended = refused(&wrong, EXIT_USAGE, &["POSTRIDER_MASTER_KEY", "base64"]).await;
    assert!(!ended.log.contains("not a key"), "{}", ended.log);
}

/// The command replaces the key while no daemon runs; from then on the old one is another store's.
#[tokio::test]
async fn the_key_is_replaced_by_command() {
    let (setup, receiver) = (setup(), Receiver::answering(200).await);
    let file = setup.data().join("master.key");
    let daemon = setup.start().await;
    let created = create(&daemon.client().await, &receiver).await;
    refused(&setup.clone().argument("rotate-master-key"), EXIT_CANNOT_USE, &["in use"]).await;
    daemon.stop().await;
    let old = fs::read_to_string(&file).expect("readable");
    rotated(&setup).await;
    let new = fs::read_to_string(&file).expect("readable");
    assert_ne!(new, old);
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o7777, 0o600);
    let by_old = setup.clone().variable("POSTRIDER_MASTER_KEY", old.trim());
    refused(&by_old, EXIT_CONFIG, &["not the one"]).await;
    let daemon = setup.start().await;
    check(&daemon, &receiver, &created, "e1").await;
    daemon.stop().await;

    // To a key that is kept elsewhere, and on to another one.
    rotated(&setup.clone().variable("POSTRIDER_NEW_MASTER_KEY", KEY)).await;
    assert!(!file.exists(), "the old key does not lie about");
    refused(&setup, EXIT_CONFIG, &["no master key"]).await;
    let by_variable = setup.clone().variable("POSTRIDER_MASTER_KEY", KEY);
    refused(&by_variable.clone().argument("rotate-master-key"), EXIT_USAGE, &["--new-master-key-file"]).await;
    rotated(&by_variable.clone().variable("POSTRIDER_NEW_MASTER_KEY", OTHER_KEY)).await;
    refused(&by_variable, EXIT_CONFIG, &["not the one"]).await;
    let daemon = setup.variable("POSTRIDER_MASTER_KEY", OTHER_KEY).start().await;
    check(&daemon, &receiver, &created, "e2").await;
    daemon.stop().await;
}

/// Killed in the middle, the command goes on where it was; until then the daemon says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_was_killed_goes_on() {
    const WEBHOOKS: usize = 2_000;
    let (setup, receiver) = (Setup::new(BINARY).flag("--log", "debug"), Receiver::answering(200).await);
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let created = create(&client, &receiver).await;
    let other = receiver.url("/other");
    let others = (1..WEBHOOKS).map(|_| client.create(&other, &["NEW_LEAD"]));
    let others = futures::future::join_all(others).await;
    assert_eq!(others.len(), WEBHOOKS - 1);
    daemon.stop().await;

    for attempt in 1.. {
        assert!(attempt <= 10, "it was never killed in the middle");
        let rotation = setup.clone().argument("rotate-master-key").spawn();
        rotation.logged("encrypted anew").await;
        rotation.kill().await;
        let mut daemon = setup.spawn();
        if daemon.serves().await {
            // It was done before it could be killed.
            daemon.stop().await;
            continue;
        }
        let ended = daemon.ended(SHORTLY).await;
        assert_eq!(ended.status.code(), Some(EXIT_CONFIG), "{}\n{}", ended.status, ended.log);
        assert!(ended.log.contains("run `postriderd rotate-master-key` again"), "{}", ended.log);
        break;
    }
    let log = rotated(&setup).await;
    let left = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let left: Vec<u64> =
        left.filter(|line| line.get("key").is_some()).filter_map(|line| line["rows"].as_u64()).collect();
    assert!(matches!(left[..], [rows] if 0 < rows && rows < WEBHOOKS as u64), "{left:?} in {log}");

    let daemon = setup.start().await;
    check(&daemon, &receiver, &created, "e").await;
    let client = daemon.client().await;
    for known in [&others[0], &others[WEBHOOKS / 2], &others[WEBHOOKS - 2]] {
        assert_eq!(client.webhook(&known.id()).await.url, receiver.url("/other"));
    }
    daemon.stop().await;
}
