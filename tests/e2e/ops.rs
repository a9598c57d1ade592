//! Seen while it runs: metrics and health of the real daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use postrider_proto::v1::Event;
use postrider_tests::{
    client::{Client, Verdict, verdict},
    daemon::{Daemon, Setup},
    deadline::within,
    events::{event, numbered},
    ops::{self, Scrape},
    receiver::{Answer, Receiver, closed_port},
    tools,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{BINARY, patient};

/// A daemon that can be looked at, and does not try again soon what failed.
fn observed() -> Setup {
    patient().flag("--ops", "127.0.0.1:0")
}

fn counts<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected.into_iter().map(|(label, count)| (label.to_owned(), count)).collect()
}

/// Issue 3, "seen while it runs": what is counted is what was published, delivered and failed, each under its class; and
/// gauges tell what is pending.
#[tokio::test]
async fn the_metrics_tell_what_happened() {
    let daemon = observed().start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let receiver = Receiver::start(|request| match request.path.as_str() {
        "/fine" => Answer::status(204),
        "/gone" => Answer::status(410),
        "/moved" => Answer::with_header(302, "location", "/fine"),
        "/broken" => Answer::status(503),
        _ => Answer::Reset,
    })
    .await;
    client.create(&receiver.url("/fine"), &["*"]).await;
    client.create(&receiver.url("/gone"), &["NEW_LEAD"]).await;
    client.create(&receiver.url("/moved"), &["NEW_LEAD"]).await;
    client.create(&receiver.url("/broken"), &["NEW_LEAD"]).await;
    client.create(&receiver.url("/reset"), &["NEW_LEAD"]).await;
    client.create(&format!("http://127.0.0.1:{}/", closed_port()), &["NEW_LEAD"]).await;
    client.publish(numbered("tag", "ADD_TAG", 20)).await;
    client.publish([event("lead", "NEW_LEAD", "{}")]).await;
    let (replies, _) = client.publish_all(numbered("tag", "ADD_TAG", 3)).await;
    assert_eq!(replies.len(), 3);

    let settled = |scrape: &Scrape| scrape.by_label("outcomes_total").values().sum::<u64>() == 26;
    let scrape = Scrape::until(address, "26 outcomes", settled).await;
    assert_eq!(scrape.by_label("events_accepted_total"), counts([("new", 21), ("duplicate", 3)]));
    assert_eq!(scrape.by_label("events_rejected_total"), counts([]));
    let classes = counts([("2xx", 21), ("3xx", 1), ("4xx", 1), ("5xx", 1), ("connect", 1), ("protocol", 1)]);
    assert_eq!(scrape.by_label("attempts_total"), classes);
    let conclusions = counts([("delivered", 21), ("failed", 1), ("deferred", 4)]);
    assert_eq!(scrape.by_label("outcomes_total"), conclusions);
    let expected = [
        ("attempts_started_total", 26),
        ("attempt_duration_seconds_count", 26),
        ("publish_to_first_attempt_seconds_count", 26),
        ("publish_ack_seconds_count", 24),
        ("webhooks", 6),
        ("webhooks_disabled_total", 1),
        ("deliveries_pending", 4),
        ("deliveries_in_flight_limit", 512),
        ("attempts_in_flight", 0),
        ("store_open", 1),
        ("store_reopenings_total", 0),
        ("store_commit_events_sum", 21),
        ("ready", 1),
    ];
    for (name, value) in expected {
        assert_eq!(scrape.count(name), value, "{name}");
    }
    // Each webhook was created by a commit of its own, and each publish stream ended with one.
    assert!(scrape.count("store_commit_duration_seconds_count") >= 9);
    assert_eq!(scrape.count("store_commit_outcomes_sum"), 26);
    assert!(scrape.value(r#"store_disk_bytes{part="hot"}"#) > 0.0);
    assert!(scrape.value("oldest_due_age_seconds") < 60.0, "what failed is due in an hour");
    daemon.stop().await;
}

/// An event that is refused counts under the reason its caller is told, and under no other.
#[tokio::test]
async fn rejections_are_counted_by_reason() {
    let daemon = observed().flag("--max-pending", "1").start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    client.create(&format!("http://127.0.0.1:{}/", closed_port()), &["NEW_LEAD"]).await;
    let events = vec![
        event("first", "ADD_TAG", "{}"),
        event("first", "ADD_TAG", "{\"other\": 1}"),
        event("x/y", "ADD_TAG", "{}"),
        Event { payload: None, ..event("none", "ADD_TAG", "{}") },
        event("unknown", "ADD-TAG", "{}"),
        event("lead", "NEW_LEAD", "{}"),
        event("one too many", "NEW_LEAD", "{}"),
        event("full", "NEW_LEAD", "{}"),
    ];
    let (replies, ended) = client.publish_all(events).await;
    ended.expect("the stream ends well");
    let mut expected = BTreeMap::new();
    for reply in &replies {
        if let Verdict::Rejected(rejection) = verdict(reply) {
            *expected.entry(rejection.reason).or_default() += 1;
        }
    }
    let reasons = [("BACKLOG_FULL", 1), ("EVENT_ID_REUSED", 1), ("INVALID_FIELD", 3), ("UNKNOWN_EVENT_TYPE", 1)];
    assert_eq!(expected, counts(reasons));
    let scrape = Scrape::of(address).await;
    assert_eq!(scrape.by_label("events_rejected_total"), expected);
    assert_eq!(scrape.by_label("events_accepted_total"), counts([("new", 2)]));
}

/// A parser nobody here wrote accepts the exposition of a daemon that has done something, and finds the same values in it.
#[tokio::test]
async fn the_reference_parser_accepts_the_metrics() {
    let Some(python) = tools::python_with_prometheus_client() else { return };
    let daemon = observed().start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;
    let mut watch = client.watch().await;
    client.publish(numbered("e", "ADD_TAG", 10)).await;
    watch.outcomes(10).await;

    let answer = ops::get(address, "/metrics").await;
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    let parse = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
print(json.dumps([[f.name, f.type, f.unit, f.documentation, len(f.samples)] for f in families]))
value = {f.name: f.samples for f in families}
print(json.dumps(sorted({label for f in families for s in f.samples for label in s.labels})))
print(json.dumps([s.value for s in value['postrider_attempts'] if s.labels == {'class': '2xx'}]))
";
    let mut command = Command::new(&python);
    let mut child = command.args(["-c", parse]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
    child.stdin.take().expect("a pipe").write_all(answer.body.as_bytes()).expect("python reads");
    let output = child.wait_with_output().expect("python ends");
    assert!(output.status.success(), "the parser refused:\n{}", answer.body);
    let output = String::from_utf8(output.stdout).expect("JSON");
    let mut lines = output.lines();
    let (families, labels, attempts) = (lines.next().expect("3"), lines.next().expect("3"), lines.next().expect("3"));
    let families: Vec<(String, String, String, String, usize)> = serde_json::from_str(families).expect("JSON");
    assert!(families.len() > 30, "{families:#?}");
    for (name, kind, unit, help, samples) in &families {
        assert!(!help.is_empty() && *samples > 0, "{name} {help} {samples}");
        assert!(["counter", "gauge", "histogram", "info"].contains(&kind.as_str()), "{name} is a {kind}");
        assert!(unit.is_empty() || name.ends_with(unit.as_str()), "{name} in {unit}");
    }
    assert_eq!(attempts, "[10]");
    // Enums all of them: nothing that grows with tenants, webhooks or receivers.
    let bounded = r#"["class", "conclusion", "error", "le", "novelty", "part", "queue", "reason", "version"]"#;
    assert_eq!(labels, bounded);
    for name in ["process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds", "postrider_build"] {
        assert!(families.iter().any(|family| family.0 == name), "{name} in {families:#?}");
    }
}

/// The README's table has every metric there is, and none that is not.
#[tokio::test]
async fn the_manual_names_every_metric() {
    let daemon = observed().start().await;
    let exposition = ops::get(daemon.ops().await, "/metrics").await.body;
    let families = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE postrider_")?.split_once(' '));
    let present: BTreeSet<_> = families
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("there is a README");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `postrider_")?.split_once(" |"));
    let names = rows.flat_map(|(names, _)| names.split("`, `postrider_"));
    let told: BTreeSet<_> = names.map(|name| name.split(['`', '{']).next().unwrap_or_default().to_owned()).collect();
    assert_eq!(told, present);
}

/// Watch streams count while they are open, and the lag is that of the one that does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_seen_to_be_behind() {
    let daemon = observed().start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let receiver = Receiver::answering(200).await;
    for path in ["/a", "/b", "/c", "/d"] {
        client.create(&receiver.url(path), &["*"]).await;
    }
    let mut keen = client.watch().await;
    // A connection that takes little ahead, and long ids, so that little is needed to fall behind.
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address())).expect("an address makes a URL");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let channel = within("a connection", Box::pin(endpoint.connect())).await.expect("it listens");
    let mut idle = Client::new(channel).watch().await;
    assert_eq!(Scrape::of(address).await.count("watch_streams"), 2);
    client.publish(numbered(&"x".repeat(58), "ADD_TAG", 600)).await;
    keen.outcomes(2400).await;
    // What fits into the buffers on the way is still being given.
    let stuck = |scrape: &Scrape| {
        let (lag, given) = (scrape.count("watch_lag_entries"), scrape.count("watch_entries_total"));
        lag > 0 && lag + given == 4800
    };
    Scrape::until(address, "one stream behind by what was not given", stuck).await;
    idle.outcomes(2400).await;
    let scrape = Scrape::of(address).await;
    assert_eq!((scrape.count("watch_lag_entries"), scrape.count("watch_entries_total")), (0, 4800));
    drop((keen, idle));
    Scrape::until(address, "no stream", |scrape| scrape.count("watch_streams") == 0).await;
}

/// A daemon whose files may not grow beyond this, so that its disk seems full.
fn cramped(directory: &std::path::Path, kibibytes: usize) -> Setup {
    let script = directory.join("cramped");
    // The unit of `ulimit -f` is 512 bytes. The signal that comes with the limit would end the daemon.
    let blocks = kibibytes * 2;
    let text = format!("#!/bin/sh\ntrap '' XFSZ\nulimit -f {blocks}\nexec '{BINARY}' \"$@\"\n");
    fs::write(&script, text).expect("a script can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script can be made executable");
    let script = script.to_str().expect("a temporary directory has a plain name");
    Setup::new(script).flag("--ops", "127.0.0.1:0").flag("--retry-schedule", "1h")
}

/// Publishes large events until the store fails; returns how many it refused.
async fn fill(daemon: &Daemon) -> u64 {
    let client = daemon.client().await;
    for n in 0..1000 {
        let body = format!("\"{}\"", "x".repeat(512 * 1024));
        let (replies, _) = client.publish_all([event(&format!("e-{n}"), "ADD_TAG", body)]).await;
        match verdict(&replies[0]) {
            Verdict::Accepted { .. } => {}
            Verdict::Rejected(rejection) => {
                assert_eq!(rejection.reason, "DISK_FULL", "{rejection:?}");
                return 1;
            }
        }
    }
    panic!("the store never failed");
}

/// While the store has failed and cannot be opened, the daemon is alive and not ready, and its gRPC health says the same; when
/// it can be opened again, both recover by themselves.
#[tokio::test]
async fn a_store_that_failed_is_not_ready_until_it_is_open_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let setup = cramped(directory.path(), 16 * 1024);
    let daemon = setup.start().await;
    let address = daemon.ops().await;
    let mut health = daemon.health().await;
    assert_eq!(health.next_status().await, Some(ServingStatus::Serving));
    assert_eq!(ops::ready(address).await, (true, "ok".to_owned()));

    // A file that is not where it was is not opened again.
    let (hot, aside) = (setup.data().join("hot.redb"), setup.data().join("aside"));
    fs::rename(&hot, &aside).expect("a file can be moved");
    let refused = fill(&daemon).await;
    ops::until_told(address, "the store failed").await;
    assert_eq!(health.next_status().await, Some(ServingStatus::NotServing));
    assert_eq!(ops::get(address, "/livez").await.status, 200);
    let scrape = Scrape::of(address).await;
    assert_eq!(scrape.by_label("events_rejected_total"), counts([("DISK_FULL", refused)]));
    assert_eq!((scrape.count("store_open"), scrape.count("ready")), (0, 0));
    assert!(scrape.count("store_commit_failures_total") >= 1);
    assert_eq!(scrape.count("store_reopenings_total"), 0);

    fs::rename(&aside, &hot).expect("a file can be moved");
    ops::until_told(address, "ok").await;
    assert_eq!(health.next_status().await, Some(ServingStatus::Serving));
    let scrape = Scrape::of(address).await;
    assert_eq!((scrape.count("store_open"), scrape.count("store_reopenings_total")), (1, 1));
}

/// While the daemon drains it is alive and not ready. Somebody who hangs on to the port does not delay its end.
#[tokio::test]
async fn it_answers_while_it_stops_and_is_not_held_up() {
    let daemon = observed().flag("--shutdown-grace", "20s").start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let receiver = Receiver::start(|_| Answer::after(Duration::from_secs(5), 200)).await;
    client.create(&receiver.url("/"), &["*"]).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    receiver.received(1).await;
    assert_eq!(Scrape::of(address).await.count("attempts_in_flight"), 1);
    daemon.terminate();
    ops::until_told(address, "stopping").await;
    assert_eq!(ops::get(address, "/livez").await.status, 200);
    let scrape = Scrape::of(address).await;
    assert_eq!((scrape.count("ready"), scrape.count("attempts_in_flight")), (0, 1), "it is still draining");
    let mut half = TcpStream::connect(address).await.expect("it listens");
    half.write_all(b"GET /met").await.expect("it reads");
    let ended = daemon.ended(Duration::from_secs(20)).await;
    assert!(ended.status.success(), "{}\n{}", ended.status, ended.log);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

/// A crowd of clients that say nothing, or too much, on the port for metrics does not touch what the daemon is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_crowd_at_the_metrics_harms_nobody() {
    let daemon = observed().start().await;
    let (client, address) = (daemon.client().await, daemon.ops().await);
    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;
    let mut crowd = Vec::new();
    // Two places less than there are stay taken for as long as somebody may be silent.
    for n in 0..45 {
        let mut stream = within("a connection", TcpStream::connect(address)).await.expect("it listens");
        let said = match n % 3 {
            0 => Vec::new(),
            1 => b"GET /metrics HTTP/1.1\r\nhost".to_vec(),
            _ => [b"GET /metrics HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 32 * 1024]].concat(),
        };
        // Whom it has heard enough of it closes.
        let _refused = stream.write_all(&said).await;
        crowd.push(stream);
    }
    client.publish(numbered("e", "ADD_TAG", 100)).await;
    receiver.received(100).await;
    assert_eq!(ops::ready(address).await, (true, "ok".to_owned()));
    drop(crowd);
    daemon.stop().await;
}
