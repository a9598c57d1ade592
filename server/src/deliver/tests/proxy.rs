//! Attempts through the operator's proxy.

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A proxy that says what `answer` says of a CONNECT, and then is the receiver itself. What it was asked first, by connection.
fn proxy(answer: impl Fn(&str) -> &'static str + Send + Sync + 'static) -> (Receiver, Config) {
    let receiver = Receiver::start(move |connection, number| {
        let said = if number == 0 { answer("") } else { OK };
        connection.write_all(said.as_bytes()).is_ok()
    });
    let proxy = Proxy::parse(&format!("http://{}", receiver.address), None).unwrap();
    let config = Config { proxy: Some(Arc::new(proxy)), ..loopback() };
    (receiver, config)
}

fn first_line(receiver: &Receiver) -> String {
    receiver.received().head.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_proxy_is_asked_for_the_address_that_was_judged() {
    let (receiver, config) = proxy(|_| "HTTP/1.1 200 OK\r\n\r\n");
    let attempts = attempts(&config, &dns_server(&[[127, 0, 0, 7]]));
    let result = attempts.perform(job("http://receiver.test:8080/", b"{}")).await.result.unwrap();
    assert_eq!(failed(&result), (Some(200), None, ""));
    assert_eq!(result.exchange.remote, Some(([127, 0, 0, 7], 8080).into()), "the receiver, not the proxy");
    assert_eq!(first_line(&receiver), "CONNECT 127.0.0.7:8080 HTTP/1.1");
    let request = receiver.received();
    assert_eq!(request.header("host"), "receiver.test:8080");
    assert!(request.head.starts_with("POST / HTTP/1.1"), "{}", request.head);
}

#[tokio::test]
async fn what_may_not_be_called_is_not_asked_for() {
    let (receiver, open) = proxy(|_| "HTTP/1.1 200 OK\r\n\r\n");
    let closed = Config { rules: config(&[]).rules, ..open.clone() };
    let own = Config { own: OwnPorts::new([SocketAddr::from(([127, 0, 0, 1], 8080))]), ..open };
    let cases: [(&Config, &'static [[u8; 4]], &str); 8] = [
        (&closed, &[[10, 0, 0, 1]], "https://receiver.test/"),
        (&closed, &[[8, 8, 8, 8], [10, 0, 0, 1]], "https://receiver.test/"),
        (&closed, &[[8, 8, 8, 8]], "http://receiver.test/"),
        (&closed, &[], "https://127.0.0.1/"),
        (&closed, &[], "https://[::ffff:10.0.0.1]/"),
        (&closed, &[], "https://a.localhost/"),
        (&own, &[[127, 0, 0, 1]], "http://receiver.test:8080/"),
        (&own, &[], "http://127.0.0.1:8080/"),
    ];
    for (config, addresses, url) in cases {
        let result = attempts(config, &dns_server(addresses)).perform(job(url, b"{}")).await.result.unwrap();
        assert_eq!(result.error_class, Some(ErrorClass::Blocked), "{url}: {}", result.error);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn another_address_is_asked_for_if_one_cannot_be_reached() {
    let connects = AtomicUsize::new(0);
    let (receiver, config) = proxy(move |_| match connects.fetch_add(1, Ordering::SeqCst) {
        0 => "HTTP/1.1 502 Bad Gateway\r\n\r\n",
        _ => "HTTP/1.1 200 OK\r\n\r\n",
    });
    let dns = dns_server(&[[127, 0, 0, 7], [127, 0, 0, 8]]);
    let result = attempts(&config, &dns).perform(job("http://receiver.test/", b"{}")).await.result.unwrap();
    assert_eq!(failed(&result), (Some(200), None, ""));
    let asked = [first_line(&receiver), first_line(&receiver)];
    assert_ne!(asked[0], asked[1]);
}

#[tokio::test]
async fn a_proxy_that_is_silent_or_says_too_much_is_not_waited_for() {
    let (_silent, config) = proxy(|_| "");
    let config = Config { connect_timeout: Duration::from_millis(200), ..config };
    let result = attempt(config, "https://127.0.0.1/").await;
    assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), "no connection in time"));
    let says = "the egress proxy's answer to CONNECT is not valid HTTP";
    for answer in ["HTTP/1.1 200 OK\r\n\r\nearly", "HTTP/1.1 2\r\n\r\n", "no\r\n\r\n"] {
        let result = attempt(proxy(move |_| answer).1, "https://127.0.0.1/").await;
        assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), says));
    }
    let endless: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(9_000)).into_boxed_str());
    let result = attempt(proxy(move |_| endless).1, "https://127.0.0.1/").await;
    assert_eq!(failed(&result), (None, Some(ErrorClass::Connect), says));
}
