//! Slow webhooks, dead ones and tenants with very many: whoever they are, others have their share.

use super::*;

#[test]
fn slow_webhooks_share_what_is_left_to_them() {
    let limits = Limits { slow_in_flight_max: 2, ..limits() };
    let mut bench = Bench::new(limits);
    let (two, three) = (WebhookNo(2), WebhookNo(3));
    for (webhook, event) in [(ONE, 1), (two, 2)] {
        bench.news(board(5, webhook, [hint(event)], None));
        assert_eq!(bench.launched(), [event]);
        bench.settle_of(webhook, event, 6, None, true);
    }
    bench.news(board(7, ONE, (10..16).map(hint), None));
    bench.news(board(7, two, (20..26).map(hint), None));
    bench.news(board(7, three, (30..36).map(hint), None));
    // A webhook without anything pending is forgotten, and that it was slow: both are proved slow anew.
    let first = bench.launches();
    assert!(first.len() > 2);
    for launch in first.iter().filter(|launch| launch.key.webhook != three) {
        bench.settle_of(launch.key.webhook, launch.key.event.0, 8, None, true);
    }
    bench.news(board(9, ONE, (16..20).map(hint), None));
    bench.news(board(9, two, (26..30).map(hint), None));
    let slow: Vec<_> = bench.launches().into_iter().filter(|launch| launch.slow).collect();
    assert_eq!(slow.len(), 2, "they hold their share and no more");
    // One recovers, and no longer waits for the other one.
    let recovered = slow[0].key;
    bench.settle_of(recovered.webhook, recovered.event.0, 10, None, false);
    let after: Vec<_> = bench.launches().iter().map(|launch| (launch.key.webhook, launch.slow)).collect();
    assert!(after.contains(&(recovered.webhook, false)), "{after:?}");
}

#[test]
fn a_few_deliveries_do_not_wait_for_a_million() {
    let mut bench = Bench::new(Limits { in_flight_max: 4, webhook_in_flight_max: 4, ..limits() });
    let mut pending: u64 = 1_000_000;
    let mut next = 1;
    let mut small: Vec<u64> = (2_000_000..2_000_005).collect();
    bench.scheduler.surveyed(&LanePage {
        lanes: vec![LaneDue { webhook: ONE, first_due: NOW }],
        next: None,
        as_of: AsOf(1),
    });
    bench.tick();
    let mut in_flight: Vec<u64> = Vec::new();
    for round in 0..50 {
        if round == 10 {
            bench.news(board(2, WebhookNo(2), small.iter().copied().map(hint), None));
        }
        if let Some(refill) = bench.refill() {
            let taken: Vec<_> = in_flight.iter().copied().filter(|event| *event < 2_000_000).collect();
            let hints = taken.iter().copied().chain(next..).take(refill.limit).map(hint);
            bench.refilled(Some(&page(2, hints, true)));
        }
        for launch in bench.launches() {
            let event = launch.key.event.0;
            if launch.key.webhook == ONE {
                next = next.max(event + 1);
                pending -= 1;
            }
            small.retain(|waiting| *waiting != event);
            in_flight.push(event);
        }
        for event in in_flight.drain(..) {
            let webhook = if event < 2_000_000 { ONE } else { WebhookNo(2) };
            bench.settle_of(webhook, event, 3, None, false);
        }
        if small.is_empty() {
            assert!(round <= 16, "they waited {} rounds", round - 10);
            assert!(pending < 1_000_000 && pending > 900_000, "and the other went on");
            return;
        }
    }
    panic!("{} still wait", small.len());
}

/// A bench whose room is taken, and what is under way: two hundred dead webhooks of one tenant, with one delivery each, are far
/// more than fit.
fn crowded() -> (Bench, Vec<Launch>) {
    let mut bench = Bench::new(Limits {
        hints_max: 64,
        lane_hints_max: 8,
        in_flight_max: 4,
        webhook_in_flight_max: 2,
        slow_in_flight_max: 2,
        refills_max: 4,
        ..limits()
    });
    let dead = (100..300).map(WebhookNo);
    bench.webhooks.0.extend(dead.clone().map(|dead| (dead, "big".parse().unwrap())));
    let lanes = dead.map(|webhook| LaneDue { webhook, first_due: NOW }).collect();
    bench.scheduler.surveyed(&LanePage { lanes, next: None, as_of: AsOf(5) });
    bench.tick();
    read_all(&mut bench);
    let flying = bench.launches();
    read_all(&mut bench);
    (bench, flying)
}

/// Reads until no lane is to be read, and returns which were: each webhook has the delivery of its own number.
fn read_all(bench: &mut Bench) -> Vec<WebhookNo> {
    let read = |bench: &mut Bench| {
        let webhook = bench.refill()?.webhook;
        bench.scheduler.refilled(webhook, Some(&page(7, [hint(webhook.0)], false)), bench.now, &bench.webhooks);
        bench.scheduler.check(bench.now);
        Some(webhook)
    };
    std::iter::from_fn(|| read(bench)).collect()
}

/// Lets attempts of the dead ones time out, one by one, until the webhook's is launched. Returns how many did.
fn timeouts_until_launched(bench: &mut Bench, mut flying: Vec<Launch>, webhook: WebhookNo) -> u64 {
    for timeouts in 0..1000 {
        read_all(bench);
        flying.extend(bench.launches());
        if flying.iter().any(|launch| launch.key.webhook == webhook) {
            return timeouts;
        }
        let key = flying.remove(0).key;
        bench.now = bench.now + Duration::from_secs(4);
        let next_attempt = Some(bench.now + Duration::from_hours(24));
        bench.settle_of(key.webhook, key.event.0, 8 + timeouts, next_attempt, true);
    }
    panic!("it is never launched");
}

#[test]
fn many_dead_webhooks_of_one_tenant_do_not_shut_others_out() {
    type Arrival = (&'static str, fn(&mut Bench));
    let arrivals: [Arrival; 3] = [
        ("news", |bench| bench.news(board(6, WebhookNo(2), [hint(2)], None))),
        ("more on disk", |bench| bench.news(board(6, WebhookNo(2), [], Some(6)))),
        ("what it slept for", |bench| {
            let lanes = vec![LaneDue { webhook: WebhookNo(2), first_due: NOW }];
            bench.scheduler.surveyed(&LanePage { lanes, next: None, as_of: AsOf(6) });
            bench.tick();
        }),
    ];
    let healthy = WebhookNo(2);
    for (name, arrive) in arrivals {
        let (mut bench, flying) = crowded();
        assert!(bench.refill().is_none(), "{name}: who has the room gets no more");
        arrive(&mut bench);
        let timeouts = timeouts_until_launched(&mut bench, flying, healthy);
        assert!(timeouts <= 4, "{name}: it waited for {timeouts} timeouts of another tenant");
    }
}

#[test]
fn hints_that_wait_for_slow_permits_do_not_keep_others_out() {
    let (mut bench, mut flying) = crowded();
    // All of the dead ones have proved slow, and are tried again: no more than two of them fly.
    for as_of in 8..208 {
        let key = flying.remove(0).key;
        let next_attempt = Some(NOW + Duration::from_hours(1));
        bench.settle_of(key.webhook, key.event.0, as_of, next_attempt, true);
        read_all(&mut bench);
        flying.extend(bench.launches());
    }
    bench.now = NOW + Duration::from_hours(1);
    bench.tick();
    read_all(&mut bench);
    assert_eq!(bench.launches().len(), 2);
    read_all(&mut bench);
    bench.news(board(300, ONE, [hint(1)], None));
    assert_eq!(bench.launched(), [1], "there is a permit for it, and so there is room");
}

#[test]
fn room_given_up_for_another_tenant_is_made_good_from_disk() {
    let (mut bench, mut launches) = crowded();
    bench.news(board(6, ONE, [hint(1)], None));
    let mut delivered = BTreeSet::new();
    for as_of in 8.. {
        if launches.is_empty() {
            break;
        }
        for Launch { key, .. } in launches {
            assert!(delivered.insert(key.webhook), "{key:?} is launched twice");
            bench.settle_of(key.webhook, key.event.0, as_of, None, false);
        }
        read_all(&mut bench);
        launches = bench.launches();
    }
    assert_eq!(delivered.len(), 201);
    bench.scheduler.check_empty();
}
