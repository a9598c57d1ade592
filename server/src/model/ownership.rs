//! Whether a receiver wants what is sent to it, as it says itself: the validation handshake of the `CloudEvents` specification
//! "HTTP 1.1 Web Hooks for Event Delivery" 1.0.2, section 4.
//!
//! A request with the method OPTIONS names who wants to send; only headers of the answer give consent, whatever its status
//! code. The asynchronous form, a URL at which somebody could consent later, is deliberately absent.

use std::{fmt, num::NonZeroU32, str::FromStr, sync::Arc, time::Duration};

use http::StatusCode;
use thiserror::Error;

use super::{
    ids::Tenant,
    rate::RateLimit,
    target::Target,
    time::Timestamp,
    tls::TlsSettings,
    webhook::{Settings, Webhook},
};
use crate::limits::{ORIGIN_BYTES_MAX, ORIGIN_LABEL_BYTES_MAX};

/// What allows every origin, or every rate.
const ANY: &str = "*";
/// How much of what a receiver answers is repeated to whoever asked.
const ECHO_CHARS_MAX: usize = 64;

/// The name of a sender to those who receive from it: a DNS name in lower case. It stands for all machines of the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(Box<str>);

/// A text is no [`Origin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not a DNS name such as events.example.com")]
pub struct InvalidOrigin;

impl Default for Origin {
    fn default() -> Self {
        Self("postrider".into())
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let is_label = |label: &str| {
            (1..=ORIGIN_LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // The last label of an address is a number, that of a name never is.
        let is_address = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if text.len() > ORIGIN_BYTES_MAX || is_address || !text.split('.').all(is_label) {
            return Err(InvalidOrigin);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl Origin {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a receiver consented to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// Who may send to it.
    pub origin: Origin,
    /// How often in a minute; `None`: as often as it likes.
    pub per_minute: Option<NonZeroU32>,
    /// When it was given.
    pub time: Timestamp,
}

/// The ownership check of a webhook whose owner wants one. Invariant: what is stored is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// To be confirmed before anything is stored.
    Wanted,
    /// Its receiver consented.
    Confirmed(Consent),
}

impl Ownership {
    /// What the receiver consented to.
    pub fn consent(&self) -> Option<&Consent> {
        match self {
            Self::Wanted => None,
            Self::Confirmed(consent) => Some(consent),
        }
    }

    /// How often the receiver may be called by its consent, if that has a limit.
    pub fn allowed(&self) -> Option<RateLimit> {
        Some(RateLimit::per_minute(self.consent()?.per_minute?))
    }
}

/// Whether a webhook's receiver has to be asked before these settings take the place of what they are: there is no consent
/// yet, requests would go somewhere else, or they would begin again.
pub fn is_to_be_asked(webhook: &Webhook, settings: &Settings, enabled: bool) -> bool {
    match settings.ownership.as_deref() {
        None => false,
        Some(Ownership::Wanted) => true,
        Some(Ownership::Confirmed(_)) => {
            (enabled && !webhook.is_enabled()) || settings.endpoint() != webhook.settings.endpoint()
        }
    }
}

/// What a receiver is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who wants to know.
    pub tenant: Tenant,
    /// Where its requests would go.
    pub target: Target,
    /// Who asks.
    pub origin: Origin,
    /// How often in a minute requests would come at most, if that is known.
    pub per_minute: Option<NonZeroU32>,
    /// How long it may take to answer, if the webhook's owner says so.
    pub timeout: Option<Duration>,
    /// Whose certificate the receiver must have, and what is shown to it, if its webhook says so.
    pub tls: Option<Arc<TlsSettings>>,
}

impl Question {
    /// Whether the receiver of these settings of a tenant's webhook wants requests from `origin`.
    pub fn new(tenant: &Tenant, settings: &Settings, origin: &Origin) -> Self {
        let wanted = settings.protection.as_ref().and_then(|protection| protection.rate_limit);
        Self {
            tenant: tenant.clone(),
            target: settings.endpoint().into_owned(),
            origin: origin.clone(),
            per_minute: wanted.and_then(|limit| NonZeroU32::new(limit.whole_per_minute())),
            timeout: settings.attempt_timeout(),
            tls: settings.tls.clone(),
        }
    }
}

/// What a receiver answered, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code, which decides nothing.
    pub status: StatusCode,
    /// Values of the headers `webhook-allowed-origin`.
    pub origins: Vec<String>,
    /// Values of the headers `webhook-allowed-rate`.
    pub rates: Vec<String>,
}

/// Why a receiver is not sent anything.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is no answer.
    #[error("the receiver could not be asked with OPTIONS whether it wants this: {0}")]
    Unanswered(String),
    /// The answer does not say that anybody may send to it.
    #[error("the receiver answered OPTIONS with {0} and without the header webhook-allowed-origin")]
    Silent(StatusCode),
    /// Somebody else may.
    #[error("the receiver allows {0:?} in webhook-allowed-origin and not {1:?}")]
    OtherOrigin(String, String),
    /// How often is unclear.
    #[error("the receiver's webhook-allowed-rate is {0:?}, and neither a number from 1 nor `*`")]
    UnclearRate(String),
}

impl Answer {
    /// How often in a minute `origin` may send (`None`: as often as it likes), if it may at all. An answer that says nothing about
    /// the rate leaves it to the sender, as the specification asks for it only from those who were asked for one.
    pub fn permission(&self, origin: &Origin) -> Result<Option<NonZeroU32>, Refusal> {
        let allowed = match self.origins.as_slice() {
            [] => return Err(Refusal::Silent(self.status)),
            [allowed] => allowed.trim(),
            several => return Err(Refusal::OtherOrigin(echo(&several.join(", ")), origin.to_string())),
        };
        if allowed != ANY && !allowed.eq_ignore_ascii_case(origin.as_str()) {
            return Err(Refusal::OtherOrigin(echo(allowed), origin.to_string()));
        }
        match self.rates.as_slice() {
            [] => Ok(None),
            [rate] if rate.trim() == ANY => Ok(None),
            [rate] => per_minute(rate.trim()).map(Some).ok_or_else(|| Refusal::UnclearRate(echo(rate))),
            several => Err(Refusal::UnclearRate(echo(&several.join(", ")))),
        }
    }
}

/// A positive whole number; one that is too large for us is as good as the largest.
fn per_minute(text: &str) -> Option<NonZeroU32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if digits.is_empty() {
        return None;
    }
    Some(digits.parse().unwrap_or(NonZeroU32::MAX))
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ids::{Tenant, WebhookId, WebhookNo},
        request::{Query, RequestShape},
        signing::Secret,
        webhook::{DisableReason, Subscription, Switch},
    };

    #[test]
    fn origins_are_names() {
        let check = |text: &str, expected: Option<&str>| {
            let origin = text.parse::<Origin>().ok();
            assert_eq!(origin.as_ref().map(Origin::as_str), expected, "{text:?}");
        };
        check("postrider", Some("postrider"));
        check("Events.Example.COM", Some("events.example.com"));
        check("a-1.b2", Some("a-1.b2"));
        check(&format!("{}.de", "a".repeat(63)), Some(&format!("{}.de", "a".repeat(63))));
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        for wrong in [
            "",
            "*",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "a b",
            "ä.de",
            "https://a.de",
            "a.de:443",
            "a.de/x",
            "10.0.0.1",
            "1",
            "[::1]",
            "a\r\nb",
            &"a".repeat(64),
            &long,
        ] {
            check(wrong, None);
        }
        assert_eq!(Origin::default().as_str().parse(), Ok(Origin::default()));
    }

    #[test]
    fn only_its_own_headers_give_consent() {
        let origin: Origin = "events.example.com".parse().unwrap();
        let check = |origins: &[&str], rates: &[&str], expected: Result<Option<u32>, &str>| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let answer = Answer { status: StatusCode::OK, origins: texts(origins), rates: texts(rates) };
            match (answer.permission(&origin), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.map(NonZeroU32::get), expected, "{answer:?}"),
                (Err(refusal), Err(text)) => assert!(refusal.to_string().contains(text), "{refusal}"),
                (got, expected) => panic!("{answer:?}: {got:?} instead of {expected:?}"),
            }
        };
        check(&["*"], &["*"], Ok(None));
        check(&["*"], &[], Ok(None));
        check(&["events.example.com"], &["120"], Ok(Some(120)));
        check(&[" Events.Example.com "], &[" 1 "], Ok(Some(1)));
        check(&["*"], &["007"], Ok(Some(7)));
        check(&["*"], &["99999999999999999999999"], Ok(Some(u32::MAX)));
        check(&[], &["120"], Err("200 OK and without the header webhook-allowed-origin"));
        for other in ["example.com", "evil.events.example.com", "*.example.com", "", "events.example.com, *", "null"] {
            check(&[other], &["*"], Err("and not \"events.example.com\""));
        }
        check(&["events.example.com", "*"], &["*"], Err("allows \"events.example.com, *\""));
        for unclear in ["0", "00", "-1", "+1", "1.5", "120/m", "", "**", "ten", "1, 2"] {
            check(&["*"], &[unclear], Err("neither a number from 1 nor `*`"));
        }
        check(&["*"], &["1", "2"], Err("\"1, 2\""));
        check(&[&"x".repeat(10_000)], &[], Err(&format!("allows \"{}\" in", "x".repeat(64))));
        check(&["a\u{7f}\u{1b}[2J"], &[], Err("a\\u{7f}\\u{1b}[2J"));
    }

    #[test]
    fn receivers_are_asked_when_it_matters() {
        let settings = |url: &str, ownership: Option<Ownership>| Settings {
            ownership: ownership.map(Box::new),
            ..Settings::new(Target::from_stored(url).unwrap(), Subscription::All)
        };
        let consent = Consent { origin: Origin::default(), per_minute: None, time: Timestamp::UNIX_EPOCH };
        let confirmed = || Some(Ownership::Confirmed(consent.clone()));
        let present = |enabled| Webhook {
            no: WebhookNo(1),
            id: WebhookId::from_bytes([1; 16]),
            tenant: Tenant::default(),
            settings: settings("https://a.example/", confirmed()),
            switch: if enabled {
                Switch::Enabled
            } else {
                Switch::Disabled { reason: DisableReason::Gone, since: Timestamp::UNIX_EPOCH }
            },
            version: 1,
            create_time: Timestamp::UNIX_EPOCH,
            update_time: Timestamp::UNIX_EPOCH,
            keys: Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap().into(),
        };
        let with_query = |mut settings: Settings| {
            let query = Query::new([("key".to_owned(), "1".to_owned())].into()).unwrap();
            settings.request = RequestShape { query, ..RequestShape::default() }.settled();
            settings
        };
        let same = || settings("https://a.example/", confirmed());
        for (what, was_enabled, next, enabled, asked) in [
            ("not wanted", true, settings("https://b.example/", None), true, false),
            ("turned on", true, settings("https://a.example/", Some(Ownership::Wanted)), true, true),
            ("as it was", true, same(), true, false),
            ("disabled", true, same(), false, false),
            ("enabled again", false, same(), true, true),
            ("still disabled", false, same(), false, false),
            ("another path", true, settings("https://a.example/b", confirmed()), true, true),
            ("another path while disabled", false, settings("https://a.example/b", confirmed()), false, true),
            ("another query", true, with_query(same()), true, true),
        ] {
            assert_eq!(is_to_be_asked(&present(was_enabled), &next, enabled), asked, "{what}");
        }
    }
}
