//! Logs: structured, on standard error.
//!
//! Invariant: no body, secret or query of a URL is logged, at any level. This crate sees to that for what it says itself. Crates
//! below us know no such rule, so theirs start at `info` whatever level is asked for. Naming one of them in the filter opens it up to
//! `debug`, which tells of connections and frames. At `trace` some tell more: rustls shows whole handshakes with their session tickets,
//! h2 values of headers that it refuses, reqwest what it writes where it is told to; that level of theirs stays shut.

use std::io::{self, IsTerminal as _};

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is logged.
    pub filter: Filter,
    /// What it looks like.
    pub format: LogFormat,
}

/// What log lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// Directives that were found to be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

/// Crates that see what must not be logged.
const GUARDED: &[&str] = &[
    "axum",
    "h2",
    "hickory_net",
    "hickory_proto",
    "hickory_resolver",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "tokio_rustls",
    "tonic",
    "tower",
    "tower_http",
];

/// Whether something may be logged if its level is asked for.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let name = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::DEBUG || !GUARDED.contains(&name)
}

impl Filter {
    /// Takes directives in the notation of `tracing_subscriber`: `info`, or `info,postrider_server::deliver=debug`.
    pub fn parse(directives: &str) -> Result<Self, String> {
        EnvFilter::try_new(directives).map_err(|error| format!("is not a filter: {error}"))?;
        Ok(Self(directives.to_owned()))
    }

    fn build(&self) -> EnvFilter {
        // Later directives replace earlier ones of the same target.
        let guarded: String = GUARDED.iter().flat_map(|name| [*name, "=info,"]).collect();
        EnvFilter::new(guarded + &self.0)
    }
}

impl Config {
    /// Logs from now on, for the whole process. If something else does already, as in tests, that stays.
    pub fn start(&self) {
        let logs = tracing_subscriber::registry().with(self.filter.build()).with(filter_fn(is_harmless));
        let lines = fmt::layer().with_writer(io::stderr);
        let terminal = io::stderr().is_terminal();
        let json = match self.format {
            LogFormat::Auto => !terminal,
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        let started = if json {
            logs.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
        } else {
            logs.with(lines.with_ansi(terminal)).try_init()
        };
        if let Err(error) = started {
            tracing::debug!(%error, "logs go where they went before");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_crates_stay_quiet_unless_they_are_named() {
        let check = |directives: &str, expect: &[&str]| {
            let built = Filter::parse(directives).unwrap().build().to_string();
            let parts: Vec<&str> = built.split(',').collect();
            for part in expect {
                assert!(parts.contains(part), "{directives}: {part} in {built}");
            }
        };
        check("trace", &["trace", "h2=info", "reqwest=info"]);
        check("warn,h2=debug", &["warn", "h2=debug", "hyper=info"]);
    }

    #[test]
    fn wrong_directives_are_refused() {
        for wrong in ["info,==", "postrider=loud"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}
