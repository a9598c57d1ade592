//! Changes of configuration: API keys come and go.

use ::redb::ReadableTable as _;
use prost::Message as _;

use super::{
    change::{Change, Tables},
    error::EngineError,
    records::ApiKeyRecord,
    tables::meta,
};
use crate::{
    limits::API_KEYS_MAX,
    model::{
        credentials::{ApiKey, ApiKeyId, ApiKeySpec, Digest},
        time::Timestamp,
    },
    store::keyring::{KeyAnswer, KeyChange, KeyStep},
};

impl Change<'_> {
    /// Applies a change of API keys if its conditions hold.
    pub(super) fn change_key(&mut self, tables: &mut Tables<'_>, change: KeyChange) -> Result<KeyAnswer, EngineError> {
        match change {
            KeyChange::Create { id, digest, spec, time } => self.create_key(tables, id, digest, spec, time),
            KeyChange::Revoke { id } => self.revoke_key(tables, id),
        }
    }

    fn create_key(
        &mut self,
        tables: &mut Tables<'_>,
        id: ApiKeyId,
        digest: Digest,
        spec: ApiKeySpec,
        time: Timestamp,
    ) -> Result<KeyAnswer, EngineError> {
        let created = self.keys.iter().filter(|step| matches!(step, KeyStep::Put(_))).count();
        if self.shared.catalog.keys().len() + created >= API_KEYS_MAX {
            return Ok(KeyAnswer::TooMany);
        }
        self.counters.config_seq += 1;
        let no = self.counters.config_seq;
        if tables.meta.get(meta::LOCKED)?.is_none() {
            tables.meta.insert(meta::LOCKED, no.to_le_bytes().as_slice())?;
        }
        let key = ApiKey { id, no, digest, spec, create_time: time };
        tables.api_keys.insert(id.as_bytes(), ApiKeyRecord::new(&key).encode_to_vec().as_slice())?;
        self.keys.push(KeyStep::Put(key.clone()));
        Ok(KeyAnswer::Created(key))
    }

    fn revoke_key(&mut self, tables: &mut Tables<'_>, id: ApiKeyId) -> Result<KeyAnswer, EngineError> {
        if tables.api_keys.remove(id.as_bytes())?.is_none() {
            return Ok(KeyAnswer::NotFound);
        }
        self.keys.push(KeyStep::Revoked(id));
        Ok(KeyAnswer::Revoked)
    }
}
