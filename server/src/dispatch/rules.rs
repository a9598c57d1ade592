//! One test per rule of the scheduler; each fails when its rule is violated (all were planted once).

mod sharing;

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

/// The store leaves out the outcome of what was cancelled, also one that says when the next attempt is due.
#[test]
fn what_was_cancelled_under_way_is_attempted_again_only_if_it_is_on_disk() {
    for there in [false, true] {
        let mut bench = Bench::new(limits());
        bench.news(board(5, ONE, [hint(1)], None));
        assert_eq!(bench.launched(), [1]);
        let mut cancelled = board(7, ONE, [], None);
        cancelled.cancelled.insert(ONE);
        bench.news(cancelled);
        assert!(bench.refill().is_some());
        bench.refilled(Some(&page(7, [], false)));
        bench.settle(1, 8, Some(NOW));
        assert!(bench.launched().is_empty(), "it may be cancelled");
        assert!(bench.refill().is_some(), "the disk knows");
        bench.refilled(Some(&page(8, there.then(|| hint(1)), false)));
        assert_eq!(bench.launched(), if there { vec![1] } else { vec![] });
        if there {
            bench.settle(1, 9, None);
        }
        bench.scheduler.check_empty();
    }
}

/// Though the webhook is disabled when it is cancelled, and enabled when its attempt ends.
#[test]
fn what_was_cancelled_while_its_webhook_was_disabled_is_not_attempted_again() {
    let mut bench = Bench::new(limits());
    bench.news(board(5, ONE, [hint(1)], None));
    assert_eq!(bench.launched(), [1]);
    let tenant = bench.webhooks.0.remove(&ONE).unwrap();
    let mut cancelled = board(6, ONE, [], None);
    cancelled.cancelled.insert(ONE);
    bench.news(cancelled);
    bench.webhooks.0.insert(ONE, tenant);
    let mut enabled = board(7, ONE, [], None);
    enabled.changed.insert(ONE);
    bench.news(enabled);
    assert!(bench.refill().is_some());
    bench.refilled(Some(&page(7, [], false)));
    bench.settle(1, 8, Some(NOW));
    assert!(bench.launched().is_empty(), "it is cancelled");
    assert!(bench.refill().is_some());
    bench.refilled(Some(&page(8, [], false)));
    assert!(bench.launched().is_empty());
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
