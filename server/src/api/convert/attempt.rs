//! Model → contract for attempts as those see them who look at one delivery: with what the receiver answered and how it went.

use std::mem;

use postrider_proto::v1;
use prost::Message as _;

use super::{delivery::outcome_reply, small, span};
use crate::{
    limits::PAGE_BYTES,
    model::{
        delivery::Outcome,
        exchange::{Exchange, ResponseHeaders, Timings},
    },
};

/// Attempts of one delivery, oldest first. Answers are those of the last attempts, as many as fit: of very many no client could
/// receive them all.
pub(in crate::api) fn attempts_reply(attempts: Vec<Outcome>) -> Vec<v1::Outcome> {
    let mut room = PAGE_BYTES;
    let newest_first = attempts.into_iter().rev().map(|outcome| {
        let reply = attempt_reply(outcome);
        let bytes = reply.encoded_len();
        let fits = bytes <= room;
        room = if fits { room - bytes } else { 0 };
        if fits { reply } else { without_answer(reply) }
    });
    let mut replies: Vec<_> = newest_first.collect();
    replies.reverse();
    replies
}

/// One attempt.
pub(in crate::api) fn attempt_reply(mut outcome: Outcome) -> v1::Outcome {
    let body = mem::take(&mut outcome.response_body);
    let Exchange { timings, remote, headers } = mem::take(&mut outcome.exchange);
    v1::Outcome {
        response_body: body.to_vec(),
        timings: (timings != Timings::default()).then(|| timings_reply(timings)),
        remote_address: remote.map_or_else(String::new, |address| address.to_string()),
        response_headers: headers_reply(&headers),
        omitted_response_headers: small(headers.left_out()),
        ..outcome_reply(outcome)
    }
}

fn without_answer(reply: v1::Outcome) -> v1::Outcome {
    v1::Outcome { response_body: Vec::new(), response_headers: Vec::new(), omitted_response_headers: 0, ..reply }
}

fn timings_reply(timings: Timings) -> v1::AttemptTimings {
    v1::AttemptTimings {
        dns: timings.dns.map(span),
        connect: timings.connect.map(span),
        tls: timings.tls.map(span),
        first_byte: timings.first_byte.map(span),
    }
}

fn headers_reply(headers: &ResponseHeaders) -> Vec<v1::ResponseHeader> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    headers.iter().map(|(name, value)| v1::ResponseHeader { name: text(name), value: text(value) }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::{
        limits::{
            DELIVERY_ATTEMPTS_LISTED_MAX, GRPC_MESSAGE_BYTES_MAX, RESPONSE_HEADERS_BYTES_MAX, RESPONSE_KEPT_BYTES_MAX,
        },
        model::{
            delivery::{DeliveryState, ErrorClass},
            ids::{DeliveryId, DeliveryKey, EventSeq, EventTypeName, Tenant, WebhookId, WebhookNo},
            time::Timestamp,
        },
    };

    fn attempt(attempt: u32, header: &[u8], body: &[u8]) -> Outcome {
        let lines = [b"x:", header, b"\n"].concat();
        Outcome {
            key: DeliveryKey { webhook: WebhookNo(1), event: EventSeq(1), replay: 0 },
            delivery_id: DeliveryId::from_bytes([1; 16]),
            tenant: Tenant::default(),
            webhook_id: WebhookId::from_bytes([2; 16]),
            event_id: "e".parse().unwrap(),
            event_type: EventTypeName::new("ADD_TAG"),
            attempt,
            state: DeliveryState::Failed,
            http_status: Some(500),
            error_class: Some(ErrorClass::HttpStatus),
            error: "x".repeat(256),
            latency: Duration::from_secs(1),
            time: Timestamp::UNIX_EPOCH,
            next_attempt: None,
            held: false,
            response_body: Bytes::copy_from_slice(body),
            exchange: Exchange {
                timings: Timings { dns: Some(Duration::from_micros(1_500)), ..Timings::default() },
                remote: Some("[2001:db8::7]:443".parse().unwrap()),
                headers: ResponseHeaders::from_stored(lines.into(), 7),
            },
        }
    }

    #[test]
    fn an_attempt_is_shown_with_all_there_is() {
        let shown = attempt_reply(attempt(1, b"\xffy", b"\xffno"));
        assert_eq!(shown.response_body, b"\xffno");
        let header = v1::ResponseHeader { name: "x".into(), value: "\u{fffd}y".into() };
        assert_eq!((shown.response_headers, shown.omitted_response_headers), (vec![header], 7));
        let dns = Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 });
        assert_eq!(shown.timings, Some(v1::AttemptTimings { dns, ..v1::AttemptTimings::default() }));
        assert_eq!(shown.remote_address, "[2001:db8::7]:443");
        let nothing = Outcome { exchange: Exchange::default(), ..attempt(1, b"", b"") };
        assert_eq!(attempt_reply(nothing).timings, None);
    }

    #[test]
    fn however_many_attempts_there_were_a_client_can_receive_them() {
        // The worst that a receiver can do: as text, each of these bytes takes three.
        let (header, body) = (vec![0xff; RESPONSE_HEADERS_BYTES_MAX - 1], vec![b'x'; RESPONSE_KEPT_BYTES_MAX]);
        let count = u32::try_from(DELIVERY_ATTEMPTS_LISTED_MAX).unwrap();
        let shown = attempts_reply((1..=count).map(|number| attempt(number, &header, &body)).collect());
        let numbers: Vec<_> = shown.iter().map(|it| it.attempt).collect();
        assert_eq!(numbers, (1..=1_000).collect::<Vec<_>>());
        let bytes: usize = shown.iter().map(|it| it.encoded_len() + 5).sum();
        assert!(bytes < GRPC_MESSAGE_BYTES_MAX, "{bytes}");
        let whole = shown.iter().filter(|it| !it.response_body.is_empty()).count();
        assert!(whole >= 40, "{whole}");
        for (index, it) in shown.iter().enumerate() {
            let answered = index >= shown.len() - whole;
            let expected = if answered { (1, 7) } else { (0, 0) };
            assert_eq!((it.response_headers.len(), it.omitted_response_headers), expected, "the last ones, whole");
            assert!(it.timings.is_some() && !it.remote_address.is_empty());
        }
        // One that does not fit ends it, although a smaller one would fit: what is shown is without gaps.
        let mut mixed: Vec<_> = (1..=100).map(|number| attempt(number, &header, &body)).collect();
        mixed[0] = attempt(1, b"", b"small");
        assert!(attempts_reply(mixed)[0].response_body.is_empty());
    }
}
