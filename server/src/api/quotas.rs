//! `QuotaService`: how much of the server a tenant may use, and does. The layer lets only those set and list who may operate for
//! all tenants.

use std::sync::Arc;

use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{
    auth::Caller,
    convert::quota::{self, Usage},
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{
    clock::Clock,
    limits::PAGE_SIZE_DEFAULT,
    model::{
        ids::{Tenant, WebhookNo},
        quota::{day, day_end},
    },
    store::{ConfigAnswer, ConfigChange, QuotaAnswer, QuotaChange, Store, WebhookPlace},
};

/// Manages quotas.
pub(super) struct QuotaService {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::quota_service_server::QuotaService for QuotaService {
    async fn set_quota(&self, request: Request<v1::SetQuotaRequest>) -> Result<Response<v1::SetQuotaResponse>, Status> {
        refuse_if(&self.stop)?;
        let by = Caller::of(request.extensions()).name();
        let (tenant, quota) = quota::set(request.into_inner())?;
        let change = QuotaChange { tenant: tenant.clone(), quota, time: self.clock.now() };
        let answer = self.store.put_config(ConfigChange::Quota(change)).await.map_err(Failure::from)?;
        let ConfigAnswer::Quota(answer) = answer else { return Err(Failure::store_confused().into()) };
        let QuotaAnswer::Set = answer else { return Err(Failure::too_many_quotas().into()) };
        info!(tenant = %tenant, ?quota, by, "set the quota of a tenant");
        Ok(Response::new(v1::SetQuotaResponse { quota: self.shown(vec![tenant]).await?.pop() }))
    }

    async fn get_quota(&self, request: Request<v1::GetQuotaRequest>) -> Result<Response<v1::GetQuotaResponse>, Status> {
        refuse_if(&self.stop)?;
        let tenant = quota::get(request.get_ref())?;
        Ok(Response::new(v1::GetQuotaResponse { quota: self.shown(vec![tenant]).await?.pop() }))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = Scope::new("ListQuotas");
        let after = scope.webhook_after(&mut violations, sealer, &request.page_token);
        violations.check()?;
        let after = after.and_then(|place| place.name.parse::<Tenant>().ok());

        // One more than the page holds tells whether there is a next one.
        let mut found = self.store.catalog().quotas().list(after.as_ref(), size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let tenants: Vec<_> = found.into_iter().map(|own| own.tenant).collect();
        let last = tenants.last().filter(|_| more);
        let place = last.map(|tenant| WebhookPlace { name: tenant.as_str().into(), no: WebhookNo(0) });
        let next_page_token = place.map_or_else(String::new, |place| scope.webhook_token(sealer, &place));
        let quotas = self.shown(tenants).await?;
        Ok(Response::new(v1::ListQuotasResponse { quotas, next_page_token }))
    }
}

impl QuotaService {
    /// How the quotas of these tenants stand.
    async fn shown(&self, tenants: Vec<Tenant>) -> Result<Vec<v1::TenantQuota>, Failure> {
        let now = self.clock.now();
        let bytes = self.store.bytes_of_day(day(now), &tenants).await?;
        let catalog = self.store.catalog();
        let shown = |(tenant, bytes_today): (&Tenant, u64)| {
            let usage = Usage {
                pending: catalog.pending_of(tenant),
                webhooks: catalog.webhooks_of(tenant),
                bytes_today,
                day_end: day_end(now),
            };
            let quotas = catalog.quotas();
            quota::reply(tenant, quotas.find(tenant).as_ref(), &quotas.limits(tenant), usage)
        };
        Ok(tenants.iter().zip(bytes).map(shown).collect())
    }
}
