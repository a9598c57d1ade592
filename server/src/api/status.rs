//! The one place that picks gRPC codes: what went wrong becomes a `google.rpc.Status` with its details.

mod quota;
mod violations;

use std::{collections::HashMap, fmt, time::Duration};

use postrider_proto::error_info as reason;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _, pb};
use tracing::warn;

use self::violations::Violation;
pub(super) use self::violations::{Violations, cut};
use super::convert::time;
use crate::{
    accept::Rejected,
    limits::{GRPC_MESSAGE_BYTES_MAX, STATUS_MESSAGE_BYTES_MAX},
    model::{credentials::Right, time::Timestamp},
    store::StoreError,
    watch::WatchError,
};

/// How long a publisher whom a full backlog or a full disk turns away should wait.
const BACKLOG_RETRY: Duration = Duration::from_secs(5);
/// How long a caller whom the store or a stopping server turns away should wait.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);

/// A call, or one event of it, that failed: all a caller is told about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    code: Code,
    reason: &'static str,
    message: String,
    /// The metadata of `ErrorInfo`.
    facts: Vec<(&'static str, String)>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let (facts, violations) = (Vec::new(), Vec::new());
        Self { code, reason, message: message.into(), facts, violations, retry_after: None }
    }

    /// How the call ends.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// What callers tell it by.
    pub(super) fn reason(&self) -> &'static str {
        self.reason
    }

    fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// One field is wrong.
    pub(super) fn field(reason: &'static str, field: impl Into<String>, problem: impl fmt::Display) -> Self {
        let mut violations = Violations::default();
        violations.add_as(reason, field, problem);
        violations.into()
    }

    /// The server is stopping.
    pub(super) fn stopping() -> Self {
        Self::new(Code::Unavailable, reason::STOPPING, "the server is stopping").retry_after(UNAVAILABLE_RETRY)
    }

    /// The tenant has no such webhook.
    pub(super) fn webhook_not_found() -> Self {
        Self::new(Code::NotFound, reason::WEBHOOK_NOT_FOUND, "this tenant has no such webhook")
    }

    /// The tenant has no such delivery, or none any more.
    pub(super) fn delivery_not_found() -> Self {
        Self::new(
            Code::NotFound,
            reason::DELIVERY_NOT_FOUND,
            "this tenant has no such delivery, or it is no longer retained",
        )
    }

    /// The delivery's webhook was deleted.
    pub(super) fn webhook_deleted() -> Self {
        Self::new(Code::FailedPrecondition, reason::WEBHOOK_DELETED, "the delivery's webhook was deleted")
    }

    /// The delivery's event is gone.
    pub(super) fn event_expired() -> Self {
        Self::new(Code::FailedPrecondition, reason::EVENT_EXPIRED, "the delivery's event is no longer retained")
    }

    /// The tenant has no such event, or none any more.
    pub(super) fn event_not_found() -> Self {
        Self::new(Code::NotFound, reason::EVENT_NOT_FOUND, "this tenant has no such event, or it is no longer retained")
    }

    /// What was asked for was accepted before `oldest`, from when on things are retained, and is gone.
    pub(super) fn expired(oldest: Timestamp) -> Self {
        let message = format!("what was accepted before {} is no longer retained, unless it is pending", time(oldest));
        Self {
            facts: vec![("oldest_time", time(oldest).to_string())],
            ..Self::new(Code::OutOfRange, reason::EXPIRED, message)
        }
    }

    /// The tenant has no such erasure, or none any more.
    pub(super) fn erasure_not_found() -> Self {
        let message = "this tenant has no such erasure, or it is no longer remembered";
        Self::new(Code::NotFound, reason::ERASURE_NOT_FOUND, message)
    }

    /// As many erasures are being carried out as may be.
    pub(super) fn too_many_erasures() -> Self {
        let message = "as many erasures are being carried out as may be; try again when some are finished";
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_ERASURES, message).retry_after(BACKLOG_RETRY)
    }

    /// Everything of the tenant is being erased.
    pub(super) fn tenant_being_erased() -> Self {
        let message = "everything of this tenant is being erased; it can have something new when that is done";
        Self::new(Code::FailedPrecondition, reason::TENANT_BEING_ERASED, message)
    }

    /// The delivery has had enough.
    pub(super) fn too_many_attempts() -> Self {
        Self::new(
            Code::FailedPrecondition,
            reason::TOO_MANY_ATTEMPTS,
            "the delivery has had as many attempts as one may have",
        )
    }

    /// Others of the delivery's ordering key come first.
    pub(super) fn waits_in_order() -> Self {
        Self::new(
            Code::FailedPrecondition,
            reason::WAITS_IN_ORDER,
            "the delivery waits behind another one of its ordering key, as its webhook is ordered; cancel or wait for that one",
        )
    }

    /// The delivery was cancelled with many others a moment ago.
    pub(super) fn cancelling() -> Self {
        Self::new(Code::Unavailable, reason::CANCELLING, "the webhook's deliveries are being cancelled; try again")
            .retry_after(UNAVAILABLE_RETRY)
    }

    /// The tenant has no such replay, or none any more.
    pub(super) fn replay_not_found() -> Self {
        Self::new(
            Code::NotFound,
            reason::REPLAY_NOT_FOUND,
            "this tenant has no such replay, or it is no longer remembered",
        )
    }

    /// As many replays are running as may be.
    pub(super) fn too_many_replays() -> Self {
        let message = "as many replays are running to this webhook, for this tenant, or in all as may be; wait for one, or cancel one";
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_REPLAYS, message).retry_after(BACKLOG_RETRY)
    }

    /// The caller's etag is not the present one.
    pub(super) fn etag_mismatch() -> Self {
        Self::new(
            Code::Aborted,
            reason::ETAG_MISMATCH,
            "the webhook has changed since this etag was read; read it again and decide anew",
        )
    }

    /// The request id was used with another request.
    pub(super) fn request_id_reused() -> Self {
        Self::new(Code::AlreadyExists, reason::REQUEST_ID_REUSED, "request_id was used with another request")
    }

    /// No more webhooks fit.
    pub(super) fn too_many_webhooks() -> Self {
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_WEBHOOKS, "the store holds as many webhooks as it may")
    }

    /// No more different TLS settings fit: of the tenant, or of all of them.
    pub(super) fn too_much_tls(of_tenant: bool, limit: usize, needed: usize) -> Self {
        let whose = if of_tenant { "the tenant's webhooks" } else { "all webhooks together" };
        let field = "webhook.tls".to_owned();
        let problem = format!(
            "does not fit: the different TLS settings of {whose} would take {needed} bytes of memory of at most {limit}; equal ones count once"
        );
        let message = format!("{field}: {problem}");
        Self {
            facts: vec![("limit", limit.to_string()), ("needed", needed.to_string())],
            violations: vec![Violation { reason: reason::TOO_MUCH_TLS, field, problem }],
            ..Self::new(Code::ResourceExhausted, reason::TOO_MUCH_TLS, message)
        }
    }

    /// A webhook names an event type that was deleted at the same time.
    pub(super) fn event_type_gone(name: &str) -> Self {
        let problem = format!("no event type is called {name:?} any more");
        Self::field(reason::UNKNOWN_EVENT_TYPE, "webhook.event_types", problem)
    }

    /// There is an event type of this name.
    pub(super) fn event_type_exists() -> Self {
        Self::new(Code::AlreadyExists, reason::EVENT_TYPE_EXISTS, "there is an event type of this name")
    }

    /// Nobody registered this event type.
    pub(super) fn event_type_not_found() -> Self {
        let message = "nobody registered this event type for this tenant, or for all if it is asked of all";
        Self::new(Code::NotFound, reason::EVENT_TYPE_NOT_FOUND, message)
    }

    /// The caller's etag of an event type is not the present one.
    pub(super) fn event_type_etag_mismatch() -> Self {
        let message = "the event type has changed since this etag was read; read it again and decide anew";
        Self::new(Code::Aborted, reason::ETAG_MISMATCH, message)
    }

    /// Webhooks name the event type.
    pub(super) fn event_type_in_use(webhooks: u64) -> Self {
        let message = format!("{webhooks} webhooks name this event type; update or delete them first");
        Self::new(Code::FailedPrecondition, reason::EVENT_TYPE_IN_USE, message)
    }

    /// No more event types fit, or no longer schemas.
    pub(super) fn too_many_event_types() -> Self {
        let message = "there are as many event types, or as long schemas, as may be";
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_EVENT_TYPES, message)
    }

    /// Nobody we know, or not any more: one text, whatever it was.
    pub(super) fn unauthenticated() -> Self {
        let message = "the credentials are missing, unknown, expired or revoked; send an API key as metadata \
                       `authorization: Bearer prk_…`";
        Self::new(Code::Unauthenticated, reason::UNAUTHENTICATED, message)
    }

    /// The caller lacks a right.
    pub(super) fn permission_denied(right: Right) -> Self {
        let message = format!("this call needs the right to {}", right.name());
        Self::new(Code::PermissionDenied, reason::PERMISSION_DENIED, message)
    }

    /// The caller may act for some tenants, and this concerns all of them.
    pub(super) fn all_tenants_needed() -> Self {
        let message = "this call needs credentials for all tenants";
        Self::new(Code::PermissionDenied, reason::PERMISSION_DENIED, message)
    }

    /// The tenant is none of the caller's, whether it exists or not.
    pub(super) fn tenant_not_found() -> Self {
        let message = "there is no such tenant, or these credentials are not for it";
        Self::new(Code::NotFound, reason::TENANT_NOT_FOUND, message)
    }

    /// There is no such API key.
    pub(super) fn key_not_found() -> Self {
        Self::new(Code::NotFound, reason::KEY_NOT_FOUND, "there is no such key, or it was revoked")
    }

    /// No more API keys fit.
    pub(super) fn too_many_keys() -> Self {
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_KEYS, "there are as many keys as may be; revoke some")
    }

    /// A message is above the transport's limit.
    pub(super) fn too_large() -> Self {
        let message = format!("the message is larger than {GRPC_MESSAGE_BYTES_MAX} bytes");
        Self::new(Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE, message)
    }

    /// As many test events are on their way as may be.
    pub(super) fn too_many_trials() -> Self {
        let message = "as many test events are on their way as may be; try again when one has arrived";
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_TRIALS, message).retry_after(UNAVAILABLE_RETRY)
    }

    /// As many receivers are being asked for their consent as may be.
    pub(super) fn too_many_handshakes() -> Self {
        let message = "as many receivers are being asked for their consent as may be; try again when one has answered";
        Self::new(Code::ResourceExhausted, reason::TOO_MANY_HANDSHAKES, message).retry_after(UNAVAILABLE_RETRY)
    }

    /// The receiver did not consent.
    pub(super) fn ownership_not_confirmed(why: impl fmt::Display) -> Self {
        let named = Self::field(reason::OWNERSHIP_NOT_CONFIRMED, "webhook.url", why);
        Self { code: Code::FailedPrecondition, ..named }
    }

    /// The store answered something that does not belong to the question.
    pub(super) fn store_confused() -> Self {
        Self::new(Code::Internal, reason::STORE_UNAVAILABLE, "the store gave an answer that makes no sense")
    }

    /// A message could not be decoded.
    pub(super) fn unreadable(problem: impl fmt::Display) -> Self {
        Self::new(
            Code::InvalidArgument,
            reason::INVALID_FIELD,
            format!("the message cannot be decoded: {problem}; `data` nested too deeply, or text that is not UTF-8?"),
        )
    }

    /// What tonic itself found wrong with a call or a message, in our words where it is about size or encoding.
    pub(super) fn transport(status: &Status) -> Self {
        // tonic's code for a message above the limit.
        if status.code() == Code::OutOfRange {
            return Self::new(Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE, status.message());
        }
        Self::new(status.code(), reason::INVALID_FIELD, status.message())
    }

    /// For the end of a call.
    pub(super) fn into_status(mut self) -> Status {
        cut(&mut self.message, STATUS_MESSAGE_BYTES_MAX);
        let mut details = ErrorDetails::new();
        let facts = self.facts.into_iter().map(|(name, fact)| (name.to_owned(), fact));
        details.set_error_info(self.reason, reason::DOMAIN, facts.collect::<HashMap<_, _>>());
        for violation in self.violations {
            details.add_bad_request_violation(violation.field, violation.problem);
        }
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message, details)
    }

    /// For a reply that carries it.
    pub(super) fn into_rpc(self) -> pb::Status {
        pb::Status::decode(self.into_status().details())
            .expect("the details of a status of ours are a google.rpc.Status")
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed(cause) => {
                // What an engine says about its files is for the operator.
                warn!(error = %cause, "a call failed because the store did");
                Self::new(Code::Unavailable, reason::STORE_UNAVAILABLE, "the store failed; try again")
                    .retry_after(UNAVAILABLE_RETRY)
            }
            StoreError::Full => {
                Self::new(Code::ResourceExhausted, reason::DISK_FULL, "the server's disk is full, or almost")
                    .retry_after(BACKLOG_RETRY)
            }
            StoreError::Closed => Self::stopping(),
        }
    }
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::IdReused => Self::new(
                Code::AlreadyExists,
                reason::EVENT_ID_REUSED,
                "event.id belongs to an event with other content",
            ),
            Rejected::Erased => Self::new(
                Code::AlreadyExists,
                reason::EVENT_ERASED,
                "an event with event.id was erased; the id is not free again yet",
            ),
            Rejected::TenantBeingErased => Self::tenant_being_erased(),
            Rejected::TooManyTargets => Self::new(
                Code::FailedPrecondition,
                reason::TOO_MANY_TARGETS,
                "more webhooks match this event than one event may go to",
            ),
            Rejected::BacklogFull => {
                Self::new(Code::ResourceExhausted, reason::BACKLOG_FULL, "as many deliveries are pending as may be")
                    .retry_after(BACKLOG_RETRY)
            }
            Rejected::OverQuota(excess) => excess.into(),
            Rejected::Store(error) => error.into(),
        }
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::InvalidCursor => {
                Self::field(reason::INVALID_CURSOR, "cursor", "is malformed or belongs to another store")
            }
            WatchError::Expired { oldest_cursor } => Self {
                facts: vec![("oldest_cursor", oldest_cursor)],
                ..Self::new(
                    Code::OutOfRange,
                    reason::CURSOR_EXPIRED,
                    "outcomes at the cursor are no longer retained; metadata oldest_cursor is the oldest usable cursor",
                )
            },
            WatchError::Undone { last_cursor } => Self {
                facts: vec![("last_cursor", last_cursor)],
                ..Self::new(
                    Code::OutOfRange,
                    reason::CURSOR_UNDONE,
                    "outcomes at the cursor were lost when the store was restored from a backup; metadata last_cursor is the place \
                     of the backup, from where on everything since follows",
                )
            },
            WatchError::Store(error) => error.into(),
        }
    }
}

/// Rewrites what tonic answers by itself, before any code of ours runs: see [`Failure::transport`].
pub(super) fn in_our_words<B: Default>(response: http::Response<B>) -> http::Response<B> {
    // Only a response that ends with its head has a status there, and only ours have details.
    match Status::from_header_map(response.headers()) {
        Some(status) if status.details().is_empty() && status.code() == Code::OutOfRange => {
            Failure::transport(&status).into_status().into_http()
        }
        Some(status) if status.details().is_empty() && status.code() == Code::Internal => {
            Failure::unreadable(status.message()).into_status().into_http()
        }
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STATUS_VIOLATIONS_MAX;

    #[test]
    fn statuses_stay_small_whatever_a_caller_sends() {
        let mut violations = Violations::default();
        for index in 0..10_000 {
            violations.add(format!("é{}[{index}]", "é".repeat(5_000)), "ü".repeat(5_000));
        }
        let status = Failure::from(violations).into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().len() <= STATUS_MESSAGE_BYTES_MAX);
        assert!(status.details().len() <= 8 * 1024, "{}", status.details().len());
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), STATUS_VIOLATIONS_MAX);
    }

    #[test]
    fn the_reason_is_the_most_telling_one() {
        let check = |reasons: &[&'static str], expected: &str| {
            let mut violations = Violations::default();
            for reason in reasons {
                violations.add_as(reason, "field", "is wrong");
            }
            let details = Failure::from(violations).into_status().get_error_details();
            let info = details.error_info().unwrap().clone();
            assert_eq!((info.domain.as_str(), info.reason.as_str()), (reason::DOMAIN, expected), "{reasons:?}");
        };
        check(&[reason::URL_NOT_ALLOWED], reason::URL_NOT_ALLOWED);
        check(&[reason::UNKNOWN_EVENT_TYPE, reason::UNKNOWN_EVENT_TYPE], reason::UNKNOWN_EVENT_TYPE);
        check(&[reason::INVALID_FIELD, reason::URL_NOT_ALLOWED, reason::UNKNOWN_EVENT_TYPE], reason::URL_NOT_ALLOWED);
        check(&[reason::INVALID_FIELD], reason::INVALID_FIELD);
    }

    #[test]
    fn an_expired_cursor_comes_with_the_oldest_and_a_full_backlog_with_a_delay() {
        let status = Failure::from(WatchError::Expired { oldest_cursor: "abc".into() }).into_status();
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["oldest_cursor"], "abc");

        let rpc = Failure::from(Rejected::BacklogFull).into_rpc();
        assert_eq!(rpc.code, Code::ResourceExhausted as i32);
        let status = Failure::from(Rejected::BacklogFull).into_status();
        assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(BACKLOG_RETRY));
    }

    #[test]
    fn too_many_different_tls_settings_are_told_by_their_field() {
        for (of_tenant, whose) in [(true, "the tenant's webhooks"), (false, "all webhooks")] {
            let status = Failure::too_much_tls(of_tenant, 7, 9).into_status();
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((status.code(), info.reason.as_str()), (Code::ResourceExhausted, reason::TOO_MUCH_TLS));
            assert_eq!((&*info.metadata["limit"], &*info.metadata["needed"]), ("7", "9"));
            let fields = &details.bad_request().unwrap().field_violations;
            assert!(
                fields.len() == 1 && fields[0].field == "webhook.tls" && status.message().contains(whose),
                "{status:?}"
            );
        }
    }

    #[test]
    fn a_store_that_fails_is_unavailable_and_a_full_disk_exhausted() {
        let check = |error: StoreError, code: Code, reason: &str| {
            let status = Failure::from(Rejected::Store(error)).into_status();
            let details = status.get_error_details();
            let told = (status.code(), details.error_info().unwrap().reason.as_str());
            assert_eq!(told, (code, reason));
            assert!(details.retry_info().unwrap().retry_delay.is_some(), "{reason}");
        };
        check(StoreError::Failed("a disk".into()), Code::Unavailable, reason::STORE_UNAVAILABLE);
        check(StoreError::Full, Code::ResourceExhausted, reason::DISK_FULL);
        check(StoreError::Closed, Code::Unavailable, reason::STOPPING);
    }

    #[test]
    fn what_tonic_says_is_said_in_our_words_and_what_we_say_is_left_alone() {
        let check = |status: Status, code: Code, reason: Option<&str>| {
            let response = in_our_words(status.into_http::<String>());
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), code);
            let details = status.get_error_details();
            assert_eq!(details.error_info().map(|info| info.reason.as_str()), reason);
        };
        check(Status::out_of_range("too large"), Code::ResourceExhausted, Some(reason::MESSAGE_TOO_LARGE));
        check(Status::internal("bad wire type"), Code::InvalidArgument, Some(reason::INVALID_FIELD));
        check(Status::unimplemented(""), Code::Unimplemented, None);
        let expired = Failure::from(WatchError::Expired { oldest_cursor: "abc".into() });
        check(expired.into_status(), Code::OutOfRange, Some(reason::CURSOR_EXPIRED));
        let undone = Failure::from(WatchError::Undone { last_cursor: "abc".into() });
        check(undone.into_status(), Code::OutOfRange, Some(reason::CURSOR_UNDONE));
    }
}
