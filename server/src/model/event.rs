//! Events: one published occurrence each.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use twox_hash::XxHash3_128;

use super::{
    ids::{EventId, EventSeq, EventTypeName, Tenant},
    time::Timestamp,
};

/// What `content_type` means when it is empty.
pub const JSON: &str = "application/json";

/// A valid event, as its publisher meant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its public id.
    pub id: EventId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What kind it is.
    pub event_type: EventTypeName,
    /// What webhooks may filter on.
    pub labels: BTreeMap<String, String>,
    /// Events with the same key belong in order; empty: none.
    pub ordering_key: String,
    /// When it happened, if its publisher said so.
    pub occur_time: Option<Timestamp>,
    /// Media type of `body`; never empty.
    pub content_type: String,
    /// What receivers get, byte for byte.
    pub body: Bytes,
    /// Not to be sent before, if its publisher said so.
    pub deliver_at: Option<Timestamp>,
    /// Its deliveries are given up when they are older than this, if its publisher said so.
    pub max_age: Option<Duration>,
}

impl Event {
    /// Fingerprint of everything but id and tenant: two publishes of one id are the same event if these are equal.
    ///
    /// XXH3-128 over length-prefixed fields. Not keyed: a publisher who crafts a collision deceives only itself, since ids
    /// are scoped to the tenant.
    pub fn content_hash(&self) -> u128 {
        let mut hasher = XxHash3_128::new();
        let mut field = |bytes: &[u8]| {
            hasher.write(&(bytes.len() as u64).to_le_bytes());
            hasher.write(bytes);
        };
        field(self.event_type.as_str().as_bytes());
        field(&(self.labels.len() as u64).to_le_bytes());
        for (key, value) in &self.labels {
            field(key.as_bytes());
            field(value.as_bytes());
        }
        field(self.ordering_key.as_bytes());
        match self.occur_time {
            Some(time) => field(&time.micros().to_le_bytes()),
            None => field(&[]),
        }
        field(self.content_type.as_bytes());
        field(&self.body);
        // Absent rather than empty: fingerprints of events without them are on disk.
        if let Some(time) = self.deliver_at {
            field(b"deliver_at");
            field(&time.micros().to_le_bytes());
        }
        if let Some(age) = self.max_age {
            field(b"max_age");
            field(&age.as_micros().to_le_bytes());
        }
        hasher.finish_128()
    }

    /// Whether its body is JSON, as far as its content type tells.
    pub fn is_json(&self) -> bool {
        is_json(&self.content_type)
    }

    /// When it is to be sent, if that is after it was accepted.
    pub fn scheduled(&self, accept_time: Timestamp) -> Option<Timestamp> {
        self.deliver_at.filter(|time| *time > accept_time)
    }

    /// Bytes of what its publisher wrote at will: body, labels, ordering key. What quotas count.
    pub fn written_bytes(&self) -> u64 {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        (self.body.len() + labels + self.ordering_key.len()) as u64
    }

    /// About how much memory and disk it takes.
    pub fn weight_bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
        self.body.len() + labels + self.ordering_key.len() + self.content_type.len() + 256
    }
}

/// Whether a media type is JSON's: `application/json` or `TYPE/SUBTYPE+json`, with any parameters.
pub fn is_json(content_type: &str) -> bool {
    if content_type == JSON {
        return true;
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    essence == JSON || (!kind.is_empty() && subtype.strip_suffix("+json").is_some_and(|name| !name.is_empty()))
}

/// An event as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The store's number of it.
    pub seq: EventSeq,
    /// When it was accepted.
    pub accept_time: Timestamp,
    /// The event.
    pub event: Event,
}

impl StoredEvent {
    /// When it happened, or failing that when it was accepted.
    pub fn occur_time(&self) -> Timestamp {
        self.event.occur_time.unwrap_or(self.accept_time)
    }

    /// When its deliveries were first due.
    pub fn due_time(&self) -> Timestamp {
        self.event.scheduled(self.accept_time).unwrap_or(self.accept_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "e-1".parse().expect("valid"),
            tenant: Tenant::default(),
            event_type: EventTypeName::new("ADD_TAG"),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            ordering_key: "k".into(),
            occur_time: None,
            content_type: JSON.into(),
            body: Bytes::from_static(b"{}"),
            deliver_at: None,
            max_age: None,
        }
    }

    /// Fingerprints are on disk: an event that says nothing new has the one it always had.
    #[test]
    fn fingerprints_never_change() {
        let fields = ["ADD_TAG", "\u{1}\0\0\0\0\0\0\0", "a", "b", "k", "", JSON, "{}"];
        let bytes = |field: &str| [&(field.len() as u64).to_le_bytes(), field.as_bytes()].concat();
        let all: Vec<u8> = fields.iter().flat_map(|field| bytes(field)).collect();
        assert_eq!(event().content_hash(), XxHash3_128::oneshot(&all));
    }

    #[test]
    fn every_part_of_the_content_counts() {
        let base = event().content_hash();
        assert_eq!(base, event().content_hash());
        let changes: [fn(&mut Event); 10] = [
            |e| e.event_type = EventTypeName::new("REMOVE_TAG"),
            |e| e.labels = BTreeMap::from([("ab".into(), String::new())]),
            |e| e.labels.clear(),
            |e| e.ordering_key = "l".into(),
            |e| e.occur_time = Some(Timestamp::UNIX_EPOCH),
            |e| e.content_type = "text/plain".into(),
            |e| e.body = Bytes::from_static(b"{ }"),
            |e| e.body = Bytes::new(),
            |e| e.deliver_at = Some(Timestamp::UNIX_EPOCH),
            |e| e.max_age = Some(Duration::ZERO),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut other = event();
            change(&mut other);
            assert_ne!(base, other.content_hash(), "change {index}");
        }
        let mut renamed = event();
        renamed.id = "e-2".parse().expect("valid");
        assert_eq!(base, renamed.content_hash(), "the id is not content");
    }
}
