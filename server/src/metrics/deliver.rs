//! Attempts: how many there are, what became of them, and how long they and their events took.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{
    histogram::{Histogram, LONG, SHORT},
    label::{CounterBy, Label},
};
use crate::model::delivery::{AttemptResult, ErrorClass};

/// Handles of the deliver stage. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DeliverMetrics {
    /// Attempts begun.
    pub started: Counter,
    /// Attempts that ended with a result.
    pub ended: CounterBy<AttemptClass>,
    under_way: Gauge,
    to_first: Histogram,
    duration: Histogram,
}

impl Default for DeliverMetrics {
    fn default() -> Self {
        Self {
            started: Counter::default(),
            ended: CounterBy::default(),
            under_way: Gauge::default(),
            to_first: Histogram::of_seconds(LONG),
            duration: Histogram::of_seconds(SHORT),
        }
    }
}

impl DeliverMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("attempts_started", "Attempts begun", self.started.clone());
        registry.register("attempts", "Attempts ended, by what became of them", self.ended.clone());
        registry.register("attempts_in_flight", "Attempts under way", self.under_way.clone());
        let help = "From taking an event in, or from its deliver_at, to the beginning of each delivery's first attempt";
        registry.register_with_unit("publish_to_first_attempt", help, Unit::Seconds, self.to_first.clone());
        let help = "From looking up the host to the end of the answer";
        registry.register_with_unit("attempt_duration", help, Unit::Seconds, self.duration.clone());
    }

    /// An attempt begins; if it is the first of its delivery, this long after that was due. Replays do not say.
    pub fn begin(&self, since_due: Option<Duration>) -> AttemptUnderWay<'_> {
        self.started.inc();
        self.under_way.inc();
        if let Some(since_due) = since_due {
            self.to_first.observe(since_due);
        }
        AttemptUnderWay { metrics: self }
    }
}

/// Counts an attempt as under way for as long as it lives: also one that is aborted ends.
#[derive(Debug)]
pub struct AttemptUnderWay<'a> {
    metrics: &'a DeliverMetrics,
}

impl AttemptUnderWay<'_> {
    /// It has a result.
    pub fn ended(self, result: &AttemptResult) {
        self.metrics.ended.inc(AttemptClass::of(result));
        self.metrics.duration.observe(result.latency);
    }
}

impl Drop for AttemptUnderWay<'_> {
    fn drop(&mut self) {
        self.metrics.under_way.dec();
    }
}

/// What became of an attempt: the hundred of its status, or the kind of its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptClass {
    /// Success.
    Status2xx,
    /// A redirect, which is not followed.
    Status3xx,
    /// The receiver refused.
    Status4xx,
    /// The receiver failed.
    Status5xx,
    /// A status of no known class.
    StatusOther,
    /// The address is not allowed; nothing was sent.
    Blocked,
    /// The name could not be resolved.
    Dns,
    /// No connection.
    Connect,
    /// No TLS session.
    Tls,
    /// The deadline passed.
    Timeout,
    /// The connection broke, or the answer was not HTTP.
    Protocol,
    /// Our own fault.
    Internal,
}

impl AttemptClass {
    /// Of a result. Errors count before the status: a 2xx answer that broke off is no success.
    pub fn of(result: &AttemptResult) -> Self {
        match result.error_class {
            None | Some(ErrorClass::HttpStatus) => match result.http_status.unwrap_or_default() / 100 {
                2 => Self::Status2xx,
                3 => Self::Status3xx,
                4 => Self::Status4xx,
                5 => Self::Status5xx,
                _ => Self::StatusOther,
            },
            Some(ErrorClass::Blocked) => Self::Blocked,
            Some(ErrorClass::Dns) => Self::Dns,
            Some(ErrorClass::Connect) => Self::Connect,
            Some(ErrorClass::Tls) => Self::Tls,
            Some(ErrorClass::Timeout) => Self::Timeout,
            Some(ErrorClass::Protocol) => Self::Protocol,
            // An attempt that was made did not expire.
            Some(ErrorClass::Internal | ErrorClass::Expired) => Self::Internal,
        }
    }
}

impl Label for AttemptClass {
    const NAME: &'static str = "class";
    const ALL: &'static [Self] = &[
        Self::Status2xx,
        Self::Status3xx,
        Self::Status4xx,
        Self::Status5xx,
        Self::StatusOther,
        Self::Blocked,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Protocol,
        Self::Internal,
    ];

    fn value(self) -> &'static str {
        match self {
            Self::Status2xx => "2xx",
            Self::Status3xx => "3xx",
            Self::Status4xx => "4xx",
            Self::Status5xx => "5xx",
            Self::StatusOther => "other_status",
            Self::Blocked => "blocked",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::time::Timestamp;

    fn result(http_status: Option<u16>, error_class: Option<ErrorClass>) -> AttemptResult {
        AttemptResult {
            http_status,
            error_class,
            error: String::new(),
            latency: Duration::from_millis(3),
            time: Timestamp::UNIX_EPOCH,
            retry_after: None,
            response_body: Bytes::new(),
        }
    }

    #[test]
    fn every_result_has_its_class() {
        super::super::label::check::<AttemptClass>();
        let check = |status, error, class| assert_eq!(AttemptClass::of(&result(status, error)), class);
        check(Some(204), None, AttemptClass::Status2xx);
        check(Some(302), Some(ErrorClass::HttpStatus), AttemptClass::Status3xx);
        check(Some(410), Some(ErrorClass::HttpStatus), AttemptClass::Status4xx);
        check(Some(503), Some(ErrorClass::HttpStatus), AttemptClass::Status5xx);
        check(Some(700), Some(ErrorClass::HttpStatus), AttemptClass::StatusOther);
        // The head of the answer was fine and its body never came.
        check(Some(200), Some(ErrorClass::Timeout), AttemptClass::Timeout);
        for (error, class) in [
            (ErrorClass::Blocked, AttemptClass::Blocked),
            (ErrorClass::Dns, AttemptClass::Dns),
            (ErrorClass::Connect, AttemptClass::Connect),
            (ErrorClass::Tls, AttemptClass::Tls),
            (ErrorClass::Protocol, AttemptClass::Protocol),
            (ErrorClass::Internal, AttemptClass::Internal),
        ] {
            check(None, Some(error), class);
        }
    }

    #[test]
    fn an_attempt_that_is_aborted_is_not_under_way_for_ever_and_has_no_class() {
        let metrics = DeliverMetrics::default();
        let ends = metrics.begin(Some(Duration::from_secs(1)));
        let aborted = metrics.begin(None);
        assert_eq!((metrics.started.get(), metrics.under_way.get()), (2, 2));
        ends.ended(&result(Some(200), None));
        drop(aborted);
        assert_eq!(metrics.under_way.get(), 0);
        assert_eq!(metrics.duration.count(), 1);
        assert_eq!(metrics.to_first.count(), 1, "only first attempts");
        let ended: u64 = AttemptClass::ALL.iter().map(|&class| metrics.ended.of(class)).sum();
        assert_eq!((ended, metrics.ended.of(AttemptClass::Status2xx)), (1, 1));
    }
}
