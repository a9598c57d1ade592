//! Certificates made for a test, and TLS in front of a receiver.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// An authority, and what it hands out.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A certificate, and its key, as PEM.
pub type Pair = (String, String);

impl Authority {
    /// A new one of this name.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a name or an address.
    pub fn issue(&self, name: &str) -> Pair {
        self.issue_for(name, &KeyPair::generate().expect("a key"))
    }

    /// The same for a key that there is.
    pub fn issue_for(&self, name: &str, key: &KeyPair) -> Pair {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(key, &self.issuer).expect("signed").pem(), key.serialize_pem())
    }
}

/// TLS in front of a receiver; it stops when dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    shown: Arc<Mutex<Vec<Option<Vec<u8>>>>>,
    _tasks: JoinSet<()>,
}

impl TlsFront {
    /// Starts it with a certificate for 127.0.0.1 of `authority`, in front of what listens at `behind`. With `clients` it asks for
    /// certificates of that authority and takes nobody without.
    pub async fn start(authority: &Authority, clients: Option<&Authority>, behind: SocketAddr) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config(authority, clients)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on the loopback interface");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let seen = shown.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let certificate = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                    seen.lock().push(certificate);
                    let mut behind = TcpStream::connect(behind).await.expect("the receiver listens");
                    // Connections end as they like.
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { address, shown, _tasks: tasks }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of it; `path` starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// Which certificate came with each connection that it took, as DER.
    pub fn shown(&self) -> Vec<Option<Vec<u8>>> {
        self.shown.lock().clone()
    }
}

/// What a certificate in PEM is as DER.
///
/// # Panics
/// When it is none.
pub fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec()
}

fn config(authority: &Authority, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("ring can do TLS");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(der(&clients.pem))).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is an authority"))
        }
    };
    let (certificate, key) = authority.issue("127.0.0.1");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    builder.with_single_cert(vec![der(&certificate).into()], key).expect("it is its key")
}
