//! What an attempt was like on the wire, for people who want to know where its time went and what the receiver said.

use std::{net::SocketAddr, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;

use crate::limits::{RESPONSE_HEADERS_BYTES_MAX, RESPONSE_HEADERS_MAX};

/// What is known of one request and its answer, besides what is decided by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchange {
    /// Where the time went.
    pub timings: Timings,
    /// The address of the connection that carried the request, as far as that is known.
    ///
    /// Invariant: one that may be called. Tenants see it.
    pub remote: Option<SocketAddr>,
    /// Of the answer; kept for the same answers as the body.
    pub headers: ResponseHeaders,
}

/// How long the parts of an attempt took, to the microsecond; `None`: not reached, or not needed. The contract's
/// `AttemptTimings` says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Looking up the name.
    pub dns: Option<Duration>,
    /// Connecting.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From then until the head of the answer.
    pub first_byte: Option<Duration>,
}

/// Headers of an answer: at most `RESPONSE_HEADERS_MAX`, and `RESPONSE_HEADERS_BYTES_MAX` together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseHeaders {
    /// `name:value` and a line feed, which neither can hold, for each.
    lines: Bytes,
    left_out: u32,
}

impl ResponseHeaders {
    /// Those of an answer, in their order. One that does not fit any more is left out as a whole; later ones may fit.
    pub fn of(headers: &HeaderMap) -> Self {
        let fits = |kept: usize, bytes: usize| kept < RESPONSE_HEADERS_MAX && bytes <= RESPONSE_HEADERS_BYTES_MAX;
        let all: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
        let mut lines = BytesMut::with_capacity(all.min(RESPONSE_HEADERS_BYTES_MAX + 2 * RESPONSE_HEADERS_MAX));
        let (mut kept, mut bytes, mut left_out) = (0, 0, 0);
        for (name, value) in headers {
            let size = name.as_str().len() + value.len();
            // The client lets none of them in.
            let is_line = !value.as_bytes().contains(&b'\n');
            if is_line && fits(kept, bytes + size) {
                lines.put_slice(name.as_str().as_bytes());
                lines.put_u8(b':');
                lines.put_slice(value.as_bytes());
                lines.put_u8(b'\n');
                kept += 1;
                bytes += size;
            } else {
                left_out += 1;
            }
        }
        Self { lines: lines.freeze(), left_out }
    }

    /// What [`Self::lines`] and [`Self::left_out`] said when they were stored.
    pub fn from_stored(lines: Bytes, left_out: u32) -> Self {
        Self { lines, left_out }
    }

    /// All of them as text: `name:value` and a line feed for each.
    pub fn lines(&self) -> &Bytes {
        &self.lines
    }

    /// How many there were besides.
    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    /// Names and values, as the receiver sent them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.split(|&byte| byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], &line[colon + 1..]))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> ResponseHeaders {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        ResponseHeaders::of(&map)
    }

    #[test]
    fn headers_come_back_as_they_were() {
        let pairs: [(&str, &[u8]); 4] =
            [("server", b"a:b: c"), ("x-empty", b""), ("set-cookie", b"one"), ("set-cookie", b"\xfftwo")];
        let kept = headers(pairs);
        let expected: Vec<_> = pairs.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
        assert_eq!(kept.iter().collect::<Vec<_>>(), expected);
        assert_eq!(kept.left_out(), 0);
        assert_eq!(ResponseHeaders::from_stored(kept.lines().clone(), 0), kept);
        assert_eq!(ResponseHeaders::default().iter().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_none_is_cut() {
        let long = vec![b'x'; RESPONSE_HEADERS_BYTES_MAX - 10];
        let kept = headers([("a", long.as_slice()), ("b", b"nine bytes"), ("c", b"eight by"), ("d", b"")]);
        let names: Vec<_> = kept.iter().map(|(name, _)| name).collect();
        assert_eq!((names, kept.left_out()), (vec![b"a".as_slice(), b"c"], 2));
        let exact = vec![b'x'; RESPONSE_HEADERS_BYTES_MAX - 1];
        assert_eq!(headers([("a", exact.as_slice())]).left_out(), 0);

        let names: Vec<_> = (0..RESPONSE_HEADERS_MAX + 6).map(|n| format!("x-{n}")).collect();
        let kept = headers(names.iter().map(|name| (name.as_str(), b"".as_slice())));
        assert_eq!((kept.iter().count(), kept.left_out()), (RESPONSE_HEADERS_MAX, 6));
    }
}
