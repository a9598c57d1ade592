//! Receivers on 127.0.0.1 that answer as scripted and record what arrived.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::deadline::within;

/// Most requests a receiver records; a test that makes more is wrong.
const REQUESTS_MAX: usize = 1_000_000;
/// Where [`Receiver::drained`] knocks; never recorded.
const BARRIER: &str = "/-barrier-";

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The request's method.
    pub method: Method,
    /// The path, which tells webhooks apart that share a receiver.
    pub path: String,
    /// All headers; empty if the receiver keeps identities only.
    pub headers: HeaderMap,
    /// The exact bytes of the body; empty if the receiver keeps identities only.
    pub body: Bytes,
    /// When the body was complete.
    pub at: Instant,
    /// `webhook-id`; empty if there was none.
    pub event_id: String,
    /// `webhook-attempt`; 0 if there was none.
    pub attempt: u32,
    /// The receiver's epoch when it arrived, see [`Receiver::start_epoch`].
    pub epoch: u64,
}

impl Received {
    /// A header's value.
    ///
    /// # Panics
    /// When it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers));
        value.to_str().unwrap_or_else(|_| panic!("header {name} is not text: {value:?}"))
    }
}

/// What a receiver does with one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Answers.
    Reply {
        /// The status code.
        status: u16,
        /// Headers of the answer.
        headers: Vec<(&'static str, String)>,
        /// How long it thinks first.
        delay: Duration,
    },
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Reset,
}

impl Answer {
    /// Answers at once.
    pub fn status(status: u16) -> Self {
        Self::Reply { status, headers: Vec::new(), delay: Duration::ZERO }
    }

    /// Answers at once, with a header.
    pub fn with_header(status: u16, name: &'static str, value: impl Into<String>) -> Self {
        Self::Reply { status, headers: vec![(name, value.into())], delay: Duration::ZERO }
    }

    /// Answers after a while.
    pub fn after(delay: Duration, status: u16) -> Self {
        Self::Reply { status, headers: Vec::new(), delay }
    }

    /// The same answer, but then the connection is closed, as the answer announces.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        if let Self::Reply { headers, .. } = &mut self {
            headers.push(("connection", "close".to_owned()));
        }
        self
    }
}

/// How much of each request a receiver keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Headers and body too.
    Everything,
    /// Path, event id, attempt, time: for hundreds of thousands of requests.
    Identity,
    /// Nothing but how many there were: the script keeps what it needs.
    Nothing,
}

type Script = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

/// A receiver; it stops when dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    script: Script,
    keep: Keep,
    requests: Mutex<Vec<Received>>,
    progress: watch::Sender<Progress>,
    epoch: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    requests: usize,
    open_connections: usize,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts a receiver that asks `script` about each request.
    pub async fn start(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::keeping(Keep::Everything, script).await
    }

    /// Starts a receiver that answers everything with `status`.
    pub async fn answering(status: u16) -> Self {
        Self::start(move |_| Answer::status(status)).await
    }

    /// Starts a receiver that keeps as much of each request as told.
    pub async fn keeping(keep: Keep, script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on the loopback interface");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            keep,
            requests: Mutex::default(),
            progress: watch::Sender::default(),
            epoch: AtomicU64::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Self { address, shared, _tasks: tasks }
    }

    /// A URL of this receiver; `path` starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have arrived.
    pub fn count(&self) -> usize {
        self.shared.progress.borrow().requests
    }

    /// Waits until at least `n` requests have arrived, and returns all that have.
    ///
    /// # Panics
    /// When they do not arrive in time.
    pub async fn received(&self, n: usize) -> Vec<Received> {
        let mut progress = self.shared.progress.subscribe();
        let arrived = progress.wait_for(|progress| progress.requests >= n);
        let what = format!("{n} requests ({} so far)", self.count());
        within(&what, arrived).await.expect("the sender lives in self");
        self.all()
    }

    /// Everything that has arrived, in the order of arrival.
    pub fn all(&self) -> Vec<Received> {
        self.shared.requests.lock().clone()
    }

    /// Labels what arrives from now on with the next epoch.
    pub fn start_epoch(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until every connection made before the call is closed and everything sent on it is recorded. For use after
    /// the sender was killed.
    pub async fn drained(&self) {
        // Connections are accepted in order: once this one is served, none from before waits in the backlog.
        let knock = async {
            let mut stream = TcpStream::connect(self.address).await.expect("the receiver listens");
            let request = format!("GET {BARRIER} HTTP/1.1\r\nhost: barrier\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("the receiver reads");
            stream.read_to_end(&mut Vec::new()).await.expect("the receiver answers and closes");
        };
        within("the receiver to answer the barrier", knock).await;
        let mut progress = self.shared.progress.subscribe();
        let closed = progress.wait_for(|progress| progress.open_connections == 0);
        within("the killed sender's connections to close", closed).await.expect("the sender lives in self");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                shared.progress.send_modify(|progress| progress.open_connections += 1);
                connections.spawn(serve(stream, shared.clone()));
            }
            Some(_) = connections.join_next() => {
                shared.progress.send_modify(|progress| progress.open_connections -= 1);
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    // Scripted resets and killed senders end a connection with an error; what matters is recorded already.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "the request broke off")?.to_bytes();
    if head.uri.path() == BARRIER {
        return Ok(Response::default());
    }
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let received = Received {
        method: head.method,
        path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        at: Instant::now(),
        event_id: text("webhook-id").to_owned(),
        attempt: text("webhook-attempt").parse().unwrap_or_default(),
        epoch: shared.epoch.load(Ordering::SeqCst),
        headers: head.headers,
        body,
    };
    let answer = (shared.script)(&received);
    shared.record(received);
    match answer {
        Answer::Reply { status, headers, delay } => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let response = headers
                .into_iter()
                .fold(Response::builder().status(status), |response, (name, value)| response.header(name, value));
            response.body(Full::default()).map_err(|_| "a scripted header is malformed")
        }
        Answer::Hang => std::future::pending().await,
        Answer::Reset => Err("reset, as scripted"),
    }
}

impl Shared {
    fn record(&self, mut received: Received) {
        if self.keep == Keep::Nothing {
            self.progress.send_modify(|progress| progress.requests += 1);
            return;
        }
        if self.keep == Keep::Identity {
            received.headers = HeaderMap::new();
            received.body = Bytes::new();
        }
        let mut requests = self.requests.lock();
        assert!(requests.len() < REQUESTS_MAX, "more than {REQUESTS_MAX} requests at one receiver");
        requests.push(received);
        let count = requests.len();
        drop(requests);
        // Counts may pass each other between threads; they never go back.
        self.progress.send_modify(|progress| progress.requests = progress.requests.max(count));
    }
}

/// A listener that answers every connection with bytes that are not HTTP; it stops when dropped.
#[derive(Debug)]
pub struct Garbage {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Garbage {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on the loopback interface");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // The request must be read first: closing on unread bytes resets, and the garbage would be lost.
                let mut request = [0; 16 * 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"\x00\x16 what is this?\r\n\r\n").await;
            }
        });
        Self { address, _tasks: tasks }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

/// A port on which nobody listens.
pub fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback interface");
    listener.local_addr().expect("a bound socket has an address").port()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// One POST over a plain socket; returns the status line.
    fn post(address: SocketAddr, headers: &str, body: &[u8]) -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        let length = body.len();
        let head =
            format!("POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn records_and_answers_as_scripted() {
        let receiver = Receiver::start(|received| match received.attempt {
            1 => Answer::with_header(429, "retry-after", "2"),
            2 => Answer::Reset,
            _ => Answer::status(204),
        })
        .await;
        let address = receiver.address;
        let send = |attempt: u32| {
            let headers = format!("webhook-id: e-1\r\nwebhook-attempt: {attempt}\r\n");
            tokio::task::spawn_blocking(move || post(address, &headers, b"\xff body"))
        };
        assert!(send(1).await.unwrap().unwrap().contains("429"));
        assert_eq!(send(2).await.unwrap().unwrap_or_default(), "");
        receiver.drained().await;
        receiver.start_epoch();
        assert!(send(3).await.unwrap().unwrap().contains("204"));
        let requests = receiver.received(3).await;
        assert_eq!(requests[0].body.as_ref(), b"\xff body");
        assert_eq!(requests[0].header("webhook-id"), "e-1");
        assert_eq!(requests.iter().map(|r| (r.attempt, r.epoch)).collect::<Vec<_>>(), [(1, 0), (2, 0), (3, 1)]);
    }
}
