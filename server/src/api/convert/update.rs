//! What an update of a webhook changes: the fields that its mask names, or those that are set.

use postrider_proto::v1;
use prost_types::FieldMask;

use super::{
    Types, mask, ownership, request, tenant, tls,
    webhook::{Rules, decided, settings},
};
use crate::{
    api::status::{Failure, Violations},
    model::{
        ids::{Tenant, WebhookId},
        webhook::{Settings, Webhook},
    },
    store::Catalog,
};

/// The field whose value is judged against what this server may call.
const URL: &str = "url";
/// Fields whose values are judged against what the operator allows.
const ATTEMPT_TIMEOUT: &str = "attempt_timeout";
const RETRY: &str = "retry";

/// A field that an owner decides on.
struct Field {
    path: &'static str,
    is_set: fn(&v1::Webhook) -> bool,
    copy: fn(&v1::Webhook, &mut v1::Webhook),
}

macro_rules! fields {
    ($($name:ident),* $(,)?) => {
        &[$(Field {
            path: stringify!($name),
            is_set: |webhook| webhook.$name != v1::Webhook::default().$name,
            copy: |from, to| to.$name = from.$name.clone(),
        }),*]
    };
}

/// Every field that may be updated.
const FIELDS: &[Field] = fields![
    url,
    event_types,
    display_name,
    description,
    metadata,
    enabled,
    label_filter,
    payload_filter,
    attempt_timeout,
    retry,
    max_age,
    rate_limit,
    max_in_flight,
    auto_disable_after,
    method,
    headers,
    query,
    body,
    body_format,
    authorization,
    retry_on_timeout,
    signature,
    ordered,
    ordering,
    verify_ownership,
    tls,
];

/// Fields that replies have and nobody decides on, and those that never change.
const FIXED: &[&str] = &[
    "id",
    "tenant",
    "disable_reason",
    "disable_time",
    "etag",
    "create_time",
    "update_time",
    "pending_deliveries",
    "breaker",
    "public_key",
    "previous_secret_expire_time",
    "ownership",
    "stats",
];

/// An update, checked as far as it can be without the webhook. It has secrets in it: never shown.
pub(in crate::api) struct Update {
    pub(in crate::api) tenant: Tenant,
    pub(in crate::api) id: WebhookId,
    /// Empty: whatever it is.
    pub(in crate::api) etag: String,
    /// Whether deliveries that were held are cancelled if this enables the webhook.
    pub(in crate::api) drop_held: bool,
    webhook: v1::Webhook,
    paths: Vec<&'static str>,
}

/// What is to be updated.
pub(in crate::api) fn update(request: v1::UpdateWebhookRequest) -> Result<Update, Failure> {
    let mut violations = Violations::default();
    let Some(mut webhook) = request.webhook else {
        violations.add("webhook", "must be set");
        return Err(violations.into());
    };
    let tenant = tenant(&mut violations, "webhook.tenant", &webhook.tenant);
    let id = violations.note("webhook.id", webhook.id.parse());
    let paths = paths(&mut violations, &webhook, request.update_mask.as_ref());
    let drop_held =
        drop_held(&mut violations, request.held_deliveries, paths.contains(&"enabled") && webhook.enabled());
    violations.check()?;
    let etag = std::mem::take(&mut webhook.etag);
    let (tenant, id) = (tenant.expect("no violations"), id.expect("no violations"));
    Ok(Update { tenant, id, etag, drop_held, webhook, paths })
}

/// Whether held deliveries are dropped.
fn drop_held(violations: &mut Violations, held: i32, enables: bool) -> bool {
    const FIELD: &str = "held_deliveries";
    match v1::HeldDeliveries::try_from(held) {
        Ok(v1::HeldDeliveries::Unspecified) => false,
        Ok(_) if !enables => {
            violations.add(FIELD, "needs `webhook.enabled` to be true in the same update");
            false
        }
        Ok(held) => held == v1::HeldDeliveries::Drop,
        Err(_) => {
            violations.add(FIELD, "must be one of HeldDeliveries");
            false
        }
    }
}

impl Update {
    /// Whether it changes where deliveries go.
    pub(in crate::api) fn moves(&self) -> bool {
        self.paths.contains(&URL)
    }

    /// What it makes of the webhook: its settings, and whether it is enabled. What stays is not judged again by rules that the
    /// operator may have changed since.
    pub(in crate::api) fn apply(
        &self,
        webhook: &Webhook,
        rules: &Rules,
        catalog: &Catalog,
    ) -> Result<(Settings, bool), Failure> {
        let mut merged = decided(&webhook.settings);
        merged.enabled = Some(webhook.is_enabled());
        for field in FIELDS.iter().filter(|field| self.paths.contains(&field.path)) {
            (field.copy)(&self.webhook, &mut merged);
        }
        request::restore(&mut merged, webhook.settings.request.as_deref());
        tls::restore(&mut merged, webhook.settings.tls.as_deref());
        let enabled = merged.enabled.unwrap_or(true);
        let mut violations = Violations::default();
        let settings = settings(&mut violations, merged, &self.judged(rules), Types::of(catalog, Some(&self.tenant)));
        violations.check()?;
        let mut settings = settings.expect("no violations");
        ownership::restore(&mut settings.ownership, webhook.settings.ownership.as_deref());
        Ok((settings, enabled))
    }
}

impl Update {
    /// The rules for what it changes.
    fn judged(&self, rules: &Rules) -> Rules {
        let mut judged = Rules::unjudged();
        if self.moves() {
            judged.targets = rules.targets.clone();
        }
        if self.paths.contains(&ATTEMPT_TIMEOUT) {
            judged.policy.attempt_timeout_max = rules.policy.attempt_timeout_max;
        }
        if self.paths.contains(&RETRY) {
            judged.policy.attempts_max = rules.policy.attempts_max;
            judged.policy.elapsed_max = rules.policy.elapsed_max;
        }
        judged
    }
}

/// The fields an update is about.
fn paths(violations: &mut Violations, webhook: &v1::Webhook, mask: Option<&FieldMask>) -> Vec<&'static str> {
    let all: Vec<_> = FIELDS.iter().map(|field| field.path).collect();
    let set: Vec<_> = FIELDS.iter().filter(|field| (field.is_set)(webhook)).map(|field| field.path).collect();
    mask::paths(violations, mask, &mask::Fields { noun: "webhook", all: &all, fixed: FIXED, set: &set })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// A new field of the contract must be found in one of the two lists.
    #[test]
    fn every_field_can_be_updated_or_not() {
        let files = prost_types::FileDescriptorSet::decode(postrider_proto::FILE_DESCRIPTOR_SET).unwrap();
        let ours = files.file.iter().filter(|file| file.package() == "postrider.v1");
        let webhook = ours.flat_map(|file| &file.message_type).find(|message| message.name() == "Webhook").unwrap();
        for field in &webhook.field {
            let name = field.name();
            let lists = FIELDS.iter().filter(|field| field.path == name).count()
                + FIXED.iter().filter(|path| **path == name).count();
            assert_eq!(lists, 1, "{name}");
        }
        assert_eq!(webhook.field.len(), FIELDS.len() + FIXED.len());
    }

    /// The table "What a webhook can be told" has a row for each field that can be updated, or one for each part of it, and none twice.
    #[test]
    fn the_readme_tells_of_every_field() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let (_, section) = readme.split_once("\n## What a webhook can be told\n").unwrap();
        let table = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows = table.map_while(|line| line.strip_prefix("| `")?.split_once("` | "));
        let told: Vec<_> = rows.map(|(field, _)| field).collect();
        assert_eq!(told.iter().collect::<std::collections::BTreeSet<_>>().len(), told.len(), "{told:?}");
        for path in FIELDS.iter().map(|field| field.path) {
            let is_told = told.iter().any(|row| row.split('.').next() == Some(path));
            assert!(is_told, "{path}");
        }
        for row in &told {
            assert!(FIELDS.iter().any(|field| row.split('.').next() == Some(field.path)), "{row}");
        }
    }
}
