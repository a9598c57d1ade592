//! Asking receivers for their consent.

use std::num::NonZeroU32;

use super::*;
use crate::model::{
    ids::Tenant,
    ownership::{Origin, Question, Refusal},
    time::Timestamp,
};

fn question(url: &str, per_minute: u32) -> Question {
    Question {
        tenant: Tenant::default(),
        target: Target::from_stored(url).expect("a URL"),
        origin: Origin::default(),
        per_minute: NonZeroU32::new(per_minute),
        timeout: None,
        tls: None,
    }
}

async fn ask(config: &Config, question: Question) -> Result<Option<NonZeroU32>, Refusal> {
    attempts(config, &resolver::hosts_file_only()).ask(&question).await
}

#[tokio::test]
async fn the_question_says_who_and_how_often_and_nothing_else() {
    let receiver = Receiver::answering(
        "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: Postrider\r\nWebHook-Allowed-Rate: 90\r\ncontent-length: 0\r\n\r\n",
    );
    for (wanted, expected) in [(0, None), (120, Some("webhook-request-rate: 120"))] {
        let allowed = ask(&loopback(), question(&receiver.url(), wanted)).await;
        assert_eq!(allowed, Ok(NonZeroU32::new(90)));
        let request = receiver.received();
        assert!(request.body.is_empty());
        let mut lines: Vec<_> = request.head.lines().map(String::from).collect();
        assert_eq!(lines.remove(0), "OPTIONS /hook?token=s3cret HTTP/1.1");
        // Some clients say that there is no body, others say nothing.
        lines.retain(|line| line != "content-length: 0");
        lines.sort();
        let host = format!("host: {}", receiver.address);
        let mut all = vec![
            "accept-encoding: identity",
            "accept: */*",
            &host,
            "user-agent: Postrider/test",
            "webhook-request-origin: postrider",
        ];
        all.extend(expected);
        assert_eq!(lines, all);
    }
}

#[tokio::test]
async fn nobody_is_asked_who_must_not_be_called() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\nwebhook-allowed-origin: *\r\ncontent-length: 0\r\n\r\n");
    let named = format!("http://localhost:{}/", receiver.address.port());
    for url in [receiver.url(), named] {
        let refused = ask(&config(&[]), question(&url, 0)).await.expect_err("it is private");
        assert!(matches!(refused, Refusal::Unanswered(_)), "{refused}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn silence_and_detours_are_refusals() {
    let elsewhere = Receiver::answering("HTTP/1.1 200 OK\r\nwebhook-allowed-origin: *\r\ncontent-length: 0\r\n\r\n");
    let redirect =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let redirecting = Receiver::start(move |connection, _| connection.write_all(redirect.as_bytes()).is_ok());
    let refused = ask(&loopback(), question(&redirecting.url(), 0)).await.expect_err("it says nothing itself");
    assert!(refused.to_string().contains("307"), "{refused}");
    assert_eq!(elsewhere.connections(), 0);

    let hanging = Receiver::start(|connection, _| hang(connection));
    let mut own = question(&hanging.url(), 0);
    own.timeout = Some(Duration::from_millis(50));
    let config = Config { attempt_timeout: Duration::from_mins(1), ..loopback() };
    let refused = ask(&config, own.clone()).await.expect_err("it is silent");
    assert!(refused.to_string().ends_with("no answer within 50ms"), "{refused}");
    own.timeout = Some(Duration::from_mins(1));
    let ceiling = Config { attempt_timeout_max: Duration::from_millis(60), ..config };
    let refused = ask(&ceiling, own).await.expect_err("it is silent");
    assert!(refused.to_string().ends_with("no answer within 60ms"), "the operator's ceiling holds: {refused}");
}

#[tokio::test]
async fn deliveries_carry_the_name_the_receiver_agreed_to() {
    use crate::model::ownership::{Consent, Ownership};

    let receiver = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let consent =
        Consent { origin: "events.example.com".parse().unwrap(), per_minute: None, time: Timestamp::UNIX_EPOCH };
    for (ownership, expected) in [(None, false), (Some(Ownership::Confirmed(consent)), true)] {
        let mut job = job(&receiver.url(), b"{}");
        Arc::get_mut(&mut job.webhook).unwrap().settings.ownership = ownership.map(Box::new);
        attempts(&loopback(), &resolver::hosts_file_only()).perform(job).await;
        let head = receiver.received().head;
        assert_eq!(head.contains("webhook-request-origin: events.example.com"), expected, "{head}");
        assert_eq!(head.contains("webhook-request-"), expected, "{head}");
    }
}
