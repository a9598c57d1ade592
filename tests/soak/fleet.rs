//! Who receives what, and how each receiver behaves. Everything follows from numbers, so that the receivers and those who
//! judge them agree without a word.

use std::time::Duration;

use bytes::Bytes;

/// Webhooks: 94 that are well, 5 that fail, 1 that hangs.
pub(crate) const WEBHOOKS: usize = 100;
/// Attempts of a delivery until the policy gives up; one more than [`SCHEDULE`] has delays.
pub(crate) const ATTEMPTS_MAX: u32 = 4;
/// The daemon's `--retry-schedule`.
pub(crate) const SCHEDULE: &str = "1s,2s,4s";
/// The daemon's `--attempt-timeout`: what an attempt at the receiver that hangs costs.
pub(crate) const ATTEMPT_TIMEOUT: &str = "2s";
/// An event for the webhook that hangs comes this often: ten attempts of two seconds at a time, four for each event, are
/// enough for 1.25 events per second, and its backlog stays flat.
pub(crate) const HANGING_EVERY: Duration = Duration::from_secs(2);
/// Length of each body.
pub(crate) const BODY_BYTES: usize = 1024;

/// The event types of most events; the last is that of the webhook that hangs.
pub(crate) const EVENT_TYPES: [&str; 10] = [
    "MESSAGE_RECEIVED",
    "MESSAGE_STATUS_UPDATE",
    "CHAT_ASSIGNED_TO_AGENT",
    "CHAT_UNASSIGNED",
    "WIDGET_LEAD_RECEIVED",
    "VERIFIED_WIDGET_LEAD_RECEIVED",
    "NEW_LEAD",
    "TEMPLATE_UPDATE",
    "ADD_TAG",
    "REMOVE_TAG",
];
/// The type whose one webhook hangs.
pub(crate) const HANGING_TYPE: usize = EVENT_TYPES.len() - 1;
/// The types of all other events, in turns.
pub(crate) const BUSY_TYPES: usize = EVENT_TYPES.len() - 1;
/// The webhooks of each of those types.
pub(crate) const FAN_OUT: usize = (WEBHOOKS - 1) / BUSY_TYPES;

/// What a receiver is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Answers 200 at once.
    Well,
    /// Answers 500 to about half of all attempts, but never to the last.
    Flaky,
    /// Answers 500 to seven deliveries of eight: to all, and its circuit breaker would open and keep them for ever.
    Down,
    /// Never answers every other delivery.
    Hangs,
}

/// What a receiver is like.
pub(crate) fn health(webhook: usize) -> Health {
    match webhook {
        ..94 => Health::Well,
        94..98 => Health::Flaky,
        98 => Health::Down,
        _ => Health::Hangs,
    }
}

/// The status that a receiver answers an attempt with; `None`: it hangs.
pub(crate) fn status(webhook: usize, number: u64, attempt: u32) -> Option<u16> {
    match health(webhook) {
        Health::Flaky if attempt < ATTEMPTS_MAX && fails(number, attempt) => Some(500),
        Health::Well | Health::Flaky => Some(200),
        Health::Down => Some(if is_one_in(8, number) { 200 } else { 500 }),
        Health::Hangs => is_one_in(2, number).then_some(200),
    }
}

fn fails(number: u64, attempt: u32) -> bool {
    is_one_in(2, number * u64::from(ATTEMPTS_MAX) + u64::from(attempt))
}

/// True for one number of so many, and for no regular ones: by the finaliser of `SplitMix64`,
/// <https://prng.di.unimi.it/splitmix64.c>.
fn is_one_in(many: u64, number: u64) -> bool {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) % many == many - 1
}

/// The one type that a webhook asks for.
pub(crate) fn event_type(webhook: usize) -> usize {
    if health(webhook) == Health::Hangs { HANGING_TYPE } else { webhook % BUSY_TYPES }
}

/// A webhook's place among those of its type.
pub(crate) fn place(webhook: usize) -> usize {
    if health(webhook) == Health::Hangs { 0 } else { webhook / BUSY_TYPES }
}

/// The webhook in a place of a type.
pub(crate) fn webhook(event_type: usize, place: usize) -> usize {
    if event_type == HANGING_TYPE { WEBHOOKS - 1 } else { place * BUSY_TYPES + event_type }
}

/// How many webhooks ask for a type.
pub(crate) fn fan_out(event_type: usize) -> usize {
    if event_type == HANGING_TYPE { 1 } else { FAN_OUT }
}

/// The id of an event.
pub(crate) fn event_id(number: u64) -> String {
    format!("soak-{number}")
}

/// The number in an event's id; `None` if it is none of ours.
pub(crate) fn number(event_id: &str) -> Option<u64> {
    event_id.strip_prefix("soak-")?.parse().ok()
}

/// The body of an event: no two are alike.
pub(crate) fn body(number: u64) -> Bytes {
    let mut body = format!(r#"{{"n":{number},"text":""#).into_bytes();
    let letter = b'a' + u8::try_from(number % 26).expect("26 letters");
    body.resize(BODY_BYTES - 2, letter);
    body.extend(br#""}"#);
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_webhook_has_a_place_of_its_own() {
        for index in 0..WEBHOOKS {
            assert!(place(index) < fan_out(event_type(index)), "{index}");
            assert_eq!(webhook(event_type(index), place(index)), index);
        }
        let places: usize = (0..EVENT_TYPES.len()).map(fan_out).sum();
        assert_eq!(places, WEBHOOKS);
    }

    #[test]
    fn receivers_are_as_many_of_each_kind_as_promised() {
        let count = |kind| (0..WEBHOOKS).filter(|&index| health(index) == kind).count();
        assert_eq!([Health::Well, Health::Flaky, Health::Down, Health::Hangs].map(count), [94, 4, 1, 1]);
        let failing = (0..10_000).filter(|&number| status(94, number, 1) == Some(500)).count();
        assert!((4_500..5_500).contains(&failing), "{failing}");
        assert!((0..10_000).all(|number| status(94, number, ATTEMPTS_MAX) == Some(200)));
        let answered = |webhook| (0..10_000).filter(|&number| status(webhook, number, 1) == Some(200)).count();
        assert!((1_000..1_500).contains(&answered(98)) && (4_500..5_500).contains(&answered(99)));
        assert!((0..10_000).all(|number| status(98, number, 1) == status(98, number, ATTEMPTS_MAX)));
    }

    #[test]
    fn events_are_known_by_their_ids_and_bodies() {
        assert_eq!(number(&event_id(17)), Some(17));
        assert_eq!((number("soak-"), number("17"), number("soak-x")), (None, None, None));
        for number in [0, 9_999_999] {
            assert_eq!(body(number).len(), BODY_BYTES);
            let json: serde_json::Value = serde_json::from_slice(&body(number)).unwrap();
            assert_eq!(json["n"], number);
        }
    }
}
