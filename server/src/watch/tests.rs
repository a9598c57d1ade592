use futures::{StreamExt as _, stream::BoxStream};

use super::*;
use crate::{
    limits::WATCH_UPDATES_MAX,
    metrics::WatchMetrics,
    model::{ids::Tenant, time::Timestamp},
    store::{CancelReason, WebhookCancelled, fake::FakeStore},
};

const HEARTBEAT: Duration = Duration::from_secs(15);

fn watch(store: &Arc<FakeStore>) -> Watch {
    Config { heartbeat: HEARTBEAT }.build(store.clone(), WatchMetrics::default())
}

/// The `number`-th entry, told apart by its number.
fn entry(tenant: &str, number: u64) -> LogEntry {
    LogEntry::WebhookCancelled(WebhookCancelled {
        reason: CancelReason::WebhookDeleted,
        tenant: tenant.parse().unwrap(),
        webhook: crate::model::ids::WebhookId::from_bytes([1; 16]),
        deliveries: number,
        time: Timestamp::UNIX_EPOCH,
    })
}

fn entries(tenant: &str, numbers: std::ops::Range<u64>) -> Vec<LogEntry> {
    numbers.map(|number| entry(tenant, number)).collect()
}

fn only(tenant: &str) -> FeedFilter {
    FeedFilter { tenant: Some(tenant.parse::<Tenant>().unwrap()), ..FeedFilter::default() }
}

fn at(store: &Arc<FakeStore>, place: u64) -> String {
    cursor(store.as_ref(), Position(place))
}

async fn open(store: &Arc<FakeStore>, filter: FeedFilter, start: Start) -> Result<Opened, WatchError> {
    Ok(watch(store).open(filter, start, WATCH_UPDATES_MAX).await?.boxed())
}

type Opened = BoxStream<'static, Result<WatchBatch, WatchError>>;

async fn next(stream: &mut Opened) -> WatchBatch {
    stream.next().await.expect("it goes on").expect("it goes well")
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_says_where_and_nothing_after_it_is_missed() {
    let store = FakeStore::new();
    store.log(entries("a", 0..3));
    let mut stream = open(&store, FeedFilter::default(), Start::Now).await.unwrap();
    // Committed after the start was fixed, before anything was read.
    store.log(entries("a", 3..5));
    assert_eq!(next(&mut stream).await, WatchBatch { cursor: at(&store, 3), entries: vec![] });
    assert_eq!(next(&mut stream).await, WatchBatch { cursor: at(&store, 5), entries: entries("a", 3..5) });
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_the_wait_and_silence_makes_heartbeats() {
    let store = FakeStore::new();
    let mut stream = open(&store, FeedFilter::default(), Start::Now).await.unwrap();
    next(&mut stream).await;
    for beat in 1..=3 {
        let before = Instant::now();
        assert_eq!(next(&mut stream).await, WatchBatch { cursor: at(&store, 0), entries: vec![] }, "beat {beat}");
        assert_eq!(before.elapsed().as_secs(), HEARTBEAT.as_secs());
    }
    let before = Instant::now();
    let (batch, ()) = tokio::join!(next(&mut stream), async { store.log(entries("a", 0..1)) });
    assert_eq!(batch, WatchBatch { cursor: at(&store, 1), entries: entries("a", 0..1) });
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_the_filter_leaves_out_moves_the_cursor_with_the_next_heartbeat() {
    let store = FakeStore::new();
    store.examine(10);
    let mut stream = open(&store, only("a"), Start::Now).await.unwrap();
    next(&mut stream).await;
    store.log(entries("b", 0..95));
    let before = Instant::now();
    assert_eq!(next(&mut stream).await, WatchBatch { cursor: at(&store, 95), entries: vec![] });
    assert_eq!(before.elapsed().as_secs(), HEARTBEAT.as_secs());
    // A match behind much else arrives at once.
    store.log(entries("b", 0..95));
    store.log(entries("a", 0..1));
    assert_eq!(next(&mut stream).await, WatchBatch { cursor: at(&store, 191), entries: entries("a", 0..1) });
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_a_cursor_resumes_exactly() {
    let store = FakeStore::new();
    let all = entries("a", 0..2 * WATCH_UPDATES_MAX as u64 + 1);
    store.log(all.clone());
    let mut seen = Vec::new();
    let mut start = Start::Beginning;
    for _ in 0..3 {
        // A new stream for each batch.
        let mut stream = open(&store, only("a"), start).await.unwrap();
        next(&mut stream).await;
        let batch = next(&mut stream).await;
        assert!(batch.entries.len() <= WATCH_UPDATES_MAX);
        seen.extend(batch.entries);
        start = Start::At(batch.cursor);
    }
    assert_eq!(seen, all);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_retained_is_skipped_from_the_beginning_and_refused_at_a_cursor() {
    let store = FakeStore::new();
    store.log(entries("a", 0..10));
    store.forget(4);
    let mut stream = open(&store, FeedFilter::default(), Start::Beginning).await.unwrap();
    assert_eq!(next(&mut stream).await.cursor, at(&store, 4));
    assert_eq!(next(&mut stream).await.entries, entries("a", 4..10));

    let oldest = at(&store, 4);
    let refused = open(&store, FeedFilter::default(), Start::At(at(&store, 3))).await.map(|_| ());
    assert!(matches!(refused, Err(WatchError::Expired { oldest_cursor }) if oldest_cursor == oldest));
    assert!(open(&store, FeedFilter::default(), Start::At(at(&store, 4))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_retention_overtakes_is_told_and_ends() {
    let store = FakeStore::new();
    let mut stream = open(&store, FeedFilter::default(), Start::Now).await.unwrap();
    next(&mut stream).await;
    store.log(entries("a", 0..10));
    store.forget(8);
    assert!(matches!(stream.next().await, Some(Err(WatchError::Expired { .. }))));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn cursors_of_others_are_refused() {
    let store = FakeStore::new();
    store.log(entries("a", 0..2));
    let foreign = URL_SAFE_NO_PAD.encode(crate::model::seal::Sealer::new([9; 16]).cursor(Position(1)));
    let beyond = at(&store, 3);
    for text in ["", "x", &foreign, &beyond, &"A".repeat(22), &"A".repeat(10_000), "ééééééééééé"] {
        let refused = open(&store, FeedFilter::default(), Start::At(text.to_owned())).await.map(|_| ());
        assert!(matches!(refused, Err(WatchError::InvalidCursor)), "{text:?}: {refused:?}");
    }
}
