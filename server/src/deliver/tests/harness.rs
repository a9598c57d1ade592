//! What the tests of the stage are made of: receivers, name servers, jobs, and attempts to carry them out.

use super::*;

/// What a receiver got.
pub(super) struct Received {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> &str {
        let of = |line: &'_ str| line.split_once(": ").map(|(found, value)| (found.to_owned(), value.len()));
        let line = self.head.lines().find(|line| of(line).is_some_and(|(found, _)| found == name)).expect("sent");
        &line[name.len() + 2..]
    }
}

/// A receiver that answers as its script says: given the connection and the request's number on it, from 0. It keeps a
/// connection as long as the script returns true.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) requests: sync_mpsc::Receiver<Received>,
}

impl Receiver {
    pub(super) fn start(script: impl Fn(&mut TcpStream, usize) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (report, requests) = sync_mpsc::sync_channel(100);
        let (count, script) = (connections.clone(), Arc::new(script));
        thread::spawn(move || {
            for connection in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (mut connection, report, script) = (connection.unwrap(), report.clone(), script.clone());
                thread::spawn(move || {
                    for number in 0.. {
                        let Some(received) = read_request(&mut connection) else { return };
                        // A test that has seen enough is gone.
                        let _ = report.send(received);
                        if !script(&mut connection, number) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, connections, requests }
    }

    pub(super) fn answering(answer: &'static str) -> Self {
        Self::start(move |connection, _| connection.write_all(answer.as_bytes()).is_ok())
    }

    /// The next request; fails the test rather than wait for ever.
    pub(super) fn received(&self) -> Received {
        self.requests.recv_timeout(Duration::from_secs(30)).expect("a request")
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook?token=s3cret", self.address)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

pub(super) fn read_request(connection: &mut impl Read) -> Option<Received> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = connection.read(&mut buffer).ok().filter(|&read| read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert!(!head.contains("transfer-encoding"), "no chunks");
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if bytes.len() >= end + 4 + length {
            assert_eq!(bytes.len(), end + 4 + length, "nothing follows");
            return Some(Received { head, body: bytes[end + 4..].to_vec() });
        }
    }
}

/// Holds the connection until the other side gives up.
pub(super) fn hang(connection: &mut TcpStream) -> bool {
    while connection.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
    false
}

pub(super) fn config(opened: &[&str]) -> Config {
    let opened = opened.iter().map(|range| range.parse().unwrap()).collect();
    let rules = TargetRules { allow_http: false, policy: AddressPolicy::new(opened) };
    Config { rules, http_client: http_client(), loops: 1, ..Config::default() }
}

/// All tests but those of one library are run with either.
#[expect(clippy::disallowed_methods, reason = "nobody configures a test")]
pub(super) fn http_client() -> HttpClient {
    match std::env::var("POSTRIDER_HTTP_CLIENT").as_deref() {
        Ok("hyper") => HttpClient::Hyper,
        _ => HttpClient::Reqwest,
    }
}

pub(super) fn loopback() -> Config {
    config(&["127.0.0.0/8"])
}

pub(super) fn job(url: &str, body: &[u8]) -> Job {
    let key = DeliveryKey { webhook: WebhookNo(1), event: EventSeq(2), replay: 0 };
    let webhook = Webhook {
        no: key.webhook,
        id: WebhookId::from_bytes([1; 16]),
        tenant: Tenant::default(),
        settings: Settings::new(Target::from_stored(url).expect("a URL"), Subscription::All),
        switch: Switch::Enabled,
        version: 1,
        create_time: Timestamp::UNIX_EPOCH,
        update_time: Timestamp::UNIX_EPOCH,
        keys: Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap().into(),
    };
    let event = Event {
        id: "evt_1".parse().unwrap(),
        tenant: Tenant::default(),
        event_type: EventTypeName::new("ADD_TAG"),
        labels: std::collections::BTreeMap::new(),
        ordering_key: String::new(),
        occur_time: Some(Timestamp::from_micros(1_709_210_096_120_000)),
        content_type: "application/json".into(),
        body: Bytes::copy_from_slice(body),
        deliver_at: None,
        max_age: None,
    };
    Job {
        key,
        delivery_id: DeliveryId::from_bytes([0xab; 16]),
        attempt: 3,
        excused: None,
        webhook: Arc::new(webhook),
        event: StoredEvent { seq: key.event, accept_time: Timestamp::UNIX_EPOCH, event },
        body_permit: None,
    }
}

/// Attempts as one loop makes them, on the present runtime.
pub(super) fn attempts(config: &Config, dns: &DnsConfig) -> Attempts {
    attempts_trusting(&Tls::new(&[]).unwrap(), config, dns)
}

pub(super) fn attempts_trusting(tls: &Tls, config: &Config, dns: &DnsConfig) -> Attempts {
    let dns = Dns::new(dns, config.connect_timeout);
    Attempts {
        client: GuardedClient::build(config, tls, &dns).unwrap(),
        user_agent: HeaderValue::from_static("Postrider/test"),
        clock: Clock::start(),
        timeout: config.attempt_timeout,
        timeout_max: config.attempt_timeout_max,
        metrics: DeliverMetrics::default(),
        shows: Shows::Failures,
    }
}

pub(super) async fn attempt(config: Config, url: &str) -> AttemptResult {
    attempts(&config, &resolver::hosts_file_only()).perform(job(url, b"{}")).await.result.unwrap()
}

pub(super) fn failed(result: &AttemptResult) -> (Option<u16>, Option<ErrorClass>, &str) {
    (result.http_status, result.error_class, &result.error)
}

/// A DNS server for one name, `receiver.test`, with these addresses.
pub(super) fn dns_server(addresses: &'static [[u8; 4]]) -> DnsConfig {
    dns_server_after(Duration::ZERO, addresses)
}

/// The same, which thinks about every question for a while.
pub(super) fn dns_server_after(delay: Duration, addresses: &'static [[u8; 4]]) -> DnsConfig {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut query = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // RFC 1035, section 4: a header of 12 bytes, then the question: a name, its type, its class.
            let name = b"\x08receiver\x04test\0";
            let known = query[12..length].to_ascii_lowercase().starts_with(name);
            let question = 12..12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 5;
            let is_a = query[question.end - 3] == 1;
            let answers = if known && is_a { addresses } else { &[] };
            let mut reply = query[..2].to_vec();
            let count = u8::try_from(answers.len()).unwrap();
            reply.extend([0x84, if known { 0x80 } else { 0x83 }, 0, 1, 0, count, 0, 0, 0, 0]);
            reply.extend(&query[question]);
            for address in answers {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend(address);
            }
            thread::sleep(delay);
            // Who asked may have given up.
            let _ = socket.send_to(&reply, from);
        }
    });
    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
    server.connections = vec![connection];
    (ResolverConfig::from_name_servers(vec![server]), ResolverOpts::default())
}
