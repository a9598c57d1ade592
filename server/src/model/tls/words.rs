//! What is wrong with a certificate, in words for whoever has to mend it. Libraries tell programmers.
//!
//! Invariant: texts hold no name and no address out of certificates; others than their owners see them.

use rustls::{CertificateError, Error};

/// What is wrong with a certificate, as a predicate: "has expired".
pub fn of_certificate(problem: &CertificateError) -> String {
    use CertificateError as E;

    let known = if matches!(problem, E::BadEncoding) {
        "is not one that can be read"
    } else if matches!(problem, E::Expired | E::ExpiredContext { .. }) {
        "has expired"
    } else if matches!(problem, E::NotValidYet | E::NotValidYetContext { .. }) {
        "is not valid yet"
    } else if matches!(problem, E::Revoked) {
        "is revoked"
    } else if matches!(problem, E::UnknownIssuer) {
        "is not from an authority that is trusted"
    } else if matches!(problem, E::BadSignature) {
        "was not signed by the authority that it names, or with a key that is too weak (RSA takes 2048 bits)"
    } else if matches!(problem, E::NotValidForName | E::NotValidForNameContext { .. }) {
        "is for another name"
    } else if matches!(problem, E::InvalidPurpose | E::InvalidPurposeContext { .. }) {
        "is for another purpose: see its extended key usage"
    } else if matches!(problem, E::UnhandledCriticalExtension) {
        "has a critical extension that is not known here"
    } else if is_about_algorithm(problem) {
        "is signed in a way that is not safe, or not known here: RSA or ECDSA with SHA-256 or more, or Ed25519, will do"
    } else if let Some(problem) = beneath(problem) {
        return of_webpki(problem);
    } else {
        return format!("cannot be accepted: {problem}");
    };
    known.to_owned()
}

/// The same of an error of the library beneath.
pub fn of_webpki(problem: &webpki::Error) -> String {
    use webpki::Error as E;

    let known = if matches!(problem, E::UnsupportedCertVersion) {
        "is of X.509 version 1, which has no extensions; it must be of version 3"
    } else if matches!(problem, E::CaUsedAsEndEntity) {
        "is that of an authority, and not one that an authority gave to somebody"
    } else if matches!(problem, E::EndEntityUsedAsCa) {
        "was signed with a certificate that is not that of an authority (CA:TRUE is missing in its basic constraints)"
    } else if matches!(problem, E::NameConstraintViolation) {
        "has a name that its authority may not give"
    } else if matches!(problem, E::PathLenConstraintViolated) {
        "has more authorities above it than one of them allows (path length)"
    } else if matches!(problem, E::UnsupportedCriticalExtension) {
        "has a critical extension that is not known here"
    } else if is_unreadable(problem) {
        "is not one that can be read"
    } else {
        return format!("cannot be accepted: {problem}");
    };
    known.to_owned()
}

/// What is wrong in a handshake with somebody who shows a certificate, or with certificates that are to be used.
pub fn of_error(problem: &Error) -> String {
    if let Error::InvalidCertificate(problem) = problem {
        format!("the certificate {}", of_certificate(problem))
    } else if matches!(problem, Error::NoCertificatesPresented) {
        "a certificate is wanted, and none was shown".to_owned()
    } else {
        problem.to_string()
    }
}

fn is_about_algorithm(problem: &CertificateError) -> bool {
    use CertificateError as E;

    #[expect(deprecated, reason = "the library may still say so")]
    let without_context = matches!(problem, E::UnsupportedSignatureAlgorithm);
    without_context
        || matches!(
            problem,
            E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        )
}

fn is_unreadable(problem: &webpki::Error) -> bool {
    use webpki::Error as E;

    matches!(
        problem,
        E::BadDer
            | E::BadDerTime
            | E::TrailingData(_)
            | E::ExtensionValueInvalid
            | E::InvalidSerialNumber
            | E::InvalidCertValidity
            | E::MalformedExtensions
            | E::MalformedDnsIdentifier
            | E::MalformedNameConstraint
            | E::SignatureAlgorithmMismatch
            | E::EmptyEkuExtension
    )
}

/// What the library beneath says, where the one above has no word for it.
fn beneath(problem: &CertificateError) -> Option<&webpki::Error> {
    let CertificateError::Other(problem) = problem else { return None };
    problem.0.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
        Issuer, KeyPair, NameConstraints, date_time_ymd,
    };
    use rustls::{
        RootCertStore, crypto,
        pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
        server::WebPkiClientVerifier,
    };

    use super::*;
    use crate::model::tls::{Part, TlsSettings};

    const VERSION_1: (&str, &str) = (include_str!("samples/version-1.pem"), include_str!("samples/version-1.key"));
    const RSA_1024: &str = include_str!("samples/rsa-1024.pem");
    const SHA_1: &str = include_str!("samples/sha-1.pem");

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: CertificateDer<'static>,
    }

    fn authority(name: &str, above: Option<&Authority>, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let certificate = above.map_or_else(|| params.self_signed(&key), |above| params.signed_by(&key, &above.issuer));
        Authority { certificate: certificate.unwrap().der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["client.test".to_owned()]).unwrap();
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &authority.issuer).unwrap().der().clone()
    }

    /// What is said of a client that shows these certificates to a server that trusts that authority.
    fn told(root: &CertificateDer<'static>, chain: &[&CertificateDer<'static>]) -> Option<String> {
        let chain: Vec<_> = chain.iter().map(|&certificate| certificate.clone()).collect();
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_hours(500_000));
        let refused = verifier.verify_client_cert(&chain[0], &chain[1..], now).err()?;
        let told = of_error(&refused);
        let Error::InvalidCertificate(problem) = &refused else { panic!("{refused}") };
        assert_eq!(told, format!("the certificate {}", of_certificate(problem)));
        Some(told)
    }

    #[test]
    fn every_bad_certificate_has_words() {
        let check = |root: &CertificateDer<'static>, chain: &[&CertificateDer<'static>], expected: Option<&str>| {
            let told = told(root, chain);
            assert_eq!(told.is_some(), expected.is_some(), "{told:?} {expected:?}");
            if let (Some(told), Some(expected)) = (&told, expected) {
                assert!(told.starts_with("the certificate ") && told.contains(expected), "{told} is not {expected}");
                // Nothing that only programmers say.
                for word in ["Error", "Unsupported", "Other", "Context", "OtherError", "BadDer", "client.test"] {
                    assert!(!told.contains(word), "{told}");
                }
            }
        };
        let root = authority("root", None, |_| {});
        let other = authority("other", None, |_| {});
        let [good, stranger] = [&root, &other].map(|authority| issue(authority, |_| {}));
        let of_root = |change: &dyn Fn(&mut CertificateParams)| issue(&root, change);
        let (root, other) = (&root, &other);
        check(&root.certificate, &[&good], None);
        check(&root.certificate, &[&stranger], Some("not from an authority that is trusted"));
        let expired = of_root(&|params| params.not_after = date_time_ymd(2020, 1, 1));
        check(&root.certificate, &[&expired], Some("has expired"));
        let early = of_root(&|params| params.not_before = date_time_ymd(2090, 1, 1));
        check(&root.certificate, &[&early], Some("is not valid yet"));
        let server = of_root(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        check(&root.certificate, &[&server], Some("another purpose"));
        let critical = of_root(&|params| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        });
        check(&root.certificate, &[&critical], Some("critical extension"));
        check(&root.certificate, &[&root.certificate], Some("that of an authority"));
        check(&root.certificate, &[&CertificateDer::from(b"nonsense".to_vec())], Some("can be read"));

        let not_one = authority("not one", Some(root), |params| params.is_ca = IsCa::ExplicitNoCa);
        let from_it = issue(&not_one, |_| {});
        check(&root.certificate, &[&from_it, &not_one.certificate], Some("CA:TRUE"));
        let narrow = authority("narrow", Some(root), |params| {
            let permitted_subtrees = vec![GeneralSubtree::DnsName("elsewhere.test".to_owned())];
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        });
        let from_it = issue(&narrow, |_| {});
        check(&root.certificate, &[&from_it, &narrow.certificate], Some("may not give"));
        let flat = authority("flat", Some(root), |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let below = authority("below", Some(&flat), |_| {});
        let from_it = issue(&below, |_| {});
        check(&root.certificate, &[&from_it, &below.certificate, &flat.certificate], Some("path length"));
        let impostor = authority("root", None, |_| {});
        let from_it = issue(&impostor, |_| {});
        check(&root.certificate, &[&from_it], Some("was not signed by"));

        // What no library here makes any more.
        let [version_1, weak, sha_1] = [VERSION_1.0, RSA_1024, SHA_1].map(der);
        check(&other.certificate, &[&version_1], Some("X.509 version 1"));
        check(&version_1, &[&version_1], Some("X.509 version 1"));
        check(&weak, &[&weak], Some("2048 bits"));
        check(&sha_1, &[&sha_1], Some("SHA-256 or more"));
    }

    #[test]
    fn what_a_webhook_cannot_have_is_told_by_its_field() {
        let check = |parts: [&str; 3], part: Part, expected: &str| {
            let refused = TlsSettings::parse(parts[0], parts[1], parts[2]).unwrap_err();
            assert!(refused.part() == part && refused.to_string().contains(expected), "{refused}");
        };
        let (certificate, key) = VERSION_1;
        check(["", certificate, key], Part::Certificate, "first certificate cannot be used: it is of X.509 version 1");
        check(["", SHA_1, "x"], Part::Key, "PKCS #8");
        let nonsense = "-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n";
        check([nonsense, "", ""], Part::Authorities, "certificate 1 cannot be used: it is not one that can be read");
        check(["", nonsense, key], Part::Certificate, "certificate 1 cannot be used: it is not one that can be read");
        // An authority may be as old as that: nothing is asked of it but its name and its key.
        assert!(TlsSettings::parse(certificate, "", "").unwrap().is_some());
    }
}
