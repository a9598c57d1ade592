//! `KeyService`: who may speak. The layer lets in only those who may operate for all tenants.

use std::sync::Arc;

use postrider_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{
    auth::Caller,
    convert::key,
    page::{self, Scope},
    refuse_if,
    status::{Failure, Violations},
};
use crate::{
    clock::Clock,
    limits::PAGE_SIZE_DEFAULT,
    model::credentials::ApiKeySecret,
    store::{ConfigAnswer, ConfigChange, KeyAnswer, KeyChange, Store},
};

/// Manages API keys.
pub(super) struct KeyService {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::key_service_server::KeyService for KeyService {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        refuse_if(&self.stop)?;
        let by = by(&request);
        let time = self.clock.now();
        let spec = key::create(request.into_inner(), time)?;
        let secret = ApiKeySecret::generate(&mut rand::rng());
        let was_open = !self.store.catalog().keys().is_locked();
        let create = KeyChange::Create { id: secret.id(), digest: secret.digest(), spec, time };
        let KeyAnswer::Created(created) = self.change(create).await? else {
            return Err(Failure::too_many_keys().into());
        };
        let spec = &created.spec;
        info!(key.id = %created.id, key.name = %spec.name, rights = %spec.rights, tenants = %spec.tenants, by, "created an API key");
        if was_open {
            info!("the first API key exists: from now on every call needs one");
        }
        let api_key = secret.reveal().to_owned();
        Ok(Response::new(v1::CreateKeyResponse { key: Some(key::reply(&created)), api_key }))
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = Scope::new("ListKeys");
        let after = scope.counted_after(&mut violations, sealer, &request.page_token);
        violations.check()?;

        // One more than the page holds tells whether there is a next one.
        let mut found = self.store.catalog().keys().list(after.unwrap_or(0), size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more).map(|known| known.key.no);
        Ok(Response::new(v1::ListKeysResponse {
            keys: found.iter().map(|known| key::known_reply(known)).collect(),
            next_page_token: last.map_or_else(String::new, |last| scope.counted_token(sealer, last)),
        }))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::RevokeKeyResponse>, Status> {
        refuse_if(&self.stop)?;
        let by = by(&request);
        let id = key::id(&request.get_ref().id)?;
        let KeyAnswer::Revoked = self.change(KeyChange::Revoke { id }).await? else {
            return Err(Failure::key_not_found().into());
        };
        info!(key.id = %id, by, "revoked an API key");
        Ok(Response::new(v1::RevokeKeyResponse {}))
    }
}

impl KeyService {
    async fn change(&self, change: KeyChange) -> Result<KeyAnswer, Failure> {
        let answer = self.store.put_config(ConfigChange::Key(change)).await?;
        let ConfigAnswer::Key(answer) = answer else { return Err(Failure::store_confused()) };
        Ok(answer)
    }
}

/// With what the call is made, for the log; empty if nothing is needed yet.
fn by<T>(request: &Request<T>) -> String {
    Caller::of(request.extensions()).name()
}
