//! Connections: how they are accepted, how many there may be, and how the last one ends in time.
//!
//! tonic serves; what it lacks is added around it. Its accept loop spins when file descriptors run out; ours pauses. Its graceful stop waits for every connection without a deadline, and a client that never completes the
//! HTTP/2 greeting keeps it waiting, so each connection can be cut from outside and has to greet in time.

mod addresses;
mod unfinished;
mod wire;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{service::Routes, transport::server::Connected};
use tower::util::MapRequestLayer;
use tracing::{debug, error};

use self::{
    addresses::{Addresses, Place},
    unfinished::Unfinished,
    wire::Wire,
};
use crate::{
    accepting,
    limits::{
        GRPC_ADDRESS_CONNECTIONS_MAX, GRPC_CALL_WINDOW_BYTES, GRPC_CONNECTION_WINDOW_BYTES, GRPC_CONNECTIONS_MAX,
        GRPC_HANDSHAKE_TIMEOUT, GRPC_HEADER_LIST_BYTES_MAX, GRPC_KEEPALIVE_INTERVAL, GRPC_KEEPALIVE_TIMEOUT,
        GRPC_STREAMS_PER_CONNECTION_MAX,
    },
    metrics::ServeMetrics,
    peer::Peer,
    tls::{Certificates, Files},
};

/// Where and how gRPC is served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Most connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Most of them from one address; one more is closed at once. 0: any number.
    pub address_connections_max: usize,
    /// A connection is closed if it does not complete its HTTP/2 greeting, or does not answer a ping, within this time.
    pub keepalive_timeout: Duration,
    /// The certificates to serve with; `None`: nothing is encrypted.
    pub tls: Option<Files>,
    /// A connection is closed if its TLS handshake is not complete within this time.
    pub handshake_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            connections_max: GRPC_CONNECTIONS_MAX,
            address_connections_max: GRPC_ADDRESS_CONNECTIONS_MAX,
            keepalive_timeout: GRPC_KEEPALIVE_TIMEOUT,
            tls: None,
            handshake_timeout: GRPC_HANDSHAKE_TIMEOUT,
        }
    }
}

/// What every HTTP/2 connection begins with: RFC 9113, section 3.4.
const GREETING_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
impl Config {
    /// Takes the port. Connections wait until [`Server::run`] accepts them.
    pub async fn bind(self) -> io::Result<Server> {
        let listener = TcpListener::bind(self.address).await?;
        Ok(Server { address: listener.local_addr()?, listener, config: self, metrics: ServeMetrics::default() })
    }
}

/// A port that is taken.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    metrics: ServeMetrics,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts with these handles.
    #[must_use]
    pub fn counted(self, metrics: ServeMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Serves until `stop`, then accepts nothing more, lets calls under way end, and completes when the last connection is
    /// closed. `cut` closes whatever is still open. With certificates, connections are encrypted.
    pub async fn run(
        self,
        routes: Routes,
        certificates: Option<Certificates>,
        stop: CancellationToken,
        cut: CancellationToken,
    ) {
        let Self { config, listener, metrics, .. } = self;
        let unfinished = Unfinished::default();
        let server = tonic::transport::Server::builder()
            .layer(MapRequestLayer::new(move |request| unfinished.count(request)))
            .max_concurrent_streams(GRPC_STREAMS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(GRPC_KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(config.keepalive_timeout))
            .http2_max_header_list_size(GRPC_HEADER_LIST_BYTES_MAX)
            .initial_stream_window_size(GRPC_CALL_WINDOW_BYTES)
            .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
            .add_routes(routes);
        let incoming = connections(Door::new(listener, &config, metrics), &config, certificates, cut);
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            error!(%error, "serving ended early");
        }
    }
}

/// Where connections come in, and how many may.
struct Door {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    addresses: Addresses,
    metrics: ServeMetrics,
}

impl Door {
    fn new(listener: TcpListener, config: &Config, metrics: ServeMetrics) -> Self {
        let permits = Arc::new(Semaphore::new(config.connections_max));
        Self { listener, permits, addresses: Addresses::new(config.address_connections_max), metrics }
    }

    /// The next connection, once there may be one more, with what it takes until it ends. Those of an address that has too many
    /// are closed.
    async fn next(&self) -> (TcpStream, (OwnedSemaphorePermit, Place)) {
        let permit = self.permits.clone().acquire_owned().await.expect("nobody closes it");
        loop {
            let (stream, address) = accepting::accept(|| self.listener.accept()).await;
            if let Some(place) = self.addresses.take(address.ip()) {
                return (stream, (permit, place));
            }
            self.metrics.refused.inc();
            debug!(client.address = %address.ip(), "a connection was refused: its address has too many");
        }
    }
}

/// Connections as they come, each with what it gives back when it ends.
fn connections(
    door: Door,
    config: &Config,
    certificates: Option<Certificates>,
    cut: CancellationToken,
) -> impl Stream<Item = Result<Connection, Infallible>> + use<> {
    let (greeting_timeout, handshake_timeout) = (config.keepalive_timeout, config.handshake_timeout);
    stream::unfold((door, certificates, cut), move |(door, certificates, cut)| async move {
        let (stream, places) = door.next().await;
        if let Err(error) = stream.set_nodelay(true) {
            // The client has gone already; reading will tell.
            debug!(%error, "a new connection cannot be set up");
        }
        let peer = Peer::at(stream.peer_addr().ok());
        let stream = match &certificates {
            None => Wire::Plain(stream),
            Some(certificates) => {
                let accept = certificates.acceptor().accept(stream);
                Wire::Handshake(Box::new(accept), Box::pin(sleep(handshake_timeout)), peer.clone())
            }
        };
        let connection = Connection {
            stream,
            peer,
            cut: Box::pin(cut.clone().cancelled_owned()),
            greeting: Some(Greeting { missing_bytes: GREETING_BYTES, until: Box::pin(sleep(greeting_timeout)) }),
            _places: places,
        };
        Some((Ok(connection), (door, certificates, cut)))
    })
}

/// A connection that ends with an error when it is cut, or when its client does not greet in time.
struct Connection {
    stream: Wire,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    greeting: Option<Greeting>,
    _places: (OwnedSemaphorePermit, Place),
}

/// What is still to come of a greeting, and until when.
struct Greeting {
    missing_bytes: usize,
    until: Pin<Box<Sleep>>,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped"));
        }
        if let Some(greeting) = &mut self.greeting
            && greeting.until.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not speak HTTP/2 in time"));
        }
        Ok(())
    }

    fn received(&mut self, bytes: usize) {
        if let Some(greeting) = &mut self.greeting {
            greeting.missing_bytes = greeting.missing_bytes.saturating_sub(bytes);
            if greeting.missing_bytes == 0 {
                self.greeting = None;
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received(buffer.filled().len() - filled);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn start(config: Config) -> (SocketAddr, CancellationToken, CancellationToken, impl Future<Output = ()>) {
        let server = config.bind().await.unwrap();
        let address = server.address();
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (_, health) = tonic_health::server::health_reporter();
        (address, stop.clone(), cut.clone(), server.run(Routes::new(health), None, stop, cut))
    }

    /// Reads until the other side closes.
    async fn drain(stream: &mut TcpStream) {
        let mut received = Vec::new();
        // A reset is as good an end as a close.
        drop(timeout(LONG, stream.read_to_end(&mut received)).await.expect("the server closes"));
    }

    #[tokio::test]
    async fn a_half_open_client_is_cut() {
        let (address, stop, cut, run) = start(Config::default()).await;
        let served = tokio::join!(run, async {
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut greeted = TcpStream::connect(address).await.unwrap();
            greeted.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            greeted.read_exact(&mut [0; 9]).await.unwrap();
            stop.cancel();
            cut.cancel();
            drain(&mut silent).await;
            drain(&mut greeted).await;
        });
        let ((), ()) = served;
        assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
    }

    /// Certificates for `localhost`, and what trusts them.
    fn certificates() -> (tempfile::TempDir, Certificates, tokio_rustls::TlsConnector) {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let [cert_path, key_path] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&cert_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        let files = Files { certificate: cert_path, key: key_path, client_ca: None };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        (folder, Certificates::open(files).unwrap(), Arc::new(client).into())
    }

    #[tokio::test]
    async fn a_stalled_handshake_makes_room_and_a_good_one_is_served() {
        let (_folder, certificates, connector) = certificates();
        let handshake_timeout = Duration::from_millis(50);
        // Nothing else would end them within the test.
        let keepalive_timeout = Duration::from_mins(1);
        let config = Config { connections_max: 1, handshake_timeout, keepalive_timeout, ..Config::default() };
        let server = config.bind().await.unwrap();
        let address = server.address();
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (_, health) = tonic_health::server::health_reporter();
        let run = server.run(Routes::new(health), Some(certificates), stop.clone(), cut);
        let ((), ()) = tokio::join!(run, async {
            for first_bytes in [&b""[..], b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
                let mut stalled = TcpStream::connect(address).await.unwrap();
                stalled.write_all(first_bytes).await.unwrap();
                drain(&mut stalled).await;
            }
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let mut greeted = connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
            greeted.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let mut frame = [0; 9];
            greeted.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame[3], 4, "the server's settings");
            stop.cancel();
        });
    }

    #[tokio::test]
    async fn a_client_that_does_not_greet_makes_room_for_others() {
        let config = Config { connections_max: 1, keepalive_timeout: Duration::from_millis(50), ..Config::default() };
        let (address, stop, _cut, run) = start(config).await;
        let ((), ()) = tokio::join!(run, async {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(b"PRI").await.unwrap();
            let mut next = TcpStream::connect(address).await.unwrap();
            drain(&mut silent).await;
            drain(&mut next).await;
            stop.cancel();
        });
    }
}
