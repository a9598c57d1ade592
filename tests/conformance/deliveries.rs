//! Due deliveries: never forgotten, never due after they ended.

use postrider_server::{
    model::delivery::DeliveryState,
    store::{GroupCommitted, OutcomeGroup, Owner},
};

use crate::fixture::{Engine, Fixture, START, at};

pub(crate) async fn due_comes_in_order_and_says_what_it_left_out<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 10).await;
    let page = fixture.store.due(webhook.no, at(100), 4).await.expect("the store answers");
    assert_eq!(page.hints.iter().map(|hint| hint.due).collect::<Vec<_>>(), [at(0), at(1), at(2), at(3)]);
    assert!(page.more);

    // The first is repeated at 65 s, among the others by time.
    let first = page.hints[0];
    fixture.commit(vec![fixture.outcome(&webhook, first, DeliveryState::Pending, at(5)).await]).await;
    let page = fixture.due(&webhook, at(64)).await;
    assert_eq!((page.hints.len(), page.more, page.next_due), (9, false, Some(at(65))));
    let page = fixture.due(&webhook, at(65)).await;
    let last = page.hints.last().expect("ten are due");
    assert_eq!((page.hints.len(), last.event, last.attempts.ended(), last.due), (10, first.event, 1, at(65)));
    assert_eq!(page.next_due, None);
}

pub(crate) async fn lanes_are_found_by_seeking<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhooks = [fixture.webhook().await, fixture.webhook().await, fixture.webhook().await];
    fixture.publish(7, 3).await;
    fixture.deliver_all(&webhooks[1], at(100), at(100)).await;
    let retried = fixture.due(&webhooks[2], at(100)).await.hints;
    for hint in retried {
        fixture.commit(vec![fixture.outcome(&webhooks[2], hint, DeliveryState::Pending, at(50)).await]).await;
    }
    let first = fixture.store.lanes(None, 1).await.expect("the store answers");
    assert_eq!((first.lanes[0].webhook, first.lanes[0].first_due), (webhooks[0].no, at(7)));
    let rest = fixture.store.lanes(first.next, 10).await.expect("the store answers");
    assert_eq!(rest.lanes.len(), 1, "one lane is empty");
    assert_eq!((rest.lanes[0].webhook, rest.lanes[0].first_due), (webhooks[2].no, at(110)));
    assert_eq!(rest.next, None);
}

pub(crate) async fn an_outcome_ends_or_reschedules<E: Engine>() {
    for (state, due_after) in [(DeliveryState::Delivered, 0), (DeliveryState::Failed, 0), (DeliveryState::Pending, 1)] {
        let fixture = Fixture::new::<E>();
        let webhook = fixture.webhook().await;
        fixture.publish(0, 1).await;
        let hint = fixture.due(&webhook, START).await.hints[0];
        let committed = fixture.commit(vec![fixture.outcome(&webhook, hint, state, at(1)).await]).await;
        let page = fixture.due(&webhook, at(1_000)).await;
        assert_eq!(page.hints.len(), due_after, "{state:?}");
        let GroupCommitted::Applied(as_of) = committed else { panic!("fenced") };
        assert!(page.as_of >= as_of, "a read after the answer sees the commit and says so");
    }
}

pub(crate) async fn an_outcome_out_of_turn_changes_nothing<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 1).await;
    let hint = fixture.due(&webhook, START).await.hints[0];
    let first = fixture.outcome(&webhook, hint, DeliveryState::Pending, at(1)).await;
    fixture.commit(vec![first.clone()]).await;
    let head = *fixture.store.head().borrow();
    fixture.commit(vec![first]).await;
    assert_eq!(*fixture.store.head().borrow(), head, "the same attempt is not recorded twice");
    let hint = fixture.due(&webhook, at(100)).await.hints[0];
    let second = fixture.outcome(&webhook, hint, DeliveryState::Delivered, at(70)).await;
    fixture.commit(vec![second.clone()]).await;
    let head = *fixture.store.head().borrow();
    fixture.commit(vec![second]).await;
    assert_eq!(*fixture.store.head().borrow(), head, "nor is one of a delivery that has ended");
    assert_eq!(fixture.store.catalog().webhook(webhook.no).expect("it exists").pending(), 0);
}

pub(crate) async fn another_owner_is_fenced<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 1).await;
    let hint = fixture.due(&webhook, START).await.hints[0];
    let outcomes = vec![fixture.outcome(&webhook, hint, DeliveryState::Delivered, at(1)).await];
    let Owner(owner) = fixture.store.owner();
    let group = OutcomeGroup { outcomes, ..OutcomeGroup::default() };
    let committed = fixture.store.commit(Owner(owner + 1), vec![group]).await.expect("the store answers");
    assert_eq!(committed, [GroupCommitted::Fenced]);
    assert_eq!(fixture.due(&webhook, START).await.hints.len(), 1);
}

pub(crate) async fn everything_survives_reopening<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let webhook = fixture.webhook().await;
    fixture.publish(0, 3).await;
    let hints = fixture.due(&webhook, at(10)).await.hints;
    fixture.commit(vec![fixture.outcome(&webhook, hints[0], DeliveryState::Delivered, at(11)).await]).await;
    fixture.commit(vec![fixture.outcome(&webhook, hints[1], DeliveryState::Pending, at(12)).await]).await;
    let (head, owner) = (*fixture.store.head().borrow(), fixture.store.owner());
    fixture.reopen::<E>().await;
    let page = fixture.due(&webhook, at(1_000)).await;
    let due: Vec<_> = page.hints.iter().map(|hint| (hint.event, hint.attempts.ended(), hint.due)).collect();
    assert_eq!(due, [(hints[2].event, 0, at(2)), (hints[1].event, 1, at(72))]);
    assert_eq!(*fixture.store.head().borrow(), head);
    assert_ne!(fixture.store.owner(), owner, "an opening is an owner of its own");
    let registered = fixture.store.catalog().webhook(webhook.no).expect("it exists");
    assert_eq!((registered.webhook.as_ref(), registered.pending()), (&webhook, 2));
    let stored = fixture.store.events(&[hints[2].event], usize::MAX).await.expect("the store answers").remove(0);
    assert_eq!(stored.expect("retained").event, crate::fixture::event("e2"));
}

pub(crate) async fn counts_of_pending_deliveries_are_exact<E: Engine>() {
    let fixture = Fixture::new::<E>();
    let webhooks = [fixture.webhook().await, fixture.webhook().await];
    let pending = |n: usize| fixture.store.catalog().webhook(webhooks[n].no).expect("it exists").pending();
    fixture.publish(0, 20).await;
    assert_eq!((pending(0), pending(1)), (20, 20));
    for (n, hint) in fixture.due(&webhooks[0], at(100)).await.hints.into_iter().enumerate() {
        let state = [DeliveryState::Delivered, DeliveryState::Failed, DeliveryState::Pending][n % 3];
        fixture.commit(vec![fixture.outcome(&webhooks[0], hint, state, at(100)).await]).await;
    }
    assert_eq!((pending(0), pending(1)), (6, 20));
}
