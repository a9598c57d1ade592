//! Flags for what protects the receiver: rate limit, concurrency, automatic disabling; and how they are shown.

use std::time::Duration;

use clap::Args;
use postrider_client::v1::{BreakerState, RateLimit, Webhook};

use crate::output::time;

#[derive(Debug, Default, Args)]
pub(super) struct ProtectionArgs {
    /// Call the receiver at most so often: 10/s, 30/m.
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate_limit: Option<f64>,
    /// So many attempts may be made at once after a rest; by default, one second's worth.
    #[arg(long, value_name = "N", requires = "rate_limit", value_parser = clap::value_parser!(i32).range(1..))]
    burst: Option<i32>,
    /// At most so many attempts under way at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_in_flight: Option<i32>,
    /// Disable it when it has failed continuously for so long, or never.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    auto_disable_after: Option<Duration>,
}

impl ProtectionArgs {
    /// Sets what was given, and returns the names of the fields.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Vec<&'static str> {
        let mut set = Vec::new();
        if let Some(per_second) = self.rate_limit {
            webhook.rate_limit = Some(RateLimit { per_second, burst: self.burst.unwrap_or_default() });
            set.push("rate_limit");
        }
        if let Some(most) = self.max_in_flight {
            webhook.max_in_flight = most;
            set.push("max_in_flight");
        }
        if let Some(span) = self.auto_disable_after {
            // Spans beyond the age of the universe are refused as too long, as they should be.
            webhook.auto_disable_after =
                Some(span.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 }));
            set.push("auto_disable_after");
        }
        set
    }
}

/// Attempts per second, from `10/s`, `30/m` or `100/h`.
fn parse_rate(text: &str) -> Result<f64, String> {
    let per_second = text.split_once('/').and_then(|(count, unit)| {
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        count.trim().parse::<f64>().ok().filter(|count| count.is_finite()).map(|count| count / seconds)
    });
    per_second.ok_or_else(|| "it is not a rate such as 10/s or 30/m".into())
}

/// A span, or `never`.
fn parse_span(text: &str) -> Result<Duration, String> {
    match text {
        "never" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text).map_err(|_| "it is neither a duration such as 5d nor never".into()),
    }
}

/// What was decided, in one line; empty if nothing was.
pub(super) fn decided(webhook: &Webhook) -> String {
    let mut parts = Vec::new();
    if let Some(limit) = &webhook.rate_limit {
        parts.push(format!("{}/s, bursts of {}", limit.per_second, limit.burst));
    }
    if webhook.max_in_flight > 0 {
        parts.push(format!("{} at once", webhook.max_in_flight));
    }
    if let Some(span) = webhook.auto_disable_after.and_then(|span| Duration::try_from(span).ok()) {
        parts.push(match span {
            Duration::ZERO => "never disabled for failing".into(),
            span => format!("disabled after failing for {}", humantime::format_duration(span)),
        });
    }
    parts.join("; ")
}

/// How the receiver does, in one line; empty while it does well.
pub(super) fn breaker(webhook: &Webhook) -> String {
    let Some(breaker) = &webhook.breaker else { return String::new() };
    let failures = format!("{} failures in a row", breaker.consecutive_failures);
    match breaker.state() {
        BreakerState::Open => {
            format!(
                "open since {}, {failures}; next probe {}",
                time(breaker.since.as_ref()),
                time(breaker.next_probe_time.as_ref())
            )
        }
        BreakerState::HalfOpen => format!("half open, {failures}"),
        BreakerState::Closed | BreakerState::Unspecified if breaker.consecutive_failures > 0 => failures,
        BreakerState::Closed | BreakerState::Unspecified => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use postrider_client::v1::Breaker;

    use super::*;

    #[test]
    fn rates_and_spans() {
        let check = |text, expected| assert_eq!(parse_rate(text).ok(), expected, "{text}");
        check("10/s", Some(10.0));
        check("30/m", Some(0.5));
        check("0.5 / s", Some(0.5));
        for wrong in ["10", "10/d", "/s", "x/s", "NaN/s", "inf/s"] {
            check(wrong, None);
        }
        assert_eq!(parse_span("never"), Ok(Duration::ZERO));
        assert_eq!(parse_span("5d"), Ok(Duration::from_hours(120)));
        assert!(parse_span("soon").is_err());
    }

    #[test]
    fn what_is_set_is_named_and_shown() {
        let args = ProtectionArgs {
            rate_limit: Some(10.0),
            burst: Some(20),
            max_in_flight: Some(2),
            auto_disable_after: Some(Duration::ZERO),
        };
        let mut webhook = Webhook::default();
        assert_eq!(args.apply(&mut webhook), ["rate_limit", "max_in_flight", "auto_disable_after"]);
        assert_eq!(decided(&webhook), "10/s, bursts of 20; 2 at once; never disabled for failing");
        assert_eq!((decided(&Webhook::default()), breaker(&Webhook::default())), (String::new(), String::new()));
        webhook.breaker =
            Some(Breaker { state: BreakerState::Open.into(), consecutive_failures: 12, ..Breaker::default() });
        assert!(breaker(&webhook).starts_with("open since "), "{}", breaker(&webhook));
    }
}
