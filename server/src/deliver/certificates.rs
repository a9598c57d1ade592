//! What went wrong in a TLS handshake, in words for whoever owns the webhook.
//!
//! Invariant: texts hold no name and no address out of certificates; tenants see them.

use rustls::{AlertDescription, CertificateError, Error};

use super::phases::AskedForCertificate;
use crate::model::tls::words;

/// What failed. `asked`: whether the receiver had asked for a certificate, if that is known.
pub(super) fn explain(error: &Error, asked: Option<AskedForCertificate>) -> String {
    if let Error::InvalidCertificate(problem) = error {
        return format!("TLS failed: the receiver's certificate {}", problem_of(problem));
    }
    let Error::AlertReceived(refused) = error else { return format!("TLS failed: {error}") };
    if !is_about_certificates(*refused, asked) {
        return format!("TLS failed: {error}");
    }
    match asked {
        Some(AskedForCertificate { given: true }) => {
            format!("TLS failed: the receiver refused the client certificate ({refused:?})")
        }
        Some(AskedForCertificate { given: false }) => {
            format!("TLS failed: the receiver wants a client certificate ({refused:?})")
        }
        None => format!("TLS failed: the receiver wants a client certificate, or another one ({refused:?})"),
    }
}

/// A receiver that had asked for a certificate closed the connection, without an answer and without saying why.
pub(super) fn closed(asked: AskedForCertificate) -> String {
    let AskedForCertificate { given } = asked;
    let what = if given { "that it was given" } else { "that the webhook does not have" };
    format!("TLS failed: the receiver asked for a client certificate, {what}, and closed the connection")
}

/// What is wrong with a receiver's certificate.
fn problem_of(problem: &CertificateError) -> String {
    use CertificateError as E;

    if matches!(problem, E::UnknownIssuer) {
        "is not from an authority that is trusted for this webhook".to_owned()
    } else if matches!(problem, E::InvalidPurpose | E::InvalidPurposeContext { .. }) {
        "is not one for servers".to_owned()
    } else {
        words::of_certificate(problem)
    }
}

/// Whether this is about the certificate that was shown, or was not. Before TLS 1.3 there was no word of its own for a missing one,
/// and one that its authority did not sign is a matter of cryptography.
fn is_about_certificates(alert: AlertDescription, asked: Option<AskedForCertificate>) -> bool {
    use AlertDescription as A;

    let says_so = matches!(
        alert,
        A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
    );
    says_so || asked.is_some() && matches!(alert, A::HandshakeFailure | A::DecryptError)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    #[test]
    fn certificates_are_told_about_in_words() {
        let check = |problem: CertificateError, expected: &str| {
            let text = explain(&Error::InvalidCertificate(problem), None);
            assert_eq!(text, format!("TLS failed: the receiver's certificate {expected}"));
        };
        check(CertificateError::Expired, "has expired");
        check(CertificateError::NotValidYet, "is not valid yet");
        check(CertificateError::UnknownIssuer, "is not from an authority that is trusted for this webhook");
        check(CertificateError::NotValidForName, "is for another name");
        check(CertificateError::Revoked, "is revoked");
        check(CertificateError::InvalidPurpose, "is not one for servers");
        let signature =
            "was not signed by the authority that it names, or with a key that is too weak (RSA takes 2048 bits)";
        check(CertificateError::BadSignature, signature);
        check(CertificateError::BadEncoding, "is not one that can be read");
        let version_1 = OtherError(Arc::new(webpki::Error::UnsupportedCertVersion));
        let told = "is of X.509 version 1, which has no extensions; it must be of version 3";
        check(CertificateError::Other(version_1), told);
    }

    #[test]
    fn alerts_are_understood_with_what_was_asked_before() {
        let alert = |alert, asked: Option<bool>| {
            explain(&Error::AlertReceived(alert), asked.map(|given| AskedForCertificate { given }))
        };
        let wants = "TLS failed: the receiver wants a client certificate";
        let required = AlertDescription::CertificateRequired;
        assert_eq!(alert(required, Some(false)), format!("{wants} (CertificateRequired)"));
        assert_eq!(alert(required, None), format!("{wants}, or another one (CertificateRequired)"));
        assert_eq!(alert(AlertDescription::HandshakeFailure, Some(false)), format!("{wants} (HandshakeFailure)"));
        let refused = "TLS failed: the receiver refused the client certificate";
        assert_eq!(alert(AlertDescription::UnknownCA, Some(true)), format!("{refused} (UnknownCA)"));
        for other in [AlertDescription::HandshakeFailure, AlertDescription::ProtocolVersion] {
            let text = alert(other, None);
            assert!(text.starts_with("TLS failed: received fatal alert"), "{text}");
        }
    }
}
