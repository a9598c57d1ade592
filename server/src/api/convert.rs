//! Contract ⇄ model for webhooks and deliveries: what callers write is checked as a whole, so that one answer names everything
//! that is wrong with it.

use std::collections::BTreeSet;

use postrider_proto::{error_info as reason, v1};
use twox_hash::XxHash3_128;

use super::status::{Failure, Violations};
use crate::{
    limits::{DESCRIPTION_BYTES_MAX, WATCH_FILTER_IDS_MAX, WATCH_UPDATES_MAX, WEBHOOK_EVENT_TYPES_MAX},
    model::{
        catalogue,
        delivery::{DeliveryState, ErrorClass, Outcome},
        ids::{EventTypeName, Tenant, WebhookId, is_id},
        target::{Target, TargetError, TargetRules},
        time::Timestamp,
        webhook::{DisableReason, Subscription, Switch, Webhook, WebhookSpec},
    },
    store::{Delivery, DeliveryQuery, DeliveryView, FeedFilter, LogEntry, RequestKey},
    watch::{Start, WatchBatch},
};

/// What `tenant` says in a call that may ask for all of them.
const ALL_TENANTS: &str = "-";
/// What an event type says that means every type.
const ALL_TYPES: &str = "*";
/// How much of a caller's text is repeated to it.
const ECHO_CHARS_MAX: usize = 40;

// --- Requests ---------------------------------------------------------------------------------------------------

/// The tenant of a call that is about one.
pub(super) fn tenant(violations: &mut Violations, field: &str, text: &str) -> Option<Tenant> {
    violations.note(field, text.parse())
}

/// The tenant of a call that may be about all of them: then `None`, as when it is malformed.
pub(super) fn tenant_or_all(violations: &mut Violations, text: &str) -> Option<Tenant> {
    if text == ALL_TENANTS { None } else { tenant(violations, "tenant", text) }
}

/// The tenant and webhook id of a call about one webhook.
pub(super) fn webhook_key(tenant_text: &str, id: &str) -> Result<(Tenant, WebhookId), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", tenant_text);
    let id = violations.note("id", id.parse());
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations")))
}

/// What is to be created, and what guards against creating it twice.
pub(super) fn create_webhook(
    request: v1::CreateWebhookRequest,
    rules: &TargetRules,
) -> Result<(WebhookSpec, Option<RequestKey>), Failure> {
    let mut violations = Violations::default();
    if !request.request_id.is_empty() && !is_id(&request.request_id) {
        violations.add("request_id", "must be an id: [A-Za-z0-9_-]{1,64}");
    }
    let Some(webhook) = request.webhook else {
        violations.add("webhook", "must be set");
        return Err(violations.into());
    };
    let tenant = tenant(&mut violations, "webhook.tenant", &webhook.tenant);
    let target = target(&mut violations, &webhook.url, rules);
    let subscription = subscription(&mut violations, &webhook.event_types);
    if webhook.description.len() > DESCRIPTION_BYTES_MAX {
        violations.add("webhook.description", format!("must not be longer than {DESCRIPTION_BYTES_MAX} bytes"));
    }
    violations.check()?;

    let spec = WebhookSpec {
        tenant: tenant.expect("no violations"),
        target: target.expect("no violations"),
        subscription: subscription.expect("no violations"),
        description: webhook.description,
        enabled: webhook.enabled.unwrap_or(true),
    };
    let guard =
        (!request.request_id.is_empty()).then(|| RequestKey { hash: request_hash(&spec), id: request.request_id });
    Ok((spec, guard))
}

/// Fingerprint of everything that is read from a request to create a webhook; the tenant is part of the request id's scope.
fn request_hash(spec: &WebhookSpec) -> u128 {
    let mut hasher = XxHash3_128::new();
    let mut field = |text: &str| {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    };
    field(spec.target.url().as_str());
    field(&spec.description);
    field(if spec.enabled { "enabled" } else { "disabled" });
    for name in event_types(&spec.subscription) {
        field(&name);
    }
    hasher.finish_128()
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
pub(super) fn name_not_allowed(why: &str) -> Failure {
    Failure::field(reason::URL_NOT_ALLOWED, "webhook.url", why)
}

fn subscription(violations: &mut Violations, names: &[String]) -> Option<Subscription> {
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
    let mut types = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        if name == ALL_TYPES {
            violations.add(format!("{FIELD}[{index}]"), "`*` must stand alone");
            continue;
        }
        types.extend(event_type(violations, || format!("{FIELD}[{index}]"), name));
    }
    Some(Subscription::to(types))
}

/// An event type of the catalogue; of an unknown one the nearest is named.
pub(super) fn event_type(
    violations: &mut Violations,
    field: impl FnOnce() -> String,
    name: &str,
) -> Option<EventTypeName> {
    if let Some(known) = catalogue::find(name) {
        return Some(EventTypeName::new(known.name));
    }
    if name.is_empty() {
        violations.add(field(), "must be set");
        return None;
    }
    let hint = catalogue::nearest(name).map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"));
    let problem = format!("no event type is called {:?}{hint}", echo(name));
    violations.add_as(reason::UNKNOWN_EVENT_TYPE, field(), problem);
    None
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}

/// What a watcher wants, from where on, and how much of it at a time.
pub(super) fn watch(request: v1::WatchDeliveriesRequest) -> Result<(FeedFilter, Start, usize), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant_or_all(&mut violations, &request.tenant);
    let webhooks = each(&mut violations, "webhook_ids", &request.webhook_ids, |violations, field, id| {
        violations.note(&field, id.parse())
    });
    let event_types = each(&mut violations, "event_types", &request.event_types, |violations, field, name| {
        event_type(violations, || field, name)
    });
    let states = states_filter(&mut violations, &request.states);
    if request.max_updates < 0 {
        violations.add("max_updates", "must not be negative");
    }
    let updates_max = match usize::try_from(request.max_updates) {
        Ok(0) | Err(_) => WATCH_UPDATES_MAX,
        Ok(some) => some.min(WATCH_UPDATES_MAX),
    };
    let start = match request.start {
        None => Start::Now,
        Some(v1::watch_deliveries_request::Start::Cursor(cursor)) => Start::At(cursor),
        Some(v1::watch_deliveries_request::Start::FromBeginning(yes)) => {
            if !yes {
                violations.add("from_beginning", "must be true if it is set");
            }
            Start::Beginning
        }
    };
    violations.check()?;
    Ok((FeedFilter { tenant, webhooks, event_types, states }, start, updates_max))
}

/// Converts each entry of a filter's list; too long a list is one violation.
fn each<T: Ord>(
    violations: &mut Violations,
    field: &str,
    texts: &[String],
    convert: impl Fn(&mut Violations, String, &str) -> Option<T>,
) -> BTreeSet<T> {
    if texts.len() > WATCH_FILTER_IDS_MAX {
        violations.add(field, format!("must not name more than {WATCH_FILTER_IDS_MAX}"));
        return BTreeSet::new();
    }
    let convert = |(index, text): (usize, &String)| convert(violations, format!("{field}[{index}]"), text);
    texts.iter().enumerate().filter_map(convert).collect()
}

/// Which deliveries a list is of.
pub(super) fn delivery_query(violations: &mut Violations, request: &v1::ListDeliveriesRequest) -> DeliveryQuery {
    let tenant = tenant_or_all(violations, &request.tenant);
    let webhook =
        (!request.webhook_id.is_empty()).then(|| violations.note("webhook_id", request.webhook_id.parse())).flatten();
    let event = (!request.event_id.is_empty()).then(|| violations.note("event_id", request.event_id.parse())).flatten();
    let states = states_filter(violations, &request.states);
    DeliveryQuery { tenant, webhook, event, states }
}

/// The states a filter names, each once.
fn states_filter(violations: &mut Violations, numbers: &[i32]) -> Vec<DeliveryView> {
    let mut views = Vec::new();
    for (index, &number) in numbers.iter().enumerate() {
        match v1::DeliveryState::try_from(number).ok().and_then(view) {
            Some(view) if views.contains(&view) => {}
            Some(view) => views.push(view),
            None => violations.add(format!("states[{index}]"), "must be a state of deliveries"),
        }
    }
    views
}

fn view(state: v1::DeliveryState) -> Option<DeliveryView> {
    match state {
        v1::DeliveryState::Unspecified => None,
        v1::DeliveryState::Pending => Some(DeliveryView::State(DeliveryState::Pending)),
        v1::DeliveryState::Delivered => Some(DeliveryView::State(DeliveryState::Delivered)),
        v1::DeliveryState::Failed => Some(DeliveryView::State(DeliveryState::Failed)),
        v1::DeliveryState::Cancelled => Some(DeliveryView::State(DeliveryState::Cancelled)),
        v1::DeliveryState::Held => Some(DeliveryView::Held),
    }
}

// --- Replies ----------------------------------------------------------------------------------------------------

/// A webhook as callers see it.
pub(super) fn webhook_reply(webhook: &Webhook, pending: u64) -> v1::Webhook {
    let (disable_reason, disable_time) = match webhook.switch {
        Switch::Enabled => (v1::DisableReason::Unspecified, None),
        Switch::Disabled { reason: DisableReason::Requested, since } => (v1::DisableReason::Requested, Some(since)),
        Switch::Disabled { reason: DisableReason::Gone, since } => (v1::DisableReason::Gone, Some(since)),
    };
    v1::Webhook {
        id: webhook.id.to_string(),
        tenant: webhook.tenant.to_string(),
        url: webhook.target.url().to_string(),
        event_types: event_types(&webhook.subscription),
        description: webhook.description.clone(),
        enabled: Some(webhook.is_enabled()),
        disable_reason: disable_reason.into(),
        disable_time: disable_time.map(time),
        etag: webhook.etag(),
        create_time: Some(time(webhook.create_time)),
        update_time: Some(time(webhook.update_time)),
        pending_deliveries: count(pending),
    }
}

/// Sorted, without repeats.
fn event_types(subscription: &Subscription) -> Vec<String> {
    match subscription {
        Subscription::All => vec![ALL_TYPES.to_owned()],
        Subscription::Types(types) => types.iter().map(ToString::to_string).collect(),
    }
}

/// A message of a watch stream.
pub(super) fn watch_reply(batch: WatchBatch) -> v1::WatchDeliveriesResponse {
    use v1::delivery_update::Update;
    let update = |entry| match entry {
        LogEntry::Outcome(outcome) => Update::Outcome(outcome_reply(outcome)),
        LogEntry::WebhookCancelled(cancelled) => Update::WebhookCancelled(v1::WebhookCancelled {
            webhook_id: cancelled.webhook.to_string(),
            deliveries: count(cancelled.deliveries),
            tenant: cancelled.tenant.to_string(),
            time: Some(time(cancelled.time)),
        }),
    };
    let updates = batch.entries.into_iter().map(|entry| v1::DeliveryUpdate { update: Some(update(entry)) }).collect();
    v1::WatchDeliveriesResponse { cursor: batch.cursor, updates }
}

/// An outcome without the receiver's answer.
fn outcome_reply(outcome: Outcome) -> v1::Outcome {
    v1::Outcome {
        delivery_id: outcome.delivery_id.to_string(),
        webhook_id: outcome.webhook_id.to_string(),
        event_id: outcome.event_id.to_string(),
        event_type: outcome.event_type.to_string(),
        attempt: small(outcome.attempt),
        state: state(outcome.view()).into(),
        http_status: outcome.http_status.map_or(0, i32::from),
        error_class: error_class(outcome.error_class).into(),
        error: outcome.error,
        latency: Some(prost_types::Duration {
            seconds: i64::try_from(outcome.latency.as_secs()).unwrap_or(i64::MAX),
            nanos: outcome.latency.subsec_nanos().cast_signed(),
        }),
        time: Some(time(outcome.time)),
        next_attempt_time: outcome.next_attempt.filter(|_| !outcome.held).map(time),
        tenant: outcome.tenant.to_string(),
        response_body: Vec::new(),
    }
}

/// An outcome with what the receiver answered.
pub(super) fn attempt_reply(outcome: Outcome) -> v1::Outcome {
    let response_body = outcome.response_body.to_vec();
    v1::Outcome { response_body, ..outcome_reply(outcome) }
}

/// A delivery as callers see it.
pub(super) fn delivery_reply(delivery: &Delivery) -> v1::Delivery {
    v1::Delivery {
        id: delivery.id.to_string(),
        tenant: delivery.tenant.to_string(),
        webhook_id: delivery.webhook.to_string(),
        event_id: delivery.event.to_string(),
        event_type: delivery.event_type.to_string(),
        state: state(delivery.state).into(),
        attempts: small(delivery.attempts),
        create_time: Some(time(delivery.create_time)),
        update_time: delivery.update_time.map(time),
        next_attempt_time: delivery.next_attempt.map(time),
        last_http_status: delivery.last_http_status.map_or(0, i32::from),
        last_error_class: error_class(delivery.last_error_class).into(),
    }
}

fn state(view: DeliveryView) -> v1::DeliveryState {
    match view {
        DeliveryView::State(DeliveryState::Pending) => v1::DeliveryState::Pending,
        DeliveryView::State(DeliveryState::Delivered) => v1::DeliveryState::Delivered,
        DeliveryView::State(DeliveryState::Failed) => v1::DeliveryState::Failed,
        DeliveryView::State(DeliveryState::Cancelled) => v1::DeliveryState::Cancelled,
        DeliveryView::Held => v1::DeliveryState::Held,
    }
}

fn error_class(class: Option<ErrorClass>) -> v1::ErrorClass {
    match class {
        None => v1::ErrorClass::Unspecified,
        Some(ErrorClass::Blocked) => v1::ErrorClass::Blocked,
        Some(ErrorClass::Dns) => v1::ErrorClass::Dns,
        Some(ErrorClass::Connect) => v1::ErrorClass::Connect,
        Some(ErrorClass::Tls) => v1::ErrorClass::Tls,
        Some(ErrorClass::Timeout) => v1::ErrorClass::Timeout,
        Some(ErrorClass::Protocol) => v1::ErrorClass::Protocol,
        Some(ErrorClass::HttpStatus) => v1::ErrorClass::HttpStatus,
        Some(ErrorClass::Internal) => v1::ErrorClass::Internal,
    }
}

fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.seconds(), nanos: at.subsec_nanos() }
}

/// A total, as the contract counts.
pub(super) fn count(total: u64) -> i64 {
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// A count of one event's or delivery's things, as the contract counts.
pub(super) fn small(total: u32) -> i32 {
    i32::try_from(total).unwrap_or(i32::MAX)
}
