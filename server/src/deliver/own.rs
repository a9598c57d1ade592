//! The daemon's own listeners, which no webhook may be: a delivery that becomes a call of this daemon, or reads its metrics, must not
//! be had by opening loopback, nor by a public address of this machine.
//!
//! Which addresses are this machine's is asked of the kernel at the moment, by binding a socket to the address: only one's own
//! can be bound to. A list of interfaces would be old as soon as one comes up. It is asked for targets whose port is one of ours
//! only, which is next to none; with `net.ipv4.ip_nonlocal_bind` set, all addresses count as own there.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use crate::model::{
    address::reached_through,
    target::{NotAllowed, Target, TargetHost},
};

/// The ports this daemon listens on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts(Arc<[u16]>);

impl OwnPorts {
    /// Of these listeners. Other addresses of this machine count as theirs too: they are this machine's all the same.
    pub fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(listeners.into_iter().map(|listener| listener.port()).collect())
    }

    /// Whether this port is one of them.
    pub(super) fn has(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    /// Refuses a target that leads to one of them, as far as can be told without resolving a name.
    pub(super) fn check(&self, target: &Target) -> Result<(), NotAllowed> {
        if !self.has(target.port()) {
            return Ok(());
        }
        match target.host() {
            TargetHost::Literal(address) => Self::refuse_own(&[address]),
            TargetHost::Localhost => Err(NotAllowed::OwnListener),
            TargetHost::Name(_) => Ok(()),
        }
    }

    /// Refuses all addresses if any one is this machine's.
    pub(super) fn refuse_own(addresses: &[IpAddr]) -> Result<(), NotAllowed> {
        if addresses.iter().any(|&address| is_own(address)) {
            return Err(NotAllowed::OwnListener);
        }
        Ok(())
    }
}

/// Whether connecting to this address leads to this machine. In doubt it does.
fn is_own(address: IpAddr) -> bool {
    let address = reached_through(address);
    // Connecting to "any address" is connecting to loopback.
    let is_here = address.is_loopback() || address == Ipv4Addr::UNSPECIFIED || address == Ipv6Addr::UNSPECIFIED;
    is_here || !UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_others() {
        for own in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["8.8.8.8", "198.51.100.7", "::ffff:8.8.8.8"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn address_and_port_make_an_own_listener() {
        let own = OwnPorts::new([([127, 0, 0, 1], 50051).into(), ([127, 0, 0, 1], 9090).into()]);
        let check = |url: &str, expected: Result<(), NotAllowed>| {
            assert_eq!(own.check(&Target::from_stored(url).unwrap()), expected, "{url}");
        };
        let refused = Err(NotAllowed::OwnListener);
        check("http://127.0.0.1:50051/", refused);
        check("http://127.0.0.2:9090/", refused);
        check("http://2130706433:9090/", refused);
        check("http://[::1]:50051/", refused);
        check("http://a.localhost:50051/", refused);
        check("http://127.0.0.1:50052/", Ok(()));
        check("http://localhost/", Ok(()));
        check("https://8.8.8.8:50051/", Ok(()));
        check("https://e.example:50051/", Ok(()));
        assert_eq!(OwnPorts::default().check(&Target::from_stored("http://127.0.0.1:50051/").unwrap()), Ok(()));
    }
}
