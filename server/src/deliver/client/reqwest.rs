//! reqwest as the library: the default.
//!
//! Deliberately absent: a bound on what is read of an answer besides its deadline. reqwest keeps its connections to itself: a layer
//! around its connector has to return the type it was given, which nobody else can make. `bare.rs` has the bound.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use ::reqwest::{
    Request,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect, retry,
};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Method};
use hyper_util::client::legacy::connect::Connection;
use tower::{Layer, Service};
use url::Url;

use crate::{
    deliver::{Config, connections::IDLE_TIMEOUT, phases, resolver::GuardedResolver},
    model::target::Scheme,
};

pub(in crate::deliver) use ::reqwest::{Error, Response};

/// A client for the URLs of one scheme.
pub(super) struct Client(::reqwest::Client);

impl Client {
    #[expect(clippy::disallowed_methods, reason = "this is the guarded client")]
    pub(super) fn build(
        config: &Config,
        tls: &rustls::ClientConfig,
        resolver: GuardedResolver,
        idle_per_host: usize,
    ) -> Result<Self, Error> {
        let client = ::reqwest::Client::builder()
            .http1_only()
            .https_only(resolver.scheme == Scheme::Https)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            // Ours are counted and recorded.
            .retry(retry::never())
            .dns_resolver(Arc::new(resolver))
            .tls_backend_preconfigured(tls.clone())
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(idle_per_host)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .connector_layer(ObserveConnecting)
            .build()?;
        Ok(Self(client))
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        let mut request = Request::new(method, url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        self.0.execute(request).await
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        async move {
            let addresses: Addrs = Box::new(resolver.addresses(name.as_str()).await?.into_iter());
            Ok(addresses)
        }
        .boxed()
    }
}

/// Notes how long connecting takes, for the attempt that waits for it.
#[derive(Clone)]
struct ObserveConnecting;

impl<S> Layer<S> for ObserveConnecting {
    type Service = Observed<S>;

    fn layer(&self, connector: S) -> Observed<S> {
        Observed(connector)
    }
}

/// A connector that is observed.
#[derive(Clone)]
struct Observed<S>(S);

impl<S, R> Service<R> for Observed<S>
where
    S: Service<R>,
    S::Response: Connection + 'static,
    S::Error: 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, url: R) -> Self::Future {
        phases::connecting(self.0.call(url)).boxed()
    }
}
