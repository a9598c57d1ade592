//! Many events from NDJSON.

use std::{
    collections::VecDeque,
    fs::Metadata,
    io::IsTerminal as _,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use postrider_client::{Error, Pending, PublishError, Publisher, PublisherConfig, Receipt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, BufReader};

use super::{
    line::parse,
    lines::{LINE_BYTES_MAX, Lines, NumberedLine},
};
use crate::{
    cli::Session,
    failure::{Failure, describe_briefly, fields, malformed},
    output::{Format, printable, say, say_json_line},
};

/// Answers not yet looked at; the publisher's own window is smaller, so this never holds it up.
const WAITING_MAX: usize = 4096;
/// How much of the input is read at once.
const READ_BYTES: usize = 256 * 1024;
/// The progress bar's text changes every so many events.
const PROGRESS_EVENTS: u64 = 256;

/// Publishes every line of the file, and says at the end what became of them.
pub(super) async fn publish(session: &Session, path: &Path) -> Result<(), Failure> {
    let config = PublisherConfig { answer_within: Some(session.timeout), ..PublisherConfig::default() };
    let mut bulk = Bulk {
        publisher: session.client.publisher(config),
        waiting: VecDeque::new(),
        tally: Tally::default(),
        format: session.format,
        progress: ProgressBar::hidden(),
    };
    let started = Instant::now();
    let done = if path.as_os_str() == "-" {
        bulk.progress = progress(None);
        bulk.run(Lines::new(BufReader::with_capacity(READ_BYTES, tokio::io::stdin()))).await
    } else {
        let unreadable = |error| Failure::Local(format!("cannot read {}: {error}", path.display()));
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        bulk.progress = progress(file.metadata().await.ok().filter(Metadata::is_file).map(|it| it.len()));
        bulk.run(Lines::new(BufReader::with_capacity(READ_BYTES, file))).await
    };
    bulk.progress.finish_and_clear();
    let elapsed = started.elapsed();
    match session.format {
        Format::Json => say_json_line(&bulk.tally.json(elapsed))?,
        Format::Table => say(bulk.tally.sentence(elapsed))?,
    }
    done?;
    if bulk.tally.rejected > 0 { Err(Failure::Said) } else { Ok(()) }
}

/// What became of the lines so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    /// Newly published.
    accepted: u64,
    /// Published before under the same id.
    duplicates: u64,
    /// Rejected by the server, or malformed.
    rejected: u64,
    /// What the accepted ones led to.
    deliveries: u64,
}

impl Tally {
    fn accept(&mut self, receipt: &Receipt) {
        if receipt.duplicate {
            self.duplicates += 1;
        } else {
            self.accepted += 1;
            self.deliveries += u64::try_from(receipt.deliveries).unwrap_or_default();
        }
    }

    fn lines(&self) -> u64 {
        self.accepted + self.duplicates + self.rejected
    }

    fn per_second(&self, elapsed: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people; 2^53 lines are out of reach")]
        let lines = self.lines() as f64;
        lines / elapsed.as_secs_f64().max(1e-3)
    }

    fn json(&self, elapsed: Duration) -> Value {
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        json!({
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": self.rejected,
            "deliveries": self.deliveries,
            "seconds": rounded(elapsed.as_secs_f64()),
            "per_second": rounded(self.per_second(elapsed)),
        })
    }

    fn sentence(&self, elapsed: Duration) -> String {
        let Self { accepted, duplicates, rejected, deliveries } = self;
        format!(
            "{} accepted, {} duplicates, {} rejected; {} deliveries. {:.1} s, {:.0} events a second.",
            HumanCount(*accepted),
            HumanCount(*duplicates),
            HumanCount(*rejected),
            HumanCount(*deliveries),
            elapsed.as_secs_f64(),
            self.per_second(elapsed),
        )
    }
}

struct Bulk {
    publisher: Publisher,
    /// Lines sent and not yet known to be answered, oldest first.
    waiting: VecDeque<(u64, Pending)>,
    tally: Tally,
    format: Format,
    progress: ProgressBar,
}

impl Bulk {
    /// Reads, sends and takes answers until all is done, or going on makes no sense.
    async fn run<R: AsyncBufRead + Unpin>(&mut self, mut lines: Lines<R>) -> Result<(), Failure> {
        let mut more = true;
        while more || !self.waiting.is_empty() {
            tokio::select! {
                line = lines.next(), if more && self.waiting.len() < WAITING_MAX => match line? {
                    Some(line) => self.send(line).await?,
                    None => more = false,
                },
                (line, answer) = oldest(&mut self.waiting), if !self.waiting.is_empty() => self.settle(line, answer)?,
            }
        }
        Ok(())
    }

    async fn send(&mut self, line: NumberedLine) -> Result<(), Failure> {
        self.progress.inc(line.bytes);
        let Some(text) = line.text else {
            let why = format!("is longer than {LINE_BYTES_MAX} bytes");
            return self.reject(line.number, None, &why, &malformed(&why));
        };
        let event = match parse(&text) {
            Ok(event) => event,
            Err(why) => return self.reject(line.number, None, &why, &malformed(&why)),
        };
        match self.publisher.send(event).await {
            Ok(pending) => self.waiting.push_back((line.number, pending)),
            Err(error) => self.settle(line.number, Err(error))?,
        }
        Ok(())
    }

    fn settle(&mut self, line: u64, answer: Result<Receipt, PublishError>) -> Result<(), Failure> {
        match answer {
            Ok(receipt) => self.tally.accept(&receipt),
            Err(PublishError::Rejected { event_id, error }) => {
                self.reject(line, Some(&event_id), &describe_briefly(&error), &error)?;
            }
            Err(ref error @ PublishError::TooLarge { ref event_id, .. }) => {
                let why = error.to_string();
                self.reject(line, Some(event_id), &why, &malformed(&why))?;
            }
            // What holds for this line holds for all that follow.
            Err(error @ (PublishError::Unanswered { .. } | PublishError::Stopped(_) | PublishError::Dropped)) => {
                self.progress.suspend(|| {
                    eprintln!(
                        "line {line} was not answered, those before it were. From it on lines may have been published or not: \
                         go on with it; lines with an `id` are never doubled."
                    );
                });
                return Err(error.into());
            }
        }
        if self.tally.lines().is_multiple_of(PROGRESS_EVENTS) {
            let Tally { accepted, duplicates, rejected, .. } = self.tally;
            self.progress.set_message(format!("{} published, {rejected} rejected", HumanCount(accepted + duplicates)));
        }
        Ok(())
    }

    /// Counts a line and says why: to people as text, and to programs as an object.
    fn reject(&mut self, line: u64, event_id: Option<&str>, why: &str, error: &Error) -> Result<(), Failure> {
        self.tally.rejected += 1;
        self.progress.suspend(|| {
            eprintln!("line {line}: {}", printable(why));
            match self.format {
                Format::Json => say_json_line(&rejected(line, event_id, error)),
                Format::Table => Ok(()),
            }
        })
    }
}

/// One rejected or malformed line as programs get it. The id is null if the line was not understood.
fn rejected(line: u64, event_id: Option<&str>, error: &Error) -> Value {
    let mut fields = fields(error);
    fields.insert("line".into(), line.into());
    fields.insert("event_id".into(), event_id.into());
    json!({ "rejected": fields })
}

/// The oldest line's answer, once it is there.
async fn oldest(waiting: &mut VecDeque<(u64, Pending)>) -> (u64, Result<Receipt, PublishError>) {
    let Some((line, pending)) = waiting.front_mut() else { return std::future::pending().await };
    let answer = (*line, pending.await);
    waiting.pop_front();
    answer
}

/// A bar over the bytes of the input, or a spinner if nobody knows how many they are; nothing without a terminal.
fn progress(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match bytes {
        Some(bytes) => ProgressBar::new(bytes).with_style(style("{bar:40} {percent:>3}%  {bytes_per_sec}  {msg}")),
        None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes}  {bytes_per_sec}  {msg}")),
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that is wrong costs looks, not events.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_lines_as_json() {
        let expected = |event_id: Option<&str>| {
            json!({ "rejected": {
                "line": 7, "event_id": event_id, "code": "INVALID_ARGUMENT", "reason": null, "message": "is wrong",
                "violations": [],
            }})
        };
        for event_id in [Some("e"), None] {
            let value = rejected(7, event_id, &malformed("is wrong"));
            assert_eq!(value, expected(event_id));
            assert!(!value.to_string().contains('\n'), "one line");
        }
    }

    #[test]
    fn the_tally_counts_each_line_once() {
        let mut tally = Tally { rejected: 1, ..Tally::default() };
        for (deliveries, duplicate) in [(2, false), (2, true), (3, false)] {
            tally.accept(&Receipt { event_id: String::new(), deliveries, duplicate });
        }
        assert_eq!(tally, Tally { accepted: 2, duplicates: 1, rejected: 1, deliveries: 5 });
        let elapsed = Duration::from_millis(500);
        assert_eq!(
            tally.sentence(elapsed),
            "2 accepted, 1 duplicates, 1 rejected; 5 deliveries. 0.5 s, 8 events a second."
        );
        let json = tally.json(elapsed);
        assert_eq!(json["accepted"], 2);
        assert_eq!(json["per_second"], 8.0);
        assert_eq!(Tally::default().json(Duration::ZERO)["per_second"], 0.0);
    }
}
