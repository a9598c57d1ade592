//! Changes of configuration: webhooks come and go.

use ::redb::ReadableTable as _;
use prost::Message as _;

use super::{
    change::{Change, Tables},
    error::EngineError,
    event_types::unknown_type,
    ordered,
    records::{CancelledRecord, DeliveryRecord, LogRecord, RequestRecord, TombstoneRecord, Vault, WebhookRecord},
    shared::Shared,
    tables::delivery_row,
};
use crate::{
    limits::{REQUEST_ID_WINDOW, REQUEST_ROWS_MAX},
    model::{
        delivery::DeliveryState,
        ids::{ConfigSeq, DeliveryKey, EventSeq, Tenant, WebhookId, WebhookNo},
        signing::Keys,
        time::Timestamp,
        webhook::{Webhook, WebhookSpec},
    },
    store::types::{CancelReason, ConfigAnswer, ConfigChange, ConfigStep, LogEntry, RequestKey, WebhookCancelled},
};

/// Rows one slice of cancellation takes.
pub(super) const CANCEL_ROWS: usize = REQUEST_ROWS_MAX / 2;

impl Change<'_> {
    /// Applies a change if its conditions hold.
    pub(super) fn configure(
        &mut self,
        tables: &mut Tables<'_>,
        change: ConfigChange,
    ) -> Result<ConfigAnswer, EngineError> {
        match change {
            ConfigChange::CreateWebhook { spec, .. } if self.is_tenant_erased(&spec.tenant) => {
                Ok(ConfigAnswer::TenantBeingErased)
            }
            ConfigChange::CreateEventType { key, .. }
                if key.tenant.as_ref().is_some_and(|tenant| self.is_tenant_erased(tenant)) =>
            {
                Ok(ConfigAnswer::TenantBeingErased)
            }
            ConfigChange::CreateWebhook { spec, keys, request, time } => {
                self.create_webhook(tables, spec, keys, request, time)
            }
            ConfigChange::UpdateWebhook { tenant, id, expect, settings, enabled, drop_held, pair, time } => {
                let mut held = false;
                let answer = self.change_webhook(tables, &tenant, id, expect, |webhook| {
                    held = !webhook.is_enabled();
                    webhook.with_pair(pair).updated(settings, enabled, time)
                })?;
                if let ConfigAnswer::Updated(webhook) = &answer
                    && drop_held
                    && held
                    && webhook.is_enabled()
                {
                    self.drop_pending(tables, webhook, CancelReason::HeldDropped, time)?;
                }
                Ok(answer)
            }
            ConfigChange::RotateSecret { tenant, id, expect, key, overlap, time } => {
                self.change_webhook(tables, &tenant, id, expect, |webhook| webhook.rotated(key, overlap, time))
            }
            ConfigChange::DeleteWebhook { tenant, id, expect, time } => {
                self.delete_webhook(tables, &tenant, id, expect, time)
            }
            ConfigChange::CreateEventType { key, content, time } => self.create_event_type(tables, key, content, time),
            ConfigChange::UpdateEventType { key, expect, content, time } => {
                self.update_event_type(tables, &key, expect, content, time)
            }
            ConfigChange::DeleteEventType { key, expect } => self.delete_event_type(tables, &key, expect),
            ConfigChange::Key(change) => Ok(ConfigAnswer::Key(self.change_key(tables, change)?)),
            ConfigChange::Quota(change) => Ok(ConfigAnswer::Quota(self.change_quota(tables, change)?)),
        }
    }

    fn create_webhook(
        &mut self,
        tables: &mut Tables<'_>,
        spec: WebhookSpec,
        keys: Keys,
        request: Option<RequestKey>,
        time: Timestamp,
    ) -> Result<ConfigAnswer, EngineError> {
        let request = request.map(|request| (request_key(&spec.tenant, &request.id), request.hash));
        if let Some((key, hash)) = &request
            && let Some(known) = known_request(tables, key, time)?
        {
            return answer_again(self.shared, known, *hash);
        }
        let created = self.steps.iter().filter(|(_, step)| matches!(step, ConfigStep::Put(_))).count();
        if self.shared.catalog.len() + created >= self.shared.config.webhooks_max {
            return Ok(ConfigAnswer::TooManyWebhooks);
        }
        if let Err(excess) = self.webhook_fits_quota(&spec.tenant) {
            return Ok(ConfigAnswer::OverQuota(excess));
        }

        if let Some(name) = unknown_type(tables, &spec.tenant, &spec.settings.subscription)? {
            return Ok(ConfigAnswer::UnknownEventType(name));
        }
        let no = WebhookNo(self.counters.last_webhook + 1);
        if let Some(refusal) = self.tls_excess(no, &spec.tenant, spec.settings.tls.as_ref()) {
            return Ok(refusal);
        }

        self.counters.last_webhook += 1;
        let webhook = spec.register(no, WebhookId::generate(), keys, time);
        tables.webhook_ids.insert(webhook.id.as_bytes(), webhook.no.0)?;
        if let Some((key, hash)) = request {
            let record = RequestRecord::new(hash, time, &webhook, Vault::requests(&self.shared.keyring));
            tables.requests.insert(key.as_slice(), record.encode_to_vec().as_slice())?;
            tables.requests_by_time.insert((time.micros(), key.as_slice()), ())?;
        }
        self.put_webhook(tables, webhook.clone())?;
        Ok(ConfigAnswer::Created(webhook))
    }

    /// Puts another version of a webhook in the place of the one that its owner saw.
    fn change_webhook(
        &mut self,
        tables: &mut Tables<'_>,
        tenant: &Tenant,
        id: WebhookId,
        expect: u64,
        change: impl FnOnce(&Webhook) -> Webhook,
    ) -> Result<ConfigAnswer, EngineError> {
        let Some((webhook, _)) = find_webhook(self.shared, tables, tenant, id)? else {
            return Ok(ConfigAnswer::NotFound);
        };
        if webhook.version != expect {
            return Ok(ConfigAnswer::VersionMismatch);
        }
        let changed = change(&webhook);
        if let Some(name) = unknown_type(tables, tenant, &changed.settings.subscription)? {
            return Ok(ConfigAnswer::UnknownEventType(name));
        }
        if changed != webhook {
            if changed.settings.tls != webhook.settings.tls
                && let Some(refusal) = self.tls_excess(webhook.no, tenant, changed.settings.tls.as_ref())
            {
                return Ok(refusal);
            }
            if webhook.settings.ordering.ordered && !changed.settings.ordering.ordered {
                self.release(tables, webhook.no.0)?;
            }
            self.put_webhook(tables, changed.clone())?;
        }
        if webhook.is_enabled() {
            self.report_if_disabled(tables, &changed)?;
        }
        Ok(ConfigAnswer::Updated(changed))
    }

    pub(super) fn delete_webhook(
        &mut self,
        tables: &mut Tables<'_>,
        tenant: &Tenant,
        id: WebhookId,
        expect: Option<u64>,
        time: Timestamp,
    ) -> Result<ConfigAnswer, EngineError> {
        let Some((webhook, before)) = find_webhook(self.shared, tables, tenant, id)? else {
            return Ok(ConfigAnswer::NotFound);
        };
        let no = webhook.no.0;
        if expect.is_some_and(|version| version != webhook.version) {
            return Ok(ConfigAnswer::VersionMismatch);
        }

        let cancelled = self.forget_pending(no);
        let dropping = self.drop_of(no).is_some();
        if dropping {
            tables.drops.remove(no)?;
            self.drops_changed.push((no, None));
        }
        tables.webhooks.remove(no)?;
        tables.failing.remove(no)?;
        tables.counts.remove(no)?;
        tables.tombstones.insert(no, TombstoneRecord::new(&webhook, time).encode_to_vec().as_slice())?;
        tables.config_log.remove(before)?;
        self.counters.config_seq += 1;
        tables.config_log.insert(self.counters.config_seq, no)?;
        if cancelled > 0 || dropping {
            tables.cancels.insert(no, ())?;
            self.cancels_started.push(no);
        }
        self.removed.insert(WebhookNo(no));
        self.end_release(tables, no)?;
        self.stop_replays(webhook.no, time);
        self.steps.push((ConfigSeq(self.counters.config_seq), ConfigStep::Removed(WebhookNo(no))));
        if cancelled > 0 {
            let entry = WebhookCancelled {
                reason: CancelReason::WebhookDeleted,
                tenant: webhook.tenant,
                webhook: id,
                deliveries: cancelled,
                time,
            };
            self.append(LogRecord::webhook_cancelled(&entry), Some(LogEntry::WebhookCancelled(entry)));
        }
        Ok(ConfigAnswer::Deleted { cancelled })
    }

    /// One slice of marking the deliveries of deleted webhooks as cancelled.
    pub(super) fn cancel_slice(
        &mut self,
        tables: &mut Tables<'_>,
        webhooks: impl Iterator<Item = u64>,
    ) -> Result<(), EngineError> {
        let mut room = CANCEL_ROWS;
        for no in webhooks {
            let taken = self.cancel_rows_of(tables, no, room)?;
            if taken == room {
                return Ok(());
            }
            room -= taken;
            tables.cancels.remove(no)?;
            self.cancels_done += 1;
        }
        Ok(())
    }

    /// Marks up to `most` deliveries of one webhook; returns how many. Fewer: there are no more.
    fn cancel_rows_of(&mut self, tables: &mut Tables<'_>, no: u64, most: usize) -> Result<usize, EngineError> {
        let mut rows = tables.ready.take_of_webhook(no, u64::MAX, most)?;
        let mut scheduled = Vec::new();
        let range = (no, i64::MIN, 0, 0)..=(no, i64::MAX, u64::MAX, u32::MAX);
        for row in tables.scheduled.range(range)?.take(most - rows.len()) {
            scheduled.push(row?.0.value());
        }
        for key in scheduled {
            tables.scheduled.remove(key)?;
            rows.push((key.2, key.3, Timestamp::UNIX_EPOCH));
        }
        let mut taken = rows.len();
        if taken < most {
            // Each of them is in two tables.
            let some = (most - taken).div_ceil(2);
            let found = ordered::take_out_of_order(tables, no, some, &mut rows)?;
            taken = if found == some { most } else { taken + found };
        }
        if !rows.is_empty() {
            let time = self.deleted_at(tables, no)?;
            self.cancel_rows(tables, no, time, &rows)?;
        }
        Ok(taken)
    }

    /// Marks deliveries of a webhook as cancelled at a time: event, replay, and time of acceptance for those never attempted.
    pub(super) fn cancel_rows(
        &mut self,
        tables: &mut Tables<'_>,
        no: u64,
        time: Timestamp,
        rows: &[(u64, u32, Timestamp)],
    ) -> Result<(), EngineError> {
        let (events, replays) = rows.iter().map(|&(event, replay, _)| (event, replay)).unzip();
        let record = CancelledRecord { webhook: no, events, replays, time: time.micros() };
        let entry = self.append(LogRecord::cancelled(record), None);
        for &(event, replay, accept_time) in rows {
            let key = DeliveryKey { webhook: WebhookNo(no), event: EventSeq(event), replay };
            let row = delivery_row(key);
            let before = match tables.deliveries.get(row)? {
                Some(bytes) => Some(DeliveryRecord::decode_from(bytes.value())?),
                None => None,
            };
            let create_time = before.as_ref().map_or(accept_time, DeliveryRecord::create_time);
            let record = DeliveryRecord::cancelled(before, create_time, time, entry);
            tables.deliveries.insert(row, record.encode_to_vec().as_slice())?;
            if replay > 0 {
                self.replayed_ended(tables, key, DeliveryState::Cancelled)?;
            }
        }
        Ok(())
    }

    pub(super) fn deleted_at(&self, tables: &Tables<'_>, no: u64) -> Result<Timestamp, EngineError> {
        match tables.tombstones.get(no)? {
            Some(bytes) => Ok(TombstoneRecord::decode_from(bytes.value())?.time()),
            None => Ok(self.shared.clock.now()),
        }
    }
}

/// A webhook of the tenant as this transaction has it, and its row in the log of configuration.
fn find_webhook(
    shared: &Shared,
    tables: &Tables<'_>,
    tenant: &Tenant,
    id: WebhookId,
) -> Result<Option<(Webhook, u64)>, EngineError> {
    let Some(no) = tables.webhook_ids.get(id.as_bytes())?.map(|no| no.value()) else { return Ok(None) };
    let Some(record) = tables.webhooks.get(no)?.map(|bytes| WebhookRecord::decode_from(bytes.value())).transpose()?
    else {
        return Ok(None);
    };
    let seq = record.config_seq;
    let webhook = record.webhook(shared.webhook_vault())?;
    Ok((webhook.tenant == *tenant).then_some((webhook, seq)))
}

pub(super) fn request_key(tenant: &Tenant, id: &str) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0], id.as_bytes()].concat()
}

/// The answer to a request whose id was used before.
pub(super) fn answer_again(shared: &Shared, known: RequestRecord, hash: u128) -> Result<ConfigAnswer, EngineError> {
    let created = known.answer(hash, Vault::requests(&shared.keyring))?;
    Ok(created.map_or(ConfigAnswer::RequestReused, ConfigAnswer::Created))
}

/// What was answered under this key, if that is not too long ago. Forgets it otherwise.
pub(super) fn known_request(
    tables: &mut Tables<'_>,
    key: &[u8],
    now: Timestamp,
) -> Result<Option<RequestRecord>, EngineError> {
    let Some(known) = tables.requests.get(key)?.map(|bytes| RequestRecord::decode_from(bytes.value())).transpose()?
    else {
        return Ok(None);
    };
    if now.since(Timestamp::from_micros(known.time)) < REQUEST_ID_WINDOW {
        return Ok(Some(known));
    }
    tables.requests.remove(key)?;
    tables.requests_by_time.remove((known.time, key))?;
    Ok(None)
}
