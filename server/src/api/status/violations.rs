//! What is wrong with the fields of a request.

use std::fmt;

use postrider_proto::error_info as reason;
use tonic::Code;

use super::Failure;
use crate::limits::{STATUS_VIOLATION_BYTES_MAX, STATUS_VIOLATIONS_MAX};

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: &'static str,
    pub(super) field: String,
    pub(super) problem: String,
}

/// Everything wrong with the fields of one request. Keeps the first `STATUS_VIOLATIONS_MAX`.
#[derive(Debug, Default)]
pub(in crate::api) struct Violations {
    kept: Vec<Violation>,
    left_out: usize,
}

impl Violations {
    /// The field is wrong.
    pub(in crate::api) fn add(&mut self, field: impl Into<String>, problem: impl fmt::Display) {
        self.add_as(reason::INVALID_FIELD, field, problem);
    }

    /// The field is wrong, for a reason that has a name of its own.
    pub(in crate::api) fn add_as(
        &mut self,
        reason: &'static str,
        field: impl Into<String>,
        problem: impl fmt::Display,
    ) {
        if self.kept.len() >= STATUS_VIOLATIONS_MAX {
            self.left_out += 1;
            return;
        }
        let (mut field, mut problem) = (field.into(), problem.to_string());
        cut(&mut field, STATUS_VIOLATION_BYTES_MAX);
        cut(&mut problem, STATUS_VIOLATION_BYTES_MAX);
        self.kept.push(Violation { reason, field, problem });
    }

    /// The value, or `None` and a violation.
    pub(in crate::api) fn note<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|problem| self.add(field, problem)).ok()
    }

    /// Fails if anything was wrong.
    pub(in crate::api) fn check(self) -> Result<(), Failure> {
        if self.kept.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        let kept = violations.kept;
        let mut told: Vec<_> =
            kept.iter().map(|violation| format!("{}: {}", violation.field, violation.problem)).collect();
        if violations.left_out > 0 {
            told.push(format!("and {} more", violations.left_out));
        }
        // The first name that says more than that a field is wrong.
        let telling = kept.iter().map(|violation| violation.reason).find(|reason| *reason != reason::INVALID_FIELD);
        let reason = telling.unwrap_or(reason::INVALID_FIELD);
        Self { violations: kept, ..Self::new(Code::InvalidArgument, reason, told.join("; ")) }
    }
}

/// Shortens to at most `max` bytes, at a character's boundary.
pub(in crate::api) fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
}
