//! Events and the chunks they lie in.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prost::Message;

use super::{Corrupt, decode};
use crate::{
    limits::{CHUNK_BYTES, CHUNK_ENTRY_BYTES},
    model::{
        event::{Event, JSON, StoredEvent},
        ids::{EventId, EventSeq, EventTypeName, Tenant, WebhookNo},
        ordering::OrderKey,
        time::Timestamp,
    },
};

/// One event with the webhooks it goes to.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct EventRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(string, tag = "3")]
    event_type: String,
    #[prost(btree_map = "string, string", tag = "4")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "5")]
    ordering_key: String,
    #[prost(sint64, optional, tag = "6")]
    occur_time: Option<i64>,
    /// Empty: JSON.
    #[prost(string, tag = "7")]
    content_type: String,
    #[prost(bytes = "bytes", tag = "8")]
    body: Bytes,
    #[prost(sint64, tag = "9")]
    accept_time: i64,
    /// Numbers of the webhooks, ascending, each as a varint of its distance from the one before. Kept packed: most readers
    /// want the body alone, and a wide event has many.
    #[prost(bytes = "bytes", tag = "10")]
    targets: Bytes,
    #[prost(sint64, optional, tag = "11")]
    deliver_at: Option<i64>,
    #[prost(uint64, optional, tag = "12")]
    max_age_us: Option<u64>,
}

impl EventRecord {
    pub(in super::super) fn new(event: &Event, accept_time: Timestamp, targets: &[WebhookNo]) -> Self {
        Self {
            id: event.id.as_str().to_owned(),
            tenant: event.tenant.as_str().to_owned(),
            event_type: event.event_type.as_str().to_owned(),
            labels: event.labels.clone(),
            ordering_key: event.ordering_key.clone(),
            occur_time: event.occur_time.map(Timestamp::micros),
            content_type: if event.content_type == JSON { String::new() } else { event.content_type.clone() },
            body: event.body.clone(),
            accept_time: accept_time.micros(),
            targets: pack(targets),
            deliver_at: event.deliver_at.map(Timestamp::micros),
            max_age_us: event.max_age.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    pub(in super::super) fn decode_from(bytes: Bytes) -> Result<Self, Corrupt> {
        decode("event", bytes)
    }

    pub(in super::super) fn body_len(&self) -> usize {
        self.body.len()
    }

    pub(in super::super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(in super::super) fn order(&self) -> Result<Option<OrderKey>, Corrupt> {
        let tenant = self.tenant.parse().map_err(|error| Corrupt::new("tenant", error))?;
        Ok(OrderKey::new(&tenant, &self.ordering_key))
    }

    pub(in super::super) fn event_type(&self) -> EventTypeName {
        EventTypeName::new(&self.event_type)
    }

    pub(in super::super) fn accept_time(&self) -> Timestamp {
        Timestamp::from_micros(self.accept_time)
    }

    /// When it is to be sent, if that is after it was accepted.
    pub(in super::super) fn scheduled(&self) -> Option<Timestamp> {
        self.deliver_at.filter(|time| *time > self.accept_time).map(Timestamp::from_micros)
    }

    /// The event's key in `EVENT_IDS`.
    pub(in super::super) fn key(&self) -> Vec<u8> {
        event_key(&self.id, &self.tenant)
    }

    /// The webhooks it goes to, ascending.
    pub(in super::super) fn targets(&self) -> Result<Vec<WebhookNo>, Corrupt> {
        unpack(self.targets.clone())
    }

    /// The event itself.
    pub(in super::super) fn content(self, seq: EventSeq) -> Result<StoredEvent, Corrupt> {
        let name = |what, error| Corrupt::new(what, error);
        // A small body is copied out, so that one delivery in flight does not keep a whole chunk in memory.
        let body = if self.body.len() < CHUNK_BYTES / 4 { Bytes::copy_from_slice(&self.body) } else { self.body };
        Ok(StoredEvent {
            seq,
            accept_time: Timestamp::from_micros(self.accept_time),
            event: Event {
                id: self.id.parse::<EventId>().map_err(|error| name("event id", error))?,
                tenant: self.tenant.parse::<Tenant>().map_err(|error| name("tenant", error))?,
                event_type: EventTypeName::new(&self.event_type),
                labels: self.labels,
                ordering_key: self.ordering_key,
                occur_time: self.occur_time.map(Timestamp::from_micros),
                content_type: if self.content_type.is_empty() { JSON.to_owned() } else { self.content_type },
                body,
                deliver_at: self.deliver_at.map(Timestamp::from_micros),
                max_age: self.max_age_us.map(Duration::from_micros),
            },
        })
    }
}

/// Key of an event in `EVENT_IDS`. Neither part holds a zero byte.
pub(in super::super) fn event_key(id: &str, tenant: &str) -> Vec<u8> {
    [id.as_bytes(), &[0], tenant.as_bytes()].concat()
}

/// Events one after the other; the row's key is the number of the first.
#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct EventChunk {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    events: Vec<Bytes>,
}

impl EventChunk {
    /// Splits a chunk; the parts share its memory.
    pub(in super::super) fn decode_from(bytes: Bytes) -> Result<Self, Corrupt> {
        decode("event chunk", bytes)
    }

    /// The `index`-th event, if there are that many.
    pub(in super::super) fn event(&self, index: usize) -> Option<Result<EventRecord, Corrupt>> {
        self.events.get(index).cloned().map(EventRecord::decode_from)
    }

    /// How many events it holds.
    pub(in super::super) fn len(&self) -> usize {
        self.events.len()
    }
}

/// Puts encoded events into chunks.
#[derive(Debug, Default)]
pub(in super::super) struct ChunkBuilder {
    done: Vec<(EventSeq, Bytes)>,
    first: Option<EventSeq>,
    events: Vec<Bytes>,
    bytes: usize,
}

impl ChunkBuilder {
    /// Adds the next event.
    pub(in super::super) fn push(&mut self, seq: EventSeq, record: &EventRecord) {
        let encoded = Bytes::from(record.encode_to_vec());
        let bytes = encoded.len() + CHUNK_ENTRY_BYTES;
        if self.bytes > 0 && self.bytes + bytes > CHUNK_BYTES {
            self.close();
        }
        self.first.get_or_insert(seq);
        self.bytes += bytes;
        self.events.push(encoded);
    }

    /// All chunks, by the number of their first event.
    pub(in super::super) fn finish(mut self) -> Vec<(EventSeq, Bytes)> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if let Some(first) = self.first.take() {
            let chunk = EventChunk { events: std::mem::take(&mut self.events) };
            self.done.push((first, chunk.encode_to_vec().into()));
            self.bytes = 0;
        }
    }
}

fn pack(targets: &[WebhookNo]) -> Bytes {
    let mut packed = Vec::with_capacity(targets.len() * 2);
    let mut before = 0;
    for no in targets {
        prost::encoding::encode_varint(no.0 - before, &mut packed);
        before = no.0;
    }
    packed.into()
}

fn unpack(mut packed: Bytes) -> Result<Vec<WebhookNo>, Corrupt> {
    let mut targets = Vec::with_capacity(packed.len());
    let mut before = 0_u64;
    while !packed.is_empty() {
        let step =
            prost::encoding::decode_varint(&mut packed).map_err(|error| Corrupt::new("list of targets", error))?;
        before = before.checked_add(step).ok_or_else(|| Corrupt::new("list of targets", "too large a number"))?;
        targets.push(WebhookNo(before));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(body: Vec<u8>, occur_time: Option<i64>) -> Event {
        Event {
            id: "e".parse().unwrap(),
            tenant: Tenant::default(),
            event_type: EventTypeName::new("NEW_LEAD"),
            labels: BTreeMap::from([("k".into(), "v".into())]),
            ordering_key: "o".into(),
            occur_time: occur_time.map(Timestamp::from_micros),
            content_type: JSON.into(),
            body: body.into(),
            deliver_at: occur_time.map(|time| Timestamp::from_micros(time / 2)),
            max_age: occur_time.map(|time| Duration::from_micros(time.unsigned_abs())),
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(
            body in proptest::collection::vec(any::<u8>(), 0..40_000),
            occur_time in any::<Option<i64>>(),
            targets in proptest::collection::btree_set(1_u64..1 << 40, 0..50),
        ) {
            let event = event(body, occur_time);
            let targets: Vec<_> = targets.into_iter().map(WebhookNo).collect();
            let record = EventRecord::new(&event, Timestamp::from_micros(5), &targets);
            let read = EventRecord::decode_from(record.encode_to_vec().into()).unwrap();
            prop_assert_eq!(read.targets().unwrap(), targets);
            prop_assert_eq!(read.content(EventSeq(9)).unwrap().event, event);
        }

        #[test]
        fn chunks_keep_order_and_size(sizes in proptest::collection::vec(0_usize..80_000, 1..30)) {
            let mut builder = ChunkBuilder::default();
            for (seq, size) in sizes.iter().enumerate() {
                let record = EventRecord::new(&event(vec![0; *size], None), Timestamp::UNIX_EPOCH, &[]);
                builder.push(EventSeq(seq as u64), &record);
            }
            let mut next = 0;
            for (first, chunk) in builder.finish() {
                prop_assert_eq!(first.0, next);
                let parts = EventChunk::decode_from(chunk.clone()).unwrap();
                prop_assert!(chunk.len() <= CHUNK_BYTES || parts.len() == 1);
                for index in 0..parts.len() {
                    let read = parts.event(index).unwrap().unwrap();
                    prop_assert_eq!(read.body.len(), sizes[usize::try_from(next).unwrap()]);
                    next += 1;
                }
            }
            prop_assert_eq!(usize::try_from(next).unwrap(), sizes.len());
        }
    }
}
