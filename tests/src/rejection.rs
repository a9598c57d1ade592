//! What an error of the contract says, in one comparable value.

use postrider_proto::error_info::DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _, pb};

/// Longest status message the contract allows; longer trailers break some gRPC clients.
const MESSAGE_BYTES_MAX: usize = 1024;

/// An error as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The gRPC code.
    pub code: Code,
    /// `ErrorInfo.reason`; empty if there was none.
    pub reason: String,
    /// `BadRequest.field_violations[].field`, in order.
    pub fields: Vec<String>,
    /// The message for people.
    pub message: String,
}

impl From<&Status> for Rejection {
    fn from(status: &Status) -> Self {
        let details = status.check_error_details().expect("error details can be decoded");
        Self::new(status.code(), status.message(), &details)
    }
}

impl From<&pb::Status> for Rejection {
    fn from(status: &pb::Status) -> Self {
        let details = status.check_error_details().expect("error details can be decoded");
        Self::new(Code::from_i32(status.code), &status.message, &details)
    }
}

impl Rejection {
    fn new(code: Code, message: &str, details: &ErrorDetails) -> Self {
        let info = details.error_info();
        assert!(message.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes: {message}", message.len());
        if let Some(info) = info {
            assert_eq!(info.domain, DOMAIN, "{message}");
        }
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self {
            code,
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            fields: violations.iter().map(|violation| violation.field.clone()).collect(),
            message: message.to_owned(),
        }
    }

    /// Checks the code, the reason (unless empty), and that the field (unless empty) is named.
    ///
    /// # Panics
    /// When something differs; the message starts with `what`.
    pub fn check(&self, what: &str, code: Code, reason: &str, field: &str) {
        assert_eq!(self.code, code, "{what}: {self:?}");
        assert!(reason.is_empty() || self.reason == reason, "{what}: expected reason {reason}, got {self:?}");
        let named = field.is_empty() || self.fields.iter().any(|named| named == field);
        assert!(named, "{what}: expected field {field}, got {self:?}");
        assert!(!self.message.is_empty(), "{what}: an error without a message");
    }
}
