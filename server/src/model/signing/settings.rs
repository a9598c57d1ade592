//! How the requests of one webhook are signed, and what the headers are called that say so.

use http::HeaderName;
use thiserror::Error;

use crate::{
    limits::{SIGNATURE_HEADER_BYTES_MAX, SIGNATURE_HEADER_PREFIX_BYTES_MAX},
    model::reserved,
};

/// What the standard's headers begin with.
const STANDARD_PREFIX: &str = "webhook";
/// Names, and beginnings of names, that mean something else to receivers, besides those that no setting may take.
const MEANINGFUL: &[&str] = &["accept", "authorization", "content-"];

/// What a signature is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Standard Webhooks `v1`: HMAC-SHA256 with the secret.
    #[default]
    StandardV1,
    /// Standard Webhooks `v1a`: ed25519 with the key pair.
    StandardV1a,
    /// As Stripe signs: `t=…,v1=…`.
    Stripe,
    /// As GitHub signs: `sha256=…`.
    GitHub,
    /// Not signed.
    None,
}

/// What the headers are called that identify and sign a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderNames {
    /// The event's id.
    pub id: HeaderName,
    /// The time of the attempt.
    pub timestamp: HeaderName,
    /// The signatures.
    pub signature: HeaderName,
}

/// Those of Standard Webhooks.
pub static STANDARD_NAMES: HeaderNames = HeaderNames {
    id: HeaderName::from_static("webhook-id"),
    timestamp: HeaderName::from_static("webhook-timestamp"),
    signature: HeaderName::from_static("webhook-signature"),
};

/// How a webhook's requests are signed where that is not as Standard Webhooks `v1` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureSettings {
    scheme: Scheme,
    names: HeaderNames,
}

/// What is wrong with one setting of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidSignatureSettings {
    /// No header names can be made with the prefix.
    #[error(
        "must be [A-Za-z0-9-]{{1,{SIGNATURE_HEADER_PREFIX_BYTES_MAX}}}, and `PREFIX-id` not a name that HTTP, proxies, \
         clouds or this server have a use for"
    )]
    Prefix,
    /// No header can be called that.
    #[error(
        "must be the name of a header, at most {SIGNATURE_HEADER_BYTES_MAX} bytes, that neither HTTP, proxies, clouds nor \
         this server have another use for"
    )]
    Header,
    /// There is no signature to put into a header.
    #[error("must be empty where nothing is signed")]
    HeaderOfNothing,
}

impl SignatureSettings {
    /// With a prefix for the headers of id, timestamp and signature, and a name of its own for the last one; empty is the
    /// default. `None`: as the default is.
    pub fn new(scheme: Scheme, prefix: &str, header: &str) -> Result<Option<Box<Self>>, InvalidSignatureSettings> {
        Self::unless_default(scheme, prefix, header, is_reserved)
    }

    /// From the store: what was let in once is not judged again by what may be reserved since.
    pub fn from_stored(
        scheme: Scheme,
        prefix: &str,
        header: &str,
    ) -> Result<Option<Box<Self>>, InvalidSignatureSettings> {
        Self::unless_default(scheme, prefix, header, |_| false)
    }

    fn unless_default(
        scheme: Scheme,
        prefix: &str,
        header: &str,
        reserved: fn(&str) -> bool,
    ) -> Result<Option<Box<Self>>, InvalidSignatureSettings> {
        let prefix = if prefix.is_empty() { STANDARD_PREFIX } else { prefix };
        let settings = Self { scheme, names: names(scheme, prefix, header, reserved)? };
        Ok((settings != Self::default()).then(|| Box::new(settings)))
    }

    /// What signatures are made of.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What their headers are called.
    pub fn names(&self) -> &HeaderNames {
        &self.names
    }

    /// What the names begin with.
    pub fn prefix(&self) -> &str {
        self.names.id.as_str().strip_suffix("-id").expect("so it was made")
    }

    /// What the header with the signatures is called; empty if there is none.
    pub fn header(&self) -> &str {
        if self.scheme == Scheme::None { "" } else { self.names.signature.as_str() }
    }
}

impl Default for SignatureSettings {
    fn default() -> Self {
        Self { scheme: Scheme::StandardV1, names: STANDARD_NAMES.clone() }
    }
}

fn names(
    scheme: Scheme,
    prefix: &str,
    header: &str,
    reserved: fn(&str) -> bool,
) -> Result<HeaderNames, InvalidSignatureSettings> {
    let of_prefix = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if prefix.len() > SIGNATURE_HEADER_PREFIX_BYTES_MAX || !prefix.bytes().all(of_prefix) {
        return Err(InvalidSignatureSettings::Prefix);
    }
    let prefixed = |name: &str| {
        let name = format!("{prefix}-{name}").parse::<HeaderName>();
        let standard = prefix.eq_ignore_ascii_case(STANDARD_PREFIX);
        name.ok().filter(|name| standard || !reserved(name.as_str())).ok_or(InvalidSignatureSettings::Prefix)
    };
    let (id, timestamp) = (prefixed("id")?, prefixed("timestamp")?);
    if scheme == Scheme::None && !header.is_empty() {
        return Err(InvalidSignatureSettings::HeaderOfNothing);
    }
    let signature = match (header, scheme) {
        ("", Scheme::StandardV1 | Scheme::StandardV1a | Scheme::None) => prefixed("signature")?,
        ("", Scheme::Stripe) => HeaderName::from_static("stripe-signature"),
        ("", Scheme::GitHub) => HeaderName::from_static("x-hub-signature-256"),
        (name, _) => {
            let name = (name.len() <= SIGNATURE_HEADER_BYTES_MAX).then(|| name.parse::<HeaderName>().ok()).flatten();
            let taken = |name: &HeaderName| {
                *name == id || *name == timestamp || reserved(name.as_str()) && *name != STANDARD_NAMES.signature
            };
            name.filter(|name| !taken(name)).ok_or(InvalidSignatureSettings::Header)?
        }
    };
    Ok(HeaderNames { id, timestamp, signature })
}

/// Whether a header name, in lower case, has another use.
fn is_reserved(name: &str) -> bool {
    reserved::is_reserved(name) || MEANINGFUL.iter().any(|taken| name.starts_with(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(scheme: Scheme, prefix: &str, header: &str) -> Result<Option<SignatureSettings>, InvalidSignatureSettings> {
        SignatureSettings::new(scheme, prefix, header).map(|settings| settings.map(|settings| *settings))
    }

    #[test]
    fn names_default_to_what_receivers_of_the_scheme_look_for() {
        let check = |scheme, prefix: &str, header: &str, expected: [&str; 4]| {
            let settings = new(scheme, prefix, header).unwrap().unwrap();
            let names = settings.names();
            let found = [names.id.as_str(), names.timestamp.as_str(), settings.header(), settings.prefix()];
            assert_eq!(found, expected);
            // What is shown can be said again.
            assert_eq!(new(scheme, settings.prefix(), settings.header()), Ok(Some(settings.clone())));
        };
        let standard = ["webhook-id", "webhook-timestamp"];
        let svix = ["svix-id", "svix-timestamp"];
        check(Scheme::StandardV1, "Svix", "", [svix[0], svix[1], "svix-signature", "svix"]);
        check(Scheme::StandardV1a, "", "", [standard[0], standard[1], "webhook-signature", "webhook"]);
        check(Scheme::StandardV1, "", "X-Sig", [standard[0], standard[1], "x-sig", "webhook"]);
        check(Scheme::Stripe, "", "", [standard[0], standard[1], "stripe-signature", "webhook"]);
        check(Scheme::Stripe, "acme", "Acme-Signature", ["acme-id", "acme-timestamp", "acme-signature", "acme"]);
        check(Scheme::Stripe, "", "webhook-signature", [standard[0], standard[1], "webhook-signature", "webhook"]);
        check(Scheme::GitHub, "", "", [standard[0], standard[1], "x-hub-signature-256", "webhook"]);
        check(Scheme::None, "svix", "", [svix[0], svix[1], "", "svix"]);
        for (prefix, header) in [("", ""), ("webhook", ""), ("Webhook", "Webhook-Signature")] {
            assert_eq!(new(Scheme::StandardV1, prefix, header), Ok(None), "{prefix:?} {header:?}");
        }
    }

    #[test]
    fn names_with_another_use_are_refused() {
        use InvalidSignatureSettings::{Header, HeaderOfNothing, Prefix};
        let long = "x".repeat(33);
        for prefix in ["a b", "a\r\nb", "é", "a_b", "x-amz", "X-Goog", "webhook-event", "content", "proxy", &long] {
            assert_eq!(new(Scheme::StandardV1, prefix, ""), Err(Prefix), "{prefix:?}");
        }
        let long = "x".repeat(65);
        let names = ["a b", "a:", "x\r\ny: z", "é", "Host", "Content-Length", "AUTHORIZATION", "webhook-id", "cookie"];
        for name in names.into_iter().chain([
            "webhook-attempt",
            "x-amz-meta",
            "metadata",
            "X-Aliyun-Token",
            "http2-settings",
            "X-Forwarded-For",
            &long,
        ]) {
            assert_eq!(new(Scheme::Stripe, "", name), Err(Header), "{name:?}");
        }
        assert_eq!(new(Scheme::Stripe, "svix", "Svix-Timestamp"), Err(Header));
        assert_eq!(new(Scheme::None, "", "x-sig"), Err(HeaderOfNothing));
        let kept = SignatureSettings::from_stored(Scheme::Stripe, "x-amz", "x-goog-signature").unwrap().unwrap();
        assert_eq!((kept.prefix(), kept.header()), ("x-amz", "x-goog-signature"), "reserved since");
    }
}
