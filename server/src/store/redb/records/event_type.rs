//! Registered event types.

use std::sync::Arc;

use prost::Message;

use super::{Corrupt, decode};
use crate::model::{
    event_type::{EventType, EventTypeContent, EventTypeKey},
    ids::EventTypeName,
    schema::Schema,
    time::Timestamp,
};

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct EventTypeRecord {
    /// Empty: every tenant's.
    #[prost(string, tag = "1")]
    tenant: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    no: u64,
    #[prost(string, tag = "4")]
    title: String,
    #[prost(string, tag = "5")]
    description: String,
    #[prost(string, tag = "6")]
    example: String,
    /// Empty: none.
    #[prost(string, tag = "7")]
    schema: String,
    #[prost(uint64, tag = "8")]
    version: u64,
    #[prost(sint64, tag = "9")]
    create_time: i64,
    #[prost(sint64, tag = "10")]
    update_time: i64,
}

impl EventTypeRecord {
    pub(in super::super) fn new(event_type: &EventType) -> Self {
        let EventType { key, no, content, version, create_time, update_time } = event_type;
        Self {
            tenant: key.tenant.as_ref().map_or_else(String::new, ToString::to_string),
            name: key.name.to_string(),
            no: *no,
            title: content.title.to_string(),
            description: content.description.to_string(),
            example: content.example.to_string(),
            schema: content.schema.as_ref().map_or_else(String::new, |schema| schema.text().to_owned()),
            version: *version,
            create_time: create_time.micros(),
            update_time: update_time.micros(),
        }
    }

    pub(in super::super) fn decode_from(bytes: &[u8]) -> Result<Self, Corrupt> {
        decode("event type", bytes)
    }

    pub(in super::super) fn event_type(self) -> Result<EventType, Corrupt> {
        let tenant = (!self.tenant.is_empty()).then(|| self.tenant.parse()).transpose();
        let key = EventTypeKey {
            tenant: tenant.map_err(|error| Corrupt::new("tenant", error))?,
            name: EventTypeName::new(&self.name),
        };
        let schema = (!self.schema.is_empty()).then(|| Arc::new(Schema::from_stored(&self.schema)));
        Ok(EventType {
            key,
            no: self.no,
            content: EventTypeContent {
                title: self.title.into(),
                description: self.description.into(),
                example: self.example.into(),
                schema,
            },
            version: self.version,
            create_time: Timestamp::from_micros(self.create_time),
            update_time: Timestamp::from_micros(self.update_time),
        })
    }
}
