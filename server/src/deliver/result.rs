//! What became of an attempt: from errors and answers to a class and a text for people.
//!
//! Invariant: texts hold no URL, no address behind a name and nothing of the body; tenants see them.

use std::{error::Error as StdError, fmt::Display, io, iter, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use super::{
    attempt::Shows, certificates, client, phases::AskedForCertificate, proxy::ProxyError, resolver::ResolveError,
};
use crate::{
    limits::ANSWER_WIRE_BYTES_MAX,
    model::{
        delivery::{AttemptResult, ErrorClass, shortened},
        exchange::{Exchange, ResponseHeaders},
        time::Timestamp,
    },
};

/// Too many open files, in the process and on the machine; the same numbers on every Unix.
const OUT_OF_FILES: [i32; 2] = [24, 23];

/// What has arrived of an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: Option<StatusCode>,
    pub(super) retry_after: Option<Duration>,
    pub(super) headers: HeaderMap,
    pub(super) body: BytesMut,
}

impl Answer {
    /// The result of an attempt that `ended` so. A status other than 2xx says more than whatever happened to the body after it.
    pub(super) fn conclude(
        self,
        ended: Result<(), Failure>,
        started: Timestamp,
        now: Timestamp,
        shows: Shows,
    ) -> AttemptResult {
        let failure = match self.status {
            Some(status) if !status.is_success() => Some(Failure::from_status(status)),
            Some(_) | None => ended.err(),
        };
        let wanted = failure.is_some() || shows == Shows::Everything;
        let headers = if wanted { ResponseHeaders::of(&self.headers) } else { ResponseHeaders::default() };
        let (error_class, error) = failure.map_or((None, String::new()), |failure| (Some(failure.class), failure.text));
        AttemptResult {
            http_status: self.status.map(|status| status.as_u16()),
            error_class,
            error: shortened(error),
            latency: now.since(started),
            time: now,
            retry_after: self.retry_after,
            response_body: self.body.freeze(),
            exchange: Exchange { headers, ..Exchange::default() },
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) class: ErrorClass,
    pub(super) text: String,
}

impl Failure {
    fn new(class: ErrorClass, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    /// The address is not allowed; nothing was sent.
    pub(super) fn blocked(refusal: &impl Display) -> Self {
        Self::new(ErrorClass::Blocked, refusal.to_string())
    }

    /// It was sent where it was not allowed to go.
    pub(super) fn misdirected() -> Self {
        Self::new(
            ErrorClass::Blocked,
            "the request went to an address this server may not call; its answer was dropped",
        )
    }

    /// The deadline passed.
    pub(super) fn late(text: String) -> Self {
        Self::new(ErrorClass::Timeout, text)
    }

    /// The request could not even be made.
    pub(super) fn unsendable(text: &str) -> Self {
        Self::new(ErrorClass::Internal, text)
    }

    fn from_status(status: StatusCode) -> Self {
        let hint = if status.is_redirection() { "; redirects are not followed" } else { "" };
        Self::new(ErrorClass::HttpStatus, format!("the receiver answered {status}{hint}"))
    }

    /// Finds out what a request or its answer failed of, from the causes behind the client's error. `asked`: whether the receiver
    /// had asked for a certificate, if the connection was made for this request.
    pub(super) fn from_request(error: &client::Error, asked: Option<AskedForCertificate>) -> Self {
        if let Some(refusal) = cause::<ResolveError>(error) {
            let class = match refusal {
                ResolveError::Forbidden | ResolveError::PlainHttp => ErrorClass::Blocked,
                ResolveError::Absent | ResolveError::Timeout | ResolveError::Failed => ErrorClass::Dns,
            };
            return Self::new(class, refusal.to_string());
        }
        if let Some(proxy) = cause::<ProxyError>(error) {
            if let ProxyError::Unreachable(io) = proxy
                && is_out_of_files(io)
            {
                return Self::unsendable("this server has too many files open");
            }
            return Self::new(ErrorClass::Connect, proxy.to_string());
        }
        if client::is_too_long(error) {
            let kib = ANSWER_WIRE_BYTES_MAX / 1024;
            return Self::new(ErrorClass::Protocol, format!("{kib} KiB came, and the answer was not complete"));
        }
        if let Some(tls) = cause::<rustls::Error>(error) {
            return Self::new(ErrorClass::Tls, certificates::explain(tls, asked));
        }
        if let Some(asked) = asked.filter(|_| broke_in_silence(error)) {
            // The word in which it said why was lost with the connection.
            return Self::new(ErrorClass::Tls, certificates::closed(asked));
        }
        // The innermost one: what goes wrong within a TLS handshake comes wrapped in another that says nothing.
        let io = sources(error).filter_map(|source| source.downcast_ref::<io::Error>()).last();
        if error.is_connect() {
            return match io {
                Some(io) if is_out_of_files(io) => Self::unsendable("this server has too many files open"),
                _ if error.is_timeout() => Self::new(ErrorClass::Connect, "no connection in time"),
                Some(io) => Self::new(ErrorClass::Connect, format!("no connection: {}", io.kind())),
                None => Self::new(ErrorClass::Connect, "no connection"),
            };
        }
        if error.is_builder() {
            return Self::unsendable("no request could be made for this URL");
        }
        let closed = "the receiver closed the connection before its answer was complete";
        if let Some(io) = io {
            if io.kind() == io::ErrorKind::UnexpectedEof {
                return Self::new(ErrorClass::Protocol, closed);
            }
            return Self::new(ErrorClass::Protocol, format!("the connection broke: {}", io.kind()));
        }
        match cause::<hyper::Error>(error) {
            Some(http) if http.is_incomplete_message() => Self::new(ErrorClass::Protocol, closed),
            Some(http) if http.is_parse() => {
                Self::new(ErrorClass::Protocol, format!("the answer is not valid HTTP: {http}"))
            }
            Some(http) => Self::new(ErrorClass::Protocol, format!("the connection broke: {http}")),
            None => Self::new(ErrorClass::Protocol, "the connection broke"),
        }
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OUT_OF_FILES.contains(&code))
}

/// Whether a connection broke after the request was handed to it, before an answer was understood. With TLS that can be an end without
/// a farewell.
pub(super) fn broke_in_silence(error: &client::Error) -> bool {
    let is_closing = |io: &io::Error| {
        matches!(
            io.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        )
    };
    !error.is_connect()
        && (cause::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message)
            || cause::<io::Error>(error).is_some_and(is_closing))
}

/// The first cause of this type behind an error.
pub(super) fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    sources(error).find_map(|source| source.downcast_ref())
}

/// An error and all behind it, those that hide inside an I/O error included.
pub(super) fn sources<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&error| {
        // `io::Error::source` skips the error it wraps.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::SERVER};

    use super::*;

    const START: Timestamp = Timestamp::from_micros(1_000);
    const END: Timestamp = Timestamp::from_micros(3_500);

    #[test]
    fn a_status_other_than_2xx_says_more_than_its_body() {
        let check = |status: u16, ended: Result<(), Failure>, class, error: &str| {
            let answer = Answer { status: StatusCode::from_u16(status).ok(), ..Answer::default() };
            let result = answer.conclude(ended, START, END, Shows::Failures);
            assert_eq!((result.error_class, result.error.as_str()), (class, error), "{status}");
            assert_eq!((result.latency, result.time), (Duration::from_micros(2_500), END));
        };
        let broken = || Err(Failure::new(ErrorClass::Protocol, "broken"));
        check(200, Ok(()), None, "");
        check(299, Ok(()), None, "");
        check(200, broken(), Some(ErrorClass::Protocol), "broken");
        check(500, Ok(()), Some(ErrorClass::HttpStatus), "the receiver answered 500 Internal Server Error");
        check(500, broken(), Some(ErrorClass::HttpStatus), "the receiver answered 500 Internal Server Error");
        let redirect = "the receiver answered 302 Found; redirects are not followed";
        check(302, Ok(()), Some(ErrorClass::HttpStatus), redirect);
        // Out of range: no answer.
        check(0, broken(), Some(ErrorClass::Protocol), "broken");
    }

    #[test]
    fn headers_are_shown_of_failures_and_to_those_who_wait_of_all() {
        let check = |status: u16, ended: Result<(), Failure>, shows, expected| {
            let headers = [(SERVER, HeaderValue::from_static("test"))].into_iter().collect();
            let answer = Answer { status: StatusCode::from_u16(status).ok(), headers, ..Answer::default() };
            let shown = answer.conclude(ended, START, END, shows).exchange.headers;
            assert_eq!(shown.iter().count(), expected, "{status} {shows:?}");
        };
        let broken = || Err(Failure::new(ErrorClass::Protocol, "broken"));
        check(200, Ok(()), Shows::Failures, 0);
        check(200, Ok(()), Shows::Everything, 1);
        check(200, broken(), Shows::Failures, 1);
        check(500, Ok(()), Shows::Failures, 1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = Err(Failure::new(ErrorClass::Tls, "é".repeat(200) + "x"));
        let result = Answer::default().conclude(long, START, END, Shows::Failures);
        assert_eq!(result.error, "é".repeat(128));
        let odd = Err(Failure::new(ErrorClass::Tls, "x".to_owned() + &"é".repeat(200)));
        assert_eq!(Answer::default().conclude(odd, START, END, Shows::Failures).error.len(), 255);
    }

    #[test]
    fn errors_wrapped_in_io_errors_are_found() {
        let wrapped = io::Error::other(io::Error::other(rustls::Error::DecryptError));
        assert_eq!(cause::<rustls::Error>(&wrapped), Some(&rustls::Error::DecryptError));
        assert!(cause::<ResolveError>(&wrapped).is_none());
    }
}
