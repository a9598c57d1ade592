//! What an attempt was like, as part of its outcome's entry in the log.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;

use super::Corrupt;
use crate::model::exchange::{Exchange, ResponseHeaders, Timings};

/// Times in microseconds; absent: not reached, or not needed. Of most attempts there is one time and an IPv4 address, which
/// takes some 14 bytes and no memory of its own.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExchangeRecord {
    #[prost(uint64, optional, tag = "1")]
    dns: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    connect: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    tls: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    first_byte: Option<u64>,
    /// The remote address, and below it 16 bits of port; 0: unknown, or not an IPv4 one.
    #[prost(uint64, tag = "5")]
    remote_v4: u64,
    /// The remote address, 16 bytes, and 2 bytes of port, highest first.
    #[prost(bytes = "bytes", tag = "6")]
    remote_v6: Bytes,
    /// `name:value` and a line feed for each.
    #[prost(bytes = "bytes", tag = "7")]
    headers: Bytes,
    #[prost(uint32, tag = "8")]
    headers_left_out: u32,
}

impl ExchangeRecord {
    /// `None`: nothing is known.
    pub(super) fn new(exchange: &Exchange) -> Option<Self> {
        let Exchange { timings, remote, headers } = exchange;
        let (remote_v4, remote_v6) = remote.map_or((0, Bytes::new()), remote_to_disk);
        let record = Self {
            dns: timings.dns.map(micros),
            connect: timings.connect.map(micros),
            tls: timings.tls.map(micros),
            first_byte: timings.first_byte.map(micros),
            remote_v4,
            remote_v6,
            headers: headers.lines().clone(),
            headers_left_out: headers.left_out(),
        };
        (record != Self::default()).then_some(record)
    }

    pub(super) fn shown(self) -> Result<Exchange, Corrupt> {
        let timings = Timings {
            dns: self.dns.map(Duration::from_micros),
            connect: self.connect.map(Duration::from_micros),
            tls: self.tls.map(Duration::from_micros),
            first_byte: self.first_byte.map(Duration::from_micros),
        };
        let remote = remote_from_disk(self.remote_v4, &self.remote_v6)?;
        Ok(Exchange { timings, remote, headers: ResponseHeaders::from_stored(self.headers, self.headers_left_out) })
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn remote_to_disk(remote: SocketAddr) -> (u64, Bytes) {
    match remote.ip() {
        IpAddr::V4(ip) => (u64::from(ip.to_bits()) << 16 | u64::from(remote.port()), Bytes::new()),
        IpAddr::V6(ip) => {
            let bytes: Vec<u8> = ip.octets().into_iter().chain(remote.port().to_be_bytes()).collect();
            (0, bytes.into())
        }
    }
}

fn remote_from_disk(v4: u64, v6: &[u8]) -> Result<Option<SocketAddr>, Corrupt> {
    if let Some((ip, port)) = v6.split_first_chunk::<16>() {
        let port = port.try_into().map_err(|error| Corrupt::new("remote address", error))?;
        return Ok(Some((Ipv6Addr::from(*ip), u16::from_be_bytes(port)).into()));
    }
    if v4 == 0 {
        return Ok(None);
    }
    let ip = u32::try_from(v4 >> 16).map_err(|error| Corrupt::new("remote address", error))?;
    let port = u16::try_from(v4 & 0xffff).expect("16 bits");
    Ok(Some((Ipv4Addr::from_bits(ip), port).into()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header::SERVER};
    use proptest::prelude::*;

    use super::*;

    fn round_trip(exchange: &Exchange) -> (Exchange, usize) {
        let bytes = ExchangeRecord::new(exchange).map(|record| record.encode_to_vec());
        let read = bytes.as_deref().map(|bytes| ExchangeRecord::decode(bytes).unwrap().shown().unwrap());
        (read.unwrap_or_default(), bytes.map_or(0, |bytes| bytes.len()))
    }

    fn part() -> impl Strategy<Value = Option<Duration>> {
        proptest::option::of((0..100_000_000u64).prop_map(Duration::from_micros))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            dns in part(), connect in part(), tls in part(), first_byte in part(),
            v4: Option<(u32, u16)>, v6: Option<(u128, u16)>, server in "[ -~]{0,40}",
        ) {
            let v4 = v4.filter(|(_, port)| *port > 0).map(|(ip, port)| (Ipv4Addr::from_bits(ip), port).into());
            let v6 = v6.map(|(ip, port)| (Ipv6Addr::from_bits(ip), port).into());
            let headers: HeaderMap = [(SERVER, HeaderValue::from_str(&server).unwrap())].into_iter().collect();
            let exchange = Exchange {
                timings: Timings { dns, connect, tls, first_byte },
                remote: v4.or(v6),
                headers: ResponseHeaders::of(&headers),
            };
            prop_assert_eq!(round_trip(&exchange).0, exchange);
        }
    }

    #[test]
    fn the_usual_attempt_takes_little_room() {
        assert_eq!(round_trip(&Exchange::default()), (Exchange::default(), 0));
        let timings = Timings { first_byte: Some(Duration::from_micros(1_500)), ..Timings::default() };
        let remote = Some("203.0.113.7:443".parse().unwrap());
        let usual = Exchange { timings, remote, ..Exchange::default() };
        assert_eq!(round_trip(&usual), (usual, 11));
        let damaged = ExchangeRecord { remote_v6: Bytes::from_static(&[1; 17]), ..ExchangeRecord::default() };
        assert!(damaged.shown().is_err());
    }
}
