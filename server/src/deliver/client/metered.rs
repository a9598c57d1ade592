//! Connections of which only so much is read: at a stretch, and of one answer.
//!
//! hyper reads for as long as something comes, and some of what may come has no end there: interim answers (1xx), zeros before
//! the size of a chunk, and spaces after it. A receiver that sends these faster than they are understood would keep the thread of
//! its loop from everybody else. So after some bytes the others have their turn, and after some more the connection breaks.
//!
//! ```text
//!   hyper ── Metered: sees requests begin ── TLS, maybe ── Socket: counts what comes
//! ```
//!
//! Invariant: what is counted is what came over the network, whatever TLS makes of it, and begins anew with each request and
//! with nothing else: TLS also writes by itself, when its other side asks for it.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

use crate::limits::{ANSWER_STRETCH_BYTES, ANSWER_WIRE_BYTES_MAX};

/// So much has come that it can be no answer.
#[derive(Debug, Error)]
#[error("more than {ANSWER_WIRE_BYTES_MAX} bytes came of one answer")]
pub(super) struct TooLong;

/// A socket that counts what is read from it.
#[derive(Debug)]
pub(super) struct Socket<T> {
    stream: T,
    /// What has come since the last request began; before the first one, since there is a connection.
    answer_bytes: usize,
    /// What has come since nothing more was there, or since others had their turn.
    stretch_bytes: usize,
}

impl<T> Socket<T> {
    pub(super) fn new(stream: TokioIo<T>) -> TokioIo<Self> {
        TokioIo::new(Self { stream: stream.into_inner(), answer_bytes: 0, stretch_bytes: 0 })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Socket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answer_bytes > ANSWER_WIRE_BYTES_MAX {
            return Poll::Ready(Err(io::Error::other(TooLong)));
        }
        if self.stretch_bytes >= ANSWER_STRETCH_BYTES {
            self.stretch_bytes = 0;
            // Woken after the others, and after the runtime has looked for what came for them.
            return pin!(yield_now()).poll(context).map(Ok);
        }
        let filled_bytes = buffer.filled().len();
        let room = ANSWER_STRETCH_BYTES - self.stretch_bytes;
        let read = if buffer.remaining() <= room {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        } else {
            // hyper makes more and more room for those who fill it.
            poll_read_some(&mut self.stream, context, buffer, room)
        };
        let bytes = buffer.filled().len() - filled_bytes;
        self.answer_bytes = self.answer_bytes.saturating_add(bytes);
        self.stretch_bytes = if read.is_pending() { 0 } else { self.stretch_bytes + bytes };
        read
    }
}

/// Reads so much at most.
fn poll_read_some(
    stream: &mut (impl AsyncRead + Unpin),
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    bytes_max: usize,
) -> Poll<io::Result<()>> {
    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(bytes_max));
    let read = Pin::new(stream).poll_read(context, &mut part);
    let bytes = part.filled().len();
    buffer.advance(bytes);
    read
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

impl<T: Connection> Connection for Socket<T> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

/// A connection over such a socket, TLS or not.
pub(super) struct Metered<T> {
    stream: MaybeHttpsStream<TokioIo<Socket<T>>>,
    /// Whether a part of a request is still to be written. hyper offers all of it each time: a receiver that takes it in small
    /// pieces begins nothing anew.
    is_writing: bool,
}

impl<T> Metered<T> {
    pub(super) fn new(stream: MaybeHttpsStream<TokioIo<Socket<T>>>) -> Self {
        Self { stream, is_writing: false }
    }

    fn socket(&mut self) -> &mut Socket<T> {
        match &mut self.stream {
            MaybeHttpsStream::Http(socket) => socket.inner_mut(),
            MaybeHttpsStream::Https(tls) => tls.inner_mut().get_mut().0.inner_mut().inner_mut(),
        }
    }

    /// Something is to be written.
    fn begin(&mut self) {
        if !self.is_writing {
            self.socket().answer_bytes = 0;
        }
    }

    /// So much of what was offered was taken.
    fn written(&mut self, offered_bytes: usize, taken: &Poll<io::Result<usize>>) {
        self.is_writing = !matches!(taken, Poll::Ready(Ok(bytes)) if *bytes >= offered_bytes);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Read for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Write for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.begin();
        let taken = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(bytes.len(), &taken);
        taken
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin();
        let taken = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(slices.iter().map(|slice| slice.len()).sum(), &taken);
        taken
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

impl<T: AsyncRead + AsyncWrite + Connection + Unpin> Connection for Metered<T> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// More than one answer may have.
    const ROOM: usize = 2 * ANSWER_WIRE_BYTES_MAX;

    type Near = TokioIo<Metered<DuplexStream>>;

    /// A connection, and its other end.
    fn connection() -> (Near, DuplexStream) {
        let (near, far) = duplex(ROOM);
        (TokioIo::new(Metered::new(MaybeHttpsStream::Http(Socket::new(TokioIo::new(near))))), far)
    }

    /// The other end sends so much.
    fn send(far: &mut DuplexStream, bytes: usize) {
        far.write_all(&vec![b'0'; bytes]).now_or_never().expect("there is room").unwrap();
    }

    /// Reads until it is told to wait. How much came, and what it ended with.
    fn read_on(near: &mut Near, room: usize) -> (usize, Option<io::Error>) {
        let (mut bytes, mut buffer) = (0, vec![0; room]);
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            match AsyncRead::poll_read(Pin::new(near), &mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Ready(Ok(())) => bytes += buffer.filled().len(),
                Poll::Ready(Err(error)) => return (bytes, Some(error)),
                Poll::Pending => return (bytes, None),
            }
        }
    }

    /// Reads all that is there, with buffers of this size. How much it was at most at a stretch, how much in all, and how it ended.
    fn read_all(near: &mut Near, room: usize) -> (usize, usize, Option<io::Error>) {
        let (mut most, mut all) = (0, 0);
        loop {
            let (bytes, error) = read_on(near, room);
            (most, all) = (most.max(bytes), all + bytes);
            if bytes == 0 || error.is_some() {
                return (most, all, error);
            }
        }
    }

    #[test]
    fn others_have_their_turn_and_an_answer_has_an_end() {
        for room in [8 * 1024, 10_000, 400 * 1024] {
            let (mut near, mut far) = connection();
            send(&mut far, ANSWER_WIRE_BYTES_MAX);
            let (most, all, error) = read_all(&mut near, room);
            assert_eq!((most, all), (ANSWER_STRETCH_BYTES, ANSWER_WIRE_BYTES_MAX), "{room}");
            assert!(error.is_none(), "{error:?}");
            send(&mut far, 2);
            let (_, all, error) = read_all(&mut near, room);
            assert_eq!(all, 2, "what has come is given");
            let error = error.and_then(io::Error::into_inner).expect("and then no more is read");
            assert!(error.is::<TooLong>(), "{error:?}");
        }
    }

    #[test]
    fn each_request_begins_anew() {
        let (mut near, mut far) = connection();
        for _ in 0..3 {
            near.write_all(b"request").now_or_never().expect("there is room").unwrap();
            send(&mut far, ANSWER_WIRE_BYTES_MAX);
            let (_, all, error) = read_all(&mut near, ROOM);
            assert_eq!(all, ANSWER_WIRE_BYTES_MAX);
            assert!(error.is_none(), "{error:?}");
        }
    }

    #[test]
    fn a_request_that_is_taken_in_pieces_begins_once() {
        let (mut near, mut far) = connection();
        let request = vec![b'r'; ROOM + 100];
        let mut rest = &request[..];
        let (mut came, mut ended) = (0, None);
        for _ in 0..3 {
            let context = &mut Context::from_waker(Waker::noop());
            if let Poll::Ready(taken) = AsyncWrite::poll_write(Pin::new(&mut near), context, rest) {
                rest = &rest[taken.unwrap()..];
            }
            assert!(!rest.is_empty(), "there is room for a part of it");
            far.read_exact(&mut [0; 10]).now_or_never().expect("something is there").unwrap();
            send(&mut far, ANSWER_WIRE_BYTES_MAX / 2);
            let (_, all, error) = read_all(&mut near, ROOM);
            (came, ended) = (came + all, error);
        }
        assert!(ended.is_some(), "{came} bytes came while one request was written");
    }
}
