//! The operator's proxy, and those that the environment names.

use std::{fs, os::unix::fs::PermissionsExt as _};

use postrider_proto::v1::{CreateWebhookRequest, DeliveryState, ErrorClass, TlsSettings, Webhook};
use postrider_tests::{
    client::webhook,
    deadline::PATIENCE,
    events::event,
    proxy::{Asked, Proxy},
    receiver::{Receiver, closed_port},
    tls::{Authority, TlsFront},
};

use tonic::Code;

use crate::{patient, setup};

fn connect(target: impl std::fmt::Display) -> Asked {
    Asked { what: format!("CONNECT {target}"), authorization: Some("Basic cmF2aTpzM2NyZXQ=".into()) }
}

/// Issue 5, optional egress proxy: everything goes through it, by CONNECT to addresses, plain http too; names stay between us and
/// the receiver; its credentials are shown to it and to nobody else; and the policy holds before it.
#[tokio::test]
async fn everything_goes_through_the_proxy_and_the_policy_holds() {
    let (proxy, receiver, authority) = (Proxy::willing().await, Receiver::answering(200).await, Authority::new("any"));
    let front = TlsFront::start(&authority, None, receiver.address()).await;
    let setup = patient()
        .with_whole_log()
        .flag("--delivery-loops", "1")
        .flag("--log", "debug")
        .flag("--egress-proxy", &proxy.url());
    let file = setup.data().join("credentials");
    fs::write(&file, "ravi:s3cret\n").expect("the file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let setup = setup.flag("--egress-proxy-credentials", &file.display().to_string());
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let mut watch = client.watch().await;
    let port = receiver.address().port();

    client.create(&format!("http://a.localhost:{port}/named"), &["ADD_TAG"]).await;
    let ca_certificates = authority.pem.clone();
    let tls = Some(TlsSettings { ca_certificates, ..TlsSettings::default() });
    client.create_as(Webhook { tls, ..webhook("", &front.url("/tls"), &["NEW_LEAD"]) }).await;
    for (id, kind) in [("1", "ADD_TAG"), ("2", "NEW_LEAD"), ("3", "NEW_LEAD")] {
        client.publish([event(id, kind, "{}")]).await;
        let outcome = watch.outcome(DeliveryState::Delivered).await;
        assert_eq!(outcome.http_status, 200);
    }
    let requests = receiver.received(3).await;
    assert_eq!(requests[0].header("host"), format!("a.localhost:{port}"));
    assert_eq!(requests[1].header("host"), front.address().to_string());
    for request in &requests {
        assert!(!request.headers.contains_key("proxy-authorization") && request.method == "POST", "{request:?}");
    }
    assert_eq!(proxy.asked(), [connect(receiver.address()), connect(front.address())], "and tunnels are kept");

    // What may not be called is not asked for.
    for url in ["https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/"] {
        let webhook = Some(webhook("", url, &["*"]));
        let request = CreateWebhookRequest { webhook, ..CreateWebhookRequest::default() };
        let refused = client.webhooks.clone().create_webhook(request).await.expect_err(url);
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}");
    }
    assert_eq!(proxy.connections(), 2);
    let log = daemon.log();
    for secret in ["s3cret", "cmF2aTpzM2NyZXQ="] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// What the proxy fails of is told as the proxy's, without its address.
#[tokio::test]
async fn failures_of_the_proxy_are_told_as_such() {
    let receiver = Receiver::answering(200).await;
    let down = format!("http://127.0.0.1:{}", closed_port());
    let check = async |url: String, says: &str| {
        let daemon = patient().flag("--egress-proxy", &url).start().await;
        let client = daemon.client().await;
        client.create(&receiver.url("/"), &["*"]).await;
        let mut watch = client.watch().await;
        client.publish([event("", "ADD_TAG", "{}")]).await;
        let outcome = watch.outcome(DeliveryState::Pending).await;
        assert_eq!(outcome.error_class(), ErrorClass::Connect, "{outcome:?}");
        assert!(outcome.error.contains("egress proxy") && outcome.error.contains(says), "{outcome:?}");
        assert!(!outcome.error.contains("127.0.0.1"), "{outcome:?}");
    };
    check(down, "connection refused").await;
    for (answer, says) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 2\r\n\r\nno", "credentials"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "could not reach the receiver (502 Bad Gateway)"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "refused the connection (403 Forbidden)"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "not valid HTTP"),
        ("", "closed the connection"),
    ] {
        let proxy = Proxy::start(move |_| Some(answer)).await;
        check(proxy.url(), says).await;
    }
    assert_eq!(receiver.count(), 0);
}

/// Issue 5, explicit only: proxies that the environment names are not used, neither with a proxy of the operator's nor without.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let (theirs, ours, receiver) = (Proxy::willing().await, Proxy::willing().await, Receiver::answering(200).await);
    let authority = Authority::new("any");
    let front = TlsFront::start(&authority, None, receiver.address()).await;
    for flags in [&[][..], &["--egress-proxy", &ours.url()]] {
        let names =
            ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "CGI_HTTP_PROXY"];
        let setup = names.iter().fold(setup(), |setup, name| setup.variable(name, &theirs.url()));
        let setup = flags.chunks(2).fold(setup, |setup, flag| setup.flag(flag[0], flag[1]));
        let daemon = setup.start().await;
        let client = daemon.client().await;
        let tls = Some(TlsSettings { ca_certificates: authority.pem.clone(), ..TlsSettings::default() });
        client.create(&receiver.url("/"), &["*"]).await;
        client.create_as(Webhook { tls, ..webhook("", &front.url("/"), &["*"]) }).await;
        let mut watch = client.watch().await;
        client.publish([event("", "ADD_TAG", "{}")]).await;
        for outcome in watch.outcomes(2).await {
            assert_eq!(outcome.state(), DeliveryState::Delivered, "{outcome:?}");
        }
    }
    assert_eq!((theirs.connections(), ours.connections()), (0, 2));
}

/// What cannot be used is said before anything is served, and credentials are not repeated.
#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_refused_at_start() {
    let setup = setup();
    let file = setup.data().join("credentials");
    fs::write(&file, "ravi:s3cret").expect("the file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let setup = setup.flag("--egress-proxy", "http://ravi:s3cret@127.0.0.1:1");
    let setup = setup.flag("--egress-proxy-credentials", &file.display().to_string());
    let ended = setup.spawn().ended(PATIENCE).await;
    assert!(!ended.status.success());
    assert!(!ended.log.contains("s3cret"), "{}", ended.log);
    for says in ["--egress-proxy-credentials", "0600 or 0400", "must have no credentials in it"] {
        assert!(ended.log.contains(says), "{says}: {}", ended.log);
    }
}
