//! How many connections each address has: nobody takes all of them.
//!
//! An IPv6 client has a network of its own (RFC 6177), so that is what counts there: the first 64 bits. Clients behind one proxy or
//! NAT are one address, and so is this machine.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// The part of an IPv6 address that its owner cannot choose.
const NETWORK: u128 = !(u64::MAX as u128);

/// How many there are. Invariant: there is no entry without a connection, so there are no more entries than connections.
type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Connections by address. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    /// Most of one address; 0: any number.
    connections_max: usize,
    connections: Counts,
}

impl Addresses {
    /// None yet, and so many at most for each; 0: any number.
    pub(super) fn new(connections_max: usize) -> Self {
        Self { connections_max, connections: Arc::default() }
    }

    /// One connection more of this address, unless it has too many.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        if self.connections_max == 0 {
            return Some(Place(None));
        }
        let of = counted_as(address);
        let mut connections = self.connections.lock();
        let count = connections.entry(of).or_default();
        if *count >= self.connections_max {
            return None;
        }
        *count += 1;
        Some(Place(Some((self.connections.clone(), of))))
    }
}

fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
    }
}

/// One connection of an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Option<(Counts, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((connections, of)) = &self.0 else { return };
        let mut connections = connections.lock();
        if let Some(count) = connections.get_mut(of) {
            *count -= 1;
            if *count == 0 {
                connections.remove(of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_share_and_gets_it_back() {
        let addresses = Addresses::new(2);
        let take = |address| addresses.take(ip(address));
        let mut places = vec![take("192.0.2.1"), take("::ffff:192.0.2.1")];
        assert!(places.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none());
        places.push(take("192.0.2.2"));
        assert!(places[2].is_some(), "another one");
        places.remove(0);
        assert!(take("192.0.2.1").is_some(), "there is room again");
        assert!(take("127.0.0.1").is_some());
        drop(places);
        assert!(addresses.connections.lock().is_empty(), "nothing is left of those that are gone");
    }

    #[test]
    fn of_ipv6_the_network_counts() {
        let addresses = Addresses::new(1);
        let _place = addresses.take(ip("2001:db8:1:2:aaaa::1"));
        assert!(addresses.take(ip("2001:db8:1:2:ffff:ffff:ffff:ffff")).is_none());
        assert!(addresses.take(ip("2001:db8:1:3::1")).is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let addresses = Addresses::new(0);
        let places: Vec<_> = (0..10).map(|_| addresses.take(ip("192.0.2.1"))).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(addresses.connections.lock().is_empty());
    }
}
