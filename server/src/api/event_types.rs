//! `EventTypeService`: what can happen.

use std::sync::Arc;

use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    page::{self, Scope},
    refuse_if,
    status::Violations,
};
use crate::{
    limits::EVENT_TYPES_PAGE_SIZE_DEFAULT,
    model::{catalogue, ids::Tenant},
    store::Store,
};

/// Lists the catalogue.
pub(super) struct EventTypeService {
    pub(super) store: Arc<dyn Store>,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::event_type_service_server::EventTypeService for EventTypeService {
    async fn list_event_types(
        &self,
        request: Request<v1::ListEventTypesRequest>,
    ) -> Result<Response<v1::ListEventTypesResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let tenant = convert::tenant(&mut violations, "tenant", &request.tenant);
        let size = page::size(&mut violations, request.page_size, EVENT_TYPES_PAGE_SIZE_DEFAULT);
        let scope = Scope::new("ListEventTypes").with(tenant.as_ref().map_or("", Tenant::as_str));
        let after = scope.counted_after(&mut violations, sealer, &request.page_token);
        violations.check()?;

        let from = usize::try_from(after.unwrap_or(0)).unwrap_or(usize::MAX);
        let rest = catalogue::all().get(from..).unwrap_or_default();
        let event_types: Vec<_> = rest.iter().take(size).map(reply).collect();
        let next_page_token = if event_types.len() < rest.len() {
            scope.counted_token(sealer, (from + event_types.len()) as u64)
        } else {
            String::new()
        };
        Ok(Response::new(v1::ListEventTypesResponse { event_types, next_page_token }))
    }
}

fn reply(event_type: &catalogue::EventType) -> v1::EventType {
    v1::EventType {
        name: event_type.name.into(),
        title: event_type.title.into(),
        description: event_type.description.into(),
        example: event_type.example.into(),
    }
}
