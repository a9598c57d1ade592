use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt as _;
use postrider_proto::{error_info as reason, v1};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use v1::replay_service_server::ReplayService as _;

use super::{stop, told};
use crate::{
    api::replays::ReplayService,
    clock::Clock,
    limits::{REPLAY_WATCH_INTERVAL, WATCH_HEARTBEAT},
    model::{
        ids::{EventSeq, ReplayId, Tenant, WebhookId, WebhookNo},
        replay::{Replay, ReplaySpec, ReplayState, StoppedBy},
        time::Timestamp,
    },
    store::{ReplayAnswer, fake::FakeStore},
};

fn service(store: &Arc<FakeStore>, stop: CancellationToken) -> ReplayService {
    let retention = Duration::from_hours(24);
    ReplayService { store: store.clone(), clock: Clock::start(), retention, heartbeat: WATCH_HEARTBEAT, stop }
}

fn replay(store: &FakeStore, no: u32) -> Replay {
    let spec = ReplaySpec {
        tenant: Tenant::default(),
        webhook: WebhookNo(1),
        webhook_id: WebhookId::generate(),
        event_types: BTreeSet::new(),
        states: Vec::new(),
        start: None,
        end: Timestamp::from_micros(5),
        per_second: 10,
    };
    let events = (EventSeq(1), EventSeq(9));
    let replay = Replay::begin(no, ReplayId::generate(), spec, events, Timestamp::UNIX_EPOCH);
    store.replays.put([(no, Some(replay.clone()))]);
    replay
}

fn watch(replay: &Replay) -> Request<v1::WatchReplayRequest> {
    Request::new(v1::WatchReplayRequest { tenant: String::new(), id: replay.id.to_string() })
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_what_changes_now_and_then_and_ends_with_the_replay() {
    let store = FakeStore::new();
    let mut replay = replay(&store, 1);
    let mut follower = service(&store, stop()).watch_replay(watch(&replay)).await.unwrap().into_inner();
    let began = Instant::now();
    let mut next = async || {
        let message = follower.next().await?.unwrap().replay.unwrap();
        Some((began.elapsed(), message.progress.unwrap().created_deliveries, message.state()))
    };
    assert_eq!(next().await, Some((Duration::ZERO, 0, v1::ReplayState::Running)), "how it stands");
    // Much in short makes one message.
    let ((), message) = tokio::join!(
        async {
            for created in 1..=50 {
                replay.progress.created = created;
                store.replays.put([(1, Some(replay.clone()))]);
                sleep(Duration::from_millis(1)).await;
            }
        },
        next()
    );
    assert_eq!(message, Some((REPLAY_WATCH_INTERVAL, 50, v1::ReplayState::Running)));
    // Another replay's progress is none.
    let other = self::replay(&store, 2);
    assert!(timeout(WATCH_HEARTBEAT / 2, next()).await.is_err());
    let heartbeat = next().await.unwrap();
    assert_eq!(heartbeat, (REPLAY_WATCH_INTERVAL + WATCH_HEARTBEAT, 50, v1::ReplayState::Running));
    let ended = replay.ended(ReplayState::Cancelled(StoppedBy::Request), Timestamp::UNIX_EPOCH);
    store.replays.put([(1, Some(ended)), (2, Some(other))]);
    assert_eq!(next().await.unwrap().2, v1::ReplayState::Cancelled);
    assert_eq!(next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_the_server_stops_or_the_replay_is_forgotten() {
    for stops in [true, false] {
        let (store, stop) = (FakeStore::new(), stop());
        let replay = replay(&store, 1);
        let mut follower = service(&store, stop.clone()).watch_replay(watch(&replay)).await.unwrap().into_inner();
        follower.next().await.unwrap().unwrap();
        if stops {
            stop.cancel();
        } else {
            store.replays.put([(1, None)]);
        }
        let ended = told(&follower.next().await.unwrap().unwrap_err());
        let (code, why) =
            if stops { (Code::Unavailable, reason::STOPPING) } else { (Code::NotFound, reason::REPLAY_NOT_FOUND) };
        assert_eq!((ended.0, &ended.1[..]), (code, why));
        assert!(follower.next().await.is_none());
    }
}

#[tokio::test]
async fn what_the_store_refuses_is_said() {
    let store = FakeStore::new();
    let service = service(&store, stop());
    let replay = replay(&store, 1);
    for (answer, code, why) in [
        (ReplayAnswer::Stale, Code::NotFound, reason::REPLAY_NOT_FOUND),
        (ReplayAnswer::TooMany, Code::ResourceExhausted, reason::TOO_MANY_REPLAYS),
        (ReplayAnswer::RequestReused, Code::AlreadyExists, reason::REQUEST_ID_REUSED),
        (ReplayAnswer::WebhookDeleted, Code::NotFound, reason::WEBHOOK_NOT_FOUND),
    ] {
        store.replay_answers.lock().push_back(Ok(answer));
        let request = v1::CancelReplayRequest { id: replay.id.to_string(), ..v1::CancelReplayRequest::default() };
        let refused = told(&service.cancel_replay(Request::new(request)).await.unwrap_err());
        assert_eq!((refused.0, &refused.1[..]), (code, why));
    }
    let stranger = v1::GetReplayRequest { tenant: "other".into(), id: replay.id.to_string() };
    let refused = told(&service.get_replay(Request::new(stranger)).await.unwrap_err());
    assert_eq!((refused.0, &refused.1[..]), (Code::NotFound, reason::REPLAY_NOT_FOUND));
    let negative = v1::ListReplaysRequest { page_size: -1, ..v1::ListReplaysRequest::default() };
    let refused = told(&service.list_replays(Request::new(negative)).await.unwrap_err());
    assert_eq!(refused, (Code::InvalidArgument, reason::INVALID_FIELD.into(), vec!["page_size".into()]));
}
