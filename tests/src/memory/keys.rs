//! API keys of an image.

use postrider_server::{
    limits::API_KEYS_MAX,
    model::credentials::ApiKey,
    store::{KeyAnswer, KeyChange, KeyStep},
};

use super::image::{Effects, Image};

impl Image {
    pub(super) fn change_key(&mut self, change: &KeyChange, effects: &mut Effects) -> KeyAnswer {
        match change {
            KeyChange::Create { .. } if self.api_keys.len() >= API_KEYS_MAX => KeyAnswer::TooMany,
            KeyChange::Create { id, digest, spec, time } => {
                self.config_seq += 1;
                let (no, spec) = (self.config_seq, spec.clone());
                let key = ApiKey { id: *id, no, digest: *digest, spec, create_time: *time };
                self.locked = true;
                self.api_keys.insert(*id, key.clone());
                effects.keys.push(KeyStep::Put(key.clone()));
                KeyAnswer::Created(key)
            }
            KeyChange::Revoke { id } => match self.api_keys.remove(id) {
                Some(_) => {
                    effects.keys.push(KeyStep::Revoked(*id));
                    KeyAnswer::Revoked
                }
                None => KeyAnswer::NotFound,
            },
        }
    }
}
