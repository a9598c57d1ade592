//! TLS with settings of a webhook's own, against receivers with certificates made for it.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use super::*;
use crate::model::{
    ids::Tenant,
    ownership::{Origin, Question},
    tls::TlsSettings,
};

const OK: &str = "HTTP/1.1 200 OK\r\nwebhook-allowed-origin: *\r\ncontent-length: 0\r\n\r\n";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
type Pair = (String, String);

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// For receivers on loopback.
    fn receiver(&self) -> Pair {
        self.issue("127.0.0.1", |_| {})
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// A receiver that says OK, over TLS. It asks for certificates of the authority, if it is given one.
fn tls_receiver(pair: &Pair, clients: Option<&Authority>, old: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    tls_receiver_with(pair, clients, old, usize::MAX)
}

/// The same, which answers so many requests on each connection, and closes it when it has read one more.
fn tls_receiver_with(
    (certificate, key): &Pair,
    clients: Option<&Authority>,
    old: bool,
    answers: usize,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let provider = Arc::new(crypto::ring::default_provider());
    let versions = if old { &[&TLS12] } else { &[&TLS13] };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots().into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = connections.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let (mut connection, config) = (connection.unwrap(), config.clone());
            thread::spawn(move || {
                let mut session = ServerConnection::new(config).unwrap();
                let mut stream = rustls::Stream::new(&mut session, &mut connection);
                for _ in 0..answers {
                    if read_request(&mut stream).is_none() {
                        return;
                    }
                    stream.write_all(OK.as_bytes()).unwrap();
                }
                drop(read_request(&mut stream));
            });
        }
    });
    (address, connections)
}

fn settings(authority: Option<&Authority>, identity: Option<&Pair>) -> Option<Arc<TlsSettings>> {
    let authorities = authority.map_or("", |authority| &authority.pem);
    let (certificate, key) = identity.map_or(("", ""), |(certificate, key)| (certificate, key));
    TlsSettings::parse(authorities, certificate, key).unwrap().map(Arc::new)
}

fn with(address: SocketAddr, tls: Option<Arc<TlsSettings>>) -> Job {
    let mut job = job(&format!("https://{address}/"), b"{}");
    Arc::get_mut(&mut job.webhook).unwrap().settings.tls = tls;
    job
}

fn server_trusting(authority: &Authority) -> Attempts {
    attempts_trusting(&Tls::only(authority.roots()), &loopback(), &resolver::hosts_file_only())
}

async fn check(attempts: &Attempts, job: Job, expected: Result<(), &str>) {
    let result = attempts.perform(job).await.result.unwrap();
    match expected {
        Ok(()) => assert_eq!(failed(&result), (Some(200), None, "")),
        Err(text) => {
            assert_eq!((result.http_status, result.error_class), (None, Some(ErrorClass::Tls)), "{}", result.error);
            assert!(result.error.contains(text), "{} is not {text}", result.error);
        }
    }
}

#[tokio::test]
async fn who_names_authorities_trusts_those_alone() {
    let [server, own, clients] = ["server", "own", "clients"].map(Authority::new);
    let client = clients.issue("client.test", |_| {});
    let attempts = server_trusting(&server);
    let unknown = Err("the receiver's certificate is not from an authority that is trusted for this webhook");
    let (public, _) = tls_receiver(&server.receiver(), None, false);
    let (private, connections) = tls_receiver(&own.receiver(), None, false);
    check(&attempts, with(public, None), Ok(())).await;
    check(&attempts, with(private, None), unknown).await;
    check(&attempts, with(private, settings(Some(&own), None)), Ok(())).await;
    check(&attempts, with(public, settings(Some(&own), None)), unknown).await;
    // With nothing but a certificate to show, the server's word counts.
    check(&attempts, with(public, settings(None, Some(&client))), Ok(())).await;
    check(&attempts, with(private, settings(None, Some(&client))), unknown).await;

    // One that has its name and not its key.
    let (disguised, _) = tls_receiver(&Authority::new("server").receiver(), None, false);
    check(&attempts, with(disguised, None), Err("was not signed by the authority that it names")).await;

    // The same settings, of this webhook or of another one, share a connection, and others do not.
    let before = connections.load(Ordering::SeqCst);
    check(&attempts, with(private, settings(Some(&own), None)), Ok(())).await;
    assert_eq!(connections.load(Ordering::SeqCst), before);
    check(&attempts, with(private, settings(Some(&own), Some(&client))), Ok(())).await;
    assert_eq!(connections.load(Ordering::SeqCst), before + 1, "connections of old settings are not used");
    check(&attempts, with(private, settings(Some(&server), None)), unknown).await;
    assert_eq!(connections.load(Ordering::SeqCst), before + 2, "nor is what they found out");
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said() {
    let authority = Authority::new("any");
    let attempts = server_trusting(&authority);
    let check_one = async |name: &str, change: fn(&mut CertificateParams), text: &str| {
        let (address, _) = tls_receiver(&authority.issue(name, change), None, false);
        let text = format!("TLS failed: the receiver's certificate {text}");
        check(&attempts, with(address, None), Err(&text)).await;
    };
    check_one("127.0.0.1", |params| params.not_after = date_time_ymd(2020, 1, 1), "has expired").await;
    check_one("127.0.0.1", |params| params.not_before = date_time_ymd(4000, 1, 1), "is not valid yet").await;
    check_one("other.test", |_| {}, "is for another name").await;
    let client_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    check_one("127.0.0.1", client_only, "is not one for servers").await;
}

#[tokio::test]
async fn certificates_are_shown_to_receivers_that_ask() {
    let [server, clients] = ["server", "clients"].map(Authority::new);
    let (good, stranger) = (clients.issue("client.test", |_| {}), server.issue("client.test", |_| {}));
    let expired = clients.issue("client.test", |params| params.not_after = date_time_ymd(2020, 1, 1));
    for old in [true, false] {
        let (address, _) = tls_receiver(&server.receiver(), Some(&clients), old);
        let attempts = server_trusting(&server);
        check(&attempts, with(address, None), Err("client certificate")).await;
        check(&attempts, with(address, settings(Some(&server), None)), Err("client certificate")).await;
        check(&attempts, with(address, settings(None, Some(&good))), Ok(())).await;
        check(&attempts, with(address, settings(Some(&server), Some(&good))), Ok(())).await;
        check(&attempts, with(address, settings(None, Some(&stranger))), Err("client certificate")).await;
        check(&attempts, with(address, settings(None, Some(&expired))), Err("client certificate")).await;

        let question = |tls| Question {
            tenant: Tenant::default(),
            target: Target::from_stored(&format!("https://{address}/")).unwrap(),
            origin: Origin::default(),
            per_minute: None,
            timeout: None,
            tls,
        };
        assert_eq!(attempts.ask(&question(settings(None, Some(&good)))).await, Ok(None));
        assert!(attempts.ask(&question(None)).await.is_err());
    }
}

/// A receiver that closes, without the farewell of TLS, a connection just as it is used again.
#[tokio::test]
async fn stale_connections_are_replaced_with_tls_too() {
    let authority = Authority::new("any");
    let (address, connections) = tls_receiver_with(&authority.receiver(), None, false, 2);
    let attempts = server_trusting(&authority);
    for _ in 0..4 {
        check(&attempts, with(address, None), Ok(())).await;
    }
    assert_eq!(
        connections.load(Ordering::SeqCst),
        3,
        "what is sent again is sent over a new connection, which is not kept"
    );
}

/// A receiver that asks for a certificate, and then resets the connection before its word about it can be read.
#[tokio::test]
async fn a_receiver_that_hangs_up_after_it_asked_is_understood() {
    let [server, clients] = ["server", "clients"].map(Authority::new);
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots().into(), provider.clone());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap());
    let (certificate, key) = server.receiver();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut session = ServerConnection::new(config.clone()).unwrap();
            while session.is_handshaking() {
                session.complete_io(&mut connection).unwrap();
            }
        }
    });
    let attempts = server_trusting(&server);
    let client = clients.issue("client.test", |_| {});
    let text = "asked for a client certificate, that the webhook does not have, and closed the connection";
    check(&attempts, with(address, None), Err(text)).await;
    let text = "asked for a client certificate, that it was given, and closed the connection";
    check(&attempts, with(address, settings(None, Some(&client))), Err(text)).await;
}
