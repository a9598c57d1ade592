//! Who did what, when, from where, and how that ended: what is remembered of calls. Pure.
//!
//! Invariant: an entry holds names, ids and codes, never a value of a setting, a body or a secret. What callers wrote gets here only if
//! it has the shape of an id or a name.

use std::net::SocketAddr;

use super::{
    credentials::ApiKeyId,
    ids::{DeliveryId, ErasureId, ReplayId, Tenant, WebhookId},
    time::Timestamp,
};

/// The code of a call that ended well, as gRPC counts.
pub const OK: i32 = 0;

/// The number of an entry. Grows with every entry; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditNo(pub u64);

/// Who made a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular: the entry only counts others that were left out.
    Several,
    /// Who has this key.
    Key {
        /// Which one.
        id: ApiKeyId,
        /// What people knew it by then.
        name: Box<str>,
    },
    /// Who has shown a certificate for this name.
    Certificate(Box<str>),
    /// Somebody of whom nothing was asked.
    Anonymous,
    /// Somebody whose credentials, if any, were worth nothing: with the key that they claimed to have.
    Unauthenticated(Option<ApiKeyId>),
    /// Somebody with access to the data directory.
    Offline,
}

impl Principal {
    /// Whether this is who is looked for: a key's id, a certificate's name, or a word for all of a kind.
    fn is(&self, wanted: &str) -> bool {
        match self {
            Self::Several => false,
            Self::Key { id, .. } => id.to_string() == wanted,
            Self::Certificate(name) => **name == *wanted,
            Self::Anonymous => wanted == "anonymous",
            Self::Unauthenticated(claimed) => {
                wanted == "unauthenticated" || claimed.is_some_and(|id| id.to_string() == wanted)
            }
            Self::Offline => wanted == "offline",
        }
    }
}

/// Whose things a call named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Nobody's, or nobody looked.
    Nobody,
    /// Those of a tenant.
    Tenant(Tenant),
    /// Those of all tenants.
    All,
    /// Those of a tenant that was erased since.
    Erased,
}

impl About {
    /// What a request says, where `-` is all; what is no tenant is nobody's.
    pub fn named(text: &str) -> Self {
        if text == "-" { Self::All } else { text.parse().map_or(Self::Nobody, Self::Tenant) }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Its code, as gRPC counts.
    pub code: i32,
    /// When.
    pub time: Timestamp,
}

/// One call, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it came.
    pub time: Timestamp,
    /// Who made it.
    pub principal: Principal,
    /// SHA-256 of the certificate that was shown.
    pub certificate: Option<[u8; 32]>,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// What was called.
    pub method: Box<str>,
    /// Whose things it named.
    pub about: About,
    /// The id of what it was about, or has made; empty if there is none.
    pub resource: Box<str>,
    /// The fields that an update named.
    pub fields: Box<[Box<str>]>,
    /// `None`: it is not known how it ended.
    pub ending: Option<Ending>,
    /// So many refused calls before this one have no entry.
    pub omitted: u64,
    /// Who made it may not act for the tenant that it names: who that was is none of the tenant's business.
    pub is_outsiders: bool,
}

impl AuditEntry {
    /// A call that begins, of which nothing more is known.
    pub fn new(method: impl Into<Box<str>>, principal: Principal, time: Timestamp) -> Self {
        Self {
            time,
            principal,
            certificate: None,
            peer: None,
            method: method.into(),
            about: About::Nobody,
            resource: Box::default(),
            fields: Box::default(),
            ending: None,
            omitted: 0,
            is_outsiders: false,
        }
    }

    /// The same when the call has ended. What was found out about it on the way counts.
    #[must_use]
    pub fn ended(self, end: AuditEnd) -> Self {
        let AuditEnd { ending, resource, fields, erased } = end;
        let resource = if resource.is_empty() { self.resource } else { resource };
        let about = if erased { About::Erased } else { self.about };
        Self { ending: Some(ending), resource, fields, about, ..self }
    }

    /// The same without the name of its tenant, nor names that the tenant gave to anything. Ids of ours remain.
    #[must_use]
    pub fn without_tenant(self) -> Self {
        let resource = if is_ours(&self.resource) { self.resource } else { Box::default() };
        Self { about: About::Erased, resource, ..self }
    }

    /// Whether it names this tenant.
    pub fn is_of(&self, tenant: &Tenant) -> bool {
        matches!(&self.about, About::Tenant(named) if named == tenant)
    }
}

/// Whether we made this id, at random.
fn is_ours(resource: &str) -> bool {
    resource.parse::<WebhookId>().is_ok()
        || resource.parse::<DeliveryId>().is_ok()
        || resource.parse::<ReplayId>().is_ok()
        || resource.parse::<ErasureId>().is_ok()
        || resource.parse::<ApiKeyId>().is_ok()
}

/// What is known of a call once it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEnd {
    /// How it did.
    pub ending: Ending,
    /// As [`AuditEntry::resource`]; empty: as it was.
    pub resource: Box<str>,
    /// As [`AuditEntry::fields`].
    pub fields: Box<[Box<str>]>,
    /// It has erased the tenant that it names, which is not to be named any more.
    pub erased: bool,
}

impl AuditEnd {
    /// Nothing more is known than this.
    pub fn new(code: i32, time: Timestamp) -> Self {
        Self { ending: Ending { code, time }, resource: Box::default(), fields: Box::default(), erased: false }
    }
}

/// Which entries somebody wants. What is empty or unset wants everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those that name this tenant.
    pub tenant: Option<Tenant>,
    /// Only those of this key's id or certificate's name, or of all who are `anonymous`, `unauthenticated` or `offline`.
    pub principal: Box<str>,
    /// Only those of this method, whole or what comes after its `/`.
    pub method: Box<str>,
    /// Only those of then or later.
    pub from: Option<Timestamp>,
    /// Only those before then.
    pub until: Option<Timestamp>,
    /// Only those that are known not to have ended well.
    pub failed: bool,
    /// Who asks may not see who outsiders were, nor find it out by asking for them.
    pub is_limited: bool,
}

impl AuditQuery {
    /// Whether who asks may see who made the call.
    pub fn sees(&self, entry: &AuditEntry) -> bool {
        !(self.is_limited && entry.is_outsiders)
    }

    /// Whether an entry is one of those.
    pub fn wants(&self, entry: &AuditEntry) -> bool {
        let method = &*entry.method;
        let last = method.rsplit_once('/').map_or(method, |(_, last)| last);
        self.tenant.as_ref().is_none_or(|tenant| entry.is_of(tenant))
            && (self.principal.is_empty() || self.sees(entry) && entry.principal.is(&self.principal))
            && (self.method.is_empty() || *self.method == *method || *self.method == *last)
            && self.from.is_none_or(|from| from <= entry.time)
            && self.until.is_none_or(|until| entry.time < until)
            && (!self.failed || entry.ending.is_some_and(|ending| ending.code != OK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK: &str = "wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn entry() -> AuditEntry {
        let id = ApiKeyId::from_bytes([0xab; 12]);
        let principal = Principal::Key { id, name: "ci".into() };
        let new = AuditEntry::new("postrider.v1.WebhookService/UpdateWebhook", principal, at(10));
        AuditEntry { about: About::named("acme"), ..new }
    }

    #[test]
    fn every_filter_must_pass() {
        let good = entry().ended(AuditEnd::new(OK, at(11)));
        let bad = entry().ended(AuditEnd::new(5, at(11)));
        let base = AuditQuery::default;
        let principal = |text: &str| AuditQuery { principal: text.into(), ..base() };
        let method = |text: &str| AuditQuery { method: text.into(), ..base() };
        let tenant = |text: &str| AuditQuery { tenant: Some(text.parse().unwrap()), ..base() };
        // Of a call that ended well, of one that did not, and of one that has not ended.
        for (query, expected) in [
            (base(), [true, true, true]),
            (AuditQuery { failed: true, ..base() }, [false, true, false]),
            (tenant("acme"), [true, true, true]),
            (tenant("other"), [false, false, false]),
            (principal(&format!("key_{}", "ab".repeat(12))), [true, true, true]),
            (principal(&format!("key_{}", "ac".repeat(12))), [false, false, false]),
            (principal("ci"), [false, false, false]),
            (principal("anonymous"), [false, false, false]),
            (method("UpdateWebhook"), [true, true, true]),
            (method("postrider.v1.WebhookService/UpdateWebhook"), [true, true, true]),
            (method("Webhook"), [false, false, false]),
            (AuditQuery { from: Some(at(10)), ..base() }, [true, true, true]),
            (AuditQuery { from: Some(at(11)), ..base() }, [false, false, false]),
            (AuditQuery { until: Some(at(10)), ..base() }, [false, false, false]),
            (AuditQuery { from: Some(at(9)), until: Some(at(11)), failed: true, ..base() }, [false, true, false]),
        ] {
            let wanted = [&good, &bad, &entry()].map(|entry| query.wants(entry));
            assert_eq!(wanted, expected, "{query:?}");
        }
    }

    #[test]
    fn outsiders_are_not_found_by_who_must_not_see_them() {
        let theirs = AuditEntry { is_outsiders: true, ..entry() };
        let of = |principal: &str, is_limited| AuditQuery {
            principal: principal.into(),
            is_limited,
            ..AuditQuery::default()
        };
        let id = format!("key_{}", "ab".repeat(12));
        assert!(of(&id, false).wants(&theirs) && of("", true).wants(&theirs) && of(&id, true).wants(&entry()));
        assert!(!of(&id, true).wants(&theirs), "the filter does not tell");
    }

    #[test]
    fn people_are_found_by_what_they_are_known_by() {
        let claimed = ApiKeyId::from_bytes([1; 12]);
        for (principal, names) in [
            (Principal::Anonymous, vec!["anonymous".to_owned()]),
            (Principal::Offline, vec!["offline".into()]),
            (Principal::Certificate("a.example".into()), vec!["a.example".into()]),
            (Principal::Unauthenticated(Some(claimed)), vec!["unauthenticated".into(), claimed.to_string()]),
            (Principal::Unauthenticated(None), vec!["unauthenticated".into()]),
            (Principal::Several, vec![]),
        ] {
            for name in ["anonymous", "offline", "a.example", "unauthenticated", &claimed.to_string()] {
                assert_eq!(principal.is(name), names.iter().any(|it| it == name), "{principal:?} {name}");
            }
        }
    }

    #[test]
    fn an_erased_tenant_leaves_ids_and_who_it_was() {
        for (resource, kept) in [(WEBHOOK, WEBHOOK), ("acme.order.created", ""), ("", "")] {
            let hidden = AuditEntry { resource: resource.into(), ..entry() }.without_tenant();
            assert_eq!((&*hidden.resource, &hidden.about), (kept, &About::Erased));
            assert_eq!(hidden.principal, entry().principal);
            assert!(!hidden.is_of(&"acme".parse().unwrap()));
        }
        let erased = entry().ended(AuditEnd { erased: true, resource: WEBHOOK.into(), ..AuditEnd::new(OK, at(11)) });
        assert_eq!((&*erased.resource, &erased.about), (WEBHOOK, &About::Erased));
    }

    #[test]
    fn what_is_no_tenant_is_not_repeated() {
        assert_eq!(About::named("-"), About::All);
        assert_eq!(About::named(""), About::Tenant(Tenant::default()));
        assert_eq!(About::named("prk_Secret!"), About::Nobody);
    }
}
