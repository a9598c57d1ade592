//! Messages as JSON: fields as the contract names them, enums by name, times in RFC 3339, counts as numbers, and null for
//! what is unset.

use bytes::Bytes;
use postrider_client::{
    Update,
    v1::{
        AuditEntry, BodyFormat, Breaker, BreakerState, CancelReason, Clock, Delivery, DeliveryState, DisableReason,
        Erasure, ErasureSubject, ErrorClass, EventType, GetEventResponse, HeadRule, HttpMethod, Key, MatchVerdict,
        OperationalEvent, Outcome, Ownership, Principal, PrincipalKind, Quota, QuotaUsage, Replay, ReplayProgress,
        ReplayState, RetryPolicy, Right, Signature, SignatureScheme, TenantQuota, TlsSettings, Webhook, WebhookMatch,
        WebhookStats, authorization::Scheme, event,
    },
};
use prost_types::{Struct, value::Kind};
use serde_json::{Value, json};

pub(crate) fn webhook(webhook: &Webhook) -> Value {
    json!({
        "id": webhook.id,
        "tenant": webhook.tenant,
        "url": webhook.url,
        "event_types": webhook.event_types,
        "display_name": webhook.display_name,
        "description": webhook.description,
        "metadata": webhook.metadata,
        "ordered": webhook.ordered,
        "ordering": webhook.ordering.map(|ordering| json!({
            "head_rule": named(ordering.head_rule, HeadRule::as_str_name),
            "skip_after_attempts": ordering.skip_after_attempts,
        })),
        "label_filter": label_filter(webhook),
        "payload_filter": webhook.payload_filter,
        "method": named(webhook.method, HttpMethod::as_str_name),
        "headers": webhook.headers,
        "query": webhook.query,
        "body": webhook.body.as_ref().map(object),
        "body_format": named(webhook.body_format, BodyFormat::as_str_name),
        "authorization": webhook.authorization.as_ref().and_then(|it| it.scheme.as_ref()).map(authorization),
        "retry_on_timeout": webhook.retry_on_timeout,
        "enabled": webhook.enabled,
        "disable_reason": named(webhook.disable_reason, DisableReason::as_str_name),
        "disable_time": time(webhook.disable_time.as_ref()),
        "etag": webhook.etag,
        "create_time": time(webhook.create_time.as_ref()),
        "update_time": time(webhook.update_time.as_ref()),
        "pending_deliveries": webhook.pending_deliveries,
        "attempt_timeout": span(webhook.attempt_timeout.as_ref()),
        "retry": webhook.retry.as_ref().map(retry),
        "max_age": span(webhook.max_age.as_ref()),
        "rate_limit": webhook.rate_limit.as_ref().map(|it| json!({ "per_second": it.per_second, "burst": it.burst })),
        "max_in_flight": webhook.max_in_flight,
        "auto_disable_after": span(webhook.auto_disable_after.as_ref()),
        "breaker": webhook.breaker.as_ref().map(breaker),
        "signature": webhook.signature.as_ref().map(signature),
        "public_key": webhook.public_key,
        "previous_secret_expire_time": time(webhook.previous_secret_expire_time.as_ref()),
        "verify_ownership": webhook.verify_ownership,
        "ownership": webhook.ownership.as_ref().map(ownership),
        "tls": webhook.tls.as_ref().map(tls),
        "stats": webhook.stats.as_ref().map(stats),
    })
}

fn ownership(ownership: &Ownership) -> Value {
    json!({
        "origin": ownership.origin,
        "allowed_per_minute": ownership.allowed_per_minute,
        "confirm_time": time(ownership.confirm_time.as_ref()),
    })
}

fn tls(tls: &TlsSettings) -> Value {
    json!({
        "ca_certificates": tls.ca_certificates,
        "client_certificate": tls.client_certificate,
        "client_key": tls.client_key,
        "client_certificate_expire_time": time(tls.client_certificate_expire_time.as_ref()),
    })
}

fn stats(stats: &WebhookStats) -> Value {
    json!({
        "events": stats.events,
        "delivered": stats.delivered,
        "failed": stats.failed,
        "pending": stats.pending,
        "cancelled": stats.cancelled,
        "last_delivered_time": time(stats.last_delivered_time.as_ref()),
        "last_failed_time": time(stats.last_failed_time.as_ref()),
    })
}

/// An API key; its text is no part of it.
pub(crate) fn clock(clock: &Clock) -> Value {
    json!({
        "server_time": time(clock.server_time.as_ref()),
        "machine_time": time(clock.machine_time.as_ref()),
        "ahead": span(clock.ahead.as_ref()),
        "doubted_since": time(clock.doubted_since.as_ref()),
        "confirmed": clock.confirmed,
    })
}

pub(crate) fn key(key: &Key) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "tenants": key.tenants,
        "rights": key.rights.iter().map(|right| named(*right, Right::as_str_name)).collect::<Vec<_>>(),
        "create_time": time(key.create_time.as_ref()),
        "expire_time": time(key.expire_time.as_ref()),
        "last_use_time": time(key.last_use_time.as_ref()),
    })
}

/// A tenant's quota: as it was set, as it holds, and what is used of it.
pub(crate) fn tenant_quota(quota: &TenantQuota) -> Value {
    json!({
        "quota": quota.quota.as_ref().map(self::quota),
        "in_force": quota.in_force.as_ref().map(self::quota),
        "usage": quota.usage.as_ref().map(quota_usage),
    })
}

fn quota(quota: &Quota) -> Value {
    json!({
        "tenant": quota.tenant,
        "events_per_second": quota.events_per_second,
        "events_burst": quota.events_burst,
        "pending_deliveries": quota.pending_deliveries,
        "webhooks": quota.webhooks,
        "bytes_per_day": quota.bytes_per_day,
        "update_time": time(quota.update_time.as_ref()),
    })
}

fn quota_usage(usage: &QuotaUsage) -> Value {
    json!({
        "pending_deliveries": usage.pending_deliveries,
        "webhooks": usage.webhooks,
        "bytes_today": usage.bytes_today,
        "day_end_time": time(usage.day_end_time.as_ref()),
    })
}

pub(crate) fn audit_entry(entry: &AuditEntry) -> Value {
    json!({
        "number": entry.number,
        "time": time(entry.time.as_ref()),
        "principal": entry.principal.as_ref().map(principal),
        "peer": entry.peer,
        "method": entry.method,
        "tenant": entry.tenant,
        "tenant_erased": entry.tenant_erased,
        "resource": entry.resource,
        "fields": entry.fields,
        "code": entry.code,
        "finish_time": time(entry.finish_time.as_ref()),
        "omitted": entry.omitted,
    })
}

fn principal(principal: &Principal) -> Value {
    json!({
        "kind": named(principal.kind, PrincipalKind::as_str_name),
        "id": principal.id,
        "name": principal.name,
        "certificate_sha256": principal.certificate_sha256,
    })
}

fn signature(signature: &Signature) -> Value {
    json!({
        "scheme": named(signature.scheme, SignatureScheme::as_str_name),
        "header_prefix": signature.header_prefix,
        "signature_header": signature.signature_header,
    })
}

fn retry(retry: &RetryPolicy) -> Value {
    let exponential = retry.exponential.as_ref().map(|it| {
        json!({ "initial": span(it.initial.as_ref()), "factor": it.factor, "max_delay": span(it.max_delay.as_ref()) })
    });
    json!({
        "delays": retry.delays.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "exponential": exponential,
        "max_attempts": retry.max_attempts,
        "max_elapsed": span(retry.max_elapsed.as_ref()),
    })
}

fn breaker(breaker: &Breaker) -> Value {
    json!({
        "state": named(breaker.state, BreakerState::as_str_name),
        "since": time(breaker.since.as_ref()),
        "next_probe_time": time(breaker.next_probe_time.as_ref()),
        "consecutive_failures": breaker.consecutive_failures,
    })
}

fn authorization(scheme: &Scheme) -> Value {
    match scheme {
        Scheme::Basic(basic) => json!({ "basic": { "username": basic.username, "password": basic.password } }),
        Scheme::Bearer(bearer) => json!({ "bearer": { "token": bearer.token } }),
    }
}

fn object(fields: &Struct) -> Value {
    fields.fields.iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// A JSON value; numbers without a fraction are written as people do.
pub(crate) fn value(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(it)) => (*it).into(),
        Some(Kind::NumberValue(number)) => match format!("{number:.0}").parse::<i64>() {
            Ok(integer) if number.fract() == 0.0 => integer.into(),
            Ok(_) | Err(_) => (*number).into(),
        },
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(self::value).collect(),
    }
}

pub(crate) fn event_type(event_type: &EventType) -> Value {
    json!({
        "name": event_type.name,
        "title": event_type.title,
        "description": event_type.description,
        "example": event_type.example,
        "tenant": event_type.tenant,
        "json_schema": event_type.json_schema,
        "built_in": event_type.built_in,
        "etag": event_type.etag,
        "create_time": time(event_type.create_time.as_ref()),
        "update_time": time(event_type.update_time.as_ref()),
    })
}

pub(crate) fn webhook_match(said: &WebhookMatch) -> Value {
    json!({
        "webhook_id": said.webhook_id,
        "display_name": said.display_name,
        "verdict": named(said.verdict, MatchVerdict::as_str_name),
        "detail": said.detail,
    })
}

/// Labels, each with the values it may have, without the message in between.
fn label_filter(webhook: &Webhook) -> Value {
    webhook.label_filter.iter().map(|(label, allowed)| (label.clone(), json!(allowed.values))).collect()
}

pub(crate) fn delivery(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "tenant": delivery.tenant,
        "webhook_id": delivery.webhook_id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "state": named(delivery.state, DeliveryState::as_str_name),
        "attempts": delivery.attempts,
        "create_time": time(delivery.create_time.as_ref()),
        "update_time": time(delivery.update_time.as_ref()),
        "next_attempt_time": time(delivery.next_attempt_time.as_ref()),
        "last_http_status": delivery.last_http_status,
        "last_error_class": named(delivery.last_error_class, ErrorClass::as_str_name),
    })
}

pub(crate) fn outcome(outcome: &Outcome) -> Value {
    json!({
        "delivery_id": outcome.delivery_id,
        "webhook_id": outcome.webhook_id,
        "event_id": outcome.event_id,
        "event_type": outcome.event_type,
        "attempt": outcome.attempt,
        "state": named(outcome.state, DeliveryState::as_str_name),
        "http_status": outcome.http_status,
        "error_class": named(outcome.error_class, ErrorClass::as_str_name),
        "error": outcome.error,
        "latency": span(outcome.latency.as_ref()),
        "time": time(outcome.time.as_ref()),
        "next_attempt_time": time(outcome.next_attempt_time.as_ref()),
        "tenant": outcome.tenant,
        // For people: what is not UTF-8 is shown as replacement characters.
        "response_body": String::from_utf8_lossy(&outcome.response_body),
    })
}

pub(crate) fn replay(replay: &Replay) -> Value {
    let state = |state: &i32| named(*state, DeliveryState::as_str_name);
    json!({
        "id": replay.id,
        "tenant": replay.tenant,
        "webhook_id": replay.webhook_id,
        "event_types": replay.event_types,
        "states": replay.states.iter().map(state).collect::<Vec<_>>(),
        "start_time": time(replay.start_time.as_ref()),
        "end_time": time(replay.end_time.as_ref()),
        "per_second": replay.per_second,
        "state": named(replay.state, ReplayState::as_str_name),
        "reason": replay.reason,
        "progress": replay.progress.as_ref().map(replay_progress),
        "create_time": time(replay.create_time.as_ref()),
        "finish_time": time(replay.finish_time.as_ref()),
    })
}

fn replay_progress(it: &ReplayProgress) -> Value {
    json!({
        "examined_events": it.examined_events,
        "created_deliveries": it.created_deliveries,
        "skipped_events": it.skipped_events,
        "expired_events": it.expired_events,
        "pending_deliveries": it.pending_deliveries,
        "delivered_deliveries": it.delivered_deliveries,
        "failed_deliveries": it.failed_deliveries,
        "cancelled_deliveries": it.cancelled_deliveries,
        "position_time": time(it.position_time.as_ref()),
        "percent": it.percent,
    })
}

/// One event with its body, as text where it is that.
pub(crate) fn event(reply: &GetEventResponse) -> Value {
    let event = reply.event.clone().unwrap_or_default();
    let body = match &event.payload {
        Some(event::Payload::Body(body)) => body.clone(),
        Some(event::Payload::Data(_)) | None => Bytes::new(),
    };
    json!({
        "id": event.id,
        "tenant": event.tenant,
        "type": event.r#type,
        "labels": event.labels,
        "ordering_key": event.ordering_key,
        "occur_time": time(event.occur_time.as_ref()),
        "deliver_at": time(event.deliver_at.as_ref()),
        "max_age": span(event.max_age.as_ref()),
        "content_type": event.content_type,
        "accept_time": time(reply.accept_time.as_ref()),
        // For people: what is not UTF-8 is shown as replacement characters.
        "body": String::from_utf8_lossy(&body),
    })
}

/// One update, and a place to resume from.
pub(crate) fn update(update: &Update, cursor: Option<&str>) -> Value {
    match update {
        Update::Outcome(it) => json!({ "outcome": outcome(it), "cursor": cursor }),
        Update::WebhookCancelled(it) => json!({
            "webhook_cancelled": {
                "webhook_id": it.webhook_id,
                "deliveries": it.deliveries,
                "tenant": it.tenant,
                "time": time(it.time.as_ref()),
                "reason": named(it.reason, CancelReason::as_str_name),
            },
            "cursor": cursor,
        }),
        Update::OperationalEvent(it) => json!({ "operational_event": operational_event(it), "cursor": cursor }),
    }
}

/// As the contract's JSON has it, such as `1.5s`.
pub(crate) fn span(duration: Option<&prost_types::Duration>) -> Value {
    duration.map(ToString::to_string).into()
}

fn operational_event(it: &OperationalEvent) -> Value {
    json!({
        "id": it.id,
        "type": it.r#type,
        "tenant": it.tenant,
        "webhook_id": it.webhook_id,
        "url": it.url,
        "time": time(it.time.as_ref()),
        "disable_reason": named(it.disable_reason, DisableReason::as_str_name),
        "delivery_id": it.delivery_id,
        "event_id": it.event_id,
        "event_type": it.event_type,
        "attempts": it.attempts,
    })
}

pub(crate) fn erasure(erasure: &Erasure) -> Value {
    json!({
        "id": erasure.id,
        "subject": named(erasure.subject, ErasureSubject::as_str_name),
        "request_time": time(erasure.request_time.as_ref()),
        "finish_time": time(erasure.finish_time.as_ref()),
    })
}

fn time(timestamp: Option<&prost_types::Timestamp>) -> Value {
    timestamp.map(ToString::to_string).into()
}

/// The value's name, or its number if this version knows no name for it.
fn named<E: TryFrom<i32>>(value: i32, name: fn(&E) -> &'static str) -> Value {
    E::try_from(value).map_or_else(|_| value.into(), |known| name(&known).into())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use postrider_proto::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::{DescriptorProto, Duration, FileDescriptorSet, Timestamp};

    use super::*;

    #[test]
    fn an_outcome_keeps_the_contract_s_names() {
        let attempt = Outcome {
            delivery_id: "dlv_1".into(),
            attempt: 2,
            state: DeliveryState::Pending.into(),
            error_class: ErrorClass::Timeout.into(),
            latency: Some(Duration { seconds: 15, nanos: 1_000_000 }),
            time: Some(Timestamp { seconds: 0, nanos: 0 }),
            ..Outcome::default()
        };
        let value = update(&Update::Outcome(attempt), Some("c7"));
        assert_eq!(value["cursor"], "c7");
        let outcome = &value["outcome"];
        assert_eq!(outcome["state"], "DELIVERY_STATE_PENDING");
        assert_eq!(outcome["error_class"], "ERROR_CLASS_TIMEOUT");
        assert_eq!(outcome["latency"], "15.001s");
        assert_eq!(outcome["time"], "1970-01-01T00:00:00Z");
        assert_eq!(outcome["next_attempt_time"], Value::Null);
        assert_eq!(outcome["attempt"], 2);
    }

    #[test]
    fn numbers_stay_numbers_and_unknown_enums_too() {
        let it =
            Webhook { pending_deliveries: i64::MAX, disable_reason: 99, enabled: Some(true), ..Webhook::default() };
        let value = webhook(&it);
        assert_eq!(value["pending_deliveries"], i64::MAX);
        assert_eq!(value["disable_reason"], 99);
        assert_eq!(value["enabled"], true);
    }

    /// The names of each message's fields, as the contract has them.
    fn fields() -> BTreeMap<String, BTreeSet<String>> {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
        let messages =
            files.into_iter().filter(|file| file.package() == "postrider.v1").flat_map(|file| file.message_type);
        let names = |message: &DescriptorProto| message.field.iter().map(|field| field.name().to_owned()).collect();
        messages.map(|message| (message.name().to_owned(), names(&message))).collect()
    }

    #[test]
    fn no_field_is_forgotten() {
        let fields = fields();
        for (value, message) in [
            (webhook(&Webhook::default()), "Webhook"),
            (ownership(&Ownership::default()), "Ownership"),
            (tls(&TlsSettings::default()), "TlsSettings"),
            (stats(&WebhookStats::default()), "WebhookStats"),
            (signature(&Signature::default()), "Signature"),
            (event_type(&EventType::default()), "EventType"),
            (webhook_match(&WebhookMatch::default()), "WebhookMatch"),
            (erasure(&Erasure::default()), "Erasure"),
            (tenant_quota(&TenantQuota::default()), "TenantQuota"),
            (quota(&Quota::default()), "Quota"),
            (quota_usage(&QuotaUsage::default()), "QuotaUsage"),
            (delivery(&Delivery::default()), "Delivery"),
            (audit_entry(&AuditEntry::default()), "AuditEntry"),
            (principal(&Principal::default()), "Principal"),
            (retry(&RetryPolicy::default()), "RetryPolicy"),
            (replay(&Replay::default()), "Replay"),
            (replay_progress(&ReplayProgress::default()), "ReplayProgress"),
            (crate::attempt::json(&Outcome::default()), "Outcome"),
            (operational_event(&OperationalEvent::default()), "OperationalEvent"),
        ] {
            let shown: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
            assert_eq!(shown, fields[message], "{message}");
        }
    }
}
