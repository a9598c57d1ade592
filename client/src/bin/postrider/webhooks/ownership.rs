//! The flag for the receiver's consent, and how that is shown.

use clap::Args;
use postrider_client::v1::Webhook;

use crate::output::time;

#[derive(Debug, Default, Args)]
pub(super) struct OwnershipArgs {
    /// Ask the receiver with OPTIONS whether it wants this, now, when the URL changes, and when the webhook is enabled again; it
    /// consents by the header WebHook-Allowed-Origin, or nothing is changed.
    #[arg(long)]
    verify_ownership: bool,
}

impl OwnershipArgs {
    /// Sets what was given, and returns the name of the field.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Option<&'static str> {
        webhook.verify_ownership = self.verify_ownership;
        self.verify_ownership.then_some("verify_ownership")
    }
}

/// In words; empty: the receiver is not asked.
pub(super) fn describe(webhook: &Webhook) -> String {
    let Some(ownership) = &webhook.ownership else { return String::new() };
    let rate = match ownership.allowed_per_minute {
        0 => "at any rate".into(),
        most => format!("{most} a minute"),
    };
    format!("confirmed for {}, {rate}, {}", ownership.origin, time(ownership.confirm_time.as_ref()))
}

#[cfg(test)]
mod tests {
    use postrider_client::v1::Ownership;
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn the_flag_sets_the_field_and_the_consent_reads_well() {
        for (verify_ownership, field) in [(false, None), (true, Some("verify_ownership"))] {
            let mut webhook = Webhook::default();
            assert_eq!(OwnershipArgs { verify_ownership }.apply(&mut webhook), field);
            assert_eq!((webhook.verify_ownership, describe(&webhook).as_str()), (verify_ownership, ""));
        }
        for (allowed_per_minute, expected) in [(0, "confirmed for a.example, at any rate, "), (120, "120 a minute, ")] {
            let confirm_time = Some(Timestamp { seconds: 0, nanos: 0 });
            let ownership = Some(Ownership { origin: "a.example".into(), allowed_per_minute, confirm_time });
            let text = describe(&Webhook { ownership, ..Webhook::default() });
            assert!(text.contains(expected) && text.contains("1970-01-01"), "{text}");
        }
    }
}
