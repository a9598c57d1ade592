//! What must not be revealed, marked with canaries and looked for wherever the daemon writes or answers.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postrider_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        Authorization, BasicCredentials, BearerToken, CreateEventTypeRequest, CreateWebhookRequest, DeliveryState,
        EraseTenantRequest, Event, EventType, ExplainEventRequest, GetClockRequest, GetDeliveryRequest,
        GetErasureRequest, GetEventRequest, GetQuotaRequest, GetReplayRequest, GetWebhookRequest,
        ListAuditEntriesRequest, ListDeliveriesRequest, ListEventTypesRequest, ListKeysRequest, ListQuotasRequest,
        ListReplaysRequest, ListWebhooksRequest, Quota, ReplayEventsRequest, RetryDeliveryRequest, RevokeKeyRequest,
        RotateSecretRequest, SendTestEventRequest, SetQuotaRequest, Signature, SignatureScheme, TlsSettings,
        UpdateWebhookRequest, WatchDeliveriesRequest, WatchReplayRequest, Webhook, authorization::Scheme,
        event::Payload, explain_event_request::Subject, watch_deliveries_request::Start,
    },
};
use postrider_tests::{
    client::{Client, Created, webhook},
    daemon::Setup,
    events::event,
    ops,
    receiver::{Answer, Garbage, Receiver, closed_port},
    tls::{Authority, TlsFront},
};
use prost::Message as _;
use rcgen::KeyPair;
use tonic::Status;

use crate::BINARY;

const SIGNING: &[u8; 32] = b"canary-signing-secret-1-32-bytes";
const ROTATED: &[u8; 32] = b"canary-signing-secret-2-32-bytes";
const CLIENT_KEY: &[u8; 32] = b"canary-client-key-seed-32-bytes!";
const BEARER: &str = "canary-bearer-token";
const PASSWORD: &str = "canary-basic-password";
const HEADER: &str = "canary-header-value";
const QUERY: &str = "canary-url-query";
const PARAMETER: &str = "canary-extra-parameter";
const BODY: &str = "canary-event-body";
const FIELD: &str = "canary-body-field";
/// All of them begin so: what is refused, too.
const CANARY: &str = "canary-";

/// Texts that must not appear.
struct Canaries(Vec<(String, Vec<u8>)>);

impl Canaries {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a text, in every spelling in which it might be written down.
    fn with(mut self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let hex = text.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes everything");
            hex
        });
        // As lists of numbers, as `Debug` shows bytes.
        let numbers = text.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let spellings =
            [text.to_vec(), STANDARD.encode(text).into(), hex.to_uppercase().into(), hex.into(), numbers.into()];
        let name = String::from_utf8_lossy(text).into_owned();
        self.0.extend(spellings.map(|spelling| (name.clone(), spelling)));
        self
    }

    /// What may be known to nobody but the receivers: neither in files nor in replies.
    fn secrets() -> Self {
        let seed = &key_pair()[..32];
        let basic = format!("ravi:{PASSWORD}");
        let canaries = Self::new().with(SIGNING).with(ROTATED).with(seed).with(BEARER).with(PASSWORD).with(basic);
        canaries.with(HEADER).with(CLIENT_KEY).with(client_key())
    }

    /// What logs, errors and metrics say nothing of.
    fn all() -> Self {
        Self::secrets().with(QUERY).with(PARAMETER).with(BODY).with(FIELD).with(CANARY)
    }

    /// Looks for all of them at once.
    fn check(&self, place: &str, bytes: &[u8]) {
        let mut by_first: [Vec<&(String, Vec<u8>)>; 256] = std::array::from_fn(|_| Vec::new());
        for canary in &self.0 {
            by_first[usize::from(canary.1[0])].push(canary);
        }
        for (at, &byte) in bytes.iter().enumerate() {
            let found = by_first[usize::from(byte)].iter().find(|(_, spelling)| bytes[at..].starts_with(spelling));
            if let Some((name, _)) = found {
                let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
                panic!("{name} is in {place}: …{}…", String::from_utf8_lossy(around));
            }
        }
    }
}

fn whsec(secret: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(secret))
}

/// From svix-webhooks, server/svix-server/src/worker.rs: seed and public key.
fn key_pair() -> Vec<u8> {
    STANDARD
        .decode("6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
        .expect("base64")
}

/// PKCS #8 of an ed25519 key, as RFC 8410 has it: 48 bytes, one line of PEM.
fn client_key() -> Vec<u8> {
    let prefix = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    [&prefix[..], CLIENT_KEY].concat()
}

/// With a certificate for that key, which is shown to receivers with certificates of `servers`.
fn shown(servers: &Authority, clients: &Authority) -> TlsSettings {
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(client_key()));
    let (client_certificate, _) = clients.issue_for("client.test", &KeyPair::from_pem(&pem).expect("a key"));
    TlsSettings { ca_certificates: servers.pem.clone(), client_certificate, client_key: pem, ..TlsSettings::default() }
}

fn secretive(url: &str, scheme: Scheme) -> Webhook {
    Webhook {
        url: format!("{url}?q={QUERY}"),
        headers: [("x-key".to_owned(), HEADER.to_owned())].into(),
        query: [("p".to_owned(), PARAMETER.to_owned())].into(),
        body: Some(prost_types::Struct {
            fields: [("extra".to_owned(), prost_types::Value::from(FIELD.to_owned()))].into(),
        }),
        authorization: Some(Authorization { scheme: Some(scheme) }),
        ..webhook("", url, &["ADD_TAG"])
    }
}

fn bearer() -> Scheme {
    Scheme::Bearer(BearerToken { token: BEARER.into() })
}

fn basic() -> Scheme {
    Scheme::Basic(BasicCredentials { username: "ravi".into(), password: PASSWORD.into() })
}

async fn create(client: &Client, webhook: Webhook, signing_secret: String, request_id: &str) -> Created {
    let request = CreateWebhookRequest { webhook: Some(webhook), signing_secret, request_id: request_id.into() };
    let reply = client.webhooks.clone().create_webhook(request).await.expect("it is created").into_inner();
    let webhook = reply.webhook.expect("a reply holds the webhook");
    // The one secret that a reply shows is beside it.
    Canaries::secrets().check("a reply of CreateWebhook", &webhook.encode_to_vec());
    Created { webhook, secret: reply.signing_secret }
}

/// Replies of everything that reads or changes something, by the name of the call.
async fn replies(client: &Client, webhook: &Created, delivery_id: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (id, tenant) = (webhook.id(), String::new());
    let Client { mut webhooks, mut event_types, mut events, mut deliveries, mut replays, .. } = client.clone();
    let Client { mut keys, mut clock, mut quotas, mut tenants, mut audit, .. } = client.clone();
    let mut replies = Vec::new();
    macro_rules! ask {
        ($client:ident.$method:ident($name:literal, $request:expr)) => {
            let reply = $client.$method($request).await.expect($name).into_inner();
            replies.push(($name, reply.encode_to_vec()));
        };
    }
    ask!(webhooks.get_webhook("GetWebhook", GetWebhookRequest { tenant: tenant.clone(), id: id.clone() }));
    ask!(webhooks.list_webhooks("ListWebhooks", ListWebhooksRequest::default()));
    let changed = Webhook { display_name: "renamed".into(), etag: String::new(), ..webhook.webhook.clone() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into(), "headers".into()] });
    ask!(webhooks.update_webhook(
        "UpdateWebhook",
        UpdateWebhookRequest { webhook: Some(changed), update_mask, ..UpdateWebhookRequest::default() }
    ));
    ask!(webhooks.send_test_event(
        "SendTestEvent",
        SendTestEventRequest { id: id.clone(), event_type: "ADD_TAG".into(), ..SendTestEventRequest::default() }
    ));
    ask!(event_types.list_event_types("ListEventTypes", ListEventTypesRequest::default()));
    ask!(events.get_event("GetEvent", GetEventRequest { tenant: tenant.clone(), id: "e0".into() }));
    let subject = Some(Subject::EventId("e0".into()));
    ask!(events.explain_event("ExplainEvent", ExplainEventRequest { subject, ..ExplainEventRequest::default() }));
    ask!(deliveries.get_delivery("GetDelivery", GetDeliveryRequest { tenant: tenant.clone(), id: delivery_id.into() }));
    ask!(deliveries.list_deliveries("ListDeliveries", ListDeliveriesRequest::default()));
    ask!(deliveries.retry_delivery("RetryDelivery", RetryDeliveryRequest { tenant, id: delivery_id.into() }));
    ask!(keys.list_keys("ListKeys", ListKeysRequest::default()));
    ask!(clock.get_clock("GetClock", GetClockRequest {}));
    let quota = Some(Quota { tenant: "limited".into(), webhooks: Some(0), ..Quota::default() });
    ask!(quotas.set_quota("SetQuota", SetQuotaRequest { quota }));
    ask!(quotas.get_quota("GetQuota", GetQuotaRequest::default()));
    ask!(quotas.list_quotas("ListQuotas", ListQuotasRequest::default()));
    // Secrets where ids and names belong, and what was told of everything above.
    for secret in [BEARER.to_owned(), whsec(SIGNING)] {
        keys.revoke_key(RevokeKeyRequest { id: secret }).await.expect_err("that is no id");
    }
    let everything = ListAuditEntriesRequest { tenant: "-".into(), page_size: 1000, ..Default::default() };
    ask!(audit.list_audit_entries("ListAuditEntries", everything));
    // Of what was delivered to another one: nothing more is sent.
    let request = ReplayEventsRequest {
        webhook_id: id,
        states: vec![DeliveryState::Cancelled.into()],
        ..ReplayEventsRequest::default()
    };
    let replay = replays.replay_events(request).await.expect("it begins").into_inner().replay.expect("one began").id;
    ask!(replays.get_replay("GetReplay", GetReplayRequest { id: replay.clone(), ..GetReplayRequest::default() }));
    ask!(replays.list_replays("ListReplays", ListReplaysRequest::default()));
    let request = WatchReplayRequest { id: replay, ..WatchReplayRequest::default() };
    let mut watch = replays.watch_replay(request).await.expect("it is watched").into_inner();
    let shown = watch.message().await.expect("it goes on").expect("it says how it stands");
    replies.push(("WatchReplay", shown.encode_to_vec()));
    let request = WatchDeliveriesRequest {
        start: Some(Start::FromBeginning(true)),
        operational_events: true,
        ..WatchDeliveriesRequest::default()
    };
    let mut watch = client.watch_with(request).await;
    let shown = watch.message().await.expect("it goes on").expect("it goes on");
    assert!(!shown.updates.is_empty(), "{shown:?}");
    replies.push(("WatchDeliveries", shown.encode_to_vec()));
    // Of a tenant of its own: the rest is still to be looked at.
    let erased = "erased".to_owned();
    let request = EraseTenantRequest { tenant: erased.clone(), ..EraseTenantRequest::default() };
    let erasure = tenants.erase_tenant(request).await.expect("it begins").into_inner().erasure.expect("one began");
    ask!(tenants.get_erasure("GetErasure", GetErasureRequest { tenant: erased, id: erasure.id }));
    replies
}

/// The calls of the contract whose replies show what is stored.
fn reading_calls() -> BTreeSet<String> {
    let descriptors = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    let services =
        descriptors.file.into_iter().filter(|file| file.package() == "postrider.v1").flat_map(|file| file.service);
    let names = services.flat_map(|service| service.method).map(|method| method.name().to_owned());
    let reading = ["Get", "List", "Watch", "Explain"];
    names.filter(|name| reading.iter().any(|prefix| name.starts_with(prefix))).collect()
}

/// Calls that are refused, with something secret or private in what is wrong.
async fn refusals(client: &Client, url: &str, tls: TlsSettings) -> Vec<Status> {
    let mut webhooks = client.webhooks.clone();
    let good = || secretive(url, bearer());
    let with_headers =
        |name: &str, value: &str| Webhook { headers: [(name.to_owned(), value.to_owned())].into(), ..good() };
    let mut statuses = Vec::new();
    for (webhook, signing_secret) in vec![
        (good(), format!("whsec_{CANARY}")),
        (good(), format!("whsk_{CANARY}")),
        (with_headers("host", HEADER), String::new()),
        (with_headers("x-key", &format!("{HEADER}\n")), String::new()),
        (secretive(url, Scheme::Bearer(BearerToken { token: format!("{BEARER} ") })), String::new()),
        (
            secretive(url, Scheme::Basic(BasicCredentials { username: "a:b".into(), password: PASSWORD.into() })),
            String::new(),
        ),
        (Webhook { headers: [("authorization".to_owned(), BEARER.to_owned())].into(), ..good() }, String::new()),
        (Webhook { url: format!("https://10.0.0.1/?{QUERY}"), ..good() }, String::new()),
        (Webhook { url: format!("https://u:{PASSWORD}@receiver.invalid/?{QUERY}"), ..good() }, String::new()),
        (Webhook { url: format!("https://receiver.invalid/?{QUERY}#{QUERY}"), ..good() }, String::new()),
        (Webhook { url: format!("https://receiver.invalid:0/?{QUERY}"), ..good() }, String::new()),
        (Webhook { url: format!("ftp://receiver.invalid/?{QUERY}"), ..good() }, String::new()),
        (
            Webhook { tls: Some(TlsSettings { client_certificate: String::new(), ..tls.clone() }), ..good() },
            String::new(),
        ),
        (
            Webhook { tls: Some(TlsSettings { ca_certificates: tls.client_key.clone(), ..tls.clone() }), ..good() },
            String::new(),
        ),
        (
            Webhook { tls: Some(TlsSettings { client_certificate: tls.ca_certificates.clone(), ..tls }), ..good() },
            String::new(),
        ),
    ] {
        let request = CreateWebhookRequest { webhook: Some(webhook), signing_secret, request_id: String::new() };
        statuses.push(webhooks.create_webhook(request).await.expect_err("it is refused"));
    }
    statuses
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let inside = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    // Sockets hold nothing.
    entries.flat_map(inside).filter(|path| path.is_file()).collect()
}

fn check_files(folder: &Path) {
    let files = files(folder);
    assert!(files.iter().any(|file| file.ends_with("hot.redb")), "{files:?}");
    for file in files {
        Canaries::secrets().check(&file.display().to_string(), &fs::read(&file).expect("readable"));
    }
}

/// The issue, what it never reveals: logs at `trace`, of every crate whatever is asked for, errors, metrics, files and replies hold no
/// secret; logs, errors and metrics hold no body and no query of a URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_written_down_or_shown() {
    let crates = "h2,hyper,hyper_util,reqwest,rustls,tonic,tower,axum,hickory_resolver,hickory_proto,postrider_server";
    let log = crates.split(',').fold("trace".to_owned(), |log, name| format!("{log},{name}=trace"));
    let setup = Setup::new(BINARY).with_whole_log().flag("--log", &log).flag("--ops", "127.0.0.1:0");
    let setup = setup.flag("--allow-cidr", "::1/128").flag("--retry-schedule", "100ms,100ms,100ms");
    let daemon = setup.start().await;
    let client = daemon.client().await;
    // One that answers well, one that does not, one that is none, one that does no TLS, and nobody.
    let receiver = Receiver::answering(200).await;
    let failing =
        Receiver::start(|request| if request.attempt > 2 { Answer::Reset } else { Answer::status(500) }).await;
    let garbage = Garbage::start().await;
    let first = create(&client, secretive(&receiver.url("/"), bearer()), whsec(SIGNING), "r1").await;
    create(&client, secretive(&failing.url("/"), basic()), whsec(SIGNING), "r2").await;
    for url in [
        garbage.url(),
        receiver.url("/").replace("http:", "https:"),
        format!("http://127.0.0.1:{}/", closed_port()),
        "https://receiver.invalid/".to_owned(),
    ] {
        create(&client, secretive(&url, bearer()), whsec(SIGNING), "").await;
    }
    let signature = Some(Signature { scheme: SignatureScheme::StandardV1a.into(), ..Signature::default() });
    let by_pair = Webhook { signature, ..secretive(&receiver.url("/"), bearer()) };
    create(&client, by_pair, format!("whsk_{}", STANDARD.encode(key_pair())), "r3").await;
    let [servers, clients] = ["servers", "clients"].map(Authority::new);
    let front = TlsFront::start(&servers, Some(&clients), receiver.address()).await;
    let tls = shown(&servers, &clients);
    let with_certificate = Webhook { tls: Some(tls.clone()), ..secretive(&front.url("/"), bearer()) };
    let with_certificate = create(&client, with_certificate, String::new(), "r4").await;
    assert_eq!(with_certificate.webhook.tls.as_ref().expect("it is shown").client_key, "***");
    let trial = SendTestEventRequest {
        id: with_certificate.id(),
        event_type: "ADD_TAG".into(),
        ..SendTestEventRequest::default()
    };
    let trial = client.webhooks.clone().send_test_event(trial).await.expect("it is sent").into_inner();
    assert!(front.shown()[0].is_some(), "{trial:?}");

    let body = |n: usize| event(&format!("e{n}"), "ADD_TAG", format!(r#"{{"text":"{BODY}","n":{n}}}"#));
    let mut watch = client.watch().await;
    client.publish((0..10).map(body)).await;
    let rotation =
        RotateSecretRequest { id: first.id(), signing_secret: whsec(ROTATED), ..RotateSecretRequest::default() };
    let rotated = client.webhooks.clone().rotate_secret(rotation).await.expect("it is rotated").into_inner();
    Canaries::secrets().check("RotateSecret", &rotated.webhook.expect("the webhook").encode_to_vec());
    // Every receiver has failed in its own way by then.
    let mut delivered = None;
    let mut failed = BTreeSet::new();
    while delivered.is_none() || failed.len() < 5 {
        let outcome = watch.outcomes(1).await.remove(0);
        if outcome.state() == DeliveryState::Delivered {
            delivered = Some(outcome.delivery_id.clone());
        } else {
            failed.insert(outcome.webhook_id.clone());
            assert!(!outcome.error.contains(CANARY), "{outcome:?}");
        }
    }
    // The first one was for trial.
    let sent = receiver.received(11).await.remove(1);
    assert_eq!((sent.header("x-key"), sent.header("authorization")), (HEADER, &*format!("Bearer {BEARER}")));
    assert!(sent.body.windows(BODY.len()).any(|part| part == BODY.as_bytes()), "the canaries are really sent");

    let answered = replies(&client, &first, &delivered.expect("one was")).await;
    let named: BTreeSet<String> = answered.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<_> = reading_calls().difference(&named).cloned().collect();
    assert!(missing.is_empty(), "`replies` above has to ask {missing:?}, too, with something to show");
    for (name, bytes) in &answered {
        Canaries::secrets().check(name, bytes);
    }
    for status in refusals(&client, &receiver.url("/"), tls).await {
        Canaries::all().check("an error", format!("{status:?}").as_bytes());
        Canaries::all().check("the details of an error", status.details());
    }
    refused_events(&client).await;
    let metrics = ops::get(daemon.ops().await, "/metrics").await.body;
    assert!(metrics.contains("postrider_attempts_total"));
    Canaries::all().check("/metrics", metrics.as_bytes());

    check_files(setup.data());
    daemon.terminate();
    let ended = daemon.ended(postrider_tests::deadline::PATIENCE).await;
    assert!(ended.status.success(), "{}", ended.status);
    check_files(setup.data());
    for part in ["\"level\":\"DEBUG\"", "\"target\":\"h2::", "\"target\":\"hyper_util::", "created a webhook"] {
        assert!(ended.log.contains(part), "the log has no {part}, so that it proves little");
    }
    for name in crates.split(',').filter(|name| !name.starts_with("postrider")) {
        let talks =
            |line: &&str| line.contains("\"level\":\"TRACE\"") && line.contains(&format!("\"target\":\"{name}::"));
        assert_eq!(ended.log.lines().find(talks), None, "{name} does not talk that much, whatever is asked for");
    }
    Canaries::all().check("the log", ended.log.as_bytes());
}

/// Events that are refused, and filters that fail, for what is in their bodies: told without it in the log.
async fn refused_events(client: &Client) {
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}, "text": {"maxLength": 3}}}"#;
    let event_type = EventType { name: "strict".into(), json_schema: schema.into(), ..EventType::default() };
    let request = CreateEventTypeRequest { event_type: Some(event_type) };
    client.event_types.clone().create_event_type(request).await.expect("it is registered");
    let filtered =
        Webhook { payload_filter: "body.text > 3".into(), ..webhook("", "https://receiver.invalid/", &["NEW_LEAD"]) };
    client.create_as(filtered).await;
    let wrong = [
        event("w1", "strict", format!(r#"{{"n": "{BODY}"}}"#)),
        event("w2", "strict", format!(r#"{{"text": "{BODY}"}}"#)),
        event("w3", "strict", format!("{BODY}, which is no JSON")),
        Event { labels: [("l".to_owned(), BODY.repeat(100))].into(), ..event("w4", "ADD_TAG", "{}") },
        event("w5", &format!("{BODY}?"), "{}"),
        Event {
            payload: Some(Payload::Body(format!(r#"{{"text": "{BODY}"}}"#).into())),
            ..event("w6", "NEW_LEAD", "")
        },
    ];
    let (replies, ended) = client.publish_all(wrong).await;
    ended.expect("one bad event does not end the stream");
    assert_eq!(replies.len(), 6);
}
