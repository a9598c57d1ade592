//! One test per rule of the scheduler; each fails when its rule is violated (all were planted once).

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{
    orders::{Launch, Limits, Refill, Unmade},
    scheduler::Scheduler,
    simulation::{Known, limits},
};
use crate::{
    flow::{Board, Settled},
    model::{
        breaker::Health,
        delivery::Attempts,
        ids::{DeliveryKey, EventSeq, WebhookNo},
        time::Timestamp,
    },
    store::{AsOf, DuePage, Hint, LaneDue, LanePage},
};

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
const ONE: WebhookNo = WebhookNo(1);

fn hint(event: u64) -> Hint {
    hint_due(event, NOW)
}

fn hint_due(event: u64, due: Timestamp) -> Hint {
    Hint { event: EventSeq(event), replay: 0, attempts: Attempts::default(), due }
}

fn board(as_of: u64, webhook: WebhookNo, hints: impl IntoIterator<Item = Hint>, more_since: Option<u64>) -> Board {
    let mut board = Board::default();
    board.as_of = AsOf(as_of);
    let fresh = board.fresh.entry(webhook).or_default();
    fresh.hints.extend(hints);
    fresh.more_since = more_since.map(AsOf);
    board
}

fn page(as_of: u64, hints: impl IntoIterator<Item = Hint>, more: bool) -> DuePage {
    DuePage { hints: hints.into_iter().collect(), more, next_due: None, as_of: AsOf(as_of) }
}

/// A scheduler with webhooks 1 to 3, each a tenant's only one.
struct Bench {
    scheduler: Scheduler,
    webhooks: Known,
    now: Timestamp,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let tenant = |no: u64| format!("t{no}").parse().expect("valid");
        let webhooks = Known((1..=3).map(|no| (WebhookNo(no), tenant(no))).collect(), HashMap::new());
        Self { scheduler: Scheduler::new(limits), webhooks, now: NOW }
    }

    fn news(&mut self, board: Board) {
        self.scheduler.news(board, self.now, &self.webhooks);
        self.tick();
    }

    fn tick(&mut self) {
        self.scheduler.tick(self.now, &self.webhooks);
        self.scheduler.check(self.now);
    }

    fn launches(&mut self) -> Vec<Launch> {
        std::iter::from_fn(|| self.scheduler.next_launch(self.now, &self.webhooks)).collect()
    }

    /// The events launched.
    fn launched(&mut self) -> Vec<u64> {
        self.launches().iter().map(|launch| launch.key.event.0).collect()
    }

    fn refill(&mut self) -> Option<Refill> {
        self.scheduler.next_refill(self.now)
    }

    fn refilled(&mut self, page: Option<&DuePage>) {
        self.scheduler.refilled(ONE, page, self.now, &self.webhooks);
        self.scheduler.check(self.now);
    }

    fn settle(&mut self, event: u64, as_of: u64, next_attempt: Option<Timestamp>) {
        self.settle_of(ONE, event, as_of, next_attempt, false);
    }

    fn settle_of(&mut self, webhook: WebhookNo, event: u64, as_of: u64, next_attempt: Option<Timestamp>, slow: bool) {
        let key = DeliveryKey { webhook, event: EventSeq(event), replay: 0 };
        self.hear(&Settled {
            key,
            attempts: Attempts::new(1, None),
            next_attempt,
            slow: Some(slow),
            health: Health::Well,
            pause_until: None,
            as_of: AsOf(as_of),
        });
    }

    fn hear(&mut self, settled: &Settled) {
        self.scheduler.settled(settled, self.now, &self.webhooks);
        self.scheduler.check(self.now);
    }
}

#[test]
fn rule_a_only_a_short_read_as_new_as_the_mark_clears_it() {
    struct Case {
        name: &'static str,
        page: DuePage,
        reads_again: bool,
    }
    let cases = [
        Case { name: "short and as new", page: page(8, [], false), reads_again: false },
        Case { name: "short and newer", page: page(9, [], false), reads_again: false },
        Case { name: "short but older", page: page(7, [], false), reads_again: true },
    ];
    for case in cases {
        let mut bench = Bench::new(limits());
        bench.news(board(5, ONE, [], Some(5)));
        assert!(bench.refill().is_some());
        // While the lane is read, more is left out.
        bench.news(board(8, ONE, [], Some(8)));
        bench.refilled(Some(&case.page));
        assert_eq!(bench.refill().is_some(), case.reads_again, "{}", case.name);
    }
}

#[test]
fn rule_a_holds_for_what_a_long_read_left_behind() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [], Some(5)));
    bench.refill().unwrap();
    bench.refilled(Some(&page(9, [hint(1)], true)));
    assert_eq!(bench.launched(), [1]);
    assert!(bench.refill().is_some());
}

#[test]
fn rule_a_holds_for_what_became_due_while_an_older_read_was_under_way() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1)], Some(5)));
    assert_eq!(bench.launched(), [1]);
    // The snapshot of this read is 5, in which delivery 1 was due at once.
    bench.refill().unwrap();
    bench.settle(1, 6, Some(NOW + Duration::from_secs(10)));
    bench.now = NOW + Duration::from_secs(11);
    bench.tick();
    bench.refilled(Some(&page(5, [hint(1)], false)));
    assert!(bench.refill().is_some(), "the retry is still on disk only");
    assert_eq!(bench.launched(), [0; 0]);
}

#[test]
fn rule_b_what_is_taken_is_not_taken_twice() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1)], Some(5)));
    assert_eq!(bench.launched(), [1]);
    bench.refill().unwrap();
    bench.refilled(Some(&page(5, [hint(1), hint(2)], false)));
    assert_eq!(bench.launched(), [2], "1 is in flight");
    bench.news(board(6, ONE, [hint(1)], None));
    assert_eq!(bench.launched(), [0; 0], "nor do news bring it back");
}

#[test]
fn rule_b_an_outcome_is_remembered_while_an_older_read_is_under_way() {
    for (as_of, launched) in [(5, vec![2]), (6, vec![1, 2])] {
        let mut bench = Bench::new(limits());
        bench.news(board(5, ONE, [hint(1)], Some(5)));
        assert_eq!(bench.launched(), [1]);
        bench.refill().unwrap();
        bench.settle(1, 6, None);
        // A page as new as the outcome is the truth, even if that brings the delivery back.
        bench.refilled(Some(&page(as_of, [hint(1), hint(2)], false)));
        assert_eq!(bench.launched(), launched, "snapshot {as_of}");
    }
}

#[test]
fn rule_b_a_page_is_not_used_if_too_much_settled_meanwhile() {
    let limits = Limits { webhook_in_flight_max: 8, lane_hints_max: 8, ..limits() };
    let mut bench = Bench::new(limits);
    bench.news(board(5, ONE, [], Some(5)));
    bench.refill().unwrap();
    for event in 1..=20 {
        bench.news(board(5, ONE, [hint(event)], None));
        assert_eq!(bench.launched(), [event]);
        bench.settle(event, 5 + event, None);
    }
    bench.refilled(Some(&page(5, (1..=20).map(hint), false)));
    assert_eq!(bench.launched(), [0; 0]);
    assert!(bench.refill().is_some(), "it is read again");
}

#[test]
fn rule_c_what_is_due_later_waits_on_disk() {
    let horizon = limits().horizon;
    let (soon, late) = (NOW + horizon, NOW + horizon + Duration::from_micros(1));
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint_due(1, soon), hint_due(2, late)], None));
    assert_eq!(bench.launched(), [0; 0]);
    bench.now = soon;
    bench.tick();
    assert_eq!(bench.launched(), [1]);
    let refill = bench.refill().unwrap();
    bench.refilled(Some(&page(5, [hint(1), hint_due(2, late)], false)));
    assert!(refill.horizon >= late);
    bench.now = late;
    bench.tick();
    assert_eq!(bench.launched(), [2]);
}

#[test]
fn rule_c_an_earlier_delivery_evicts_the_latest_and_sets_the_mark() {
    let full = u64::try_from(limits().lane_hints_max).unwrap();
    for (what, newcomer, kept) in [("earlier", NOW, true), ("later", NOW + Duration::from_secs(2), false)] {
        let mut bench = Bench::new(limits());
        let due = NOW + Duration::from_secs(1);
        bench.news(board(5, ONE, (1..=full).map(|event| hint_due(event, due)), None));
        assert!(bench.refill().is_none());
        bench.news(board(6, ONE, [hint_due(100, newcomer)], None));
        assert_eq!(bench.launched(), if kept { vec![100] } else { vec![] }, "{what}");
        bench.now = NOW + Duration::from_secs(2);
        bench.tick();
        while let Some(event) = bench.launched().first() {
            bench.settle(*event, 7, None);
        }
        assert!(bench.refill().is_some(), "{what}: the one left out is on disk");
    }
}

#[test]
fn an_answered_delivery_makes_room_in_its_lane_and_stays_taken() {
    let mut bench = Bench::new(Limits { in_flight_max: 5, ..limits() });
    bench.news(board(5, ONE, (1..=6).map(hint), None));
    assert_eq!(bench.launched(), [1, 2, 3, 4]);
    for event in [1, 1, 9] {
        let key = DeliveryKey { webhook: ONE, event: EventSeq(event), replay: 0 };
        bench.scheduler.answered(key, bench.now);
    }
    assert_eq!(bench.launched(), [5], "the receiver is done with one; it counts once");
    let key = DeliveryKey { webhook: ONE, event: EventSeq(2), replay: 0 };
    bench.scheduler.answered(key, bench.now);
    assert_eq!(bench.launched(), [0; 0], "the permits of the whole are taken until outcomes are committed");
    bench.news(board(6, ONE, [hint(1)], None));
    bench.settle(2, 7, None);
    assert_eq!(bench.launched(), [6], "and so is the delivery");
    bench.scheduler.check(bench.now);
}

#[test]
fn later_ones_do_not_overtake_what_is_on_disk() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, (1..=6).map(hint), Some(5)));
    bench.news(board(6, ONE, [hint(50)], None));
    assert_eq!(bench.launched(), [1, 2, 3, 4]);
    (1..=4).for_each(|event| bench.settle(event, 7, None));
    assert_eq!(bench.launched(), [5, 6]);
    bench.refill().unwrap();
    // This one is admitted while the lane is read, and left out again: who knows what lies before it on disk.
    bench.news(board(8, ONE, [hint(51)], None));
    bench.settle(5, 9, None);
    bench.settle(6, 9, None);
    bench.refilled(Some(&page(8, (5..=10).map(hint), true)));
    assert_eq!(bench.launched(), [7, 8, 9, 10]);
    (7..=10).for_each(|event| bench.settle(event, 10, None));
    assert_eq!(bench.launched(), [0; 0]);
    assert!(bench.refill().is_some());
}

#[test]
fn a_failed_read_is_tried_again_after_a_pause() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [], Some(5)));
    bench.refill().unwrap();
    bench.refilled(None);
    assert!(bench.refill().is_none());
    let wake = bench.scheduler.next_wake().unwrap();
    assert_eq!(wake, NOW + limits().failure_pause);
    bench.now = wake;
    bench.tick();
    assert!(bench.refill().is_some());
}

#[test]
fn what_could_not_be_loaded_is_not_lost() {
    for (why, pause) in [(Unmade::StoreFailed, limits().failure_pause), (Unmade::Unreadable, limits().unreadable_pause)]
    {
        let mut bench = Bench::new(limits());
        bench.news(board(5, ONE, [hint(1), hint(2)], None));
        let launches = bench.launches();
        bench.scheduler.unmade(launches[0].key, why, bench.now);
        bench.settle(2, 6, None);
        assert!(bench.refill().is_none() && bench.launched().is_empty(), "{why:?}");
        bench.now = bench.scheduler.next_wake().unwrap();
        assert_eq!(bench.now, NOW + pause, "{why:?}");
        bench.tick();
        bench.refill().unwrap();
        bench.refilled(Some(&page(6, [hint(1)], false)));
        assert_eq!(bench.launched(), [1], "{why:?}");
    }
}

#[test]
fn an_unreadable_event_does_not_hold_up_its_lane() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1)], None));
    let launches = bench.launches();
    bench.scheduler.unmade(launches[0].key, Unmade::Unreadable, bench.now);
    bench.news(board(6, ONE, [hint(2)], None));
    assert_eq!(bench.launched(), [2]);
}

#[test]
fn disabled_webhooks_are_forgotten_and_read_again_when_enabled() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1), hint(2), hint(3), hint(4), hint(5)], Some(5)));
    assert_eq!(bench.launched(), [1, 2, 3, 4]);
    let tenant = bench.webhooks.0.remove(&ONE).unwrap();
    let changed = |as_of| {
        let mut board = Board::default();
        board.as_of = AsOf(as_of);
        board.changed.insert(ONE);
        board
    };
    bench.news(changed(6));
    bench.settle(1, 7, Some(NOW));
    bench.settle(2, 7, None);
    assert!(bench.launched().is_empty() && bench.refill().is_none());
    bench.webhooks.0.insert(ONE, tenant);
    bench.news(changed(8));
    bench.refill().unwrap();
    bench.refilled(Some(&page(8, [hint(1), hint(3), hint(4), hint(5)], false)));
    assert_eq!(bench.launched(), [1, 5], "3 and 4 are still in flight");
    for event in [1, 3, 4, 5] {
        bench.settle(event, 9, None);
    }
    bench.scheduler.check_empty();
}

#[test]
fn no_attempt_of_a_webhook_that_is_gone_though_no_news_say_so() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1)], None));
    bench.webhooks.0.remove(&ONE);
    assert_eq!(bench.launched(), [0; 0]);
    bench.scheduler.check_empty();
}

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

#[test]
fn what_is_retried_by_hand_while_its_end_is_news_is_read_again() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1)], None));
    assert_eq!(bench.launched(), [1]);
    // Its outcome was committed with 6, the retry with 7; of that the dispatcher hears first.
    let retried = Hint { attempts: Attempts::new(1, Some(1)), ..hint(1) };
    bench.news(board(7, ONE, [retried], None));
    assert!(bench.launched().is_empty(), "one attempt at a time");
    bench.settle(1, 6, None);
    assert!(bench.refill().is_some(), "it is not forgotten");
    bench.refilled(Some(&page(7, [retried], false)));
    let launches = bench.launches();
    assert_eq!(launches.iter().map(|launch| launch.attempts).collect::<Vec<_>>(), [retried.attempts]);
    bench.settle(1, 8, None);
    bench.scheduler.check_empty();
}

#[test]
fn what_was_cancelled_is_launched_neither_from_the_window_nor_from_the_board_nor_from_an_older_read() {
    let mut bench = Bench::new(Limits { webhook_in_flight_max: 1, ..limits() });
    bench.news(board(5, ONE, [hint(1), hint(2)], Some(5)));
    assert_eq!(bench.launched(), [1]);
    assert!(bench.refill().is_some());
    let mut cancelled = board(7, ONE, [hint(3)], None);
    cancelled.cancelled.insert(ONE);
    bench.news(cancelled);
    bench.settle(1, 8, None);
    assert!(bench.launched().is_empty(), "the window and the board are forgotten");
    bench.refilled(Some(&page(6, [hint(2), hint(3)], false)));
    assert!(bench.launched().is_empty(), "and what was read before");
    assert!(bench.refill().is_some());
    bench.refilled(Some(&page(7, [hint(4)], false)));
    assert_eq!(bench.launched(), [4], "what is on disk counts");
    bench.settle(4, 9, None);
    bench.scheduler.check_empty();
}

#[test]
fn what_asked_for_a_pause_gets_it_though_deliveries_are_cancelled() {
    for (changed, launched) in [(false, vec![]), (true, vec![2])] {
        let mut bench = Bench::new(Limits { webhook_in_flight_max: 1, ..limits() });
        bench.news(board(5, ONE, [hint(1), hint(2), hint(3)], None));
        assert_eq!(bench.launched(), [1]);
        bench.hear(&Settled {
            key: DeliveryKey { webhook: ONE, event: EventSeq(1), replay: 0 },
            attempts: Attempts::new(1, None),
            next_attempt: None,
            slow: Some(false),
            health: Health::Failing,
            pause_until: Some(NOW + Duration::from_millis(1)),
            as_of: AsOf(6),
        });
        let mut cancelled = board(7, ONE, [], None);
        cancelled.cancelled.insert(ONE);
        cancelled.changed.extend(changed.then_some(ONE));
        bench.news(cancelled);
        assert!(bench.refill().is_some(), "what is on disk is read again");
        bench.refilled(Some(&page(7, [hint(2)], false)));
        assert_eq!(bench.launched(), launched, "changed: {changed}");
        bench.now = NOW + Duration::from_millis(1);
        bench.tick();
        if !changed {
            assert_eq!(bench.launched(), [2], "the pause is over");
        }
        bench.settle(2, 8, None);
    }
}
