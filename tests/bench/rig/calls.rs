//! Single calls to the daemon.

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use postrider_proto::v1::{
    CreateWebhookRequest, Event, PublishEventRequest, Webhook, event::Payload,
    event_service_client::EventServiceClient, publish_event_response::Result as Reply,
    webhook_service_client::WebhookServiceClient,
};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use crate::{
    moment::now_micros,
    payload::{self, BODY_BYTES},
    spread::Spread,
};

/// Calls at a time: below what the daemon allows on one connection.
const CALLS: usize = 100;

/// A webhook that exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// Whose it is.
    pub(crate) tenant: String,
    /// What the daemon calls it.
    pub(crate) id: String,
}

/// A connection to the daemon.
pub(crate) async fn connect(endpoint: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect().await?)
}

/// Creates all webhooks of `spread` at the receiver on `port`.
pub(super) async fn create_webhooks(endpoint: &str, spread: &Spread, port: u16) -> Result<Vec<Hook>> {
    let client = WebhookServiceClient::new(connect(endpoint).await?);
    let all = (0..spread.places).flat_map(|place| (0..spread.copies).map(move |copy| (place, copy)));
    let calls = all.map(|(place, copy)| {
        let webhook = Webhook {
            tenant: spread.tenant(place.into()),
            url: spread.url(place, copy, port),
            event_types: vec![spread.event_type(place.into()).to_owned()],
            ..Webhook::default()
        };
        let request = CreateWebhookRequest { webhook: Some(webhook), ..CreateWebhookRequest::default() };
        let mut client = client.clone();
        async move {
            let created = client.create_webhook(request).await?.into_inner().webhook;
            created.map(|webhook| Hook { tenant: webhook.tenant, id: webhook.id }).context("a reply without a webhook")
        }
    });
    stream::iter(calls).buffer_unordered(CALLS).try_collect().await
}

/// Publishes event `number` of 1 KiB; returns to how many webhooks it goes.
pub(super) async fn publish_one(endpoint: &str, spread: &Spread, number: u64) -> Result<u64> {
    let event = Event {
        tenant: spread.tenant(number),
        r#type: spread.event_type(number).to_owned(),
        payload: Some(Payload::Body(payload::body(number, now_micros(), BODY_BYTES))),
        ..Event::default()
    };
    let mut client = EventServiceClient::new(connect(endpoint).await?);
    let reply = client.publish_event(PublishEventRequest { event: Some(event) }).await?.into_inner();
    match reply.result {
        Some(Reply::Accepted(accepted)) => Ok(u64::try_from(accepted.deliveries)?),
        Some(Reply::Rejected(status)) => bail!("an event was rejected: {}", status.message),
        None => bail!("a reply without a result"),
    }
}
