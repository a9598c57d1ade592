//! `WebhookService`: which URL wants which events.

use std::sync::Arc;

use postrider_proto::v1;
use prost::Message as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{
    NameJudge, Trial,
    convert::{
        self,
        listing::WebhookList,
        protection::breaker,
        signature::{self, Rotation},
        update::{Update, update},
        webhook,
    },
    handshake::Asker,
    page, refuse_if,
    status::{Failure, Violations},
    trial,
};
use crate::{
    clock::Clock,
    flow::Gates,
    limits::{LIST_WEBHOOKS_EXAMINED_MAX, LIST_WEBHOOKS_RUN, NAME_JUDGED_WITHIN, PAGE_BYTES, PAGE_SIZE_DEFAULT},
    model::{
        ids::{Tenant, WebhookId, WebhookNo},
        ownership::{Consent, Ownership, is_to_be_asked},
        quota::check_webhooks,
        signing::Key,
        target::Target,
        webhook::{Settings, Webhook, WebhookSpec},
    },
    store::{ConfigAnswer, ConfigChange, Counts, Registered, RequestKey, Store, WebhookPlace},
};

/// How often an update that wants the webhook as it is looks again when it has changed meanwhile.
const UPDATE_TRIES: usize = 8;

/// Manages webhooks.
pub(super) struct WebhookService {
    pub(super) store: Arc<dyn Store>,
    pub(super) gates: Arc<Gates>,
    pub(super) clock: Clock,
    pub(super) rules: webhook::Rules,
    pub(super) names: Arc<dyn NameJudge>,
    pub(super) trial: Arc<dyn Trial>,
    pub(super) asker: Asker,
    pub(super) stop: CancellationToken,
}

#[async_trait]
impl v1::webhook_service_server::WebhookService for WebhookService {
    async fn create_webhook(
        &self,
        request: Request<v1::CreateWebhookRequest>,
    ) -> Result<Response<v1::CreateWebhookResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let checked = match webhook::create(request.clone(), &self.rules, self.store.catalog()) {
            Ok((spec, key, guard)) => self.judge(&spec.settings.target).await.map(|()| (spec, key, guard)),
            Err(failure) => Err(failure),
        };
        let (mut spec, key, request) = match checked {
            Ok(checked) => checked,
            // It may have been allowed when it was first sent.
            Err(failure) => return self.answered_before(request).await?.ok_or_else(|| failure.into()),
        };
        if let Some(reply) = self.confirm(&mut spec, request.as_ref()).await? {
            return Ok(reply);
        }
        let keys = signature::keys(key, spec.settings.scheme(), &mut rand::rng());
        let tenant = spec.tenant.clone();
        let change = ConfigChange::CreateWebhook { spec, keys, request, time: self.clock.now() };
        let answer = self.store.put_config(change).await.map_err(Failure::from)?;
        let ConfigAnswer::Created(webhook) = &answer else { return Err(refusal(&answer).of_tenant(&tenant).into()) };
        info!(webhook.id = %webhook.id, tenant = %webhook.tenant, "created a webhook");
        Ok(Response::new(created(webhook)))
    }

    async fn get_webhook(
        &self,
        request: Request<v1::GetWebhookRequest>,
    ) -> Result<Response<v1::GetWebhookResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let (tenant, id) = convert::webhook_key(&request.tenant, &request.id)?;
        let webhook = self.find(&tenant, id)?;
        let counts = self.store.counts(&[webhook.webhook.no]).await.map_err(Failure::from)?;
        let reply = webhook::counted(self.reply(&webhook.webhook, webhook.pending()), &counts[0]);
        Ok(Response::new(v1::GetWebhookResponse { webhook: Some(reply) }))
    }

    async fn list_webhooks(
        &self,
        request: Request<v1::ListWebhooksRequest>,
    ) -> Result<Response<v1::ListWebhooksResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let sealer = self.store.sealer();
        let mut violations = Violations::default();
        let list = WebhookList::of(&mut violations, self.store.catalog(), &request);
        let size = page::size(&mut violations, request.page_size, PAGE_SIZE_DEFAULT);
        let scope = list.scope();
        let after = scope.webhook_after(&mut violations, sealer, &request.page_token);
        violations.check()?;

        let page = self.page(&list, after, size);
        let numbers: Vec<_> = page.webhooks.iter().map(|(no, _)| *no).collect();
        let counts = self.store.counts(&numbers).await.map_err(Failure::from)?;
        let counted =
            page.webhooks.into_iter().zip(&counts).map(|((_, webhook), counts)| webhook::counted(webhook, counts));
        Ok(Response::new(v1::ListWebhooksResponse {
            webhooks: counted.collect(),
            next_page_token: page.next.map_or_else(String::new, |place| scope.webhook_token(sealer, &place)),
        }))
    }

    async fn update_webhook(
        &self,
        request: Request<v1::UpdateWebhookRequest>,
    ) -> Result<Response<v1::UpdateWebhookResponse>, Status> {
        refuse_if(&self.stop)?;
        let update = update(request.into_inner())?;
        let webhook = self.update(&update).await?;
        info!(webhook.id = %webhook.id, tenant = %webhook.tenant, version = webhook.version, "updated a webhook");
        Ok(Response::new(v1::UpdateWebhookResponse { webhook: Some(self.changed(&webhook).await) }))
    }

    async fn rotate_secret(
        &self,
        request: Request<v1::RotateSecretRequest>,
    ) -> Result<Response<v1::RotateSecretResponse>, Status> {
        refuse_if(&self.stop)?;
        let rotation = signature::rotation(request.get_ref())?;
        let (webhook, key) = self.rotate(&rotation).await?;
        info!(webhook.id = %webhook.id, tenant = %webhook.tenant, overlap = ?rotation.overlap, "replaced a signing secret");
        let webhook = Some(self.changed(&webhook).await);
        Ok(Response::new(v1::RotateSecretResponse { webhook, signing_secret: signature::reveal(&key) }))
    }

    async fn send_test_event(
        &self,
        request: Request<v1::SendTestEventRequest>,
    ) -> Result<Response<v1::SendTestEventResponse>, Status> {
        refuse_if(&self.stop)?;
        let (tenant, id, event_type) = trial::request(&request.into_inner(), self.store.catalog())?;
        let webhook = self.find(&tenant, id)?.webhook;
        let (catalog, now) = (self.store.catalog(), self.clock.now());
        let job = trial::job(webhook.clone(), event_type, catalog, self.store.sealer(), now);
        let sent = trial::Sent::of(&job);
        let Some(result) = self.trial.attempt(job).await else { return Err(Failure::too_many_trials().into()) };
        let outcome = trial::outcome(&webhook, sent, result);
        info!(webhook.id = %id, event.id = outcome.event_id, http_status = outcome.http_status, "sent a test event");
        Ok(Response::new(v1::SendTestEventResponse { outcome: Some(outcome) }))
    }

    async fn delete_webhook(
        &self,
        request: Request<v1::DeleteWebhookRequest>,
    ) -> Result<Response<v1::DeleteWebhookResponse>, Status> {
        refuse_if(&self.stop)?;
        let request = request.into_inner();
        let (tenant, id) = convert::webhook_key(&request.tenant, &request.id)?;
        let webhook = self.find(&tenant, id)?.webhook;
        let guarded = !request.etag.is_empty();
        if guarded && request.etag != webhook.etag() {
            return Err(Failure::etag_mismatch().into());
        }
        // The store looks again: the webhook may change between here and there.
        let expect = guarded.then_some(webhook.version);
        let change = ConfigChange::DeleteWebhook { tenant, id, expect, time: self.clock.now() };
        let answer = self.store.put_config(change).await.map_err(Failure::from)?;
        let ConfigAnswer::Deleted { cancelled } = answer else { return Err(refusal(&answer).into()) };
        info!(webhook.id = %id, deliveries = cancelled, "deleted a webhook");
        Ok(Response::new(v1::DeleteWebhookResponse { cancelled_deliveries: convert::count(cancelled) }))
    }
}

impl WebhookService {
    fn find(&self, tenant: &Tenant, id: WebhookId) -> Result<Registered, Failure> {
        self.store.catalog().find(tenant, id).ok_or_else(Failure::webhook_not_found)
    }

    /// Without its counters but one, which is in memory.
    fn reply(&self, webhook: &Webhook, pending: u64) -> v1::Webhook {
        let breaker = Some(breaker(self.gates.get(webhook.no)));
        v1::Webhook { breaker, ..webhook::reply(webhook, pending) }
    }

    /// The reply to a change, which is made whether the webhook's counters can be read now or not.
    async fn changed(&self, webhook: &Webhook) -> v1::Webhook {
        let pending = self.find(&webhook.tenant, webhook.id).map_or(0, |known| known.pending());
        let reply = self.reply(webhook, pending);
        match self.store.counts(&[webhook.no]).await {
            Ok(counts) => webhook::counted(reply, &counts[0]),
            Err(_) => reply,
        }
    }

    /// The webhooks of a list after a place: as many as fit a page, of as many as one call looks at.
    fn page(&self, list: &WebhookList, mut after: Option<WebhookPlace>, size: usize) -> Page {
        let mut page = Page { webhooks: Vec::new(), next: None };
        let (mut bytes, mut examined) = (0, 0);
        while examined < LIST_WEBHOOKS_EXAMINED_MAX {
            let run = self.store.catalog().walk(list.tenant.as_ref(), list.order, after.as_ref(), LIST_WEBHOOKS_RUN);
            for known in &run.webhooks {
                if !list.has(&known.webhook, || self.gates.get(known.webhook.no)) {
                    continue;
                }
                if page.webhooks.len() == size || bytes > PAGE_BYTES {
                    // One more than the page holds: there is a next one.
                    return page;
                }
                let webhook = self.reply(&known.webhook, known.pending());
                bytes += webhook.encoded_len();
                page.next = Some(WebhookPlace::of(&known.webhook, list.order));
                page.webhooks.push((known.webhook.no, webhook));
            }
            let Some(next) = run.next else { return Page { next: None, ..page } };
            after = Some(next);
            examined += LIST_WEBHOOKS_RUN;
        }
        Page { next: after, ..page }
    }

    /// Changes the webhook as it is, and again as it is then if it changes meanwhile, unless the caller wants it as it saw it.
    async fn update(&self, update: &Update) -> Result<Webhook, Failure> {
        let mut given = None;
        for _ in 0..UPDATE_TRIES {
            let webhook = self.find(&update.tenant, update.id)?.webhook;
            if !update.etag.is_empty() && update.etag != webhook.etag() {
                return Err(Failure::etag_mismatch());
            }
            let (mut settings, enabled) = update.apply(&webhook, &self.rules, self.store.catalog())?;
            if update.moves() {
                self.judge(&settings.target).await?;
            }
            if is_to_be_asked(&webhook, &settings, enabled) {
                let consent = self.consent(&update.tenant, &settings, &mut given).await?;
                settings.ownership = Some(Box::new(Ownership::Confirmed(consent)));
            }
            let change = ConfigChange::UpdateWebhook {
                tenant: update.tenant.clone(),
                id: update.id,
                expect: webhook.version,
                pair: signature::missing_pair(&webhook, &settings, &mut rand::rng()),
                settings,
                enabled,
                drop_held: update.drop_held,
                time: self.clock.now(),
            };
            let answer = self.store.put_config(change).await?;
            if let ConfigAnswer::Updated(webhook) = answer {
                return Ok(webhook);
            }
            if !matches!(answer, ConfigAnswer::VersionMismatch) {
                return Err(refusal(&answer));
            }
        }
        Err(Failure::etag_mismatch())
    }

    /// The consent of the receiver to these settings; one that was `given` to the same moments ago is as good.
    async fn consent(
        &self,
        tenant: &Tenant,
        settings: &Settings,
        given: &mut Option<(Target, Consent)>,
    ) -> Result<Consent, Failure> {
        let endpoint = settings.endpoint();
        if let Some((to, consent)) = given
            && *to == *endpoint
        {
            return Ok(consent.clone());
        }
        let consent = self.asker.ask(tenant, settings).await?;
        *given = Some((endpoint.into_owned(), consent.clone()));
        Ok(consent)
    }

    /// Asks the receiver of a new webhook, if its owner wants that. The reply, instead, to a request that was answered before: then
    /// the receiver has been asked.
    async fn confirm(
        &self,
        spec: &mut WebhookSpec,
        request: Option<&RequestKey>,
    ) -> Result<Option<Response<v1::CreateWebhookResponse>>, Failure> {
        if spec.settings.ownership.is_none() {
            return Ok(None);
        }
        if let Some(request) = request
            && let Some(reply) = self.answer_before(&spec.tenant, request).await?
        {
            return Ok(Some(reply));
        }
        let catalog = self.store.catalog();
        if let Some(limit) = catalog.quotas().webhooks_max(&spec.tenant) {
            // Nobody is asked about a webhook that cannot be.
            let fits = check_webhooks(limit, catalog.webhooks_of(&spec.tenant) as u64);
            fits.map_err(|excess| Failure::from(excess).of_tenant(&spec.tenant))?;
        }
        let consent = self.asker.ask(&spec.tenant, &spec.settings).await?;
        spec.settings.ownership = Some(Box::new(Ownership::Confirmed(consent)));
        Ok(None)
    }

    /// Replaces the kind of key that signs the webhook, as often as the webhook changes meanwhile.
    async fn rotate(&self, rotation: &Rotation) -> Result<(Webhook, Key), Failure> {
        for _ in 0..UPDATE_TRIES {
            let webhook = self.find(&rotation.tenant, rotation.id)?.webhook;
            if !rotation.etag.is_empty() && rotation.etag != webhook.etag() {
                return Err(Failure::etag_mismatch());
            }
            let key = rotation.key(&webhook, &mut rand::rng())?;
            let change = ConfigChange::RotateSecret {
                tenant: rotation.tenant.clone(),
                id: rotation.id,
                expect: webhook.version,
                key: key.clone(),
                overlap: rotation.overlap,
                time: self.clock.now(),
            };
            let answer = self.store.put_config(change).await?;
            if let ConfigAnswer::Updated(webhook) = answer {
                return Ok((webhook, key));
            }
            if !matches!(answer, ConfigAnswer::VersionMismatch) {
                return Err(refusal(&answer));
            }
        }
        Err(Failure::etag_mismatch())
    }

    /// The reply to a request that was answered before under the same id, whatever its URL is worth today.
    async fn answered_before(
        &self,
        request: v1::CreateWebhookRequest,
    ) -> Result<Option<Response<v1::CreateWebhookResponse>>, Failure> {
        let Ok((spec, _, Some(guard))) = webhook::create(request, &webhook::Rules::unjudged(), self.store.catalog())
        else {
            return Ok(None);
        };
        self.answer_before(&spec.tenant, &guard).await
    }

    async fn answer_before(
        &self,
        tenant: &Tenant,
        request: &RequestKey,
    ) -> Result<Option<Response<v1::CreateWebhookResponse>>, Failure> {
        match self.store.answered(tenant, request, self.clock.now()).await? {
            Some(ConfigAnswer::Created(webhook)) => Ok(Some(Response::new(created(&webhook)))),
            Some(answer) => Err(refusal(&answer)),
            None => Ok(None),
        }
    }

    /// Refuses a host name that resolves to something this server may not call. One that does not resolve, or not soon, is
    /// judged at each attempt.
    async fn judge(&self, target: &Target) -> Result<(), Failure> {
        match timeout(NAME_JUDGED_WITHIN, self.names.judge(target)).await {
            Ok(Err(why)) => Err(webhook::name_not_allowed(&why)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Part of a list.
struct Page {
    webhooks: Vec<(WebhookNo, v1::Webhook)>,
    /// Where the next one begins; `None`: there is none.
    next: Option<WebhookPlace>,
}

/// The reply to a create; a repeat gets what the first call got: nothing was pending then.
fn created(webhook: &Webhook) -> v1::CreateWebhookResponse {
    let signing_secret = webhook.keys.secret().reveal();
    let webhook = webhook::counted(webhook::reply(webhook, 0), &Counts::default());
    let webhook = v1::Webhook { breaker: Some(breaker(None)), ..webhook };
    v1::CreateWebhookResponse { webhook: Some(webhook), signing_secret }
}

fn refusal(answer: &ConfigAnswer) -> Failure {
    match answer {
        ConfigAnswer::NotFound => Failure::webhook_not_found(),
        ConfigAnswer::VersionMismatch => Failure::etag_mismatch(),
        ConfigAnswer::RequestReused => Failure::request_id_reused(),
        ConfigAnswer::TooManyWebhooks => Failure::too_many_webhooks(),
        ConfigAnswer::TooMuchTls { of_tenant, limit, needed } => Failure::too_much_tls(*of_tenant, *limit, *needed),
        ConfigAnswer::OverQuota(excess) => Failure::from(*excess),
        ConfigAnswer::TenantBeingErased => Failure::tenant_being_erased(),
        ConfigAnswer::UnknownEventType(name) => Failure::event_type_gone(name.as_str()),
        ConfigAnswer::Created(_)
        | ConfigAnswer::Updated(_)
        | ConfigAnswer::Deleted { .. }
        | ConfigAnswer::EventTypePut(_)
        | ConfigAnswer::Key(_)
        | ConfigAnswer::Quota(_)
        | ConfigAnswer::EventTypeDeleted
        | ConfigAnswer::EventTypeExists
        | ConfigAnswer::EventTypeInUse { .. }
        | ConfigAnswer::TooManyEventTypes => Failure::store_confused(),
    }
}
