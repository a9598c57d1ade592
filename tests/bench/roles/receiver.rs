//! A lean receiver: one thread, HTTP/1.1 with keep-alive; it counts, and answers as told.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::{Condvar, Mutex};
use postrider_tests::process::provide_descriptors;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    sync::watch,
    task::{JoinSet, LocalSet},
};

use crate::{
    moment::now_micros,
    payload::{self, fingerprint},
    protocol::{Behaviour, OTHERS, Receive, Seen, serve},
    spread::host,
    statistics::Percentiles,
};

/// Most latencies kept between two resets; a measurement that brings more is refused.
const LATENCIES_MAX: usize = 4_000_000;
/// Connections that may wait to be accepted, on each address.
const BACKLOG: u32 = 4096;
/// Longer than any retry that may be under way when all receivers answer.
const STALLED_AFTER: Duration = Duration::from_secs(30);
const ADDRESS_IN_USE_TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Runs a receiver on the first `hosts` addresses of the loopback interface until stdin is closed.
pub(crate) fn run(hosts: u8) -> Result<()> {
    provide_descriptors()?;
    let (behaviour, behaviours) = watch::channel(Behaviour::Answer);
    let shared = Arc::new(Shared { state: Mutex::default(), arrived: Condvar::new(), behaviours });
    let (port_sender, port) = std::sync::mpsc::sync_channel(1);
    let receiving = shared.clone();
    thread::Builder::new().name("receiver".into()).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let listeners = listen(hosts);
            let port = listeners.as_ref().map_err(ToString::to_string).map(|(port, _)| *port);
            port_sender.send(port).expect("the other thread waits");
            let mut accepting = JoinSet::new();
            for listener in listeners.into_iter().flat_map(|(_, listeners)| listeners) {
                accepting.spawn_local(accept(listener, receiving.clone()));
            }
            accepting.join_all().await;
        });
    })?;
    let port = port.recv()?.map_err(anyhow::Error::msg)?;
    serve(|command| {
        let seen = match command {
            Receive::Look => shared.state.lock().seen(),
            Receive::Reset { latencies } => {
                let before = std::mem::replace(&mut *shared.state.lock(), State::new(latencies));
                before.seen()
            }
            Receive::Behave(next) => {
                behaviour.send_replace(next);
                shared.state.lock().seen()
            }
            Receive::Wait { arrived } => shared.wait(arrived)?,
        };
        if seen.latency.count > LATENCIES_MAX {
            bail!("more than {LATENCIES_MAX} latencies in one measurement");
        }
        Ok(Seen { port, ..seen })
    })
}

/// The same free port on all addresses.
fn listen(hosts: u8) -> Result<(u16, Vec<TcpListener>)> {
    let bind = |index: u8, port: u16| -> std::io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((host(index), port)))?;
        socket.listen(BACKLOG)
    };
    for _ in 0..ADDRESS_IN_USE_TRIES {
        let first = bind(0, 0)?;
        let port = first.local_addr()?.port();
        let others: Result<Vec<_>, _> = (1..hosts).map(|index| bind(index, port)).collect();
        if let Ok(others) = others {
            return Ok((port, std::iter::once(first).chain(others).collect()));
        }
    }
    bail!("no port is free on all of {hosts} addresses")
}

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    behaviours: watch::Receiver<Behaviour>,
}

#[derive(Default)]
struct State {
    seen: Seen,
    latencies: Option<Vec<u32>>,
    /// At how many arrivals somebody wants to be woken.
    awaited: Option<u64>,
}

impl State {
    fn new(latencies: bool) -> Self {
        Self { latencies: latencies.then(Vec::new), ..Self::default() }
    }

    fn seen(&self) -> Seen {
        Seen { latency: Percentiles::of(self.latencies.clone().unwrap_or_default()), ..self.seen.clone() }
    }

    /// Whether this is the one somebody waits for.
    fn arrived(&mut self, sent: u64, number: u64, now: u64) -> bool {
        if self.seen.arrived == 0 {
            self.seen.first = now;
        }
        self.seen.last = now;
        self.seen.arrived += 1;
        self.seen.fingerprint = self.seen.fingerprint.wrapping_add(fingerprint(number));
        if let Some(latencies) = &mut self.latencies
            && latencies.len() <= LATENCIES_MAX
        {
            latencies.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
        }
        self.awaited.is_some_and(|awaited| self.seen.arrived >= awaited)
    }
}

impl Shared {
    /// Waits until so many have arrived, or nothing more does.
    fn wait(&self, arrived: u64) -> Result<Seen> {
        let mut state = self.state.lock();
        state.awaited = Some(arrived);
        while state.seen.arrived < arrived {
            let before = state.seen.arrived;
            let waited = self.arrived.wait_for(&mut state, STALLED_AFTER);
            if waited.timed_out() && state.seen.arrived == before {
                bail!("{before} of {arrived} requests arrived, and then none for {STALLED_AFTER:?}");
            }
        }
        state.awaited = None;
        Ok(state.seen())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    let shared = shared.clone();
                    connections.spawn_local(async move {
                        let service = service_fn(|request| answer(request, &shared));
                        // Ends with an error when the daemon is killed.
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                    });
                }
                // Out of descriptors, most likely.
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Empty<Bytes>>> {
    let is_for_others = request.uri().path().strip_prefix('/').is_some_and(|path| path.starts_with(OTHERS));
    let body = request.into_body().collect().await?.to_bytes();
    let (sent, number) = payload::read(&body).context("a body that is none of ours")?;
    let mut behaviours = shared.behaviours.clone();
    let stands_by = is_for_others && *behaviours.borrow() == Behaviour::FailOthers;
    if !stands_by && shared.state.lock().arrived(sent, number, now_micros()) {
        shared.arrived.notify_one();
    }
    let behaviour = *behaviours.wait_for(|behaviour| *behaviour != Behaviour::Hang).await?;
    let mut response = Response::new(Empty::new());
    if behaviour == Behaviour::Fail || stands_by {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}
