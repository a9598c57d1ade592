//! Which master keys a store's secrets are encrypted with, and how to tell whether a key is one of them.

use prost::Message;

use super::{Corrupt, decode};
use crate::model::{
    keyring::{KeyNo, Keyring, Place},
    master_key::MasterKey,
};

/// Where check values belong: to the store, and to no webhook.
const CHECK: Place<'_> = Place { row: "store", field: "check", tenant: "", webhook: &[] };

/// Check values: nothing, encrypted with a key, so that they begin with its number and open with it alone.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct KeysRecord {
    #[prost(bytes = "vec", tag = "1")]
    current: Vec<u8>,
    /// Of the key that is to replace it, while that is under way.
    #[prost(bytes = "vec", tag = "2")]
    next: Vec<u8>,
}

impl KeysRecord {
    /// Of a new store.
    pub(in super::super) fn new(key: &MasterKey) -> Self {
        Self { current: check(KeyNo(1), key), next: Vec::new() }
    }

    /// The same with a key that is to replace the present one.
    pub(in super::super) fn rotating(self, key: &MasterKey) -> Result<Self, Corrupt> {
        Ok(Self { next: check(no(&self.current)?.next(), key), ..self })
    }

    /// The same with the next key in the place of the present one.
    pub(in super::super) fn rotated(self) -> Self {
        Self { current: self.next, next: Vec::new() }
    }

    /// Whether a key is being replaced.
    pub(in super::super) fn is_rotating(&self) -> bool {
        !self.next.is_empty()
    }

    /// The number of this key, if it is the present one.
    pub(in super::super) fn current(&self, key: &MasterKey) -> Result<Option<KeyNo>, Corrupt> {
        number(&self.current, key)
    }

    /// The number of this key, if it is the one that is to replace it.
    pub(in super::super) fn next(&self, key: &MasterKey) -> Result<Option<KeyNo>, Corrupt> {
        if self.is_rotating() { number(&self.next, key) } else { Ok(None) }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("check value of the master key", bytes)
    }
}

fn check(no: KeyNo, key: &MasterKey) -> Vec<u8> {
    Keyring::new(no, key).encrypt(CHECK, &[], &mut rand::rng())
}

fn no(check: &[u8]) -> Result<KeyNo, Corrupt> {
    KeyNo::of(check).ok_or_else(|| Corrupt::new("check value of the master key", "it is missing"))
}

fn number(check: &[u8], key: &MasterKey) -> Result<Option<KeyNo>, Corrupt> {
    let no = no(check)?;
    Ok(Keyring::new(no, key).decrypt(CHECK, check).is_ok().then_some(no))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_knows_its_keys() {
        let [one, two, other] = std::array::from_fn(|_| MasterKey::generate(&mut rand::rng()));
        let known = |record: &KeysRecord, key| (record.current(key).unwrap(), record.next(key).unwrap());
        let record = KeysRecord::new(&one);
        assert!(!record.is_rotating());
        assert_eq!(known(&record, &one), (Some(KeyNo(1)), None));
        assert_eq!(known(&record, &two), (None, None));
        let record = record.rotating(&two).unwrap();
        assert!(record.is_rotating());
        assert_eq!(known(&record, &one), (Some(KeyNo(1)), None));
        assert_eq!(known(&record, &two), (None, Some(KeyNo(2))));
        assert_eq!(known(&record, &other), (None, None));
        let record = KeysRecord::decode_from(&record.rotated().encode_to_vec()).unwrap();
        assert!(!record.is_rotating());
        assert_eq!(known(&record, &one), (None, None));
        assert_eq!(known(&record, &two), (Some(KeyNo(2)), None));
        assert!(KeysRecord::default().current(&one).is_err());
    }
}
