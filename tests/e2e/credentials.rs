//! Who may speak: keys made without a daemon and with one, rights, tenants, and the end of a key.

use std::{
    path::Path,
    process::{Command, Output},
};

use futures::StreamExt as _;
use postrider_client::{PublishError, PublisherConfig, WatchConfig};
use postrider_proto::v1::{
    CreateKeyRequest, DeliveryState, Event, GetDeliveryRequest, GetEventRequest, GetWebhookRequest, Key,
    ListDeliveriesRequest, ListKeysRequest, ListWebhooksRequest, RevokeKeyRequest, Right, WatchDeliveriesRequest,
    watch_deliveries_request::Start,
};
use postrider_tests::{
    client::Client,
    daemon::{Daemon, Setup},
    deadline::within,
    events,
    receiver::Receiver,
    rejection::Rejection,
    tools,
};
use tonic::{Code, Status};

use crate::{BINARY, setup};

async fn keyed(daemon: &Daemon, key: &str) -> Client {
    Client::keyed(daemon.channel().await, key)
}

fn event(id: &str) -> Event {
    events::event(id, "ADD_TAG", "{}")
}

/// `postriderd keys …` on the data directory.
fn keys(data: &Path, line: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("keys").args(line.split(' ')).arg("--data").arg(data).env_clear();
    command.output().expect("the daemon's program starts")
}

/// The key that was made.
pub(super) fn made(data: &Path, line: &str) -> String {
    let output = keys(data, &format!("create --name test {line}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = String::from_utf8(output.stdout).expect("a key is text");
    key.trim_end().to_owned()
}

/// A daemon whose data directory has a key that may do everything.
async fn locked(setup: &Setup) -> (Daemon, String) {
    let key = made(setup.data(), "--rights publish,manage,read,operate --all-tenants");
    (setup.start().await, key)
}

fn is_unauthenticated(status: &Status) {
    Rejection::from(status).check("", Code::Unauthenticated, "UNAUTHENTICATED", "");
}

/// Line 1: keys are made without a daemon and with one, shown once, and revoked at once and for good.
#[tokio::test]
async fn keys_come_and_go() {
    let setup = setup();
    let (daemon, admin) = locked(&setup).await;
    let refused = keys(setup.data(), "list");
    assert_eq!(refused.status.code(), Some(73));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`postrider keys`"), "{refused:?}");

    let mut open = daemon.client().await.webhooks;
    let refused = open.list_webhooks(ListWebhooksRequest::default()).await.expect_err("credentials are needed");
    is_unauthenticated(&refused);
    let mut service = keyed(&daemon, &admin).await.keys;
    let key =
        Key { name: "ci".into(), tenants: vec!["acme".into()], rights: vec![Right::Read.into()], ..Key::default() };
    let created = service.create_key(CreateKeyRequest { key: Some(key) }).await.expect("it may").into_inner();
    let (ci, id) = (created.api_key, created.key.expect("a key").id);
    assert!(ci.starts_with("prk_") && ci.len() == 72 && ci.contains(&id["key_".len()..]), "{id}");
    let list = async |key: &str| {
        let mut client = keyed(&daemon, key).await.webhooks;
        client.list_webhooks(ListWebhooksRequest { tenant: "acme".into(), ..Default::default() }).await
    };
    list(&ci).await.expect("it may read");
    let listed = service.list_keys(ListKeysRequest::default()).await.expect("it may").into_inner().keys;
    assert_eq!(listed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["test", "ci"]);
    assert!(listed.iter().all(|key| key.last_use_time.is_some()), "{listed:?}");

    service.revoke_key(RevokeKeyRequest { id: id.clone() }).await.expect("it may");
    is_unauthenticated(&list(&ci).await.expect_err("it is revoked"));
    let again = service.revoke_key(RevokeKeyRequest { id: id.clone() }).await.expect_err("it is gone");
    Rejection::from(&again).check(&id, Code::NotFound, "KEY_NOT_FOUND", "");
    daemon.stop().await;

    let listed = keys(setup.data(), "list");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let admin_id = listed.split('\t').next().expect("an id").to_owned();
    assert!(keys(setup.data(), &format!("revoke {admin_id}")).status.success());
    let daemon = setup.start().await;
    let mut open = daemon.client().await.webhooks;
    let refused = open.list_webhooks(ListWebhooksRequest::default()).await.expect_err("no key is left");
    is_unauthenticated(&refused);
}

/// Without a key it serves and says so; `--require-auth` takes nothing before there is one.
#[tokio::test]
async fn the_door_is_open_until_there_is_a_key_unless_it_is_to_be_shut() {
    let daemon = setup().start().await;
    assert!(daemon.log().contains("until the first API key is created"), "{}", daemon.log());
    let mut open = daemon.client().await.webhooks;
    open.list_webhooks(ListWebhooksRequest::default()).await.expect("nobody has a key");

    let setup = setup().flag("--require-auth=true", "--allow-http=false");
    let daemon = setup.start().await;
    assert!(daemon.log().contains("no call is taken before an API key is created"), "{}", daemon.log());
    let mut open = daemon.client().await.webhooks;
    is_unauthenticated(&open.list_webhooks(ListWebhooksRequest::default()).await.expect_err("required"));
}

/// Another tenant's things are not there: by id, by list, by cursor, on a stream.
#[tokio::test]
async fn a_tenant_sees_its_own() {
    let setup = setup();
    let acme = made(setup.data(), "--rights publish,manage,read --tenants acme");
    let (daemon, admin) = locked(&setup).await;
    let receiver = Receiver::answering(200).await;
    let mut all = keyed(&daemon, &admin).await;
    let theirs = all.create_for("other", &receiver.url("/"), &["*"]).await.id();
    let ours = all.create_for("acme", &receiver.url("/"), &["*"]).await.id();
    let of = |tenant: &str, id: &str| Event { tenant: tenant.into(), ..event(id) };
    all.publish([of("other", "theirs"), of("acme", "ours")]).await;
    let everything = WatchDeliveriesRequest {
        tenant: "-".into(),
        start: Some(Start::FromBeginning(true)),
        ..WatchDeliveriesRequest::default()
    };
    let outcomes = all.watch_with(everything).await.outcomes(2).await;
    assert!(outcomes.iter().all(|outcome| outcome.state() == DeliveryState::Delivered));
    let delivery =
        outcomes.iter().find(|outcome| outcome.event_id == "theirs").expect("it is there").delivery_id.clone();

    let Client { mut webhooks, mut deliveries, mut events, .. } = keyed(&daemon, &acme).await;
    let get = |tenant: &str, id: &str| GetWebhookRequest { tenant: tenant.into(), id: id.into() };
    webhooks.get_webhook(get("acme", &ours)).await.expect("it is theirs");
    // Asked for under their own name, others' things are not there; and others' names are not there at all.
    let hidden = |status: Status, reason: &str| Rejection::from(&status).check("", Code::NotFound, reason, "");
    hidden(webhooks.get_webhook(get("acme", &theirs)).await.expect_err("hidden"), "WEBHOOK_NOT_FOUND");
    for id in [&theirs, &ours] {
        hidden(webhooks.get_webhook(get("other", id)).await.expect_err("hidden"), "TENANT_NOT_FOUND");
    }
    let request = |tenant: &str| GetDeliveryRequest { tenant: tenant.into(), id: delivery.clone() };
    hidden(deliveries.get_delivery(request("acme")).await.expect_err("hidden"), "DELIVERY_NOT_FOUND");
    hidden(deliveries.get_delivery(request("other")).await.expect_err("hidden"), "TENANT_NOT_FOUND");
    let request = |tenant: &str| GetEventRequest { tenant: tenant.into(), id: "theirs".into() };
    hidden(events.get_event(request("acme")).await.expect_err("hidden"), "EVENT_NOT_FOUND");
    hidden(events.get_event(request("other")).await.expect_err("hidden"), "TENANT_NOT_FOUND");
    let list = |tenant: &str, page_token: &str| ListDeliveriesRequest {
        tenant: tenant.into(),
        page_token: page_token.into(),
        page_size: 1,
        ..ListDeliveriesRequest::default()
    };
    hidden(deliveries.list_deliveries(list("other", "")).await.expect_err("hidden"), "TENANT_NOT_FOUND");
    let denied = deliveries.list_deliveries(list("-", "")).await.expect_err("not all of them");
    Rejection::from(&denied).check("", Code::PermissionDenied, "PERMISSION_DENIED", "");
    let token = all.deliveries.list_deliveries(list("-", "")).await.expect("all").into_inner().next_page_token;
    let foreign = deliveries.list_deliveries(list("acme", &token)).await.expect_err("another list's token");
    assert_eq!(foreign.code(), Code::InvalidArgument, "{foreign}");

    // A cursor is a place in everybody's log, and shows a tenant its own.
    let mut from_the_beginning = WatchDeliveriesRequest { tenant: "-".into(), ..WatchDeliveriesRequest::default() };
    from_the_beginning.start = Some(Start::FromBeginning(true));
    from_the_beginning.max_updates = 1;
    let mut stream = all.deliveries.watch_deliveries(from_the_beginning).await.expect("all").into_inner();
    let cursor = within("a heartbeat", stream.message()).await.expect("it opens").expect("it opens").cursor;
    let watch = WatchDeliveriesRequest {
        tenant: "acme".into(),
        start: Some(Start::Cursor(cursor)),
        ..WatchDeliveriesRequest::default()
    };
    let mut stream = deliveries.watch_deliveries(watch).await.expect("its own").into_inner();
    let mut seen = Vec::new();
    while seen.is_empty() {
        let message = within("a message", stream.message()).await.expect("it goes on").expect("it goes on");
        seen.extend(message.updates.into_iter().filter_map(|update| update.update));
    }
    let shown = format!("{seen:?}");
    assert!(shown.contains("ours") && !shown.contains("theirs"), "{shown}");
}

/// The client library shows its key, stops when it is revoked, and both kinds of stream end then.
#[tokio::test]
async fn streams_end_with_their_key() {
    let setup = setup();
    let (daemon, admin) = locked(&setup).await;
    let endpoint = format!("http://{}", daemon.address());
    let with = |key: &str| postrider_client::Client::builder(&endpoint).api_key(key).connect_lazy().expect("a client");
    let admin = with(&admin);
    let key = Key {
        name: "streams".into(),
        tenants: vec!["-".into()],
        rights: vec![Right::Publish.into(), Right::Read.into()],
        ..Key::default()
    };
    let created = admin.create_key(key).await.expect("it may");
    let client = with(&created.api_key);
    let publisher = client.publisher(PublisherConfig::default());
    publisher.publish(event("before")).await.expect("it may publish");
    let mut watch = client.watch_batches(WatchDeliveriesRequest::default(), WatchConfig::default());
    within("the watch to open", watch.next()).await.expect("it opens").expect("it opens");

    admin.revoke_key(created.key.expect("a key").id).await.expect("it may");
    let ended = within("the watch to end", watch.next()).await.expect("with an error").expect_err("it is over");
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    assert!(watch.next().await.is_none());
    let refused = within("the publisher to stop", publisher.publish(event("after"))).await.expect_err("it is over");
    let PublishError::Stopped(error) = refused else { panic!("not stopped: {refused:?}") };
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    assert!(!format!("{client:?} {error:?}").contains(&created.api_key[30..]));
    let stored = admin.event("after").await.expect_err("nothing was stored");
    assert_eq!(stored.code(), Code::NotFound);
}

/// Neither a key nor what is kept of it is in any log, at any level, or, as it is, on the disk.
#[tokio::test]
async fn keys_are_in_no_log_and_not_on_the_disk() {
    let setup = setup().flag("--log", "trace");
    let (daemon, admin) = locked(&setup).await;
    let mut service = keyed(&daemon, &admin).await.keys;
    let key =
        Key { name: "canary".into(), tenants: vec!["-".into()], rights: vec![Right::Read.into()], ..Key::default() };
    let created = service.create_key(CreateKeyRequest { key: Some(key) }).await.expect("it may").into_inner();
    let mut wrong = created.api_key.clone();
    let last = if wrong.ends_with('A') { "E" } else { "A" };
    wrong.replace_range(71.., last);
    for shown in [&created.api_key, &wrong] {
        let mut webhooks = keyed(&daemon, shown).await.webhooks;
        let _answer = webhooks.list_webhooks(ListWebhooksRequest::default()).await;
    }
    let log = daemon.log();
    assert!(log.contains("created an API key") && log.contains("canary"), "{log}");
    let mut canaries = vec![wrong[29..].to_owned()];
    for key in [&admin, &created.api_key] {
        canaries.push(key[29..].to_owned());
        let digest = <sha2::Sha256 as sha2::Digest>::digest(key.as_bytes());
        canaries.push(digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")));
        canaries.push(format!("{:?}", &digest[..8]).trim_matches(['[', ']']).to_owned());
        canaries.push(base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, &digest[..30]));
    }
    for canary in &canaries {
        assert!(!log.contains(canary.as_str()), "{canary} is in the log");
    }
    daemon.stop().await;
    let hot = std::fs::read(setup.data().join("hot.redb")).expect("the store's file");
    let on_disk = |canary: &str| hot.windows(canary.len()).any(|bytes| bytes == canary.as_bytes());
    assert!(on_disk("canary"), "the key's name is there");
    assert!(!on_disk(&admin[29..]) && !on_disk(&created.api_key[29..]));
}

/// A key is a header to everybody else's tools.
#[tokio::test]
async fn grpcurl_shows_a_key() {
    let Some(program) = tools::grpcurl() else { return };
    let (daemon, admin) = locked(&setup()).await;
    let address = daemon.address().to_string();
    let run = async |header: &str, rest: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("-plaintext").args(["-H", header]).arg(&address).args(rest);
        let run = tokio::task::spawn_blocking(move || command.output().expect("grpcurl starts"));
        within("grpcurl to end", run).await.expect("waiting does not panic")
    };
    let method = "postrider.v1.WebhookService/ListWebhooks";
    let header = format!("authorization: Bearer {admin}");
    let output = run(&header, &["list"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("postrider.v1.KeyService"), "{output:?}");
    assert!(run(&header, &[method]).await.status.success());
    let refused = run("authorization: Bearer prk_x", &["list"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("credentials"), "{refused:?}");
    let health = run("x: y", &["grpc.health.v1.Health/Check"]).await;
    assert!(!health.status.success(), "without reflection it does not know the call");
}
