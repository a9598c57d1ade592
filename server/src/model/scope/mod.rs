//! Which events of the types it subscribes to a webhook receives: those whose labels and body pass its filters.

mod check;
mod filter;
mod view;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub use self::{
    filter::{FilterError, InvalidFilter, PayloadFilter, Trouble},
    view::View,
};

/// Labels that an event must carry, each with one of the values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelFilter(BTreeMap<Box<str>, Box<[Box<str>]>>);

impl LabelFilter {
    /// Each label with its allowed values. Values are sorted and kept once.
    pub fn new(labels: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let values = |values: Vec<String>| {
            let mut values: Vec<Box<str>> = values.into_iter().map(Into::into).collect();
            values.sort_unstable();
            values.dedup();
            values.into_boxed_slice()
        };
        Self(labels.into_iter().map(|(label, allowed)| (label.into(), values(allowed))).collect())
    }

    /// Each label with its allowed values, in order.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &[Box<str>])> {
        self.0.iter().map(|(label, values)| (&**label, &**values))
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first label that the event lacks or that has another value.
    fn unmet(&self, labels: &BTreeMap<String, String>) -> Option<&str> {
        let met = |label: &str, allowed: &[Box<str>]| {
            let value = labels.get(label);
            value.is_some_and(|value| allowed.binary_search_by(|known| (**known).cmp(value)).is_ok())
        };
        self.labels().find(|(label, allowed)| !met(label, allowed)).map(|(label, _)| label)
    }
}

/// What a webhook wants of the events of its types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    labels: LabelFilter,
    payload: Option<Arc<PayloadFilter>>,
}

impl Scope {
    /// Both filters; `None` if neither asks for anything.
    pub fn new(labels: LabelFilter, payload: Option<PayloadFilter>) -> Option<Box<Self>> {
        let some = payload.is_some() || !labels.is_empty();
        some.then(|| Box::new(Self { labels, payload: payload.map(Arc::new) }))
    }

    /// The labels that an event must carry.
    pub fn labels(&self) -> &LabelFilter {
        &self.labels
    }

    /// What its body must be like.
    pub fn payload(&self) -> Option<&PayloadFilter> {
        self.payload.as_deref()
    }

    /// Whether the event that is looked at passes both filters.
    pub fn admits(&self, view: &mut View<'_>) -> Verdict<'_> {
        if let Some(label) = self.labels.unmet(&view.event().labels) {
            return Verdict::Label(label);
        }
        match self.payload.as_ref().map(|filter| view.judge(filter)) {
            None | Some(Ok(true)) => Verdict::Admitted,
            Some(Ok(false)) => Verdict::Payload,
            Some(Err(error)) => Verdict::Failed(error),
        }
    }
}

/// What a [`Scope`] says about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It passes.
    Admitted,
    /// It is of a type that is not wanted.
    OtherType,
    /// It lacks this label, or has it with another value.
    Label(&'a str),
    /// Its body does not pass.
    Payload,
    /// Whether its body passes cannot be said. Then it does not.
    Failed(FilterError),
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("the event passes"),
            Self::OtherType => f.write_str("the event is of a type that the webhook does not receive"),
            Self::Label(label) => write!(f, "the event has label {label:?} not, or with another value"),
            Self::Payload => f.write_str("the payload filter is false for the event's body"),
            Self::Failed(error) => write!(f, "the payload filter failed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{
        event::{Event, JSON},
        ids::{EventTypeName, Tenant},
    };

    pub(super) fn event(labels: &[(&str, &str)], body: impl Into<Bytes>) -> Event {
        Event {
            id: "e".parse().unwrap(),
            tenant: Tenant::default(),
            event_type: EventTypeName::new("ADD_TAG"),
            labels: labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect(),
            ordering_key: String::new(),
            occur_time: None,
            content_type: JSON.into(),
            body: body.into(),
            deliver_at: None,
            max_age: None,
        }
    }

    #[test]
    fn every_label_must_be_there_with_an_allowed_value() {
        let filter = |labels: &[(&str, &[&str])]| {
            let texts = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
            LabelFilter::new(labels.iter().map(|(label, values)| ((*label).to_owned(), texts(values))))
        };
        let scope = Scope::new(filter(&[("waba", &["2", "1", "2"]), ("region", &["eu"])]), None).unwrap();
        let check = |labels: &[(&str, &str)], expected: Verdict<'_>| {
            assert_eq!(scope.admits(&mut View::of(&event(labels, "{}"))), expected, "{labels:?}");
        };
        check(&[("waba", "1"), ("region", "eu"), ("other", "x")], Verdict::Admitted);
        check(&[("waba", "2"), ("region", "eu")], Verdict::Admitted);
        check(&[("waba", "3"), ("region", "eu")], Verdict::Label("waba"));
        check(&[("waba", "1"), ("region", "us")], Verdict::Label("region"));
        check(&[("waba", "1")], Verdict::Label("region"));
        check(&[], Verdict::Label("region"));
        assert_eq!(scope.labels().labels().map(|(_, values)| values.len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Scope::new(LabelFilter::default(), None), None);
    }

    #[test]
    fn the_body_is_looked_at_only_if_the_labels_pass() {
        let labels = LabelFilter::new([("waba".to_owned(), vec!["1".to_owned()])]);
        let scope = Scope::new(labels, Some(PayloadFilter::compile("body.n == 1").unwrap())).unwrap();
        let check = |waba: &str, body: &'static str, expected: Verdict<'_>| {
            assert_eq!(scope.admits(&mut View::of(&event(&[("waba", waba)], body))), expected, "{waba} {body}");
        };
        check("1", r#"{"n": 1}"#, Verdict::Admitted);
        check("1", r#"{"n": 2}"#, Verdict::Payload);
        check("2", "no JSON", Verdict::Label("waba"));
        check("1", "no JSON", Verdict::Failed(FilterError::new(Trouble::NotJson, "the body is not JSON")));
    }
}
