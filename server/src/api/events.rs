//! `EventService`: publishing, reading what was published, and explaining what an event goes to.
//!
//! The one service whose routing is written by hand: the generated one fails a whole call or stream at the first message it
//! cannot decode (text that is not UTF-8, `data` nested too deeply), and here one bad event never touches its neighbours.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Buf as _;
use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use postrider_proto::v1;
use prost::{DecodeError, Message};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder},
    server::{Grpc, NamedService, StreamingService, UnaryService},
};
use tonic_prost::ProstEncoder;

use super::{
    auth::{Audit, Publisher},
    convert,
    explain::explain,
    history::History,
    publish::{Incoming, Reply, publish_all, publish_one},
    refuse_if,
    status::Failure,
    tenants::erase_event,
};
use crate::{accept::Accept, limits::GRPC_MESSAGE_BYTES_MAX, store::Store};

/// Publishes what comes in, and reads it, until told to stop.
#[derive(Clone)]
pub(super) struct EventService {
    pub(super) store: Arc<dyn Store>,
    pub(super) history: History,
    pub(super) accept: Accept,
    pub(super) audit: Arc<Audit>,
    pub(super) stop: CancellationToken,
}

impl NamedService for EventService {
    const NAME: &'static str = v1::event_service_server::SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for EventService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            Ok(match method {
                "PublishEvents" => grpc().streaming(PublishEvents(service), request).await,
                "PublishEvent" => grpc().unary(PublishEvent(service), request).await,
                "ExplainEvent" => grpc().unary(ExplainEvent(service), request).await,
                "EraseEvent" => grpc().unary(EraseEvent(service), request).await,
                "GetEvent" => grpc().unary(GetEvent(service), request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

fn grpc<Q, R>() -> Grpc<Lenient<Q, R>>
where
    Lenient<Q, R>: Codec,
{
    Grpc::new(Lenient::default()).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

struct PublishEvents(EventService);

impl StreamingService<Incoming> for PublishEvents {
    type Response = v1::PublishEventsResponse;
    type ResponseStream = BoxStream<'static, Result<v1::PublishEventsResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Incoming>>) -> Self::Future {
        let EventService { accept, audit, stop, .. } = self.0.clone();
        if stop.is_cancelled() {
            return std::future::ready(Err(Failure::stopping().into()));
        }
        let publisher = Publisher::of(request.extensions(), "/postrider.v1.EventService/PublishEvents", audit);
        let replies = publish_all(request.into_inner(), accept, publisher, stop);
        std::future::ready(Ok(Response::new(replies.map(|reply| reply.map(Into::into)).boxed())))
    }
}

struct PublishEvent(EventService);

impl UnaryService<Result<v1::PublishEventRequest, DecodeError>> for PublishEvent {
    type Response = v1::PublishEventResponse;
    type Future = BoxFuture<'static, Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<Result<v1::PublishEventRequest, DecodeError>>) -> Self::Future {
        let EventService { accept, audit, stop, .. } = self.0.clone();
        Box::pin(async move {
            if stop.is_cancelled() {
                return Err(Failure::stopping().into());
            }
            let publisher = Publisher::of(request.extensions(), "/postrider.v1.EventService/PublishEvent", audit);
            let reply = match request.into_inner() {
                Ok(request) => publish_one(&accept, &publisher, request.event).await,
                Err(problem) => Reply::unreadable(&accept, &problem),
            };
            Ok(Response::new(reply.into()))
        })
    }
}

struct GetEvent(EventService);

impl UnaryService<Result<v1::GetEventRequest, DecodeError>> for GetEvent {
    type Response = v1::GetEventResponse;
    type Future = BoxFuture<'static, Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<Result<v1::GetEventRequest, DecodeError>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            refuse_if(&service.stop)?;
            let request = request.into_inner().map_err(Failure::unreadable)?;
            Ok(Response::new(service.read(&request).await?))
        })
    }
}

struct EraseEvent(EventService);

impl UnaryService<Result<v1::EraseEventRequest, DecodeError>> for EraseEvent {
    type Response = v1::EraseEventResponse;
    type Future = BoxFuture<'static, Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<Result<v1::EraseEventRequest, DecodeError>>) -> Self::Future {
        let EventService { store, history, stop, .. } = self.0.clone();
        Box::pin(async move {
            refuse_if(&stop)?;
            let request = request.into_inner().map_err(Failure::unreadable)?;
            let key = convert::erase::event(&request)?;
            Ok(Response::new(erase_event(&*store, history.clock, key).await?))
        })
    }
}

struct ExplainEvent(EventService);

impl UnaryService<Result<v1::ExplainEventRequest, DecodeError>> for ExplainEvent {
    type Response = v1::ExplainEventResponse;
    type Future = BoxFuture<'static, Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<Result<v1::ExplainEventRequest, DecodeError>>) -> Self::Future {
        let EventService { accept, store, history, stop, .. } = self.0.clone();
        Box::pin(async move {
            refuse_if(&stop)?;
            let request = request.into_inner().map_err(Failure::unreadable)?;
            Ok(Response::new(explain(&store, &history, request, &accept).await?))
        })
    }
}

impl EventService {
    async fn read(&self, request: &v1::GetEventRequest) -> Result<v1::GetEventResponse, Failure> {
        let (tenant, id) = convert::event::event_key(request)?;
        if let Some(stored) = self.store.find_event(&tenant, &id).await? {
            return Ok(convert::event::event_reply(stored));
        }
        Err(self.history.missing_event(&id))
    }
}

impl From<Reply> for v1::PublishEventsResponse {
    fn from(Reply { event_id, result }: Reply) -> Self {
        use v1::publish_events_response::Result::{Accepted, Rejected};
        Self { event_id, result: Some(result.map_or_else(Rejected, Accepted)) }
    }
}

impl From<Reply> for v1::PublishEventResponse {
    fn from(Reply { event_id, result }: Reply) -> Self {
        use v1::publish_event_response::Result::{Accepted, Rejected};
        Self { event_id, result: Some(result.map_or_else(Rejected, Accepted)) }
    }
}

/// Protobuf, except that a message which cannot be decoded is handed on as such.
struct Lenient<Q, R>(std::marker::PhantomData<(Q, R)>);

impl<Q, R> Default for Lenient<Q, R> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<Q, R> Codec for Lenient<Q, R>
where
    Q: Message + Default + 'static,
    R: Message + 'static,
{
    type Encode = R;
    type Decode = Result<Q, DecodeError>;
    type Encoder = ProstEncoder<R>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::default()
    }
}

impl<Q: Message + Default, R> Decoder for Lenient<Q, R> {
    type Item = Result<Q, DecodeError>;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let decoded = Q::decode(&mut *message);
        // The next message begins where this one ends, wherever decoding gave up.
        message.advance(message.remaining());
        Ok(Some(decoded))
    }
}
