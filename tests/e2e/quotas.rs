//! Quotas: what a tenant may use, and that nobody else notices when it uses all of it.

use std::{collections::BTreeMap, time::Duration};

use postrider_proto::v1::{
    CreateKeyRequest, CreateWebhookRequest, DeleteWebhookRequest, DeliveryState, Event, GetQuotaRequest, Key,
    ListQuotasRequest, PublishEventRequest, PublishEventsResponse, Quota, ReplayEventsRequest, RetryDeliveryRequest,
    Right, SendTestEventRequest, SetQuotaRequest, TenantQuota, WatchReplayRequest, Webhook, publish_event_response,
    publish_events_response::Result as Reply,
};
use postrider_tests::{
    client::{Client, Verdict, verdict, webhook},
    deadline::within,
    events::{event, numbered},
    ops::Scrape,
    receiver::{Answer, Receiver, closed_port},
    rejection::Rejection,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use crate::{patient, setup};

fn of(tenant: &str, event: Event) -> Event {
    Event { tenant: tenant.to_owned(), ..event }
}

async fn set(client: &Client, quota: Quota) -> TenantQuota {
    let request = SetQuotaRequest { quota: Some(quota) };
    let call = within("SetQuota", async { client.quotas.clone().set_quota(request).await }).await;
    call.expect("it is set").into_inner().quota.expect("a reply holds the quota")
}

async fn quota(client: &Client, tenant: &str) -> TenantQuota {
    let request = GetQuotaRequest { tenant: tenant.to_owned() };
    let call = within("GetQuota", async { client.quotas.clone().get_quota(request).await }).await;
    call.expect("it is there").into_inner().quota.expect("a reply holds the quota")
}

async fn pending(client: &Client, tenant: &str) -> i64 {
    quota(client, tenant).await.usage.expect("a reply holds the usage").pending_deliveries
}

async fn publish(client: &Client, events: Vec<Event>) -> Vec<PublishEventsResponse> {
    let (replies, ended) = client.publish_all(events).await;
    ended.expect("what is rejected never ends the stream");
    replies
}

/// `.` for each that was accepted, `x` for each that was not.
fn marks(replies: &[PublishEventsResponse]) -> String {
    let mark = |reply| if matches!(verdict(reply), Verdict::Accepted { .. }) { '.' } else { 'x' };
    replies.iter().map(mark).collect()
}

/// What was said of a rejected event: tenant, limit, usage; and for how long to wait.
fn rejected(reply: &PublishEventsResponse, reason: &str) -> ([String; 3], Duration) {
    let Some(Reply::Rejected(status)) = &reply.result else { panic!("accepted: {reply:?}") };
    assert_eq!(status.code, Code::ResourceExhausted as i32, "{status:?}");
    told(&status.get_error_details(), reason)
}

fn told(details: &ErrorDetails, reason: &str) -> ([String; 3], Duration) {
    let info = details.error_info().expect("it says why");
    assert_eq!(info.reason, reason);
    let delay = details.retry_info().and_then(|info| info.retry_delay).expect("it says when to try again");
    (["tenant", "limit", "usage"].map(|name| info.metadata[name].clone()), delay)
}

fn refused(status: &Status, reason: &str) -> [String; 3] {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    told(&status.get_error_details(), reason).0
}

/// Promise 3 for the backlog: what one tenant's dead receiver does not take stays free for the others.
#[tokio::test]
async fn one_tenants_dead_receiver_leaves_room_for_the_others() {
    let flags = patient().flag("--max-pending", "40").flag("--quota-pending", "30").flag("--ops", "127.0.0.1:0");
    let daemon = flags.start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    client.create_for("dead", &format!("http://127.0.0.1:{}/", closed_port()), &["*"]).await;
    client.create_for("healthy", &receiver.url("/"), &["*"]).await;

    let replies = publish(&client, numbered("d", "ADD_TAG", 60).map(|event| of("dead", event)).collect()).await;
    assert_eq!(marks(&replies), [".".repeat(30), "x".repeat(30)].concat());
    for reply in &replies[30..] {
        let (told, delay) = rejected(reply, "QUOTA_PENDING_DELIVERIES");
        assert_eq!((told, delay), (["dead", "30", "30"].map(str::to_owned), Duration::from_secs(5)));
    }
    for round in 0..10 {
        let events = numbered(&format!("h{round}"), "ADD_TAG", 8).map(|event| of("healthy", event));
        assert_eq!(marks(&publish(&client, events.collect()).await), ".".repeat(8), "round {round}");
        receiver.received(8 * (round + 1)).await;
        within("their outcomes", async { while pending(&client, "healthy").await > 0 {} }).await;
    }
    assert_eq!(pending(&client, "dead").await, 30);
    let scrape = Scrape::of(daemon.ops().await).await;
    let counted = scrape.by_label("events_rejected_total");
    assert_eq!(counted, BTreeMap::from([("QUOTA_PENDING_DELIVERIES".to_owned(), 30)]), "by reason, and not by tenant");
}

/// An event is stored with all its deliveries or not at all; what is pending is exact after a kill, and the quota still holds.
#[tokio::test]
async fn a_fan_out_is_stored_whole_or_not_at_all_and_counts_survive_a_kill() {
    let setup = patient();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let dead = format!("http://127.0.0.1:{}/", closed_port());
    for _ in 0..10 {
        client.create(&dead, &["ADD_TAG"]).await;
    }
    client.create(&dead, &["NEW_LEAD"]).await;
    let set_to = Quota { pending_deliveries: Some(15), ..Quota::default() };
    let shown = set(&client, set_to.clone()).await;
    let own = shown.quota.expect("a reply holds what was set");
    assert_eq!((own.pending_deliveries, own.webhooks, own.tenant.as_str()), (Some(15), None, "default"));
    let holds = shown.in_force.expect("a reply holds what holds");
    assert_eq!((holds.pending_deliveries, holds.webhooks, holds.events_per_second), (Some(15), Some(-1), Some(-1.0)));

    let events = || vec![event("e1", "ADD_TAG", "{}"), event("e2", "ADD_TAG", "{}"), event("n1", "NEW_LEAD", "{}")];
    let replies = publish(&client, events()).await;
    assert_eq!(marks(&replies), ".x.", "10 of 15, then 10 where 5 are left, then one");
    assert_eq!(rejected(&replies[1], "QUOTA_PENDING_DELIVERIES").0, ["default", "15", "10"].map(str::to_owned));
    assert_eq!(pending(&client, "").await, 11);
    daemon.kill().await;

    let daemon = setup.start().await;
    let client = daemon.client().await;
    let now = quota(&client, "").await;
    assert_eq!(now.usage.expect("a reply holds the usage").pending_deliveries, 11);
    assert_eq!(now.quota.expect("a reply holds what was set").pending_deliveries, Some(15));
    let replies = publish(&client, events()).await;
    assert_eq!(marks(&replies), ".x.", "duplicates need no room");
    let mut listed = client.quotas.clone().list_quotas(ListQuotasRequest::default()).await.expect("all").into_inner();
    assert_eq!(listed.quotas.pop().and_then(|it| it.usage).map(|usage| usage.pending_deliveries), Some(11));
    set(&client, Quota { pending_deliveries: Some(-1), ..set_to }).await;
    assert_eq!(marks(&publish(&client, events()).await), "...");
    assert_eq!(pending(&client, "").await, 21);
}

/// Events beyond the rate are rejected one by one, with the time until the next may come; their neighbours are accepted.
#[tokio::test]
async fn events_come_as_fast_as_they_may_and_neighbours_notice_nothing() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    // Slower than any test runs.
    let slow = Quota { tenant: "slow".into(), events_per_second: Some(0.1), events_burst: Some(3), ..Quota::default() };
    set(&client, slow).await;
    let mixed = (0..6).flat_map(|n| {
        let id = format!("e{n}");
        [of("slow", event(&id, "ADD_TAG", "{}")), of("other", event(&id, "ADD_TAG", "{}"))]
    });
    let mut events: Vec<_> = mixed.collect();
    events.insert(1, of("slow", event("x", "NO_SUCH_TYPE", "{}")));
    let replies = publish(&client, events).await;
    assert_eq!(marks(&replies), ".x.....x.x.x.", "what is wrong anyway counts for nothing");
    let (told, delay) = rejected(&replies[7], "QUOTA_EVENTS_PER_SECOND");
    assert_eq!(told, ["slow", "0.1", "3"].map(str::to_owned));
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(10), "{delay:?}");

    let again = PublishEventRequest { event: Some(of("slow", event("e0", "ADD_TAG", "{}"))) };
    let reply = client.events.clone().publish_event(again.clone()).await.expect("an answer").into_inner();
    let Some(publish_event_response::Result::Rejected(status)) = reply.result else { panic!("accepted: {reply:?}") };
    assert_eq!(told_of(&status), "slow", "a repeat counts as well");
    set(&client, Quota { tenant: "slow".into(), ..Quota::default() }).await;
    let reply = client.events.clone().publish_event(again).await.expect("an answer").into_inner();
    assert!(matches!(reply.result, Some(publish_event_response::Result::Accepted(_))), "{reply:?}");
}

fn told_of(status: &tonic_types::pb::Status) -> String {
    told(&status.get_error_details(), "QUOTA_EVENTS_PER_SECOND").0[0].clone()
}

/// What holds for all tenants holds for each of them alone.
#[tokio::test]
async fn the_servers_own_rate_holds_for_every_tenant() {
    let daemon = setup().flag("--quota-events-per-second", "0.1").start().await;
    let client = daemon.client().await;
    set(&client, Quota { tenant: "free".into(), events_per_second: Some(-1.0), ..Quota::default() }).await;
    let events = |n| ["a", "b", "free"].map(|tenant| of(tenant, event(&format!("e{n}"), "ADD_TAG", "{}")));
    let replies = publish(&client, (0..2).flat_map(events).collect()).await;
    assert_eq!(marks(&replies), "...xx.");
}

/// `CreateWebhook` is refused beyond the quota, and not once there is room again.
#[tokio::test]
async fn webhooks_have_a_quota() {
    let daemon = setup().flag("--quota-webhooks", "1").start().await;
    let client = daemon.client().await;
    let receiver = Receiver::answering(200).await;
    let first = client.create(&receiver.url("/"), &["*"]).await;
    let another = async |tenant: &str| {
        let webhook = Some(webhook(tenant, &receiver.url("/"), &["*"]));
        let request = CreateWebhookRequest { webhook, ..CreateWebhookRequest::default() };
        client.webhooks.clone().create_webhook(request).await
    };
    let status = another("").await.expect_err("there is one");
    assert_eq!(refused(&status, "QUOTA_WEBHOOKS"), ["default", "1", "1"].map(str::to_owned));
    let asking = Webhook { verify_ownership: true, ..webhook("", &receiver.url("/"), &["*"]) };
    let asking = CreateWebhookRequest { webhook: Some(asking), ..CreateWebhookRequest::default() };
    let status = client.webhooks.clone().create_webhook(asking).await.expect_err("there is one");
    refused(&status, "QUOTA_WEBHOOKS");
    assert_eq!(receiver.count(), 0, "nobody is asked about a webhook that cannot be");
    another("other").await.expect("it has none");
    let delete = DeleteWebhookRequest { id: first.id(), ..DeleteWebhookRequest::default() };
    client.webhooks.clone().delete_webhook(delete).await.expect("it is there");
    another("").await.expect("there is room again");
    set(&client, Quota { webhooks: Some(2), ..Quota::default() }).await;
    another("").await.expect("it may have two");
    assert_eq!(quota(&client, "").await.usage.expect("a reply holds the usage").webhooks, 2);
    refused(&another("").await.expect_err("there are two"), "QUOTA_WEBHOOKS");
}

/// Bytes of a day are exact after a kill: what was acknowledged counts, what was rejected or published before does not.
#[tokio::test]
async fn bytes_have_a_quota_by_the_day() {
    const MIB: usize = 1 << 20;
    let setup = setup().flag("--quota-bytes-per-day", "2MiB");
    // Once more if the day ended meanwhile.
    loop {
        let daemon = setup.start().await;
        let client = daemon.client().await;
        let tenant =
            format!("t{}", quota(&client, "").await.usage.expect("usage").day_end_time.expect("a day").seconds);
        let usage = async |client: &Client| quota(client, &tenant).await.usage.expect("a reply holds the usage");
        let sized =
            |id: &str, bytes: usize| of(&tenant, event(id, "ADD_TAG", format!("\"{}\"", "x".repeat(bytes - 2))));
        let events =
            || vec![sized("e1", MIB), sized("e2", MIB - 10), sized("e3", MIB), sized("e4", 10), sized("e5", 10)];
        let replies = publish(&client, events()).await;
        let before = usage(&client).await;
        daemon.kill().await;
        let daemon = setup.start().await;
        let client = daemon.client().await;
        let again = publish(&client, events()).await;
        let after = usage(&client).await;
        daemon.stop().await;
        if after.day_end_time != before.day_end_time
            || !tenant.ends_with(&after.day_end_time.expect("a day").seconds.to_string())
        {
            continue;
        }
        assert_eq!((marks(&replies), marks(&again)), ("..x.x".to_owned(), "..x.x".to_owned()));
        let (told, delay) = rejected(&again[4], "QUOTA_BYTES_PER_DAY");
        assert_eq!(told, [tenant.as_str(), "2097152", "2097152"].map(str::to_owned));
        assert!(delay > Duration::ZERO && delay <= Duration::from_hours(24), "{delay:?}");
        assert_eq!((before.bytes_today, after.bytes_today), (Some(2 << 20), Some(2 << 20)));
        return;
    }
}

/// Test events and replays need no rate and no bytes; a replay makes no more pending than the quota leaves, and a retry needs room.
#[tokio::test]
async fn test_events_replays_and_retries() {
    let daemon = patient().start().await;
    let client = daemon.client().await;
    let receiver = Receiver::start(|request| Answer::status(if request.event_id == "bad" { 500 } else { 200 })).await;
    let webhook = client.create(&receiver.url("/"), &["*"]).await.id();
    publish(&client, numbered("e", "ADD_TAG", 30).collect()).await;
    receiver.received(30).await;
    within("their outcomes", async { while pending(&client, "").await > 0 {} }).await;
    let tight = Quota {
        events_per_second: Some(0.1),
        events_burst: Some(1),
        pending_deliveries: Some(20),
        bytes_per_day: Some(2 << 20),
        ..Quota::default()
    };
    set(&client, tight.clone()).await;
    let replies = publish(&client, vec![event("bad", "ADD_TAG", "{}"), event("more", "ADD_TAG", "{}")]).await;
    assert_eq!(marks(&replies), ".x", "the rate is used up");
    let test = SendTestEventRequest { id: webhook.clone(), event_type: "ADD_TAG".into(), ..Default::default() };
    client.webhooks.clone().send_test_event(test).await.expect("a test event needs none");
    let bytes = quota(&client, "").await.usage.and_then(|usage| usage.bytes_today);
    assert_eq!(bytes, Some(2), "that of the one event");

    let mut replays = client.replays.clone();
    let request = ReplayEventsRequest {
        webhook_id: webhook,
        states: vec![DeliveryState::Delivered.into()],
        ..Default::default()
    };
    let replay = replays.replay_events(request).await.expect("it begins").into_inner().replay.expect("one began").id;
    let request = WatchReplayRequest { id: replay, ..WatchReplayRequest::default() };
    let mut watch = replays.watch_replay(request).await.expect("it is watched").into_inner();
    let mut last = None;
    while let Some(message) = within("the replay to go on", watch.message()).await.expect("it goes on") {
        last = message.replay;
        assert!(pending(&client, "").await <= 18, "a tenth is left to what is published");
    }
    let progress = last.and_then(|replay| replay.progress).expect("it says how it stands");
    assert_eq!(progress.created_deliveries, 30, "{progress:?}");
    within("their outcomes", async { while pending(&client, "").await > 1 {} }).await;
    assert_eq!(quota(&client, "").await.usage.and_then(|usage| usage.bytes_today), Some(2));

    let delivered = client.watch_from_beginning().await.outcome(DeliveryState::Delivered).await.delivery_id;
    set(&client, Quota { pending_deliveries: Some(1), ..tight }).await;
    let retry = RetryDeliveryRequest { id: delivered, ..RetryDeliveryRequest::default() };
    let status = client.deliveries.clone().retry_delivery(retry).await.expect_err("no room");
    assert_eq!(refused(&status, "QUOTA_PENDING_DELIVERIES"), ["default", "1", "1"].map(str::to_owned));
}

/// A tenant reads its own quota and no other's, and only who operates for all tenants sets and lists them.
#[tokio::test]
async fn a_tenant_sees_its_quota_and_cannot_raise_it() {
    let daemon = setup().start().await;
    let open = daemon.client().await;
    let rights = [Right::Publish, Right::Manage, Right::Read, Right::Operate].map(i32::from).to_vec();
    let key = async |tenant: &str, by: &Client| {
        let key = Key { name: "k".into(), tenants: vec![tenant.into()], rights: rights.clone(), ..Key::default() };
        let created = by.keys.clone().create_key(CreateKeyRequest { key: Some(key) }).await.expect("it may");
        Client::keyed(daemon.channel().await, &created.into_inner().api_key)
    };
    let all = key("-", &open).await;
    let acme = key("acme", &all).await;
    for (tenant, webhooks) in [("other", 3), ("acme", 4), ("b", 5)] {
        set(&all, Quota { tenant: tenant.into(), webhooks: Some(webhooks), ..Quota::default() }).await;
    }
    let own = quota(&acme, "acme").await;
    assert_eq!(own.in_force.expect("a reply holds what holds").webhooks, Some(4));
    let hidden = acme.quotas.clone().get_quota(GetQuotaRequest { tenant: "other".into() }).await.expect_err("hidden");
    Rejection::from(&hidden).check("another's", Code::NotFound, "TENANT_NOT_FOUND", "");
    let raised =
        SetQuotaRequest { quota: Some(Quota { tenant: "acme".into(), webhooks: Some(-1), ..Quota::default() }) };
    let denied = acme.quotas.clone().set_quota(raised).await.expect_err("not its own");
    Rejection::from(&denied).check("its own", Code::PermissionDenied, "PERMISSION_DENIED", "");
    let denied = acme.quotas.clone().list_quotas(ListQuotasRequest::default()).await.expect_err("not all");
    Rejection::from(&denied).check("all", Code::PermissionDenied, "PERMISSION_DENIED", "");

    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListQuotasRequest { page_size: 1, page_token };
        let page = all.quotas.clone().list_quotas(request).await.expect("it may").into_inner();
        assert!(page.quotas.len() <= 1);
        names.extend(page.quotas.into_iter().filter_map(|it| it.quota).map(|quota| quota.tenant));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["acme", "b", "other"]);
    let wrong = SetQuotaRequest { quota: Some(Quota { pending_deliveries: Some(-2), ..Quota::default() }) };
    let status = all.quotas.clone().set_quota(wrong).await.expect_err("malformed");
    Rejection::from(&status).check("-2", Code::InvalidArgument, "INVALID_FIELD", "quota.pending_deliveries");
}
