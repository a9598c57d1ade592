//! Erasing one event, and everything of a tenant: nothing is left in any file, and others notice nothing.

use std::{fs, path::Path};

use postrider_proto::v1::{
    EraseEventRequest, EraseTenantRequest, Erasure, ErasureSubject, Event, GetErasureRequest, GetEventRequest,
    GetWebhookRequest, ListDeliveriesRequest, ReplayEventsRequest, tenant_service_client::TenantServiceClient,
};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    daemon::Daemon,
    deadline::within,
    events::event,
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tonic::{Code, Status, transport::Channel};

use crate::{patient, setup};

/// A receiver that fails, and says something about the event.
async fn talkative() -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            let len = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..len]);
            let id = request.lines().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap_or_default();
            let answer = format!("canary-{id}-answer");
            let head = format!("HTTP/1.1 500 No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            let _sent = stream.write_all(format!("{head}{answer}").as_bytes()).await;
        }
    });
    (url, tasks)
}

async fn erase_event(client: &Client, tenant: &str, id: &str) -> Result<Erasure, Status> {
    let request = EraseEventRequest { tenant: tenant.to_owned(), id: id.to_owned() };
    let reply = within("EraseEvent", async { client.events.clone().erase_event(request).await }).await?;
    Ok(reply.into_inner().erasure.expect("a reply holds the erasure"))
}

async fn erase_tenant(
    tenants: &TenantServiceClient<Channel>,
    tenant: &str,
    request_id: &str,
) -> Result<Erasure, Status> {
    let request = EraseTenantRequest { tenant: tenant.to_owned(), request_id: request_id.to_owned() };
    let reply = within("EraseTenant", async { tenants.clone().erase_tenant(request).await }).await?;
    Ok(reply.into_inner().erasure.expect("a reply holds the erasure"))
}

async fn erasure(tenants: &TenantServiceClient<Channel>, tenant: &str, id: &str) -> Result<Erasure, Status> {
    let request = GetErasureRequest { tenant: tenant.to_owned(), id: id.to_owned() };
    let reply = within("GetErasure", async { tenants.clone().get_erasure(request).await }).await?;
    Ok(reply.into_inner().erasure.expect("a reply holds the erasure"))
}

async fn finished(tenants: &TenantServiceClient<Channel>, tenant: &str, id: &str) {
    let finished = async {
        while erasure(tenants, tenant, id).await.expect("it is remembered").finish_time.is_none() {
            tokio::task::yield_now().await;
        }
    };
    within("an erasure to end", finished).await;
}

async fn tenants(daemon: &Daemon) -> TenantServiceClient<Channel> {
    TenantServiceClient::new(daemon.channel().await)
}

async fn read(client: &Client, tenant: &str, id: &str) -> Result<Event, Status> {
    let request = GetEventRequest { tenant: tenant.to_owned(), id: id.to_owned() };
    let reply = within("GetEvent", async { client.events.clone().get_event(request).await }).await?;
    Ok(reply.into_inner().event.expect("a reply holds the event"))
}

/// The files below a directory that hold a text.
fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes())) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn marked(id: &str) -> Event {
    let body = format!(r#"{{"name":"canary-{id}-body"}}"#);
    let labels = [("label".to_owned(), format!("canary-{id}-label"))].into();
    Event { labels, ordering_key: format!("canary-{id}-key"), ..event(id, "ADD_TAG", body) }
}

/// Contract: an erased event is gone for every reader once the call is answered, its pending delivery is cancelled, its id is not taken
/// again by a publisher who tries once more, and when the erasure is finished no file holds its body, labels, ordering key or what a
/// receiver answered. Its neighbours are as they were.
#[tokio::test]
async fn nothing_is_left_of_an_erased_event() {
    let setup = patient();
    let daemon = setup.start().await;
    let (client, tenants) = (daemon.client().await, tenants(&daemon).await);
    let (url, _receiver) = talkative().await;
    let webhook = client.create(&url, &["*"]).await.id();
    let mut watch = client.watch().await;
    client.publish(["e-0", "e-1", "e-2"].map(marked)).await;
    let outcomes = watch.outcomes(3).await;
    let delivery = outcomes.iter().find(|one| one.event_id == "e-1").expect("it was attempted").delivery_id.clone();
    for mark in ["canary-e-1-body", "canary-e-1-answer"] {
        assert!(!files_with(setup.data(), mark).is_empty(), "the test looks where it is");
    }

    let erased = erase_event(&client, "", "e-1").await.expect("it is there");
    assert_eq!(erased.subject(), ErasureSubject::Event);
    let gone = read(&client, "", "e-1").await.expect_err("it is gone");
    Rejection::from(&gone).check("an erased event", Code::NotFound, "EVENT_NOT_FOUND", "");
    let request = postrider_proto::v1::GetDeliveryRequest { tenant: String::new(), id: delivery };
    let gone = client.deliveries.clone().get_delivery(request).await.expect_err("it is gone");
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(client.deliveries(ListDeliveriesRequest::default()).await.len(), 2);
    let (replies, _) = client.publish_all([marked("e-1")]).await;
    let Verdict::Rejected(refused) = verdict(&replies[0]) else { panic!("{replies:?}") };
    refused.check("an erased id", Code::AlreadyExists, "EVENT_ERASED", "");

    finished(&tenants, "", &erased.id).await;
    assert_eq!(files_with(setup.data(), "canary-e-1"), [""; 0]);
    assert!(!files_with(setup.data(), "canary-e-2-answer").is_empty());
    assert_eq!(erase_event(&client, "", "e-1").await.expect("again is the same").id, erased.id);
    for id in ["e-0", "e-2"] {
        assert_eq!(read(&client, "", id).await.expect("it is retained").labels, marked(id).labels);
    }
    assert_eq!(client.webhook(&webhook).await.pending_deliveries, 2);
    let unknown = erase_event(&client, "", "e-9").await.expect_err("there is none");
    Rejection::from(&unknown).check("an unknown event", Code::NotFound, "EVENT_NOT_FOUND", "");
    let theirs = erasure(&tenants, "other", &erased.id).await.expect_err("it is another tenant's");
    Rejection::from(&theirs).check("another's erasure", Code::NotFound, "ERASURE_NOT_FOUND", "");
}

/// Contract: replays pass over what was erased, also when nothing is left of it where it was, and send its neighbours.
#[tokio::test]
async fn what_was_erased_is_not_sent_again() {
    let daemon = setup().start().await;
    let (client, tenants) = (daemon.client().await, tenants(&daemon).await);
    let receiver = Receiver::start(|_| Answer::status(200)).await;
    let webhook_id = client.create(&receiver.url("/"), &["*"]).await.id();
    client.publish(["e-0", "e-1", "e-2"].map(marked)).await;
    receiver.received(3).await;
    let erased = erase_event(&client, "", "e-1").await.expect("it is there");
    finished(&tenants, "", &erased.id).await;
    let request = ReplayEventsRequest { webhook_id, ..ReplayEventsRequest::default() };
    within("ReplayEvents", client.replays.clone().replay_events(request)).await.expect("it is started");
    receiver.received(5).await;
    let mut again: Vec<_> = receiver.all()[3..].iter().map(|request| request.event_id.clone()).collect();
    again.sort_unstable();
    assert_eq!(again, ["e-0", "e-2"]);
}

/// Contract: everything of an erased tenant is gone for every reader once the call is answered, also if the daemon is killed in the middle
/// of the work; when it is finished no file holds anything of it. Another tenant's deliveries go on meanwhile, and the name can be used
/// again.
#[tokio::test]
async fn nothing_is_left_of_an_erased_tenant_after_a_kill() {
    // Small, so that most of it lies in segments.
    let setup = setup().flag("--store-hot", "64KiB").flag("--retry-schedule", "1h");
    let daemon = setup.start().await;
    let (client, erasing) = (daemon.client().await, tenants(&daemon).await);
    let (url, _receiver) = talkative().await;
    let mine = client.create_for("acme", &format!("{url}canary-path"), &["*"]).await.id();
    let receiver = Receiver::start(|_| Answer::status(200)).await;
    client.create_for("other", &receiver.url("/"), &["*"]).await;
    let of =
        |tenant: &str, prefix: &str, n: usize| Event { tenant: tenant.to_owned(), ..marked(&format!("{prefix}-{n}")) };
    let events: Vec<Event> = (0..300).flat_map(|n| [of("acme", "mine", n), of("other", "theirs", n)]).collect();
    client.publish(events).await;
    receiver.received(300).await;
    assert!(!files_with(setup.data(), "canary-mine").is_empty());

    let erased = erase_tenant(&erasing, "acme", "leaving").await.expect("it is decided");
    daemon.kill().await;
    let daemon = setup.start().await;
    let (client, erasing) = (daemon.client().await, tenants(&daemon).await);
    let request = GetWebhookRequest { tenant: "acme".to_owned(), id: mine };
    let gone = client.webhooks.clone().get_webhook(request).await.expect_err("it is gone");
    Rejection::from(&gone).check("an erased tenant's webhook", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
    assert_eq!(read(&client, "acme", "mine-7").await.expect_err("it is gone").code(), Code::NotFound);
    let listed = |tenant: &str| ListDeliveriesRequest { tenant: tenant.to_owned(), ..Default::default() };
    assert_eq!(client.deliveries(listed("acme")).await.len(), 0);
    client.publish([of("other", "later", 1)]).await;
    receiver.received(301).await;

    assert_eq!(erase_tenant(&erasing, "acme", "leaving").await.expect("the same").id, erased.id);
    finished(&erasing, "acme", &erased.id).await;
    for mark in ["canary-mine", "canary-path"] {
        assert_eq!(files_with(setup.data(), mark), [""; 0], "{mark}");
    }
    assert_eq!(client.deliveries(listed("other")).await.len(), 301);
    for n in [0, 150, 299] {
        let kept = read(&client, "other", &format!("theirs-{n}")).await.expect("it is retained");
        assert_eq!(kept.payload, of("other", "theirs", n).payload);
    }
    client.create_for("acme", &receiver.url("/new"), &["*"]).await;
    assert_eq!(client.publish([of("acme", "mine", 7)]).await, [1], "another life");
    let nobody = erase_tenant(&erasing, "", "").await.expect_err("no tenant is named");
    Rejection::from(&nobody).check("no tenant", Code::InvalidArgument, "INVALID_FIELD", "tenant");
}
