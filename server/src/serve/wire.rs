//! What a connection is read from and written to: the socket itself, or what TLS makes of it.
//!
//! The handshake is made by whoever first reads or writes, which is the task of the connection: accepting goes on meanwhile,
//! and there are at most as many handshakes under way as there may be connections.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_rustls::{Accept, server::TlsStream};
use tracing::debug;

use crate::{model::tls::words, peer::Peer};

/// A connection's bytes.
pub(super) enum Wire {
    /// As they come.
    Plain(TcpStream),
    /// Not yet: the handshake, until when it has to be done, and who is to be known then.
    Handshake(Box<Accept<TcpStream>>, Pin<Box<Sleep>>, Peer),
    /// Encrypted.
    Secured(Box<TlsStream<TcpStream>>),
    /// The handshake came to nothing.
    Failed,
}

/// What bytes can be read from and written to.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

impl Wire {
    /// The stream as it is used, once the handshake is made.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Bytes>>> {
        if let Self::Handshake(accept, until, peer) = self {
            let done = match (Pin::new(accept).poll(context), until.as_mut().poll(context)) {
                (Poll::Ready(done), _) => done,
                (Poll::Pending, Poll::Ready(())) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client did not complete its TLS handshake in time",
                )),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
            };
            match done {
                Ok(stream) => {
                    peer.has_shown(stream.get_ref().1.peer_certificates());
                    *self = Self::Secured(Box::new(stream));
                }
                Err(error) => {
                    debug!(error = %in_words(&error), "a TLS handshake failed");
                    *self = Self::Failed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        let open: &mut dyn Bytes = match self {
            Self::Plain(stream) => stream,
            Self::Secured(stream) => stream.as_mut(),
            Self::Handshake(..) | Self::Failed => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        Poll::Ready(Ok(Pin::new(open)))
    }
}

/// What went wrong in a handshake; with a certificate, in words for whoever gave it to the client.
fn in_words(error: &io::Error) -> String {
    let problem = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    problem.map_or_else(|| error.to_string(), words::of_error)
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secured(stream) => stream.is_write_vectored(),
            Self::Handshake(..) | Self::Failed => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            // Nothing was said that the other side could miss.
            Self::Handshake(..) | Self::Failed => {
                *self = Self::Failed;
                Poll::Ready(Ok(()))
            }
        }
    }
}
