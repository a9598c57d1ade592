//! Operational events, in the outcome log.

use bytes::Bytes;
use prost::Message;

use super::{Corrupt, log};
use crate::model::{
    ids::{DeliveryId, EventTypeName},
    operational::{Occurrence, OperationalEvent},
    time::Timestamp,
    webhook::DisableReason,
};

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct OperationalRecord {
    /// 1: disabled; 2: breaker opened; 3: breaker closed; 4: delivery exhausted.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(bytes = "bytes", tag = "3")]
    webhook_id: Bytes,
    #[prost(string, tag = "4")]
    url: String,
    #[prost(sint64, tag = "5")]
    time: i64,
    /// As in `WebhookRecord`.
    #[prost(uint32, tag = "6")]
    reason: u32,
    #[prost(bytes = "bytes", tag = "7")]
    delivery_id: Bytes,
    #[prost(string, tag = "8")]
    event_id: String,
    #[prost(string, tag = "9")]
    event_type: String,
    #[prost(uint32, tag = "10")]
    attempts: u32,
}

impl OperationalRecord {
    pub(super) fn new(it: &OperationalEvent) -> Self {
        let record = Self {
            tenant: it.tenant.as_str().to_owned(),
            webhook_id: Bytes::copy_from_slice(it.webhook.as_bytes()),
            url: it.url.to_string(),
            time: it.time.micros(),
            ..Self::default()
        };
        match &it.occurrence {
            Occurrence::WebhookDisabled(reason) => {
                let reason = match reason {
                    DisableReason::Requested => 1,
                    DisableReason::Gone => 2,
                    DisableReason::Failing => 3,
                };
                Self { kind: 1, reason, ..record }
            }
            Occurrence::BreakerOpened => Self { kind: 2, ..record },
            Occurrence::BreakerClosed => Self { kind: 3, ..record },
            Occurrence::DeliveryExhausted { delivery, event, event_type, attempts } => Self {
                kind: 4,
                delivery_id: Bytes::copy_from_slice(delivery.as_bytes()),
                event_id: event.as_str().to_owned(),
                event_type: event_type.as_str().to_owned(),
                attempts: *attempts,
                ..record
            },
        }
    }

    /// The tenant, and the id of the event if it is about one.
    pub(super) fn about(&self) -> (&str, &str) {
        (&self.tenant, &self.event_id)
    }

    pub(super) fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.time)
    }

    pub(super) fn shown(self) -> Result<OperationalEvent, Corrupt> {
        let occurrence = match (self.kind, self.reason) {
            (1, 1) => Occurrence::WebhookDisabled(DisableReason::Requested),
            (1, 2) => Occurrence::WebhookDisabled(DisableReason::Gone),
            (1, 3) => Occurrence::WebhookDisabled(DisableReason::Failing),
            (2, _) => Occurrence::BreakerOpened,
            (3, _) => Occurrence::BreakerClosed,
            (4, _) => {
                let delivery = self.delivery_id.as_ref().try_into();
                Occurrence::DeliveryExhausted {
                    delivery: DeliveryId::from_bytes(delivery.map_err(|error| Corrupt::new("delivery id", error))?),
                    event: self.event_id.parse().map_err(|error| Corrupt::new("event id", error))?,
                    event_type: EventTypeName::new(&self.event_type),
                    attempts: self.attempts,
                }
            }
            (kind, reason) => return Err(Corrupt::new("operational event", format!("{kind}, {reason}"))),
        };
        let time = self.time();
        Ok(OperationalEvent {
            occurrence,
            tenant: log::tenant(&self.tenant)?,
            webhook: log::webhook_id(&self.webhook_id)?,
            url: self.url.into(),
            time,
        })
    }
}
