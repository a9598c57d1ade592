//! Messages of which a part has come: how much of them there may be, and for how long.
//!
//! HTTP/2's windows bound what nobody has read yet, not what is read of a message and waits for its rest: that is up to the largest
//! message for every call that is open. So it is counted, for each connection and over all of them, and a large message has to be
//! whole in time. The beginning of each message is not counted: whoever sends small ones is served, whatever others do.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use crate::{
    limits::{
        GRPC_MESSAGE_TIMEOUT, GRPC_UNFINISHED_BYTES_MAX, GRPC_UNFINISHED_CONNECTION_BYTES_MAX,
        GRPC_UNFINISHED_FREE_BYTES,
    },
    peer::Peer,
};

/// What precedes a message: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: u8 = 5;

/// How much there may be, and how much there is, over all connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Unfinished {
    held: Arc<AtomicUsize>,
    all_max: usize,
    connection_max: usize,
    timeout: Duration,
}

impl Default for Unfinished {
    fn default() -> Self {
        Self {
            held: Arc::default(),
            all_max: GRPC_UNFINISHED_BYTES_MAX,
            connection_max: GRPC_UNFINISHED_CONNECTION_BYTES_MAX,
            timeout: GRPC_MESSAGE_TIMEOUT,
        }
    }
}

impl Unfinished {
    /// The same call, whose messages are counted.
    pub(super) fn count(&self, request: Request<Body>) -> Request<Body> {
        let connection = request.extensions().get::<Peer>().map(Peer::unfinished).unwrap_or_default();
        request.map(|body| {
            Body::new(Counted {
                body,
                held: Held { of: self.clone(), connection, bytes: 0 },
                message: Message::default(),
                until: None,
            })
        })
    }
}

/// What one call holds; given back when it is dropped.
#[derive(Debug)]
struct Held {
    of: Unfinished,
    connection: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    /// From now on it is so much. Whether there is room.
    fn set(&mut self, bytes: usize) -> bool {
        let before = mem::replace(&mut self.bytes, bytes);
        let change = |counter: &AtomicUsize| {
            let less = || counter.fetch_sub(before - bytes, Ordering::Relaxed);
            if bytes > before {
                counter.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before)
            } else {
                less()
            }
        };
        if bytes == before {
            return true;
        }
        let (connection, all) = (change(&self.connection), change(&self.of.held));
        bytes < before || (connection <= self.of.connection_max && all <= self.of.all_max)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How far the message is that comes now.
#[derive(Debug, Default)]
struct Message {
    head_seen: u8,
    missing_bytes: u64,
    bytes: usize,
}

impl Message {
    /// So much has come.
    fn advance(&mut self, mut data: &[u8]) {
        while let Some((&first, rest)) = data.split_first() {
            if self.head_seen < FRAME_HEAD_BYTES {
                // The first one is the flag; then the length, most significant byte first.
                if self.head_seen > 0 {
                    self.missing_bytes = self.missing_bytes << 8 | u64::from(first);
                }
                self.head_seen += 1;
                self.bytes += 1;
                data = rest;
            } else {
                let taken = usize::try_from(self.missing_bytes).map_or(data.len(), |missing| missing.min(data.len()));
                self.missing_bytes -= taken as u64;
                self.bytes += taken;
                data = &data[taken..];
            }
            if self.head_seen == FRAME_HEAD_BYTES && self.missing_bytes == 0 {
                *self = Self::default();
            }
        }
    }

    /// How much of it counts.
    fn counted_bytes(&self) -> usize {
        self.bytes.saturating_sub(GRPC_UNFINISHED_FREE_BYTES)
    }
}

/// The body of a call whose messages are counted.
struct Counted {
    body: Body,
    held: Held,
    message: Message,
    /// When the message has to be whole, if it counts.
    until: Option<Pin<Box<Sleep>>>,
}

impl Counted {
    fn received(&mut self, data: &[u8]) -> Result<(), Status> {
        self.message.advance(data);
        let bytes = self.message.counted_bytes();
        if bytes == 0 {
            self.until = None;
        } else if self.until.is_none() {
            self.until = Some(Box::pin(sleep(self.held.of.timeout)));
        }
        if self.held.set(bytes) {
            return Ok(());
        }
        Err(Status::resource_exhausted("too much is under way of messages that are not complete; send fewer at a time"))
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending()
            && let Some(until) = &mut self.until
        {
            ready!(until.as_mut().poll(context));
            return Poll::Ready(Some(Err(Status::deadline_exceeded("the message was not complete in time"))));
        }
        let frame = ready!(polled);
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref())
            && let Err(status) = self.received(data)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::Code;

    use super::*;

    const FREE: usize = GRPC_UNFINISHED_FREE_BYTES;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let check = |pieces: &[&[u8]], expected: usize| {
            let mut message = Message::default();
            for piece in pieces {
                message.advance(piece);
            }
            assert_eq!(message.bytes, expected, "{pieces:?}");
        };
        check(&[b""], 0);
        check(&[b"\0\0\0\0\0"], 0);
        check(&[b"\0\0\0\0\x02ab"], 0);
        check(&[b"\0\0\0\0\x02a"], 6);
        check(&[b"\0\0", b"\0\0\x02", b"a", b"b"], 0);
        check(&[b"\0\0\0\0\x01a\0\0\0\x01\0abc"], 8);
        check(&[b"\x01\xff\xff\xff\xff", b"abc"], 8);
    }

    /// A call on this connection, and what its client sends it with.
    fn call(unfinished: &Unfinished, peer: &Peer) -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Body) {
        let (sender, frames) = mpsc::channel(4);
        let mut request = Request::new(Body::new(StreamBody::new(ReceiverStream::new(frames))));
        request.extensions_mut().insert(peer.clone());
        (sender, unfinished.count(request).into_body())
    }

    /// The beginning of a message of 16 MiB.
    fn part(bytes: usize) -> Frame<Bytes> {
        let mut part = vec![0, 1, 0, 0, 0];
        part.resize(bytes, b'x');
        Frame::data(part.into())
    }

    async fn next(body: &mut Body) -> Result<usize, Code> {
        let frame = body.frame().await.expect("it goes on");
        frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_its_share_and_all_have_theirs() {
        let unfinished = Unfinished { all_max: 250, connection_max: 100, ..Unfinished::default() };
        let [a, b, c] = [(); 3].map(|()| Peer::default());
        let mut open = Vec::new();
        let mut send = async |peer: &Peer, bytes| {
            let (sender, mut body) = call(&unfinished, peer);
            sender.send(Ok(part(bytes))).await.unwrap();
            let came = next(&mut body).await;
            open.push((sender, body));
            came
        };
        let refused = Err(Code::ResourceExhausted);
        assert_eq!(send(&a, FREE + 60).await, Ok(FREE + 60));
        assert_eq!(send(&a, FREE + 40).await, Ok(FREE + 40));
        assert_eq!(send(&a, FREE).await, Ok(FREE), "small ones are always taken");
        assert_eq!(send(&a, FREE + 1).await, refused, "a connection has its share");
        assert_eq!(send(&b, FREE + 100).await, Ok(FREE + 100), "others have theirs");
        assert_eq!(send(&c, FREE + 100).await, refused, "all of them together have theirs");
        assert_eq!(send(&c, FREE).await, Ok(FREE));
        drop(open);
        assert_eq!(unfinished.held.load(Ordering::Relaxed), 0, "what is dropped is given back");
        let (sender, mut body) = call(&unfinished, &c);
        for _ in 0..10 {
            // Whole messages, one after the other.
            let mut whole = vec![0, 0, 1, 0, 0];
            whole.resize(5 + 65_536, b'x');
            let rest = whole.split_off(FREE + 50);
            for half in [whole, rest] {
                sender.send(Ok(Frame::data(half.into()))).await.unwrap();
                assert!(next(&mut body).await.is_ok());
            }
            assert_eq!(unfinished.held.load(Ordering::Relaxed), 0, "what is whole does not count");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_message_has_to_come_in_time() {
        let unfinished = Unfinished::default();
        let (sender, mut body) = call(&unfinished, &Peer::default());
        sender.send(Ok(part(FREE))).await.unwrap();
        assert_eq!(next(&mut body).await, Ok(FREE));
        let waiting = tokio::time::timeout(10 * GRPC_MESSAGE_TIMEOUT, next(&mut body)).await;
        assert!(waiting.is_err(), "a small one may take its time");
        sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
        assert_eq!(next(&mut body).await, Ok(1));
        let began = tokio::time::Instant::now();
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
        assert_eq!(began.elapsed().as_secs(), GRPC_MESSAGE_TIMEOUT.as_secs());
    }
}
