//! That a backup is whole, whatever goes on meanwhile, that damage shows, and what a restored store remembers.

use std::collections::BTreeMap;

use ::redb::{Key, TableDefinition, TableHandle as _, Value};
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::Clock,
    model::{
        event::Event,
        ids::{DeliveryKey, Position, WebhookNo},
        seal::LostCursor,
    },
    store::{
        Erase, Erased, FeedFilter, OutcomeGroup, Published, Store as _,
        redb::{
            Config, KeySource, OpenError, open,
            table_list::{Visit, visit_all},
            tests::{event, outcome, publish_all, webhook},
        },
    },
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// A store that moves everything to segments, of a few events each.
fn opened(dir: &Path) -> RedbStore {
    let config = Config { hot_bytes_max: 0, retention: Duration::from_hours(100), ..Config::default() };
    open(dir, config, Arc::default(), Clock::start()).unwrap()
}

fn large(id: &str) -> Event {
    Event { body: Bytes::from(format!("{{\"{id}\": \"{}\"}}", "x".repeat(2_000))), ..event(id) }
}

fn plan(dir: &Path) -> BackupPlan {
    BackupPlan { dir: dir.to_owned(), master_key: true }
}

async fn back_up(store: &RedbStore, dir: &Path) -> BackedUp {
    store.back_up(plan(dir), Arc::default()).await.unwrap()
}

async fn upkeep(store: &RedbStore, now: Timestamp) {
    while store.upkeep(now).await.unwrap() {}
}

fn hours(hours: u64) -> Timestamp {
    NOW + Duration::from_hours(hours)
}

/// Three segments, and something in the hot store; all is pending for one webhook but the first two, which were delivered.
async fn filled(store: &RedbStore) -> WebhookNo {
    let no = webhook(store).await;
    for n in 0..3 {
        let batch: Vec<_> = (0..4).map(|m| large(&format!("e-{n}-{m}"))).collect();
        publish_all(store, batch, hours(20 * n)).await.unwrap();
        upkeep(store, hours(20 * n)).await;
    }
    let hints = store.due(no, hours(1_000), 2).await.unwrap().hints;
    end(store, no, hints).await;
    publish_all(store, vec![large("e-last")], hours(41)).await.unwrap();
    assert!(store.shared.segments.all().len() >= 3, "{:?}", store.shared.segments.all());
    no
}

async fn end(store: &RedbStore, no: WebhookNo, hints: Vec<crate::store::Hint>) {
    let mut outcomes = Vec::new();
    for hint in hints {
        outcomes.push(outcome(store, no, hint).await);
    }
    store.commit(store.owner(), vec![OutcomeGroup { outcomes, ..OutcomeGroup::default() }]).await.unwrap();
}

/// The bodies of everything pending, by id.
async fn pending(store: &RedbStore, no: WebhookNo) -> BTreeMap<String, Bytes> {
    let hints = store.due(no, hours(1_000), 10_000).await.unwrap().hints;
    let mut found = BTreeMap::new();
    for hint in hints {
        let stored = store.events(&[hint.event], usize::MAX).await.unwrap().remove(0).expect("it is there");
        found.insert(stored.event.id.as_str().to_owned(), stored.event.body);
    }
    found
}

/// Notes which tables it was shown.
#[derive(Default)]
struct Names(Vec<String>);

impl Visit for Names {
    type Error = std::convert::Infallible;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Self::Error> {
        self.0.push(table.name().to_owned());
        Ok(())
    }
}

#[tokio::test]
async fn every_table_there_is_is_visited_once() {
    let dir = TempDir::new().unwrap();
    let store = opened(dir.path());
    filled(&store).await;
    let mut names = Names::default();
    visit_all(&mut names).unwrap();
    let mut visited = names.0.clone();
    visited.sort();
    visited.dedup();
    assert_eq!(visited.len(), names.0.len());
    let (hot, _) = store.shared.read().unwrap();
    let segment = store.shared.segments.read(1).unwrap();
    let mut there: Vec<String> =
        hot.list_tables().unwrap().chain(segment.list_tables().unwrap()).map(|it| it.name().to_owned()).collect();
    there.sort();
    there.dedup();
    assert_eq!(visited, there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_is_in_it_whatever_goes_on_meanwhile() {
    let (data, to, restored) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let (to, restored) = (to.path().join("a/backup"), restored.path().join("data"));
    let store = opened(data.path());
    let no = filled(&store).await;
    let before = pending(&store, no).await;
    assert_eq!(before.len(), 11);

    let progress = Arc::new(BackupProgress::default());
    let mut made = std::pin::pin!(store.back_up(plan(&to), progress.clone()));
    let mut meanwhile = 0;
    let backed_up = loop {
        let publish = async {
            publish_all(&store, vec![large(&format!("meanwhile-{meanwhile}"))], hours(42)).await.unwrap();
            store.upkeep(hours(42)).await.unwrap();
        };
        tokio::select! {
            biased;
            () = publish => meanwhile += 1,
            made = &mut made => break made.unwrap(),
        }
    };
    assert!(backed_up.files >= 5 && backed_up.missing_key.is_none(), "{backed_up:?}");
    assert!(progress.bytes().0 > 20_000, "{progress:?}");
    // What is done after it.
    let hints = store.due(no, hours(1_000), 1).await.unwrap().hints;
    end(&store, no, hints).await;
    publish_all(&store, vec![large("lost")], hours(43)).await.unwrap();
    let (sealer, head) = (store.sealer(), *store.head().borrow());
    let lost_seq = store.find_event(&"t".parse().unwrap(), &"lost".parse().unwrap()).await.unwrap().unwrap().seq;
    let id = |event| DeliveryKey { webhook: no, event, replay: 0 };
    let lost_id = sealer.delivery_id(id(lost_seq));
    let (lost_cursor, kept_cursor) = (sealer.cursor(head), sealer.cursor(Position(2)));
    let first = store.find_event(&"t".parse().unwrap(), &"e-0-0".parse().unwrap()).await.unwrap().unwrap().seq;
    let kept_id = sealer.delivery_id(id(first));
    let config_seq = store.shared.counters.lock().config_seq;
    store.close().await.unwrap();

    let said = restore(&to, &restored).unwrap();
    assert_eq!((said.files, said.missing_key), (backed_up.files, None));
    for opening in 0..2 {
        let store = opened(&restored);
        let after = pending(&store, no).await;
        // Later two of them have ended.
        for (id, body) in before.iter().filter(|_| opening == 0) {
            assert!(after.get(id) == Some(body), "{id} is lost");
        }
        assert!(!after.contains_key("lost"));
        upkeep(&store, hours(43)).await;
        let sealer = store.sealer();
        assert_eq!(sealer.position(kept_cursor), Ok(Position(2)));
        assert_eq!(sealer.position(lost_cursor), Err(LostCursor::Undone(Position(2))));
        assert_eq!(sealer.delivery_id(id(first)), kept_id);
        assert!(store.get(kept_id).await.unwrap().is_some());
        assert!(store.get(lost_id).await.unwrap().is_none(), "{opening}");
        if opening == 0 {
            // Numbers are given out again, and nothing that stood for them before.
            for n in 0..meanwhile + 3 {
                publish_all(&store, vec![large(&format!("again-{n}"))], hours(43)).await.unwrap();
            }
            let hints = store.due(no, hours(1_000), 2).await.unwrap().hints;
            end(&store, no, hints).await;
            assert_ne!(sealer.cursor(head), lost_cursor);
            let page = store.feed(Position(2), &FeedFilter::default(), 10).await.unwrap();
            assert_eq!(page.entries.len(), 2);
            assert!(store.events(&[lost_seq], usize::MAX).await.unwrap()[0].is_some(), "another one");
            let seq = store.shared.counters.lock().config_seq;
            assert!(seq > config_seq + (1 << 20), "no erasure gets the id of another: {seq}");
        }
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn files_stay_until_they_are_copied_and_then_go() {
    let (data, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = opened(data.path());
    let no = filled(&store).await;
    let hints = store.due(no, hours(1_000), 100).await.unwrap().hints;
    end(&store, no, hints).await;
    let erase = Erase::Event { tenant: "t".parse().unwrap(), id: "e-1-0".parse().unwrap(), time: NOW };
    let snapshot = Snapshot::take(store.shared.clone()).unwrap();
    let files = || files::names(&data.path().join(SEGMENTS)).unwrap();
    let before = files();
    assert!(before.len() >= 3, "{before:?}");

    // Written anew without the event, and then too old.
    let Erased::Decided(erasure) = store.erase(erase).await.unwrap() else { panic!("not decided") };
    for _ in 0..500 {
        store.upkeep(hours(42)).await.unwrap();
    }
    let is_finished = async || {
        store.erasure(&"t".parse().unwrap(), erasure.id).await.unwrap().is_none_or(|found| found.finish_time.is_some())
    };
    assert!(!is_finished().await, "it is still in a file, and will be in another");
    upkeep(&store, hours(1_000)).await;
    assert!(before.iter().all(|name| files().contains(name)), "{before:?} {:?}", files());

    let plan = plan(&to.path().join("b"));
    let made = make(snapshot, &plan, &BackupProgress::default()).unwrap();
    assert_eq!(made.files, before.len() + 2);
    while !is_finished().await {
        store.upkeep(hours(1_000)).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(before.iter().all(|name| !files().contains(name)), "{before:?} {:?}", files());
    let copied = files::names(&plan.dir.join(SEGMENTS)).unwrap();
    assert_eq!(copied.len(), before.len());
    store.close().await.unwrap();
}

/// The hot store is copied by then, and nobody reads it any more.
#[tokio::test]
async fn an_erasure_waits_for_a_file_that_is_yet_to_be_copied() {
    let data = TempDir::new().unwrap();
    let store = opened(data.path());
    filled(&store).await;
    let pinned = store.shared.segments.all().remove(0).no;
    store.shared.segments.pin((pinned, 0));
    let erase = Erase::Event { tenant: "t".parse().unwrap(), id: "e-0-3".parse().unwrap(), time: NOW };
    let Erased::Decided(erasure) = store.erase(erase).await.unwrap() else { panic!("not decided") };
    let is_finished =
        async || store.erasure(&"t".parse().unwrap(), erasure.id).await.unwrap().unwrap().finish_time.is_some();
    while !store.shared.segments.keeps_what_goes() {
        store.upkeep(hours(42)).await.unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 0..2_000 {
        store.upkeep(hours(42)).await.unwrap();
    }
    assert!(!is_finished().await, "it is still in a file");
    store.shared.segments.unpin((pinned, 0));
    while !is_finished().await {
        store.upkeep(hours(42)).await.unwrap();
        tokio::task::yield_now().await;
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_found() {
    let (data, to, restored) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let (to, restored) = (to.path().join("b"), restored.path().join("data"));
    let store = opened(data.path());
    filled(&store).await;
    back_up(&store, &to).await;
    store.close().await.unwrap();
    let inside =
        |folder: &Path| files::names(folder).unwrap().into_iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let mut files = [inside(&to), inside(&to.join(SEGMENTS))].concat();
    files.retain(|file| file.is_file());
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let good = fs::read(&file).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, bad).unwrap();
            assert!(restore(&to, &restored).is_err(), "{} at {at}", file.display());
            assert!(!restored.exists(), "nothing is left of it");
        }
        fs::write(&file, &good[1..]).unwrap();
        assert!(restore(&to, &restored).is_err(), "{} cut", file.display());
        fs::remove_file(&file).unwrap();
        let missing = restore(&to, &restored).unwrap_err();
        assert!(matches!(missing, RestoreError::NoBackup(_)), "{missing}");
        fs::write(&file, good).unwrap();
    }
    fs::remove_file(to.join(manifest::MANIFEST_SUM)).unwrap();
    let unfinished = restore(&to, &restored).unwrap_err();
    assert!(matches!(unfinished, RestoreError::NoBackup(NoBackup::Unfinished(_))), "{unfinished}");
    fs::remove_file(to.join(manifest::MANIFEST)).unwrap();
    let unfinished = restore(&to, &restored).unwrap_err();
    assert!(matches!(unfinished, RestoreError::NoBackup(NoBackup::Unfinished(_))), "{unfinished}");
    let none = restore(data.path(), &restored).unwrap_err();
    assert!(matches!(none, RestoreError::NoBackup(NoBackup::None(_))), "{none}");
}

#[tokio::test]
async fn places_that_are_no_good_are_refused_and_nothing_is_left_there() {
    let (data, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let new = to.path().join("new");
    let store = opened(data.path());
    filled(&store).await;
    let refused = async |store: &RedbStore, dir: &Path| store.back_up(plan(dir), Arc::default()).await.unwrap_err();
    assert!(matches!(refused(&store, data.path()).await, BackupError::Occupied(_)));
    assert!(matches!(refused(&store, &data.path().join("x/y")).await, BackupError::Inside(_)));
    let progress = Arc::new(BackupProgress::default());
    progress.cancel();
    let given_up = store.back_up(plan(&new), progress).await.unwrap_err();
    assert!(matches!(given_up, BackupError::Cancelled), "{given_up}");
    assert!(!new.exists());
    let turn = store.backing_up.clone().try_lock_owned().unwrap();
    assert!(matches!(refused(&store, &new).await, BackupError::Busy));
    drop(turn);
    // One that was given up lets go of everything.
    assert!(!store.shared.segments.keeps_what_goes());
    back_up(&store, &new).await;
    assert!(matches!(refused(&store, &new).await, BackupError::Occupied(_)));
    let occupied = restore(&new, data.path()).unwrap_err();
    assert!(matches!(occupied, RestoreError::Occupied(_)), "{occupied}");
    store.close().await.unwrap();

    // The reserve is the daemon's.
    let config = Config { disk_reserve: 1 << 60, ..Config::default() };
    let store = open(data.path(), config, Arc::default(), Clock::start()).unwrap();
    let full = to.path().join("full");
    let error = refused(&store, &full).await;
    assert!(matches!(error, BackupError::NoRoom { .. }) && error.to_string().contains("--disk-reserve"), "{error}");
    assert!(!full.exists());
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_master_key_is_in_it_only_if_it_is_to_be() {
    let (data, to, restored) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = opened(data.path());
    filled(&store).await;
    let (without, with) = (to.path().join("without"), to.path().join("with"));
    let made = store.back_up(BackupPlan { master_key: false, ..plan(&without) }, Arc::default()).await.unwrap();
    let place = data.path().join(KEPT).display().to_string();
    assert_eq!(made.missing_key.as_ref(), Some(&place));
    assert!(!without.join(KEPT).exists());
    back_up(&store, &with).await;
    assert_eq!(fs::metadata(with.join(KEPT)).unwrap().mode() & 0o7777, 0o600);
    let key = fs::read(data.path().join(KEPT)).unwrap();
    assert_eq!(fs::read(with.join(KEPT)).unwrap(), key);
    store.close().await.unwrap();

    let (one, two) = (restored.path().join("1"), restored.path().join("2"));
    assert_eq!(restore(&without, &one).unwrap().missing_key, Some(place));
    let refused = open(&one, Config::default(), Arc::default(), Clock::start()).unwrap_err();
    assert!(matches!(refused, OpenError::Key(KeyError::Missing(_))), "{refused}");
    let by_file = Config { master_key: KeySource::File(with.join(KEPT)), ..Config::default() };
    open(&one, by_file, Arc::default(), Clock::start()).unwrap().close().await.unwrap();
    // The key may be there first.
    fs::create_dir(&two).unwrap();
    fs::copy(with.join(KEPT), two.join(KEPT)).unwrap();
    assert!(matches!(restore(&with, &two).unwrap_err(), RestoreError::Occupied(_)), "which one is it?");
    assert_eq!(restore(&without, &two).unwrap().missing_key, None);
    opened(&two).close().await.unwrap();
}

#[tokio::test]
async fn events_are_not_published_again_after_a_restore() {
    let (data, to, restored) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let (to, restored) = (to.path().join("b"), restored.path().join("data"));
    let store = opened(data.path());
    filled(&store).await;
    back_up(&store, &to).await;
    store.close().await.unwrap();
    restore(&to, &restored).unwrap();
    let store = opened(&restored);
    let again = publish_all(&store, vec![large("e-0-0"), large("e-last"), large("fresh")], hours(42)).await.unwrap();
    let duplicate = Published::Duplicate { deliveries: 1 };
    assert_eq!(again, [duplicate, duplicate, Published::New { deliveries: 1 }]);
    store.close().await.unwrap();
}
