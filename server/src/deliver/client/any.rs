//! One client for the URLs of one scheme, whichever way it takes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use thiserror::Error;
use url::Url;

use super::{Response, bare, library, tunnel::Tunnels};
use crate::deliver::{Config, resolver::GuardedResolver};

/// Straight to receivers, or through the operator's proxy.
pub(super) enum Client {
    Direct(library::Client),
    Tunnelled(bare::Client<Tunnels>),
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Error)]
pub enum Error {
    /// Of a request that went straight, and of every body.
    #[error(transparent)]
    Direct(#[from] library::Error),
    /// Of a request through the proxy.
    #[error("through the proxy: {0}")]
    Tunnelled(#[source] bare::Error),
}

#[cfg_attr(feature = "hyper-client", expect(clippy::match_same_arms, reason = "both are of the same library then"))]
impl Error {
    pub(in crate::deliver) fn is_builder(&self) -> bool {
        match self {
            Self::Direct(error) => error.is_builder(),
            Self::Tunnelled(error) => error.is_builder(),
        }
    }

    pub(in crate::deliver) fn is_connect(&self) -> bool {
        match self {
            Self::Direct(error) => error.is_connect(),
            Self::Tunnelled(error) => error.is_connect(),
        }
    }

    pub(in crate::deliver) fn is_timeout(&self) -> bool {
        match self {
            Self::Direct(error) => error.is_timeout(),
            Self::Tunnelled(error) => error.is_timeout(),
        }
    }
}

impl Client {
    pub(super) fn build(
        config: &Config,
        tls: &rustls::ClientConfig,
        resolver: GuardedResolver,
        idle_per_host: usize,
    ) -> Result<Self, Error> {
        let Some(proxy) = &config.proxy else {
            return Ok(Self::Direct(library::Client::build(config, tls, resolver, idle_per_host)?));
        };
        let scheme = resolver.scheme;
        let tunnels = Tunnels::new(Arc::clone(proxy), resolver);
        Ok(Self::Tunnelled(bare::Client::over(tunnels, scheme, config, tls, idle_per_host)))
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        match self {
            Self::Direct(client) => Ok(client.send(method, url, headers, body).await?),
            Self::Tunnelled(client) => {
                // On the heap, so that attempts without a proxy are no larger.
                #[cfg_attr(
                    feature = "hyper-client",
                    expect(clippy::useless_conversion, reason = "it is the same then")
                )]
                let sent = Box::pin(client.send(method, url, headers, body)).await.map(Response::from);
                sent.map_err(Error::Tunnelled)
            }
        }
    }
}
