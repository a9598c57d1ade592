//! Creating a webhook twice by accident.

use postrider_proto::v1::{CreateWebhookRequest, ListWebhooksRequest};
use postrider_tests::{client::webhook, rejection::Rejection};
use tonic::Code;

use crate::setup;

/// Contract: the same `request_id` with the same request returns the first reply, secret included, also after a crash;
/// with another request it is refused; tenants do not share ids.
#[tokio::test]
async fn a_request_id_makes_create_idempotent() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let request = |tenant: &str, url: &str| CreateWebhookRequest {
        webhook: Some(webhook(tenant, url, &["ADD_TAG"])),
        request_id: "req-1".into(),
        ..CreateWebhookRequest::default()
    };
    let url = "https://receiver.invalid/a";
    let mut webhooks = client.webhooks.clone();
    let first = webhooks.create_webhook(request("", url)).await.expect("it is created").into_inner();
    let again = webhooks.create_webhook(request("", url)).await.expect("it is repeated").into_inner();
    assert_eq!(again, first);
    let other = webhooks.create_webhook(request("", "https://receiver.invalid/b")).await.expect_err("another request");
    Rejection::from(&other).check("another request", Code::AlreadyExists, "REQUEST_ID_REUSED", "");
    let tenant = webhooks.create_webhook(request("other", url)).await.expect("ids belong to tenants").into_inner();
    assert_ne!(tenant.signing_secret, first.signing_secret);

    daemon.kill().await;
    let daemon = setup.start().await;
    let mut webhooks = daemon.client().await.webhooks;
    let after = webhooks.create_webhook(request("", url)).await.expect("it is repeated").into_inner();
    assert_eq!(after, first);
    let listed = webhooks.list_webhooks(ListWebhooksRequest::default()).await.expect("webhooks can be listed");
    assert_eq!(listed.into_inner().webhooks.len(), 1);
}
