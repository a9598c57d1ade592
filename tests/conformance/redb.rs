//! What the embedded engine promises about its files.

use std::{path::Path, sync::Arc, time::Duration};

use postrider_server::{
    clock::Clock,
    flow::News,
    model::ids::Position,
    store::{FeedFilter, Store as _, redb},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Embedded, Fixture, Limits, at};

fn open(dir: &Path) -> Result<redb::RedbStore, redb::OpenError> {
    redb::open(dir, redb::Config::default(), Arc::new(News::default()), Clock::start())
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let store = open(dir.path()).expect("the first has it");
    let second = open(dir.path()).expect_err("the second has not");
    assert!(matches!(second, redb::OpenError::InUse(_)), "{second}");
    store.close().await.expect("the store closes");
    open(dir.path()).expect("free again").close().await.expect("the store closes");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "forges the file of a later version")]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = TempDir::new().expect("a temporary directory");
    open(dir.path()).expect("made").close().await.expect("the store closes");
    {
        let hot = ::redb::Database::open(dir.path().join("hot.redb")).expect("a redb file");
        let txn = hot.begin_write().expect("writable");
        let meta = ::redb::TableDefinition::<&str, &[u8]>::new("meta");
        txn.open_table(meta).expect("a table").insert("schema", 99_u64.to_le_bytes().as_slice()).expect("written");
        txn.commit().expect("committed");
    }
    for _ in 0..2 {
        let refused = open(dir.path()).expect_err("refused");
        assert!(matches!(refused, redb::OpenError::NewerSchema { found: 99, .. }), "{refused}");
    }
}

#[tokio::test]
async fn a_file_where_the_directory_should_be_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let refused = open(file.path()).expect_err("refused");
    assert!(matches!(refused, redb::OpenError::Unusable { .. }), "{refused}");
}

/// A store that takes little keeps its old events in few files: each costs memory, and a look at every publish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_store_makes_few_segments() {
    let limits = Limits { retention: Duration::from_hours(16), ..Limits::default() };
    let fixture = Fixture::with::<Embedded>(limits);
    for minute in 0..300 {
        fixture.publish(60 * minute, 1).await;
        fixture.upkeep(at(60 * minute)).await;
    }
    let segments = std::fs::read_dir(fixture.dir.path().join("segments")).expect("a folder").count();
    assert!(
        (3..=6).contains(&segments),
        "{segments} segments for five hours, of a sixteenth of the retention time each"
    );
}

/// A follower that reads on from where it was told is never told that there is no such place, however fast it asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_is_never_ahead_of_the_log() {
    let fixture = Fixture::new::<Embedded>();
    let webhooks = futures::future::join_all((0..200).map(|_| fixture.webhook())).await;
    let (store, follow) = (fixture.store.clone(), CancellationToken::new());
    let stop = follow.clone();
    let follower = async move {
        let mut place = Position(0);
        while !stop.is_cancelled() || place < *store.head().borrow() {
            let page = store.feed(place, &FeedFilter::default(), 500).await;
            place = page.expect("a place that was given out is known").position;
            tokio::task::yield_now().await;
        }
        place
    };
    #[expect(clippy::disallowed_methods, reason = "the test joins its one task")]
    let follower = tokio::spawn(follower);
    for round in 0..10 {
        // Commits that make much due and end much take long to be announced.
        fixture.publish(round, 1).await;
        let more = fixture.publish(100 + round, 1);
        let ended =
            futures::future::join_all(webhooks.iter().map(|webhook| fixture.deliver_all(webhook, at(99), at(99))));
        tokio::join!(more, ended);
    }
    follow.cancel();
    let head = *fixture.store.head().borrow();
    assert_eq!(follower.await.expect("it never panics"), head);
    assert!(head >= Position(2_000), "there was enough to follow: {head:?}");
}

#[tokio::test]
async fn a_hot_store_that_has_vanished_is_not_replaced() {
    for emptied in [false, true] {
        let dir = TempDir::new().expect("a temporary directory");
        open(dir.path()).expect("made").close().await.expect("the store closes");
        let hot = dir.path().join("hot.redb");
        if emptied {
            std::fs::write(&hot, b"").expect("writable");
        } else {
            std::fs::remove_file(&hot).expect("removable");
        }
        let refused = open(dir.path()).expect_err("refused");
        assert!(matches!(refused, redb::OpenError::Broken { .. }), "{refused}");
    }
}
