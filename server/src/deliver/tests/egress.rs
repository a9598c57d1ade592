//! Where attempts may connect. The judge of all of it is a listener that must see no connection.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
};

use super::*;
use crate::model::{spellings::spellings, target::TargetHost};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const A: u16 = 1;
const AAAA: u16 = 28;

/// A DNS server that knows every name and never says the same for long: it answers the n-th question for addresses of a kind, counted
/// from 0, as its script says, and that the answer must not be kept.
struct NameServer {
    config: DnsConfig,
    asked: Arc<Mutex<Vec<u16>>>,
}

impl NameServer {
    fn start(script: impl Fn(usize) -> Vec<IpAddr> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let config = name_server_at(socket.local_addr().unwrap().port());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let counted = asked.clone();
        thread::spawn(move || {
            let mut query = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                let question = 12..12 + query[12..length].iter().position(|&byte| byte == 0).unwrap() + 5;
                let kind = u16::from_be_bytes([query[question.end - 4], query[question.end - 3]]);
                let number = {
                    let mut asked = counted.lock().unwrap();
                    asked.push(kind);
                    asked.iter().filter(|&&asked| asked == kind).count() - 1
                };
                let answers: Vec<_> =
                    script(number).into_iter().filter(|ip| kind == if ip.is_ipv4() { A } else { AAAA }).collect();
                let mut reply = query[..2].to_vec();
                reply.extend([0x84, 0x80, 0, 1, 0, u8::try_from(answers.len()).unwrap(), 0, 0, 0, 0]);
                reply.extend(&query[question]);
                for address in answers {
                    let octets = match address {
                        IpAddr::V4(address) => address.octets().to_vec(),
                        IpAddr::V6(address) => address.octets().to_vec(),
                    };
                    reply.extend([0xc0, 12]);
                    reply.extend(kind.to_be_bytes());
                    reply.extend([0, 1, 0, 0, 0, 0, 0, u8::try_from(octets.len()).unwrap()]);
                    reply.extend(octets);
                }
                let _ = socket.send_to(&reply, from);
            }
        });
        Self { config, asked }
    }

    fn questions(&self, kind: u16) -> usize {
        self.asked.lock().unwrap().iter().filter(|&&asked| asked == kind).count()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A receiver that closes each connection after its answer, on an address of loopback.
fn receiver_at(address: impl Into<SocketAddr>) -> (Arc<AtomicUsize>, SocketAddr) {
    let listener = TcpListener::bind(address.into()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut connection = connection.unwrap();
            if read_request(&mut connection).is_some() {
                let _ = connection.write_all(OK.replace("OK\r\n", "OK\r\nconnection: close\r\n").as_bytes());
            }
        }
    });
    (connections, address)
}

/// An address that may be called, and one of the same port that may not.
fn pair() -> (Arc<AtomicUsize>, Arc<AtomicUsize>, u16) {
    loop {
        let (forbidden, address) = receiver_at(([127, 0, 0, 1], 0));
        // Another test may have the same port on the other address.
        if TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], address.port()))).is_ok() {
            let (allowed, _) = receiver_at(([127, 0, 0, 2], address.port()));
            return (allowed, forbidden, address.port());
        }
    }
}

fn name_server_at(port: u16) -> DnsConfig {
    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    let mut server = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
    server.connections = vec![connection];
    (ResolverConfig::from_name_servers(vec![server]), ResolverOpts::default())
}

/// Everything the table of spellings has, at every attempt: what is not public is not called, and a name that leads there neither.
#[tokio::test]
async fn no_spelling_gets_through_an_attempt() {
    let receiver = Receiver::answering(OK);
    let port = receiver.address.port();
    let servers = NameServer::start(|_| vec![ip("127.0.0.1"), ip("::1")]);
    let rules = TargetRules { allow_http: true, ..TargetRules::default() };
    let attempts = attempts(&Config { rules, ..loopback() }, &servers.config);
    let mut kinds = BTreeSet::new();
    for spelling in spellings() {
        let (kind, _) = spelling.verdict.split_once(' ').unwrap_or((&spelling.verdict, ""));
        let has_port = spelling.authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
        if !matches!(kind, "forbidden" | "localhost" | "name")
            || has_port
            || spelling.authority.contains(['/', '\\', '?'])
        {
            continue;
        }
        let url = format!("http://{}:{port}/", spelling.authority);
        let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
        assert_eq!(result.http_status, None, "{url:?}");
        // Not every name can be asked for.
        let is_refused = result.error_class == Some(ErrorClass::Blocked)
            || kind == "name" && result.error_class == Some(ErrorClass::Dns);
        assert!(is_refused, "{url:?}: {result:?}");
        kinds.insert(kind.to_owned());
    }
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    assert!(servers.questions(A) > 0, "names were looked up");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_is_rebound_after_it_was_registered_is_refused() {
    let receiver = Receiver::answering(OK);
    let servers = NameServer::start(|number| vec![ip(if number == 0 { "8.8.8.8" } else { "127.0.0.1" })]);
    let rules = TargetRules { allow_http: true, ..TargetRules::default() };
    let config = Config { rules, ..loopback() };
    let url = format!("http://rebinding.test:{}/", receiver.address.port());

    let dns = Dns::new(&servers.config, config.connect_timeout);
    let names = Names::new(dns, config.rules.clone(), config.own.clone());
    assert_eq!(names.judge(&Target::from_stored(&url).unwrap()).await, Ok(()));
    let result = attempts(&config, &servers.config).perform(job(&url, b"{}")).await.result.unwrap();
    let error = "the host resolves to an address this server may not call";
    assert_eq!(failed(&result), (None, Some(ErrorClass::Blocked), error));
    assert_eq!(receiver.connections(), 0);
}

/// Each attempt asks once and connects to that answer: nothing is looked up between judging and connecting.
#[tokio::test]
async fn a_name_that_is_rebound_while_it_is_called_gains_nothing() {
    let (allowed, forbidden, port) = pair();
    // Every second answer is forbidden: whatever asks twice, judges one and connects to the other.
    let servers = NameServer::start(|number| vec![ip(if number % 2 == 0 { "127.0.0.2" } else { "127.0.0.1" })]);
    let attempts = attempts(&config(&["127.0.0.2/32"]), &servers.config);
    let url = format!("http://rebinding.test:{port}/");
    for round in 0..20 {
        let questions = servers.questions(A);
        let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
        assert_eq!(servers.questions(A), questions + 1, "asked once, and the answer was not kept");
        let expected = if round % 2 == 0 { (Some(200), None) } else { (None, Some(ErrorClass::Blocked)) };
        assert_eq!((result.http_status, result.error_class), expected, "round {round}: {}", result.error);
    }
    assert_eq!(allowed.load(Ordering::SeqCst), 10);
    assert_eq!(forbidden.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_forbidden_answer_refuses_the_target_whatever_its_kind() {
    let (allowed, forbidden, port) = pair();
    for other in ["127.0.0.1", "::1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "fe80::1", "255.255.255.255"] {
        let servers = NameServer::start(move |_| vec![ip("127.0.0.2"), ip(other)]);
        let attempts = attempts(&config(&["127.0.0.2/32"]), &servers.config);
        let result = attempts.perform(job(&format!("http://mixed.test:{port}/"), b"{}")).await.result.unwrap();
        assert_eq!(result.error_class, Some(ErrorClass::Blocked), "{other}: {}", result.error);
    }
    assert_eq!(allowed.load(Ordering::SeqCst) + forbidden.load(Ordering::SeqCst), 0);
}

/// Whoever names twenty strangers has each attempt knock at few of them.
#[tokio::test]
async fn an_attempt_knocks_at_few_doors() {
    let (connections, address) = receiver_at(([127, 0, 0, 1], 0));
    let strangers = |count: u8| (1..=count).map(|n| IpAddr::from([127, 0, 77, n]));
    for (count, is_reached) in [(3, true), (4, false), (19, false)] {
        let before = connections.load(Ordering::SeqCst);
        let servers = NameServer::start(move |_| strangers(count).chain([address.ip()]).collect());
        let attempts = attempts(&config(&["127.0.0.0/8"]), &servers.config);
        let url = format!("http://many.test:{}/", address.port());
        let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
        assert_eq!(result.http_status.is_some(), is_reached, "{count}: {}", result.error);
        assert_eq!(connections.load(Ordering::SeqCst) - before, usize::from(is_reached), "{count}");
    }
}

/// A listener of our own is refused although its range is open, however it is called; its neighbours are not.
#[tokio::test]
async fn own_listeners_are_never_called() {
    let (own, other) = (Receiver::answering(OK), Receiver::answering(OK));
    let config = Config { own: OwnPorts::new([own.address]), ..config(&["127.0.0.0/8", "::1/128", "0.0.0.0/8"]) };
    let servers = NameServer::start(|_| vec![ip("127.0.0.1")]);
    let attempts = attempts(&config, &servers.config);
    let names = Names::new(Dns::new(&servers.config, config.connect_timeout), config.rules.clone(), config.own.clone());
    for host in ["127.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::1]", "0", "localhost", "a.localhost", "own.test"] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{}/", own.address.port());
            let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
            assert_eq!(result.error_class, Some(ErrorClass::Blocked), "{url}: {}", result.error);
            assert!(names.judge(&Target::from_stored(&url).unwrap()).await.is_err(), "{url}");
        }
        let url = format!("http://{host}:{}/", other.address.port());
        assert_eq!(names.judge(&Target::from_stored(&url).unwrap()).await, Ok(()), "{url}");
        if !matches!(Target::from_stored(&url).unwrap().host(), TargetHost::Literal(IpAddr::V6(_))) {
            let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
            assert_eq!(failed(&result), (Some(200), None, ""), "{url}");
        }
    }
    assert_eq!(own.connections(), 0);
    assert!(other.connections() > 0);
}
