//! The client of hyper-util: what reqwest stands on, without reqwest. It goes where its connector leads: through the operator's
//! proxy, or, with the feature `hyper-client`, straight to receivers.

use std::{
    error::Error as StdError,
    io,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header::ACCEPT, uri::InvalidUri};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{self, connect::Connection},
    rt::{TokioExecutor, TokioTimer},
};
use thiserror::Error;
use tokio::time::{error::Elapsed, timeout};
use tower::{BoxError, Service};
use url::Url;

use crate::{
    deliver::{Config, connections::IDLE_TIMEOUT, phases, result::sources},
    model::target::Scheme,
};

/// Why there is no answer, or no more of it.
#[derive(Debug, Error)]
pub enum Error {
    /// The URL cannot be requested.
    #[error("not a URL to request")]
    Url(#[source] InvalidUri),
    /// There is no connection, or it broke before the head of an answer was complete.
    #[error("the request failed")]
    Request(#[source] legacy::Error),
    /// The connection broke within the body of an answer.
    #[cfg(feature = "hyper-client")]
    #[error("the body of the answer is not complete")]
    Body(#[source] hyper::Error),
}

impl Error {
    pub(super) fn is_builder(&self) -> bool {
        matches!(self, Self::Url(_))
    }

    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Self::Request(failed) if failed.is_connect())
    }

    pub(super) fn is_timeout(&self) -> bool {
        let is_late = |source: &(dyn StdError + 'static)| {
            let io = source.downcast_ref::<io::Error>();
            source.is::<Elapsed>() || io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
        };
        sources(self).any(is_late)
    }
}

/// The head of an answer, and its body as it comes.
pub(in crate::deliver) struct Response(pub(super) http::Response<Incoming>);

#[cfg(feature = "hyper-client")]
impl Response {
    pub(in crate::deliver) fn status(&self) -> http::StatusCode {
        self.0.status()
    }

    pub(in crate::deliver) fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    pub(in crate::deliver) fn headers_mut(&mut self) -> &mut HeaderMap {
        self.0.headers_mut()
    }

    pub(super) fn extensions(&self) -> &http::Extensions {
        self.0.extensions()
    }

    pub(in crate::deliver) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        use http_body_util::BodyExt as _;

        while let Some(frame) = self.0.body_mut().frame().await {
            // Trailers mean nothing here.
            if let Ok(chunk) = frame.map_err(Error::Body)?.into_data() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}

/// A client for the URLs of one scheme, over connections that `C` makes.
pub(super) struct Client<C>(legacy::Client<Connector<C>, Full<Bytes>>);

impl<C> Client<C>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "this is part of the guarded client")]
    pub(super) fn over(
        connector: C,
        scheme: Scheme,
        config: &Config,
        tls: &rustls::ClientConfig,
        idle_per_host: usize,
    ) -> Self {
        let mut inner = HttpsConnector::from((connector, tls.clone()));
        if scheme == Scheme::Https {
            inner.enforce_https();
        }
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle_per_host)
            .build(Connector { inner, timeout: config.connect_timeout });
        Self(client)
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        let url = Uri::try_from(url.as_str()).map_err(Error::Url)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        request.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        self.0.request(request).await.map(Response).map_err(Error::Request)
    }
}

/// Makes connections, TLS included, in limited time.
#[derive(Clone)]
struct Connector<C> {
    inner: HttpsConnector<C>,
    timeout: Duration,
}

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri>,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = MaybeHttpsStream<C::Response>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connected = timeout(self.timeout, phases::connecting(self.inner.call(url)));
        async move { connected.await? }.boxed()
    }
}
