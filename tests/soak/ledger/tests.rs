use super::*;
use crate::fleet::{ATTEMPTS_MAX, body, event_id};

const HANGING: usize = fleet::WEBHOOKS - 1;
const DOWN: usize = 98;

/// Event 0 is for the webhook that hangs, event 1 for eleven that answer.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(1);
    assert_eq!(ledger.next_event(0), (0, HANGING_TYPE));
    assert_eq!(ledger.next_event(0), (1, 1));
    ledger
}

fn arrive(ledger: &mut Ledger, number: u64, webhook: usize, attempt: u32) {
    let delivery = format!("dlv-{number}-{webhook}");
    let (event, body) = (event_id(number), body(number));
    ledger.arrived(&Request { webhook, event: &event, attempt, delivery: &delivery, body: &body });
}

fn see(ledger: &mut Ledger, number: u64, webhook: usize, attempt: u32, state: DeliveryState, status: u16) {
    let delivery = format!("dlv-{number}-{webhook}");
    ledger.outcome(&Seen { webhook, event: &event_id(number), attempt, delivery: &delivery, state, status });
}

fn deliver(ledger: &mut Ledger, number: u64, webhook: usize) {
    arrive(ledger, number, webhook, 1);
    see(ledger, number, webhook, 1, DeliveryState::Delivered, 200);
}

fn give_up(ledger: &mut Ledger, number: u64, webhook: usize) {
    for attempt in 1..=ATTEMPTS_MAX {
        arrive(ledger, number, webhook, attempt);
        let state = if attempt == ATTEMPTS_MAX { DeliveryState::Failed } else { DeliveryState::Pending };
        see(ledger, number, webhook, attempt, state, fleet::status(webhook, number, attempt).unwrap_or_default());
    }
}

/// Everything goes as promised, over a kill that hits the last delivery in flight.
fn keep_promises(ledger: &mut Ledger) {
    ledger.acknowledged(0, 1, false, false, 0);
    ledger.acknowledged(1, 11, false, false, 0);
    give_up(ledger, 0, HANGING);
    for place in 0..10 {
        deliver(ledger, 1, fleet::webhook(1, place));
    }
    arrive(ledger, 1, fleet::webhook(1, 10), 1);
    ledger.end_life(Ending::Killed);
    deliver(ledger, 1, fleet::webhook(1, 10));
    assert!(ledger.is_complete());
}

#[test]
fn a_history_that_keeps_the_promises_passes_and_is_forgotten() {
    let mut ledger = ledger();
    keep_promises(&mut ledger);
    ledger.end_life(Ending::Stopped);
    ledger.finish();
    assert_eq!(ledger.violations(), (0, [].as_slice()));
    assert_eq!((ledger.base, ledger.rows.len()), (2, 0));
    assert_eq!((ledger.counts.repeats, ledger.repeats_max(), ledger.untried()), (1, 1, 0));
    assert_eq!((ledger.counts.delivered, ledger.counts.failed), (11, 1));
}

#[test]
fn a_receiver_that_is_down_may_be_given_up() {
    let mut ledger = Ledger::new(1);
    while ledger.next_event(0).1 != fleet::event_type(DOWN) {}
    let number = ledger.counts.sent - 1;
    give_up(&mut ledger, number, DOWN);
    assert_eq!(ledger.violations().0, 0);
}

/// The ledger of [`keep_promises`] with one thing more, or less.
#[test]
fn every_planted_violation_is_found() {
    type Plant = fn(&mut Ledger);
    let last = fleet::webhook(1, 10);
    assert_eq!(last, 91);
    let plants: [(&str, Plant); 18] = [
        // A lost event: everything is acknowledged, and one delivery never heard of.
        ("event 2 was acknowledged, and for webhook 2 it is lost", |l| {
            l.next_event(1);
            l.acknowledged(2, 11, false, false, 1);
            l.finish();
        }),
        ("event 2 was acknowledged, and for webhook 2 it is stuck", |l| {
            l.next_event(1);
            l.acknowledged(2, 11, false, false, 1);
            l.tidy(STUCK_AFTER_SECS + 2);
        }),
        ("1 events were never acknowledged", |l| {
            l.next_event(1);
            l.finish();
        }),
        ("accepted for 10 webhooks, not for 11", |l| {
            l.next_event(1);
            l.acknowledged(2, 10, false, false, 1);
        }),
        ("said to have been published before", |l| {
            l.next_event(1);
            l.acknowledged(2, 11, true, false, 1);
        }),
        // Repeats that no kill explains.
        ("one daemon made the same attempt twice", |l| arrive(l, 1, 91, 1)),
        ("the delivery had ended (Delivered) with attempt 1", |l| arrive(l, 1, 91, 2)),
        ("its outcome had been committed in an earlier life", |l| arrive(l, 1, 82, 1)),
        ("all of it had ended in an earlier life", |l| {
            l.end_life(Ending::Killed);
            arrive(l, 1, 91, 1);
        }),
        ("although the daemon was stopped in order", |l| {
            l.next_event(1);
            arrive(l, 2, 2, 1);
            l.end_life(Ending::Stopped);
            arrive(l, 2, 2, 1);
        }),
        ("2 attempts of life 2 were repeated, and 1 can be in flight", |l| {
            l.next_event(1);
            arrive(l, 2, 2, 1);
            arrive(l, 2, 11, 1);
            l.end_life(Ending::Killed);
            arrive(l, 2, 2, 1);
            arrive(l, 2, 11, 1);
            l.finish();
        }),
        ("the policy allows 4 attempts", |l| {
            l.next_event(1);
            arrive(l, 2, 2, 5);
        }),
        ("that webhook did not ask for it", |l| arrive(l, 1, 92, 1)),
        // An outcome twice, and one that a cursor skipped.
        ("it came after 1 outcomes, the last of them Delivered", |l| see(l, 1, 91, 1, DeliveryState::Delivered, 200)),
        ("it came after 0 outcomes, the last of them Pending", |l| {
            l.next_event(1);
            arrive(l, 2, 2, 2);
            see(l, 2, 2, 2, DeliveryState::Delivered, 200);
        }),
        ("the attempt never arrived", |l| {
            l.next_event(1);
            see(l, 2, 2, 1, DeliveryState::Delivered, 200);
        }),
        ("the state does not follow from the status", |l| {
            l.next_event(1);
            arrive(l, 2, 2, 1);
            see(l, 2, 2, 1, DeliveryState::Pending, 200);
        }),
        ("was given up, although its receiver answers", |l| {
            l.next_event(1);
            for attempt in 1..ATTEMPTS_MAX {
                see(l, 2, 2, attempt, DeliveryState::Pending, 0);
            }
            see(l, 2, 2, ATTEMPTS_MAX, DeliveryState::Failed, 0);
        }),
    ];
    for (expected, plant) in plants {
        let mut ledger = ledger();
        keep_promises(&mut ledger);
        plant(&mut ledger);
        let (_, violations) = ledger.violations();
        assert!(violations.iter().any(|found| found.contains(expected)), "{expected}: {violations:?}");
    }
}

#[test]
fn ids_and_bodies_must_stay_the_same() {
    let mut ledger = ledger();
    let request = Request { webhook: 1, event: "soak-1", attempt: 1, delivery: "dlv-1-1", body: &body(1) };
    ledger.arrived(&Request { body: &body(2), ..request });
    ledger.arrived(&request);
    ledger.end_life(Ending::Killed);
    ledger.arrived(&Request { delivery: "dlv-other", ..request });
    ledger.arrived(&Request { event: "soak-9", body: &body(9), ..request });
    let (count, violations) = ledger.violations();
    assert_eq!(count, 3, "{violations:?}");
    for (violation, expected) in violations.iter().zip(["body", "another id", "nobody published"]) {
        assert!(violation.contains(expected), "{violation}");
    }
}

#[test]
fn an_attempt_that_timed_out_may_be_read_after_its_outcome() {
    let mut ledger = ledger();
    see(&mut ledger, 0, HANGING, 1, DeliveryState::Pending, 0);
    arrive(&mut ledger, 0, HANGING, 1);
    assert_eq!(ledger.violations().0, 0);
}
