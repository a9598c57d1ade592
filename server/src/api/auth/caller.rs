//! Who makes a call.

use std::sync::{Arc, LazyLock};

use http::Extensions;

use crate::{
    api::status::Failure,
    model::{
        audit::Principal,
        credentials::{Grant, Right, Rights, TenantScope},
        ids::Tenant,
        time::Timestamp,
    },
    store::{KnownKey, Validity},
};

/// Those of nobody.
static NOBODYS: LazyLock<TenantScope> = LazyLock::new(|| TenantScope::Only(Arc::from([])));

/// Who makes a call, and what they may do. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::api) enum Caller {
    /// Somebody who shows nothing, where nobody has to: may do everything, as long as this holds.
    Anybody(Validity),
    /// Who has this key.
    Key(Arc<KnownKey>),
    /// Who has shown a certificate that this is granted to, when the connection was made.
    Certificate(Arc<Grant>),
    /// Somebody of whom nothing was asked, and who therefore may do nothing.
    Nobody,
}

impl Caller {
    /// Who the layer says makes this call.
    pub(in crate::api) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self::Nobody)
    }

    /// For the log: the id of a key, or the name in a certificate; empty if nothing was to be shown.
    pub(in crate::api) fn name(&self) -> String {
        match self {
            Self::Key(known) => known.key.id.to_string(),
            Self::Certificate(grant) => grant.name.to_string(),
            Self::Anybody(_) | Self::Nobody => String::new(),
        }
    }

    /// For the audit log.
    pub(super) fn principal(&self) -> Principal {
        match self {
            Self::Anybody(_) => Principal::Anonymous,
            Self::Key(known) => Principal::Key { id: known.key.id, name: known.key.spec.name.clone() },
            Self::Certificate(grant) => Principal::Certificate(grant.name.clone()),
            Self::Nobody => Principal::Unauthenticated(None),
        }
    }

    /// For whom the caller may act, and what they may do.
    fn scope(&self) -> (&TenantScope, Rights) {
        match self {
            Self::Anybody(_) => (&TenantScope::All, Rights::all()),
            Self::Key(known) => (&known.key.spec.tenants, known.key.spec.rights),
            Self::Certificate(grant) => (&grant.tenants, grant.rights),
            Self::Nobody => (&NOBODYS, Rights::default()),
        }
    }

    /// Fails if the caller has not this right.
    pub(super) fn check_right(&self, right: Right) -> Result<(), Failure> {
        if self.scope().1.include(right) { Ok(()) } else { Err(Failure::permission_denied(right)) }
    }

    /// Whether the caller may act for all tenants.
    pub(in crate::api) fn is_for_all(&self) -> bool {
        self.scope().0.is_all()
    }

    /// Fails if this tenant's things are none of the caller's business. `-` is all tenants; what is no tenant is nobody's.
    pub(in crate::api) fn check_tenant(&self, text: &str) -> Result<(), Failure> {
        match (self.scope().0, text) {
            (TenantScope::All, _) => Ok(()),
            (TenantScope::Only(_), "-") => Err(Failure::all_tenants_needed()),
            (scope @ TenantScope::Only(_), text) => {
                let admitted = text.parse::<Tenant>().is_ok_and(|tenant| scope.admits(&tenant));
                if admitted { Ok(()) } else { Err(Failure::tenant_not_found()) }
            }
        }
    }

    /// Whether what the caller showed can lose its worth while a connection lasts.
    pub(super) fn can_end(&self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// Whether it has.
    pub(super) fn has_ended(&self, now: Timestamp) -> bool {
        match self {
            Self::Key(known) => known.validity().is_over() || known.key.has_expired(now),
            Self::Anybody(_) | Self::Certificate(_) | Self::Nobody => false,
        }
    }

    /// Until when what the caller began may go on: as long as this holds, and until then.
    pub(super) fn lasts(&self) -> Option<(Validity, Option<Timestamp>)> {
        match self {
            Self::Anybody(validity) => Some((validity.clone(), None)),
            Self::Key(known) => Some((known.validity().clone(), known.key.spec.expire_time)),
            // As long as the connection.
            Self::Certificate(_) | Self::Nobody => None,
        }
    }
}
