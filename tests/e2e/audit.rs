//! The audit log: who did what, when, from where, and how that ended; through restarts, crashes and a full disk.

use std::{collections::BTreeSet, path::Path, process::Command};

use postrider_client::Client as Library;
use postrider_proto::{
    error_info::DISK_FULL,
    v1::{
        AuditEntry, CreateKeyRequest, CreateWebhookRequest, DeleteWebhookRequest, EraseTenantRequest,
        GetErasureRequest, Key, ListAuditEntriesRequest, ListWebhooksRequest, PrincipalKind, Right,
        SendTestEventRequest, UpdateWebhookRequest, Webhook,
    },
};
use postrider_tests::{
    client::{Client, Verdict, verdict, webhook},
    daemon::{Daemon, Setup},
    deadline::within,
    events::event,
    receiver::{Answer, Receiver},
    rejection::Rejection,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::{BINARY, setup};

/// Larger than a new store, and soon reached.
const FILE_BYTES_MAX: u64 = 6 << 20;
/// Nobody listens there, and nothing is sent.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:65535/private-path";

pub(crate) fn all() -> ListAuditEntriesRequest {
    ListAuditEntriesRequest { tenant: "-".into(), page_size: 1000, ..ListAuditEntriesRequest::default() }
}

pub(crate) fn of_method(method: &str) -> ListAuditEntriesRequest {
    ListAuditEntriesRequest { method: method.into(), ..all() }
}

/// `postriderd keys …` on the data directory; what it wrote to standard output.
pub(crate) fn keys(data: &Path, line: &str) -> String {
    let output = Command::new(BINARY).arg("keys").args(line.split(' ')).arg("--data").arg(data).env_clear().output();
    let output = output.expect("the daemon's program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text").trim_end().to_owned()
}

pub(crate) async fn keyed(daemon: &Daemon, key: &str) -> Client {
    Client::keyed(daemon.channel().await, key)
}

/// Method, its last part; who, by kind; and the code, -1 for one that is not known.
pub(crate) fn brief(entry: &AuditEntry) -> (&str, PrincipalKind, i32) {
    let method = entry.method.rsplit('/').next().expect("there is a last part");
    let kind = entry.principal.as_ref().map_or(PrincipalKind::Unspecified, postrider_proto::v1::Principal::kind);
    (method, kind, entry.code.unwrap_or(-1))
}

/// The issue: every management call is on record, with who made it, from where, about what, and how it ended; that outlives a
/// restart, and offline commands are on record, too.
#[tokio::test]
async fn who_did_what_is_on_record_and_stays_there() {
    let setup = setup();
    let admin = keys(setup.data(), "create --name admin --rights publish,manage,read,operate --all-tenants");
    let daemon = setup.start().await;
    let client = keyed(&daemon, &admin).await;
    let created = client.create_for("acme", NOWHERE, &["*"]).await;
    let changed = Webhook { display_name: "private-name".into(), ..created.webhook.clone() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
    let update = UpdateWebhookRequest { webhook: Some(changed), update_mask, ..UpdateWebhookRequest::default() };
    client.webhooks.clone().update_webhook(update).await.expect("it is updated");
    let delete = |id: String| DeleteWebhookRequest { tenant: "acme".into(), id, etag: String::new() };
    client.webhooks.clone().delete_webhook(delete(created.id())).await.expect("it is deleted");
    client.webhooks.clone().delete_webhook(delete(created.id())).await.expect_err("it is gone");
    let list = ListWebhooksRequest { tenant: "acme".into(), ..ListWebhooksRequest::default() };
    client.webhooks.clone().list_webhooks(list.clone()).await.expect("it may read");
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let mut stranger = daemon.client().await;
    stranger.webhooks.list_webhooks(list.clone()).await.expect_err("credentials are needed");

    check_record(&client.audited(all()).await, &admin, &created.id());
    daemon.stop().await;
    let daemon = setup.start().await;
    check_record(&keyed(&daemon, &admin).await.audited(all()).await, &admin, &created.id());
    daemon.stop().await;

    let rotated = setup.clone().argument("rotate-master-key").spawn().ended(postrider_tests::deadline::PATIENCE).await;
    assert!(rotated.status.success(), "{}", rotated.log);
    let revoked = format!("key_{}", "0".repeat(24));
    let output =
        Command::new(BINARY).args(["keys", "revoke", &revoked, "--data"]).arg(setup.data()).env_clear().output();
    assert_eq!(output.expect("it starts").status.code(), Some(1), "there is no such key");
    let daemon = setup.start().await;
    let offline = ListAuditEntriesRequest { principal: "offline".into(), ..all() };
    let seen = keyed(&daemon, &admin).await.audited(offline).await;
    let offline = PrincipalKind::Offline;
    assert_eq!(
        seen.iter().rev().map(brief).collect::<Vec<_>>(),
        [
            ("postriderd keys create", offline, 0),
            ("postriderd rotate-master-key", offline, 0),
            ("postriderd keys revoke", offline, 5),
        ]
    );
    assert_eq!(seen[0].resource, revoked);
}

/// What that test did, newest first, is on record.
fn check_record(seen: &[AuditEntry], admin: &str, webhook: &str) {
    assert!(seen.is_sorted_by(|one, next| one.number > next.number), "newest first");
    let key = PrincipalKind::Key;
    assert_eq!(
        seen.iter().rev().map(brief).collect::<Vec<_>>(),
        [
            ("postriderd keys create", PrincipalKind::Offline, 0),
            ("CreateWebhook", key, 0),
            ("UpdateWebhook", key, 0),
            ("DeleteWebhook", key, 0),
            ("DeleteWebhook", key, 5),
            ("ListWebhooks", PrincipalKind::Unauthenticated, 16),
        ]
    );
    let update = &seen[3];
    assert_eq!((&*update.tenant, &*update.resource), ("acme", webhook));
    assert_eq!(update.fields, ["display_name"]);
    let who = update.principal.clone().expect("somebody");
    assert!(admin.contains(&who.id["key_".len()..]) && who.name == "admin", "{who:?}");
    assert!(seen[..5].iter().all(|entry| entry.peer.starts_with("127.0.0.1:")), "{seen:?}");
    assert!(seen.iter().all(|entry| entry.time.is_some() && entry.finish_time.is_some()), "{seen:?}");
    assert_eq!(seen[5].resource, who.id, "the key that was made");
    let text = format!("{seen:?}");
    assert!(!text.contains("private-name") && !text.contains("private-path") && !text.contains(&admin[30..]));
}

/// Who may see it: those who operate, for their tenants; by the client library, page by page, as by any client.
#[tokio::test]
async fn it_is_shown_to_those_who_operate() {
    let setup = setup();
    let admin = keys(setup.data(), "create --name admin --rights manage,operate --all-tenants");
    let acme = keys(setup.data(), "create --name acme --rights operate --tenants acme");
    let reader = keys(setup.data(), "create --name reader --rights publish,manage,read --tenants acme");
    let daemon = setup.start().await;
    let client = keyed(&daemon, &admin).await;
    for tenant in ["acme", "other", "acme"] {
        client.create_for(tenant, NOWHERE, &["*"]).await;
    }
    let list = async |key: &str, tenant: &str| {
        let request = ListAuditEntriesRequest { tenant: tenant.into(), page_size: 1, ..Default::default() };
        let endpoint = format!("http://{}", daemon.address());
        let library = Library::builder(endpoint).api_key(key).connect_lazy().expect("a client");
        futures::TryStreamExt::try_collect::<Vec<_>>(library.audit_entries(request)).await
    };
    let of_acme = list(&acme, "acme").await.expect("it may");
    assert_eq!(of_acme.len(), 2);
    assert!(of_acme.iter().all(|entry| entry.tenant == "acme"), "{of_acme:?}");
    for (key, tenant, code) in [
        (&acme, "other", Code::NotFound),
        (&acme, "-", Code::PermissionDenied),
        (&reader, "acme", Code::PermissionDenied),
    ] {
        assert_eq!(list(key, tenant).await.expect_err("it may not").code(), code, "{tenant}");
    }
    let everything = list(&admin, "-").await.expect("it may");
    let refused: Vec<_> = everything.iter().filter(|entry| entry.method.ends_with("ListAuditEntries")).collect();
    assert_eq!(refused.len(), 3, "who may not is on record: {everything:?}");
    assert_eq!(everything.len(), 3 + 3 + 3, "keys, webhooks, refusals");

    // A tenant's operator may erase it; who did remains, and the name does not.
    let erase = EraseTenantRequest { tenant: "acme".into(), request_id: "leaving".into() };
    let mut tenants = keyed(&daemon, &acme).await.tenants;
    let erasure = tenants.erase_tenant(erase).await.expect("it may").into_inner().erasure.expect("it begins");
    assert!(list(&admin, "acme").await.expect("it may").is_empty(), "at once");
    let named = |entries: &[AuditEntry]| entries.iter().filter(|entry| entry.tenant == "acme").count();
    let erased = client.audited(of_method("EraseTenant")).await.remove(0);
    assert_eq!((erased.resource, erased.tenant_erased, &*erased.tenant), (erasure.id.clone(), true, ""));
    assert_eq!(erased.principal.expect("somebody").name, "acme", "the name of a key is the operator's");
    let everything = list(&admin, "-").await.expect("it may");
    let refused: Vec<_> = everything.iter().filter(|entry| entry.code == Some(7) || entry.code == Some(5)).collect();
    assert_eq!((named(&everything), refused.len()), (0, 3));
    let mut reading = keyed(&daemon, &keys_of(&client, "reading", &[Right::Read]).await).await.tenants;
    let finished = async {
        let request = GetErasureRequest { tenant: "acme".into(), id: erasure.id };
        while reading
            .get_erasure(request.clone())
            .await
            .expect("it may")
            .into_inner()
            .erasure
            .expect("it is remembered")
            .finish_time
            .is_none()
        {
            tokio::task::yield_now().await;
        }
    };
    within("the erasure to end", finished).await;
    assert_eq!(named(&list(&admin, "-").await.expect("it may")), 0);
}

/// A key for all tenants with these rights.
async fn keys_of(client: &Client, name: &str, rights: &[Right]) -> String {
    let rights = rights.iter().map(|right| (*right).into()).collect();
    let key = Key { name: name.into(), tenants: vec!["-".into()], rights, ..Key::default() };
    let created = client.keys.clone().create_key(CreateKeyRequest { key: Some(key) }).await;
    created.expect("it may").into_inner().api_key
}

/// A crash in the middle of a call leaves its entry, which does not say how it ended.
#[tokio::test]
async fn a_call_that_was_cut_off_is_on_record() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|_| Answer::Hang).await;
    let id = client.create(&receiver.url("/"), &["*"]).await.id();
    let request = SendTestEventRequest { id: id.clone(), event_type: "ADD_TAG".into(), ..Default::default() };
    let mut webhooks = client.webhooks.clone();
    let mut calls = JoinSet::new();
    calls.spawn(async move { webhooks.send_test_event(request).await });
    receiver.received(1).await;
    daemon.kill().await;
    let ended = within("the call to end", calls.join_next()).await.expect("there is one");
    ended.expect("it does not panic").expect_err("nobody answers");

    let daemon = setup.start().await;
    let cut_off = daemon.client().await.audited(of_method("SendTestEvent")).await.remove(0);
    assert_eq!((cut_off.code, cut_off.finish_time, cut_off.resource), (None, None, id));
    assert_eq!(cut_off.principal.expect("somebody").kind(), PrincipalKind::Anonymous);
}

/// While its entry cannot be written, a call is refused and changes nothing: there is no webhook that is not on record.
#[tokio::test]
async fn on_a_full_disk_nothing_is_done_that_is_not_on_record() {
    let limited = setup().file_bytes_max(FILE_BYTES_MAX);
    let daemon = limited.start().await;
    let client = daemon.client().await;
    let body = format!("\"{}\"", "x".repeat(64 << 10));
    let full = async {
        for n in 0.. {
            let (replies, _) = client.publish_all([event(&format!("e-{n}"), "ADD_TAG", body.clone())]).await;
            if let Verdict::Rejected(_) = verdict(&replies[0]) {
                return;
            }
        }
    };
    within("the disk to be full", full).await;
    let mut created = BTreeSet::new();
    let refused = async {
        loop {
            let request = CreateWebhookRequest {
                webhook: Some(Webhook { description: "x".repeat(1000), ..webhook("", NOWHERE, &["*"]) }),
                ..CreateWebhookRequest::default()
            };
            match client.webhooks.clone().create_webhook(request).await {
                Ok(reply) => drop(created.insert(reply.into_inner().webhook.expect("a webhook").id)),
                Err(status) => return status,
            }
        }
    };
    let refused = within("a call to be refused", refused).await;
    Rejection::from(&refused).check("a full disk", Code::ResourceExhausted, DISK_FULL, "");
    daemon.kill().await;

    let daemon = limited.unlimited().start().await;
    let client = daemon.client().await;
    let all_of_them = ListWebhooksRequest { page_size: 1000, ..ListWebhooksRequest::default() };
    let there = client.webhooks.clone().list_webhooks(all_of_them).await.expect("readable").into_inner().webhooks;
    let there: BTreeSet<String> = there.into_iter().map(|webhook| webhook.id).collect();
    assert!(created.is_subset(&there), "what was answered is there");
    let entries = client.audited(of_method("CreateWebhook")).await;
    let known: BTreeSet<&String> = entries.iter().map(|entry| &entry.resource).collect();
    let open = entries.iter().filter(|entry| entry.code.is_none()).count();
    let unknown = there.iter().filter(|id| !known.contains(id)).count();
    assert!(unknown <= open, "{unknown} webhooks without an entry, and {open} entries without an ending");
}

/// Whoever floods it with calls that are refused does not fill it, and all are counted.
#[tokio::test]
async fn refused_calls_are_counted_beyond_a_rate() {
    const CALLS: usize = 100;
    let setup = Setup::new(BINARY).flag("--require-auth=true", "--allow-http=false");
    let daemon = setup.start().await;
    let mut stranger = daemon.client().await.webhooks;
    for _ in 0..CALLS {
        stranger.list_webhooks(ListWebhooksRequest::default()).await.expect_err("credentials are needed");
    }
    daemon.terminate();
    let ended = daemon.ended(postrider_tests::deadline::PATIENCE).await;
    assert!(ended.status.success(), "{}", ended.log);
    let admin = keys(setup.data(), "create --name admin --rights operate --all-tenants");
    let daemon = setup.start().await;
    let unauthenticated = ListAuditEntriesRequest { failed: true, ..all() };
    let entries = keyed(&daemon, &admin).await.audited(unauthenticated).await;
    let calls = entries.iter().filter(|entry| !entry.method.is_empty()).count();
    let omitted: i64 = entries.iter().map(|entry| entry.omitted).sum();
    assert_eq!(calls + usize::try_from(omitted).expect("a count"), CALLS, "{entries:?}");
    assert!(calls < CALLS && entries.iter().all(|entry| entry.code == Some(16)), "{calls}");
}
