//! The configuration as a whole: precedence, relations, and that every problem is named with its place.

use std::{collections::HashMap, io::Write as _};

use super::*;

/// Reads flags and variables; `@FILE` in a flag stands for a file with the given text.
fn read(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("postrider.toml");
    let mut args = vec![OsString::from("postriderd")];
    if let Some(text) = file {
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        args.extend(["--config".into(), path.into_os_string()]);
    }
    args.extend(flags.iter().map(OsString::from));
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    match Command::read(args, &|name| variables.get(name).map(OsString::from))? {
        Command::Run(config) => Ok(*config),
        Command::Print(text) => panic!("asked to print: {text}"),
    }
}

#[test]
fn defaults_are_safe_and_documented() {
    let config = read(&[], &[], None).unwrap();
    assert_eq!(config.serve.address.to_string(), "127.0.0.1:50051");
    assert!(config.opened.is_empty() && !config.targets.allow_http);
    assert_eq!(config.outcomes.retry, RetryPolicy::default(), "the table and the core agree on the schedule");
    assert_eq!(config.deliver.attempt_timeout, Duration::from_secs(15));
    assert_eq!(config.origin, Origin::default());
    let help = layers::command().render_long_help().to_string();
    for setting in settings::SETTINGS {
        assert!(
            help.contains(&format!("--{}", setting.name)) && help.contains(&setting.variable()),
            "{}",
            setting.name
        );
    }
    layers::command().debug_assert();
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = "in-flight = 3\nmax-pending = 4\nattempt-timeout = '4s'\nallow-http = true\nretry-jitter = 0.5\n";
    let variables = [("POSTRIDER_IN_FLIGHT", "2"), ("POSTRIDER_MAX_PENDING", "2"), ("POSTRIDER_ALLOW_HTTP", "false")];
    let config = read(&["--in-flight", "1"], &variables, Some(file)).unwrap();
    assert_eq!(config.dispatch.in_flight_max, 1);
    assert_eq!(config.store.pending_max, 2);
    assert_eq!(config.deliver.attempt_timeout, Duration::from_secs(4));
    assert!(!config.targets.allow_http);
    assert!((config.outcomes.retry.jitter - 0.5).abs() < f64::EPSILON);
}

#[test]
fn the_file_may_be_named_by_a_variable_and_an_empty_variable_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, "in-flight = 7").unwrap();
    let path = path.to_str().unwrap();
    let config = read(&[], &[("POSTRIDER_CONFIG", path), ("POSTRIDER_IN_FLIGHT", "")], None).unwrap();
    assert_eq!(config.dispatch.in_flight_max, 7);
}

#[test]
fn lists_are_replaced_and_not_merged() {
    let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
    let check = |flags: &[&str], variable: &str, file: &str, expect: &[u64]| {
        let config = read(flags, &[("POSTRIDER_RETRY_SCHEDULE", variable)], Some(file)).unwrap();
        assert_eq!(config.outcomes.retry.schedule, seconds(expect), "{flags:?} {variable} {file}");
    };
    check(&[], "", "retry-schedule = ['1s', '2s']", &[1, 2]);
    check(&[], "", "retry-schedule = '1s, 2s'", &[1, 2]);
    check(&[], "", "retry-schedule = []", &[]);
    check(&[], "3s", "retry-schedule = ['1s', '2s']", &[3]);
    check(&["--retry-schedule", "4s", "--retry-schedule", "5s,6s"], "3s", "", &[4, 5, 6]);
    check(&["--retry-schedule", "none"], "3s", "", &[]);
    check(&["--retry-schedule", ""], "3s", "", &[]);
}

#[test]
fn a_limit_that_was_not_given_follows_the_one_that_was() {
    let config = read(&["--in-flight", "4", "--attempt-timeout", "2s"], &[], None).unwrap();
    assert_eq!(config.dispatch.webhook_in_flight_max, 4);
    assert_eq!(config.deliver.connect_timeout, Duration::from_secs(2));
}

#[test]
fn all_problems_are_found_at_once_each_with_its_place() {
    let file = "listn = '127.0.0.1:1'\n\nretention = 30\nmax-webhooks = [1]\n[tls]\ncert = 'x'\n";
    let variables = [
        ("POSTRIDER_ALLOW_CIDR", "127.0.0.0/8,10.0.0.1/8,localhost"),
        ("POSTRIDER_LOG", "info,=="),
        ("POSTRIDER_STORE_CACHE", "64MB"),
    ];
    let flags = ["--listen", "0.0.0.0:1", "--attempt-timeout", "61s", "--connect-timeout", "20s", "--log-format=xml"];
    let Problems(problems) = read(&flags, &variables, Some(file)).unwrap_err();
    let expected = [
        ("postrider.toml:1: listn", "`listen`"),
        ("postrider.toml:3: retention", "`30`"),
        ("postrider.toml:4: max-webhooks", "array"),
        ("postrider.toml:5: tls", "no such setting"),
        ("POSTRIDER_ALLOW_CIDR", "10.0.0.0/8"),
        ("POSTRIDER_ALLOW_CIDR", "`localhost`"),
        ("POSTRIDER_LOG", "=="),
        ("POSTRIDER_STORE_CACHE", "MiB"),
        ("--listen", "--insecure-listen"),
        ("--attempt-timeout", "1m"),
        ("--connect-timeout", "attempt-timeout"),
        ("--log-format", "json"),
    ];
    for (source, message) in expected {
        let found = problems.iter().any(|p| p.source.ends_with(source) && p.message.contains(message));
        assert!(found, "{source}: {message}\nin {problems:#?}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn a_wrong_command_line_does_not_hide_the_rest() {
    let Problems(problems) = read(&["--listne", "x"], &[("POSTRIDER_IN_FLIGHT", "0")], None).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].message.contains("--listne"), "{problems:?}");
    assert_eq!(problems[1].source, "POSTRIDER_IN_FLIGHT");
}

#[test]
fn addresses_that_others_reach_need_consent() {
    for (address, allowed) in
        [("127.8.0.1:1", true), ("[::1]:1", true), ("0.0.0.0:1", false), ("[::]:1", false), ("10.0.0.1:1", false)]
    {
        assert_eq!(read(&["--listen", address], &[], None).is_ok(), allowed, "{address}");
        assert!(read(&["--listen", address, "--insecure-listen"], &[], None).is_ok(), "{address}");
        assert_eq!(read(&["--ops", address], &[], None).is_ok(), allowed, "{address}");
        assert!(read(&["--ops", address, "--insecure-listen"], &[], None).is_ok(), "{address}");
    }
}

#[test]
fn metrics_and_health_are_served_only_where_asked_for() {
    let address = |flags: &[&str], variable: &str, file: &str| {
        read(flags, &[("POSTRIDER_OPS", variable)], Some(file)).map(|config| config.ops.address.map(|at| at.port()))
    };
    assert_eq!(address(&[], "", "").unwrap(), None);
    assert_eq!(address(&[], "", "ops = '127.0.0.1:1'").unwrap(), Some(1));
    assert_eq!(address(&[], "127.0.0.1:2", "ops = '127.0.0.1:1'").unwrap(), Some(2));
    assert_eq!(address(&["--ops", "none"], "127.0.0.1:2", "").unwrap(), None);
    let Problems(problems) = address(&["--ops", "0.0.0.0:9090"], "", "").unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].source == "--ops" && problems[0].message.contains("--insecure-listen"), "{problems:?}");
    let Problems(problems) = address(&["--ops", "9090"], "", "").unwrap_err();
    assert!(problems[0].message.contains("or none"), "{problems:?}");
}

#[test]
fn files_that_cannot_be_used_are_problems() {
    let Problems(problems) = read(&["--config", "/nonexistent/x.toml"], &[], None).unwrap_err();
    assert_eq!(problems[0].source, "/nonexistent/x.toml");
    let Problems(problems) = read(&[], &[], Some("listen = \n")).unwrap_err();
    assert!(problems[0].source.ends_with("postrider.toml:1"), "{problems:?}");
}

#[test]
fn help_and_version_are_printed() {
    for flag in ["--help", "--version"] {
        let args = ["postriderd", flag].map(OsString::from);
        assert!(matches!(Command::read(args, &|_| None), Ok(Command::Print(text)) if text.contains("postriderd")));
    }
}
