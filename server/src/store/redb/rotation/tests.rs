//! Another master key: nothing is lost, whenever it is interrupted, and nothing is left that the old one opens.

use std::{collections::HashSet, fs, sync::Arc};

use ::redb::ReadableDatabase as _;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Clock,
    model::{
        ids::WebhookNo,
        master_key::MasterKey,
        request::{Authorization, Headers, RequestShape},
        signing::{Keys, Secret},
        target::Target,
        time::Timestamp,
        tls::TlsSettings,
        webhook::{Settings, Subscription, Webhook, WebhookSpec},
    },
    store::{
        ConfigAnswer, ConfigChange, RequestKey, Store as _,
        redb::{RedbStore, open as open_store, tables},
    },
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn with(source: KeySource) -> Config {
    Config { master_key: source, ..Config::default() }
}

fn open_with(dir: &TempDir, source: KeySource) -> Result<RedbStore, OpenError> {
    open_store(dir.path(), with(source), Arc::default(), Clock::start())
}

fn given(key: &MasterKey) -> KeySource {
    KeySource::Given("a variable", key.clone())
}

fn generate() -> MasterKey {
    MasterKey::generate(&mut rand::rng())
}

fn request(n: u8) -> RequestKey {
    RequestKey { id: format!("request-{n}"), hash: n.into() }
}

async fn create(store: &RedbStore, n: u8) -> Webhook {
    let target = Target::from_stored("https://receiver.example/").unwrap();
    let shape = RequestShape {
        headers: Headers::new([("x-key".into(), format!("header-{n}"))]).unwrap(),
        authorization: Some(Authorization::bearer(&format!("token-{n}")).unwrap()),
        ..RequestShape::default()
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let tls = TlsSettings::parse("", &certificate, &key.serialize_pem()).unwrap().map(Arc::new);
    let settings = Settings { request: shape.settled(), tls, ..Settings::new(target, Subscription::All) };
    let spec = WebhookSpec { tenant: "t".parse().unwrap(), settings, enabled: true };
    let keys = Keys::from(Secret::from_bytes(&[n; 32]).unwrap());
    let change = ConfigChange::CreateWebhook { spec, keys, request: Some(request(n)), time: NOW };
    let ConfigAnswer::Created(webhook) = store.put_config(change).await.unwrap() else { panic!("not created") };
    webhook
}

/// A closed store with some webhooks, of which one was created in vain again.
async fn filled(source: KeySource) -> (TempDir, Vec<Webhook>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(&dir, source).unwrap();
    let mut webhooks = Vec::new();
    for n in 1..=5 {
        webhooks.push(create(&store, n).await);
    }
    store.close().await.unwrap();
    (dir, webhooks)
}

/// It opens, and everything is as it was.
async fn check(dir: &TempDir, source: KeySource, webhooks: &[Webhook]) {
    let store = open_with(dir, source).unwrap();
    assert_eq!(store.catalog().len(), webhooks.len());
    for (n, webhook) in (1..).zip(webhooks) {
        let known = store.catalog().webhook(WebhookNo(webhook.no.0)).expect("it is known");
        assert_eq!(*known.webhook, *webhook);
        let again = store.answered(&webhook.tenant, &request(n), NOW).await.unwrap();
        assert!(matches!(again, Some(ConfigAnswer::Created(again)) if again == *webhook));
        let other = RequestKey { hash: 99, ..request(n) };
        let reused = store.answered(&webhook.tenant, &other, NOW).await.unwrap();
        assert!(matches!(reused, Some(ConfigAnswer::RequestReused)));
    }
    store.close().await.unwrap();
}

fn refused(dir: &TempDir, source: KeySource) -> KeyError {
    match open_with(dir, source) {
        Err(OpenError::Key(error)) => error,
        other => panic!("not refused for its key: {other:?}"),
    }
}

fn taken(dir: &TempDir) -> OpenFile {
    open_hot(dir.path(), &Config::default()).unwrap()
}

/// The nonces of everything that is encrypted with a key: they stand behind its number.
fn nonces(dir: &TempDir, key: u32) -> HashSet<[u8; 24]> {
    let hot = taken(dir);
    let txn = hot.begin_read().unwrap();
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for row in txn.open_table(tables::WEBHOOKS).unwrap().iter().unwrap() {
        rows.push(row.unwrap().1.value().to_vec());
    }
    for row in txn.open_table(tables::REQUESTS).unwrap().iter().unwrap() {
        rows.push(row.unwrap().1.value().to_vec());
    }
    rows.push(txn.open_table(tables::META).unwrap().get(meta::KEYS).unwrap().unwrap().value().to_vec());
    let numbered = rows.iter().flat_map(|row| row.windows(28)).filter(|part| part[..4] == key.to_le_bytes());
    numbered.map(|part| part[4..].try_into().unwrap()).collect()
}

/// How many of them are anywhere in the file.
fn traces(dir: &TempDir, nonces: &HashSet<[u8; 24]>) -> usize {
    let file = fs::read(dir.path().join(HOT)).unwrap();
    file.windows(24).filter(|part| nonces.contains(*part)).count()
}

#[tokio::test]
async fn a_new_key_opens_everything_and_the_old_one_nothing() {
    let (dir, webhooks) = filled(KeySource::Directory).await;
    let old = KeySource::Directory.first(dir.path()).unwrap();
    let before = nonces(&dir, 1);
    assert_eq!(before.len(), 5 * (4 + 5) + 1, "four values of a webhook, a hash with its copy, and the check value");
    assert!(traces(&dir, &before) >= before.len());
    let rotated = rotate(dir.path(), &with(KeySource::Directory), None).unwrap();
    assert_eq!(rotated.rows, 10, "five webhooks and five requests");
    assert!(rotated.key.ends_with("master.key"));
    assert_eq!(nonces(&dir, 2).len(), before.len());
    assert_eq!(traces(&dir, &before), 0, "nothing that the old key opens is left in a file this small");
    check(&dir, KeySource::Directory, &webhooks).await;
    assert!(matches!(refused(&dir, given(&old)), KeyError::Wrong(place) if place == "a variable"));
    assert_ne!(KeySource::Directory.first(dir.path()).unwrap(), old);
    // And again.
    rotate(dir.path(), &with(KeySource::Directory), None).unwrap();
    check(&dir, KeySource::Directory, &webhooks).await;
}

#[tokio::test]
async fn an_interruption_at_any_place_is_made_good() {
    for slices in 0.. {
        let (dir, webhooks) = filled(KeySource::Directory).await;
        let hot = taken(&dir);
        let begun = Rotation::begin(&hot, &KeySource::Directory, None, dir.path()).unwrap();
        let mut rotation = begun.expect("there is something to do");
        let mut more = true;
        for _ in 0..slices {
            more = more && rotation.step(&hot).unwrap();
        }
        drop(hot);
        assert!(matches!(refused(&dir, KeySource::Directory), KeyError::Rotating), "after {slices} slices");
        let done = rotation.rows;
        let rotated = rotate(dir.path(), &with(KeySource::Directory), None).unwrap();
        assert_eq!(rotated.rows + done, 10, "nothing is done twice, after {slices} slices");
        check(&dir, KeySource::Directory, &webhooks).await;
        if !more {
            assert!(slices > 5, "there were slices");
            return;
        }
    }
}

/// The store has the new key alone, but the file of the key is still the old one.
#[tokio::test]
async fn the_last_step_is_made_good_too() {
    let (dir, webhooks) = filled(KeySource::Directory).await;
    let hot = taken(&dir);
    let begun = Rotation::begin(&hot, &KeySource::Directory, None, dir.path()).unwrap();
    let mut rotation = begun.expect("there is something to do");
    while rotation.step(&hot).unwrap() {}
    finish(&hot, rotation.audited).unwrap();
    drop(hot);
    check(&dir, KeySource::Directory, &webhooks).await;
    check(&dir, KeySource::File(dir.path().join("master.key")), &webhooks).await;

    let (old, new) = (generate(), generate());
    let (dir, webhooks) = filled(given(&old)).await;
    for rows in [10, 0] {
        let rotated = rotate(dir.path(), &with(given(&old)), Some(&given(&new))).unwrap();
        assert_eq!(rotated, Rotated { rows, key: "a variable".into() });
    }
    check(&dir, given(&new), &webhooks).await;
}

#[tokio::test]
async fn keys_move_out_of_the_data_directory_and_do_not_lie_beside_it() {
    let (dir, webhooks) = filled(KeySource::Directory).await;
    let new = generate();
    for _ in 0..2 {
        rotate(dir.path(), &with(KeySource::Directory), Some(&given(&new))).unwrap();
        assert!(!dir.path().join("master.key").exists());
    }
    assert!(matches!(refused(&dir, KeySource::Directory), KeyError::Missing(_)));
    check(&dir, given(&new), &webhooks).await;
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_refused_and_nothing_changes() {
    let key = generate();
    let (dir, webhooks) = filled(given(&key)).await;
    for _ in 0..2 {
        assert!(matches!(refused(&dir, given(&generate())), KeyError::Wrong(_)));
        assert!(matches!(refused(&dir, KeySource::Directory), KeyError::Missing(_)));
        assert!(!dir.path().join("master.key").exists(), "none is made for a store that has one");
        let wrong = rotate(dir.path(), &with(given(&generate())), Some(&given(&generate())));
        assert!(matches!(wrong, Err(RotateError::Open(OpenError::Key(KeyError::Wrong(_))))), "{wrong:?}");
    }
    assert!(matches!(rotate(dir.path(), &with(given(&key)), Some(&given(&key))), Err(RotateError::SameKey)));
    check(&dir, given(&key), &webhooks).await;

    let (new, other) = (generate(), generate());
    let hot = taken(&dir);
    Rotation::begin(&hot, &given(&key), Some(&given(&new)), dir.path()).unwrap();
    drop(hot);
    let wrong = rotate(dir.path(), &with(given(&key)), Some(&given(&other)));
    assert!(matches!(wrong, Err(RotateError::OtherKey(_))), "{wrong:?}");
    rotate(dir.path(), &with(given(&key)), Some(&given(&new))).unwrap();
    check(&dir, given(&new), &webhooks).await;
}

#[tokio::test]
async fn a_store_in_use_or_none_at_all_is_refused() {
    let (dir, _) = filled(KeySource::Directory).await;
    let store = open_with(&dir, KeySource::Directory).unwrap();
    let refused = rotate(dir.path(), &with(KeySource::Directory), None);
    assert!(matches!(refused, Err(RotateError::Open(OpenError::InUse(_)))), "{refused:?}");
    store.close().await.unwrap();
    let empty = tempfile::tempdir().unwrap();
    let refused = rotate(empty.path(), &with(KeySource::Directory), None);
    assert!(matches!(refused, Err(RotateError::Open(OpenError::Broken { .. }))), "{refused:?}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made");
}
