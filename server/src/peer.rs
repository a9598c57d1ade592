//! What is known of the other end of a connection.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

/// The other end of a connection: where it is, and who it has proved to be. Every call has it among its extensions.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    address: Option<SocketAddr>,
    /// Known once the handshake is made, which is before the first call.
    shown: Arc<OnceLock<Shown>>,
    /// Bytes of messages that have come in part, over all calls of the connection.
    unfinished: Arc<AtomicUsize>,
}

/// What is remembered of a certificate.
#[derive(Debug, Default)]
struct Shown {
    names: Box<[Box<str>]>,
    fingerprint: Option<[u8; 32]>,
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
        self.shown.get().map_or(&[], |shown| &shown.names)
    }

    /// SHA-256 of its certificate, if it has shown one.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.shown.get()?.fingerprint
    }

    /// One with these names.
    #[cfg(test)]
    pub(crate) fn named(names: &[&str]) -> Self {
        let peer = Self::default();
        let names = names.iter().map(|&name| name.into()).collect();
        peer.shown.set(Shown { names, fingerprint: None }).expect("it has none yet");
        peer
    }

    /// It has shown these certificates, its own first, and they were found good.
    pub(crate) fn has_shown(&self, certificates: Option<&[CertificateDer<'_>]>) {
        let shown = certificates.and_then(<[_]>::first);
        let fingerprint = shown.map(|own| Sha256::digest(own).into());
        let own = shown.and_then(|own| EndEntityCert::try_from(own).ok());
        let names: Option<Box<[_]>> =
            own.map(|own| own.valid_dns_names().chain(own.valid_uri_names()).map(Box::from).collect());
        // There is one handshake.
        let _first = self.shown.set(Shown { names: names.unwrap_or_default(), fingerprint });
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
        let own = made(&["a.example", "10.0.0.1"]);
        let digest: [u8; 32] = Sha256::digest(&own).into();
        peer.has_shown(Some(&[own, made(&["b.example"])]));
        assert_eq!(seen.fingerprint(), Some(digest));
        assert_eq!(seen.names(), [Box::from("a.example"), "spiffe://x/y".into()]);
        let nobody = Peer::at(None);
        nobody.has_shown(None);
        assert!(nobody.names().is_empty() && nobody.fingerprint().is_none());
        let nonsense = Peer::at(None);
        nonsense.has_shown(Some(&[b"x".as_slice().into()]));
        assert!(nonsense.names().is_empty());
    }
}
