//! Contract ⇄ model for deliveries and outcomes.

use std::collections::BTreeSet;

use postrider_proto::v1;

use super::{Types, count, event_type, small, span, tenant, tenant_or_all, time, timestamp, webhook::disable_reason};
use crate::{
    api::status::{Failure, Violations},
    limits::{CALL_DELIVERIES_MAX, WATCH_FILTER_IDS_MAX, WATCH_UPDATES_MAX},
    model::{
        delivery::{DeliveryState, ErrorClass, Outcome},
        ids::{DeliveryId, EventId, Tenant, WebhookId},
        operational::{Occurrence, OperationalEvent},
    },
    store::{CancelReason, Catalog, Delivery, DeliveryQuery, DeliveryView, FeedFilter, LogEntry},
    watch::{Start, WatchBatch},
};

/// What a watcher wants, from where on, and how much of it at a time.
pub(in crate::api) fn watch(
    request: v1::WatchDeliveriesRequest,
    catalog: &Catalog,
) -> Result<(FeedFilter, Start, usize), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant_or_all(&mut violations, &request.tenant);
    let types = Types::of(catalog, tenant.as_ref());
    let webhooks = each(&mut violations, "webhook_ids", &request.webhook_ids, |violations, field, id| {
        violations.note(&field, id.parse())
    });
    let event_types = each(&mut violations, "event_types", &request.event_types, |violations, field, name| {
        event_type(violations, types, || field, name)
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
    Ok((
        FeedFilter { tenant, webhooks, event_types, states, operational: request.operational_events },
        start,
        updates_max,
    ))
}

/// Pending deliveries of a webhook that are to be cancelled: all, or those named.
#[derive(Debug)]
pub(in crate::api) struct Cancel {
    pub(in crate::api) tenant: Tenant,
    pub(in crate::api) webhook: WebhookId,
    /// Only this event's.
    pub(in crate::api) event: Option<EventId>,
    /// Only these, if there are any.
    pub(in crate::api) ids: Vec<DeliveryId>,
}

/// What is to be cancelled.
pub(in crate::api) fn cancel(request: &v1::CancelDeliveriesRequest) -> Result<Cancel, Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", &request.tenant);
    let webhook = violations.note("webhook_id", request.webhook_id.parse());
    let named = Some(&request.event_id).filter(|id| !id.is_empty());
    let event = named.and_then(|id| violations.note("event_id", id.parse()));
    if request.ids.len() > CALL_DELIVERIES_MAX {
        violations.add("ids", format!("must not name more than {CALL_DELIVERIES_MAX}"));
    }
    let ids = request.ids.iter().take(CALL_DELIVERIES_MAX).enumerate();
    let ids = ids.filter_map(|(index, id)| violations.note(&format!("ids[{index}]"), id.parse())).collect();
    violations.check()?;
    let (tenant, webhook) = (tenant.expect("no violations"), webhook.expect("no violations"));
    Ok(Cancel { tenant, webhook, event, ids })
}

/// Converts each entry of a filter's list; too long a list is one violation.
pub(super) fn each<T: Ord>(
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
pub(in crate::api) fn delivery_query(
    violations: &mut Violations,
    catalog: &Catalog,
    request: &v1::ListDeliveriesRequest,
) -> DeliveryQuery {
    let tenant = tenant_or_all(violations, &request.tenant);
    let webhook =
        (!request.webhook_id.is_empty()).then(|| violations.note("webhook_id", request.webhook_id.parse())).flatten();
    let event = (!request.event_id.is_empty()).then(|| violations.note("event_id", request.event_id.parse())).flatten();
    let states = states_filter(violations, &request.states);
    let types = Types::of(catalog, tenant.as_ref());
    let event_types = each(violations, "event_types", &request.event_types, |violations, field, name| {
        event_type(violations, types, || field, name)
    });
    let from = request.start_time.and_then(|time| timestamp(violations, "start_time", time));
    let until = request.end_time.and_then(|time| timestamp(violations, "end_time", time));
    if from.zip(until).is_some_and(|(from, until)| from > until) {
        violations.add("end_time", "must not be before `start_time`");
    }
    DeliveryQuery { tenant, webhook, event, states, event_types, from, until }
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

pub(super) fn view(state: v1::DeliveryState) -> Option<DeliveryView> {
    match state {
        v1::DeliveryState::Unspecified => None,
        v1::DeliveryState::Pending => Some(DeliveryView::State(DeliveryState::Pending)),
        v1::DeliveryState::Delivered => Some(DeliveryView::State(DeliveryState::Delivered)),
        v1::DeliveryState::Failed => Some(DeliveryView::State(DeliveryState::Failed)),
        v1::DeliveryState::Cancelled => Some(DeliveryView::State(DeliveryState::Cancelled)),
        v1::DeliveryState::Held => Some(DeliveryView::Held),
    }
}

/// A message of a watch stream.
pub(in crate::api) fn watch_reply(batch: WatchBatch) -> v1::WatchDeliveriesResponse {
    use v1::delivery_update::Update;
    let update = |entry| match entry {
        LogEntry::Outcome(outcome) => Update::Outcome(outcome_reply(outcome)),
        LogEntry::WebhookCancelled(cancelled) => Update::WebhookCancelled(v1::WebhookCancelled {
            reason: cancel_reason(cancelled.reason).into(),
            webhook_id: cancelled.webhook.to_string(),
            deliveries: count(cancelled.deliveries),
            tenant: cancelled.tenant.to_string(),
            time: Some(time(cancelled.time)),
        }),
        LogEntry::Operational(event) => Update::OperationalEvent(operational_reply(event)),
    };
    let updates = batch.entries.into_iter().map(|entry| v1::DeliveryUpdate { update: Some(update(entry)) }).collect();
    v1::WatchDeliveriesResponse { cursor: batch.cursor, updates }
}

fn operational_reply(it: OperationalEvent) -> v1::OperationalEvent {
    let reply = v1::OperationalEvent {
        id: it.id().to_string(),
        r#type: it.event_type().to_owned(),
        tenant: it.tenant.to_string(),
        webhook_id: it.webhook.to_string(),
        url: it.url.to_string(),
        time: Some(time(it.time)),
        ..v1::OperationalEvent::default()
    };
    match it.occurrence {
        Occurrence::BreakerOpened | Occurrence::BreakerClosed => reply,
        Occurrence::WebhookDisabled(reason) => {
            v1::OperationalEvent { disable_reason: disable_reason(reason).into(), ..reply }
        }
        Occurrence::DeliveryExhausted { delivery, event, event_type, attempts } => v1::OperationalEvent {
            delivery_id: delivery.to_string(),
            event_id: event.to_string(),
            event_type: event_type.to_string(),
            attempts: small(attempts),
            ..reply
        },
    }
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
        latency: Some(span(outcome.latency)),
        time: Some(time(outcome.time)),
        next_attempt_time: outcome.next_attempt.filter(|_| !outcome.held).map(time),
        tenant: outcome.tenant.to_string(),
        response_body: Vec::new(),
    }
}

/// An outcome with what the receiver answered.
pub(in crate::api) fn attempt_reply(outcome: Outcome) -> v1::Outcome {
    let response_body = outcome.response_body.to_vec();
    v1::Outcome { response_body, ..outcome_reply(outcome) }
}

/// A delivery as callers see it.
pub(in crate::api) fn delivery_reply(delivery: &Delivery) -> v1::Delivery {
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

fn cancel_reason(reason: CancelReason) -> v1::CancelReason {
    match reason {
        CancelReason::WebhookDeleted => v1::CancelReason::WebhookDeleted,
        CancelReason::HeldDropped => v1::CancelReason::HeldDropped,
        CancelReason::Requested => v1::CancelReason::Requested,
    }
}

pub(super) fn state(view: DeliveryView) -> v1::DeliveryState {
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
        Some(ErrorClass::Expired) => v1::ErrorClass::Expired,
    }
}
