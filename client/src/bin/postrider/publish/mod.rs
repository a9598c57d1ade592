//! `postrider publish`.

mod bulk;
mod line;
mod lines;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use clap::{ArgGroup, Args};
use futures::TryStreamExt as _;
use postrider_client::{
    EVENT_BODY_BYTES_MAX, Receipt,
    v1::{Event, event::Payload},
};
use prost_types::Timestamp;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::{
    cli::Session,
    failure::Failure,
    output::{Format, counted, parse_duration, printable, say, say_json},
};

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("source").required(true).args(["body", "body_file", "example", "ndjson"]),
    after_help = "Each NDJSON line is an object:
  type          the event type; required
  body          any JSON, sent exactly as it is written in the line; or
  body_text     a string, sent as UTF-8; or
  body_base64   bytes in standard base64
  id, tenant, labels, ordering_key, content_type, occur_time, deliver_at, max_age   as the options of the same name
Lines that are malformed or rejected are reported with their number, and the rest goes on; the exit code is then 1.
With --output json each of them is also printed on standard output, a line each, before the line with the totals:
  {\"rejected\": {\"line\", \"event_id\", \"code\", \"reason\", \"message\", \"violations\"}}

Examples:
  postrider publish --type ADD_TAG --example
  postrider publish --type ADD_TAG --body '{\"tag\":\"vip\"}' --label customer=42
  postrider publish --type ADD_TAG --example --deliver-in 10m --max-age 1h
  postrider publish --ndjson events.ndjson"
)]
pub(crate) struct PublishArgs {
    /// The event's type; see `postrider triggers`.
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "ndjson", conflicts_with = "ndjson")]
    event_type: Option<String>,
    /// The body.
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// Take the body from a file, byte for byte; `-` is standard input.
    #[arg(long, value_name = "PATH")]
    body_file: Option<PathBuf>,
    /// Take the event type's example as the body.
    #[arg(long)]
    example: bool,
    /// Publish many events, one a line, from a file; `-` is standard input.
    #[arg(long, value_name = "PATH")]
    ndjson: Option<PathBuf>,
    /// The event's id; publishing it again under the same id does nothing. Assigned if missing.
    #[arg(long, conflicts_with = "ndjson")]
    id: Option<String>,
    /// What webhooks may filter on. Repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label, conflicts_with = "ndjson")]
    labels: Vec<(String, String)>,
    /// Events with the same key belong in order.
    #[arg(long, value_name = "KEY", conflicts_with = "ndjson")]
    ordering_key: Option<String>,
    /// The body's media type; `application/json` if missing.
    #[arg(long, value_name = "TYPE", conflicts_with = "ndjson")]
    content_type: Option<String>,
    /// When it happened, in RFC 3339; when it was accepted if missing.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "ndjson")]
    occur_time: Option<Timestamp>,
    /// Send it at this time, in RFC 3339, and not before; at most 30 days ahead.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "ndjson")]
    deliver_at: Option<Timestamp>,
    /// Send it after this time, such as `10m`, and not before; at most 30 days ahead.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with_all = ["deliver_at", "ndjson"])]
    deliver_in: Option<Duration>,
    /// Give its deliveries up when they are older than this, such as `1h`.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "ndjson")]
    max_age: Option<Duration>,
}

impl PublishArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        if let Some(path) = &self.ndjson {
            return bulk::publish(session, path).await;
        }
        let body = self.read_body(session).await?;
        let receipt = session.client.publish_event(self.event(body)?).await?;
        show(session.format, &receipt)
    }

    async fn read_body(&self, session: &Session) -> Result<Bytes, Failure> {
        match (&self.body, &self.body_file) {
            (Some(text), _) => Ok(text.clone().into()),
            (None, Some(path)) => read_file(path).await,
            (None, None) => example(session, self.event_type.as_deref().unwrap_or_default()).await,
        }
    }

    fn event(self, body: Bytes) -> Result<Event, Failure> {
        #[expect(clippy::disallowed_methods, reason = "from now on, as the person who types it sees the clock")]
        let deliver_in = self.deliver_in.map(|wait| after(SystemTime::now(), wait)).transpose();
        let deliver_in = deliver_in.map_err(|problem| Failure::Usage(format!("--deliver-in {problem}")))?;
        let max_age = self.max_age.map(age).transpose();
        Ok(Event {
            id: self.id.unwrap_or_default(),
            // The session's is put in.
            tenant: String::new(),
            r#type: self.event_type.unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
            ordering_key: self.ordering_key.unwrap_or_default(),
            occur_time: self.occur_time,
            content_type: self.content_type.unwrap_or_default(),
            payload: Some(Payload::Body(body)),
            deliver_at: self.deliver_at.or(deliver_in),
            max_age: max_age.map_err(|problem| Failure::Usage(format!("--max-age {problem}")))?,
        })
    }
}

/// Reads a body, but never more than one may have.
async fn read_file(path: &PathBuf) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    let limit = EVENT_BODY_BYTES_MAX as u64 + 1;
    let read = if path.as_os_str() == "-" {
        tokio::io::stdin().take(limit).read_to_end(&mut body).await
    } else {
        match tokio::fs::File::open(path).await {
            Ok(file) => file.take(limit).read_to_end(&mut body).await,
            Err(error) => Err(error),
        }
    };
    match read {
        Ok(bytes) if bytes as u64 == limit => {
            Err(Failure::Local(format!("{} is larger than the {EVENT_BODY_BYTES_MAX} bytes of a body", path.display())))
        }
        Ok(_) => Ok(body.into()),
        Err(error) => Err(Failure::Local(format!("cannot read {}: {error}", path.display()))),
    }
}

async fn example(session: &Session, name: &str) -> Result<Bytes, Failure> {
    let mut event_types = session.client.event_types();
    while let Some(it) = event_types.try_next().await? {
        if it.name == name {
            return Ok(it.example.into());
        }
    }
    Err(Failure::Local(format!("there is no event type {}; `postrider triggers` lists them", printable(name))))
}

fn show(format: Format, receipt: &Receipt) -> Result<(), Failure> {
    let Receipt { event_id, deliveries, duplicate } = receipt;
    match format {
        Format::Json => {
            let accepted = json!({ "deliveries": deliveries, "duplicate": duplicate });
            say_json(&json!({ "event_id": event_id, "accepted": accepted }))
        }
        Format::Table => {
            let what = if *duplicate { "had already been published" } else { "is accepted" };
            let webhooks = counted(i64::from(*deliveries), "webhook", "webhooks");
            say(format_args!("Event {} {what}; it goes to {webhooks}.", printable(event_id)))
        }
    }
}

pub(crate) fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The time after a wait.
fn after(now: SystemTime, wait: Duration) -> Result<Timestamp, &'static str> {
    now.checked_add(wait).map(Timestamp::from).ok_or(TOO_LONG)
}

/// An age as the contract has it.
fn age(age: Duration) -> Result<prost_types::Duration, &'static str> {
    prost_types::Duration::try_from(age).map_err(|_| TOO_LONG)
}

const TOO_LONG: &str = "is too long";

/// A time in RFC 3339, which has an offset; without one it would mean another moment on another machine.
fn parse_time(text: &str) -> Result<Timestamp, &'static str> {
    let expected = "must be a time in RFC 3339, such as 2026-11-22T10:00:00Z or 2026-11-22T11:00:00+01:00";
    let tail = text.len().checked_sub("+01:00".len()).and_then(|at| text.get(at..)).unwrap_or_default();
    let has_offset = text.ends_with(['Z', 'z']) || tail.starts_with(['+', '-']);
    let has_time = text.contains(['T', 't']);
    if has_offset && has_time { text.parse().map_err(|_| expected) } else { Err(expected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_split_at_the_first_equals_sign() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_label("a="), Ok(("a".into(), String::new())));
        assert!(parse_label("a").is_err());
    }

    #[test]
    fn times_have_an_offset() {
        for (text, seconds) in [
            ("2025-11-22T09:00:00Z", Some(1_763_802_000)),
            ("2025-11-22T10:00:00+01:00", Some(1_763_802_000)),
            ("2025-11-22t09:00:00.5z", Some(1_763_802_000)),
            ("2025-11-22T09:00:00", None),
            ("2025-11-22", None),
            ("2025-11-22Z", None),
            ("2025-13-22T09:00:00Z", None),
            ("now", None),
            ("", None),
            ("T\u{e9}\u{e9}\u{e9}Z", None),
        ] {
            assert_eq!(parse_time(text).map(|time| time.seconds).ok(), seconds, "{text}");
        }
    }

    #[test]
    fn waits_and_ages_have_an_end() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert_eq!(after(now, Duration::from_mins(10)).map(|time| time.seconds), Ok(605));
        assert_eq!(after(now, Duration::MAX), Err(TOO_LONG));
        assert_eq!(age(Duration::from_hours(1)).map(|age| age.seconds), Ok(3600));
        assert_eq!(age(Duration::MAX), Err(TOO_LONG));
    }

    #[tokio::test]
    async fn bodies_are_read_byte_for_byte_and_not_beyond_the_limit() {
        let path = std::env::temp_dir().join(format!("postrider-body-{}", std::process::id()));
        for (bytes, fits) in [(0, true), (EVENT_BODY_BYTES_MAX, true), (EVENT_BODY_BYTES_MAX + 1, false)] {
            std::fs::write(&path, vec![0xff; bytes]).unwrap();
            let read = read_file(&path).await;
            assert_eq!(read.map(|body| body.len()).ok(), fits.then_some(bytes));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_file(&path).await, Err(Failure::Local(text)) if text.contains("cannot read")));
    }
}
