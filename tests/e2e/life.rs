//! The whole life of a webhook, against receivers in two languages that believe nothing but somebody else's verifier.

use std::{collections::VecDeque, path::Path, time::Duration};

use postrider_proto::v1::{
    BreakerState, DeleteWebhookRequest, DeliveryState, DisableReason, Event, GetWebhookRequest, OperationalEvent,
    Outcome, Replay, ReplayEventsRequest, ReplayState, RotateSecretRequest, SendTestEventRequest, UpdateWebhookRequest,
    WatchDeliveriesRequest, WatchReplayRequest, Webhook, delivery_update::Update,
};
use postrider_tests::{
    client::{Client, Created, Watcher, webhook},
    deadline::within,
    events::{event, numbered},
    rejection::Rejection,
    tools,
};
use serde_json::Value;
use tonic::Code;

use crate::{setup, verifier::Verifier};

/// A body that verifiers which read JSON take, and that a careless sender would change.
const BODY: &str = r#"{ "text":"grüß dich",  "id": 12345678901234567890 }"#;
/// Failed attempts in a row after which the breaker opens, if they span half a minute.
const FAILURES_TO_OPEN: usize = 10;

/// Issue 4: one webhook is created, tested, updated, delivered to, fails, has its breaker open and close, its secret rotated, is sent again
/// what failed, is disabled by a 410, enabled again and deleted, against Flask and the `standardwebhooks` of the Python package index.
#[tokio::test]
async fn a_webhook_lives_with_a_receiver_in_python() {
    let Some(python) = tools::python_with_flask() else { return };
    live(&python, "life.py").await;
}

/// The same against Node's server and the `standardwebhooks` of npm.
#[tokio::test]
async fn a_webhook_lives_with_a_receiver_in_javascript() {
    let Some(node) = tools::node_with_standardwebhooks() else { return };
    live(&node, "life.cjs").await;
}

async fn live(program: &Path, script: &str) {
    // Ten failures at this pace are half a minute, which is what the breaker wants to see.
    let retries = ["3500ms"; 20].join(",");
    let daemon = setup().flag("--retry-schedule", &retries).flag("--retry-jitter", "0").start().await;
    let mut life = Life::begin(daemon.client().await, program, script).await;
    life.is_tested().await;
    life.is_updated().await;
    life.is_delivered_to("first").await;
    life.fails_until_the_breaker_opens().await;
    life.recovers().await;
    life.has_its_secret_rotated().await;
    life.is_sent_again_what_failed().await;
    life.is_disabled_by_gone().await;
    life.is_enabled_again().await;
    life.is_deleted().await;
}

/// A webhook, its receiver, and what is heard of both.
struct Life {
    client: Client,
    receiver: Verifier,
    /// The receiver's address without a path.
    base: String,
    created: Created,
    watch: Watcher,
    /// Heard of, and not asked for yet.
    outcomes: VecDeque<Outcome>,
    told: VecDeque<OperationalEvent>,
    /// What the receiver has said about requests.
    requests: Vec<Value>,
}

impl Life {
    /// Created: its receiver verifies with the secret of the reply.
    async fn begin(client: Client, program: &Path, script: &str) -> Self {
        let mut receiver = Verifier::start(program, script);
        let base = format!("http://127.0.0.1:{}", receiver.line().await);
        // With few at a time the breaker closes after few successes.
        let wanted = Webhook { max_in_flight: 2, ..webhook("", &format!("{base}/early"), &["ADD_TAG"]) };
        let created = client.create_as(wanted).await;
        let request = WatchDeliveriesRequest { operational_events: true, ..WatchDeliveriesRequest::default() };
        let watch = client.watch_with(request).await;
        let (outcomes, told, requests) = (VecDeque::new(), VecDeque::new(), Vec::new());
        let mut life = Self { client, receiver, base, created, watch, outcomes, told, requests };
        life.tell(&format!("secret {}", life.created.secret.clone())).await;
        life
    }

    /// A test event arrives; under another secret it is refused, so that what is accepted means something.
    async fn is_tested(&mut self) {
        let outcome = self.test().await;
        assert_eq!((outcome.state(), outcome.http_status), (DeliveryState::Delivered, 204), "{outcome:?}");
        assert!(self.request(&outcome.event_id).await["path"] == "/early");

        self.tell("secret whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").await;
        let outcome = self.test().await;
        assert_eq!((outcome.state(), outcome.http_status), (DeliveryState::Failed, 401), "{outcome:?}");
        let refused = self.request(&outcome.event_id).await;
        assert_eq!(refused["accepted"], false, "{refused}");
        self.requests.retain(|request| *request != refused);
        self.tell(&format!("secret {}", self.created.secret.clone())).await;
    }

    async fn is_updated(&mut self) {
        let moved = Webhook { url: format!("{}/hook", self.base), display_name: "CRM".into(), ..Webhook::default() };
        let updated = self.update(moved).await;
        assert_eq!((updated.display_name.as_str(), &updated.event_types), ("CRM", &self.created.webhook.event_types));
        assert_ne!(updated.etag, self.created.webhook.etag);
    }

    async fn is_delivered_to(&mut self, id: &str) {
        assert_eq!(self.client.publish([event(id, "ADD_TAG", BODY)]).await, [1]);
        let outcome = self.outcome(DeliveryState::Delivered).await;
        assert_eq!((outcome.event_id.as_str(), outcome.attempt, outcome.http_status), (id, 1, 204));
        let request = self.request(id).await;
        assert_eq!((&request["path"], &request["attempt"]), (&"/hook".into(), &1.into()), "{request}");
    }

    /// Attempts fail and are repeated, until nothing is sent any more; what comes then is put off without an attempt.
    async fn fails_until_the_breaker_opens(&mut self) {
        self.tell("answer 500").await;
        self.client.publish([event("late", "ADD_TAG", BODY)]).await;
        for attempt in (1..).take(FAILURES_TO_OPEN) {
            let outcome = self.outcome(DeliveryState::Pending).await;
            assert_eq!((outcome.event_id.as_str(), outcome.attempt, outcome.http_status), ("late", attempt, 500));
        }
        self.hear("postrider.webhook.breaker_opened").await;
        self.breaker_is(BreakerState::Open).await;
        self.client.publish([event("later", "ADD_TAG", BODY)]).await;
    }

    /// A change of the webhook makes a probe due at once; when enough has arrived the breaker closes.
    async fn recovers(&mut self) {
        self.tell("answer 204").await;
        self.update(Webhook { description: "mended".into(), ..Webhook::default() }).await;
        let delivered = [self.outcome(DeliveryState::Delivered).await, self.outcome(DeliveryState::Delivered).await];
        let attempts = |id: &str| delivered.iter().find(|it| it.event_id == id).map(|it| it.attempt);
        let failed = i32::try_from(FAILURES_TO_OPEN).expect("it is small");
        assert_eq!(
            (attempts("late"), attempts("later")),
            (Some(failed + 1), Some(1)),
            "no attempt was spent on the second"
        );
        self.client.publish(numbered("more", "ADD_TAG", 10)).await;
        for _ in 0..10 {
            self.outcome(DeliveryState::Delivered).await;
        }
        self.hear("postrider.webhook.breaker_closed").await;
        self.breaker_is(BreakerState::Closed).await;
    }

    /// During the overlap a receiver that knows either secret accepts.
    async fn has_its_secret_rotated(&mut self) {
        let request = RotateSecretRequest { id: self.created.id(), ..RotateSecretRequest::default() };
        let reply = self.client.webhooks.clone().rotate_secret(request).await.expect("the secret is rotated");
        let secret = reply.into_inner().signing_secret;
        assert_ne!(secret, self.created.secret);
        self.is_delivered_to("by-the-old-secret").await;
        self.tell(&format!("secret {secret}")).await;
        self.is_delivered_to("by-the-new-secret").await;
        for id in ["by-the-old-secret", "by-the-new-secret"] {
            assert_eq!(self.request(id).await["signatures"], 2, "{id}");
        }
    }

    /// What is too old for a second attempt fails; a replay sends it again, signed anew, under the same `webhook-id`.
    async fn is_sent_again_what_failed(&mut self) {
        self.tell("answer 500").await;
        let max_age = Some(Duration::from_secs(3).try_into().expect("it is short"));
        self.client.publish([Event { max_age, ..event("lost", "ADD_TAG", BODY) }]).await;
        let failed = self.outcome(DeliveryState::Failed).await;
        assert_eq!((failed.event_id.as_str(), failed.attempt, failed.http_status), ("lost", 1, 500));
        self.tell("answer 204").await;

        let done = self.replay(DeliveryState::Failed).await;
        assert_eq!(done.state(), ReplayState::Succeeded, "{done:?}");
        assert_eq!(done.progress.map(|progress| progress.created_deliveries), Some(1), "{done:?}");
        let again = self.outcome(DeliveryState::Delivered).await;
        assert_eq!((again.event_id.as_str(), again.attempt, again.http_status), ("lost", 1, 204));
        assert_ne!(again.delivery_id, failed.delivery_id);
        let stats = self.client.webhook(&self.created.id()).await.stats.expect("always set");
        assert_eq!((stats.failed, stats.pending), (1, 0), "each delivery counts where it stands: {stats:?}");
    }

    /// Sends what has ended so again; returns the replay when it has looked at everything.
    async fn replay(&self, state: DeliveryState) -> Replay {
        let request = ReplayEventsRequest {
            webhook_id: self.created.id(),
            states: vec![state.into()],
            ..ReplayEventsRequest::default()
        };
        let mut replays = self.client.replays.clone();
        let started = within("ReplayEvents", replays.replay_events(request)).await.expect("it is started");
        let mut last = started.into_inner().replay.expect("a reply holds the replay");
        let request = WatchReplayRequest { tenant: String::new(), id: last.id.clone() };
        let mut watch = within("WatchReplay", replays.watch_replay(request)).await.expect("it is watched").into_inner();
        while let Some(message) = within("the end of the replay", watch.message()).await.expect("it goes on") {
            last = message.replay.expect("a message holds the replay");
        }
        last
    }

    /// 410 ends the delivery and disables the webhook; what comes then is held.
    async fn is_disabled_by_gone(&mut self) {
        self.tell("answer 410").await;
        self.client.publish([event("gone", "ADD_TAG", BODY)]).await;
        let outcome = self.outcome(DeliveryState::Failed).await;
        assert_eq!((outcome.event_id.as_str(), outcome.http_status), ("gone", 410));
        let told = self.hear("postrider.webhook.disabled").await;
        assert_eq!(told.disable_reason(), DisableReason::Gone);
        let disabled = self.client.webhook(&self.created.id()).await;
        assert_eq!((disabled.enabled, disabled.disable_reason()), (Some(false), DisableReason::Gone));
        assert_eq!(self.client.publish([event("held", "ADD_TAG", BODY)]).await, [1]);
        assert_eq!(self.client.webhook(&self.created.id()).await.pending_deliveries, 1);
    }

    async fn is_enabled_again(&mut self) {
        self.tell("answer 204").await;
        let enabled = self.update(Webhook { enabled: Some(true), ..Webhook::default() }).await;
        assert_eq!(enabled.disable_reason(), DisableReason::Unspecified);
        let outcome = self.outcome(DeliveryState::Delivered).await;
        assert_eq!((outcome.event_id.as_str(), outcome.attempt), ("held", 1));
        self.is_delivered_to("last").await;
    }

    /// Gone for good; and in all its life nothing arrived that the verifier did not accept.
    async fn is_deleted(&mut self) {
        let id = self.created.id();
        let request = DeleteWebhookRequest { id: id.clone(), ..DeleteWebhookRequest::default() };
        let reply = self.client.webhooks.clone().delete_webhook(request).await.expect("the webhook is deleted");
        assert_eq!(reply.into_inner().cancelled_deliveries, 0);
        let request = GetWebhookRequest { id, ..GetWebhookRequest::default() };
        let gone = self.client.webhooks.clone().get_webhook(request).await.expect_err("it is gone");
        Rejection::from(&gone).check("get", Code::NotFound, "WEBHOOK_NOT_FOUND", "");
        assert_eq!(self.client.publish([event("nobody", "ADD_TAG", BODY)]).await, [0]);

        // What it says about a request comes before what it says to this.
        self.tell("answer 204").await;
        for request in &self.requests {
            assert_eq!(request["accepted"], true, "{request}");
        }
        let arrived = |id: &str| self.requests.iter().filter(|request| request["id"] == id).count();
        assert_eq!((arrived("late"), arrived("lost"), arrived("nobody")), (FAILURES_TO_OPEN + 1, 2, 0));
    }

    /// Makes the receiver do as told from now on.
    async fn tell(&mut self, command: &str) {
        self.receiver.say(command);
        loop {
            let line = self.receiver.line().await;
            if line["done"] == command {
                return;
            }
            self.requests.push(line);
        }
    }

    /// What the receiver says about the last request that carried this event.
    async fn request(&mut self, id: &str) -> Value {
        loop {
            if let Some(request) = self.requests.iter().rfind(|request| request["id"] == id) {
                return request.clone();
            }
            let line = self.receiver.line().await;
            self.requests.push(line);
        }
    }

    async fn test(&mut self) -> Outcome {
        let request =
            SendTestEventRequest { id: self.created.id(), event_type: "NEW_LEAD".into(), ..Default::default() };
        let call = within("SendTestEvent", async { self.client.webhooks.clone().send_test_event(request).await }).await;
        call.expect("it is sent").into_inner().outcome.expect("a reply holds the outcome")
    }

    async fn update(&mut self, change: Webhook) -> Webhook {
        let webhook = Some(Webhook { id: self.created.id(), ..change });
        let request = UpdateWebhookRequest { webhook, ..UpdateWebhookRequest::default() };
        let reply = self.client.webhooks.clone().update_webhook(request).await.expect("the webhook is updated");
        reply.into_inner().webhook.expect("a reply holds the webhook")
    }

    /// Waits until the webhook shows its breaker so.
    async fn breaker_is(&self, state: BreakerState) {
        let shows = async || self.client.webhook(&self.created.id()).await.breaker.expect("always set").state();
        within("the breaker to show", async { while shows().await != state {} }).await;
    }

    /// The next outcome, which must have led to `state`.
    async fn outcome(&mut self, state: DeliveryState) -> Outcome {
        while self.outcomes.is_empty() {
            self.listen().await;
        }
        let outcome = self.outcomes.pop_front().expect("it is not empty");
        assert_eq!(outcome.state(), state, "{outcome:?}");
        outcome
    }

    /// Waits until the operator is told of this.
    async fn hear(&mut self, what: &str) -> OperationalEvent {
        loop {
            if let Some(place) = self.told.iter().position(|told| told.r#type == what) {
                return self.told.remove(place).expect("it is there");
            }
            self.listen().await;
        }
    }

    async fn listen(&mut self) {
        match self.watch.update().await {
            Update::Outcome(outcome) => self.outcomes.push_back(outcome),
            Update::OperationalEvent(told) => self.told.push_back(told),
            Update::WebhookCancelled(cancelled) => panic!("nothing was pending: {cancelled:?}"),
        }
    }
}
