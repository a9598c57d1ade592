//! Flags for the order of a webhook's deliveries.

use clap::Args;
use postrider_client::v1::{HeadRule, Ordering, Webhook};

#[derive(Debug, Default, Args)]
pub(super) struct OrderingArgs {
    /// Deliver events with the same ordering key one after the other, in publish order.
    #[arg(long)]
    ordered: bool,
    /// If ordered: after so many failed attempts of an event (1 to 100) go on with the next one of its key, and retry it beside
    /// that. Otherwise the next one waits until it has ended.
    #[arg(long, value_name = "ATTEMPTS")]
    skip_after: Option<i32>,
}

impl OrderingArgs {
    /// Sets what was given, and returns the names of the fields.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Vec<&'static str> {
        let mut set = Vec::new();
        if self.ordered {
            webhook.ordered = true;
            set.push("ordered");
        }
        if let Some(skip_after_attempts) = self.skip_after {
            webhook.ordering = Some(Ordering { head_rule: HeadRule::Skip.into(), skip_after_attempts });
            set.push("ordering");
        }
        set
    }
}

/// In words; empty: in any order.
pub(super) fn describe(webhook: &Webhook) -> String {
    let ordering = webhook.ordering.unwrap_or_default();
    match (webhook.ordered, ordering.head_rule()) {
        (false, _) => String::new(),
        (true, HeadRule::Block | HeadRule::Unspecified) => "by ordering key".into(),
        (true, HeadRule::Skip) => {
            format!("by ordering key, skipping what failed {} times", ordering.skip_after_attempts)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_set_fields_and_fields_read_well() {
        let cases = [
            (false, None, vec![], ""),
            (true, None, vec!["ordered"], "by ordering key"),
            (false, Some(3), vec!["ordering"], ""),
            (true, Some(3), vec!["ordered", "ordering"], "by ordering key, skipping what failed 3 times"),
        ];
        for (ordered, skip_after, fields, text) in cases {
            let mut webhook = Webhook::default();
            assert_eq!(OrderingArgs { ordered, skip_after }.apply(&mut webhook), fields);
            assert_eq!(describe(&webhook), text);
        }
    }
}
