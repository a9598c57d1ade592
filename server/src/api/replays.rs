//! `ReplayService`: what was accepted before is sent again.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream, Stream},
};
use postrider_proto::v1;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{
    convert::replay::{self, replay_key, reply},
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{
    clock::Clock,
    limits::{PAGE_SIZE_DEFAULT, REPLAY_WATCH_INTERVAL},
    model::{
        ids::{ReplayId, Tenant},
        replay::Replay,
    },
    store::{ReplayAnswer, ReplayChange, Store},
};

/// Starts, shows and stops replays.
pub(super) struct ReplayService {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    /// How long events are kept.
    pub(super) retention: Duration,
    /// How long a stream may be silent.
    pub(super) heartbeat: Duration,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::replay_service_server::ReplayService for ReplayService {
    type WatchReplayStream = BoxStream<'static, Result<v1::WatchReplayResponse, Status>>;

    async fn replay_events(
        &self,
        request: Request<v1::ReplayEventsRequest>,
    ) -> Result<Response<v1::ReplayEventsResponse>, Status> {
        refuse_if(&self.stop)?;
        let time = self.clock.now();
        let (spec, request) = replay::start(request.get_ref(), self.store.catalog(), time, self.retention)?;
        let answer = self.store.replay(ReplayChange::Start { spec, request, time }).await.map_err(Failure::from)?;
        let replay = changed(answer)?;
        info!(replay.id = %replay.id, webhook.id = %replay.spec.webhook_id, tenant = %replay.spec.tenant, "started a replay");
        Ok(Response::new(v1::ReplayEventsResponse { replay: Some(reply(&replay)) }))
    }

    async fn get_replay(
        &self,
        request: Request<v1::GetReplayRequest>,
    ) -> Result<Response<v1::GetReplayResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let replay = self.find(&request.tenant, &request.id)?;
        Ok(Response::new(v1::GetReplayResponse { replay: Some(reply(&replay)) }))
    }

    async fn list_replays(
        &self,
        request: Request<v1::ListReplaysRequest>,
    ) -> Result<Response<v1::ListReplaysResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let (tenant, webhook) = replay::list(&mut violations, &request);
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = Scope::new("ListReplays").with(tenant.as_ref().map_or("-", Tenant::as_str));
        let scope = scope.with(&request.webhook_id);
        let before = scope.counted_after(&mut violations, sealer, &request.page_token);
        violations.check()?;

        let before = before.map(|before| u32::try_from(before).unwrap_or(u32::MAX));
        // One more than the page holds tells whether there is a next one.
        let found = self.store.replays().list(tenant.as_ref(), webhook, before, size + 1);
        let last = found.get(size - 1).filter(|_| found.len() > size).map(|replay| u64::from(replay.no));
        Ok(Response::new(v1::ListReplaysResponse {
            replays: found.iter().take(size).map(|replay| reply(replay)).collect(),
            next_page_token: last.map_or_else(String::new, |last| scope.counted_token(sealer, last)),
        }))
    }

    async fn watch_replay(
        &self,
        request: Request<v1::WatchReplayRequest>,
    ) -> Result<Response<Self::WatchReplayStream>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let (tenant, id) = replay_key(&request.tenant, &request.id)?;
        let first = self.find(&request.tenant, &request.id)?;
        let follower = Follower {
            store: self.store.clone(),
            stop: self.stop.clone(),
            heartbeat: self.heartbeat,
            tenant,
            id,
            said: None,
        };
        Ok(Response::new(follower.follow(first).boxed()))
    }

    async fn cancel_replay(
        &self,
        request: Request<v1::CancelReplayRequest>,
    ) -> Result<Response<v1::CancelReplayResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let known = self.find(&request.tenant, &request.id)?;
        let time = self.clock.now();
        let change = ReplayChange::Cancel { replay: known.no, drop_pending: request.cancel_pending, time };
        let replay = changed(self.store.replay(change).await.map_err(Failure::from)?)?;
        info!(replay.id = %replay.id, pending = replay.progress.pending(), "cancelled a replay");
        Ok(Response::new(v1::CancelReplayResponse { replay: Some(reply(&replay)) }))
    }
}

impl ReplayService {
    fn find(&self, tenant: &str, id: &str) -> Result<Arc<Replay>, Failure> {
        let (tenant, id) = replay_key(tenant, id)?;
        self.store.replays().find(&tenant, id).ok_or_else(Failure::replay_not_found)
    }
}

/// The replay as it is now, or why nothing was done.
fn changed(answer: ReplayAnswer) -> Result<Replay, Failure> {
    match answer {
        ReplayAnswer::Put(replay) => Ok(replay),
        ReplayAnswer::Stale => Err(Failure::replay_not_found()),
        ReplayAnswer::WebhookDeleted => Err(Failure::webhook_not_found()),
        ReplayAnswer::RequestReused => Err(Failure::request_id_reused()),
        ReplayAnswer::TooMany => Err(Failure::too_many_replays()),
        ReplayAnswer::Done | ReplayAnswer::Busy | ReplayAnswer::Unreadable => Err(Failure::store_confused()),
    }
}

/// One stream that follows a replay. Holds what it said last, and is asked for what comes next.
struct Follower {
    store: Arc<dyn Store>,
    stop: CancellationToken,
    heartbeat: Duration,
    tenant: Tenant,
    id: ReplayId,
    said: Option<(Arc<Replay>, Instant)>,
}

impl Follower {
    /// Says how it stands, whenever that has changed, until it has ended.
    fn follow(self, first: Arc<Replay>) -> impl Stream<Item = Result<v1::WatchReplayResponse, Status>> + Send {
        let state = Some((self, Some(first)));
        stream::unfold(state, |state| async move {
            let (mut follower, first) = state?;
            let replay = match first {
                Some(first) => first,
                None => match follower.next().await {
                    Ok(replay) => replay,
                    Err(failure) => return Some((Err(failure.into_status()), None)),
                },
            };
            let message = v1::WatchReplayResponse { replay: Some(reply(&replay)) };
            let goes_on = replay.is_running();
            follower.said = Some((replay, Instant::now()));
            Some((Ok(message), goes_on.then_some((follower, None))))
        })
    }

    /// How it stands when that is not as it was said last, or after a while of silence.
    async fn next(&self) -> Result<Arc<Replay>, Failure> {
        let Some((said, at)) = &self.said else { return Err(Failure::store_confused()) };
        let mut changes = self.store.replays().changes();
        let (soon, late) = (*at + REPLAY_WATCH_INTERVAL, *at + self.heartbeat);
        tokio::select! {
            () = self.stop.cancelled() => return Err(Failure::stopping()),
            () = sleep_until(soon) => {}
        }
        loop {
            changes.mark_unchanged();
            let found = self.store.replays().find(&self.tenant, self.id).ok_or_else(Failure::replay_not_found)?;
            if found != *said || Instant::now() >= late {
                return Ok(found);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(Failure::stopping()),
                _ = changes.changed() => {}
                () = sleep_until(late) => {}
            }
        }
    }
}
