//! The consent of receivers: asked for before anything is sent to them, shown, and kept to.

use std::{sync::Arc, time::Duration};

use futures::future::{join_all, select_all};
use http::Method;
use parking_lot::Mutex;
use postrider_proto::v1::{
    Authorization, BearerToken, CreateWebhookRequest, CreateWebhookResponse, ListWebhooksRequest, RateLimit,
    UpdateWebhookRequest, Webhook, authorization::Scheme,
};
use postrider_tests::{
    client::{Client, webhook},
    deadline::within,
    events::{event, numbered},
    receiver::{Answer, Received, Receiver, closed_port},
    rejection::Rejection,
};
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::setup;

/// A receiver that answers OPTIONS as told, and takes everything else.
struct Landlord {
    receiver: Receiver,
    says: Arc<Mutex<Answer>>,
}

impl Landlord {
    async fn who_says(answer: Answer) -> Self {
        let says = Arc::new(Mutex::new(answer));
        let told = says.clone();
        let receiver = Receiver::start(move |request| match request.method {
            Method::OPTIONS => told.lock().clone(),
            _ => Answer::status(200),
        });
        Self { receiver: receiver.await, says }
    }

    fn now_says(&self, answer: Answer) {
        *self.says.lock() = answer;
    }

    fn url(&self, path: &str) -> String {
        self.receiver.url(path)
    }

    fn asked(&self) -> Vec<Received> {
        self.receiver.all().into_iter().filter(|request| request.method == Method::OPTIONS).collect()
    }

    fn paths_asked(&self) -> Vec<String> {
        self.asked().into_iter().map(|request| request.path).collect()
    }
}

fn consent(origin: &str, rate: &str) -> Answer {
    let headers = vec![("WebHook-Allowed-Origin", origin.to_owned()), ("WebHook-Allowed-Rate", rate.to_owned())];
    Answer::Reply { status: 200, headers, delay: Duration::ZERO }
}

fn verified(url: &str) -> Webhook {
    Webhook { verify_ownership: true, ..webhook("", url, &["*"]) }
}

async fn try_create(client: &Client, webhook: Webhook, request_id: &str) -> Result<CreateWebhookResponse, Status> {
    let request = CreateWebhookRequest { webhook: Some(webhook), request_id: request_id.into(), ..Default::default() };
    let call = within("CreateWebhook", async { client.webhooks.clone().create_webhook(request).await }).await;
    Ok(call?.into_inner())
}

async fn create(client: &Client, webhook: Webhook) -> Webhook {
    let reply = try_create(client, webhook, "").await.expect("the webhook is created");
    reply.webhook.expect("a reply holds the webhook")
}

async fn try_update(client: &Client, webhook: Webhook, paths: &[&str]) -> Result<Webhook, Status> {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    let request = UpdateWebhookRequest { webhook: Some(webhook), update_mask, held_deliveries: 0 };
    let call = within("UpdateWebhook", async { client.webhooks.clone().update_webhook(request).await }).await;
    Ok(call?.into_inner().webhook.expect("a reply holds the webhook"))
}

async fn update(client: &Client, webhook: Webhook, paths: &[&str]) -> Webhook {
    try_update(client, webhook, paths).await.expect("the webhook is updated")
}

async fn count(client: &Client) -> usize {
    let listed = client.webhooks.clone().list_webhooks(ListWebhooksRequest::default()).await;
    listed.expect("webhooks can be listed").into_inner().webhooks.len()
}

fn check_refused(what: &str, status: &Status, says: &str) {
    let rejection = Rejection::from(status);
    rejection.check(what, Code::FailedPrecondition, "OWNERSHIP_NOT_CONFIRMED", "webhook.url");
    assert!(rejection.message.contains(says), "{what}: {rejection:?}");
}

/// Issue 4, ownership check: the receiver is asked at exactly the URL of deliveries, in the operator's name, and is told no secret; its
/// consent is shown and kept over a restart that changes that name, and deliveries carry what it consented to.
#[tokio::test]
async fn a_receiver_that_consents_is_asked_once_and_told_who_sends() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(consent("postrider", "120")).await;
    let limited = Webhook {
        rate_limit: Some(RateLimit { per_second: 2.5, burst: 0 }),
        headers: [("x-key".to_owned(), "s3cret".to_owned())].into(),
        query: [("team".to_owned(), "a b".to_owned())].into(),
        authorization: Some(Authorization { scheme: Some(Scheme::Bearer(BearerToken { token: "s3cret".into() })) }),
        ..verified(&landlord.url("/in?account=7"))
    };
    let created = create(&client, limited).await;
    let ownership = created.ownership.clone().expect("it is confirmed");
    assert_eq!((ownership.origin.as_str(), ownership.allowed_per_minute), ("postrider", 120));
    assert!(created.verify_ownership && ownership.confirm_time.is_some(), "{created:?}");
    assert_eq!(client.webhook(&created.id).await, created);

    let question = landlord.receiver.received(1).await.remove(0);
    assert_eq!((&question.method, question.path.as_str()), (&Method::OPTIONS, "/in?account=7&team=a+b"));
    assert_eq!(question.header("webhook-request-origin"), "postrider");
    assert_eq!(question.header("webhook-request-rate"), "150");
    assert!(question.body.is_empty() && !format!("{:?}", question.headers).contains("s3cret"), "{question:?}");
    for absent in ["authorization", "x-key", "webhook-id", "webhook-signature", "webhook-request-callback"] {
        assert!(!question.headers.contains_key(absent), "{absent}");
    }
    client.publish([event("e-1", "ADD_TAG", "{}")]).await;
    let delivery = landlord.receiver.received(2).await.remove(1);
    assert_eq!((&delivery.path, delivery.header("webhook-request-origin")), (&question.path, "postrider"));
    daemon.stop().await;

    let daemon = setup.flag("--origin", "Events.example.com").start().await;
    let client = daemon.client().await;
    let kept = client.webhook(&created.id).await;
    assert_eq!((kept.ownership, kept.verify_ownership, kept.etag), (created.ownership, true, created.etag));
    let renamed = Webhook { id: created.id.clone(), display_name: "CRM".into(), ..Webhook::default() };
    assert_eq!(update(&client, renamed, &["display_name"]).await.ownership, Some(ownership));
    client.publish([event("e-2", "ADD_TAG", "{}")]).await;
    assert_eq!(landlord.receiver.received(3).await[2].header("webhook-request-origin"), "postrider");
    assert_eq!(landlord.asked().len(), 1);

    let refused = try_create(&client, verified(&landlord.url("/new")), "").await.expect_err("it allows another origin");
    check_refused("the new name", &refused, "not \"events.example.com\"");
    assert_eq!(landlord.asked()[1].header("webhook-request-origin"), "events.example.com");
}

/// Issue 4: everything but the header that consents is a refusal, silence within the attempt timeout too; it says what was wrong,
/// and nothing is created.
#[tokio::test]
async fn anything_else_than_consent_is_a_refusal() {
    let daemon = setup().flag("--attempt-timeout", "1s").start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(Answer::Hang).await;
    let silent = "without the header webhook-allowed-origin";
    let elsewhere = format!("{}/allowed", landlord.url(""));
    for (what, answer, says) in [
        ("nothing", Answer::Hang, "no answer within 1s"),
        ("a closed connection", Answer::Reset, "closed the connection"),
        ("no OPTIONS", Answer::status(405), silent),
        ("success without a word", Answer::with_header(200, "allow", "POST, OPTIONS"), silent),
        ("a redirect", Answer::with_header(307, "location", elsewhere), silent),
        ("CORS", Answer::with_header(204, "access-control-allow-origin", "*"), silent),
        ("another origin", consent("evil.example.com", "*"), "allows \"evil.example.com\""),
        ("more than the origin", consent("postrider.example.com", "*"), "and not \"postrider\""),
        ("no origin", consent("", "*"), "allows \"\""),
        ("no rate at all", consent("*", "0"), "webhook-allowed-rate is \"0\""),
        ("a rate per hour", consent("postrider", "100/h"), "webhook-allowed-rate is \"100/h\""),
    ] {
        landlord.now_says(answer);
        let refused = try_create(&client, verified(&landlord.url("/")), "").await.expect_err(what);
        check_refused(what, &refused, says);
    }
    let nobody = format!("http://127.0.0.1:{}/", closed_port());
    let refused = try_create(&client, verified(&nobody), "").await.expect_err("nobody listens");
    check_refused("nobody", &refused, "no connection");
    assert_eq!(count(&client).await, 0);
    assert!(landlord.paths_asked().iter().all(|path| path == "/"), "redirects are not followed");

    let forbidden = try_create(&client, verified("https://10.0.0.1/"), "").await.expect_err("it is private");
    Rejection::from(&forbidden).check("forbidden", Code::InvalidArgument, "URL_NOT_ALLOWED", "webhook.url");
    // Consent does not depend on the status, and may leave the rate open.
    for (answer, rate) in [
        (consent("*", "*"), 0),
        (consent("PostRider", "7"), 7),
        (Answer::with_header(404, "webhook-allowed-origin", "*"), 0),
    ] {
        landlord.now_says(answer);
        let ownership = create(&client, verified(&landlord.url("/"))).await.ownership.expect("it is confirmed");
        assert_eq!((ownership.origin.as_str(), ownership.allowed_per_minute), ("postrider", rate));
    }
}

/// Issue 4: without `verify_ownership` nobody is ever asked, whatever happens to the webhook.
#[tokio::test]
async fn off_means_never() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(Answer::status(405)).await;
    let created = create(&client, webhook("", &landlord.url("/a"), &["*"])).await;
    assert_eq!((created.verify_ownership, created.ownership.clone()), (false, None));
    let id = || Webhook { id: created.id.clone(), ..Webhook::default() };
    update(&client, Webhook { url: landlord.url("/b"), ..id() }, &["url"]).await;
    update(&client, Webhook { enabled: Some(false), ..id() }, &["enabled"]).await;
    update(&client, Webhook { enabled: Some(true), ..id() }, &["enabled"]).await;
    update(&client, Webhook { id: created.id.clone(), ..webhook("", &landlord.url("/c"), &["*"]) }, &["*"]).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let requests = landlord.receiver.received(1).await;
    assert_eq!((requests.len(), &requests[0].method, requests[0].path.as_str()), (1, &Method::POST, "/c"));
    assert!(!requests[0].headers.contains_key("webhook-request-origin"));
}

/// Issue 4: an update asks again when it turns the check on, changes where requests go, or enables the webhook; a refusal leaves
/// everything as it was. Other updates do not ask, and keep the consent.
#[tokio::test]
async fn updates_ask_again_when_it_matters() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(Answer::status(200)).await;
    let created = create(&client, webhook("", &landlord.url("/a"), &["*"])).await;
    let id = || Webhook { id: created.id.clone(), ..Webhook::default() };
    let on = || Webhook { verify_ownership: true, ..id() };
    let moved = || Webhook { url: landlord.url("/b"), ..id() };
    let queried = || Webhook { query: [("q".to_owned(), "1".to_owned())].into(), ..id() };
    let enabled = |enabled| Webhook { enabled: Some(enabled), ..id() };

    let refused = try_update(&client, on(), &["verify_ownership"]).await.expect_err("it does not consent");
    check_refused("turned on", &refused, "200 OK");
    assert_eq!(client.webhook(&created.id).await, created);
    landlord.now_says(consent("*", "60"));
    let confirmed = update(&client, on(), &["verify_ownership"]).await;
    assert_eq!(confirmed.ownership.as_ref().map(|it| it.allowed_per_minute), Some(60));
    assert_eq!(landlord.paths_asked(), ["/a", "/a"]);

    // None of these goes anywhere else.
    let noted = update(&client, Webhook { description: "x".into(), ..id() }, &["description"]).await;
    let again = update(&client, on(), &["verify_ownership"]).await;
    let same = update(&client, Webhook { url: landlord.url("/a"), ..id() }, &["url"]).await;
    let whole = update(&client, same.clone(), &["*"]).await;
    let off = update(&client, enabled(false), &["enabled"]).await;
    for it in [noted, again, same, whole, off] {
        assert_eq!(it.ownership, confirmed.ownership);
    }
    assert_eq!(landlord.asked().len(), 2);

    landlord.now_says(Answer::status(405));
    for (what, change, path) in
        [("enabled", enabled(true), "enabled"), ("moved", moved(), "url"), ("queried", queried(), "query")]
    {
        let before = client.webhook(&created.id).await;
        let refused = try_update(&client, change, &[path]).await.expect_err(what);
        check_refused(what, &refused, "405");
        assert_eq!(client.webhook(&created.id).await, before, "{what}");
    }
    assert_eq!(landlord.paths_asked()[2..], ["/a", "/b", "/a?q=1"]);
    landlord.now_says(consent("*", "90"));
    let enabled = update(&client, enabled(true), &["enabled"]).await;
    landlord.now_says(consent("*", "30"));
    let moved = update(&client, moved(), &["url"]).await;
    for (it, rate) in [(enabled, 90), (moved, 30)] {
        assert_eq!(it.ownership.expect("it is confirmed").allowed_per_minute, rate);
    }
    let without = update(&client, Webhook { url: landlord.url("/c"), ..id() }, &["verify_ownership", "url"]).await;
    assert_eq!((without.verify_ownership, without.ownership), (false, None));
    assert_eq!(landlord.asked().len(), 7);
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    let request = landlord.receiver.received(8).await.remove(7);
    assert!(request.path == "/c" && !request.headers.contains_key("webhook-request-origin"), "{request:?}");
}

/// Contract: a `CreateWebhook` that succeeded is answered again without asking; one that failed is tried anew.
#[tokio::test]
async fn a_repeated_create_asks_once() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(Answer::status(405)).await;
    let wanted = || verified(&landlord.url("/"));
    try_create(&client, wanted(), "r-1").await.expect_err("it does not consent");
    landlord.now_says(consent("*", "*"));
    let first = try_create(&client, wanted(), "r-1").await.expect("it consents");
    landlord.now_says(Answer::status(405));
    assert_eq!(try_create(&client, wanted(), "r-1").await.expect("it is a repeat"), first);
    daemon.kill().await;
    let daemon = setup.start().await;
    let client = daemon.client().await;
    assert_eq!(try_create(&client, wanted(), "r-1").await.expect("it is a repeat"), first);
    assert_eq!(landlord.asked().len(), 2);
    let other = Webhook { verify_ownership: false, ..wanted() };
    let reused = try_create(&client, other, "r-1").await.expect_err("it is another request");
    Rejection::from(&reused).check("another request", Code::AlreadyExists, "REQUEST_ID_REUSED", "");
    assert_eq!(count(&client).await, 1);
}

/// What changes while the receiver thinks is neither lost nor a reason to ask it twice.
#[tokio::test]
async fn an_update_meanwhile_is_kept_and_the_receiver_asked_once() {
    let daemon = setup().start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(Answer::status(405)).await;
    let created = create(&client, webhook("", &landlord.url("/"), &["*"])).await;
    let headers = vec![("webhook-allowed-origin", "*".to_owned())];
    landlord.now_says(Answer::Reply { status: 200, headers, delay: Duration::from_millis(700) });
    let on = Webhook { id: created.id.clone(), verify_ownership: true, ..Webhook::default() };
    let named = Webhook { id: created.id.clone(), display_name: "CRM".into(), ..Webhook::default() };
    let (updated, ()) = tokio::join!(update(&client, on, &["verify_ownership"]), async {
        landlord.receiver.received(1).await;
        update(&client, named, &["display_name"]).await;
    });
    assert_eq!(updated.display_name, "CRM");
    assert!(updated.ownership.is_some());
    assert_eq!(landlord.asked().len(), 1);
}

fn span(requests: &[Received]) -> Duration {
    requests.last().expect("there are some").at.duration_since(requests[0].at)
}

/// Issue 4: what the receiver allows is kept to, over a restart and other updates; the webhook's own limit holds where it is lower;
/// without the check there is no limit.
#[tokio::test]
async fn the_allowed_rate_is_kept_to() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(consent("*", "300")).await;
    let created = create(&client, verified(&landlord.url("/"))).await;
    let named = Webhook { id: created.id.clone(), display_name: "CRM".into(), ..Webhook::default() };
    update(&client, named, &["display_name"]).await;
    drop((client, daemon));

    let daemon = setup.start().await;
    let client = daemon.client().await;
    client.publish(numbered("n", "ADD_TAG", 200)).await;
    let requests = landlord.receiver.received(1 + 10).await;
    // Three at once, then one every 60 s / 298; what the last one may be early is what the first was late.
    assert!(span(&requests[1..11]) >= Duration::from_millis(1_350), "ten in {:?}", span(&requests[1..11]));

    let own = RateLimit { per_second: 2.0, burst: 1 };
    let slower = Webhook { id: created.id.clone(), rate_limit: Some(own), ..Webhook::default() };
    update(&client, slower, &["rate_limit"]).await;
    let seen = landlord.receiver.count();
    let requests = landlord.receiver.received(seen + 4).await;
    // The first may have been on its way already.
    assert!(span(&requests[seen + 1..seen + 4]) >= Duration::from_millis(950), "three at 2/s");

    let free = Webhook { id: created.id, ..Webhook::default() };
    update(&client, free, &["rate_limit", "verify_ownership"]).await;
    landlord.receiver.received(1 + 200).await;
    assert_eq!(landlord.asked().len(), 1);
}

/// No more than 64 receivers are asked for a tenant at a time, and who gives up waiting makes room.
#[tokio::test]
async fn receivers_that_hang_are_bounded() {
    const AT_ONCE: usize = 64;
    let daemon = setup().flag("--attempt-timeout", "60s").start().await;
    let client = daemon.client().await;
    let landlord = Landlord::who_says(Answer::Hang).await;
    let asking = |n: usize| {
        let (client, webhook) = (client.clone(), verified(&landlord.url(&format!("/{n}"))));
        Box::pin(async move { try_create(&client, webhook, "").await })
    };
    let waiting = select_all((0..AT_ONCE).map(asking));
    let full = async {
        landlord.receiver.received(AT_ONCE).await;
        asking(AT_ONCE).await.expect_err("there are as many as may be")
    };
    let full = tokio::select! {
        full = full => full,
        (ended, ..) = waiting => panic!("one was not asked: {ended:?}"),
    };
    Rejection::from(&full).check("the 65th", Code::ResourceExhausted, "TOO_MANY_HANDSHAKES", "");
    // Those who asked are gone; the daemon hears of it in its own time.
    landlord.now_says(consent("*", "*"));
    within("room for another one", async { while asking(AT_ONCE).await.is_err() {} }).await;
    let others = join_all((0..AT_ONCE / 2).map(asking)).await;
    assert!(others.iter().all(Result::is_ok), "{others:?}");
}
