//! What receivers know a sender by: secrets and key pairs, and the schemes that sign with them.
//!
//! Deliberately absent: signatures over method, URL and headers (RFC 9421), for want of receivers that verify them.

mod hexadecimal;
mod keys;
mod settings;
mod v1;
mod v1a;

pub use keys::{Key, Keys, Previous};
pub use settings::{HeaderNames, InvalidSignatureSettings, STANDARD_NAMES, Scheme, SignatureSettings};
pub use v1::{InvalidSecret, SECRET_BYTES_MAX, SECRET_BYTES_MIN, Secret};
pub use v1a::{InvalidKeyPair, KeyPair};

use super::time::Timestamp;

/// What a signature is made over: one attempt to deliver one event.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The event's id. Invariant: it holds no `.`, or two different contents could share a signature;
    /// [`super::ids::EventId`] sees to it.
    pub id: &'a str,
    /// The time of the attempt, by the wall clock.
    pub time: Timestamp,
    /// The same by the clock that never steps, by which it is known which replaced keys still sign along.
    pub keys_at: Timestamp,
    /// The body as it is sent.
    pub body: &'a [u8],
}

impl Signed<'_> {
    /// What the header with the signatures says: one by each key that counts, newest first, or by the newest alone where the
    /// scheme has room for one. `None` if the scheme signs nothing.
    pub fn signatures(&self, scheme: Scheme, keys: &Keys) -> Option<String> {
        let &Self { id, time, keys_at, body } = self;
        let seconds = time.seconds();
        match scheme {
            Scheme::StandardV1 => {
                let mut signatures = keys.secret().sign(id, seconds, body);
                for secret in keys.previous_secrets(keys_at) {
                    signatures.push(' ');
                    signatures.push_str(&secret.sign(id, seconds, body));
                }
                Some(signatures)
            }
            Scheme::StandardV1a => {
                let pairs = keys.pair().into_iter().chain(keys.previous_pairs(keys_at));
                let signatures: Vec<_> = pairs.map(|pair| pair.sign(id, seconds, body)).collect();
                assert!(!signatures.is_empty(), "a webhook signed by key pair has one");
                Some(signatures.join(" "))
            }
            Scheme::Stripe => {
                let secrets = std::iter::once(keys.secret()).chain(keys.previous_secrets(keys_at));
                Some(hexadecimal::stripe(secrets.map(Secret::reveal), seconds, body))
            }
            Scheme::GitHub => Some(hexadecimal::github(&keys.secret().reveal(), body)),
            Scheme::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn secret(byte: u8) -> Secret {
        Secret::from_bytes(&[byte; 24]).unwrap()
    }

    fn signatures(scheme: Scheme, keys: &Keys, time: Timestamp) -> Option<String> {
        Signed { id: "e", time, keys_at: time, body: b"{}" }.signatures(scheme, keys)
    }

    #[test]
    fn every_key_that_counts_signs_newest_first() {
        let start = Timestamp::UNIX_EPOCH;
        let pair = |byte| KeyPair::from_seed(&[byte; 32]).unwrap();
        let keys = Keys::new(secret(1), Some(pair(1)), Vec::new())
            .rotated(Key::Secret(secret(2)), 2 * HOUR, start)
            .rotated(Key::Pair(pair(2)), HOUR, start)
            .rotated(Key::Secret(secret(3)), HOUR, start);
        let v1 = |bytes: &[u8], time: Timestamp| {
            let all = bytes.iter().map(|&byte| secret(byte).sign("e", time.seconds(), b"{}"));
            Some(all.collect::<Vec<_>>().join(" "))
        };
        let v1a = |bytes: &[u8], time: Timestamp| {
            let all = bytes.iter().map(|&byte| pair(byte).sign("e", time.seconds(), b"{}"));
            Some(all.collect::<Vec<_>>().join(" "))
        };
        let (before, one, two) = (start + HOUR - Duration::from_micros(1), start + HOUR, start + 2 * HOUR);
        for (time, secrets, pairs) in [
            (start, &[3, 2, 1][..], &[2, 1][..]),
            (before, &[3, 2, 1], &[2, 1]),
            (one, &[3, 1], &[2]),
            (two, &[3], &[2]),
        ] {
            assert_eq!(signatures(Scheme::StandardV1, &keys, time), v1(secrets, time), "{time:?}");
            assert_eq!(signatures(Scheme::StandardV1a, &keys, time), v1a(pairs, time), "{time:?}");
            let stripe = signatures(Scheme::Stripe, &keys, time).unwrap();
            assert_eq!(stripe.matches(",v1=").count(), secrets.len(), "{stripe}");
            let github = signatures(Scheme::GitHub, &keys, time);
            assert_eq!(github, signatures(Scheme::GitHub, &secret(3).into(), time));
            assert_eq!(signatures(Scheme::None, &keys, time), None);
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_ends_no_overlap_and_revives_no_key() {
        let start = Timestamp::UNIX_EPOCH + 1_000_000 * HOUR;
        let keys = Keys::new(secret(1), None, Vec::new()).rotated(Key::Secret(secret(2)), HOUR, start);
        for (wall, keys_at, count) in [
            (start + 100_000 * HOUR, start, 2),
            (start - 100_000 * HOUR, start, 2),
            (start - 100_000 * HOUR, start + HOUR, 1),
        ] {
            let signed = Signed { id: "e", time: wall, keys_at, body: b"{}" };
            let signatures = signed.signatures(Scheme::StandardV1, &keys).unwrap();
            assert_eq!(signatures.split(' ').count(), count, "{wall:?} {keys_at:?}");
            assert!(signatures.starts_with(&secret(2).sign("e", wall.seconds(), b"{}")));
        }
    }
}
