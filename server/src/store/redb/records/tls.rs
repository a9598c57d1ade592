//! TLS with a webhook's receiver, but for the key: see `encrypted.rs`.

use prost::Message;
use zeroize::Zeroizing;

use super::Corrupt;
use crate::model::tls::{Identity, TlsSettings};

/// Certificates, as DER.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TlsRecord {
    /// None: those of whom the server trusts.
    #[prost(bytes = "vec", repeated, tag = "1")]
    authorities: Vec<Vec<u8>>,
    /// The webhook's own first; with any, there is a key.
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
}

impl TlsRecord {
    pub(super) fn new(settings: &TlsSettings) -> Self {
        let chain = settings.identity().map(Identity::chain).unwrap_or_default();
        let [authorities, chain] =
            [settings.authorities(), chain].map(|all| all.iter().map(|certificate| certificate.to_vec()).collect());
        Self { authorities, chain }
    }

    pub(super) fn settings(self, key: Option<Zeroizing<Vec<u8>>>) -> Result<TlsSettings, Corrupt> {
        TlsSettings::from_stored(self.authorities, self.chain, key)
            .map_err(|error| Corrupt::new("webhook's TLS settings", error))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn everything_is_kept_but_the_key() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        for [authorities, chain, key] in [
            [&*certificate, "", ""],
            ["", &certificate, &key.serialize_pem()],
            [&certificate.repeat(2), &certificate.repeat(2), &key.serialize_pem()],
        ] {
            let settings = TlsSettings::parse(authorities, chain, key).unwrap().unwrap();
            let bytes = TlsRecord::new(&settings).encode_to_vec();
            let der = settings.identity().map(|identity| Zeroizing::new(identity.key().to_vec()));
            if let Some(der) = &der {
                assert!(!bytes.windows(der.len()).any(|part| part == der.as_slice()));
                assert!(TlsRecord::decode(&*bytes).unwrap().settings(None).is_err(), "the key is missing");
            }
            assert_eq!(TlsRecord::decode(&*bytes).unwrap().settings(der).unwrap(), settings);
        }
    }
}
