//! Connections to receivers through the operator's proxy: where a [`GuardedResolver`] says, as those without it are.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::{BoxError, Service};

use crate::{
    deliver::{
        phases::Ends,
        proxy::{Proxy, ProxyError},
        resolver::{GuardedResolver, ResolveError},
    },
    model::target::Scheme,
};

/// Most addresses of one receiver that are tried.
const ADDRESSES_MAX: usize = 3;

/// Makes tunnels to the receivers of one scheme.
#[derive(Clone)]
pub(super) struct Tunnels {
    proxy: Arc<Proxy>,
    resolver: GuardedResolver,
}

impl Tunnels {
    pub(super) fn new(proxy: Arc<Proxy>, resolver: GuardedResolver) -> Self {
        Self { proxy, resolver }
    }

    async fn open(&self, url: &Uri) -> Result<TokioIo<Tunnel>, BoxError> {
        let host = url.host().unwrap_or_default();
        let port = url.port_u16().unwrap_or(match self.resolver.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        });
        let mut problem: BoxError = ResolveError::Absent.into();
        for address in self.addresses(host).await?.into_iter().take(ADDRESSES_MAX) {
            let remote = SocketAddr::new(address, port);
            match self.proxy.tunnel(&self.resolver.dns, remote).await {
                Ok(stream) => {
                    let ends = Ends { local: stream.local_addr()?, remote };
                    return Ok(TokioIo::new(Tunnel { stream, ends }));
                }
                // Another one may do.
                Err(ProxyError::Receiver(status)) => problem = ProxyError::Receiver(status).into(),
                Err(other) => return Err(other.into()),
            }
        }
        Err(problem)
    }

    /// What to ask the proxy for, IPv4 first: whether the proxy has the other is unknown.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        let mut addresses: Vec<IpAddr> = match literal {
            Ok(address) => {
                self.resolver.rules.admit(self.resolver.scheme, address)?;
                vec![address]
            }
            Err(_) => self.resolver.addresses(host).await?.iter().map(SocketAddr::ip).collect(),
        };
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }
}

impl Service<Uri> for Tunnels {
    type Response = TokioIo<Tunnel>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<Tunnel>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let tunnels = self.clone();
        async move { tunnels.open(&url).await }.boxed()
    }
}

/// A connection to the proxy that leads to a receiver. Its other end is the receiver's, as far as anybody here is concerned.
pub(super) struct Tunnel {
    stream: TcpStream,
    ends: Ends,
}

impl Connection for Tunnel {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.ends)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}
