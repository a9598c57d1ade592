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

impl From<&Protection> for Pace {
    fn from(protection: &Protection) -> Self {
        Self { rate_limit: protection.rate_limit, max_in_flight: protection.max_in_flight }
    }
}
