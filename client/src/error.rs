//! What a call failed with.

use std::{fmt, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// A call that failed, or an event that was rejected: a code, a message for people, and details for programs.
#[derive(Debug, Clone)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    status: Status,
    details: ErrorDetails,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Status::new(code, message).into()
    }

    /// What kind of error it is.
    pub fn code(&self) -> Code {
        self.inner.status.code()
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        self.inner.status.message()
    }

    /// The constant that identifies the cause, one of [`crate::error_info`]; none if the error was not made by Postrider.
    pub fn reason(&self) -> Option<&str> {
        self.inner.details.error_info().map(|info| info.reason.as_str())
    }

    /// One entry of the `ErrorInfo` metadata, such as `oldest_cursor`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.inner.details.error_info()?.metadata.get(key).map(String::as_str)
    }

    /// Which fields were at fault, and why. Empty if none was.
    pub fn field_violations(&self) -> &[FieldViolation] {
        self.inner.details.bad_request().map_or(&[], |request| &request.field_violations)
    }

    /// How long the server asks to wait before another try.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.inner.details.retry_info()?.retry_delay
    }

    /// Whether the server could not be reached, broke off, or is stopping: the same call may succeed later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::DeadlineExceeded)
    }

    /// The gRPC status behind it.
    pub fn status(&self) -> &Status {
        &self.inner.status
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        Self { inner: Box::new(Inner { status, details }) }
    }
}

impl From<tonic_types::Status> for Error {
    /// From the rejection of one event in a stream.
    fn from(rejected: tonic_types::Status) -> Self {
        let encoded = rejected.encode_to_vec();
        Status::with_details(Code::from_i32(rejected.code), rejected.message, encoded.into()).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", code_name(self.code()), self.message())
    }
}

impl std::error::Error for Error {}

/// The code as gRPC's documentation spells it, such as `INVALID_ARGUMENT`.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::pb;

    use super::*;

    fn detailed() -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info("BACKLOG_FULL", "postrider.dev", HashMap::from([("limit".into(), "7".into())]));
        details.add_bad_request_violation("webhook.url", "must be https");
        details.set_retry_info(Some(Duration::from_millis(1500)));
        Status::with_error_details(Code::ResourceExhausted, "full", details)
    }

    #[track_caller]
    fn check(error: &Error) {
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.reason(), Some("BACKLOG_FULL"));
        assert_eq!(error.metadata("limit"), Some("7"));
        assert_eq!(error.metadata("other"), None);
        assert_eq!(error.field_violations().len(), 1);
        assert_eq!(error.field_violations()[0].field, "webhook.url");
        assert_eq!(error.retry_delay(), Some(Duration::from_millis(1500)));
        assert_eq!(error.to_string(), "RESOURCE_EXHAUSTED: full");
    }

    #[test]
    fn details_are_read_from_calls_and_from_rejections() {
        check(&detailed().into());
        let rejected = pb::Status::decode(detailed().details()).unwrap();
        check(&rejected.into());
    }

    #[test]
    fn an_error_without_details_has_none() {
        let error = Error::from(Status::unavailable("gone"));
        assert!(error.is_unreachable());
        assert_eq!((error.reason(), error.retry_delay()), (None, None));
        assert!(error.field_violations().is_empty());
    }
}
