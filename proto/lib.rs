//! The gRPC contract of Postrider, generated from `proto/postrider/v1`.
//!
//! The comments in the `.proto` files are the reference manual of the API. This crate depends on tonic without its
//! transport, so that whoever needs only the messages gets only the messages.

/// Package `postrider.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("postrider.v1");
}

/// Messages that show no secret, wherever they are printed.
mod debug {
    use std::fmt;

    use crate::v1::{BasicCredentials, BearerToken};

    impl fmt::Debug for BasicCredentials {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("BasicCredentials").field("username", &self.username).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for BearerToken {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("BearerToken").finish_non_exhaustive()
        }
    }
}

/// The encoded `google.protobuf.FileDescriptorSet` of the contract and everything it imports, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/postrider_descriptor.bin"));

/// Values of `google.rpc.ErrorInfo` in the details of failed calls and rejected events.
pub mod error_info {
    /// `ErrorInfo.domain` of every error this server makes.
    pub const DOMAIN: &str = "postrider.dev";

    /// A field is missing, malformed or out of its limits; `BadRequest` names it.
    pub const INVALID_FIELD: &str = "INVALID_FIELD";
    /// The event type is not in the catalogue.
    pub const UNKNOWN_EVENT_TYPE: &str = "UNKNOWN_EVENT_TYPE";
    /// The body does not hold to its event type's schema.
    pub const SCHEMA_MISMATCH: &str = "SCHEMA_MISMATCH";
    /// There is an event type of this name.
    pub const EVENT_TYPE_EXISTS: &str = "EVENT_TYPE_EXISTS";
    /// Nobody registered this event type.
    pub const EVENT_TYPE_NOT_FOUND: &str = "EVENT_TYPE_NOT_FOUND";
    /// Webhooks name the event type.
    pub const EVENT_TYPE_IN_USE: &str = "EVENT_TYPE_IN_USE";
    /// There are as many event types, or as long schemas, as may be.
    pub const TOO_MANY_EVENT_TYPES: &str = "TOO_MANY_EVENT_TYPES";
    /// There is no such event in this tenant, or no longer.
    pub const EVENT_NOT_FOUND: &str = "EVENT_NOT_FOUND";
    /// The URL points at something this server may not call.
    pub const URL_NOT_ALLOWED: &str = "URL_NOT_ALLOWED";
    /// The page token is malformed or belongs to another request.
    pub const INVALID_PAGE_TOKEN: &str = "INVALID_PAGE_TOKEN";
    /// The cursor is malformed or belongs to another store.
    pub const INVALID_CURSOR: &str = "INVALID_CURSOR";
    /// What the cursor points at is no longer retained; metadata `oldest_cursor` is the oldest usable one.
    pub const CURSOR_EXPIRED: &str = "CURSOR_EXPIRED";
    /// There is no such webhook in this tenant.
    pub const WEBHOOK_NOT_FOUND: &str = "WEBHOOK_NOT_FOUND";
    /// There is no such delivery in this tenant, or no longer.
    pub const DELIVERY_NOT_FOUND: &str = "DELIVERY_NOT_FOUND";
    /// The delivery's webhook was deleted.
    pub const WEBHOOK_DELETED: &str = "WEBHOOK_DELETED";
    /// The event is no longer retained.
    pub const EVENT_EXPIRED: &str = "EVENT_EXPIRED";
    /// The delivery has had as many attempts as one may have.
    pub const TOO_MANY_ATTEMPTS: &str = "TOO_MANY_ATTEMPTS";
    /// The delivery waits behind another one of its ordering key.
    pub const WAITS_IN_ORDER: &str = "WAITS_IN_ORDER";
    /// There is no such replay in this tenant, or no longer.
    pub const REPLAY_NOT_FOUND: &str = "REPLAY_NOT_FOUND";
    /// As many replays are running as may be.
    pub const TOO_MANY_REPLAYS: &str = "TOO_MANY_REPLAYS";
    /// What was asked for is from before what is retained.
    pub const EXPIRED: &str = "EXPIRED";
    /// The webhook's pending deliveries are just being cancelled.
    pub const CANCELLING: &str = "CANCELLING";
    /// The etag is not the present one.
    pub const ETAG_MISMATCH: &str = "ETAG_MISMATCH";
    /// The request id was used with another request.
    pub const REQUEST_ID_REUSED: &str = "REQUEST_ID_REUSED";
    /// The event id belongs to an event with other content.
    pub const EVENT_ID_REUSED: &str = "EVENT_ID_REUSED";
    /// More webhooks match the event than one event may go to.
    pub const TOO_MANY_TARGETS: &str = "TOO_MANY_TARGETS";
    /// The store holds as many webhooks as it may.
    pub const TOO_MANY_WEBHOOKS: &str = "TOO_MANY_WEBHOOKS";
    /// As many test events are on their way as may be.
    pub const TOO_MANY_TRIALS: &str = "TOO_MANY_TRIALS";
    /// As many deliveries are pending as may be.
    pub const BACKLOG_FULL: &str = "BACKLOG_FULL";
    /// The server's disk is full, or almost.
    pub const DISK_FULL: &str = "DISK_FULL";
    /// A message is above the transport limit.
    pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
    /// The store failed; what was not acknowledged may be tried again.
    pub const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";
    /// The server is stopping.
    pub const STOPPING: &str = "STOPPING";
}
