//! Entries of the audit log.

use prost::Message;

use super::{Corrupt, decode};
use crate::model::{
    audit::{About, AuditEntry, Ending, Principal},
    audit_shares::Account,
    credentials::ApiKeyId,
    time::Timestamp,
};

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct AuditRecord {
    #[prost(sint64, tag = "1")]
    time: i64,
    /// 0: several; 1: key; 2: certificate; 3: anonymous; 4: unauthenticated; 5: offline.
    #[prost(uint32, tag = "2")]
    principal: u32,
    /// Of a key, the claimed one included.
    #[prost(bytes = "vec", tag = "3")]
    key_id: Vec<u8>,
    /// Of a key, or in a certificate.
    #[prost(string, tag = "4")]
    name: String,
    #[prost(bytes = "vec", tag = "5")]
    certificate: Vec<u8>,
    /// Address and port.
    #[prost(string, tag = "6")]
    peer: String,
    #[prost(string, tag = "7")]
    method: String,
    /// 0: nobody's; 1: a tenant's; 2: all tenants'; 3: an erased one's.
    #[prost(uint32, tag = "8")]
    about: u32,
    #[prost(string, tag = "9")]
    tenant: String,
    #[prost(string, tag = "10")]
    resource: String,
    #[prost(string, repeated, tag = "11")]
    fields: Vec<String>,
    #[prost(message, optional, tag = "12")]
    ending: Option<EndingRecord>,
    #[prost(uint64, tag = "13")]
    omitted: u64,
    #[prost(bool, tag = "14")]
    is_outsiders: bool,
}

/// Of an entry, when it came and whose it is, which is read of very many at a time.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct AccountRecord {
    #[prost(sint64, tag = "1")]
    time: i64,
    #[prost(uint32, tag = "2")]
    principal: u32,
    #[prost(bytes = "vec", tag = "3")]
    key_id: Vec<u8>,
    #[prost(string, tag = "4")]
    name: String,
}

impl AccountRecord {
    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("entry of the audit log", bytes)
    }

    pub(in super::super) fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.time)
    }

    pub(in super::super) fn account(self) -> Result<Account, Corrupt> {
        principal(self.principal, &self.key_id, self.name).map(|principal| principal.account())
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct EndingRecord {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(sint64, tag = "2")]
    time: i64,
}

impl AuditRecord {
    pub(in super::super) fn new(entry: &AuditEntry) -> Self {
        let id = |id: &ApiKeyId| id.as_bytes().to_vec();
        let (principal, key_id, name) = match &entry.principal {
            Principal::Several => (0, Vec::new(), ""),
            Principal::Key { id: key, name } => (1, id(key), &**name),
            Principal::Certificate(name) => (2, Vec::new(), &**name),
            Principal::Anonymous => (3, Vec::new(), ""),
            Principal::Unauthenticated(claimed) => (4, claimed.as_ref().map(id).unwrap_or_default(), ""),
            Principal::Offline => (5, Vec::new(), ""),
        };
        let (about, tenant) = match &entry.about {
            About::Nobody => (0, ""),
            About::Tenant(tenant) => (1, tenant.as_str()),
            About::All => (2, ""),
            About::Erased => (3, ""),
        };
        Self {
            time: entry.time.micros(),
            principal,
            key_id,
            name: name.to_owned(),
            certificate: entry.certificate.map(Vec::from).unwrap_or_default(),
            peer: entry.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            method: entry.method.to_string(),
            about,
            tenant: tenant.to_owned(),
            resource: entry.resource.to_string(),
            fields: entry.fields.iter().map(ToString::to_string).collect(),
            ending: entry.ending.map(|ending| EndingRecord { code: ending.code, time: ending.time.micros() }),
            omitted: entry.omitted,
            is_outsiders: entry.is_outsiders,
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("entry of the audit log", bytes)
    }

    pub(in super::super) fn entry(self) -> Result<AuditEntry, Corrupt> {
        let corrupt = |what: &str| Corrupt::new("entry of the audit log", what);
        let principal = principal(self.principal, &self.key_id, self.name)?;
        let about = match self.about {
            0 => About::Nobody,
            1 => About::Tenant(self.tenant.parse().map_err(|error| Corrupt::new("tenant", error))?),
            2 => About::All,
            3 => About::Erased,
            _ => return Err(corrupt("whose it was is of a later version")),
        };
        let certificate = (!self.certificate.is_empty()).then(|| self.certificate.try_into());
        let ending = |it: EndingRecord| Ending { code: it.code, time: Timestamp::from_micros(it.time) };
        Ok(AuditEntry {
            time: Timestamp::from_micros(self.time),
            principal,
            certificate: certificate.transpose().map_err(|_| corrupt("its fingerprint has another length"))?,
            peer: self.peer.parse().ok(),
            method: self.method.into(),
            about,
            resource: self.resource.into(),
            fields: self.fields.into_iter().map(Into::into).collect(),
            ending: self.ending.map(ending),
            omitted: self.omitted,
            is_outsiders: self.is_outsiders,
        })
    }
}

fn principal(kind: u32, key_id: &[u8], name: String) -> Result<Principal, Corrupt> {
    let corrupt = |what: &str| Corrupt::new("entry of the audit log", what);
    let id = || -> Result<ApiKeyId, Corrupt> {
        Ok(ApiKeyId::from_bytes(key_id.try_into().map_err(|_| corrupt("its key's id has another length"))?))
    };
    Ok(match kind {
        0 => Principal::Several,
        1 => Principal::Key { id: id()?, name: name.into() },
        2 => Principal::Certificate(name.into()),
        3 => Principal::Anonymous,
        4 if key_id.is_empty() => Principal::Unauthenticated(None),
        4 => Principal::Unauthenticated(Some(id()?)),
        5 => Principal::Offline,
        _ => return Err(corrupt("who it was is of a later version")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_disk() {
        let id = ApiKeyId::from_bytes([1; 12]);
        let full = AuditEntry {
            certificate: Some([7; 32]),
            peer: Some("[::1]:9".parse().unwrap()),
            about: About::Tenant("acme".parse().unwrap()),
            resource: "wh_1".into(),
            fields: Box::new(["url".into(), "headers".into()]),
            ending: Some(Ending { code: 5, time: Timestamp::from_micros(3) }),
            omitted: 4,
            is_outsiders: true,
            ..AuditEntry::new("s/m", Principal::Key { id, name: "ci".into() }, Timestamp::from_micros(-2))
        };
        let bare = |principal, about| AuditEntry { about, ..AuditEntry::new("m", principal, Timestamp::UNIX_EPOCH) };
        for entry in [
            full,
            bare(Principal::Several, About::Nobody),
            bare(Principal::Certificate("a.example".into()), About::All),
            bare(Principal::Anonymous, About::Erased),
            bare(Principal::Unauthenticated(None), About::Nobody),
            bare(Principal::Unauthenticated(Some(id)), About::Nobody),
            bare(Principal::Offline, About::Nobody),
        ] {
            let bytes = AuditRecord::new(&entry).encode_to_vec();
            assert_eq!(AuditRecord::decode_from(&bytes).unwrap().entry().unwrap(), entry);
            let brief = AccountRecord::decode_from(&bytes).unwrap();
            assert_eq!((brief.time(), brief.account().unwrap()), (entry.time, entry.principal.account()));
        }
        for wrong in [
            AuditRecord { principal: 1, key_id: vec![0; 11], ..AuditRecord::default() },
            AuditRecord { principal: 6, ..AuditRecord::default() },
            AuditRecord { about: 4, ..AuditRecord::default() },
            AuditRecord { about: 1, tenant: "A".into(), ..AuditRecord::default() },
            AuditRecord { certificate: vec![0; 31], ..AuditRecord::default() },
        ] {
            assert!(wrong.clone().entry().is_err(), "{wrong:?}");
        }
    }
}
