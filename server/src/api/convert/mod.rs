//! Contract ⇄ model: what callers write is checked as a whole, so that one answer names everything that is wrong with it. One
//! file per kind of thing; here is what they share.

pub(super) mod attempt;
pub(super) mod audit;
pub(super) mod delivery;
pub(super) mod erase;
pub(super) mod event;
pub(super) mod event_type;
pub(super) mod explain;
pub(super) mod key;
pub(super) mod listing;
mod mask;
mod ordering;
mod ownership;
pub(super) mod policy;
pub(super) mod protection;
pub(super) mod quota;
pub(super) mod replay;
mod request;
pub(super) mod scope;
pub(super) mod signature;
mod tls;
pub(super) mod update;
pub(super) mod webhook;

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use postrider_proto::error_info as reason;

use super::status::{Failure, Violations};
use crate::{
    limits::{ID_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX},
    model::{
        catalogue,
        event_type::EventType,
        ids::{DeliveryId, EventTypeName, Tenant, WebhookId, is_name},
        time::Timestamp,
    },
    store::Catalog,
};

/// What `tenant` says in a call that may ask for all of them.
const ALL_TENANTS: &str = "-";
/// How much of a caller's text is repeated to it.
const ECHO_CHARS_MAX: usize = 40;

/// The tenant of a call that is about one.
pub(super) fn tenant(violations: &mut Violations, field: &str, text: &str) -> Option<Tenant> {
    violations.note(field, text.parse())
}

/// The tenant of a call that may be about all of them: then `None`, as when it is malformed.
pub(super) fn tenant_or_all(violations: &mut Violations, text: &str) -> Option<Tenant> {
    if text == ALL_TENANTS { None } else { tenant(violations, "tenant", text) }
}

/// The tenant and webhook id of a call about one webhook.
pub(super) fn webhook_key(tenant_text: &str, id: &str) -> Result<(Tenant, WebhookId), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", tenant_text);
    let id = violations.note("id", id.parse());
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations")))
}

/// The event types there are: built-in ones, and those registered for a tenant or for all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Types<'a> {
    catalog: &'a Catalog,
    tenant: Option<&'a Tenant>,
}

impl<'a> Types<'a> {
    /// Those of a tenant; without one, those of any.
    pub(super) fn of(catalog: &'a Catalog, tenant: Option<&'a Tenant>) -> Self {
        Self { catalog, tenant }
    }

    /// A registered one.
    fn registered(self, name: &str) -> Option<Arc<EventType>> {
        self.catalog.event_type(self.tenant, name)
    }
}

/// The tenant and delivery id of a call about one delivery.
pub(super) fn delivery_key(tenant_text: &str, id: &str) -> Result<(Tenant, DeliveryId), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", tenant_text);
    let id = violations.note("id", id.parse());
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations")))
}

/// An event type that there is; of an unknown one the nearest built-in one is named.
pub(super) fn event_type(
    violations: &mut Violations,
    types: Types<'_>,
    field: impl FnOnce() -> String,
    name: &str,
) -> Option<EventTypeName> {
    if let Some(known) = catalogue::find(name) {
        return Some(EventTypeName::new(known.name));
    }
    if let Some(known) = types.registered(name) {
        return Some(known.key.name.clone());
    }
    if name.is_empty() {
        violations.add(field(), "must be set");
        return None;
    }
    let hint = catalogue::nearest(name).map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"));
    let problem = format!("no event type is called {:?}{hint}", echo(name));
    violations.add_as(reason::UNKNOWN_EVENT_TYPE, field(), problem);
    None
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}

pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.seconds(), nanos: at.subsec_nanos() }
}

/// 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z, in seconds since the Unix epoch: what `google.protobuf.Timestamp` may hold.
const TIMESTAMP_SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A caller's point in time, to the microsecond, rounded down.
fn timestamp(violations: &mut Violations, field: &str, time: prost_types::Timestamp) -> Option<Timestamp> {
    if !TIMESTAMP_SECONDS.contains(&time.seconds) {
        violations.add(field, "must be in the years 0001 to 9999");
        return None;
    }
    if !(0..1_000_000_000).contains(&time.nanos) {
        violations.add(field, "must have 0 to 999,999,999 nanoseconds");
        return None;
    }
    Some(Timestamp::from_micros(time.seconds * 1_000_000 + i64::from(time.nanos / 1_000)))
}

/// A caller's duration within bounds, to the microsecond, rounded down.
fn duration(
    violations: &mut Violations,
    field: impl Into<String>,
    duration: prost_types::Duration,
    bounds: &RangeInclusive<Duration>,
) -> Option<Duration> {
    let exact = plain(&duration);
    let kept = exact.map(|exact| Duration::new(exact.as_secs(), exact.subsec_micros() * 1_000));
    let kept = kept.filter(|kept| bounds.contains(kept));
    if kept.is_none() {
        let [least, most] = [bounds.start(), bounds.end()].map(|bound| humantime::format_duration(*bound));
        violations.add(field, format!("must be from {least} to {most}"));
    }
    kept
}

/// A duration as the contract has it.
fn span(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() }
}

/// A caller's duration; `None` if it is negative or malformed. The conversion that comes with the message panics on the smallest
/// one.
fn plain(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// A total, as the contract counts.
pub(super) fn count(total: u64) -> i64 {
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// A count of one event's or delivery's things, as the contract counts.
pub(super) fn small(total: u32) -> i32 {
    i32::try_from(total).unwrap_or(i32::MAX)
}

/// Labels and the like: at most 16 short texts under short names.
fn labels(
    violations: &mut Violations,
    field: &str,
    labels: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    if labels.len() > LABELS_MAX {
        violations.add(field, format!("must not be more than {LABELS_MAX}"));
        return BTreeMap::new();
    }
    for (key, value) in &labels {
        let field = || format!("{field}[{:?}]", key.chars().take(ID_BYTES_MAX).collect::<String>());
        if !is_name(key) {
            violations.add(field(), "its key must be [A-Za-z0-9_.-]{1,64}");
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            violations.add(field(), format!("must not be longer than {LABEL_VALUE_BYTES_MAX} bytes"));
        }
    }
    labels
}

/// Free text of at most so many bytes.
fn text(violations: &mut Violations, field: &str, text: String, bytes_max: usize) -> Box<str> {
    if text.len() > bytes_max {
        violations.add(field, format!("must not be longer than {bytes_max} bytes"));
    }
    text.into()
}
