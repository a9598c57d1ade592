//! Creating webhooks, thousands of them if need be.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use postrider_proto::v1::{CreateWebhookRequest, Webhook, webhook_service_client::WebhookServiceClient};
use tonic::transport::Endpoint;

use crate::spread::Spread;

/// Calls at a time: below what the daemon allows on one connection.
const CALLS: usize = 100;

/// Creates all webhooks of `spread` at the receiver on `port`.
pub(super) async fn create(endpoint: &str, spread: &Spread, port: u16) -> Result<()> {
    let channel = Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true).connect().await?;
    let client = WebhookServiceClient::new(channel);
    let all = (0..spread.places).flat_map(|place| (0..spread.copies).map(move |copy| (place, copy)));
    let calls = all.map(|(place, copy)| {
        let webhook = Webhook {
            tenant: spread.tenant(place.into()),
            url: spread.url(place, copy, port),
            event_types: vec![spread.event_type(place.into()).to_owned()],
            ..Webhook::default()
        };
        let request = CreateWebhookRequest { webhook: Some(webhook), request_id: String::new() };
        let mut client = client.clone();
        async move { client.create_webhook(request).await }
    });
    let mut calls = stream::iter(calls).buffer_unordered(CALLS);
    while calls.try_next().await?.is_some() {}
    Ok(())
}
