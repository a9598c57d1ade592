//! What a webhook's owner decides to protect its receiver with.

use std::{num::NonZeroU32, time::Duration};

use super::rate::RateLimit;

/// The settings of this group; each `None` stands for the server's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protection {
    /// How often it may be called; by default, as often as there is something to send.
    pub rate_limit: Option<RateLimit>,
    /// Attempts under way at once; the server's limit is the ceiling.
    pub max_in_flight: Option<NonZeroU32>,
    /// Span of continuous failure after which it is disabled; zero: never.
    pub auto_disable_after: Option<Duration>,
}

impl Protection {
    /// The group, if anything in it is set.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// What attempts of one webhook have to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// How often it may be called.
    pub rate_limit: Option<RateLimit>,
    /// Attempts under way at once.
    pub max_in_flight: Option<NonZeroU32>,
}

/// How often the operator lets webhooks be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Those that say nothing themselves; `None`: as often as there is something to send.
    pub default: Option<RateLimit>,
    /// All of them, whatever they say; `None`: as often as they say.
    pub ceiling: Option<RateLimit>,
}

impl Rates {
    /// A webhook's own pace, with what the operator says of it.
    #[must_use]
    pub fn temper(&self, pace: Pace) -> Pace {
        let own = pace.rate_limit.or(self.default);
        let rate_limit = match (own, self.ceiling) {
            (Some(own), Some(ceiling)) => Some(own.and(&ceiling)),
            (one, other) => one.or(other),
        };
        Pace { rate_limit, ..pace }
    }
}

impl From<&Protection> for Pace {
    fn from(protection: &Protection) -> Self {
        Self { rate_limit: protection.rate_limit, max_in_flight: protection.max_in_flight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_s_default_is_for_those_that_say_nothing_and_the_ceiling_for_all() {
        let limit = |per_second| RateLimit::new(per_second, 0);
        for (own, default, ceiling, expected) in [
            (None, None, None, None),
            (Some(7.0), None, None, Some(7.0)),
            (None, Some(5.0), None, Some(5.0)),
            (Some(7.0), Some(5.0), None, Some(7.0)),
            (Some(7.0), Some(5.0), Some(6.0), Some(6.0)),
            (Some(4.0), Some(5.0), Some(6.0), Some(4.0)),
            (None, Some(5.0), Some(6.0), Some(5.0)),
            (None, None, Some(6.0), Some(6.0)),
        ] {
            let rates = Rates { default: default.and_then(limit), ceiling: ceiling.and_then(limit) };
            let pace = rates.temper(Pace { rate_limit: own.and_then(limit), max_in_flight: NonZeroU32::new(3) });
            assert_eq!(pace.rate_limit.map(|limit| limit.per_second()), expected, "{own:?}, {default:?}, {ceiling:?}");
            assert_eq!(pace.max_in_flight, NonZeroU32::new(3));
        }
    }
}
