//! Somebody else's verifier, in somebody else's language.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postrider_proto::v1::DeliveryState;
use postrider_tests::{
    deadline::within,
    events::event,
    payloads::{DOCUMENTED, FRAGILE},
    tools,
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::setup;

/// A script of `tests/receivers` that prints a line for each request, killed on drop.
pub(crate) struct Verifier {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Verifier {
    pub(crate) fn start(program: &Path, script: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("receivers").join(script);
        let mut command = Command::new(program);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the receiver starts");
        let input = child.stdin.take().expect("stdin is a pipe");
        let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, lines) = mpsc::channel(1024);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, lines }
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> Value {
        let line = within("a line of the receiver", self.lines.recv()).await.expect("the receiver runs");
        serde_json::from_str(&line).expect("the receiver prints JSON")
    }

    /// Gives it a line to read.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the receiver reads");
    }

    /// Makes the reference verifier accept at `path` what is signed with `secret`.
    pub(crate) async fn trust(&mut self, path: &str, secret: &str) {
        self.trust_as(path, "standard", secret, "webhook-signature").await;
    }

    /// Makes the verifier of this kind accept at `path` what `key` says is right, looking for signatures in `header`.
    pub(crate) async fn trust_as(&mut self, path: &str, kind: &str, key: &str, header: &str) {
        self.say(&format!("{path} {kind} {key} {header}"));
        assert_eq!(self.line().await["known"], true);
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Done-item 3: the `standardwebhooks` verifier from the Python package index accepts every JSON delivery, and refuses one that was signed for
/// another webhook, so that its acceptance means something.
#[tokio::test]
async fn the_reference_verifier_accepts_every_delivery() {
    let Some(python) = tools::python_with_standardwebhooks() else { return };
    let mut verifier = Verifier::start(&python, "verify.py");
    let port = verifier.line().await;
    let daemon = setup().flag("--retry-schedule", "1h").start().await;
    let client = daemon.client().await;
    let right = client.create(&format!("http://127.0.0.1:{port}/right"), &["*"]).await;
    verifier.trust("/right", &right.secret).await;
    let mut watch = client.watch().await;

    let documented = DOCUMENTED.map(|(name, body)| (name, body.as_bytes()));
    let fragile = FRAGILE.map(|(_, body)| ("MESSAGE_RECEIVED", body));
    let bodies: HashMap<_, _> = (0..)
        .zip(documented.into_iter().chain(fragile))
        .map(|(n, (name, body))| (format!("e-{n}"), (name, body)))
        .collect();
    let events: Vec<_> = bodies.iter().map(|(id, &(name, body))| event(id, name, body)).collect();
    client.publish(events).await;
    for _ in 0..bodies.len() {
        let request = verifier.line().await;
        let id = request["id"].as_str().expect("an id");
        assert_eq!(request["accepted"], true, "{request}");
        let body = STANDARD.decode(request["body"].as_str().expect("a body")).expect("base64");
        assert_eq!(body, bodies[id].1, "{id}");
    }
    for outcome in watch.outcomes(bodies.len()).await {
        assert_eq!(outcome.state(), DeliveryState::Delivered, "{outcome:?}");
    }

    let wrong = client.create(&format!("http://127.0.0.1:{port}/wrong"), &["NEW_LEAD"]).await;
    assert_ne!(wrong.secret, right.secret);
    verifier.trust("/wrong", &right.secret).await;
    client.publish([event("wrong", "NEW_LEAD", "{}")]).await;
    let answers = [verifier.line().await, verifier.line().await];
    for answer in answers {
        assert_eq!(answer["accepted"], answer["path"] == "/right", "{answer}");
    }
}
