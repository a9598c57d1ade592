//! Entries of the outcome log and the chunks they lie in.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::{Corrupt, decode, exchange::ExchangeRecord, operational::OperationalRecord, state};
use crate::{
    limits::{CHUNK_BYTES, CHUNK_ENTRY_BYTES, UPKEEP_ROWS_MAX},
    model::{
        delivery::Outcome,
        ids::{DeliveryKey, EventId, EventSeq, EventTypeName, Position, Tenant, WebhookId, WebhookNo},
        operational::OperationalEvent,
        seal::Sealer,
        time::Timestamp,
    },
    store::types::{CancelReason, LogEntry, WebhookCancelled},
};

/// One entry. Watchers see outcomes and cancelled webhooks; the rest is bookkeeping.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct LogRecord {
    #[prost(oneof = "entry::Kind", tags = "1, 2, 3, 4")]
    pub(in super::super) kind: Option<entry::Kind>,
}

/// What a [`LogRecord`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct About<'a> {
    pub(in super::super) tenant: &'a str,
    /// Number of the event; 0: none, or it is named by its id.
    pub(in super::super) event: u64,
    pub(in super::super) event_id: &'a str,
}

/// Kinds of [`LogRecord`].
pub(in super::super) mod entry {
    /// What an entry says.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in super::super::super) enum Kind {
        #[prost(message, tag = "1")]
        Outcome(super::OutcomeRecord),
        #[prost(message, tag = "2")]
        WebhookCancelled(super::WebhookCancelledRecord),
        /// These deliveries were marked as cancelled: their rows may be archived with this entry.
        #[prost(message, tag = "3")]
        Cancelled(super::CancelledRecord),
        #[prost(message, tag = "4")]
        Operational(super::OperationalRecord),
    }
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct OutcomeRecord {
    #[prost(uint64, tag = "1")]
    webhook: u64,
    #[prost(uint64, tag = "2")]
    event: u64,
    #[prost(uint32, tag = "3")]
    replay: u32,
    #[prost(string, tag = "4")]
    tenant: String,
    #[prost(bytes = "bytes", tag = "5")]
    webhook_id: Bytes,
    #[prost(string, tag = "6")]
    event_id: String,
    #[prost(string, tag = "7")]
    event_type: String,
    #[prost(uint32, tag = "8")]
    attempt: u32,
    #[prost(uint32, tag = "9")]
    state: u32,
    #[prost(uint32, tag = "10")]
    http_status: u32,
    #[prost(uint32, tag = "11")]
    error_class: u32,
    #[prost(string, tag = "12")]
    error: String,
    #[prost(uint64, tag = "13")]
    latency_us: u64,
    #[prost(sint64, tag = "14")]
    time: i64,
    #[prost(sint64, optional, tag = "15")]
    next_attempt: Option<i64>,
    #[prost(bytes = "bytes", tag = "16")]
    response_body: Bytes,
    #[prost(bool, tag = "17")]
    held: bool,
    /// Absent: nothing is known, as in entries from before there was this.
    #[prost(message, optional, tag = "18")]
    exchange: Option<ExchangeRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct WebhookCancelledRecord {
    #[prost(string, tag = "1")]
    tenant: String,
    #[prost(bytes = "bytes", tag = "2")]
    webhook_id: Bytes,
    #[prost(uint64, tag = "3")]
    deliveries: u64,
    #[prost(sint64, tag = "4")]
    time: i64,
    /// 0: its webhook was deleted; 1: held ones were dropped; 2: on request; 3: they were held when their retention ended.
    #[prost(uint32, tag = "5")]
    reason: u32,
}

/// Deliveries of one webhook, for the archive.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct CancelledRecord {
    #[prost(uint64, tag = "1")]
    pub(in super::super) webhook: u64,
    #[prost(uint64, repeated, tag = "2")]
    pub(in super::super) events: Vec<u64>,
    /// As many as `events`.
    #[prost(uint32, repeated, tag = "3")]
    pub(in super::super) replays: Vec<u32>,
    #[prost(sint64, tag = "4")]
    pub(in super::super) time: i64,
}

impl CancelledRecord {
    fn deliveries(&self) -> impl Iterator<Item = DeliveryKey> {
        let webhook = WebhookNo(self.webhook);
        let event = move |(&event, &replay): (&u64, &u32)| DeliveryKey { webhook, event: EventSeq(event), replay };
        self.events.iter().zip(&self.replays).map(event)
    }
}

/// What a row that an entry names counts for the size of its chunk: archiving the chunk moves all of them at once.
const CANCELLED_ROW_BYTES: usize = CHUNK_BYTES / UPKEEP_ROWS_MAX;

impl LogRecord {
    /// Deliveries it names, if it may name many.
    fn rows(&self) -> usize {
        match &self.kind {
            Some(entry::Kind::Cancelled(record)) => record.events.len(),
            Some(entry::Kind::Outcome(_) | entry::Kind::WebhookCancelled(_) | entry::Kind::Operational(_)) | None => 0,
        }
    }

    pub(in super::super) fn outcome(outcome: &Outcome) -> Self {
        Self {
            kind: Some(entry::Kind::Outcome(OutcomeRecord {
                webhook: outcome.key.webhook.0,
                event: outcome.key.event.0,
                replay: outcome.key.replay,
                tenant: outcome.tenant.as_str().to_owned(),
                webhook_id: Bytes::copy_from_slice(outcome.webhook_id.as_bytes()),
                event_id: outcome.event_id.as_str().to_owned(),
                event_type: outcome.event_type.as_str().to_owned(),
                attempt: outcome.attempt,
                state: state::to_disk(outcome.state),
                http_status: outcome.http_status.map_or(0, u32::from),
                error_class: state::class_to_disk(outcome.error_class),
                error: outcome.error.clone(),
                latency_us: u64::try_from(outcome.latency.as_micros()).unwrap_or(u64::MAX),
                time: outcome.time.micros(),
                next_attempt: outcome.next_attempt.map(Timestamp::micros),
                response_body: outcome.response_body.clone(),
                held: outcome.held,
                exchange: ExchangeRecord::new(&outcome.exchange),
            })),
        }
    }

    pub(in super::super) fn webhook_cancelled(cancelled: &WebhookCancelled) -> Self {
        Self {
            kind: Some(entry::Kind::WebhookCancelled(WebhookCancelledRecord {
                tenant: cancelled.tenant.as_str().to_owned(),
                webhook_id: Bytes::copy_from_slice(cancelled.webhook.as_bytes()),
                deliveries: cancelled.deliveries,
                time: cancelled.time.micros(),
                reason: match cancelled.reason {
                    CancelReason::WebhookDeleted => 0,
                    CancelReason::HeldDropped => 1,
                    CancelReason::Requested => 2,
                    CancelReason::HeldExpired => 3,
                },
            })),
        }
    }

    pub(in super::super) fn operational(event: &OperationalEvent) -> Self {
        Self { kind: Some(entry::Kind::Operational(OperationalRecord::new(event))) }
    }

    pub(in super::super) fn cancelled(record: CancelledRecord) -> Self {
        Self { kind: Some(entry::Kind::Cancelled(record)) }
    }

    /// An entry whose content was erased. It keeps its place.
    pub(in super::super) fn hollow() -> Self {
        Self { kind: None }
    }

    /// What it is about, as far as something can be erased for it.
    pub(in super::super) fn about(&self) -> Option<About<'_>> {
        match self.kind.as_ref()? {
            entry::Kind::Outcome(record) => Some(About { tenant: &record.tenant, event: record.event, event_id: "" }),
            entry::Kind::WebhookCancelled(record) => Some(About { tenant: &record.tenant, event: 0, event_id: "" }),
            entry::Kind::Operational(record) => {
                let (tenant, event_id) = record.about();
                Some(About { tenant, event: 0, event_id })
            }
            // Numbers.
            entry::Kind::Cancelled(_) => None,
        }
    }

    /// The entry as watchers see it; `None` if it is not for them, was erased, or is of a kind this version does not know.
    pub(in super::super) fn shown(self, sealer: &Sealer) -> Result<Option<LogEntry>, Corrupt> {
        match self.kind {
            Some(entry::Kind::Outcome(record)) => record.shown(sealer).map(|outcome| Some(LogEntry::Outcome(outcome))),
            Some(entry::Kind::WebhookCancelled(record)) => Ok(Some(LogEntry::WebhookCancelled(WebhookCancelled {
                reason: match record.reason {
                    0 => CancelReason::WebhookDeleted,
                    1 => CancelReason::HeldDropped,
                    2 => CancelReason::Requested,
                    3 => CancelReason::HeldExpired,
                    other => return Err(Corrupt::new("reason of a cancellation", other)),
                },
                tenant: tenant(&record.tenant)?,
                webhook: webhook_id(&record.webhook_id)?,
                deliveries: record.deliveries,
                time: Timestamp::from_micros(record.time),
            }))),
            Some(entry::Kind::Operational(record)) => record.shown().map(|event| Some(LogEntry::Operational(event))),
            Some(entry::Kind::Cancelled(_)) | None => Ok(None),
        }
    }

    /// When it was written, and the deliveries that it ended; `None`: it was erased.
    pub(in super::super) fn ended(&self) -> Result<Option<(Timestamp, Vec<DeliveryKey>)>, Corrupt> {
        Ok(Some(match &self.kind {
            Some(entry::Kind::Outcome(record)) => {
                let ended = state::from_disk(record.state)?.is_final().then(|| record.delivery());
                (Timestamp::from_micros(record.time), ended.into_iter().collect())
            }
            Some(entry::Kind::WebhookCancelled(record)) => (Timestamp::from_micros(record.time), Vec::new()),
            Some(entry::Kind::Cancelled(record)) => {
                (Timestamp::from_micros(record.time), record.deliveries().collect())
            }
            Some(entry::Kind::Operational(record)) => (record.time(), Vec::new()),
            None => return Ok(None),
        }))
    }
}

impl OutcomeRecord {
    fn delivery(&self) -> DeliveryKey {
        DeliveryKey { webhook: WebhookNo(self.webhook), event: EventSeq(self.event), replay: self.replay }
    }

    fn shown(self, sealer: &Sealer) -> Result<Outcome, Corrupt> {
        let key = self.delivery();
        Ok(Outcome {
            key,
            delivery_id: sealer.delivery_id(key),
            tenant: tenant(&self.tenant)?,
            webhook_id: webhook_id(&self.webhook_id)?,
            event_id: self.event_id.parse::<EventId>().map_err(|error| Corrupt::new("event id", error))?,
            event_type: EventTypeName::new(&self.event_type),
            attempt: self.attempt,
            state: state::from_disk(self.state)?,
            http_status: u16::try_from(self.http_status).ok().filter(|&status| status != 0),
            error_class: state::class_from_disk(self.error_class)?,
            error: self.error,
            latency: Duration::from_micros(self.latency_us),
            time: Timestamp::from_micros(self.time),
            next_attempt: self.next_attempt.map(Timestamp::from_micros),
            held: self.held,
            response_body: self.response_body,
            exchange: self.exchange.map(ExchangeRecord::shown).transpose()?.unwrap_or_default(),
        })
    }
}

pub(super) fn tenant(text: &str) -> Result<Tenant, Corrupt> {
    text.parse().map_err(|error| Corrupt::new("tenant", error))
}

pub(super) fn webhook_id(bytes: &[u8]) -> Result<WebhookId, Corrupt> {
    let bytes = bytes.try_into().map_err(|error| Corrupt::new("webhook id", error))?;
    Ok(WebhookId::from_bytes(bytes))
}

/// Entries one after the other; the row's key is the number of the first.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct LogChunk {
    #[prost(message, repeated, tag = "1")]
    pub(in super::super) entries: Vec<LogRecord>,
}

impl LogChunk {
    pub(in super::super) fn decode_from(bytes: Bytes) -> Result<Self, Corrupt> {
        decode("log chunk", bytes)
    }
}

/// Numbers entries and puts them into chunks.
#[derive(Debug)]
pub(in super::super) struct LogBuilder {
    head: Position,
    first: Position,
    open: LogChunk,
    bytes: usize,
    done: Vec<(Position, LogChunk)>,
}

impl LogBuilder {
    /// Goes on after `head`.
    pub(in super::super) fn new(head: Position) -> Self {
        Self { head, first: head, open: LogChunk::default(), bytes: 0, done: Vec::new() }
    }

    /// Adds an entry and returns its number.
    pub(in super::super) fn push(&mut self, record: LogRecord) -> Position {
        let bytes = (record.encoded_len() + CHUNK_ENTRY_BYTES).max(record.rows() * CANCELLED_ROW_BYTES);
        if self.bytes > 0 && self.bytes + bytes > CHUNK_BYTES {
            self.close();
        }
        self.head.0 += 1;
        if self.open.entries.is_empty() {
            self.first = self.head;
        }
        self.bytes += bytes;
        self.open.entries.push(record);
        self.head
    }

    /// The number of the last entry.
    pub(in super::super) fn head(&self) -> Position {
        self.head
    }

    /// All chunks, by the number of their first entry.
    pub(in super::super) fn finish(mut self) -> Vec<(Position, LogChunk)> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if !self.open.entries.is_empty() {
            self.done.push((self.first, std::mem::take(&mut self.open)));
            self.bytes = 0;
        }
    }
}
