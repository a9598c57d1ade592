//! The client of hyper-util: what reqwest stands on, without reqwest. It goes where its connector leads: straight to receivers, or
//! through the operator's proxy. Its connections are ours, so what is read of an answer is bounded: see [`super::metered`].

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
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, connect::Connection},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use reqwest::{Body, Response};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{error::Elapsed, timeout},
};
use tower::{BoxError, Service, ServiceExt as _, util::MapResponse};
use url::Url;

use super::metered::{Metered, Socket};

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

/// Makes connections on which is counted what is read.
type Counted<C, T> = MapResponse<C, fn(TokioIo<T>) -> TokioIo<Socket<T>>>;

/// A client for the URLs of one scheme, over connections that `C` makes on sockets of type `T`.
pub(super) struct Client<C, T>(legacy::Client<Connector<Counted<C, T>>, Full<Bytes>>);

impl<C, T> Client<C, T>
where
    C: Service<Uri, Response = TokioIo<T>> + Clone + Send + Sync + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    T: AsyncRead + AsyncWrite + Connection + Send + Unpin + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "this is part of the guarded client")]
    pub(super) fn over(
        connector: C,
        scheme: Scheme,
        config: &Config,
        tls: &rustls::ClientConfig,
        idle_per_host: usize,
    ) -> Self {
        let counted: Counted<C, T> = connector.map_response(Socket::new);
        let mut inner = HttpsConnector::from((counted, tls.clone()));
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
        let response = self.0.request(request).await.map_err(Error::Request)?;
        Ok(response.map(Body::wrap).into())
    }
}

/// Makes connections, TLS included, in limited time.
#[derive(Clone)]
struct Connector<C> {
    inner: HttpsConnector<C>,
    timeout: Duration,
}

impl<C, T> Service<Uri> for Connector<C>
where
    C: Service<Uri, Response = TokioIo<Socket<T>>>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    T: AsyncRead + AsyncWrite + Connection + Send + Unpin + 'static,
{
    type Response = Metered<T>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let connected = timeout(self.timeout, phases::connecting(self.inner.call(url)));
        async move { Ok(Metered::new(connected.await??)) }.boxed()
    }
}
