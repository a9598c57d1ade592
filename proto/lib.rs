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

    use crate::v1::{
        BasicCredentials, BearerToken, CreateKeyResponse, CreateWebhookRequest, CreateWebhookResponse,
        RotateSecretRequest, RotateSecretResponse, TlsSettings, Webhook,
    };

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

    impl fmt::Debug for CreateKeyResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("CreateKeyResponse").field("key", &self.key).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for CreateWebhookRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut shown = f.debug_struct("CreateWebhookRequest");
            shown.field("webhook", &self.webhook).field("request_id", &self.request_id).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for CreateWebhookResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("CreateWebhookResponse").field("webhook", &self.webhook).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for RotateSecretRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut shown = f.debug_struct("RotateSecretRequest");
            shown.field("tenant", &self.tenant).field("id", &self.id).field("overlap", &self.overlap);
            shown.field("etag", &self.etag).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for RotateSecretResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("RotateSecretResponse").field("webhook", &self.webhook).finish_non_exhaustive()
        }
    }

    /// Certificates are no secrets, and say nothing to people.
    impl fmt::Debug for TlsSettings {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("TlsSettings").finish_non_exhaustive()
        }
    }

    /// What tells a webhook from others. URLs without their query, headers by name.
    impl fmt::Debug for Webhook {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let url = self.url.split_once('?').map_or(&*self.url, |(url, _)| url);
            let headers: Vec<_> = self.headers.keys().collect();
            let mut shown = f.debug_struct("Webhook");
            shown.field("id", &self.id).field("tenant", &self.tenant).field("url", &url);
            shown.field("event_types", &self.event_types).field("display_name", &self.display_name);
            shown.field("enabled", &self.enabled).field("disable_reason", &self.disable_reason());
            shown.field("etag", &self.etag).field("create_time", &self.create_time);
            shown.field("update_time", &self.update_time).field("pending_deliveries", &self.pending_deliveries);
            shown.field("headers", &headers).field("authorization", &self.authorization).finish_non_exhaustive()
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
    /// The receiver did not consent to what would be sent to it.
    pub const OWNERSHIP_NOT_CONFIRMED: &str = "OWNERSHIP_NOT_CONFIRMED";
    /// As many receivers are being asked for their consent as may be.
    pub const TOO_MANY_HANDSHAKES: &str = "TOO_MANY_HANDSHAKES";
    /// The page token is malformed or belongs to another request.
    pub const INVALID_PAGE_TOKEN: &str = "INVALID_PAGE_TOKEN";
    /// The cursor is malformed or belongs to another store.
    pub const INVALID_CURSOR: &str = "INVALID_CURSOR";
    /// What the cursor points at is no longer retained; metadata `oldest_cursor` is the oldest usable one.
    pub const CURSOR_EXPIRED: &str = "CURSOR_EXPIRED";
    /// The store was restored from a backup that the cursor is newer than; metadata `last_cursor` is the place of the backup.
    pub const CURSOR_UNDONE: &str = "CURSOR_UNDONE";
    /// There is no such webhook in this tenant.
    pub const WEBHOOK_NOT_FOUND: &str = "WEBHOOK_NOT_FOUND";
    /// There is no such delivery in this tenant, or no longer.
    pub const DELIVERY_NOT_FOUND: &str = "DELIVERY_NOT_FOUND";
    /// The delivery's webhook was deleted.
    pub const WEBHOOK_DELETED: &str = "WEBHOOK_DELETED";
    /// What was asked for is no longer retained; metadata `oldest_time` (RFC 3339) says from when on things are.
    pub const EXPIRED: &str = "EXPIRED";
    /// The event of a delivery that is to be retried is no longer retained.
    pub const EVENT_EXPIRED: &str = "EVENT_EXPIRED";
    /// The delivery has had as many attempts as one may have.
    pub const TOO_MANY_ATTEMPTS: &str = "TOO_MANY_ATTEMPTS";
    /// The delivery waits behind another one of its ordering key.
    pub const WAITS_IN_ORDER: &str = "WAITS_IN_ORDER";
    /// There is no such replay in this tenant, or no longer.
    pub const REPLAY_NOT_FOUND: &str = "REPLAY_NOT_FOUND";
    /// As many replays are running as may be.
    pub const TOO_MANY_REPLAYS: &str = "TOO_MANY_REPLAYS";
    /// The webhook's pending deliveries are just being cancelled.
    pub const CANCELLING: &str = "CANCELLING";
    /// The etag is not the present one.
    pub const ETAG_MISMATCH: &str = "ETAG_MISMATCH";
    /// The request id was used with another request.
    pub const REQUEST_ID_REUSED: &str = "REQUEST_ID_REUSED";
    /// The event id belongs to an event with other content.
    pub const EVENT_ID_REUSED: &str = "EVENT_ID_REUSED";
    /// An event of this id was erased; the id is free again when it would have expired.
    pub const EVENT_ERASED: &str = "EVENT_ERASED";
    /// Everything of the tenant is being erased; it can have something new when that is done.
    pub const TENANT_BEING_ERASED: &str = "TENANT_BEING_ERASED";
    /// There is no such erasure of this tenant, or it is no longer remembered.
    pub const ERASURE_NOT_FOUND: &str = "ERASURE_NOT_FOUND";
    /// As many erasures are being carried out as may be.
    pub const TOO_MANY_ERASURES: &str = "TOO_MANY_ERASURES";
    /// More webhooks match the event than one event may go to.
    pub const TOO_MANY_TARGETS: &str = "TOO_MANY_TARGETS";
    /// The store holds as many webhooks as it may.
    pub const TOO_MANY_WEBHOOKS: &str = "TOO_MANY_WEBHOOKS";
    /// There is no room for more different TLS settings of webhooks; metadata: `limit`, `needed`, in bytes of memory.
    pub const TOO_MUCH_TLS: &str = "TOO_MUCH_TLS";
    /// The tenant publishes faster than it may; metadata of this reason and the next ones: `tenant`, `limit`, `usage`.
    pub const QUOTA_EVENTS_PER_SECOND: &str = "QUOTA_EVENTS_PER_SECOND";
    /// The tenant has as many pending deliveries as it may, or would have more.
    pub const QUOTA_PENDING_DELIVERIES: &str = "QUOTA_PENDING_DELIVERIES";
    /// The tenant has as many webhooks as it may.
    pub const QUOTA_WEBHOOKS: &str = "QUOTA_WEBHOOKS";
    /// The tenant has published as many bytes as it may in a day, or would have.
    pub const QUOTA_BYTES_PER_DAY: &str = "QUOTA_BYTES_PER_DAY";
    /// As many tenants have a quota of their own as may.
    pub const TOO_MANY_QUOTAS: &str = "TOO_MANY_QUOTAS";
    /// The caller makes calls that go to the audit log faster than they may be written; metadata `limit` (a second) and `burst`.
    pub const TOO_MANY_CALLS: &str = "TOO_MANY_CALLS";
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
    /// The credentials are missing, unknown, expired or revoked.
    pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
    /// The credentials do not allow this call.
    pub const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
    /// There is no such tenant, to who asks.
    pub const TENANT_NOT_FOUND: &str = "TENANT_NOT_FOUND";
    /// There is no such API key.
    pub const KEY_NOT_FOUND: &str = "KEY_NOT_FOUND";
    /// There are as many API keys as may be.
    pub const TOO_MANY_KEYS: &str = "TOO_MANY_KEYS";
    /// The server is stopping.
    pub const STOPPING: &str = "STOPPING";
}

#[cfg(test)]
mod tests {
    use crate::v1::{
        Authorization, BasicCredentials, CreateWebhookRequest, CreateWebhookResponse, RotateSecretRequest,
        RotateSecretResponse, Webhook, authorization::Scheme,
    };

    #[test]
    fn messages_show_no_secret() {
        let canary = || "canary".to_owned();
        let basic = BasicCredentials { username: "ravi".into(), password: canary() };
        let webhook = Some(Webhook {
            url: "https://receiver.example/hook?token=canary".into(),
            headers: [("x-key".to_owned(), canary())].into(),
            query: [("token".to_owned(), canary())].into(),
            authorization: Some(Authorization { scheme: Some(Scheme::Basic(basic)) }),
            ..Webhook::default()
        });
        let create =
            CreateWebhookRequest { webhook: webhook.clone(), signing_secret: canary(), request_id: "r1".into() };
        let created = CreateWebhookResponse { webhook: webhook.clone(), signing_secret: canary() };
        let rotate =
            RotateSecretRequest { id: "wh_1".into(), signing_secret: canary(), ..RotateSecretRequest::default() };
        let rotated = RotateSecretResponse { webhook, signing_secret: canary() };
        let shown = format!("{create:?} {created:?} {rotate:?} {rotated:?}");
        assert!(!shown.contains("canary"), "{shown}");
        for part in ["https://receiver.example/hook", "x-key", "ravi", "r1", "wh_1"] {
            assert!(shown.contains(part), "{shown}");
        }
    }
}
