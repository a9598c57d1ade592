//! Requests that are right, about things that are there: the corpus that changed ones begin with.

use postrider_proto::v1::{self, Right};
use postrider_tests::{client::Client, events::event};
use proptest::sample::Index;
use prost::Message;

/// Requests by their path, and what is in them.
pub(super) struct Samples {
    requests: Vec<(&'static str, Vec<u8>)>,
    /// The same for messages of streams.
    messages: Vec<(&'static str, Vec<u8>)>,
    webhook: String,
    url: String,
}

impl Samples {
    /// Makes a webhook, which points at a port that nobody listens on, and an event, and requests about them.
    pub(super) async fn make(client: &Client, port: u16) -> Self {
        let url = format!("http://127.0.0.1:{port}/");
        let webhook = client.create(&url, &["ADD_TAG"]).await.id();
        client.publish([event("e-1", "ADD_TAG", r#"{"a":1}"#)]).await;
        let delivery = client.deliveries(v1::ListDeliveriesRequest::default()).await.remove(0).id;
        let (requests, messages) =
            (requests(&url, &webhook, &delivery), messages(&webhook, &replay(client, &webhook).await));
        Self { requests, messages, webhook, url }
    }

    /// One of the requests, or messages, of this path, if there are any.
    pub(super) fn of(&self, path: &str, which: Index) -> Option<Vec<u8>> {
        let fitting: Vec<_> = self.requests.iter().chain(&self.messages).filter(|(of, _)| *of == path).collect();
        (!fitting.is_empty()).then(|| which.get(&fitting).1.clone())
    }

    /// All requests of calls without streams, with their paths.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.requests.iter().map(|(path, request)| (*path, request.as_slice()))
    }

    /// Whether this URL leads to where nobody listens.
    pub(super) fn is_home(&self, url: &url::Url) -> bool {
        url::Url::parse(&self.url).is_ok_and(|home| home.authority() == url.authority())
    }

    /// Texts that mean something to the daemon, to be put where texts are.
    pub(super) fn words(&self) -> Vec<String> {
        const WORDS: &[&str] = &[
            "",
            "default",
            "acme",
            "-",
            "*",
            "ADD_TAG",
            "NEW_LEAD",
            "order.created",
            "e-1",
            "evt_0193a5e2d1f07c4b8e6a9d3c5b7f1e24",
            "wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80",
            "dlv_abababababababababababababababab",
            "rpl_0193a5e2c4b87d3f9a1c5e7b2d4f6a80",
            "key_0193a5e2c4b87d3f9a1c5e7b",
            "{\"a\": 1}",
            "{}",
            "[1]",
            "application/json",
            "text/plain; charset=utf-8",
            "body.a == 1",
            "has(body.x)",
            "{\"type\": \"object\"}",
            "{\"$ref\": \"#\"}",
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "url",
            "enabled",
            "event_types",
            "settings",
            "retry",
            "retry.max_attempts",
            "***",
            "x-header",
            "value",
            "x\r\ny: z",
            "\u{0}",
            "é",
            "0",
            "1",
            "99999999999999999999",
            "1.5e3",
            "http://169.254.169.254/",
        ];
        let known = [self.webhook.clone(), self.url.clone(), format!("{}?a=b", self.url)];
        WORDS.iter().map(|&word| word.to_owned()).chain(known).collect()
    }
}

/// A key that may do everything. From then on calls without one are refused.
pub(super) async fn admin_key(client: &Client) -> String {
    let rights = [Right::Publish, Right::Manage, Right::Read, Right::Operate].map(i32::from).to_vec();
    let key = v1::Key { name: "fuzz".into(), tenants: vec!["-".into()], rights, ..v1::Key::default() };
    let request = v1::CreateKeyRequest { key: Some(key) };
    client.keys.clone().create_key(request).await.expect("nobody has a key yet").into_inner().api_key
}

/// Starts a replay, and returns its id.
async fn replay(client: &Client, webhook: &str) -> String {
    let request = v1::ReplayEventsRequest { webhook_id: webhook.to_owned(), ..Default::default() };
    let started = client.replays.clone().replay_events(request).await.expect("it can be started");
    started.into_inner().replay.expect("a reply holds the replay").id
}

fn encoded(path: &'static str, request: &impl Message) -> (&'static str, Vec<u8>) {
    (path, request.encode_to_vec())
}

fn messages(webhook: &str, replay: &str) -> Vec<(&'static str, Vec<u8>)> {
    let publish =
        |event| encoded("/postrider.v1.EventService/PublishEvents", &v1::PublishEventsRequest { event: Some(event) });
    let watch = |start| {
        let request = v1::WatchDeliveriesRequest { start, webhook_ids: vec![webhook.to_owned()], ..Default::default() };
        encoded("/postrider.v1.DeliveryService/WatchDeliveries", &request)
    };
    vec![
        publish(event("e-3", "ADD_TAG", "{}")),
        publish(event("", "NEW_LEAD", r#"{"a": [1, 2]}"#)),
        publish(v1::Event { ordering_key: "k".into(), ..event("e-4", "ADD_TAG", "{}") }),
        watch(None),
        watch(Some(v1::watch_deliveries_request::Start::FromBeginning(true))),
        encoded(
            "/postrider.v1.ReplayService/WatchReplay",
            &v1::WatchReplayRequest { tenant: String::new(), id: replay.to_owned() },
        ),
    ]
}

fn requests(url: &str, webhook: &str, delivery: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (id, tenant) = (webhook.to_owned(), String::new);
    let draft = v1::Webhook {
        url: url.to_owned(),
        event_types: vec!["NEW_LEAD".into()],
        display_name: "name".into(),
        headers: [("x-header".to_owned(), "value".to_owned())].into(),
        query: [("source".to_owned(), "x".to_owned())].into(),
        payload_filter: "body.a == 1".into(),
        ..v1::Webhook::default()
    };
    let mask = prost_types::FieldMask { paths: vec!["display_name".into(), "headers".into()] };
    let update = v1::UpdateWebhookRequest {
        webhook: Some(v1::Webhook { id: id.clone(), ..draft.clone() }),
        update_mask: Some(mask),
        ..v1::UpdateWebhookRequest::default()
    };
    let new_type = v1::EventType { name: "order.created".into(), json_schema: "{}".into(), ..v1::EventType::default() };
    vec![
        encoded(
            "/postrider.v1.WebhookService/CreateWebhook",
            &v1::CreateWebhookRequest { webhook: Some(draft), ..Default::default() },
        ),
        encoded("/postrider.v1.WebhookService/UpdateWebhook", &update),
        encoded("/postrider.v1.WebhookService/GetWebhook", &v1::GetWebhookRequest { tenant: tenant(), id: id.clone() }),
        encoded(
            "/postrider.v1.WebhookService/ListWebhooks",
            &v1::ListWebhooksRequest { page_size: 1, ..Default::default() },
        ),
        encoded(
            "/postrider.v1.WebhookService/RotateSecret",
            &v1::RotateSecretRequest { id: id.clone(), ..Default::default() },
        ),
        encoded(
            "/postrider.v1.EventTypeService/CreateEventType",
            &v1::CreateEventTypeRequest { event_type: Some(new_type) },
        ),
        encoded("/postrider.v1.EventTypeService/ListEventTypes", &v1::ListEventTypesRequest::default()),
        encoded(
            "/postrider.v1.EventService/PublishEvent",
            &v1::PublishEventRequest { event: Some(event("e-2", "ADD_TAG", "{}")) },
        ),
        encoded("/postrider.v1.EventService/GetEvent", &v1::GetEventRequest { tenant: tenant(), id: "e-1".into() }),
        encoded(
            "/postrider.v1.DeliveryService/ListDeliveries",
            &v1::ListDeliveriesRequest { webhook_id: id, ..Default::default() },
        ),
        encoded(
            "/postrider.v1.DeliveryService/GetDelivery",
            &v1::GetDeliveryRequest { tenant: tenant(), id: delivery.to_owned() },
        ),
        encoded(
            "/postrider.v1.DeliveryService/RetryDelivery",
            &v1::RetryDeliveryRequest { tenant: tenant(), id: delivery.to_owned() },
        ),
        encoded("/postrider.v1.ClockService/GetClock", &v1::GetClockRequest::default()),
        encoded("/postrider.v1.ClockService/ConfirmClock", &v1::ConfirmClockRequest::default()),
        encoded("/postrider.v1.KeyService/ListKeys", &v1::ListKeysRequest::default()),
        encoded(
            "/postrider.v1.QuotaService/SetQuota",
            &v1::SetQuotaRequest {
                quota: Some(v1::Quota {
                    tenant: "acme".into(),
                    events_per_second: Some(2.5),
                    events_burst: Some(5),
                    pending_deliveries: Some(-1),
                    webhooks: Some(0),
                    ..Default::default()
                }),
            },
        ),
        encoded("/postrider.v1.QuotaService/GetQuota", &v1::GetQuotaRequest { tenant: "acme".into() }),
        encoded("/postrider.v1.QuotaService/ListQuotas", &v1::ListQuotasRequest { page_size: 1, ..Default::default() }),
        encoded(
            "/postrider.v1.AuditService/ListAuditEntries",
            &v1::ListAuditEntriesRequest { tenant: "-".into(), method: "CreateWebhook".into(), ..Default::default() },
        ),
    ]
}
