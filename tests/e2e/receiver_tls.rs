//! TLS with receivers: authorities and client certificates of a webhook's own, and the operator's authorities.

use std::fs;

use postrider_proto::v1::{
    DeliveryState, ErrorClass, GetWebhookRequest, Outcome, TlsSettings, UpdateWebhookRequest, Webhook,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::PATIENCE,
    events::event,
    receiver::Receiver,
    rejection::Rejection,
    tls::{Authority, Pair, TlsFront, der},
};
use prost_types::FieldMask;
use tonic::Status;

use crate::{patient, setup};

/// A certificate of X.509 version 1, and its key.
const VERSION_1: (&str, &str) = (
    include_str!("../../server/src/model/tls/samples/version-1.pem"),
    include_str!("../../server/src/model/tls/samples/version-1.key"),
);

fn tls(authority: &str, (certificate, key): (&str, &str)) -> TlsSettings {
    TlsSettings {
        ca_certificates: authority.to_owned(),
        client_certificate: certificate.to_owned(),
        client_key: key.to_owned(),
        ..TlsSettings::default()
    }
}

fn identity((certificate, key): &Pair) -> (&str, &str) {
    (certificate, key)
}

async fn update(client: &Client, id: &str, tls: Option<TlsSettings>) -> Result<Webhook, Status> {
    let webhook = Webhook { id: id.to_owned(), tls, ..Webhook::default() };
    let update_mask = Some(FieldMask { paths: vec!["tls".into()] });
    let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask, ..UpdateWebhookRequest::default() };
    let reply = client.webhooks.clone().update_webhook(request).await?.into_inner();
    Ok(reply.webhook.expect("the webhook"))
}

fn is_tls_failure(outcome: &Outcome, says: &str) {
    assert_eq!((outcome.error_class(), outcome.http_status), (ErrorClass::Tls, 0), "{outcome:?}");
    assert!(outcome.error.contains(says), "{outcome:?}");
}

/// Issue 5, custom CA roots and client certificates per webhook: what a webhook names counts for it and for no other, from the next
/// attempt on, over a restart; and failures are told as such.
#[tokio::test]
async fn each_webhook_has_its_own_authorities_and_certificate() {
    let [servers, clients, others] = ["servers", "clients", "others"].map(Authority::new);
    let receiver = Receiver::answering(200).await;
    let front = TlsFront::start(&servers, Some(&clients), receiver.address()).await;
    let (first, second, foreign) = (clients.issue("first.test"), clients.issue("second.test"), others.issue("x.test"));
    let setup = patient();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let told =
        Webhook { tls: Some(tls(&servers.pem, identity(&first))), ..webhook("", &front.url("/own"), &["ADD_TAG"]) };
    let created = client.create_as(told).await;
    let id = created.id();
    let plain = client.create(&front.url("/plain"), &["NEW_LEAD"]).await;
    let shown = created.webhook.tls.clone().expect("it is shown");
    assert_eq!((der(&shown.ca_certificates), der(&shown.client_certificate)), (der(&servers.pem), der(&first.0)));
    assert_eq!(shown.client_key, "***");
    assert!(shown.client_certificate_expire_time.is_some(), "{shown:?}");

    let mut watch = client.watch().await;
    client.publish([event("e1", "ADD_TAG", "{}")]).await;
    watch.outcome(DeliveryState::Delivered).await;
    assert_eq!(front.shown(), [Some(der(&first.0))]);
    client.publish([event("e2", "NEW_LEAD", "{}")]).await;
    let outcome = watch.outcome(DeliveryState::Pending).await;
    assert_eq!(outcome.webhook_id, plain.id());
    is_tls_failure(&outcome, "not from an authority that is trusted");

    // Another certificate counts from the next attempt on, and another key alone does not fit.
    let renewed = update(&client, &id, Some(tls(&servers.pem, identity(&second)))).await.expect("it is updated");
    assert_ne!(renewed.etag, created.webhook.etag);
    client.publish([event("e3", "ADD_TAG", "{}")]).await;
    watch.outcome(DeliveryState::Delivered).await;
    assert_eq!(front.shown()[1..], [Some(der(&second.0))], "the connection of the first one is not used");
    let refused = update(&client, &id, Some(tls(&servers.pem, (&first.0, "***")))).await.expect_err("it does not fit");
    assert_eq!(Rejection::from(&refused).fields, ["webhook.tls.client_key"]);

    // The key stays where it is said so, and over a restart.
    let kept = update(&client, &id, Some(tls(&servers.pem, (&second.0, "***")))).await.expect("it is updated");
    assert_eq!(kept.etag, renewed.etag, "nothing has changed");
    daemon.stop().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    assert_eq!(client.webhook(&id).await.tls, kept.tls);
    let mut watch = client.watch().await;
    client.publish([event("e4", "ADD_TAG", "{}")]).await;
    watch.outcome(DeliveryState::Delivered).await;
    assert_eq!(front.shown()[2..], [Some(der(&second.0))]);

    // One that the receiver does not take, none at all, and another authority.
    for (settings, says) in [
        (tls(&servers.pem, identity(&foreign)), "client certificate"),
        (tls(&servers.pem, ("", "")), "client certificate"),
        (tls(&others.pem, identity(&second)), "not from an authority that is trusted"),
    ] {
        update(&client, &id, Some(settings)).await.expect("it is updated");
        client.publish([event("", "ADD_TAG", "{}")]).await;
        is_tls_failure(&watch.outcome(DeliveryState::Pending).await, says);
    }
    assert_eq!(update(&client, &id, None).await.expect("it is updated").tls, None);
    assert_eq!(receiver.count(), 3);
    let get = GetWebhookRequest { id, ..GetWebhookRequest::default() };
    assert_eq!(
        client.webhooks.clone().get_webhook(get).await.expect("it is there").into_inner().webhook.expect("it").tls,
        None
    );
}

/// Issue 5: what cannot be used is refused, by its field, and without repeating what was given.
#[tokio::test]
async fn what_cannot_be_used_is_refused_by_name() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let authority = Authority::new("any");
    let (pair, other) = (authority.issue("a.test"), authority.issue("b.test"));
    let created = client.create("https://receiver.invalid/", &["*"]).await;
    for (settings, field) in [
        (tls("s3cret", ("", "")), "webhook.tls.ca_certificates"),
        (tls(&pair.1, ("", "")), "webhook.tls.ca_certificates"),
        (tls(&authority.pem.repeat(17), ("", "")), "webhook.tls.ca_certificates"),
        (tls("", (&pair.0, "")), "webhook.tls.client_key"),
        (tls("", (&pair.0, "s3cret")), "webhook.tls.client_key"),
        (tls("", (&pair.0, &other.1)), "webhook.tls.client_key"),
        (tls("", (&pair.0, "***")), "webhook.tls.client_key"),
        (tls("", ("", &pair.1)), "webhook.tls.client_certificate"),
        (tls("", (&pair.1, &pair.1)), "webhook.tls.client_certificate"),
        (tls("", VERSION_1), "webhook.tls.client_certificate"),
    ] {
        let refused = update(&client, &created.id(), Some(settings)).await.expect_err(field);
        assert_eq!(Rejection::from(&refused).fields, [field], "{refused:?}");
        assert!(
            !["s3cret", "UnsupportedCertVersion"].iter().any(|no| format!("{refused:?}").contains(no)),
            "{refused:?}"
        );
    }
    let plain = client.create("http://127.0.0.1:1024/", &["*"]).await;
    let refused = update(&client, &plain.id(), Some(tls(&authority.pem, ("", "")))).await.expect_err("no TLS");
    assert_eq!(Rejection::from(&refused).fields, ["webhook.tls"]);
}

/// The operator's authorities hold for every webhook that names none, beside those of the machine.
#[tokio::test]
async fn the_operator_s_authorities_hold_for_all_webhooks() {
    let (operator, owner) = (Authority::new("operator"), Authority::new("owner"));
    let receiver = Receiver::answering(200).await;
    let front = TlsFront::start(&operator, None, receiver.address()).await;
    let setup = patient();
    let file = setup.data().join("ca.pem");
    fs::write(&file, &operator.pem).expect("the file can be written");
    let setup = setup.flag("--ca-file", &file.display().to_string());
    let daemon = setup.start().await;
    let client = daemon.client().await;
    client.create(&front.url("/"), &["ADD_TAG"]).await;
    let narrow = Webhook { tls: Some(tls(&owner.pem, ("", ""))), ..webhook("", &front.url("/"), &["NEW_LEAD"]) };
    client.create_as(narrow).await;
    let mut watch = client.watch().await;
    client.publish([event("e1", "ADD_TAG", "{}")]).await;
    watch.outcome(DeliveryState::Delivered).await;
    client.publish([event("e2", "NEW_LEAD", "{}")]).await;
    is_tls_failure(&watch.outcome(DeliveryState::Pending).await, "not from an authority that is trusted");
    daemon.stop().await;

    fs::write(&file, "no certificate").expect("the file can be written");
    let ended = setup.spawn().ended(PATIENCE).await;
    assert!(!ended.status.success());
    assert!(ended.log.contains("--ca-file") && ended.log.contains("must have a certificate in PEM"), "{}", ended.log);
}
