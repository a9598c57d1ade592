//! Encryption of what the store must not show: XChaCha20-Poly1305, as in draft-irtf-cfrg-xchacha-03.
//!
//! ```text
//! number of the key   nonce      ciphertext        tag
//! 4 bytes             24 bytes   as the plaintext  16 bytes
//! ```
//!
//! Nonces are drawn at random: 192 bits are enough for that. What is encrypted belongs to one [`Place`] and one key, both of
//! which are authenticated with it, so that it opens nowhere else: whoever can write to the store cannot have one webhook's
//! secret signed or sent with another's.
//!
//! Deliberately absent: a guard against somebody who puts an older copy of a whole row back.

use std::fmt;

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use super::master_key::MasterKey;

/// Bytes of a key's number.
const NO_BYTES: usize = 4;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 24;
/// The first part of what is authenticated; changes with its layout.
const PURPOSE: &[u8] = b"postrider-1";

/// Which of a store's master keys: 1 is its first, each rotation counts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyNo(pub u32);

impl KeyNo {
    /// The key that something was encrypted with; `None` if nothing was.
    pub fn of(encrypted: &[u8]) -> Option<Self> {
        encrypted.first_chunk().map(|no| Self(u32::from_le_bytes(*no)))
    }

    /// That of the key that replaces it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Where something belongs. Each part is at most 255 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What kind of row.
    pub row: &'static str,
    /// What of it.
    pub field: &'static str,
    /// Whose it is.
    pub tenant: &'a str,
    /// The webhook's id.
    pub webhook: &'a [u8],
}

impl Place<'_> {
    /// What is authenticated: every part with its length before it, so that no two places look alike.
    fn authenticated(&self, key: KeyNo) -> Vec<u8> {
        let Self { row, field, tenant, webhook } = self;
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(PURPOSE);
        bytes.extend_from_slice(&key.0.to_le_bytes());
        for part in [row.as_bytes(), field.as_bytes(), tenant.as_bytes(), webhook] {
            bytes.push(u8::try_from(part.len()).expect("parts of a place are short"));
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// Something was encrypted with another key, for another place, or was changed since. Which of it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("does not open with the master key")]
pub struct NotOurs;

/// The master keys that are known: the one that encrypts, and during a rotation the one it replaces.
pub struct Keyring {
    current: Cipher,
    replaced: Option<Cipher>,
}

struct Cipher {
    no: KeyNo,
    key: XChaCha20Poly1305,
}

impl Cipher {
    fn new(no: KeyNo, key: &MasterKey) -> Self {
        Self { no, key: XChaCha20Poly1305::new(key.bytes().into()) }
    }
}

impl Keyring {
    /// With one key.
    pub fn new(no: KeyNo, key: &MasterKey) -> Self {
        Self { current: Cipher::new(no, key), replaced: None }
    }

    /// With the key that replaces another, which opens still.
    pub fn rotating(replaced: (KeyNo, &MasterKey), current: (KeyNo, &MasterKey)) -> Self {
        Self { current: Cipher::new(current.0, current.1), replaced: Some(Cipher::new(replaced.0, replaced.1)) }
    }

    /// Encrypts something for its place.
    pub fn encrypt(&self, place: Place<'_>, plaintext: &[u8], rng: &mut impl CryptoRng) -> Vec<u8> {
        let Cipher { no, key } = &self.current;
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let payload = Payload { msg: plaintext, aad: &place.authenticated(*no) };
        let ciphertext = key.encrypt(&XNonce::from(nonce), payload).expect("far shorter than 256 GiB");
        [&no.0.to_le_bytes()[..], &nonce, &ciphertext].concat()
    }

    /// Decrypts what was encrypted for this place.
    pub fn decrypt(&self, place: Place<'_>, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOurs> {
        let no = KeyNo::of(encrypted).ok_or(NotOurs)?;
        let known = [Some(&self.current), self.replaced.as_ref()];
        let Cipher { key, .. } = known.into_iter().flatten().find(|cipher| cipher.no == no).ok_or(NotOurs)?;
        let (nonce, ciphertext) = encrypted[NO_BYTES..].split_first_chunk::<NONCE_BYTES>().ok_or(NotOurs)?;
        let payload = Payload { msg: ciphertext, aad: &place.authenticated(no) };
        let plaintext = key.decrypt(&XNonce::from(*nonce), payload).map_err(|_| NotOurs)?;
        Ok(Zeroizing::new(plaintext))
    }

    /// Whether something was encrypted with the key that encrypts now.
    pub fn is_current(&self, encrypted: &[u8]) -> bool {
        KeyNo::of(encrypted) == Some(self.current.no)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replaced = self.replaced.as_ref().map(|cipher| cipher.no);
        f.debug_struct("Keyring").field("current", &self.current.no).field("replaced", &replaced).finish()
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    const PLACE: Place<'_> = Place { row: "webhook", field: "secret", tenant: "t", webhook: &[7; 16] };

    fn key(byte: u8) -> MasterKey {
        MasterKey::generate(&mut StdRng::seed_from_u64(byte.into()))
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1: the cipher is the one that the name says.
    #[test]
    fn the_cipher_gives_the_published_tag() {
        let key: [u8; 32] = std::array::from_fn(|n| 0x80 + u8::try_from(n).unwrap());
        let nonce: [u8; 24] = std::array::from_fn(|n| 0x40 + u8::try_from(n).unwrap());
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let msg =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen \
                    would be it.";
        let sealed = XChaCha20Poly1305::new(&key.into()).encrypt(&XNonce::from(nonce), Payload { msg, aad: &aad });
        let sealed = sealed.unwrap();
        assert_eq!(sealed[..4], [0xbd, 0x6d, 0x17, 0x9d]);
        let tag = [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49];
        assert_eq!(sealed[sealed.len() - 16..], tag);
    }

    #[test]
    fn what_is_encrypted_opens_in_its_place_alone() {
        let mut rng = StdRng::seed_from_u64(1);
        let keyring = Keyring::new(KeyNo(1), &key(1));
        for plaintext in [&b""[..], b"x", &[7; 5_000]] {
            let encrypted = keyring.encrypt(PLACE, plaintext, &mut rng);
            assert_eq!(keyring.decrypt(PLACE, &encrypted).unwrap().as_slice(), plaintext);
            assert_ne!(keyring.encrypt(PLACE, plaintext, &mut rng), encrypted, "a nonce of its own");
            let elsewhere = [
                Place { row: "request", ..PLACE },
                Place { field: "headers", ..PLACE },
                Place { tenant: "u", ..PLACE },
                Place { webhook: &[8; 16], ..PLACE },
                // The same letters, divided otherwise.
                Place { row: "webhooks", field: "ecret", ..PLACE },
            ];
            for place in elsewhere {
                assert_eq!(keyring.decrypt(place, &encrypted), Err(NotOurs), "{place:?}");
            }
        }
    }

    #[test]
    fn what_was_changed_or_is_anothers_does_not_open() {
        let mut rng = StdRng::seed_from_u64(1);
        let keyring = Keyring::new(KeyNo(1), &key(1));
        let encrypted = keyring.encrypt(PLACE, b"secret", &mut rng);
        for index in 0..encrypted.len() {
            let mut changed = encrypted.clone();
            changed[index] ^= 1;
            assert_eq!(keyring.decrypt(PLACE, &changed), Err(NotOurs), "{index}");
            assert_eq!(keyring.decrypt(PLACE, &encrypted[..index]), Err(NotOurs), "{index}");
        }
        assert_eq!(Keyring::new(KeyNo(1), &key(2)).decrypt(PLACE, &encrypted), Err(NotOurs));
        // The same key under another number, the number rewritten accordingly.
        let mut renumbered = encrypted;
        renumbered[0] = 2;
        assert_eq!(Keyring::new(KeyNo(2), &key(1)).decrypt(PLACE, &renumbered), Err(NotOurs));
    }

    #[test]
    fn a_rotation_opens_both_and_encrypts_with_the_new_one() {
        let mut rng = StdRng::seed_from_u64(1);
        let (old, new) = (Keyring::new(KeyNo(1), &key(1)), Keyring::new(KeyNo(2), &key(2)));
        let both = Keyring::rotating((KeyNo(1), &key(1)), (KeyNo(2), &key(2)));
        let before = old.encrypt(PLACE, b"secret", &mut rng);
        assert!(!both.is_current(&before) && !both.is_current(&[]));
        let after = both.encrypt(PLACE, &both.decrypt(PLACE, &before).unwrap(), &mut rng);
        assert!(both.is_current(&after));
        assert_eq!(new.decrypt(PLACE, &after).unwrap().as_slice(), b"secret");
        assert_eq!(old.decrypt(PLACE, &after), Err(NotOurs));
        assert_eq!(new.decrypt(PLACE, &before), Err(NotOurs));
        assert_eq!(KeyNo(1).next(), KeyNo(2));
        assert!(!format!("{both:?}").contains("key:"), "{both:?}");
    }
}
