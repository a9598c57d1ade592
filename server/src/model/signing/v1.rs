//! Standard Webhooks signatures, version `v1`: HMAC-SHA256 over `{id}.{timestamp}.{body}`.
//!
//! Specification: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>. We sign raw
//! bytes; its reference library signs UTF-8 only and takes keys of any length, so it is not used.

use std::{fmt, io::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::CryptoRng;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// What the text form of a secret starts with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret made here.
const GENERATED_BYTES: usize = 32;
/// Fewest bytes of a secret.
pub const SECRET_BYTES_MIN: usize = 24;
/// Most bytes of a secret. Also the block size of SHA-256, so that a key is never hashed down.
pub const SECRET_BYTES_MAX: usize = 64;
/// Base64 of the 32 bytes of an HMAC-SHA256.
const MAC_BASE64_BYTES: usize = 44;

/// A text or a byte string that cannot be a secret. Says nothing of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be `whsec_` and the standard base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
pub struct InvalidSecret;

/// The symmetric secret of one webhook. `Debug` never shows it, and memory that held it is cleared.
#[derive(Clone)]
pub struct Secret {
    /// The bytes alone. HMAC after the key went in would save two of the hash's block operations per signature, a fraction of a
    /// microsecond, and take several times as much memory, for every webhook there is.
    bytes: Zeroizing<Box<[u8]>>,
}

impl Secret {
    /// A new secret of 32 random bytes.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; GENERATED_BYTES]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(&*bytes).expect("the length is within bounds")
    }

    /// Reads the text form: `whsec_` and padded standard base64 of 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| InvalidSecret)?);
        Self::from_bytes(&bytes)
    }

    /// From the bytes kept in the store: 24 to 64 of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(InvalidSecret);
        }
        Ok(Self { bytes: Zeroizing::new(bytes.into()) })
    }

    /// The bytes to keep in the store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The text form, for the one reply that shows it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&**self.bytes))
    }

    /// The signature of one attempt: `v1,` and 44 characters. `timestamp` is in seconds since the Unix epoch.
    ///
    /// Invariant: `id` holds no `.`, or two different contents could share a signature; [`crate::model::ids::EventId`] sees to it.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).expect("HMAC takes keys of any length");
        mac.update(id.as_bytes());
        // The dots and the longest i64 fit.
        let mut middle = [0; 24];
        let mut rest = &mut middle[..];
        write!(rest, ".{timestamp}.").expect("it fits");
        let unused = rest.len();
        mac.update(&middle[..middle.len() - unused]);
        mac.update(body);

        let mut signature = String::with_capacity("v1,".len() + MAC_BASE64_BYTES);
        signature.push_str("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut signature);
        signature
    }
}

impl PartialEq for Secret {
    /// Not constant-time: for tests and change detection, never to check what a stranger presents.
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn signatures_match_published_vectors() {
        let check = |secret: &str, id: &str, timestamp, body: &str, expected: &str| {
            assert_eq!(Secret::parse(secret).unwrap().sign(id, timestamp, body.as_bytes()), expected);
        };
        // From standard-webhooks, libraries/rust/src/lib.rs, `test_sign`.
        check(
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        );
        // From svix-webhooks, server/svix-server/src/worker.rs.
        check(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        );
    }

    #[test]
    fn other_texts_are_refused() {
        let of = |length: usize| format!("whsec_{}", STANDARD.encode(vec![7; length]));
        for good in [of(24), of(32), of(64)] {
            assert_eq!(Secret::parse(&good).unwrap().reveal(), good);
        }
        let bad = [
            "",
            "w",
            "whsec_",
            "whsec_%",
            "whsec_wronglength",
            "hwsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "WHSEC_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            // URL-safe alphabet.
            "whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD",
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD ",
            "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg",
        ];
        for text in bad.into_iter().map(String::from).chain([of(23), of(65)]) {
            assert_eq!(Secret::parse(&text), Err(InvalidSecret), "{text}");
        }
    }

    #[test]
    fn generated_secrets_differ_round_trip_and_stay_secret() {
        let mut rng = StdRng::seed_from_u64(1);
        let (one, two) = (Secret::generate(&mut rng), Secret::generate(&mut rng));
        assert_ne!(one, two);
        assert_eq!(one.as_bytes().len(), GENERATED_BYTES);
        assert_eq!(Secret::parse(&one.reveal()).unwrap(), one);
        assert_eq!(Secret::from_bytes(one.as_bytes()).unwrap(), one);
        assert_eq!(format!("{one:?}"), "Secret(..)");
    }

    #[test]
    fn any_bytes_and_any_time_can_be_signed() {
        let secret = Secret::from_bytes(&[9; 24]).unwrap();
        let signature = secret.sign("e", i64::MIN, &[0xff, 0x00, 0xfe]);
        assert_eq!(signature.len(), 47);
        assert_ne!(signature, secret.sign("e", i64::MAX, &[0xff, 0x00, 0xfe]));
    }
}
