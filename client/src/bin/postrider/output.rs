//! What commands print: tables for people, JSON for programs.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::Duration,
};

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets::NOTHING};
use serde_json::Value;

use crate::failure::Failure;

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Writes a line to standard output. Unlike `println!` it does not panic when nobody reads it.
pub(crate) fn say(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Writes one JSON document, indented.
pub(crate) fn say_json(value: &Value) -> Result<(), Failure> {
    say(format_args!("{value:#}"))
}

/// Writes one JSON document on one line, for streams of them.
pub(crate) fn say_json_line(value: &Value) -> Result<(), Failure> {
    say(value)
}

/// A table with a header. The first column, ids mostly, is never wrapped.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header.to_vec());
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// Names and values of one thing, a line each, the values aligned. Empty values are left out.
pub(crate) fn properties(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<width$}  {}", printable(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The table as text, without the spaces that fill its last column, or what to say if it has no rows.
pub(crate) fn rows_or(table: &Table, nothing: &str) -> String {
    if table.is_empty() { nothing.to_owned() } else { table.trim_fmt() }
}

/// Text from elsewhere, made safe for a terminal: control characters become U+FFFD.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A point in time in RFC 3339, in milliseconds; empty if unset.
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    let Some(timestamp) = timestamp else { return String::new() };
    let millis = prost_types::Timestamp { nanos: timestamp.nanos / 1_000_000 * 1_000_000, ..*timestamp };
    millis.to_string()
}

/// A duration to the precision people care for; empty if unset.
pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> String {
    let Some(duration) = duration.and_then(|duration| Duration::try_from(*duration).ok()) else { return String::new() };
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

pub(crate) fn written(duration: Option<&prost_types::Duration>) -> String {
    let duration = duration.and_then(|duration| Duration::try_from(*duration).ok());
    duration.map(|duration| humantime::format_duration(duration).to_string()).unwrap_or_default()
}

/// A duration as people write it, such as `90s` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A status code; empty if there was none.
pub(crate) fn http_status(status: i32) -> String {
    if status == 0 { String::new() } else { status.to_string() }
}

/// The number and the noun, in the plural unless it is one.
pub(crate) fn counted(count: i64, noun: &str, plural: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {plural}") }
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration as ProtoDuration, Timestamp};

    use super::*;

    #[test]
    fn values_for_people() {
        let at = |seconds, nanos| time(Some(&Timestamp { seconds, nanos }));
        assert_eq!(at(1_763_802_000, 123_456_789), "2025-11-22T09:00:00.123Z");
        assert_eq!(at(1_763_802_000, 999), "2025-11-22T09:00:00Z");
        assert_eq!(time(None), "");
        let took = |seconds, nanos| duration(Some(&ProtoDuration { seconds, nanos }));
        assert_eq!(took(0, 12_345_678), "12.3 ms");
        assert_eq!(took(15, 20_000_000), "15.02 s");
        assert_eq!(took(-1, 0), "");
        assert_eq!((http_status(0), http_status(204)), (String::new(), "204".to_owned()));
        assert_eq!(counted(1, "delivery", "deliveries"), "1 delivery");
        assert_eq!(counted(0, "delivery", "deliveries"), "0 deliveries");
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
    }

    #[test]
    fn properties_are_aligned_and_empty_ones_left_out() {
        let text = properties(&[("id", "x".into()), ("description", String::new()), ("url", "y".into())]);
        assert_eq!(text, "id           x\nurl          y");
    }

    #[test]
    fn tables_are_plain_text() {
        let mut rows = table(&["ID", "URL"]);
        assert_eq!(rows_or(&rows, "None."), "None.");
        rows.add_row(["a", "b"]);
        let text = rows_or(&rows, "None.");
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(cells, [["ID", "URL"], ["a", "b"]]);
    }
}
