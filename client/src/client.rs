//! Calls of the API.

use std::{future::Future, pin::Pin, time::Duration};

use futures::stream::{self, Stream, TryStreamExt as _};
use tonic::{Code, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    Batches, ClientBuilder, Error, PublishError, Publisher, PublisherConfig, Receipt, Watch, WatchConfig,
    credentials::Credentials,
    publisher::{check_size, ensure_id, receipt},
    v1::{
        AuditEntry, CancelDeliveriesRequest, Clock, ConfirmClockRequest, CreateEventTypeRequest, CreateKeyRequest,
        CreateKeyResponse, CreateWebhookRequest, CreateWebhookResponse, DeleteEventTypeRequest, DeleteWebhookRequest,
        Delivery, EraseEventRequest, EraseTenantRequest, Erasure, Event, EventType, ExplainEventRequest,
        ExplainEventResponse, GetClockRequest, GetDeliveryRequest, GetDeliveryResponse, GetErasureRequest,
        GetEventRequest, GetEventResponse, GetWebhookRequest, Key, ListAuditEntriesRequest, ListAuditEntriesResponse,
        ListDeliveriesRequest, ListDeliveriesResponse, ListEventTypesRequest, ListEventTypesResponse, ListKeysRequest,
        ListKeysResponse, ListWebhooksRequest, ListWebhooksResponse, Outcome, PublishEventRequest,
        RetryDeliveryRequest, RevokeKeyRequest, RotateSecretRequest, RotateSecretResponse, SendTestEventRequest,
        UpdateEventTypeRequest, UpdateWebhookRequest, WatchDeliveriesRequest, Webhook, WebhookMatch,
        audit_service_client::AuditServiceClient, clock_service_client::ClockServiceClient,
        delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
        event_type_service_client::EventTypeServiceClient, key_service_client::KeyServiceClient,
        publish_event_response, tenant_service_client::TenantServiceClient,
        webhook_service_client::WebhookServiceClient,
    },
};

/// What calls are made over.
pub(crate) type Transport = InterceptedService<Channel, Credentials>;

/// Largest reply taken: a full page of the widest webhooks is above tonic's default of 4 MiB.
pub(crate) const REPLY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A client of one Postrider server. Cheap to clone; clones share the connection.
///
/// Requests are those of the contract; a `tenant` left empty becomes the client's.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) channel: Channel,
    pub(crate) credentials: Credentials,
    pub(crate) tenant: String,
    pub(crate) timeout: Duration,
}

impl Client {
    /// A client with defaults for the server at `endpoint`, such as `http://127.0.0.1:50051`; see
    /// [`ClientBuilder::connect_lazy`].
    pub fn connect_lazy(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::builder(endpoint).connect_lazy()
    }

    /// Starts from the defaults for the server at `endpoint`.
    pub fn builder(endpoint: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(endpoint.into())
    }

    /// A client over a channel of your own making: another transport, TLS, a test.
    pub fn from_channel(channel: Channel) -> Self {
        let (credentials, tenant) = (Credentials::default(), String::new());
        Self { channel, credentials, tenant, timeout: Duration::from_secs(30) }
    }

    /// The same client with an API key (`prk_…`). Fails with `INVALID_ARGUMENT` if it cannot be one.
    pub fn with_api_key(&self, key: &str) -> Result<Self, Error> {
        Ok(Self { credentials: Credentials::api_key(key)?, ..self.clone() })
    }

    /// The same client for another tenant.
    #[must_use]
    pub fn for_tenant(&self, tenant: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), ..self.clone() }
    }

    // --- Webhooks ---------------------------------------------------------------------------------------------------

    /// Registers a webhook. The reply holds its signing secret, this once. Set `request_id` to make a retry safe.
    pub async fn create_webhook(&self, mut request: CreateWebhookRequest) -> Result<CreateWebhookResponse, Error> {
        let webhook = request.webhook.get_or_insert_default();
        webhook.tenant = self.tenant_or(std::mem::take(&mut webhook.tenant));
        self.call(self.webhook_service().create_webhook(request)).await
    }

    /// Reads one webhook. `NOT_FOUND` if this tenant has none of that id.
    pub async fn webhook(&self, id: impl Into<String>) -> Result<Webhook, Error> {
        let request = GetWebhookRequest { tenant: self.tenant.clone(), id: id.into() };
        let reply = self.call(self.webhook_service().get_webhook(request)).await?;
        reply.webhook.ok_or_else(|| incomplete("webhook"))
    }

    /// Reads one page of webhooks, oldest first unless the request says otherwise. A page may be short, even empty, and not the last.
    pub async fn list_webhooks(&self, mut request: ListWebhooksRequest) -> Result<ListWebhooksResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.webhook_service().list_webhooks(request)).await
    }

    /// All webhooks, oldest first, read page by page as the stream is.
    pub fn webhooks(&self) -> Pages<'_, Webhook> {
        self.find_webhooks(ListWebhooksRequest::default())
    }

    /// All webhooks that pass the request's filters, in its order, read page by page as the stream is.
    pub fn find_webhooks(&self, request: ListWebhooksRequest) -> Pages<'_, Webhook> {
        pages(move |page_token| {
            let request = ListWebhooksRequest { page_token, ..request.clone() };
            async move {
                let page = self.list_webhooks(request).await?;
                Ok((page.webhooks, page.next_page_token))
            }
        })
    }

    /// Changes a webhook: the fields that the mask names, or without one those that are not empty. An `etag` in the webhook guards
    /// against concurrent changes (`ABORTED`).
    pub async fn update_webhook(&self, mut request: UpdateWebhookRequest) -> Result<Webhook, Error> {
        let webhook = request.webhook.get_or_insert_default();
        webhook.tenant = self.tenant_or(std::mem::take(&mut webhook.tenant));
        let reply = self.call(self.webhook_service().update_webhook(request)).await?;
        reply.webhook.ok_or_else(|| incomplete("webhook"))
    }

    /// Replaces what signs a webhook's deliveries. The reply holds the new secret, this once; under `STANDARD_V1A` it holds none, and
    /// the webhook its new public key.
    pub async fn rotate_secret(&self, mut request: RotateSecretRequest) -> Result<RotateSecretResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.webhook_service().rotate_secret(request)).await
    }

    /// Sends an event type's example to a webhook, once, and says what that led to. Takes as long as the attempt.
    pub async fn send_test_event(
        &self,
        id: impl Into<String>,
        event_type: impl Into<String>,
    ) -> Result<Outcome, Error> {
        let request =
            SendTestEventRequest { tenant: self.tenant.clone(), id: id.into(), event_type: event_type.into() };
        let reply = self.call(self.webhook_service().send_test_event(request)).await?;
        reply.outcome.ok_or_else(|| incomplete("outcome"))
    }

    /// Deletes a webhook for good, and says how many pending deliveries were cancelled with it.
    ///
    /// `etag`: delete only if it is still the webhook's present one (`ABORTED` otherwise); empty: whatever it is.
    pub async fn delete_webhook(&self, id: impl Into<String>, etag: impl Into<String>) -> Result<i64, Error> {
        let request = DeleteWebhookRequest { tenant: self.tenant.clone(), id: id.into(), etag: etag.into() };
        let reply = self.call(self.webhook_service().delete_webhook(request)).await?;
        Ok(reply.cancelled_deliveries)
    }

    // --- Event types ------------------------------------------------------------------------------------------------

    /// Reads one page of event types, in catalogue order.
    pub async fn list_event_types(&self, mut request: ListEventTypesRequest) -> Result<ListEventTypesResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.event_type_service().list_event_types(request)).await
    }

    /// Registers an event type. A tenant left empty becomes the client's; `-` is every tenant's.
    pub async fn create_event_type(&self, mut event_type: EventType) -> Result<EventType, Error> {
        event_type.tenant = self.tenant_or(event_type.tenant);
        let request = CreateEventTypeRequest { event_type: Some(event_type) };
        let reply = self.call(self.event_type_service().create_event_type(request)).await?;
        reply.event_type.ok_or_else(|| incomplete("event_type"))
    }

    /// Changes a registered event type. `NOT_FOUND` if there is none of that name, `ABORTED` if its etag is given and has changed.
    pub async fn update_event_type(&self, mut request: UpdateEventTypeRequest) -> Result<EventType, Error> {
        let event_type = request.event_type.get_or_insert_default();
        event_type.tenant = self.tenant_or(std::mem::take(&mut event_type.tenant));
        let reply = self.call(self.event_type_service().update_event_type(request)).await?;
        reply.event_type.ok_or_else(|| incomplete("event_type"))
    }

    /// Deletes a registered event type that no webhook names (`FAILED_PRECONDITION` otherwise).
    pub async fn delete_event_type(&self, mut request: DeleteEventTypeRequest) -> Result<(), Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.event_type_service().delete_event_type(request)).await?;
        Ok(())
    }

    /// All event types, in catalogue order, read page by page as the stream is.
    pub fn event_types(&self) -> Pages<'_, EventType> {
        pages(move |page_token| async move {
            let page = self.list_event_types(ListEventTypesRequest { page_token, ..Default::default() }).await?;
            Ok((page.event_types, page.next_page_token))
        })
    }

    // --- Events -----------------------------------------------------------------------------------------------------

    /// Publishes one event, once. An event without an id is given one; publishing it again under the id that the error
    /// names is safe. For more than a few events use a [`Publisher`].
    pub async fn publish_event(&self, mut event: Event) -> Result<Receipt, PublishError> {
        event.tenant = self.tenant_or(event.tenant);
        ensure_id(&mut event);
        let event_id = event.id.clone();
        let request = PublishEventRequest { event: Some(event) };
        check_size(&request, request.event.as_ref().expect("just set"))?;
        let mut service = self.event_service();
        match self.call(service.publish_event(request)).await {
            Ok(reply) => {
                let result = reply.result.map(|result| match result {
                    publish_event_response::Result::Accepted(accepted) => Ok(accepted),
                    publish_event_response::Result::Rejected(status) => Err(status.into()),
                });
                receipt(&event_id, result)
            }
            Err(error) => Err(PublishError::Unanswered { event_id, error: Some(error) }),
        }
    }

    /// Reads one page of what webhooks say about an event, oldest webhooks first. A page may be short, and not the last.
    pub async fn explain_event(&self, mut request: ExplainEventRequest) -> Result<ExplainEventResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        let mut service = self.event_service().max_decoding_message_size(REPLY_BYTES_MAX);
        self.call(service.explain_event(request)).await
    }

    /// What every webhook says about an event, oldest webhooks first, read page by page as the stream is.
    pub fn explanations(&self, request: ExplainEventRequest) -> Pages<'_, WebhookMatch> {
        pages(move |page_token| {
            let request = ExplainEventRequest { page_token, ..request.clone() };
            async move {
                let page = self.explain_event(request).await?;
                Ok((page.matches, page.next_page_token))
            }
        })
    }

    /// Reads one event with its body. `NOT_FOUND` if this tenant has none of that id, `OUT_OF_RANGE` if it is known to be no
    /// longer retained.
    pub async fn event(&self, id: impl Into<String>) -> Result<GetEventResponse, Error> {
        let request = GetEventRequest { tenant: self.tenant.clone(), id: id.into() };
        self.call(self.event_service().get_event(request)).await
    }

    /// Erases one event for good, with its deliveries and what receivers answered. Nobody reads it once this returns; see
    /// [`Self::erasure`] for its bytes. `NOT_FOUND` if this tenant has no such event.
    pub async fn erase_event(&self, id: impl Into<String>) -> Result<Erasure, Error> {
        let request = EraseEventRequest { tenant: self.tenant.clone(), id: id.into() };
        let reply = self.call(self.event_service().erase_event(request)).await?;
        reply.erasure.ok_or_else(|| incomplete("erasure"))
    }

    /// Starts a publisher. Must run inside a Tokio runtime.
    pub fn publisher(&self, config: PublisherConfig) -> Publisher {
        Publisher::start(self.clone(), config)
    }

    // --- Tenants ----------------------------------------------------------------------------------------------------

    /// Erases everything of a tenant for good: of the one that is named, never of the client's. Until that is finished the tenant can
    /// have nothing new. Set `request_id` to make a retry safe.
    pub async fn erase_tenant(&self, request: EraseTenantRequest) -> Result<Erasure, Error> {
        let reply = self.call(self.tenant_service().erase_tenant(request)).await?;
        reply.erasure.ok_or_else(|| incomplete("erasure"))
    }

    /// Says how far an erasure of this tenant, or of one of its events, has come. `NOT_FOUND` if it is not remembered.
    pub async fn erasure(&self, id: impl Into<String>) -> Result<Erasure, Error> {
        let request = GetErasureRequest { tenant: self.tenant.clone(), id: id.into() };
        let reply = self.call(self.tenant_service().get_erasure(request)).await?;
        reply.erasure.ok_or_else(|| incomplete("erasure"))
    }

    // --- Deliveries -------------------------------------------------------------------------------------------------

    /// Reads one delivery with its attempts. `NOT_FOUND` if this tenant never had one of that id, `OUT_OF_RANGE` if it is no longer
    /// retained.
    pub async fn delivery(&self, id: impl Into<String>) -> Result<GetDeliveryResponse, Error> {
        let request = GetDeliveryRequest { tenant: self.tenant.clone(), id: id.into() };
        self.call(self.delivery_service().get_delivery(request)).await
    }

    /// Reads one page of deliveries, those of the newest events first. A page may be short, even empty, and not the last.
    pub async fn list_deliveries(&self, mut request: ListDeliveriesRequest) -> Result<ListDeliveriesResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.delivery_service().list_deliveries(request)).await
    }

    /// All deliveries that pass the request's filters, newest events first, read page by page as the stream is.
    pub fn deliveries(&self, request: ListDeliveriesRequest) -> Pages<'_, Delivery> {
        pages(move |page_token| {
            let request = ListDeliveriesRequest { page_token, ..request.clone() };
            async move {
                let page = self.list_deliveries(request).await?;
                Ok((page.deliveries, page.next_page_token))
            }
        })
    }

    /// Makes the next attempt of a delivery due now, whatever became of it, and returns it as it stands then.
    pub async fn retry_delivery(&self, id: impl Into<String>) -> Result<Delivery, Error> {
        let request = RetryDeliveryRequest { tenant: self.tenant.clone(), id: id.into() };
        let reply = self.call(self.delivery_service().retry_delivery(request)).await?;
        reply.delivery.ok_or_else(|| incomplete("delivery"))
    }

    /// Cancels pending deliveries of a webhook, all of them unless the request names some, and says how many.
    pub async fn cancel_deliveries(&self, mut request: CancelDeliveriesRequest) -> Result<i64, Error> {
        request.tenant = self.tenant_or(request.tenant);
        let reply = self.call(self.delivery_service().cancel_deliveries(request)).await?;
        Ok(reply.cancelled_deliveries)
    }

    /// Follows outcomes one by one. The request's filters and `start` are those of the contract; see [`Watch`]. Must run
    /// inside a Tokio runtime.
    pub fn watch(&self, request: WatchDeliveriesRequest, config: WatchConfig) -> Watch {
        Watch::new(self.watch_batches(request, config))
    }

    /// Follows outcomes in batches, each with the place to go on from. Must run inside a Tokio runtime.
    pub fn watch_batches(&self, mut request: WatchDeliveriesRequest, config: WatchConfig) -> Batches {
        request.tenant = self.tenant_or(request.tenant);
        Batches::new(self.clone(), request, config)
    }

    // --- API keys ---------------------------------------------------------------------------------------------------

    /// Creates an API key. The reply holds its text, this once.
    pub async fn create_key(&self, key: Key) -> Result<CreateKeyResponse, Error> {
        self.call(self.key_service().create_key(CreateKeyRequest { key: Some(key) })).await
    }

    /// Reads one page of API keys, oldest first.
    pub async fn list_keys(&self, request: ListKeysRequest) -> Result<ListKeysResponse, Error> {
        self.call(self.key_service().list_keys(request)).await
    }

    /// All API keys, oldest first, read page by page as the stream is.
    pub fn keys(&self) -> Pages<'_, Key> {
        pages(move |page_token| async move {
            let page = self.list_keys(ListKeysRequest { page_token, ..Default::default() }).await?;
            Ok((page.keys, page.next_page_token))
        })
    }

    /// Revokes an API key for good. `NOT_FOUND` if there is none of that id.
    pub async fn revoke_key(&self, id: impl Into<String>) -> Result<(), Error> {
        self.call(self.key_service().revoke_key(RevokeKeyRequest { id: id.into() })).await?;
        Ok(())
    }

    // --- The clock --------------------------------------------------------------------------------------------------

    /// What the server's clock and its machine's show.
    pub async fn clock(&self) -> Result<Clock, Error> {
        Ok(self.call(self.clock_service().get_clock(GetClockRequest {})).await?.clock.unwrap_or_default())
    }

    /// Says that the machine's clock is right.
    pub async fn confirm_clock(&self) -> Result<Clock, Error> {
        Ok(self.call(self.clock_service().confirm_clock(ConfirmClockRequest {})).await?.clock.unwrap_or_default())
    }

    // --- Audit log --------------------------------------------------------------------------------------------------

    /// Reads one page of the audit log, newest first. A page may be short, even empty, and not the last.
    pub async fn list_audit_entries(
        &self,
        mut request: ListAuditEntriesRequest,
    ) -> Result<ListAuditEntriesResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.audit_service().list_audit_entries(request)).await
    }

    /// All entries of the audit log that pass the request's filters, newest first, read page by page as the stream is.
    pub fn audit_entries(&self, request: ListAuditEntriesRequest) -> Pages<'_, AuditEntry> {
        pages(move |page_token| {
            let request = ListAuditEntriesRequest { page_token, ..request.clone() };
            async move {
                let page = self.list_audit_entries(request).await?;
                Ok((page.entries, page.next_page_token))
            }
        })
    }

    // --- Plumbing ---------------------------------------------------------------------------------------------------

    pub(crate) fn tenant_or(&self, given: String) -> String {
        if given.is_empty() { self.tenant.clone() } else { given }
    }

    pub(crate) fn event_service(&self) -> EventServiceClient<Transport> {
        EventServiceClient::new(self.transport())
    }

    pub(crate) fn delivery_service(&self) -> DeliveryServiceClient<Transport> {
        DeliveryServiceClient::new(self.transport()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    fn event_type_service(&self) -> EventTypeServiceClient<Transport> {
        EventTypeServiceClient::new(self.transport()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    fn tenant_service(&self) -> TenantServiceClient<Transport> {
        TenantServiceClient::new(self.transport())
    }

    fn clock_service(&self) -> ClockServiceClient<Transport> {
        ClockServiceClient::new(self.transport())
    }

    fn key_service(&self) -> KeyServiceClient<Transport> {
        KeyServiceClient::new(self.transport()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    fn audit_service(&self) -> AuditServiceClient<Transport> {
        AuditServiceClient::new(self.transport()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    pub(crate) fn transport(&self) -> Transport {
        InterceptedService::new(self.channel.clone(), self.credentials.clone())
    }

    fn webhook_service(&self) -> WebhookServiceClient<Transport> {
        WebhookServiceClient::new(self.transport()).max_decoding_message_size(REPLY_BYTES_MAX)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) async fn call<T>(&self, reply: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, reply).await {
            Ok(reply) => Ok(reply?.into_inner()),
            Err(_) => {
                Err(Error::new(Code::DeadlineExceeded, format!("the server did not answer within {:?}", self.timeout)))
            }
        }
    }
}

/// Entries of a list, read page by page.
pub type Pages<'a, T> = Pin<Box<dyn Stream<Item = Result<T, Error>> + Send + 'a>>;

/// Follows page tokens from the first page (an empty token) to the last (an empty next token).
pub(crate) fn pages<'a, T, F>(page: impl Fn(String) -> F + Send + 'a) -> Pages<'a, T>
where
    T: Send + 'a,
    F: Future<Output = Result<(Vec<T>, String), Error>> + Send + 'a,
{
    let first = Some(String::new());
    let lists = stream::try_unfold((page, first), |(page, token)| async move {
        let Some(token) = token else { return Ok(None) };
        let (entries, next) = page(token).await?;
        let next = (!next.is_empty()).then_some(next);
        Ok::<_, Error>(Some((stream::iter(entries.into_iter().map(Ok)), (page, next))))
    });
    Box::pin(lists.try_flatten())
}

pub(crate) fn incomplete(field: &str) -> Error {
    Error::new(Code::Internal, format!("the server's reply lacks `{field}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn lists_are_read_to_the_last_page_past_empty_ones() {
        let page = |ids: &[&str], next: &str| ListDeliveriesResponse {
            deliveries: ids.iter().map(|id| Delivery { id: (*id).into(), ..Delivery::default() }).collect(),
            next_page_token: next.into(),
            ..ListDeliveriesResponse::default()
        };
        let fake = Fake::default();
        fake.state().pages.extend([page(&["a", "b"], "1"), page(&[], "2"), page(&["c"], "")]);
        let client = fake.serve().for_tenant("acme");
        let request = ListDeliveriesRequest { webhook_id: "wh".into(), ..Default::default() };
        let deliveries: Vec<Delivery> = client.deliveries(request).try_collect().await.unwrap();
        assert_eq!(deliveries.iter().map(|d| &d.id[..]).collect::<Vec<_>>(), ["a", "b", "c"]);
        let state = fake.state();
        assert!(state.listed.iter().all(|request| request.tenant == "acme" && request.webhook_id == "wh"));
        assert_eq!(state.listed.iter().map(|r| &r.page_token[..]).collect::<Vec<_>>(), ["", "1", "2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_ends() {
        let error = Fake::default().serve().delivery("dlv").await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(error.is_unreachable());
    }
}
