//! Who makes a call.

use std::sync::Arc;

use http::Extensions;

use crate::{
    api::status::Failure,
    model::{
        credentials::{ApiKeyId, Right, TenantScope},
        ids::Tenant,
        time::Timestamp,
    },
    store::{KnownKey, Validity},
};

/// Who makes a call, and what they may do. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::api) enum Caller {
    /// Somebody who shows nothing, where nobody has to: may do everything, as long as this holds.
    Anybody(Validity),
    /// Who has this key.
    Key(Arc<KnownKey>),
    /// Somebody of whom nothing was asked, and who therefore may do nothing.
    Nobody,
}

impl Caller {
    /// Who the layer says makes this call.
    pub(in crate::api) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self::Nobody)
    }

    /// The key it is made with.
    pub(in crate::api) fn key(&self) -> Option<ApiKeyId> {
        match self {
            Self::Key(known) => Some(known.key.id),
            Self::Anybody(_) | Self::Nobody => None,
        }
    }

    /// Fails if the caller has not this right.
    pub(super) fn check_right(&self, right: Right) -> Result<(), Failure> {
        let has = match self {
            Self::Anybody(_) => true,
            Self::Key(known) => known.key.spec.rights.include(right),
            Self::Nobody => false,
        };
        if has { Ok(()) } else { Err(Failure::permission_denied(right)) }
    }

    /// Whether the caller may act for all tenants.
    pub(in crate::api) fn is_for_all(&self) -> bool {
        match self {
            Self::Anybody(_) => true,
            Self::Key(known) => known.key.spec.tenants.is_all(),
            Self::Nobody => false,
        }
    }

    /// Fails if this tenant's things are none of the caller's business. `-` is all tenants; what is no tenant is nobody's.
    pub(in crate::api) fn check_tenant(&self, text: &str) -> Result<(), Failure> {
        let scope = match self {
            Self::Anybody(_) => return Ok(()),
            Self::Key(known) => &known.key.spec.tenants,
            Self::Nobody => return Err(Failure::tenant_not_found()),
        };
        match (scope, text) {
            (TenantScope::All, _) => Ok(()),
            (TenantScope::Only(_), "-") => Err(Failure::all_tenants_needed()),
            (TenantScope::Only(_), text) => {
                let admitted = text.parse::<Tenant>().is_ok_and(|tenant| scope.admits(&tenant));
                if admitted { Ok(()) } else { Err(Failure::tenant_not_found()) }
            }
        }
    }

    /// Until when what the caller began may go on: as long as this holds, and until then.
    pub(super) fn lasts(&self) -> Option<(Validity, Option<Timestamp>)> {
        match self {
            Self::Anybody(validity) => Some((validity.clone(), None)),
            Self::Key(known) => Some((known.validity().clone(), known.key.spec.expire_time)),
            Self::Nobody => None,
        }
    }
}
