//! The text of a key, which only its owner has, and the digest that the server keeps of it.
//!
//! A key is 256 random bits, so its plain SHA-256 is as hard to turn back as to guess it: what makes hashes of passwords slow
//! would buy nothing here, and every call would pay for it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::ApiKeyId;
use crate::model::ids::InvalidId;

/// What every key begins with, so that scanners of source code find those that got out.
const PREFIX: &str = "prk_";
/// How many letters hold 256 bits.
const SECRET_LETTERS: usize = 43;

/// A key as its owner has it: `prk_`, the 24 hexadecimal digits of its id, `_`, and 256 random bits in 43 letters of base64url.
#[derive(Clone)]
pub struct ApiKeySecret {
    id: ApiKeyId,
    text: String,
}

impl ApiKeySecret {
    /// A new one, with an id of its own.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut id = [0; 12];
        let mut secret = [0; 32];
        rng.fill_bytes(&mut id);
        rng.fill_bytes(&mut secret);
        let id = ApiKeyId::from_bytes(id);
        Self { id, text: format!("{PREFIX}{}_{}", id.digits(), URL_SAFE_NO_PAD.encode(secret)) }
    }

    /// What a caller hands in. Says nothing about whether there is such a key.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let read = || {
            let (id, secret) = text.strip_prefix(PREFIX)?.split_at_checked(ApiKeyId::DIGITS)?;
            let secret = secret.strip_prefix('_')?;
            let whole = secret.len() == SECRET_LETTERS && URL_SAFE_NO_PAD.decode(secret).is_ok();
            ApiKeyId::from_digits(id).filter(|_| whole)
        };
        let id = read().ok_or(InvalidId { expected: "an API key: prk_…" })?;
        Ok(Self { id, text: text.to_owned() })
    }

    /// Which key it claims to be.
    pub fn id(&self) -> ApiKeyId {
        self.id
    }

    /// The whole text, to be shown to its owner once.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is kept of it.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.text.as_bytes()).into())
    }
}

impl fmt::Debug for ApiKeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeySecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The SHA-256 of a key's whole text. Never printed.
///
/// Invariant: compared in constant time only; it has no other equality.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// From the store.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_nothing_else_is_one() {
        let key = ApiKeySecret::generate(&mut rand::rng());
        let text = key.reveal();
        assert_eq!(text.len(), 72);
        let read = ApiKeySecret::parse(text).unwrap();
        assert_eq!((read.id(), read.digest()), (key.id(), key.digest()));
        let cut = &text[..71];
        let upper = text.to_uppercase();
        let padded = format!("{cut}=");
        for wrong in ["", "prk_", "Bearer x", cut, &upper, &padded, &format!("{text}A"), &format!(" {text}"), "prk_é"]
        {
            assert!(ApiKeySecret::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn no_two_keys_are_alike_and_a_letter_makes_another_one() {
        let mut rng = rand::rng();
        let (one, other) = (ApiKeySecret::generate(&mut rng), ApiKeySecret::generate(&mut rng));
        assert!(one.digest() != other.digest() && one.id() != other.id());
        let at = one.reveal().len() - 5;
        let letter = if one.reveal().as_bytes()[at] == b'A' { "B" } else { "A" };
        let mut changed = one.reveal().to_owned();
        changed.replace_range(at..=at, letter);
        let changed = ApiKeySecret::parse(&changed).unwrap();
        assert_eq!(changed.id(), one.id());
        assert!(changed.digest() != one.digest());
    }

    #[test]
    fn the_digest_is_that_of_sha_256() {
        let text = format!("prk_{}_{}", "0".repeat(24), "A".repeat(43));
        let digest = ApiKeySecret::parse(&text).unwrap().digest();
        let hex = digest.as_bytes().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(hex, "091522e7516b64ad2b83802486fa230f58b546791fb10a76dd48ecf1fcc9717b");
    }

    #[test]
    fn neither_prints_what_it_must_not() {
        let key = ApiKeySecret::generate(&mut rand::rng());
        let digest = key.digest();
        let shown = format!("{key:?} {digest:?} {:?}", Some(&key));
        assert!(!shown.contains(&key.reveal()[30..]), "{shown}");
        let hex = digest.as_bytes().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert!(!shown.contains(&hex[..8]), "{shown}");
    }
}
