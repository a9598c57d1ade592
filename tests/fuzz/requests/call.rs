//! Calls with any bytes for requests.

use bytes::{Buf as _, BufMut as _};
use futures::{
    FutureExt as _, StreamExt as _,
    channel::oneshot,
    future::{Either, ready},
    stream,
};
use http::uri::PathAndQuery;
use postrider_tests::deadline::within;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// Calls over one connection, with one key.
pub(super) struct Caller {
    channel: Channel,
    authorization: MetadataValue<Ascii>,
}

impl Caller {
    pub(super) fn new(channel: Channel, key: &str) -> Self {
        Self { channel, authorization: format!("Bearer {key}").parse().expect("a header can hold it") }
    }

    /// One call; the bytes of the answer.
    pub(super) async fn call(&self, path: &str, request: &[u8]) -> Result<Vec<u8>, Status> {
        let mut call = Request::new(request.to_vec());
        call.metadata_mut().insert("authorization", self.authorization.clone());
        let mut client = Grpc::new(self.channel.clone());
        let path: PathAndQuery = path.parse().expect("a method is a path");
        let answered = async {
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            client.unary(call, path, Raw).await
        };
        Ok(within("an answer", answered).await?.into_inner())
    }
}

/// What came of a call of streams.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// What was read.
    pub(super) answers: Vec<Vec<u8>>,
    /// How it ended; `None`: it was left before.
    pub(super) end: Option<Result<(), Status>>,
}

impl Caller {
    /// A call with these messages, after which the stream of them ends, or stays open. It is left after so many answers.
    pub(super) async fn converse(&self, path: &str, requests: Vec<Vec<u8>>, ends: bool, reads: usize) -> Conversation {
        let mut held = Conversation::default();
        let requests = stream::iter(requests);
        // It ends with this conversation: hyper keeps a call that is given up for as long as more of its request may come.
        let (stays_open, closed) = oneshot::channel::<()>();
        let rest = closed.into_stream().filter_map(|_| ready(None));
        let requests = if ends { Either::Left(requests) } else { Either::Right(requests.chain(rest)) };
        let mut call = Request::new(requests);
        call.metadata_mut().insert("authorization", self.authorization.clone());
        let mut client = Grpc::new(self.channel.clone());
        let path: PathAndQuery = path.parse().expect("a method is a path");
        within("a connection", client.ready()).await.expect("it is connected");
        let opening = client.streaming(call, path, Raw);
        if reads == 0 {
            // It is on its way when it is polled, and then given up.
            let _left = opening.now_or_never();
            drop(stays_open);
            return held;
        }
        let mut answers = match within("an answer", opening).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => {
                held.end = Some(Err(status));
                return held;
            }
        };
        while held.answers.len() < reads {
            match within("an answer", answers.message()).await {
                Ok(Some(answer)) => held.answers.push(answer),
                Ok(None) => {
                    held.end = Some(Ok(()));
                    break;
                }
                Err(status) => {
                    held.end = Some(Err(status));
                    break;
                }
            }
        }
        drop(stays_open);
        held
    }
}

/// Messages as they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
