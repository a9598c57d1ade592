//! A webhook's delivery policy.

use std::time::Duration;

use prost::Message;

use super::Corrupt;
use crate::model::{
    policy::Policy,
    retry::{Backoff, Exponential, Retry},
};

/// Durations are in microseconds.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct RetryRecord {
    /// Empty: see `exponential`.
    #[prost(uint64, repeated, tag = "1")]
    delays_us: Vec<u64>,
    /// Unset too: the server's schedule.
    #[prost(message, optional, tag = "2")]
    exponential: Option<ExponentialRecord>,
    #[prost(uint32, optional, tag = "3")]
    attempts_max: Option<u32>,
    #[prost(uint64, optional, tag = "4")]
    elapsed_max_us: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct ExponentialRecord {
    #[prost(uint64, tag = "1")]
    initial_us: u64,
    #[prost(uint32, tag = "2")]
    factor_thousandths: u32,
    #[prost(uint64, tag = "3")]
    delay_max_us: u64,
}

/// The fields of a policy in the record of a webhook's settings.
pub(super) type PolicyFields = (Option<u64>, Option<RetryRecord>, Option<u64>);

/// Attempt timeout, retries, age.
pub(super) fn fields(policy: Option<&Policy>) -> PolicyFields {
    let Some(policy) = policy else { return (None, None, None) };
    (policy.attempt_timeout.map(micros), policy.retry.as_ref().map(RetryRecord::new), policy.max_age.map(micros))
}

/// The policy that has these.
pub(super) fn policy((attempt_timeout, retry, max_age): PolicyFields) -> Result<Option<Box<Policy>>, Corrupt> {
    let policy = Policy {
        attempt_timeout: attempt_timeout.map(Duration::from_micros),
        retry: retry.map(RetryRecord::retry).transpose()?,
        max_age: max_age.map(Duration::from_micros),
    };
    Ok(policy.boxed())
}

impl RetryRecord {
    fn new(retry: &Retry) -> Self {
        let (delays_us, exponential) = match &retry.backoff {
            None => (Vec::new(), None),
            Some(Backoff::Delays(delays)) => (delays.iter().copied().map(micros).collect(), None),
            Some(Backoff::Exponential(exponential)) => {
                let record = ExponentialRecord {
                    initial_us: micros(exponential.initial()),
                    factor_thousandths: exponential.factor_thousandths(),
                    delay_max_us: micros(exponential.delay_max()),
                };
                (Vec::new(), Some(record))
            }
        };
        Self { delays_us, exponential, attempts_max: retry.attempts_max, elapsed_max_us: retry.elapsed_max.map(micros) }
    }

    fn retry(self) -> Result<Retry, Corrupt> {
        let backoff = match self.exponential {
            Some(record) => Some(Backoff::Exponential(record.exponential()?)),
            None if self.delays_us.is_empty() => None,
            None => Some(Backoff::Delays(self.delays_us.into_iter().map(Duration::from_micros).collect())),
        };
        let elapsed_max = self.elapsed_max_us.map(Duration::from_micros);
        Ok(Retry { backoff, attempts_max: self.attempts_max, elapsed_max })
    }
}

impl ExponentialRecord {
    fn exponential(&self) -> Result<Exponential, Corrupt> {
        let (initial, most) = (Duration::from_micros(self.initial_us), Duration::from_micros(self.delay_max_us));
        Exponential::from_thousandths(initial, self.factor_thousandths, most)
            .map_err(|error| Corrupt::new("retry policy", error))
    }
}

/// To the microsecond, as all of them are given.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn duration() -> impl Strategy<Value = Duration> {
        (0_u64..1 << 50).prop_map(Duration::from_micros)
    }

    fn backoff() -> impl Strategy<Value = Backoff> {
        let delays = proptest::collection::vec(duration(), 1..10);
        let exponential = (duration(), 1_000_u32..100_000, duration());
        prop_oneof![
            delays.prop_map(|delays| Backoff::Delays(delays.into())),
            exponential.prop_map(|(initial, factor, more)| {
                Backoff::Exponential(Exponential::from_thousandths(initial, factor, initial + more).unwrap())
            }),
        ]
    }

    fn retry() -> impl Strategy<Value = Retry> {
        let fields = (proptest::option::of(backoff()), any::<Option<u32>>(), proptest::option::of(duration()));
        fields.prop_map(|(backoff, attempts_max, elapsed_max)| Retry { backoff, attempts_max, elapsed_max })
    }

    proptest! {
        #[test]
        fn policies_round_trip(
            attempt_timeout in proptest::option::of(duration()),
            retry in proptest::option::of(retry()),
            max_age in proptest::option::of(duration()),
        ) {
            let before = Policy { attempt_timeout, retry, max_age };
            let (timeout, record, age) = fields(Some(&before));
            let record = record.map(|record| RetryRecord::decode(record.encode_to_vec().as_slice()).unwrap());
            prop_assert_eq!(policy((timeout, record, age)).unwrap(), before.boxed());
        }
    }
}
