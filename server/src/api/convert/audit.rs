//! Contract ⇄ model for the audit log.

use postrider_proto::v1::{self, PrincipalKind};

use super::{ALL_TENANTS, count, tenant_or_all, text, time, timestamp};
use crate::{
    api::status::Violations,
    limits::{AUDIT_METHOD_BYTES_MAX, AUDIT_PRINCIPAL_BYTES_MAX},
    model::audit::{About, AuditEntry, AuditNo, AuditQuery, Principal},
};

/// Which entries a caller wants, who may act for some tenants only, or for all.
pub(in crate::api) fn query(
    violations: &mut Violations,
    request: &v1::ListAuditEntriesRequest,
    is_limited: bool,
) -> AuditQuery {
    let from = request.start_time.and_then(|time| timestamp(violations, "start_time", time));
    let until = request.end_time.and_then(|time| timestamp(violations, "end_time", time));
    if from.zip(until).is_some_and(|(from, until)| from > until) {
        violations.add("end_time", "must not be before start_time");
    }
    AuditQuery {
        tenant: tenant_or_all(violations, &request.tenant),
        principal: text(violations, "principal", request.principal.clone(), AUDIT_PRINCIPAL_BYTES_MAX),
        method: text(violations, "method", request.method.clone(), AUDIT_METHOD_BYTES_MAX),
        from,
        until,
        failed: request.failed,
        is_limited,
    }
}

/// An entry as it is seen by who has asked this.
pub(in crate::api) fn reply(no: AuditNo, entry: AuditEntry, query: &AuditQuery) -> v1::AuditEntry {
    let principal = if query.sees(&entry) {
        principal(entry.principal, entry.certificate)
    } else {
        v1::Principal { kind: PrincipalKind::Withheld.into(), ..v1::Principal::default() }
    };
    // Of all tenants together.
    let omitted = if query.is_limited { 0 } else { entry.omitted };
    let erased = entry.about == About::Erased;
    let tenant = match entry.about {
        About::Nobody | About::Erased => String::new(),
        About::Tenant(tenant) => tenant.to_string(),
        About::All => ALL_TENANTS.to_owned(),
    };
    v1::AuditEntry {
        number: count(no.0),
        time: Some(time(entry.time)),
        principal: Some(principal),
        peer: entry.peer.map_or_else(String::new, |peer| peer.to_string()),
        method: entry.method.into(),
        tenant,
        tenant_erased: erased,
        resource: entry.resource.into(),
        fields: entry.fields.into_iter().map(Into::into).collect(),
        code: entry.ending.map(|ending| ending.code),
        finish_time: entry.ending.map(|ending| time(ending.time)),
        omitted: count(omitted),
    }
}

fn principal(principal: Principal, certificate: Option<[u8; 32]>) -> v1::Principal {
    let (kind, id, name) = match principal {
        Principal::Several => (PrincipalKind::Unspecified, String::new(), String::new()),
        Principal::Key { id, name } => (PrincipalKind::Key, id.to_string(), name.into()),
        Principal::Certificate(name) => (PrincipalKind::Certificate, name.into(), String::new()),
        Principal::Anonymous => (PrincipalKind::Anonymous, String::new(), String::new()),
        Principal::Unauthenticated(claimed) => {
            let claimed = claimed.map_or_else(String::new, |id| id.to_string());
            (PrincipalKind::Unauthenticated, claimed, String::new())
        }
        Principal::Offline => (PrincipalKind::Offline, String::new(), String::new()),
    };
    let hexadecimal = |bytes: [u8; 32]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let certificate_sha256 = certificate.map(hexadecimal).unwrap_or_default();
    v1::Principal { kind: kind.into(), id, name, certificate_sha256 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{audit::AuditEnd, credentials::ApiKeyId, time::Timestamp};

    #[test]
    fn filters_are_checked() {
        let good = v1::ListAuditEntriesRequest { tenant: "-".into(), ..Default::default() };
        let check = |request: &v1::ListAuditEntriesRequest| {
            let mut violations = Violations::default();
            let query = query(&mut violations, request, false);
            violations.check().map(|()| query).map_err(|failure| format!("{failure:?}"))
        };
        assert_eq!(check(&good).unwrap(), AuditQuery::default());
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        for (request, field) in [
            (v1::ListAuditEntriesRequest { tenant: "!".into(), ..good.clone() }, "tenant"),
            (v1::ListAuditEntriesRequest { principal: "x".repeat(257), ..good.clone() }, "principal"),
            (v1::ListAuditEntriesRequest { method: "x".repeat(129), ..good.clone() }, "method"),
            (v1::ListAuditEntriesRequest { start_time: at(2), end_time: at(1), ..good.clone() }, "end_time"),
        ] {
            let refused = check(&request).unwrap_err();
            assert!(refused.contains(field), "{field}: {refused}");
        }
    }

    #[test]
    fn entries_are_shown_whole() {
        let id = ApiKeyId::from_bytes([0xab; 12]);
        let entry = AuditEntry {
            certificate: Some([0xc0; 32]),
            peer: Some("127.0.0.1:7".parse().unwrap()),
            about: About::named("-"),
            omitted: 3,
            ..AuditEntry::new("s/m", Principal::Key { id, name: "ci".into() }, Timestamp::UNIX_EPOCH)
        };
        let (all, limited) = (AuditQuery::default(), AuditQuery { is_limited: true, ..AuditQuery::default() });
        let shown = reply(AuditNo(9), entry.clone(), &all);
        assert_eq!((shown.number, shown.code, shown.finish_time, shown.omitted), (9, None, None, 3));
        assert_eq!((&*shown.tenant, &*shown.peer, &*shown.method), ("-", "127.0.0.1:7", "s/m"));
        let who = shown.principal.unwrap();
        assert_eq!((who.kind(), who.id, &*who.name), (PrincipalKind::Key, format!("key_{}", "ab".repeat(12)), "ci"));
        assert_eq!(who.certificate_sha256, "c0".repeat(32));
        let end = AuditEnd { erased: true, ..AuditEnd::new(0, Timestamp::UNIX_EPOCH) };
        let ended = reply(AuditNo(9), entry.clone().ended(end), &all);
        assert_eq!((ended.code, ended.tenant_erased, &*ended.tenant), (Some(0), true, ""));

        let own = reply(AuditNo(9), entry.clone(), &limited);
        assert_eq!((&*own.principal.unwrap().name, own.omitted), ("ci", 0));
        let outsiders = AuditEntry { is_outsiders: true, ..entry };
        let withheld = v1::Principal { kind: PrincipalKind::Withheld.into(), ..v1::Principal::default() };
        let shown = reply(AuditNo(9), outsiders.clone(), &limited);
        assert_eq!((shown.principal, &*shown.peer, shown.omitted), (Some(withheld), "127.0.0.1:7", 0));
        assert_eq!(&*reply(AuditNo(9), outsiders, &all).principal.unwrap().name, "ci");
    }
}
