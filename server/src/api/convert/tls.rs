//! Contract ⇄ model for TLS with a webhook's receiver.
//!
//! Replies show [`HIDDEN`] instead of the key, and an update that says the same leaves it as it is.

use std::sync::Arc;

use postrider_proto::v1;

use super::{
    request::{HIDDEN, NOTHING_HIDDEN},
    time,
};
use crate::{
    api::status::Violations,
    model::{
        target::{Scheme, Target},
        tls::{Identity, Part, TlsSettings},
    },
};

const FIELD: &str = "webhook.tls";

/// The settings of this group; `target` is what the other fields say about the URL. `None`: none is made, or there is a violation.
pub(super) fn tls(
    violations: &mut Violations,
    given: Option<v1::TlsSettings>,
    target: Option<&Target>,
) -> Option<Arc<TlsSettings>> {
    let given = given?;
    if given.client_key == HIDDEN {
        violations.add(format!("{FIELD}.client_key"), NOTHING_HIDDEN);
        return None;
    }
    let parsed = TlsSettings::parse(&given.ca_certificates, &given.client_certificate, &given.client_key);
    let settings = parsed.unwrap_or_else(|problem| {
        let field = match problem.part() {
            Part::Authorities => "ca_certificates",
            Part::Certificate => "client_certificate",
            Part::Key => "client_key",
        };
        violations.add(format!("{FIELD}.{field}"), problem);
        None
    })?;
    if target.is_some_and(|target| target.scheme() != Scheme::Https) {
        violations.add(FIELD, "needs a `url` with https");
    }
    Some(Arc::new(settings))
}

/// What was decided, the key included.
pub(super) fn decided(settings: &TlsSettings) -> v1::TlsSettings {
    let identity = settings.identity();
    v1::TlsSettings {
        ca_certificates: settings.authorities_pem(),
        client_certificate: identity.map(Identity::chain_pem).unwrap_or_default(),
        client_key: identity.map(Identity::key_pem).unwrap_or_default(),
        client_certificate_expire_time: None,
    }
}

/// Makes of what [`decided`] says what callers may see: without the key, and with what follows from the certificate.
pub(super) fn conceal(webhook: &mut v1::Webhook, settings: Option<&TlsSettings>) {
    let (Some(shown), Some(identity)) = (&mut webhook.tls, settings.and_then(TlsSettings::identity)) else { return };
    HIDDEN.clone_into(&mut shown.client_key);
    shown.client_certificate_expire_time = identity.expires().map(time);
}

/// Puts the present key where an update says that it stays.
pub(super) fn restore(webhook: &mut v1::Webhook, present: Option<&TlsSettings>) {
    if let (Some(given), Some(identity)) = (&mut webhook.tls, present.and_then(TlsSettings::identity))
        && given.client_key == HIDDEN
    {
        given.client_key = identity.key_pem();
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::api::status::Failure;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::default().self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn with_identity((certificate, key): &(String, String)) -> v1::TlsSettings {
        v1::TlsSettings {
            client_certificate: certificate.clone(),
            client_key: key.clone(),
            ..v1::TlsSettings::default()
        }
    }

    fn read(given: v1::TlsSettings, url: &str) -> Result<Option<Arc<TlsSettings>>, Failure> {
        let mut violations = Violations::default();
        let target = Target::from_stored(url).unwrap();
        let settings = tls(&mut violations, Some(given), Some(&target));
        violations.check().map(|()| settings)
    }

    #[test]
    fn the_key_is_hidden_and_can_be_kept() {
        let (first, second) = (pair(), pair());
        let settings = read(with_identity(&first), "https://r.test/").unwrap().unwrap();
        assert_eq!(decided(&settings), with_identity(&first));
        let mut shown = v1::Webhook { tls: Some(decided(&settings)), ..v1::Webhook::default() };
        conceal(&mut shown, Some(&settings));
        let told = shown.tls.clone().unwrap();
        assert_eq!((told.client_key.as_str(), told.client_certificate_expire_time.is_some()), ("***", true));

        // Handed back as it was shown, it stays; with another certificate, it does not fit.
        restore(&mut shown, Some(&settings));
        assert_eq!(read(shown.tls.unwrap(), "https://r.test/").unwrap().as_deref(), Some(&*settings));
        let renewed = v1::TlsSettings { client_certificate: second.0, ..told.clone() };
        let mut renewed = v1::Webhook { tls: Some(renewed), ..v1::Webhook::default() };
        restore(&mut renewed, Some(&settings));
        check_refused(renewed.tls.unwrap(), "https://r.test/", "webhook.tls.client_key", "does not belong");
        // Where there is none, none is kept.
        let mut first = v1::Webhook { tls: Some(told), ..v1::Webhook::default() };
        restore(&mut first, None);
        check_refused(first.tls.unwrap(), "https://r.test/", "webhook.tls.client_key", "there is none");
    }

    fn check_refused(given: v1::TlsSettings, url: &str, field: &str, says: &str) {
        let refused = format!("{:?}", read(given, url).expect_err(field));
        assert!(refused.contains(field) && refused.contains(says), "{refused}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let (certificate, key) = pair();
        let given = |ca: &str, certificate: &str, key: &str| v1::TlsSettings {
            ca_certificates: ca.to_owned(),
            client_certificate: certificate.to_owned(),
            client_key: key.to_owned(),
            ..v1::TlsSettings::default()
        };
        let url = "https://r.test/";
        check_refused(given("s3cret", "", ""), url, "webhook.tls.ca_certificates", "has none");
        check_refused(given("", &certificate, ""), url, "webhook.tls.client_key", "must be set");
        check_refused(given("", "", &key), url, "webhook.tls.client_certificate", "must be set");
        check_refused(given("", &key, &key), url, "webhook.tls.client_certificate", "private key");
        check_refused(given(&certificate, "", ""), "http://r.test/", "webhook.tls", "https");
        assert_eq!(read(v1::TlsSettings::default(), "http://r.test/").unwrap(), None);
    }
}
