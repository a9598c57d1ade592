//! Contract ⇄ model for signatures and secrets.

use std::time::Duration;

use postrider_proto::{error_info as reason, v1};
use rand::CryptoRng;

use super::{plain, tenant};
use crate::{
    api::status::{Failure, Violations},
    limits::{SECRET_OVERLAP_DEFAULT, SECRET_OVERLAP_MAX},
    model::{
        ids::{Tenant, WebhookId},
        signing::{InvalidSignatureSettings, Key, KeyPair, Keys, Scheme, Secret, SignatureSettings},
        webhook::{Settings, Webhook},
    },
};

/// Where a caller brings a secret.
const SIGNING_SECRET: &str = "signing_secret";

/// How deliveries are signed. `None`: as the default is, or a violation.
pub(super) fn signature(
    violations: &mut Violations,
    signature: Option<&v1::Signature>,
) -> Option<Box<SignatureSettings>> {
    let signature = signature?;
    let scheme = match v1::SignatureScheme::try_from(signature.scheme) {
        Ok(v1::SignatureScheme::Unspecified | v1::SignatureScheme::StandardV1) => Scheme::StandardV1,
        Ok(v1::SignatureScheme::StandardV1a) => Scheme::StandardV1a,
        Ok(v1::SignatureScheme::Stripe) => Scheme::Stripe,
        Ok(v1::SignatureScheme::Github) => Scheme::GitHub,
        Ok(v1::SignatureScheme::None) => Scheme::None,
        Err(_) => {
            violations.add("webhook.signature.scheme", "must be a scheme that this server knows");
            return None;
        }
    };
    match SignatureSettings::new(scheme, &signature.header_prefix, &signature.signature_header) {
        Ok(settings) => settings,
        Err(invalid) => {
            let field = match invalid {
                InvalidSignatureSettings::Prefix => "header_prefix",
                InvalidSignatureSettings::Header | InvalidSignatureSettings::HeaderOfNothing => "signature_header",
            };
            violations.add(format!("webhook.signature.{field}"), invalid);
            None
        }
    }
}

/// How deliveries are signed, as callers see it.
pub(super) fn decided(settings: &SignatureSettings) -> v1::Signature {
    let scheme = match settings.scheme() {
        Scheme::StandardV1 => v1::SignatureScheme::StandardV1,
        Scheme::StandardV1a => v1::SignatureScheme::StandardV1a,
        Scheme::Stripe => v1::SignatureScheme::Stripe,
        Scheme::GitHub => v1::SignatureScheme::Github,
        Scheme::None => v1::SignatureScheme::None,
    };
    v1::Signature {
        scheme: scheme.into(),
        header_prefix: settings.prefix().to_owned(),
        signature_header: settings.header().to_owned(),
    }
}

/// The key that a caller brought, if any; `scheme`, if it is known already, is what it is for.
pub(super) fn brought(violations: &mut Violations, text: &str, scheme: Option<Scheme>) -> Option<Key> {
    if text.is_empty() {
        return None;
    }
    if !text.starts_with("whsk_") {
        return violations.note(SIGNING_SECRET, Secret::parse(text)).map(Key::Secret);
    }
    if scheme.is_some_and(|scheme| scheme != Scheme::StandardV1a) {
        violations.add(SIGNING_SECRET, "must be a secret (`whsec_…`): only STANDARD_V1A signs with a key pair");
        return None;
    }
    violations.note(SIGNING_SECRET, KeyPair::parse(text)).map(Key::Pair)
}

/// The keys of a new webhook: what was brought, and made here what was not.
pub(in crate::api) fn keys(brought: Option<Key>, scheme: Scheme, rng: &mut impl CryptoRng) -> Keys {
    let (secret, pair) = match brought {
        Some(Key::Secret(secret)) => (secret, None),
        Some(Key::Pair(pair)) => (Secret::generate(rng), Some(pair)),
        None => (Secret::generate(rng), None),
    };
    let pair = pair.or_else(|| (scheme == Scheme::StandardV1a).then(|| KeyPair::generate(rng)));
    Keys::new(secret, pair, Vec::new())
}

/// The key pair that a webhook needs for these settings, if it has none.
pub(in crate::api) fn missing_pair(
    webhook: &Webhook,
    settings: &Settings,
    rng: &mut impl CryptoRng,
) -> Option<KeyPair> {
    let missing = settings.scheme() == Scheme::StandardV1a && webhook.keys.pair().is_none();
    missing.then(|| KeyPair::generate(rng))
}

/// A request to replace what signs, checked as far as it can be without the webhook.
#[derive(Debug)]
pub(in crate::api) struct Rotation {
    pub(in crate::api) tenant: Tenant,
    pub(in crate::api) id: WebhookId,
    pub(in crate::api) overlap: Duration,
    /// Empty: whatever it is.
    pub(in crate::api) etag: String,
    brought: Option<Key>,
}

/// What is to be replaced.
pub(in crate::api) fn rotation(request: &v1::RotateSecretRequest) -> Result<Rotation, Failure> {
    let mut violations = Violations::default();
    let overlap = request.overlap.as_ref().map_or(Some(SECRET_OVERLAP_DEFAULT), plain);
    let overlap = overlap.filter(|overlap| *overlap <= SECRET_OVERLAP_MAX);
    if overlap.is_none() {
        violations.add("overlap", "must be 0 to 7 days");
    }
    let brought = brought(&mut violations, &request.signing_secret, None);
    let tenant = tenant(&mut violations, "tenant", &request.tenant);
    let id = violations.note("id", request.id.parse());
    violations.check()?;
    Ok(Rotation {
        tenant: tenant.expect("no violations"),
        id: id.expect("no violations"),
        overlap: overlap.expect("no violations"),
        etag: request.etag.clone(),
        brought,
    })
}

impl Rotation {
    /// What signs from now on: what was brought if it is of the kind that signs, or else made here.
    pub(in crate::api) fn key(&self, webhook: &Webhook, rng: &mut impl CryptoRng) -> Result<Key, Failure> {
        let pairs = webhook.settings.scheme() == Scheme::StandardV1a;
        let problem = match (&self.brought, pairs) {
            (None, true) => return Ok(Key::Pair(KeyPair::generate(rng))),
            (None, false) => return Ok(Key::Secret(Secret::generate(rng))),
            (Some(key @ Key::Pair(_)), true) | (Some(key @ Key::Secret(_)), false) => return Ok(key.clone()),
            (Some(Key::Secret(_)), true) => "must be a key pair (`whsk_…`), or empty: STANDARD_V1A signs this webhook",
            (Some(Key::Pair(_)), false) => "must be a secret (`whsec_…`), or empty: no key pair signs this webhook",
        };
        Err(Failure::field(reason::INVALID_FIELD, SIGNING_SECRET, problem))
    }
}

/// What the reply that shows a key once shows: a key pair made here never leaves.
pub(in crate::api) fn reveal(key: &Key) -> String {
    match key {
        Key::Secret(secret) => secret.reveal(),
        Key::Pair(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::model::{
        ids::WebhookNo,
        target::Target,
        time::Timestamp,
        webhook::{Subscription, WebhookSpec},
    };

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const PAIR: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

    fn webhook(scheme: Scheme) -> Webhook {
        let target = Target::from_stored("https://hooks.example.com/").unwrap();
        let mut settings = Settings::new(target, Subscription::All);
        settings.signature = SignatureSettings::new(scheme, "", "").unwrap();
        let spec = WebhookSpec { tenant: Tenant::default(), settings, enabled: true };
        let keys = keys(None, scheme, &mut StdRng::seed_from_u64(1));
        spec.register(WebhookNo(1), WebhookId::generate(), keys, Timestamp::UNIX_EPOCH)
    }

    fn request(signing_secret: &str, overlap: Option<(i64, i32)>) -> v1::RotateSecretRequest {
        v1::RotateSecretRequest {
            id: WebhookId::generate().to_string(),
            signing_secret: signing_secret.into(),
            overlap: overlap.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
            ..v1::RotateSecretRequest::default()
        }
    }

    #[test]
    fn overlaps_are_a_day_unless_said_and_a_week_at_most() {
        let overlap = |seconds| rotation(&request("", seconds)).map(|rotation| rotation.overlap).ok();
        assert_eq!(overlap(None), Some(Duration::from_hours(24)));
        assert_eq!(overlap(Some((0, 0))), Some(Duration::ZERO));
        assert_eq!(overlap(Some((604_800, 0))), Some(Duration::from_hours(7 * 24)));
        for wrong in [(604_800, 1), (-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, 0)] {
            assert_eq!(overlap(Some(wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_replaces_a_key_is_of_its_kind() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut key = |text, scheme| rotation(&request(text, None)).unwrap().key(&webhook(scheme), &mut rng);
        for scheme in [Scheme::StandardV1, Scheme::Stripe, Scheme::GitHub, Scheme::None] {
            assert_eq!(reveal(&key(SECRET, scheme).unwrap()), SECRET, "{scheme:?}");
            assert!(reveal(&key("", scheme).unwrap()).starts_with("whsec_"), "{scheme:?}");
            assert!(key(PAIR, scheme).is_err(), "{scheme:?}");
        }
        assert!(key(SECRET, Scheme::StandardV1a).is_err());
        for text in ["", PAIR] {
            let key = key(text, Scheme::StandardV1a).unwrap();
            assert!(matches!(key, Key::Pair(_)) && reveal(&key).is_empty(), "{text}");
        }
        assert!(rotation(&request("whsk_x", None)).is_err() && rotation(&request("secret", None)).is_err());
    }

    #[test]
    fn new_webhooks_have_a_secret_and_a_pair_where_it_signs() {
        let mut rng = StdRng::seed_from_u64(3);
        let (secret, pair) = (Secret::parse(SECRET).unwrap(), KeyPair::parse(PAIR).unwrap());
        let made = keys(Some(Key::Secret(secret)), Scheme::StandardV1a, &mut rng);
        assert!(made.secret().reveal() == SECRET && made.pair().is_some());
        assert_eq!(keys(Some(Key::Pair(pair.clone())), Scheme::StandardV1a, &mut rng).pair(), Some(&pair));
        assert!(keys(None, Scheme::Stripe, &mut rng).pair().is_none());

        let (without, with) = (webhook(Scheme::StandardV1), webhook(Scheme::StandardV1a));
        assert!(missing_pair(&without, &with.settings, &mut rng).is_some());
        assert!(missing_pair(&without, &without.settings, &mut rng).is_none());
        assert!(missing_pair(&with, &with.settings, &mut rng).is_none());
    }

    #[test]
    fn what_is_shown_of_a_signature_can_be_said_again() {
        for scheme in [Scheme::StandardV1, Scheme::StandardV1a, Scheme::Stripe, Scheme::GitHub, Scheme::None] {
            let settings = SignatureSettings::new(scheme, "svix", "").unwrap();
            let shown = decided(settings.as_deref().unwrap());
            let mut violations = Violations::default();
            assert_eq!(signature(&mut violations, Some(&shown)), settings);
        }
        let mut violations = Violations::default();
        let default = v1::Signature::default();
        assert_eq!(signature(&mut violations, Some(&default)), None);
        assert_eq!(violations.check(), Ok(()));
    }
}
