//! Certificates and keys out of PEM (RFC 7468), and back.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{PemObject as _, SectionKind},
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::words;

/// How long lines are, as RFC 7468 wants them.
const LINE_CHARACTERS: usize = 64;

/// Why a text is not what it should be. Says nothing of what was given.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemProblem {
    /// It is longer than it may be, in bytes.
    #[error("must not be longer than {0} bytes")]
    TooLong(usize),
    /// A section does not end, or what is in it is not base64.
    #[error("must be PEM, and is not complete or not well-formed")]
    Malformed,
    /// There is no certificate.
    #[error("must have a certificate in PEM (-----BEGIN CERTIFICATE-----), and has none")]
    NoCertificate,
    /// There are more certificates than there may be.
    #[error("must not have more than {0} certificates")]
    TooMany(usize),
    /// There is a private key where replies show what was given.
    #[error("has a private key in it, which belongs in `client_key`")]
    Secret,
    /// There is something else.
    #[error("must have certificates in it and nothing else")]
    NotACertificate,
    /// The n-th certificate, counted from 1, cannot be used, and why.
    #[error("certificate {0} cannot be used: it {1}")]
    Unusable(usize, String),
    /// There is no private key that can be read.
    #[error("must have a private key in PEM: PKCS #8, PKCS #1 or SEC 1, and not encrypted")]
    NoKey,
    /// There is more than one.
    #[error("must not have more than one private key")]
    SeveralKeys,
}

/// How much may be given.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Of text.
    pub bytes: usize,
    /// Of certificates.
    pub certificates: usize,
}

/// The certificates in a text, each of which can be read; at least one.
pub fn certificates(text: &str, most: Most) -> Result<Vec<CertificateDer<'static>>, PemProblem> {
    if text.len() > most.bytes {
        return Err(PemProblem::TooLong(most.bytes));
    }
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|_| PemProblem::Malformed)?;
        if is_private_key(kind) {
            return Err(PemProblem::Secret);
        }
        if kind != SectionKind::Certificate {
            return Err(PemProblem::NotACertificate);
        }
        if found.len() == most.certificates {
            return Err(PemProblem::TooMany(most.certificates));
        }
        let certificate = CertificateDer::from(der);
        // What it says of itself is of no matter here, but that it can be read.
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|problem| PemProblem::Unusable(found.len() + 1, words::of_webpki(&problem)))?;
        found.push(certificate);
    }
    if found.is_empty() { Err(PemProblem::NoCertificate) } else { Ok(found) }
}

/// The private key in a text, as DER. Certificates beside it are passed over.
pub(super) fn private_key(text: &str, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, PemProblem> {
    if text.len() > bytes_max {
        return Err(PemProblem::TooLong(bytes_max));
    }
    let mut found = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|_| PemProblem::Malformed)?;
        let der = Zeroizing::new(der);
        if is_private_key(kind) && found.replace(der).is_some() {
            return Err(PemProblem::SeveralKeys);
        }
    }
    found.filter(|der| label_of(der).is_some()).ok_or(PemProblem::NoKey)
}

fn is_private_key(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
}

/// Certificates as PEM, one after the other.
pub(super) fn of_certificates(certificates: &[CertificateDer<'static>]) -> String {
    certificates.iter().map(|certificate| section("CERTIFICATE", certificate)).collect()
}

/// A private key as PEM.
pub(super) fn of_private_key(der: &[u8]) -> String {
    label_of(der).map_or_else(String::new, |label| section(label, der))
}

/// How a section with this private key is called; `None`: it is not one.
fn label_of(der: &[u8]) -> Option<&'static str> {
    let key = PrivateKeyDer::try_from(der).ok()?;
    if matches!(key, PrivateKeyDer::Pkcs1(_)) {
        Some("RSA PRIVATE KEY")
    } else if matches!(key, PrivateKeyDer::Sec1(_)) {
        Some("EC PRIVATE KEY")
    } else {
        Some("PRIVATE KEY")
    }
}

fn section(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let lines = text.as_bytes().chunks(LINE_CHARACTERS).map(|line| str::from_utf8(line).expect("base64 is ASCII"));
    let mut pem = String::with_capacity(text.len() + text.len() / LINE_CHARACTERS + 2 * label.len() + 40);
    pem.extend(["-----BEGIN ", label, "-----\n"]);
    for line in lines {
        pem.extend([line, "\n"]);
    }
    pem.extend(["-----END ", label, "-----\n"]);
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    const MOST: Most = Most { bytes: 4096, certificates: 2 };

    fn certificate(name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn what_is_read_is_written_the_same_without_what_is_around_it() {
        let (a, b) = (certificate("a.test"), certificate("b.test"));
        let read = certificates(&format!("# first\n{a}\r\n s3cret text \n{b}"), MOST).unwrap();
        assert_eq!(read.len(), 2);
        let written = of_certificates(&read);
        assert!(!written.contains("s3cret"));
        assert_eq!(certificates(&written, MOST).unwrap(), read);

        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let read = private_key(&format!("{a}{key}"), 4096).unwrap();
        let written = of_private_key(&read);
        assert!(written.starts_with("-----BEGIN PRIVATE KEY-----\n") && written.lines().all(|line| line.len() <= 64));
        assert_eq!(private_key(&written, 4096).unwrap(), read);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (a, key) = (certificate("a.test"), KeyPair::generate().unwrap().serialize_pem());
        let check = |text: &str, expected: PemProblem| assert_eq!(certificates(text, MOST), Err(expected), "{text}");
        check("", PemProblem::NoCertificate);
        check("s3cret", PemProblem::NoCertificate);
        check(&a.replace("-----END", "-----FIN"), PemProblem::Malformed);
        check(&a.replacen("MII", "M!I", 1), PemProblem::Malformed);
        check(&format!("{a}{key}"), PemProblem::Secret);
        check(&a.repeat(3), PemProblem::TooMany(2));
        check(&"x".repeat(4097), PemProblem::TooLong(4096));
        check(&section("X509 CRL", &[1]), PemProblem::NotACertificate);
        let broken = certificates(&format!("{a}{}", section("CERTIFICATE", b"s3cret")), MOST).unwrap_err();
        assert!(broken.to_string().starts_with("certificate 2 cannot be used: "), "{broken}");
        assert!(!broken.to_string().contains("s3cret"), "{broken}");

        let check = |text: &str, expected: PemProblem| assert_eq!(private_key(text, 4096), Err(expected), "{text}");
        check("", PemProblem::NoKey);
        check(&a, PemProblem::NoKey);
        check(&section("ENCRYPTED PRIVATE KEY", &[1]), PemProblem::NoKey);
        check(&section("PRIVATE KEY", &[1]), PemProblem::NoKey);
        check(&key.repeat(2), PemProblem::SeveralKeys);
        check(&key.replace("-----END", "-----FIN"), PemProblem::Malformed);
        check(&"x".repeat(4097), PemProblem::TooLong(4096));
    }
}
