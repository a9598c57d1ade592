//! The contract's generated clients, with what most tests do in one call.

use std::collections::VecDeque;

use postrider_proto::v1::{
    AuditEntry, CreateWebhookRequest, Delivery, DeliveryState, DeliveryUpdate, Event, GetDeliveryRequest,
    GetDeliveryResponse, GetWebhookRequest, ListAuditEntriesRequest, ListDeliveriesRequest, Outcome,
    PublishEventsRequest, PublishEventsResponse, WatchDeliveriesRequest, WatchDeliveriesResponse, Webhook,
    audit_service_client::AuditServiceClient, clock_service_client::ClockServiceClient,
    delivery_service_client::DeliveryServiceClient, delivery_update::Update, event_service_client::EventServiceClient,
    event_type_service_client::EventTypeServiceClient, key_service_client::KeyServiceClient,
    publish_events_response::Result as Reply, quota_service_client::QuotaServiceClient,
    replay_service_client::ReplayServiceClient, tenant_service_client::TenantServiceClient,
    watch_deliveries_request::Start, webhook_service_client::WebhookServiceClient,
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{deadline::within, rejection::Rejection};

/// Shows an API key with every call, if it has one.
#[derive(Debug, Clone)]
pub struct Shows(Option<MetadataValue<Ascii>>);

impl Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// What calls are made over.
pub type Transport = InterceptedService<Channel, Shows>;

/// All services on one connection. The fields are for calls that a test wants to see fail; the methods expect success.
#[derive(Debug, Clone)]
pub struct Client {
    /// Webhooks.
    pub webhooks: WebhookServiceClient<Transport>,
    /// Event types.
    pub event_types: EventTypeServiceClient<Transport>,
    /// Publishing.
    pub events: EventServiceClient<Transport>,
    /// Deliveries and their outcomes.
    pub deliveries: DeliveryServiceClient<Transport>,
    /// Replays.
    pub replays: ReplayServiceClient<Transport>,
    /// API keys.
    pub keys: KeyServiceClient<Transport>,
    /// The clock.
    pub clock: ClockServiceClient<Transport>,
    /// Quotas.
    pub quotas: QuotaServiceClient<Transport>,
    /// What is everything of a tenant.
    pub tenants: TenantServiceClient<Transport>,
    /// Who did what.
    pub audit: AuditServiceClient<Transport>,
}

/// A webhook and what signs its deliveries.
#[derive(Debug, Clone)]
pub struct Created {
    /// As stored.
    pub webhook: Webhook,
    /// `whsec_…`.
    pub secret: String,
}

impl Created {
    /// The webhook's id.
    pub fn id(&self) -> String {
        self.webhook.id.clone()
    }
}

impl Client {
    /// Clients on `channel`.
    pub fn new(channel: Channel) -> Self {
        Self::on(InterceptedService::new(channel, Shows(None)))
    }

    /// Clients on `channel` that show this API key with every call.
    ///
    /// # Panics
    /// When no header can hold it.
    pub fn keyed(channel: Channel, key: &str) -> Self {
        let header = format!("Bearer {key}").parse().expect("a header can hold it");
        Self::on(InterceptedService::new(channel, Shows(Some(header))))
    }

    fn on(channel: Transport) -> Self {
        Self {
            webhooks: WebhookServiceClient::new(channel.clone()),
            event_types: EventTypeServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            deliveries: DeliveryServiceClient::new(channel.clone()),
            replays: ReplayServiceClient::new(channel.clone()),
            keys: KeyServiceClient::new(channel.clone()),
            clock: ClockServiceClient::new(channel.clone()),
            quotas: QuotaServiceClient::new(channel.clone()),
            tenants: TenantServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel),
        }
    }

    /// What the audit log has, newest first, on one page.
    pub async fn audited(&self, request: ListAuditEntriesRequest) -> Vec<AuditEntry> {
        let call = within("ListAuditEntries", async { self.audit.clone().list_audit_entries(request).await }).await;
        call.expect("the audit log is shown").into_inner().entries
    }

    /// Creates a webhook of the default tenant.
    pub async fn create(&self, url: &str, event_types: &[&str]) -> Created {
        self.create_for("", url, event_types).await
    }

    /// Creates a webhook of `tenant`.
    pub async fn create_for(&self, tenant: &str, url: &str, event_types: &[&str]) -> Created {
        self.create_as(webhook(tenant, url, event_types)).await
    }

    /// Creates a webhook as it is told.
    pub async fn create_as(&self, webhook: Webhook) -> Created {
        let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
        let call = within("CreateWebhook", async { self.webhooks.clone().create_webhook(request).await }).await;
        let response = call.expect("the webhook is created").into_inner();
        let webhook = response.webhook.expect("a reply holds the webhook");
        Created { webhook, secret: response.signing_secret }
    }

    /// Reads a webhook of the default tenant.
    pub async fn webhook(&self, id: &str) -> Webhook {
        let request = GetWebhookRequest { tenant: String::new(), id: id.to_owned() };
        let call = within("GetWebhook", async { self.webhooks.clone().get_webhook(request).await }).await;
        call.expect("the webhook exists").into_inner().webhook.expect("a reply holds the webhook")
    }

    /// Publishes `events` over one stream, as fast as it takes them, and returns the replies until it ended.
    pub async fn publish_all(
        &self,
        events: impl IntoIterator<Item = Event, IntoIter: Send + 'static>,
    ) -> (Vec<PublishEventsResponse>, Result<(), Status>) {
        let requests = events.into_iter().map(|event| PublishEventsRequest { event: Some(event) });
        let mut replies = Vec::new();
        let ended = async {
            let mut stream = self.events.clone().publish_events(tokio_stream::iter(requests)).await?.into_inner();
            while let Some(reply) = within("a reply to an event", stream.message()).await? {
                replies.push(reply);
            }
            Ok(())
        };
        let ended = ended.await;
        (replies, ended)
    }

    /// Publishes `events` over one stream, and returns to how many webhooks each goes.
    ///
    /// # Panics
    /// When one is not accepted, or was published before.
    pub async fn publish(&self, events: impl IntoIterator<Item = Event, IntoIter: Send + 'static>) -> Vec<i32> {
        let (replies, ended) = self.publish_all(events).await;
        ended.expect("the publish stream ends well");
        let deliveries = |reply: &PublishEventsResponse| match verdict(reply) {
            Verdict::Accepted { deliveries, duplicate: false } => deliveries,
            other @ (Verdict::Accepted { .. } | Verdict::Rejected(_)) => {
                panic!("event {} was not accepted as new: {other:?}", reply.event_id)
            }
        };
        replies.iter().map(deliveries).collect()
    }

    /// Follows all outcomes of the default tenant from now on; returns when the stream has its place.
    pub async fn watch(&self) -> Watcher {
        self.watch_with(WatchDeliveriesRequest::default()).await
    }

    /// Follows all outcomes of the default tenant from the oldest.
    pub async fn watch_from_beginning(&self) -> Watcher {
        let start = Some(Start::FromBeginning(true));
        self.watch_with(WatchDeliveriesRequest { start, ..WatchDeliveriesRequest::default() }).await
    }

    /// Follows what `request` asks for; returns when the stream has its place.
    pub async fn watch_with(&self, request: WatchDeliveriesRequest) -> Watcher {
        let call = within("WatchDeliveries", async { self.deliveries.clone().watch_deliveries(request).await }).await;
        let stream = call.expect("the watch opens").into_inner();
        let mut watcher = Watcher { stream, cursor: String::new(), updates: VecDeque::new() };
        let first =
            watcher.message().await.expect("a watch stream starts well").expect("a watch starts with a heartbeat");
        assert!(first.updates.is_empty(), "the first message is a heartbeat");
        assert!(!watcher.cursor.is_empty(), "every message has a cursor");
        watcher
    }

    /// All deliveries that `request` asks for, page by page.
    pub async fn deliveries(&self, request: ListDeliveriesRequest) -> Vec<Delivery> {
        let mut request = request;
        let mut all = Vec::new();
        loop {
            let next = request.clone();
            let call = within("ListDeliveries", async { self.deliveries.clone().list_deliveries(next).await }).await;
            let page = call.expect("deliveries can be listed").into_inner();
            all.extend(page.deliveries);
            if page.next_page_token.is_empty() {
                return all;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// One delivery of the default tenant with its attempts.
    pub async fn delivery(&self, id: &str) -> GetDeliveryResponse {
        let request = GetDeliveryRequest { tenant: String::new(), id: id.to_owned() };
        let call = within("GetDelivery", async { self.deliveries.clone().get_delivery(request).await }).await;
        call.expect("the delivery exists").into_inner()
    }
}

/// A webhook to create.
pub fn webhook(tenant: &str, url: &str, event_types: &[&str]) -> Webhook {
    Webhook {
        tenant: tenant.to_owned(),
        url: url.to_owned(),
        event_types: event_types.iter().map(|&name| name.to_owned()).collect(),
        ..Webhook::default()
    }
}

/// What became of a published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored.
    Accepted {
        /// How many webhooks it goes to.
        deliveries: i32,
        /// Whether it was published before.
        duplicate: bool,
    },
    /// It is not.
    Rejected(Rejection),
}

/// What `reply` says.
///
/// # Panics
/// When it says nothing.
pub fn verdict(reply: &PublishEventsResponse) -> Verdict {
    match reply.result.as_ref().expect("a reply has a result") {
        Reply::Accepted(accepted) => {
            Verdict::Accepted { deliveries: accepted.deliveries, duplicate: accepted.duplicate }
        }
        Reply::Rejected(status) => Verdict::Rejected(Rejection::from(status)),
    }
}

/// A stream of outcomes.
#[derive(Debug)]
pub struct Watcher {
    stream: Streaming<WatchDeliveriesResponse>,
    cursor: String,
    updates: VecDeque<DeliveryUpdate>,
}

impl Watcher {
    /// The next message; heartbeats come every 15 s, so there is always one.
    pub async fn message(&mut self) -> Result<Option<WatchDeliveriesResponse>, Status> {
        let message = within("a message of the watch stream", self.stream.message()).await?;
        if let Some(message) = &message {
            self.cursor.clone_from(&message.cursor);
        }
        Ok(message)
    }

    /// The cursor of the last message: the place after all its updates, those not yet taken included.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// Whether the last message has updates that were not yet taken.
    pub fn has_unread(&self) -> bool {
        !self.updates.is_empty()
    }

    /// The next update, past heartbeats.
    ///
    /// # Panics
    /// When none comes in time, or the stream ends.
    pub async fn update(&mut self) -> Update {
        let next = async {
            while self.updates.is_empty() {
                let message = self.message().await.expect("the watch goes on").expect("the watch goes on");
                self.updates.extend(message.updates);
            }
        };
        within("an update on the watch stream", next).await;
        let update = self.updates.pop_front().expect("it is not empty");
        update.update.expect("an update says what happened")
    }

    /// The next `n` outcomes.
    ///
    /// # Panics
    /// When something else comes, or they do not come in time.
    pub async fn outcomes(&mut self, n: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while outcomes.len() < n {
            match self.update().await {
                Update::Outcome(outcome) => outcomes.push(outcome),
                other @ (Update::WebhookCancelled(_) | Update::OperationalEvent(_)) => {
                    panic!("expected an outcome, got {other:?}")
                }
            }
        }
        outcomes
    }

    /// The next outcome, which must have led to `state`.
    pub async fn outcome(&mut self, state: DeliveryState) -> Outcome {
        let outcome = self.outcomes(1).await.remove(0);
        assert_eq!(outcome.state(), state, "{outcome:?}");
        outcome
    }
}

/// An attempt as watchers are told of it: without what the receiver answered and what it was like.
pub fn as_watched(attempt: Outcome) -> Outcome {
    Outcome {
        response_body: Vec::new(),
        timings: None,
        remote_address: String::new(),
        response_headers: Vec::new(),
        omitted_response_headers: 0,
        ..attempt
    }
}
