//! Signatures of every scheme, and secrets that are brought and rotated.

use std::time::Duration;

use postrider_proto::v1::{
    CreateWebhookRequest, DeleteWebhookRequest, DeliveryState, RotateSecretRequest, RotateSecretResponse, Signature,
    SignatureScheme, UpdateWebhookRequest, Webhook,
};
use postrider_tests::{
    client::{Client, Created, webhook},
    events::event,
    independent,
    receiver::{Answer, Receiver},
    rejection::Rejection,
    tools,
};
use tonic::{Code, Status};

use crate::{impatient, setup, verifier::Verifier};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// From Svix, `worker.rs`.
const PAIR: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC_KEY: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const BODY: &str = r#"{"text":"grüß dich"}"#;

async fn try_create(client: &Client, url: &str, signature: Option<Signature>, secret: &str) -> Result<Created, Status> {
    let webhook = Webhook { signature, ..webhook("", url, &["*"]) };
    let request = CreateWebhookRequest {
        webhook: Some(webhook),
        signing_secret: secret.into(),
        ..CreateWebhookRequest::default()
    };
    let reply = client.webhooks.clone().create_webhook(request).await?.into_inner();
    Ok(Created { webhook: reply.webhook.expect("a reply holds the webhook"), secret: reply.signing_secret })
}

async fn try_rotate(client: &Client, request: RotateSecretRequest) -> Result<RotateSecretResponse, Status> {
    Ok(client.webhooks.clone().rotate_secret(request).await?.into_inner())
}

/// Rotates with an overlap, to a secret made by the server.
async fn rotate(client: &Client, id: &str, overlap: Option<Duration>) -> RotateSecretResponse {
    let overlap = overlap.map(|overlap| overlap.try_into().expect("it is short"));
    let request = RotateSecretRequest { id: id.into(), overlap, ..RotateSecretRequest::default() };
    try_rotate(client, request).await.expect("the secret is rotated")
}

async fn sign_with(client: &Client, id: &str, scheme: SignatureScheme) -> Webhook {
    let webhook = Webhook { id: id.into(), signature: Some(signature(scheme)), ..Webhook::default() };
    let request = UpdateWebhookRequest { webhook: Some(webhook), ..UpdateWebhookRequest::default() };
    let reply = client.webhooks.clone().update_webhook(request).await.expect("the webhook is updated");
    reply.into_inner().webhook.expect("a reply holds the webhook")
}

fn signature(scheme: SignatureScheme) -> Signature {
    Signature { scheme: scheme.into(), ..Signature::default() }
}

fn seconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.expect("the time is set").seconds
}

/// Whether the verifier accepts the event when it is delivered. What was sent before a crash may come once more.
async fn accepted(client: &Client, verifier: &mut Verifier, id: &str) -> bool {
    client.publish([event(id, "ADD_TAG", BODY)]).await;
    loop {
        let line = verifier.line().await;
        if line["id"] == id {
            return line["accepted"].as_bool().expect("a verdict");
        }
    }
}

/// Issue 4, `RotateSecret`: a secret that was brought signs; during the overlap, a crash included, somebody else's verifier
/// accepts with the old secret and with the new one; without overlap with the new one only. No reply shows a secret again.
#[tokio::test]
async fn others_accept_both_secrets_during_the_overlap() {
    let Some(python) = tools::python_with_standardwebhooks() else { return };
    let mut verifier = Verifier::start(&python, "verify.py");
    let url = format!("http://127.0.0.1:{}/v1", verifier.line().await);
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let header = "webhook-signature";
    let created = try_create(&client, &url, None, SECRET).await.expect("it is created");
    assert_eq!(created.secret, SECRET);
    verifier.trust_as("/v1", "standard", SECRET, header).await;
    assert!(accepted(&client, &mut verifier, "brought").await);

    let rotated = rotate(&client, &created.id(), None).await;
    let webhook = rotated.webhook.expect("a reply holds the webhook");
    assert_ne!(rotated.signing_secret, SECRET);
    assert_ne!(webhook.etag, created.webhook.etag);
    assert_eq!(seconds(webhook.previous_secret_expire_time) - seconds(webhook.update_time), 24 * 3600);
    assert!(accepted(&client, &mut verifier, "old").await);
    verifier.trust_as("/v1", "standard", &rotated.signing_secret, header).await;
    assert!(accepted(&client, &mut verifier, "new").await);

    daemon.kill().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let kept = client.webhook(&webhook.id).await;
    assert_eq!(kept, Webhook { pending_deliveries: kept.pending_deliveries, stats: kept.stats, ..webhook.clone() });
    assert!(accepted(&client, &mut verifier, "new-after-crash").await);
    verifier.trust_as("/v1", "standard", SECRET, header).await;
    assert!(accepted(&client, &mut verifier, "old-after-crash").await);

    let last = rotate(&client, &webhook.id, Some(Duration::ZERO)).await;
    assert_eq!(last.webhook.expect("a reply holds the webhook").previous_secret_expire_time, None);
    assert!(!accepted(&client, &mut verifier, "old-at-once").await);
    verifier.trust_as("/v1", "standard", &last.signing_secret, header).await;
    // The one that was refused is tried again, and everything later is right.
    let shown = format!("{:?}", client.webhook(&webhook.id).await);
    for secret in [SECRET, &rotated.signing_secret, &last.signing_secret] {
        assert!(!shown.contains(secret.trim_start_matches("whsec_")), "{shown}");
    }
}

/// Issue 4: both signatures stand in one header, newest first; when the overlap is over, without anybody doing anything, the new
/// one stands alone. What is pending is signed as the webhook says at the attempt.
#[tokio::test]
async fn after_the_overlap_the_new_secret_signs_alone() {
    let daemon = impatient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| match request.header("webhook-signature").split(' ').count() {
        // Tried again until only one signature is there.
        2 => Answer::status(500),
        _ => Answer::status(200),
    })
    .await;
    let created = client.create(&receiver.url("/"), &["*"]).await;
    let rotated = rotate(&client, &created.id(), Some(Duration::from_secs(1))).await;
    let mut watch = client.watch().await;
    client.publish([event("e", "ADD_TAG", BODY)]).await;
    let mut outcome = watch.outcomes(1).await.remove(0);
    while outcome.state() != DeliveryState::Delivered {
        outcome = watch.outcomes(1).await.remove(0);
    }
    assert!(outcome.attempt > 1, "the overlap was over before the first attempt");

    let requests = receiver.all();
    let expire = rotated.webhook.expect("a reply holds the webhook").previous_secret_expire_time;
    for (index, request) in requests.iter().enumerate() {
        let of = |secret: &str| {
            let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
            independent::signature(secret, id, timestamp, &request.body)
        };
        let (new, old) = (of(&rotated.signing_secret), of(&created.secret));
        let last = index + 1 == requests.len();
        let expected = if last { new } else { format!("{new} {old}") };
        assert_eq!(request.header("webhook-signature"), expected, "attempt {}", request.attempt);
        if last {
            assert!(request.header("webhook-timestamp").parse::<i64>().expect("seconds") >= seconds(expire));
        }
    }
}

/// Issue 4, signature schemes: verifiers of others accept each scheme under its own header names, refuse another key, and go on
/// accepting the old key during an overlap where the scheme has room for it.
#[tokio::test]
async fn others_accept_every_scheme() {
    let Some(python) = tools::python_with_verifiers() else { return };
    let mut verifier = Verifier::start(&python, "verify.py");
    let port = verifier.line().await;
    let daemon = setup().flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let named = |scheme: SignatureScheme, prefix: &str, header: &str| Signature {
        scheme: scheme.into(),
        header_prefix: prefix.into(),
        signature_header: header.into(),
    };
    let cases = [
        ("svix", named(SignatureScheme::StandardV1, "svix", ""), "svix-signature", true),
        ("v1a", named(SignatureScheme::StandardV1a, "", ""), "webhook-signature", true),
        ("stripe", named(SignatureScheme::Stripe, "", ""), "stripe-signature", true),
        ("stripe", named(SignatureScheme::Stripe, "acme", "Acme-Signature"), "acme-signature", true),
        ("github", named(SignatureScheme::Github, "", ""), "x-hub-signature-256", false),
    ];
    for (index, (kind, signature, header, room)) in cases.into_iter().enumerate() {
        let path = format!("/{index}");
        let created = try_create(&client, &format!("http://127.0.0.1:{port}{path}"), Some(signature), "").await;
        let created = created.expect("it is created");
        assert!(created.secret.starts_with("whsec_"), "{kind}");
        let key = |secret: &str, webhook: &Webhook| match kind {
            "v1a" => webhook.public_key.clone(),
            _ => secret.to_owned(),
        };
        let old = key(&created.secret, &created.webhook);
        verifier.trust_as(&path, kind, &old, header).await;
        assert!(accepted(&client, &mut verifier, &format!("{index}-first")).await, "{kind}");

        let rotated = rotate(&client, &created.id(), None).await;
        let webhook = rotated.webhook.expect("a reply holds the webhook");
        assert_eq!(rotated.signing_secret.is_empty(), kind == "v1a");
        let new = key(&rotated.signing_secret, &webhook);
        assert_ne!(new, old);
        assert_eq!(accepted(&client, &mut verifier, &format!("{index}-old")).await, room, "{kind}");
        verifier.trust_as(&path, kind, &new, header).await;
        assert!(accepted(&client, &mut verifier, &format!("{index}-new")).await, "{kind}");

        rotate(&client, &created.id(), Some(Duration::ZERO)).await;
        assert!(!accepted(&client, &mut verifier, &format!("{index}-other")).await, "{kind}");
        let request = DeleteWebhookRequest { id: created.id(), ..DeleteWebhookRequest::default() };
        client.webhooks.clone().delete_webhook(request).await.expect("it is deleted");
    }
}

/// Issue 4: a scheme of key pairs has one made, which stays, as the secret does, when the scheme changes; a pair can be brought;
/// nothing is signed where nothing is to be.
#[tokio::test]
async fn schemes_change_and_keys_stay() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let created = client.create(&receiver.url("/"), &["*"]).await;
    assert_eq!((created.webhook.signature.clone(), created.webhook.public_key.as_str()), (None, ""));
    let pair = sign_with(&client, &created.id(), SignatureScheme::StandardV1a).await;
    assert!(pair.public_key.starts_with("whpk_"));
    let effective = Signature {
        scheme: SignatureScheme::StandardV1a.into(),
        header_prefix: "webhook".into(),
        signature_header: "webhook-signature".into(),
    };
    assert_eq!(pair.signature, Some(effective));
    assert_eq!(client.webhook(&created.id()).await, pair);
    client.publish([event("v1a", "ADD_TAG", BODY)]).await;
    let request = receiver.received(1).await.remove(0);
    let verifier = postrider_client::verify::Verifier::new([&pair.public_key]).expect("a public key");
    assert!(verifier.verify(&request.headers, &request.body).is_ok());

    sign_with(&client, &created.id(), SignatureScheme::None).await;
    client.publish([event("none", "ADD_TAG", BODY)]).await;
    let request = receiver.received(2).await.remove(1);
    assert!(!request.headers.contains_key("webhook-signature"));
    assert!(request.header("webhook-timestamp").parse::<u64>().is_ok() && request.event_id == "none");

    let back = sign_with(&client, &created.id(), SignatureScheme::StandardV1).await;
    assert_eq!((back.signature, &back.public_key), (None, &pair.public_key));
    client.publish([event("v1", "ADD_TAG", BODY)]).await;
    assert!(independent::is_signed(&receiver.received(3).await[2], &created.secret));
    let again = sign_with(&client, &created.id(), SignatureScheme::StandardV1a).await;
    assert_eq!(again.public_key, pair.public_key);

    let signed = Some(signature(SignatureScheme::StandardV1a));
    let brought = try_create(&client, "https://receiver.invalid/", signed, PAIR).await.expect("it is created");
    assert_eq!(brought.webhook.public_key, PUBLIC_KEY);
}

/// Contract: what cannot be is refused, and names its field; a guarded rotation of a webhook that has changed is aborted, and
/// nobody rotates for another tenant.
#[tokio::test]
async fn wrong_rotations_are_refused() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let created = client.create("https://receiver.invalid/", &["*"]).await;
    let request = || RotateSecretRequest { id: created.id(), ..RotateSecretRequest::default() };
    let overlap = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let stale = "0".to_owned();
    for (what, request, code, reason, field) in [
        (
            "a week and a second",
            RotateSecretRequest { overlap: overlap(604_801), ..request() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "overlap",
        ),
        (
            "negative",
            RotateSecretRequest { overlap: overlap(-1), ..request() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "overlap",
        ),
        (
            "short",
            RotateSecretRequest { signing_secret: "whsec_AAAA".into(), ..request() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "signing_secret",
        ),
        (
            "a pair",
            RotateSecretRequest { signing_secret: PAIR.into(), ..request() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "signing_secret",
        ),
        (
            "malformed",
            RotateSecretRequest { id: "wh_1".into(), ..request() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "id",
        ),
        ("stale", RotateSecretRequest { etag: stale, ..request() }, Code::Aborted, "ETAG_MISMATCH", ""),
        (
            "theirs",
            RotateSecretRequest { tenant: "theirs".into(), ..request() },
            Code::NotFound,
            "WEBHOOK_NOT_FOUND",
            "",
        ),
    ] {
        let refused = try_rotate(&client, request).await.expect_err(what);
        assert!(!refused.message().contains("6Xb"), "{refused:?}");
        Rejection::from(&refused).check(what, code, reason, field);
    }
    assert_eq!(client.webhook(&created.id()).await, created.webhook);
    let present = RotateSecretRequest { etag: created.webhook.etag.clone(), ..request() };
    assert!(try_rotate(&client, present.clone()).await.is_ok());
    assert_eq!(try_rotate(&client, present).await.expect_err("it has changed").code(), Code::Aborted);

    let reserved = Signature { signature_header: "Host".into(), ..signature(SignatureScheme::Stripe) };
    let refused = try_create(&client, "https://receiver.invalid/", Some(reserved), "").await.expect_err("reserved");
    Rejection::from(&refused).check(
        "reserved",
        Code::InvalidArgument,
        "INVALID_FIELD",
        "webhook.signature.signature_header",
    );
}
