//! Names and numbers of things. Names are what callers see; numbers are what the store counts with.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use thiserror::Error;
use uuid::Uuid;

use super::{catalogue, time::Timestamp};
use crate::limits::{ID_BYTES_MAX, TENANT_BYTES_MAX};

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("must be {expected}")]
pub struct InvalidId {
    /// What it should have looked like.
    pub expected: &'static str,
}

/// Whose webhooks and events: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

impl FromStr for Tenant {
    type Err = InvalidId;

    /// Empty means `default`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let valid = text.len() <= TENANT_BYTES_MAX
            && text.bytes().all(|b| allowed(b) || b == b'_' || b == b'-')
            && text.bytes().next().is_some_and(allowed);
        if !valid {
            return Err(InvalidId { expected: "a tenant name: [a-z0-9][a-z0-9_-]{0,62}" });
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An event's id, its caller's or ours: `[A-Za-z0-9_-]{1,64}`. Never holds a `.`, which separates the signed parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// An id made here: `evt_` and a version 7 UUID, so that ids made one after the other sort together.
    pub fn generate() -> Self {
        Self(Arc::from(format!("evt_{}", Uuid::now_v7().simple())))
    }

    /// The id of an event that is made to try a webhook: `test_` and a version 7 UUID.
    pub fn generate_test() -> Self {
        Self(Arc::from(format!("test_{}", Uuid::now_v7().simple())))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it was made, to the millisecond, if it is one as [`Self::generate`] makes.
    pub fn assigned_at(&self) -> Option<Timestamp> {
        let uuid = Uuid::try_parse(self.0.strip_prefix("evt_")?).ok().filter(|uuid| uuid.get_version_num() == 7)?;
        let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
        let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
        Some(Timestamp::from_micros(micros + i64::from(nanos / 1_000)))
    }
}

/// Whether `text` is `[A-Za-z0-9_-]{1,64}`, the shape of event ids and request ids.
pub fn is_id(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether `text` is `[A-Za-z0-9_.-]{1,64}`, the shape of label keys and names of event types.
pub fn is_name(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl FromStr for EventId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if !is_id(text) {
            return Err(InvalidId { expected: "an id: [A-Za-z0-9_-]{1,64}" });
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an event type, such as `MESSAGE_RECEIVED`. Whether it exists is the catalogue's to say.
///
/// Every webhook and every event in memory has some, so those of the built-in types take no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTypeName(Cow<'static, str>);

impl EventTypeName {
    /// Takes a name known to be good: from the catalogue or from the store.
    pub fn new(name: &str) -> Self {
        let built_in = catalogue::find(name).map(|event_type| Cow::Borrowed(event_type.name));
        Self(built_in.unwrap_or_else(|| Cow::Owned(name.to_owned())))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventTypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public id: a prefix and the 32 hexadecimal digits of the 16 bytes that the store keeps.
macro_rules! public_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From the bytes behind it.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes behind it.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix($prefix).and_then(parse_digits);
                digits.map(Self).ok_or(InvalidId { expected: $expected })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), Uuid::from_bytes(self.0).simple())
            }
        }
    };
}

public_id!(
    /// A webhook's public id, of a version 7 UUID. Never reused.
    WebhookId,
    "wh_",
    "a webhook id: wh_ and 32 hexadecimal digits"
);

public_id!(
    /// A replay's public id, of a version 7 UUID. Never reused.
    ReplayId,
    "rpl_",
    "a replay id: rpl_ and 32 hexadecimal digits"
);

public_id!(
    /// A delivery's public id: a sealed [`DeliveryKey`], see [`super::seal`].
    DeliveryId,
    "dlv_",
    "a delivery id: dlv_ and 32 hexadecimal digits"
);

public_id!(
    /// An erasure's public id: a sealed number, see [`super::seal`].
    ErasureId,
    "ers_",
    "an erasure id: ers_ and 32 hexadecimal digits"
);

impl WebhookId {
    /// A new id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }
}

impl ReplayId {
    /// A new id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }
}

/// Exactly so many bytes, two lower-case hexadecimal digits each.
pub(super) fn parse_digits<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digits.len() != 2 * N || !digits.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The store's number of a webhook, counted from 1, never reused. Below 2^40.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookNo(pub u64);

/// The store's number of an event: unique, growing in the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventSeq(pub u64);

/// A place in the outcome log: the number of the entry just before it. 0 is the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// A number that grows with every change of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConfigSeq(pub u64);

/// One event for one webhook; `replay` tells repeated sendings of the same event to the same webhook apart (0: the first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// For which webhook.
    pub webhook: WebhookNo,
    /// Which event.
    pub event: EventSeq,
    /// Which sending of it. Below 2^24.
    pub replay: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_checked() {
        assert_eq!("".parse::<Tenant>().unwrap().as_str(), "default");
        for good in ["a", "0", "acme-1", "a_b", &"x".repeat(63)] {
            assert_eq!(good.parse::<Tenant>().unwrap().as_str(), good);
        }
        for bad in ["-", "-a", "_a", "A", "a b", "a.b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_round_trip_and_refuse_other_spellings() {
        let webhook = WebhookId::generate();
        assert_eq!(webhook.to_string().parse(), Ok(webhook));
        let replay = ReplayId::generate();
        assert_eq!(replay.to_string().parse(), Ok(replay));
        let delivery = DeliveryId::from_bytes([0xab; 16]);
        assert_eq!(delivery.to_string().parse(), Ok(delivery));
        let upper = delivery.to_string().to_uppercase();
        for bad in ["", "dlv_", "wh_00", "dlv_zz", &upper, "dlv_abababab-abab-abab-abab-abababababab"] {
            assert!(bad.parse::<DeliveryId>().is_err(), "{bad:?}");
        }
        for bad in ["", "a.b", "a b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<EventId>().is_err(), "{bad:?}");
        }
        assert!(EventId::generate().as_str().parse::<EventId>().is_ok());
        assert!(EventId::generate().assigned_at().is_some());
        let known: EventId = "evt_017f22e279b07cc398c4dc0c0c07398f".parse().unwrap();
        // RFC 9562, appendix A.6.
        assert_eq!(known.assigned_at(), Some(Timestamp::from_micros(1_645_557_742_000_000)));
        for theirs in ["evt_1", "017f22e279b07cc398c4dc0c0c07398f", "evt_919108f752d133205bacf847db4148a8"] {
            assert_eq!(theirs.parse::<EventId>().unwrap().assigned_at(), None, "{theirs}");
        }
    }
}
