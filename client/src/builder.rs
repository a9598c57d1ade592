//! How a client connects.

use std::{fmt, time::Duration};

use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::{Client, Error, credentials::Credentials};

/// How to connect. Made by [`Client::builder`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    endpoint: String,
    api_key: Option<Hidden<String>>,
    ca_certificates: Option<Vec<u8>>,
    identity: Option<Hidden<Identity>>,
    tenant: String,
    timeout: Duration,
    connect_timeout: Duration,
    keep_alive_interval: Duration,
    keep_alive_timeout: Duration,
}

/// What is not printed.
#[derive(Clone)]
struct Hidden<T>(T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl ClientBuilder {
    pub(crate) fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            api_key: None,
            ca_certificates: None,
            identity: None,
            tenant: String::new(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
        }
    }

    /// The API key (`prk_…`) that is sent with every call, as `authorization: Bearer KEY`; none by default.
    #[must_use]
    pub fn api_key(self, key: impl Into<String>) -> Self {
        Self { api_key: Some(Hidden(key.into())), ..self }
    }

    /// The certificates, in PEM, of the authorities that an `https` server's certificate must come from; those that this machine
    /// trusts by default.
    #[must_use]
    pub fn ca_certificates(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { ca_certificates: Some(pem.into()), ..self }
    }

    /// The certificate, with those between it and its authority, and its private key, in PEM, that an `https` server is shown;
    /// none by default.
    #[must_use]
    pub fn client_certificate(self, certificates: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self { identity: Some(Hidden(Identity::from_pem(certificates, key))), ..self }
    }

    /// The tenant of every request that names none. Empty, and the default, is the server's `default`.
    #[must_use]
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), ..self }
    }

    /// How long one call may take, connecting included; 30 s by default. Streams are not calls and have no such limit.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How long making a connection may take; 5 s by default.
    #[must_use]
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// How often the connection is probed, and how long the answer may take before it is given up as dead; 20 s and 10 s
    /// by default.
    #[must_use]
    pub fn keep_alive(self, interval: Duration, timeout: Duration) -> Self {
        Self { keep_alive_interval: interval, keep_alive_timeout: timeout, ..self }
    }

    /// Makes the client. The connection is made by the first call, and made again by the first call after a break.
    ///
    /// Must run inside a Tokio runtime. Fails with `INVALID_ARGUMENT` if the endpoint is not an `http` or `https` URL, or if
    /// the API key, a certificate or its key cannot be one.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let invalid = |why: &str| {
            let endpoint = &self.endpoint;
            Error::new(
                Code::InvalidArgument,
                format!("the server `{endpoint}` {why}; give it as http://HOST:PORT or https://HOST:PORT"),
            )
        };
        let uri: Uri = self.endpoint.parse().map_err(|_| invalid("is not a URL"))?;
        let encrypts = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(invalid("is not an http or https URL")),
        };
        if uri.host().is_none_or(str::is_empty) {
            return Err(invalid("names no host"));
        }
        if !encrypts && (self.ca_certificates.is_some() || self.identity.is_some()) {
            return Err(invalid("is not encrypted, so certificates mean nothing"));
        }
        let credentials = self.api_key.as_ref().map(|key| Credentials::api_key(&key.0)).transpose()?;
        let mut endpoint = Endpoint::from(uri);
        if encrypts {
            endpoint = endpoint.tls_config(self.tls()).map_err(|error| {
                let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                invalid(&format!("cannot be reached with these certificates{cause}"))
            })?;
        }
        let channel = endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect_lazy();
        let credentials = credentials.unwrap_or_default();
        Ok(Client { channel, credentials, tenant: self.tenant, timeout: self.timeout })
    }

    fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.ca_certificates {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let tls = tls.timeout(self.connect_timeout);
        match &self.identity {
            Some(Hidden(identity)) => tls.identity(identity.clone()),
            None => tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_are_http_or_https() {
        for endpoint in ["", "127.0.0.1:50051", "unix:/run/socket", "http://", "ftp://host"] {
            let error = Client::connect_lazy(endpoint).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{endpoint}");
        }
        assert!(Client::connect_lazy("http://[::1]:50051").is_ok());
        let plain = Client::builder("http://host").ca_certificates("x").connect_lazy().unwrap_err();
        assert!(plain.message().contains("not encrypted"), "{plain}");
        let broken = Client::builder("https://host").client_certificate("x", "y").connect_lazy().unwrap_err();
        assert_eq!(broken.code(), Code::InvalidArgument, "{broken}");
    }

    #[tokio::test]
    async fn nothing_that_is_printed_holds_the_key() {
        let identified = Client::builder("https://host").client_certificate("c", "secret");
        let as_numbers = format!("{:?}", b"secret");
        assert!(!format!("{identified:?}").contains(&as_numbers));
        let builder = Client::builder("http://host").api_key("prk_secret");
        assert!(!format!("{builder:?}").contains("secret"));
        let client = builder.connect_lazy().unwrap();
        assert!(!format!("{client:?} {:?}", client.with_api_key("prk_secret").unwrap()).contains("secret"));
        let error = Client::builder("http://host").api_key("prk secret").connect_lazy().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
