//! What happened, line by line: a fingerprint of all of it, and the end of it for people.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hasher as _},
};

use postrider_server::model::time::Timestamp;

/// Lines shown with a failure.
const SHOWN_LINES: usize = 60;

/// The lines of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: VecDeque<String>,
    hasher: DefaultHasher,
    count: u64,
}

impl Trace {
    /// One more line.
    pub(crate) fn line(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        let line = format!("{now:?} {what}");
        self.hasher.write(line.as_bytes());
        self.count += 1;
        if self.lines.len() == SHOWN_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Equal for equal lines.
    pub(crate) fn fingerprint(&self) -> (u64, u64) {
        (self.count, self.hasher.finish())
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        self.lines.iter().flat_map(|line| ["  ", line, "\n"]).collect()
    }
}
