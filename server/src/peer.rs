//! What is known of the other end of a connection.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
};

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The other end of a connection: where it is, and who it has proved to be. Every call has it among its extensions.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    address: Option<SocketAddr>,
    /// Known once the handshake is made, which is before the first call.
    names: Arc<OnceLock<Box<[Box<str>]>>>,
    /// Bytes of messages that have come in part, over all calls of the connection.
    unfinished: Arc<AtomicUsize>,
}

impl Peer {
    /// One of whom nothing is known but where it is.
    pub(crate) fn at(address: Option<SocketAddr>) -> Self {
        Self { address, ..Self::default() }
    }

    /// Where it is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Counts what has come of messages that are not complete.
    pub(crate) fn unfinished(&self) -> Arc<AtomicUsize> {
        self.unfinished.clone()
    }

    /// The DNS names and URIs of the certificate it has shown, which an authority of `--tls-client-ca` vouches for; none without
    /// one.
    pub fn names(&self) -> &[Box<str>] {
        self.names.get().map_or(&[], |names| names)
    }

    /// One with these names.
    #[cfg(test)]
    pub(crate) fn named(names: &[&str]) -> Self {
        let peer = Self::default();
        peer.names.set(names.iter().map(|&name| name.into()).collect()).expect("it has none yet");
        peer
    }

    /// It has shown these certificates, its own first, and they were found good.
    pub(crate) fn has_shown(&self, certificates: Option<&[CertificateDer<'_>]>) {
        let own = certificates.and_then(<[_]>::first).and_then(|own| EndEntityCert::try_from(own).ok());
        let names = own.map(|own| own.valid_dns_names().chain(own.valid_uri_names()).map(Box::from).collect());
        // There is one handshake.
        let _first = self.names.set(names.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_are_those_of_its_own_certificate() {
        let made = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let mut params =
                CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
            params.subject_alt_names.push(SanType::URI("spiffe://x/y".try_into().unwrap()));
            params.self_signed(&key).unwrap().der().clone()
        };
        let peer = Peer::at(None);
        assert!(peer.names().is_empty());
        let seen = peer.clone();
        peer.has_shown(Some(&[made(&["a.example", "10.0.0.1"]), made(&["b.example"])]));
        assert_eq!(seen.names(), [Box::from("a.example"), "spiffe://x/y".into()]);
        let nobody = Peer::at(None);
        nobody.has_shown(None);
        assert!(nobody.names().is_empty());
        let nonsense = Peer::at(None);
        nonsense.has_shown(Some(&[b"x".as_slice().into()]));
        assert!(nonsense.names().is_empty());
    }
}
