//! `DeliveryService`: where deliveries stand and what their attempts led to.

use std::sync::Arc;

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{limits::PAGE_SIZE_DEFAULT, model::ids::DeliveryId, store::Store, watch::Watch};

/// Reads and follows deliveries.
pub(super) struct DeliveryService {
    pub(super) store: Arc<dyn Store>,
    pub(super) watch: Watch,
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
        let mut violations = Violations::default();
        let tenant = convert::tenant(&mut violations, "tenant", &request.tenant);
        let id = violations.note("id", request.id.parse::<DeliveryId>());
        violations.check()?;
        let (Some(tenant), Some(id)) = (tenant, id) else { return Err(Failure::delivery_not_found().into()) };

        let detail = self.store.get(id).await.map_err(Failure::from)?;
        // Another tenant's delivery is as good as none.
        let detail = detail.filter(|detail| detail.delivery.tenant == tenant);
        let detail = detail.ok_or_else(Failure::delivery_not_found)?;
        Ok(Response::new(v1::GetDeliveryResponse {
            delivery: Some(convert::delivery::delivery_reply(&detail.delivery)),
            attempts: detail.attempts.into_iter().map(convert::delivery::attempt_reply).collect(),
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
        let query = convert::delivery::delivery_query(&mut violations, &request);
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = list_scope(&request);
        let after = scope.after(&mut violations, sealer, &request.page_token);
        violations.check()?;

        let page = self.store.list(&query, after, size).await.map_err(Failure::from)?;
        Ok(Response::new(v1::ListDeliveriesResponse {
            deliveries: page.deliveries.iter().map(convert::delivery::delivery_reply).collect(),
            next_page_token: page.next.map_or_else(String::new, |last| scope.token(sealer, last)),
        }))
    }
}

/// The same for requests that mean the same list, however they say it.
fn list_scope(request: &v1::ListDeliveriesRequest) -> Scope {
    let tenant = if request.tenant.is_empty() { "default" } else { &request.tenant };
    let mut states = request.states.clone();
    states.sort_unstable();
    states.dedup();
    let scope = Scope::new("ListDeliveries").with(tenant).with(&request.webhook_id).with(&request.event_id);
    states.iter().fold(scope, |scope, state| scope.with(&state.to_string()))
}
