//! hyper-util's client as the library: with the feature `hyper-client`.

use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper_util::client::legacy::connect::HttpConnector;
use url::Url;

use super::{bare, direct};
use crate::deliver::{Config, resolver::GuardedResolver};

pub(in crate::deliver) use super::bare::{Error, Response};

/// A client for the URLs of one scheme.
pub(super) struct Client(bare::Client<HttpConnector<GuardedResolver>>);

impl Client {
    #[expect(clippy::unnecessary_wraps, reason = "building a client of the other library can fail")]
    pub(super) fn build(
        config: &Config,
        tls: &rustls::ClientConfig,
        resolver: GuardedResolver,
        idle_per_host: usize,
    ) -> Result<Self, Error> {
        let scheme = resolver.scheme;
        let connector = direct::connector(resolver, config.connect_timeout);
        Ok(Self(bare::Client::over(connector, scheme, config, tls, idle_per_host)))
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        self.0.send(method, url, headers, body).await
    }
}
