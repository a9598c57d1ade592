//! The consent of receivers, asked for before anything is stored that would be sent to them.

use std::{num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use tracing::info;

use super::status::Failure;
use crate::{
    clock::Clock,
    model::{
        ids::Tenant,
        ownership::{Consent, Origin, Question, Refusal},
        webhook::Settings,
    },
};

/// Asks receivers.
#[async_trait]
pub trait Handshake: Send + Sync + 'static {
    /// How often in a minute the receiver may be called (`None`: as often as one likes), if it consents at all. `None` around that: as
    /// many are being asked as may be.
    async fn ask(&self, question: Question) -> Option<Result<Option<NonZeroU32>, Refusal>>;
}

/// Asks receivers in this server's name.
pub(super) struct Asker {
    pub(super) handshake: Arc<dyn Handshake>,
    pub(super) origin: Origin,
    pub(super) clock: Clock,
}

impl Asker {
    /// The consent of the receiver that these settings of a tenant's webhook name; takes at most the attempt timeout.
    pub(super) async fn ask(&self, tenant: &Tenant, settings: &Settings) -> Result<Consent, Failure> {
        let question = Question::new(tenant, settings, &self.origin);
        let answer = self.handshake.ask(question).await.ok_or_else(Failure::too_many_handshakes)?;
        let url = settings.target.redacted();
        match answer {
            Ok(per_minute) => {
                info!(url, allowed_per_minute = per_minute.map(NonZeroU32::get), "a receiver consented");
                Ok(Consent { origin: self.origin.clone(), per_minute, time: self.clock.now() })
            }
            Err(refusal) => {
                info!(url, refusal = %refusal, "a receiver did not consent");
                Err(Failure::ownership_not_confirmed(refusal))
            }
        }
    }
}
