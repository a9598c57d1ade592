//! Operational events: what happens to webhooks and deliveries that somebody should look at.
//!
//! They are entries of the outcome log, and events of the operator's tenant, under an id that follows from what they report: the
//! same thing reported twice is one event.

use bytes::Bytes;
use serde_json::json;

use super::{
    event::{Event, JSON},
    ids::{DeliveryId, EventId, EventTypeName, Tenant, WebhookId},
    time::Timestamp,
    webhook::DisableReason,
};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occurrence {
    /// A webhook was disabled.
    WebhookDisabled(DisableReason),
    /// Its breaker opened: attempts are put off.
    BreakerOpened,
    /// Its breaker closed.
    BreakerClosed,
    /// A delivery was given up.
    DeliveryExhausted {
        /// Which one.
        delivery: DeliveryId,
        /// The event it carried.
        event: EventId,
        /// The event's type.
        event_type: EventTypeName,
        /// How many attempts were made.
        attempts: u32,
    },
}

/// Something that happened to a webhook or one of its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationalEvent {
    /// What happened.
    pub occurrence: Occurrence,
    /// Whose webhook.
    pub tenant: Tenant,
    /// Which one.
    pub webhook: WebhookId,
    /// Where it pointed.
    pub url: Box<str>,
    /// When.
    pub time: Timestamp,
}

impl Occurrence {
    /// The id of the event that it is about, if it is about one.
    pub fn event(&self) -> Option<&EventId> {
        match self {
            Self::DeliveryExhausted { event, .. } => Some(event),
            Self::WebhookDisabled(_) | Self::BreakerOpened | Self::BreakerClosed => None,
        }
    }
}

impl OperationalEvent {
    /// Its event type, as the catalogue has it.
    pub fn event_type(&self) -> &'static str {
        match self.occurrence {
            Occurrence::WebhookDisabled(_) => "postrider.webhook.disabled",
            Occurrence::BreakerOpened => "postrider.webhook.breaker_opened",
            Occurrence::BreakerClosed => "postrider.webhook.breaker_closed",
            Occurrence::DeliveryExhausted { .. } => "postrider.delivery.exhausted",
        }
    }

    /// Its id: the same for the same thing, however often it is reported.
    pub fn id(&self) -> EventId {
        let (webhook, micros) = (self.webhook, self.time.micros());
        let id = match &self.occurrence {
            Occurrence::WebhookDisabled(_) => format!("disabled_{webhook}_{micros}"),
            Occurrence::BreakerOpened => format!("opened_{webhook}_{micros}"),
            Occurrence::BreakerClosed => format!("closed_{webhook}_{micros}"),
            Occurrence::DeliveryExhausted { delivery, attempts, .. } => format!("exhausted_{delivery}_{attempts}"),
        };
        id.parse().expect("it is short and has no odd letters")
    }

    /// Why the webhook was disabled, in the words of the contract; empty if that is not what happened.
    pub fn reason(&self) -> &'static str {
        match self.occurrence {
            Occurrence::WebhookDisabled(DisableReason::Requested) => "REQUESTED",
            Occurrence::WebhookDisabled(DisableReason::Gone) => "GONE",
            Occurrence::WebhookDisabled(DisableReason::Failing) => "FAILING",
            Occurrence::BreakerOpened | Occurrence::BreakerClosed | Occurrence::DeliveryExhausted { .. } => "",
        }
    }

    /// The event that the operator's webhooks receive.
    pub fn event(&self, operator: &Tenant) -> Event {
        let mut body = json!({
            "type": self.event_type(),
            "tenant": self.tenant.as_str(),
            "webhook_id": self.webhook.to_string(),
            "url": self.url,
            "time": humantime::format_rfc3339_micros(self.time.system_time()).to_string(),
        });
        match &self.occurrence {
            Occurrence::WebhookDisabled(_) => body["reason"] = self.reason().into(),
            Occurrence::DeliveryExhausted { delivery, event, event_type, attempts } => {
                body["delivery_id"] = delivery.to_string().into();
                body["event_id"] = event.as_str().into();
                body["event_type"] = event_type.as_str().into();
                body["attempts"] = (*attempts).into();
            }
            Occurrence::BreakerOpened | Occurrence::BreakerClosed => {}
        }
        Event {
            id: self.id(),
            tenant: operator.clone(),
            event_type: EventTypeName::new(self.event_type()),
            labels: std::collections::BTreeMap::new(),
            ordering_key: String::new(),
            occur_time: Some(self.time),
            content_type: JSON.into(),
            body: Bytes::from(body.to_string()),
            deliver_at: None,
            max_age: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalogue;

    #[test]
    fn every_one_has_its_type_and_its_own_id() {
        let exhausted = Occurrence::DeliveryExhausted {
            delivery: DeliveryId::from_bytes([255; 16]),
            event: "e".parse().unwrap(),
            event_type: EventTypeName::new("ADD_TAG"),
            attempts: u32::MAX,
        };
        let occurrences = [
            Occurrence::WebhookDisabled(DisableReason::Gone),
            Occurrence::BreakerOpened,
            Occurrence::BreakerClosed,
            exhausted,
        ];
        let mut ids = std::collections::HashSet::new();
        for occurrence in occurrences {
            let it = OperationalEvent {
                occurrence,
                tenant: "t".parse().unwrap(),
                webhook: WebhookId::from_bytes([255; 16]),
                url: "https://example.com/".into(),
                time: Timestamp::from_micros(4_000_000_000_000_000),
            };
            let event = it.event(&"ops".parse().unwrap());
            assert!(catalogue::find(event.event_type.as_str()).is_some(), "{}", event.event_type);
            assert_eq!((event.id.clone(), event.tenant.as_str()), (it.id(), "ops"));
            let body: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
            assert_eq!(
                (&body["tenant"], &body["time"]),
                (&"t".into(), &"2096-10-02T07:06:40.000000Z".into()),
                "{body}"
            );
            assert!(ids.insert(it.id()));
        }
    }
}
