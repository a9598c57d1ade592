//! Webhooks: how they come, change and go.

use postrider_server::{
    limits::REQUEST_ID_WINDOW,
    model::{
        ids::{ConfigSeq, EventSeq, Tenant, WebhookId, WebhookNo},
        time::Timestamp,
        webhook::Webhook,
    },
    store::{CancelReason, ConfigAnswer, ConfigChange, ConfigStep},
};

use super::image::{Effects, Image, Made, Request};

impl Image {
    pub(super) fn configure(&mut self, change: &ConfigChange, effects: &mut Effects) -> ConfigAnswer {
        match change {
            ConfigChange::CreateWebhook { spec, keys, request, time } => {
                let key = request.as_ref().map(|request| (spec.tenant.clone(), request.id.clone()));
                if let (Some(key), Some(request)) = (&key, request)
                    && let Some(known) = self.known_request(key, *time)
                {
                    return known.answer(request.hash);
                }
                if let Err(excess) = self.webhook_fits_quota(&spec.tenant) {
                    return ConfigAnswer::OverQuota(excess);
                }
                if let Some(name) = self.unknown_type(&spec.tenant, &spec.settings.subscription) {
                    return ConfigAnswer::UnknownEventType(name);
                }
                let no = WebhookNo(self.next_webhook);
                self.next_webhook += 1;
                let webhook = spec.clone().register(no, self.webhook_id(no), keys.clone(), *time);
                if let (Some(key), Some(request)) = (key, request) {
                    let made = Made::Webhook(webhook.clone());
                    let known = Request { hash: request.hash, time: *time, made };
                    self.requests.insert(key, known);
                }
                self.put(webhook.clone(), effects);
                ConfigAnswer::Created(webhook)
            }
            ConfigChange::UpdateWebhook { tenant, id, expect, settings, enabled, drop_held, pair, time } => {
                let held = self.find(tenant, *id).is_some_and(|webhook| !webhook.is_enabled());
                let change =
                    |webhook: &Webhook| webhook.with_pair(pair.clone()).updated(settings.clone(), *enabled, *time);
                let answer = self.update(tenant, *id, *expect, change, effects);
                if let ConfigAnswer::Updated(webhook) = &answer
                    && *drop_held
                    && held
                    && webhook.is_enabled()
                {
                    self.cancel_all(webhook, CancelReason::HeldDropped, *time, effects);
                }
                answer
            }
            ConfigChange::RotateSecret { tenant, id, expect, key, overlap, time } => {
                self.update(tenant, *id, *expect, |webhook| webhook.rotated(key.clone(), *overlap, *time), effects)
            }
            ConfigChange::DeleteWebhook { tenant, id, expect, time } => {
                self.delete(tenant, *id, *expect, *time, effects)
            }
            ConfigChange::CreateEventType { key, content, time } => {
                self.create_event_type(key, content, *time, effects)
            }
            ConfigChange::UpdateEventType { key, expect, content, time } => {
                self.update_event_type(key, *expect, content, *time, effects)
            }
            ConfigChange::DeleteEventType { key, expect } => self.delete_event_type(key, *expect, effects),
            ConfigChange::Key(change) => ConfigAnswer::Key(self.change_key(change, effects)),
            ConfigChange::Quota(change) => ConfigAnswer::Quota(self.change_quota(change, effects)),
        }
    }

    fn update(
        &mut self,
        tenant: &Tenant,
        id: WebhookId,
        expect: u64,
        change: impl FnOnce(&Webhook) -> Webhook,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let Some(webhook) = self.find(tenant, id) else { return ConfigAnswer::NotFound };
        if webhook.version != expect {
            return ConfigAnswer::VersionMismatch;
        }
        let (changed, was_enabled) = (change(webhook), webhook.is_enabled());
        if let Some(name) = self.unknown_type(tenant, &changed.settings.subscription) {
            return ConfigAnswer::UnknownEventType(name);
        }
        if changed != *webhook {
            if webhook.settings.ordering.ordered && !changed.settings.ordering.ordered {
                self.releases.insert(webhook.no, EventSeq(self.next_event));
            }
            self.put(changed.clone(), effects);
        }
        if was_enabled {
            self.report_if_disabled(&changed, effects);
        }
        ConfigAnswer::Updated(changed)
    }

    pub(super) fn delete(
        &mut self,
        tenant: &Tenant,
        id: WebhookId,
        expect: Option<u64>,
        time: Timestamp,
        effects: &mut Effects,
    ) -> ConfigAnswer {
        let Some(webhook) = self.find(tenant, id).cloned() else { return ConfigAnswer::NotFound };
        if expect.is_some_and(|version| version != webhook.version) {
            return ConfigAnswer::VersionMismatch;
        }
        let no = webhook.no;
        self.stop_replays(no, time, effects);
        let cancelled = self.cancel_all(&webhook, CancelReason::WebhookDeleted, time, effects);
        self.failing.remove(&no);
        self.ended.remove(&no);
        effects.touched.insert(no);
        let seq = self.next_config(tenant);
        self.webhooks.remove(&no);
        self.tombstones.insert(no, (seq, webhook, time));
        effects.steps.push((seq, ConfigStep::Removed(no)));
        ConfigAnswer::Deleted { cancelled }
    }

    pub(super) fn put(&mut self, webhook: Webhook, effects: &mut Effects) {
        let seq = self.next_config(&webhook.tenant);
        self.webhooks.insert(webhook.no, (seq, webhook.clone()));
        effects.steps.push((seq, ConfigStep::Put(webhook)));
    }

    pub(super) fn next_config(&mut self, tenant: &Tenant) -> ConfigSeq {
        self.config_seq += 1;
        self.tenants.insert(tenant.clone(), ConfigSeq(self.config_seq));
        ConfigSeq(self.config_seq)
    }

    /// Unique, and the same in every run.
    fn webhook_id(&self, no: WebhookNo) -> WebhookId {
        let mut bytes = self.key;
        bytes[..8].copy_from_slice(&no.0.to_be_bytes());
        WebhookId::from_bytes(bytes)
    }

    pub(super) fn known_request(&self, key: &(Tenant, String), now: Timestamp) -> Option<&Request> {
        self.requests.get(key).filter(|known| now.since(known.time) < REQUEST_ID_WINDOW)
    }

    fn find(&self, tenant: &Tenant, id: WebhookId) -> Option<&Webhook> {
        let mut all = self.webhooks.values().map(|(_, webhook)| webhook);
        all.find(|webhook| webhook.id == id && webhook.tenant == *tenant)
    }
}

impl Request {
    pub(super) fn answer(&self, hash: u128) -> ConfigAnswer {
        match &self.made {
            Made::Webhook(webhook) if self.hash == hash => ConfigAnswer::Created(webhook.clone()),
            Made::Webhook(_) | Made::Replay(_) => ConfigAnswer::RequestReused,
        }
    }
}
