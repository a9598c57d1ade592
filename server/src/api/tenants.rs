//! `TenantService`: erasing what a tenant has.

use std::sync::Arc;

use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{convert, refuse_if, status::Failure};
use crate::{
    clock::Clock,
    model::{
        erasure::Erasure,
        ids::{EventId, Tenant},
    },
    store::{Erase, Erased, Store},
};

/// Erases tenants, and says how far erasures have come.
pub(super) struct TenantService {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::tenant_service_server::TenantService for TenantService {
    async fn erase_tenant(
        &self,
        request: Request<v1::EraseTenantRequest>,
    ) -> Result<Response<v1::EraseTenantResponse>, Status> {
        refuse_if(&self.stop)?;
        let (tenant, request_id) = convert::erase::whole_tenant(request.into_inner())?;
        let erase = Erase::Tenant { tenant, request_id, time: self.clock.now() };
        let erasure = decide(&*self.store, erase).await?;
        Ok(Response::new(v1::EraseTenantResponse { erasure: Some(convert::erase::reply(&erasure)) }))
    }

    async fn get_erasure(
        &self,
        request: Request<v1::GetErasureRequest>,
    ) -> Result<Response<v1::GetErasureResponse>, Status> {
        refuse_if(&self.stop)?;
        let (tenant, id) = convert::erase::key(&request.into_inner())?;
        let erasure = self.store.erasure(&tenant, id).await.map_err(Failure::from)?;
        let erasure = erasure.ok_or_else(Failure::erasure_not_found)?;
        Ok(Response::new(v1::GetErasureResponse { erasure: Some(convert::erase::reply(&erasure)) }))
    }
}

/// Erases one event.
pub(super) async fn erase_event(
    store: &dyn Store,
    clock: Clock,
    (tenant, id): (Tenant, EventId),
) -> Result<v1::EraseEventResponse, Failure> {
    let erasure = decide(store, Erase::Event { tenant, id, time: clock.now() }).await?;
    Ok(v1::EraseEventResponse { erasure: Some(convert::erase::reply(&erasure)) })
}

async fn decide(store: &dyn Store, erase: Erase) -> Result<Erasure, Failure> {
    match store.erase(erase).await? {
        Erased::Decided(erasure) => {
            // Not whose: what is erased is not to remain in a log.
            info!(erasure.id = %erasure.id, erasure.subject = ?erasure.subject, "an erasure was decided on");
            Ok(erasure)
        }
        Erased::NotFound => Err(Failure::event_not_found()),
        Erased::TooMany => Err(Failure::too_many_erasures()),
    }
}
