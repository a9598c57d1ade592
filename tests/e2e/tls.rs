//! TLS on the gRPC port: with whom it speaks, and how certificates are replaced while it does.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt as _;
use postrider_client::{Client, PublishError, WatchConfig};
use postrider_proto::v1::{
    AuditEntry, ListAuditEntriesRequest, ListWebhooksRequest, PrincipalKind, WatchDeliveriesRequest,
};
use postrider_tests::{
    daemon::{Daemon, Setup},
    deadline::{PATIENCE, within},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Identity},
};

use crate::setup;

/// An authority, and what it hands out.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a name, and its key.
    fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("signed").pem(), key.serialize_pem())
    }
}

/// The files of a daemon, beside its data.
pub(super) struct Files {
    pub(super) setup: Setup,
}

impl Files {
    fn path(setup: &Setup, name: &str) -> PathBuf {
        setup.data().join(name)
    }

    /// A daemon with a certificate of `authority`.
    pub(super) fn new(authority: &Authority) -> Self {
        let setup = setup();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| Self::path(&setup, name).display().to_string());
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
        let setup = setup.flag("--watch-heartbeat", "100ms").flag("--tls-cert", &cert).flag("--tls-key", &key).tls(tls);
        let files = Self { setup };
        files.put(&authority.certificate("127.0.0.1"));
        files
    }

    fn put(&self, (certificate, key): &(String, String)) {
        fs::write(Self::path(&self.setup, "cert.pem"), certificate).expect("the file can be written");
        fs::write(Self::path(&self.setup, "key.pem"), key).expect("the file can be written");
    }
}

fn client(daemon: &Daemon, trusted: &Authority) -> Client {
    let builder = Client::builder(format!("https://{}", daemon.address())).ca_certificates(trusted.pem.as_str());
    builder.connect_lazy().expect("a client")
}

async fn list(client: &Client) -> Result<(), Code> {
    let listed = within("ListWebhooks", client.list_webhooks(ListWebhooksRequest::default())).await;
    listed.map(|_| ()).map_err(|error| error.code())
}

/// Line 3: who trusts the right authority is served, and nobody is served in the clear.
#[tokio::test]
async fn it_is_spoken_to_over_tls_only() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let daemon = Files::new(&ours).setup.start().await;
    assert_eq!(list(&client(&daemon, &ours)).await, Ok(()));
    assert_eq!(list(&client(&daemon, &others)).await, Err(Code::Unavailable), "another authority");
    let plain = Client::connect_lazy(format!("http://{}", daemon.address())).expect("a client");
    assert!(list(&plain).await.is_err(), "in the clear");
    let by_name = Client::builder(format!("https://localhost:{}", daemon.address().port()))
        .ca_certificates(ours.pem.as_str())
        .connect_lazy()
        .expect("a client");
    assert_eq!(list(&by_name).await, Err(Code::Unavailable), "the certificate is for another name");
    daemon.stop().await;
}

/// Clients have to show a certificate of the right authority, if the daemon is told which.
#[tokio::test]
async fn clients_show_certificates() {
    let (ours, theirs, others) = (Authority::new("ours"), Authority::new("theirs"), Authority::new("others"));
    let Files { setup } = Files::new(&ours);
    let ca = Files::path(&setup, "clients.pem");
    fs::write(&ca, &theirs.pem).expect("the file can be written");
    let (certificate, key) = theirs.certificate("billing");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ours.pem))
        .identity(Identity::from_pem(&certificate, &key));
    let daemon = setup.flag("--tls-client-ca", &ca.display().to_string()).tls(tls).start().await;
    let with = |(certificate, key): &(String, String)| {
        Client::builder(format!("https://{}", daemon.address()))
            .ca_certificates(ours.pem.as_str())
            .client_certificate(certificate, key)
            .connect_lazy()
            .expect("a client")
    };
    assert_eq!(list(&with(&(certificate, key))).await, Ok(()));
    assert!(list(&with(&others.certificate("billing"))).await.is_err(), "another authority");
    assert!(list(&client(&daemon, &ours)).await.is_err(), "no certificate");
}

/// What libraries call `UnsupportedCertVersion`.
#[tokio::test]
async fn a_certificate_that_no_library_shows_any_more_is_refused_in_words() {
    const CERTIFICATE: &str = include_str!("../../server/src/model/tls/samples/version-1.pem");
    const KEY: &str = include_str!("../../server/src/model/tls/samples/version-1.key");

    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let Files { setup } = Files::new(&ours);
    let ca = Files::path(&setup, "clients.pem");
    fs::write(&ca, &theirs.pem).expect("the file can be written");
    let (certificate, key) = theirs.certificate("billing");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ours.pem))
        .identity(Identity::from_pem(&certificate, &key));
    let setup = setup.flag("--tls-client-ca", &ca.display().to_string()).flag("--log", "debug").tls(tls);
    let daemon = setup.start().await;

    let provider = Arc::new(crypto::ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a certificate")];
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ours.pem.as_bytes()).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring can do TLS").with_root_certificates(roots);
    let connector = TlsConnector::from(Arc::new(config.with_client_cert_resolver(Arc::new(shown))));
    let stream = TcpStream::connect(daemon.address()).await.expect("it listens");
    let name = ServerName::from(daemon.address().ip());
    let refused = async {
        let mut stream = connector.connect(name, stream).await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    within("the refusal", refused).await.expect_err("nobody is served with it");
    daemon.logged("the certificate is of X.509 version 1").await;
    daemon.stop().await;
}

/// A certificate can stand for rights, for those who have no key.
#[tokio::test]
async fn a_certificate_can_stand_for_rights() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let Files { setup } = Files::new(&ours);
    let ca = Files::path(&setup, "clients.pem");
    fs::write(&ca, &theirs.pem).expect("the file can be written");
    let (certificate, key) = theirs.certificate("audit.internal");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ours.pem))
        .identity(Identity::from_pem(&certificate, &key));
    let setup = setup.flag("--tls-client-ca", &ca.display().to_string()).tls(tls);
    let rights = "audit.internal=read@default,ops.internal=operate@*";
    let daemon = setup.flag("--tls-client-rights", rights).start().await;
    let with = |name: &str| {
        let (certificate, key) = theirs.certificate(name);
        Client::builder(format!("https://{}", daemon.address()))
            .ca_certificates(ours.pem.as_str())
            .client_certificate(certificate, key)
            .connect_lazy()
            .expect("a client")
    };
    let audit = with("audit.internal");
    assert_eq!(list(&audit).await, Ok(()));
    assert_eq!(list(&audit.for_tenant("other")).await, Err(Code::NotFound));
    let denied = audit.publish_event(postrider_tests::events::event("e", "ADD_TAG", "{}")).await.expect_err("denied");
    let PublishError::Unanswered { error: Some(error), .. } = denied else { panic!("{denied:?}") };
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert_eq!(list(&with("other.internal")).await, Err(Code::Unauthenticated));

    // Who was refused is on record by that name.
    let everything = ListAuditEntriesRequest { tenant: "-".into(), ..ListAuditEntriesRequest::default() };
    let seen = with("ops.internal").list_audit_entries(everything).await.expect("it may").entries;
    let who = |entry: &AuditEntry| entry.principal.clone().expect("somebody");
    let seen: Vec<_> = seen.iter().map(|entry| (who(entry).kind(), who(entry).id, entry.code)).collect();
    let certificate = |code| (PrincipalKind::Certificate, "audit.internal".to_owned(), Some(code));
    let stranger = (PrincipalKind::Unauthenticated, String::new(), Some(16));
    assert_eq!(seen, [stranger, certificate(7), certificate(5)]);
}

/// New certificates are taken without a restart, broken ones are not, and connections go on.
#[tokio::test]
async fn certificates_are_replaced_while_it_runs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(&old);
    let daemon = files.setup.start().await;
    let mut watch = client(&daemon, &old).watch_batches(WatchDeliveriesRequest::default(), WatchConfig::default());
    within("the watch to open", watch.next()).await.expect("it opens").expect("it opens");

    files.put(&("no certificate".to_owned(), "no key".to_owned()));
    daemon.hang_up();
    let refused = async {
        while !daemon.log().contains("new certificates are not taken") {
            tokio::task::yield_now().await;
        }
    };
    within("the log to say that they are broken", refused).await;
    assert_eq!(list(&client(&daemon, &old)).await, Ok(()), "the old ones stay");

    files.put(&new.certificate("127.0.0.1"));
    daemon.hang_up();
    let taken = async { while list(&client(&daemon, &new)).await.is_err() {} };
    within("the new ones to be taken", taken).await;
    assert!(list(&client(&daemon, &old)).await.is_err(), "the old ones are gone");
    let event = postrider_tests::events::event("e", "ADD_TAG", "{}");
    client(&daemon, &new).publish_event(event).await.expect("it is served");
    for _ in 0..3 {
        within("a heartbeat", watch.next()).await.expect("who was connected still is").expect("and is told so");
    }
}

/// A client that stalls in its handshake holds nothing up, the end included.
#[tokio::test]
async fn stalled_handshakes_do_not_hold_up_the_end() {
    let ours = Authority::new("ours");
    let daemon = Files::new(&ours).setup.flag("--shutdown-grace", "2s").start().await;
    let mut stalled = Vec::new();
    for first_bytes in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let mut stream = TcpStream::connect(daemon.address()).await.expect("connections are taken");
        stream.write_all(first_bytes).await.expect("it is open");
        stalled.push(stream);
    }
    assert_eq!(list(&client(&daemon, &ours)).await, Ok(()));
    daemon.terminate();
    let ended = daemon.ended(PATIENCE.min(Duration::from_secs(10))).await;
    assert!(ended.status.success(), "{}", ended.log);
}
