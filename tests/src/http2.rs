//! HTTP/2 by hand, for clients that do what no library would let them: frames as they are told, and no flow control.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a connection begins with: RFC 9113, section 3.4.
pub const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames: RFC 9113, section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Some of a body.
    Data = 0,
    /// A head.
    Headers = 1,
    /// The end of one call.
    Reset = 3,
    /// Settings, which are acknowledged.
    Settings = 4,
    /// A question that is answered.
    Ping = 6,
    /// Room for more.
    WindowUpdate = 8,
    /// More of a head.
    Continuation = 9,
}

/// The flag of a head that is complete.
pub const END_HEADERS: u8 = 4;

/// A frame.
pub fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind as u8, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a gRPC call, every field written out: RFC 7541, section 6.2.2.
pub fn head(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// One field of a head; name and value of at most 126 bytes.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
        [&[length], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

/// A connection that has greeted, with default settings.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[GREETING, &frame(Kind::Settings, 0, 0, &[])].concat()).await?;
    Ok(stream)
}

/// Reads and forgets until the other side closes; a reset is as good.
pub async fn closed(stream: &mut TcpStream) {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}
