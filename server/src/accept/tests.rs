//! Filters: who waits for them.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::poll;

use super::*;
use crate::{
    model::{
        event::JSON,
        ids::{ConfigSeq, EventTypeName, WebhookId, WebhookNo},
        scope::{LabelFilter, Scope},
        signing::Secret,
        target::Target,
        webhook::{Settings, Subscription, Webhook, WebhookSpec},
    },
    store::fake::FakeStore,
};

const ROOM: usize = 100_000;

fn accept(store: &Arc<FakeStore>) -> Accept {
    let config = Config { bytes_in_flight_max: ROOM, deliver_ahead_max: Duration::ZERO };
    config.build(store.clone(), Clock::start(), Tasks::default(), AcceptMetrics::default())
}

fn event(id: &str, tenant: &str) -> Event {
    Event {
        id: id.parse().unwrap(),
        tenant: tenant.parse().unwrap(),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: BTreeMap::from([("waba".to_owned(), "1".to_owned())]),
        ordering_key: String::new(),
        occur_time: None,
        content_type: JSON.into(),
        body: Bytes::from_static(b"{}"),
        deliver_at: None,
        max_age: None,
    }
}

/// A webhook that filters, and admits every event of these tests.
fn filtering(no: u64, tenant: &str) -> Webhook {
    let scope = Scope::new(LabelFilter::new([("waba".to_owned(), vec!["1".to_owned()])]), None);
    let target = Target::from_stored("https://receiver.example/").unwrap();
    let settings = Settings { scope, ..Settings::new(target, Subscription::All) };
    let spec = WebhookSpec { tenant: tenant.parse().unwrap(), settings, enabled: true };
    let secret = Secret::from_bytes(&[7; 32]).unwrap();
    spec.register(WebhookNo(no), WebhookId::generate(), secret.into(), Timestamp::UNIX_EPOCH)
}

#[tokio::test]
async fn who_waits_for_their_filters_has_no_room_that_others_need() {
    let store = FakeStore::new();
    store.catalog().put(ConfigSeq(1), filtering(1, "theirs"));
    store.catalog().put(ConfigSeq(2), filtering(2, "also-theirs"));
    let accept = accept(&store);
    let turn = accept.filtering(&"theirs".parse().unwrap()).await;
    let mut batches: Vec<_> = ["a", "b", "c"]
        .map(|id| Box::pin(accept.submit(vec![event(id, "also-theirs"), event(id, "theirs"), event(id, "ours")])))
        .into();
    for batch in &mut batches {
        assert!(poll!(batch).is_pending(), "somebody else's filters are being asked");
    }
    assert_eq!(accept.bytes.available_permits(), ROOM);
    let others = accept.publish(vec![event("d", "ours")]).await;
    assert!(matches!(others[..], [Ok(Accepted { deliveries: 0, duplicate: false })]), "{others:?}");

    drop(turn);
    for batch in batches {
        let answers = batch.await.answers().await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    let order: Vec<_> = store.order.lock().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["d", "a", "a", "a", "b", "b", "b", "c", "c", "c"]);
}

#[tokio::test]
async fn what_filters_admit_is_counted_as_room() {
    const WEBHOOKS: u64 = 1_000;
    let store = FakeStore::held();
    for no in 1..=WEBHOOKS {
        store.catalog().put(ConfigSeq(no), filtering(no, "theirs"));
    }
    let accept = accept(&store);
    let few = event("a", "ours");
    let weight = few.weight_bytes();
    let _ours = accept.submit(vec![few]).await;
    assert_eq!(accept.bytes.available_permits(), ROOM - weight);
    let many = event("b", "theirs");
    let weight = weight + many.weight_bytes() + usize::try_from(WEBHOOKS).unwrap() * size_of::<WebhookNo>();
    let _theirs = accept.submit(vec![many]).await;
    assert_eq!(accept.bytes.available_permits(), ROOM - weight);
}
