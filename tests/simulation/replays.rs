//! Those who want things sent again.

use std::{collections::BTreeSet, sync::Arc};

use postrider_server::{
    clock::Clock,
    limits::REPLAY_PENDING_MAX,
    model::{
        delivery::DeliveryState,
        replay::{Replay, ReplaySpec},
    },
    store::{ReplayAnswer, ReplayChange, Store, StoreError},
};
use rand::{RngExt as _, seq::IndexedRandom as _};
use tokio_util::sync::CancellationToken;

use crate::{
    people::{DELIVERIES_ENOUGH, wait},
    world::World,
};

/// Starts replays, and stops some, until it is told to stop.
pub(crate) async fn replay(world: Arc<World>, clock: Clock, store: Arc<dyn Store>, stop: CancellationToken) {
    let Some(pause_ms) = world.plan.replay_ms else { return };
    while wait(pause_ms, |longest| world.replays.lock().random_range(0..=longest), &stop).await {
        if world.record.lock().deliveries() > DELIVERIES_ENOUGH {
            return;
        }
        let Some(change) = change(&world, clock, store.as_ref()) else { continue };
        let what = format!("{change:?}");
        match store.replay(change).await {
            Ok(ReplayAnswer::Put(_) | ReplayAnswer::Stale | ReplayAnswer::TooMany | ReplayAnswer::WebhookDeleted)
            | Err(StoreError::Failed(_) | StoreError::Full | StoreError::Closed) => {}
            Ok(
                other @ (ReplayAnswer::Done
                | ReplayAnswer::Busy
                | ReplayAnswer::Unreadable
                | ReplayAnswer::RequestReused),
            ) => {
                return world.record.lock().violate(clock.now(), format_args!("{what} is answered {other:?}"));
            }
        }
    }
}

fn change(world: &World, clock: Clock, store: &dyn Store) -> Option<ReplayChange> {
    let rng = &mut *world.replays.lock();
    let time = clock.now();
    let active = store.replays().active();
    if let Some(replay) = active.choose(rng)
        && rng.random_bool(0.2)
    {
        return Some(ReplayChange::Cancel { replay: replay.no, drop_pending: false, time });
    }
    let webhooks = store.catalog().list(None, None, usize::MAX);
    let webhook = &webhooks.choose(rng)?.webhook;
    let states = match rng.random_range(0..4) {
        0 => vec![DeliveryState::Failed],
        1 => vec![DeliveryState::Delivered, DeliveryState::Failed],
        _ => Vec::new(),
    };
    let spec = ReplaySpec {
        tenant: webhook.tenant.clone(),
        webhook: webhook.no,
        webhook_id: webhook.id,
        event_types: BTreeSet::new(),
        states,
        start: None,
        end: time,
        per_second: [2, 20, 1_000][rng.random_range(0..3)],
    };
    Some(ReplayChange::Start { spec, request: None, time })
}

/// Whether no replay has anything to do but those that wait for a webhook which takes nothing.
pub(crate) fn at_rest(store: &dyn Store) -> bool {
    let is_full = |replay: &Replay| {
        // They wait for more room than one delivery takes.
        let batch = replay.spec.batch() as u64;
        store.replays().pending(replay.spec.webhook) + batch > REPLAY_PENDING_MAX
    };
    let is_held = |replay: &Replay| {
        let known = store.catalog().webhook(replay.spec.webhook);
        known.is_some_and(|known| !known.webhook.is_enabled())
    };
    store.replays().active().iter().all(|replay| is_held(replay) && is_full(replay))
}
