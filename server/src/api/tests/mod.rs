//! The edge against a store in memory.

mod convert;
mod history;
mod listing;
mod publish;
mod replays;
mod request;
pub(super) mod services;

use std::sync::Arc;

use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    accept::{self, Accept},
    api::auth::{Audit, Publisher},
    clock::Clock,
    limits::{ACCEPT_BYTES_IN_FLIGHT_MAX, DELIVER_AHEAD_MAX},
    metrics::{AcceptMetrics, AuditMetrics},
    store::fake::FakeStore,
    tasks::Tasks,
};

fn accept(store: &Arc<FakeStore>) -> Accept {
    let config =
        accept::Config { bytes_in_flight_max: ACCEPT_BYTES_IN_FLIGHT_MAX, deliver_ahead_max: DELIVER_AHEAD_MAX };
    config.build(store.clone(), Clock::start(), Tasks::default(), AcceptMetrics::default())
}

/// An event that is right.
pub(super) fn event(id: &str) -> v1::Event {
    v1::Event {
        id: id.into(),
        r#type: "ADD_TAG".into(),
        payload: Some(v1::event::Payload::Body(b"{}".as_slice().into())),
        ..v1::Event::default()
    }
}

/// The code, the reason and the fields a status names.
fn told(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    (status.code(), reason, violations.into_iter().map(|violation| violation.field).collect())
}

/// Who may do everything.
fn anybody(store: &Arc<FakeStore>) -> Publisher {
    Publisher::anybody(Audit::new(store.clone(), Clock::start(), AuditMetrics::default()).into())
}

fn stop() -> CancellationToken {
    CancellationToken::new()
}
