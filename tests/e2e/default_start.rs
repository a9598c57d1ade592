//! A daemon that was told nothing but where to listen and to store.

use postrider_proto::v1::CreateWebhookRequest;
use postrider_tests::{client::webhook, daemon::Setup, rejection::Rejection};
use tonic::Code;

use crate::BINARY;

/// Done-item 1 and promise 6: it serves without further flags, and its defaults let nobody reach the loopback interface.
#[tokio::test]
async fn it_serves_and_its_defaults_are_safe() {
    let daemon = Setup::bare(BINARY).start().await;
    let client = daemon.client().await;
    let forbidden = [
        "http://127.0.0.1:1/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://2130706433/",
        "https://[::ffff:127.0.0.1]/",
    ];
    for url in forbidden {
        let request =
            CreateWebhookRequest { webhook: Some(webhook("", url, &["*"])), ..CreateWebhookRequest::default() };
        let status = client.webhooks.clone().create_webhook(request).await.expect_err("it is forbidden");
        Rejection::from(&status).check(url, Code::InvalidArgument, "URL_NOT_ALLOWED", "webhook.url");
    }
    // A name that does not resolve now may resolve later; it is judged at each attempt.
    let created = client.create("https://Receiver.Invalid/hook", &["ADD_TAG"]).await;
    assert_eq!(created.webhook.url, "https://receiver.invalid/hook");
    assert!(created.secret.starts_with("whsec_"));
    daemon.stop().await;
}
