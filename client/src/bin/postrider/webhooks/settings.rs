//! Flags for what an owner decides about a webhook, the same for `create` and `update`.

use clap::Args;
use postrider_client::v1::Webhook;

use super::{
    ordering::OrderingArgs, ownership::OwnershipArgs, policy::PolicyArgs, protection::ProtectionArgs,
    request::RequestArgs, scope::ScopeArgs, signature::SignatureArgs, tls::TlsArgs,
};
use crate::publish::parse_label;

/// Settings that need not be made. One group of flags a subject; each says which fields it sets.
#[derive(Debug, Default, Args)]
pub(super) struct SettingsArgs {
    /// What people call it.
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Free text for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A note of your own, never sent. Repeatable; all of them together replace those there were.
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = parse_label)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    ordering: OrderingArgs,
    #[command(flatten)]
    ownership: OwnershipArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    protection: ProtectionArgs,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    signature: SignatureArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

impl SettingsArgs {
    /// Sets what was given, and returns the names of the fields, for an update's mask.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Vec<&'static str> {
        let mut set = Vec::new();
        if let Some(display_name) = self.display_name {
            webhook.display_name = display_name;
            set.push("display_name");
        }
        if let Some(description) = self.description {
            webhook.description = description;
            set.push("description");
        }
        if !self.metadata.is_empty() {
            webhook.metadata = self.metadata.into_iter().collect();
            set.push("metadata");
        }
        set.extend(self.ordering.apply(webhook));
        set.extend(self.ownership.apply(webhook));
        set.extend(self.scope.apply(webhook));
        set.extend(self.policy.apply(webhook));
        set.extend(self.protection.apply(webhook));
        set.extend(self.request.apply(webhook));
        set.extend(self.tls.apply(webhook));
        if self.signature.apply(webhook) {
            set.push("signature");
        }
        set
    }
}
