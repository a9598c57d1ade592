//! TLS as a client: rustls with ring, certificates as this machine trusts them, or as one webhook does.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, NamedGroup, RootCertStore, SignatureScheme,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName},
    sign::CertifiedKey,
};
use rustls_platform_verifier::Verifier;
use thiserror::Error;
use tracing::error;

use super::phases;
use crate::model::tls::{InvalidTls, TlsSettings};

/// How many servers' sessions are kept; what rustls does by itself.
const SESSIONS_MAX: usize = 256;
/// The same for the receivers of webhooks with settings of their own: one, usually.
const OWN_SESSIONS_MAX: usize = 4;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub(super) enum TlsError {
    /// The library refuses it.
    #[error(transparent)]
    Library(#[from] rustls::Error),
    /// The certificate or the key of a webhook.
    #[error(transparent)]
    Identity(#[from] InvalidTls),
}

/// Whose certificates receivers may have.
#[derive(Clone)]
enum Authorities {
    /// Those this machine trusts, and those of the operator.
    Machine(Arc<Verifier>),
    /// These alone.
    Only(Arc<RootCertStore>),
}

/// Makes configurations of TLS. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    authorities: Authorities,
    /// One configuration for every webhook without settings of its own: they share its cache of sessions to resume.
    shared: ClientConfig,
}

impl Tls {
    /// Trusts the authorities of this machine and these.
    ///
    /// Without any, as in a bare container, it trusts nobody: every https attempt fails in the handshake, plain http to opened
    /// ranges still works, and the log says why.
    pub(super) fn new(more: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let provider = Arc::new(crypto::ring::default_provider());
        let authorities = match Verifier::new_with_extra_roots(more.iter().cloned(), provider.clone()) {
            Ok(verifier) => Authorities::Machine(Arc::new(verifier)),
            Err(problem) => {
                error!(error = %problem, "no CA certificates on this machine: every https delivery will fail until they are installed (package ca-certificates) or named with --ca-file, and postriderd is restarted");
                Authorities::Only(Arc::new(RootCertStore::empty()))
            }
        };
        Self::trusting(authorities, provider)
    }

    /// Trusts these and no others.
    #[cfg(test)]
    pub(super) fn only(authorities: RootCertStore) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        Self::trusting(Authorities::Only(Arc::new(authorities)), provider).expect("ring can do TLS")
    }

    fn trusting(authorities: Authorities, provider: Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let shared = configuration(&provider, &authorities, Shown(None), SESSIONS_MAX)?;
        Ok(Self { provider, authorities, shared })
    }

    /// For webhooks without settings of their own.
    pub(super) fn shared(&self) -> &ClientConfig {
        &self.shared
    }

    /// For webhooks with these settings. Whoever names authorities trusts no others.
    pub(super) fn own(&self, settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
        let identity = settings.identity().map(|identity| identity.certified_key().map(Arc::new)).transpose()?;
        let authorities = match settings.authorities() {
            [] => self.authorities.clone(),
            named => {
                let mut roots = RootCertStore::empty();
                named.iter().try_for_each(|authority| roots.add(authority.clone()))?;
                Authorities::Only(Arc::new(roots))
            }
        };
        Ok(configuration(&self.provider, &authorities, Shown(identity), OWN_SESSIONS_MAX)?)
    }
}

/// For HTTP/1.1, with handshakes that are noted.
fn configuration(
    provider: &Arc<CryptoProvider>,
    authorities: &Authorities,
    shown: Shown,
    sessions_max: usize,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match authorities {
        Authorities::Machine(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier.clone()),
        Authorities::Only(roots) => builder.with_root_certificates(roots.clone()),
    };
    let mut config = builder.with_client_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let sessions = ClientSessionMemoryCache::new(sessions_max);
    config.resumption = Resumption::store(Arc::new(ObservedSessions { sessions }));
    Ok(config)
}

/// What is shown to receivers that ask for a certificate. That they ask is noted: some refuse only later, without a word.
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        phases::asked_for_certificate(self.0.is_some());
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.0.is_some()).finish()
    }
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
