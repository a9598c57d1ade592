//! How a command fails: what is said, and the exit code.

use std::{error::Error as _, fmt::Write as _, io};

use postrider_client::{Code, Error, PublishError, code_name};

use crate::output::printable;

/// The part of `--help` on exit codes.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the operation failed, or some of the events were rejected
  2  the command line is wrong, or confirmation is needed and there is no terminal to ask
  3  there is no such webhook or delivery
  4  the server cannot be reached, is stopping, or did not answer in time

Example: postrider webhooks list --server http://127.0.0.1:50051 --output json";

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that cannot be done.
    Usage(String),
    /// Something went wrong on this side.
    Local(String),
    /// The server did not do what was asked for.
    Call(Error),
    /// It could not be learnt in time whether the server did it.
    NoAnswer(String),
    /// Everything has been said already.
    Said,
    /// Nobody reads our output any more, as after `| head`.
    NobodyReads,
}

impl Failure {
    /// What scripts see.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::NobodyReads => 0,
            Self::Usage(_) => 2,
            Self::Call(error) if error.code() == Code::NotFound => 3,
            Self::Call(error) if error.is_unreachable() => 4,
            Self::NoAnswer(_) => 4,
            Self::Local(_) | Self::Call(_) | Self::Said => 1,
        }
    }

    /// Says it on standard error, and returns the exit code.
    pub(crate) fn report(&self) -> i32 {
        let text = match self {
            Self::Usage(text) | Self::Local(text) | Self::NoAnswer(text) => text.clone(),
            Self::Call(error) => describe(error),
            Self::Said | Self::NobodyReads => String::new(),
        };
        if !text.is_empty() {
            eprintln!("error: {text}");
        }
        self.exit_code()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Rejected { error, .. } | PublishError::Stopped(error) => Self::Call(error),
            PublishError::Unanswered { event_id, error } => {
                let last = error.as_ref().map(|error| format!("\n  {}", describe(error))).unwrap_or_default();
                Self::NoAnswer(format!(
                    "the server did not answer in time; event {event_id} may be published again under that id{last}"
                ))
            }
            PublishError::TooLarge { .. } | PublishError::Dropped => Self::Local(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::NobodyReads } else { Self::Local(error.to_string()) }
    }
}

/// The message, and below it one line each for the reason, every field at fault and when to try again.
fn describe(error: &Error) -> String {
    let mut text = format!("{} ({})", printable(error.message()), code_name(error.code()));
    let mut line = |name: &str, value: &str| {
        write!(text, "\n  {}: {}", printable(name), printable(value)).expect("a string takes everything");
    };
    if let Some(cause) = root_cause(error) {
        line("cause", &cause);
    }
    if let Some(reason) = error.reason() {
        line("reason", reason);
    } else if error.code() == Code::Unavailable {
        line("hint", "is postriderd running where --server or POSTRIDER_SERVER says?");
    }
    if let Some(cursor) = error.metadata("oldest_cursor") {
        line("oldest cursor", cursor);
    }
    for violation in error.field_violations() {
        line(&violation.field, &violation.description);
    }
    if let Some(delay) = error.retry_delay() {
        line("try again in", &humantime::format_duration(delay).to_string());
    }
    text
}

/// What lies at the bottom of a transport error, such as `Connection refused`.
fn root_cause(error: &Error) -> Option<String> {
    let mut cause = error.status().source()?;
    while let Some(below) = cause.source() {
        cause = below;
    }
    Some(cause.to_string())
}

/// The same on one line, for one event of many.
pub(crate) fn describe_briefly(error: &PublishError) -> String {
    let error = match error {
        PublishError::Rejected { error, .. } => error,
        PublishError::TooLarge { .. }
        | PublishError::Unanswered { .. }
        | PublishError::Stopped(_)
        | PublishError::Dropped => return error.to_string(),
    };
    describe(error).replace("\n  ", "; ")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn exit_codes() {
        let call = |code| Failure::Call(Status::new(code, "").into());
        let unanswered = PublishError::Unanswered { event_id: String::new(), error: None };
        for (failure, code) in [
            (Failure::Usage(String::new()), 2),
            (Failure::Local(String::new()), 1),
            (Failure::Said, 1),
            (call(Code::InvalidArgument), 1),
            (call(Code::ResourceExhausted), 1),
            (call(Code::NotFound), 3),
            (call(Code::Unavailable), 4),
            (call(Code::DeadlineExceeded), 4),
            (unanswered.into(), 4),
            (io::Error::from(io::ErrorKind::BrokenPipe).into(), 0),
            (io::Error::from(io::ErrorKind::NotFound).into(), 1),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn details_are_said_one_to_a_line_and_never_move_the_cursor() {
        let mut details = ErrorDetails::new();
        details.set_error_info("URL_NOT_ALLOWED", "postrider.dev", HashMap::new());
        details.add_bad_request_violation("webhook.url", "is\u{1b}[2J loopback");
        details.add_bad_request_violation("webhook.event_types", "is empty");
        details.set_retry_info(Some(Duration::from_secs(90)));
        let error = Status::with_error_details(Code::InvalidArgument, "cannot create", details).into();
        let expected = "cannot create (INVALID_ARGUMENT)
  reason: URL_NOT_ALLOWED
  webhook.url: is\u{fffd}[2J loopback
  webhook.event_types: is empty
  try again in: 1m 30s";
        assert_eq!(describe(&error), expected);
        let rejected = PublishError::Rejected { event_id: "e".into(), error };
        assert!(!describe_briefly(&rejected).contains('\n'));
    }
}
