//! That a store that is well is found to be, and every kind of damage is found.

use std::{fs, sync::Arc, time::Duration};

use ::redb::{ReadableTable as _, WriteTransaction};
use bytes::Bytes;
use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Clock,
    model::{event::Event, ids::WebhookNo, time::Timestamp},
    store::{
        OutcomeGroup, Store as _,
        redb::{
            BackupPlan, Config, RedbStore,
            change::begin,
            open as open_store,
            records::{CountersRecord, EventChunk},
            tests::{event, outcome, publish_all, webhook},
        },
    },
};

fn opened(dir: &Path) -> RedbStore {
    let config = Config { hot_bytes_max: 0, retention: Duration::from_hours(100), ..Config::default() };
    open_store(dir, config, Arc::default(), Clock::start()).unwrap()
}

fn large(id: &str) -> Event {
    Event { body: Bytes::from(format!("{{\"{id}\": \"{}\"}}", "x".repeat(2_000))), ..event(id) }
}

fn hours(hours: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_hours(hours)
}

/// Two segments of four events, three events in the hot store, and the first two deliveries of eleven have ended.
async fn filled(store: &RedbStore) -> WebhookNo {
    let no = webhook(store).await;
    for n in 0..2 {
        let batch: Vec<_> = (0..4).map(|m| large(&format!("e-{n}-{m}"))).collect();
        publish_all(store, batch, hours(20 * n)).await.unwrap();
        while store.upkeep(hours(20 * n)).await.unwrap() {}
    }
    let mut outcomes = Vec::new();
    for hint in store.due(no, hours(1_000), 2).await.unwrap().hints {
        outcomes.push(outcome(store, no, hint).await);
    }
    store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
    let batch = (0..3).map(|n| large(&format!("e-last-{n}"))).collect();
    publish_all(store, batch, hours(21)).await.unwrap();
    no
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &copy);
        } else {
            fs::copy(&path, &copy).unwrap();
        }
    }
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_is_well_is_found_to_be_and_stays_as_it_is() {
    let (data, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = opened(data.path());
    filled(&store).await;
    let in_use = check(data.path()).unwrap_err();
    assert!(matches!(in_use, CheckError::InUse(_)), "{in_use}");
    let (crashed, backup) = (other.path().join("crashed"), other.path().join("backup"));
    // What kill -9 would leave.
    copy_all(data.path(), &crashed);
    let plan = BackupPlan { dir: backup.clone(), master_key: false };
    store.back_up(plan, Arc::default()).await.unwrap();
    store.close().await.unwrap();
    for dir in [data.path(), &crashed, &backup] {
        let before = contents(dir);
        let checked = check(dir).unwrap();
        assert!(checked.findings.is_empty(), "{}: {}", dir.display(), checked.findings);
        assert_eq!((checked.events, checked.pending, checked.entries), (11, 9, 2), "{checked:?}");
        assert_eq!(checked.is_backup, dir == backup);
        assert!(contents(dir) == before, "{} was changed", dir.display());
    }
    let nothing = check(&other.path().join("nothing")).unwrap_err();
    assert!(matches!(nothing, CheckError::Nothing(_)), "{nothing}");
    fs::remove_file(backup.join("backup.json.sha256")).unwrap();
    let unfinished = check(&backup).unwrap_err();
    assert!(matches!(unfinished, CheckError::NoBackup(NoBackup::Unfinished(_))), "{unfinished}");
}

#[tokio::test]
async fn a_flipped_byte_in_a_page_is_found() {
    let data = TempDir::new().unwrap();
    let store = opened(data.path());
    filled(&store).await;
    store.close().await.unwrap();
    for (path, good) in contents(data.path()) {
        if path.extension().is_none_or(|extension| extension != "redb") {
            continue;
        }
        // In the middle of a body, which redb decodes as well as any other.
        let at = good.windows(100).position(|part| part == [b'x'; 100]).unwrap() + 50;
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let first = check(data.path()).unwrap().findings;
        // A page that was given up may hold what another one does.
        if first.is_empty() {
            let all_bad: Vec<u8> = good.iter().map(|byte| if *byte == b'x' { b'y' } else { *byte }).collect();
            fs::write(&path, all_bad).unwrap();
            assert!(!check(data.path()).unwrap().findings.is_empty(), "{}", path.display());
        }
        fs::remove_file(&path).unwrap();
        match check(data.path()) {
            Ok(checked) => assert!(checked.findings.to_string().contains("is missing"), "{}", checked.findings),
            Err(error) => assert!(matches!(error, CheckError::Nothing(_)), "{error}"),
        }
        fs::write(&path, good).unwrap();
    }
    assert!(check(data.path()).unwrap().findings.is_empty());
}

/// Changes a row of the hot store, or of the first segment, and says what is found.
fn plant(data: &Path, file: &str, change: impl Fn(&WriteTransaction)) -> String {
    let other = TempDir::new().unwrap();
    copy_all(data, other.path());
    let database = Database::create(other.path().join(file)).unwrap();
    let txn = begin(&database).unwrap();
    change(&txn);
    txn.commit().unwrap();
    database.close().unwrap();
    check(other.path()).unwrap().findings.to_string()
}

fn counters(txn: &WriteTransaction, change: impl Fn(&mut CountersRecord)) {
    let mut meta = txn.open_table(tables::META).unwrap();
    let mut counters = CountersRecord::decode_from(meta.get(meta::COUNTERS).unwrap().unwrap().value()).unwrap();
    change(&mut counters);
    meta.insert(meta::COUNTERS, counters.encode_to_vec().as_slice()).unwrap();
}

#[tokio::test]
async fn rows_that_do_not_fit_together_are_found() {
    let data = TempDir::new().unwrap();
    let store = opened(data.path());
    let no = filled(&store).await.0;
    store.close().await.unwrap();
    let data = data.path();
    let segment = "segments/00000001.redb";
    let check = |file: &str, expected: &str, change: &dyn Fn(&WriteTransaction)| {
        let found = plant(data, file, change);
        assert!(found.contains(expected), "{expected} in {found}");
    };
    assert_eq!(plant(data, HOT, |_| {}), "", "nothing is wrong by itself");
    check(HOT, "counts 9 pending deliveries, and has 8", &|txn| {
        assert!(txn.open_table(tables::READY).unwrap().remove((no, 9, 0)).unwrap().is_some());
    });
    check(HOT, "9 deliveries are counted as pending, and 8 are", &|txn| {
        txn.open_table(tables::READY).unwrap().remove((no, 9, 0)).unwrap();
        txn.open_table(tables::COUNTS).unwrap().remove(no).unwrap();
    });
    check(HOT, "event 99 is pending for webhook", &|txn| {
        txn.open_table(tables::READY).unwrap().insert((no, 99, 0), 0).unwrap();
    });
    check(HOT, "which there is not", &|txn| {
        txn.open_table(tables::WEBHOOKS).unwrap().remove(no).unwrap();
    });
    check(HOT, "its delivery is not", &|txn| {
        txn.open_table(tables::SCHEDULED).unwrap().insert((no, 5, 9, 0), 1).unwrap();
    });
    check(HOT, "is not queued", &|txn| {
        txn.open_table(tables::PARKED).unwrap().insert((no, 9, 0), (0, 0, 7)).unwrap();
    });
    check(HOT, "is a head at webhook", &|txn| {
        txn.open_table(tables::HEADS).unwrap().insert((no, 9, 0), 7).unwrap();
    });
    check(HOT, "events 9 to 11 are missing", &|txn| {
        txn.open_table(tables::EVENT_CHUNKS).unwrap().retain(|_, _| false).unwrap();
    });
    check(HOT, "the log ends at", &|txn| counters(txn, |counters| counters.log_head += 1));
    check(HOT, "are missing", &|txn| counters(txn, |counters| counters.next_event += 1));
    check(HOT, "cannot be read", &|txn| {
        txn.open_table(tables::WEBHOOKS).unwrap().insert(77, [0xff_u8; 3].as_slice()).unwrap();
    });
    check(segment, "events 1 to 4 are missing", &|txn| {
        txn.open_table(tables::EVENT_CHUNKS).unwrap().retain(|_, _| false).unwrap();
    });
    check(segment, "event 1 is not known by its id", &|txn| {
        txn.open_table(tables::EVENT_IDS).unwrap().retain(|_, _| false).unwrap();
    });
    check(segment, "is not what was published", &|txn| {
        let mut table = txn.open_table(tables::EVENT_CHUNKS).unwrap();
        let bytes = table.get(1).unwrap().unwrap().value().to_vec();
        let mut changed = bytes.clone();
        let at = changed.iter().rposition(|byte| *byte == b'x').unwrap();
        changed[at] = b'y';
        EventChunk::decode_from(Bytes::from(changed.clone())).unwrap();
        table.insert(1, changed.as_slice()).unwrap();
    });
}
