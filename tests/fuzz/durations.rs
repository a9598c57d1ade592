//! Durations, sizes and lists in the configuration.

use std::time::Duration;

use postrider_server::config::Config;
use proptest::{prelude::*, sample::select};

use crate::harness::{explore, texts};

/// Whatever is written: what is taken is within its bounds, and what is not is refused with a text that names the flag.
#[test]
fn settings_are_within_their_bounds_or_refused() {
    let flags = select(vec![
        "attempt-timeout",
        "connect-timeout",
        "retry-schedule",
        "retention",
        "retention-bytes",
        "shutdown-grace",
        "allow-cidr",
        "listen",
        "origin",
        "retry-jitter",
        "in-flight",
    ]);
    explore("durations", (flags, texts(include_str!("corpus/settings.txt"))), |(flag, text)| {
        let second = Duration::from_secs(1);
        match Config::from_flags([format!("--{flag}={text}")]) {
            Ok(config) => {
                prop_assert!((second..=60 * second).contains(&config.deliver.attempt_timeout));
                prop_assert!(config.deliver.connect_timeout <= config.deliver.attempt_timeout);
                prop_assert!(config.deliver.connect_timeout >= second / 10);
                prop_assert!(config.shutdown.grace <= 3600 * second);
            }
            Err(problems) => {
                let told = problems.to_string();
                // What the command line itself does not take is told by its parser.
                prop_assert!(told.contains(flag) || told.contains("command line"), "{}", told);
            }
        }
        Ok(())
    });
}
