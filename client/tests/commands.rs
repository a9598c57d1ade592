//! The command line tool as scripts see it: exit code, standard output and standard error. No server runs here: they are
//! refused, or never answered.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:9";

fn postrider(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postrider")).args(arguments).output().expect("the tool can be started")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn failures_are_objects_for_programs_and_text_for_people() {
    for (arguments, exit_code, code, text) in [
        (&["webhooks", "get", "wh_1"][..], 2, "INVALID_ARGUMENT", "invalid value 'wh_1'"),
        (&["deliveries", "get", "dlv_1"], 2, "INVALID_ARGUMENT", "invalid value 'dlv_1'"),
        (&["watch", "--timeout", "0s"], 2, "INVALID_ARGUMENT", "longer than zero"),
        (&["webhooks", "list", "--server", "ftp://host"], 2, "INVALID_ARGUMENT", "not an http or https URL"),
        (&["webhooks", "list", "--server", NOWHERE], 4, "UNAVAILABLE", "refused"),
        (&["watch", "--timeout", "1s", "--server", NOWHERE], 4, "UNAVAILABLE", "refused"),
        (
            &["publish", "--type", "A", "--body", "1", "--id", "e-1", "--server", NOWHERE],
            4,
            "UNAVAILABLE",
            "may be published again",
        ),
        (&["publish", "--type", "A", "--body-file", "/nowhere/at/all"], 1, "LOCAL", "cannot read"),
        (&["keys", "list", "--api-key-file", "/nowhere/at/all"], 1, "LOCAL", "cannot read"),
        (&["keys", "list", "--server", "https://h", "--ca-cert", "/nowhere/at/all"], 1, "LOCAL", "cannot read"),
        (&["keys", "list", "--server", "http://h", "--ca-cert", "/dev/null"], 2, "INVALID_ARGUMENT", "not encrypted"),
    ] {
        let people = postrider(arguments);
        assert_eq!(people.status.code(), Some(exit_code), "{arguments:?}: {}", stderr(&people));
        assert!(stderr(&people).contains(text), "{arguments:?}: {}", stderr(&people));
        assert!(!String::from_utf8_lossy(&people.stdout).contains('{'), "{arguments:?}");

        let programs = postrider(&[arguments, &["-o", "json"]].concat());
        assert_eq!(programs.status.code(), Some(exit_code), "{arguments:?}");
        assert_eq!(stderr(&programs).lines().next(), stderr(&people).lines().next(), "{arguments:?}");
        let lines = lines(&programs);
        assert_eq!(lines.len(), 1, "{arguments:?}: {lines:?}");
        let error = &lines[0]["error"];
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(text)), "{error}");
        assert!(error["violations"].is_array() && error["reason"].is_null(), "{error}");
    }
}

#[test]
fn a_key_is_never_repeated() {
    for key in ["prk_canary key", "prk_canary"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(["webhooks", "list", "--server", NOWHERE, "-o", "json"]).env("POSTRIDER_API_KEY", key);
        let output = command.output().expect("the tool can be started");
        assert!(!output.status.success());
        let said = format!("{}{}", stderr(&output), String::from_utf8_lossy(&output.stdout));
        assert!(!said.contains("canary"), "{said}");
    }
    let help = postrider(&["keys", "create", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("POSTRIDER_API_KEY"));
}

#[test]
fn help_is_no_failure() {
    let help = postrider(&["watch", "--help", "-o", "json"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Examples:"));
}

/// What bash makes of a script, read from standard input.
fn bash(arguments: &[&str], script: &[u8]) -> Output {
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut bash = bash.stderr(Stdio::piped()).spawn().expect("bash can be started");
    bash.stdin.take().expect("it is piped").write_all(script).expect("bash reads");
    bash.wait_with_output().expect("bash ends")
}

#[test]
fn completions_are_understood_and_complete() {
    let script = postrider(&["completions", "bash"]);
    assert_eq!(script.status.code(), Some(0), "{}", stderr(&script));
    let checked = bash(&["-n"], &script.stdout);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", stderr(&checked));
    for (typed, expected) in [
        ("postrider web", "webhooks"),
        ("postrider webhooks rot", "rotate-secret"),
        ("postrider webhooks list --fail", "--failing"),
        ("postrider webhooks list --order name-", "name-desc"),
        ("postrider deliveries ca", "cancel"),
    ] {
        let words: Vec<_> = typed.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let complete = format!(
            "\nCOMP_WORDS=({typed}); COMP_CWORD={}; _postrider postrider {last} {before}; echo \"${{COMPREPLY[@]}}\"\n",
            words.len() - 1
        );
        let completed = bash(&["-s"], &[&script.stdout, complete.as_bytes()].concat());
        assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), expected, "{typed}: {}", stderr(&completed));
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = postrider(&["completions", shell]);
        assert!(String::from_utf8_lossy(&script.stdout).contains("rotate-secret"), "{shell}");
    }
}

#[test]
fn malformed_lines_come_before_the_totals() {
    let path = std::env::temp_dir().join(format!("postrider-lines-{}", std::process::id()));
    fs::write(&path, "{}\n\n{\"type\": \"A\"}\n").expect("the file can be written");
    let file = path.to_str().expect("the path is text");
    let output = postrider(&["publish", "--ndjson", file, "-o", "json", "--server", NOWHERE]);
    fs::remove_file(&path).expect("the file can be removed");
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, number) in lines.iter().zip([1, 3]) {
        let rejected = &line["rejected"];
        assert_eq!((&rejected["line"], &rejected["code"]), (&number.into(), &"INVALID_ARGUMENT".into()), "{line}");
        assert!(rejected["event_id"].is_null(), "{line}");
    }
    assert_eq!(lines[2]["rejected"], 2);
    assert!(stderr(&output).contains("line 3: exactly one of body"), "{}", stderr(&output));
}

#[test]
fn a_server_that_says_nothing_is_given_up_even_by_who_waits_for_idleness() {
    // Connections are made and never taken.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let server = silent.local_addr().expect("it is bound").to_string();
    let started = Instant::now();
    let output =
        postrider(&["watch", "--timeout", "1s", "--until-idle", "1ms", "--output", "json", "--server", &server]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(lines(&output)[0]["error"]["code"], "DEADLINE_EXCEEDED");
    assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&started.elapsed()), "{:?}", started.elapsed());
}
