//! How a command fails: what is said, and the exit code.

use std::{error::Error as _, fmt::Write as _, io};

use postrider_client::{Code, Error, FieldViolation, PublishError, code_name, error_info::EXPIRED};
use serde_json::{Map, Value, json};
use tonic::Status;

use crate::output::{Format, printable, say_json_line};

/// The part of `--help` on exit codes.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the operation failed, or some of the events were rejected
  2  the command line is wrong, or confirmation is needed and there is no terminal to ask
  3  there is no such webhook, delivery, event, replay or key, or it is no longer retained
  4  the server cannot be reached, is stopping, or did not answer in time

With --output json a failed command also prints one line on standard output:
  {\"error\": {\"code\", \"reason\", \"message\", \"violations\": [{\"field\", \"description\"}]}}
where code is one of gRPC's, or LOCAL if it went wrong on this machine, and reason may be null.

Example: postrider webhooks list --server http://127.0.0.1:50051 --output json";

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that cannot be done.
    Usage(String),
    /// Something went wrong on this side.
    Local(String),
    /// The event cannot be sent as it is.
    Malformed(String),
    /// The server did not do what was asked for.
    Call(Error),
    /// It could not be learnt in time whether the server published the event.
    NoAnswer {
        /// The event's id.
        event_id: String,
        /// What went wrong last, if anything did.
        last: Option<Error>,
    },
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
            Self::Call(error) if error.code() == Code::NotFound || error.reason() == Some(EXPIRED) => 3,
            Self::Call(error) if error.is_unreachable() => 4,
            Self::NoAnswer { .. } => 4,
            Self::Local(_) | Self::Malformed(_) | Self::Call(_) | Self::Said => 1,
        }
    }

    /// Says it on standard error, and to programs on standard output; returns the exit code.
    pub(crate) fn report(&self, format: Format) -> i32 {
        let text = match self {
            Self::Usage(text) | Self::Local(text) | Self::Malformed(text) => text.clone(),
            Self::Call(error) => describe(error),
            Self::NoAnswer { event_id, last } => {
                let last = last.as_ref().map(|error| format!("\n  {}", describe(error))).unwrap_or_default();
                format!("{}{last}", no_answer(event_id))
            }
            Self::Said | Self::NobodyReads => String::new(),
        };
        if !text.is_empty() {
            eprintln!("error: {text}");
        }
        match format {
            Format::Json => self.report_json(),
            Format::Table => self.exit_code(),
        }
    }

    /// Says it on standard output only, to programs; returns the exit code.
    pub(crate) fn report_json(&self) -> i32 {
        if let Some(error) = self.json() {
            // Nowhere is left to say that nobody reads this.
            let _unread = say_json_line(&error);
        }
        self.exit_code()
    }

    /// What programs get; none if there is nothing more to say.
    fn json(&self) -> Option<Value> {
        let plain =
            |code: &str, message: &str| json!({ "code": code, "reason": null, "message": message, "violations": [] });
        let error = match self {
            Self::Usage(text) | Self::Malformed(text) => plain(code_name(Code::InvalidArgument), text),
            Self::Local(text) => plain("LOCAL", text),
            Self::Call(error) => Value::Object(fields(error)),
            Self::NoAnswer { event_id, last: None } => plain(code_name(Code::DeadlineExceeded), &no_answer(event_id)),
            Self::NoAnswer { event_id, last: Some(error) } => {
                let mut fields = fields(error);
                fields.insert("message".into(), format!("{}; last: {}", no_answer(event_id), message(error)).into());
                Value::Object(fields)
            }
            Self::Said | Self::NobodyReads => return None,
        };
        Some(json!({ "error": error }))
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
            PublishError::Unanswered { event_id, error } => Self::NoAnswer { event_id, last: error },
            PublishError::TooLarge { .. } => Self::Malformed(error.to_string()),
            PublishError::Dropped => Self::Local(error.to_string()),
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
    if error.code() == Code::Unauthenticated {
        line("hint", "the key is read from --api-key-file or POSTRIDER_API_KEY");
    }
    if let Some(cursor) = error.metadata("oldest_cursor") {
        line("oldest cursor", cursor);
    }
    if let Some(cursor) = error.metadata("last_cursor") {
        line("last cursor", cursor);
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
pub(crate) fn describe_briefly(error: &Error) -> String {
    describe(error).replace("\n  ", "; ")
}

/// What is wrong with an event that was not sent, in the words of the server, which would have refused it.
pub(crate) fn malformed(why: impl Into<String>) -> Error {
    Status::invalid_argument(why).into()
}

/// An error as programs get it.
pub(crate) fn fields(error: &Error) -> Map<String, Value> {
    let violation = |it: &FieldViolation| json!({ "field": it.field, "description": it.description });
    let violations: Vec<Value> = error.field_violations().iter().map(violation).collect();
    Map::from_iter([
        ("code".to_owned(), code_name(error.code()).into()),
        ("reason".to_owned(), error.reason().into()),
        ("message".to_owned(), message(error).into()),
        ("violations".to_owned(), violations.into()),
    ])
}

/// The message, with the cause if it does not name it.
fn message(error: &Error) -> String {
    match root_cause(error) {
        Some(cause) if !error.message().contains(&cause) => format!("{}: {cause}", error.message()),
        Some(_) | None => error.message().to_owned(),
    }
}

fn no_answer(event_id: &str) -> String {
    format!("the server did not answer in time; event {event_id} may be published again under that id")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

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
        assert!(!describe_briefly(&error).contains('\n'));
    }

    #[test]
    fn programs_get_every_failure_as_an_object() {
        let mut details = ErrorDetails::new();
        details.set_error_info("URL_NOT_ALLOWED", "postrider.dev", HashMap::new());
        details.add_bad_request_violation("webhook.url", "is loopback");
        let refused: Error = Status::with_error_details(Code::InvalidArgument, "no", details).into();
        let violations = json!([{ "field": "webhook.url", "description": "is loopback" }]);
        let refused_json = json!({ "code": "INVALID_ARGUMENT", "reason": "URL_NOT_ALLOWED", "message": "no", "violations": violations });
        let plain =
            |code: &str, message: &str| json!({ "code": code, "reason": null, "message": message, "violations": [] });
        let rejected = PublishError::Rejected { event_id: "e".into(), error: refused.clone() };
        let unanswered = |error| PublishError::Unanswered { event_id: "e".into(), error };
        let too_large = PublishError::TooLarge { event_id: "e".into(), part: "body", bytes: 2, bytes_max: 1 };
        let too_large_text = too_large.to_string();
        let no_answer = no_answer("e");
        let down = Error::from(Status::unavailable("down"));
        for (failure, expected) in [
            (Failure::Call(refused), Some(refused_json.clone())),
            (rejected.into(), Some(refused_json)),
            (too_large.into(), Some(plain("INVALID_ARGUMENT", &too_large_text))),
            (unanswered(None).into(), Some(plain("DEADLINE_EXCEEDED", &no_answer))),
            (unanswered(Some(down)).into(), Some(plain("UNAVAILABLE", &format!("{no_answer}; last: down")))),
            (Failure::Usage("u".into()), Some(plain("INVALID_ARGUMENT", "u"))),
            (Failure::Local("l".into()), Some(plain("LOCAL", "l"))),
            (Failure::Said, None),
            (Failure::NobodyReads, None),
        ] {
            assert_eq!(failure.json(), expected.map(|error| json!({ "error": error })), "{failure:?}");
        }
    }
}
