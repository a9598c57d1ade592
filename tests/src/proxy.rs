//! A proxy that understands CONNECT, and a listener that nobody must call.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method and its target, such as `CONNECT 127.0.0.1:80`.
    pub what: String,
    /// The value of `proxy-authorization`.
    pub authorization: Option<String>,
}

type Script = dyn Fn(&Asked) -> Option<&'static str> + Send + Sync;

/// A proxy on the loopback interface; it stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts one that answers with what `script` says, and closes then; `None`: it does what it was asked.
    pub async fn start(script: impl Fn(&Asked) -> Option<&'static str> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on the loopback interface");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (asked, connections) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicUsize>::default());
        let (script, seen, count): (Arc<Script>, _, _) = (Arc::new(script), asked.clone(), connections.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tunnels.spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Self { address, asked, connections, _tasks: tasks }
    }

    /// One that does all it is asked.
    pub async fn willing() -> Self {
        Self::start(|_| None).await
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything it was asked, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<Asked>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let what = lines.next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let authorization = lines.find_map(|line| line.strip_prefix("proxy-authorization: ")).map(str::to_owned);
    let asked = Asked { what, authorization };
    seen.lock().push(asked.clone());
    if let Some(answer) = script(&asked) {
        // Who asked may have gone.
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let Some(receiver) = asked.what.strip_prefix("CONNECT ") else { return };
    let Ok(mut receiver) = TcpStream::connect(receiver).await else {
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
        return;
    };
    if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
        let _ = copy_bidirectional(&mut stream, &mut receiver).await;
    }
}
