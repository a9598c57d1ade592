//! Contract ⇄ model for the delivery policy of webhooks.

use std::time::Duration;

use postrider_proto::v1;

use super::{duration, small, span};
use crate::{
    api::status::Violations,
    limits::{
        AGE_MAX, AGE_MIN, ATTEMPT_TIMEOUT_MAX, ATTEMPT_TIMEOUT_MIN, RETRY_ATTEMPTS_MAX, RETRY_DELAY_MAX,
        RETRY_DELAY_MIN, RETRY_DELAYS_MAX, RETRY_ELAPSED_MAX, RETRY_ELAPSED_MIN,
    },
    model::{
        policy::Policy,
        rate::PER_SECOND_MAX,
        retry::{Backoff, Exponential, InvalidExponential, Retry},
    },
};

/// By what delays grow if nobody says.
const FACTOR_DEFAULT: f64 = 2.0;
/// The longest delay if nobody says.
const DELAY_MAX_DEFAULT: Duration = Duration::from_hours(24);

/// What the operator allows webhooks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyLimits {
    /// Longest attempt timeout.
    pub attempt_timeout_max: Duration,
    /// Most attempts.
    pub attempts_max: u32,
    /// How long after a delivery was due it may be repeated.
    pub elapsed_max: Duration,
    /// Most attempts per second.
    pub per_second_max: f64,
}

impl Default for PolicyLimits {
    /// Whatever an operator can allow.
    fn default() -> Self {
        Self {
            attempt_timeout_max: ATTEMPT_TIMEOUT_MAX,
            attempts_max: RETRY_ATTEMPTS_MAX,
            elapsed_max: RETRY_ELAPSED_MAX,
            per_second_max: PER_SECOND_MAX,
        }
    }
}

/// What a webhook's owner decides about time. Wrong only with a violation.
pub(super) fn policy(
    violations: &mut Violations,
    attempt_timeout: Option<prost_types::Duration>,
    retry: Option<v1::RetryPolicy>,
    max_age: Option<prost_types::Duration>,
    limits: &PolicyLimits,
) -> Option<Box<Policy>> {
    let timeouts = ATTEMPT_TIMEOUT_MIN..=limits.attempt_timeout_max;
    let attempt_timeout =
        attempt_timeout.and_then(|timeout| duration(violations, "webhook.attempt_timeout", timeout, &timeouts));
    let retry = retry.map(|retry| retry_policy(violations, &retry, limits));
    let max_age = max_age.and_then(|age| duration(violations, "webhook.max_age", age, &(AGE_MIN..=AGE_MAX)));
    Policy { attempt_timeout, retry, max_age }.boxed()
}

fn retry_policy(violations: &mut Violations, retry: &v1::RetryPolicy, limits: &PolicyLimits) -> Retry {
    const ATTEMPTS: &str = "webhook.retry.max_attempts";
    let attempts_max = match u32::try_from(retry.max_attempts) {
        Ok(0) => None,
        Ok(attempts) if attempts <= limits.attempts_max => Some(attempts),
        Ok(_) | Err(_) => {
            violations.add(ATTEMPTS, format!("must be from 1 to {}, or 0", limits.attempts_max));
            None
        }
    };
    let elapsed = RETRY_ELAPSED_MIN..=limits.elapsed_max;
    let elapsed_max =
        retry.max_elapsed.and_then(|most| duration(violations, "webhook.retry.max_elapsed", most, &elapsed));
    if retry.exponential.is_some() && !retry.delays.is_empty() {
        violations.add("webhook.retry.exponential", "must not be set together with `delays`");
    }
    let backoff = match &retry.exponential {
        Some(backoff) => exponential(violations, backoff).map(Backoff::Exponential),
        None => delays(violations, &retry.delays),
    };
    Retry { backoff, attempts_max, elapsed_max }
}

fn delays(violations: &mut Violations, delays: &[prost_types::Duration]) -> Option<Backoff> {
    const FIELD: &str = "webhook.retry.delays";
    if delays.len() > RETRY_DELAYS_MAX {
        violations.add(FIELD, format!("must not be more than {RETRY_DELAYS_MAX}"));
        return None;
    }
    let bounds = RETRY_DELAY_MIN..=RETRY_DELAY_MAX;
    let delay = |(index, delay): (usize, &prost_types::Duration)| {
        duration(violations, format!("{FIELD}[{index}]"), *delay, &bounds)
    };
    let delays: Box<[Duration]> = delays.iter().enumerate().filter_map(delay).collect();
    (!delays.is_empty()).then_some(Backoff::Delays(delays))
}

fn exponential(violations: &mut Violations, backoff: &v1::ExponentialBackoff) -> Option<Exponential> {
    const INITIAL: &str = "webhook.retry.exponential.initial";
    const DELAY_MAX: &str = "webhook.retry.exponential.max_delay";
    let bounds = RETRY_DELAY_MIN..=RETRY_DELAY_MAX;
    let delay_max = match backoff.max_delay {
        Some(most) => duration(violations, DELAY_MAX, most, &bounds),
        None => Some(DELAY_MAX_DEFAULT),
    };
    let Some(initial) = backoff.initial else {
        violations.add(INITIAL, "must be set");
        return None;
    };
    let initial = duration(violations, INITIAL, initial, &bounds)?;
    let delay_max = if backoff.max_delay.is_some() { delay_max? } else { initial.max(DELAY_MAX_DEFAULT) };
    let factor = if backoff.factor == 0.0 { FACTOR_DEFAULT } else { backoff.factor };
    let invalid = match Exponential::new(initial, factor, delay_max) {
        Ok(exponential) => return Some(exponential),
        Err(invalid) => invalid,
    };
    let field = match invalid {
        InvalidExponential::Factor => "webhook.retry.exponential.factor",
        InvalidExponential::DelayMax => DELAY_MAX,
    };
    violations.add(field, invalid);
    None
}

/// The fields that say what was decided.
pub(super) fn decided(policy: Option<&Policy>, webhook: &mut v1::Webhook) {
    let Some(policy) = policy else { return };
    webhook.attempt_timeout = policy.attempt_timeout.map(span);
    webhook.retry = policy.retry.as_ref().map(decided_retry);
    webhook.max_age = policy.max_age.map(span);
}

fn decided_retry(retry: &Retry) -> v1::RetryPolicy {
    let (delays, exponential) = match &retry.backoff {
        None => (Vec::new(), None),
        Some(Backoff::Delays(delays)) => (delays.iter().copied().map(span).collect(), None),
        Some(Backoff::Exponential(exponential)) => {
            let backoff = v1::ExponentialBackoff {
                initial: Some(span(exponential.initial())),
                factor: exponential.factor(),
                max_delay: Some(span(exponential.delay_max())),
            };
            (Vec::new(), Some(backoff))
        }
    };
    let max_attempts = retry.attempts_max.map_or(0, small);
    v1::RetryPolicy { delays, exponential, max_attempts, max_elapsed: retry.elapsed_max.map(span) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Failure;

    #[expect(clippy::unnecessary_wraps, reason = "as fields have it")]
    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn read(webhook: &v1::Webhook, limits: &PolicyLimits) -> Result<Option<Box<Policy>>, Failure> {
        let mut violations = Violations::default();
        let (timeout, retry, age) = (webhook.attempt_timeout, webhook.retry.clone(), webhook.max_age);
        let policy = policy(&mut violations, timeout, retry, age, limits);
        violations.check().map(|()| policy)
    }

    fn of_retry(retry: v1::RetryPolicy) -> v1::Webhook {
        v1::Webhook { retry: Some(retry), ..v1::Webhook::default() }
    }

    fn of_exponential(initial: Option<i64>, factor: f64, max_delay: Option<i64>) -> v1::Webhook {
        let initial = initial.and_then(seconds);
        let backoff = v1::ExponentialBackoff { initial, factor, max_delay: max_delay.and_then(seconds) };
        of_retry(v1::RetryPolicy { exponential: Some(backoff), ..v1::RetryPolicy::default() })
    }

    #[test]
    fn what_is_decided_reads_the_same_again() {
        let list = v1::RetryPolicy {
            delays: vec![prost_types::Duration { seconds: 0, nanos: 100_000_000 }, seconds(60).unwrap()],
            max_attempts: 7,
            max_elapsed: seconds(3600),
            ..v1::RetryPolicy::default()
        };
        for webhook in [
            v1::Webhook::default(),
            v1::Webhook { attempt_timeout: seconds(60), max_age: seconds(1), ..v1::Webhook::default() },
            of_retry(v1::RetryPolicy::default()),
            of_retry(list),
            of_exponential(Some(5), 1.5, Some(60)),
        ] {
            let policy = read(&webhook, &PolicyLimits::default()).expect("it is valid");
            let mut again = v1::Webhook::default();
            decided(policy.as_deref(), &mut again);
            assert_eq!(again, webhook);
        }
        assert_eq!(read(&v1::Webhook::default(), &PolicyLimits::default()).expect("valid"), None, "costs nothing");
    }

    #[test]
    fn what_is_left_open_has_defaults() {
        let delay_max = |initial, most| {
            let policy = read(&of_exponential(Some(initial), 0.0, most), &PolicyLimits::default()).expect("valid");
            match policy.and_then(|policy| policy.retry).and_then(|retry| retry.backoff) {
                Some(Backoff::Exponential(it)) => (it.factor(), it.delay_max().as_secs()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(delay_max(5, None), (2.0, 24 * 3600));
        assert_eq!(delay_max(5, Some(9)), (2.0, 9));
        assert_eq!(delay_max(25 * 3600, None), (2.0, 25 * 3600));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let limits = PolicyLimits {
            attempt_timeout_max: Duration::from_secs(20),
            attempts_max: 5,
            elapsed_max: Duration::from_hours(1),
            ..PolicyLimits::default()
        };
        let timeout = |timeout| v1::Webhook { attempt_timeout: timeout, ..v1::Webhook::default() };
        let age = |age| v1::Webhook { max_age: age, ..v1::Webhook::default() };
        let retry = v1::RetryPolicy::default;
        let delays = |delays| of_retry(v1::RetryPolicy { delays, ..retry() });
        let both = v1::RetryPolicy {
            delays: vec![seconds(1).unwrap()],
            exponential: of_exponential(Some(1), 2.0, None).retry.unwrap().exponential,
            ..retry()
        };
        for (webhook, field) in vec![
            (timeout(seconds(0)), "attempt_timeout"),
            (timeout(seconds(21)), "attempt_timeout"),
            (timeout(seconds(-5)), "attempt_timeout"),
            (age(seconds(0)), "max_age"),
            (age(seconds(31 * 24 * 3600)), "max_age"),
            (of_retry(v1::RetryPolicy { max_attempts: 6, ..retry() }), "retry.max_attempts"),
            (of_retry(v1::RetryPolicy { max_attempts: -1, ..retry() }), "retry.max_attempts"),
            (of_retry(v1::RetryPolicy { max_elapsed: seconds(3601), ..retry() }), "retry.max_elapsed"),
            (of_retry(both), "retry.exponential"),
            (delays(vec![seconds(1).unwrap(), seconds(0).unwrap()]), "retry.delays[1]"),
            (delays(vec![seconds(1).unwrap(); 101]), "retry.delays"),
            (of_exponential(None, 2.0, None), "retry.exponential.initial"),
            (of_exponential(Some(0), 2.0, None), "retry.exponential.initial"),
            (of_exponential(Some(5), 0.5, None), "retry.exponential.factor"),
            (of_exponential(Some(5), f64::NAN, None), "retry.exponential.factor"),
            (of_exponential(Some(5), 2.0, Some(4)), "retry.exponential.max_delay"),
        ] {
            let failure = read(&webhook, &limits).expect_err(field);
            let named = format!("{failure:?}");
            assert!(named.contains(&format!("webhook.{field}\"")), "{field}: {named}");
        }
    }
}
