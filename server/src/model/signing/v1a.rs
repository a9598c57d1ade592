//! Standard Webhooks signatures, version `v1a`: ed25519 over `{id}.{timestamp}.{body}`.
//!
//! Receivers hold the public key alone, so that none of them can sign, and nobody who reads their secrets.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::CryptoRng;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use thiserror::Error;
use zeroize::Zeroizing;

/// What the text form of a key pair starts with.
const PREFIX: &str = "whsk_";
/// What the text form of a public key starts with.
const PUBLIC_PREFIX: &str = "whpk_";
/// Bytes of what a key pair is made from.
const SEED_BYTES: usize = 32;

/// A text or a byte string that cannot be a key pair. Says nothing of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be `whsk_` and the standard base64 of an ed25519 key: 32 bytes of seed and the 32 of the public key")]
pub struct InvalidKeyPair;

/// The ed25519 key pair of one webhook. `Debug` shows the public key alone. Memory that held the seed is cleared, but not what ring
/// made of it.
#[derive(Clone)]
pub struct KeyPair(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    /// Made from the seed once, not for every signature.
    expanded: Ed25519KeyPair,
}

impl KeyPair {
    /// A new one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        rng.fill_bytes(&mut *seed);
        Self::from_seed(&*seed).expect("any 32 bytes will do")
    }

    /// Reads the text form: `whsk_` and padded standard base64 of seed and public key, which must belong together.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyPair> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidKeyPair)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| InvalidKeyPair)?);
        let (seed, public) = bytes.split_at_checked(SEED_BYTES).ok_or(InvalidKeyPair)?;
        let pair = Self::from_seed(seed)?;
        if pair.0.expanded.public_key().as_ref() == public { Ok(pair) } else { Err(InvalidKeyPair) }
    }

    /// From the 32 bytes kept in the store.
    pub fn from_seed(seed: &[u8]) -> Result<Self, InvalidKeyPair> {
        let seed: [u8; SEED_BYTES] = seed.try_into().map_err(|_| InvalidKeyPair)?;
        let seed = Zeroizing::new(seed);
        let expanded = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| InvalidKeyPair)?;
        Ok(Self(Arc::new(Inner { seed, expanded })))
    }

    /// The bytes to keep in the store.
    pub fn seed(&self) -> &[u8] {
        &*self.0.seed
    }

    /// What receivers verify with: `whpk_` and base64 of 32 bytes.
    pub fn public_key(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.0.expanded.public_key()))
    }

    /// The signature of one attempt: `v1a,` and 88 characters. `timestamp` is in seconds since the Unix epoch.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // Ed25519 reads the content twice, so it cannot be fed piece by piece.
        let timestamp = timestamp.to_string();
        let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
        format!("v1a,{}", STANDARD.encode(self.0.expanded.sign(&content)))
    }
}

impl PartialEq for KeyPair {
    /// Not constant-time: for tests and change detection, never to check what a stranger presents.
    fn eq(&self, other: &Self) -> bool {
        self.0.seed == other.0.seed
    }
}

impl Eq for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, ..)", self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    // From svix-webhooks, server/svix-server/src/worker.rs.
    const PAIR: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC_KEY: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

    #[test]
    fn signatures_match_the_published_vector() {
        let pair = KeyPair::parse(PAIR).unwrap();
        assert_eq!(pair.public_key(), PUBLIC_KEY);
        assert_eq!(
            pair.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#),
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
        );
    }

    #[test]
    fn other_texts_are_refused() {
        // Its public key belongs to another seed.
        let strange = PAIR.replace("whsk_6", "whsk_7");
        let of = |length: usize| format!("whsk_{}", STANDARD.encode(vec![7; length]));
        let bad = ["", "whsk_", "whsk_%", &PAIR[..PAIR.len() - 2], PUBLIC_KEY, &strange, &of(31), &of(32), &of(64)];
        for text in bad.into_iter().chain([&*PAIR.replace("whsk_", "whsec_"), &format!("{PAIR} ")]) {
            assert_eq!(KeyPair::parse(text), Err(InvalidKeyPair), "{text}");
        }
    }

    #[test]
    fn generated_pairs_differ_round_trip_and_stay_secret() {
        let mut rng = StdRng::seed_from_u64(1);
        let (one, two) = (KeyPair::generate(&mut rng), KeyPair::generate(&mut rng));
        assert_ne!(one, two);
        assert_eq!(KeyPair::from_seed(one.seed()).unwrap(), one);
        assert_eq!(format!("{one:?}"), format!("KeyPair({}, ..)", one.public_key()));
        assert_eq!(KeyPair::from_seed(&[7; 31]), Err(InvalidKeyPair));
    }
}
