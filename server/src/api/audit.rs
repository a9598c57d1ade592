//! `AuditService`: who did what. The layer lets in only those who may operate for the tenant that they ask about.

use std::sync::Arc;

use postrider_proto::v1;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{
    auth::Caller,
    convert::audit,
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{
    limits::{PAGE_BYTES, PAGE_SIZE_DEFAULT},
    model::audit::AuditNo,
    store::Store,
};

/// Shows the audit log.
pub(super) struct AuditService {
    pub(super) store: Arc<dyn Store>,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::audit_service_server::AuditService for AuditService {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        refuse_if(&self.stop)?;
        // The others see no outsiders.
        let is_limited = !Caller::of(request.extensions()).is_for_all();
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let query = audit::query(&mut violations, &request, is_limited);
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = list_scope(&request);
        let before = scope.counted_after(&mut violations, sealer, &request.page_token).map(AuditNo);
        violations.check()?;

        let page = self.store.audited(&query, before, size).await.map_err(Failure::from)?;
        let (mut entries, mut next, mut bytes) = (Vec::new(), page.next, 0);
        let mut last = None;
        for (no, entry) in page.entries {
            let reply = audit::reply(no, entry, &query);
            bytes += reply.encoded_len();
            if bytes > PAGE_BYTES && last.is_some() {
                next = last;
                break;
            }
            last = Some(no);
            entries.push(reply);
        }
        let next_page_token = next.map_or_else(String::new, |next| scope.counted_token(sealer, next.0));
        Ok(Response::new(v1::ListAuditEntriesResponse { entries, next_page_token }))
    }
}

fn list_scope(request: &v1::ListAuditEntriesRequest) -> Scope {
    let tenant = if request.tenant.is_empty() { "default" } else { &request.tenant };
    let time = |time: Option<&prost_types::Timestamp>| time.map_or_else(String::new, ToString::to_string);
    Scope::new("ListAuditEntries")
        .with(tenant)
        .with(&request.principal)
        .with(&request.method)
        .with(&time(request.start_time.as_ref()))
        .with(&time(request.end_time.as_ref()))
        .with(if request.failed { "failed" } else { "" })
}
