//! Contract ⇄ model for replays.

use std::time::Duration;

use postrider_proto::v1;
use prost::Message as _;
use twox_hash::XxHash3_128;

use super::{Types, count, delivery, event_type, small, tenant, tenant_or_all, time, timestamp};
use crate::{
    api::status::{Failure, Violations},
    limits::{REPLAY_PER_SECOND_DEFAULT, REPLAY_PER_SECOND_MAX},
    model::{
        delivery::DeliveryState,
        ids::{ReplayId, Tenant, WebhookId, is_id},
        replay::{Replay, ReplaySpec, ReplayState, StoppedBy},
        time::Timestamp,
    },
    store::{Catalog, DeliveryView, RequestKey},
};

/// What is to be sent again, and what guards against starting it twice.
pub(in crate::api) fn start(
    request: &v1::ReplayEventsRequest,
    catalog: &Catalog,
    now: Timestamp,
    retention: Duration,
) -> Result<(ReplaySpec, Option<RequestKey>), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", &request.tenant);
    let webhook_id: Option<WebhookId> = violations.note("webhook_id", request.webhook_id.parse());
    if !request.request_id.is_empty() && !is_id(&request.request_id) {
        violations.add("request_id", "must be an id: [A-Za-z0-9_-]{1,64}");
    }
    let types = Types::of(catalog, tenant.as_ref());
    let event_types =
        delivery::each(&mut violations, "event_types", &request.event_types, |violations, field, name| {
            event_type(violations, types, || field, name)
        });
    let states = states(&mut violations, &request.states);
    let start = request.start_time.and_then(|time| timestamp(&mut violations, "start_time", time));
    let asked_end = request.end_time.and_then(|time| timestamp(&mut violations, "end_time", time));
    let end = asked_end.map_or(now, |end| end.min(now));
    if start.is_some_and(|start| start >= end) {
        violations.add("start_time", "must be before `end_time`, and in the past");
    }
    let per_second = match u32::try_from(request.per_second) {
        Ok(0) => REPLAY_PER_SECOND_DEFAULT,
        Ok(per_second) if per_second <= REPLAY_PER_SECOND_MAX => per_second,
        Ok(_) | Err(_) => {
            violations.add("per_second", format!("must be from 1 to {REPLAY_PER_SECOND_MAX}, or 0"));
            REPLAY_PER_SECOND_DEFAULT
        }
    };
    violations.check()?;

    let (tenant, webhook_id) = (tenant.expect("no violations"), webhook_id.expect("no violations"));
    let known = catalog.find(&tenant, webhook_id).ok_or_else(Failure::webhook_not_found)?;
    if asked_end.is_some_and(|end| end + retention <= now) {
        return Err(Failure::expired());
    }
    let webhook = known.webhook.no;
    let guard = (!request.request_id.is_empty())
        .then(|| RequestKey { hash: request_hash(request), id: request.request_id.clone() });
    Ok((ReplaySpec { tenant, webhook, webhook_id, event_types, states, start, end, per_second }, guard))
}

/// Fingerprint of everything that is asked for; the tenant is part of the request id's scope.
fn request_hash(request: &v1::ReplayEventsRequest) -> u128 {
    let asked = v1::ReplayEventsRequest { tenant: String::new(), ..request.clone() };
    // What kind of request it is belongs to it: others have ids in the same scope.
    XxHash3_128::oneshot(&[b"ReplayEvents\0".as_slice(), &asked.encode_to_vec()].concat())
}

/// The states that are named, each once: those of deliveries that have ended.
fn states(violations: &mut Violations, numbers: &[i32]) -> Vec<DeliveryState> {
    let mut states = Vec::new();
    for (index, &number) in numbers.iter().enumerate() {
        match v1::DeliveryState::try_from(number).ok().and_then(delivery::view) {
            Some(DeliveryView::State(state)) if state.is_final() => {
                if !states.contains(&state) {
                    states.push(state);
                }
            }
            Some(_) | None => violations.add(format!("states[{index}]"), "must be DELIVERED, FAILED or CANCELLED"),
        }
    }
    states
}

/// The tenant and id of a call about one replay.
pub(in crate::api) fn replay_key(tenant_text: &str, id: &str) -> Result<(Tenant, ReplayId), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", tenant_text);
    let id = violations.note("id", id.parse());
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations")))
}

/// Whose replays, and to which webhook; `None`: of all, to any.
pub(in crate::api) fn list(
    violations: &mut Violations,
    request: &v1::ListReplaysRequest,
) -> (Option<Tenant>, Option<WebhookId>) {
    let tenant = tenant_or_all(violations, &request.tenant);
    let named = Some(&request.webhook_id).filter(|id| !id.is_empty());
    (tenant, named.and_then(|id| violations.note("webhook_id", id.parse())))
}

/// A replay as callers see it.
pub(in crate::api) fn reply(replay: &Replay) -> v1::Replay {
    let Replay { spec, progress, .. } = replay;
    let (state, reason) = match &replay.state {
        ReplayState::Running => (v1::ReplayState::Running, ""),
        ReplayState::Succeeded => (v1::ReplayState::Succeeded, ""),
        ReplayState::Cancelled(StoppedBy::Request) => (v1::ReplayState::Cancelled, "on request"),
        ReplayState::Cancelled(StoppedBy::Deletion) => (v1::ReplayState::Cancelled, "its webhook was deleted"),
        ReplayState::Failed(why) => (v1::ReplayState::Failed, &**why),
    };
    v1::Replay {
        id: replay.id.to_string(),
        tenant: spec.tenant.to_string(),
        webhook_id: spec.webhook_id.to_string(),
        event_types: spec.event_types.iter().map(ToString::to_string).collect(),
        states: spec.states.iter().map(|state| delivery::state(DeliveryView::State(*state)).into()).collect(),
        start_time: spec.start.map(time),
        end_time: Some(time(spec.end)),
        per_second: small(spec.per_second),
        state: state.into(),
        reason: reason.to_owned(),
        progress: Some(v1::ReplayProgress {
            examined_events: count(progress.examined),
            created_deliveries: count(progress.created),
            skipped_events: count(progress.skipped()),
            expired_events: count(progress.expired),
            pending_deliveries: count(progress.pending()),
            delivered_deliveries: count(progress.delivered),
            failed_deliveries: count(progress.failed),
            cancelled_deliveries: count(progress.cancelled),
            position_time: progress.reached.map(time),
            percent: replay.percent().into(),
        }),
        create_time: Some(time(replay.create_time)),
        finish_time: replay.finish_time.map(time),
    }
}

#[cfg(test)]
mod tests {
    use postrider_proto::error_info as reason;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::model::{
        ids::{ConfigSeq, WebhookNo},
        signing::Secret,
        target::Target,
        webhook::{Settings, Subscription, WebhookSpec},
    };

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const RETENTION: Duration = Duration::from_hours(24);

    fn catalog() -> (Catalog, String) {
        let spec = WebhookSpec {
            tenant: Tenant::default(),
            settings: Settings::new(Target::from_stored("https://a.example/").unwrap(), Subscription::All),
            enabled: true,
        };
        let keys = Secret::from_bytes(&[7; 32]).unwrap().into();
        let webhook = spec.register(WebhookNo(7), WebhookId::generate(), keys, NOW);
        let (catalog, id) = (Catalog::default(), webhook.id.to_string());
        catalog.put(ConfigSeq(1), webhook);
        (catalog, id)
    }

    #[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
    fn ago(hours: i64) -> Option<prost_types::Timestamp> {
        Some(time(Timestamp::from_micros(NOW.micros() - hours * 3_600_000_000)))
    }

    #[test]
    fn requests_are_checked_as_a_whole() {
        let (catalog, webhook_id) = catalog();
        let good = v1::ReplayEventsRequest { webhook_id, ..v1::ReplayEventsRequest::default() };
        let check = |request: v1::ReplayEventsRequest, code: Code, why: &str, fields: &[&str]| {
            let status = start(&request, &catalog, NOW, RETENTION).expect_err("refused").into_status();
            let details = status.get_error_details();
            assert_eq!((status.code(), &details.error_info().unwrap().reason[..]), (code, why), "{status}");
            let named: Option<Vec<_>> =
                details.bad_request().map(|bad| bad.field_violations.iter().map(|it| &it.field[..]).collect());
            assert_eq!(named.unwrap_or_default(), fields, "{status}");
        };
        let invalid = (Code::InvalidArgument, reason::INVALID_FIELD);
        let pending = v1::DeliveryState::Pending.into();
        let held = v1::DeliveryState::Held.into();
        let failed = v1::DeliveryState::Failed.into();
        let with = |change: fn(&mut v1::ReplayEventsRequest)| {
            let mut request = good.clone();
            change(&mut request);
            request
        };
        check(with(|it| it.webhook_id = "wh_1".into()), invalid.0, invalid.1, &["webhook_id"]);
        check(with(|it| it.tenant = "A".into()), invalid.0, invalid.1, &["tenant"]);
        check(with(|it| it.request_id = "a b".into()), invalid.0, invalid.1, &["request_id"]);
        check(with(|it| it.per_second = 1_001), invalid.0, invalid.1, &["per_second"]);
        check(with(|it| it.per_second = -1), invalid.0, invalid.1, &["per_second"]);
        let states = v1::ReplayEventsRequest { states: vec![failed, pending, held, 0, 99], ..good.clone() };
        check(states, invalid.0, invalid.1, &["states[1]", "states[2]", "states[3]", "states[4]"]);
        check(with(|it| it.start_time = ago(0)), invalid.0, invalid.1, &["start_time"]);
        check(with(|it| it.start_time = ago(-1)), invalid.0, invalid.1, &["start_time"]);
        let backwards = |it: &mut v1::ReplayEventsRequest| (it.start_time, it.end_time) = (ago(1), ago(2));
        check(with(backwards), invalid.0, invalid.1, &["start_time"]);
        let unknown = with(|it| it.event_types = vec!["ADD_TAGS".into()]);
        check(unknown, invalid.0, reason::UNKNOWN_EVENT_TYPE, &["event_types[0]"]);
        check(with(|it| it.tenant = "other".into()), Code::NotFound, reason::WEBHOOK_NOT_FOUND, &[]);
        check(with(|it| it.end_time = ago(24)), Code::OutOfRange, reason::EXPIRED, &[]);
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let (catalog, webhook_id) = catalog();
        let good = v1::ReplayEventsRequest { webhook_id, ..v1::ReplayEventsRequest::default() };
        let (spec, guard) = start(&good, &catalog, NOW, RETENTION).unwrap();
        assert_eq!((spec.start, spec.end, spec.per_second), (None, NOW, REPLAY_PER_SECOND_DEFAULT));
        assert_eq!((spec.webhook, guard.is_none()), (WebhookNo(7), true));
        let late = v1::ReplayEventsRequest { end_time: ago(-5), start_time: ago(100), per_second: 7, ..good.clone() };
        let (spec, _) = start(&late, &catalog, NOW, RETENTION).unwrap();
        assert_eq!((spec.end, spec.per_second), (NOW, 7), "never what comes after the call");
        assert_eq!(time(spec.start.unwrap()), ago(100).unwrap(), "some of it is retained");

        let hash = |request: v1::ReplayEventsRequest, later: i64| {
            let request = v1::ReplayEventsRequest { request_id: "r".into(), ..request };
            let now = Timestamp::from_micros(NOW.micros() + later);
            start(&request, &catalog, now, RETENTION).unwrap().1.unwrap().hash
        };
        assert_eq!(hash(good.clone(), 0), hash(good.clone(), 5), "whenever it is repeated");
        let other = v1::ReplayEventsRequest { per_second: 5, ..good.clone() };
        assert_ne!(hash(good, 0), hash(other, 0));
    }
}
