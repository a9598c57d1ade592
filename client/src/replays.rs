//! Replays: events that were accepted before are sent again.

use std::pin::Pin;

use futures::{Stream, TryStreamExt as _, stream};
use tonic::transport::Channel;

use crate::{
    Client, Error, Pages,
    client::{REPLY_BYTES_MAX, incomplete, pages},
    v1::{
        CancelReplayRequest, GetReplayRequest, ListReplaysRequest, ListReplaysResponse, Replay, ReplayEventsRequest,
        ReplayState, WatchReplayRequest, replay_service_client::ReplayServiceClient,
    },
};

/// How a replay stands, again and again until it has ended.
pub type ReplayWatch = Pin<Box<dyn Stream<Item = Result<Replay, Error>> + Send>>;

impl Client {
    /// Starts a replay: events that were accepted before are sent to a webhook again. Set `request_id` to make a retry safe.
    pub async fn replay_events(&self, mut request: ReplayEventsRequest) -> Result<Replay, Error> {
        request.tenant = self.tenant_or(request.tenant);
        let reply = self.call(self.replay_service().replay_events(request)).await?;
        reply.replay.ok_or_else(|| incomplete("replay"))
    }

    /// Reads one replay. `NOT_FOUND` if this tenant has none of that id, or no longer.
    pub async fn replay(&self, id: impl Into<String>) -> Result<Replay, Error> {
        let request = GetReplayRequest { tenant: self.tenant_or(String::new()), id: id.into() };
        let reply = self.call(self.replay_service().get_replay(request)).await?;
        reply.replay.ok_or_else(|| incomplete("replay"))
    }

    /// Reads one page of replays, newest first.
    pub async fn list_replays(&self, mut request: ListReplaysRequest) -> Result<ListReplaysResponse, Error> {
        request.tenant = self.tenant_or(request.tenant);
        self.call(self.replay_service().list_replays(request)).await
    }

    /// All replays that pass the request's filters, newest first, read page by page as the stream is.
    pub fn replays(&self, request: ListReplaysRequest) -> Pages<'_, Replay> {
        pages(move |page_token| {
            let request = ListReplaysRequest { page_token, ..request.clone() };
            async move {
                let page = self.list_replays(request).await?;
                Ok((page.replays, page.next_page_token))
            }
        })
    }

    /// Follows a replay: as it stands now, then whenever that has changed, until it has ended. The stream ends with an error if the
    /// server goes away; the replay goes on when that is back, and so does another watch.
    pub async fn watch_replay(&self, id: impl Into<String>) -> Result<ReplayWatch, Error> {
        let request = WatchReplayRequest { tenant: self.tenant_or(String::new()), id: id.into() };
        let messages = self.call(self.replay_service().watch_replay(request)).await?;
        let watch = stream::try_unfold(Some(messages), |messages| async move {
            let Some(mut messages) = messages else { return Ok(None) };
            let Some(message) = messages.message().await? else { return Err(cut_short()) };
            let replay = message.replay.ok_or_else(|| incomplete("replay"))?;
            let goes_on = replay.state() == ReplayState::Running;
            Ok(Some((replay, goes_on.then_some(messages))))
        });
        Ok(Box::pin(watch))
    }

    /// Waits until a replay has ended, and returns it as it stands then.
    pub async fn replay_ended(&self, id: impl Into<String>) -> Result<Replay, Error> {
        let watch = self.watch_replay(id).await?;
        let last = watch.try_fold(None, |_, replay| async move { Ok(Some(replay)) }).await?;
        last.ok_or_else(cut_short)
    }

    /// Stops a replay, and cancels its pending deliveries if told to.
    pub async fn cancel_replay(&self, id: impl Into<String>, cancel_pending: bool) -> Result<Replay, Error> {
        let tenant = self.tenant_or(String::new());
        let request = CancelReplayRequest { tenant, id: id.into(), cancel_pending };
        let reply = self.call(self.replay_service().cancel_replay(request)).await?;
        reply.replay.ok_or_else(|| incomplete("replay"))
    }

    fn replay_service(&self) -> ReplayServiceClient<Channel> {
        ReplayServiceClient::new(self.channel()).max_decoding_message_size(REPLY_BYTES_MAX)
    }
}

fn cut_short() -> Error {
    Error::new(tonic::Code::Unavailable, "the server ended the stream before the replay had ended")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use crate::{fake::Fake, v1::ReplayProgress};

    use super::*;

    fn replay(created_deliveries: i64, state: ReplayState) -> Replay {
        let progress = Some(ReplayProgress { created_deliveries, ..ReplayProgress::default() });
        Replay { state: state.into(), progress, ..Replay::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_with_its_replay() {
        let fake = Fake::default();
        let states = [replay(1, ReplayState::Running), replay(2, ReplayState::Succeeded)];
        fake.state().replays.extend([states.to_vec(), states.to_vec(), states[..1].to_vec()]);
        let client = fake.serve();
        let seen: Vec<_> = client.watch_replay("rpl").await.unwrap().collect().await;
        assert_eq!(seen.into_iter().map(Result::unwrap).collect::<Vec<_>>(), states);
        assert_eq!(client.replay_ended("rpl").await.unwrap(), states[1]);
        let error = client.replay_ended("rpl").await.unwrap_err();
        assert!(error.is_unreachable(), "the stream ended too early: {error}");
    }
}
