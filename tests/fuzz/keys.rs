//! Keys, secrets and ids, which callers and operators write, and what is encrypted with them.

use postrider_server::model::{
    credentials::{ApiKeyId, ApiKeySecret},
    ids::{DeliveryId, ErasureId, ReplayId, WebhookId},
    keyring::{KeyNo, Keyring, Place},
    master_key::MasterKey,
    signing::{KeyPair, SECRET_BYTES_MAX, SECRET_BYTES_MIN, Secret},
};
use proptest::{prelude::*, sample::Index};
use rand::{SeedableRng as _, rngs::StdRng};

use crate::harness::{explore, texts};

/// There is one spelling of everything, so that nothing that is compared as text can be had twice; and `Debug` shows no secret.
#[test]
fn keys_and_ids_are_what_they_were_written_as() {
    explore("keys", texts(include_str!("corpus/keys.txt")), |text| {
        if let Ok(key) = ApiKeySecret::parse(&text) {
            prop_assert_eq!(key.reveal(), &text);
            let id = key.id().to_string();
            prop_assert_eq!(id.strip_prefix("key_"), text.strip_prefix("prk_").and_then(|rest| rest.get(..24)));
            prop_assert!(!format!("{key:?}").contains(&text[28..]), "{:?}", key);
        }
        if let Ok(secret) = Secret::parse(&text) {
            prop_assert_eq!(secret.reveal(), text.clone());
            prop_assert!((SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.as_bytes().len()));
            prop_assert!(!format!("{secret:?}").contains(&text["whsec_".len()..]), "{:?}", secret);
        }
        if let Ok(pair) = KeyPair::parse(&text) {
            prop_assert_eq!(KeyPair::from_seed(pair.seed()), Ok(pair));
        }
        if let Ok(key) = MasterKey::parse(&text) {
            prop_assert_eq!(&**key.reveal(), text.trim_ascii());
        }
        let ids = [
            text.parse::<WebhookId>().map(|id| id.to_string()),
            text.parse::<ReplayId>().map(|id| id.to_string()),
            text.parse::<DeliveryId>().map(|id| id.to_string()),
            text.parse::<ErasureId>().map(|id| id.to_string()),
            text.parse::<ApiKeyId>().map(|id| id.to_string()),
        ];
        for id in ids.into_iter().flatten() {
            prop_assert_eq!(&id, &text);
        }
        Ok(())
    });
}

/// What was encrypted comes back in its place, and nothing comes back of what was changed, cut, or put elsewhere.
#[test]
fn what_is_encrypted_opens_whole_and_in_its_place_only() {
    let mut rng = StdRng::seed_from_u64(1);
    let keyring = Keyring::new(KeyNo(1), &MasterKey::generate(&mut rng));
    let cases = (texts(include_str!("corpus/keys.txt")), any::<(Index, u8, Index)>(), any::<u64>());
    explore("encrypted", cases, |(text, (at, bits, end), seed)| {
        let place = |field| Place { row: "webhook", field, tenant: "acme", webhook: b"wh_1" };
        let encrypted = keyring.encrypt(place("secret"), text.as_bytes(), &mut StdRng::seed_from_u64(seed));
        let opened = keyring.decrypt(place("secret"), &encrypted);
        prop_assert_eq!(opened.as_ref().map(|plain| &***plain), Ok(text.as_bytes()));
        prop_assert!(keyring.decrypt(place("headers"), &encrypted).is_err(), "another field");
        prop_assert!(keyring.decrypt(place("secret"), &encrypted[..end.index(encrypted.len())]).is_err(), "cut");
        prop_assert!(keyring.decrypt(place("secret"), text.as_bytes()).is_err(), "never encrypted");
        let mut changed = encrypted;
        let at = at.index(changed.len());
        changed[at] ^= bits.max(1);
        prop_assert!(keyring.decrypt(place("secret"), &changed).is_err(), "changed at {}", at);
        Ok(())
    });
}
