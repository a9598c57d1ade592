//! How far back things are retained, and what is said of what is not there.

use std::{sync::Arc, time::Duration};

use super::status::Failure;
use crate::{
    clock::Clock,
    model::{
        ids::{DeliveryId, EventId, Tenant},
        time::Timestamp,
    },
    store::{DeliveryPage, DeliveryQuery, Store, StoreError},
};

/// What the store keeps of the past.
#[derive(Clone)]
pub(super) struct History {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    /// How long events are kept.
    pub(super) retention: Duration,
}

impl History {
    /// What was accepted at this time or later is retained. What was accepted before is there if it is pending or if nobody came to
    /// remove it yet.
    pub(super) fn oldest_time(&self) -> Timestamp {
        (self.clock.certain() - self.retention).max(self.store.retained_since())
    }

    /// Why there is no event of this id: it is no longer retained if the id tells its age, or else nobody knows.
    pub(super) fn missing_event(&self, id: &EventId) -> Failure {
        let oldest = self.oldest_time();
        let is_old = id.assigned_at().is_some_and(|assigned| assigned < oldest);
        if is_old { Failure::expired(oldest) } else { Failure::event_not_found() }
    }

    /// Why a tenant has no delivery of this id.
    pub(super) async fn missing_delivery(&self, tenant: &Tenant, id: DeliveryId) -> Result<Failure, StoreError> {
        let is_expired = self.has_expired(tenant, id).await?;
        Ok(if is_expired { Failure::expired(self.oldest_time()) } else { Failure::delivery_not_found() })
    }

    /// Whether a tenant had a delivery of this id that is no longer retained.
    pub(super) async fn has_expired(&self, tenant: &Tenant, id: DeliveryId) -> Result<bool, StoreError> {
        Ok(self.store.expired(id).await?.as_ref() == Some(tenant))
    }

    /// Refuses the first page of a list on which there is nothing, and would be nothing, because all that was asked for is older
    /// than what is retained.
    pub(super) fn refuse_expired(&self, query: &DeliveryQuery, page: &DeliveryPage) -> Result<(), Failure> {
        let oldest = self.oldest_time();
        let assigned = query.event.as_ref().and_then(EventId::assigned_at);
        let is_older = query.until.is_some_and(|until| until <= oldest) || assigned.is_some_and(|time| time < oldest);
        if is_older && page.deliveries.is_empty() && page.next.is_none() {
            return Err(Failure::expired(oldest));
        }
        Ok(())
    }
}
