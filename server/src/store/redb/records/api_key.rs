//! API keys.

use std::fmt;

use prost::Message;

use super::{Corrupt, decode};
use crate::model::{
    credentials::{ApiKey, ApiKeyId, ApiKeySpec, Digest, Rights, TenantScope},
    ids::{InvalidId, Tenant},
    time::Timestamp,
};

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(in super::super) struct ApiKeyRecord {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    no: u64,
    /// SHA-256 of the key's text.
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
    #[prost(string, tag = "4")]
    name: String,
    /// None: all tenants.
    #[prost(string, repeated, tag = "5")]
    tenants: Vec<String>,
    #[prost(uint32, tag = "6")]
    rights: u32,
    #[prost(sint64, tag = "7")]
    create_time: i64,
    #[prost(sint64, optional, tag = "8")]
    expire_time: Option<i64>,
}

impl fmt::Debug for ApiKeyRecord {
    /// Without the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyRecord").field("no", &self.no).finish_non_exhaustive()
    }
}

impl ApiKeyRecord {
    pub(in super::super) fn new(key: &ApiKey) -> Self {
        let ApiKey { id, no, digest, spec, create_time } = key;
        Self {
            id: id.as_bytes().to_vec(),
            no: *no,
            digest: digest.as_bytes().to_vec(),
            name: spec.name.to_string(),
            tenants: spec.tenants.names().map(str::to_owned).collect(),
            rights: spec.rights.bits(),
            create_time: create_time.micros(),
            expire_time: spec.expire_time.map(Timestamp::micros),
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("API key", bytes)
    }

    pub(in super::super) fn api_key(self) -> Result<ApiKey, Corrupt> {
        let fixed = |what| Corrupt::new("API key", format_args!("its {what} has another length"));
        let tenants: Result<Vec<Tenant>, InvalidId> = self.tenants.iter().map(|name| name.parse()).collect();
        let tenants = tenants.map_err(|error| Corrupt::new("tenant", error))?;
        let rights = Rights::from_bits(self.rights).ok_or_else(|| Corrupt::new("set of rights", self.rights))?;
        Ok(ApiKey {
            id: ApiKeyId::from_bytes(self.id.try_into().map_err(|_| fixed("id"))?),
            no: self.no,
            digest: Digest::from_bytes(self.digest.try_into().map_err(|_| fixed("digest"))?),
            spec: ApiKeySpec {
                name: self.name.into(),
                tenants: TenantScope::only(tenants).unwrap_or(TenantScope::All),
                rights,
                expire_time: self.expire_time.map(Timestamp::from_micros),
            },
            create_time: Timestamp::from_micros(self.create_time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credentials::Right;

    #[test]
    fn keys_survive_the_disk() {
        let some = TenantScope::only(["a", "b"].map(|name| name.parse().unwrap())).unwrap();
        for (tenants, expire_time) in [(TenantScope::All, None), (some, Some(Timestamp::from_micros(7)))] {
            let rights = [Right::Read, Right::Operate].into_iter().collect();
            let key = ApiKey {
                id: ApiKeyId::from_bytes([1; 12]),
                no: 3,
                digest: Digest::from_bytes([2; 32]),
                spec: ApiKeySpec { name: "n".into(), tenants, rights, expire_time },
                create_time: Timestamp::from_micros(5),
            };
            let bytes = ApiKeyRecord::new(&key).encode_to_vec();
            assert_eq!(ApiKeyRecord::decode_from(&bytes).unwrap().api_key().unwrap(), key);
        }
        let cut = ApiKeyRecord { digest: vec![0; 31], id: vec![0; 12], ..ApiKeyRecord::default() };
        assert!(cut.api_key().is_err());
        let unknown = ApiKeyRecord { digest: vec![0; 32], id: vec![0; 12], rights: 64, ..ApiKeyRecord::default() };
        assert!(unknown.api_key().is_err(), "what a later version allows is not guessed");
    }
}
