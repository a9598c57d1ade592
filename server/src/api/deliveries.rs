//! `DeliveryService`: where deliveries stand and what their attempts led to.

use std::sync::Arc;

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{
    convert::{self, delivery::Cancel},
    history::History,
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{
    accept::Rejected,
    clock::Clock,
    limits::{CALL_DELIVERIES_MAX, PAGE_SIZE_DEFAULT},
    model::ids::DeliveryKey,
    store::{DeliveryQuery, Repair, Repaired, Store},
    watch::Watch,
};

/// Reads, follows and repairs deliveries.
pub(super) struct DeliveryService {
    pub(super) store: Arc<dyn Store>,
    pub(super) watch: Watch,
    pub(super) clock: Clock,
    pub(super) history: History,
    pub(super) stop: CancellationToken,
    pub(super) stop_watching: CancellationToken,
}

#[async_trait]
impl v1::delivery_service_server::DeliveryService for DeliveryService {
    type WatchDeliveriesStream = BoxStream<'static, Result<v1::WatchDeliveriesResponse, Status>>;

    async fn watch_deliveries(
        &self,
        request: Request<v1::WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        refuse_if(&self.stop)?;
        let (filter, start, updates_max) = convert::delivery::watch(request.into_inner(), self.store.catalog())?;
        let batches = self.watch.open(filter, start, updates_max).await.map_err(Failure::from)?;
        let replies = batches.map(|batch| match batch {
            Ok(batch) => Ok(convert::delivery::watch_reply(batch)),
            Err(error) => Err(Failure::from(error).into_status()),
        });
        let stopped = stream::once(async { Err(Failure::stopping().into_status()) });
        let until_stopped = replies.take_until(self.stop_watching.clone().cancelled_owned()).chain(stopped);
        Ok(Response::new(until_stopped.boxed()))
    }

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let (tenant, id) = convert::delivery_key(&request.tenant, &request.id)?;

        let detail = self.store.get(id).await.map_err(Failure::from)?;
        // Another tenant's delivery is as good as none.
        let detail = detail.filter(|detail| detail.delivery.tenant == tenant);
        let Some(detail) = detail else {
            return Err(self.history.missing_delivery(&tenant, id).await.map_err(Failure::from)?.into());
        };
        Ok(Response::new(v1::GetDeliveryResponse {
            delivery: Some(convert::delivery::delivery_reply(&detail.delivery)),
            attempts: convert::attempt::attempts_reply(detail.attempts),
        }))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let query = convert::delivery::delivery_query(&mut violations, self.store.catalog(), &request);
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = list_scope(&request);
        let after = scope.after(&mut violations, sealer, &request.page_token);
        violations.check()?;

        let page = self.store.list(&query, after, size).await.map_err(Failure::from)?;
        if after.is_none() {
            self.history.refuse_expired(&query, &page)?;
        }
        Ok(Response::new(v1::ListDeliveriesResponse {
            oldest_time: Some(convert::time(self.history.oldest_time())),
            deliveries: page.deliveries.iter().map(convert::delivery::delivery_reply).collect(),
            next_page_token: page.next.map_or_else(String::new, |last| scope.token(sealer, last)),
        }))
    }

    async fn retry_delivery(
        &self,
        request: Request<v1::RetryDeliveryRequest>,
    ) -> Result<Response<v1::RetryDeliveryResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let (tenant, id) = convert::delivery_key(&request.tenant, &request.id)?;
        let key = self.store.sealer().delivery_key(id);
        let Some(detail) = self.store.get(id).await.map_err(Failure::from)? else {
            let expired = self.history.has_expired(&tenant, id).await.map_err(Failure::from)?;
            let missing = if expired { Failure::event_expired() } else { Failure::delivery_not_found() };
            return Err(missing.into());
        };
        if detail.delivery.tenant != tenant {
            return Err(Failure::delivery_not_found().into());
        }
        let retry = Repair::Retry { key, time: self.clock.now() };
        let repaired = self.store.repair(retry).await.map_err(Failure::from)?;
        let Repaired::Retried = repaired else { return Err(refusal(repaired).of_tenant(&tenant).into()) };
        info!(delivery.id = %id, webhook.id = %detail.delivery.webhook, "a delivery is retried on request");
        let retried = self.store.get(id).await.map_err(Failure::from)?;
        let delivery = retried.map_or(detail.delivery, |retried| retried.delivery);
        Ok(Response::new(v1::RetryDeliveryResponse { delivery: Some(convert::delivery::delivery_reply(&delivery)) }))
    }

    async fn cancel_deliveries(
        &self,
        request: Request<v1::CancelDeliveriesRequest>,
    ) -> Result<Response<v1::CancelDeliveriesResponse>, Status> {
        refuse_if(&self.stop)?;
        let cancel = convert::delivery::cancel(&request.into_inner())?;
        let known = self.store.catalog().find(&cancel.tenant, cancel.webhook);
        let webhook = known.ok_or_else(Failure::webhook_not_found)?.webhook;
        let time = self.clock.now();
        let repair = if let Some(named) = self.named(&cancel).await? {
            let keys = named.into_iter().filter(|key| key.webhook == webhook.no).collect();
            Repair::Cancel { keys, time }
        } else {
            Repair::CancelAll { webhook: webhook.no, time }
        };
        let repaired = self.store.repair(repair).await.map_err(Failure::from)?;
        let Repaired::Cancelled(cancelled) = repaired else { return Err(refusal(repaired).into()) };
        info!(webhook.id = %webhook.id, deliveries = cancelled, "cancelled deliveries on request");
        Ok(Response::new(v1::CancelDeliveriesResponse { cancelled_deliveries: convert::count(cancelled) }))
    }
}

impl DeliveryService {
    /// The deliveries that are to be cancelled; `None`: all of the webhook's.
    async fn named(&self, cancel: &Cancel) -> Result<Option<Vec<DeliveryKey>>, Failure> {
        let sealer = self.store.sealer();
        let by_id = || cancel.ids.iter().map(|id| sealer.delivery_key(*id));
        let Some(event) = &cancel.event else {
            return Ok((!cancel.ids.is_empty()).then(|| by_id().collect()));
        };
        let query = DeliveryQuery {
            tenant: Some(cancel.tenant.clone()),
            webhook: Some(cancel.webhook),
            event: Some(event.clone()),
            ..DeliveryQuery::default()
        };
        let page = self.store.list(&query, None, CALL_DELIVERIES_MAX).await?;
        let of_event = page.deliveries.iter().map(|delivery| delivery.key);
        Ok(Some(of_event.filter(|key| cancel.ids.is_empty() || by_id().any(|named| named == *key)).collect()))
    }
}

/// Why nothing was repaired.
fn refusal(repaired: Repaired) -> Failure {
    match repaired {
        Repaired::WebhookDeleted => Failure::webhook_deleted(),
        Repaired::NoDelivery => Failure::delivery_not_found(),
        Repaired::EventExpired => Failure::event_expired(),
        Repaired::TooManyAttempts => Failure::too_many_attempts(),
        Repaired::Cancelling => Failure::cancelling(),
        Repaired::WaitsInOrder => Failure::waits_in_order(),
        Repaired::BacklogFull => Rejected::BacklogFull.into(),
        Repaired::OverQuota(excess) => excess.into(),
        Repaired::Retried | Repaired::Cancelled(_) => Failure::store_confused(),
    }
}

/// The same for requests that mean the same list, however they say it.
fn list_scope(request: &v1::ListDeliveriesRequest) -> Scope {
    let tenant = if request.tenant.is_empty() { "default" } else { &request.tenant };
    let mut states = request.states.clone();
    states.sort_unstable();
    states.dedup();
    let scope = Scope::new("ListDeliveries").with(tenant).with(&request.webhook_id).with(&request.event_id);
    let scope = states.iter().fold(scope, |scope, state| scope.with(&state.to_string()));
    let mut event_types: Vec<_> = request.event_types.iter().collect();
    event_types.sort_unstable();
    event_types.dedup();
    // Numbers, names and times are told apart by how they look.
    let scope = event_types.into_iter().fold(scope, |scope, name| scope.with(name));
    let time = |time: Option<&prost_types::Timestamp>| time.map_or_else(String::new, ToString::to_string);
    scope.with(&time(request.start_time.as_ref())).with(&time(request.end_time.as_ref()))
}
