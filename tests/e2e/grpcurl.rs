//! Nothing but grpcurl 1.8.6, which knows the contract only through reflection (v1alpha).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postrider_tests::{
    deadline::within,
    payloads::{DOCUMENTED, FRAGILE},
    receiver::Receiver,
    tools,
};
use serde_json::{Deserializer, Value, json};
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::setup;

const SERVICES: [&str; 5] = ["WebhookService", "EventTypeService", "EventService", "DeliveryService", "ReplayService"];

#[derive(Clone)]
struct Grpcurl {
    program: PathBuf,
    address: SocketAddr,
}

impl Grpcurl {
    fn command(&self, flags: &[&str], rest: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-plaintext").args(flags).arg(self.address.to_string()).args(rest);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end, with `input` on standard input.
    async fn run(&self, flags: &[&str], rest: &[&str], input: String) -> Output {
        let mut command = self.command(flags, rest);
        let run = spawn_blocking(move || {
            let mut child = command.spawn().expect("grpcurl starts");
            // What is written here fits a pipe's buffer or is read as it comes; grpcurl prints only after reading.
            child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes()).expect("grpcurl reads");
            child.wait_with_output().expect("grpcurl ends")
        });
        within("grpcurl to end", run).await.expect("waiting does not panic")
    }

    /// Calls `postrider.v1.{method}` and returns the replies.
    async fn call(&self, method: &str, requests: &[Value]) -> Vec<Value> {
        let input = requests.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let output = self.run(&["-d", "@"], &[&format!("postrider.v1.{method}")], input).await;
        assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        let replies = Deserializer::from_slice(&output.stdout).into_iter::<Value>();
        replies.collect::<Result<_, _>>().expect("grpcurl prints JSON")
    }

    /// Prints what `list` or `describe` prints.
    async fn print(&self, rest: &[&str]) -> String {
        let output = self.run(&[], rest, String::new()).await;
        assert!(output.status.success(), "{rest:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("grpcurl prints text")
    }
}

/// A grpcurl that follows a stream, killed on drop.
struct Following {
    child: Child,
    replies: mpsc::Receiver<Value>,
}

impl Following {
    fn start(grpcurl: &Grpcurl, method: &str, request: &Value) -> Self {
        let request = request.to_string();
        let mut command = grpcurl.command(&["-d", &request], &[&format!("postrider.v1.{method}")]);
        let mut child = command.spawn().expect("grpcurl starts");
        let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, replies) = mpsc::channel(1024);
        thread::spawn(move || {
            // A reply ends at a closing brace in the first column.
            let mut text = String::new();
            for line in output.lines().map_while(Result::ok) {
                text.push_str(&line);
                if line.starts_with('}') {
                    let reply = serde_json::from_str(&text).expect("grpcurl prints JSON");
                    if sender.blocking_send(reply).is_err() {
                        return;
                    }
                    text.clear();
                }
            }
        });
        Self { child, replies }
    }

    async fn next(&mut self) -> Value {
        within("a message on grpcurl's stream", self.replies.recv()).await.expect("grpcurl runs")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Done-item 2: list, describe, create, publish all eleven, watch, list, delete — with grpcurl alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_alone_does_the_whole_job() {
    let Some(program) = tools::grpcurl() else { return };
    let daemon = setup().start().await;
    let grpcurl = Grpcurl { program, address: daemon.address() };
    let receiver = Receiver::answering(200).await;
    check_reflection(&grpcurl).await;

    let webhook = json!({"url": receiver.url("/"), "event_types": ["*"]});
    let created = grpcurl.call("WebhookService/CreateWebhook", &[json!({"webhook": webhook})]).await.remove(0);
    let id = created["webhook"]["id"].as_str().expect("an id").to_owned();
    assert!(created["signingSecret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{created}");
    assert_eq!(created["webhook"]["enabled"], true, "{created}");
    let mut watch = Following::start(&grpcurl, "DeliveryService/WatchDeliveries", &json!({}));
    assert!(watch.next().await["cursor"].is_string(), "a watch starts with its cursor");

    let listed = grpcurl.call("EventTypeService/ListEventTypes", &[json!({})]).await.remove(0);
    let types = listed["eventTypes"].as_array().expect("event types").clone();
    let of_ours = |listed: &&Value| listed["name"].as_str().is_some_and(|name| name.starts_with("postrider."));
    assert_eq!(types.len() - types.iter().filter(of_ours).count(), 11);
    let examples = types.iter().map(|listed| {
        let example: Value = serde_json::from_str(listed["example"].as_str().expect("an example")).expect("JSON");
        json!({"event": {"type": listed["name"], "data": example}})
    });
    let exact = DOCUMENTED.map(|(name, body)| (name, body.as_bytes())).into_iter();
    let exact: Vec<_> = exact.chain(FRAGILE.map(|(_, body)| ("NEW_LEAD", body))).collect();
    let bodies = exact.iter().enumerate().map(
        |(n, (name, body))| json!({"event": {"id": format!("exact-{n}"), "type": name, "body": STANDARD.encode(body)}}),
    );
    let requests: Vec<_> = examples.chain(bodies).collect();
    let replies = grpcurl.call("EventService/PublishEvents", &requests).await;
    assert_eq!(replies.len(), requests.len());
    for reply in &replies {
        assert_eq!(reply["accepted"]["deliveries"], 1, "{reply}");
    }

    let arrived = receiver.received(requests.len()).await;
    for (n, (_, body)) in exact.iter().enumerate() {
        let request = arrived.iter().find(|request| request.event_id == format!("exact-{n}"));
        assert_eq!(request.expect("it arrives").body, *body);
    }
    let mut delivered = 0;
    while delivered < requests.len() {
        let message = watch.next().await;
        for update in message["updates"].as_array().into_iter().flatten() {
            assert_eq!(update["outcome"]["state"], "DELIVERY_STATE_DELIVERED", "{update}");
            delivered += 1;
        }
    }
    check_records(&grpcurl, &id, requests.len()).await;
}

async fn check_reflection(grpcurl: &Grpcurl) {
    let services = grpcurl.print(&["list"]).await;
    for service in SERVICES {
        let service = format!("postrider.v1.{service}");
        assert!(services.lines().any(|line| line == service), "{services}");
        assert!(grpcurl.print(&["describe", &service]).await.contains("rpc "), "{service}");
    }
    for service in ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"] {
        assert!(services.lines().any(|line| line == service), "{service} is not in {services}");
    }
    assert!(grpcurl.print(&["list", "postrider.v1.EventService"]).await.contains("PublishEvents"));
    assert!(grpcurl.print(&["describe", "postrider.v1.Event"]).await.contains("ordering_key"));
    let health = grpcurl.run(&["-d", "{}"], &["grpc.health.v1.Health/Check"], String::new()).await;
    assert!(String::from_utf8_lossy(&health.stdout).contains("SERVING"));
}

async fn check_records(grpcurl: &Grpcurl, id: &str, deliveries: usize) {
    let listed = grpcurl.call("DeliveryService/ListDeliveries", &[json!({"webhook_id": id, "page_size": 1000})]).await;
    let listed = listed[0]["deliveries"].as_array().expect("deliveries");
    assert_eq!(listed.len(), deliveries);
    let read = grpcurl.call("DeliveryService/GetDelivery", &[json!({"id": listed[0]["id"]})]).await;
    assert_eq!(read[0]["attempts"].as_array().map(Vec::len), Some(1), "{}", read[0]);
    let listed = grpcurl.call("WebhookService/ListWebhooks", &[json!({})]).await;
    assert_eq!(listed[0]["webhooks"][0]["id"], id);
    let read = grpcurl.call("WebhookService/GetWebhook", &[json!({"id": id})]).await;
    assert_eq!(read[0]["webhook"], listed[0]["webhooks"][0]);
    grpcurl.call("WebhookService/DeleteWebhook", &[json!({"id": id})]).await;
    let gone = json!({"id": id}).to_string();
    let output = grpcurl.run(&["-d", &gone], &["postrider.v1.WebhookService/GetWebhook"], String::new()).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("NotFound"), "{output:?}");
}

/// Contract: grpcurl shows the details of an error, which it can only decode if reflection describes them.
#[tokio::test]
async fn grpcurl_shows_error_details() {
    let Some(program) = tools::grpcurl() else { return };
    let daemon = setup().start().await;
    let grpcurl = Grpcurl { program, address: daemon.address() };
    let request = json!({"webhook": {"url": "https://10.0.0.1/", "event_types": ["ADD_TAGS"]}}).to_string();
    let method = "postrider.v1.WebhookService/CreateWebhook";
    let output = grpcurl.run(&["-d", &request], &[method], String::new()).await;
    assert!(!output.status.success());
    let shown = String::from_utf8_lossy(&output.stderr);
    let expected = ["InvalidArgument", "google.rpc.ErrorInfo", "postrider.dev", "google.rpc.BadRequest", "webhook.url"];
    for expected in expected {
        assert!(shown.contains(expected), "{expected} is not in: {shown}");
    }
    // A rejection inside a reply carries its details packed; grpcurl unpacks them as well.
    let replies =
        grpcurl.call("EventService/PublishEvent", &[json!({"event": {"type": "ADD_TAGS", "data": {}}})]).await;
    let details = replies[0]["rejected"]["details"].as_array().expect("details");
    assert!(details.iter().any(|detail| detail["reason"] == "UNKNOWN_EVENT_TYPE"), "{details:?}");
}
