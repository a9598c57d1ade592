//! What is sent where a webhook's owner wants something else than a POST of the body as it is.

use http::Method;

use super::*;
use crate::{
    deliver::shape::shape,
    model::request::{self, Authorization, BodyFormat, ExtraFields, Headers, Query, RequestShape},
};

/// A job for a webhook with this shape.
fn shaped_job(url: &str, body: &[u8], shape: RequestShape) -> Job {
    let mut job = job(url, body);
    let webhook = Arc::get_mut(&mut job.webhook).unwrap();
    webhook.settings.request = shape.settled();
    job
}

fn extra(json: &str) -> ExtraFields {
    ExtraFields::parse(json).unwrap()
}

fn query(name: &str, value: &str) -> Query {
    Query::new([(name.to_owned(), value.to_owned())].into()).unwrap()
}

#[test]
fn without_a_wish_nothing_is_copied() {
    let job = job("https://e.example/?a=b", b"{ \"a\" : 1 }");
    let shaped = shape(&job).unwrap();
    assert_eq!((&shaped.method, shaped.content_type), (&Method::POST, Some("application/json")));
    assert!(std::ptr::eq(&raw const *shaped.target, &raw const job.webhook.settings.target));
    assert_eq!(shaped.body.as_ptr(), job.event.event.body.as_ptr());
}

#[test]
fn extra_fields_come_after_the_event_s_own() {
    let check = |content_type: &str, body: &[u8], expected: &[u8]| {
        let fields = extra(r#"{"a":"ours","x":[1,{}],"n":1.5}"#);
        let mut job = shaped_job("https://e.example/", body, RequestShape { body: fields, ..RequestShape::default() });
        job.event.event.content_type = content_type.into();
        let shaped = shape(&job).unwrap();
        assert_eq!(shaped.body, expected, "{}", String::from_utf8_lossy(expected));
        assert_eq!(shaped.content_type, Some(content_type));
    };
    check("application/json", b"{}", br#"{"a":"ours","n":1.5,"x":[1,{}]}"#);
    check(
        "application/json; charset=utf-8",
        b"{ \"big\" : 12345678901234567890.10,\r\n\t\"\\u0061\": null,  \"a\" :2 }\n",
        b"{ \"big\" : 12345678901234567890.10,\r\n\t\"\\u0061\": null,  \"a\" :2,\"n\":1.5,\"x\":[1,{}] }\n",
    );
    check("a/b+json", br#"{"n":1,"x":1,"a":1}"#, br#"{"n":1,"x":1,"a":1}"#);
    for other in [&b"[{}]"[..], b"null", b"", b"{\"a\":", b"{\"a\":1}}", b"\xff{}"] {
        check("application/json", other, other);
    }
    check("text/plain", b"{}", b"{}");
}

#[test]
fn forms_say_what_the_object_says() {
    let check = |content_type: &str, body: &str, expected: &str, as_form: bool| {
        let wish = RequestShape {
            body: extra(r#"{"s":"ours","more":[ ]}"#),
            body_format: BodyFormat::Form,
            ..RequestShape::default()
        };
        let mut job = shaped_job("https://e.example/", body.as_bytes(), wish);
        job.event.event.content_type = content_type.into();
        let shaped = shape(&job).unwrap();
        assert_eq!(str::from_utf8(&shaped.body).unwrap(), expected);
        let form = "application/x-www-form-urlencoded";
        assert_eq!(shaped.content_type, Some(if as_form { form } else { content_type }), "{body}");
    };
    check(
        "application/json",
        r#"{ "s": "a b&=ü\n", "n": 12345678901234567890.10, "t": true, "z": null, "o": { "k" : [1, " "] }, "n": 2, "": "" }"#,
        "s=a+b%26%3D%C3%BC%0A&n=12345678901234567890.10&t=true&z=&o=%7B%22k%22%3A%5B1%2C%22+%22%5D%7D&n=2&=&more=%5B%5D",
        true,
    );
    check("application/json", "{}", "more=%5B%5D&s=ours", true);
    for body in ["[1]", "7", "{", "", r#"{"a":"\ud800"}"#] {
        check("application/json", body, body, false);
    }
    check("text/plain", "{}", "{}", false);
}

#[test]
fn methods_without_a_body_take_flat_fields_into_the_query() {
    let check = |body: &[u8], expected: &str| {
        for (wanted, sent) in [
            (request::Method::Get, Method::GET),
            (request::Method::Head, Method::HEAD),
            (request::Method::Delete, Method::DELETE),
        ] {
            let wish = RequestShape {
                method: wanted,
                query: query("from", "a b"),
                body: extra(r#"{"a":"ours","x":1}"#),
                ..RequestShape::default()
            };
            let job = shaped_job("https://e.example/hook?token=s3cret", body, wish);
            let shaped = shape(&job).unwrap();
            assert_eq!((&shaped.method, shaped.content_type, shaped.body.len()), (&sent, None, 0));
            assert_eq!(shaped.target.url().query(), Some(&*format!("token=s3cret&from=a+b{expected}")));
            assert_eq!(shaped.target.redacted(), "https://e.example/hook");
        }
    };
    check(
        br#"{"a": "?#&/..@evil.example", "big": 12345678901234567890, "no": false, "nothing": null, "list": [], "o": {"a":1}}"#,
        "&a=%3F%23%26%2F..%40evil.example&big=12345678901234567890&no=false&nothing=&x=1",
    );
    check(b"{}", "&a=ours&x=1");
    check(b"[1]", "");
    check(b"\xff\x00", "");
}

#[test]
fn a_url_that_grows_too_long_is_not_sent() {
    let sent = |length: usize| {
        let wish = RequestShape { method: request::Method::Get, ..RequestShape::default() };
        let body = format!("{{\"a\":\"{}\"}}", "x".repeat(length));
        shape(&shaped_job("https://e.example/", body.as_bytes(), wish)).map(|shaped| shaped.target.url().as_str().len())
    };
    let base = "https://e.example/?a=".len();
    assert_eq!(sent(8192 - base), Ok(8192));
    for length in [8193 - base, 1_000_000] {
        let failure = sent(length).unwrap_err();
        assert_eq!(failure.class, ErrorClass::Internal);
        assert_eq!(failure.text, "the URL is longer than 8192 bytes with the fields of this event");
    }
}

/// The whole request as it leaves, of either client library.
#[tokio::test]
async fn the_shape_arrives_signed() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let attempts = attempts(&loopback(), &resolver::hosts_file_only());
    let wish = RequestShape {
        method: request::Method::Put,
        headers: Headers::new([("X-Key".into(), "k 1".into()), ("Accept".into(), "text/plain".into())]).unwrap(),
        query: query("q", "1"),
        body: extra(r#"{"x":1}"#),
        body_format: BodyFormat::Form,
        authorization: Some(Authorization::basic("Aladdin", "open sesame").unwrap()),
        ..RequestShape::default()
    };
    let attempt = |wish| attempts.perform(shaped_job(&receiver.url(), br#"{"a":"b"}"#, wish));
    let attempted = attempt(wish).await;
    assert_eq!(failed(&attempted.result.unwrap()), (Some(200), None, ""));
    let request = receiver.received();
    assert!(request.head.starts_with("PUT /hook?token=s3cret&q=1 HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.body, b"a=b&x=1");
    for (name, value) in [
        ("x-key", "k 1"),
        ("accept", "text/plain"),
        ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-length", "7"),
    ] {
        assert_eq!(request.header(name), value);
        assert_eq!(request.head.matches(&format!("\r\n{name}: ")).count(), 1, "{}", request.head);
    }
    let timestamp = request.header("webhook-timestamp").parse().unwrap();
    assert_eq!(
        request.header("webhook-signature"),
        attempted.job.webhook.keys.secret().sign("evt_1", timestamp, &request.body)
    );

    for (method, name) in
        [(request::Method::Get, "GET"), (request::Method::Head, "HEAD"), (request::Method::Delete, "DELETE")]
    {
        let attempted = attempt(RequestShape { method, ..RequestShape::default() }).await;
        assert_eq!(failed(&attempted.result.unwrap()), (Some(200), None, ""), "{name}");
        let request = receiver.received();
        assert!(request.head.starts_with(&format!("{name} /hook?token=s3cret&a=b HTTP/1.1\r\n")), "{}", request.head);
        for absent in ["content-type", "content-length", "transfer-encoding"] {
            assert!(!request.head.contains(absent), "{}", request.head);
        }
        let timestamp = request.header("webhook-timestamp").parse().unwrap();
        assert_eq!(
            request.header("webhook-signature"),
            attempted.job.webhook.keys.secret().sign("evt_1", timestamp, b"")
        );
    }
}

/// Headers that were stored before their names were reserved change nothing.
#[tokio::test]
async fn our_headers_win() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let stored = [("webhook-id", "evil"), ("content-type", "text/evil"), ("x-fine", "1")];
    let headers = Headers::from_stored(stored.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
    let wish = RequestShape { headers, ..RequestShape::default() };
    let attempts = attempts(&loopback(), &resolver::hosts_file_only());
    attempts.perform(shaped_job(&receiver.url(), b"{}", wish)).await;
    let request = receiver.received();
    assert!(!request.head.contains("evil"), "{}", request.head);
    assert_eq!((request.header("webhook-id"), request.header("x-fine")), ("evt_1", "1"));
}
