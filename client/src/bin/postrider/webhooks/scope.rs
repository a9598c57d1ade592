//! Flags for which events of its types a webhook receives.

use clap::Args;
use postrider_client::v1::{LabelValues, Webhook};

#[derive(Debug, Default, Args)]
pub(super) struct ScopeArgs {
    /// A label that events must carry, with the values it may have. Repeatable; all of them together replace those there were.
    #[arg(long = "label-filter", value_name = "KEY=VALUE,…", value_parser = parse_label_filter)]
    label_filter: Vec<(String, Vec<String>)>,
    /// What an event's body must be like: an expression such as `body.message.type == 'TEXT'`.
    #[arg(long, value_name = "EXPRESSION")]
    payload_filter: Option<String>,
}

impl ScopeArgs {
    /// Sets what was given, and returns the names of the fields, for an update's mask.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Vec<&'static str> {
        let mut set = Vec::new();
        if !self.label_filter.is_empty() {
            webhook.label_filter.clear();
            for (label, values) in self.label_filter {
                webhook.label_filter.entry(label).or_default().values.extend(values);
            }
            set.push("label_filter");
        }
        if let Some(payload_filter) = self.payload_filter {
            webhook.payload_filter = payload_filter;
            set.push("payload_filter");
        }
        set
    }
}

fn parse_label_filter(text: &str) -> Result<(String, Vec<String>), &'static str> {
    let (label, values) = text.split_once('=').ok_or("must be KEY=VALUE or KEY=VALUE,VALUE")?;
    Ok((label.to_owned(), values.split(',').map(str::to_owned).collect()))
}

/// The labels that events must carry, for people.
pub(super) fn labels(webhook: &Webhook) -> String {
    let label = |(label, LabelValues { values }): (&String, &LabelValues)| format!("{label}={}", values.join(","));
    webhook.label_filter.iter().map(label).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_shown_alike() {
        let label_filter = vec![parse_label_filter("waba=1,2").unwrap(), parse_label_filter("region=eu").unwrap()];
        let mut webhook = Webhook::default();
        let set = ScopeArgs { label_filter, payload_filter: Some(String::new()) }.apply(&mut webhook);
        assert_eq!(set, ["label_filter", "payload_filter"]);
        assert_eq!(labels(&webhook), "region=eu waba=1,2");
        assert_eq!(ScopeArgs::default().apply(&mut webhook), [""; 0]);
        assert!(parse_label_filter("waba").is_err());
    }
}
