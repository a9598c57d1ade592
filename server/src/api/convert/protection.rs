//! Contract ⇄ model for what protects receivers: rate limit, concurrency, breaker, automatic disabling.

use std::{num::NonZeroU32, time::Duration};

use postrider_proto::v1;

use super::{plain, policy::PolicyLimits, time};
use crate::{
    api::status::Violations,
    flow::GateView,
    limits::{AUTO_DISABLE_AFTER_MAX, WEBHOOK_IN_FLIGHT_MAX},
    model::{
        breaker::BreakerState,
        protection::Protection,
        rate::{BURST_MAX, PER_SECOND_MIN, RateLimit},
    },
};

/// What the fields of this group say; `None` if they say nothing.
pub(super) fn protection(
    violations: &mut Violations,
    webhook: &v1::Webhook,
    limits: &PolicyLimits,
) -> Option<Box<Protection>> {
    let most = limits.per_second_max;
    let rate_limit = webhook.rate_limit.as_ref().and_then(|limit| rate_limit(violations, limit, most));
    let max_in_flight = in_flight(violations, webhook.max_in_flight);
    let auto_disable_after = webhook.auto_disable_after.as_ref().and_then(|span| after(violations, span));
    Protection { rate_limit, max_in_flight, auto_disable_after }.boxed()
}

fn rate_limit(violations: &mut Violations, limit: &v1::RateLimit, most: f64) -> Option<RateLimit> {
    if !(PER_SECOND_MIN..=most).contains(&limit.per_second) {
        let bounds = format!("must be from {PER_SECOND_MIN} to {most}");
        violations.add("webhook.rate_limit.per_second", bounds);
        return None;
    }
    let burst = u32::try_from(limit.burst).ok();
    let limit = burst.and_then(|burst| RateLimit::new(limit.per_second, burst));
    if limit.is_none() {
        violations.add("webhook.rate_limit.burst", format!("must be from 0 to {BURST_MAX}"));
    }
    limit
}

fn in_flight(violations: &mut Violations, most: i32) -> Option<NonZeroU32> {
    let most = u32::try_from(most).ok().filter(|most| *most <= WEBHOOK_IN_FLIGHT_MAX);
    if most.is_none() {
        violations.add("webhook.max_in_flight", format!("must be from 0 to {WEBHOOK_IN_FLIGHT_MAX}"));
    }
    NonZeroU32::new(most?)
}

fn after(violations: &mut Violations, span: &prost_types::Duration) -> Option<Duration> {
    let span = plain(span).filter(|span| *span <= AUTO_DISABLE_AFTER_MAX);
    if span.is_none() {
        let days = AUTO_DISABLE_AFTER_MAX.as_secs() / 86_400;
        violations.add("webhook.auto_disable_after", format!("must be from 0 (never) to {days} days"));
    }
    span
}

/// The fields of this group that an owner decides, put into `webhook`.
pub(super) fn decided(protection: Option<&Protection>, webhook: &mut v1::Webhook) {
    let Some(protection) = protection else { return };
    webhook.rate_limit = protection.rate_limit.map(|limit| v1::RateLimit {
        per_second: limit.per_second(),
        burst: i32::try_from(limit.burst()).unwrap_or(i32::MAX),
    });
    webhook.max_in_flight = protection.max_in_flight.map_or(0, |most| i32::try_from(most.get()).unwrap_or(i32::MAX));
    // Spans that were accepted fit.
    webhook.auto_disable_after =
        protection.auto_disable_after.map(|span| prost_types::Duration::try_from(span).unwrap_or_default());
}

/// The breaker as callers see it; `None`: it has not failed of late.
pub(in crate::api) fn breaker(view: Option<GateView>) -> v1::Breaker {
    let Some(view) = view else {
        return v1::Breaker { state: v1::BreakerState::Closed.into(), ..v1::Breaker::default() };
    };
    let (state, probe) = match view.state {
        BreakerState::Closed => (v1::BreakerState::Closed, None),
        BreakerState::Open { probe } => (v1::BreakerState::Open, Some(probe)),
        BreakerState::HalfOpen { .. } => (v1::BreakerState::HalfOpen, None),
    };
    v1::Breaker {
        state: state.into(),
        since: view.since.map(time),
        next_probe_time: probe.map(time),
        consecutive_failures: i32::try_from(view.failures).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(webhook: &v1::Webhook, field: Option<&str>) {
        let mut violations = Violations::default();
        let read = protection(&mut violations, webhook, &PolicyLimits::default());
        let refusal = violations.check().err().map(|failure| format!("{failure:?}"));
        assert_eq!(refusal.is_some(), field.is_some(), "{webhook:?}: {refusal:?}");
        if let Some(field) = field {
            assert!(refusal.unwrap().contains(field), "{webhook:?}");
            return;
        }
        let mut again = v1::Webhook::default();
        decided(read.as_deref(), &mut again);
        assert_eq!(
            protection(&mut Violations::default(), &again, &PolicyLimits::default()),
            read,
            "what is replied can be sent back"
        );
    }

    #[test]
    fn every_field_has_its_bounds() {
        let rate = |per_second, burst| v1::Webhook {
            rate_limit: Some(v1::RateLimit { per_second, burst }),
            ..v1::Webhook::default()
        };
        let most = |max_in_flight| v1::Webhook { max_in_flight, ..v1::Webhook::default() };
        let after = |seconds, nanos| v1::Webhook {
            auto_disable_after: Some(prost_types::Duration { seconds, nanos }),
            ..v1::Webhook::default()
        };
        check(&v1::Webhook::default(), None);
        for (per_second, burst) in [(0.1, 0), (10.0, 1), (33.333, 10_000), (10_000.0, 0)] {
            check(&rate(per_second, burst), None);
        }
        for per_second in [0.0, -1.0, 0.05, 10_001.0, f64::NAN] {
            check(&rate(per_second, 1), Some("webhook.rate_limit.per_second"));
        }
        for burst in [-1, 10_001] {
            check(&rate(1.0, burst), Some("webhook.rate_limit.burst"));
        }
        for (number, field) in [(0, None), (1, None), (65_536, None), (-1, Some("webhook.max_in_flight"))] {
            check(&most(number), field);
        }
        check(&most(65_537), Some("webhook.max_in_flight"));
        check(&after(0, 0), None);
        check(&after(365 * 86_400, 0), None);
        check(&after(365 * 86_400, 1), Some("webhook.auto_disable_after"));
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, 0), (0, i32::MIN), (i64::MAX, i32::MAX)]
        {
            check(&after(seconds, nanos), Some("webhook.auto_disable_after"));
        }
    }
}
