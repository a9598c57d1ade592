//! Receivers that do not keep to HTTP, or keep to it in bad faith: each connection gets the same few steps over a raw socket.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// So many connections may wait to be accepted: a crowd comes at once.
const BACKLOG: u32 = 4096;
/// Largest request head and body that [`Step::Read`] waits for.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Repeated bytes are written in pieces of about so many.
const PIECE_BYTES: usize = 16 * 1024;

/// One thing that is done to a connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads the request whole, as one should.
    Read,
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes these bytes again and again, as fast as they are taken, so many times at most.
    Repeat(&'static [u8], usize),
    /// Writes these bytes again and again, one after the other with this pause between them, until the sender is gone.
    Drip(&'static [u8], Duration),
    /// Does nothing for so long, in which what was written arrives.
    Pause(Duration),
    /// Says that nothing more will be written.
    CloseWriting,
    /// Keeps the connection until the sender gives it up.
    Hang,
    /// Ends it with a reset.
    Reset,
}

impl Step {
    /// Writes this text.
    pub fn write(text: impl Into<Vec<u8>>) -> Self {
        Self::Write(text.into())
    }

    /// Writes these bytes until the sender is gone.
    pub fn flood(bytes: &'static [u8]) -> Self {
        Self::Repeat(bytes, usize::MAX)
    }
}

/// A receiver that takes the same steps with every connection and then closes it; it stops when dropped.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    connections: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Hostile {
    /// Starts it.
    pub fn start(steps: Vec<Step>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port on the loopback interface");
        let listener = socket.listen(BACKLOG).expect("a bound socket can listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (counter, connections) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, steps.into(), counter));
        Self { address, connections, _tasks: tasks }
    }

    /// Its URL.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/", self.address)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }
}

async fn accept(listener: TcpListener, steps: Arc<[Step]>, counter: watch::Sender<usize>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                counter.send_modify(|count| *count += 1);
                connections.spawn(serve(stream, steps.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Takes the steps. A sender that goes away ends them, which is what most of them wait for.
async fn serve(mut stream: TcpStream, steps: Arc<[Step]>) {
    for step in steps.iter() {
        let taken = match step {
            Step::Read => read_request(&mut stream).await,
            Step::Write(bytes) => stream.write_all(bytes).await,
            Step::Repeat(bytes, times) => repeat(&mut stream, bytes, *times).await,
            Step::Drip(bytes, pause) => drip(&mut stream, bytes, *pause).await,
            Step::Pause(pause) => {
                sleep(*pause).await;
                Ok(())
            }
            Step::CloseWriting => stream.shutdown().await,
            Step::Hang => hang(&mut stream).await,
            Step::Reset => stream.set_zero_linger(),
        };
        if taken.is_err() {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if request.len() >= end + 4 + length {
            return Ok(());
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

async fn repeat(stream: &mut TcpStream, bytes: &[u8], mut times: usize) -> std::io::Result<()> {
    let at_once = (PIECE_BYTES / bytes.len()).max(1);
    let piece = bytes.repeat(at_once.min(times));
    while times > 0 {
        let now = at_once.min(times);
        stream.write_all(&piece[..now * bytes.len()]).await?;
        times -= now;
    }
    Ok(())
}

async fn drip(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> std::io::Result<()> {
    for byte in bytes.iter().cycle() {
        stream.write_all(&[*byte]).await?;
        sleep(pause).await;
    }
    Ok(())
}

/// What comes is of no interest, only that it ends.
async fn hang(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}
