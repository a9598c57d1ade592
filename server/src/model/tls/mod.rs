//! TLS with one webhook's receiver: whose certificate it must have, and what is shown to it.
//!
//! Certificates and keys are kept as DER: what stood around them in PEM is gone, so that nothing is shown again that was pasted by
//! mistake.

pub mod pem;
pub mod words;

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    sign::{CertifiedKey, SigningKey},
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

use self::pem::{Most, PemProblem};
use super::time::Timestamp;
use crate::limits::{
    TLS_AUTHORITIES_BYTES_MAX, TLS_AUTHORITIES_MAX, TLS_CHAIN_BYTES_MAX, TLS_CHAIN_MAX, TLS_KEY_BYTES_MAX,
};

/// What settings take besides certificates and keys: themselves, and their places among all there are.
const OVERHEAD_BYTES: usize = 512;

/// The settings of this group. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whose certificates are trusted; none: those of whom the server trusts.
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
    fingerprint: Fingerprint,
}

/// What is shown to a receiver that asks. `Debug` never shows the key, and memory that held it is cleared.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The webhook's own first.
    chain: Vec<CertificateDer<'static>>,
    /// DER of PKCS #8, PKCS #1 or SEC 1.
    key: Zeroizing<Vec<u8>>,
}

/// The same for the same settings, and for no others. Not to be shown: a key is part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Of what something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The authorities.
    Authorities,
    /// The certificates that are shown.
    Certificate,
    /// Their key.
    Key,
}

/// Why settings are refused. Says nothing of what was given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTls {
    /// A text is not what it should be.
    #[error("{1}")]
    Pem(Part, PemProblem),
    /// A certificate without its key.
    #[error("must be set, with the key of `client_certificate`")]
    KeyMissing,
    /// A key without its certificate.
    #[error("must be set, with the certificate of `client_key`")]
    CertificateMissing,
    /// Nobody could sign with it here.
    #[error("must be RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519")]
    UnsupportedKey,
    /// It belongs to another certificate.
    #[error("does not belong to the first certificate in `client_certificate`")]
    OtherKey,
    /// The first certificate cannot be shown.
    #[error("its first certificate cannot be used: it {0}")]
    Unusable(String),
}

impl InvalidTls {
    /// Of what something is wrong.
    pub fn part(&self) -> Part {
        match self {
            Self::Pem(part, _) => *part,
            Self::KeyMissing | Self::UnsupportedKey | Self::OtherKey => Part::Key,
            Self::CertificateMissing | Self::Unusable(_) => Part::Certificate,
        }
    }
}

impl TlsSettings {
    /// Reads PEM texts, each of which may be empty; `None`: all are.
    pub fn parse(authorities: &str, certificate: &str, key: &str) -> Result<Option<Self>, InvalidTls> {
        let most = Most { bytes: TLS_AUTHORITIES_BYTES_MAX, certificates: TLS_AUTHORITIES_MAX };
        let authorities = match authorities {
            "" => Vec::new(),
            text => pem::certificates(text, most).map_err(|problem| InvalidTls::Pem(Part::Authorities, problem))?,
        };
        let identity = Identity::parse(certificate, key)?;
        let is_set = !authorities.is_empty() || identity.is_some();
        Ok(is_set.then(|| Self::new(authorities, identity)))
    }

    /// What was stored, checked once: DER of the authorities, of the certificates that are shown, and of their key.
    pub fn from_stored(
        authorities: Vec<Vec<u8>>,
        chain: Vec<Vec<u8>>,
        key: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, InvalidTls> {
        let certificates = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let identity = match (certificates(chain), key) {
            (chain, None) if chain.is_empty() => None,
            (chain, Some(_)) if chain.is_empty() => return Err(InvalidTls::CertificateMissing),
            (_, None) => return Err(InvalidTls::KeyMissing),
            (chain, Some(key)) => Some(Identity { chain, key }),
        };
        Ok(Self::new(certificates(authorities), identity))
    }

    fn new(authorities: Vec<CertificateDer<'static>>, identity: Option<Identity>) -> Self {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update(bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        add(&authorities.len().to_le_bytes());
        for authority in &authorities {
            add(authority);
        }
        if let Some(Identity { chain, key }) = &identity {
            for certificate in chain {
                add(certificate);
            }
            add(key);
        }
        Self { authorities, identity, fingerprint: Fingerprint(hash.finalize().into()) }
    }

    /// Whose certificates are trusted; none: those of whom the server trusts.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// What is shown to a receiver that asks.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// What tells these settings from all others.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// About how much memory they take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let identity = self.identity.as_ref();
        let chain = identity.map_or(&[][..], |identity| &identity.chain);
        let certificates = self.authorities.iter().chain(chain);
        let key = identity.map_or(0, |identity| identity.key.len());
        let each = |certificate: &CertificateDer<'_>| certificate.len() + size_of::<CertificateDer<'_>>();
        OVERHEAD_BYTES + certificates.map(each).sum::<usize>() + key
    }

    /// The authorities as PEM.
    pub fn authorities_pem(&self) -> String {
        pem::of_certificates(&self.authorities)
    }
}

impl Identity {
    /// Both texts, or neither.
    fn parse(certificate: &str, key: &str) -> Result<Option<Self>, InvalidTls> {
        match (certificate, key) {
            ("", "") => return Ok(None),
            ("", _) => return Err(InvalidTls::CertificateMissing),
            (_, "") => return Err(InvalidTls::KeyMissing),
            _ => {}
        }
        let most = Most { bytes: TLS_CHAIN_BYTES_MAX, certificates: TLS_CHAIN_MAX };
        let chain = pem::certificates(certificate, most);
        let chain = chain.map_err(|problem| InvalidTls::Pem(Part::Certificate, problem))?;
        let key = pem::private_key(key, TLS_KEY_BYTES_MAX);
        let key = key.map_err(|problem| InvalidTls::Pem(Part::Key, problem))?;
        let identity = Self { chain, key };
        identity.certified_key()?;
        Ok(Some(identity))
    }

    /// What a client signs with.
    pub fn certified_key(&self) -> Result<CertifiedKey, InvalidTls> {
        use rustls::{Error, InconsistentKeys};

        let certified = CertifiedKey::new(self.chain.clone(), self.signing_key()?);
        match certified.keys_match() {
            // That cannot be told of every kind of key.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(Error::InconsistentKeys(_)) => Err(InvalidTls::OtherKey),
            Err(Error::InvalidCertificate(problem)) => Err(InvalidTls::Unusable(words::of_certificate(&problem))),
            Err(problem) => Err(InvalidTls::Unusable(format!("cannot be accepted: {problem}"))),
        }
    }

    fn signing_key(&self) -> Result<Arc<dyn SigningKey>, InvalidTls> {
        let key = PrivateKeyDer::try_from(self.key.as_slice()).map_err(|_| InvalidTls::UnsupportedKey)?;
        any_supported_type(&key).map_err(|_| InvalidTls::UnsupportedKey)
    }

    /// When the first certificate ends, to the second; `None`: that is not known.
    pub fn expires(&self) -> Option<Timestamp> {
        let certificate = EndEntityCert::try_from(self.chain.first()?).ok()?;
        // What reads certificates tells the end of one only by refusing it, and looks at that first.
        let far_future = UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
        let usage = KeyUsage::client_auth();
        let refused = certificate.verify_for_usage(&[], &[], &[], far_future, usage, None, None).err()?;
        let webpki::Error::CertExpired { not_after, .. } = refused else { return None };
        Some(Timestamp::from_micros(i64::try_from(not_after.as_secs()).ok()?.checked_mul(1_000_000)?))
    }

    /// The certificates that are shown.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The certificates that are shown, as PEM.
    pub fn chain_pem(&self) -> String {
        pem::of_certificates(&self.chain)
    }

    /// DER of the key: a secret.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key as PEM: a secret.
    pub fn key_pem(&self) -> String {
        pem::of_private_key(&self.key)
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.identity.is_some();
        let mut debug = f.debug_struct("TlsSettings");
        debug.field("authorities", &self.authorities.len()).field("identity", &shown).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
        date_time_ymd,
    };

    use super::*;

    fn pair(algorithm: &'static SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(["client.test".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2031, 2, 3);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_given_is_kept() {
        assert_eq!(TlsSettings::parse("", "", ""), Ok(None));
        let mut fingerprints = Vec::new();
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let (certificate, key) = pair(algorithm);
            for authorities in ["", &certificate] {
                let settings = TlsSettings::parse(authorities, &certificate, &key).unwrap().unwrap();
                let identity = settings.identity().unwrap();
                assert!(identity.certified_key().is_ok());
                assert_eq!(identity.expires(), Some(Timestamp::from_micros(1_927_843_200_000_000)));
                let again = TlsSettings::parse(&settings.authorities_pem(), &identity.chain_pem(), &identity.key_pem());
                assert_eq!(again, Ok(Some(settings.clone())));
                let der = |all: &[CertificateDer<'static>]| all.iter().map(|one| one.to_vec()).collect::<Vec<_>>();
                let key = Some(Zeroizing::new(identity.key().to_vec()));
                let stored = TlsSettings::from_stored(der(settings.authorities()), der(identity.chain()), key).unwrap();
                assert!(stored.fingerprint() == settings.fingerprint() && stored == settings);
                assert!(!fingerprints.contains(&settings.fingerprint().0), "others are told apart");
                fingerprints.push(settings.fingerprint().0);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_where_it_is() {
        let ((certificate, key), (_, other)) = (pair(&PKCS_ED25519), pair(&PKCS_ED25519));
        let check = |parts: [&str; 3], expected: Part, says: &str| {
            let refused = TlsSettings::parse(parts[0], parts[1], parts[2]).unwrap_err();
            assert_eq!(refused.part(), expected, "{refused}");
            assert!(refused.to_string().contains(says), "{refused}");
        };
        check(["x", "", ""], Part::Authorities, "has none");
        check([&key, "", ""], Part::Authorities, "private key");
        check([&certificate.repeat(17), "", ""], Part::Authorities, "more than 16");
        check(["", &certificate, ""], Part::Key, "must be set");
        check(["", "", &key], Part::Certificate, "must be set");
        check(["", &certificate, "x"], Part::Key, "PKCS #8");
        check(["", &certificate, &other], Part::Key, "does not belong");
        check(["", &certificate.repeat(9), &key], Part::Certificate, "more than 8");
        check(["", &format!("{key}{certificate}"), &key], Part::Certificate, "private key");
        // secp256k1, which TLS does not have.
        let unsupported = "-----BEGIN EC PRIVATE KEY-----\nMHQCAQEEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4foAcGBSuBBAAK\n\
                           oUQDQgAEAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAQIDBAUGBwgJ\nCgsMDQ4PEBESExQVFhcYGRobHB0eHw==\n\
                           -----END EC PRIVATE KEY-----\n";
        check(["", &certificate, unsupported], Part::Key, "P-256");
    }

    #[test]
    fn nothing_shows_the_key() {
        let (certificate, key) = pair(&PKCS_ED25519);
        let settings = TlsSettings::parse("", &certificate, &key).unwrap().unwrap();
        let shown = format!("{settings:?} {:?}", settings.identity());
        assert_eq!(shown, "TlsSettings { authorities: 0, identity: true, .. } Some(Identity { certificates: 1, .. })");
    }
}
