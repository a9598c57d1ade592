//! The client of hyper-util as the library: what reqwest stands on, without reqwest.
//!
//! Its connections are ours, so what is read of an answer is bounded: see [`metered`].

mod metered;

use std::{
    error::Error as StdError,
    io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header::ACCEPT, uri::InvalidUri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{
        self,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tower::{BoxError, Service, ServiceExt as _, util::MapResponse};
use url::Url;

use self::metered::{Metered, Socket, TooLong};
use crate::{
    deliver::{
        Config,
        connections::IDLE_TIMEOUT,
        phases,
        resolver::{GuardedResolver, ResolveError},
        result::{cause, sources},
    },
    model::target::Scheme,
};

/// Probes of connections on which nothing moves; what reqwest does unless told otherwise, as are the two below.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;
/// How long what was sent may stay unacknowledged.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error("the body of the answer is not complete")]
    Body(#[source] hyper::Error),
}

impl Error {
    pub(in crate::deliver) fn is_builder(&self) -> bool {
        matches!(self, Self::Url(_))
    }

    pub(in crate::deliver) fn is_connect(&self) -> bool {
        matches!(self, Self::Request(failed) if failed.is_connect())
    }

    pub(in crate::deliver) fn is_timeout(&self) -> bool {
        let is_late = |source: &(dyn StdError + 'static)| {
            let io = source.downcast_ref::<io::Error>();
            source.is::<Elapsed>() || io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut)
        };
        sources(self).any(is_late)
    }
}

/// Whether more came than an answer can be long.
pub(in crate::deliver) fn is_too_long(error: &Error) -> bool {
    cause::<TooLong>(error).is_some()
}

/// The head of an answer, and its body as it comes.
pub(in crate::deliver) struct Response(http::Response<Incoming>);

impl Response {
    pub(in crate::deliver) fn status(&self) -> StatusCode {
        self.0.status()
    }

    pub(in crate::deliver) fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    pub(in crate::deliver) fn headers_mut(&mut self) -> &mut HeaderMap {
        self.0.headers_mut()
    }

    pub(super) fn extensions(&self) -> &Extensions {
        self.0.extensions()
    }

    pub(in crate::deliver) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.0.body_mut().frame().await {
            // Trailers mean nothing here.
            if let Ok(chunk) = frame.map_err(Error::Body)?.into_data() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}

/// A client for the URLs of one scheme.
pub(super) struct Client(legacy::Client<Connector, Full<Bytes>>);

impl Client {
    #[expect(clippy::disallowed_methods, reason = "this is the guarded client")]
    #[expect(clippy::unnecessary_wraps, reason = "building a client of the other library can fail")]
    pub(super) fn build(
        config: &Config,
        tls: &rustls::ClientConfig,
        resolver: GuardedResolver,
        idle_per_host: usize,
    ) -> Result<Self, Error> {
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle_per_host)
            .build(Connector::new(config, tls, resolver));
        Ok(Self(client))
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

/// Connects to where a [`GuardedResolver`] says, and counts what is read.
type Tcp = MapResponse<HttpConnector<GuardedResolver>, fn(TokioIo<TcpStream>) -> TokioIo<Socket<TcpStream>>>;

/// The same, TLS included, in limited time.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<Tcp>,
    timeout: Duration,
}

impl Connector {
    fn new(config: &Config, tls: &rustls::ClientConfig, resolver: GuardedResolver) -> Self {
        let https_only = resolver.scheme == Scheme::Https;
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        // The connector around it knows the schemes.
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(config.connect_timeout));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
        let tcp: Tcp = tcp.map_response(Socket::new);
        let mut inner = HttpsConnector::from((tcp, tls.clone()));
        if https_only {
            inner.enforce_https();
        }
        Self { inner, timeout: config.connect_timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = Metered<TcpStream>;
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

impl Service<Name> for GuardedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        async move { Ok(resolver.addresses(name.as_str()).await?.into_iter()) }.boxed()
    }
}
