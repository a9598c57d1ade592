//! The audit log under pressure, and whose eyes it is for; and what is done at the data directory.

use std::{path::Path, process::Command};

use futures::future::join_all;
use postrider_proto::{
    error_info::TOO_MANY_CALLS,
    v1::{
        AuditEntry, CreateEventTypeRequest, DeleteEventTypeRequest, DeleteWebhookRequest, EraseTenantRequest, Event,
        EventType, GetErasureRequest, ListAuditEntriesRequest, ListWebhooksRequest, PrincipalKind, Quota,
        SetQuotaRequest,
    },
};
use postrider_tests::{
    client::{Client, Verdict, verdict},
    daemon::Setup,
    deadline::within,
    events::event,
    rejection::Rejection,
};
use tokio::task::spawn_blocking;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    BINARY,
    audit::{NOWHERE, all, brief, keyed, keys, of_method},
    setup,
};

/// What one key for some tenants may do at once, and how many more are tried.
const BURST: usize = 1_000;
const MORE: usize = 200;
/// Calls at a time.
const CALLERS: usize = 50;

/// Calls that go to the log come no faster than they may; who is told to wait and does goes on, and nobody else waits at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_calls_has_to_wait() {
    let setup = setup();
    let acme = keys(setup.data(), "create --name acme --rights manage --tenants acme");
    let other = keys(setup.data(), "create --name other --rights manage,operate --tenants other");
    let daemon = setup.start().await;
    let (flooding, other) = (keyed(&daemon, &acme).await, keyed(&daemon, &other).await);
    let before = other.create_for("other", NOWHERE, &["*"]).await.id();
    let missing = DeleteWebhookRequest { tenant: "acme".into(), id: before.clone(), etag: String::new() };
    let mut refused = Vec::new();
    for _ in 0..(BURST + MORE) / CALLERS {
        let calls = (0..CALLERS).map(|_| {
            let (mut webhooks, request) = (flooding.webhooks.clone(), missing.clone());
            async move { webhooks.delete_webhook(request).await.expect_err("it has no such webhook") }
        });
        let answers = within("answers", join_all(calls)).await;
        refused.extend(answers.into_iter().filter(|status| status.code() != Code::NotFound));
    }
    assert!(!refused.is_empty() && refused.len() <= MORE, "{}", refused.len());
    let last = refused.last().expect("there are some");
    Rejection::from(last).check("a flood", Code::ResourceExhausted, TOO_MANY_CALLS, "");
    let delay = last.get_error_details().retry_info().and_then(|info| info.retry_delay).expect("it says when");
    assert!(delay.as_millis() <= 50, "{delay:?}");

    other.create_for("other", NOWHERE, &["*"]).await;
    let seen = other.audited(ListAuditEntriesRequest { tenant: "other".into(), ..all() }).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[1].resource, before);
    let paced = async {
        while let Err(status) = flooding.webhooks.clone().delete_webhook(missing.clone()).await
            && status.code() != Code::NotFound
        {
            let delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            tokio::time::sleep(delay.expect("it says when")).await;
        }
    };
    within("a call that waits as it is told", paced).await;
}

/// Who is refused at somebody else's tenant, by whatever call, is nobody to those who see only that tenant; and when it is erased,
/// no entry names it, whatever was called, and by whom.
#[tokio::test]
async fn strangers_have_no_name_and_an_erased_tenant_is_not_named() {
    let setup = setup();
    let root_key = keys(setup.data(), "create --name root --rights publish,manage,read,operate --all-tenants");
    let inside = keys(setup.data(), "create --name inside --rights manage,operate --tenants acme");
    let outside = keys(setup.data(), "create --name rival --rights publish,manage,read,operate --tenants rival");
    let daemon = setup.start().await;
    let [root, inside, outside] =
        [keyed(&daemon, &root_key).await, keyed(&daemon, &inside).await, keyed(&daemon, &outside).await];
    inside.create_for("acme", NOWHERE, &["*"]).await;
    let quota = Quota { tenant: "acme".into(), ..Quota::default() };
    root.quotas.clone().set_quota(SetQuotaRequest { quota: Some(quota) }).await.expect("it is set");
    let event_type = EventType { tenant: "acme".into(), name: "acme.order".into(), ..EventType::default() };
    let create = CreateEventTypeRequest { event_type: Some(event_type) };
    inside.event_types.clone().create_event_type(create).await.expect("it is created");
    let delete = DeleteEventTypeRequest { tenant: "acme".into(), name: "acme.order".into(), ..Default::default() };
    inside.event_types.clone().delete_event_type(delete).await.expect("it is deleted");

    let list = ListWebhooksRequest { tenant: "acme".into(), ..ListWebhooksRequest::default() };
    outside.webhooks.clone().list_webhooks(list).await.expect_err("it is not theirs");
    let theirs = Event { tenant: "acme".into(), ..event("theirs", "ADD_TAG", "{}") };
    let ours = Event { tenant: "rival".into(), ..event("ours", "ADD_TAG", "{}") };
    let (replies, ended) = outside.publish_all([theirs, ours]).await;
    ended.expect("the stream ends well");
    let verdicts: Vec<_> = replies.iter().map(verdict).collect();
    assert!(matches!(verdicts[..], [Verdict::Rejected(_), Verdict::Accepted { .. }]), "{verdicts:?}");

    let of_acme = ListAuditEntriesRequest { tenant: "acme".into(), ..all() };
    let seen = inside.audited(of_acme.clone()).await;
    let (key, withheld) = (PrincipalKind::Key, PrincipalKind::Withheld);
    assert_eq!(
        seen.iter().rev().map(brief).collect::<Vec<_>>(),
        [
            ("CreateWebhook", key, 0),
            ("SetQuota", key, 0),
            ("CreateEventType", key, 0),
            ("DeleteEventType", key, 0),
            ("ListWebhooks", withheld, 5),
            ("PublishEvents", withheld, 5),
        ]
    );
    assert!(seen.iter().all(|entry| entry.peer.starts_with("127.0.0.1:")), "{seen:?}");
    assert!(!format!("{seen:?}").contains("rival"));
    let everything = root.audited(of_acme.clone()).await;
    let rival = everything[0].principal.clone().expect("somebody");
    assert_eq!((rival.kind(), &*rival.name), (key, "rival"));
    let by_id = ListAuditEntriesRequest { principal: rival.id, ..of_acme };
    assert_eq!((root.audited(by_id.clone()).await.len(), inside.audited(by_id).await.len()), (2, 0));

    let erase = EraseTenantRequest { tenant: "acme".into(), request_id: String::new() };
    let erasure = inside.tenants.clone().erase_tenant(erase).await.expect("it may").into_inner().erasure;
    let id = erasure.expect("it begins").id;
    check_unnamed(&root.audited(all()).await);
    within("the erasure to end", async { while !is_finished(&root, &id).await {} }).await;
    check_unnamed(&root.audited(all()).await);
    daemon.stop().await;
    let daemon = setup.start().await;
    check_unnamed(&keyed(&daemon, &root_key).await.audited(all()).await);
}

async fn is_finished(client: &Client, id: &str) -> bool {
    let request = GetErasureRequest { tenant: "acme".into(), id: id.into() };
    let reply = client.tenants.clone().get_erasure(request).await.expect("it may").into_inner();
    reply.erasure.expect("it is remembered").finish_time.is_some()
}

/// No entry has the name of the tenant, in any of its texts.
fn check_unnamed(entries: &[AuditEntry]) {
    assert!(entries.len() > 6, "{entries:?}");
    for entry in entries {
        assert!(!format!("{entry:?}").contains("acme"), "{entry:?}");
    }
}

/// `postriderd …` on a data directory.
async fn run(setup: &Setup, arguments: &[&str]) {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--data").arg(setup.data()).env_clear();
    let output = within("the command", spawn_blocking(move || command.output())).await;
    let output = output.expect("it does not panic").expect("the binary starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Who copies everything is on record: through the daemon, without one, and where it is restored.
#[tokio::test]
async fn backups_are_on_record() {
    let (setup, elsewhere) = (setup(), setup());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let daemon = setup.start().await;
    run(&setup, &["backup", &text(&path("online"))]).await;
    daemon.stop().await;
    run(&setup, &["backup", "--with-master-key", &text(&path("offline"))]).await;
    let offline = PrincipalKind::Offline;
    let (made, under_way) = (("postriderd backup", offline, 0), ("postriderd backup", offline, -1));
    let of_backups = of_method("postriderd backup");
    let daemon = setup.start().await;
    let seen = daemon.client().await.audited(of_backups).await;
    assert_eq!(seen.iter().map(brief).collect::<Vec<_>>(), [made, made]);
    assert!(!format!("{seen:?}").contains("offline\""), "where it went is a value");
    daemon.stop().await;

    run(&elsewhere, &["restore", &text(&path("offline"))]).await;
    let daemon = elsewhere.start().await;
    let seen = daemon.client().await.audited(all()).await;
    let restored = ("postriderd restore", offline, 0);
    assert_eq!(seen.iter().rev().map(brief).collect::<Vec<_>>(), [made, under_way, restored]);
}
