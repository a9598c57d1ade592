//! One API key, as the server knows it.

use std::{fmt, str::FromStr};

use super::{Digest, Rights, TenantScope};
use crate::{
    limits::API_KEY_NAME_BYTES_MAX,
    model::{
        ids::{InvalidId, parse_digits},
        time::Timestamp,
    },
};

/// A key's public id: `key_` and 24 hexadecimal digits, which are part of the key itself. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKeyId([u8; 12]);

impl ApiKeyId {
    /// How many digits it has.
    pub(super) const DIGITS: usize = 24;

    /// From the bytes kept in the store.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The bytes kept in the store.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    pub(super) fn digits(&self) -> String {
        self.0.iter().fold(String::with_capacity(Self::DIGITS), |digits, byte| digits + &format!("{byte:02x}"))
    }

    pub(super) fn from_digits(digits: &str) -> Option<Self> {
        parse_digits(digits).map(Self)
    }
}

impl FromStr for ApiKeyId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let id = text.strip_prefix("key_").and_then(Self::from_digits);
        id.ok_or(InvalidId { expected: "the id of an API key: key_ and 24 hexadecimal digits" })
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", self.digits())
    }
}

/// The name of a key: a text of 1 to 128 bytes on one line, without spaces around it.
pub fn key_name(text: &str) -> Result<Box<str>, InvalidId> {
    let name = text.trim();
    if name.is_empty() || name.len() > API_KEY_NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(InvalidId { expected: "a text of 1 to 128 bytes on one line" });
    }
    Ok(name.into())
}

const _: () = assert!(API_KEY_NAME_BYTES_MAX == 128);

/// What somebody decided about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeySpec {
    /// What people know it by.
    pub name: Box<str>,
    /// For which tenants it speaks.
    pub tenants: TenantScope,
    /// What it may do; at least one thing.
    pub rights: Rights,
    /// From when on it is worth nothing; `None`: never.
    pub expire_time: Option<Timestamp>,
}

/// An API key that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Which one.
    pub id: ApiKeyId,
    /// Grows with every key that is created; never used again.
    pub no: u64,
    /// What is kept of its text.
    pub digest: Digest,
    /// What was decided about it.
    pub spec: ApiKeySpec,
    /// When it was created.
    pub create_time: Timestamp,
}

impl ApiKey {
    /// Whether it is worth nothing any more.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.spec.expire_time.is_some_and(|expire_time| expire_time <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credentials::Right;

    #[test]
    fn ids_round_trip_and_refuse_other_spellings() {
        let id = ApiKeyId::from_bytes([0xab; 12]);
        assert_eq!(id.to_string(), format!("key_{}", "ab".repeat(12)));
        assert_eq!(id.to_string().parse(), Ok(id));
        let short = format!("key_{}", "a".repeat(23));
        for wrong in ["", "key_", &short, &id.to_string().to_uppercase(), &format!("{id}0"), &"g".repeat(28)] {
            assert!(wrong.parse::<ApiKeyId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_expires_at_its_time_and_not_before() {
        let at = Timestamp::from_micros;
        let check = |expire_time, now, expected| {
            let rights = [Right::Read].into_iter().collect();
            let spec = ApiKeySpec { name: "n".into(), tenants: TenantScope::All, rights, expire_time };
            let (id, digest) = (ApiKeyId::from_bytes([0; 12]), Digest::from_bytes([0; 32]));
            let key = ApiKey { id, no: 1, digest, spec, create_time: at(0) };
            assert_eq!(key.has_expired(at(now)), expected);
        };
        check(Some(at(10)), 9, false);
        check(Some(at(10)), 10, true);
        check(None, i64::MAX, false);
    }
}
