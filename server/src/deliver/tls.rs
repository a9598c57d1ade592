//! TLS as a client: rustls with ring, certificates as this machine trusts them.

use std::sync::Arc;

use rustls::{
    ClientConfig, NamedGroup, RootCertStore,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    },
    crypto,
    pki_types::ServerName,
};
use rustls_platform_verifier::Verifier;
use tracing::error;

use super::phases;

/// How many servers' sessions are kept; what rustls does by itself.
const SESSIONS_MAX: usize = 256;

/// One configuration for every client: they share its certificates and its cache of sessions to resume.
///
/// Without certificates on this machine, as in a bare container, it trusts nobody: every https attempt fails in the handshake,
/// plain http to opened ranges still works, and the log says why.
pub(super) fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = match Verifier::new(provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
        Err(problem) => {
            error!(error = %problem, "no CA certificates on this machine: every https delivery will fail until they are installed (package ca-certificates) and postriderd is restarted");
            builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        }
    };
    Ok(prepared(config))
}

/// For HTTP/1.1, with handshakes that are noted.
pub(super) fn prepared(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let sessions = ClientSessionMemoryCache::new(SESSIONS_MAX);
    config.resumption = Resumption::store(Arc::new(ObservedSessions { sessions }));
    config
}

/// Sessions to resume. rustls asks for one as the first thing of a handshake, which is how it is known that one begins: the client
/// connects and shakes hands in one go.
#[derive(Debug)]
struct ObservedSessions {
    sessions: ClientSessionMemoryCache,
}

impl ClientSessionStore for ObservedSessions {
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        phases::handshake_begins();
        self.sessions.take_tls13_ticket(server)
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(server, ticket);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.tls12_session(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.sessions.set_tls12_session(server, session);
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.sessions.remove_tls12_session(server);
    }

    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.sessions.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(server)
    }
}
