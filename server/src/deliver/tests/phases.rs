//! How long the parts of attempts take, and what is told of their answers.

use std::net::IpAddr;

use rcgen::{CertifiedKey, KeyPair};
use tokio::net::TcpSocket;

use super::{
    tls_receiver::{self_signed, tls_receiver, trusting},
    *,
};
use crate::model::exchange::Timings;

const OK: &str = "HTTP/1.1 200 OK\r\nserver: test\r\ncontent-length: 2\r\n\r\nok";
/// How long each part is made to take where it is; different, so that one cannot pass for another.
const DNS_DELAY: Duration = Duration::from_millis(150);
const HANDSHAKE_DELAY: Duration = Duration::from_millis(250);
const ANSWER_DELAY: Duration = Duration::from_millis(350);

/// A receiver with this certificate that is slow to shake hands and slow to answer.
fn slow_tls_receiver(certificate: &CertifiedKey<KeyPair>) -> SocketAddr {
    tls_receiver(certificate, HANDSHAKE_DELAY, |stream| {
        while read_request(stream).is_some() {
            thread::sleep(ANSWER_DELAY);
            stream.write_all(OK.as_bytes()).unwrap();
        }
    })
}

/// Which parts there are: of `dns`, `connect`, `tls` and `first_byte`.
fn parts(timings: &Timings) -> Vec<&'static str> {
    let Timings { dns, connect, tls, first_byte } = timings;
    let parts = [("dns", dns), ("connect", connect), ("tls", tls), ("first_byte", first_byte)];
    parts.into_iter().filter(|(_, part)| part.is_some()).map(|(name, _)| name).collect()
}

fn sum(timings: &Timings) -> Duration {
    let Timings { dns, connect, tls, first_byte } = *timings;
    [dns, connect, tls, first_byte].into_iter().flatten().sum()
}

#[tokio::test]
async fn each_part_takes_what_it_is_made_to_take() {
    let certificate = self_signed();
    let address = slow_tls_receiver(&certificate);
    let dns = dns_server_after(DNS_DELAY, &[[127, 0, 0, 1]]);
    let attempts = attempts_trusting(&trusting(&certificate), &loopback(), &dns);
    let url = format!("https://receiver.test:{}/", address.port());

    let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
    assert_eq!(failed(&result), (Some(200), None, ""));
    let timings = result.exchange.timings;
    assert_eq!(parts(&timings), ["dns", "connect", "tls", "first_byte"]);
    assert!(timings.dns.unwrap() >= DNS_DELAY, "{timings:?}");
    assert!(timings.tls.unwrap() >= HANDSHAKE_DELAY, "{timings:?}");
    assert!(timings.first_byte.unwrap() >= ANSWER_DELAY, "{timings:?}");
    assert!(sum(&timings) <= result.latency, "{timings:?} {:?}", result.latency);
    assert_eq!(result.exchange.remote, Some(address));

    let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
    let timings = result.exchange.timings;
    assert_eq!(parts(&timings), ["first_byte"], "the connection was there already");
    assert!(timings.first_byte.unwrap() >= ANSWER_DELAY, "{timings:?}");
    assert_eq!(result.exchange.remote, Some(address));
}

/// While a receiver has no room for connections that nobody has accepted, a new one is not answered.
#[tokio::test]
async fn a_receiver_without_room_takes_its_time_in_connecting() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    let config = Config { connect_timeout: Duration::from_millis(300), ..loopback() };
    let result = attempt(config, &format!("http://{address}/")).await;
    assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), "no connection in time"));
    let timings = result.exchange.timings;
    assert_eq!(parts(&timings), ["connect"]);
    assert!(timings.connect.unwrap() >= Duration::from_millis(290), "{timings:?}");
    drop((waiting, listener));
}

#[tokio::test]
async fn of_failures_there_is_what_they_reached() {
    let certificate = self_signed();
    let check = async |config: Config, dns: &DnsConfig, url: String, class, expected: &[&str]| {
        let attempts = attempts_trusting(&trusting(&certificate), &config, dns);
        let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
        assert_eq!(result.error_class, Some(class), "{url}: {}", result.error);
        assert_eq!(parts(&result.exchange.timings), expected, "{url}");
        assert!(sum(&result.exchange.timings) <= result.latency, "{url}");
        assert_eq!(result.exchange.remote, None, "{url}");
        result.exchange
    };
    let dns = dns_server(&[[127, 0, 0, 1]]);
    let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = silent.local_addr().map(|address| (silent, address)).unwrap();
    let impatient = || Config { attempt_timeout: Duration::from_millis(300), ..loopback() };

    let class = ErrorClass::Blocked;
    check(config(&[]), &dns, "https://127.0.0.1/".into(), class, &[]).await;
    check(config(&[]), &dns, "https://receiver.test/".into(), class, &["dns"]).await;
    check(loopback(), &dns, "https://other.test/".into(), ErrorClass::Dns, &["dns"]).await;
    let slow_dns = dns_server_after(Duration::from_secs(2), &[[127, 0, 0, 1]]);
    let exchange = check(impatient(), &slow_dns, "https://receiver.test/".into(), ErrorClass::Timeout, &["dns"]).await;
    assert!(exchange.timings.dns.unwrap() >= Duration::from_millis(290), "{exchange:?}");

    let class = ErrorClass::Connect;
    check(loopback(), &dns, format!("http://{unused}/"), class, &["connect"]).await;
    check(loopback(), &dns, format!("http://localhost:{}/", unused.port()), class, &["connect"]).await;
    let url = format!("https://receiver.test:{}/", unused.port());
    check(loopback(), &dns, url, class, &["dns", "connect"]).await;

    // Nobody ever shakes hands.
    let url = || format!("https://receiver.test:{}/", silent.1.port());
    let parts = &["dns", "connect", "tls"];
    let exchange = check(impatient(), &dns, url(), ErrorClass::Timeout, parts).await;
    assert!(exchange.timings.tls.unwrap() >= Duration::from_millis(200), "{exchange:?}");
    let hurried = Config { connect_timeout: Duration::from_millis(300), ..loopback() };
    check(hurried, &dns, url(), ErrorClass::Connect, parts).await;
    // Who shakes hands is somebody else.
    let stranger = slow_tls_receiver(&self_signed());
    let url = format!("https://receiver.test:{}/", stranger.port());
    let exchange = check(loopback(), &dns, url, ErrorClass::Tls, parts).await;
    assert!(exchange.timings.tls.unwrap() >= HANDSHAKE_DELAY, "{exchange:?}");
}

#[tokio::test]
async fn of_requests_without_an_answer_there_is_the_connection() {
    let check = async |script: fn(&mut TcpStream, usize) -> bool, class| {
        let receiver = Receiver::start(script);
        let config = Config { attempt_timeout: Duration::from_millis(300), ..loopback() };
        let result = attempt(config, &receiver.url()).await;
        assert_eq!(result.error_class, Some(class), "{}", result.error);
        assert_eq!(parts(&result.exchange.timings), ["connect"]);
        assert_eq!(result.exchange.remote, Some(receiver.address));
    };
    check(|connection, _| hang(connection), ErrorClass::Timeout).await;
    check(|_, _| false, ErrorClass::Protocol).await;
    let garbage = |connection: &mut TcpStream, _| connection.write_all(b"what is this?\r\n\r\n").is_ok();
    check(garbage, ErrorClass::Protocol).await;
}

/// As if there were a way around the checks before: what came back is not given out, nor from where.
#[tokio::test]
async fn an_address_that_may_not_be_called_is_not_told() {
    let receiver = Receiver::answering(OK);
    let mut attempts = attempts(&loopback(), &dns_server(&[[127, 0, 0, 1]]));
    attempts.client.rules = TargetRules { allow_http: true, ..TargetRules::default() };
    let url = format!("http://receiver.test:{}/", receiver.address.port());
    let result = attempts.perform(job(&url, b"{}")).await.result.unwrap();
    assert_eq!((result.error_class, result.http_status), (Some(ErrorClass::Blocked), None), "{}", result.error);
    assert_eq!((parts(&result.exchange.timings), result.exchange.remote), (vec!["dns", "connect"], None));
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn over_a_kept_connection_nothing_is_made_up() {
    // Answers once on each connection; then says nothing, or closes.
    let check = async |then: fn(&mut TcpStream) -> bool, class, expected: &[&str], told: bool| {
        let receiver = Receiver::start(move |connection, number| match number {
            0 => connection.write_all(OK.as_bytes()).is_ok(),
            _ => then(connection),
        });
        let config = Config { attempt_timeout: Duration::from_millis(300), ..loopback() };
        let attempts = attempts(&config, &resolver::hosts_file_only());
        let first = attempts.perform(job(&receiver.url(), b"{}")).await.result.unwrap();
        assert_eq!(parts(&first.exchange.timings), ["connect", "first_byte"]);
        let second = attempts.perform(job(&receiver.url(), b"{}")).await.result.unwrap();
        assert_eq!((second.error_class, parts(&second.exchange.timings)), (class, expected.to_vec()));
        assert_eq!(second.exchange.remote, told.then_some(receiver.address));
    };
    check(hang, Some(ErrorClass::Timeout), &[], false).await;
    check(|connection| connection.write_all(b"?\r\n\r\n").is_ok(), Some(ErrorClass::Protocol), &[], true).await;
    // It is sent once more, over a new one.
    check(|_| false, None, &["connect", "first_byte"], true).await;
}

#[tokio::test]
async fn headers_are_told_of_failures() {
    let check = async |answer: &'static str, expected: &[(&str, &str)]| {
        let exchange = attempt(loopback(), &Receiver::answering(answer).url()).await.exchange;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers: Vec<_> = exchange.headers.iter().map(|(name, value)| (text(name), text(value))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!((headers.as_slice(), exchange.headers.left_out()), (expected, 0), "{answer}");
        assert!(exchange.remote.is_some_and(|remote| remote.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST)));
    };
    check(OK, &[]).await;
    let refusal = "HTTP/1.1 500 Oops\r\nServer: test\r\nx-why:  a: b \r\ncontent-length: 0\r\n\r\n";
    check(refusal, &[("server", "test"), ("x-why", "a: b"), ("content-length", "0")]).await;
}
