//! Label filters and payload filters.

use std::collections::BTreeMap;

use bytes::Bytes;
use postrider_server::{
    limits::PAYLOAD_FILTER_BYTES_MAX,
    model::{
        event::{Event, JSON},
        ids::{EventTypeName, Tenant},
        scope::{LabelFilter, PayloadFilter, Scope, Verdict, View},
    },
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};

use crate::harness::{explore, texts};

pub(crate) fn event(labels: BTreeMap<String, String>, body: &str) -> Event {
    Event {
        id: "evt_1".parse().expect("an id"),
        tenant: Tenant::default(),
        event_type: EventTypeName::new("ADD_TAG"),
        labels,
        ordering_key: String::new(),
        occur_time: None,
        content_type: JSON.into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        deliver_at: None,
        max_age: None,
    }
}

/// Whatever compiles can be asked about every body, says the same twice and after a restart, and is no longer than it may be.
#[test]
fn payload_filters_always_answer() {
    let bodies = texts(include_str!("corpus/bodies.txt"));
    explore("payload filters", (texts(include_str!("corpus/payload_filters.txt")), bodies), |(text, body)| {
        let Ok(filter) = PayloadFilter::compile(&text) else { return Ok(()) };
        prop_assert!(text.len() <= PAYLOAD_FILTER_BYTES_MAX);
        prop_assert_eq!(filter.text(), text.as_str());
        let event = event(BTreeMap::new(), &body);
        let says = |filter| {
            let scope = Scope::new(LabelFilter::default(), Some(filter)).expect("a filter asks for something");
            match scope.admits(&mut View::of(&event)) {
                Verdict::Admitted => Ok(true),
                Verdict::Payload => Ok(false),
                Verdict::Failed(error) => Err(error.to_string()),
                other @ (Verdict::OtherType | Verdict::Label(_)) => Err(format!("nobody asked: {other:?}")),
            }
        };
        let first = says(filter);
        prop_assert!(first.as_ref().err().is_none_or(|error| !error.contains("nobody asked")), "{:?}", first);
        if serde_json::from_str::<serde_json::Value>(&body).is_err() {
            prop_assert!(first.is_err() || !text.contains("body"), "{:?} of what is no JSON", first);
        }
        prop_assert_eq!(says(PayloadFilter::from_stored(&text)), first);
        Ok(())
    });
}

/// A label filter lets through exactly the events that have one of its values for each of its labels.
#[test]
fn label_filters_do_what_they_say() {
    let words = || select(vec!["", "a", "b", "waba", "é", "a\0", "a b"]).prop_map(str::to_owned);
    let cases = (btree_map(words(), vec(words(), 0..4), 0..4), btree_map(words(), words(), 0..5));
    explore("label filters", cases, |(filter, labels)| {
        let expected =
            filter.iter().all(|(label, values)| labels.get(label).is_some_and(|value| values.contains(value)));
        let asks = !filter.is_empty();
        let Some(scope) = Scope::new(LabelFilter::new(filter), None) else {
            prop_assert!(!asks);
            return Ok(());
        };
        let event = event(labels, "{}");
        prop_assert_eq!(scope.admits(&mut View::of(&event)) == Verdict::Admitted, expected);
        Ok(())
    });
}
