//! A server for tests: speaks the contract in process, over memory, as scripted.
#![expect(clippy::disallowed_methods, reason = "test servers live as long as the test's runtime")]

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    transport::{Endpoint, Server, Uri},
};

use crate::{
    Client,
    v1::{
        Accepted, CancelDeliveriesRequest, CancelDeliveriesResponse, CancelReplayRequest, CancelReplayResponse,
        ExplainEventRequest, ExplainEventResponse, GetDeliveryRequest, GetDeliveryResponse, GetEventRequest,
        GetEventResponse, GetReplayRequest, GetReplayResponse, ListDeliveriesRequest, ListDeliveriesResponse,
        ListReplaysRequest, ListReplaysResponse, PublishEventRequest, PublishEventResponse, PublishEventsRequest,
        PublishEventsResponse, Replay, ReplayEventsRequest, ReplayEventsResponse, RetryDeliveryRequest,
        RetryDeliveryResponse, WatchDeliveriesRequest, WatchDeliveriesResponse, WatchReplayRequest,
        WatchReplayResponse,
        delivery_service_server::{DeliveryService, DeliveryServiceServer},
        event_service_server::{EventService, EventServiceServer},
        publish_event_response, publish_events_response,
        replay_service_server::{ReplayService, ReplayServiceServer},
    },
};

/// What a publish stream does next.
#[derive(Debug, Clone)]
pub(crate) enum OnPublish {
    /// Stores so many events and says so.
    Accept(usize),
    /// Stores so many events and keeps it to itself, as when the connection breaks at the wrong time.
    Swallow(usize),
    /// Rejects one event.
    Reject(Status),
    /// Ends the stream.
    End(Status),
    /// Reads no more and says nothing.
    Hang,
}

/// What a watch stream does next.
#[derive(Debug, Clone)]
pub(crate) enum OnWatch {
    Send(WatchDeliveriesResponse),
    End(Status),
    Hang,
}

/// What is scripted, one list a stream (past the last one, publish streams accept everything), and what was seen.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) publish: VecDeque<Vec<OnPublish>>,
    pub(crate) watch: VecDeque<Vec<OnWatch>>,
    pub(crate) pages: VecDeque<ListDeliveriesResponse>,
    /// What a stream that follows a replay says before it ends.
    pub(crate) replays: VecDeque<Vec<Replay>>,
    /// So many attempts to connect fail.
    pub(crate) refuse_connections: usize,
    /// Ids stored, in order.
    pub(crate) stored: Vec<String>,
    /// Ids received, by stream.
    pub(crate) received: Vec<Vec<String>>,
    pub(crate) watched: Vec<WatchDeliveriesRequest>,
    pub(crate) listed: Vec<ListDeliveriesRequest>,
}

/// A running server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Starts the server on the present runtime.
    pub(crate) fn serve(&self) -> Client {
        let (connections, incoming) = mpsc::channel::<io::Result<DuplexStream>>(4);
        let server = Server::builder()
            .add_service(EventServiceServer::new(self.clone()))
            .add_service(DeliveryServiceServer::new(self.clone()))
            .add_service(ReplayServiceServer::new(self.clone()))
            .serve_with_incoming(ReceiverStream::new(incoming));
        tokio::spawn(server);
        let fake = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let connections = connections.clone();
            let refused = {
                let left = &mut fake.state().refuse_connections;
                std::mem::replace(left, left.saturating_sub(1)) > 0
            };
            async move {
                if refused {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                connections.send(Ok(theirs)).await.map_err(io::Error::other)?;
                Ok(TokioIo::new(ours))
            }
        });
        let channel = Endpoint::from_static("http://fake").connect_with_connector_lazy(connector);
        Client::from_channel(channel)
    }

    fn store(&self, id: &str) -> Accepted {
        let stored = &mut self.state().stored;
        let duplicate = stored.iter().any(|known| known == id);
        if !duplicate {
            stored.push(id.to_owned());
        }
        Accepted { deliveries: 1, duplicate }
    }

    /// The id of the next event of a stream; none at its end.
    async fn receive(&self, stream: usize, events: &mut Streaming<PublishEventsRequest>) -> Option<String> {
        let request = events.message().await.ok().flatten()?;
        let id = request.event?.id;
        self.state().received[stream].push(id.clone());
        Some(id)
    }

    /// Plays one stream; `None` when either side is through.
    async fn play(
        &self,
        stream: usize,
        script: Vec<OnPublish>,
        mut events: Streaming<PublishEventsRequest>,
        replies: &mpsc::Sender<Result<PublishEventsResponse, Status>>,
    ) -> Option<()> {
        use publish_events_response::Result as Answer;
        let last = OnPublish::Accept(usize::MAX);
        for step in script.into_iter().chain([last]) {
            match step {
                OnPublish::Accept(n) => {
                    for _ in 0..n {
                        let event_id = self.receive(stream, &mut events).await?;
                        let result = Some(Answer::Accepted(self.store(&event_id)));
                        replies.send(Ok(PublishEventsResponse { event_id, result })).await.ok()?;
                    }
                }
                OnPublish::Swallow(n) => {
                    for _ in 0..n {
                        let id = self.receive(stream, &mut events).await?;
                        self.store(&id);
                    }
                }
                OnPublish::Reject(status) => {
                    let event_id = self.receive(stream, &mut events).await?;
                    let result = Some(Answer::Rejected(rpc_status(&status)));
                    replies.send(Ok(PublishEventsResponse { event_id, result })).await.ok()?;
                }
                OnPublish::End(status) => {
                    replies.send(Err(status)).await.ok()?;
                    return None;
                }
                OnPublish::Hang => std::future::pending().await,
            }
        }
        None
    }
}

/// The same status as it travels in messages.
fn rpc_status(status: &Status) -> tonic_types::Status {
    use prost::Message as _;
    let details = tonic_types::Status::decode(status.details()).expect("encoded by tonic-types").details;
    tonic_types::Status { code: status.code() as i32, message: status.message().to_owned(), details }
}

#[async_trait]
impl EventService for Fake {
    type PublishEventsStream = ReceiverStream<Result<PublishEventsResponse, Status>>;

    async fn publish_events(
        &self,
        request: Request<Streaming<PublishEventsRequest>>,
    ) -> Result<Response<Self::PublishEventsStream>, Status> {
        let (replies, stream) = mpsc::channel(16);
        let fake = self.clone();
        let script = fake.state().publish.pop_front().unwrap_or_default();
        if let [OnPublish::End(status)] = &script[..] {
            return Err(status.clone());
        }
        let number = {
            let received = &mut fake.state().received;
            received.push(Vec::new());
            received.len() - 1
        };
        tokio::spawn(async move { fake.play(number, script, request.into_inner(), &replies).await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_event(&self, _request: Request<GetEventRequest>) -> Result<Response<GetEventResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn publish_event(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Response<PublishEventResponse>, Status> {
        let event_id = request.into_inner().event.unwrap_or_default().id;
        let result = Some(publish_event_response::Result::Accepted(self.store(&event_id)));
        Ok(Response::new(PublishEventResponse { event_id, result }))
    }

    async fn explain_event(&self, _: Request<ExplainEventRequest>) -> Result<Response<ExplainEventResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
}

#[async_trait]
impl DeliveryService for Fake {
    type WatchDeliveriesStream = Pin<Box<dyn Stream<Item = Result<WatchDeliveriesResponse, Status>> + Send>>;

    async fn watch_deliveries(
        &self,
        request: Request<WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        let mut state = self.state();
        state.watched.push(request.into_inner());
        let script = state.watch.pop_front().unwrap_or_else(|| vec![OnWatch::Hang]);
        let steps = futures::stream::iter(script).then(|step| async move {
            match step {
                OnWatch::Send(message) => Ok(message),
                OnWatch::End(status) => Err(status),
                OnWatch::Hang => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(steps)))
    }

    async fn get_delivery(
        &self,
        _request: Request<GetDeliveryRequest>,
    ) -> Result<Response<GetDeliveryResponse>, Status> {
        std::future::pending().await
    }

    async fn retry_delivery(
        &self,
        _request: Request<RetryDeliveryRequest>,
    ) -> Result<Response<RetryDeliveryResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel_deliveries(
        &self,
        _request: Request<CancelDeliveriesRequest>,
    ) -> Result<Response<CancelDeliveriesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let mut state = self.state();
        state.listed.push(request.into_inner());
        Ok(Response::new(state.pages.pop_front().unwrap_or_default()))
    }
}

#[async_trait]
impl ReplayService for Fake {
    type WatchReplayStream = Pin<Box<dyn Stream<Item = Result<WatchReplayResponse, Status>> + Send>>;

    async fn replay_events(&self, _: Request<ReplayEventsRequest>) -> Result<Response<ReplayEventsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_replay(&self, _: Request<GetReplayRequest>) -> Result<Response<GetReplayResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_replays(&self, _: Request<ListReplaysRequest>) -> Result<Response<ListReplaysResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch_replay(&self, _: Request<WatchReplayRequest>) -> Result<Response<Self::WatchReplayStream>, Status> {
        let states = self.state().replays.pop_front().unwrap_or_default();
        let messages = states.into_iter().map(|replay| Ok(WatchReplayResponse { replay: Some(replay) }));
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }

    async fn cancel_replay(&self, _: Request<CancelReplayRequest>) -> Result<Response<CancelReplayResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
