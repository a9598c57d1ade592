//! TLS as a client: rustls with ring, certificates as this machine trusts them.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto};
use rustls_platform_verifier::Verifier;
use tracing::error;

/// One configuration for every client: they share its certificates and its cache of sessions to resume.
///
/// Without certificates on this machine, as in a bare container, it trusts nobody: every https attempt fails in the handshake,
/// plain http to opened ranges still works, and the log says why.
pub(super) fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = match Verifier::new(provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
        Err(problem) => {
            error!(error = %problem, "no CA certificates on this machine: every https delivery will fail until they are installed (package ca-certificates) and postriderd is restarted");
            builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
