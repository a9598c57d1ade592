//! Those who cancel deliveries, and want others at once or again.

use std::sync::Arc;

use postrider_server::{
    clock::Clock,
    store::{Repaired, Store},
};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use crate::{people::wait, world::World};

/// Repairs by hand until it is told to stop.
pub(crate) async fn repair(world: Arc<World>, clock: Clock, store: Arc<dyn Store>, stop: CancellationToken) {
    let Some(pause_ms) = world.plan.repair_ms else { return };
    while wait(pause_ms, |longest| world.repairs.lock().random_range(0..=longest), &stop).await {
        let repair = world.record.lock().ask_repair(clock.now(), &mut world.repairs.lock());
        let Some(repair) = repair else { continue };
        match store.repair(repair.clone()).await {
            Ok(
                answer @ (Repaired::Cancelled(_)
                | Repaired::Retried
                | Repaired::WebhookDeleted
                | Repaired::NoDelivery
                | Repaired::EventExpired
                | Repaired::TooManyAttempts
                | Repaired::WaitsInOrder
                | Repaired::Cancelling),
            ) => world.record.lock().repaired(clock.now(), &repair, &answer),
            Err(_) => {}
            Ok(other @ (Repaired::BacklogFull | Repaired::OverQuota(_))) => {
                let what = format!("{repair:?} is answered {other:?}");
                return world.record.lock().violate(clock.now(), format_args!("{what}"));
            }
        }
    }
}
