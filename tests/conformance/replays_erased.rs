//! Replays of what is erased: nothing of it is sent again, nobody sees it, and what is counted stays right.

use std::time::Duration;

use postrider_server::{
    model::{
        event::Event,
        ids::Tenant,
        webhook::{Subscription, Webhook},
    },
    store::{Erase, Erased, ReplayAnswer, ReplayChange, RequestKey},
};

use crate::{
    fixture::{Engine, Fixture, Limits, at, event},
    replays::{NOW, all_for, ask, finish, next_step, now, start},
};

async fn erase(fixture: &Fixture, erase: Erase) {
    let erased = fixture.store.erase(erase).await.expect("the store answers");
    assert!(matches!(erased, Erased::Decided(_)), "{erased:?}");
}

fn one(id: &str) -> Erase {
    Erase::Event { tenant: Tenant::default(), id: id.parse().expect("an id"), time: at(NOW) }
}

/// Waits for what goes on in slices.
async fn settled(what: &str, is_so: impl Fn() -> bool) {
    let settled = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.expect(what);
}

/// An event is erased while its replayed delivery is pending, and another between the look at it and the step that would send it.
pub(crate) async fn an_erased_event_is_not_sent_again<E: Engine>() {
    for hot_bytes_max in [64 << 20, 0] {
        let mut fixture = Fixture::with::<E>(Limits { hot_bytes_max, ..Limits::default() });
        let webhook = fixture.webhook().await;
        fixture.publish(0, 5).await;
        fixture.deliver_all(&webhook, at(100), at(100)).await;
        fixture.upkeep(at(200)).await;
        let (first, sent) = finish(&fixture, &start(&fixture, all_for(&webhook)).await).await;
        assert_eq!(sent.len(), 5);
        let pending = |fixture: &Fixture| fixture.store.catalog().webhook(webhook.no).expect("it exists").pending();
        assert_eq!(pending(&fixture), 5);

        erase(&fixture, one("e2")).await;
        settled("the replayed delivery is cancelled", || pending(&fixture) == 4).await;
        let second = start(&fixture, all_for(&webhook)).await;
        let step = next_step(&fixture, &second, 10).await;
        assert_eq!(step.events.len(), 4);
        erase(&fixture, one("e3")).await;
        assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Done);
        settled("of both replays", || pending(&fixture) == 3 + 3).await;
        fixture.reopen::<E>().await;
        let progress = |replay| now(&fixture, replay).progress;
        let (one, two) = (progress(&first), progress(&second));
        assert_eq!((one.created, one.cancelled, one.pending()), (5, 2, 3));
        assert_eq!((two.created, two.expired, two.pending()), (3, 1, 3));

        assert_eq!(fixture.deliver_all(&webhook, at(NOW), at(NOW)).await, 6, "what is left goes on");
        fixture.upkeep(at(NOW)).await;
        assert_eq!((progress(&first).delivered, progress(&second).delivered, pending(&fixture)), (3, 3, 0));
        let counts = fixture.store.counts(&[webhook.no]).await.expect("the store answers")[0];
        assert_eq!((counts.pending, counts.delivered, counts.cancelled), (0, 5 + 6, 2));

        // Now nothing is left of them where they were.
        let (third, sent) = finish(&fixture, &start(&fixture, all_for(&webhook)).await).await;
        assert_eq!((sent.len(), third.progress.examined, third.progress.expired), (3, 3, 0));
    }
}

/// A tenant's replays are gone as soon as it is decided to erase it; others' go on.
pub(crate) async fn an_erased_tenant_has_no_replays<E: Engine>() {
    let mut fixture = Fixture::new::<E>();
    let (mine, theirs) = (fixture.webhook().await, fixture.webhook_of("other", Subscription::All).await);
    fixture.publish(0, 5).await;
    let others = (0..5).map(|n| Event { tenant: theirs.tenant.clone(), ..event(&format!("o{n}")) });
    let others = others.map(|event| fixture.matched(event, at(5))).collect();
    fixture.store.publish(others).await.expect("the store answers");
    let request = || Some(RequestKey { id: "r-1".into(), hash: 1 });
    let begin = |webhook: &Webhook| ReplayChange::Start { spec: all_for(webhook), request: request(), time: at(NOW) };
    let ReplayAnswer::Put(replay) = ask(&fixture, begin(&mine)).await else { panic!("not started") };
    let other = start(&fixture, all_for(&theirs)).await;
    for replay in [&replay, &other] {
        let step = next_step(&fixture, replay, 2).await;
        ask(&fixture, ReplayChange::Step(step)).await;
    }

    let step = next_step(&fixture, &now(&fixture, &replay), 2).await;
    erase(&fixture, Erase::Tenant { tenant: Tenant::default(), request_id: String::new(), time: at(NOW) }).await;
    for reopened in [false, true] {
        if reopened {
            fixture.reopen::<E>().await;
        }
        let replays = fixture.store.replays();
        assert!(replays.find(&mine.tenant, replay.id).is_none(), "reopened: {reopened}");
        let shown: Vec<u32> = replays.list(None, None, None, 10).iter().map(|replay| replay.no).collect();
        assert_eq!(shown, [other.no], "reopened: {reopened}");
        assert!(replays.find(&theirs.tenant, other.id).is_some());
    }
    assert_eq!(ask(&fixture, ReplayChange::Step(step)).await, ReplayAnswer::Stale);
    fixture.upkeep(at(NOW)).await;
    settled("all of it is forgotten", || fixture.store.replays().get(replay.no).is_none()).await;
    fixture.upkeep(at(NOW)).await;
    assert_eq!(fixture.store.replays().pending(mine.no), 0);
    let (done, _) = finish(&fixture, &other).await;
    assert_eq!((done.progress.created, done.progress.pending()), (5, 5));

    let again = fixture.webhook().await;
    let ReplayAnswer::Put(new) = ask(&fixture, begin(&again)).await else { panic!("the request id is free again") };
    assert_eq!((new.spec.webhook, new.id == replay.id), (again.no, false));
}
