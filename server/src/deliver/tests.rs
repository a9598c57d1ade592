//! The whole stage against receivers on loopback.

mod egress;
mod floods;
mod handshake;
mod harness;
mod moment;
mod phases;
mod proxy;
mod shape;
mod tls;
mod tls_receiver;

use std::{
    io::{Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc as sync_mpsc,
    },
    thread,
};

use bytes::Bytes;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};

use self::harness::*;
use super::*;
use crate::{
    limits::{RESPONSE_KEPT_BYTES_MAX, RESPONSE_READ_BYTES_MAX},
    metrics::DeliverMetrics,
    model::{
        address::AddressPolicy,
        delivery::{AttemptResult, ErrorClass},
        event::{Event, StoredEvent},
        ids::{DeliveryId, DeliveryKey, EventSeq, EventTypeName, Tenant, WebhookId, WebhookNo},
        signing::Secret,
        target::Target,
        time::Timestamp,
        webhook::{Settings, Subscription, Switch, Webhook},
    },
};

#[tokio::test]
async fn a_delivery_arrives_signed_and_byte_for_byte() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (attempted, mut results) = mpsc::channel(4);
    let tasks = Tasks::default();
    let inboxes = loopback()
        .build(Clock::start(), attempted, &tasks, CancellationToken::new(), DeliverMetrics::default(), always())
        .unwrap()
        .jobs;
    let body = b"{ \"b\":1, \"a\":\xff\x00 12345678901234567890 }\r\n";
    inboxes[0].send(vec![job(&receiver.url(), body)]).await.unwrap();

    let Attempted { job, result } = results.recv().await.unwrap().remove(0);
    let result = result.expect("an attempt was made");
    assert_eq!(failed(&result), (Some(200), None, ""));
    assert_eq!(result.response_body, "ok");
    assert!(result.latency > Duration::ZERO);
    assert!(job.event.event.body.is_empty(), "its memory is free");

    let request = receiver.received();
    assert_eq!(request.body, body);
    let timestamp = request.header("webhook-timestamp");
    let signature = job.webhook.keys.secret().sign("evt_1", timestamp.parse().unwrap(), body);
    let mut lines: Vec<_> = request.head.lines().map(String::from).collect();
    assert_eq!(lines.remove(0), "POST /hook?token=s3cret HTTP/1.1");
    lines.sort();
    let expected = [
        "accept-encoding: identity".to_owned(),
        "accept: */*".into(),
        format!("content-length: {}", body.len()),
        "content-type: application/json".into(),
        format!("host: {}", receiver.address),
        concat!("user-agent: Postrider/", env!("CARGO_PKG_VERSION")).into(),
        "webhook-attempt: 3".into(),
        "webhook-delivery-id: dlv_abababababababababababababababab".into(),
        "webhook-event-time: 2024-02-29T12:34:56.120Z".into(),
        "webhook-event-type: ADD_TAG".into(),
        "webhook-id: evt_1".into(),
        format!("webhook-signature: {signature}"),
        format!("webhook-timestamp: {timestamp}"),
    ];
    assert_eq!(lines, expected);
    let age = Clock::start().wall().seconds() - timestamp.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "signed {age} s ago");

    drop(inboxes);
    tasks.ended().await;
    assert!(results.recv().await.is_none());
}

fn always() -> Wanted {
    Arc::new(|_| true)
}

#[tokio::test]
async fn a_job_whose_webhook_is_gone_when_it_would_start_is_given_back() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (attempted, mut results) = mpsc::channel(4);
    let (tasks, abort) = (Tasks::default(), CancellationToken::new());
    let inboxes =
        loopback().build(Clock::start(), attempted, &tasks, abort, DeliverMetrics::default(), Arc::new(|_| false));
    inboxes.unwrap().jobs[0].send(vec![job(&receiver.url(), b"")]).await.unwrap();
    assert_eq!(results.recv().await.unwrap().remove(0).result, None);
    tasks.ended().await;
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_loop_finishes_what_it_has_unless_it_is_aborted() {
    let slow = Receiver::start(|connection, _| hang(connection));
    let (attempted, mut results) = mpsc::channel(4);
    let tasks = Tasks::default();
    let abort = CancellationToken::new();
    let config = Config { loops: 2, ..loopback() };
    let inboxes = config
        .build(Clock::start(), attempted, &tasks, abort.clone(), DeliverMetrics::default(), always())
        .unwrap()
        .jobs;
    assert_eq!(inboxes.len(), 2);
    inboxes[1].send(vec![job(&slow.url(), b""), job(&slow.url(), b"")]).await.unwrap();
    drop(inboxes);
    // Both are under way, side by side.
    for _ in 0..2 {
        assert_eq!(slow.received().header("content-length"), "0");
    }
    abort.cancel();
    tasks.ended().await;
    assert!(results.recv().await.is_none());
}

#[tokio::test]
async fn only_2xx_succeeds() {
    let check = async |answer: &'static str, class, error: &str| {
        let result = attempt(loopback(), &Receiver::answering(answer).url()).await;
        let status = answer["HTTP/1.1 ".len()..][..3].parse().ok();
        assert_eq!(failed(&result), (status, class, error), "{answer}");
        result
    };
    let status = Some(ErrorClass::HttpStatus);
    check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", None, "").await;
    check("HTTP/1.1 204 No Content\r\n\r\n", None, "").await;
    let error = "the receiver answered 500 Internal Server Error";
    let result = check("HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\nbody", status, error).await;
    assert_eq!(result.response_body, "body");
    check("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", status, "the receiver answered 410 Gone").await;
    let error = "the receiver answered 429 Too Many Requests";
    let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n";
    let result = check(answer, status, error).await;
    assert_eq!(result.retry_after, Some(Duration::from_mins(2)));
    let error = "the receiver answered 503 Service Unavailable";
    let answer = "HTTP/1.1 503 X\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(check(answer, status, error).await.retry_after, None);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    for status in [301, 302, 303, 307, 308] {
        let answer = format!("HTTP/1.1 {status} X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
        let receiver = Receiver::start(move |connection, _| connection.write_all(answer.as_bytes()).is_ok());
        let result = attempt(loopback(), &receiver.url()).await;
        assert_eq!((result.http_status, result.error_class), (Some(status), Some(ErrorClass::HttpStatus)));
        assert!(result.error.ends_with("redirects are not followed"), "{}", result.error);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn one_deadline_ends_every_way_of_being_slow() {
    let check = async |answer: &'static str, status, error: &str| {
        let receiver = Receiver::start(move |connection, _| {
            connection.write_all(answer.as_bytes()).unwrap();
            hang(connection)
        });
        let config = Config { attempt_timeout: Duration::from_millis(300), ..loopback() };
        let result = attempt(config, &receiver.url()).await;
        assert_eq!(failed(&result), (status, Some(ErrorClass::Timeout), error), "{answer}");
        assert!(result.latency >= Duration::from_millis(300));
        result
    };
    check("", None, "no answer within 300ms").await;
    check("HTTP/1.1 100 Continue\r\n\r\n", None, "no answer within 300ms").await;
    check("HTTP/1.1 200 OK\r\nx: ", None, "no answer within 300ms").await;
    let late = "the answer was not complete within 300ms";
    let result = check("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart", Some(200), late).await;
    assert_eq!(result.response_body, "part");
}

#[tokio::test]
async fn an_endless_body_is_cut_and_counts_as_arrived() {
    let receiver = Receiver::start(|connection, _| {
        connection.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let chunk = format!("{:x}\r\n{}\r\n", 4096, "x".repeat(4096));
        // Ends when the connection is cut.
        while connection.write_all(chunk.as_bytes()).is_ok() {}
        false
    });
    let result = attempt(loopback(), &receiver.url()).await;
    assert_eq!(failed(&result), (Some(200), None, ""));
    assert_eq!(result.response_body.len(), RESPONSE_KEPT_BYTES_MAX);

    // Nothing more comes after exactly as much as is read.
    let receiver = Receiver::start(|connection, _| {
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").unwrap();
        connection.write_all(&vec![b'x'; RESPONSE_READ_BYTES_MAX]).unwrap();
        hang(connection)
    });
    let result = attempt(loopback(), &receiver.url()).await;
    assert_eq!(failed(&result), (Some(200), None, ""));
}

#[tokio::test]
async fn broken_answers_are_told_apart() {
    let check = async |answer: &'static str, status, error: &str| {
        let receiver = Receiver::start(move |connection, _| {
            connection.write_all(answer.as_bytes()).unwrap();
            false
        });
        let result = attempt(loopback(), &receiver.url()).await;
        assert_eq!(failed(&result), (status, Some(ErrorClass::Protocol), error), "{answer:?}");
        assert_eq!(receiver.connections(), 1, "a new connection that breaks is not tried again at once");
    };
    let closed = "the receiver closed the connection before its answer was complete";
    check("", None, closed).await;
    check("HTTP/1.1 200 OK\r\n", None, closed).await;
    check("SSH-2.0-OpenSSH_9.6\r\n\r\n", None, "the answer is not valid HTTP: invalid HTTP version parsed").await;
    check("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart", Some(200), closed).await;
}

#[tokio::test]
async fn failing_to_connect_is_told_apart() {
    let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let result = attempt(loopback(), &format!("http://{unused}/")).await;
    assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), "no connection: connection refused"));

    let no_tls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = no_tls.local_addr().unwrap();
    thread::spawn(move || {
        for connection in no_tls.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            hang(&mut connection);
        }
    });
    let result = attempt(loopback(), &format!("https://{address}/")).await;
    assert_eq!(result.error_class, Some(ErrorClass::Tls), "{}", result.error);
    assert!(result.error.starts_with("TLS failed: "), "{}", result.error);

    let closing = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = closing.local_addr().unwrap();
    thread::spawn(move || {
        for connection in closing.incoming() {
            // All of it is read, or closing would be a reset.
            let mut connection = connection.unwrap();
            let mut header = [0; 5];
            connection.read_exact(&mut header).unwrap();
            let length = u16::from_be_bytes([header[3], header[4]]);
            connection.read_exact(&mut vec![0; length.into()]).unwrap();
        }
    });
    let result = attempt(loopback(), &format!("https://{address}/")).await;
    assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), "no connection: unexpected end of file"));

    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = Config { connect_timeout: Duration::from_millis(200), ..loopback() };
    let result = attempt(config, &format!("https://{}/", silent.local_addr().unwrap())).await;
    assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), "no connection in time"));
}

#[tokio::test]
async fn forbidden_hosts_are_never_connected_to() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let port = receiver.address.port();
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "0",
        "localhost",
        "a.localhost.",
    ];
    for host in hosts {
        for scheme in ["http", "https"] {
            let forbidding = Config { rules: TargetRules { allow_http: true, ..TargetRules::default() }, ..loopback() };
            let result = attempt(forbidding, &format!("{scheme}://{host}:{port}/")).await;
            assert_eq!(result.error_class, Some(ErrorClass::Blocked), "{host}: {}", result.error);
            assert_eq!(result.http_status, None);
        }
    }
    assert_eq!(receiver.connections(), 0);

    let result = attempt(loopback(), &format!("http://localhost:{port}/")).await;
    assert_eq!(failed(&result), (Some(200), None, ""), "opened");
}

#[tokio::test]
async fn what_names_resolve_to_is_judged_at_every_attempt() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let url = |scheme: &str, name: &str| format!("{scheme}://{name}:{}/", receiver.address.port());
    let check = async |config: Config, addresses, url: String, expected: (Option<u16>, Option<ErrorClass>, &str)| {
        let result = attempts(&config, &dns_server(addresses)).perform(job(&url, b"{}")).await.result.unwrap();
        assert_eq!(failed(&result), expected, "{url}");
    };
    let blocked = |error| (None, Some(ErrorClass::Blocked), error);
    let forbidden = "the host resolves to an address this server may not call";
    check(config(&["10.0.0.0/8"]), &[[127, 0, 0, 1]], url("http", "receiver.test"), blocked(forbidden)).await;
    check(config(&[]), &[[127, 0, 0, 1]], url("https", "receiver.test"), blocked(forbidden)).await;
    check(loopback(), &[[127, 0, 0, 1], [10, 0, 0, 1]], url("http", "receiver.test"), blocked(forbidden)).await;
    let plain = "the host resolves to an address this server may call over https only";
    check(loopback(), &[[127, 0, 0, 1], [8, 8, 8, 8]], url("http", "receiver.test"), blocked(plain)).await;
    let absent = (None, Some(ErrorClass::Dns), "the host name does not exist or has no address");
    check(loopback(), &[], url("http", "receiver.test"), absent).await;
    check(loopback(), &[[127, 0, 0, 1]], url("http", "other.test"), absent).await;
    assert_eq!(receiver.connections(), 0);

    check(loopback(), &[[127, 0, 0, 1]], url("http", "receiver.test"), (Some(200), None, "")).await;
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn names_are_judged_before_anything_is_sent() {
    let check = async |config: Config, addresses, url, expected: Result<(), &str>| {
        let names = Names::new(Dns::new(&dns_server(addresses), config.connect_timeout), config.rules, config.own);
        assert_eq!(names.judge(&Target::from_stored(url).unwrap()).await, expected.map_err(String::from), "{url}");
    };
    check(loopback(), &[[127, 0, 0, 1]], "http://receiver.test/", Ok(())).await;
    check(config(&[]), &[[8, 8, 8, 8]], "https://receiver.test/", Ok(())).await;
    let forbidden = Err("the host resolves to an address this server may not call");
    check(config(&[]), &[[8, 8, 8, 8], [10, 0, 0, 1]], "https://receiver.test/", forbidden).await;
    let plain = Err("the host resolves to an address this server may call over https only");
    check(loopback(), &[[8, 8, 8, 8]], "http://receiver.test/", plain).await;
    // These are for attempts to judge, and for the text.
    check(config(&[]), &[], "https://other.test/", Ok(())).await;
    check(config(&[]), &[], "https://127.0.0.1/", Ok(())).await;
}

#[tokio::test]
async fn connections_are_kept_and_stale_ones_replaced() {
    let receiver = Receiver::start(|connection, number| {
        // Each connection answers twice; then it closes just as it is used again.
        number < 2 && connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let attempts = attempts(&loopback(), &resolver::hosts_file_only());
    for _ in 0..6 {
        let result = attempts.perform(job(&receiver.url(), b"{}")).await.result.unwrap();
        assert_eq!(failed(&result), (Some(200), None, ""));
    }
    assert_eq!(receiver.connections(), 4, "what is sent again is sent over a new connection, which is not kept");
    let ids: Vec<_> = receiver.requests.try_iter().map(|received| received.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, ["evt_1"; 8], "the third and the sixth were sent twice");
}

#[tokio::test]
async fn large_bodies_are_sent_whole() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let body: Vec<u8> = (0..=250).cycle().take(1024 * 1024).collect();
    let attempts = attempts(&loopback(), &resolver::hosts_file_only());
    let result = attempts.perform(job(&receiver.url(), &body)).await.result.unwrap();
    assert_eq!(failed(&result), (Some(200), None, ""));
    let request = receiver.received();
    assert_eq!(request.header("content-length"), "1048576");
    assert!(request.body == body);
}
