//! How long and how often a webhook's deliveries are attempted: flags, and what is shown.

use std::time::Duration;

use clap::Args;
use postrider_client::v1::{ExponentialBackoff, RetryPolicy, Webhook};

use crate::output::{counted, parse_duration, written};

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Delivery policy; what is not said is the server's default")]
pub(crate) struct PolicyArgs {
    /// How long one attempt may take, such as `5s`: 1s to 60s.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    attempt_timeout: Option<Duration>,
    /// How long to wait after the first, second, … failed attempt, such as `5s,1m`; the last one repeats.
    #[arg(long, value_name = "DURATION", value_delimiter = ',', value_parser = parse_duration)]
    retry_delays: Vec<Duration>,
    /// How long to wait after the first failed attempt; after each other one longer.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "retry_delays")]
    retry_initial: Option<Duration>,
    /// By what each wait is longer than the one before: 1 to 100; 2 if missing.
    #[arg(long, value_name = "FACTOR", requires = "retry_initial")]
    retry_factor: Option<f64>,
    /// The longest wait; 24h if missing.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "retry_initial")]
    retry_max_delay: Option<Duration>,
    /// Most attempts, the first one included.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_attempts: Option<i32>,
    /// No attempt follows later than this after the event was accepted, such as `6h`.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_elapsed: Option<Duration>,
    /// Give deliveries up that are older than this, such as `1h`.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age: Option<Duration>,
}

impl PolicyArgs {
    /// Sets what was given, and returns the names of the fields.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Vec<&'static str> {
        webhook.attempt_timeout = self.attempt_timeout.map(span);
        webhook.max_age = self.max_age.map(span);
        webhook.retry = self.retry();
        let given = [
            ("attempt_timeout", webhook.attempt_timeout.is_some()),
            ("max_age", webhook.max_age.is_some()),
            ("retry", webhook.retry.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect()
    }

    fn retry(self) -> Option<RetryPolicy> {
        let exponential = self.retry_initial.map(|initial| ExponentialBackoff {
            initial: Some(span(initial)),
            factor: self.retry_factor.unwrap_or_default(),
            max_delay: self.retry_max_delay.map(span),
        });
        let policy = RetryPolicy {
            delays: self.retry_delays.into_iter().map(span).collect(),
            exponential,
            max_attempts: self.max_attempts.unwrap_or_default(),
            max_elapsed: self.max_elapsed.map(span),
        };
        (policy != RetryPolicy::default()).then_some(policy)
    }
}

/// As the contract has it. One that is too long is refused by the server.
fn span(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// Names and values for people; empty where it is left to the server.
pub(super) fn describe(webhook: &Webhook) -> [(&'static str, String); 3] {
    [
        ("attempt timeout", written(webhook.attempt_timeout.as_ref())),
        ("retry", webhook.retry.as_ref().map(describe_retry).unwrap_or_default()),
        ("max age", written(webhook.max_age.as_ref())),
    ]
}

fn describe_retry(retry: &RetryPolicy) -> String {
    let mut parts = Vec::new();
    if !retry.delays.is_empty() {
        let delays: Vec<_> = retry.delays.iter().map(|delay| written(Some(delay))).collect();
        parts.push(format!("after {}", delays.join(", ")));
    }
    if let Some(ExponentialBackoff { initial, factor, max_delay }) = &retry.exponential {
        let (initial, most) = (written(initial.as_ref()), written(max_delay.as_ref()));
        parts.push(format!("after {initial}, then {factor} times as long each, up to {most}"));
    }
    if retry.max_attempts > 0 {
        parts.push(format!("at most {}", counted(retry.max_attempts.into(), "attempt", "attempts")));
    }
    if retry.max_elapsed.is_some() {
        parts.push(format!("within {}", written(retry.max_elapsed.as_ref())));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        policy: PolicyArgs,
    }

    fn webhook(line: &str) -> Result<Webhook, clap::error::ErrorKind> {
        let parsed = Line::try_parse_from(["postrider"].into_iter().chain(line.split_whitespace()));
        let mut webhook = Webhook::default();
        parsed.map_err(|error| error.kind())?.policy.apply(&mut webhook);
        Ok(webhook)
    }

    #[test]
    fn flags_become_fields_and_are_shown() {
        assert_eq!(webhook(""), Ok(Webhook::default()));
        let check = |line: &str, expected: [&str; 3]| {
            let shown = describe(&webhook(line).unwrap()).map(|(_, value)| value);
            assert_eq!(shown, expected, "{line}");
        };
        check("--attempt-timeout 5s --max-age 1h", ["5s", "", "1h"]);
        check("--retry-delays 5s,1m --retry-delays 2h", ["", "after 5s, 1m, 2h", ""]);
        check(
            "--retry-initial 500ms --retry-factor 1.5 --retry-max-delay 1m --max-attempts 7 --max-elapsed 6h",
            ["", "after 500ms, then 1.5 times as long each, up to 1m; at most 7 attempts; within 6h", ""],
        );
        check("--max-attempts 1", ["", "at most 1 attempt", ""]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument, ValueValidation};
        for (line, kind) in [
            ("--retry-delays 1s --retry-initial 1s", ArgumentConflict),
            ("--retry-factor 2", MissingRequiredArgument),
            ("--retry-max-delay 2s", MissingRequiredArgument),
            ("--max-attempts 0", ValueValidation),
            ("--max-age soon", ValueValidation),
        ] {
            assert_eq!(webhook(line), Err(kind), "{line}");
        }
    }
}
