//! How a webhook's deliveries are signed, and with what besides its secret.

use std::fmt;

use prost::Message;

use super::Corrupt;
use crate::model::{
    signing::{Key, KeyPair, Previous, Scheme, Secret, SignatureSettings},
    time::Timestamp,
};

/// How deliveries are signed, where that is not as the default is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SignatureRecord {
    /// 0: Standard Webhooks v1; 1: v1a; 2: as Stripe; 3: as GitHub; 4: not at all.
    #[prost(uint32, tag = "1")]
    scheme: u32,
    #[prost(string, tag = "2")]
    prefix: String,
    #[prost(string, tag = "3")]
    header: String,
}

impl SignatureRecord {
    pub(super) fn new(settings: &SignatureSettings) -> Self {
        let scheme = match settings.scheme() {
            Scheme::StandardV1 => 0,
            Scheme::StandardV1a => 1,
            Scheme::Stripe => 2,
            Scheme::GitHub => 3,
            Scheme::None => 4,
        };
        Self { scheme, prefix: settings.prefix().to_owned(), header: settings.header().to_owned() }
    }

    pub(super) fn settings(&self) -> Result<Option<Box<SignatureSettings>>, Corrupt> {
        let scheme = match self.scheme {
            0 => Scheme::StandardV1,
            1 => Scheme::StandardV1a,
            2 => Scheme::Stripe,
            3 => Scheme::GitHub,
            4 => Scheme::None,
            other => return Err(Corrupt::new("signature scheme", other)),
        };
        let settings = SignatureSettings::from_stored(scheme, &self.prefix, &self.header);
        settings.map_err(|error| Corrupt::new("name of a signature's header", error))
    }
}

/// Keys that were replaced, the newest first. Never on disk but encrypted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PreviousKeysRecord {
    #[prost(message, repeated, tag = "1")]
    pub(super) keys: Vec<PreviousRecord>,
}

/// A key that was replaced: a secret or, instead, what its key pair is made from.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct PreviousRecord {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    seed: Vec<u8>,
    #[prost(sint64, tag = "3")]
    until: i64,
}

impl PreviousRecord {
    pub(super) fn new(previous: &Previous) -> Self {
        let until = previous.until.micros();
        match &previous.key {
            Key::Secret(secret) => Self { secret: secret.as_bytes().to_vec(), seed: Vec::new(), until },
            Key::Pair(pair) => Self { secret: Vec::new(), seed: pair.seed().to_vec(), until },
        }
    }

    pub(super) fn previous(&self) -> Result<Previous, Corrupt> {
        let key = if self.seed.is_empty() { Key::Secret(secret(&self.secret)?) } else { Key::Pair(pair(&self.seed)?) };
        Ok(Previous { key, until: Timestamp::from_micros(self.until) })
    }
}

impl fmt::Debug for PreviousRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreviousRecord").field("until", &self.until).finish_non_exhaustive()
    }
}

pub(super) fn secret(bytes: &[u8]) -> Result<Secret, Corrupt> {
    Secret::from_bytes(bytes).map_err(|error| Corrupt::new("webhook's secret", error))
}

pub(super) fn pair(seed: &[u8]) -> Result<KeyPair, Corrupt> {
    KeyPair::from_seed(seed).map_err(|error| Corrupt::new("webhook's key pair", error))
}
