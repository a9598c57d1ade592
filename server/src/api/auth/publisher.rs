//! Who publishes: asked for the tenant of every event, and put on record for those of other tenants.

use std::sync::Arc;

use futures::future::join_all;
use http::Extensions;
use tonic::Code;

use super::{audit::Audit, caller::Caller};
use crate::{
    api::status::Failure,
    model::audit::{About, AuditEntry},
    peer::Peer,
};

/// Who makes a call that publishes. Cheap to clone.
#[derive(Clone)]
pub(in crate::api) struct Publisher {
    caller: Caller,
    /// Where it is; nobody asks for the address, nor for the certificate, of who publishes what is theirs.
    peer: Option<Peer>,
    method: &'static str,
    audit: Arc<Audit>,
}

/// What is to go on record of an event of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Trespass {
    about: About,
    code: Code,
}

impl Trespass {
    /// An event of this tenant was refused like this.
    pub(in crate::api) fn on(tenant: &str, failure: &Failure) -> Self {
        Self { about: About::named(tenant), code: failure.code() }
    }
}

impl Publisher {
    /// Who the layer says makes the call of this name with these extensions.
    pub(in crate::api) fn of(extensions: &Extensions, method: &'static str, audit: Arc<Audit>) -> Self {
        Self { caller: Caller::of(extensions), peer: extensions.get().cloned(), method, audit }
    }

    /// One of whom nothing was asked.
    #[cfg(test)]
    pub(in crate::api) fn anybody(audit: Arc<Audit>) -> Self {
        Self { caller: Caller::Anybody(crate::store::Validity::default()), peer: None, method: "test", audit }
    }

    /// Fails if events of this tenant are none of theirs.
    pub(in crate::api) fn check_tenant(&self, tenant: &str) -> Result<(), Failure> {
        self.caller.check_tenant(tenant)
    }

    /// Writes, or counts, what was refused. To be awaited before it is answered.
    pub(in crate::api) async fn refused(&self, trespasses: Vec<Trespass>) {
        let refused = trespasses.into_iter().map(|Trespass { about, code }| {
            let entry = AuditEntry {
                about,
                is_outsiders: true,
                peer: self.peer.as_ref().and_then(Peer::address),
                certificate: self.peer.as_ref().and_then(Peer::fingerprint),
                principal: self.caller.principal(),
                ..self.audit.entry(self.method)
            };
            self.audit.refused(entry, code)
        });
        join_all(refused).await;
    }
}
