//! Ids and cursors that say nothing: store numbers, encrypted.
//!
//! A delivery id is deterministic (the same event, webhook and replay always have the same id) and needs no index to be
//! looked up, because it *is* the delivery's key: one AES-128 block under a random key of the store. A cursor is another such
//! block with a mark inside, so one that is mistyped or comes from another store is recognised.

use aes::{
    Aes128,
    cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _},
};

use sha2::{Digest as _, Sha256};

use super::ids::{DeliveryId, DeliveryKey, ErasureId, EventSeq, Position, WebhookNo};

/// Tells a cursor from other blocks; changes with what the position counts.
const CURSOR_MARK: &[u8; 8] = b"cursor-1";
/// Tells an erasure's id from other blocks.
const ERASURE_MARK: &[u8; 8] = b"erasure1";

/// Seals and opens with one store's key.
pub struct Sealer(Aes128);

impl Sealer {
    /// With the store's key.
    pub fn new(key: [u8; 16]) -> Self {
        Self(Aes128::new(&key.into()))
    }

    /// The public id of a delivery.
    pub fn delivery_id(&self, key: DeliveryKey) -> DeliveryId {
        debug_assert!(key.webhook.0 < 1 << 40 && key.replay < 1 << 24, "{key:?} does not fit its id");
        let mut block = [0; 16];
        block[..8].copy_from_slice(&key.event.0.to_be_bytes());
        block[8..].copy_from_slice(&(key.webhook.0 << 24 | u64::from(key.replay)).to_be_bytes());
        DeliveryId::from_bytes(self.encrypt(block))
    }

    /// The key behind a delivery id. Any id has one; whether such a delivery exists is for the store to say.
    pub fn delivery_key(&self, id: DeliveryId) -> DeliveryKey {
        let block = self.decrypt(*id.as_bytes());
        let (event, rest) = halves(block);
        let replay = u32::try_from(rest & 0xff_ffff).expect("24 bits");
        DeliveryKey { webhook: WebhookNo(rest >> 24), event: EventSeq(event), replay }
    }

    /// The cursor for a place in the outcome log.
    pub fn cursor(&self, position: Position) -> [u8; 16] {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&position.0.to_be_bytes());
        block[8..].copy_from_slice(CURSOR_MARK);
        self.encrypt(block)
    }

    /// The place a cursor stands for; `None` if this store never made it.
    pub fn position(&self, cursor: [u8; 16]) -> Option<Position> {
        let block = self.decrypt(cursor);
        (block[8..] == *CURSOR_MARK).then(|| Position(halves(block).0))
    }

    /// The public id of an erasure.
    pub fn erasure_id(&self, no: u64) -> ErasureId {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&no.to_be_bytes());
        block[8..].copy_from_slice(ERASURE_MARK);
        ErasureId::from_bytes(self.encrypt(block))
    }

    /// The number behind an erasure's id; `None` if this store never made it.
    pub fn erasure_no(&self, id: ErasureId) -> Option<u64> {
        let block = self.decrypt(*id.as_bytes());
        (block[8..] == *ERASURE_MARK).then(|| halves(block).0)
    }

    /// What remains of a text that must be recognised when it comes again and not be remembered: nobody without the store's key
    /// can try out what it may have been.
    pub fn fingerprint(&self, parts: &[&str]) -> [u8; 16] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let hash = hash.finalize();
        self.encrypt(hash[..16].try_into().expect("half of a hash"))
    }

    fn encrypt(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = block.into();
        self.0.encrypt_block(&mut block);
        block.into()
    }

    fn decrypt(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = block.into();
        self.0.decrypt_block(&mut block);
        block.into()
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

fn halves(block: [u8; 16]) -> (u64, u64) {
    let half = |at: usize| u64::from_be_bytes(block[at..at + 8].try_into().expect("8 bytes"));
    (half(0), half(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_values_open_again_and_only_here() {
        let (ours, theirs) = (Sealer::new([7; 16]), Sealer::new([8; 16]));
        for (webhook, event, replay) in [(1, 1, 0), ((1 << 40) - 1, u64::MAX, (1 << 24) - 1), (5, 1 << 60, 3)] {
            let key = DeliveryKey { webhook: WebhookNo(webhook), event: EventSeq(event), replay };
            assert_eq!(ours.delivery_key(ours.delivery_id(key)), key);
            assert_ne!(theirs.delivery_key(ours.delivery_id(key)), key);
        }
        for position in [Position(0), Position(u64::MAX)] {
            assert_eq!(ours.position(ours.cursor(position)), Some(position));
            assert_eq!(theirs.position(ours.cursor(position)), None);
        }
        for no in [1, u64::MAX] {
            assert_eq!(ours.erasure_no(ours.erasure_id(no)), Some(no));
            assert_eq!(theirs.erasure_no(ours.erasure_id(no)), None);
        }
    }

    #[test]
    fn fingerprints_tell_texts_apart_and_only_here() {
        let (ours, theirs) = (Sealer::new([7; 16]), Sealer::new([8; 16]));
        let print = ours.fingerprint(&["event", "acme", "e-1"]);
        assert_eq!(ours.fingerprint(&["event", "acme", "e-1"]), print);
        assert_ne!(theirs.fingerprint(&["event", "acme", "e-1"]), print);
        assert_ne!(ours.fingerprint(&["event", "acm", "ee-1"]), print);
    }
}
