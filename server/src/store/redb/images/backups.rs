//! A disk that fails while a backup reads from it: there is a whole backup or none, and the store goes on.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{task::yield_now, time::timeout};

use super::{
    super::{
        BackupPlan, Config, RedbStore, open as open_files, open_on, restore,
        tests::{event, publish_all, webhook},
    },
    config,
    disk::{Fault, SimulatedDisk},
    run, setting,
};
use crate::{
    clock::Clock,
    model::{event::Event, ids::WebhookNo, time::Timestamp},
    store::Store as _,
};

/// How long a store may take to come back once its disk is well.
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);
/// An ordinary run fails each operation in turn, of which there are few; `FAULTS=3` one of three.
const EVERY: u64 = 1;
const EVENTS: usize = 24;

/// Nothing is found in memory that can be read from the disk.
fn cold() -> Config {
    Config { cache_bytes: 64 << 10, ..config() }
}

fn large(n: usize) -> Event {
    Event { body: format!("\"{}\"", "x".repeat(3_000)).into(), ..event(&format!("e-{n}")) }
}

/// The directory is one that there is: backups compare places.
fn opened(disk: &SimulatedDisk, data: &TempDir) -> RedbStore {
    open_on(Arc::new(disk.clone()), data.path(), cold(), Arc::default(), Clock::start()).unwrap()
}

/// A store with segments and something in the hot store, all of it pending, just opened.
async fn filled(disk: &SimulatedDisk, data: &TempDir) -> (RedbStore, WebhookNo) {
    let store = opened(disk, data);
    let no = webhook(&store).await;
    let now = Timestamp::UNIX_EPOCH;
    for n in 0..EVENTS {
        publish_all(&store, vec![large(n)], now).await.unwrap();
        if n % 8 == 7 {
            while store.upkeep(now).await.unwrap() {}
        }
    }
    assert!(!store.shared.segments.all().is_empty());
    store.close().await.unwrap();
    drop(store);
    (opened(disk, data), no)
}

async fn is_whole(backup: &Path, no: WebhookNo) {
    let data = TempDir::new().unwrap();
    let data = data.path().join("data");
    restore(backup, &data).unwrap();
    let store = open_files(&data, cold(), Arc::default(), Clock::start()).unwrap();
    let hints = store.due(no, Timestamp::UNIX_EPOCH + Duration::from_hours(1), 1_000).await.unwrap().hints;
    let mut found = 0;
    for hint in hints {
        let stored = store.events(&[hint.event], usize::MAX).await.unwrap().remove(0).expect("it is there");
        found += usize::from(stored.event.body.len() > 3_000);
    }
    assert_eq!(found, EVENTS);
    store.close().await.unwrap();
}

/// Fails the operation of this number, counted from the beginning of a backup; returns whether there was one.
async fn backup_with_fault(number: u64) -> bool {
    let disk = SimulatedDisk::new(number);
    let [data, folder] = [(); 2].map(|()| TempDir::new().unwrap());
    let (store, no) = filled(&disk, &data).await;
    let [first, second] = ["1", "2"].map(|name| folder.path().join(name));
    let plan = |dir: &Path| BackupPlan { dir: dir.to_owned(), master_key: false };
    disk.fail(Fault::Io, disk.operations() + 1 + number, true);
    let made = store.back_up(plan(&first), Arc::default()).await;
    let struck = disk.has_failed();
    disk.heal();
    match made {
        Ok(_) => is_whole(&first, no).await,
        Err(error) => {
            assert!(struck, "{error}");
            assert!(!first.exists(), "{number}: {error}: {:?}", fs::read_dir(&first).unwrap().collect::<Vec<_>>());
        }
    }
    let goes_on = async {
        let mut n = 0;
        while publish_all(&store, vec![event(&format!("later-{n}"))], Timestamp::UNIX_EPOCH).await.is_err() {
            n += 1;
            yield_now().await;
        }
    };
    timeout(RECOVERED_WITHIN, goes_on).await.expect("the store goes on");
    assert!(!store.shared.segments.keeps_what_goes(), "files are let go of");
    store.back_up(plan(&second), Arc::default()).await.unwrap();
    is_whole(&second, no).await;
    store.close().await.unwrap();
    struck
}

#[test]
fn a_backup_of_a_disk_that_fails_is_whole_or_none() {
    run(async {
        let every = setting("FAULTS").unwrap_or(EVERY);
        let (mut number, mut struck) = (0, 0);
        while backup_with_fault(number).await {
            number += every;
            struck += 1;
        }
        println!("{struck} faults, one of {every} operations");
        assert!(struck >= 3, "the backup reads next to nothing from the disk");
    });
}
