//! For receivers: does this request really come from Postrider, and is it fresh?
//!
//! Verifies [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks) signatures over
//! `{webhook-id}.{webhook-timestamp}.{body}`: `v1`, HMAC-SHA256 with a secret (`whsec_…`), and `v1a`, ed25519 with a public key
//! (`whpk_…`). Verify the raw bytes of the body, before anything parses them, and use the id to recognise repeats.
//!
//! ```
//! use postrider_client::verify::Verifier;
//!
//! # fn example(headers: &http::HeaderMap, body: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let verifier = Verifier::new(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])?;
//! let verified = verifier.verify(headers, body)?;
//! println!("{} is genuine", verified.id);
//! # Ok(())
//! # }
//! ```
//!
//! A header may hold several signatures, while a secret is rotated: one that is right is enough. Those of unknown versions are
//! skipped.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::Sha256;
use thiserror::Error;

/// The header with the event's id: the same for every attempt and replay.
pub const ID_HEADER: &str = "webhook-id";
/// The header with the time of the attempt, in whole seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";
/// How far the sender's clock may be from ours.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_mins(5);

/// Secrets have at least this many bytes.
const SECRET_BYTES_MIN: usize = 24;
/// Secrets have at most this many bytes.
const SECRET_BYTES_MAX: usize = 64;
/// A public key has this many.
const PUBLIC_KEY_BYTES: usize = 32;

/// A secret that is not `whsec_` and standard base64 of 24 to 64 bytes, and no public key either, `whpk_` and base64 of 32. Never
/// shows the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a signing secret must be `whsec_` followed by standard base64 of 24 to 64 bytes, a public key `whpk_` and base64 of 32"
)]
pub struct InvalidSecret;

/// Why a request is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A header is missing.
    #[error("the header `{0}` is missing")]
    MissingHeader(&'static str),
    /// A header is not what it should be.
    #[error("the header `{0}` is malformed")]
    MalformedHeader(&'static str),
    /// The request was signed too long ago; it may be a replay.
    #[error("the request was signed too long ago")]
    TooOld,
    /// The request was signed in the future; one of the two clocks is wrong.
    #[error("the request was signed in the future")]
    TooNew,
    /// No signature is right: another sender, another secret, or another body.
    #[error("no signature matches")]
    NoMatch,
}

/// A request that is genuine and fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The event's id.
    pub id: String,
    /// When this attempt was signed.
    pub time: SystemTime,
}

/// Verifies requests with one secret or public key, or with several while they are rotated.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Key>,
    tolerance: Duration,
}

#[derive(Clone)]
enum Key {
    /// Verifies `v1`.
    Secret(Box<Hmac<Sha256>>),
    /// Verifies `v1a`.
    Public(UnparsedPublicKey<[u8; PUBLIC_KEY_BYTES]>),
}

impl Verifier {
    /// A verifier that accepts a signature by any of these secrets (`whsec_…`) or public keys (`whpk_…`).
    pub fn new(secrets: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, InvalidSecret> {
        let keys = secrets.into_iter().map(|secret| key(secret.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { keys, tolerance: TOLERANCE_DEFAULT })
    }

    /// The same with another tolerance than five minutes.
    #[must_use]
    pub fn tolerance(self, tolerance: Duration) -> Self {
        Self { tolerance, ..self }
    }

    /// Verifies a request that has just arrived.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Verified, VerifyError> {
        #[expect(clippy::disallowed_methods, reason = "freshness is judged by the receiver's wall clock")]
        let now = SystemTime::now();
        self.verify_at(headers, body, now)
    }

    /// Verifies a request that arrived at `now`.
    pub fn verify_at(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Result<Verified, VerifyError> {
        let id = header(headers, ID_HEADER)?;
        let timestamp = header(headers, TIMESTAMP_HEADER)?;
        let time = self.fresh(timestamp, now)?;
        header(headers, SIGNATURE_HEADER)?;
        let genuine = headers.get_all(SIGNATURE_HEADER).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value
                .split(' ')
                .filter_map(Signature::decode)
                .any(|signature| self.matches(id, timestamp, body, &signature))
        });
        if !genuine {
            return Err(VerifyError::NoMatch);
        }
        Ok(Verified { id: id.to_owned(), time })
    }

    fn fresh(&self, timestamp: &str, now: SystemTime) -> Result<SystemTime, VerifyError> {
        let malformed = VerifyError::MalformedHeader(TIMESTAMP_HEADER);
        // `u64::from_str` takes a sign, which is signed text the sender never writes.
        let seconds = timestamp.bytes().all(|b| b.is_ascii_digit()).then(|| timestamp.parse().ok()).flatten();
        let Some(time) = seconds.and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s))) else {
            return Err(malformed);
        };
        match now.duration_since(time) {
            Ok(age) if age > self.tolerance => Err(VerifyError::TooOld),
            Err(ahead) if ahead.duration() > self.tolerance => Err(VerifyError::TooNew),
            Ok(_) | Err(_) => Ok(time),
        }
    }

    fn matches(&self, id: &str, timestamp: &str, body: &[u8], signature: &Signature) -> bool {
        let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        self.keys.iter().any(|key| match (key, signature) {
            (Key::Secret(secret), Signature::V1(signature)) => {
                let mut mac = secret.clone();
                for part in content {
                    mac.update(part);
                }
                // Compares in constant time.
                mac.verify_slice(signature).is_ok()
            }
            (Key::Public(key), Signature::V1a(signature)) => key.verify(&content.concat(), signature).is_ok(),
            // A signature of the one kind says nothing to a key of the other.
            (Key::Secret(_), Signature::V1a(_)) | (Key::Public(_), Signature::V1(_)) => false,
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).field("tolerance", &self.tolerance).finish()
    }
}

fn key(text: &str) -> Result<Key, InvalidSecret> {
    if let Some(encoded) = text.strip_prefix("whpk_") {
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        let key = <[u8; PUBLIC_KEY_BYTES]>::try_from(bytes).map_err(|_| InvalidSecret)?;
        return Ok(Key::Public(UnparsedPublicKey::new(&ED25519, key)));
    }
    let encoded = text.strip_prefix("whsec_").ok_or(InvalidSecret)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
        return Err(InvalidSecret);
    }
    let mac = Hmac::new_from_slice(&bytes).map_err(|_| InvalidSecret)?;
    Ok(Key::Secret(Box::new(mac)))
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    let value = headers.get(name).ok_or(VerifyError::MissingHeader(name))?;
    let text = value.to_str().map_err(|_| VerifyError::MalformedHeader(name))?;
    if text.is_empty() { Err(VerifyError::MalformedHeader(name)) } else { Ok(text) }
}

/// One entry of the header with the signatures.
enum Signature {
    V1(Vec<u8>),
    V1a(Vec<u8>),
}

impl Signature {
    /// Reads `v1,BASE64` or `v1a,BASE64`; none for other versions and for what is not base64.
    fn decode(entry: &str) -> Option<Self> {
        let (version, encoded) = entry.split_once(',')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        match version {
            "v1" => Some(Self::V1(bytes)),
            "v1a" => Some(Self::V1a(bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Vectors of the Standard Webhooks reference library (`libraries/rust/src/lib.rs`) and of Svix (`worker.rs`).
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const SECONDS: u64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    const SVIX_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID_HEADER, id.parse().unwrap());
        headers.insert(TIMESTAMP_HEADER, timestamp.parse().unwrap());
        headers.insert(SIGNATURE_HEADER, signature.parse().unwrap());
        headers
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn vectors_of_the_specification_verify() {
        let result = Verifier::new([SECRET]).unwrap().verify_at(
            &headers(ID, &SECONDS.to_string(), SIGNATURE),
            BODY,
            at(SECONDS + 10),
        );
        assert_eq!(result, Ok(Verified { id: ID.into(), time: at(SECONDS) }));

        let svix =
            headers("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let verifier = Verifier::new([SVIX_SECRET]).unwrap();
        assert!(verifier.verify_at(&svix, br#"{"test": 2432232314}"#, at(1_614_265_330)).is_ok());
    }

    /// From Svix, `worker.rs`.
    #[test]
    fn public_keys_verify_v1a_and_nothing_else() {
        const PUBLIC_KEY: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
        const V1A: &str =
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let other_key = format!("whpk_{}", STANDARD.encode([7; 32]));
        let check = |keys: &[&str], signature: &str, body: &[u8]| {
            let headers = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", signature);
            Verifier::new(keys).unwrap().verify_at(&headers, body, at(1_614_265_330)).is_ok()
        };
        let body = br#"{"test": 2432232314}"#;
        assert!(check(&[PUBLIC_KEY], V1A, body));
        assert!(check(&[PUBLIC_KEY], &format!("{V1} v1a,AAAA {V1A}"), body));
        assert!(check(&[SVIX_SECRET], &format!("{V1A} {V1}"), body));
        assert!(check(&[SECRET, &other_key, PUBLIC_KEY], V1A, body));

        assert!(!check(&[PUBLIC_KEY], V1A, b"{}"));
        assert!(!check(&[&other_key], V1A, body));
        assert!(!check(&[PUBLIC_KEY], V1, body));
        assert!(!check(&[PUBLIC_KEY], &V1A.replace("v1a,", "v1,"), body));
        assert!(!check(&[SVIX_SECRET], &V1.replace("v1,", "v1a,"), body));
    }

    #[test]
    fn only_genuine_and_fresh_requests_pass() {
        let other = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let seconds = SECONDS.to_string();
        let secrets: &[&str] = &[SECRET];
        let check = |secrets: &[&str], id: &str, time: &str, signature: &str, body: &[u8], now: u64| {
            Verifier::new(secrets)
                .unwrap()
                .verify_at(&headers(id, time, signature), body, at(now))
                .map(|verified| verified.id)
        };
        let genuine = Ok(ID.to_owned());
        let both = [SVIX_SECRET, SECRET];
        let versions = format!("v1a,AAAA {SIGNATURE}");
        let several = format!("{other} v1,%% {SIGNATURE}");
        let malformed = VerifyError::MalformedHeader(TIMESTAMP_HEADER);

        assert_eq!(check(&both, ID, &seconds, SIGNATURE, BODY, SECONDS), genuine, "any secret");
        assert_eq!(check(secrets, ID, &seconds, &versions, BODY, SECONDS), genuine, "unknown versions are skipped");
        assert_eq!(check(secrets, ID, &seconds, &several, BODY, SECONDS), genuine, "any signature");
        assert_eq!(check(secrets, ID, &seconds, SIGNATURE, BODY, SECONDS + 300), genuine, "just old enough");
        assert_eq!(check(secrets, ID, &seconds, SIGNATURE, BODY, SECONDS - 300), genuine, "just new enough");

        let cases = [
            (secrets, ID, &seconds[..], SIGNATURE, BODY, SECONDS + 301, VerifyError::TooOld),
            (secrets, ID, &seconds, SIGNATURE, BODY, SECONDS - 301, VerifyError::TooNew),
            (secrets, ID, &seconds, SIGNATURE, b"{}", SECONDS, VerifyError::NoMatch),
            (secrets, "msg_other", &seconds, SIGNATURE, BODY, SECONDS, VerifyError::NoMatch),
            (secrets, ID, "1649367554", SIGNATURE, BODY, SECONDS, VerifyError::NoMatch),
            (secrets, ID, &seconds, other, BODY, SECONDS, VerifyError::NoMatch),
            (secrets, ID, &seconds, "v1,", BODY, SECONDS, VerifyError::NoMatch),
            (
                secrets,
                ID,
                &seconds,
                "v2,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
                BODY,
                SECONDS,
                VerifyError::NoMatch,
            ),
            (&[SVIX_SECRET], ID, &seconds, SIGNATURE, BODY, SECONDS, VerifyError::NoMatch),
            (&[], ID, &seconds, SIGNATURE, BODY, SECONDS, VerifyError::NoMatch),
            (secrets, ID, "+1649367553", SIGNATURE, BODY, SECONDS, malformed.clone()),
            (secrets, ID, "soon", SIGNATURE, BODY, SECONDS, malformed.clone()),
            (secrets, ID, "99999999999999999999", SIGNATURE, BODY, SECONDS, malformed.clone()),
            (secrets, ID, "18446744073709551615", SIGNATURE, BODY, SECONDS, malformed),
            (secrets, "", &seconds, SIGNATURE, BODY, SECONDS, VerifyError::MalformedHeader(ID_HEADER)),
        ];
        for (index, (secrets, id, time, signature, body, now, expected)) in cases.into_iter().enumerate() {
            let result = check(secrets, id, time, signature, body, now);
            assert_eq!(result, Err(expected), "case {index}");
        }
    }

    #[test]
    fn every_header_is_needed() {
        let complete = headers(ID, &SECONDS.to_string(), SIGNATURE);
        for name in [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER] {
            let mut headers = complete.clone();
            headers.remove(name);
            let result = Verifier::new([SECRET]).unwrap().verify_at(&headers, BODY, at(SECONDS));
            assert_eq!(result, Err(VerifyError::MissingHeader(name)));
        }
    }

    #[test]
    fn bodies_need_not_be_text() {
        // Computed with Python's hmac over b"id.1614265330." + bytes([0, 255, 254]).
        let verifier = Verifier::new([SVIX_SECRET]).unwrap();
        let signed = headers("id", "1614265330", NOT_TEXT_SIGNATURE);
        assert!(verifier.verify_at(&signed, &[0, 255, 254], at(1_614_265_330)).is_ok());
    }
    const NOT_TEXT_SIGNATURE: &str = "v1,RGIAHIc9LbhVcXMp9YZsdMZ4anpRBjSqntzS9xRlC4Y=";

    #[test]
    fn wrong_secrets_are_refused_and_right_ones_not_shown() {
        for secret in [
            "",
            "w",
            "whsec_",
            "whsec_%",
            "whsec_wronglength",
            "hwsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "whpk_",
            "whpk_AAAA",
        ] {
            assert_eq!(Verifier::new([secret]).unwrap_err(), InvalidSecret, "{secret}");
        }
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        assert!(Verifier::new([short]).is_err() && Verifier::new([long]).is_err());
        assert!(!format!("{:?}", Verifier::new([SECRET]).unwrap()).contains("C2FV"));
    }
}
