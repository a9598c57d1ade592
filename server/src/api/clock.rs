//! `ClockService`: whether the machine's clock can be believed. The layer lets in only those who may operate for all tenants.

use std::sync::Arc;

use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::warn;

use super::{auth::Caller, convert::time, refuse_if, status::Failure};
use crate::{clock::Clock, store::Store};

/// Shows the clock, and lets an operator confirm the machine's.
pub(super) struct ClockService {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::clock_service_server::ClockService for ClockService {
    async fn get_clock(&self, _: Request<v1::GetClockRequest>) -> Result<Response<v1::GetClockResponse>, Status> {
        refuse_if(&self.stop)?;
        Ok(Response::new(v1::GetClockResponse { clock: Some(shown(self.clock)) }))
    }

    async fn confirm_clock(
        &self,
        request: Request<v1::ConfirmClockRequest>,
    ) -> Result<Response<v1::ConfirmClockResponse>, Status> {
        refuse_if(&self.stop)?;
        if self.clock.doubted().is_some() {
            let by = Caller::of(request.extensions()).name();
            self.clock.confirm();
            let ahead_s = self.clock.confirmed() / MICROS_PER_SECOND;
            warn!(
                by,
                clock.ahead_s = ahead_s,
                "the machine's clock is confirmed: what is too old is removed and expires again, and the next start goes by that clock"
            );
        }
        // Its first step says so durably, if nothing does yet.
        self.store.upkeep(self.clock.certain()).await.map_err(Failure::from)?;
        Ok(Response::new(v1::ConfirmClockResponse { clock: Some(shown(self.clock)) }))
    }
}

const MICROS_PER_SECOND: i64 = 1_000_000;

fn shown(clock: Clock) -> v1::Clock {
    let ahead = clock.ahead();
    let nanos = i32::try_from(ahead % MICROS_PER_SECOND * 1_000).expect("below a second");
    v1::Clock {
        server_time: Some(time(clock.now())),
        machine_time: Some(time(clock.wall())),
        ahead: Some(prost_types::Duration { seconds: ahead / MICROS_PER_SECOND, nanos }),
        doubted_since: clock.doubted().map(time),
        confirmed: clock.confirmed() != 0,
    }
}
