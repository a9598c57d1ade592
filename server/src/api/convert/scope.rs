//! Contract ⇄ model for what narrows a webhook's events: label and payload filters.

use std::collections::BTreeMap;

use postrider_proto::v1;

use crate::{
    api::status::Violations,
    limits::{ID_BYTES_MAX, LABEL_FILTER_LABELS_MAX, LABEL_FILTER_VALUES_MAX, LABEL_VALUE_BYTES_MAX},
    model::{
        ids::is_name,
        scope::{LabelFilter, PayloadFilter, Scope},
    },
};

/// Both filters, or `None` if there is neither, or with a violation.
pub(super) fn scope(
    violations: &mut Violations,
    labels: BTreeMap<String, v1::LabelValues>,
    payload: &str,
) -> Option<Box<Scope>> {
    check_labels(violations, &labels);
    let filter = (!payload.is_empty()).then(|| PayloadFilter::compile(payload));
    let filter = filter.and_then(|compiled| violations.note("webhook.payload_filter", compiled));
    Scope::new(LabelFilter::new(labels.into_iter().map(|(label, allowed)| (label, allowed.values))), filter)
}

fn check_labels(violations: &mut Violations, labels: &BTreeMap<String, v1::LabelValues>) {
    const FIELD: &str = "webhook.label_filter";
    if labels.len() > LABEL_FILTER_LABELS_MAX {
        violations.add(FIELD, format!("must not name more than {LABEL_FILTER_LABELS_MAX} labels"));
    }
    if labels.values().map(|allowed| allowed.values.len()).sum::<usize>() > LABEL_FILTER_VALUES_MAX {
        violations.add(FIELD, format!("must not have more than {LABEL_FILTER_VALUES_MAX} values in all"));
        return;
    }
    for (label, allowed) in labels {
        let field = || format!("{FIELD}[{:?}]", label.chars().take(ID_BYTES_MAX).collect::<String>());
        if !is_name(label) {
            violations.add(field(), "its key must be [A-Za-z0-9_.-]{1,64}");
        }
        if allowed.values.is_empty() {
            violations.add(field(), "must have at least one value");
        }
        for (index, value) in allowed.values.iter().enumerate() {
            if value.len() > LABEL_VALUE_BYTES_MAX {
                let problem = format!("must not be longer than {LABEL_VALUE_BYTES_MAX} bytes");
                violations.add(format!("{}.values[{index}]", field()), problem);
            }
        }
    }
}

/// The labels that an event must carry, as callers wrote them.
pub(super) fn label_filter(scope: Option<&Scope>) -> BTreeMap<String, v1::LabelValues> {
    let values = |values: &[Box<str>]| v1::LabelValues { values: values.iter().map(ToString::to_string).collect() };
    let labels = scope.into_iter().flat_map(|scope| scope.labels().labels());
    labels.map(|(label, allowed)| (label.to_owned(), values(allowed))).collect()
}

/// What its body must be like, as callers wrote it.
pub(super) fn payload_filter(scope: Option<&Scope>) -> String {
    scope.and_then(Scope::payload).map_or_else(String::new, |filter| filter.text().to_owned())
}
