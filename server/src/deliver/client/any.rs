//! One client for the URLs of one scheme, whichever library it is of and whichever way it takes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper_util::client::legacy::connect::HttpConnector;
use thiserror::Error;
use tokio::net::TcpStream;
use url::Url;

use super::{
    Response, bare, direct, reqwest,
    tunnel::{Tunnel, Tunnels},
};
use crate::deliver::{Config, HttpClient, resolver::GuardedResolver};

/// Straight to receivers, or through the operator's proxy.
pub(super) enum Client {
    Reqwest(reqwest::Client),
    Direct(bare::Client<HttpConnector<GuardedResolver>, TcpStream>),
    Tunnelled(bare::Client<Tunnels, Tunnel>),
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Error)]
pub enum Error {
    /// Of a request that reqwest sent, and of every body.
    #[error(transparent)]
    Reqwest(#[from] reqwest::Error),
    /// Of a request that hyper-util's client sent.
    #[error(transparent)]
    Bare(#[from] bare::Error),
}

impl Error {
    pub(in crate::deliver) fn is_builder(&self) -> bool {
        match self {
            Self::Reqwest(error) => error.is_builder(),
            Self::Bare(error) => error.is_builder(),
        }
    }

    pub(in crate::deliver) fn is_connect(&self) -> bool {
        match self {
            Self::Reqwest(error) => error.is_connect(),
            Self::Bare(error) => error.is_connect(),
        }
    }

    pub(in crate::deliver) fn is_timeout(&self) -> bool {
        match self {
            Self::Reqwest(error) => error.is_timeout(),
            Self::Bare(error) => error.is_timeout(),
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
        let scheme = resolver.scheme;
        Ok(match (&config.proxy, config.http_client) {
            (Some(proxy), _) => {
                let tunnels = Tunnels::new(Arc::clone(proxy), resolver);
                Self::Tunnelled(bare::Client::over(tunnels, scheme, config, tls, idle_per_host))
            }
            (None, HttpClient::Hyper) => {
                let connector = direct::connector(resolver, config.connect_timeout);
                Self::Direct(bare::Client::over(connector, scheme, config, tls, idle_per_host))
            }
            (None, HttpClient::Reqwest) => Self::Reqwest(reqwest::Client::build(config, tls, resolver, idle_per_host)?),
        })
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        // What is not the default is on the heap, so that attempts by reqwest are no larger.
        Ok(match self {
            Self::Reqwest(client) => client.send(method, url, headers, body).await?,
            Self::Direct(client) => Box::pin(client.send(method, url, headers, body)).await?,
            Self::Tunnelled(client) => Box::pin(client.send(method, url, headers, body)).await?,
        })
    }
}
