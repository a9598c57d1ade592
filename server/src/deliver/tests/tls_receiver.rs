//! A receiver that speaks TLS, and its certificate.

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{RootCertStore, ServerConfig, ServerConnection, crypto};

use super::*;

/// What a connection is served over.
pub(super) type Session<'a> = rustls::Stream<'a, ServerConnection, TcpStream>;

/// For `receiver.test`.
pub(super) fn self_signed() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["receiver.test".to_owned()]).unwrap()
}

/// Trusts this certificate and no other.
pub(super) fn trusting(certificate: &CertifiedKey<KeyPair>) -> Tls {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    Tls::only(roots)
}

/// A receiver with this certificate, which waits before it shakes hands and then serves each connection as it is told to.
pub(super) fn tls_receiver(
    certificate: &CertifiedKey<KeyPair>,
    handshake_delay: Duration,
    serve: impl Fn(&mut Session<'_>) + Clone + Send + 'static,
) -> SocketAddr {
    let key = certificate.signing_key.serialize_der().try_into().unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(vec![certificate.cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, config, serve) = (connection.unwrap(), config.clone(), serve.clone());
            thread::spawn(move || {
                thread::sleep(handshake_delay);
                let mut session = ServerConnection::new(config).unwrap();
                serve(&mut rustls::Stream::new(&mut session, &mut connection));
            });
        }
    });
    address
}
