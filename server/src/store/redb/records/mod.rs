//! What rows hold, as protobuf: fields can be added, never renumbered. One file per kind of record.

mod api_key;
mod audit;
mod counts;
mod delivery;
mod encrypted;
mod era;
mod erase;
mod event;
mod event_type;
mod exchange;
mod keys;
mod log;
mod operational;
mod ownership;
mod policy;
mod protection;
mod quota;
mod replay;
mod request;
mod segment;
mod set_back;
mod signing;
mod sorting;
mod tls;
mod webhook;

pub(super) use api_key::ApiKeyRecord;
pub(super) use audit::{AccountRecord, AuditRecord};
pub(super) use counts::{CountsRecord, millis};
pub(super) use delivery::DeliveryRecord;
pub(super) use encrypted::Vault;
pub(super) use era::{BackupRecord, ErasRecord};
pub(super) use erase::ErasureRecord;
pub(super) use event::{ChunkBuilder, EventChunk, EventRecord, event_key};
pub(super) use event_type::EventTypeRecord;
pub(super) use keys::KeysRecord;
pub(super) use log::{CancelledRecord, LogBuilder, LogChunk, LogRecord};
pub(super) use quota::QuotaRecord;
pub(super) use replay::ReplayRecord;
pub(super) use segment::{CountersRecord, RunRecord, SegmentRecord};
pub(super) use set_back::{SetBackRecord, SetBacksRecord};
pub(super) use sorting::SortingRecord;
pub(super) use webhook::{DropRecord, RequestRecord, TombstoneRecord, WebhookRecord};

use std::fmt::Display;

use thiserror::Error;

/// A row does not hold what it should: the file was damaged or changed by somebody else.
#[derive(Debug, Error)]
#[error("a stored {what} cannot be read: {why}")]
pub(super) struct Corrupt {
    what: &'static str,
    why: String,
}

impl Corrupt {
    pub(super) fn new(what: &'static str, why: impl Display) -> Self {
        Self { what, why: format!("{why}") }
    }
}

/// Decodes a record, naming what it was if that fails.
pub(super) fn decode<M: prost::Message + Default>(what: &'static str, bytes: impl bytes::Buf) -> Result<M, Corrupt> {
    M::decode(bytes).map_err(|error| Corrupt::new(what, error))
}

/// Delivery states on disk.
mod state {
    use super::Corrupt;
    use crate::model::delivery::{DeliveryState, ErrorClass};

    pub(super) fn to_disk(state: DeliveryState) -> u32 {
        match state {
            DeliveryState::Pending => 1,
            DeliveryState::Delivered => 2,
            DeliveryState::Failed => 3,
            DeliveryState::Cancelled => 4,
        }
    }

    pub(super) fn from_disk(state: u32) -> Result<DeliveryState, Corrupt> {
        match state {
            1 => Ok(DeliveryState::Pending),
            2 => Ok(DeliveryState::Delivered),
            3 => Ok(DeliveryState::Failed),
            4 => Ok(DeliveryState::Cancelled),
            other => Err(Corrupt::new("delivery state", other)),
        }
    }

    pub(super) fn class_to_disk(class: Option<ErrorClass>) -> u32 {
        match class {
            None => 0,
            Some(ErrorClass::Blocked) => 1,
            Some(ErrorClass::Dns) => 2,
            Some(ErrorClass::Connect) => 3,
            Some(ErrorClass::Tls) => 4,
            Some(ErrorClass::Timeout) => 5,
            Some(ErrorClass::Protocol) => 6,
            Some(ErrorClass::HttpStatus) => 7,
            Some(ErrorClass::Internal) => 8,
            Some(ErrorClass::Expired) => 9,
        }
    }

    pub(super) fn class_from_disk(class: u32) -> Result<Option<ErrorClass>, Corrupt> {
        Ok(Some(match class {
            0 => return Ok(None),
            1 => ErrorClass::Blocked,
            2 => ErrorClass::Dns,
            3 => ErrorClass::Connect,
            4 => ErrorClass::Tls,
            5 => ErrorClass::Timeout,
            6 => ErrorClass::Protocol,
            7 => ErrorClass::HttpStatus,
            8 => ErrorClass::Internal,
            9 => ErrorClass::Expired,
            other => return Err(Corrupt::new("error class", other)),
        }))
    }
}
