//! The URL of a webhook, checked and normalised.

use url::Url;

/// A URL deliveries may be sent to as far as its text tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Url);
