//! The key that a store's secrets are encrypted with, as operators keep it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// A text that is no master key. Says nothing of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not the standard base64 of 32 bytes, as `openssl rand -base64 32` makes it")]
pub struct InvalidMasterKey;

/// 256 random bits. `Debug` never shows them, and memory that held them is cleared.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl MasterKey {
    /// A new one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// Reads the text form: padded standard base64 of 32 bytes, perhaps with white space around it.
    pub fn parse(text: &str) -> Result<Self, InvalidMasterKey> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).map_err(|_| InvalidMasterKey)?);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if bytes.len() != KEY_BYTES {
            return Err(InvalidMasterKey);
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    /// The text form, for the file that keeps it.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written_and_stay_secret() {
        let mut rng = StdRng::seed_from_u64(1);
        let (one, two) = (MasterKey::generate(&mut rng), MasterKey::generate(&mut rng));
        assert_ne!(one, two);
        assert_eq!(MasterKey::parse(&one.reveal()), Ok(one.clone()));
        assert_eq!(MasterKey::parse(&format!(" {}\r\n", *one.reveal())), Ok(one.clone()));
        assert_eq!(format!("{one:?}"), "MasterKey(..)");
    }

    #[test]
    fn other_texts_are_refused() {
        let of = |length: usize| STANDARD.encode(vec![0xff; length]);
        assert!(MasterKey::parse(&of(32)).is_ok());
        for text in ["", "x", &of(31), &of(33), &of(32).replace('/', "_"), of(32).trim_end_matches('=')] {
            assert_eq!(MasterKey::parse(text), Err(InvalidMasterKey), "{text}");
        }
    }
}
