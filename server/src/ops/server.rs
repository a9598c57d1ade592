//! The port: few connections, one request each, all with a time limit.
//!
//! All connections are driven by one task, so that they end with it, and whatever clients do costs no more than their number.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Config, Desk};
use crate::{accepting::accept, limits::OPS_HEAD_BYTES_MAX};

/// A port that is taken.
pub(super) struct Server {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the port.
    pub(super) async fn bind(address: SocketAddr, config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { address: listener.local_addr()?, listener, config })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub(super) async fn run(self, desk: Arc<Desk>, stop: CancellationToken) {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                (stream, _) = accept(|| self.listener.accept()), if connections.len() < self.config.connections_max => {
                    connections.push(serve(stream, &self.config, &desk));
                }
                Some(()) = connections.next(), if !connections.is_empty() => {}
            }
        }
    }
}

/// Reads a request, answers it, and closes.
async fn serve(stream: TcpStream, config: &Config, desk: &Arc<Desk>) {
    let service = service_fn(|request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_buf_size(OPS_HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(config.connection_timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a look at the daemon broke off"),
        Err(_) => debug!("a client took too long to look at the daemon"),
    }
}
