//! The port with a scripted store behind it, asked over real sockets; and what readiness makes of that store over time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use super::*;
use crate::{
    limits::{COMMITTER_SILENT_MAX, DISPATCH_SURVEY_LANES_MAX, OPS_LOOK_INTERVAL, OPS_LOOK_PAGES_MAX, STALLED_AFTER},
    metrics::{Metrics, Queues},
    model::{
        ids::WebhookNo,
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, WebhookSpec},
    },
    store::{
        ConfigChange, LaneDue, Store as _,
        fake::{FakeStore, Lanes},
    },
};

const LONG: Duration = Duration::from_secs(20);

/// A daemon that serves, as far as its port can tell.
struct Scene {
    ops: Ops,
    store: Arc<FakeStore>,
    works: watch::Sender<bool>,
    silence: Arc<Mutex<Option<Duration>>>,
    held: Arc<Mutex<bool>>,
    metrics: Metrics,
    clock: Clock,
}

impl Scene {
    async fn new(config: Config) -> Self {
        let (clock, store, metrics) = (Clock::start(), FakeStore::new(), Metrics::default());
        let ops = config.open(clock, Tasks::default()).await.unwrap();
        let silence = Arc::new(Mutex::new(Some(Duration::ZERO)));
        Self { ops, store, works: watch::Sender::new(true), silence, held: Arc::default(), metrics, clock }
    }

    async fn serving() -> Self {
        let scene = Self::new(Config::default()).await;
        scene.serve();
        scene
    }

    fn serve(&self) {
        let (moves, silence, held) = (self.metrics.deliver.started.clone(), self.silence.clone(), self.held.clone());
        self.ops.serving(Deps {
            store: self.store.clone(),
            works: self.works.subscribe(),
            silence: Box::new(move || *silence.lock()),
            clock: self.clock,
            moves: Box::new(move || moves.get()),
            held: Box::new(move |_| *held.lock()),
        });
    }

    /// A webhook with a delivery due then.
    async fn webhook(&self, enabled: bool, first_due: Timestamp) {
        let spec = WebhookSpec {
            tenant: "t".parse().unwrap(),
            settings: Settings::new(Target::from_stored("https://receiver.example/").unwrap(), Subscription::All),
            enabled,
        };
        let secret = Secret::from_bytes(&[7; 32]).unwrap();
        let change = ConfigChange::CreateWebhook { spec, keys: secret.into(), request: None, time: self.clock.now() };
        self.store.put_config(change).await.unwrap();
        let webhook = WebhookNo(self.store.catalog().len() as u64);
        if let Lanes::Tell(lanes) = &mut *self.store.lanes.lock() {
            lanes.push(LaneDue { webhook, first_due });
        }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.ask("GET", path).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    async fn ask(&self, method: &str, path: &str) -> Response<Full<Bytes>> {
        self.ops.desk.clone().answer(Request::builder().method(method).uri(path).body(()).unwrap()).await
    }

    async fn readiness(&self) -> String {
        let (status, line) = self.get("/readyz").await;
        assert_eq!(status.is_success(), line == "ok\n", "{status} {line}");
        line.trim_end().to_owned()
    }

    async fn metric(&self, name: &str) -> String {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_only_while_the_daemon_serves_and_alive_all_the_time() {
    let scene = Scene::new(Config::default()).await;
    let alive = (StatusCode::OK, "ok\n".to_owned());
    assert!(scene.readiness().await.starts_with("starting: "));
    assert_eq!(scene.get("/livez").await, alive);
    assert_eq!(scene.metric("postrider_ready").await, "0");
    scene.serve();
    assert_eq!(scene.readiness().await, "ok");
    assert_eq!(scene.metric("postrider_ready").await, "1");
    scene.works.send_replace(false);
    assert_eq!(scene.readiness().await, "the store failed and is not open again");
    assert_eq!(scene.get("/livez").await, alive);
    scene.works.send_replace(true);
    assert_eq!(scene.readiness().await, "ok");
    scene.ops.stopping();
    scene.ops.quiet().await;
    assert_eq!(scene.readiness().await, "stopping");
    assert_eq!(scene.get("/livez").await, alive);
}

#[tokio::test]
async fn a_task_that_panicked_is_the_end_of_being_alive() {
    let tasks = Tasks::default();
    let ops = Config::default().open(Clock::start(), tasks.clone()).await.unwrap();
    tasks.spawn_ending("planted", async { panic!("planted") }).cancelled().await;
    tasks.broken().await;
    let answer = ops.desk.clone().answer(Request::builder().uri("/livez").body(()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "a part of the daemon has failed: planted\n");
}

#[tokio::test]
async fn a_committer_that_hangs_or_is_gone_is_the_end_of_being_alive() {
    let scene = Scene::new(Config::default()).await;
    let (longest, longer) = (COMMITTER_SILENT_MAX, COMMITTER_SILENT_MAX + Duration::from_secs(2));
    let hangs = "the store's committer hangs: it has given no sign of life for 62s\n";
    let gone = "the store's committer is gone\n";
    *scene.silence.lock() = None;
    assert_eq!(scene.get("/livez").await.1, "ok\n", "there is none yet");
    scene.serve();
    let cases = [(Some(Duration::ZERO), "ok\n"), (Some(longest), "ok\n"), (Some(longer), hangs), (None, gone)];
    for stopping in [false, true] {
        for (silence, says) in cases {
            *scene.silence.lock() = silence;
            let status = if says == "ok\n" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            assert_eq!(scene.get("/livez").await, (status, says.to_owned()), "stopping: {stopping}");
            let ready = if stopping { "stopping" } else { says.trim_end() };
            assert_eq!(scene.readiness().await, ready);
        }
        scene.ops.stopping();
    }
}

#[tokio::test(start_paused = true)]
async fn overdue_deliveries_matter_only_while_nothing_moves() {
    let scene = Scene::serving().await;
    scene.webhook(true, scene.clock.now()).await;
    // Older, and held: nobody waits for it.
    scene.webhook(false, Timestamp::UNIX_EPOCH).await;
    assert_eq!(scene.metric("postrider_oldest_due_age_seconds").await, "0.0");
    tokio::time::advance(STALLED_AFTER).await;
    assert_eq!(scene.readiness().await, "ok", "not longer than that");
    assert_eq!(scene.metric("postrider_oldest_due_age_seconds").await, "90.0");
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    assert!(scene.readiness().await.starts_with("nothing moves: "), "{}", scene.readiness().await);
    assert_eq!(scene.metric("postrider_ready").await, "0");
    drop(scene.metrics.deliver.begin(Some(Duration::ZERO)));
    assert_eq!(scene.readiness().await, "ok", "an attempt has begun");
    tokio::time::advance(STALLED_AFTER + OPS_LOOK_INTERVAL).await;
    assert!(scene.readiness().await.starts_with("nothing moves: "));
    *scene.held.lock() = true;
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    assert_eq!(scene.readiness().await, "ok", "a receiver wants it so");
    *scene.held.lock() = false;
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    assert!(scene.readiness().await.starts_with("nothing moves: "));
    *scene.store.lanes.lock() = Lanes::Tell(Vec::new());
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    assert_eq!(scene.readiness().await, "ok", "nothing is due");
    assert_eq!(scene.metric("postrider_oldest_due_age_seconds").await, "0.0");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_is_no_place_to_send_work_to() {
    let scene = Scene::serving().await;
    *scene.store.lanes.lock() = Lanes::Fail;
    assert_eq!(scene.readiness().await, "the store cannot be read: the store failed: planted");
    assert_eq!(scene.metric("postrider_oldest_due_age_seconds").await, "NaN");
    *scene.store.lanes.lock() = Lanes::Hang;
    assert!(scene.readiness().await.contains("planted"), "a look is good for a while");
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    assert_eq!(scene.readiness().await, "the store cannot be read: it does not answer");
    // The read is still under way, and no other is begun beside it.
    *scene.store.lanes.lock() = Lanes::Tell(Vec::new());
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    assert_eq!(scene.readiness().await, "the store cannot be read: it does not answer");
    // Whoever closes the store is not kept waiting by that read.
    scene.ops.stopping();
    scene.ops.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_is_bounded_and_the_next_one_goes_on() {
    let scene = Scene::serving().await;
    let page = DISPATCH_SURVEY_LANES_MAX * OPS_LOOK_PAGES_MAX;
    for _ in 0..page {
        scene.webhook(true, scene.clock.now()).await;
    }
    scene.webhook(true, Timestamp::UNIX_EPOCH).await;
    assert_eq!(scene.metric("postrider_oldest_due_age_seconds").await, "0.0", "the last one is not seen yet");
    tokio::time::advance(OPS_LOOK_INTERVAL).await;
    let age: f64 = scene.metric("postrider_oldest_due_age_seconds").await.parse().unwrap();
    assert!(age > 1e9, "{age}");
}

#[tokio::test]
async fn only_what_exists_is_answered_and_only_if_it_is_read() {
    let scene = Scene::serving().await;
    for (method, path, status) in [
        ("GET", "/metrics", StatusCode::OK),
        ("HEAD", "/metrics", StatusCode::OK),
        ("GET", "/readyz?verbose", StatusCode::OK),
        ("HEAD", "/livez", StatusCode::OK),
        ("POST", "/metrics", StatusCode::METHOD_NOT_ALLOWED),
        ("DELETE", "/livez", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/", StatusCode::NOT_FOUND),
        ("GET", "/metrics/", StatusCode::NOT_FOUND),
        ("POST", "/", StatusCode::NOT_FOUND),
    ] {
        let answer = scene.ask(method, path).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        let refused = status == StatusCode::METHOD_NOT_ALLOWED;
        assert_eq!(answer.headers().contains_key(header::ALLOW), refused, "{method} {path}");
    }
}

/// Every name has its help, those that measure something its unit, and no label a value that is not ours.
#[tokio::test]
async fn the_exposition_is_complete_and_its_labels_are_bounded() {
    let scene = Scene::serving().await;
    let registered = scene.ops.register(|registry| {
        scene.metrics.register(registry);
        registry.register_collector(Box::new(scene.metrics.watch.collector(scene.store.head())));
        registry.register_collector(Box::new(
            Queues::default().with_channels("q", &[tokio::sync::mpsc::channel::<()>(1).0]),
        ));
    });
    registered.await;
    let (_, text) = scene.get("/metrics").await;
    let words = |kind: &'static str| text.lines().filter_map(move |line| line.strip_prefix(kind)?.split_once(' '));
    let typed: Vec<_> = words("# TYPE ").collect();
    assert!(typed.len() > 20, "{text}");
    let (helped, units) = (words("# HELP ").collect::<Vec<_>>(), words("# UNIT ").collect::<Vec<_>>());
    assert_eq!(typed.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), typed.len(), "no name twice");
    for (name, kind) in &typed {
        let help = helped.iter().find(|(helped, _)| helped == name).unwrap_or_else(|| panic!("{name} has no help")).1;
        assert!(help.ends_with('.') && !help.ends_with("..") && help.len() > 10, "{name}: {help}");
        assert!(name.starts_with("postrider_") || name.starts_with("process_"), "{name}");
        let unit = units.iter().find(|(measured, _)| measured == name).map(|(_, unit)| *unit);
        let named = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        assert_eq!(unit, named, "{name}, a {kind}, says its unit in its name and beside it");
    }
    let allowed: BTreeSet<_> = ["class", "conclusion", "le", "novelty", "part", "queue", "reason", "version"].into();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once('{') else { continue };
        let labels = rest.split_once('}').unwrap().0;
        for label in labels.split(',') {
            assert!(allowed.contains(label.split_once('=').unwrap().0), "{line}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

/// What a client gets to read until the port closes the connection.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A port that has heard enough may have closed already.
    let _refused = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _reset = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the port closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn hostile_clients_cost_little_and_keep_nobody_out_for_long() {
    let config = Config {
        address: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        connections_max: 2,
        head_timeout: Duration::from_millis(100),
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    scene.serve();
    let address = scene.ops.address().unwrap();
    let fine = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(exchange(address, fine).await.starts_with("HTTP/1.1 200 OK"));
    assert!(exchange(address, b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("\r\n\r\n"), "no body");
    assert!(exchange(address, b"\x16\x03\x01 is this TLS?\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let huge = [b"GET /livez HTTP/1.1\r\nx: ".as_slice(), &vec![b'x'; 64 * 1024]].concat();
    let answer = exchange(address, &huge).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

    // More than may be at once, silent or half silent; each is closed in its turn, and then the next is heard.
    let mut slow = Vec::new();
    for said in [b"".as_slice(), b"GET", b"GET /livez HTTP/1.1\r\nhost", b"", b"G"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        slow.push(stream);
    }
    assert!(exchange(address, fine).await.starts_with("HTTP/1.1 200 OK"));
    drop(scene);
    for mut stream in slow {
        let _reset = timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("every one is closed");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let config = Config {
        address: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        connection_timeout: Duration::from_millis(100),
        head_timeout: LONG,
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    assert_eq!(exchange(scene.ops.address().unwrap(), b"GET /metrics HTTP/1.1\r\nhost").await, "");
}
