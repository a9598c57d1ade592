//! Ids and cursors that say nothing: store numbers, encrypted.
//!
//! A delivery id is deterministic (the same event, webhook and replay always have the same id) and needs no index to be
//! looked up, because it *is* the delivery's key: one AES-128 block under a random key of the store. A cursor is another such
//! block with a mark inside, so one that is mistyped or comes from another store is recognised.
//!
//! A store that was restored from a backup gives out numbers again that stood for other things between the backup and its loss. So
//! an *era* begins there: numbers from its beginning on are sealed with another key, and what was sealed before for numbers that
//! the backup does not reach stands for nothing any more. What the backup reaches keeps its ids and cursors.

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

/// What is numbered since a store was restored, and the key that it is sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Era {
    /// Its first event.
    pub events_from: EventSeq,
    /// Its first log entry.
    pub log_from: Position,
    /// 16 random bytes.
    pub key: [u8; 16],
}

/// Why a cursor leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostCursor {
    /// This store never made it.
    Foreign,
    /// It is of outcomes that were lost when the store was restored from a backup; those up to this place were not.
    Undone(Position),
}

/// Seals and opens with one store's keys.
pub struct Sealer {
    /// Oldest first; the first one begins with the store.
    eras: Vec<KeyedEra>,
}

struct KeyedEra {
    events_from: EventSeq,
    log_from: Position,
    cipher: Aes128,
}

impl Sealer {
    /// With the key of a store that was never restored.
    pub fn new(key: [u8; 16]) -> Self {
        Self::with_eras(key, &[])
    }

    /// With a store's first key, and the eras that began when it was restored, oldest first.
    pub fn with_eras(key: [u8; 16], eras: &[Era]) -> Self {
        let first = Era { events_from: EventSeq(0), log_from: Position(0), key };
        let keyed = |era: &Era| KeyedEra {
            events_from: era.events_from,
            log_from: era.log_from,
            cipher: Aes128::new(&era.key.into()),
        };
        Self { eras: [&first].into_iter().chain(eras).map(keyed).collect() }
    }

    /// The public id of a delivery.
    pub fn delivery_id(&self, key: DeliveryKey) -> DeliveryId {
        debug_assert!(key.webhook.0 < 1 << 40 && key.replay < 1 << 24, "{key:?} does not fit its id");
        let mut block = [0; 16];
        block[..8].copy_from_slice(&key.event.0.to_be_bytes());
        block[8..].copy_from_slice(&(key.webhook.0 << 24 | u64::from(key.replay)).to_be_bytes());
        let era = self.eras.iter().rfind(|era| era.events_from <= key.event).unwrap_or(self.first());
        DeliveryId::from_bytes(era.encrypt(block))
    }

    /// The key behind a delivery id. Any id has one; whether such a delivery exists is for the store to say.
    pub fn delivery_key(&self, id: DeliveryId) -> DeliveryKey {
        let ends = self.eras.iter().skip(1).map(|era| Some(era.events_from)).chain([None]);
        let mut key = None;
        // Opened with the key of another era it is a number by chance, which is hardly ever in a bounded one.
        for (era, end) in self.eras.iter().zip(ends) {
            let opened = key_in(era.decrypt(*id.as_bytes()));
            let is_of_it = era.events_from <= opened.event && end.is_none_or(|end| opened.event < end);
            key = Some(opened);
            if is_of_it {
                break;
            }
        }
        key.expect("there is a first era")
    }

    /// The cursor for a place in the outcome log.
    pub fn cursor(&self, position: Position) -> [u8; 16] {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&position.0.to_be_bytes());
        block[8..].copy_from_slice(CURSOR_MARK);
        let era = self.eras.iter().rfind(|era| era.log_from <= position).unwrap_or(self.first());
        era.encrypt(block)
    }

    /// The place a cursor stands for.
    pub fn position(&self, cursor: [u8; 16]) -> Result<Position, LostCursor> {
        let ends = self.eras.iter().skip(1).map(|era| Some(era.log_from)).chain([None]);
        for (era, end) in self.eras.iter().zip(ends) {
            let block = era.decrypt(cursor);
            if block[8..] != *CURSOR_MARK {
                continue;
            }
            let position = Position(halves(block).0);
            return match end {
                Some(end) if position >= end => Err(LostCursor::Undone(Position(end.0.saturating_sub(1)))),
                Some(_) | None => Ok(position),
            };
        }
        Err(LostCursor::Foreign)
    }

    /// The public id of an erasure.
    pub fn erasure_id(&self, no: u64) -> ErasureId {
        let mut block = [0; 16];
        block[..8].copy_from_slice(&no.to_be_bytes());
        block[8..].copy_from_slice(ERASURE_MARK);
        ErasureId::from_bytes(self.first().encrypt(block))
    }

    /// The number behind an erasure's id; `None` if this store never made it.
    pub fn erasure_no(&self, id: ErasureId) -> Option<u64> {
        let block = self.first().decrypt(*id.as_bytes());
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
        self.first().encrypt(hash[..16].try_into().expect("half of a hash"))
    }

    /// Of the store itself: what is not numbered is sealed with its key, and numbers of erasures are never given out again.
    fn first(&self) -> &KeyedEra {
        &self.eras[0]
    }
}

impl KeyedEra {
    fn encrypt(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = block.into();
        self.cipher.encrypt_block(&mut block);
        block.into()
    }

    fn decrypt(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = block.into();
        self.cipher.decrypt_block(&mut block);
        block.into()
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

fn key_in(block: [u8; 16]) -> DeliveryKey {
    let (event, rest) = halves(block);
    let replay = u32::try_from(rest & 0xff_ffff).expect("24 bits");
    DeliveryKey { webhook: WebhookNo(rest >> 24), event: EventSeq(event), replay }
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
            assert_eq!(ours.position(ours.cursor(position)), Ok(position));
            assert_eq!(theirs.position(ours.cursor(position)), Err(LostCursor::Foreign));
        }
        for no in [1, u64::MAX] {
            assert_eq!(ours.erasure_no(ours.erasure_id(no)), Some(no));
            assert_eq!(theirs.erasure_no(ours.erasure_id(no)), None);
        }
    }

    #[test]
    fn what_a_restored_store_lost_stands_for_nothing() {
        let era = |events_from, log_from, key| Era {
            events_from: EventSeq(events_from),
            log_from: Position(log_from),
            key: [key; 16],
        };
        let lost = Sealer::new([7; 16]);
        let once = [era(100, 50, 1)];
        let twice = [era(100, 50, 1), era(200, 80, 2)];
        let (once, twice) = (Sealer::with_eras([7; 16], &once), Sealer::with_eras([7; 16], &twice));
        let key = |event| DeliveryKey { webhook: WebhookNo(3), event: EventSeq(event), replay: 1 };
        // Who sealed it, the event's number, whether the store that was restored twice knows it by that id.
        for (sealer, event, known) in [
            (&lost, 1, true),
            (&lost, 99, true),
            (&lost, 100, false),
            (&once, 100, true),
            (&once, 199, true),
            (&once, 200, false),
            (&twice, 200, true),
        ] {
            let id = sealer.delivery_id(key(event));
            assert_eq!(twice.delivery_key(id) == key(event), known, "{event}");
            assert_eq!(twice.delivery_id(key(event)) == id, known, "{event}");
        }
        for (sealer, position, found) in [
            (&lost, 0, Ok(Position(0))),
            (&lost, 49, Ok(Position(49))),
            (&lost, 50, Err(LostCursor::Undone(Position(49)))),
            (&once, 50, Ok(Position(50))),
            (&once, 79, Ok(Position(79))),
            (&once, 80, Err(LostCursor::Undone(Position(79)))),
            (&twice, 80, Ok(Position(80))),
        ] {
            assert_eq!(twice.position(sealer.cursor(Position(position))), found, "{position}");
        }
        assert_eq!(lost.position(twice.cursor(Position(80))), Err(LostCursor::Foreign), "it is of the future");
        assert_eq!(twice.erasure_no(lost.erasure_id(5)), Some(5));
        assert_eq!(twice.fingerprint(&["a"]), lost.fingerprint(&["a"]), "what was erased is still recognised");
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
