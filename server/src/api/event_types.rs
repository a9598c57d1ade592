//! `EventTypeService`: what can happen.

use std::sync::Arc;

use postrider_proto::v1;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{
    convert::{
        self,
        event_type::{Update, built_in_reply, create, registered, reply, update},
    },
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{
    clock::Clock,
    limits::{EVENT_TYPES_PAGE_SIZE_DEFAULT, PAGE_BYTES},
    model::{catalogue, event_type::EventType, ids::Tenant},
    store::{ConfigAnswer, ConfigChange, Store},
};

/// How often an update that wants the event type as it is looks again when it has changed meanwhile.
const UPDATE_TRIES: usize = 8;
/// In page tokens, built-in event types are counted up to this, and registered ones go on from here.
const REGISTERED_FROM: u64 = 1 << 16;

/// Manages event types.
pub(super) struct EventTypeService {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::event_type_service_server::EventTypeService for EventTypeService {
    async fn create_event_type(
        &self,
        request: Request<v1::CreateEventTypeRequest>,
    ) -> Result<Response<v1::CreateEventTypeResponse>, Status> {
        refuse_if(&self.stop)?;
        let (key, content) = create(request.into_inner())?;
        let change = ConfigChange::CreateEventType { key, content, time: self.clock.now() };
        let event_type = self.put(change).await?;
        tell(&event_type, "created an event type");
        Ok(Response::new(v1::CreateEventTypeResponse { event_type: Some(reply(&event_type)) }))
    }

    async fn update_event_type(
        &self,
        request: Request<v1::UpdateEventTypeRequest>,
    ) -> Result<Response<v1::UpdateEventTypeResponse>, Status> {
        refuse_if(&self.stop)?;
        let event_type = self.update(&update(request.into_inner())?).await?;
        tell(&event_type, "updated an event type");
        Ok(Response::new(v1::UpdateEventTypeResponse { event_type: Some(reply(&event_type)) }))
    }

    async fn delete_event_type(
        &self,
        request: Request<v1::DeleteEventTypeRequest>,
    ) -> Result<Response<v1::DeleteEventTypeResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let key = registered(&request.tenant, &request.name)?;
        let known = self.store.catalog().find_event_type(&key).ok_or_else(Failure::event_type_not_found)?;
        let guarded = !request.etag.is_empty();
        if guarded && request.etag != known.etag() {
            return Err(Failure::event_type_etag_mismatch().into());
        }
        // The store looks again: the event type may change between here and there.
        let change = ConfigChange::DeleteEventType { key, expect: guarded.then_some(known.version) };
        let answer = self.store.put_config(change).await.map_err(Failure::from)?;
        let ConfigAnswer::EventTypeDeleted = answer else { return Err(refusal(&answer).into()) };
        tell(&known, "deleted an event type");
        Ok(Response::new(v1::DeleteEventTypeResponse {}))
    }

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

        let tenant = tenant.expect("no violations");
        let mut rest = self.after(&tenant, after.unwrap_or(0), size + 1).into_iter();
        let (mut event_types, mut last, mut bytes) = (Vec::new(), None, 0);
        while event_types.len() < size
            && bytes <= PAGE_BYTES
            && let Some((place, event_type)) = rest.next()
        {
            bytes += event_type.encoded_len();
            last = Some(place);
            event_types.push(event_type);
        }
        let more = rest.next().is_some();
        let next_page_token = last.filter(|_| more).map_or_else(String::new, |last| scope.counted_token(sealer, last));
        Ok(Response::new(v1::ListEventTypesResponse { event_types, next_page_token }))
    }
}

impl EventTypeService {
    /// Event types after a place, each with its own.
    fn after(&self, tenant: &Tenant, after: u64, limit: usize) -> Vec<(u64, v1::EventType)> {
        let built_in = (1..).zip(catalogue::all()).skip_while(|(place, _)| *place <= after);
        let mut found: Vec<_> = built_in.take(limit).map(|(place, known)| (place, built_in_reply(known))).collect();
        let registered = after.saturating_sub(REGISTERED_FROM);
        let registered = self.store.catalog().event_types(tenant, registered, limit - found.len());
        found.extend(registered.iter().map(|known| (REGISTERED_FROM + known.no, reply(known))));
        found
    }

    async fn put(&self, change: ConfigChange) -> Result<EventType, Failure> {
        let answer = self.store.put_config(change).await?;
        if let ConfigAnswer::EventTypePut(event_type) = answer { Ok(event_type) } else { Err(refusal(&answer)) }
    }

    /// Changes the event type as it is, and again as it is then if it changes meanwhile, unless the caller wants it as it saw it.
    async fn update(&self, update: &Update) -> Result<EventType, Failure> {
        for _ in 0..UPDATE_TRIES {
            let known = self.store.catalog().find_event_type(&update.key).ok_or_else(Failure::event_type_not_found)?;
            if !update.etag.is_empty() && update.etag != known.etag() {
                return Err(Failure::event_type_etag_mismatch());
            }
            let (key, content) = (update.key.clone(), update.apply(&known)?);
            let change = ConfigChange::UpdateEventType { key, expect: known.version, content, time: self.clock.now() };
            let answer = self.store.put_config(change).await?;
            if let ConfigAnswer::EventTypePut(event_type) = answer {
                return Ok(event_type);
            }
            if !matches!(answer, ConfigAnswer::VersionMismatch) {
                return Err(refusal(&answer));
            }
        }
        Err(Failure::event_type_etag_mismatch())
    }
}

fn tell(event_type: &EventType, what: &str) {
    let tenant = event_type.key.tenant.as_ref().map_or("-", Tenant::as_str);
    info!(event_type.name = %event_type.key.name, tenant, version = event_type.version, "{what}");
}

fn refusal(answer: &ConfigAnswer) -> Failure {
    match answer {
        ConfigAnswer::NotFound => Failure::event_type_not_found(),
        ConfigAnswer::VersionMismatch => Failure::event_type_etag_mismatch(),
        ConfigAnswer::EventTypeExists => Failure::event_type_exists(),
        ConfigAnswer::EventTypeInUse { webhooks } => Failure::event_type_in_use(*webhooks),
        ConfigAnswer::TenantBeingErased => Failure::tenant_being_erased(),
        ConfigAnswer::TooManyEventTypes => Failure::too_many_event_types(),
        ConfigAnswer::Created(_)
        | ConfigAnswer::Updated(_)
        | ConfigAnswer::Deleted { .. }
        | ConfigAnswer::EventTypePut(_)
        | ConfigAnswer::Key(_)
        | ConfigAnswer::Quota(_)
        | ConfigAnswer::OverQuota(_)
        | ConfigAnswer::EventTypeDeleted
        | ConfigAnswer::UnknownEventType(_)
        | ConfigAnswer::RequestReused
        | ConfigAnswer::TooManyWebhooks
        | ConfigAnswer::TooMuchTls { .. } => Failure::store_confused(),
    }
}
