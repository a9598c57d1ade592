//! Erasing: what callers ask for, and how far it has come.

use postrider_proto::v1;

use super::{event::key_of, tenant};
use crate::{
    api::status::{Failure, Violations},
    model::{
        erasure::{Erasure, Subject},
        ids::{ErasureId, EventId, Tenant, is_id},
    },
};

/// The tenant and id of the event to erase.
pub(in crate::api) fn event(request: &v1::EraseEventRequest) -> Result<(Tenant, EventId), Failure> {
    key_of(&request.tenant, &request.id)
}

/// The tenant to erase, and the request's id. No tenant is meant where none is named.
pub(in crate::api) fn whole_tenant(request: v1::EraseTenantRequest) -> Result<(Tenant, String), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", &request.tenant);
    if request.tenant.is_empty() {
        violations.add("tenant", "is required: name the tenant that is to be erased");
    }
    if !request.request_id.is_empty() && !is_id(&request.request_id) {
        violations.add("request_id", "must be an id: [A-Za-z0-9_-]{1,64}");
    }
    violations.check()?;
    Ok((tenant.expect("no violations"), request.request_id))
}

/// The tenant and id of an erasure.
pub(in crate::api) fn key(request: &v1::GetErasureRequest) -> Result<(Tenant, ErasureId), Failure> {
    let mut violations = Violations::default();
    let tenant = tenant(&mut violations, "tenant", &request.tenant);
    let id = violations.note("id", request.id.parse());
    violations.check()?;
    Ok((tenant.expect("no violations"), id.expect("no violations")))
}

/// The erasure as callers see it.
pub(in crate::api) fn reply(erasure: &Erasure) -> v1::Erasure {
    let subject = match erasure.subject {
        Subject::Event => v1::ErasureSubject::Event,
        Subject::Tenant => v1::ErasureSubject::Tenant,
    };
    v1::Erasure {
        id: erasure.id.to_string(),
        subject: subject.into(),
        request_time: Some(super::time(erasure.request_time)),
        finish_time: erasure.finish_time.map(super::time),
    }
}
