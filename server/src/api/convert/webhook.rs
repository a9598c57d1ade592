//! Contract ⇄ model for webhooks.

use std::collections::BTreeSet;

use postrider_proto::{error_info as reason, v1};
use prost::Message as _;
use twox_hash::XxHash3_128;

use super::{
    Types, count, event_type, labels, ordering, ownership,
    policy::{self, PolicyLimits},
    protection::{self, protection},
    request, scope,
    signature::{self, brought, signature},
    tenant, text, time, tls,
};
use crate::{
    api::status::{Failure, Violations},
    limits::{DESCRIPTION_BYTES_MAX, DISPLAY_NAME_BYTES_MAX, WEBHOOK_EVENT_TYPES_MAX},
    model::{
        ids::is_id,
        signing::{Key, KeyPair},
        target::{Target, TargetError, TargetRules},
        webhook::{DisableReason, Settings, Subscription, Switch, Webhook, WebhookSpec},
    },
    store::{Catalog, Counts, RequestKey},
};

/// What an event type says that means every type.
const ALL_TYPES: &str = "*";

/// What this server allows webhooks.
#[derive(Debug, Clone, Default)]
pub(in crate::api) struct Rules {
    /// Where they may point.
    pub(in crate::api) targets: TargetRules,
    /// How long and how often deliveries may be attempted.
    pub(in crate::api) policy: PolicyLimits,
}

impl Rules {
    /// Allows what was allowed once.
    pub(in crate::api) fn unjudged() -> Self {
        Self { targets: TargetRules::unjudged(), policy: PolicyLimits::default() }
    }
}

/// What is to be created, the key that was brought for it, and what guards against creating it twice.
pub(in crate::api) fn create(
    request: v1::CreateWebhookRequest,
    rules: &Rules,
    catalog: &Catalog,
) -> Result<(WebhookSpec, Option<Key>, Option<RequestKey>), Failure> {
    let mut violations = Violations::default();
    if !request.request_id.is_empty() && !is_id(&request.request_id) {
        violations.add("request_id", "must be an id: [A-Za-z0-9_-]{1,64}");
    }
    let Some(webhook) = request.webhook else {
        violations.add("webhook", "must be set");
        return Err(violations.into());
    };
    let tenant = tenant(&mut violations, "webhook.tenant", &webhook.tenant);
    let enabled = webhook.enabled.unwrap_or(true);
    let settings = settings(&mut violations, webhook, rules, Types::of(catalog, tenant.as_ref()));
    let scheme = settings.as_ref().map(Settings::scheme);
    let key = brought(&mut violations, &request.signing_secret, scheme);
    violations.check()?;

    let (tenant, settings) = (tenant.expect("no violations"), settings.expect("no violations"));
    let spec = WebhookSpec { tenant, settings, enabled };
    let guard = (!request.request_id.is_empty())
        .then(|| RequestKey { hash: request_hash(&spec, &request.signing_secret), id: request.request_id });
    Ok((spec, key, guard))
}

/// Fingerprint of everything that is read from a request to create a webhook; the tenant is part of the request id's scope.
fn request_hash(spec: &WebhookSpec, signing_secret: &str) -> u128 {
    let mut webhook = decided(&spec.settings);
    webhook.enabled = Some(spec.enabled);
    // The same for the same settings: maps are sorted. No secret is also the end of a webhook.
    let mut bytes = webhook.encode_to_vec();
    bytes.extend_from_slice(signing_secret.as_bytes());
    XxHash3_128::oneshot(&bytes)
}

/// What a webhook's owner decides, from all the fields that say so. `None` only with a violation.
pub(super) fn settings(
    violations: &mut Violations,
    mut webhook: v1::Webhook,
    rules: &Rules,
    types: Types<'_>,
) -> Option<Settings> {
    let protection = protection(violations, &webhook, &rules.policy);
    let target = target(violations, &webhook.url, &rules.targets);
    let subscription = subscription(violations, &webhook.event_types, types);
    let scope = scope::scope(violations, std::mem::take(&mut webhook.label_filter), &webhook.payload_filter);
    let request = request::request(violations, &mut webhook, target.as_ref());
    let display_name = text(violations, "webhook.display_name", webhook.display_name, DISPLAY_NAME_BYTES_MAX);
    let description = text(violations, "webhook.description", webhook.description, DESCRIPTION_BYTES_MAX);
    let metadata = labels(violations, "webhook.metadata", webhook.metadata);
    let ordering = ordering::settings(violations, webhook.ordered, webhook.ordering);
    let signature = signature(violations, webhook.signature.as_ref());
    if let (Some(request), Some(signature)) = (&request, &signature) {
        request::refuse_headers_of(violations, request, signature);
    }
    let ownership = ownership::ownership(webhook.verify_ownership);
    let tls = tls::tls(violations, webhook.tls, target.as_ref());
    let policy = policy::policy(violations, webhook.attempt_timeout, webhook.retry, webhook.max_age, &rules.policy);
    Some(Settings {
        target: target?,
        subscription: subscription?,
        scope,
        display_name,
        description,
        metadata,
        ordering: ordering?,
        policy,
        protection,
        request,
        signature,
        ownership,
        tls,
    })
}

/// The fields that say what a webhook's owner decided, secrets included; the others are left empty.
pub(super) fn decided(settings: &Settings) -> v1::Webhook {
    let mut webhook = v1::Webhook {
        url: settings.target.url().to_string(),
        event_types: event_types(&settings.subscription),
        label_filter: scope::label_filter(settings.scope.as_deref()),
        payload_filter: scope::payload_filter(settings.scope.as_deref()),
        display_name: settings.display_name.to_string(),
        description: settings.description.to_string(),
        metadata: settings.metadata.clone(),
        ordered: settings.ordering.ordered,
        ordering: ordering::decided(settings.ordering),
        signature: settings.signature.as_deref().map(signature::decided),
        verify_ownership: settings.ownership.is_some(),
        tls: settings.tls.as_deref().map(tls::decided),
        ..v1::Webhook::default()
    };
    policy::decided(settings.policy.as_deref(), &mut webhook);
    protection::decided(settings.protection.as_deref(), &mut webhook);
    request::decide(settings.request.as_deref(), &mut webhook);
    webhook
}

fn target(violations: &mut Violations, url: &str, rules: &TargetRules) -> Option<Target> {
    const FIELD: &str = "webhook.url";
    if url.is_empty() {
        violations.add(FIELD, "must be set");
        return None;
    }
    let refusal = match Target::parse(url, rules) {
        Ok(target) => return Some(target),
        Err(refusal) => refusal,
    };
    let reason = match &refusal {
        TargetError::Malformed(_) => reason::INVALID_FIELD,
        TargetError::NotAllowed(_) => reason::URL_NOT_ALLOWED,
    };
    violations.add_as(reason, FIELD, refusal);
    None
}

/// The failure of a webhook whose host name resolves to something this server may not call.
pub(in crate::api) fn name_not_allowed(why: &str) -> Failure {
    Failure::field(reason::URL_NOT_ALLOWED, "webhook.url", why)
}

fn subscription(violations: &mut Violations, names: &[String], types: Types<'_>) -> Option<Subscription> {
    const FIELD: &str = "webhook.event_types";
    if names.is_empty() {
        violations.add(FIELD, "must name at least one event type; `*` means all");
        return None;
    }
    if names.len() > WEBHOOK_EVENT_TYPES_MAX {
        violations.add(FIELD, format!("must not name more than {WEBHOOK_EVENT_TYPES_MAX}"));
        return None;
    }
    if names.iter().all(|name| name == ALL_TYPES) {
        return Some(Subscription::All);
    }
    let mut wanted = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if name == ALL_TYPES {
            violations.add(format!("{FIELD}[{index}]"), "`*` must stand alone");
            continue;
        }
        wanted.extend(event_type(violations, types, || format!("{FIELD}[{index}]"), name));
    }
    Some(Subscription::to(wanted))
}

/// A webhook as callers see it, without its counters but one.
pub(in crate::api) fn reply(webhook: &Webhook, pending: u64) -> v1::Webhook {
    let (disable_reason, disable_time) = match webhook.switch {
        Switch::Enabled => (v1::DisableReason::Unspecified, None),
        Switch::Disabled { reason, since } => (disable_reason(reason), Some(since)),
    };
    let mut shown = v1::Webhook {
        id: webhook.id.to_string(),
        tenant: webhook.tenant.to_string(),
        enabled: Some(webhook.is_enabled()),
        disable_reason: disable_reason.into(),
        disable_time: disable_time.map(time),
        etag: webhook.etag(),
        create_time: Some(time(webhook.create_time)),
        update_time: Some(time(webhook.update_time)),
        pending_deliveries: count(pending),
        public_key: webhook.keys.pair().map_or_else(String::new, KeyPair::public_key),
        ownership: webhook.settings.consent().map(ownership::reply),
        previous_secret_expire_time: webhook.keys.previous().iter().map(|previous| previous.until).max().map(time),
        ..decided(&webhook.settings)
    };
    request::conceal(&mut shown);
    tls::conceal(&mut shown, webhook.settings.tls.as_deref());
    shown
}

/// A webhook with all its counters.
pub(in crate::api) fn counted(webhook: v1::Webhook, counts: &Counts) -> v1::Webhook {
    let stats = v1::WebhookStats {
        events: count(counts.events()),
        delivered: count(counts.delivered),
        failed: count(counts.failed),
        pending: count(counts.pending),
        cancelled: count(counts.cancelled),
        last_delivered_time: counts.last_delivered.map(time),
        last_failed_time: counts.last_failed.map(time),
    };
    v1::Webhook { pending_deliveries: stats.pending, stats: Some(stats), ..webhook }
}

pub(super) fn disable_reason(reason: DisableReason) -> v1::DisableReason {
    match reason {
        DisableReason::Requested => v1::DisableReason::Requested,
        DisableReason::Gone => v1::DisableReason::Gone,
        DisableReason::Failing => v1::DisableReason::Failing,
    }
}

/// Sorted, without repeats.
fn event_types(subscription: &Subscription) -> Vec<String> {
    match subscription {
        Subscription::All => vec![ALL_TYPES.to_owned()],
        Subscription::Types(types) => types.iter().map(ToString::to_string).collect(),
    }
}
