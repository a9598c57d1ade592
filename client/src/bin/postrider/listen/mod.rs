//! `postrider listen`: a receiver to try things out with.

mod reindent;
mod request;

use std::{
    convert::Infallible,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use postrider_client::verify::Verifier;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::request::{Received, Verdict};
use crate::{
    failure::Failure,
    output::{Format, say},
};

/// Largest body taken: twice what Postrider sends.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most connections at a time; the next ones wait.
const CONNECTIONS_MAX: usize = 256;
/// How long requests that are being answered may take once we stop.
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait after a connection could not be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(
    after_help = "Answers 401 when a signature is wrong, 413 to a body above 2 MiB, and --status otherwise. Without --secret nothing is
verified. Ends with Ctrl-C or after --count requests.

Examples:
  postrider listen --secret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD
  postrider listen --address 127.0.0.1:9000 --status 503 --output json"
)]
pub(crate) struct ListenArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// A signing secret, or a public key (`whpk_…`). Repeatable: any of them will do.
    #[arg(long = "secret", value_name = "whsec_…", value_parser = parse_secret, hide_default_value = true)]
    secrets: Vec<Secret>,
    /// The status code to answer with.
    #[arg(long, value_name = "CODE", default_value = "200", value_parser = parse_status)]
    status: StatusCode,
    /// Stop after so many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Wait before answering.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    delay: Duration,
}

/// A signing secret that does not show itself.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("whsec_…")
    }
}

impl ListenArgs {
    pub(crate) async fn run(self, format: Format) -> Result<(), Failure> {
        let verifier = (!self.secrets.is_empty())
            .then(|| Verifier::new(self.secrets.iter().map(|secret| &secret.0)))
            .transpose()
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let cannot = |error: io::Error| Failure::Local(format!("cannot listen on {}: {error}", self.address));
        let listener = TcpListener::bind(self.address).await.map_err(cannot)?;
        eprintln!("listening on http://{}/ (Ctrl-C ends)", listener.local_addr().map_err(cannot)?);
        let receiver = Receiver {
            verifier,
            format,
            pretty: format == Format::Table && io::stdout().is_terminal(),
            status: self.status,
            delay: self.delay,
            left: AtomicU64::new(self.count.unwrap_or(u64::MAX)),
            answered: AtomicU64::new(0),
            count: self.count.unwrap_or(u64::MAX),
            stop: CancellationToken::new(),
            stdout_closed: CancellationToken::new(),
        };
        serve(listener, Arc::new(receiver)).await
    }
}

/// Takes connections until Ctrl-C, or until the receiver has had enough; then lets begun answers finish.
async fn serve(listener: TcpListener, receiver: Arc<Receiver>) -> Result<(), Failure> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut end = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            (place, accepted) = accept(&listener, &places) => match accepted {
                Ok(stream) => {
                    connections.spawn(receiver.clone().attend(stream, place));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = receiver.stop.cancelled() => break,
            _ = &mut end => break,
        }
    }
    drop(listener);
    receiver.stop.cancel();
    // What is not through by then is cut off when the set is dropped.
    let _ = timeout(GOODBYE_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
    if receiver.stdout_closed.is_cancelled() { Err(Failure::NobodyReads) } else { Ok(()) }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (OwnedSemaphorePermit, io::Result<TcpStream>) {
    let place = places.clone().acquire_owned().await.expect("never closed");
    (place, listener.accept().await.map(|(stream, _)| stream))
}

/// Answers requests and prints them.
struct Receiver {
    verifier: Option<Verifier>,
    format: Format,
    pretty: bool,
    status: StatusCode,
    delay: Duration,
    /// How many more requests are taken.
    left: AtomicU64,
    /// How many have been answered, out of `count`.
    answered: AtomicU64,
    count: u64,
    stop: CancellationToken,
    stdout_closed: CancellationToken,
}

impl Receiver {
    /// One connection, until its end or ours.
    async fn attend(self: Arc<Self>, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let service = service_fn(|request| {
            let receiver = self.clone();
            async move { Ok::<_, Infallible>(receiver.answer(request).await) }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // How a connection ended is its client's business.
            _ = connection.as_mut() => return,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let one_less = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return response(StatusCode::SERVICE_UNAVAILABLE, "no more requests are taken\n");
        }
        let answer = self.receive(request).await;
        if self.answered.fetch_add(1, Ordering::Relaxed) + 1 == self.count {
            // Connections finish the answer they are at.
            self.stop.cancel();
        }
        answer
    }

    async fn receive(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let too_large = || response(StatusCode::PAYLOAD_TOO_LARGE, "the body is above 2 MiB\n");
        let (head, body) = request.into_parts();
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return too_large();
        }
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return too_large(),
            Err(_) => return response(StatusCode::BAD_REQUEST, "the body could not be read\n"),
        };
        #[expect(clippy::disallowed_methods, reason = "when it arrived, for people and for the verifier")]
        let now = SystemTime::now();
        let verdict = match &self.verifier {
            None => Verdict::Unverified,
            Some(verifier) => match verifier.verify_at(&head.headers, &body, now) {
                Ok(_) => Verdict::Verified,
                Err(why) => Verdict::Bad(why),
            },
        };
        let status = if matches!(verdict, Verdict::Bad(_)) { StatusCode::UNAUTHORIZED } else { self.status };
        let received = Received { now, head: &head, body: &body, verdict: &verdict, status };
        let said = match self.format {
            Format::Json => say(received.json()),
            Format::Table => say(received.text(self.pretty)),
        };
        if said.is_err() {
            self.stdout_closed.cancel();
            self.stop.cancel();
        }
        sleep(self.delay).await;
        response(status, "")
    }
}

fn response(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn parse_secret(text: &str) -> Result<Secret, String> {
    Verifier::new([text]).map_err(|error| error.to_string())?;
    Ok(Secret(text.to_owned()))
}

/// A final status code: 200 to 999.
fn parse_status(text: &str) -> Result<StatusCode, &'static str> {
    let status: Option<StatusCode> = text.parse().ok();
    status.filter(|status| !status.is_informational()).ok_or("must be an HTTP status code from 200 to 999")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn serve_one(verifier: Option<Verifier>, count: u64) -> (SocketAddr, JoinSet<Result<(), Failure>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Receiver {
            verifier,
            format: Format::Json,
            pretty: false,
            status: StatusCode::ACCEPTED,
            delay: Duration::ZERO,
            left: AtomicU64::new(count),
            answered: AtomicU64::new(0),
            count,
            stop: CancellationToken::new(),
            stdout_closed: CancellationToken::new(),
        };
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::new(receiver)));
        (address, server)
    }

    /// Sends the text and reads the answer's first line.
    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn every_request_is_answered_and_the_last_one_ends_it() {
        let (address, mut server) = serve_one(None, 2).await;
        let request = b"POST /hook HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        assert_eq!(ask(address, request).await, "HTTP/1.1 202 Accepted");
        // This connection would be kept alive, but we stop.
        let request = b"POST /hook HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(ask(address, request).await, "HTTP/1.1 202 Accepted");
        server.join_next().await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_not_genuine_or_too_large_is_refused() {
        let verifier = Verifier::new(["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]).unwrap();
        let (address, mut server) = serve_one(Some(verifier), 2).await;
        let forged = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        assert_eq!(ask(address, forged).await, "HTTP/1.1 401 Unauthorized");
        let large = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", BODY_BYTES_MAX + 1);
        assert_eq!(ask(address, large.as_bytes()).await, "HTTP/1.1 413 Payload Too Large");
        server.join_next().await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn statuses_are_final_ones() {
        assert_eq!(parse_status("503"), Ok(StatusCode::SERVICE_UNAVAILABLE));
        for text in ["100", "99", "1000", "ok", ""] {
            assert!(parse_status(text).is_err(), "{text}");
        }
    }
}
