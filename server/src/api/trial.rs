//! Test events: what is sent to a webhook whose owner wants to see what happens.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use postrider_proto::v1;

use super::{
    convert::{self, Types, event_type},
    status::{Failure, Violations},
};
use crate::{
    flow::Job,
    model::{
        catalogue,
        delivery::{AttemptResult, DeliveryState, Outcome},
        event::{Event, JSON, StoredEvent},
        ids::{DeliveryId, DeliveryKey, EventId, EventSeq, EventTypeName, Tenant, WebhookId},
        seal::Sealer,
        time::Timestamp,
        webhook::Webhook,
    },
    store::Catalog,
};

/// Makes an attempt at once.
#[async_trait]
pub trait Trial: Send + Sync + 'static {
    /// What one attempt leads to. `None`: as many are under way as may be.
    async fn attempt(&self, job: Job) -> Option<AttemptResult>;
}

/// Which webhook gets an event of which type.
pub(super) fn request(
    request: &v1::SendTestEventRequest,
    catalog: &Catalog,
) -> Result<(Tenant, WebhookId, EventTypeName), Failure> {
    let mut violations = Violations::default();
    let tenant = convert::tenant(&mut violations, "tenant", &request.tenant);
    let id = violations.note("id", request.id.parse());
    let types = Types::of(catalog, tenant.as_ref());
    let event_type = event_type(&mut violations, types, || "event_type".into(), &request.event_type);
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations"), event_type.expect("no violations")))
}

/// The attempt that sends the type's example. No store has such an event: its number is that of none.
pub(super) fn job(
    webhook: Arc<Webhook>,
    event_type: EventTypeName,
    catalog: &Catalog,
    sealer: &Sealer,
    now: Timestamp,
) -> Job {
    let key = DeliveryKey { webhook: webhook.no, event: EventSeq(0), replay: 0 };
    let example = example(&event_type, &webhook.tenant, catalog);
    let event = Event {
        id: EventId::generate_test(),
        tenant: webhook.tenant.clone(),
        event_type,
        labels: BTreeMap::new(),
        ordering_key: String::new(),
        occur_time: None,
        content_type: JSON.to_owned(),
        body: example,
        deliver_at: None,
        max_age: None,
    };
    let event = StoredEvent { seq: key.event, accept_time: now, event };
    Job { key, delivery_id: sealer.delivery_id(key), attempt: 1, excused: None, webhook, event, body_permit: None }
}

/// The type's example; an empty object if nobody gave one.
fn example(event_type: &EventTypeName, tenant: &Tenant, catalog: &Catalog) -> Bytes {
    let name = event_type.as_str();
    if let Some(built_in) = catalogue::find(name) {
        return Bytes::from_static(built_in.example.as_bytes());
    }
    let registered = catalog.event_type(Some(tenant), name);
    let given = registered.as_ref().map(|known| &known.content.example).filter(|given| !given.is_empty());
    given.map_or(Bytes::from_static(b"{}"), |given| Bytes::copy_from_slice(given.as_bytes()))
}

/// What is said of an attempt beside what it led to.
pub(super) struct Sent {
    key: DeliveryKey,
    delivery_id: DeliveryId,
    event_id: EventId,
    event_type: EventTypeName,
}

impl Sent {
    pub(super) fn of(job: &Job) -> Self {
        let event = &job.event.event;
        let (event_id, event_type) = (event.id.clone(), event.event_type.clone());
        Self { key: job.key, delivery_id: job.delivery_id, event_id, event_type }
    }
}

/// What the attempt led to, as callers see outcomes. There is no second one.
pub(super) fn outcome(webhook: &Webhook, sent: Sent, result: AttemptResult) -> v1::Outcome {
    let state = if result.error_class.is_none() { DeliveryState::Delivered } else { DeliveryState::Failed };
    let outcome = Outcome {
        key: sent.key,
        delivery_id: sent.delivery_id,
        tenant: webhook.tenant.clone(),
        webhook_id: webhook.id,
        event_id: sent.event_id,
        event_type: sent.event_type,
        attempt: 1,
        state,
        http_status: result.http_status,
        error_class: result.error_class,
        error: result.error,
        latency: result.latency,
        time: result.time,
        next_attempt: None,
        held: false,
        response_body: result.response_body,
        exchange: result.exchange,
    };
    convert::attempt::attempt_reply(outcome)
}
