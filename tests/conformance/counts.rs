//! Counters of webhooks: exact, whatever happens to the deliveries they count.

use std::time::Duration;

use postrider_server::{
    model::{
        delivery::DeliveryState,
        webhook::{Subscription, Webhook},
    },
    store::{Counts, Published, Repair, Repaired},
};

use crate::{
    fixture::{Engine, Fixture, Limits, at},
    repair::{count, key, repair, retry, turn},
};

async fn counts(fixture: &Fixture, webhook: &Webhook) -> Counts {
    let counts = fixture.store.counts(&[webhook.no]).await.expect("the store answers");
    assert_eq!(counts.len(), 1);
    counts[0]
}

/// Pending, delivered, failed, cancelled; the same as the records of all deliveries say, and as is known in memory.
async fn standing(fixture: &Fixture, webhook: &Webhook) -> [u64; 4] {
    let counts = counts(fixture, webhook).await;
    let counted = [counts.pending, counts.delivered, counts.failed, counts.cancelled];
    let states = [DeliveryState::Pending, DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Cancelled];
    for (state, counted) in states.into_iter().zip(counted) {
        assert_eq!(count(fixture, webhook, state).await as u64, counted, "{state:?}: {counts:?}");
    }
    assert_eq!(counts.events(), counted.iter().sum::<u64>());
    // A commit that nobody waits for can be read a moment before it is known.
    let known = async {
        while fixture.store.catalog().webhook(webhook.no).expect("it exists").pending() != counts.pending {
            tokio::task::yield_now().await;
        }
    };
    let known = tokio::time::timeout(Duration::from_secs(30), known).await;
    assert!(known.is_ok(), "{counts:?}");
    counted
}

pub(crate) async fn each_delivery_is_counted_once_where_it_stands<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (webhook, idle) = (fixture.webhook().await, fixture.webhook_of("other", Subscription::All).await);
    assert_eq!(counts(&fixture, &webhook).await, Counts::default());
    fixture.publish(0, 6).await;
    fixture.publish(0, 6).await;
    assert_eq!(standing(&fixture, &webhook).await, [6, 0, 0, 0], "repeats do not count");
    let hints = fixture.due(&webhook, at(100)).await.hints;
    let states = [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Pending];
    let mut outcomes = Vec::new();
    for (n, (hint, state)) in hints.iter().zip(states).enumerate() {
        outcomes.push(fixture.outcome(&webhook, *hint, state, at(10 + n as u64)).await);
    }
    // Committed twice, they count once.
    fixture.commit(outcomes.clone()).await;
    fixture.commit(outcomes).await;
    assert_eq!(standing(&fixture, &webhook).await, [4, 1, 1, 0], "one that is tried again has not ended");
    let cancel = Repair::Cancel { keys: vec![key(webhook.no, hints[3])], time: at(20) };
    assert_eq!(repair(&fixture, cancel).await, Repaired::Cancelled(1));
    assert_eq!(standing(&fixture, &webhook).await, [3, 1, 1, 1]);
    fixture.reopen::<E>().await;
    assert_eq!(standing(&fixture, &webhook).await, [3, 1, 1, 1]);

    for (n, expected) in [(0, [4, 0, 1, 1]), (1, [5, 0, 0, 1]), (2, [5, 0, 0, 1]), (3, [6, 0, 0, 0])] {
        assert_eq!(retry(&fixture, key(webhook.no, hints[n]), at(30)).await, Repaired::Retried);
        assert_eq!(standing(&fixture, &webhook).await, expected, "retried: {n}");
    }
    assert_eq!(fixture.deliver_all(&webhook, at(100), at(40)).await, 6);
    assert_eq!(standing(&fixture, &webhook).await, [0, 6, 0, 0]);
    let last = counts(&fixture, &webhook).await;
    assert_eq!((last.last_delivered, last.last_failed), (Some(at(45)), Some(at(11))), "that is not taken back");
    assert_eq!(counts(&fixture, &idle).await, Counts::default(), "nobody else's");
    let both = fixture.store.counts(&[idle.no, webhook.no, idle.no]).await.expect("the store answers");
    assert_eq!(both, [Counts::default(), last, Counts::default()]);
}

pub(crate) async fn counts_outlive_what_they_count<E: Engine>() {
    let retention = Duration::from_mins(16);
    let mut fixture = Fixture::with::<E>(Limits { retention, hot_bytes_max: 1, ..Limits::default() });
    let webhook = fixture.webhook().await;
    fixture.publish(0, 20).await;
    let hints = fixture.due(&webhook, at(100)).await.hints;
    fixture.deliver_all(&webhook, at(100), at(100)).await;
    fixture.upkeep(at(140)).await;
    assert_eq!(standing(&fixture, &webhook).await, [0, 20, 0, 0]);
    assert_eq!(retry(&fixture, key(webhook.no, hints[7]), at(150)).await, Repaired::Retried);
    assert_eq!(standing(&fixture, &webhook).await, [1, 19, 0, 0], "also one that was archived");
    fixture.upkeep(at(400)).await;
    fixture.reopen::<E>().await;
    fixture.upkeep(at(150 + 17 * 60)).await;
    assert_eq!(count(&fixture, &webhook, DeliveryState::Delivered).await, 0, "all but one have gone");
    assert_eq!(counts(&fixture, &webhook).await.delivered, 19);
    assert_eq!(fixture.deliver_all(&webhook, at(10_000), at(2_000)).await, 1);
    assert_eq!(counts(&fixture, &webhook).await.events(), 20);
}

/// Waits until an event has come to the webhook, and dispatch can see it: its counters may know a moment before.
async fn reached(fixture: &Fixture, webhook: &Webhook) {
    let reached = async {
        while fixture.due(webhook, at(10)).await.hints.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reached).await.expect("it arrives");
}

pub(crate) async fn what_is_dropped_or_on_its_way_is_counted_once<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhooks = futures::future::join_all((0..2_500).map(|_| fixture.webhook())).await;
    let first = webhooks.iter().min_by_key(|webhook| webhook.no).expect("there are some").clone();
    let last = webhooks.iter().max_by_key(|webhook| webhook.no).expect("there are some").clone();
    turn(&fixture, &last, false, false, at(0)).await;
    fixture.publish(0, 3).await;
    reached(&fixture, &first).await;
    let hints = fixture.due(&first, at(10)).await.hints;
    fixture.commit(vec![fixture.outcome(&first, hints[0], DeliveryState::Delivered, at(5)).await]).await;
    // Some have reached the last webhook by now, or none.
    turn(&fixture, &last, true, true, at(6)).await;
    let dropped = counts(&fixture, &last).await;
    assert_eq!((dropped.pending, dropped.cancelled, dropped.events()), (0, 3, 3), "the decision counts at once");
    fixture.reopen::<E>().await;
    assert_eq!(fixture.publish(3, 1).await, [Published::New { deliveries: 2_500 }]);
    reached(&fixture, &last).await;
    assert_eq!(standing(&fixture, &last).await, [1, 0, 0, 3]);
    assert_eq!(standing(&fixture, &first).await, [3, 1, 0, 0]);
    assert_eq!(retry(&fixture, key(last.no, hints[0]), at(10)).await, Repaired::Retried);
    assert_eq!(standing(&fixture, &last).await, [2, 0, 0, 2]);
    assert_eq!(fixture.deliver_all(&last, at(100), at(20)).await, 2);
    assert_eq!(standing(&fixture, &last).await, [0, 2, 0, 2]);
}

pub(crate) async fn counts_go_with_their_webhook<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (webhook, other) = (fixture.webhook().await, fixture.webhook().await);
    fixture.publish(0, 3).await;
    let hints = fixture.due(&webhook, at(10)).await.hints;
    let late = fixture.outcome(&webhook, hints[1], DeliveryState::Delivered, at(12)).await;
    fixture.commit(vec![fixture.outcome(&webhook, hints[0], DeliveryState::Delivered, at(11)).await]).await;
    assert_eq!(fixture.delete(&webhook).await, 2);
    fixture.commit(vec![late]).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        assert_eq!(counts(&fixture, &webhook).await, Counts::default(), "reopened: {reopened}");
        assert_eq!(standing(&fixture, &other).await, [3, 0, 0, 0]);
    }
}
