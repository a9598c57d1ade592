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
        other @ (Command::RotateMasterKey(..) | Command::Backup(..) | Command::Restore(..) | Command::Check(_)) => {
            panic!("asked for {other:?}")
        }
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
        let is_flag = layers::command().get_arguments().any(|arg| arg.get_id() == setting.name);
        assert_eq!(is_flag, setting.kind != settings::Kind::Secret, "{}", setting.name);
        let flag = format!("--{}", setting.name);
        assert!((!is_flag || help.contains(&flag)) && help.contains(&setting.variable()), "{}", setting.name);
    }
    layers::command().debug_assert();
}

#[test]
fn completions_are_understood_and_know_every_flag() {
    let args = ["postriderd", "--completions", "bash"].map(OsString::from);
    let Command::Print(script) = Command::read(args, &|_| None).unwrap() else { panic!("it runs") };
    let unknown = settings::SETTINGS.iter().find(|setting| !script.contains(&format!("--{}", setting.name)));
    assert!(unknown.is_none(), "{unknown:?}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("postriderd");
    std::fs::write(&path, script).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
    let problems = read(&["--completions", "tcsh"], &[], None).unwrap_err();
    assert!(problems.to_string().contains("tcsh"), "{problems}");
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
fn quotas_are_none_unless_they_are_given() {
    assert_eq!(read(&[], &[], None).unwrap().store.quotas, Limits::default());
    let file = "quota-pending = 5\nquota-bytes-per-day = '2MiB'\n";
    let variables = [("POSTRIDER_QUOTA_WEBHOOKS", "0")];
    let quotas = read(&["--quota-events-per-second", "2.5"], &variables, Some(file)).unwrap().store.quotas;
    let expected =
        Limits { events: RateLimit::new(2.5, 0), pending: Some(5), webhooks: Some(0), bytes_per_day: Some(2 << 20) };
    assert_eq!(quotas, expected);
    for (flag, value) in [
        ("--quota-events-per-second", "0"),
        ("--quota-events-per-second", "many"),
        ("--quota-pending", "-1"),
        ("--quota-webhooks", "x"),
        ("--quota-bytes-per-day", "1MiB"),
    ] {
        let problems = read(&[flag, value], &[], None).unwrap_err();
        assert!(problems.to_string().contains(flag), "{problems}");
    }
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
fn tls_and_required_credentials_make_other_addresses_safe() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let paths = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], certificate.pem()).unwrap();
    std::fs::write(&paths[1], key.serialize_pem()).unwrap();
    let [cert, key] = paths.each_ref().map(|path| path.to_str().unwrap());
    let tls = ["--tls-cert", cert, "--tls-key", key];
    let outside = ["--listen", "0.0.0.0:1"];
    let config = read(&[&outside[..], &tls, &["--require-auth"]].concat(), &[], None).unwrap();
    assert!(config.require_auth && config.serve.tls.is_some());
    let refused = |flags: &[&str], source: &str, message: &str| {
        let Problems(problems) = read(flags, &[], None).unwrap_err();
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(problem.source == source && problem.message.contains(message), "{problem:?}");
    };
    refused(&[&outside[..], &tls].concat(), "--listen", "--require-auth");
    refused(&[&outside[..], &["--require-auth"]].concat(), "--listen", "--tls-cert");
    refused(
        &["--ops", "0.0.0.0:1", "--tls-cert", cert, "--tls-key", key, "--require-auth"],
        "--ops",
        "--insecure-listen",
    );
    refused(&tls[..2], "--tls-cert", "tls-key");
    refused(&tls[2..], "--tls-key", "tls-cert");
    refused(&["--tls-client-ca", cert], "--tls-client-ca", "tls-cert");
    refused(&["--tls-client-rights", "a=read@*"], "--tls-client-rights", "tls-client-ca");
    let grants = ["--tls-client-ca", cert, "--tls-client-rights", "a=read@*,b=publish@x+y"];
    let config = read(&[&tls[..], &grants].concat(), &[], None).unwrap();
    assert_eq!(config.grants.iter().map(|grant| &*grant.name).collect::<Vec<_>>(), ["a", "b"]);
    refused(&["--tls-cert", key, "--tls-key", key], "--tls-cert", "no certificate");
    refused(&["--tls-cert", cert, "--tls-key", cert], "--tls-key", "no private key");
    refused(&[&tls[..], &["--tls-client-ca", "/nonexistent.pem"]].concat(), "--tls-client-ca", "/nonexistent.pem");
}

#[test]
fn authorities_are_read_from_their_file() {
    use rcgen::Certificate;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let file = path.to_str().unwrap();
    let certificate = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert;
    let all = [certificate("a.test"), certificate("b.test")];
    std::fs::write(&path, all.each_ref().map(Certificate::pem).concat()).unwrap();
    let config = read(&["--ca-file", file], &[], None).unwrap();
    assert_eq!(config.deliver.authorities, all.each_ref().map(|one| one.der().clone()));
    assert!(read(&["--ca-file", "none"], &[], None).unwrap().deliver.authorities.is_empty());
    for (content, says) in [("", "has none"), ("-----BEGIN CERTIFICATE-----\n", "well-formed")] {
        std::fs::write(&path, content).unwrap();
        let Problems(problems) = read(&["--ca-file", file], &[], None).unwrap_err();
        assert!(problems[0].source == "--ca-file" && problems[0].message.contains(says), "{problems:?}");
    }
    std::fs::remove_file(&path).unwrap();
    let Problems(problems) = read(&["--ca-file", file], &[], None).unwrap_err();
    assert!(problems[0].message.contains("ca.pem` cannot be read"), "{problems:?}");
}

#[test]
fn the_egress_proxy_is_named_by_its_url_and_known_by_a_file() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    let file = path.to_str().unwrap();
    let write = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    assert!(
        read(&[], &[("HTTPS_PROXY", "http://p.test:1"), ("https_proxy", "http://p.test:1")], None)
            .unwrap()
            .deliver
            .proxy
            .is_none()
    );
    let flags = ["--egress-proxy", "http://p.test:3128", "--egress-proxy-credentials", file];
    write("ravi:s3cret\n", 0o600);
    let proxy = read(&flags, &[], None).unwrap().deliver.proxy.unwrap();
    assert_eq!(*proxy, deliver::Proxy::parse("http://p.test:3128", Some("ravi:s3cret")).unwrap());
    let refused = |flags: &[&str], source: &str, says: &str| {
        let Problems(problems) = read(flags, &[], None).unwrap_err();
        let told = problems.iter().any(|problem| problem.source == source && problem.message.contains(says));
        assert!(told && !format!("{problems:?}").contains("s3cret"), "{problems:?}");
    };
    refused(&flags[2..], "--egress-proxy-credentials", "means nothing");
    refused(&["--egress-proxy", "http://ravi:s3cret@p.test"], "--egress-proxy", "no credentials in it");
    refused(&["--egress-proxy", "socks5://p.test"], "--egress-proxy", "http://");
    write("s3cret", 0o600);
    refused(&flags, "--egress-proxy-credentials", "USER:PASSWORD");
    write("ravi:s3cret", 0o640);
    refused(&flags, "--egress-proxy-credentials", "0640");
    std::fs::remove_file(&path).unwrap();
    refused(&flags, "--egress-proxy-credentials", "cannot be read");
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
fn the_size_of_what_is_kept_is_unlimited_or_not_too_small() {
    let bytes = |size: &str| read(&["--retention-bytes", size], &[], None).map(|config| config.store.retention_bytes);
    assert_eq!(read(&[], &[], None).unwrap().store.retention_bytes, None);
    assert_eq!(bytes("none").unwrap(), None);
    assert_eq!(bytes("64MiB").unwrap(), Some(64 << 20));
    assert_eq!(bytes("2TiB").unwrap(), Some(2 << 40));
    for (wrong, problem) in [("63MiB", "64MiB"), ("0", "64MiB"), ("1GB", "GiB"), ("all", "GiB")] {
        let Problems(problems) = bytes(wrong).unwrap_err();
        assert!(problems[0].source == "--retention-bytes" && problems[0].message.contains(problem), "{problems:?}");
    }
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

#[test]
fn the_master_key_has_one_source() {
    let source = |flags: &[&str], variable: &str, file: &str| {
        read(flags, &[("POSTRIDER_MASTER_KEY", variable)], Some(file)).map(|config| config.store.master_key)
    };
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert_eq!(source(&[], "", "").unwrap(), KeySource::Directory);
    assert_eq!(source(&[], "", "master-key-file = '/k'").unwrap(), KeySource::File("/k".into()));
    assert!(matches!(source(&[], key, "").unwrap(), KeySource::Given("POSTRIDER_MASTER_KEY", _)));
    assert!(source(&["--require-master-key", "--master-key-file", "/k"], "", "").is_ok());
    assert!(source(&["--require-master-key"], key, "").is_ok());
    let refused = |flags: &[&str], variable: &str, file: &str, place: &str, message: &str| {
        let Problems(problems) = source(flags, variable, file).unwrap_err();
        let shown = format!("{problems:?}");
        assert_eq!(problems.len(), 1, "{shown}");
        assert!(problems[0].source.ends_with(place) && problems[0].message.contains(message), "{shown}");
        assert!(!shown.contains("AAAA"), "{shown}");
    };
    refused(&["--require-master-key"], "", "", "--require-master-key", "--master-key-file");
    refused(&["--master-key-file", "/k"], key, "", "--master-key-file", "leave one of them out");
    refused(&[], "AAAA", "", "POSTRIDER_MASTER_KEY", "base64 of 32 bytes");
    refused(&[], "", &format!("master-key = '{key}'"), "master-key", "POSTRIDER_MASTER_KEY");
    refused(&["--master-key=x"], "", "", "command line", "--master-key");
}

#[test]
fn a_rotation_takes_the_same_settings_wherever_they_stand() {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let rotation = |args: &str, new: &str| {
        let args = args.split(' ').map(OsString::from);
        let variable = |name: &str| (name == "POSTRIDER_NEW_MASTER_KEY").then(|| new.into());
        match Command::read(args, &variable)? {
            Command::RotateMasterKey(config, new) => Ok((*config, new)),
            other @ (Command::Run(_)
            | Command::Backup(..)
            | Command::Restore(..)
            | Command::Check(_)
            | Command::Print(_)) => panic!("{other:?}"),
        }
    };
    for args in ["d rotate-master-key --data /x --log debug", "d --data /x --log debug rotate-master-key"] {
        let (config, new) = rotation(args, "").unwrap();
        assert_eq!(config.data, PathBuf::from("/x"));
        assert_eq!(config.telemetry.filter, telemetry::Filter::parse("debug").unwrap());
        assert_eq!((config.store.master_key, new), (KeySource::Directory, None));
    }
    let (config, new) = rotation("d rotate-master-key --master-key-file /a --new-master-key-file /b", "").unwrap();
    assert_eq!((config.store.master_key, new), (KeySource::File("/a".into()), Some(KeySource::File("/b".into()))));
    let (_, new) = rotation("d rotate-master-key --master-key-file /a", key).unwrap();
    assert!(matches!(new, Some(KeySource::Given("POSTRIDER_NEW_MASTER_KEY", _))));
    let refused = |args: &str, new: &str| {
        let Problems(problems) = rotation(args, new).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(!format!("{problems:?}").contains("AAAA"), "{problems:?}");
        problems[0].message.clone()
    };
    assert!(refused("d rotate-master-key --master-key-file /a", "").contains("--new-master-key-file"));
    assert!(refused("d rotate-master-key --new-master-key-file /a", key).contains("leave one"));
    assert!(refused("d rotate-master-key", "AAAA").contains("base64"));
}
