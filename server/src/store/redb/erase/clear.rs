//! The committer's part: deciding to erase something, and taking away what is pending of it, in slices.

use ::redb::{ReadableTable as _, ReadableTableMetadata as _};
use prost::Message as _;

use super::{Job, Stage, event_fingerprint, request_fingerprint, whose};
use crate::{
    limits::{ERASURES_MAX, REQUEST_ROWS_MAX},
    model::{
        event::Event,
        event_type::EventTypeKey,
        ids::{ConfigSeq, DeliveryKey, EventId, EventSeq, Tenant, WebhookNo},
        time::Timestamp,
    },
    store::{
        erase::{Erase, Erased},
        redb::{
            audit,
            change::{Change, Tables},
            error::EngineError,
            event_types,
            records::{DeliveryRecord, ErasureRecord, WebhookRecord},
        },
        types::{CancelReason, ConfigStep, EventTypeStep, Published},
    },
};

/// Webhooks that one slice looks at, or deletes.
const SLICE_WEBHOOKS: usize = REQUEST_ROWS_MAX.div_ceil(10);
/// Rows of other kinds that one slice removes.
const SLICE_ROWS: usize = REQUEST_ROWS_MAX / 4;

/// Something to erase, with what a reader found out about it.
#[derive(Debug)]
pub(in super::super) struct Decision {
    pub(in super::super) erase: Erase,
    /// The number of the event; `None`: there is none, or it is not one event.
    pub(in super::super) event: Option<EventSeq>,
}

impl Change<'_> {
    /// Decides to erase something.
    pub(in super::super) fn erase(
        &mut self,
        tables: &mut Tables<'_>,
        decision: Decision,
    ) -> Result<Erased, EngineError> {
        match decision.erase {
            Erase::Event { tenant, id, time } => self.erase_event(tables, &tenant, &id, decision.event, time),
            Erase::Tenant { tenant, request_id, time } => self.erase_tenant(tables, &tenant, &request_id, time),
        }
    }

    fn erase_event(
        &mut self,
        tables: &mut Tables<'_>,
        tenant: &Tenant,
        id: &EventId,
        event: Option<EventSeq>,
        time: Timestamp,
    ) -> Result<Erased, EngineError> {
        let fingerprint = event_fingerprint(self.shared, tenant, id);
        if let Some(known) = self.known_erasure(tables, &fingerprint)? {
            return Ok(known);
        }
        let Some(seq) = event.filter(|_| !self.is_tenant_erased(tenant)) else { return Ok(Erased::NotFound) };
        let record = ErasureRecord::new(tenant, Some((seq.0, id)), self.counters.next_event, time);
        self.begin_erasure(tables, tenant, record, Some(fingerprint), Vec::new())
    }

    fn erase_tenant(
        &mut self,
        tables: &mut Tables<'_>,
        tenant: &Tenant,
        request_id: &str,
        time: Timestamp,
    ) -> Result<Erased, EngineError> {
        let fingerprint = (!request_id.is_empty()).then(|| request_fingerprint(self.shared, tenant, request_id));
        if let Some(fingerprint) = &fingerprint
            && let Some(known) = self.known_erasure(tables, fingerprint)?
        {
            return Ok(known);
        }
        if let Some(no) = self.tenant_erasure(tenant) {
            return self.decided(tables, no).map(|decided| decided.unwrap_or(Erased::NotFound));
        }
        let record = ErasureRecord::new(tenant, None, self.counters.next_event, time);
        let catalog = &self.shared.catalog;
        let webhooks: Vec<u64> =
            catalog.list(Some(tenant), None, usize::MAX).into_iter().map(|known| known.webhook.no.0).collect();
        let event_types = catalog.event_types(tenant, 0, usize::MAX);
        let mine = event_types.iter().filter(|known| known.key.tenant.is_some()).map(|known| known.key.clone());
        let mine: Vec<EventTypeKey> = mine.collect();
        let begun = self.begin_erasure(tables, tenant, record, fingerprint, webhooks.clone())?;
        if matches!(begun, Erased::Decided(_)) {
            // Their rows go in slices; nobody sees them any more.
            for no in webhooks {
                self.removed.insert(WebhookNo(no));
                self.steps.push((ConfigSeq(self.counters.config_seq), ConfigStep::Removed(WebhookNo(no))));
            }
            self.event_types.extend(mine.into_iter().map(EventTypeStep::Removed));
        }
        Ok(begun)
    }

    /// What was decided under this fingerprint before.
    fn known_erasure(&self, tables: &Tables<'_>, fingerprint: &[u8; 16]) -> Result<Option<Erased>, EngineError> {
        match tables.fingerprints.get(fingerprint)?.map(|no| no.value()) {
            Some(no) => self.decided(tables, no),
            None => Ok(None),
        }
    }

    fn decided(&self, tables: &Tables<'_>, no: u64) -> Result<Option<Erased>, EngineError> {
        let record = tables.erasures.get(no)?.map(|bytes| ErasureRecord::decode_from(bytes.value())).transpose()?;
        Ok(record.map(|record| Erased::Decided(record.shown(self.shared.sealer.erasure_id(no)))))
    }

    fn begin_erasure(
        &mut self,
        tables: &mut Tables<'_>,
        tenant: &Tenant,
        record: ErasureRecord,
        fingerprint: Option<[u8; 16]>,
        webhooks: Vec<u64>,
    ) -> Result<Erased, EngineError> {
        if self.shared.erasing.count() + self.erasures.len() >= ERASURES_MAX {
            return Ok(Erased::TooMany);
        }
        // A number of its own, from the counter that has one for everything that is decided.
        self.counters.config_seq += 1;
        let no = self.counters.config_seq;
        let mut record = record;
        record.whose = whose(self.shared, tenant).to_vec();
        record.fingerprints = fingerprint.iter().map(|it| it.to_vec()).collect();
        tables.erasures.insert(no, record.encode_to_vec().as_slice())?;
        if let Some(fingerprint) = fingerprint {
            tables.fingerprints.insert(fingerprint, no)?;
        }
        let job = Job { webhooks, ..Job::new(&record)? };
        self.erasures.push((no, Some(job)));
        Ok(Erased::Decided(record.shown(self.shared.sealer.erasure_id(no))))
    }

    /// An event that is erased along with something else, which it is about. Nobody asked for it by its id.
    pub(super) fn erase_along(
        &mut self,
        tables: &mut Tables<'_>,
        tenant: &Tenant,
        id: &EventId,
        seq: EventSeq,
    ) -> Result<(), EngineError> {
        let fingerprint = event_fingerprint(self.shared, tenant, id);
        if tables.fingerprints.get(fingerprint)?.is_some() {
            return Ok(());
        }
        let time = self.shared.clock.now();
        let record = ErasureRecord::new(tenant, Some((seq.0, id)), self.counters.next_event, time);
        self.begin_erasure(tables, tenant, record, Some(fingerprint), Vec::new())?;
        Ok(())
    }

    /// Why an event is not to be stored, if something was erased or is.
    pub(in super::super) fn erased(
        &self,
        tables: &Tables<'_>,
        event: &Event,
    ) -> Result<Option<Published>, EngineError> {
        if self.is_tenant_erased(&event.tenant) {
            return Ok(Some(Published::TenantBeingErased));
        }
        if tables.fingerprints.is_empty()? {
            return Ok(None);
        }
        let fingerprint = event_fingerprint(self.shared, &event.tenant, &event.id);
        Ok(tables.fingerprints.get(fingerprint)?.map(|_| Published::Erased))
    }

    /// Whether everything of the tenant is being erased, this transaction included.
    pub(in super::super) fn is_tenant_erased(&self, tenant: &Tenant) -> bool {
        let here = || self.erasures.iter().any(|(_, job)| job.as_ref().is_some_and(|job| job.is_of(tenant)));
        self.shared.erasing.has_tenant(tenant) || (!self.erasures.is_empty() && here())
    }

    /// Whether the event is being erased, this transaction included.
    pub(in super::super) fn is_event_erased(&self, seq: EventSeq, tenant: &Tenant) -> bool {
        let hides = |job: &Option<Job>| job.as_ref().is_some_and(|job| job.hides(Some(seq), tenant.as_str()));
        self.shared.erasing.hides_event(seq, tenant.as_str()) || self.erasures.iter().any(|(_, job)| hides(job))
    }

    fn tenant_erasure(&self, tenant: &Tenant) -> Option<u64> {
        let here = self.erasures.iter().find(|(_, job)| job.as_ref().is_some_and(|job| job.is_of(tenant)));
        here.map(|(no, _)| *no).or_else(|| self.shared.erasing.of_tenant(tenant))
    }

    /// One slice of the first erasure that has something pending.
    pub(in super::super) fn erase_slice(&mut self, tables: &mut Tables<'_>) -> Result<(), EngineError> {
        if !self.shared.erasing.any() {
            return Ok(());
        }
        let Some((no, job)) = self.shared.erasing.clearing() else { return Ok(()) };
        let stage = match (job.stage, &job.event) {
            (Stage::Clearing(done), Some((seq, _))) => self.clear_event(tables, &job, *seq, done)?,
            (Stage::Clearing(done), None) => self.clear_tenant(tables, &job, done)?,
            (Stage::Auditing(after), _) => {
                audit::forget_tenant(tables, &job.tenant, after)?.map_or(Stage::Sweeping, Stage::Auditing)
            }
            (Stage::Sweeping, _) => return Ok(()),
        };
        if stage != job.stage {
            self.erasures.push((no, Some(Job { stage, ..job })));
        }
        Ok(())
    }

    /// Cancels what is pending of an event, for the webhooks after a number. Every webhook of its tenant is asked, because an event
    /// may be sent again to others than those that it was for.
    fn clear_event(
        &mut self,
        tables: &mut Tables<'_>,
        job: &Job,
        seq: EventSeq,
        after: u64,
    ) -> Result<Stage, EngineError> {
        // A wide event reaches its webhooks first: others may wait behind it.
        if self.shared.fan_outs.read().contains_key(&seq) || self.fan_outs.iter().any(|(wide, _)| *wide == seq) {
            return Ok(job.stage);
        }
        let after = (after > 0).then_some(WebhookNo(after));
        let webhooks = self.shared.catalog.list(Some(&job.tenant), after, SLICE_WEBHOOKS);
        let mut keys = Vec::new();
        for known in &webhooks {
            self.pending_of_event(tables, seq, known.webhook.no, &mut keys)?;
        }
        self.cancel_named(tables, keys, CancelReason::Requested, job.time)?;
        Ok(match webhooks.last() {
            Some(last) if webhooks.len() == SLICE_WEBHOOKS => Stage::Clearing(last.webhook.no.0),
            Some(_) | None => Stage::Sweeping,
        })
    }

    fn pending_of_event(
        &self,
        tables: &Tables<'_>,
        event: EventSeq,
        webhook: WebhookNo,
        keys: &mut Vec<DeliveryKey>,
    ) -> Result<(), EngineError> {
        let lane = (webhook.0, event.0, 0)..=(webhook.0, event.0, u32::MAX);
        let key = |replay| DeliveryKey { webhook, event, replay };
        keys.extend(tables.ready.of_event(webhook.0, event.0)?.into_iter().map(key));
        for row in tables.parked.range(lane.clone())? {
            keys.push(key(row?.0.value().2));
        }
        for row in tables.deliveries.range((event.0, webhook.0, 0)..=(event.0, webhook.0, u32::MAX))? {
            let (row, bytes) = row?;
            if DeliveryRecord::decode_from(bytes.value())?.due().is_some() {
                keys.push(key(row.value().2));
            }
        }
        let here = self.ready.iter().map(|(row, _)| *row).filter(|row| lane.contains(row));
        keys.extend(here.map(|row| key(row.2)));
        Ok(())
    }

    /// Deletes what a tenant is made of, after so many of its webhooks.
    fn clear_tenant(&mut self, tables: &mut Tables<'_>, job: &Job, done: u64) -> Result<Stage, EngineError> {
        let from = usize::try_from(done).unwrap_or(usize::MAX).min(job.webhooks.len());
        let webhooks = &job.webhooks[from..];
        if !webhooks.is_empty() {
            let slice = &webhooks[..webhooks.len().min(SLICE_WEBHOOKS)];
            for &no in slice {
                let record = tables.webhooks.get(no)?.map(|bytes| WebhookRecord::decode_from(bytes.value()));
                if let Some(record) = record.transpose()? {
                    self.delete_webhook(
                        tables,
                        &job.tenant,
                        record.webhook(self.shared.webhook_vault())?.id,
                        None,
                        job.time,
                    )?;
                }
            }
            return Ok(Stage::Clearing(done + slice.len() as u64));
        }
        if event_types::forget_tenant(tables, &job.tenant, SLICE_ROWS)? > 0
            || forget_requests(tables, &job.tenant, SLICE_ROWS)? > 0
            || self.forget_replays(&job.tenant, SLICE_ROWS) > 0
        {
            return Ok(job.stage);
        }
        // Others go on marking what is cancelled, and wide events reach webhooks that are gone.
        let arriving = self.shared.first_fan_out().is_some_and(|(seq, _)| seq.0 < job.below);
        let marking = !tables.cancels.is_empty()?;
        Ok(if arriving || marking { job.stage } else { Stage::Auditing(0) })
    }
}

impl Job {
    fn is_of(&self, tenant: &Tenant) -> bool {
        self.event.is_none() && self.tenant == *tenant
    }
}

/// Forgets up to `most` requests of a tenant; returns how many.
fn forget_requests(tables: &mut Tables<'_>, tenant: &Tenant, most: usize) -> Result<usize, EngineError> {
    let (from, until) = tenant_range(tenant);
    let mut rows = Vec::new();
    for row in tables.requests.range(from.as_slice()..until.as_slice())?.take(most) {
        let (key, bytes) = row?;
        let record = crate::store::redb::records::RequestRecord::decode_from(bytes.value())?;
        rows.push((record.time, key.value().to_vec()));
    }
    for (time, key) in &rows {
        tables.requests.remove(key.as_slice())?;
        tables.requests_by_time.remove((*time, key.as_slice()))?;
    }
    Ok(rows.len())
}

/// The keys that begin with a tenant and a zero.
pub(in super::super) fn tenant_range(tenant: &Tenant) -> (Vec<u8>, Vec<u8>) {
    let key = |end| [tenant.as_str().as_bytes(), &[end]].concat();
    (key(0), key(1))
}
