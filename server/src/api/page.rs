//! Pages: how many entries one holds, and the tokens that lead to the next.
//!
//! A token is the sealed place to go on from and a fingerprint of the request it belongs to, made with a value only this store
//! can make: tokens of other requests and of other stores are refused, and one that was put together by hand leads nowhere.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use postrider_proto::error_info as reason;
use twox_hash::XxHash3_128;

use super::status::Violations;
use crate::{
    limits::{DISPLAY_NAME_BYTES_MAX, PAGE_SIZE_MAX},
    model::{
        ids::{DeliveryId, DeliveryKey, EventSeq, Position, WebhookNo},
        seal::Sealer,
    },
    store::WebhookPlace,
};

/// Half of a token: the sealed place, then the fingerprint.
const HALF_BYTES: usize = 16;
/// Letters of the longest token: those of lists by name have the name on top, which may grow when its case is taken away.
const TOKEN_LETTERS_MAX: usize = (2 * HALF_BYTES + 3 * DISPLAY_NAME_BYTES_MAX).div_ceil(3) * 4;

/// The size of a page: `default` if the caller does not say, at most `PAGE_SIZE_MAX`.
pub(super) fn size(violations: &mut Violations, page_size: i32, default: usize) -> usize {
    match usize::try_from(page_size) {
        Ok(0) => default,
        Ok(size) => size.min(PAGE_SIZE_MAX),
        Err(_) => {
            violations.add("page_size", "must not be negative");
            default
        }
    }
}

/// What a list is of: the method and every filter, but not the size of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope(Vec<u8>);

impl Scope {
    /// The list that `method` makes.
    pub(super) fn new(method: &str) -> Self {
        Self(Vec::new()).with(method)
    }

    /// Narrowed by a filter; filters come in the same order each time, unset ones as empty texts.
    pub(super) fn with(mut self, filter: &str) -> Self {
        self.0.extend_from_slice(&(filter.len() as u64).to_le_bytes());
        self.0.extend_from_slice(filter.as_bytes());
        self
    }

    fn fingerprint(&self, sealer: &Sealer, place: &[u8; HALF_BYTES], name: &[u8]) -> [u8; HALF_BYTES] {
        let mut hasher = XxHash3_128::new();
        // Given to nobody: no log is this long.
        hasher.write(&sealer.cursor(Position(u64::MAX)));
        hasher.write(place);
        hasher.write(&(name.len() as u64).to_le_bytes());
        hasher.write(name);
        hasher.write(&self.0);
        hasher.finish_128().to_be_bytes()
    }

    /// The token of the page after `last`.
    pub(super) fn token(&self, sealer: &Sealer, last: DeliveryKey) -> String {
        self.seal(sealer, last, &[])
    }

    fn seal(&self, sealer: &Sealer, last: DeliveryKey, name: &[u8]) -> String {
        let place = *sealer.delivery_id(last).as_bytes();
        URL_SAFE_NO_PAD.encode([place.as_slice(), &self.fingerprint(sealer, &place, name), name].concat())
    }

    /// The token of the page after a webhook.
    pub(super) fn webhook_token(&self, sealer: &Sealer, last: &WebhookPlace) -> String {
        self.seal(sealer, counted(last.no.0), last.name.as_bytes())
    }

    /// As [`Self::after`], for lists of webhooks.
    pub(super) fn webhook_after(
        &self,
        violations: &mut Violations,
        sealer: &Sealer,
        token: &str,
    ) -> Option<WebhookPlace> {
        self.opened(violations, sealer, token, |key, name| {
            let name = String::from_utf8(name).ok()?;
            Some(WebhookPlace { name: name.into(), no: key.webhook })
        })
    }

    /// The token of the page after the `last`-th entry, for lists that are counted.
    pub(super) fn counted_token(&self, sealer: &Sealer, last: u64) -> String {
        self.token(sealer, counted(last))
    }

    /// Where a token leads; `None` for the first page, or if it is refused.
    pub(super) fn after(&self, violations: &mut Violations, sealer: &Sealer, token: &str) -> Option<DeliveryKey> {
        self.opened(violations, sealer, token, |key, name| name.is_empty().then_some(key))
    }

    fn opened<T>(
        &self,
        violations: &mut Violations,
        sealer: &Sealer,
        token: &str,
        read: impl FnOnce(DeliveryKey, Vec<u8>) -> Option<T>,
    ) -> Option<T> {
        if token.is_empty() {
            return None;
        }
        let place = self.open(sealer, token).and_then(|(key, name)| read(key, name));
        if place.is_none() {
            let problem = "is malformed, or belongs to another request";
            violations.add_as(reason::INVALID_PAGE_TOKEN, "page_token", problem);
        }
        place
    }

    /// As [`Self::after`], for lists that are counted.
    pub(super) fn counted_after(&self, violations: &mut Violations, sealer: &Sealer, token: &str) -> Option<u64> {
        self.after(violations, sealer, token).map(|key| key.webhook.0)
    }

    /// What a token was made of.
    fn open(&self, sealer: &Sealer, token: &str) -> Option<(DeliveryKey, Vec<u8>)> {
        // Nothing longer is worth decoding.
        if token.len() > TOKEN_LETTERS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (place, rest) = bytes.split_first_chunk::<HALF_BYTES>()?;
        let (fingerprint, name) = rest.split_first_chunk::<HALF_BYTES>()?;
        let ours = self.fingerprint(sealer, place, name) == *fingerprint;
        ours.then(|| (sealer.delivery_key(DeliveryId::from_bytes(*place)), name.to_vec()))
    }
}

fn counted(last: u64) -> DeliveryKey {
    DeliveryKey { webhook: WebhookNo(last), event: EventSeq(0), replay: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_on_in_their_own_list_only() {
        let (ours, theirs) = (Sealer::new([1; 16]), Sealer::new([2; 16]));
        let scope = Scope::new("list").with("acme").with("");
        let last = DeliveryKey { webhook: WebhookNo(7), event: EventSeq(1 << 40), replay: 3 };
        let token = scope.token(&ours, last);
        assert_eq!(token.len(), 43);

        let check = |scope: &Scope, sealer: &Sealer, token: &str, expected: Option<DeliveryKey>, refused: bool| {
            let mut violations = Violations::default();
            assert_eq!(scope.after(&mut violations, sealer, token), expected, "{token:?}");
            assert_eq!(violations.check().is_err(), refused, "{token:?}");
        };
        check(&scope, &ours, "", None, false);
        check(&scope, &ours, &token, Some(last), false);
        check(&scope, &theirs, &token, None, true);
        check(&Scope::new("list").with("acme").with("x"), &ours, &token, None, true);
        check(&Scope::new("list").with("").with("acme"), &ours, &token, None, true);
        check(&Scope::new("other").with("acme").with(""), &ours, &token, None, true);
        let mut changed = token.clone().into_bytes();
        changed[5] = if changed[5] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        for bad in [&changed, "x", "not base64 !", &token[1..], &format!("{token}A"), &"A".repeat(43)] {
            check(&scope, &ours, bad, None, true);
        }
    }

    #[test]
    fn tokens_of_webhooks_carry_their_names() {
        let (sealer, scope) = (Sealer::new([1; 16]), Scope::new("ListWebhooks").with("acme"));
        let after = |token: &str| scope.webhook_after(&mut Violations::default(), &sealer, token);
        for name in ["", "crm", &"\u{130}".to_lowercase().repeat(DISPLAY_NAME_BYTES_MAX / 2)] {
            let place = WebhookPlace { name: name.into(), no: WebhookNo(7) };
            let token = scope.webhook_token(&sealer, &place);
            assert_eq!(after(&token), Some(place), "{token}");
            let counted = scope.after(&mut Violations::default(), &sealer, &token);
            assert_eq!(counted.is_some(), name.is_empty(), "{token}");
        }
        let token = scope.webhook_token(&sealer, &WebhookPlace { name: "crm".into(), no: WebhookNo(7) });
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        for bad in [[&bytes[..], b"s"].concat(), bytes[..34].to_vec(), bytes[..20].to_vec(), vec![7; 500]] {
            assert_eq!(after(&URL_SAFE_NO_PAD.encode(bad)), None);
        }
    }

    #[test]
    fn sizes_are_coerced_and_negative_ones_refused() {
        for (asked, size_given, refused) in [
            (0, 50, false),
            (1, 1, false),
            (1000, 1000, false),
            (1001, 1000, false),
            (i32::MAX, 1000, false),
            (-1, 50, true),
        ] {
            let mut violations = Violations::default();
            assert_eq!(size(&mut violations, asked, 50), size_given, "{asked}");
            assert_eq!(violations.check().is_err(), refused, "{asked}");
        }
    }
}
